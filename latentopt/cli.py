"""The command line. Nothing heavy is imported until a command runs, so help and completion answer at once."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from latentopt import __version__, options
from latentopt.errors import ConfigError, LatentoptError

if TYPE_CHECKING:
    from latentopt.config import RunConfig
    from latentopt.terminal import Screen

_DEBUG, _AS_JSON = "latentopt.debug", "latentopt.json"
_INTERRUPTED = 130  # 128 + the signal's number, as shells expect


# Typer brings its own click or needs that of others, by version: its public error tells where the base of usage errors is.
_UsageError: Any = typer.BadParameter.__bases__[0]


class _Commands(TyperGroup):
    """Turns latentopt's own errors and those of usage into a line on stderr and their exit code, and warnings into one
    line each."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except _UsageError as error:
            _misused(error)

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            try:
                return super().invoke(ctx)
            except _UsageError as error:
                _misused(error)
            except LatentoptError as error:
                if ctx.meta.get(_DEBUG):
                    raise
                print(f"error: {_lines(str(error))}", file=sys.stderr)
                raise typer.Exit(error.exit_code) from None
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                raise typer.Exit(_INTERRUPTED) from None


def _misused(error: Any) -> NoReturn:
    """A wrong, unknown or missing option or command in one line, with where the right ones are listed."""
    if type(error).__name__ == "NoArgsIsHelpError":
        raise error
    said = " ".join(error.format_message().split()).rstrip(".")
    help_of = "latentopt" if error.ctx is None else error.ctx.command_path
    print(f"error: {said[:1].lower()}{said[1:]}; '{help_of} --help' lists what it takes", file=sys.stderr)
    raise typer.Exit(error.exit_code) from None


def _lines(text: str) -> str:
    """An error in one line, and below it the indented excerpt of a file where there is one."""
    message, *rest = text.split("\n  ")
    return "\n  ".join([" ".join(message.split()), *rest])


def _warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


app = typer.Typer(
    cls=_Commands,
    name="latentopt",
    help="Draw, interpolate and search designs with any trained PyTorch decoder.",
    epilog="Start with: latentopt demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None if os.environ.get("TERM") == "dumb" else "rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _debugging(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.meta[_DEBUG] = True
    return value


def _version(value: bool) -> None:
    if value:
        print(f"latentopt {__version__}")
        raise typer.Exit


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; text for people goes to stderr.")]
Debug = Annotated[bool, typer.Option("--debug", callback=_debugging, help="Show the trace of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Progress = Annotated[
    options.Progress,
    typer.Option(help="Bars on a terminal and else lines; lines; JSON lines, one a report, on stderr; or none."),
]
Track = Annotated[
    list[str] | None,
    typer.Option(metavar="KIND=FOLDER", help="Send reports to tensorboard, mlflow or wandb (offline). Repeatable."),
]
Animate = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Show it as a moving picture: .gif, .webp, or .mp4 (extra: video).")
]
Fps = Annotated[float, typer.Option(help="Of --animate: frames a second.")]
Back = Annotated[bool, typer.Option("--back", help="Of --animate: run back again to the first frame.")]
Size = Annotated[int, typer.Option(help="Of --animate: about how many pixels its longer side has.")]
Out = Annotated[Path | None, typer.Option(help="A new folder for tensors, config and sheets of pictures.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change any field, such as task.search.0.lr=0.05."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, say what would run and what it would take, and stop.")
]
Print = Annotated[bool, typer.Option("--print-config", help="Print the config as YAML and stop.")]
DecoderName = Annotated[str, typer.Option("--decoder", "-d", help="A decoder by name, or the YAML file that has one.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Seconds = Annotated[float | None, typer.Option(help="Stop after this long, with the best so far.")]
Resize = Annotated[bool, typer.Option("--resize", help="Fit pictures of another size to the decoder's.")]
Trust = Annotated[
    bool,
    typer.Option("--trust-code", help="It may import code that it names, and read and write outside of its folder."),
]
Gray = Annotated[bool, typer.Option("--gray", help="Turn colour pictures grey for a decoder of one channel.")]


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Debug = False,
) -> None:
    pass


# ---------------------------------------------------------------------- commands that run a config


@app.command()
def run(
    config: Annotated[str, typer.Argument(help="A run file in YAML.")],
    changes: Set = None,
    out: Out = None,
    print_config: Print = False,
    dry_run: DryRun = False,
    track: Track = None,
    animate: Animate = None,
    fps: Fps = 10.0,
    back: Back = False,
    size: Size = 256,
    progress: Progress = options.Progress.AUTO,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a config file."""
    from latentopt.config import placed, read_config

    found = read_config(config, changes or ())
    with placed(config):
        _execute(
            found,
            _screen(as_json, quiet, progress),
            out=out,
            print_config=print_config,
            dry_run=dry_run,
            track=track,
            show=(animate, fps, back, size),
        )


@app.command()
def init(
    decoder: Annotated[str | None, typer.Option("--decoder", "-d", help="A decoder by name, such as digits.")] = None,
    factory: Annotated[
        str | None, typer.Option(metavar="MODULE:NAME", help="Code that makes your network: a class or function.")
    ] = None,
    factory_options: Annotated[str | None, typer.Option(help="What it is called with: '{width: 64}'.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Its weights: a state_dict or safetensors file.")] = None,
    attribute: Annotated[str | None, typer.Option(help="The part that decodes. Default: found.")] = None,
    latent_shape: Annotated[str | None, typer.Option(help="Of one latent: 16, or 4,8,8. Default: found.")] = None,
    target: Annotated[
        Path | None, typer.Option("--target", "-t", help="A design to match. Default: an example.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The run file to write; nothing is overwritten.")] = Path("run.yaml"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a commented run file for a decoder, after a look at it."""
    from latentopt import execute, starter

    given = options.given(
        factory=factory,
        factory_options=None if factory_options is None else options.value(factory_options, "--factory-options"),
        weights=None if weights is None else str(weights),
        attribute=attribute,
        latent_shape=None if latent_shape is None else starter.sized(latent_shape),
    )
    execute.init(starter.described(decoder, given), _screen(as_json), out=out, target=target)


@app.command()
def optimize(
    decoder: DecoderName,
    target: Annotated[
        list[Path] | None,
        typer.Option("--target", "-t", help="A design to match: picture, .npy or .safetensors. Repeatable."),
    ] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="What to reach: a kind, or '{kind: ..., weight: 0.1}'. Repeatable.")
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(help="What must hold: '{kind: ..., goal: {at_most: 0.2}}'. Repeatable."),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(help="What is judged of the designs found, beside the search: as --objective. Repeatable."),
    ] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="The front of the objectives, not the best sum.")] = False,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            "-s",
            help="How to search: auto, a kind or '{kind: ..., lr: 0.1}'. Repeated: a chain. '\\[adam, lbfgs]': a race.",
        ),
    ] = None,
    starts: Annotated[
        list[str] | None, typer.Option(help="Where from: mean, encoder, a sampler or a file. Repeatable.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Where the search may go: free, sphere, '{kind: ball, percentile: 99}'.")
    ] = None,
    seed: Seed = 0,
    rows: Annotated[int | None, typer.Option(help="Budget: rows decoded plus gradients taken, in all.")] = None,
    seconds: Seconds = None,
    resize: Resize = False,
    gray: Gray = False,
    changes: Set = None,
    out: Out = None,
    print_config: Print = False,
    dry_run: DryRun = False,
    track: Track = None,
    animate: Animate = None,
    fps: Fps = 10.0,
    back: Back = False,
    size: Size = 256,
    progress: Progress = options.Progress.AUTO,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search for latents whose designs match a target or meet objectives."""
    files = [options.picture(path, resize, gray) for path in target or ()]
    data = {
        "seed": seed,
        "budget": options.given(rows=rows, seconds=seconds),
        "task": options.given(
            kind="optimize",
            target=files[0] if len(files) == 1 else files or None,
            objectives=options.values(objective, "--objective"),
            constraints=options.values(constraint, "--constraint"),
            measures=options.values(measure, "--measure"),
            pareto=pareto or None,
            starts=options.starts(starts),
            region=None if region is None else options.value(region, "--region"),
            search=options.values(search, "--search"),
        ),
    }
    found = options.config_of(decoder, data, changes)
    _execute(
        found,
        _screen(as_json, quiet, progress),
        out=out,
        print_config=print_config,
        dry_run=dry_run,
        track=track,
        show=(animate, fps, back, size),
    )


@app.command()
def compare(
    words: Annotated[
        list[str], typer.Argument(metavar="RUN.YAML [SEARCH]...", help="A run file in YAML, and more searches.")
    ],
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            "-s",
            metavar="SEARCH...",
            help="Searches to compare: kinds, '{kind: ..., lr: 0.1}', or '\\[optuna, adam]' for a chain. "
            "Random draws are always among them. Default: the run file's own.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each search runs with.")] = 5,
    rows: Annotated[
        int | None,
        typer.Option(
            help="Budget of each run, rows decoded plus gradients taken. Default: the file's, or 2000 a target."
        ),
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="End each run after this long at the latest.")] = None,
    changes: Set = None,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for compare.png, compare.json and compare.csv.")
    ] = None,
    progress: Progress = options.Progress.AUTO,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare searches on one problem: same starts, same budget, several seeds."""
    from latentopt import execute
    from latentopt.config import read_config

    file, more = options.run_file(words)
    found = read_config(file, changes or ())
    searches = options.values([*(search or ()), *more], "--search")
    code = execute.compare(
        found, searches, _screen(as_json, quiet, progress), seeds=seeds, rows=rows, seconds=seconds, out=out
    )
    if code:
        raise typer.Exit(code)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs; several are compared.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file. Default: report.html in the first folder.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a run, or compare several, as one HTML file that opens without a network."""
    from latentopt.reporting import write_report

    screen = _screen(as_json)
    written = write_report(folders, out)
    screen.say(f"wrote {written}")
    screen.document({"file": written})


@app.command()
def sample(
    decoder: DecoderName,
    n: Annotated[int, typer.Option("-n", help="How many designs.")] = 16,
    sampler: Annotated[
        str | None, typer.Option(help="A sampler's kind, or '{kind: ..., ...}'. Default: the prior.")
    ] = None,
    seed: Seed = 0,
    changes: Set = None,
    out: Out = None,
    print_config: Print = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw latents and decode them."""
    chosen = None if sampler is None else options.value(sampler, "--sampler")
    data = {"seed": seed, "task": options.given(kind="sample", n=n, sampler=chosen)}
    _execute(options.config_of(decoder, data, changes), _screen(as_json), out=out, print_config=print_config)


@app.command()
def interpolate(
    decoder: DecoderName,
    between: Annotated[list[Path] | None, typer.Option(help="A key design, encoded first. Give two or more.")] = None,
    keys: Annotated[Path | None, typer.Option(help="Key latents: .npy, .safetensors, or the folder of a run.")] = None,
    steps: Annotated[int, typer.Option(help="Designs along the path, both ends included.")] = 9,
    interpolator: Annotated[str | None, typer.Option(help="A kind, or '{kind: ..., even: true}'.")] = None,
    resize: Resize = False,
    gray: Gray = False,
    changes: Set = None,
    out: Out = None,
    animate: Animate = None,
    fps: Fps = 10.0,
    back: Back = False,
    size: Size = 256,
    print_config: Print = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Decode a path through key latents, or through the encodings of key designs."""
    if keys is None and not between:
        raise ConfigError("a path needs keys: give --between A --between B (designs), or --keys FILE (latents)")
    data = {
        "task": options.given(
            kind="interpolate",
            keys=None if keys is None else options.latents(keys),
            designs=[options.picture(path, resize, gray) for path in between] if between else None,
            steps=steps,
            interpolator=None if interpolator is None else options.value(interpolator, "--interpolator"),
        ),
    }
    _execute(
        options.config_of(decoder, data, changes),
        _screen(as_json),
        out=out,
        print_config=print_config,
        show=(animate, fps, back, size),
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="A new folder for the pictures and the data.")] = Path("latentopt-demo"),
    seed: Seed = 0,
    progress: Progress = options.Progress.AUTO,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw, interpolate, match and search on embedded digits: offline, in seconds."""
    from latentopt.demo import demo as show
    from latentopt.execute import stoppable

    with stoppable():
        document = show(out, seed, _screen(as_json, quiet, progress))
    _screen(as_json, quiet, progress).document(document)


# ---------------------------------------------------------------------- runs that were kept

_runs = typer.Typer(name="runs", help="List and show runs that were kept in folders.", no_args_is_help=True)
app.add_typer(_runs)


@_runs.command("ls")
def runs_ls(
    folder: Annotated[Path, typer.Argument(help="The folder that your runs are in.")] = Path("runs"),
    sort: Annotated[str, typer.Option(help="By began, loss, rows, seconds or name.")] = "began",
    status: Annotated[
        list[str] | None,
        typer.Option(help="Only finished, budget, interrupted, failed, running, killed, damaged or newer. Repeatable."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the runs in a folder and those below it."""
    from latentopt.runcommands import list_runs

    list_runs(folder, _screen(as_json), sort=sort, statuses=status or ())


@_runs.command("show")
def runs_show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a run is and what came of it. Nothing that it names is imported."""
    from latentopt.runcommands import show_run

    show_run(folder, _screen(as_json))


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")],
    rows: Annotated[int | None, typer.Option(help="A larger budget of rows, of the whole run.")] = None,
    seconds: Annotated[float | None, typer.Option(help="A larger budget of seconds, of the whole run.")] = None,
    trust_code: Trust = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Go on with a run that was killed, interrupted, or ended by its budget."""
    from latentopt import runcommands

    code = runcommands.resume(folder, _screen(as_json, quiet), rows=rows, seconds=seconds, trust_code=trust_code)
    if code:
        raise typer.Exit(code)


@app.command()
def reproduce(
    source: Annotated[Path, typer.Argument(metavar="DIR|PNG", help="The folder of a run, or a picture drawn into it.")],
    out: Out = None,
    trust_code: Trust = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a kept run again and compare by bits. Exit code 1 where it comes out otherwise."""
    from latentopt import runcommands

    code = runcommands.reproduce(source, _screen(as_json, quiet), out=out, trust_code=trust_code)
    if code:
        raise typer.Exit(code)


# ---------------------------------------------------------------------- commands that look


_plugins = typer.Typer(
    name="plugins", help="List what is installed, by plugin and slot; or begin a plugin of your own."
)
app.add_typer(_plugins)


@_plugins.callback(invoke_without_command=True)
def plugins(ctx: typer.Context, as_json: Json = False, debug: Debug = False) -> None:
    """List what is installed, by plugin and slot; or begin a plugin of your own."""
    if ctx.invoked_subcommand is not None:
        ctx.meta[_AS_JSON] = as_json
        return
    from latentopt import terminal
    from latentopt.registry import installed
    from latentopt.shipped import names_of

    screen, found = _screen(as_json), installed().plugins
    runs = {plugin.name: names_of(plugin.name, plugin.module) for plugin in found}
    if as_json:
        keep = ("name", "distribution", "version", "module", "kinds")
        screen.document([{name: getattr(one, name) for name in keep} | {"runs": runs[one.name]} for one in found])
    else:
        terminal.show_plugins(screen, found, runs)


@_plugins.command("new")
def plugins_new(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is called: small letters, words joined by hyphens.")],
    slot: Annotated[
        str, typer.Option(help="What it adds: an objective, sampler, interpolator, search or decoder.")
    ] = "objective",
    out: Annotated[Path | None, typer.Option(help="The new folder. Default: latentopt-NAME.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a plugin that works as it is, with its tests, to be made your own: docs/writing-a-plugin.md."""
    from latentopt.scaffold import new_plugin

    screen, files = _screen(as_json or ctx.meta[_AS_JSON]), new_plugin(name, slot, out)
    for path in files:
        screen.say(f"wrote {path}")
    folder, kind = files[0].parent, files[-1].stem.removeprefix("test_")
    screen.say(f"next  pip install -e '{folder}[dev]' && pytest {folder} && latentopt run {kind}:demo")
    screen.document({"folder": folder, "kind": kind, "files": files})


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the JSON schema of run files, for editors to complete them by."""
    import json

    from latentopt.config import json_schema

    found = json_schema()
    screen = _screen(as_json)
    if out is not None:
        try:
            out.write_text(json.dumps(found, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write {out}: {error.strerror or error}; choose another --out") from None
        screen.say(f"wrote {out}: begin run files with '# yaml-language-server: $schema={out}'")
        screen.document({"file": out})
    else:
        print(json.dumps(found, indent=2))


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Examine the installation: versions, devices, plugins, known clashes. Exit code 1 where something is broken."""
    import dataclasses

    from latentopt.doctor import examine, healthy

    screen, findings = _screen(as_json), examine()
    if as_json:
        found = [dataclasses.asdict(finding) for finding in findings]
        screen.document({"healthy": healthy(findings), "findings": found})
    else:
        for finding in findings:
            fix = f"\n        fix: {finding.fix}" if finding.fix else ""
            screen.say(f"{finding.status:<7} {finding.name}: {finding.text}{fix}")
            if finding.trace:
                screen.say("        " + finding.trace.rstrip().replace("\n", "\n        "))
        screen.say("everything works" if healthy(findings) else "something is broken: see the fixes above")
    raise typer.Exit(0 if healthy(findings) else 1)


@app.command()
def diagnose(decoder: DecoderName, as_json: Json = False, debug: Debug = False) -> None:
    """Examine a decoder: prior, smoothness, gradient, what its latents do."""
    from latentopt.api import load_decoder
    from latentopt.diagnosis import diagnose as examine
    from latentopt.execute import name_code

    screen = _screen(as_json)
    found = options.config_of(decoder, {"task": {"kind": "sample"}}, None)
    name_code(found, screen)
    diagnosis = examine(load_decoder(found.decoder))
    screen.say(str(diagnosis))
    screen.document(diagnosis.summary())


# ---------------------------------------------------------------------- shared


def _screen(as_json: bool, quiet: bool = False, progress: options.Progress = options.Progress.AUTO) -> Screen:
    from latentopt.terminal import Screen

    return Screen(as_json=as_json, progress="none" if quiet else progress.value)


def _execute(
    config: RunConfig,
    screen: Screen,
    *,
    out: Path | None,
    print_config: bool,
    dry_run: bool = False,
    track: list[str] | None = None,
    show: tuple[Path | None, float, bool, int] = (None, 10.0, False, 256),
) -> None:
    from latentopt.animation import Style
    from latentopt.execute import execute

    animate, fps, back, size = show
    style = Style(fps, back, size)
    code = execute(
        config,
        screen,
        out=out,
        print_config=print_config,
        dry_run=dry_run,
        track=track or (),
        animate=animate,
        style=style,
    )
    if code:
        raise typer.Exit(code)


def main() -> None:
    """The entry point of `latentopt`."""
    app()

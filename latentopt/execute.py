"""Running a config for the command line: progress, what was found, sheets in the folder, and signals."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from latentopt import animation, api, contest, knownsection, origin, pictures, progress, starter, terminal, tracking
from latentopt.coderef import named_code
from latentopt.config import OptimizeTask, RunConfig, SampleTask, make_config, received_config
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, LatentoptError
from latentopt.rehearsal import Rehearsal, about, rehearse
from latentopt.result import Draws, Result
from latentopt.runfolder import read_config_json
from latentopt.terminal import Screen

INTERRUPTED, TERMINATED = 130, 143  # 128 + the signal's number, as shells expect


def name_code(config: RunConfig, screen: Screen) -> None:
    """Says which code a config names, before any of it is imported."""
    for name in named_code(config):
        screen.note(f"this config runs code: {name}")


def execute(
    config: RunConfig,
    screen: Screen,
    *,
    out: Path | None,
    print_config: bool,
    dry_run: bool = False,
    track: Sequence[str] = (),
    animate: Path | None = None,
    style: animation.Style | None = None,
) -> int:
    """Run a config, or print it; show what was found, and draw it into the folder `out`. Returns the exit code.

    `track` names the places that reports are sent to, `animate` the file of a moving picture of this `style`.
    """
    if print_config:
        _print_config(config, screen)
        return 0
    style = style or animation.Style()
    _check_watchers(config, track, animate, style)
    name_code(config, screen)
    with stoppable(out) as code:
        decoder = api.load_decoder(config.decoder)
        if dry_run:
            _show_rehearsal(rehearse(config, decoder, out), screen)
            return 0
        film = None if animate is None else animation.Film(decoder)
        if animate is not None:
            animation.drawable(decoder, animate, style)
        # The bar is within the rest, so that what they warn of is not drawn over.
        with tracking.all_of(film, *map(tracking.by_name, track)) as watchers:
            with progress.watch(screen.aside, screen.progress, budget=config.budget) as on_report:
                look = tracking.all_of(on_report, *watchers.watchers)
                found = api.run_with(config, decoder, out=out, on_report=look if look.watchers else None)
            if isinstance(found, Result):
                watchers.finish(found)
        sheets = [] if out is None else draw(found, decoder, out)
    if animate is not None and film is not None:
        film.write(animate, **style._asdict()) if isinstance(found, Result) else animation.animate(
            decoder, found, animate, **style._asdict()
        )
    show(found, decoder, screen, out, sheets, animate)
    stopped = isinstance(found, Result) and found.stopped == "interrupted"
    return code.get("exit", INTERRUPTED) if stopped else 0


def _way_on(folder: Path) -> str:
    """The command that goes on with a run of this process, trusted where its config names code, or a path elsewhere."""
    trusted = ""
    try:
        received_config(read_config_json(folder), folder, trust_code=False)
    except LatentoptError as error:  # also of a run that ended before its config was there
        trusted = " --trust-code" if "--trust-code" in str(error) else ""
    return f"latentopt resume {shlex.quote(str(folder))}{trusted}"


def show(
    found: Result | Draws,
    decoder: Decoder,
    screen: Screen,
    out: Path | None,
    sheets: list[str],
    animation: Path | None = None,
) -> None:
    """What a run found, in words or as a JSON document, and where it is kept."""
    if isinstance(found, Result):
        terminal.show_result(screen, found, knownsection.sentences(found) if len(found) else ())
    else:
        terminal.show_draws(screen, found, decoder.notes)
    if out is not None:
        screen.say(f"folder   {out} ({', '.join(['result.safetensors', *sheets])})")
        if isinstance(found, Result) and found.stopped != "finished":
            rows = " --rows MORE" if found.stopped == "budget" else ""
            screen.say(f"go on    {_way_on(out)}{rows}")
    else:
        screen.say("kept     nothing: add --out DIR to keep the run")
    if animation is not None:
        screen.say(f"shown    {animation}")
    more = {} if out is None else {"folder": out, "sheets": sheets}
    screen.document({**found.summary(), **more, **({} if animation is None else {"animation": animation})})


def init(described: dict[str, Any], screen: Screen, *, out: Path, target: Path | None) -> None:
    """Write a first run file for a decoder, and say what was found and what to do next."""
    starter.refuse(out)
    checked = make_config(
        {"decoder": {"latent_shape": [1], **described} if "factory" in described else described, "task": "sample"}
    )
    name_code(checked, screen)
    made = starter.start(described, out, target)
    files = starter.write(made, out)
    screen.say(f"decoder  {about(made.decoder)}")
    for note in dict.fromkeys(made.decoder.notes):
        screen.say(f"note     {note}")
    screen.say(f"wrote    {' and '.join(map(str, files))}")
    screen.say(f"next     latentopt run {out} --dry-run; latentopt run {out} --out found")
    decoder = made.decoder
    screen.document(
        {
            "files": files,
            "latent_shape": decoder.latent_shape,
            "design_shape": decoder.design_shape,
            "encoder": decoder.encoder is not None,
            "gradients": decoder.probe.differentiable,
            "prior": str(decoder.space.evidence),
            "notes": decoder.notes,
        }
    )


def _check_watchers(config: RunConfig, track: Sequence[str], animate: Path | None, style: animation.Style) -> None:
    """Raise where a run of this kind cannot be tracked or animated."""
    if track and not isinstance(config.task, OptimizeTask):
        raise ConfigError(f"--track follows a search, and this task is {config.task.kind!r}")
    for text in track:
        tracking.check(text)
    if animate is not None:
        if isinstance(config.task, SampleTask):
            raise ConfigError("--animate shows a path or a search, and this task is 'sample'")
        animation.checked(animate, style)


def compare(
    config: RunConfig,
    searches: list[Any] | None,
    screen: Screen,
    *,
    seeds: int,
    rows: int | None,
    seconds: float | None,
    out: Path | None,
) -> int:
    """Compare searches on a config's problem, show how they stand, and draw it into the folder `out`: the exit code."""
    name_code(config, screen)
    with stoppable() as code:
        decoder = api.load_decoder(config.decoder)
        with progress.watch_runs(screen.aside, screen.progress) as on_report:
            found = contest.compare_with(
                config, decoder, searches, seeds=seeds, rows=rows, seconds=seconds, out=out, on_report=on_report
            )
    terminal.show_comparison(screen, found)
    if out is not None:
        screen.say(f"folder   {out} ({', '.join(found.FILES)})")
    else:
        screen.say("kept     nothing: add --out DIR for the picture, the figures and the curves")
    screen.document({**found.summary(), **({} if out is None else {"folder": out, "files": list(found.FILES)})})
    return code.get("exit", INTERRUPTED) if found.interrupted else 0


def _show_rehearsal(found: Rehearsal, screen: Screen) -> None:
    for name, words in found.lines():
        screen.say(f"{name:<10}{words}")
    screen.say("nothing was run: leave out --dry-run to run it")
    screen.document(found.summary())


def draw(found: Result | Draws, decoder: Decoder, out: Path) -> list[str]:
    """Draws sheets into a run's folder, each with the run's config inside: their names."""
    figures = pictures.of_result(found, decoder) if isinstance(found, Result) else pictures.of_draws(found, decoder)
    text = origin.text_of(found, out.resolve().name)
    for name, figure in figures.items():
        pictures.write(figure, out / name, text)
    return list(figures)


def _print_config(config: RunConfig, screen: Screen) -> None:
    if screen.as_json:
        screen.document(config.to_dict())
        return
    sys.stdout.write(yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=None))


@contextmanager
def stoppable(folder: Path | None = None) -> Iterator[dict[str, int]]:
    """Inside, SIGTERM ends a run as Ctrl-C does, with what it has found; the exit code then says which of them it was.

    A run that is ended at once, in a `folder` that can be gone on with, says how.
    """
    code: dict[str, int] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        code["exit"] = TERMINATED
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield code
    except KeyboardInterrupt:
        kept = folder is not None and (folder / "checkpoints").is_dir()
        print(
            "interrupted" + (f": go on with {_way_on(folder)}" if folder is not None and kept else ""),
            file=sys.stderr,
        )
        raise SystemExit(code.get("exit", INTERRUPTED)) from None
    finally:
        signal.signal(signal.SIGTERM, before)

"""The command line: what it prints, what it writes, and how it fails. Run in this process but for the import test."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import latentopt as lo
from latentopt import api, cli, doctor, progress, registry
from latentopt.budget import Budget, Report
from latentopt.errors import DivergedError
from latentopt.registry import PluginInfo, Registry
from latentopt.terminal import Screen

COMMANDS = [
    "run",
    "init",
    "optimize",
    "compare",
    "sample",
    "interpolate",
    "demo",
    "report",
    "resume",
    "reproduce",
    "runs",
]
COMMANDS += ["plugins", "schema", "doctor", "diagnose"]
FAST = ["--search", "{kind: adam, steps: 3}", "--starts", "mean"]


def call(*arguments, code=0):
    """The outcome of a command, whose exit code is checked."""
    found = CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, found.stderr
    return found


def failure(*arguments, code=2):
    """The one line that a failing command writes to stderr."""
    found = call(*arguments, code=code)
    assert found.stdout == ""
    lines = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, found.stderr
    after = found.stderr.splitlines()[found.stderr.splitlines().index(lines[0]) + 1 :]
    assert all(line.startswith("  ") for line in after), "nothing but an excerpt of a file may follow"
    return lines[0].removeprefix("error: ")


@pytest.fixture
def three(tmp_path):
    """A picture of a digit as a file."""
    path = tmp_path / "three.png"
    values = (lo.examples.digits()[13, 0] * 255).round().to(torch.uint8)
    Image.fromarray(values.numpy()).save(path)
    return path


# ---------------------------------------------------------------------- help, version, completion


def test_help_version_and_completion_import_nothing_heavy():
    code = """
import os, sys
from latentopt import cli
def ask(*words):
    sys.argv = ["latentopt", *words]
    try:
        cli.main()
    except SystemExit as done:
        assert not done.code, (words, done.code)
ask("--version")
ask("--help")
heavy = ["torch", "optuna", "numpy", "matplotlib", "latentopt_std"]
print("after help:", [name for name in [*heavy, "pydantic"] if name in sys.modules])
for name in sys.argv_commands: ask(name, "--help")  # here typer itself imports pydantic
os.environ |= {"_LATENTOPT_COMPLETE": "complete_bash", "COMP_WORDS": "latentopt optimize --de", "COMP_CWORD": "2"}
ask()
print("after completion:", [name for name in heavy if name in sys.modules])
"""
    code = code.replace("sys.argv_commands", repr(COMMANDS))
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"latentopt {lo.__version__}\n")
    assert all(name in done.stdout for name in COMMANDS)
    lines = done.stdout.splitlines()
    assert "after help: []" in lines
    assert lines[-3:] == ["--decoder", "--debug", "after completion: []"]


@pytest.mark.parametrize("command", [*(name for name in COMMANDS if name != "runs"), "runs ls", "runs show"])
def test_every_command_offers_json_and_debug(command):
    text = call(*command.split(), "--help").stdout
    assert "--json" in text
    assert "--debug" in text


# ---------------------------------------------------------------------- running


def test_optimize_writes_a_folder_with_sheets_and_says_what_it_found(tmp_path, three):
    out = tmp_path / "out"
    found = call("optimize", "-d", "digits", "-t", three, *FAST, "--out", out)
    assert {path.name for path in out.iterdir()} >= {"sheet.png", "losses.png", "result.safetensors", "config.json"}
    for word in ("loss", "realism", "what the decoder knows", "rows decoded", "gradients taken", str(out)):
        assert word in found.stdout.replace("\n", " ")
    assert "stage 1 adam: step 3/3" in found.stderr
    again = lo.load(out)
    assert again.config["task"]["search"] == [{**again.config["task"]["search"][0], "kind": "adam", "steps": 3}]


def test_json_is_one_document_and_nothing_else(tmp_path, three):
    found = call("optimize", "-d", "digits", "-t", three, *FAST, "--out", tmp_path / "out", "--json")
    document = json.loads(found.stdout)
    assert document["best"]["loss"] == pytest.approx(float(lo.load(tmp_path / "out").best.loss))
    assert document["sheets"] == ["losses.png", "sheet.png"]
    assert "realism" in found.stderr
    assert "step" not in found.stderr


def test_quiet_shows_no_progress(three):
    found = call("optimize", "-d", "digits", "-t", three, *FAST, "--quiet")
    assert found.stderr == ""
    assert "loss" in found.stdout


def test_several_targets_are_searched_for_at_once(tmp_path, three):
    other = tmp_path / "other.png"
    Image.open(three).transpose(Image.Transpose.ROTATE_180).save(other)
    document = json.loads(call("optimize", "-d", "digits", "-t", three, "-t", other, *FAST, "--json").stdout)
    assert document["targets"] == 2
    assert len(document["best"]["loss"]) == 2


def test_options_and_a_run_file_make_the_same_config(tmp_path, three):
    options = ["-d", "digits", "-t", three, "--objective", "mse", "--starts", "encoder", "--starts", "mean"]
    options += ["--region", "sphere", "--search", "adam", "--seed", 5, "--rows", 900, "--seconds", 60]
    options += ["--set", "task.search.0.lr=0.05"]
    text = call("optimize", *options, "--print-config").stdout
    file = tmp_path / "run.yaml"
    file.write_text(text)
    by_file = json.loads(call("run", file, "--print-config", "--json").stdout)
    assert by_file == json.loads(call("optimize", *options, "--print-config", "--json").stdout)
    wanted = {
        "decoder": {"kind": "digits"},
        "seed": 5,
        "budget": {"rows": 900, "seconds": 60},
        "task": {
            "kind": "optimize",
            "target": str(three),
            "objectives": ["mse"],
            "starts": ["encoder", "mean"],
            "region": "sphere",
            "search": [{"kind": "adam", "lr": 0.05}],
        },
    }
    from latentopt.config import make_config

    assert by_file == make_config(wanted).to_dict()


def test_run_takes_changes(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("decoder: digits\ntask: {kind: sample, n: 3}\n")
    assert json.loads(call("run", file, "--json").stdout)["designs"] == 3
    assert json.loads(call("run", file, "--set", "task.n=5", "--json").stdout)["designs"] == 5


def test_the_decoder_may_come_from_a_file(tmp_path):
    for text in ("decoder: {kind: digits}\ntask: {kind: sample}\n", "kind: digits\n"):
        (tmp_path / "mine.yaml").write_text(text)
        found = call("sample", "-d", tmp_path / "mine.yaml", "-n", 2, "--json")
        assert json.loads(found.stdout)["designs"] == 2


def test_sample_and_interpolate_write_sheets(tmp_path, three):
    draws, path, through = tmp_path / "draws", tmp_path / "path", tmp_path / "through"
    found = call("sample", "-d", "digits", "-n", 5, "--sampler", "prior", "--seed", 3, "--out", draws)
    assert "5, each 1 x 28 x 28" in found.stdout
    assert (draws / "sheet.png").exists()
    call("interpolate", "-d", "digits", "--between", three, "--between", three, "--steps", 4, "--out", path)
    assert (path / "sheet.png").exists()
    options = ["--keys", draws, "--steps", 9, "--interpolator", "{kind: slerp, even: true}", "--out", through]
    document = json.loads(call("interpolate", "-d", "digits", *options, "--json").stdout)
    assert len(document["times"]) == 9
    assert document["folder"] == str(through)


def test_code_that_a_config_names_is_said_before_it_is_imported(tmp_path):
    file = tmp_path / "run.yaml"
    task = {"kind": "optimize", "objectives": [{"kind": "blackbox", "function": "no_such_module_here:score"}]}
    file.write_text(yaml.safe_dump({"decoder": "digits", "task": task}))
    found = call("run", file, code=2)
    first, second, *excerpt = found.stderr.splitlines()
    assert first == "this config runs code: no_such_module_here:score"
    assert second.startswith(f"error: {file}:5:15: cannot import 'no_such_module_here'")
    assert excerpt[1].rstrip().endswith("^")


# ---------------------------------------------------------------------- failing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "-d", "digit"], "unknown decoder 'digit'; did you mean 'digits'?"),
        (["sample", "-d", "digits", "-n", "0"], "greater than or equal to 1"),
        (["sample", "-d", "digits", "--sampler", "{kind: prior, x: 1}"], "unknown key 'x'"),
        (["sample", "-d", "digits", "--sampler", "{kind: prior"], "a mapping has no closing '}'"),
        (["sample", "-d", "digits", "--set", "seed"], "no '=' in it"),
        (["sample", "-d", "nowhere.yaml"], "nowhere.yaml"),
        (["optimize", "-d", "digits"], "nothing to search for: give a target, objectives, or constraints"),
        (["optimize", "-d", "digits", "--objective", "msee"], "unknown objective 'msee'; did you mean 'mse'?"),
        (["optimize", "-d", "digits", "--search", "adan"], "unknown search 'adan'; did you mean 'adam'?"),
        (["optimize", "-d", "digits", "-t", "nowhere.png"], "nowhere.png"),
        (["optimize", "-d", "digits", "-t", "a.png", "-t", "nowhere.png"], "a.png"),
        (["interpolate", "-d", "digits"], "give --between A --between B (designs), or --keys FILE (latents)"),
        (["interpolate", "-d", "digits", "--keys", "nowhere.npy"], "nowhere.npy"),
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["diagnose", "-d", "nothing"], "unknown decoder 'nothing'"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in failure(*arguments)


@pytest.mark.parametrize("arguments", [["sample", "-d", "digits"], ["demo"]])
def test_a_run_never_overwrites_another(arguments, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    assert "a run never overwrites another" in failure(*arguments, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_schema_that_cannot_be_written_is_an_error(tmp_path):
    assert "choose another --out" in failure("schema", "--out", tmp_path / "none" / "schema.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-command"], "no such command 'no-such-command'; 'latentopt --help' lists"),
        (["smaple"], "did you mean 'sample'?; 'latentopt --help' lists what it takes"),
        (["--no-such-option"], "no such option: --no-such-option"),
        (["sample"], "missing option '--decoder'"),
        (["sample", "-d", "digits", "--sed", "1"], "no such option: --sed"),
        (["sample", "-d", "digits", "--seed"], "option '--seed' requires an argument; 'latentopt"),
        (["sample", "-d", "digits", "--seed", "x"], "invalid value for '--seed': "),
        (["compare", "run.yaml", "--seeds", "0"], "invalid value for '--seeds': "),
    ],
    ids=" ".join,
)
def test_usage_errors_are_one_line(arguments, words):
    assert words.casefold() in failure(*arguments).casefold()


def test_no_arguments_give_the_help():
    assert "Usage" in call(code=2).stdout


def test_all_rows_lost_is_exit_code_1(monkeypatch):
    def diverge(*_, **__):
        raise DivergedError("all 8 rows diverged: term 'mse' was NaN\nor infinite")

    monkeypatch.setattr(api, "run_with", diverge)
    assert failure("sample", "-d", "digits", code=1) == "all 8 rows diverged: term 'mse' was NaN or infinite"


def test_debug_shows_the_error_itself():
    with pytest.raises(lo.ConfigError, match="unknown decoder"):
        call("sample", "-d", "digit", "--debug")
    with pytest.raises(lo.ConfigError, match="unknown decoder"):
        call("--debug", "sample", "-d", "digit")


def test_other_errors_are_not_dressed_up(monkeypatch):
    def fail(_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(api, "load_decoder", fail)
    with pytest.raises(ZeroDivisionError):
        call("sample", "-d", "digits")


@pytest.mark.filterwarnings("always")
def test_warnings_are_one_line(monkeypatch):
    import warnings

    def load(_, inner=api.load_decoder):
        warnings.warn("decoder 'x' is noisy:\nmake it deterministic", lo.LatentoptWarning, stacklevel=1)
        return inner("digits")

    monkeypatch.setattr(api, "load_decoder", load)
    found = call("sample", "-d", "digits", "-n", 1)
    assert found.stderr == "warning: decoder 'x' is noisy: make it deterministic\n"


# ---------------------------------------------------------------------- stopping early


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_keeps_what_it_found(number, code, three, tmp_path, monkeypatch, request):
    @contextmanager
    def watch(*_, **__):
        def look(report):
            if report.step == 3:
                os.kill(os.getpid(), number)

        yield look

    monkeypatch.setattr(progress, "watch", watch)
    before = signal.getsignal(signal.SIGTERM)
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, ctrl_c))
    search = "{kind: adam, steps: 40}"
    options = ["--search", search, "--starts", "mean", "--out", tmp_path / "out", "--json"]
    found = call("optimize", "-d", "digits", "-t", three, *options, code=code)
    assert signal.getsignal(signal.SIGTERM) is before
    assert json.loads(found.stdout)["stopped"] == "interrupted"
    assert "interrupted; this is the best found until then" in found.stderr
    assert lo.load(tmp_path / "out").stopped == "interrupted"


def test_an_interrupt_before_anything_was_found(monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "load_decoder", stop)
    found = call("sample", "-d", "digits", code=130)
    assert (found.stdout, found.stderr) == ("", "interrupted\n")


# ---------------------------------------------------------------------- progress


def reports(stages, steps, every=5):
    return [
        Report(
            stage=stage, name="adam", step=step, n_steps=steps, forward_rows=4 * step, backward_rows=step, seconds=1.0,
            best_T=(0.5, 0.25), median=0.5, alive=7, rows_N=(0.5,) * 8, percentile_T=(80.0, 90.0),
        )
        for stage in range(stages)
        for step in range(0, steps + 1, every)
    ]  # fmt: skip


def test_plain_progress_is_a_few_lines_a_stage(capsys):
    with progress.watch(Console(stderr=True, force_terminal=False)) as look:
        for report in reports(2, 200):
            look(report)
    lines = capsys.readouterr().err.splitlines()
    begin = "stage 1 adam: step 0/200, best 0.25 to 0.5 (2 targets), median 0.5, radius percentile up to 90, "
    assert lines[0] == begin + "7 alive, 1 lost, 0 rows"
    assert lines[-1].startswith("stage 2 adam: step 200/200")
    assert 4 <= len(lines) <= 10


def test_a_terminal_gets_a_bar_a_stage(capsys):
    with progress.watch(Console(stderr=True, force_terminal=True, width=160), budget=Budget(rows=1000)) as look:
        for report in reports(2, 20):
            look(report)
        tasks = look.bar.tasks
        assert [(task.description, task.completed, task.total) for task in tasks] == [
            ("stage 1 adam", 20, 20),
            ("stage 2 adam", 20, 20),
        ]
        assert not tasks[0].fields["current"], "the time left of a stage that is over is not shown"
        look.bar.refresh()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2 adam" in captured.err
    assert "median 0.5, radius percentile up to 90, 7 alive, 1 lost, 100 rows (10% of the budget)" in captured.err


def test_the_time_left_goes_by_steps_and_at_most_by_the_budget():
    def at(step, seconds, stage=0):
        return replace(reports(1, 100)[0], stage=stage, step=step, seconds=seconds, forward_rows=10 * step)

    free = progress.Pace(None)
    assert free(at(0, 5.0)) is None
    assert free(at(10, 6.0)) == pytest.approx(9.0)
    assert free(at(3, 8.0, stage=1)) is None, "another stage has another pace"
    short = progress.Pace(Budget(seconds=7.5))
    short(at(0, 5.0))
    assert short(at(10, 6.0)) == pytest.approx(1.5)
    rows = progress.Pace(Budget(rows=300))
    rows(at(0, 5.0))
    assert rows(at(10, 6.0)) == pytest.approx(2.0)
    assert rows(at(40, 9.0)) == 0


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3:05"), (3723, "1:02:03")])
def test_durations_in_words(seconds, text):
    assert progress._duration(seconds) == text


def test_a_terminal_is_redrawn_at_least_twice_a_second():
    assert progress.REFRESH_PER_SECOND >= 2
    console = Console(stderr=True, force_terminal=True)
    with progress.watch(console) as look:
        assert look.bar.live.refresh_per_second == progress.REFRESH_PER_SECOND
        assert look.bar.live.auto_refresh
        look(reports(1, 20)[1])
        end = look.bar.tasks[0].fields["end"]
        assert end is None
        look(reports(1, 20)[2])
        shown = "".join(str(one) for one in look.bar.get_renderables())
    assert " 10/20 0:00:00 0 s left" in shown, "both reports have the same time"


def test_a_drawing_is_made_when_it_is_shown_and_not_at_each_report(monkeypatch):
    made = []
    monkeypatch.setattr(progress, "facts", lambda report, budget=None: made.append(report) or "words")
    with progress.watch(Console(stderr=True, force_terminal=True, width=100)) as look:
        look.bar.live.auto_refresh = False
        look(reports(1, 1000)[0])
        drawn = len(made)
        for report in reports(1, 1000)[1:]:
            look(report)
        assert len(made) - drawn <= 2, "the thread may have drawn once or twice meanwhile"
        look.bar.refresh()
        assert made[-1] is look.bar.report


def test_bars_fit_narrow_terminals_and_old_encodings(capsys):
    for width in (20, 200):
        with progress.watch(Console(stderr=True, force_terminal=True, width=width)) as look:
            for report in reports(2, 20):
                look(replace(report, name="a rather long name \x1b[31m of a search"))
            text, words = look.bar.get_renderables()
    lines = text.plain.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("stage 1 a rather long name ?[31m of a search " + "━" * 16 + " 20/20 0:00:0")
    assert "\x1b[31m of" not in capsys.readouterr().err
    assert words.plain == progress.facts(reports(2, 20)[-1])
    plain = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), force_terminal=True, width=100)
    with progress.watch(plain) as look:
        look(reports(1, 20)[1])
        assert "----------------" in next(look.bar.get_renderables()).plain


def test_json_lines_are_a_report_each(three, tmp_path):
    out = tmp_path / "out"
    found = call(
        "optimize", "-d", "digits", "-t", three, *FAST, "--rows", 500, "--progress", "jsonl", "--json", "--out", out
    )
    lines = [json.loads(line) for line in found.stderr.splitlines()]
    history = lo.load(out).history
    assert [line["step"] for line in lines] == [entry["step"] for entry in history]
    last = lines[-1]
    assert last["event"] == "report"
    assert last["best_T"] == history[-1]["best_T"]
    assert last["terms"] == history[-1]["terms"] == {"mse": last["best_T"]}
    assert last["budget_used"] == pytest.approx(last["rows"] / 500)
    assert {"percentile_T", "median", "alive", "lost", "seconds", "seconds_left", "name"} <= set(last)
    assert "rows_N" not in last
    assert json.loads(found.stdout)["best"]["loss"] == pytest.approx(min(last["best_T"]))


def test_json_lines_have_notes_and_no_infinity(capsys):
    screen = Screen(as_json=True, progress="jsonl")
    screen.note("this config runs code: a:b")
    screen.say("for people")
    with progress.watch(screen.aside, screen.progress) as look:
        unknown = {"best_T": (float("inf"),), "percentile_T": (float("nan"),), "median": float("nan")}
        look(replace(reports(1, 10)[0], **unknown, terms={"mse": (float("nan"),)}))
    note, report = map(json.loads, capsys.readouterr().err.splitlines())
    assert note == {"event": "note", "text": "this config runs code: a:b"}
    assert (report["best_T"], report["percentile_T"], report["median"]) == ([None], [None], None)
    assert report["terms"] == {"mse": [None]}


def test_modes_of_progress(three):
    options = ["optimize", "-d", "digits", "-t", three, *FAST]
    assert call(*options, "--progress", "none").stderr == ""
    assert "step 3/3" in call(*options, "--json", "--progress", "lines").stderr
    assert "'fast' is not one of" in call(*options, "--progress", "fast", code=2).stderr
    assert call(*options, "--quiet", "--progress", "jsonl").stderr == ""


# ---------------------------------------------------------------------- tracking and animations


def test_a_search_is_tracked_and_animated(three, tmp_path):
    pytest.importorskip("tensorboard")
    film, runs = tmp_path / "s.webp", tmp_path / "runs"
    options = ["--track", f"tensorboard={runs}", "--animate", film, "--size", 56, "--quiet", "--json"]
    found = call("optimize", "-d", "digits", "-t", three, *FAST, *options)
    assert json.loads(found.stdout)["animation"] == str(film)
    assert f"shown    {film}" in found.stderr
    assert list(runs.glob("*/events*"))
    with Image.open(film) as image:
        assert image.size == (56, 56)
        assert image.n_frames >= 2


def test_a_path_is_animated(three, tmp_path):
    film = tmp_path / "p.gif"
    keys = ["--between", three, "--between", three.parent / "eight.png"]
    Image.open(three).transpose(Image.Transpose.ROTATE_180).save(three.parent / "eight.png")
    call("interpolate", "-d", "digits", *keys, "--steps", 5, "--animate", film, "--back", "--fps", 4, "--size", 28)
    with Image.open(film) as image:
        assert (image.n_frames, image.info["duration"], image.size) == (8, 250, (28, 28))


def test_what_cannot_be_tracked_or_animated_is_refused_before_the_work(three, tmp_path, monkeypatch):
    file = tmp_path / "run.yaml"
    file.write_text("decoder: {kind: digits}\ntask: {kind: sample, n: 2}\n")
    monkeypatch.setattr(api, "run_with", lambda *_, **__: pytest.fail("it began"))
    found = call("run", file, "--animate", tmp_path / "x.gif", code=2)
    assert "--animate shows a path or a search, and this task is 'sample'" in found.stderr
    found = call("run", file, "--track", f"mlflow={tmp_path}", code=2)
    assert "--track follows a search, and this task is 'sample'" in found.stderr
    options = ["optimize", "-d", "digits", "-t", three, *FAST]
    assert "p.png is no animation" in call(*options, "--animate", tmp_path / "p.png", code=2).stderr
    assert "no tracking by 'x'" in call(*options, "--track", "x=y", code=2).stderr


# ---------------------------------------------------------------------- looking


def test_plugins_are_listed_with_what_they_add():
    text = CliRunner().invoke(cli.app, ["plugins"], env={"COLUMNS": "80"}).stdout
    assert text.startswith("std: latentopt ")
    assert "module latentopt_std" in text
    assert " levenberg_marquardt," in text, "names are broken at no width"
    assert max(map(len, text.splitlines())) <= 80
    found = {plugin["name"]: plugin for plugin in json.loads(call("plugins", "--json").stdout)}
    assert found["std"]["distribution"] == "latentopt"
    assert "mse" in found["std"]["kinds"]["objectives"]


def test_figures_too_many_for_a_line_stand_below_each_other(tmp_path):
    names = [f"how far from the mean {i}" for i in range(4)]
    terms = "[" + ", ".join(f"{{kind: prior, name: {name}}}" for name in names) + "]"
    command = [
        "optimize",
        "-d",
        "digits",
        "--set",
        f"task.objectives={terms}",
        "--search",
        "{kind: random, evaluations: 16}",
    ]
    narrow, wide = (CliRunner().invoke(cli.app, command, env={"COLUMNS": width}) for width in ("80", "200"))
    assert (narrow.exit_code, wide.exit_code) == (0, 0), narrow.output
    assert all(f"\n{name}  " in narrow.stdout for name in names)
    assert wide.stdout.startswith("target  ")
    assert wide.stdout.splitlines()[0].rstrip().endswith(f"{names[-1]}  realism")


def test_schema_to_stdout_and_to_a_file(tmp_path):
    shown = json.loads(call("schema").stdout)
    assert {"decoder", "seed", "budget", "task"} == set(shown["properties"])
    found = call("schema", "--out", tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text()) == shown
    assert "yaml-language-server" in found.stdout


def test_diagnose_prints_words_or_figures():
    assert call("diagnose", "-d", "digits").stdout.strip()
    assert isinstance(json.loads(call("diagnose", "-d", "digits", "--json").stdout), dict)


def test_doctor_is_content_with_this_environment():
    found = call("doctor")
    assert "everything works" in found.stdout
    assert all(word in found.stdout for word in ("python", "torch", "optuna", "plugin std", "devices"))
    document = json.loads(call("doctor", "--json").stdout)
    assert document["healthy"] is True


def test_doctor_shows_a_failing_plugin_and_goes_on(monkeypatch):
    def load(*, strict):
        assert not strict
        found = Registry()
        found.plugins += [
            PluginInfo(
                "bad", "bad", "latentopt-bad", "0.1", {}, "plugin 'bad' failed to import", "Traceback: line 7\n"
            ),
            PluginInfo("good", "good", "latentopt-good", "0.2", {"searches": ("x", "y")}),
        ]
        return found

    monkeypatch.setattr(registry, "load", load)
    text = call("doctor", code=1).stdout
    assert "broken  plugin bad: plugin 'bad' failed to import" in text
    assert "pip uninstall latentopt-bad" in text
    assert "Traceback: line 7" in text
    assert "ok      plugin good: latentopt-good 0.2, 2 kinds" in text
    assert "something is broken" in text


def test_doctor_explains_a_wrong_selection_of_plugins(monkeypatch):
    monkeypatch.setenv("LATENTOPT_PLUGINS", "std,nothing")
    text = call("doctor", code=1).stdout
    assert "LATENTOPT_PLUGINS names 'nothing', which is not installed" in text
    assert "set or unset LATENTOPT_PLUGINS" in text


@pytest.mark.parametrize(
    ("accelerator", "torchvision", "system", "text"),
    [
        (None, None, "linux", None),
        (None, "0.28.0+cpu", "linux", None),
        (None, "0.28.0", "darwin", None),
        ("13.0", "0.28.0", "linux", None),
        ("13.0", "0.28.0+cu130", "linux", None),
        (None, "0.28.0+cu130", "linux", "0.28.0+cu130 is built for CUDA, but torch is CPU"),
        (None, "0.28.0", "linux", "0.28.0 is built for CUDA, but torch is CPU"),
        ("13.0", "0.28.0+cpu", "linux", "0.28.0+cpu is built for CPU, but torch is CUDA"),
    ],
)
def test_doctor_knows_the_torchvision_clash(accelerator, torchvision, system, text):
    found = doctor.torchvision_clash(accelerator, torchvision, system)
    assert (found.text if found else None) == text
    if found:
        assert found.status == "broken"
        assert "pip uninstall torchvision" in found.fix


def test_doctor_knows_old_versions_missing_ones_and_too_many_threads():
    least = doctor.requirements()
    assert {"torch", "optuna", "numpy", "typer"} <= set(least)
    assert "pytest" not in least
    assert doctor.version_finding("torch", f"{least['torch']}.0+cpu", least["torch"]).status == "ok"
    old = doctor.version_finding("torch", "2.9.1", "2.10")
    assert old.status == "broken"
    assert old.text.startswith("2.9.1, needs 2.10 or newer: older ones can be corrupted")
    assert doctor.version_finding("optuna", "4.9", "5.0").text == "4.9, needs 5.0 or newer"
    assert doctor.version_finding("optuna", None, "5.0").fix == "pip install 'optuna>=5.0'"
    assert doctor.threads_clash(2, 2) is None
    assert doctor.threads_clash(8, 2).fix == "set OMP_NUM_THREADS=2"

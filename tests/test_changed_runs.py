"""A run that is not what it was: configs, code, weights and files that changed while it lay there."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import latentopt as lo
from latentopt import store
from latentopt.cli import app
from latentopt.testing import toy_decoders

ROWS = {"rows": 40}


def call(*arguments, code=0):
    found = CliRunner().invoke(app, [str(one) for one in arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, found.output
    return found


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run that its budget ended, and that could go on."""
    out = tmp_path_factory.mktemp("ended") / "run"
    found = lo.optimize(
        "digits", target=lo.examples.digits()[3], search={"kind": "adam", "steps": 30}, budget=ROWS, out=out
    )
    assert found.stopped == "budget"
    return out


@pytest.fixture
def run(ended, tmp_path):
    return shutil.copytree(ended, tmp_path / "run")


def edit(path, change):
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


# ---------------------------------------------------------------------- configs


def test_a_changed_config_is_refused_with_the_difference(run):
    def change(plain):
        plain["seed"] = 4
        plain["task"]["search"][0]["lr"] = 0.1

    edit(run / "config.json", change)
    said = call("resume", run, "--rows", "200", code=2).stderr
    words = "resume refused: config.json was changed since the run began: seed (0 -> 4), task.search.0.lr (0.3 -> 0.1)"
    assert words in said


def test_a_larger_budget_in_the_config_is_no_such_change(run):
    edit(run / "config.json", lambda plain: plain.update(budget={"rows": 60}))
    call("resume", run, "--rows", "80")
    assert json.loads((run / "run.json").read_text())["config"]["budget"] == {"rows": 80}
    call("resume", run, "--rows", "90")


def test_a_run_of_an_earlier_version_says_less_and_goes_on(run):
    def older(plain):
        del plain["config"], plain["seen"]

    edit(run / "run.json", older)
    (run / "manifest.json").unlink()
    call("resume", run, "--rows", "80")


# ---------------------------------------------------------------------- code


def bright(designs):
    return designs.flatten(1).mean(1)


def spread(designs):
    return designs.flatten(1).std(1)


spread.__name__ = spread.__qualname__ = "bright"  # the same name, and other values


def limited(function):
    return [{"kind": "property", "function": function, "goal": {"at_most": 0.9}}]


def test_another_function_of_the_same_name_is_refused(tmp_path):
    decoder = toy_decoders()["image"]
    given = {"starts": ["mean"], "search": {"kind": "adam", "steps": 30}, "budget": ROWS}
    lo.optimize(decoder, objectives=["prior"], constraints=limited(bright), out=tmp_path / "run", **given)
    again = {"decoder": decoder, "objectives": ["prior"], "budget": {"rows": 70}}
    with pytest.raises(
        lo.ConfigError, match="resume refused: objective 'property' gives other values: its code or options"
    ):
        lo.resume(tmp_path / "run", constraints=limited(spread), **again)
    lo.resume(tmp_path / "run", constraints=limited(bright), **again)


NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 8)
    def forward(self, z):
        return self.layer(z).{function}()
"""


def test_changed_code_of_a_decoder_is_refused_and_named_by_reproduce(tmp_path):
    torch.manual_seed(0)
    script = "import sys; from latentopt.cli import main; sys.exit(main())"
    (tmp_path / "net.py").write_text(NET.format(function="sigmoid"))
    (tmp_path / "decoder.yaml").write_text(
        "decoder: {kind: module, factory: 'net:Net', weights: w.safetensors, latent_shape: [3]}"
    )
    save_file({"layer.weight": torch.randn(8, 3), "layer.bias": torch.zeros(8)}, tmp_path / "w.safetensors")

    def latentopt(*arguments):
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    options = [
        "--objective",
        "prior",
        "--starts",
        "{kind: normal, n: 2}",
        "-s",
        "{kind: adam, steps: 30}",
        "--rows",
        "30",
    ]
    assert latentopt("optimize", "-d", "decoder.yaml", *options, "--out", "run")[0] == 0
    (tmp_path / "net.py").write_text(NET.format(function="tanh"))
    code, said = latentopt("resume", "run", "--rows", "60", "--trust-code")
    assert code == 2
    assert (
        "resume refused: the decoder gives other designs: its code, options or known designs have changed since" in said
    )
    code, said = latentopt("reproduce", "run", "--trust-code")
    assert code == 1
    assert "the decoder gives other designs: its code, options or known designs have changed since it ran" in said
    save_file({"layer.weight": torch.randn(8, 3), "layer.bias": torch.zeros(8)}, tmp_path / "w.safetensors")
    code, said = latentopt("reproduce", "run", "--trust-code")
    assert code == 1
    assert ": its weights have changed" in said


def test_functions_of_python_are_asked_for_by_name(tmp_path):
    options = {"objectives": [{"kind": "property", "function": bright}], "search": {"kind": "adam", "steps": 20}}
    lo.optimize("digits", starts=["mean"], budget=ROWS, out=tmp_path / "run", **options)
    inner = {"kind": "property", "function": lambda designs: bright(designs)}
    lo.optimize(
        "digits", starts=["mean"], budget=ROWS, out=tmp_path / "inner", objectives=[inner], search=options["search"]
    )
    said = call("resume", tmp_path / "inner", "--rows", "99", "--trust-code", code=2).stderr
    assert "was a function in Python, which no file can hold: give it again from Python, as latentopt.resume" in said


# ---------------------------------------------------------------------- files


def test_numbers_that_are_gone_are_an_error_of_ours(run):
    def running(plain):
        plain["status"] = "running"

    edit(run / "run.json", running)
    (run / "manifest.json").unlink()
    (run / "arrays.safetensors").unlink()
    assert "it belongs to the run, copy the whole folder" in call("resume", run, code=2).stderr
    save_file({"another": torch.zeros(2)}, run / "arrays.safetensors")
    words = "arrays.safetensors has no tensor 'array_[0-9a-f]{16}': it is damaged or of another run"
    assert re.search(words, call("resume", run, code=2).stderr)


def test_a_decoder_that_no_file_can_hold_is_asked_for(run):
    def python(plain):
        plain["decoder"] = {"kind": "python", "decoder": {"name": "x"}}

    for name in ("config.json", "run.json"):
        edit(run / name, lambda plain: python(plain.get("config", plain)))
    assert (
        "a decoder made in Python cannot be rebuilt from a file" in call("resume", run, "--rows", "99", code=2).stderr
    )


@pytest.mark.parametrize(
    "entry", [[], {"stage": "x"}, {"name": "adam", "stage": "0"}, {"name": "a", "best_T": ["x"], "rows_N": []}]
)
def test_a_history_of_something_else_is_damage(entry, run):
    (run / "manifest.json").unlink()
    (run / "history.jsonl").write_text(json.dumps(entry) + "\n")
    with pytest.raises(lo.InputFileError, match="history.jsonl holds something else than reports: it is damaged"):
        lo.report(run)


def test_what_has_nothing_to_report_says_why(run):
    edit(run / "run.json", lambda plain: plain.update(status="running"))
    assert "was killed before it ended: go on with it first, by latentopt resume" in call("report", run, code=2).stderr
    (run / ".owner.json").write_text(json.dumps({"pid": os.getpid(), "host": __import__("socket").gethostname()}))
    assert "is at work: report it when it is over" in call("report", run, code=2).stderr
    edit(run / "run.json", lambda plain: plain.update(status="failed", error="ConfigError: no"))
    assert "failed (ConfigError: no): there is nothing to report" in call("report", run, code=2).stderr


def test_a_file_or_nothing_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "nothing"):
        with pytest.raises(lo.InputFileError, match=f"there is no folder .*{name}: give the folder of a run"):
            lo.load(tmp_path / name)
        assert "there is no folder" in call("report", tmp_path / name, code=2).stderr


@pytest.mark.parametrize("name", ["a\0b", "a" * 300])
def test_names_that_no_folder_can_have(name, tmp_path):
    for make in (lambda out: lo.sample("digits", 2, out=out), lambda out: lo.sample("digits", 2).save(out)):
        with pytest.raises(lo.ConfigError, match="cannot make the folder"):
            make(str(tmp_path / name))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space, or choose another place"),
        (errno.EROFS, "choose another place"),
        (errno.ENOENT, "make its folder, or choose another place"),
    ],
)
def test_a_write_that_fails_is_one_sentence(number, remedy, tmp_path, monkeypatch):
    def fail(*arguments, **more):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store.os, "open", fail)
    monkeypatch.setattr(Path, "unlink", fail)  # nothing can be taken away there either
    with pytest.raises(lo.InputFileError) as caught:
        store.write(tmp_path / "x.json", b"")
    assert str(caught.value).endswith(f"({os.strerror(number)}): {remedy}")


def test_damaged_checkpoints_say_what_is_done_again(run):
    edit(run / "run.json", lambda plain: plain.update(status="running"))
    (run / "manifest.json").unlink()
    there = sorted((run / "checkpoints").iterdir(), reverse=True)
    for path in there:
        path.write_bytes(b"")
    notes = lo.resume(run).notes
    damaged = [note for note in notes if note.startswith("checkpoint ")]
    assert len(damaged) == len(there) >= 1
    assert damaged[-1].endswith("the run begins anew")
    assert all(one.endswith("what came after the one before is done again") for one in damaged[:-1])


# ---------------------------------------------------------------------- what a run says of itself


def test_draws_and_paths_say_what_made_them(tmp_path):
    call("sample", "-d", "digits", "-n", "3", "--out", tmp_path / "draws")
    call("interpolate", "-d", "digits", "--keys", keys(tmp_path), "--out", tmp_path / "path")
    for name in ("draws", "path"):
        about = json.loads((tmp_path / name / "run.json").read_text())
        assert about["status"] == "finished"
        assert about["began"] <= about["ended"]
        assert about["decoder"].startswith("digits ")
        assert about["versions"]["torch"] == torch.__version__
        assert about["plugins"][0]["name"] == "std"
        assert lo.reproduce(tmp_path / name).same
        assert lo.reproduce(tmp_path / name).notes == []
        assert "run.json" in json.loads((tmp_path / name / "manifest.json").read_text())["files"]


def keys(folder):
    path = folder / "keys.safetensors"
    save_file({"keys": torch.eye(20)[:2]}, path)
    return path


def test_a_run_that_can_go_on_says_how(tmp_path):
    found = call("optimize", "-d", "digits", "--objective", "prior", "--rows", "40", "--out", tmp_path / "a run")
    assert f"go on    latentopt resume '{tmp_path / 'a run'}' --rows MORE" in found.stdout.replace("\n", "")


def test_the_way_on_is_trusted_where_the_run_names_a_place_outside_of_it(tmp_path):
    call("optimize", "-d", "digits", "--objective", "prior", "--rows", "40", "--out", tmp_path / "a")
    earlier = ["--starts", f"{{kind: run, folder: {tmp_path / 'a'}, n: 4}}"]
    found = call("optimize", "-d", "digits", "--objective", "prior", *earlier, "--rows", "40", "--out", tmp_path / "b")
    told = f"go on    latentopt resume {tmp_path / 'b'} --trust-code --rows MORE"
    assert told in found.stdout.replace("\n", "")
    assert "--trust-code" in call("resume", tmp_path / "b", "--rows", "60", code=2).stderr
    call("resume", tmp_path / "b", "--trust-code", "--rows", "60")


def test_errors_about_what_a_file_names_say_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("decoder: {kind: digits}\ntask:\n  kind: optimize\n  target: nope.png\n")
    said = call("run", "run.yaml", code=2).stderr.splitlines()
    assert said[0].startswith("error: run.yaml:4:11: file not found: nope.png (looked in ")
    assert [line.strip() for line in said[1:]] == ["target: nope.png", "^"]
    with pytest.raises(lo.InputFileError, match="run.yaml:4:11: file not found: nope.png"):
        lo.run("run.yaml")
    (tmp_path / "run.yaml").write_text("decoder: {kind: digits}\ntask: {kind: optimize}\n")
    assert call("run", "run.yaml", code=2).stderr.startswith("error: nothing to search for")


def test_a_missing_library_leaves_no_trace_of_another_tracker(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    places = ["--track", f"tensorboard={tmp_path / 'tb'}", "--track", f"mlflow={tmp_path / 'ml'}"]
    found = call("optimize", "-d", "digits", "--objective", "prior", *places, code=2)
    assert "mlflow" in found.stderr
    assert list(tmp_path.iterdir()) == []

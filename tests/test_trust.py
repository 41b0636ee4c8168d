"""Folders and pictures from elsewhere: they run no code, and neither read nor write outside of themselves, until trusted."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pydantic import TypeAdapter
from safetensors.torch import save_file
from typer.testing import CliRunner
from watching import untouched

import latentopt as lo
from latentopt import cli, origin, pictures, store
from latentopt.config import make_config
from latentopt.models import StrictModel
from latentopt.trust import check_folder, check_paths

CANARY = """
import pathlib
pathlib.Path({marker!r}).write_text("ran")

def mark(*_, **__):
    pathlib.Path({marker!r}).write_text("ran")
"""
REMEDY = "pass --trust-code (in Python: trust_code=True) if you made this run or trust who did"


def call(*arguments, code=0):
    """The outcome of a command, whose exit code is checked, on one line and without anything that moves a cursor."""
    found = CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": "300", "NO_COLOR": "1"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, found.output
    assert "\x1b" not in found.output
    return found


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run's folder with sheets, whole and harmless."""
    folder = tmp_path_factory.mktemp("good") / "run"
    target = tmp_path_factory.mktemp("targets") / "target.npy"
    np.save(target, lo.examples.digits()[0].numpy())
    call("optimize", "-d", "digits", "-t", target, "--starts", "mean", "-s", "{kind: adam, steps: 3}", "--out", folder)
    return folder


@pytest.fixture
def received(good, tmp_path):
    """The same folder, as it arrives from elsewhere."""
    return shutil.copytree(good, tmp_path / "received" / "run")


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder that nothing may touch: numbers, weights, a run, and a module that says when it runs."""
    folder = tmp_path / "outside"
    folder.mkdir()
    np.save(folder / "secret.npy", np.zeros((1, 28, 28), np.float32))
    np.save(folder / "latents.npy", np.zeros((1, 20), np.float32))
    save_file({"x": torch.zeros(20)}, folder / "weights.safetensors")
    torch.save({"x": torch.zeros(20)}, folder / "weights.pt")
    (folder / "weights.pkl").write_bytes(b"\x80\x04.")
    (folder / "canary_module.py").write_text(CANARY.format(marker=str(folder / "marker")))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    yield folder
    assert "canary_module" not in sys.modules
    assert not (folder / "marker").exists()


def change(folder, place, value):
    """Put a value into a run's config, and make its sums fit, as whoever sends it would."""
    config = json.loads((folder / "config.json").read_text())
    put(config, place, value)
    (folder / "config.json").write_text(json.dumps(config))
    store.write_manifest(folder)


def put(config, place, value):
    node = config
    *way, last = place.split(".")
    for name in way:
        node = node[int(name)] if isinstance(node, list) else node[name]
    node[last] = value


# What a config names, where, and what the error says of it. OUT is the folder outside.
MODULE = {"kind": "module", "factory": "canary_module:mark", "latent_shape": [20]}
CODE = "names the code 'canary_module:mark', which would be imported: "
PATH = "which leads out of what was received: "
HOSTILE = {
    "a decoder's factory": ("decoder", MODULE, "decoder.factory: " + CODE),
    "a property": ("task.objectives", [{"kind": "property", "function": "canary_module:mark"}], "function: " + CODE),
    "a black box": ("task.objectives", [{"kind": "blackbox", "function": "canary_module:mark"}], "function: " + CODE),
    "a network": ("task.objectives", [{"kind": "perceptual", "network": "canary_module:mark"}], "network: " + CODE),
    "a constraint": (
        "task.constraints",
        [{"kind": "property", "function": "canary_module:mark", "goal": {"at_most": 1}}],
        "task.constraints.0.function: " + CODE,
    ),
    "weights.pt": (
        "decoder",
        {**MODULE, "weights": "OUT/weights.pt"},
        "decoder.weights: names the path 'OUT/weights.pt'",
    ),
    "weights.pkl": ("decoder", {**MODULE, "weights": "OUT/weights.pkl"}, "decoder.weights: names the path"),
    "weights by a way up": ("decoder", {**MODULE, "weights": "../../outside/weights.safetensors"}, PATH),
    "known designs": ("decoder", {**MODULE, "data": "OUT/secret.npy"}, "decoder.data: names the path"),
    "conditions": ("decoder", {**MODULE, "conditions": {"y": {"path": "OUT/secret.npy"}}}, "names the path"),
    "a target by a way up": (
        "task.target",
        "../../outside/secret.npy",
        f"task.target: names the path '../../outside/secret.npy', {PATH}{REMEDY}",
    ),
    "a target by its place": ("task.target", "OUT/secret.npy", f"task.target: names the path 'OUT/secret.npy', {PATH}"),
    "a target in a mapping": ("task.target", {"path": "OUT/secret.npy"}, PATH),
    "a target that is kept": (
        "task.target",
        {"path": "OUT/weights.safetensors", "key": "x", "stored": "values"},
        PATH,
    ),
    "targets in a list": ("task.target", ["arrays.safetensors", "OUT/secret.npy"], PATH),
    "a start": ("task.starts", ["OUT/latents.npy"], "task.starts.0: names the path"),
    "a start in a mapping": ("task.starts", [{"path": "OUT/latents.npy"}], "task.starts.0: names the path"),
    "starts in a list": ("task.starts", [["OUT/latents.npy"]], "names the path"),
    "an earlier run": ("task.starts", [{"kind": "run", "folder": "OUT"}], "folder: names the path 'OUT'"),
    "an earlier run by a way up": ("task.starts", [{"kind": "run", "folder": "../../outside"}], PATH),
    "latents to draw around": ("task.starts", [{"kind": "around", "latent": "OUT/latents.npy"}], PATH),
    "a mask": (
        "task.objectives",
        [{"kind": "mse", "mask": "OUT/secret.npy"}],
        "task.objectives.0.mask: names the path",
    ),
    "a matrix": ("task.objectives", [{"kind": "measurement", "matrix": "OUT/secret.npy"}], PATH),
    "a region": ("task.region", {"kind": "near", "latent": "OUT/latents.npy", "radius": 1.0}, PATH),
    "a prior": ("decoder", {**MODULE, "prior": {"kind": "gaussian", "mean": "OUT/latents.npy"}}, "names the path"),
    "a database": (
        "task.search",
        [{"kind": "optuna", "record": "sqlite:///OUT/x.db"}],
        f"task.search.0.record: names 'sqlite:///OUT/x.db', which would be opened or written to: {REMEDY}",
    ),
    "a database by file": ("task.search", [{"kind": "cmaes", "record": "x.db"}], "record: names 'x.db'"),
    "a database's driver": ("task.search", [{"kind": "optuna", "record": "canary_module://x"}], "record: names"),
    "a database in a race": (
        "task.search",
        [[{"kind": "adam"}, {"kind": "random", "record": "OUT/x.db"}]],
        "record: names 'OUT/x.db'",
    ),
    "a _target_": ("_target_", "canary_module.mark", "unknown key '_target_'"),
    "a _target_ within": ("decoder", {"kind": "digits", "_target_": "canary_module.mark"}, "unknown key '_target_'"),
    "a callable": (
        "task.objectives",
        [{"kind": "callable", "function": "canary_module:mark"}],
        "a recorded callable cannot be run from a file",
    ),
    "a yaml tag": ("decoder", "!!python/name:canary_module.mark", "unknown decoder"),
    "an unknown kind": ("decoder", {"kind": "canary_module:mark"}, "unknown decoder 'canary_module:mark'"),
    "a device": ("task.target", "/dev/zero", "task.target: names the path '/dev/zero'"),
    "a home": ("task.target", "~/../../../../etc/passwd", PATH),
    "a zero byte": ("task.target", "a\0b", "task.target: names the path 'a\\x00b', which cannot be followed"),
}


def of(case, outside):
    place, value, words = HOSTILE[case]
    here = str(outside)
    return place, json.loads(json.dumps(value).replace("OUT", here)), words.replace("OUT", here)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_folder_names_nothing_outside_of_itself(case, received, outside):
    place, value, words = of(case, outside)
    change(received, place, value)
    with untouched(outside):
        for command in ("resume", "reproduce"):
            assert words in " ".join(call(command, received, code=2).stderr.split())
        with pytest.raises(lo.ConfigError, match="^" + str(received)):
            lo.resume(received, budget={"rows": 100_000})
        with pytest.raises(lo.ConfigError):
            lo.reproduce(received)
        assert lo.load(received).losses.numel() == 1  # looking needs no config that can be built
        call("runs", "show", received)
        call("runs", "ls", received.parent)
    assert sorted(path.name for path in outside.iterdir() if path.suffix == ".db") == []


@pytest.mark.parametrize("case", HOSTILE)
def test_a_picture_names_nothing_outside_of_itself(case, good, tmp_path, outside):
    place, value, words = of(case, outside)
    about = json.loads(origin.read_text(good / "sheet.png", "latentopt"))
    put(about["config"], place, value)
    picture = pictures.write(Figure(), tmp_path / "sheet.png", json.dumps(about))
    with untouched(outside):
        found = " ".join(call("reproduce", picture, code=2).stderr.split())
    assert words in found
    assert str(picture) in found


LINKS = ["arrays.safetensors", "config.json", "result.json", "run.json", "history.jsonl", "result.safetensors"]
LINKS += ["manifest.json", "sheet.png", "more.npy", ".lock", ".owner.json", ".run.json.tmp", ".history.jsonl.tmp"]


@pytest.mark.parametrize("name", LINKS)
def test_no_link_in_a_folder_leads_out_of_it(name, received, outside):
    (received / name).unlink(missing_ok=True)
    (received / name).symlink_to(outside / "secret.npy")
    refused_everywhere(received, outside, f"{received / name} is a link that leads out of the run's folder")


def test_no_linked_folder_leads_out_of_it(received, outside):
    shutil.rmtree(received / "checkpoints", ignore_errors=True)
    (received / "checkpoints").symlink_to(outside, target_is_directory=True)
    refused_everywhere(received, outside, "checkpoints is a link that leads out of the run's folder")


def refused_everywhere(folder, outside, words):
    with untouched(outside):
        for command in (["resume"], ["resume", "--trust-code"], ["reproduce"], ["runs", "show"]):
            assert words in call(*command[:1], *command[1:], folder, code=2).stderr
        for read in (lo.load, lo.resume, lo.reproduce):
            with pytest.raises(lo.InputFileError, match=str(folder)):
                read(folder)
        call("runs", "ls", folder.parent)


def test_links_that_stay_inside_are_followed(received):
    (received / "again.npy").symlink_to("result.safetensors")
    check_folder(received)
    link = received.parent / "newest"
    link.symlink_to(received, target_is_directory=True)
    assert len(lo.load(link)) == 1


def test_links_in_a_circle_and_pipes_are_refused(received):
    (received / "round").symlink_to("round")
    with pytest.raises(lo.InputFileError, match="round cannot be followed .*: remove it"):
        lo.load(received)
    (received / "round").unlink()
    (received / "result.json").unlink()
    os.mkfifo(received / "result.json")
    with pytest.raises(lo.InputFileError, match="result.json is a pipe or a device, which no run has in its folder"):
        lo.load(received)
    assert "damaged" in call("runs", "ls", received.parent).stdout


def test_a_folder_of_too_many_files_is_none(received, monkeypatch):
    monkeypatch.setattr("latentopt.trust._MOST_FILES", 5)
    with pytest.raises(lo.InputFileError, match="holds more than 5 files: this is not the folder of a run"):
        lo.load(received)


def test_yaml_in_the_place_of_json_is_damage(received, outside):
    (received / "config.json").write_text("!!python/object/apply:canary_module.mark []")
    store.write_manifest(received)
    with untouched(outside):
        for command in ("resume", "reproduce"):
            assert "config.json cannot be read" in call(command, received, code=2).stderr
        assert "the run in" in call("runs", "show", received, code=2).stderr
        with pytest.raises(lo.InputFileError, match="it is damaged"):
            lo.load(received)


def test_a_config_that_is_nested_without_end_is_refused(received):
    deep = 1
    for _ in range(60):
        deep = [deep]
    change(received, "task.search", deep)
    for command in (["resume"], ["reproduce"], ["runs", "show"]):
        assert "nested deeper than 50 levels" in call(*command, received, code=2).stderr
    (received / "config.json").write_text("[" * 100_000)
    store.write_manifest(received)
    for command in (["resume"], ["reproduce"], ["runs", "show"]):
        call(*command, received, code=2)
    with pytest.raises(lo.InputFileError, match="cannot be read"):
        lo.load(received)


def test_pickles_in_a_folder_are_never_opened(received):
    pickles = [received / name for name in ("decoder.pkl", "encoder.pkl", "result.pkl", "model.pt")]
    for path in pickles:
        path.write_bytes(b"cos\nsystem\n(S'touch marker'\ntR.")
    with untouched(*pickles):
        assert call("reproduce", received, "-q").stdout == "the same latents, designs and losses, bit for bit\n"
        assert len(lo.load(received)) == 1


def test_what_a_hostile_folder_says_is_inert_on_a_terminal(received):
    about = json.loads((received / "run.json").read_text())
    words = "\x1b[2J\x1b]0;title\x07\x9b31m"
    about |= {"decoder": words, "began": words, "versions": {words: words}, "status": "failed", "error": words}
    (received / "run.json").write_text(json.dumps(about))
    result = json.loads((received / "result.json").read_text())
    (received / "result.json").write_text(json.dumps({**result, "notes": [words, "[bold]a[/bold]"]}))
    store.write_manifest(received)
    for command in (["runs", "ls", received.parent], ["runs", "show", received]):
        text = call(*command).output
        assert not any(letter in text for letter in "\x1b\x07\x9b")
    assert "[bold]a[/bold]" in text


# ---------------------------------------------------------------------- every path, in numbers


def test_no_path_leaves_the_folder(tmp_path):
    """Ten thousand paths made of hostile parts: what is allowed lies inside, what is not is refused in words."""
    home = tmp_path / "home"
    (home / "inner").mkdir(parents=True)
    (tmp_path / "home-too").mkdir()
    (home / "in").symlink_to("inner")
    (home / "out").symlink_to(tmp_path)
    (home / "inner" / "up").symlink_to("..")
    (home / "round").symlink_to("round")
    parts = [
        "..",
        ".",
        "inner",
        "in",
        "out",
        "up",
        "round",
        "a.npy",
        "",
        "~",
        "home",
        "home-too",
        "\\..",
        "%2e%2e",
        "\0",
        "x" * 300,
    ]
    rng = np.random.default_rng(0)
    adapter = TypeAdapter(lo.FilePath)
    context = {"folder": home, "within": home}
    allowed, refusals = 0, set()
    for _ in range(10_000):
        path = "/".join(parts[i] for i in rng.integers(len(parts), size=rng.integers(1, 7)))
        path = {0: f"{home}/{path}", 1: f"/{path}"}.get(int(rng.integers(6)), path)
        try:
            found = adapter.validate_python(path, context=context)
        except ValueError as error:
            refusals.add(str(error).partition(", which ")[2][:10])
            continue
        allowed += 1
        assert os.path.realpath(found).startswith(f"{home}{os.sep}") or os.path.realpath(found) == str(home)
    assert 1000 < allowed < 9000
    assert refusals == {"leads out ", "cannot be "}


def test_a_plain_path_in_a_plugin_of_somebody_else_is_found(tmp_path):
    from pathlib import Path

    class Inner(StrictModel):
        file: Path = Path("/etc/default-of-the-plugin")
        many: list[Path] = []  # noqa: RUF012

    class Outer(StrictModel):
        inner: Inner
        named: dict[str, Path] = {}  # noqa: RUF012

    check_paths(Outer(inner=Inner()), tmp_path, "it")
    check_paths(Outer(inner=Inner(file=tmp_path / "x")), tmp_path, "it")
    for bad, place in (
        (Outer(inner=Inner(file="/etc/passwd")), "inner.file"),
        (Outer(inner=Inner(many=[tmp_path, "/x"])), "inner.many.1"),
        (Outer(inner=Inner(), named={"a": tmp_path / ".." / "x"}), "named.a"),
    ):
        with pytest.raises(lo.ConfigError, match=f"it: {place}: names the path"):
            check_paths(bad, tmp_path, "it")


def test_a_config_that_is_not_trusted_needs_a_folder():
    with pytest.raises(lo.ConfigError, match="needs the folder that it must keep to"):
        make_config({"decoder": "digits", "task": "sample"}, where="it", trusted=False)


# ---------------------------------------------------------------------- with trust


MAKER = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 48).reshape(3, 16))
    def forward(self, z):
        return torch.tanh(z @ self.weight).reshape(-1, 1, 4, 4)
def grey(x):
    return x.flatten(1).mean(1)
"""
RUN = """
decoder: {kind: module, factory: "MODULE:Net", weights: weights.safetensors, latent_shape: [3]}
budget: {rows: 60}
task:
  kind: optimize
  target: target.npy
  starts: [start.npy, mean]
  objectives: [{kind: mse, mask: mask.npy}, {kind: property, function: "MODULE:grey", weight: 0.1}]
  search: [{kind: random, evaluations: 20, record: runs.db}, {kind: adam, steps: 40}]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A run of one's own code, weights, arrays and database."""
    name = f"maker_{tmp_path.name}".replace("-", "_")
    work = tmp_path / "work"
    work.mkdir()
    (work / f"{name}.py").write_text(MAKER)
    (work / "run.yaml").write_text(RUN.replace("MODULE", name))
    save_file({"weight": torch.linspace(-1, 1, 48).reshape(3, 16)}, work / "weights.safetensors")
    np.save(work / "target.npy", np.full((1, 4, 4), 0.3))
    np.save(work / "start.npy", np.full((2, 3), 0.5, np.float32))
    np.save(work / "mask.npy", np.ones((1, 4, 4), np.uint8))
    monkeypatch.chdir(work)
    call("run", "run.yaml", "--out", "run", "-q")
    return work


def test_a_run_of_ones_own_goes_on_and_comes_out_the_same_when_trusted(own):
    for name in ("target.npy", "start.npy", "mask.npy"):
        (own / name).unlink()  # the folder has them
    for command in ("resume", "reproduce"):
        text = call(command, "run", code=2).stderr
        for words in ("decoder.factory: names the code", "decoder.weights: names the path", "record: names 'runs.db'"):
            assert words in text
    found = call("reproduce", "run", "--trust-code", "-q")
    assert "the same latents, designs and losses, bit for bit" in found.stdout
    assert "this config runs code: maker_" in found.stderr
    found = call("resume", "run", "--rows", "200", "--trust-code", "--json")
    assert json.loads(found.stdout)["cost"]["forward_rows"] > 60
    assert json.loads((own / "run" / "config.json").read_text())["budget"] == {"rows": 200}
    assert call("reproduce", "run", "--trust-code", "-q").exit_code == 0
    assert len(lo.load("run"))
    assert lo.resume("run", trust_code=True).losses.equal(lo.load("run").losses)


def test_what_python_gives_is_the_callers_own(own):
    config = json.loads((own / "run" / "config.json").read_text())
    objectives = [
        {"kind": "mse", "mask": torch.ones(1, 4, 4)},
        {"kind": "property", "function": config["task"]["objectives"][1]["function"], "weight": 0.1},
    ]
    with pytest.raises(lo.ConfigError, match="record: names 'runs.db'") as caught:
        lo.resume("run", decoder=config["decoder"], objectives=objectives)
    assert "factory" not in str(caught.value)
    assert "function" not in str(caught.value)


def test_a_pickle_for_weights_is_refused_even_when_trusted(own):
    (own / "run" / "decoder.pkl").write_bytes(b"cposix\nsystem\n(S'touch marker'\ntR.")
    change(own / "run", "decoder.weights", "decoder.pkl")
    found = call("reproduce", "run", "--trust-code", code=2).stderr
    assert "not a readable PyTorch or safetensors file" in found
    assert not (own / "marker").exists()


# ---------------------------------------------------------------------- a folder is complete


def test_a_folder_keeps_what_it_was_given_by_path(good):
    task = json.loads((good / "config.json").read_text())["task"]
    assert task["target"].pop("key").startswith("array_")
    assert task["target"] == {"path": "arrays.safetensors", "stored": "values", "was": "target.npy"}


@pytest.mark.parametrize("kind", ["gray", "colour", "16 bit", "uint8", "float64"])
def test_what_is_kept_is_what_was_read(kind, tmp_path):
    from PIL import Image

    decoder = lo.load_decoder("digits")
    rng = np.random.default_rng(0)
    path = tmp_path / "target.png"
    if kind == "gray":
        Image.fromarray(rng.integers(0, 255, (28, 28), np.uint8)).save(path)
    elif kind == "colour":
        Image.fromarray(rng.integers(0, 255, (14, 14, 3), np.uint8)).save(path)
    elif kind == "16 bit":
        Image.fromarray(rng.integers(0, 65535, (28, 28)).astype(np.uint16)).save(path)
    else:
        path = tmp_path / "target.npy"
        values = rng.integers(0, 255, (1, 28, 28), np.uint8) if kind == "uint8" else rng.random((1, 28, 28))
        np.save(path, values)
    target = {"path": str(path), "resize": True, "gray": True} if kind == "colour" else str(path)
    first = lo.optimize(
        decoder, target=target, starts="mean", search={"kind": "adam", "steps": 2}, out=tmp_path / "run"
    )
    path.unlink()
    kept = make_config(first.config, folder=tmp_path / "run", trusted=False).task.target
    again = decoder.as_designs(kept)
    assert torch.equal(again, first.targets)
    assert kept.notes == tuple(note for note in first.notes if note in kept.notes)
    assert bool(kept.notes) == (kind not in ("gray", "float64", "uint8")) or kind in ("float64", "uint8")
    arrays = {}
    assert make_config(first.config, folder=tmp_path / "run").to_dict(arrays)["task"] == first.config["task"]
    assert arrays.keys() == first.arrays.keys()
    assert lo.reproduce(tmp_path / "run").same


def test_damage_to_a_kept_array_is_found(good, tmp_path):
    received = shutil.copytree(good, tmp_path / "run")
    raw = bytearray((received / "arrays.safetensors").read_bytes())
    raw[-3] ^= 1
    (received / "arrays.safetensors").write_bytes(bytes(raw))
    store.write_manifest(received)
    assert "arrays.safetensors is damaged: 'array_" in call("reproduce", received, code=2).stderr
    (received / "arrays.safetensors").write_bytes(bytes(raw[:-9]))
    store.write_manifest(received)
    assert "is a damaged .safetensors file" in call("reproduce", received, code=2).stderr
    save_file({"other": torch.zeros(1)}, received / "arrays.safetensors")
    store.write_manifest(received)
    assert "has no tensor 'array_" in call("reproduce", received, code=2).stderr
    (received / "arrays.safetensors").unlink()
    store.write_manifest(received)
    assert "it belongs to the run, copy the whole folder" in call("reproduce", received, code=2).stderr


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"path": 3}, "path of an array by file is a path, got int"),
        ({"path": "a.npy", "stored": "pickle"}, "an array is stored as values or as a picture, got 'pickle'"),
        ({"path": "a.npy", "notes": "x"}, "the notes of an array are a list of sentences"),
    ],
)
def test_kept_arrays_of_other_kinds_are_refused(value, words, received):
    change(received, "task.target", value)
    assert words in call("reproduce", received, code=2).stderr

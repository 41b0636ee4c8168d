"""Runs that were kept: listed, shown, resumed, reproduced; pictures that find their way back; folders of earlier versions."""

import base64
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import latentopt as lo
from latentopt import cli, origin, pictures, pngtext, runfolder, store
from latentopt.errors import ConfigError, InputFileError, LatentoptError
from latentopt.runlist import SORTS, run_in, runs_below

OLD = Path(__file__).parent / "data" / "runs" / "schema1"
FAST = ["-s", "{kind: adam, steps: 3}", "--starts", "mean", "-q"]


def call(*arguments, code=0, width=300):
    """The outcome of a command, whose exit code is checked."""
    env = {"COLUMNS": str(width), "NO_COLOR": "1"}
    found = CliRunner().invoke(cli.app, [str(one) for one in arguments], env=env)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, found.output
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three runs below one folder: two searches and a few draws."""
    top = tmp_path_factory.mktemp("made")
    target = top / "target.png"
    Image.fromarray((lo.examples.digits()[3, 0].numpy() * 255).astype(np.uint8)).save(target)
    call("optimize", "-d", "digits", "-t", target, *FAST, "--out", top / "runs" / "b")
    call(
        "optimize", "-d", "digits", "-t", target, *FAST[:2], "--starts", "encoder", "--out", top / "runs" / "deep" / "a"
    )
    call("sample", "-d", "digits", "-n", "3", "--out", top / "runs" / "draws")
    return top / "runs"


@pytest.fixture
def runs(made, tmp_path):
    return shutil.copytree(made, tmp_path / "runs")


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# ---------------------------------------------------------------------- ls


def test_runs_are_listed_with_what_their_files_say(runs):
    found = {run.name: run for run in runs_below(runs)}
    assert list(found) == ["b", "deep/a", "draws"] or list(found) == ["deep/a", "b", "draws"]
    one = found["b"]
    assert (one.status, one.task, one.decoder, one.designs, one.seed) == ("finished", "optimize", "digits", 1, 0)
    kept = lo.load(runs / "b")
    assert one.loss == kept.best.loss
    assert (one.rows, one.seconds) == (kept.cost.rows, kept.cost.seconds)
    assert (found["draws"].task, found["draws"].designs, found["draws"].loss) == ("sample", 3, None)
    text = call("runs", "ls", runs).stdout
    assert text.splitlines()[0].split() == ["run", "status", "task", "decoder", "began", "loss", "rows", "seconds"]
    assert f"{kept.best.loss:.4g}" in text
    listed = json.loads(call("runs", "ls", runs, "--json").stdout)
    assert [one["name"] for one in listed] == list(found)


def test_a_narrow_terminal_gets_fewer_columns_and_no_broken_word(runs):
    columns = ["run", "status", "task", "decoder", "began", "loss", "rows", "seconds"]
    for width, left_out in ((200, 0), (74, 1), (62, 2), (48, 3)):
        lines = call("runs", "ls", runs, width=width).stdout.splitlines()
        assert lines[0].split() == [one for one in columns if one not in ["task", "decoder", "began"][:left_out]]
        assert any(line.startswith("deep/a") for line in lines)
        assert max(map(len, lines)) <= width


def test_no_tensor_is_read_for_a_list(runs):
    for path in runs.rglob("*.safetensors"):
        path.write_bytes(b"")
    assert [run.status for run in runs_below(runs)] == ["finished"] * 3


@pytest.mark.parametrize("sort", SORTS)
def test_runs_are_sorted(sort, runs):
    edit(runs / "b" / "run.json", began="2001-01-01T00:00:00+00:00")
    found = runs_below(runs, sort=sort)
    values = [getattr(run, sort) for run in found if getattr(run, sort) is not None]
    assert values == sorted(values, reverse=sort in ("rows", "seconds"))
    assert len(values) >= 2
    lacking = [run.name for run in found if getattr(run, sort) is None]
    assert lacking == [run.name for run in found][len(values) :]
    assert json.loads(call("runs", "ls", runs, "--sort", sort, "--json").stdout)[0]["name"] == found[0].name


def test_a_loss_that_is_not_finite_comes_last(runs):
    edit(runs / "b" / "result.json", best={"loss": float("nan")})
    assert next(iter(runs_below(runs, sort="loss"))).name == "deep/a"
    assert json.loads(call("runs", "ls", runs, "--sort", "loss", "--json").stdout)[1]["loss"] is None


def test_runs_by_status(runs):
    edit(runs / "b" / "run.json", status="failed", error="DivergedError: every row turned NaN")
    assert [run.name for run in runs_below(runs, statuses=["failed", "budget"])] == ["b"]
    text = call("runs", "ls", runs, "--status", "failed").stdout
    assert "failed   b: DivergedError: every row turned NaN" in text
    assert "deep/a" not in text


def test_a_run_without_its_process_was_killed(runs):
    edit(runs / "b" / "run.json", status="running")
    assert run_in(runs / "b").status == "killed"
    with store.locked(runs / "b"):
        assert run_in(runs / "b").status == "running"
    for owner, status in (({"pid": 2**22 + 5, "host": None}, "running"), ({"pid": -1}, "killed"), ([], "killed")):
        (runs / "b" / ".owner.json").write_text(json.dumps(owner))
        assert run_in(runs / "b").status == status


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", "{", "JSONDecodeError"),
        ("run.json", "[1]", "run.json holds no object"),
        ("run.json", "[" * 100_000, "RecursionError"),
        ("run.json", '{"schema": 1, "status": "what"}', "status 'what'"),
        ("run.json", '{"schema": null}', "schema None"),
        ("result.json", '{"schema": 1, "cost": 3}', "cost is int, expected an object"),
        ("result.json", '{"schema": 1, "cost": {"seconds": "x"}}', "could not convert"),
        ("result.json", '{"schema": 1, "best": {"loss": {"a": 1}}}', "TypeError"),
        ("result.json", None, "result.json is missing"),
        ("config.json", '{"seed": "x"}', "invalid literal"),
        ("config.json", b"{\xff}", "UnicodeDecodeError"),
    ],
)
def test_a_damaged_run_is_listed_as_one(name, content, words, runs):
    if content is None:
        (runs / "b" / name).unlink()
    else:
        (runs / "b" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (run,) = runs_below(runs, statuses=["damaged"])
    assert run.name == "b"
    assert words in run.problem
    text = call("runs", "ls", runs).stdout
    assert "damaged  b: " in text
    assert "deep/a" in text
    assert "error: " in call("runs", "show", runs / "b", code=2).stderr


def test_a_large_file_is_no_runs(runs, monkeypatch):
    monkeypatch.setattr("latentopt.runlist.MAX_BYTES", 100)
    assert {run.status for run in runs_below(runs)} == {"damaged"}


def test_what_runs_are_asked_by_wrongly(runs, tmp_path):
    assert (
        "runs are not sorted by 'lost'; did you mean 'loss'?"
        in call("runs", "ls", runs, "--sort", "lost", code=2).stderr
    )
    assert "no run has the status 'done'" in call("runs", "ls", runs, "--status", "done", code=2).stderr
    assert "there is no folder" in call("runs", "ls", tmp_path / "none", code=2).stderr
    assert "there is no folder" in call("runs", "show", tmp_path / "none", code=2).stderr
    (tmp_path / "empty").mkdir()
    assert "add --out DIR to a run to keep it" in call("runs", "ls", tmp_path / "empty").stdout


# ---------------------------------------------------------------------- show


def test_a_run_is_shown(runs):
    text = call("runs", "show", runs / "b").stdout
    for words in (
        "finished",
        "decoder: {kind: digits",
        "torch " + torch.__version__,
        "realism",
        "cost     ",
        "was: target.png",
    ):
        assert words in text
    document = json.loads(call("runs", "show", runs / "b", "--json").stdout)
    assert document["best"]["loss"] == lo.load(runs / "b").best.loss
    assert document["versions"]["torch"] == torch.__version__
    assert document["config"]["task"]["kind"] == "optimize"
    assert "kind: sample" in call("runs", "show", runs / "draws").stdout


def test_a_run_that_has_not_ended_is_shown_with_the_way_on(runs):
    edit(runs / "b" / "run.json", status="running")
    for name in ("result.json", "result.safetensors", "manifest.json"):
        (runs / "b" / name).unlink()
    assert f"go on    latentopt resume {runs / 'b'}" in call("runs", "show", runs / "b").stdout
    assert "the run has not ended; go on with it by resume" in call("reproduce", runs / "b", code=2).stderr
    assert "best" not in json.loads(call("runs", "show", runs / "b", "--json").stdout)
    call("resume", runs / "b", "-q")
    assert "the same latents" in call("reproduce", runs / "b", "-q").stdout


# ---------------------------------------------------------------------- resume


def test_a_finished_run_is_resumed_by_showing_it(runs):
    before = lo.load(runs / "b")
    text = call("resume", runs / "b", "-q").stdout
    assert f"folder   {runs / 'b'} (result.safetensors, losses.png, sheet.png)" in text
    assert lo.load(runs / "b").latents.equal(before.latents)


def test_only_searches_are_resumed(runs, tmp_path):
    assert "draws holds no optimize run: only those are resumed" in call("resume", runs / "draws", code=2).stderr
    assert "run.json is missing" in call("resume", tmp_path / "nothing", code=2).stderr


def test_a_larger_budget_becomes_the_runs_own(made, tmp_path):
    target = made.parent / "target.png"
    out = tmp_path / "run"
    call("optimize", "-d", "digits", "-t", target, "-s", "{kind: adam, steps: 30}", "--rows", "60", "--out", out, "-q")
    assert lo.load(out).stopped == "budget"
    assert "which is less" in call("resume", out, "--rows", "10", code=2).stderr
    assert json.loads((out / "config.json").read_text())["budget"] == {"rows": 60}
    call("resume", out, "--rows", "2000", "-q")
    assert lo.load(out).stopped == "finished"
    assert json.loads((out / "config.json").read_text())["budget"] == {"rows": 2000}
    assert lo.reproduce(out).same


# ---------------------------------------------------------------------- reproduce


def test_a_run_comes_out_the_same(runs, tmp_path):
    for name in ("b", "deep/a"):
        assert call("reproduce", runs / name, "-q").stdout == "the same latents, designs and losses, bit for bit\n"
    found = call("reproduce", runs / "draws", "--out", tmp_path / "again", "-q")
    assert "the same latents and designs, bit for bit" in found.stdout
    first, second = (load_file(folder / "result.safetensors") for folder in (runs / "draws", tmp_path / "again"))
    assert first["latents"].equal(second["latents"])
    again = lo.reproduce(runs / "b", out=tmp_path / "b")
    assert again.same
    assert repr(again) == "Reproduction(latents, designs, losses: the same bits)"
    assert lo.load(tmp_path / "b").losses.equal(again.found.losses)


def test_a_run_that_comes_out_otherwise(runs):
    path = runs / "b" / "result.safetensors"
    tensors = load_file(path)
    tensors["latents"][0, 3] += 0.25
    tensors["losses"] = tensors["losses"].double()
    save_file(tensors, path)
    store.write_manifest(runs / "b")
    about = json.loads((runs / "b" / "run.json").read_text())
    edit(runs / "b" / "run.json", versions={**about["versions"], "threads": "77", "torch": "2.0"})
    store.write_manifest(runs / "b")
    found = call("reproduce", runs / "b", "-q", code=1).stdout
    assert "differs  latents differ in 1 of 20 values, by up to 0.25" in found
    assert "differs  losses differ: (1,) of float32, and (1,) of float64 the first time" in found
    assert "designs differ" not in found
    assert "this is not what it ran with" in found
    assert f"torch {torch.__version__} (was 2.0)" in found
    assert "(was 77)" in found
    document = json.loads(call("reproduce", runs / "b", "--json", code=1).stdout)
    assert (document["same"], len(document["differences"])) == (False, 2)


def test_signs_of_zeros_and_budgets_in_seconds_are_named(runs):
    from latentopt.reproduction import _difference

    assert _difference("x", torch.tensor([0.0]), torch.tensor([-0.0])) == "x differ in the signs of zeros alone"
    assert "by up to inf" in _difference("x", torch.tensor([float("inf")]), torch.tensor([0.0]))
    config = json.loads((runs / "b" / "config.json").read_text())
    edit(runs / "b" / "config.json", budget={"seconds": 60}, seed=1, task={**config["task"], "starts": ["prior"]})
    store.write_manifest(runs / "b")
    assert (
        "its budget of 60 s may end it at another step each time" in call("reproduce", runs / "b", "-q", code=1).stdout
    )


def test_what_cannot_be_compared_is_said(runs, tmp_path):
    edit(runs / "b" / "result.json", stopped="interrupted")
    store.write_manifest(runs / "b")
    with pytest.raises(ConfigError, match="was interrupted, where no other would be: end it by resume first"):
        lo.reproduce(runs / "b")
    with pytest.raises(
        InputFileError, match="there is no .*: give the folder of a run, or a PNG that was drawn into one"
    ):
        lo.reproduce(tmp_path / "none")
    save_file({"other": torch.zeros(1)}, runs / "draws" / "result.safetensors")
    store.write_manifest(runs / "draws")
    with pytest.raises(InputFileError, match="holds neither latents nor designs: it is damaged"):
        lo.reproduce(runs / "draws")
    (runs / "draws" / "result.safetensors").write_bytes(b"none")
    store.write_manifest(runs / "draws")
    with pytest.raises(InputFileError, match="it is damaged"):
        lo.reproduce(runs / "draws")


def test_callables_and_decoders_are_given_again(tmp_path):
    from latentopt.testing import toy_decoders

    def brightness(c):
        return c.designs.flatten(1).mean(1)

    options = {"objectives": brightness, "search": {"kind": "adam", "steps": 3}}
    lo.optimize(toy_decoders()["image"], out=tmp_path / "run", **options)
    with pytest.raises(LatentoptError, match="a recorded callable cannot be run from a file"):
        lo.reproduce(tmp_path / "run")
    assert lo.reproduce(tmp_path / "run", decoder=toy_decoders()["image"], objectives=brightness).same


# ---------------------------------------------------------------------- pictures


@pytest.mark.parametrize("name", ["b/sheet.png", "b/losses.png", "draws/sheet.png"])
def test_a_picture_alone_finds_its_way_back(name, made, tmp_path):
    picture = Path(shutil.copy(made / name, tmp_path / "picture.png"))
    found = call("reproduce", picture, "-q").stdout
    assert found.startswith("the same latents")
    about = origin.read(picture)
    assert about.run == name.partition("/")[0]
    assert about.versions == runfolder.versions()


def test_a_picture_of_another_run_says_what_differs(made, tmp_path):
    about = json.loads(origin.read_text(made / "b" / "sheet.png", "latentopt"))
    about["config"]["task"]["starts"] = ["prior"]
    alone = pictures.write(Figure(), tmp_path / "a.png", json.dumps(about))
    found = call("reproduce", alone, "-q", code=1).stdout
    assert "differs  latents differ (the first run's are not here: only their sum is)" in found
    beside = pictures.write(
        Figure(), Path(shutil.copytree(made / "b", tmp_path / "b")) / "other.png", json.dumps(about)
    )
    assert "differs  latents differ in 160 of" not in (text := call("reproduce", beside, "-q", code=1).stdout)
    assert "differs  latents differ" in text


def test_numbers_too_large_to_travel_are_looked_for_beside_the_picture(made, tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "MAX_ARRAYS", 100)
    out = tmp_path / "runs" / "big"
    call("optimize", "-d", "digits", "-t", made.parent / "target.png", *FAST, "--out", out)
    picture = out / "sheet.png"
    assert origin.read(picture).arrays is None
    call("reproduce", picture, "-q")  # in the run's folder
    next_to = shutil.copy(picture, tmp_path / "runs" / "sheet.png")
    call("reproduce", next_to, "-q")  # beside it
    (tmp_path / "alone").mkdir()
    alone = shutil.copy(picture, tmp_path / "alone" / "sheet.png")
    words = r"the numbers of the run 'big' were too large to travel in .*: put the picture into the run's folder"
    with pytest.raises(InputFileError, match=words):
        lo.reproduce(alone)
    (tmp_path / "alone" / "big").mkdir()
    (tmp_path / "alone" / "big" / "arrays.safetensors").write_bytes(b"others")
    with pytest.raises(InputFileError, match=words):
        lo.reproduce(alone)
    about = json.loads(origin.read_text(picture, "latentopt"))
    for run in ("..", "", "/etc", "../runs/big"):
        odd = pictures.write(Figure(), tmp_path / "alone" / "odd.png", json.dumps({**about, "run": run}))
        with pytest.raises(InputFileError, match="were too large to travel"):
            lo.reproduce(odd)


def test_a_config_too_large_for_a_picture_stays_out_of_it(made, monkeypatch):
    monkeypatch.setattr(origin, "MAX_TEXT", 100)
    assert origin.text_of(lo.load(made / "b"), "b") == ""


def test_a_picture_without_a_text_is_as_before(tmp_path):
    picture = pictures.write(Figure(), tmp_path / "plain.png")
    with pytest.raises(InputFileError, match="says nothing of a run: only sheets that latentopt drew"):
        lo.reproduce(picture)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def test_texts_are_read_in_all_three_forms(tmp_path):
    path = tmp_path / "a.png"
    for kind, data in (
        (b"tEXt", b"key\0hello"),
        (b"zTXt", b"key\0\0" + zlib.compress(b"hello")),
        (b"iTXt", b"key\0\0\0en\0word\0hello"),
        (b"iTXt", b"key\0\1\0\0\0" + zlib.compress(b"hello")),
    ):
        path.write_bytes(png(chunk(b"tEXt", b"other\0x"), chunk(kind, data)))
        assert pngtext.read_text(path, "key") == "hello"
        assert pngtext.read_text(path, "none") is None


BOMB = zlib.compress(bytes(200 * 2**20), 9)  # 200 kB of file that unpack to 200 MB
GOOD = {
    "schema": 1,
    "run": "a",
    "config": {},
    "sums": {"latents": "0"},
    "versions": {},
    "arrays": None,
    "arrays_sha256": None,
}
BAD = {
    "a bomb": (png(chunk(b"zTXt", b"latentopt\0\0" + BOMB)), "holds a text of more than 1 MiB, which is not read"),
    "another bomb": (png(chunk(b"iTXt", b"latentopt\0\1\0\0\0" + BOMB)), "holds a text of more than 1 MiB"),
    "a long text": (png(chunk(b"tEXt", b"latentopt\0" + b"x" * (2**20 + 1))), "holds a text of more than 1 MiB"),
    "no zlib": (png(chunk(b"zTXt", b"latentopt\0\0nonsense")), "is damaged: its text cannot be read"),
    "no utf-8": (png(chunk(b"iTXt", b"latentopt\0\0\0\0\0\xff")), "is damaged: its text cannot be read"),
    "a wrong sum": (png(chunk(b"tEXt", b"latentopt\0{}")[:-1] + b"?"), "the sum of its text 'latentopt' is wrong"),
    "cut short": (png(chunk(b"tEXt", b"latentopt\0{}"))[:20], "is cut short"),
    "a wild length": (b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXtlatentopt\0{}....", "is damaged"),
    "no png": (b"\xff\xd8\xff\xe0 a photograph", "is no PNG: give the PNG of a sheet, or the folder of a run"),
    "empty": (b"", "is no PNG"),
    "no json": (png(chunk(b"tEXt", b"latentopt\0{")), "cannot be read .JSONDecodeError"),
    "a deep json": (png(chunk(b"tEXt", b"latentopt\0" + b"[" * 200_000)), "cannot be read .RecursionError"),
    "a number": (png(chunk(b"tEXt", b"latentopt\0007")), "holds a run of schema None"),
    "a newer schema": (
        png(chunk(b"tEXt", b'latentopt\0{"schema": 2}')),
        "holds a run of schema 2, this version reads 1",
    ),
    "parts missing": (png(chunk(b"tEXt", b'latentopt\0{"schema": 1}')), "cannot be read .KeyError"),
}
for name, changed, words in (
    ("a config that is a list", {"config": []}, "a part of it is of another kind"),
    ("a run that is a number", {"run": 3}, "a part of it is of another kind"),
    ("no base64", {"arrays": "?", "arrays_sha256": ""}, "cannot be read"),
    (
        "other arrays",
        {"arrays": base64.b64encode(b"x").decode(), "arrays_sha256": "0" * 64},
        "is damaged: the numbers in it",
    ),
    ("an empty config", {}, "decoder: Field required"),
    ("no sums", {"sums": {}}, "does not say what its run found, so there is nothing to compare with"),
    (
        "a deep config",
        {"config": json.loads("[" * 60 + "]" * 60) and {"a": json.loads("[" * 60 + "]" * 60)}},
        "nested deeper than 50",
    ),
):
    BAD[name] = (png(chunk(b"tEXt", b"latentopt\0" + json.dumps({**GOOD, **changed}).encode())), words)


@pytest.mark.parametrize("case", BAD)
def test_bad_pictures_are_refused_in_words(case, tmp_path):
    raw, words = BAD[case]
    path = tmp_path / "sheet.png"
    path.write_bytes(raw)
    with pytest.raises(LatentoptError, match=words):
        lo.reproduce(path)
    assert call("reproduce", path, code=2).stdout == ""


def test_a_large_file_is_no_sheet(tmp_path, monkeypatch):
    monkeypatch.setattr(pngtext, "MAX_FILE", 1000)
    (tmp_path / "a.png").write_bytes(png(chunk(b"tEXt", b"other\0" + b"x" * 2000)))
    with pytest.raises(InputFileError, match="is larger than"):
        lo.reproduce(tmp_path / "a.png")


def test_any_change_to_a_picture_is_refused_or_harmless(made, tmp_path):
    """Bytes of the text flipped, cut and swapped: nothing but our own errors, or the same origin."""
    raw = (made / "draws" / "sheet.png").read_bytes()
    place, length = raw.index(b"latentopt\0"), len(origin.read_text(made / "draws" / "sheet.png", "latentopt"))
    whole, rng, path = origin.read(made / "draws" / "sheet.png"), np.random.default_rng(0), tmp_path / "a.png"
    refused = 0
    for _ in range(500):
        data = bytearray(raw)
        at = place - 20 + int(rng.integers(length + 40))
        match int(rng.integers(3)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                del data[at : at + int(rng.integers(1, 50))]
            case _:
                data[at : at + 4] = rng.bytes(4)
        path.write_bytes(bytes(data))
        try:
            assert origin.read(path) == whole or bytes(data) == raw
        except LatentoptError:
            refused += 1
    assert refused > 400


# ---------------------------------------------------------------------- earlier and later versions


def test_a_folder_of_an_earlier_version_is_read(tmp_path):
    folder = shutil.copytree(OLD, tmp_path / "old")
    found = lo.load(folder)
    assert found.latents.shape == (2, 20)
    assert found.targets.shape == (1, 1, 28, 28)
    (run,) = runs_below(tmp_path)
    assert (run.status, run.task, run.decoder, run.rows, run.loss) == ("finished", "optimize", "digits", 24, None)
    assert "old" in call("runs", "ls", tmp_path).stdout
    text = call("runs", "show", folder).stdout
    assert f"{found.best.loss:.4g}" in text
    again = lo.reproduce(folder)
    assert again.compared == ("latents", "designs", "losses")
    assert again.notes[0] == "the run does not say which versions it ran with"
    assert torch.allclose(again.found.losses, found.losses, rtol=0.1)
    with pytest.raises(InputFileError, match="is not the folder of an optimize run: run.json is missing"):
        lo.resume(folder)


def test_a_kept_run_of_an_earlier_version_is_read_and_its_sums_are_checked(tmp_path):
    folder = shutil.copytree(OLD.parent / "schema1-kept", tmp_path / "old")
    found = lo.load(folder)
    assert (found.stopped, found.latents.shape, len(found.history)) == ("finished", (2, 20), 9)
    assert lo.resume(folder).losses.equal(found.losses)
    again = lo.reproduce(folder)
    assert torch.allclose(again.found.losses, found.losses, rtol=0.1)
    assert "<html" in lo.report(folder)
    (folder / "history.jsonl").write_text("")
    with pytest.raises(InputFileError, match="history.jsonl is not what was written"):
        lo.load(folder)


def test_a_killed_run_of_an_earlier_version_goes_on_from_its_checkpoint(tmp_path):
    folder = shutil.copytree(OLD.parent / "schema1-killed", tmp_path / "old")
    (run,) = runs_below(tmp_path)
    assert run.status == "killed"
    found = lo.resume(folder)
    assert [entry["step"] for entry in found.history] == list(range(9))
    assert not [note for note in found.notes if "damaged" in note]
    assert torch.allclose(found.losses, lo.load(OLD.parent / "schema1-kept").losses, rtol=0.1)


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_a_folder_of_a_newer_version_is_refused_by_name(name, runs):
    edit(runs / "b" / name, schema=7)
    store.write_manifest(runs / "b")
    assert [run.problem for run in runs_below(runs, statuses=["newer"])] == [
        "schema 7, this version reads 1: update latentopt"
    ]
    assert "newer    b: schema 7" in call("runs", "ls", runs).stdout
    assert "schema 7" in call("runs", "show", runs / "b", code=2).stderr
    if name == "run.json":
        for command in ("resume", "reproduce"):
            assert "has schema 7, this version reads 1: update latentopt" in call(command, runs / "b", code=2).stderr
    else:
        with pytest.raises(InputFileError, match="has schema 7, this version reads 1: update latentopt"):
            lo.load(runs / "b")

"""Runs in folders: killed anywhere and resumed they end with the same bits; one process a folder; damage is found."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from kept_runs import CASES, KilledError, callables, decoder, options, same

import latentopt as lo
from latentopt import api, checkpoints, runfolder, store
from latentopt.errors import ConfigError, InputFileError


@dataclass
class OddState(lo.SearchState):
    something: object


def killed_after(count, folder, monkeypatch, **given):
    """A run that ends as if killed at its count-th checkpoint; whether it came so far."""
    save, seen = checkpoints.Checkpoints.save, [0]

    def kill(self, state):
        save(self, state)
        seen[0] += 1
        if seen[0] == count:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", kill)
        patch.setattr(runfolder.RunFolder, "fail", lambda self, error: None)
        try:
            lo.optimize(decoder(), out=folder, **given)
        except KilledError:
            return True
    return False


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_with_the_same_bits(name, tmp_path, monkeypatch, every_step):
    whole = lo.optimize(decoder(), **options(name))
    saves = 0
    for count in (1, 2, 3, 5, 8, 13, 21, 34):
        folder = tmp_path / str(count)
        if not killed_after(count, folder, monkeypatch, **options(name)):
            break
        made = decoder()
        found = lo.resume(folder, decoder=made, **callables(name))
        same(found, whole)
        same(lo.load(folder), whole)
        saves += 1
        assert made.rows.forward < whole.cost.forward_rows + 200 or count < 3
    assert saves >= 3, "the run was too short to be killed"


def test_a_run_that_is_killed_again_and_again(tmp_path, monkeypatch, every_step):
    whole = lo.optimize(decoder(), **options("a chain"))
    folder = tmp_path / "run"
    assert killed_after(2, folder, monkeypatch, **options("a chain"))
    save = checkpoints.Checkpoints.save
    for _ in range(4):
        seen = [0]

        def kill(self, state, seen=seen):
            save(self, state)
            seen[0] += 1
            if seen[0] == 3:
                raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.Checkpoints, "save", kill)
            with pytest.raises(KilledError):
                lo.resume(folder, decoder=decoder())
    same(lo.resume(folder, decoder=decoder()), whole)


def test_what_is_resumed_is_not_done_again(tmp_path, monkeypatch, every_step):
    given = options("adam")
    whole = lo.optimize(decoder(), **given)
    killed_after(20, tmp_path / "run", monkeypatch, **given)
    made = decoder()
    before = made.rows.forward + made.rows.backward
    lo.resume(tmp_path / "run", decoder=made)
    assert made.rows.forward + made.rows.backward - before < whole.cost.rows / 2


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path, monkeypatch):
    given = options("adam")
    whole = lo.optimize(decoder(), **given)
    lo.optimize(decoder(), out=tmp_path / "run", **given)
    shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**about, "status": "running"}))
    same(lo.resume(tmp_path / "run", decoder=decoder()), whole)


# ---------------------------------------------------------------------- what may change


def test_a_run_that_its_budget_ended_goes_on_with_a_larger_one(tmp_path):
    given = options("adam")
    whole = lo.optimize(decoder(), budget={"rows": 1500}, **given)
    small = lo.optimize(decoder(), budget={"rows": 200}, out=tmp_path / "run", **given)
    assert small.stopped == "budget"
    same(lo.resume(tmp_path / "run", decoder=decoder()), small)
    same(lo.resume(tmp_path / "run", decoder=decoder(), budget={"rows": 1500}), whole)
    assert lo.load(tmp_path / "run").stopped == "finished"


def test_a_finished_run_is_loaded(tmp_path):
    found = lo.optimize(decoder(), out=tmp_path / "run", **options("adam"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    same(lo.resume(tmp_path / "run", decoder=decoder()), found)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == files


def half_done(tmp_path, monkeypatch, name="adam", **changed):
    assert killed_after(3, tmp_path / "run", monkeypatch, **{**options(name), **changed})
    return tmp_path / "run"


def test_a_smaller_budget_is_refused(tmp_path, monkeypatch, every_step):
    folder = half_done(tmp_path, monkeypatch, budget={"rows": 500})
    with pytest.raises(
        ConfigError, match=r"resume refused: the config differs in budget.rows \(500 -> 400, which is less\)"
    ):
        lo.resume(folder, decoder=decoder(), budget={"rows": 400})


def test_another_decoder_is_refused(tmp_path, monkeypatch, every_step):
    folder = half_done(tmp_path, monkeypatch)
    other = decoder()
    with torch.no_grad():
        next(other.module.parameters()).mul_(1.001)
    with pytest.raises(
        ConfigError, match="resume refused: the decoder is image .*, and the run in .* began with image"
    ):
        lo.resume(folder, decoder=other)


def test_other_objectives_are_refused(tmp_path, monkeypatch, every_step):
    folder = half_done(tmp_path, monkeypatch, objectives=["mse"])
    with pytest.raises(
        ConfigError, match=r"resume refused: the config differs in task.objectives.0.kind \(.mse. -> .mae.\)"
    ):
        lo.resume(folder, decoder=decoder(), objectives=["mae"])


def test_callables_are_asked_for_again(tmp_path, monkeypatch, every_step):
    folder = half_done(tmp_path, monkeypatch, objectives=[lambda c: c.latents.square().sum(1)])
    with pytest.raises(ConfigError, match="a recorded callable cannot be run from a file"):
        lo.resume(folder, decoder=decoder())


def test_a_checkpoint_of_an_earlier_version_goes_on_without_what_it_lacks(tmp_path, monkeypatch, every_step):
    folder, whole = tmp_path / "run", lo.optimize(decoder(), **options("adam"))
    assert killed_after(12, folder, monkeypatch, **options("adam"))
    kept = checkpoints.Checkpoints(folder / "checkpoints")
    state = kept.newest()
    reports = len(state["history"])
    del state["paths"], state["run"]["terms"]
    state["run"]["pending"] = [one[:-1] for one in state["run"]["pending"]]
    state["history"] = [{key: value for key, value in one.items() if key != "terms"} for one in state["history"]]
    kept.save(state)
    found = lo.resume(folder, decoder=decoder())
    for name in ("latents", "losses"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    assert len(found.paths) == len(found.history) > reports
    assert bool(found.paths[:reports].isnan().all())
    assert torch.equal(found.paths[reports + 1 :], whole.paths[reports + 1 :])
    assert [entry["terms"] for entry in found.history[:reports]] == [{}] * reports
    pairs = zip(found.history[-1]["terms"]["mse"], whole.history[-1]["terms"]["mse"], strict=True)
    known = [one == other for one, other in pairs if one == one]  # of rows at their best before the checkpoint: NaN
    assert known
    assert all(known)
    held = lo.load(folder)  # whose older lines lack the terms
    assert [entry.get("terms", {}) for entry in held.history][:reports] == [{}] * reports
    assert len(held.history) == len(held.paths)
    lo.report(held)


# ---------------------------------------------------------------------- damage


def newest(folder):
    return max((folder / "checkpoints").iterdir())


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "swap"])
def test_a_damaged_checkpoint_is_passed_over(harm, tmp_path, monkeypatch, every_step):
    whole = lo.optimize(decoder(), **options("adam"))
    folder = half_done(tmp_path, monkeypatch)
    path = newest(folder)
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    elif harm == "swap":
        data = data[len(data) // 2 :] + data[: len(data) // 2]
    path.write_bytes(bytes(data[: len(data) // 2]) if harm == "truncate" else b"" if harm == "empty" else bytes(data))
    found = lo.resume(folder, decoder=decoder())
    number = path.name[:6]
    assert [note for note in found.notes if note.startswith(f"checkpoint {number} is damaged")]
    assert torch.equal(found.latents, whole.latents)


def test_any_flipped_byte_is_found(tmp_path, monkeypatch, every_step):
    folder = half_done(tmp_path, monkeypatch)
    path = newest(folder)
    data = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(len(data), (300,), generator=generator).tolist():
        harmed = bytearray(data)
        harmed[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(harmed))
        kept = checkpoints.Checkpoints(folder / "checkpoints")
        kept.newest()
        assert len(kept.notes) == 1


def test_all_checkpoints_damaged_means_from_the_start(tmp_path, monkeypatch, every_step):
    whole = lo.optimize(decoder(), **options("adam"))
    folder = half_done(tmp_path, monkeypatch)
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"x")
    found = lo.resume(folder, decoder=decoder())
    assert torch.equal(found.latents, whole.latents)
    assert sum("is damaged" in note for note in found.notes) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", b"{", "run.json cannot be read"),
        ("run.json", b"[]", "has schema None, this version reads 1"),
        ("run.json", b'{"schema": 7}', "has schema 7, this version reads 1: update latentopt"),
        ("run.json", b'{"schema": 1}', "says nothing of its status: it is damaged"),
        ("config.json", b"{", "config.json cannot be read"),
        ("config.json", b"[]", "config.json holds list, expected a config"),
        ("config.json", b"{}", "decoder: Field required"),
    ],
)
def test_damaged_files_of_a_run(name, content, words, tmp_path, monkeypatch, every_step):
    folder = half_done(tmp_path, monkeypatch)
    (folder / name).write_bytes(content)
    with pytest.raises(lo.LatentoptError) as caught:
        lo.resume(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_no_run(tmp_path):
    with pytest.raises(InputFileError, match="is not the folder of an optimize run: run.json is missing"):
        lo.resume(tmp_path)


@pytest.mark.parametrize("name", ["result.safetensors", "result.json", "config.json", "history.jsonl"])
def test_a_changed_file_of_a_finished_run_is_found(name, tmp_path):
    lo.optimize(decoder(), out=tmp_path / "run", **options("adam"))
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InputFileError, match=f"{name} is not what was written"):
        lo.load(tmp_path / "run")


# ---------------------------------------------------------------------- one folder, one process


def hold(folder, ready):
    with store.locked(folder):
        ready.send("locked")
        time.sleep(60)


@pytest.fixture
def owner(tmp_path, monkeypatch, every_step):
    """A folder half done, and another process that is at work on it."""
    folder = half_done(tmp_path, monkeypatch)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(folder, there))
    process.start()
    assert here.poll(60)
    yield folder, process
    process.kill()
    process.join(30)


def test_the_second_process_is_refused_at_once_and_a_dead_owner_holds_nothing(owner):
    folder, process = owner
    began = time.perf_counter()
    with pytest.raises(ConfigError, match=f"is in use by process {process.pid} on .*: wait for it"):
        lo.resume(folder, decoder=decoder())
    assert time.perf_counter() - began < 1
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert lo.resume(folder, decoder=decoder()).stopped == "finished"


def test_a_new_run_never_overwrites_an_old_one(tmp_path):
    given = options("adam")
    lo.optimize(decoder(), out=tmp_path / "run", **given)
    with pytest.raises(ConfigError, match="exists and is not an empty folder: a run never overwrites another"):
        lo.optimize(decoder(), out=tmp_path / "run", **given)


def test_a_run_that_fails_says_so_in_its_folder(tmp_path, monkeypatch, every_step):
    with pytest.raises(ValueError, match="nonsense"):
        lo.optimize(decoder(), out=tmp_path / "run", on_report=lambda report: int("nonsense"), **options("adam"))
    about = runfolder.read_about(tmp_path / "run")
    assert about["status"] == "failed"
    assert "nonsense" in about["error"]


def test_what_a_run_was_stands_in_its_folder(tmp_path):
    found = lo.optimize(decoder(), out=tmp_path / "run", **options("adam"))
    about = runfolder.read_about(tmp_path / "run")
    assert about["status"] == "finished"
    assert about["seed"] == 4
    assert about["decoder"].startswith("image ")
    assert about["versions"]["torch"] == torch.__version__
    assert {"name", "distribution", "version"} <= set(about["plugins"][0])
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"run.json", "config.json", "history.jsonl", "result.safetensors", "result.json", "manifest.json"} <= names
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [entry["step"] for entry in found.history]
    again = decoder().decode(found.latents)
    assert torch.equal(again, found.designs), "a reloaded latent decodes to the same design"


# ---------------------------------------------------------------------- interrupts


def test_ctrl_c_ends_a_run_after_its_step_with_a_checkpoint(tmp_path):
    whole = lo.optimize(decoder(), **options("adam"))

    def press(report):
        if report.step == 7:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        part = lo.optimize(decoder(), out=tmp_path / "run", on_report=press, **options("adam"))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert part.stopped == "interrupted"
    assert part.history[-1]["step"] == 7
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    same(api.resume(tmp_path / "run", decoder=decoder()), whole)


def test_ctrl_c_twice_ends_a_run_now(tmp_path):
    calls = []

    def press(report):
        calls.append(report.step)
        if report.step == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second one raises")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        part = lo.optimize(decoder(), out=tmp_path / "run", on_report=press, **options("adam"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert part.stopped == "interrupted"
    assert calls[-1] == 7


def test_a_state_that_cannot_be_kept_is_told_of(tmp_path, every_step):
    class Odd:
        n_steps = 3

        def init(self, problem, z_ND, target_N, rng):
            flags = torch.zeros(len(z_ND), dtype=torch.bool)
            value = problem.value(z_ND, target_N)
            return OddState(z_ND, target_N, torch.arange(len(z_ND)), value, flags, 0, object())

        def step(self, problem, state):
            state.step += 1

    class OddConfig(lo.SearchConfig):
        kind: Literal["odd"] = "odd"

        def build(self, decoder):
            return Odd()

    found = lo.optimize(decoder(), objectives=["prior"], search=OddConfig(), out=tmp_path / "run")
    words = "its search keeps a value of type object, which no file can hold"
    assert f"no checkpoints were written, so this run cannot be resumed: {words}" in found.notes

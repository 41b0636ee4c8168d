"""Runs killed for real, at random moments and at every single write, and disks that are full: nothing is lost."""

import errno
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from kept_runs import KilledError, decoder, options, same

import latentopt as lo
from latentopt import checkpoints, runfolder, store
from latentopt.errors import InputFileError

KILLS = int(os.environ.get("LATENTOPT_KILLS", "20"))
NAMES = ("adam", "lbfgs", "cmaes", "optuna tpe", "a race", "a chain")
CALLS = ("open", "write", "fsync", "replace")


# ---------------------------------------------------------------------- at random moments


def run_slowly(folder, name):
    """In a process of its own: a run that can be hit anywhere, with a checkpoint every few steps."""
    torch.set_num_threads(1)
    checkpoints.Checkpoints.due = lambda self: time.perf_counter() - self._last > 0.01
    if (folder / "run.json").exists():
        lo.resume(folder, decoder=decoder())
    else:
        lo.optimize(decoder(), out=folder, on_report=lambda report: time.sleep(0.004), **options(name))


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "optuna", "latentopt.api", "latentopt_std", "kept_runs"])
    return context


def test_a_run_killed_at_random_moments(processes, tmp_path):
    whole = {name: lo.optimize(decoder(), **options(name)) for name in NAMES}
    chance = random.Random(7)
    killed = 0
    for number in range(KILLS):
        name = NAMES[number % len(NAMES)]
        folder = tmp_path / str(number)
        for _ in range(50):
            process = processes.Process(target=run_slowly, args=(folder, name))
            process.start()
            process.join(chance.uniform(0.02, 0.5))
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
                process.join()
            elif process.exitcode != 0 and not (folder / "run.json").exists():
                store.remove_lock(folder)  # killed before it was a run at all: nothing is there to resume
                for path in folder.iterdir():
                    path.unlink()
            if (folder / "manifest.json").exists():
                break
        found = lo.resume(folder, decoder=decoder()) if (folder / "run.json").exists() else None
        assert found is not None, f"run {number} ({name}) never began"
        same(found, whole[name])
    assert killed >= KILLS / 2


# ---------------------------------------------------------------------- at every write


class Points:
    """Stands for `os` in the store: counts the calls that touch a file, and ends the run before, in or after one of them."""

    def __init__(self, at=None, when="before", error=None):
        self.at, self.when, self.error, self.seen = at, when, error, []

    def __getattr__(self, name):
        call = getattr(os, name)
        if name not in CALLS:
            return call

        def counted(*args, **more):
            self.seen.append(name)
            if len(self.seen) - 1 != self.at:
                return call(*args, **more)
            if self.when == "before":
                raise self.error or KilledError
            if self.when == "in" and name == "write":
                call(args[0], bytes(args[1])[: len(args[1]) // 2])
            else:
                call(*args, **more)
            raise self.error or KilledError

        return counted


GIVEN = {**options("adam"), "search": {"kind": "adam", "steps": 3}}


@pytest.fixture
def no_word(monkeypatch):
    """A killed process says nothing of its end."""
    monkeypatch.setattr(runfolder.RunFolder, "fail", lambda self, error: None)


def count_points(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        points = Points()
        patch.setattr(store, "os", points)
        lo.optimize(decoder(), out=tmp_path / "counted", **GIVEN)
    return points.seen


def test_every_write_of_a_run_is_a_point(tmp_path, monkeypatch, every_step):
    seen = count_points(tmp_path, monkeypatch)
    whole_file = ["open", "write", "fsync", "replace", "open", "fsync"]
    report = ["open", "write"]
    # owner, arrays, config, run.json; a report; three steps with a checkpoint before and a report after each; tensors,
    # summary, run.json, manifest
    assert seen == [*whole_file * 4, *report, *[*whole_file, *report] * 3, *whole_file * 4]


def test_no_other_room_writes_into_a_run():
    root = Path(lo.__file__).parent
    for name in ("runfolder", "result", "checkpoints", "packing", "driver", "stagerun", "api"):
        text = (root / f"{name}.py").read_text()
        for word in ("write_text", "write_bytes", "save_file", '.open("w', '.open("a', "open("):
            assert word not in text, f"{name}.py writes by {word}, past the store"


@pytest.mark.parametrize("when", ["before", "in", "after"])
def test_killed_at_every_write(when, tmp_path, monkeypatch, every_step, no_word):
    whole = lo.optimize(decoder(), **GIVEN)
    for point in range(len(count_points(tmp_path, monkeypatch))):
        folder = tmp_path / f"{when} {point}"
        with monkeypatch.context() as patch:
            patch.setattr(store, "os", Points(point, when))
            with pytest.raises(KilledError):
                lo.optimize(decoder(), out=folder, **GIVEN)
        if not (folder / "run.json").exists():
            continue  # it had not begun: there is nothing to lose
        found = lo.resume(folder, decoder=decoder())
        same(found, whole)
        same(lo.load(folder), whole)


def complaint(folder):
    """What a run that cannot write says; None where it could do without."""
    try:
        lo.optimize(decoder(), out=folder, **GIVEN)
    except InputFileError as error:
        return str(error)
    return None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_disk_at_every_write(code, tmp_path, monkeypatch, every_step):
    whole = lo.optimize(decoder(), **GIVEN)
    points = count_points(tmp_path, monkeypatch)
    for point in range(len(points)):
        folder = tmp_path / str(point)
        with monkeypatch.context() as patch:
            patch.setattr(store, "os", Points(point, "before", OSError(code, os.strerror(code))))
            said = complaint(folder)
        if said is None:
            assert points[point] == "open", "a folder, which not every system lets one flush"
        else:
            assert said.startswith("cannot write ")
            assert f"({os.strerror(code)}): free some space, or choose another place" in said
        if not (folder / "run.json").exists():
            continue
        same(lo.resume(folder, decoder=decoder()), whole)
        assert not list(folder.glob("**/*.tmp"))

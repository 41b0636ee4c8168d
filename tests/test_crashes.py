"""Runs killed for real, at random moments and at every single write, and disks that are full: nothing is lost."""

import errno
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from kept_runs import KilledError, decoder, options, same

import latentopt as lo
from latentopt import checkpoints, runfolder, store
from latentopt.errors import InputFileError

KILLS = int(os.environ.get("LATENTOPT_KILLS", "20"))
NAMES = ("adam", "lbfgs", "cmaes", "optuna tpe", "a race", "a chain")
CALLS = ("open", "write", "fsync", "replace")


# ---------------------------------------------------------------------- at random moments


def run_slowly(folder, name):
    """A run that can be hit anywhere, with a checkpoint every few steps."""
    checkpoints.Checkpoints.due = lambda self: time.perf_counter() - self._last > 0.01
    if (folder / "run.json").exists():
        lo.resume(folder, decoder=decoder())
    else:
        lo.optimize(decoder(), out=folder, on_report=lambda report: time.sleep(0.004), **options(name))


def hit(folder, name, seconds):
    """A process of its own is killed after so long; whether it was still alive."""
    child = os.fork()
    if child == 0:
        try:
            run_slowly(folder, name)
        finally:
            os._exit(0)
    time.sleep(seconds)
    alive = os.waitpid(child, os.WNOHANG)[0] == 0
    if alive:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return alive


def test_a_run_killed_at_random_moments(tmp_path):
    whole = {name: lo.optimize(decoder(), **options(name)) for name in NAMES}
    chance = random.Random(7)
    kills = 0
    for number in range(1000):
        name, folder = NAMES[number % len(NAMES)], tmp_path / str(number)
        for life in range(50):
            kills += hit(folder, name, chance.uniform(0.02, 0.1 + 0.1 * life))
            if folder.exists() and not (folder / "run.json").exists():
                shutil.rmtree(folder)  # it was killed before it had begun, and begins again
            if (folder / "manifest.json").exists():
                break
        same(lo.resume(folder, decoder=decoder()), whole[name])
        if kills >= KILLS:
            return
    raise AssertionError(f"only {kills} kills")


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


GIVEN = {**options("adam"), "search": {"kind": "adam", "steps": 2}}


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
    # owner, arrays, config, run.json; a report; two steps with a checkpoint before and a report after each; tensors,
    # summary, run.json, manifest
    assert seen == [*whole_file * 4, *report, *[*whole_file, *report] * 2, *whole_file * 4]


def test_no_other_room_writes_into_a_run():
    root = Path(lo.__file__).parent
    for name in ("runfolder", "result", "checkpoints", "packing", "driver", "stagerun", "api"):
        text = (root / f"{name}.py").read_text()
        for word in ("write_text", "write_bytes", "save_file", '.open("w', '.open("a', "open("):
            assert word not in text, f"{name}.py writes by {word}, past the store"


@pytest.mark.parametrize("when", ["before", "in"])  # after one is before the next
def test_killed_at_every_write(when, tmp_path, monkeypatch, every_step, no_word):
    whole = lo.optimize(decoder(), **GIVEN)
    for point, call in enumerate(count_points(tmp_path, monkeypatch)):
        if when == "in" and call != "write":
            continue
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
    for point in range(0, len(points), 1 if code == errno.ENOSPC else 7):
        folder = tmp_path / str(point)
        with monkeypatch.context() as patch:
            patch.setattr(store, "os", Points(point, "before", OSError(code, os.strerror(code))))
            said = complaint(folder)
        if said is None:
            assert points[point] == "open", "a folder, which not every system lets one flush"
        else:
            assert said.startswith("cannot write ")
            assert (
                f"({os.strerror(code)}): {'free some space, or ' * (code == errno.ENOSPC)}choose another place" in said
            )
        if not (folder / "run.json").exists():
            continue
        same(lo.resume(folder, decoder=decoder()), whole)
        assert not list(folder.glob("**/*.tmp"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")
def test_a_true_limit_on_files_at_every_file(tmp_path, every_step):
    """The kernel itself refuses the first byte too many, at each file in turn; with the limit gone the run goes on."""
    import resource

    whole = lo.optimize(decoder(), out=tmp_path / "whole", **GIVEN)
    files = [path for path in (tmp_path / "whole").rglob("*") if path.is_file() and path.stat().st_size]
    limits = sorted({path.stat().st_size - 1 for path in files})
    assert len(limits) >= 8
    stopped = 0
    for limit in limits:
        folder = tmp_path / str(limit)
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            said = complaint(folder)
            os._exit(0 if said is not None and said.startswith("cannot write ") and "(File too large)" in said else 1)
        stopped += os.waitpid(child, 0)[1] == 0
        if (folder / "run.json").exists():
            same(lo.resume(folder, decoder=decoder()), whole)
    assert stopped >= len(limits) - 1

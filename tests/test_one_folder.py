"""One folder, many processes: exactly one of them gets it, the others are told by whom, and a dead owner holds nothing."""

import json
import os
import signal
import socket
import statistics
import time
from pathlib import Path

import pytest
from soak import figure

from latentopt import runfolder, store
from latentopt.errors import ConfigError

RACES = figure(100, 1000)
RACERS = 3


class Racer:
    """A process of its own that tries for a folder when it is told to, says how it went, and holds on if it has it."""

    def __init__(self, attempt):
        self.orders, self.answers = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            signal.alarm(120)  # should its parent be gone
            try:
                while folder := os.read(self.orders[0], 4096).decode().strip():
                    self._try(folder, attempt)
            finally:
                os._exit(0)

    def _try(self, folder, attempt):
        began = time.perf_counter()
        try:
            with attempt(Path(folder)):
                self._say(f"won {time.perf_counter() - began:.6f}")
                os.read(self.orders[0], 1)
        except ConfigError as error:
            self._say(f"lost {time.perf_counter() - began:.6f} {error}")

    def _say(self, text):
        os.write(self.answers[1], text.encode())

    def order(self, text):
        os.write(self.orders[1], text.encode())

    def answer(self):
        """Won or lost, after how many seconds, and the words."""
        how, seconds, *words = os.read(self.answers[0], 4096).decode().split(maxsplit=2)
        return how, float(seconds), " ".join(words)

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for end in (*self.orders, *self.answers):
            os.close(end)


@pytest.fixture
def racing():
    """A race for a folder: the process that won it, and what the others were told. Those go on to the next race."""
    pool = []

    def race(folder, attempt):
        pool.extend(Racer(attempt) for _ in range(RACERS - len(pool)))
        for one in pool:
            one.order(str(folder))
        answers = [one.answer() for one in pool]
        assert [how for how, *_ in answers].count("won") == 1, answers
        winner = pool.pop(next(i for i, (how, *_) in enumerate(answers) if how == "won"))
        pool.append(winner)
        return winner, [(seconds, words) for how, seconds, words in answers if how == "lost"]

    race.pool = pool
    yield race
    for one in pool:
        one.end()


def test_one_process_of_many_gets_a_folder_and_the_others_are_told_by_whom(racing, tmp_path):
    waits = []
    for _ in range(RACES):
        winner, told = racing(tmp_path, store.locked)
        for seconds, words in told:
            assert seconds < 1
            assert f"is in use by process {winner.pid} on " in words
        racing.pool.remove(winner)
        winner.end()  # and the next race finds its name in the folder, which must not be given out again
        began = time.perf_counter()
        with store.locked(tmp_path):
            waits.append(time.perf_counter() - began)
        (tmp_path / ".owner.json").write_text(json.dumps({"pid": winner.pid, "host": socket.gethostname()}))
    # a busy machine may be late now and then: the owner's name goes to the disk meanwhile
    assert statistics.median(waits) < 0.1
    assert max(waits) < 1


def test_one_run_of_many_begins_in_a_new_folder(racing, tmp_path):
    """The folder is not there yet: those that lose must leave alone what the winner has made of it."""
    for number in range(RACES):
        folder = tmp_path / str(number)
        winner, told = racing(folder, runfolder.new_run)
        for seconds, words in told:
            assert seconds < 1
            assert f"is in use by process {winner.pid} on " in words or "exists and is not an empty folder" in words
        with pytest.raises(ConfigError, match="is in use by"), store.locked(folder):
            raise AssertionError("the winner has it")
        winner.order("x")


def test_a_folder_in_which_nothing_was_begun_is_taken_away(tmp_path):
    with runfolder.new_run(tmp_path / "run"):
        assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", ".owner.json"}
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_used_since_it_was_looked_at_is_left_alone(tmp_path, monkeypatch):
    """Another run began and ended there between the look and the lock."""

    def late(path):
        path.mkdir()
        (path / "run.json").write_text("another's")
        return path

    monkeypatch.setattr(runfolder, "new_folder", late)
    with (
        pytest.raises(ConfigError, match="exists and is not an empty folder: a run never overwrites another"),
        runfolder.new_run(tmp_path / "run"),
    ):
        raise AssertionError("it is another's")
    assert (tmp_path / "run" / "run.json").read_text() == "another's"


def test_an_owner_that_never_says_its_name_is_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_NAMING", 0.05)
    with store.locked(tmp_path):
        (tmp_path / ".owner.json").unlink()
        with pytest.raises(ConfigError, match="is in use by another process: wait for it"), store.locked(tmp_path):
            raise AssertionError("it is locked")


@pytest.mark.parametrize(("pid", "runs"), [(os.getpid(), True), (1, True), (0, False), (-1, False), (2**80, False)])
def test_whether_a_process_runs(pid, runs):
    assert store.is_running(pid) is runs

"""Ctrl-C and SIGTERM at any moment of a command: it ends within 5 seconds with their exit codes, and nothing is lost."""

import os
import random
import signal
import statistics
import subprocess
import sys
import time

import pytest
import torch
from kept_runs import same
from PIL import Image
from soak import figure
from typer.testing import CliRunner

import latentopt as lo
from latentopt import checkpoints, cli, store

TIMES = figure(5, 50)
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
LIMIT = 5.0  # seconds, of the median: a machine at other work may be late now and then, but not by
LATE = 20.0
SLOW = """
import time
import torch
from latentopt.testing import ToyImages

class Slow(torch.nn.Module):
    '''Pictures, each batch of them, or only one, after a while.'''
    def __init__(self, seconds=0.0, only=0):
        super().__init__()
        self.net, self.seconds, self.only, self.calls = ToyImages(4, (1, 8, 8)), seconds, only, 0
    def forward(self, z):
        self.calls += 1
        time.sleep(self.seconds if self.only in (0, self.calls) else 0)
        return self.net(z)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a target and a module of a slow decoder."""
    (tmp_path / "slow_nets.py").write_text(SLOW)
    Image.new("L", (8, 8), 90).save(tmp_path / "target.png")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def words(place, out, seconds, only=0, steps=60):
    (place / "decoder.yaml").write_text(
        f"decoder: {{kind: module, factory: 'slow_nets:Slow', factory_options: {{seconds: {seconds}, only: {only}}}, "
        "latent_shape: [4], prior: normal}\ntask: {kind: sample, n: 1}\n"
    )
    search = f"{{kind: adam, steps: {steps}}}"
    return ["optimize", "-d", place / "decoder.yaml", "-t", place / "target.png", "-s", search, "--out", out, "-q"]


class Command:
    """A command in a process of its own, from a copy of this one, which has everything imported."""

    def __init__(self, arguments, log):
        sys.stdout.flush()
        self.began = time.perf_counter()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(number, 1)
                os.dup2(number, 2)
                checkpoints.SECONDS = 0.2
                cli.app([str(one) for one in arguments], standalone_mode=True)
            except SystemExit as end:
                code = end.code
            finally:
                os._exit(code)

    def send(self, number):
        os.kill(self.pid, number)
        self.began = time.perf_counter()

    def code(self, limit=30.0):
        """Its exit code, and the seconds since the last signal."""
        while time.perf_counter() - self.began < limit:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status), time.perf_counter() - self.began
            time.sleep(0.005)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"it was still there after {limit} s")


def wait_for(path, seconds=20.0):
    ends = time.perf_counter() + seconds
    while not path.exists():
        assert time.perf_counter() < ends, f"{path} never came"
        time.sleep(0.005)


def test_a_signal_at_any_moment_leaves_a_checkpoint_and_what_was_found(place):
    # here, so that all that a command imports is there for the copies
    done = CliRunner().invoke(cli.app, [str(word) for word in words(place, place / "whole", 0)])
    assert done.exit_code == 0, done.output
    whole = lo.load(place / "whole")
    chance, waited = random.Random(5), []
    for turn in range(TIMES):
        out, number = place / str(turn), list(CODES)[turn % 2]
        command = Command(words(place, out, 0.01), place / "log")
        wait_for(out / "history.jsonl")
        time.sleep(chance.uniform(0, 0.3))
        command.send(number)
        code, seconds = command.code()
        assert code == CODES[number], (place / "log").read_text()
        assert seconds < LATE
        waited.append(seconds)
        part = lo.load(out)
        assert part.stopped == "interrupted"
        assert torch.isfinite(part.losses).all()
        assert list((out / "checkpoints").iterdir())
        same(lo.resume(out, trust_code=True), whole)
    assert statistics.median(waited) < LIMIT


def test_the_second_ctrl_c_does_not_wait_for_the_step(place):
    """One step takes a minute. What is left to do after the second is the final decode of the best rows."""
    out = place / "out"
    command = Command(words(place, out, 60, only=20), place / "log")
    wait_for(out / "history.jsonl")
    time.sleep(0.5)
    command.send(signal.SIGINT)
    time.sleep(0.5)
    assert os.waitpid(command.pid, os.WNOHANG) == (0, 0), "the first one waits for the step"
    command.send(signal.SIGINT)
    code, seconds = command.code()
    assert code == 130
    assert seconds < LATE
    store.check_manifest(out)


def test_a_whole_program_ends_as_its_copy_does(place):
    """The same through an interpreter of its own."""
    out = place / "out"
    line = [sys.executable, "-c", "from latentopt.cli import main; main()", *map(str, words(place, out, 0.02))]
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(line, env={**os.environ, "PYTHONPATH": path}, stdout=-3, stderr=subprocess.PIPE) as done:
        wait_for(out / "history.jsonl", 60)
        began = time.perf_counter()
        done.send_signal(signal.SIGTERM)
        said = done.stderr.read().decode()
    assert time.perf_counter() - began < LATE
    assert done.returncode == 143, said
    assert lo.load(out).stopped == "interrupted"

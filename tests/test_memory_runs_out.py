"""Out of memory a run goes on in smaller blocks and loses nothing; and long runs take no more memory than short ones."""

import math
import os
import re
import resource
import sys
from itertools import count
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from soak import figure
from torch import nn

import latentopt as lo
from latentopt import checkpoints, rng
from latentopt.testing import ToyImages, toy_decoders

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 2147483648 bytes."
)
ERRORS = pytest.mark.parametrize("error", [CUDA, CPU, MemoryError("no room")], ids=["cuda", "cpu", "python"])
ROWS = 16
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")


class Crowded(nn.Module):
    """Pictures of at most so many rows at once, from a call on: in the forward pass or in the backward pass."""

    def __init__(self, most, error, backward=False):
        super().__init__()
        self.net, self.most, self.error, self.backward = ToyImages(4, (1, 8, 8)), most, error, backward
        self.after, self.calls, self.failures = math.inf, 0, 0

    def fail(self, n):
        if self.calls > self.after and n > self.most:
            self.failures += 1
            raise self.error

    def forward(self, z):
        self.calls += 1
        if not self.backward:
            self.fail(len(z))
            return self.net(z)
        x = self.net(z)
        if x.requires_grad:
            x.register_hook(lambda gradient: self.fail(len(gradient)))
        return x


def searched(module, after, objectives="mse", **given):
    """A search of 16 starts whose decoder runs out of memory from the so-many-th call of the search on."""
    decoder = lo.Decoder(module, 4, prior="normal", name="crowded", block_rows=64)
    target = decoder.decode(decoder.space.draw(1, rng.generator(3)))
    module.after = math.inf if after is None else module.calls + after
    starts = {"kind": "prior", "n": ROWS}
    search = {"kind": "adam", "steps": 12}
    return lo.optimize(
        decoder, **{"target": target, "objectives": objectives, "starts": starts, "search": search, **given}
    )


@ERRORS
@pytest.mark.parametrize("most", [1, 3, 8])
@pytest.mark.parametrize(
    ("backward", "after"), [(False, 0), (False, 9), (True, 9)], ids=["start", "midway", "backward"]
)
def test_a_run_out_of_memory_goes_on_in_halves_and_loses_nothing(error, most, backward, after):
    whole = searched(Crowded(64, error), None)
    module = Crowded(most, error, backward)
    found = searched(module, after)
    assert 1 <= module.failures <= math.log2(ROWS) + 1
    assert (found.latents - whole.latents).abs().max() < 1e-4
    assert torch.allclose(found.losses, whole.losses, atol=1e-6)
    assert len(found.losses) == ROWS
    assert (found.stopped, found.diverged) == ("finished", 0)
    assert [entry["step"] for entry in found.history] == [entry["step"] for entry in whole.history]
    notes = [note for note in found.notes if note.startswith("out of memory at ")]
    first = 4 if after == 0 and most < 4 else ROWS  # at the door there are four
    assert notes[0] == f"out of memory at {first} rows a block: went on with {first // 2}"
    assert len(notes) == module.failures


@ERRORS
def test_terms_that_run_out_of_memory_are_asked_in_halves_to_the_very_end(error):
    """The final evaluation too: a network that judges designs takes memory as a decoder does."""
    most, sizes = 3, []

    def heavy(c):
        sizes.append(len(c.designs))
        if len(c.designs) > most and len(sizes) > 1:
            raise error
        return c.designs.flatten(1).square().mean(1)

    found = searched(Crowded(64, error), None, objectives=heavy)
    assert torch.isfinite(found.losses).all()
    assert len(found.losses) == ROWS
    assert sum(size > most for size in sizes[1:]) <= math.log2(ROWS) + 1


@ERRORS
def test_a_door_too_narrow_for_the_terms_is_passed_by_fewer_rows(error):
    def heavy(c):
        if len(c.designs) > 1:
            raise error
        return c.designs.flatten(1).square().mean(1)

    found = searched(Crowded(64, error), None, objectives=heavy)
    assert torch.isfinite(found.losses).all()
    assert found.notes[0] == "out of memory at 4 rows a block: went on with 2"

    def heavier(c):
        raise error

    with pytest.raises(lo.OutOfMemoryError, match="^one row of decoder 'crowded' does not fit into memory"):
        searched(Crowded(64, error), None, objectives=heavier)


@ERRORS
def test_one_row_that_does_not_fit_ends_the_run_with_the_bytes_needed(error, tmp_path):
    with pytest.raises(lo.OutOfMemoryError) as caught:
        searched(Crowded(0, error), 9, out=tmp_path / "run")
    said = str(caught.value)
    assert said.startswith("one row of decoder 'crowded' does not fit into memory (")
    assert said.endswith(": use a machine with more memory or a smaller decoder")
    assert {CUDA: "2.00 GiB", CPU: "2147483648 bytes"}.get(error, "no room") in said
    assert "\n" not in said
    assert lo.OutOfMemoryError.exit_code == 2


@ERRORS
def test_terms_across_rows_that_do_not_fit_say_what_they_need(error):
    """They look at all rows at once, so there is nothing to halve."""
    calls = []

    def heavy(c):
        calls.append(1)
        if len(calls) > 1:
            raise error
        return c.designs.flatten(1).square().mean(1)

    class Across(lo.ObjectiveConfig):
        kind: Literal["across"] = "across"
        across_rows: ClassVar[bool] = True

        def build(self, decoder):
            return heavy

    with pytest.raises(
        lo.OutOfMemoryError, match="16 starts and their designs need about .* .iB, .*: give fewer starts"
    ):
        searched(Crowded(64, error), None, objectives=Across(), target=None)


def in_a_process(work):
    """What `work` says, in a process of its own, whose limits and memory are its own."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = repr(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(there, said.encode()[:4000])
        os._exit(0)
    os.close(there)
    with os.fdopen(here) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


def address_space():
    """Bytes that this process has mapped."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@needs_linux
def test_a_process_that_may_have_no_more_memory_goes_on_in_halves():
    """A true limit: each row takes 64 MiB on its way, all of them 1 GiB, and there are 400 MiB."""

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = ToyImages(4, (1, 8, 8))

        def forward(self, z):
            torch.empty(len(z), 2**26, dtype=torch.uint8)
            return self.net(z)

    def work():
        decoder = lo.Decoder(Wide(), 4, prior="normal", name="wide", block_rows=64)
        decoder.decode(torch.zeros(4, 4))
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + 400 * 2**20, resource.RLIM_INFINITY))
        target = torch.full((1, 1, 8, 8), 0.5)
        starts = {"kind": "prior", "n": ROWS}
        found = lo.optimize(decoder, target=target, starts=starts, search={"kind": "adam", "steps": 3})
        return found.stopped, len(found.losses), bool(found.losses.isfinite().all()), decoder.notes

    said = in_a_process(work)
    assert said.startswith("('finished', 16, True, ['out of memory at 16 rows a block: went on with 8'"), said
    assert said.count("out of memory") <= 5


# ---------------------------------------------------------------------- no growth

STEPS = figure(2000, 20_000)


@needs_linux
def test_memory_does_not_grow_with_the_steps_of_a_run(tmp_path):
    """A run that is kept, with a report and a checkpoint at every 50th step."""

    def work():
        used = []

        def look(report):
            with open("/proc/self/statm") as file:
                used.append((report.step, int(file.read().split()[1]) * resource.getpagesize()))

        turns = count()
        checkpoints.Checkpoints.due = lambda self: next(turns) % 50 == 0
        os.fsync = lambda number: None
        decoder = toy_decoders()["image"]
        search = {"kind": "adam", "steps": STEPS, "noise": 0.01}
        given = {"target": torch.full((1, 1, 8, 8), 0.5), "starts": {"kind": "prior", "n": 8}}
        lo.optimize(decoder, search=search, out=tmp_path / "run", on_report=look, **given)
        steps, size = np.array([one for one in used if one[0] >= STEPS // 4], dtype=float).T
        return float(np.polyfit(steps / 1000, size / 2**20, 1)[0])

    slope = in_a_process(work)
    assert re.fullmatch(r"-?[\d.e-]+", slope), slope
    assert float(slope) < 1, f"{slope} MiB more each 1,000 steps"

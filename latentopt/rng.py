"""Random numbers as functions of (seed, where they are used): no global random state is read or set."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor

# torch fills normals 16 at a time, and the last incomplete group differs: whole groups make the numbers prefix-stable.
_GROUP = 16
# Searches number their stages from 0, so the draws of the starts take a place that no stage has.
STARTS = 2**32 - 1
MAP = 2**32 - 2  # and so do the prior's draws that a map of the search is drawn over


def derive_seed(seed: int, *where: int) -> int:
    """A 63-bit seed for one place of a run, for example `derive_seed(seed, stage, step, target)`.

    NumPy's `SeedSequence` does the mixing, so that neighbouring seeds and places are unrelated. Seed 0 is a seed. Numbers
    of `where` lie in [0, 2**32).
    """
    # As a spawn key: numbers listed after the seed would run together with it, and zeros at their end would not count.
    words = np.random.SeedSequence(seed, spawn_key=where).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def generator(seed: int, *where: int, device: torch.device | str = "cpu") -> Generator:
    """A fresh generator seeded by `derive_seed(seed, *where)`."""
    return Generator(device=device).manual_seed(derive_seed(seed, *where))


def randn(n: int, dim: int, rng: Generator) -> Tensor:
    """Standard normals `(n, dim)`, float32; the first k rows of n are those of k."""
    count = math.ceil(n * dim / _GROUP) * _GROUP
    return torch.randn(count, generator=rng, device=rng.device, dtype=torch.float32)[: n * dim].view(n, dim)


def rand(n: int, dim: int, rng: Generator) -> Tensor:
    """Uniform numbers in [0, 1) `(n, dim)`, float32; the first k rows of n are those of k."""
    return torch.rand(n, dim, generator=rng, device=rng.device, dtype=torch.float32)


class RowNoise:
    """Noise of a search: a function of (seed, stage, step, row), so dropping rows shifts nothing.

    `rows` is the number of rows that the stage began with; row numbers passed later lie below it.
    """

    def __init__(self, seed: int, stage: int, rows: int) -> None:
        self.seed, self.stage, self.rows = seed, stage, rows

    def normal(self, step: int, row_id_N: Tensor, dim: int) -> Tensor:
        """Standard normals `(N, dim)` for these rows at this step, on the rows' device: all in order, or some of them."""
        noise = randn(self.rows, dim, generator(self.seed, self.stage, step, device=row_id_N.device))
        return noise if len(row_id_N) == self.rows else noise[row_id_N]

    def seed_for(self, step: int, target: int) -> int:
        """A seed for a library that draws its own numbers, for one target's batch at one step."""
        return derive_seed(self.seed, self.stage, step, target)

"""The best of many draws from the prior: the baseline beside every other search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator

from latentopt import (
    AllTargets,
    AskTell,
    AskTellOptimizers,
    Coordinates,
    Decoder,
    LatentSpace,
    OneATarget,
    Problem,
    RowNoise,
    Search,
    Told,
)
from latentopt_std.recording import SPAN, RecordedSearch

_LARGEST_BATCH = 64  # rows a target; the best so many are kept, and a copy to the host is cheap beside decoding them


class RandomSearch(RecordedSearch):
    """The best of `evaluations` points a target: the starts, then draws straight from the decoder's prior.

    It learns nothing, so what another search gains over it is that search's merit. The `batch` best points of each
    target are kept, 64 at most unless given; a last, smaller batch is left out.
    """

    kind: Literal["random"] = "random"
    needs_gradient: ClassVar[bool] = False

    evaluations: int = Field(default=1000, ge=1)
    batch: int | None = Field(default=None, ge=1)

    def build(self, decoder: Decoder) -> Search:
        batches = math.ceil(self.evaluations / _LARGEST_BATCH)
        batch = self.batch or self.evaluations // batches
        recording = self.recording(f"{decoder.name} {self.kind}")

        def make(problem: Problem, chart: Coordinates, targets: Sequence[int], rng: RowNoise) -> AskTellOptimizers:
            made = OneATarget([PriorDraws(decoder.space) for _ in targets], targets, chart.count)
            if recording is None:
                return made
            like = torch.zeros(1)
            reach = float((problem.space.mean(like).abs() + SPAN * problem.space.std(like)).max())
            return recording.of(made, problem, rng, targets, reach, chart.count)

        return AskTell(AllTargets(make), self.evaluations, batch, latent_values)


def latent_values(problem: Problem, seed: int) -> Coordinates:
    """The latent values themselves as coordinates."""
    like = torch.zeros(problem.space.dim, dtype=problem.decoder.latent_dtype, device=problem.decoder.device)
    return Coordinates(like, like + 1)


class PriorDraws:
    """Asks for draws from the prior, whatever it is told."""

    def __init__(self, space: LatentSpace) -> None:
        self.space = space

    def add(self, told: Told) -> None:
        """Nothing to learn."""

    def ask(self, n: int, seed: int) -> NDArray[np.float64]:
        """n draws `(n, D)`."""
        return self.space.draw(n, Generator().manual_seed(seed)).double().numpy()

    def tell(self, told: Told) -> None:
        """Nothing to learn."""

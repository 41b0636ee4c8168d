"""CMA-ES on every latent value: all targets' populations decoded as one batch, one decode a generation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from latentopt import (
    AllTargets,
    AskTell,
    AskTellOptimizers,
    ConfigError,
    Coordinates,
    Decoder,
    Problem,
    RowNoise,
    Search,
    Told,
)
from latentopt_std.evolution import Strategies
from latentopt_std.recording import SPAN, RecordedSearch

Floats = NDArray[np.float64]

# Where full and separable end alike within 2000 and 10,000 evaluations, on decoders of 32 to 512 dimensions whose
# directions are rotated: below it full wins (1.4e-3 against 2.7e-3 at 64), above it separable costs less.
_FULL_UP_TO = 100
# Of 1, 2 and 4, over seven sets of constraints on digits: 1 leaves some targets infeasible, 4 is slower. The fixed penalty
# in the merit is 2 to 5 % worse after 5000 evaluations, and four times worse where the constraint is in other units.
_PENALTY = 2.0
# When a population has ended: its losses over the window agree to float32's precision, it is smaller than that, it is
# degenerate (pycma's 1e14 is that of the covariance), or it has left the prior.
_LOOK = 8  # generations
_FLAT, _SMALL, _SKEW, _WIDE = 1e-6, 1e-5, 1e7, 1e4
_AHEAD = 8  # steps whose normals are drawn at once: mixing a seed costs more than 20 latents' normals do


class CMAES(RecordedSearch):
    """CMA-ES (Hansen and Ostermeier 2001) on all latent values, without gradients: `evaluations` rows a target.

    Begins at the best start, with a step of `sigma` standard deviations of the prior. `covariance`: `full` learns how
    latent values act together, `separable` (Ros and Hansen 2008) only how strongly each acts, at a cost that is linear in
    their number; `auto` is full up to 100. A population that no longer moves begins anew, twice as large, from the
    next best start or a draw from the prior (Auger and Hansen 2005), at most `restarts` times. Of a constraint's
    violation and the loss, points are ranked by the former first.

    `population` is by default 4 + 3 ln D. It is the batch of a target: a population twice as large takes two batches.
    """

    kind: Literal["cmaes"] = "cmaes"
    needs_gradient: ClassVar[bool] = False

    evaluations: int = Field(default=2000, ge=1)
    population: int | None = Field(default=None, ge=2)
    sigma: float = Field(default=0.2, gt=0)
    covariance: Literal["auto", "full", "separable"] = "auto"
    restarts: int = Field(default=9, ge=0)

    def build(self, decoder: Decoder) -> Search:
        population = self.population or 4 + math.floor(3 * math.log(decoder.dim))
        separable = self.covariance == "separable" or (self.covariance == "auto" and decoder.dim > _FULL_UP_TO)
        recording = self.recording(f"{decoder.name} {self.kind}")

        def make(problem: Problem, chart: Coordinates, targets: Sequence[int], rng: RowNoise) -> AskTellOptimizers:
            if problem.pareto:
                raise ConfigError(
                    "cmaes minimizes one number and a front has several: use lbfgs, or without gradients optuna with the "
                    "sampler nsgaii"
                )
            made = Populations(chart.count, len(targets), population, self.sigma, separable, self.restarts)
            return made if recording is None else recording.of(made, problem, rng, targets, SPAN, chart.count)

        return AskTell(AllTargets(make), self.evaluations, population)


class Populations:
    """The populations of all targets. Each step gives every target `population` points.

    A target that has begun anew k times updates after 2^k steps. Points depend on what was told and on the seed of the
    step at which their normals were drawn, which is the same however many steps there will be.
    """

    def __init__(self, count: int, targets: int, population: int, sigma: float, separable: bool, restarts: int) -> None:
        self.population, self.restarts, self.targets = population, restarts, targets
        self.strategies = Strategies(np.zeros((targets, count)), sigma, separable)
        self.numbers_T = np.arange(targets)
        self.begun_T = np.zeros(targets, dtype=int)
        self.seen: list[Told | None] = [None] * targets
        self.history: list[Told] = []
        self.waited_T = np.zeros(targets, dtype=int)
        window = 10 + math.ceil(30 * count / population)  # generations, as in Auger and Hansen 2005
        self.worst_WT, self.least_WT = np.full((2, window, targets), np.nan)
        self.generator = torch.Generator()
        self.normals: list[NDArray[np.float32]] = []  # of the next steps, the last one first
        self.seed_for: Callable[[int], int] = int  # of the last ask

    def add(self, told: Told, counts: Sequence[int]) -> None:
        """The starts: the best of them is where a target begins."""
        for target, part in enumerate(told.parts(counts)):
            if len(part.loss_n):
                before = self.seen[target]
                self.seen[target] = part if before is None else _joined([before, part])
                self._restart(target, 0)

    def ask(self, counts: Sequence[int], seed_for: Callable[[int], int]) -> Floats:
        """Points `(sum of counts, K)`. A target's points do not depend on how many targets come after it."""
        self.seed_for = seed_for
        if not self.normals:
            drawn_NK = self._normals(self.targets * _AHEAD * self.population, 0)
            drawn_TSLK = drawn_NK.reshape(self.targets, _AHEAD, self.population, -1)  # those of later targets come last
            self.normals = list(drawn_TSLK.swapaxes(0, 1)[::-1])
        points_TLK = self.strategies.points(self.normals.pop())
        if len(set(counts)) == 1:
            return points_TLK[:, : counts[0]].reshape(-1, self.strategies.count)
        return np.concatenate([points_TLK[t, :n] for t, n in enumerate(counts)])

    def _normals(self, n: int, place: int) -> NDArray[np.float32]:
        """Standard normals `(n, K)` of this step: torch makes them three times as fast as NumPy, 16 at a time."""
        self.generator.manual_seed(self.seed_for(place))
        values = torch.randn(-(-n * self.strategies.count // 16) * 16, generator=self.generator)
        return values[: n * self.strategies.count].view(n, -1).numpy()

    def tell(self, told: Told, counts: Sequence[int]) -> None:
        """Updates those targets whose population is complete."""
        if any(n != self.population for n in counts):  # the starts were fewer than a population
            self.add(told, counts)
            return
        levels = set(self.begun_T.tolist())
        if levels == {0}:  # every population is complete
            self._update(slice(None), [told])
            return
        self.history.append(told)
        self.waited_T += 1
        del self.history[: -(2 ** max(levels))]
        for level in levels:
            due_T = (self.begun_T == level) & (self.waited_T == 2**level)
            if due_T.all():
                self._update(slice(None), self.history[-(2**level) :])
            elif due_T.any():
                self._update(np.nonzero(due_T)[0], self.history[-(2**level) :])

    def _update(self, which: Any, parts: Sequence[Told]) -> None:
        """One generation of these targets, whose populations came in so many parts."""
        told = parts[0] if len(parts) == 1 else _side_by_side(parts, self.targets)
        loss_GL, merit_GL = (part.reshape(self.targets, -1)[which] for part in (told.loss_n, told.merit_n))
        violation_GL = None if told.violation_n is None else told.violation_n.reshape(self.targets, -1)[which]
        order_GL = _ranked_by(loss_GL, violation_GL).argsort(axis=1, kind="stable")
        points_GLK = told.points_nK.reshape(self.targets, order_GL.shape[1], -1)[which]
        self.strategies.update(which, points_GLK[np.arange(len(order_GL))[:, None], order_GL])
        self.waited_T[which] = 0
        generation_G, index_G = self.strategies.generation_T[which], self.numbers_T[which]
        slot_G = generation_G % len(self.least_WT)
        self.least_WT[slot_G, index_G], self.worst_WT[slot_G, index_G] = merit_GL.min(1), merit_GL.max(1)
        looked_G = generation_G % _LOOK == 0
        if looked_G.any():
            for target in index_G[looked_G][self._ended(index_G[looked_G])]:
                self.begun_T[target] += 1
                self._restart(int(target), int(self.begun_T[target]))

    def _ended(self, index: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which of these targets' distributions have nothing left to learn."""
        least_G, worst_G = self.least_WT[:, index].min(0), self.worst_WT[:, index].max(0)
        flat_G = worst_G - least_G <= _FLAT * np.abs(least_G)  # not before the window is full: it begins as NaN
        spread_G, skew_G = self.strategies.longest()[index], self.strategies.skewness()[index]
        ended_G = flat_G | (spread_G < _SMALL) | (skew_G > _SKEW) | (spread_G > _WIDE)
        return ended_G & (self.begun_T[index] < self.restarts)

    def _restart(self, target: int, number: int) -> None:
        """From the best start, or the next best, or a draw from the prior where the starts are used up."""
        seen = self.seen[target]
        if seen is not None and number < len(seen.loss_n):
            mean_K = seen.points_nK[_order(seen)[number]]
        else:
            mean_K = self._normals(1, 1 + target)[0]
        self.strategies.restart(target, mean_K)
        self.least_WT[:, target] = self.worst_WT[:, target] = np.nan


def _joined(parts: Sequence[Told]) -> Told:
    """One after the other."""
    columns = zip(*parts, strict=True)
    return Told(*(None if one[0] is None else np.concatenate(one) for one in columns))  # type: ignore[arg-type]


def _side_by_side(parts: Sequence[Told], targets: int) -> Told:
    """Parts of populations joined target by target."""

    def joined(arrays: Sequence[Floats]) -> Floats:
        rest = arrays[0].shape[1:]
        return np.concatenate([one.reshape(targets, -1, *rest) for one in arrays], axis=1).reshape(-1, *rest)

    columns = zip(*parts, strict=True)
    return Told(*(None if one[0] is None else joined(one) for one in columns))  # type: ignore[arg-type]


def _ranked_by(loss_GL: Floats, violation_GL: Floats | None) -> Floats:
    """What each target's population is ranked by `(G, L)`: the loss, plus the violation in the population's own units.

    The weight of an exact (l1) penalty must exceed the loss's slope over the violation's (Nocedal and Wright 2006,
    section 17.2), which is about the ratio of their spreads in the population; `_PENALTY` times that is taken. A point
    that failed is NaN, which sorts last.
    """
    if violation_GL is None:
        return loss_GL
    spread_G1, broken_G1 = (_spread(part) for part in (loss_GL, violation_GL))
    weight_G1 = np.where(
        broken_G1 > 0, np.where(spread_G1 > 0, spread_G1, 1) / np.where(broken_G1 > 0, broken_G1, 1), 0
    )
    return loss_GL + _PENALTY * weight_G1 * violation_GL


def _spread(values_GL: Floats) -> Floats:
    """Standard deviations `(G, 1)` of what is not NaN."""
    kept_GL = ~np.isnan(values_GL)
    count_G1 = np.maximum(kept_GL.sum(1, keepdims=True), 1)
    zeroed_GL = np.where(kept_GL, values_GL, 0)
    mean_G1 = zeroed_GL.sum(1, keepdims=True) / count_G1
    square_G1 = np.where(kept_GL, zeroed_GL - mean_G1, 0)
    return np.sqrt(np.square(square_G1).sum(1, keepdims=True) / count_G1)


def _order(told: Told) -> NDArray[np.intp]:
    """Points of one target, best first: the least violation, then the least loss; failed points come last."""
    keys = [told.loss_n] if told.violation_n is None else [told.loss_n, told.violation_n]
    return np.lexsort([np.where(told.failed_n, np.inf, key) for key in keys])

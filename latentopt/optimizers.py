"""What an ask/tell optimizer is told and asked for: one a target, or one object for all targets at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from latentopt.errors import ShapeError

if TYPE_CHECKING:
    from latentopt.asktell import Coordinates
    from latentopt.problem import Problem
    from latentopt.rng import RowNoise

Floats = NDArray[np.float64]


class Told(NamedTuple):
    """What became of n points: `points_nK`, and a figure a point `(n,)`, all on the host.

    `merit_n` is the loss plus the penalty of broken constraints: what to minimize where nothing else is known.
    `loss_n` and `violation_n` are for optimizers that treat constraints themselves; the violation is None where the
    problem has none. `objectives_nK` is each term's own loss where a front is sought, else None. A point that failed (a
    figure was NaN or infinite) has NaN in all of them; one that was pruned has infinity.
    """

    points_nK: Floats
    loss_n: Floats
    merit_n: Floats
    violation_n: Floats | None
    objectives_nK: Floats | None = None

    @property
    def failed_n(self) -> NDArray[np.bool_]:
        """Which points have no value."""
        return np.isnan(self.merit_n)

    @property
    def pruned_n(self) -> NDArray[np.bool_]:
        """Which points were given up before their value was known."""
        return np.isposinf(self.merit_n)

    def parts(self, counts: Sequence[int]) -> Iterator[Told]:
        """The same, so many points at a time."""
        end = 0
        for n in counts:
            begin, end = end, end + n
            yield Told(*(None if part is None else part[begin:end] for part in self))  # type: ignore[arg-type]


class AskTellOptimizer(Protocol):
    """Minimizes for one target, in K coordinates. `ask` and `tell` alternate; every number comes from `seed`."""

    def add(self, told: Told) -> None:
        """Takes in points that it did not ask for: the starts, before the first `ask`."""

    def ask(self, n: int, seed: int) -> Floats:
        """n new points `(n, K)`; a function of what it was told and of the seed alone."""

    def tell(self, told: Told) -> None:
        """The points of the last `ask`, in its order, and what became of them."""


@runtime_checkable
class Prunes(Protocol):
    """An `AskTellOptimizer` that gives points up early, where objectives report early (`EarlyReports`)."""

    def prune(self, rung: int, merit_n: Floats) -> NDArray[np.bool_]:
        """Which points of the last `ask` go on `(n,)`, by what their merit is at this rung.

        NaN for those that are out already. Called once a rung between `ask` and `tell`.
        """


class AskTellOptimizers(Protocol):
    """Minimizes for all T targets at once: the same, with the points of all targets in one array, target by target.

    `counts` says how many of the points are each target's. One that has something to close has a method `finish()`,
    called when the search ends, however it ends. One that prunes has `prune(rung, merit_N, counts) -> (N,)`, or None. What
    one keeps of its own in a checkpoint it gives in a method `saved()`, and a context manager `told_again(saved)` surrounds
    asking and telling it all that it was asked and told.
    """

    def add(self, told: Told, counts: Sequence[int]) -> None:
        """Takes in the starts."""

    def ask(self, counts: Sequence[int], seed_for: Callable[[int], int]) -> Floats:
        """New points `(sum of counts, K)`; `seed_for(target)` gives this step's seeds."""

    def tell(self, told: Told, counts: Sequence[int]) -> None:
        """The points of the last `ask`, and what became of them."""


MakeOne = Callable[[int, int], AskTellOptimizer]
PruneAll = Callable[[int, Floats, Sequence[int]], NDArray[np.bool_]]
"""Says which points go on, `(n,)`: asked with a rung, their merits there, and how many of them each target has."""


@dataclass(frozen=True)
class AllTargets:
    """Wraps a function `(problem, coordinates, targets, rng) -> AskTellOptimizers`, called once a run of the search."""

    make: Callable[[Problem, Coordinates, Sequence[int], RowNoise], AskTellOptimizers]


class OneATarget:
    """Optimizers for one target each as one object; `targets` are their target numbers."""

    def __init__(self, optimizers: Sequence[AskTellOptimizer], targets: Sequence[int], coordinates: int) -> None:
        self.optimizers, self.targets, self.coordinates = optimizers, targets, coordinates

    def add(self, told: Told, counts: Sequence[int]) -> None:
        for optimizer, part in zip(self.optimizers, told.parts(counts), strict=True):
            optimizer.add(part)

    def ask(self, counts: Sequence[int], seed_for: Callable[[int], int]) -> Floats:
        asked = zip(self.optimizers, counts, self.targets, strict=True)
        return np.concatenate([self._asked(one, n, seed_for(target)) for one, n, target in asked])

    def tell(self, told: Told, counts: Sequence[int]) -> None:
        for optimizer, n, part in zip(self.optimizers, counts, told.parts(counts), strict=True):
            if n:
                optimizer.tell(part)

    @property
    def prune(self) -> PruneAll | None:
        """Asks every target's optimizer which points go on at a rung `(N,)`; None where they are not of that kind."""
        return self._prune if all(isinstance(one, Prunes) for one in self.optimizers) else None

    def _prune(self, rung: int, merit_N: Floats, counts: Sequence[int]) -> NDArray[np.bool_]:
        ends = np.cumsum(counts)[:-1]
        asked = zip(self.optimizers, counts, np.split(merit_N, ends), strict=True)
        keep = [one.prune(rung, merit_n) for one, n, merit_n in asked if n and isinstance(one, Prunes)]
        return np.concatenate(keep)

    def _asked(self, optimizer: AskTellOptimizer, n: int, seed: int) -> Floats:
        if n == 0:
            return np.empty((0, self.coordinates))
        points = np.asarray(optimizer.ask(n, seed), dtype=np.float64)
        if points.shape != (n, self.coordinates):
            raise ShapeError(
                f"{type(optimizer).__name__}.ask returned points of shape {points.shape}, expected "
                f"({n}, {self.coordinates}): return one row of coordinates a point"
            )
        return points

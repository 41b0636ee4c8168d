"""How this package reads a design: the local volume fraction of the white phase, periodic, `(N, 1, *grid)` in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from latentopt import Array, Bound, Candidates, ConfigError, Decoder, Objective, ObjectiveConfig


class MaterialObjective(ObjectiveConfig):
    """Base of this package's objectives.

    `threshold`: judge the design of two pure phases, white where a value lies above it, in place of the graded one. Has no
    gradient.
    """

    extremes: ClassVar[tuple[float, float]] = (-math.inf, math.inf)  # of the number, whatever the design

    threshold: float | None = Field(default=None, gt=0, lt=1)

    def fractions(self, designs: Tensor) -> Tensor:
        """`(N, 1, *grid)` to `(N, *grid)` in [0, 1]: what lies outside counts as 0 or 1, NaN stays NaN."""
        x = designs[:, 0]
        if self.threshold is None:
            return x.clamp(0, 1)
        return (x > self.threshold).to(x.dtype) + 0 * x.detach()  # so NaN stays NaN here too

    def noted(self, objective: Callable[[Candidates], Tensor]) -> Objective:
        """The objective with a note where its goal is out of reach."""
        low, high = self.extremes
        notes = list(beyond_reach(self.goal, low, high, f"has {self.kind_name()}"))
        objective.notes = notes  # type: ignore[attr-defined]
        return objective

    def grid_of(self, decoder: Decoder, axes: tuple[int, ...] = (2, 3)) -> tuple[int, ...]:
        """The grid `(H, W)` or `(D, H, W)` of a decoder's designs. Raises `ConfigError` where they are no microstructures."""
        shape, kind = decoder.design_shape, self.kind_name()
        if len(shape) - 1 not in axes or shape[0] != 1 or min(shape) < 1 or min(shape[1:]) < 2:
            wanted = " or ".join({2: "(1, H, W)", 3: "(1, D, H, W)"}[n] for n in axes)
            raise ConfigError(
                f"objective {kind!r} reads designs of one channel, {wanted}, with 2 pixels a side or more; this decoder's "
                f"have shape {shape}: use a decoder of microstructures"
            )
        if decoder.value_range != (0.0, 1.0):
            raise ConfigError(
                f"objective {kind!r} reads values from 0 to 1 as volume fractions, this decoder's value_range is "
                f"{decoder.value_range}: map its designs to 0 to 1"
            )
        return shape[1:]


def beyond_reach(goal: object, low: float, high: float, called: str) -> Iterator[str]:
    """A sentence where a goal's numbers are beyond what is possible, `low` to `high`."""
    if not isinstance(goal, Bound):
        return
    least, most = goal.between or (goal.at_least, goal.at_most)
    least, most = (least, most) if goal.equals is None else (goal.equals, goal.equals)
    if least is not None and least > high + 1e-6 * abs(high):
        yield f"no structure {called} above {high:.4g}, and {least:g} is asked for"
    if most is not None and most < low - 1e-6 * abs(low):
        yield f"no structure {called} below {low:.4g}, and {most:g} is asked for"


def targets_of(target: Array | None, decoder: Decoder, kind: str) -> Tensor:
    """The target designs `(T, 1, *grid)` on the decoder's device. Raises `ConfigError` where there is none."""
    if target is None:
        raise ConfigError(f"objective {kind!r} needs a target: pass target= to the task or to the objective")
    return decoder.as_designs(target, f"{kind} target")

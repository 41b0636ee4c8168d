"""Goals: what to do with an objective's number."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, model_validator
from torch import Tensor

from latentopt.models import StrictModel
from latentopt.wording import suggest


class Bound(StrictModel):
    """A goal with numbers: exactly one of `equals`, `at_most`, `at_least`, `between`."""

    equals: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    between: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Bound:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a goal takes exactly one of equals, at_most, at_least, between, got {given or 'none'}")
        if self.between is not None and self.between[0] >= self.between[1]:
            raise ValueError(f"between needs low < high, got {list(self.between)}")
        return self

    def shortfall(self, value_M: Tensor) -> Tensor:
        """How far each value is from meeting the goal, `(M,)`; for `equals` signed, else at least 0."""
        if self.equals is not None:
            return value_M - self.equals
        if self.at_most is not None:
            return (value_M - self.at_most).clamp(min=0)
        if self.at_least is not None:
            return (self.at_least - value_M).clamp(min=0)
        low, high = self.between or (0.0, 0.0)
        return (low - value_M).clamp(min=0) + (value_M - high).clamp(min=0)

    @property
    def margin(self) -> float:
        """How far from a number counts as on it: a thousandth of it; of 0, 1e-4 (Liang et al. 2006, CEC benchmark).

        An equality holds within it, and searches aim at other bounds from so far inside.
        """
        numbers = [abs(n) for n in (self.equals, self.at_most, self.at_least, *(self.between or ())) if n is not None]
        margin = 1e-3 * max(numbers) or 1e-4
        return margin if self.between is None else min(margin, (self.between[1] - self.between[0]) / 4)

    def beyond(self, shortfall_M: Tensor) -> Tensor:
        """By how much a constraint is broken, `(M,)`: an equality holds within its margin, other bounds have none."""
        if self.equals is None:
            return shortfall_M
        far_M = shortfall_M.abs()
        return torch.where(far_M <= self.margin, far_M * 0, far_M)  # NaN stays NaN

    def signed(self, value_M: Tensor) -> Tensor:
        """Above 0 where the goal is missed, below where there is room, `(M,)`; for `equals` the difference."""
        if self.equals is not None:
            return value_M - self.equals
        if self.at_most is not None:
            return value_M - self.at_most
        if self.at_least is not None:
            return self.at_least - value_M
        low, high = self.between or (0.0, 0.0)
        return torch.maximum(low - value_M, value_M - high)


def _goal_words(value: Any) -> Any:
    if isinstance(value, str) and value not in ("minimize", "maximize"):
        raise ValueError(
            f"a goal is minimize, maximize, or a bound such as {{at_most: 0.2}} (equals, at_most, at_least, between), "
            f"got {value!r}{suggest(value, ('minimize', 'maximize'))}"
        )
    return value


Goal = Annotated[Literal["minimize", "maximize"] | Bound, BeforeValidator(_goal_words)]


def goal_loss(goal: Goal, value_M: Tensor) -> Tensor:
    """The loss of one objective: the value, minus the value, or the squared shortfall of a bound."""
    if isinstance(goal, Bound):
        return goal.shortfall(value_M).square()
    return value_M if goal == "minimize" else -value_M

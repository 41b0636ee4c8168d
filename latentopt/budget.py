"""What a run may cost and what it has cost so far, and the reports that say how it goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pydantic import Field

from latentopt.models import StrictModel
from latentopt.problem import Problem


class Budget(StrictModel):
    """Limits of a whole run, all targets: `rows` (forward plus backward) and `seconds`. None is no limit."""

    rows: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)


@dataclass
class Clock:
    """Rows and seconds used since the run began, against the budget."""

    problem: Problem
    budget: Budget
    started: float = field(default_factory=lambda: time.perf_counter())

    def __post_init__(self) -> None:
        rows = self.problem.decoder.rows
        self._forward, self._backward = rows.forward, rows.backward

    @property
    def forward(self) -> int:
        """Forward rows used."""
        return self.problem.decoder.rows.forward - self._forward

    @property
    def backward(self) -> int:
        """Backward rows used."""
        return self.problem.decoder.rows.backward - self._backward

    @property
    def seconds(self) -> float:
        """Seconds used."""
        return time.perf_counter() - self.started

    def allows(self, rows: int) -> bool:
        """Whether the budget still covers this many rows, and time is left."""
        if self.budget.rows is not None and self.forward + self.backward + rows > self.budget.rows:
            return False
        return self.budget.seconds is None or self.seconds < self.budget.seconds


@dataclass(frozen=True)
class Report:
    """One look at a run. Losses are best-so-far; `best_T` has one a target, `rows_N` one a row of the stage."""

    stage: int
    name: str
    step: int
    n_steps: int
    forward_rows: int
    backward_rows: int
    seconds: float
    best_T: tuple[float, ...]
    median: float
    alive: int
    rows_N: tuple[float, ...]

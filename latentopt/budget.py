"""What a run may cost and what it has cost so far, and the reports that say how it goes."""

from __future__ import annotations

import time
from dataclasses import InitVar, dataclass, field
from typing import Any

from pydantic import Field
from torch import Tensor

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

    def set(self, forward: int, backward: int, seconds: float) -> None:
        """Go on from what a checkpoint had used."""
        rows = self.problem.decoder.rows
        self._forward, self._backward = rows.forward - forward, rows.backward - backward
        self.started = time.perf_counter() - seconds

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

    @property
    def rows(self) -> int:
        """Forward plus backward rows used: what a budget counts."""
        return self.forward + self.backward

    def allows(self, rows: int, share: Budget | None = None, seconds: float = 0.0) -> bool:
        """Whether the budget (or a `share` of it, counted from the run's beginning too) covers this many rows and seconds
        more, and time is left."""
        limit = share or self.budget
        if limit.rows is not None and self.rows + rows > limit.rows:
            return False
        return limit.seconds is None or self.seconds + seconds < limit.seconds

    def covers(self, rows: int) -> bool:
        """Whether the budget covers this many rows more, whatever the time: a run whose time was up before it began goes
        ahead with its starts, as it has nothing to return without them."""
        return self.budget.rows is None or self.rows + rows <= self.budget.rows

    def share(self, part: float, reserve: int, began: tuple[int, float]) -> Budget:
        """The budget up to this part (0 to 1) of what was left of it when it `began`."""
        rows, seconds = self.budget.rows, self.budget.seconds
        if rows is not None:
            rows = began[0] + int((rows - reserve - began[0]) * part) + reserve
        if seconds is not None:
            seconds = began[1] + max(0.0, seconds - began[1]) * part
        return self.budget.model_copy(update={"rows": rows, "seconds": seconds})


@dataclass(frozen=True)
class Report:
    """One look at a run. Losses are best-so-far; `best_T` has one a target, `rows_N` one a row of the stage. A target's best
    row is that with the least loss of those that break the constraints least.

    `entrant` numbers the searches that race in one stage. `percentile_T` says how far out each target's best row lies:
    the share of the prior's draws with a smaller radius, in per cent. `terms` are the raw values of each objective and
    constraint by name, one a target, that the same rows had when they became the best; empty in older records. Both are
    NaN where no row has a finite loss.
    """

    __slots__ = ("__dict__", "_best_z_TD")  # beside the fields: records of a run (`vars`) hold plain numbers only

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
    entrant: int = 0
    percentile_T: tuple[float, ...] = ()
    terms: dict[str, tuple[float, ...]] = field(default_factory=dict)
    best_z_TD: InitVar[Tensor | None] = None

    def __post_init__(self, best_z_TD: Tensor | None) -> None:
        object.__setattr__(self, "_best_z_TD", best_z_TD)

    @property
    def rows(self) -> int:
        """Forward plus backward rows used: what a budget counts."""
        return self.forward_rows + self.backward_rows

    @property
    def best_latents(self) -> Tensor | None:
        """The latent of each target's best row `(T, D)`, on the run's device; None in a report that was read from a file."""
        return getattr(self, "_best_z_TD", None)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__  # copies are records too

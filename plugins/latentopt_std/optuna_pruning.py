"""Optuna's pruners on objectives that report early: which there are, whether a problem is for them, and their steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from latentopt import ConfigError, Problem, early_rungs
from latentopt_std.optuna_options import check_options

if TYPE_CHECKING:  # importing Optuna takes a while: only runs that use it pay
    import optuna

PrunerName = Literal["none", "median", "successive_halving", "hyperband"]

_CLASSES: dict[str, str] = {
    "median": "MedianPruner",
    "successive_halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
}
# Pruners that take a step's number for what it costs, and let one in so many go on to the next rung.
_FACTORS = {"successive_halving": 4, "hyperband": 3}  # Optuna's own
_REFUSED = dict.fromkeys(("min_resource", "max_resource"), "the objective's rungs say it")


@dataclass(frozen=True)
class Rungs:
    """A pruner and the steps at which it is told of an objective's `count` rungs."""

    pruner: PrunerName
    options: Mapping[str, Any]
    count: int

    def step(self, rung: int) -> int:
        """Optuna's number of a rung: powers of the reduction factor, which are the rungs of its own, or plain numbers."""
        factor = self._factor
        return rung if factor is None else factor**rung

    @property
    def _factor(self) -> int | None:
        own = _FACTORS.get(self.pruner)
        return None if own is None else int(self.options.get("reduction_factor", own))

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """A new pruner. Of `hyperband` the last bracket prunes nothing: its rung would be the full value.

        Raises `ValueError` for a reduction factor below 2.
        """
        import optuna

        given = dict(self.options)
        if self._factor is not None:
            if self._factor < 2:
                raise ValueError(f"reduction_factor is {self._factor}, expected at least 2")
            given["min_resource"] = 1
        if self.pruner == "hyperband":
            given["max_resource"] = self.step(self.count) + 1  # it takes a logarithm, and rounds down
        made: optuna.pruners.BasePruner = getattr(optuna.pruners, _CLASSES[self.pruner])(**given)
        return made


def check_pruner(pruner: PrunerName, options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for an option that the pruner does not have, or a value that it refuses."""
    if pruner == "none":
        if options:
            raise ConfigError(f"pruner_options belong to a pruner: name it, one of {', '.join(_CLASSES)}")
        return
    import optuna

    cls = getattr(optuna.pruners, _CLASSES[pruner])
    check_options("pruner", pruner, cls, options, Rungs(pruner, options, 1).make_pruner, _REFUSED)


def check_early(pruner: PrunerName, problem: Problem) -> None:
    """Raise `ConfigError` where nothing reports early, or where there is not one number to compare."""
    if problem.pareto:
        raise ConfigError(f"pruner {pruner!r} compares one number and a front has several: leave out pruner or pareto")
    if not early_rungs(problem):
        names = ", ".join(repr(term.name) for term in (*problem.terms, *problem.constraints))
        raise ConfigError(
            f"pruner {pruner!r} needs an objective that reports early, and none of {names} does: give it rungs and "
            "early(candidates, rung), or leave pruner out"
        )

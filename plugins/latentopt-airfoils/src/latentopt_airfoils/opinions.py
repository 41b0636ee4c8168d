"""What a found airfoil is worth: beside the best real one, in a second network's opinion, and how far from any real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentopt import Bound, ConfigError, ObjectiveConfig, Result
from latentopt_airfoils import published
from latentopt_airfoils.aero import Aero
from latentopt_airfoils.geometry import AirfoilShape, DistanceToReal
from latentopt_airfoils.known import nearest_real, spacing
from latentopt_airfoils.neuralfoil import Size

_KINDS: dict[str, type[Aero | AirfoilShape | DistanceToReal]] = {
    "aero": Aero,
    "airfoil_shape": AirfoilShape,
    "distance_to_real": DistanceToReal,
}
Measured = Aero | AirfoilShape | DistanceToReal


@dataclass(frozen=True)
class Opinion:
    """Of one found airfoil: `value` of the `quantity` that the run was after, and of the best real airfoil `real_value`.

    `second` and `real_second` are the same in the opinion of another network, the `judge` (the real one being its own best
    choice); `confidence` is the first network's. `nearest` is the real airfoil nearest by its outline, at `distance` chords
    (root mean square); `ordinary` is the 95th percentile of how far real ones are from their own nearest. `feasible` says
    whether the run's constraints hold, `inside` whether the latent is inside what the decoder knows, in `realism`'s words.
    The best real airfoil is the best of those that keep the run's constraints of this package; None where none does.
    """

    quantity: str
    value: float
    real_name: str | None
    real_value: float
    network: str
    judge: str
    second: float
    real_second: float
    confidence: float
    nearest: str
    distance: float
    ordinary: float
    feasible: bool
    inside: bool
    realism: str

    def __str__(self) -> str:
        best = (
            "no real airfoil keeps the constraints"
            if self.real_name is None
            else f"the best real airfoil, {self.real_name}, has {self.real_value:.4g}"
        )
        keeps = "" if self.feasible else " It breaks the run's constraints."
        farther = "no farther than" if self.distance <= self.ordinary else "farther than"
        return (
            f"{self.quantity} {self.value:.4g}, where {best}: in the opinion of a surrogate, NeuralFoil {self.network}, "
            f"at confidence {self.confidence:.2f}, and of no wind tunnel.{keeps} Its network {self.judge} says "
            f"{self.second:.4g} (best real: {self.real_second:.4g}). The nearest real airfoil is {self.nearest}, "
            f"{self.distance:.4f} chords away, {farther} 95 % of real ones are from their own nearest "
            f"({self.ordinary:.4f}). It lies {self.realism}."
        )


def opinion(result: Result, *, judge: Size = "xxlarge", row: int = 0) -> Opinion:
    """What one row of a result is worth; row 0 is the best.

    Raises `ConfigError` where the run minimized or maximized no `aero`, or has no such row.
    """
    if not 0 <= row < len(result):
        raise ConfigError(f"this result has {len(result)} rows, so none of index {row}: give 0 to {len(result) - 1}")
    task = result.config.get("task", {})
    aims = [one for one in _configs(task.get("objectives")) if isinstance(one, Aero) and isinstance(one.goal, str)]
    aims = [one for one in aims if one.weight > 0]
    if not aims:
        raise ConfigError(
            "this run neither minimized nor maximized an objective of kind 'aero', so there is nothing to compare"
        )
    aim = aims[0]
    constraints = _configs(task.get("constraints"))
    second = aim.model_copy(update={"network": judge})
    sure = aim.model_copy(update={"quantity": "confidence"})
    design = result.designs[row : row + 1].float()
    name, value = best_real(aim, constraints)
    other = best_real(second, [_by(one, judge) for one in constraints])[1]
    near = nearest_real(design)
    return Opinion(
        quantity=aim.quantity,
        value=float(aim.of(design)),
        real_name=name,
        real_value=value,
        network=aim.network,
        judge=judge,
        second=float(second.of(design)),
        real_second=other,
        confidence=float(sure.of(design)),
        nearest=near.names[0],
        distance=float(near.distance[0]),
        ordinary=float(torch.quantile(spacing(), 0.95)),
        feasible=bool(result.feasible[row]),
        inside=bool(result.realism.inside[row]),
        realism=result.realism.sentence(row),
    )


def best_real(aim: Aero, constraints: list[Measured]) -> tuple[str | None, float]:
    """The name and the value of the real airfoil that serves an objective best under constraints; None and NaN for none."""
    known = published.real()
    with torch.no_grad():
        value = aim.of(known.numbers)
        kept = torch.isfinite(value)
        for one in constraints:
            kept &= _holds(one, one.of(known.numbers))
    if not bool(kept.any()):
        return None, float("nan")
    loss = torch.where(kept, -value if aim.goal == "maximize" else value, torch.inf)
    index = int(loss.argmin())
    return known.names[index], float(value[index])


def _configs(found: Any) -> list[Measured]:
    """The configs of this package among a run's objectives or constraints, as plain data."""
    return [_KINDS[one["kind"]].model_validate(one) for one in found or [] if one.get("kind") in _KINDS]


def _by(config: Measured, judge: Size) -> Measured:
    return config.model_copy(update={"network": judge}) if isinstance(config, Aero) else config


def _holds(config: ObjectiveConfig, value: Tensor) -> Tensor:
    goal = config.goal
    assert isinstance(goal, Bound)  # a constraint has no other
    return goal.beyond(goal.shortfall(value)) == 0

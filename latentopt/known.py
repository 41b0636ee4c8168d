"""What a run's objectives know beforehand, and how what it found compares: with bounds, and with sets of known designs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from latentopt.arrayfield import Array
from latentopt.coderef import named_code
from latentopt.errors import ConfigError, LatentoptError
from latentopt.goals import Bound, goal_loss
from latentopt.interfaces import ObjectiveConfig, Reference
from latentopt.ranking import hypervolume
from latentopt.registry import installed
from latentopt.result import Result

# A folder that is not there: what a run's config names by path is not opened for a report.
_NOWHERE = Path("/nonexistent/latentopt")
_ROWS = 1000  # known designs that are set beside a front at once


@dataclass(frozen=True)
class Known:
    """The best design of a set that is known beforehand, by the run's own loss: of how many, its figures, and its terms.

    `row` is its place in the set, `design` what it is called there; empty where the set's designs have no names.
    Of a front, which has no best, `hypervolume` is what the set's feasible designs dominate up to the run's reference point,
    to compare with the result's; the design is then that with the least sum of losses. `feasible` is how many keep the
    constraints, and `ahead` how many of those no member of the result's front dominates.
    """

    name: str
    count: int
    loss: float
    violation: float
    terms: dict[str, float]
    row: int = 0
    design: str = ""
    hypervolume: float | None = None
    feasible: int | None = None
    ahead: int | None = None


@dataclass(frozen=True)
class KnownSet:
    """Known designs by a run's own losses of each objective `(P, K)`, violations `(P,)`, and terms `(P,)`."""

    name: str
    losses_PK: Tensor
    violation_P: Tensor
    terms: dict[str, Tensor]

    def feasible(self) -> Tensor:
        """Rows of the designs that break no constraint, and whose losses are finite."""
        finite_P = torch.isfinite(self.losses_PK).all(1) & torch.isfinite(self.violation_P)
        return torch.nonzero(finite_P & (self.violation_P <= 0))[:, 0]


@dataclass(frozen=True)
class Between:
    """One term of the best design found, and each bound at that design's place on the axis."""

    term: str
    value: float
    axis: str
    at: float
    bounds: dict[str, float]

    @property
    def beyond(self) -> list[str]:
        """The bounds called "... upper" or "... lower" that the value lies beyond by more than a thousandth."""
        found = []
        for name, bound in self.bounds.items():
            far = self.value - bound if name.endswith(" upper") else bound - self.value
            if name.endswith((" upper", " lower")) and far > 1e-3 * abs(bound):
                found.append(name)
        return found


def references(result: Result, target: int = 0) -> dict[str, Reference]:
    """What the objectives of a run say is known of their values, by term and measure; of those that say something.

    The designs asked about are the result's. Only objectives of installed plugins are asked, and none that names code or a
    file: a received run opens and imports nothing.
    """
    found = {}
    for name, config in _configs(result, [target], "reference").items():
        reference = config.reference(result.designs)
        if reference is not None:
            found[name] = reference
    return found


def of_target(result: Result, target: int = 0) -> dict[str, float]:
    """What a run's target itself has, by term and measure; of the objectives that can tell without a decoder.

    Only objectives of installed plugins are asked, and none that names code or a file. Nothing where there is no such target.
    """
    if result.targets is None or target >= len(result.targets):
        return {}
    design, found = result.targets[target : target + 1].float(), {}
    for name, config in _configs(result, [target], "of").items():
        with torch.no_grad():
            value = config.of(design)
        if value is not None:
            found[name] = float(value[0])
    return found


def strangers(result: Result) -> list[str]:
    """The kinds of a run's decoder, objectives, constraints and measures that no plugin adds here: they cannot be asked."""
    task = result.config.get("task")
    told = [(task if isinstance(task, dict) else {}).get(name) for name in ("objectives", "constraints", "measures")]
    parts = {"decoders": [result.config.get("decoder")]}
    parts["objectives"] = [one for some in told for one in (some if isinstance(some, list) else [some])]
    kinds = {
        str(one["kind"]): slot
        for slot, entries in parts.items()
        for one in entries
        if isinstance(one, dict) and isinstance(one.get("kind"), str) and one["kind"] not in ("callable", "python")
    }
    return [kind for kind, slot in kinds.items() if kind not in installed().kinds(slot)]


def drawing(result: Result, targets: Sequence[int]) -> dict[str, ObjectiveConfig]:
    """The objectives of a run that have pictures of designs, by term and measure, for these of its targets.

    As with references, only those of installed plugins, and none that names code or a file.
    """
    return _configs(result, targets, "pictures")


def known_sets(result: Result, target: int = 0, given: dict[str, Reference] | None = None) -> list[KnownSet]:
    """The sets of known designs that every objective and constraint of the run knows the values of."""
    configs = {name: one for name, one in _configs(result, [target], "reference").items() if name in result.terms}
    if len(configs) < len(result.terms) or not configs:
        return []
    given = references(result, target) if given is None else given
    sets: list[dict[str, tuple[Tensor, Tensor]]] = [
        dict(given[name].known) if name in given else {} for name in configs
    ]
    asked = result.asked()
    found = []
    for name in (one for one in sets[0] if all(one in other for other in sets)):
        values = [one[name][1].double() for one in sets]
        if len({len(value_P) for value_P in values}) > 1 or not len(values[0]):
            continue
        losses, violation_P = list[Tensor](), torch.zeros_like(values[0])
        for (term, config), value_P in zip(configs.items(), values, strict=True):
            if not asked[term].constraint:
                losses.append(config.weight * goal_loss(config.goal, value_P))
            else:
                goal = cast(Bound, config.goal)
                violation_P = violation_P + goal.beyond(goal.shortfall(value_P))
        losses_PK = torch.stack(losses, 1) if losses else values[0].new_zeros(len(values[0]), 0)
        found.append(KnownSet(name, losses_PK, violation_P, dict(zip(configs, values, strict=True))))
    return found


def standings(result: Result, target: int = 0, given: dict[str, Reference] | None = None) -> list[Known]:
    """The best of each set of known designs that every objective and constraint of the run knows the values of.

    Feasible designs come first, as in a search. Of a front, each has the hypervolume of its set. `given` is what
    `references` found, where that is at hand. Raises `ConfigError` for a target that the result has no rows of.
    """
    if not bool((result.target_index == target).any()):
        raise ConfigError(f"target {target} has no rows: targets go from 0 to {result.n_targets - 1}")
    given = references(result, target) if given is None else given
    found = []
    for one in known_sets(result, target, given):
        loss_P, violation_P = one.losses_PK.sum(1), one.violation_P
        sound_P = torch.isfinite(loss_P) & torch.isfinite(violation_P)
        if not bool(sound_P.any()):
            continue
        least = violation_P[sound_P].min()
        row = int(torch.where(sound_P & (violation_P <= least), loss_P, torch.inf).argmin())
        terms = {term: float(value_P[row]) for term, value_P in one.terms.items()}
        front = {} if result.reference is None else _beside_front(one, result, target)
        called = next((given[term].names[one.name] for term in one.terms if one.name in given[term].names), ())
        design = str(called[row]) if len(called) == len(loss_P) else ""
        found.append(
            Known(one.name, len(loss_P), float(loss_P[row]), float(violation_P[row]), terms, row, design, **front)
        )
    return found


def _beside_front(one: KnownSet, result: Result, target: int) -> dict[str, Any]:
    """What a set is beside the front that a run found: its hypervolume, how many are feasible, how many not dominated."""
    members_NK, rows_PK, ahead = own_losses(result, target), one.losses_PK[one.feasible()], 0
    assert result.reference is not None
    assert members_NK is not None  # a set is known where every objective's config can be read
    for part in rows_PK.split(_ROWS):
        pairs = part[:, None], members_NK[None]
        ahead += int((~((pairs[1] <= pairs[0]).all(2) & (pairs[1] < pairs[0]).any(2)).any(1)).sum())
    volume = hypervolume(rows_PK, result.reference[target])
    return {"hypervolume": volume, "feasible": len(rows_PK), "ahead": ahead}


def _aims(result: Result) -> list[ObjectiveConfig] | None:
    """The goal and the weight of each objective of a front, by the run's config; None where it does not say them."""
    asked, found = result.asked(), []
    for name in result.objectives:
        plain = asked[name].plain if name in asked else None
        if not isinstance(plain, dict):
            return None
        try:
            told = {key: plain[key] for key in ("goal", "weight") if key in plain}
            found.append(ObjectiveConfig.model_validate(told))
        except ValidationError:  # of a received run
            return None
    return found


def own_losses(result: Result, target: int = 0) -> Tensor | None:
    """What each objective of a front makes of its members `(N, K)`, weighted; float64. None where the config does not say."""
    members, aims = result.front(target), _aims(result)
    if aims is None:
        return None
    values = [members.terms[name].double().cpu() for name in result.objectives]
    return torch.stack(
        [aim.weight * goal_loss(aim.goal, value_N) for aim, value_N in zip(aims, values, strict=True)], 1
    )


def front_volumes(results: Sequence[Result]) -> list[float] | None:
    """The hypervolumes of the fronts of several runs up to one point: the worst of each objective in any of their own.

    None where one has no front, or several targets, or where they trade off other objectives, goals or weights.
    """
    corners = [one.reference[0].double() for one in results if one.reference is not None and one.n_targets == 1]
    if len(corners) < len(results):
        return None
    first, *others = [(one.objectives, _aims(one)) for one in results]
    losses = [own_losses(one) for one in results]
    if any(other != first for other in others) or any(one is None for one in losses):
        return None
    corner = torch.stack(corners).amax(0)
    return [hypervolume(one, corner) for one in losses if one is not None]


def between(result: Result, row: int, given: dict[str, Reference]) -> list[Between]:
    """One row's terms and measures beside the bounds at its own place on the axis; of those that have bounds."""
    found = []
    for name, reference in given.items():
        if not reference.bounds:
            continue
        at = float(reference.of_N[row])
        value = float({**result.terms, **result.measures}[name][row])
        bounds = {each: _on(curve, at) for each, curve in reference.bounds.items()}
        found.append(Between(name, value, reference.axis, at, bounds))
    return found


def _on(curve: tuple[Tensor, Tensor], at: float) -> float:
    axis_K, value_K = (one.double().cpu().numpy() for one in curve)
    return float(np.interp(at, axis_K, value_K))


# ---------------------------------------------------------------------- the objectives of a run


def _configs(result: Result, targets: Sequence[int], method: str) -> dict[str, ObjectiveConfig]:
    """The run's objectives, constraints and measures by the names of their values; of those that have this method."""
    plain = {name: one.plain for name, one in result.asked().items()}
    measures = (result.config.get("task") or {}).get("measures")
    plain |= zip(result.measures, measures if isinstance(measures, list) else [], strict=False)
    return {name: config for name, one in plain.items() for config in _built(one, result, targets, method)}


def _built(plain: Any, result: Result, targets: Sequence[int], method: str) -> Iterator[ObjectiveConfig]:
    kind = plain.get("kind") if isinstance(plain, dict) else None
    try:
        cls = installed().kinds("objectives").get(kind) if isinstance(kind, str) else None
        if cls is None or not issubclass(cls, ObjectiveConfig):
            return
        if getattr(cls, method) is getattr(ObjectiveConfig, method):
            return
        values = _with_arrays(plain, result.arrays)
        config = cls.model_validate(values, context={"folder": _NOWHERE, "within": _NOWHERE})
        if named_code(config):
            return
    except (LatentoptError, ValidationError):
        return
    aimed = result.targets is not None and max(targets) < len(result.targets)
    yield config.with_target(Array(result.targets[list(targets)])) if aimed else config  # type: ignore[index]


def _with_arrays(value: Any, arrays: dict[str, Tensor]) -> Any:
    """The same plain data with the numbers that were kept beside it in their places."""
    if isinstance(value, dict):
        if value.get("key") in arrays and value.get("stored"):
            return arrays[value["key"]]
        return {key: _with_arrays(one, arrays) for key, one in value.items()}
    return [_with_arrays(one, arrays) for one in value] if isinstance(value, list) else value

"""The part of a report that sets what was found beside what is known: bounds that theory gives, and known designs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from latentopt import known
from latentopt.interfaces import Reference
from latentopt.plotbox import Axis, Chart, dot, dots, known_look, line, number
from latentopt.result import Result

_MOST_KNOWN, _MOST_ON_CURVE = 1500, 120  # known designs and points of a curve that are drawn
_CURVES = ("run run2", "run run3", "run run5", "run run4")


def section(result: Result, points: dict[int, int]) -> dict[str, Any] | None:
    """Charts, comparisons and bounds of a run whose objectives say what is known; None where none does.

    `points`: the index of each shown row's design. A plugin's reference that fails must not cost the report: it says so.
    """
    found: dict[str, Any] = {"charts": [], "sets": [], "between": [], "target": {}, "error": ""}
    best = int(result.firsts()[0])
    found |= {"loss": float(result.losses[best]), "violation": float(result.violations[best])}
    found["volume"] = None if result.hypervolumes is None else float(result.hypervolumes[0])
    try:
        given = known.references(result)
        if not given:
            return None
        values = {**result.terms, **result.measures}
        sets = known.standings(result, given=given) if result.n_targets == 1 else []
        told = {one.name: one.row for one in sets}
        return found | {
            "charts": [_chart(result, name, values[name], one, points, told) for name, one in given.items()],
            "sets": sets,
            "between": known.between(result, best, given) if result.reference is None and result.n_targets == 1 else [],
            "target": known.of_target(result) if result.n_targets == 1 else {},
        }
    except Exception as error:  # a plugin's code
        return found | {"error": f"What is known beforehand could not be shown ({type(error).__name__}: {error})"}


def _chart(
    result: Result, name: str, value_N: Tensor, given: Reference, points: dict[int, int], told: dict[str, int]
) -> Chart:
    """One value over its axis: known designs, those of them that are `told` of by name, bounds, and what was found."""
    sets = {each: _thinned(*pair, told.get(each, 0)) for each, pair in given.known.items()}
    curves = {each: _on_curve(*pair) for each, pair in given.bounds.items()}
    found = [(row, float(given.of_N[row]), float(value_N[row])) for row in points]
    every = [*(pair for pairs in (*sets.values(), *curves.values()) for pair in pairs), *((x, y) for _, x, y in found)]
    across, up = Axis.over([x for x, _ in every]), Axis.over([y for _, y in every], down=True)

    def place(x: float, y: float) -> tuple[float, float]:
        return across.place(x), up.place(y)

    marks, legend = [], []
    for index, (each, pairs) in enumerate(sets.items()):
        marks.append(dots([place(x, y) for x, y in pairs if math.isfinite(x + y)], known_look(index)))
        legend.append((known_look(index), each))
    looks = {stem: _CURVES[index % len(_CURVES)] for index, stem in enumerate(dict.fromkeys(map(_stem, curves)))}
    for each, pairs in curves.items():
        marks.append(line([place(x, y) for x, y in pairs if math.isfinite(x + y)], looks[_stem(each)]))
    legend += [(look, stem) for stem, look in looks.items()]
    best = set(result.firsts().tolist()) if result.reference is None else set()
    for row, x, y in sorted(found, key=lambda one: (one[0] in best, -one[0])):
        look = "top" if row in best else "end" if bool(result.realism.inside[row]) else "end out"
        marks += [dot(*place(x, y), look, points[row])] if math.isfinite(x + y) else []
    legend = [*([("top", "best")] if best else []), ("end", "found"), *legend]
    return Chart(
        label=f"{name} over {given.axis}: {len(found)} designs found, beside what is known",
        marks=Markup("").join(marks),
        x_label=given.axis,
        y_label=name,
        x_ticks=across.ticks(4),
        y_ticks=up.ticks(5),
        aspect="4 / 3",
        legend=legend,
        words="Touch a point, or point at it, to see its design.",
    )


def _stem(name: str) -> str:
    """What a lower and an upper bound have in common, which are drawn alike."""
    for end in (" lower", " upper"):
        if name.endswith(end):
            return f"{name.removesuffix(end)} bounds"
    return name


def behind(result: Result, target: int) -> dict[str, dict[str, Tensor]]:
    """Terms of known designs that keep the constraints, by set, for the chart of a front: some, and their own front."""
    import moocore

    found = {}
    try:
        for one in known.known_sets(result, target):
            rows = one.feasible()
            if len(rows):
                some = torch.zeros(len(rows), dtype=torch.bool)
                some[:: math.ceil(len(rows) / _MOST_KNOWN)] = True
                some |= torch.from_numpy(moocore.is_nondominated(one.losses_PK[rows].numpy()))
                found[one.name] = {name: value_P[rows[some]] for name, value_P in one.terms.items()}
    except Exception:  # a plugin's code: the section on what is known says what is wrong with it
        return {}
    return found


def _thinned(x_P: Tensor, y_P: Tensor, row: int) -> list[tuple[float, float]]:
    """Some of many known designs, this row among them."""
    step = max(1, math.ceil(len(x_P) / _MOST_KNOWN))
    rows = torch.arange(row % step, len(x_P), step)
    return [(float(x), float(y)) for x, y in zip(x_P[rows], y_P[rows], strict=True)]


def _on_curve(x_K: Tensor, y_K: Tensor) -> list[tuple[float, float]]:
    rows = torch.linspace(0, len(x_K) - 1, min(len(x_K), _MOST_ON_CURVE)).round().long()
    return [(float(x), float(y)) for x, y in zip(x_K[rows], y_K[rows], strict=True)]


def sentences(result: Result) -> list[str]:
    """How the best of a run compares with what is known, for a terminal: a sentence a set, and one a bounded value."""
    if result.n_targets != 1:
        return []
    try:
        return list(_sentences(result))
    except Exception as error:  # a plugin's code, and the run is over: what it found is shown all the same
        return [f"what is known beforehand could not be told ({type(error).__name__}: {error})"]


def _sentences(result: Result) -> Iterator[str]:
    given, target = known.references(result), known.of_target(result)
    if target:
        yield f"the target has {', '.join(f'{name} {number(value)}' for name, value in target.items())}"
    best = int(result.firsts()[0])
    for one in known.standings(result, given=given):
        if one.hypervolume is not None:
            kept = f"the {one.feasible:,} that keep the constraints" if result.constrained else f"{one.feasible:,}"
            yield (
                f"{one.name} have the hypervolume {number(one.hypervolume)}; "
                f"{one.ahead:,} of {kept} are not dominated by the front found"
            )
            continue
        broken = f", and breaks the constraints by {number(one.violation)}" if one.violation > 0 else ""
        called = f", {one.design}," if one.design else ""
        yield f"the best of {one.name}{called} has the loss {number(one.loss)}{broken}"
    for each in known.between(result, best, given) if result.reference is None else []:
        bounds = ", ".join(f"{name} {number(value)}" for name, value in each.bounds.items())
        beyond = f"; it lies beyond {' and '.join(each.beyond)}" if each.beyond else ""
        yield f"{each.term} {number(each.value)} at {each.axis} {number(each.at)}: {bounds}{beyond}"

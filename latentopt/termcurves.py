"""How each term of the best rows developed: its values over the rows spent, its goal in words, its bounds as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from latentopt.plotbox import number
from latentopt.result import Result

_BOUNDS = {"at_most": "at most", "at_least": "at least", "between": "between", "equals": "equal to"}


class Part(NamedTuple):
    """One search of one stage: the rows spent at its reports, and the values of each target at them."""

    rows_R: list[int]
    values_TR: list[list[float]]


@dataclass(frozen=True)
class TermCurve:
    """One objective or constraint: its name, its goal in words, the numbers of a bound, and its values, part by part."""

    name: str
    goal: str
    bounds: tuple[float, ...]
    parts: list[Part]

    def values(self) -> list[float]:
        """All finite values, and the bounds where they lie near enough to leave room for the curve."""
        found = [v for part in self.parts for values in part.values_TR for v in values if math.isfinite(v)]
        low, high = min(found, default=0.0), max(found, default=0.0)
        room = 4 * (high - low) or math.inf
        return found + [bound for bound in self.bounds if low - room <= bound <= high + room]


def stages(history: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The reports of each search of each stage, in order."""
    keys = sorted({(entry["stage"], entry.get("entrant", 0)) for entry in history})
    return [[one for one in history if (one["stage"], one.get("entrant", 0)) == key] for key in keys]


def rows_at(entry: dict[str, Any]) -> int:
    """Rows spent up to a report: what a budget counts."""
    return int(entry["forward_rows"] + entry["backward_rows"])


def term_curves(result: Result, most: int = 24) -> list[TermCurve]:
    """A curve a term, of the first `most` targets. None where there is one term alone, which the loss shows, or where the
    reports hold no terms: those of earlier versions."""
    names = list(result.terms)
    if len(names) < 2:
        return []
    found = []
    for name, (words, bounds) in zip(names, _goals(result), strict=True):
        parts = []
        for entries in stages(result.history):
            held = [one for one in entries if name in one.get("terms", {})]
            columns = zip(*(one["terms"][name][:most] for one in held), strict=True)
            parts.append(Part([rows_at(one) for one in held], [list(column) for column in columns]))
        if any(part.rows_R for part in parts):
            found.append(TermCurve(name, words, bounds, [part for part in parts if part.rows_R]))
    return found


def _goals(result: Result) -> list[tuple[str, tuple[float, ...]]]:
    """Each term's goal in words and numbers, by the run's config; nothing where that does not say."""
    asked = result.asked()
    if not asked:
        return [("", ())] * len(result.terms)
    return [_goal(one.plain, "must be " if one.constraint else "") for one in asked.values()]


def _goal(plain: Any, must: str) -> tuple[str, tuple[float, ...]]:
    goal = plain.get("goal", "minimize") if isinstance(plain, dict) else ""
    return (must + bound_words(goal) or str(goal), _numbers(goal)) if isinstance(goal, dict) else (str(goal), ())


def bound_words(goal: Any) -> str:
    """A bound of a config in words: `at most 0.2`, `between 1 and 2`."""
    parts = goal.items() if isinstance(goal, dict) else []
    return " and ".join(f"{_BOUNDS.get(key, key)} {_spoken(value)}" for key, value in parts if value is not None)


def _numbers(goal: dict[str, Any]) -> tuple[float, ...]:
    values = [goal.get(key) for key in _BOUNDS]
    flat = [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
    return tuple(float(one) for one in flat if isinstance(one, int | float) and math.isfinite(one))


def _spoken(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " and ".join(_spoken(one) for one in value)
    return number(value) if isinstance(value, int | float) else str(value)

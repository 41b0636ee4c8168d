"""The charts of a report: how every start converged, where the search went, fronts, and runs on one budget axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from latentopt.maps import LatentMap, latent_map
from latentopt.plotbox import SIDE, Axis, Chart, dot, dots, known_look, lanes, line, number
from latentopt.result import Result
from latentopt.termcurves import TermCurve, rows_at, stages

MOST_POINTS = 240  # found rows that show their design, spread over all of them
_MOST_LINES, _MOST_REPORTS, _MOST_PANELS = 96, 160, 6
_COLOURS = 7
_CHARACTER, _NARROW = 7.2, 285.0  # pixels of a letter of a stage's name, and of the plot on a phone
_FEASIBLE_FIRST = "Constraints come first: a row that breaks them less replaces one of a lower loss."
SPENT = "rows decoded, plus gradients taken"


@dataclass(frozen=True)
class Spent:
    """One search of one stage: its name, what it spent, and its best losses a target when it ended."""

    name: str
    steps: int
    rows: int
    seconds: float
    best: list[float]


def spent(history: Sequence[dict[str, Any]]) -> list[Spent]:
    """What each search of each stage spent; the first one's includes what went before it: screening, encoding, starts."""
    found, rows, seconds = [], 0, 0.0
    for entries in stages(history):
        last = entries[-1]
        used = rows_at(last) - rows
        found.append(Spent(last["name"], last["step"], used, last["seconds"] - seconds, last["best_T"]))
        rows, seconds = rows_at(last), last["seconds"]
    return found


# ---------------------------------------------------------------------- convergence


def convergence(result: Result) -> Chart | None:
    """Best-so-far losses of every row over the rows spent, the best of each target in front; None without a history."""
    history = result.history
    if not history:
        return None
    parts = [_thinned(entries) for entries in stages(history)]
    losses = [loss for entries in parts for entry in entries for loss in (*entry["rows_N"], *entry["best_T"])]
    across, up = (
        _over_rows([[rows_at(entry) for entry in entries] for entries in parts]),
        Axis.over(losses, log=True, down=True),
    )
    marks, front, begins = [], [], []
    for index, entries in enumerate(parts):
        x = [across.place(rows_at(entry)) for entry in entries]
        begins.append(x[0])
        if index:
            marks.append(line([(x[0], 0), (x[0], SIDE)], "stage"))
        every_row = list(zip(*(entry["rows_N"] for entry in entries), strict=True))
        some = every_row[:: max(1, math.ceil(len(every_row) / _MOST_LINES))]
        marks += [line(_seen(x, row, up), "row") for row in some]
        front += [
            line(_seen(x, best, up), "best") for best in zip(*(entry["best_T"] for entry in entries), strict=True)
        ]
    names = [_short(entries[0]["name"]) for entries in parts]
    placed = lanes([one * _NARROW / SIDE for one in begins], [_CHARACTER * len(name) + 14 for name in names], _NARROW)
    targets = len(history[0]["best_T"])
    return Chart(
        label=f"Best loss so far over rows spent: from {number(_least(history[0]))} to {number(_least(history[-1]))}",
        marks=Markup("").join([*marks, *front]),
        x_label=SPENT,
        y_label="loss",
        x_ticks=across.ticks(4),
        y_ticks=up.ticks(5),
        legend=[("best", "best of each target" if targets > 1 else "best"), ("row", "each start, its best so far")],
        words=_FEASIBLE_FIRST if result.constrained else "",
        stages=[
            _label(100 * begin / SIDE, 100 * at / _NARROW, lane, name)
            for begin, (at, lane), name in zip(begins, placed, names, strict=True)
        ],
    )


def _over_rows(parts: Sequence[Sequence[int]]) -> Axis:
    """The axis of the rows spent at the reports of each part."""
    every = [rows for part in parts for rows in part]
    log = len(parts) == 1 and 0 < 10 * every[0] < every[-1]  # most of a search happens in its first tenth
    return Axis.over(every, log=log, pad=0.02)


def _label(begin: float, at: float, lane: int, name: str) -> tuple[float, int, str, str]:
    """Where a stage's name stands: from its line on, up to its line, or where there is room for neither, loose."""
    if at >= begin - 0.1:
        return round(begin, 2), lane, name, ""
    return (round(begin, 2), lane, name, "before") if at > 0 else (0.0, lane, name, "loose")


def _least(entry: dict[str, Any]) -> float:
    return min(entry["best_T"], default=math.nan)


def _short(name: str) -> str:
    return name if len(name) <= 26 else name[:25] + "…"


def _thinned(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most so many reports, the first and the last among them."""
    if len(entries) <= _MOST_REPORTS:
        return entries
    return [entries[round(i)] for i in torch.linspace(0, len(entries) - 1, _MOST_REPORTS).tolist()]


def _seen(x: Sequence[float], values: Sequence[float], up: Axis) -> list[tuple[float, float]]:
    return [(a, up.place(value)) for a, value in zip(x, values, strict=True) if math.isfinite(value)]


def term(curve: TermCurve) -> Chart:
    """One term: the values of the best rows over the rows spent, and its bounds."""
    across, up = _over_rows([part.rows_R for part in curve.parts]), Axis.over(curve.values(), log=True, down=True)
    marks = []
    for index, part in enumerate(curve.parts):
        x = [across.place(rows) for rows in part.rows_R]
        marks += [line([(x[0], 0), (x[0], SIDE)], "stage")] if index else []
        marks += [line(_seen(x, values, up), "best") for values in part.values_TR]
    marks += [line([(0, up.place(bound)), (SIDE, up.place(bound))], "bound") for bound in curve.bounds]
    ends = [values[-1] for values in curve.parts[-1].values_TR]
    return Chart(
        label=f"{curve.name} of the best rows over rows spent: {', '.join(number(value) for value in ends[:4])} at the end",
        marks=Markup("").join(marks),
        x_label="rows",
        y_label=curve.goal,
        x_ticks=across.ticks(3),
        y_ticks=up.ticks(4),
        title=curve.name,
    )


# ---------------------------------------------------------------------- the map


def shown_points(result: Result) -> list[int]:
    """The rows whose designs the charts show: each target's best, and others spread evenly over the ranks."""
    best = result.firsts().tolist()[:MOST_POINTS]
    every = max(1, math.ceil(len(result) / max(1, MOST_POINTS - len(best))))
    return sorted({*best, *range(0, len(result), every)})


def where(result: Result, points: dict[int, int]) -> Chart | None:
    """Where the search went: found rows over starts and draws from the prior. `points`: the index of each row's design."""
    if not len(result):
        return None
    found = latent_map(result)
    every = torch.cat([found.found_N2, found.starts_S2, found.prior_P2, *(leg.places_R2 for leg in found.legs)])
    low_2, high_2 = every.amin(0), every.amax(0)
    middle, half = (low_2 + high_2) / 2, 0.53 * (high_2 - low_2)
    wide = max(float(half[0]), float(half[1]) * 4 / 3, 1e-6)  # the box is 4 to 3, and a unit as long both ways
    half = torch.tensor([wide, wide * 3 / 4])
    axes = [Axis(float(middle[i] - half[i]), float(middle[i] + half[i]), down=i == 1) for i in (0, 1)]

    def marks(places: torch.Tensor, look: str) -> list[Markup]:
        return [dot(axes[0].place(x), axes[1].place(y), look) for x, y in places.tolist()]

    best = set(result.firsts().tolist())
    ends: dict[bool, list[Markup]] = {False: [], True: []}  # the best are drawn last
    for row in sorted(points, reverse=True):
        x, y = found.found_N2[row].tolist()
        look = "top" if row in best else "end" if bool(result.realism.inside[row]) else "end out"
        ends[row in best].append(dot(axes[0].place(x), axes[1].place(y), look, points[row]))
    paths, path_legend, path_words = _paths(found, axes, result.n_targets)
    legend = [("top", "best"), *path_legend, ("end", "where rows ended")]
    legend += [("end out", "of these, outside what the decoder knows")] if not bool(result.realism.inside.all()) else []
    legend += [("start", "starts")] if len(found.starts_S2) else []
    legend += [("prior", "draws from the prior")] if len(found.prior_P2) else []
    share = f"The two directions hold {100 * found.share:.0f} % of the variance of starts and ends. "
    counts = f"{len(result)} found rows, {len(found.starts_S2)} starts, {len(found.prior_P2)} draws from the prior"
    return Chart(
        label=f"A map of latents: {counts}",
        marks=Markup("").join(
            [*marks(found.prior_P2, "prior"), *marks(found.starts_S2, "start"), *ends[False], *paths, *ends[True]]
        ),
        x_label=found.names[0],
        y_label=found.names[1],
        x_ticks=axes[0].ticks(5),
        y_ticks=axes[1].ticks(5) if found.names[1] else [],
        aspect="4 / 3",
        legend=legend,
        words=(share if found.share < 1 else "") + path_words + "Touch a point, or point at it, to see its design.",
    )


def _paths(found: LatentMap, axes: Sequence[Axis], targets: int) -> tuple[list[Markup], list[tuple[str, str]], str]:
    """The paths of the best rows as marks, their entries of the legend, and what to say of them."""
    marks, begins = [], []
    for leg in found.legs:
        places = [(axes[0].place(x), axes[1].place(y)) for x, y in leg.places_R2.tolist()]
        marks.append(line(places, "path"))
        looks = ("begin", "hole") if leg.stage == 0 else ("turn",)
        begins += [dot(*places[0], look) for look in looks]
    if not marks:
        return [], [], ""
    shown = len({leg.target for leg in found.legs})
    whose = "" if targets == 1 else f" of each of the first {shown} targets" if shown < targets else " of each target"
    later = [("turn", "where a later stage began")] if any(leg.stage for leg in found.legs) else []
    legend = [
        ("path", f"path of the best row{whose}"),
        ("begin", "where it began" if shown == 1 else "where each began"),
    ]
    race = "; of searches that race, each has its own" if any(leg.racing for leg in found.legs) else ""
    return [*marks, *begins], [*legend, *later], f"A path jumps where another row takes the lead{race}. "


# ---------------------------------------------------------------------- fronts


def fronts(
    result: Result,
    target: int,
    points: dict[int, int],
    behind: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
) -> list[Chart]:
    """A chart for each pair of objectives of one target's front; `behind` it known designs, their terms by set."""
    members = [int(row) for row in torch.nonzero((result.target_index == target) & result.feasible)[:, 0]]
    members.sort(key=lambda row: float(result.terms[result.objectives[0]][row]))
    found = []
    for across, up in list(combinations(result.objectives, 2))[:_MOST_PANELS]:
        x, y = result.terms[across], result.terms[up]
        known = {name: (terms[across].tolist(), terms[up].tolist()) for name, terms in behind.items()}
        axes = (
            Axis.over([*x[members].tolist(), *(value for pair in known.values() for value in pair[0])]),
            Axis.over([*y[members].tolist(), *(value for pair in known.values() for value in pair[1])], down=True),
        )
        places = [(axes[0].place(float(x[row])), axes[1].place(float(y[row]))) for row in members]
        marks = [
            dots([(axes[0].place(a), axes[1].place(b)) for a, b in zip(*pair, strict=True)], known_look(index))
            for index, pair in enumerate(known.values())
        ]
        marks += [line(places, "along")] if len(result.objectives) == 2 else []
        for row, (a, b) in zip(members, places, strict=True):
            marks.append(dot(a, b, "end" if bool(result.realism.inside[row]) else "end out", points.get(row)))
        found.append(
            Chart(
                label=f"Front of {len(members)} designs: {up} over {across}",
                marks=Markup("").join(marks),
                x_label=across,
                y_label=up,
                x_ticks=axes[0].ticks(4),
                y_ticks=axes[1].ticks(5),
                aspect="4 / 3",
                legend=[("end", "found"), *((known_look(i), name) for i, name in enumerate(known))] if known else [],
            )
        )
    return found


# ---------------------------------------------------------------------- several runs


def compared(results: Sequence[Result], names: Sequence[str]) -> Chart | None:
    """The best loss so far of several runs over the rows spent, the mean over targets where there are several."""
    curves = []
    for result in results:
        points = [(rows_at(entry), sum(entry["best_T"]) / max(1, len(entry["best_T"]))) for entry in result.history]
        so_far = math.inf
        for i, (rows, loss) in enumerate(points):  # a stage's report may begin above the one before it; a row that
            so_far = loss if result.constrained else min(so_far, loss)  # breaks constraints less replaces better ones
            points[i] = (rows, so_far)
        curves.append(points[:: max(1, len(points) // 400)] + points[-1:])
    if not any(curves):
        return None
    every = [rows for points in curves for rows, _ in points]
    across = Axis.over(every, log=True, pad=0.02)
    up = Axis.over([loss for points in curves for _, loss in points], log=True, down=True)
    marks = []
    for index, points in reversed(list(enumerate(curves))):
        places = [(across.place(rows), up.place(loss)) for rows, loss in points if math.isfinite(loss)]
        look = _look(index, results[index])
        marks += [line(places, look), *(dot(*places[-1], f"run run{index % _COLOURS}") for _ in places[:1])]
    many = any(result.n_targets > 1 for result in results)
    return Chart(
        label=f"Best loss so far of {len(results)} runs over rows spent",
        marks=Markup("").join(marks),
        x_label=SPENT,
        y_label="loss, mean over targets" if many else "loss",
        x_ticks=across.ticks(4),
        y_ticks=up.ticks(5),
        legend=[
            (_look(i, one), f"{name} (breaks its constraints)" if one.infeasible() else name)
            for i, (one, name) in enumerate(zip(results, names, strict=True))
        ],
    )


def _look(index: int, result: Result) -> str:
    return f"run run{index % _COLOURS}{' dashed' if index >= _COLOURS or result.infeasible() else ''}"

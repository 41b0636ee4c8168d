"""Charts of a run as matplotlib figures: losses over rows, and fronts. Nothing here is called by searches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from latentopt.plotbox import lanes
from latentopt.result import Result
from latentopt.termcurves import TermCurve, term_curves

DPI = 150
PAPER, INK, QUIET, GRID = "#ffffff", "#1b1f24", "#68707a", "#e4e7eb"
# Sky blue and orange of Okabe and Ito's palette: told apart by every kind of colour vision, and in grey by their words.
BLUE, ORANGE = "#56b4e9", "#e69f00"
DEEP_BLUE = "#0072b2"
_MOST_LINES, _MOST_PANELS, _MOST_TERMS = 512, 6, 24
_LETTER, _LANE, _LONGEST = 0.075, 0.17, 40  # inches of a letter and of a line of a stage's name; letters of it


def curves(history: Sequence[dict[str, Any]], *, title: str, subtitle: str = "") -> Figure:
    """Best-so-far losses of every row over the rows spent, the best of each target in front; stages side by side.

    `history` is a `Result`'s. Its losses are on a logarithmic scale where all of them are above zero.
    """
    figure = Figure(figsize=(8.4, 4.6), dpi=DPI, facecolor=PAPER)
    axes = figure.add_axes((0.09, 0.13, 0.88, 0.70))
    begins: list[tuple[float, str]] = []
    figure.text(0.03, 0.945, title, size=11, weight="bold", color=INK, parse_math=False)
    figure.text(0.03, 0.893, subtitle, size=8, color=QUIET, parse_math=False)
    losses: list[NDArray[np.float64]] = []
    targets = len(history[0]["best_T"]) if history else 0
    for stage in sorted({(entry["stage"], entry.get("entrant", 0)) for entry in history}):
        entries = [entry for entry in history if (entry["stage"], entry.get("entrant", 0)) == stage]
        spent = np.array([entry["forward_rows"] + entry["backward_rows"] for entry in entries], float)
        rows = np.array([entry["rows_N"] for entry in entries], float)[:, :_MOST_LINES]
        best = np.array([entry["best_T"] for entry in entries], float)
        losses += [rows, best]
        for values, color, width in ((rows, "#b9c0c8", 0.5), (best, DEEP_BLUE, 2.0 if targets == 1 else 1.1)):
            lines = [np.column_stack([spent, line]) for line in values.T]
            axes.add_collection(LineCollection(lines, colors=color, linewidths=width, alpha=0.85))
        axes.axvline(spent[0], color=GRID, linewidth=1, zorder=0)
        begins.append((spent[0], entries[0]["name"]))
    axes.plot([], [], color="#b9c0c8", linewidth=1, label="each row, best so far")
    axes.plot([], [], color=DEEP_BLUE, linewidth=2, label="best of each target" if targets > 1 else "best")
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": QUIET, "ncols": 2}
    figure.legend(*axes.get_legend_handles_labels(), loc="upper right", bbox_to_anchor=(0.985, 0.985), **style)
    finite = np.concatenate([part[np.isfinite(part)] for part in losses]) if losses else np.zeros(0)
    if len(finite) and finite.min() > 0 and finite.max() > 3 * finite.min():
        axes.set_yscale("log")
    costs = [entry["forward_rows"] + entry["backward_rows"] for entry in history]
    if costs and history[-1]["stage"] == 0 and 0 < 10 * costs[0] < costs[-1]:
        axes.set_xscale("log")  # most of a search happens in its first tenth
    axes.autoscale_view()
    axes.xaxis.set_major_formatter(FuncFormatter(_spaced))
    axes.set_xlabel("rows decoded, plus gradients taken", size=8, color=QUIET)
    axes.set_ylabel("loss", size=8, color=QUIET)
    quiet_axes(axes)
    _name_stages(figure, axes, begins)
    return figure


def _spaced(value: float, _: int) -> str:
    return f"{value:,.0f}".replace(",", " ")


def terms(result: Result, *, title: str, subtitle: str = "") -> Figure:
    """A panel a term: the values of the best row of each target over the rows spent, and its bounds as dashed lines."""
    found = term_curves(result)[:_MOST_TERMS]
    across = min(3, max(1, len(found)))
    down = max(1, -(-len(found) // across))
    high = 0.9 + 2.3 * down
    figure = Figure(figsize=(1.2 + 3.2 * across, high), dpi=DPI, facecolor=PAPER)
    figure.text(0.03, 1 - 0.25 / high, title, size=11, weight="bold", color=INK, parse_math=False)
    figure.text(0.03, 1 - 0.48 / high, subtitle, size=8, color=QUIET, parse_math=False)
    if not found:
        words = "One term alone: the losses show it" if len(result.terms) < 2 else "This run's reports hold no terms"
        figure.text(0.5, 0.45, words, size=8, color=INK, ha="center")
    for index, curve in enumerate(found):
        axes = figure.add_subplot(down, across, index + 1)
        _term(axes, curve)
        if index + across >= len(found):
            axes.set_xlabel("rows decoded, plus gradients taken", size=8, color=QUIET)
    figure.subplots_adjust(
        left=0.75 / figure.get_figwidth(), right=0.97, top=1 - 0.95 / high, bottom=0.5 / high, wspace=0.3, hspace=0.5
    )
    return figure


def _term(axes: Axes, curve: TermCurve) -> None:
    """One term: its name, its goal, a line a target and part, an upright one where a later stage begins."""
    for index, part in enumerate(curve.parts):
        for values in part.values_TR:
            axes.plot(part.rows_R, values, color=DEEP_BLUE, linewidth=2.0 if len(part.values_TR) == 1 else 1.1)
        if index:
            axes.axvline(part.rows_R[0], color=GRID, linewidth=1, zorder=0)
    shown = curve.values()
    for bound in curve.bounds:
        if bound in shown:
            axes.axhline(bound, color=ORANGE, linewidth=1.2, linestyle="--")
    if min(shown, default=0.0) > 0 and max(shown) > 3 * min(shown):
        axes.set_yscale("log")
    axes.set_title(curve.name, size=9, color=INK, loc="left", parse_math=False, pad=16)
    above = axes.annotate(curve.goal, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points")
    above.set(size=8, color=QUIET, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(_spaced))
    quiet_axes(axes)


def _name_stages(figure: Figure, axes: Axes, begins: Sequence[tuple[float, str]]) -> None:
    """Each stage's name above the axes where it begins, in as many lanes as keep them apart; the axes make room for them."""
    box = axes.get_position()
    inches = box.width * figure.get_figwidth()
    places = [float(axes.transAxes.inverted().transform(axes.transData.transform((at, 1.0)))[0]) for at, _ in begins]
    names = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for _, name in begins]
    placed = lanes([inches * place for place in places], [_LETTER * len(name) + 0.12 for name in names], inches)
    room = _LANE * (1 + max((lane for _, lane in placed), default=-1)) / figure.get_figheight()
    axes.set_position((box.x0, box.y0, box.width, box.height - room))
    for (at, lane), name in zip(placed, names, strict=True):
        axes.annotate(name, (at / inches, 1), (3, 3 + 72 * _LANE * lane), xycoords="axes fraction",
                      textcoords="offset points", size=8, color=QUIET, parse_math=False)  # fmt: skip


def front(result: Result, *, title: str, subtitle: str = "", target: int = 0) -> Figure:
    """The front of one target: a panel for each pair of objectives, orange where a design is outside what is known."""
    rows = result.front(target)
    names = rows.objectives
    pairs = list(combinations(names, 2))[:_MOST_PANELS]
    figure = Figure(figsize=(2.4 + 3.4 * len(pairs), 4.4), dpi=DPI, facecolor=PAPER)
    figure.text(0.03, 0.945, title, size=11, weight="bold", color=INK, parse_math=False)
    volume = "" if result.hypervolumes is None else f". Hypervolume {float(result.hypervolumes[target]):.4g}"
    more = f". Target {target} of {result.n_targets}" if result.n_targets > 1 else ""
    figure.text(0.03, 0.893, f"{subtitle}. {len(rows)} designs{volume}{more}", size=8, color=QUIET, parse_math=False)
    if not len(rows):
        figure.text(
            0.5, 0.45, f"No design keeps the constraints: {result.infeasible()}", size=8, color=INK, ha="center"
        )
        return figure
    outside = ~rows.realism.inside
    for index, (across, up) in enumerate(pairs):
        axes = figure.add_subplot(1, len(pairs), index + 1)
        x, y = rows.terms[across], rows.terms[up]
        if len(names) == 2:
            axes.plot(x, y, color=GRID, linewidth=1, zorder=0)
        axes.scatter(x[~outside], y[~outside], s=16, color=DEEP_BLUE, label="inside what the decoder knows")
        if bool(outside.any()):
            axes.scatter(x[outside], y[outside], s=16, color=ORANGE, label="outside")
            axes.legend(frameon=False, fontsize=7, labelcolor=QUIET)
        axes.set_xlabel(across, size=8, color=QUIET)
        axes.set_ylabel(up, size=8, color=QUIET)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        quiet_axes(axes)
        axes.grid(axis="x", color=GRID, linewidth=0.6)
    figure.subplots_adjust(left=0.5 / (0.7 + len(pairs)) * 0.4 + 0.02, right=0.97, top=0.83, bottom=0.13, wspace=0.28)
    return figure


def quiet_axes(axes: Axes) -> None:
    """Quiet ticks, a light grid, no box."""
    axes.tick_params(labelsize=8, colors=QUIET, which="both")
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)

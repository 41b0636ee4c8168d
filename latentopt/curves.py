"""The picture of a comparison: best loss so far over rows and over seconds, a band over seeds, labels at the lines."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from latentopt.charts import DPI, INK, PAPER, QUIET, quiet_axes

if TYPE_CHECKING:
    from latentopt.comparison import Comparison, Curve, Standing

# Okabe and Ito's palette without its yellow, which print loses; the baseline is grey and dashed.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", INK)
_BASE = "#68707a"
_LEFT, _WIDE, _HIGH = 0.85, 4.0, 4.9  # inches: the axis' numbers, a panel, the figure
_CHARACTER, _LONGEST = 0.075, 24  # inches of a letter of a label, and letters of its longest line
_LINE = 0.055  # of a panel's height: how far apart lines of labels keep


def compared(comparison: Comparison) -> Figure:
    """Two panels, the searches in both in one colour; logarithmic axes where all values are above zero.

    A line is the median over seeds, its band goes from the least to the most. A dotted line leaves the prior.
    """
    names = [one.name for one in comparison.standings]
    gutter = 0.35 + _CHARACTER * max(len(line) for name in names for line in _lines(name).split("\n"))
    width = 2 * (_LEFT + _WIDE + gutter)
    figure = Figure(figsize=(width, _HIGH), dpi=DPI, facecolor=PAPER)
    words = "Median and range over the seeds" if len(comparison.seeds) > 1 else "One seed, so no range"
    leaving = any(one.leaves_prior for one in comparison.standings)
    more = ". Dotted: the best designs leave the prior" if leaving else ""
    figure.text(0.3 / width, 0.945, "Best loss so far", size=11, weight="bold", color=INK)
    about = f"{words}: {comparison.about()}{more}"
    figure.text(0.3 / width, 0.893, about, size=8, color=QUIET, parse_math=False)
    others = [name for name in names if name != comparison.baseline]
    colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(others)} | {comparison.baseline: _BASE}
    for place, (axis, about) in enumerate(
        {"by_rows": "rows decoded, plus gradients taken", "by_seconds": "seconds"}.items()
    ):
        axes = figure.add_axes(((_LEFT + place * width / 2) / width, 0.13, _WIDE / width, 0.70))
        _panel(axes, comparison, axis, colors)
        axes.set_xlabel(about, size=8, color=QUIET)
        axes.set_ylabel("loss", size=8, color=QUIET)
    return figure


def _lines(name: str) -> str:
    """A name in lines: each stage of a chain, and at most two for one stage."""
    stages = name.replace(" > ", " >\n").split("\n")
    return "\n".join(line for part in stages for line in textwrap.wrap(part, _LONGEST, max_lines=2, placeholder=" ..."))


def _panel(axes: Axes, comparison: Comparison, axis: str, colors: dict[str, str]) -> None:
    curves: list[tuple[Standing, Curve]] = [(one, getattr(one, axis)) for one in comparison.standings]
    ends = []
    for one, curve in reversed(curves):  # the best on top
        shown = ~np.isnan(curve.median_G)
        at, middle = curve.at_G[shown], curve.median_G[shown]
        color, base = colors[one.name], one.name == comparison.baseline
        style = ":" if one.leaves_prior else "--" if base else "-"
        axes.fill_between(
            at, curve.low_G[shown], curve.high_G[shown], step="post", color=color, alpha=0.16, linewidth=0
        )
        axes.step(at, middle, where="post", color=color, linestyle=style, linewidth=1.8)
        axes.plot(at[-1], middle[-1], "o", color=color, markersize=4)
        ends.append((float(at[-1]), float(middle[-1]), one.name, color))
    _scales(axes, [curve for _, curve in curves])
    _label(axes, ends)
    quiet_axes(axes)


def _scales(axes: Axes, curves: Sequence[Curve]) -> None:
    """Logarithmic where all losses are above zero and span enough to gain by it."""
    losses = np.concatenate([part[np.isfinite(part)] for curve in curves for part in (curve.low_G, curve.high_G)])
    low, high = losses.min(), losses.max()
    axes.set_xscale("log")
    scaled: list[Axis] = [axes.xaxis]
    if low > 0 and high > 2 * low:
        axes.set_yscale("log")
        scaled.append(axes.yaxis)
    for axis in scaled:
        least, most = axis.get_view_interval()
        wide = most > 300 * least  # decades alone have room then
        axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(_number))
        axis.set_minor_formatter(NullFormatter())


def _number(value: float, _: int) -> str:
    return f"{value:,.0f}".replace(",", " ") if 1 <= value < 1e6 else f"{value:g}"


def _label(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Each line's name at the right of the panel, at the height of its end or as near as its neighbours let it."""
    to_axes = axes.transAxes.inverted()
    wanted = [float(to_axes.transform(axes.transData.transform((at, loss)))[1]) for at, loss, _, _ in ends]
    order = sorted(range(len(ends)), key=wanted.__getitem__)
    texts = [_lines(ends[index][2]) for index in order]
    gaps = [_LINE * (text.count("\n") + 1) for text in texts]
    heights = spread([wanted[index] for index in order], gaps)
    for index, text, height in zip(order, texts, heights, strict=True):
        style: dict[str, Any] = {
            "size": 8,
            "color": ends[index][3],
            "va": "center",
            "linespacing": 1.1,
            "parse_math": False,
        }
        axes.text(1.02, height, text, transform=axes.transAxes, **style)


def spread(heights: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Sorted middles of boxes of these sizes, moved as little as it takes, in the least squares, for none to overlap.

    Less the room of the boxes below them they must not fall: pools of adjacent violators share their mean (Ayer et al. 1955).
    """
    half = [size / 2 for size in sizes]
    below = np.cumsum([0.0, *(a + b for a, b in itertools.pairwise(half))]).tolist()
    pools: list[tuple[float, int]] = []  # sum and count
    for height, room in zip(heights, below, strict=False):
        total, count = height - room, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            before, held = pools.pop()
            total, count = total + before, count + held
        pools.append((total, count))
    means = [total / count for total, count in pools for _ in range(count)]
    return [mean + room for mean, room in zip(means, below, strict=False)]

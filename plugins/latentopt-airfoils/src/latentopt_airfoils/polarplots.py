"""Polars: lift, drag and moment over the angle of attack, drawn beside the airfoils themselves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentopt import ConfigError
from latentopt_airfoils import published
from latentopt_airfoils.known import as_designs, nearest_real
from latentopt_airfoils.neuralfoil import Aero, Flow, Size, network
from latentopt_airfoils.outlines import outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which every kind of colour vision tells apart; and dashes for those who print in grey
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_INK, _QUIET, _GRID, _FAINT = "#1b1f24", "#68707a", "#e4e7eb", 0.3
_SURE = 0.9
# Inches: to the left and the right of the panels, and between two of them
_LEFT, _RIGHT, _BETWEEN = 0.672, 0.288, 0.96
_HEIGHT, _LEAST_WIDTH, _WIDE, _MOST_WIDTH = 7.2, 5, 8, 40
_LINE = 0.022  # of the height
# In a report: designs in one picture, how wide it is, and pixels an inch
_SHOWN, _NARROW, _DPI = 3, 6.4, 200
_PANELS = (
    ("angle of attack, degrees", "lift coefficient"),
    ("drag coefficient", "lift coefficient"),
    ("angle of attack, degrees", "lift to drag"),
    ("angle of attack, degrees", "moment coefficient"),
)


def polars(
    designs: Tensor,
    labels: Sequence[str] | None = None,
    *,
    flow: Flow = Flow(),  # noqa: B008  # immutable
    size: Size = "xlarge",
    alphas: tuple[float, float] = (-5.0, 15.0),
    title: str = "",
    width: float = 9.6,
) -> Figure:
    """The outlines of up to six designs `(N, 18)`, true to scale, over their polars in the opinion of NeuralFoil.

    Lines are faint where the network's confidence is below 0.9. The figure is `width` inches wide; letters keep their size,
    so those of a narrow one can be read on a phone. Raises `ConfigError` for more than six designs, a label too many or too
    few, or a width that is not 5 to 40; `ShapeError` where they are no airfoils.
    """
    from matplotlib.figure import Figure  # the plugin loads without it

    designs = as_designs(designs).float()
    if not 1 <= len(designs) <= len(_COLOURS):
        raise ConfigError(
            f"one figure has the polars of 1 to {len(_COLOURS)} airfoils, got {len(designs)}: choose some"
        )
    names = [f"design {row}" for row in range(len(designs))] if labels is None else list(labels)
    if len(names) != len(designs):
        raise ConfigError(f"{len(names)} labels for {len(designs)} airfoils: give one each")
    if not _LEAST_WIDTH <= width <= _MOST_WIDTH:
        raise ConfigError(f"width is {width:g} inches: give {_LEAST_WIDTH} to {_MOST_WIDTH}")
    words = f"NeuralFoil {size}, {flow}: a surrogate's opinion, faint where its confidence is below {_SURE}"
    figure = Figure(figsize=(width, _HEIGHT), dpi=150, facecolor="#ffffff")
    _top(figure, designs, names, title or "Airfoils and their polars", words)
    wide = (width - _LEFT - _BETWEEN - _RIGHT) / 2
    places = [(left, bottom) for bottom in (0.39, 0.07) for left in (_LEFT, _LEFT + wide + _BETWEEN)]
    panels = [figure.add_axes((left / width, bottom, wide / width, 0.24)) for left, bottom in places]
    for axes, (across, up) in zip(panels, _PANELS, strict=True):
        axes.set_xlabel(across, size=8, color=_QUIET)
        axes.set_ylabel(up, size=8, color=_QUIET)
        _quiet(axes)
    angles = torch.linspace(*alphas, 161)
    for row, colour in zip(range(len(designs)), _COLOURS, strict=False):
        found = network(size).at(designs[row].expand(len(angles), -1), angles, flow)
        _lines(panels, found, colour)
    panels[1].set_xlim(left=0, right=_roomy(panels[1]))
    if width < _WIDE:
        panels[1].locator_params(axis="x", nbins=4)
    return figure


def polar_picture(designs: Tensor, flow: Flow, size: Size) -> Tensor:
    """The polars of the first three designs `(N, 18)` and of the real airfoil nearest to the first, `(3, H, W)` in [0, 1]."""
    some = tuple(tuple(row) for row in as_designs(designs)[:_SHOWN].tolist())
    return torch.from_numpy(_pixels(some, flow, size)).permute(2, 0, 1) / 255


@lru_cache(maxsize=2)  # several objectives of a run ask for the same
def _pixels(some: tuple[tuple[float, ...], ...], flow: Flow, size: Size) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    designs = torch.tensor(some)
    near = nearest_real(designs[:1])
    several = len(designs) > 1
    names = ["the first design", "the second", "the third"][: len(designs)] if several else ["found"]
    figure = polars(
        torch.cat([designs, published.real().numbers[near.rows]]),
        [*names, f"the real one nearest to {'the first' if several else 'it'}, {near.names[0]}"],
        flow=flow,
        size=size,
        title="What was found, and a real airfoil",
        width=_NARROW,
    )
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _top(figure: Figure, designs: Tensor, names: Sequence[str], title: str, words: str) -> None:
    """The title, the words below it, the legend, and the outlines."""
    width = float(figure.get_figwidth())
    left, lines, columns = 0.288 / width, textwrap.wrap(words, round(15 * width)), 3 if width >= _WIDE else 2
    figure.text(left, 0.955, title, size=12, weight="bold", color=_INK, parse_math=False)
    for row, line in enumerate(lines):
        figure.text(left, 0.925 - _LINE * row, line, size=8, color=_QUIET, parse_math=False)
    below = 0.942 - _LINE * len(lines)
    ceiling = below - max(0.05, 0.01 + 0.026 * math.ceil(len(names) / columns))
    axes = figure.add_axes((_LEFT / width, 0.70, 1 - (_LEFT + _RIGHT) / width, ceiling - 0.70))
    _outlines(axes, designs, names)
    figure.legend(
        *axes.get_legend_handles_labels(),
        frameon=False,
        fontsize=8,
        loc="upper left",
        ncols=columns,
        labelcolor=_INK,
        bbox_to_anchor=(0.21 / width, below),
    )


def _outlines(axes: Axes, designs: Tensor, names: Sequence[str]) -> None:
    x_K, upper, lower = outline(designs, 201)
    for row, colour in zip(range(len(designs)), _COLOURS, strict=False):
        x = torch.cat([x_K.flip(0), x_K]).numpy()
        axes.plot(x, torch.cat([upper[row].flip(0), lower[row]]).numpy(), color=colour, linewidth=1.4, label=names[row])
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_ylabel("chords", size=8, color=_QUIET)
    _quiet(axes)


def _lines(panels: Sequence[Axes], found: Aero, colour: str) -> None:
    sure = found.confidence >= _SURE
    pairs = (
        (found.alpha, found.lift),
        (found.drag, found.lift),
        (found.alpha, found.lift / found.drag),
        (found.alpha, found.moment),
    )
    for axes, (across, up) in zip(panels, pairs, strict=True):
        axes.plot(across.numpy(), up.numpy(), color=colour, linewidth=1, alpha=_FAINT)
        axes.plot(across.numpy(), torch.where(sure, up, torch.nan).numpy(), color=colour, linewidth=1.6)


def _roomy(axes: Axes) -> float:
    """Where the axis of drag ends: three times the median of what is drawn, since stall would flatten the rest."""
    drags = torch.cat([torch.as_tensor(line.get_xdata(), dtype=torch.float32) for line in axes.lines])
    return 3 * float(drags.median())


def _quiet(axes: Axes) -> None:
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_visible(False)

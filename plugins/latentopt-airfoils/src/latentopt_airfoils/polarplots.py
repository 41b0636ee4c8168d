"""Polars: lift, drag and moment over the angle of attack, drawn beside the airfoils themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentopt import ConfigError
from latentopt_airfoils.known import as_designs
from latentopt_airfoils.neuralfoil import Aero, Flow, Size, network
from latentopt_airfoils.outlines import outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which every kind of colour vision tells apart; and dashes for those who print in grey
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_INK, _QUIET, _GRID, _FAINT = "#1b1f24", "#68707a", "#e4e7eb", 0.3
_SURE = 0.9
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
) -> Figure:
    """The outlines of up to six designs `(N, 18)`, true to scale, over their polars in the opinion of NeuralFoil.

    Lines are faint where the network's confidence is below 0.9. Raises `ConfigError` for more than six designs, or a label
    too many or too few; `ShapeError` where they are no airfoils.
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
    figure = Figure(figsize=(9.6, 7.2), dpi=150, facecolor="#ffffff")
    top = figure.add_axes((0.07, 0.70, 0.90, 0.17))
    _outlines(top, designs, names)
    figure.legend(
        *top.get_legend_handles_labels(),
        frameon=False,
        fontsize=8,
        loc="upper left",
        ncols=3,
        labelcolor=_INK,
        bbox_to_anchor=(0.022, 0.92),
    )
    figure.text(0.03, 0.955, title or "Airfoils and their polars", size=12, weight="bold", color=_INK, parse_math=False)
    words = (
        f"NeuralFoil {size}, Reynolds number {flow.reynolds:.3g}, n_crit {flow.n_crit:g}: a surrogate's opinion, "
        f"faint where its confidence is below {_SURE}"
    )
    figure.text(0.03, 0.925, words, size=8, color=_QUIET, parse_math=False)
    places = ((0.07, 0.39), (0.57, 0.39), (0.07, 0.07), (0.57, 0.07))
    panels = [figure.add_axes((left, bottom, 0.40, 0.24)) for left, bottom in places]
    for axes, (across, up) in zip(panels, _PANELS, strict=True):
        axes.set_xlabel(across, size=8, color=_QUIET)
        axes.set_ylabel(up, size=8, color=_QUIET)
        _quiet(axes)
    angles = torch.linspace(*alphas, 161)
    for row, colour in zip(range(len(designs)), _COLOURS, strict=False):
        found = network(size).at(designs[row].expand(len(angles), -1), angles, flow)
        _lines(panels, found, colour)
    panels[1].set_xlim(left=0, right=_roomy(panels[1]))
    return figure


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

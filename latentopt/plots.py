"""Plots of results and draws as matplotlib figures: each function returns its `Figure`, and writes nothing.

from latentopt import plots
plots.convergence(result).savefig("losses.png")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentopt import charts, pictures
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, ShapeError
from latentopt.maps import Leg, latent_map as placed
from latentopt.result import Draws, Result
from latentopt.thumbnails import Look

_BEST = "#d55e00"  # of Okabe and Ito's palette, as the others

__all__ = ["convergence", "front", "interpolation", "latent_map", "sheet", "terms"]


def sheet(
    found: Result | Draws, *, decoder: Decoder | None = None, title: str = "", columns: int | None = None
) -> Figure:
    """The designs in rows, at most 256, with losses or times under them and orange frames where they are outside.

    `decoder` says how its designs are drawn; without it their config and values do. Raises `ShapeError` where they are no
    pictures.
    """
    labels: Sequence[str] = ()
    if isinstance(found, Result):
        labels = [f"{loss:.3g}" for loss in found.losses[: pictures.MOST].tolist()]
    elif found.times is not None:
        labels = [f"t = {time:.2f}" for time in found.times[: pictures.MOST].tolist()]
    framed = (~found.realism.inside).tolist()
    words = "Orange frame: outside what the decoder knows" if any(framed) else ""
    shown = _pictures(found, decoder)
    return pictures.sheet(
        shown, title=title or f"{len(found)} designs", subtitle=words, labels=labels, framed=framed, columns=columns
    )


def interpolation(path: Draws, *, decoder: Decoder | None = None, title: str = "Path", steps: int = 12) -> Figure:
    """A path as one strip of pictures: at most so many steps of it, both ends among them.

    Raises `ConfigError` for draws that are no path, `ShapeError` where the designs are no pictures.
    """
    if path.times is None:
        raise ConfigError("these draws are no path: plots.sheet shows them; lo.interpolate gives a path")
    if steps < 2:
        raise ConfigError(f"a strip shows 2 steps or more, got {steps}")
    some = torch.linspace(0, len(path) - 1, min(steps, len(path))).round().long()
    labels = [f"t = {time:.2f}" for time in path.times[some].tolist()]
    return pictures.strips([pictures.Row("", _pictures(path, decoder)[some], labels)], title=title)


def convergence(result: Result, *, title: str = "Losses") -> Figure:
    """Best-so-far losses of every start over the rows spent, the best of each target in front."""
    return charts.curves(result.history, title=title, subtitle=_about(result))


def terms(result: Result, *, title: str = "Terms of the best rows") -> Figure:
    """A panel for each objective and constraint: the raw values of the best row of each target over the rows spent, with its
    bound or goal as a dashed line. A figure in words for a run of one term, or one that was saved without them."""
    return charts.terms(result, title=title, subtitle=_about(result))


def latent_map(result: Result, *, title: str = "Where the search went") -> Figure:
    """Found latents over starts and draws of the prior, in the two principal components of starts and found rows, and the
    paths of the best rows of the first targets."""
    figure = Figure(figsize=(6.4, 5.6), dpi=charts.DPI, facecolor=charts.PAPER)
    axes = figure.add_axes((0.11, 0.2, 0.86, 0.68))
    figure.text(0.03, 0.95, title, size=11, weight="bold", color=charts.INK, parse_math=False)
    spots = placed(result)
    share = (
        f"; the directions hold {100 * spots.share:.0f} % of the variance of starts and ends" if spots.share < 1 else ""
    )
    figure.text(0.03, 0.91, f"{_about(result)}{share}", size=8, color=charts.QUIET, parse_math=False)
    inside = result.realism.inside
    layers = (
        ("draws from the prior", spots.prior_P2, "#c9d0d8", 7),
        ("starts", spots.starts_S2, "#5c6570", 9),
        ("where rows ended", spots.found_N2[inside], charts.DEEP_BLUE, 16),
        ("outside what the decoder knows", spots.found_N2[~inside], charts.ORANGE, 16),
        ("best", spots.found_N2[result.firsts()], _BEST, 60),
    )
    for label, places, color, size in layers:
        if len(places):
            top = 4 if label == "best" else 2
            axes.scatter(places[:, 0], places[:, 1], s=size, color=color, label=label, linewidths=0, zorder=top)
    _draw_paths(axes, spots.legs)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(spots.names[0], size=8, color=charts.QUIET)
    axes.set_ylabel(spots.names[1], size=8, color=charts.QUIET)
    figure.legend(
        frameon=False, fontsize=7.5, loc="lower left", labelcolor=charts.QUIET, ncols=3, bbox_to_anchor=(0.02, 0.005)
    )
    charts.quiet_axes(axes)
    return figure


def _draw_paths(axes: Axes, legs: Sequence[Leg]) -> None:
    """Thin lines; a ring where a path begins, a small dot where a later stage does."""
    looks: dict[bool, dict[str, Any]] = {
        True: {"marker": "o", "markersize": 6, "markerfacecolor": charts.PAPER, "label": "where a path began"},
        False: {"marker": "o", "markersize": 3.5, "label": "where a later stage began"},
    }
    for leg in legs:
        axes.plot(leg.places_R2[:, 0], leg.places_R2[:, 1], color=_BEST, linewidth=0.9, alpha=0.8, zorder=3)
    for first, look in looks.items():
        begins = [leg.places_R2[0] for leg in legs if (leg.stage == 0) == first]
        if begins:
            places = torch.stack(begins)
            axes.plot(places[:, 0], places[:, 1], color=_BEST, linestyle="none", zorder=3.5, **look)


def front(result: Result, *, target: int = 0, title: str = "Front") -> Figure:
    """The front of one target, a panel for each pair of objectives. Raises `ConfigError` where the run has none."""
    return charts.front(result, title=title, subtitle=_about(result), target=target)


def _about(result: Result) -> str:
    return f"{result.cost.rows} rows in {result.cost.seconds:.1f} s"


def _pictures(found: Result | Draws, decoder: Decoder | None) -> torch.Tensor:
    shown = Look.of(found.designs, found.config, decoder=decoder).pictures(found.designs)
    if shown is None:
        raise ShapeError(
            f"designs of shape {tuple(found.designs.shape[1:])} are no pictures: give a decoder whose config draws them, or "
            "see them in lo.report, which plots their values"
        )
    return shown

"""Sheets of pictures, and what a run's folder gets, as matplotlib figures. Nothing here is called by samplers or searches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from latentopt import thumbnails
from latentopt.charts import DPI, INK, ORANGE, PAPER, QUIET, curves, front
from latentopt.decoder import Decoder
from latentopt.errors import ShapeError
from latentopt.maps import along
from latentopt.result import Draws, Result
from latentopt.thumbnails import difference

Pixels = NDArray[np.uint8]

MOST = 256  # pictures on one sheet
_FRONTS, _MEMBERS = 12, 10  # fronts on one sheet, and members of each
_MARGIN, _GAP, _LINE = 40, 8, 26


class Row(NamedTuple):
    """One row of a strip: what it is called, its pictures `(n, C, H, W)` and a word under each."""

    name: str
    pictures: Tensor
    labels: Sequence[str] = ()


# ---------------------------------------------------------------------- designs to pictures


def as_pictures(designs: Tensor, decoder: Decoder) -> Tensor | None:
    """Designs `(N, ...)` as pictures `(N, C, H, W)` in [0, 1] with C of 1 or 3, or None where they are no pictures.

    The decoder's config may draw them itself. Otherwise designs of 1 or 3 channels are pictures in the decoder's
    `value_range`, and so are designs `(H, W)` of at least 8 x 8 that keep to that range.
    """
    return thumbnails.as_pictures(designs, getattr(decoder.config, "draw", None), decoder.value_range)


def _check(pictures: Tensor) -> None:
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or not len(pictures):
        raise ShapeError(
            f"a sheet takes pictures (N, 1 or 3, H, W) in [0, 1], at least one, got shape {tuple(pictures.shape)}"
        )


def as_tiles(pictures: Tensor, size: int) -> list[Pixels]:
    """Pictures as RGB tiles whose longer side is near `size`: enlarged by whole numbers, reduced by averaging."""
    _check(pictures)
    longest = max(pictures.shape[2:])
    if longest > 2 * size:
        high, wide = (max(1, round(side * size / longest)) for side in pictures.shape[2:])
        pictures = torch.nn.functional.adaptive_avg_pool2d(pictures, (high, wide))
    factor = max(1, round(size / max(pictures.shape[2:])))
    pixels = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    pixels = pixels.repeat(factor, axis=2).repeat(factor, axis=3).transpose(0, 2, 3, 1)
    return list(np.broadcast_to(pixels, (*pixels.shape[:3], 3)))


# ---------------------------------------------------------------------- the page


class _Page:
    """A figure measured in pixels, with one canvas for all the tiles, so that every tile is exact."""

    def __init__(self, width: int, height: int, title: str, subtitle: str) -> None:
        self.width = max(width, 2 * _MARGIN + 10 * max(len(title), round(0.72 * len(subtitle)) + 4))
        self.height = height
        self.canvas = np.full((height, self.width, 3), 255, np.uint8)
        self.figure = Figure(figsize=(self.width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.text(_MARGIN, 38, title, size=9, weight="bold")
        self.text(_MARGIN, 64, subtitle, size=6.5, color=QUIET)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        style = {"color": INK, "va": "center", "size": 6, **style}
        self.axes.text(x, y, text, parse_math=False, **style)

    def paste(self, tile: Pixels, x: int, y: int) -> None:
        self.canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile

    def frame(self, tile: Pixels, x: int, y: int, color: str) -> None:
        size = (tile.shape[1] + 5, tile.shape[0] + 5)
        self.axes.add_patch(Rectangle((x - 3, y - 3), *size, fill=False, edgecolor=color, linewidth=1.5))

    def done(self) -> Figure:
        self.axes.imshow(self.canvas, extent=(0, self.width, self.height, 0), interpolation="nearest", zorder=0)
        self.axes.set_xlim(0, self.width)
        self.axes.set_ylim(self.height, 0)
        return self.figure


_TOP = 92  # pixels above the first tile


def sheet(
    pictures: Tensor,
    *,
    title: str,
    subtitle: str = "",
    labels: Sequence[str] = (),
    framed: Sequence[bool] = (),
    columns: int | None = None,
    size: int = 112,
) -> Figure:
    """At most 256 pictures `(N, C, H, W)` in [0, 1] in rows, a label below each, orange frames where `framed`."""
    shown = as_tiles(pictures[:MOST], size)
    if len(pictures) > MOST:
        subtitle = f"the first {MOST} of {len(pictures)}. {subtitle}"
    columns = columns or min(len(shown), max(4, math.ceil(math.sqrt(len(shown)))))
    rows = math.ceil(len(shown) / columns)
    high, wide = shown[0].shape[:2]
    step_x, step_y = wide + _GAP, high + _GAP + (_LINE if labels else 0)
    page = _Page(2 * _MARGIN + columns * step_x - _GAP, _TOP + rows * step_y + _MARGIN // 2, title, subtitle)
    for i, tile in enumerate(shown):
        x, y = _MARGIN + i % columns * step_x, _TOP + i // columns * step_y
        page.paste(tile, x, y)
        if i < len(framed) and framed[i]:
            page.frame(tile, x, y, ORANGE)
        if i < len(labels):
            page.text(x + wide / 2, y + high + _LINE / 2, labels[i], ha="center", color=QUIET)
    return page.done()


def strips(rows: Sequence[Row], *, title: str, subtitle: str = "", size: int = 112) -> Figure:
    """Rows of pictures, each with its name at the left and words under its pictures: paths, or before and after."""
    shown = [as_tiles(row.pictures, size) for row in rows]
    high, wide = shown[0][0].shape[:2]
    left = _MARGIN + 20 + round(12.5 * max(len(line) for row in rows for line in row.name.split("\n")))
    below = [_LINE if row.labels else 0 for row in rows]
    width = left + max(map(len, shown)) * (wide + _GAP) - _GAP + _MARGIN
    page = _Page(width, _TOP + sum(high + 2 * _GAP + gap for gap in below) + _MARGIN // 2, title, subtitle)
    y = _TOP
    for row, tiles, gap in zip(rows, shown, below, strict=True):
        page.text(_MARGIN, y + high / 2, row.name, size=6.5, linespacing=1.5)
        for i, tile in enumerate(tiles):
            x = left + i * (wide + _GAP)
            page.paste(tile, x, y)
            if i < len(row.labels):
                page.text(x + wide / 2, y + high + _LINE / 2, row.labels[i], ha="center", color=QUIET)
        y += high + 2 * _GAP + gap
    return page.done()


def comparison(
    targets: Tensor, found: Tensor, *, title: str, subtitle: str = "", labels: Sequence[str] = (), size: int = 84
) -> Figure:
    """Target, found and difference side by side for each target, at most 64 of them; pictures `(T, C, H, W)` in [0, 1]."""
    if targets.shape != found.shape:
        raise ShapeError(f"a comparison needs a target a picture, got {tuple(targets.shape)} and {tuple(found.shape)}")
    targets, found = targets[: MOST // 4], found[: MOST // 4]
    scale = float((found - targets).mean(1).abs().flatten().quantile(0.995)) if found.numel() < 2**24 else 0.5
    scale = max(scale, 1e-3)
    parts = [as_tiles(part, size) for part in (targets, found, difference(targets, found, scale))]
    count = len(parts[0])
    columns = min(count, 4)
    high, wide = parts[0][0].shape[:2]
    step_x, step_y = 3 * (wide + 3) + 3 * _GAP, high + _LINE + _GAP
    legend = f"difference: blue where too dark, orange where too bright, full colour from {scale:.2g}"
    page = _Page(
        2 * _MARGIN + columns * step_x - 3 * _GAP,
        _TOP + _LINE + math.ceil(count / columns) * step_y + _MARGIN // 2,
        title,
        f"{subtitle}. {legend}" if subtitle else legend,
    )
    for column in range(columns):
        for part, name in enumerate(("target", "found", "difference")):
            x = _MARGIN + column * step_x + part * (wide + 3) + wide / 2
            page.text(x, _TOP + _LINE / 2 - 4, name, ha="center", size=5.5, color=QUIET)
    for i in range(count):
        x, y = _MARGIN + i % columns * step_x, _TOP + _LINE + i // columns * step_y
        for part in range(3):
            page.paste(parts[part][i], x + part * (wide + 3), y)
        if i < len(labels):
            page.text(x + 1.5 * (wide + 3), y + high + _LINE / 2, labels[i], ha="center", color=QUIET)
    return page.done()


# ---------------------------------------------------------------------- what a run's folder gets


def write(figure: Figure, path: Path, origin: str = "") -> Path:
    """Save a figure as PNG, with what it was drawn from as a text inside (latentopt/origin.py) where that is given."""
    figure.savefig(path, dpi=DPI, metadata={"latentopt": origin} if origin else None)
    return path


def of_result(result: Result, decoder: Decoder) -> dict[str, Figure]:
    """The sheets of a search by file name: `losses.png`, `front.png` where there is one, and `sheet.png` of pictures."""
    about = f"{result.cost.rows} rows in {result.cost.seconds:.1f} s"
    figures = {"losses.png": curves(result.history, title="Losses", subtitle=about)}
    if result.reference is not None:
        figures["front.png"] = front(result, title="Front", subtitle=about)
    pictures = as_pictures(result.designs, decoder)
    if pictures is None:
        return figures
    along_front = _along_fronts(result, decoder, about) if result.reference is not None else None
    if along_front is not None:
        return {**figures, "sheet.png": along_front}
    firsts = [int(torch.nonzero(result.target_index == t)[0, 0]) for t in result.target_index.unique().tolist()]
    targets = None if result.targets is None else as_pictures(result.targets, decoder)
    if targets is not None:
        labels = [f"loss {float(result.losses[row]):.3g}" for row in firsts]
        shown = targets[result.target_index[firsts]]
        figures["sheet.png"] = comparison(shown, pictures[firsts], title="Found designs", subtitle=about, labels=labels)
    else:
        labels = [f"{loss:.3g}" for loss in result.losses[:MOST].tolist()]
        outside = (~result.realism.inside).tolist()
        words = f"by loss, best first. {about}" + (
            ". Orange frame: outside what the decoder knows" if any(outside) else ""
        )
        figures["sheet.png"] = sheet(pictures, title="Found designs", subtitle=words, labels=labels, framed=outside)
    return figures


def _along_fronts(result: Result, decoder: Decoder, about: str) -> Figure | None:
    """Members spread along each front, a row a target, its target first where it has one; None where no front has any."""
    names = result.objectives
    rows = []
    for target in result.target_index.unique().tolist()[:_FRONTS]:
        members = result.front(target)
        if not len(members):
            continue
        some = members.take(along(members, _MEMBERS))
        shown = as_pictures(some.designs, decoder)
        labels = [", ".join(f"{float(some.terms[name][i]):.2g}" for name in names[:3]) for i in range(len(some))]
        wanted = None if result.targets is None else as_pictures(result.targets[target : target + 1], decoder)
        if shown is not None and wanted is not None and wanted.shape[1:] == shown.shape[1:]:
            shown, labels = torch.cat([wanted, shown]), ["target", *labels]
        if shown is not None:
            rows.append(Row(f"target {target}" if result.n_targets > 1 else "front", shown, labels))
    if not rows:
        return None
    words = f"spread along the front; under each its {', '.join(names[:3])}. {about}"
    return strips(rows, title="Members of the front", subtitle=words)


def of_draws(draws: Draws, decoder: Decoder) -> dict[str, Figure]:
    """`sheet.png` of draws or of a path, where the designs are pictures."""
    pictures = as_pictures(draws.designs, decoder)
    if pictures is None:
        return {}
    outside = (~draws.realism.inside).tolist()
    words = "Orange frame: outside what the decoder knows" if any(outside) else ""
    if draws.times is not None:
        labels = [f"t = {t:.2f}" for t in draws.times[:MOST].tolist()]
        columns = min(len(draws), 12)
        figure = sheet(pictures, title="Path", subtitle=words, labels=labels, framed=outside, columns=columns)
    else:
        figure = sheet(pictures, title=f"{len(draws)} draws", subtitle=words, framed=outside)
    return {"sheet.png": figure}

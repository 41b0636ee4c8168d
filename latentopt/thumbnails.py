"""Designs as small pictures inside a web page: data URIs that need no file and no network.

Pictures and what a decoder's config draws are PNGs. Other designs are plots of their values: lines or bars where they are
rows of numbers, colours where they are tables. Nothing here loads a decoder.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from latentopt.coderef import named_code
from latentopt.decoder import Decoder
from latentopt.errors import LatentoptError
from latentopt.interfaces import DecoderConfig
from latentopt.registry import installed

Draw = Callable[[Tensor], Tensor | None]

# Sky blue and orange of Okabe and Ito's palette, on black: too dark and too bright
_DARK, _BRIGHT = (0x56 / 255, 0xB4 / 255, 0xE9 / 255), (0xE6 / 255, 0x9F / 255, 0.0)
_LOW, _MIDDLE, _HIGH = (
    (0.12, 0.14, 0.38),
    (0.13, 0.57, 0.55),
    (0.99, 0.91, 0.36),
)  # dark blue, teal, yellow: by lightness
_BARS = 32  # values up to which each has a bar
_BYTES = 16  # values that reach beyond it, and lie in 0 to 255, are bytes
_LEAST = 8  # the least side of a picture without channels, and of one that is made smaller
_STYLE = (
    "path{fill:none;stroke:#0072b2;stroke-width:1.6;stroke-linejoin:round}.g{stroke:#8886;stroke-width:1}"
    "@media(prefers-color-scheme:dark){path{stroke:#6cc0f5}.g{stroke:#8886}}"
)


def as_pictures(designs: Tensor, draw: Draw | None, value_range: tuple[float, float]) -> Tensor | None:
    """Designs `(N, ...)` as pictures `(N, C, H, W)` in [0, 1] with C of 1 or 3, or None where they are no pictures.

    `draw` may draw them itself. Otherwise designs of 1 or 3 channels are pictures in the `value_range`, and so are designs
    `(H, W)` of at least 8 x 8 that keep to that range.
    """
    drawn = draw(designs) if draw is not None else None
    if drawn is not None:
        return drawn.detach().float().cpu().clamp(0, 1)
    low, high = value_range
    scaled = (designs.detach().float().cpu() - low) / (high - low)
    if scaled.ndim == 4 and scaled.shape[1] in (1, 3) and min(scaled.shape[2:]) > 1:
        return scaled.clamp(0, 1)
    in_range = scaled.numel() and float(scaled.amin()) >= -0.05 and float(scaled.amax()) <= 1.05
    if scaled.ndim == 3 and min(scaled.shape[1:]) >= _LEAST and in_range:
        return scaled[:, None].clamp(0, 1)
    return None


def difference(targets: Tensor, found: Tensor, scale: float) -> Tensor:
    """`found - targets` as colours `(N, 3, H, W)`: black where equal, blue where too dark, orange where too bright.

    Colours are full at `scale`. Of three channels the mean is shown.
    """
    signed = ((found - targets).mean(1, keepdim=True) / max(scale, 1e-12)).clamp(-1, 1)
    dark, bright = (torch.tensor(colour).view(1, 3, 1, 1) for colour in (_DARK, _BRIGHT))
    return (-signed).clamp(min=0) * dark + signed.clamp(min=0) * bright


def drawing(config: dict[str, Any]) -> Draw | None:
    """The `draw` of the decoder's config that a run's config names; None where it has none or is not installed.

    No decoder is built, and a config that names code is left alone: nothing that it names is imported.
    """
    plain = config.get("decoder")
    kind = plain.get("kind") if isinstance(plain, dict) else None
    try:
        cls = installed().kinds("decoders").get(kind) if isinstance(kind, str) else None
        if cls is None or not issubclass(cls, DecoderConfig) or cls.draw is DecoderConfig.draw:
            return None
        found = cls.model_validate(plain)
    except (LatentoptError, ValidationError):
        return None
    return None if named_code(found) else found.draw


def value_range(config: dict[str, Any], least_and_most: tuple[float, float]) -> tuple[float, float]:
    """What black and white are: as the decoder's config says, or the first of 0 to 1, -1 to 1, 0 to 255 that holds all."""
    plain = config.get("decoder")
    given = plain.get("value_range") if isinstance(plain, dict) else None
    if isinstance(given, list | tuple) and len(given) == 2 and all(isinstance(one, int | float) for one in given):
        low, high = float(given[0]), float(given[1])
        if -math.inf < low < high < math.inf:
            return low, high
    low, high = least_and_most
    if high > _BYTES and low >= -1 and high <= 256:
        return 0.0, 255.0
    for least, most in ((0.0, 1.0), (-1.0, 1.0)):
        slack = 0.05 * (most - least)
        if low >= least - slack and high <= most + slack:
            return least, most
    return low, high


def _ends(designs: Sequence[Tensor]) -> tuple[float, float]:
    """The least and the largest finite value, a little apart."""
    ends: list[float] = []
    for one in designs:
        values = one.detach().flatten()
        found = [float(end) for end in values.aminmax()] if len(values) else []
        if not all(map(math.isfinite, found)):
            values = values[torch.isfinite(values)]
            found = [float(end) for end in values.aminmax()] if len(values) else []
        ends += found
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


@dataclass(frozen=True)
class Look:
    """How the designs of a run are shown: one way, and one scale, for all of them. `note` says what is odd about it."""

    draw: Draw | None
    range: tuple[float, float]
    ends: tuple[float, float]
    note: str = ""

    @staticmethod
    def of(designs: Tensor, config: dict[str, Any], *more: Tensor | None, decoder: Decoder | None = None) -> Look:
        """How these designs `(N, ...)`, and `more` like them, are shown: as the decoder says, else by config and values."""
        draw, note = (drawing(config) if decoder is None else getattr(decoder.config, "draw", None)), ""
        every = [designs, *(one for one in more if one is not None)]
        if draw is not None and len(designs):
            try:
                drawn = draw(designs[:1])
                if drawn is not None and (drawn.ndim != 4 or drawn.shape[1] not in (1, 3)):
                    raise ValueError(f"it gave shape {tuple(drawn.shape)}, expected (N, 1 or 3, H, W)")
            except Exception as error:  # a plugin's code must not cost the whole report; the report says so
                draw, note = (
                    None,
                    f"the decoder's own drawing failed ({type(error).__name__}: {error}); plain plots instead",
                )
        ends = _ends(every)
        return Look(draw, value_range(config, ends) if decoder is None else decoder.value_range, ends, note)

    def tiles(self, designs: Tensor, side: int) -> list[str]:
        """Each design `(N, ...)` as a data URI, its longer side at most `side` pixels."""
        if not len(designs):
            return []
        pictures = self.pictures(designs)
        if pictures is not None:
            return [_png(one) for one in _pixels(pictures, side)]
        table = _tables(designs)
        if table is None:
            return [self._plot(row, side) for row in _rows(designs)]
        return [_png(one) for one in _pixels(_coloured(self._scaled(table)[:, 0].clamp(0, 1)), side)]

    def pair(self, target: Tensor, found: Tensor, side: int) -> list[tuple[str, str]]:
        """Words and data URIs that set one target beside what was found for it."""
        if target.shape != found.shape:
            return [("found", self.tiles(found[None], side)[0])]
        both = torch.stack([target, found])
        names = [*zip(("target", "found"), self.tiles(both, side), strict=True)]
        shown, table = self.pictures(both), _tables(both)
        if shown is None and table is not None:
            shown = self._scaled(table)
        if shown is None:
            rows = _rows(both)
            less = rows[1] - rows[0]
            return [*names, (f"difference, up to {abs(less).max():.2g}", self._plot(less, side))]
        scale = max(float((shown[1] - shown[0]).abs().amax()), 1e-3)
        signed = difference(shown[:1], shown[1:], scale)
        return [*names, (f"difference, full colour at {scale:.2g}", _png(_pixels(signed, side)[0]))]

    def _scaled(self, table: Tensor) -> Tensor:
        low, high = self.ends
        return ((table - low) / (high - low))[:, None]

    def pictures(self, designs: Tensor) -> Tensor | None:
        """Designs as pictures `(N, C, H, W)` in [0, 1], or None where they are none."""
        return as_pictures(designs.nan_to_num(0.0, 0.0, 0.0), self.draw, self.range)

    def _plot(self, row: NDArray[np.float64], side: int) -> str:
        """A row of values as a line, or bars where they are few, over a line at zero."""
        high = round(0.6 * side)
        low, top = min(self.ends[0], 0.0), max(self.ends[1], 0.0)
        room = 0.04 * (top - low)
        low, top = low - room, top + room
        values = np.clip(_thinned(row, side), low, top)

        def up(value: float) -> str:
            return f"{high * (top - value) / (top - low):.1f}"

        x = (np.arange(len(values)) + 0.5) * side / len(values)
        if len(row) > _BARS:
            marks = '<path d="M{}"/>'.format("L".join(f"{a:.1f} {up(b)}" for a, b in zip(x, values, strict=True)))
        else:
            wide = 0.55 * side / len(values)
            bars = "".join(f"M{a:.1f} {up(0.0)}V{up(b)}" for a, b in zip(x, values, strict=True))
            marks = f'<path class="b" style="stroke-width:{wide:.1f}" d="{bars}"/>'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{high}" viewBox="0 0 {side} {high}">'
        zero = f'<path class="g" d="M0 {up(0.0)}H{side}"/>'
        return "data:image/svg+xml," + quote(f"{head}<style>{_STYLE}</style>{zero}{marks}</svg>", safe="/:=,; .-()")


def _rows(designs: Tensor) -> NDArray[np.float64]:
    return designs.detach().double().flatten(1).nan_to_num(0.0, 0.0, 0.0).cpu().numpy()


def _thinned(row: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Long rows by the least and the largest of each piece, so that peaks stay."""
    pieces = max(width // 2, 1)
    if len(row) <= 2 * pieces:
        return row
    edges = np.linspace(0, len(row), pieces + 1).astype(int)[:-1]
    return np.stack([np.minimum.reduceat(row, edges), np.maximum.reduceat(row, edges)], 1).ravel()


def _tables(designs: Tensor) -> Tensor | None:
    """Designs `(N, A, B)` as they are, the middle slice `(N, A, B)` of larger ones; None where they are rows of numbers."""
    table = designs.detach().float().nan_to_num(0.0, 0.0, 0.0).cpu()
    while table.ndim > 3 and min(table.shape[1:]) == 1:
        table = table.squeeze(int(1 + torch.tensor(table.shape[1:]).argmin()))
    while table.ndim > 3:
        table = table[:, table.shape[1] // 2]
    return table if table.ndim == 3 and min(table.shape[1:]) > 1 else None


def _coloured(table: Tensor) -> Tensor:
    """Values in [0, 1] `(N, A, B)` as colours `(N, 3, A, B)`."""
    low, middle, high = (torch.tensor(colour).view(1, 3, 1, 1) for colour in (_LOW, _MIDDLE, _HIGH))
    share = table[:, None] * 2
    return torch.where(share < 1, low + (middle - low) * share, middle + (high - middle) * (share - 1))


def _pixels(pictures: Tensor, side: int) -> NDArray[np.uint8]:
    """Pictures as bytes `(N, H, W, C)`, made smaller by averaging where they are longer than `side`."""
    longest = max(pictures.shape[2:])
    if longest > side:
        high, wide = (max(1, round(one * side / longest)) for one in pictures.shape[2:])
        pictures = torch.nn.functional.adaptive_avg_pool2d(pictures, (high, wide))
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def fitted(picture: Tensor, side: int, letters: int) -> str:
    """A picture `(C, H, W)` as a data URI of at most so many letters, made smaller until it fits.

    As PNG or WebP, both exact, whichever is smaller; its longer side is at most `side` pixels.
    """
    side = min(side, max(picture.shape[1:]))
    while True:
        pixels = _pixels(picture[None], side)[0]
        uri = min(_png(pixels), _webp(pixels), key=len)
        if len(uri) <= letters or side <= _LEAST:
            return uri
        side = max(_LEAST, int(side * min(0.95, (letters / len(uri)) ** 0.5)))


def _png(pixels: NDArray[np.uint8]) -> str:
    return _uri(pixels, "png", optimize=False, compress_level=6)


def _webp(pixels: NDArray[np.uint8]) -> str:
    return _uri(pixels, "webp", lossless=True)


def _uri(pixels: NDArray[np.uint8], kind: str, **options: Any) -> str:
    plain = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    target = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plain)).save(target, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(target.getvalue()).decode()

"""Airfoils as 18 CST numbers, and their outlines: heights of the upper and lower surface over the chord.

A design `(N, 18)` holds eight weights of the upper surface, eight of the lower (negative below the chord), the weight of the
leading-edge modification and the thickness of the trailing edge, in chords: Kulfan's class and shape transformation (AIAA
Journal of Aircraft 45, 2008) with the modification of 2020, as AeroSandbox and NeuralFoil use it. Heights are linear in
the 18 numbers. Shapes: N designs, K places along the chord.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

NUMBERS = 18
UPPER, LOWER, LEADING, TRAILING = slice(0, 8), slice(8, 16), 16, 17
PLACES = 101  # along the chord, on each surface: where outlines are compared and measured


def places(count: int = PLACES) -> Tensor:
    """Places along the chord `(count,)` from 0, the leading edge, to 1; dense at both ends; float64."""
    return (1 - torch.cos(torch.linspace(0, math.pi, count, dtype=torch.float64))) / 2


def heights_of(x_K: Tensor) -> tuple[Tensor, Tensor]:
    """Two matrices `(K, 18)` that give the heights of the upper and the lower surface at these places.

    y(x) = x^(1/2) (1 - x) sum_i w_i C(7, i) x^i (1 - x)^(7 - i) + w_le x (1 - x)^8.5 +- t_te x / 2, float64.
    """
    x_K = x_K.double()
    shape_K8 = torch.stack([math.comb(7, i) * x_K**i * (1 - x_K) ** (7 - i) for i in range(8)], dim=1)
    weights_K8 = (x_K.sqrt() * (1 - x_K))[:, None] * shape_K8
    leading, trailing, none = x_K * (1 - x_K) ** 8.5, x_K / 2, torch.zeros_like(weights_K8)
    upper = torch.cat([weights_K8, none, leading[:, None], trailing[:, None]], dim=1)
    lower = torch.cat([none, weights_K8, leading[:, None], -trailing[:, None]], dim=1)
    return upper, lower


@lru_cache(maxsize=64)
def _cached(count: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    x_K = places(count)
    upper, lower = heights_of(x_K)
    return x_K.to(device, dtype), upper.to(device, dtype), lower.to(device, dtype)


def outline(designs: Tensor, count: int = PLACES) -> tuple[Tensor, Tensor, Tensor]:
    """The places `(K,)` and the heights of the upper and the lower surface `(N, K)`, in chords, of designs `(N, 18)`."""
    x_K, upper, lower = _cached(count, designs.device, designs.dtype)
    return x_K, designs @ upper.T, designs @ lower.T


@lru_cache(maxsize=1)
def metric() -> Tensor:
    """A triangular matrix R `(18, 18)`, float64: |R (a - b)| is the root mean square distance of two outlines, in chords.

    Over both surfaces at `PLACES` places each. R is of the QR decomposition of the matrix from numbers to heights.
    """
    both = torch.cat(heights_of(places()))
    return torch.linalg.qr(both / len(both) ** 0.5, mode="r").R


def thickness(designs: Tensor) -> Tensor:
    """Upper minus lower surface over the chord `(N, K)`, in chords."""
    _, upper, lower = outline(designs)
    return upper - lower


_WIDTH, _HEIGHT, _CHORD, _MIDDLE, _COLUMNS = 192, 80, 176, 0.04, 4


def pictures(designs: Tensor) -> Tensor:
    """Designs `(N, 18)` as pictures `(N, 1, 80, 192)` in [0, 1]: filled outlines in dark on white, chord 176 pixels.

    The same scale both ways, so that thin looks thin. A pixel's darkness is the share of it that the airfoil covers, exact
    in height and at four columns across. What is more than 0.18 chords below or 0.26 above the chord line is cut off.
    """
    left = (_WIDTH - _CHORD) / 2
    columns = (torch.arange(_WIDTH * _COLUMNS, dtype=torch.float64) + 0.5) / _COLUMNS
    x_K = (columns - left) / _CHORD
    upper, lower = (part.to(designs.device, designs.dtype) for part in heights_of(x_K.clamp(0, 1)))
    within = ((x_K >= 0) & (x_K <= 1)).to(designs.device)
    # rows of pixels count downwards
    top, bottom = ((_MIDDLE - designs @ part.T) * _CHORD + _HEIGHT / 2 for part in (upper, lower))
    row = torch.arange(_HEIGHT, device=designs.device, dtype=designs.dtype)[:, None]
    covered = torch.minimum(bottom[:, None], row + 1) - torch.maximum(top[:, None], row)
    share = (covered.clamp(0, 1) * within).reshape(len(designs), _HEIGHT, _WIDTH, _COLUMNS).mean(-1)
    return 1 - 0.85 * share[:, None]

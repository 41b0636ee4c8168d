"""What a structure's place in its cell means nothing for: shifts, quarter turns, and the one place that stands for all."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt import ShapeError

_SMOOTHING = 5.0  # pixels: about the radius of the smallest features


def centred(designs: Tensor) -> Tensor:
    """The same periodic structures `(N, 1, H, W)`, each shifted so that the middle of phase 1 lies in the middle of the cell.

    A periodic structure has no corner: its H x W shifts are one material. The decoder knows each material in one of them, so
    that its latents tell shapes and not places: where phase 1, smoothed by a Gaussian of 5 pixels, is at its highest.
    Designs go through `centred` before they are encoded. Shifts are whole pixels. Raises `ShapeError` for other shapes.
    """
    if designs.ndim != 4 or designs.shape[1] != 1:
        raise ShapeError(f"structures are (N, 1, H, W), got shape {tuple(designs.shape)}")
    rows, columns = peak(designs)
    height, width = designs.shape[-2:]
    index_y = (torch.arange(height, device=designs.device) + (rows - height // 2)[:, None]) % height
    index_x = (torch.arange(width, device=designs.device) + (columns - width // 2)[:, None]) % width
    batch = torch.arange(len(designs), device=designs.device)[:, None, None]
    return designs[:, 0][batch, index_y[:, :, None], index_x[:, None, :]][:, None]


def peak(designs: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column `(N,)` of the highest value of the smoothed designs."""
    height, width = designs.shape[-2:]
    k_y = torch.fft.fftfreq(height, device=designs.device)[:, None]
    k_x = torch.fft.rfftfreq(width, device=designs.device)[None, :]
    damping = torch.exp(-2 * (torch.pi * _SMOOTHING) ** 2 * (k_y**2 + k_x**2))
    smooth = torch.fft.irfft2(torch.fft.rfft2(designs[:, 0].float()) * damping, s=(height, width))
    found = smooth.flatten(1).argmax(1)
    return found // width, found % width


def turned(designs: Tensor, which: int) -> Tensor:
    """One of the eight symmetries of the square (0 to 7) applied about the middle pixel of structures `(N, 1, H, H)`."""
    if which & 1:
        designs = designs.transpose(-1, -2)
    for bit, axis in ((2, -1), (4, -2)):
        if which & bit:
            designs = designs.flip(axis).roll(1, axis)
    return designs

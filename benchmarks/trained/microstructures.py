"""Colour pictures of made-up materials: two phases with a soft interface, round inclusions, and light from one side."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIDE = 64
# Seeds of what is held out: training draws from 1 + epoch on, and so never comes to these.
KEPT_SEED, TEST_SEED = 1_000_001, 1_000_002
# Whole waves a side, one of each pair that differs in sign only: 10 of at most sqrt(5).
_MODES = [(a, b) for a in range(3) for b in range(-2, 3) if 0 < a * a + b * b <= 5 and (a > 0 or b > 0)]
_INCLUSIONS = 2
# Matrix, phase, inclusion; each value varies by up to 0.3 above these. A phase is always the lighter and warmer of the two:
# were they alike, each picture could be had in two ways, which no smooth map from latents can do.
_COLOURS = torch.tensor([[0.10, 0.15, 0.30], [0.65, 0.50, 0.25], [0.70, 0.05, 0.10]])


def draw(n: int, seed: int, block: int = 256) -> Tensor:
    """Pictures `(n, 3, 64, 64)`, uint8, a function of the seed. The first whole blocks of n are those of fewer."""
    generator = torch.Generator().manual_seed(seed)
    parts = [_block(block, generator) for _ in range(-(-n // block))]
    return torch.cat(parts)[:n]


def _block(n: int, generator: torch.Generator) -> Tensor:
    """One block: `colour = mix(matrix, phase, inclusion) * light`, everything smooth in 38 random numbers."""
    phase_N1HW = torch.sigmoid(_field(n, generator) * 4)
    inclusion_N1HW = _inclusions(n, generator)
    spread_N33 = 0.3 * torch.rand(n, 3, 3, generator=generator)
    matrix, phase, inclusion = ((_COLOURS[k] + spread_N33[:, k])[..., None, None] for k in range(3))
    mixed_N3HW = torch.lerp(torch.lerp(matrix, phase, phase_N1HW), inclusion, inclusion_N1HW)
    lit_N3HW = mixed_N3HW * _light(n, generator)
    return (lit_N3HW.clamp(0, 1) * 255).round().to(torch.uint8)


def _grid() -> tuple[Tensor, Tensor]:
    """Coordinates of the pixels' centres in [0, 1), `(H, 1)` and `(1, W)`."""
    at = (torch.arange(SIDE) + 0.5) / SIDE
    return at[:, None], at[None, :]


def _field(n: int, generator: torch.Generator) -> Tensor:
    """A periodic Gaussian random field `(n, 1, H, W)` of variance 1 and low frequency, less a level: a two-phase texture."""
    y_H1, x_1W = _grid()
    angle_KHW = torch.stack([2 * math.pi * (a * y_H1 + b * x_1W) for a, b in _MODES])
    waves_K2HW = torch.cat([angle_KHW.cos(), angle_KHW.sin()])
    wave_number_K = torch.tensor([math.hypot(a, b) for a, b in _MODES]).repeat(2)
    amplitude_K = wave_number_K**-1.0
    amplitude_K = amplitude_K / amplitude_K.square().sum().mul(0.5).sqrt()
    coefficients_NK = torch.randn(n, len(amplitude_K), generator=generator) * amplitude_K
    level_N1 = 0.5 * torch.randn(n, 1, generator=generator)
    return (coefficients_NK @ waves_K2HW.flatten(1) - level_N1).view(n, 1, SIDE, SIDE)


def _inclusions(n: int, generator: torch.Generator) -> Tensor:
    """How far a pixel lies in one of two discs `(n, 1, H, W)`, in [0, 1]: radii 0.08 to 0.16 of the side, soft edges."""
    y_H1, x_1W = _grid()
    centre_NK2 = torch.rand(n, _INCLUSIONS, 2, generator=generator)
    radius_NK = 0.08 + 0.08 * torch.rand(n, _INCLUSIONS, generator=generator)
    y_NKH1 = y_H1 - centre_NK2[..., 0, None, None]
    x_NK1W = x_1W - centre_NK2[..., 1, None, None]
    distance_NKHW = (y_NKH1.square() + x_NK1W.square()).sqrt()
    inside_NKHW = torch.sigmoid((radius_NK[..., None, None] - distance_NKHW) * 40)
    return 1 - (1 - inside_NKHW).prod(dim=1, keepdim=True)


def _light(n: int, generator: torch.Generator) -> Tensor:
    """Brightness `(n, 1, H, W)` that falls off to one side, about 1 in the middle."""
    y_H1, x_1W = _grid()
    slope_N2 = 0.35 * torch.randn(n, 2, generator=generator).clamp(-2, 2)
    y_N1, x_N1 = slope_N2[:, 0, None, None], slope_N2[:, 1, None, None]
    return (1 + y_N1 * (y_H1 - 0.5) + x_N1 * (x_1W - 0.5))[:, None]

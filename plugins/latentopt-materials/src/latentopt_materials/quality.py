"""How well an auto-encoder of microstructures does: figures that the training record holds, and a test measures again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Coded = Callable[[Tensor], tuple[Tensor, Tensor]]
Decoded = Callable[[Tensor], Tensor]
_ROWS = 500  # a pass


def two_point(designs: Tensor) -> Tensor:
    """Periodic two-point correlations `(N, H, W)` of phase 1: the mean of x(p) x(p + r) over p, at each shift r.

    By the Wiener-Khinchin theorem; at r = 0 the volume fraction for two phases.
    """
    spectrum = torch.fft.rfft2(designs[:, 0])
    size = designs.shape[-2:]
    return torch.fft.irfft2(spectrum.abs().square(), s=size) / (size[0] * size[1])


def interface_length(designs: Tensor) -> Tensor:
    """Length `(N,)` of the interfaces of thresholded designs a cell's side, counted along pixel edges."""
    return _edges(designs).sum(1)


def axis_ratio(designs: Tensor) -> Tensor:
    """How many times more interface thresholded designs show along one axis than along the other, `(N,)`: 1 or more."""
    edges = _edges(designs).clamp(min=1 / designs.shape[-1])  # one pixel's edge, where a laminate has none
    return edges.amax(1) / edges.amin(1)


def _edges(designs: Tensor) -> Tensor:
    """Lengths `(N, 2)` of the edges between pixels of two phases, across rows and across columns, a cell's side."""
    phase = (designs[:, 0] > 0.5).float()
    changes = [(phase - phase.roll(1, axis)).abs().mean((1, 2)) for axis in (1, 2)]
    return torch.stack(changes, 1) * designs.shape[-1]


def grey_share(designs: Tensor) -> float:
    """Share of pixels between 0.1 and 0.9, which belong to neither phase."""
    return float(((designs > 0.1) & (designs < 0.9)).float().mean())


@torch.no_grad()
def reconstruction(encoder: Coded, decoder: Decoded, designs: Tensor) -> dict[str, float]:
    """What becomes of centred designs `(N, 1, 64, 64)` that are encoded and decoded: means over the designs.

    `mse` of pixels, `wrong_phase` (share of pixels whose phase changes), `volume_fraction_error` (absolute),
    `two_point_error` (root mean square over all shifts), `two_point_spread` (the same between one design and the next,
    to compare with), and `grey` (share of pixels between 0.1 and 0.9).
    """
    again = torch.cat([decoder(encoder(part)[0]) for part in designs.split(_ROWS)])
    before, after = two_point(designs), two_point(again)

    def rms(difference: Tensor) -> float:
        return float(difference.square().mean((1, 2)).sqrt().mean())

    return {
        "mse": float((again - designs).square().mean()),
        "wrong_phase": float(((again > 0.5) != (designs > 0.5)).float().mean()),
        "volume_fraction_error": float((again.mean((1, 2, 3)) - designs.mean((1, 2, 3))).abs().mean()),
        "two_point_error": rms(after - before),
        "two_point_spread": rms(before - before.roll(1, 0)),
        "grey": grey_share(again),
    }


@torch.no_grad()
def posterior(encoder: Coded, designs: Tensor, seed: int) -> dict[str, float]:
    """How near the latents of centred designs are to N(0, I): active units, radii, moments of draws from the posterior.

    A unit is active where its KL divergence from the prior is above 0.05 nats. The radii are medians; that of N(0, I) in 32
    dimensions is 5.61. The eigenvalues are those of the covariance of the draws, and 1 for N(0, I).
    """
    mean, log_variance = (torch.cat(parts) for parts in zip(*map(encoder, designs.split(_ROWS)), strict=True))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    z = mean + noise * torch.exp(0.5 * log_variance)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(0)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(z.T))
    return {
        "kl_nats": float(kl.sum()),
        "active_units": int((kl > 0.05).sum()),
        "radius_of_codes": float(mean.norm(dim=1).median()),
        "radius_of_draws": float(z.norm(dim=1).median()),
        "mean_norm": float(z.mean(0).norm()),
        "smallest_eigenvalue": float(eigenvalues[0]),
        "largest_eigenvalue": float(eigenvalues[-1]),
        "kurtosis": float(((z - z.mean(0)) ** 4).mean(0).div(z.var(0, unbiased=False) ** 2).mean()),
    }


@torch.no_grad()
def draws(decoder: Decoded, dim: int, n: int, seed: int) -> dict[str, float]:
    """What decoded draws from N(0, I) look like: grey pixels, volume fractions, interfaces."""
    z = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    designs = torch.cat([decoder(part) for part in z.split(_ROWS)])
    return appearance(designs)


def appearance(designs: Tensor) -> dict[str, float]:
    """Grey pixels, percentiles of the volume fraction, lengths of interfaces, and the 99th percentile of the axis ratio."""
    fraction, length = designs.mean((1, 2, 3)), interface_length(designs)
    low, middle, high = (float(q) for q in fraction.quantile(torch.tensor([0.05, 0.5, 0.95])))
    return {
        "grey": grey_share(designs),
        "volume_fraction_5": low,
        "volume_fraction_50": middle,
        "volume_fraction_95": high,
        "interface_mean": float(length.mean()),
        "interface_std": float(length.std()),
        "axis_ratio_99": float(axis_ratio(designs).quantile(0.99)),
    }

"""The networks of the trained auto-encoders: plain `nn.Sequential` decoders, and encoders that give mean and log-variance."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Shapes:
    """Of one auto-encoder: D values a latent, `(C, H, W)` a design."""

    latent: int
    design: tuple[int, int, int]


SHAPES = {
    "d20": Shapes(20, (1, 28, 28)),
    "deep": Shapes(20, (1, 28, 28)),
    "conv": Shapes(64, (3, 64, 64)),
}


class Halves(nn.Module):
    """Rows `(N, 2 D)` to the posterior's mean and log-variance, each `(N, D)`."""

    def forward(self, rows_N2D: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        mean_ND, log_variance_ND = rows_N2D.chunk(2, dim=1)
        return mean_ND, log_variance_ND


def build(name: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of that name, untrained. A decoder ends in the sigmoid of its logits, which `[:-1]` gives."""
    return {"d20": _d20, "deep": _deep, "conv": _conv}[name]()


def _d20() -> tuple[nn.Sequential, nn.Sequential]:
    """20-128-784 with ReLU: the smallest decoder that people write."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 40), Halves())
    decoder = nn.Sequential(
        nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 784), nn.Unflatten(1, (1, 28, 28)), nn.Sigmoid()
    )
    return encoder, decoder


def _deep() -> tuple[nn.Sequential, nn.Sequential]:
    """20-500-500-784 with softplus: smooth everywhere, and most of its time in one square layer."""
    encoder = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 500),
        nn.Softplus(),
        nn.Linear(500, 500),
        nn.Softplus(),
        nn.Linear(500, 40),
        Halves(),
    )
    decoder = nn.Sequential(
        nn.Linear(20, 500),
        nn.Softplus(),
        nn.Linear(500, 500),
        nn.Softplus(),
        nn.Linear(500, 784),
        nn.Unflatten(1, (1, 28, 28)),
        nn.Sigmoid(),
    )
    return encoder, decoder


# Channels at 4, 8, 16 and 32 pixels: each step halves them while it doubles the side, so all cost about the same.
_UP = (384, 192, 96, 48)
_DOWN = (3, 24, 48, 96, 128)


def _conv() -> tuple[nn.Sequential, nn.Sequential]:
    """64 values to 3 x 64 x 64: transposed convolutions, each followed by batch normalisation (Radford et al. 2016)."""
    down: list[nn.Module] = []
    for before, after in itertools.pairwise(_DOWN):
        down += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(_DOWN[-1] * 16, 128), Halves())
    up: list[nn.Module] = [nn.Linear(64, _UP[0] * 16, bias=False), nn.Unflatten(1, (_UP[0], 4, 4))]
    for before, after in itertools.pairwise(_UP):
        up += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
    up += [nn.BatchNorm2d(_UP[-1]), nn.ReLU(), nn.ConvTranspose2d(_UP[-1], 3, 4, 2, 1), nn.Sigmoid()]
    decoder = nn.Sequential(*up)
    return encoder, decoder

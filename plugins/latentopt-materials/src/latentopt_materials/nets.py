"""The networks of the decoder `microstructures`: a variational auto-encoder with periodic convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LATENT = 32
# A network's doubt is grey, and a structure has no doubts: the level-set function is 4 times as steep as the log-odds that
# were trained. Interfaces stay where they are. With 4, draws from the prior have 4.5 % of grey pixels and decoded structures
# 2.4 %, on either side of the structures' own 3.5 %.
SHARPNESS = 4.0
_WIDTH, _CHANNELS = 512, 16


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="circular")


class MicrostructureDecoder(nn.Module):
    """Latents `(N, 32)` to structures `(N, 1, 64, 64)` in [0, 1]: the local volume fraction of phase 1.

    Dense layers give an 8 x 8 grid; periodic convolutions with pixel shuffles refine it to a level-set function of 32 x 32,
    which periodic cubic B-splines draw out to 64 x 64. Interfaces lie where it is 0. From the grid on, all commutes with
    shifts of the grid: one cell there is 8 pixels here, across the border of the unit cell as anywhere else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(LATENT, _WIDTH)
        self.fc2 = nn.Linear(_WIDTH, _WIDTH)
        self.fc3 = nn.Linear(_WIDTH, _CHANNELS * 64)
        self.conv1 = _convolution(_CHANNELS, 4 * 16)
        self.conv2 = _convolution(16, 4)

    def forward(self, z: Tensor) -> Tensor:
        """The structures."""
        return torch.sigmoid(SHARPNESS * self.logits(z))

    def logits(self, z: Tensor) -> Tensor:
        """The log-odds of phase 1 that training uses: where the network is not sure of a phase they are near 0."""
        hidden = nn.functional.silu(self.fc1(z))
        hidden = nn.functional.silu(self.fc2(hidden))
        return self.refined(self.fc3(hidden).view(-1, _CHANNELS, 8, 8))

    def refined(self, grid: Tensor) -> Tensor:
        """The logits of grids `(N, 16, 8, 8)`: the periodic part alone."""
        hidden = nn.functional.silu(nn.functional.pixel_shuffle(self.conv1(nn.functional.silu(grid)), 2))
        level = nn.functional.pixel_shuffle(self.conv2(hidden), 2)
        spread = splines(level)
        return spread @ level @ spread.T


def splines(like: Tensor) -> Tensor:
    """The matrix `(64, 32)` of periodic cubic B-splines that stand 2 pixels apart, at the middles of 64 pixels."""
    weights = torch.tensor([[1, 121, 235, 27], [27, 235, 121, 1]], dtype=like.dtype, device=like.device) / 384
    eye = torch.eye(32, dtype=like.dtype, device=like.device)
    even, odd = (
        torch.stack([weight * eye.roll(first + i, 1) for i, weight in enumerate(row)]).sum(0)
        for first, row in ((-2, weights[0]), (-1, weights[1]))
    )
    return torch.stack([even, odd], 1).reshape(64, 32)


class MicrostructureEncoder(nn.Module):
    """Centred structures `(N, 1, 64, 64)` to the posterior's mean and log-variance, each `(N, 32)`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _convolution(16, 24)
        self.fc1 = nn.Linear(24 * 64, _WIDTH)
        self.head = nn.Linear(_WIDTH, 2 * LATENT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        cells = nn.functional.pixel_unshuffle(nn.functional.avg_pool2d(2 * x - 1, 2), 4)
        hidden = nn.functional.silu(self.conv1(cells))
        hidden = nn.functional.silu(self.fc1(hidden.flatten(1)))
        mean, log_variance = self.head(hidden).chunk(2, dim=1)
        return mean, log_variance

"""The networks of the decoder `airfoils`: a variational auto-encoder of CST numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentopt_airfoils.outlines import NUMBERS, TRAILING

LATENT, HIDDEN = 8, 128
_SOFT = 5e-4  # chords: trailing edges thinner than this bend towards 0 and never get below it


class _Scaled(nn.Module):
    """Keeps the mean and the standard deviation of the 18 numbers over the airfoils of the training."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(NUMBERS))
        self.register_buffer("std", torch.ones(NUMBERS))


class AirfoilDecoder(_Scaled):
    """Latents `(N, 8)` to CST numbers `(N, 18)`: two hidden layers of 128. The trailing edge is never thinner than 0."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(LATENT, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.fc3 = nn.Linear(HIDDEN, NUMBERS)

    def forward(self, z: Tensor) -> Tensor:
        """The numbers."""
        hidden = nn.functional.silu(self.fc1(z))
        hidden = nn.functional.silu(self.fc2(hidden))
        numbers = self.mean + self.std * self.fc3(hidden)
        edge = _SOFT * nn.functional.softplus(numbers[:, TRAILING:] / _SOFT)
        return torch.cat([numbers[:, :TRAILING], edge], dim=1)


class AirfoilEncoder(_Scaled):
    """CST numbers `(N, 18)` to the posterior's mean and log-variance, each `(N, 8)`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(NUMBERS, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.fc3 = nn.Linear(HIDDEN, 2 * LATENT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        hidden = nn.functional.silu(self.fc1((x - self.mean) / self.std))
        hidden = nn.functional.silu(self.fc2(hidden))
        mean, log_variance = self.fc3(hidden).chunk(2, dim=1)
        return mean, log_variance

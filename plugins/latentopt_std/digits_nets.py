"""The networks of the embedded decoder `digits`: a variational auto-encoder of 28 x 28 handwritten digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LATENT = 20


class DigitsDecoder(nn.Module):
    """Latents `(N, 20)` to pictures `(N, 1, 28, 28)` in [0, 1]: two hidden layers of 256 and 512."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(LATENT, 256)
        self.fc2 = nn.Linear(256, 512)
        self.fc3 = nn.Linear(512, 784)

    def forward(self, z: Tensor) -> Tensor:
        """The pictures."""
        return torch.sigmoid(self.logits(z))

    def logits(self, z: Tensor) -> Tensor:
        """The pictures before the sigmoid: what training uses."""
        hidden = nn.functional.silu(self.fc1(z))
        hidden = nn.functional.silu(self.fc2(hidden))
        return self.fc3(hidden).view(-1, 1, 28, 28)


class DigitsEncoder(nn.Module):
    """Pictures `(N, 1, 28, 28)` to the posterior's mean and log-variance, each `(N, 20)`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.head = nn.Linear(64 * 7 * 7, 2 * LATENT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        hidden = nn.functional.silu(self.conv1(x))
        hidden = nn.functional.silu(self.conv2(hidden))
        mean, log_variance = self.head(hidden.flatten(1)).chunk(2, dim=1)
        return mean, log_variance

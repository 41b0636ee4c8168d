"""The latent space: the shape of one latent, what is believed of it, and on what grounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Generator, Tensor

from latentopt import rng
from latentopt.errors import ShapeError
from latentopt.priors import Normal, PriorBase


@dataclass(frozen=True)
class Evidence:
    """On what grounds a prior is believed: given, fitted to n encodings, or assumed; and what a check against data said."""

    source: Literal["given", "fitted", "assumed"]
    encodings: int = 0
    finding: str = ""

    def __str__(self) -> str:
        words = {
            "given": "given with the decoder" if self.encodings else "given with the decoder, unchecked",
            "fitted": f"fitted to {self.encodings} encodings",
            "assumed": "assumed, unchecked",
        }[self.source]
        return f"{words}; {self.finding}" if self.finding else words


@dataclass(frozen=True)
class LatentSpace:
    """The decoder's input space: the shape of one latent, the prior, and the grounds for it."""

    shape: tuple[int, ...]
    prior: PriorBase = field(default_factory=Normal)
    evidence: Evidence = Evidence("assumed")

    def __post_init__(self) -> None:
        if not self.shape or any(not isinstance(n, int) or n < 1 for n in self.shape):
            raise ShapeError(f"latent_shape must be positive whole numbers, for example (64,), got {self.shape}")
        self.prior.check(self.dim)

    @property
    def dim(self) -> int:
        """D, the number of values in one latent."""
        return math.prod(self.shape)

    def flatten(self, z: Tensor) -> Tensor:
        """Latents `(N, *shape)`, `(N, D)`, or one of `shape` or `(D,)`, as rows `(N, D)`. Raises `ShapeError` otherwise."""
        if tuple(z.shape[1:]) == self.shape:
            return z.reshape(len(z), self.dim)
        if z.ndim == 2 and z.shape[1] == self.dim:
            return z
        if tuple(z.shape) in (self.shape, (self.dim,)):
            return z.reshape(1, self.dim)
        raise ShapeError(
            f"latents of shape {tuple(z.shape)} do not fit this decoder: give (N, {', '.join(map(str, self.shape))})"
        )

    def unflatten(self, z_ND: Tensor) -> Tensor:
        """Rows `(N, D)` as latents `(N, *shape)`."""
        return z_ND.reshape(len(z_ND), *self.shape)

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Draws from the prior `(n, D)`, float32; the first k of n are those of k."""
        return self.prior.sample(n, self.dim, generator)

    def normal(self, n: int, generator: Generator) -> Tensor:
        """Standard normals `(n, D)`, prefix-stable in n: what samplers should draw from."""
        return rng.randn(n, self.dim, generator)

    def uniform(self, n: int, generator: Generator) -> Tensor:
        """Uniform numbers in [0, 1) `(n, D)`, prefix-stable in n."""
        return rng.rand(n, self.dim, generator)

    def mean(self, like: Tensor) -> Tensor:
        """The prior's mean `(D,)`, on the device and in the dtype of `like`."""
        return self.prior.moments(self.dim, like)[0]

    def std(self, like: Tensor) -> Tensor:
        """The prior's standard deviation of each coordinate `(D,)`, on the device and in the dtype of `like`."""
        return self.prior.moments(self.dim, like)[1]

    def with_prior(self, prior: PriorBase, evidence: Evidence) -> LatentSpace:
        """The same space under another prior."""
        return replace(self, prior=prior, evidence=evidence)

"""Priors: what is believed of the latents. Each samples, gives `log_prob`, and measures a latent's radius.

The *radius* is the distance to the prior's centre in units that make the prior round (standard deviations for the Gaussian
kinds, half widths for the box). Scaling a latent about its centre scales its radius, so every region by radius is one
formula for all priors.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Generator, Tensor

from latentopt import rng
from latentopt.errors import ConfigError
from latentopt.models import StrictModel

TINY = 1e-12


class PerDevice:
    """Tensors that are copied to a device once and not at every step."""

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = tensors
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def on(self, like: Tensor) -> tuple[Tensor, ...]:
        key = (like.device, like.dtype)
        if key not in self._copies:
            self._copies[key] = tuple(tensor.to(like) for tensor in self._tensors)
        return self._copies[key]


class Frozen(StrictModel):
    """A frozen config that may keep what it worked out once."""

    model_config = ConfigDict(ignored_types=(cached_property,))


class PriorBase(Frozen):
    """What every prior offers; latents are rows `(N, D)`, radii and percentiles `(N,)`, percentiles in [0, 100]."""

    def check(self, dim: int) -> None:
        """Raise `ConfigError` where the prior's own numbers do not fit D latent coordinates."""

    def sample(self, n: int, dim: int, generator: Generator) -> Tensor:
        """Draws `(n, D)`, float32; the first k of n are those of k."""
        return self.from_normal(wide(rng.randn(n, dim, generator))).float()

    def from_normal(self, u_ND: Tensor) -> Tensor:
        """Standard normal numbers carried over to this prior, `(n, D)`."""
        raise NotImplementedError

    def from_uniform(self, u_ND: Tensor) -> Tensor:
        """Uniform numbers in (0, 1) carried over to this prior, `(n, D)`: what low-discrepancy points need."""
        return self.from_normal(torch.special.ndtri(u_ND.clamp(1e-7, 1 - 1e-7)))

    def log_prob(self, z_ND: Tensor) -> Tensor:
        """Natural log-density, `(N,)`."""
        raise NotImplementedError

    def centre(self, z_ND: Tensor) -> Tensor:
        """The centre that belongs to each row, `(N, D)` or broadcastable to it."""
        raise NotImplementedError

    def radius(self, z_ND: Tensor) -> Tensor:
        """Distance from the centre, `(N,)`, in the prior's own units."""
        raise NotImplementedError

    def radius_percentile(self, radius_N: Tensor, dim: int) -> Tensor:
        """Share of the prior's draws with a smaller radius, in per cent, `(N,)`."""
        raise NotImplementedError

    def radius_at(self, percentile: float, dim: int) -> float:
        """The radius below which this share of the prior's draws lies."""
        low, high = 0.0, 1.0
        grid = torch.tensor([0.0], dtype=torch.float64)
        while float(self.radius_percentile(grid + high, dim)) < percentile and high < 1e9:
            high *= 2
        for _ in range(80):
            mid = (low + high) / 2
            if float(self.radius_percentile(grid + mid, dim)) < percentile:
                low = mid
            else:
                high = mid
        return high

    def moments(self, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each coordinate, both `(D,)`, on the device and in the dtype of `like`."""
        raise NotImplementedError

    def interval(self, percentile: float, dim: int) -> tuple[Tensor, Tensor]:
        """Each coordinate's own central share of the prior's draws, from and to, both `(D,)`, float64 on the CPU."""
        raise NotImplementedError


class GaussianKind(PriorBase):
    """A prior whose radius has the chi distribution with D degrees of freedom."""

    def interval(self, percentile: float, dim: int) -> tuple[Tensor, Tensor]:
        mean, std = self.moments(dim, torch.zeros(1, dtype=torch.float64))
        reach = torch.special.ndtri(torch.tensor(0.5 + percentile / 200, dtype=torch.float64))
        return mean - reach * std, mean + reach * std

    def radius_percentile(self, radius_N: Tensor, dim: int) -> Tensor:
        half = radius_N.double().square() / 2
        return 100 * torch.special.gammainc(torch.full_like(half, dim / 2), half)


class Normal(GaussianKind):
    """Independent normals; `N(0, I)` unless a mean or standard deviation is given (numbers or D of them)."""

    kind: Literal["normal"] = "normal"
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0

    @model_validator(mode="after")
    def _positive(self) -> Normal:
        if any(std <= 0 for std in _as_tuple(self.std)):
            raise ValueError(f"std must be positive, got {self.std}")
        return self

    def check(self, dim: int) -> None:
        check_length("mean", self.mean, dim)
        check_length("std", self.std, dim)

    def from_normal(self, u_ND: Tensor) -> Tensor:
        mean, std = self.moments(u_ND.shape[1], u_ND)
        return u_ND * std + mean

    @cached_property
    def _vectors(self) -> PerDevice:
        return PerDevice(torch.tensor(self.mean).double(), torch.tensor(self.std).double())

    @property
    def is_standard(self) -> bool:
        """Whether this is N(0, I)."""
        return self.mean == 0.0 and self.std == 1.0

    def log_prob(self, z_ND: Tensor) -> Tensor:
        dim = z_ND.shape[1]
        _, std = self.moments(dim, z_ND)
        return -0.5 * self.radius(z_ND).square() - std.log().sum() - 0.5 * dim * math.log(2 * math.pi)

    def centre(self, z_ND: Tensor) -> Tensor:
        return self.moments(z_ND.shape[1], z_ND)[0]

    def radius(self, z_ND: Tensor) -> Tensor:
        if self.is_standard:
            return torch.linalg.vector_norm(z_ND, dim=1)
        mean, std = self.moments(z_ND.shape[1], z_ND)
        return torch.linalg.vector_norm((z_ND - mean) / std, dim=1)

    def moments(self, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self._vectors.on(like)
        return mean.expand(dim), std.expand(dim)


class Uniform(PriorBase):
    """Independent uniforms between `low` and `high` (numbers or D of them). Radius 1 is the box's surface."""

    kind: Literal["uniform"] = "uniform"
    low: float | tuple[float, ...] = -1.0
    high: float | tuple[float, ...] = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        check_ordered(self.low, self.high)
        return self

    def check(self, dim: int) -> None:
        check_length("low", self.low, dim)
        check_length("high", self.high, dim)

    @cached_property
    def _vectors(self) -> PerDevice:
        low, high = torch.tensor(self.low).double(), torch.tensor(self.high).double()
        return PerDevice((low + high) / 2, (high - low) / 2)

    def _box(self, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
        middle, half = self._vectors.on(like)
        return middle.expand(dim), half.expand(dim)

    def sample(self, n: int, dim: int, generator: Generator) -> Tensor:
        return self.from_uniform(rng.rand(n, dim, generator))

    def from_normal(self, u_ND: Tensor) -> Tensor:
        return self.from_uniform(torch.special.ndtr(u_ND))

    def from_uniform(self, u_ND: Tensor) -> Tensor:
        middle, half = self._box(u_ND.shape[1], u_ND)
        return middle + (2 * u_ND - 1) * half

    def log_prob(self, z_ND: Tensor) -> Tensor:
        _, half = self._box(z_ND.shape[1], z_ND)
        inside = self.radius(z_ND) <= 1 + 1e-4  # float32 rows on the surface of a box far from 0
        return torch.where(inside, -(2 * half).log().sum(), -math.inf)

    def centre(self, z_ND: Tensor) -> Tensor:
        return self._box(z_ND.shape[1], z_ND)[0]

    def radius(self, z_ND: Tensor) -> Tensor:
        middle, half = self._box(z_ND.shape[1], z_ND)
        return ((z_ND - middle) / half).abs().amax(dim=1)

    def radius_percentile(self, radius_N: Tensor, dim: int) -> Tensor:
        return 100 * radius_N.double().clamp(0, 1).pow(dim)

    def moments(self, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
        middle, half = self._box(dim, like)
        return middle, half / math.sqrt(3)

    def interval(self, percentile: float, dim: int) -> tuple[Tensor, Tensor]:
        middle, half = self._box(dim, torch.zeros(1, dtype=torch.float64))
        return middle - half * percentile / 100, middle + half * percentile / 100


class UniformSphere(PriorBase):
    """Uniform on the sphere of this Euclidean radius about 0; `None` is sqrt(D). Radius 1 is the sphere itself."""

    kind: Literal["sphere"] = "sphere"
    size: float | None = Field(default=None, gt=0)

    def _size(self, dim: int) -> float:
        return math.sqrt(dim) if self.size is None else self.size

    def from_normal(self, u_ND: Tensor) -> Tensor:
        return _unit(u_ND) * self._size(u_ND.shape[1])

    def log_prob(self, z_ND: Tensor) -> Tensor:
        """Log-density with respect to the sphere's surface, for the direction of each row."""
        dim = z_ND.shape[1]
        log_area = (
            math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2) + (dim - 1) * math.log(self._size(dim))
        )
        on_it = (self.radius(z_ND) - 1).abs() <= 0.01
        return torch.where(on_it, torch.full_like(z_ND[:, 0], -log_area), -math.inf)

    def centre(self, z_ND: Tensor) -> Tensor:
        return torch.zeros_like(z_ND[:1])

    def radius(self, z_ND: Tensor) -> Tensor:
        return torch.linalg.vector_norm(z_ND, dim=1) / self._size(z_ND.shape[1])

    def radius_percentile(self, radius_N: Tensor, dim: int) -> Tensor:
        """50 within one per cent of the sphere, 0 inside it, 100 outside it: all draws share one radius."""
        radius = radius_N.double()
        return 50.0 * (radius > 0.99) + 50.0 * (radius > 1.01)

    def radius_at(self, percentile: float, dim: int) -> float:
        return 1.0

    def moments(self, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_zeros(dim), like.new_full((dim,), self._size(dim) / math.sqrt(dim))

    def interval(self, percentile: float, dim: int) -> tuple[Tensor, Tensor]:
        """(1 + x / size) / 2 of a coordinate x follows Beta((D - 1) / 2, (D - 1) / 2) (Muller 1959's points, by area)."""
        from scipy.special import betaincinv

        half = (dim - 1) / 2
        reach = 1.0 if dim == 1 else 2 * float(betaincinv(half, half, 0.5 + percentile / 200)) - 1
        high = torch.full((dim,), reach * self._size(dim), dtype=torch.float64)
        return -high, high


def _as_tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def check_ordered(low: float | tuple[float, ...], high: float | tuple[float, ...]) -> None:
    """Raise `ValueError` unless every low is below its high."""
    lows, highs = _as_tuple(low), _as_tuple(high)
    count = max(len(lows), len(highs))
    if {len(lows), len(highs)} - {1, count}:
        raise ValueError(f"low has {len(lows)} numbers and high has {len(highs)}")
    pairs = zip(lows * (count // len(lows)), highs * (count // len(highs)), strict=True)
    if any(a >= b for a, b in pairs):
        raise ValueError(f"low must be below high, got low={low}, high={high}")


def check_length(name: str, value: float | tuple[float, ...] | None, dim: int) -> None:
    """Raise `ConfigError` where a vector has another length than the latent."""
    if isinstance(value, tuple) and len(value) != dim:
        raise ConfigError(f"{name} has {len(value)} numbers, the latent has {dim}: give one number or {dim}")


def wide(u_ND: Tensor) -> Tensor:
    """Numbers to be worked on in float64: rounded afterwards, a row is the same to the bit among any number of rows."""
    return u_ND if u_ND.device.type == "mps" else u_ND.double()  # which has no float64


def _unit(u_ND: Tensor) -> Tensor:
    return u_ND / torch.linalg.vector_norm(u_ND, dim=1, keepdim=True).clamp(min=TINY)

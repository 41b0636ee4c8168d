"""Regions: where a search may go. After each step a search projects its rows onto its region."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from latentopt.errors import ConfigError
from latentopt.gaussians import Mixture
from latentopt.latent import LatentSpace
from latentopt.models import AlsoNames, named
from latentopt.priors import (
    TINY,
    Frozen,
    GaussianKind,
    Normal,
    PerDevice,
    PriorBase,
    Uniform,
    UniformSphere,
    check_length,
    check_ordered,
)


@dataclass(frozen=True)
class Region:
    """A region with its figures worked out: `project` moves rows onto it."""

    form: Literal["free", "box", "radial"]
    prior: PriorBase = field(default_factory=Normal)
    smallest: float = 0.0
    largest: float = math.inf
    box: PerDevice | None = None

    def project(self, z_ND: Tensor) -> Tensor:
        """The rows `(N, D)` moved onto the region, unchanged where they lie in it; differentiable in z.

        By radius: scaled about the prior's centre. A row at the very centre of a shell or sphere has no direction and
        goes along the diagonal. NaN rows stay NaN.
        """
        if self.form == "free":
            return z_ND
        if self.box is not None:
            low, high = self.box.on(z_ND)
            return z_ND.clamp(low, high)
        if self.smallest > 0:
            at_centre_N1 = (self.prior.radius(z_ND) < TINY)[:, None]
            z_ND = torch.where(at_centre_N1, self.prior.centre(z_ND) + 1.0, z_ND)
        radius_N = self.prior.radius(z_ND)
        # clamped last: a number over a tensor is a product with the reciprocal, so x / x need not be 1
        factor_N1 = (self.largest / radius_N.clamp(min=TINY)).clamp(max=1.0)[:, None]
        if self.smallest > 0:
            factor_N1 = factor_N1 * (self.smallest / radius_N).clamp(min=1.0)[:, None]
        if isinstance(self.prior, Normal) and self.prior.is_standard:
            return z_ND * factor_N1
        # lerp gives rows of factor 1 back to the bit, where centre + (z - centre) would round them at every step
        return torch.lerp(self.prior.centre(z_ND), z_ND, factor_N1)


class RegionBase(Frozen):
    """Where a search may go. `resolve(space)` gives the projection, with its figures worked out once."""

    def resolve(self, space: LatentSpace) -> Region:
        """The projection for this space. Raises `ConfigError` where the region's numbers do not fit it."""
        raise NotImplementedError


class _Radial(RegionBase):
    percentile: float | None = Field(default=None, gt=0, lt=100)

    def _check_one_of(self, **numbers: float | None) -> None:
        given = [name for name, value in numbers.items() if value is not None]
        if self.percentile is not None and given:
            raise ValueError(f"give a percentile or {' and '.join(given)}, not both")


class Free(RegionBase):
    """No limit at all. The result still says how far from the prior a design lies."""

    kind: Literal["free"] = "free"

    def resolve(self, space: LatentSpace) -> Region:
        return Region("free")


class Box(_Radial):
    """Each coordinate between `low` and `high` (numbers or D of them), or within its own central percentile of the prior."""

    kind: Literal["box"] = "box"
    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Box:
        if self.percentile is not None and (self.low is not None or self.high is not None):
            raise ValueError("give a percentile or low and high, not both")
        if self.percentile is None and (self.low is None or self.high is None):
            raise ValueError("a box needs low and high, or a percentile")
        if self.low is not None and self.high is not None:
            check_ordered(self.low, self.high)
        return self

    def resolve(self, space: LatentSpace) -> Region:
        if self.percentile is not None:
            return Region("box", box=PerDevice(*space.prior.interval(self.percentile, space.dim)))
        check_length("low", self.low, space.dim)
        check_length("high", self.high, space.dim)
        return Region("box", box=PerDevice(torch.tensor(self.low).double(), torch.tensor(self.high).double()))


class Ball(_Radial):
    """Radius at most this percentile of the prior's, or this number."""

    kind: Literal["ball"] = "ball"
    radius: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> Ball:
        self._check_one_of(radius=self.radius)
        return self

    def resolve(self, space: LatentSpace) -> Region:
        largest = self.radius
        if largest is None:
            largest = space.prior.radius_at(99.0 if self.percentile is None else self.percentile, space.dim)
        return Region("radial", prior=space.prior, smallest=0.0, largest=largest)


class Shell(_Radial):
    """Radius between the prior's percentiles 100 - p and p, or between `low` and `high`."""

    kind: Literal["shell"] = "shell"
    percentile: float | None = Field(default=None, gt=50, lt=100)
    low: float | None = Field(default=None, ge=0)
    high: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> Shell:
        self._check_one_of(low=self.low, high=self.high)
        if (self.low is None) != (self.high is None):
            raise ValueError("a shell by number needs both low and high")
        if self.low is not None and self.high is not None:
            check_ordered(self.low, self.high)
        return self

    def resolve(self, space: LatentSpace) -> Region:
        _refuse_mixture("shell", space)
        if self.low is not None and self.high is not None:
            return Region("radial", prior=space.prior, smallest=self.low, largest=self.high)
        percentile = 99.0 if self.percentile is None else self.percentile
        low, high = (space.prior.radius_at(p, space.dim) for p in (100 - percentile, percentile))
        return Region("radial", prior=space.prior, smallest=low, largest=high)


class Sphere(_Radial):
    """One radius: this number, this percentile of the prior's, or (neither given) its root mean square."""

    kind: Literal["sphere"] = "sphere"
    radius: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> Sphere:
        self._check_one_of(radius=self.radius)
        return self

    def resolve(self, space: LatentSpace) -> Region:
        _refuse_mixture("sphere", space)
        size = self.radius
        if size is None and self.percentile is not None:
            size = space.prior.radius_at(self.percentile, space.dim)
        elif size is None:
            # ||u||^2 of D standard normals has mean D; the box and the sphere carry their own unit radius
            size = math.sqrt(space.dim) if isinstance(space.prior, GaussianKind) else 1.0
        return Region("radial", prior=space.prior, smallest=size, largest=size)


_REGIONS = ("free", "box", "ball", "shell", "sphere")
RegionChoice = Annotated[
    Free | Box | Ball | Shell | Sphere,
    Field(discriminator="kind"),
    BeforeValidator(lambda value: named(value, _REGIONS, "region")),
    AlsoNames(_REGIONS),
]


def default_region(prior: PriorBase) -> RegionBase:
    """Where an ordinary search stays: what 99 % of the prior's draws keep to, and all of them where they are bounded."""
    if isinstance(prior, Uniform):
        return Ball(radius=1.0)
    return Sphere() if isinstance(prior, UniformSphere) else Ball(percentile=99)


def _refuse_mixture(region: str, space: LatentSpace) -> None:
    if isinstance(space.prior, Mixture):
        raise ConfigError(
            f"region {region} is not defined for a mixture prior (several centres): use ball, box or free"
        )

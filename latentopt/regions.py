"""Regions: where a search may go. After each step a search projects its rows onto its region."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field, NonNegativeInt, model_validator
from torch import Tensor

from latentopt.arrayfield import Array
from latentopt.errors import ConfigError
from latentopt.gaussians import Mixture
from latentopt.latent import LatentSpace
from latentopt.models import AlsoNames, named
from latentopt.priors import (
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
from latentopt.projection import Region as Region, check_coordinates, fix, within_ball

Encode = Callable[[Array], Tensor]


class RegionBase(Frozen):
    """Where a search may go. `resolve(space)` gives the projection, with its figures worked out once.

    `fixed` maps coordinates of the flattened latent, counted from 0, to values that they keep throughout.
    """

    fixed: dict[NonNegativeInt, float] | None = None

    def resolve(self, space: LatentSpace, encode: Encode | None = None) -> Region:
        """The projection for this space; `encode` is the decoder's, designs to `(n, D)`, where it has an encoder.

        Raises `ConfigError` where the region's numbers do not fit the space, or its fixed values not the region.
        """
        region = self._figures(space, encode)
        values = self._values(region, space.dim)
        return fix(region, values, space.dim) if values else region

    def _values(self, region: Region, dim: int) -> dict[int, float]:
        """The fixed coordinates and their values."""
        return self.fixed or {}

    def _figures(self, space: LatentSpace, encode: Encode | None) -> Region:
        """The same without fixed coordinates."""
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

    def _figures(self, space: LatentSpace, encode: Encode | None) -> Region:
        return Region("free")


Some = dict[NonNegativeInt, float]


class Box(_Radial):
    """Each coordinate between `low` and `high` (numbers or D of them), or within its own central percentile of the prior.

    Mappings from coordinates to numbers bound these alone; the percentile, where given, bounds the others.
    """

    kind: Literal["box"] = "box"
    low: float | tuple[float, ...] | Some | None = None
    high: float | tuple[float, ...] | Some | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Box:
        whole = [bound for bound in (self.low, self.high) if bound is not None and not isinstance(bound, dict)]
        if self.percentile is not None and whole:
            raise ValueError(
                "give a percentile or low and high, not both; or bounds by coordinate, as in low: {2: 0.0}"
            )
        by_coordinate = bool(self.low and isinstance(self.low, dict)) or bool(self.high and isinstance(self.high, dict))
        if self.percentile is None and not by_coordinate and (self.low is None or self.high is None):
            raise ValueError("a box needs low and high, or a percentile")
        if len(whole) == 2:
            check_ordered(self.low, self.high)  # type: ignore[arg-type]
        return self

    def _figures(self, space: LatentSpace, encode: Encode | None) -> Region:
        low_D, high_D = (torch.full((space.dim,), end, dtype=torch.float64) for end in (-math.inf, math.inf))
        if self.percentile is not None:
            low_D, high_D = space.prior.interval(self.percentile, space.dim)
        low_D, high_D = _bounded("low", self.low, low_D), _bounded("high", self.high, high_D)
        crossed = (low_D >= high_D).nonzero()[:, 0].tolist()
        if crossed:
            low, high = float(low_D[crossed[0]]), float(high_D[crossed[0]])
            raise ConfigError(
                f"the box goes from {low:.4g} to {high:.4g} in coordinate {crossed[0]}: low must be below high; to hold a "
                "coordinate at one value use fixed"
            )
        return Region("box", box=PerDevice(low_D, high_D))


def _bounded(name: str, bound: float | tuple[float, ...] | Some | None, otherwise_D: Tensor) -> Tensor:
    """One side of a box `(D,)`. Raises `ConfigError` where the bound does not fit D coordinates."""
    dim = len(otherwise_D)
    if bound is None:
        return otherwise_D
    if not isinstance(bound, dict):
        check_length(name, bound, dim)
        return torch.tensor(bound, dtype=torch.float64).expand(dim)
    check_coordinates(f"{name}:", bound, dim)
    found_D = otherwise_D.clone()
    found_D[list(bound)] = torch.tensor(list(bound.values()), dtype=torch.float64)
    return found_D


class Ball(_Radial):
    """Radius at most this percentile of the prior's, or this number."""

    kind: Literal["ball"] = "ball"
    radius: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> Ball:
        self._check_one_of(radius=self.radius)
        return self

    def _figures(self, space: LatentSpace, encode: Encode | None) -> Region:
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

    def _figures(self, space: LatentSpace, encode: Encode | None) -> Region:
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

    def _figures(self, space: LatentSpace, encode: Encode | None) -> Region:
        _refuse_mixture("sphere", space)
        size = self.radius
        if size is None and self.percentile is not None:
            size = space.prior.radius_at(self.percentile, space.dim)
        elif size is None:
            # ||u||^2 of D standard normals has mean D; the box and the sphere carry their own unit radius
            size = math.sqrt(space.dim) if isinstance(space.prior, GaussianKind) else 1.0
        return Region("radial", prior=space.prior, smallest=size, largest=size)


class Near(RegionBase):
    """Near a given latent, or a design (encoded first): at most `radius` away, in standard deviations of the prior.

    The distance is the root of the sum of squares of (z - z0) / std; rows beyond it are drawn back towards z0. `held`
    lists coordinates that keep the values that z0 has. With a `percentile`, a row's radius is at most that percentile of the
    prior's as well. One centre serves all targets. Starts by default from z0 in place of the prior's mean.
    """

    kind: Literal["near"] = "near"
    latent: Array | None = None
    design: Array | None = None
    radius: float = Field(default=1.0, gt=0)
    held: tuple[NonNegativeInt, ...] = ()
    percentile: float | None = Field(default=None, gt=0, lt=100)

    @model_validator(mode="after")
    def _one_way(self) -> Near:
        if (self.latent is None) == (self.design is None):
            raise ValueError("region near takes exactly one of latent and design")
        twice = sorted(set(self.held) & set(self.fixed or ()))
        if twice:
            raise ValueError(f"coordinate {twice[0]} is both held and fixed: give one of them")
        return self

    def _values(self, region: Region, dim: int) -> dict[int, float]:
        check_coordinates("held", self.held, dim)
        origin = region.origin
        return {**{i: float(origin[i]) for i in self.held if origin is not None}, **(self.fixed or {})}

    def _figures(self, space: LatentSpace, encode: Encode | None) -> Region:
        origin_D = self._centre(space, encode)
        std_D = space.std(origin_D)
        about = Normal(mean=tuple(origin_D.tolist()), std=tuple(std_D.tolist()))
        within = None
        if self.percentile is not None:
            if isinstance(space.prior, UniformSphere):
                raise ConfigError(
                    "region near has a percentile, and all draws of a sphere prior share one radius: leave it out"
                )
            within = within_ball(space.prior, space.prior.radius_at(self.percentile, space.dim), origin_D)
        return Region("radial", prior=about, largest=self.radius, within=within, origin=origin_D)

    def _centre(self, space: LatentSpace, encode: Encode | None) -> Tensor:
        """z0 `(D,)`, float64 on the CPU."""
        if self.design is not None:
            if encode is None:
                raise ConfigError(
                    "region near has a design, which is encoded, and the decoder has no encoder: give the design's latent"
                )
            found_ND = encode(self.design)
        elif self.latent is not None:
            found_ND = space.flatten(self.latent.tensor())
        if len(found_ND) != 1:
            raise ConfigError(
                f"region near takes one centre, which serves all targets, got {len(found_ND)}: give one, and run "
                "targets with centres of their own one by one"
            )
        bad = int((~torch.isfinite(found_ND)).sum())
        if bad:
            raise ConfigError(f"the centre of region near holds {bad} values that are NaN or infinite: replace them")
        return found_ND[0].detach().cpu().double()


_REGIONS = ("free", "box", "ball", "shell", "sphere", "near")
RegionChoice = Annotated[
    Free | Box | Ball | Shell | Sphere | Near,
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

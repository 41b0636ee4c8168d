"""Projections: how a region, its figures worked out once, moves rows onto itself at each step of a search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from latentopt.errors import ConfigError
from latentopt.gaussians import Gaussian, Mixture
from latentopt.priors import TINY, Normal, PerDevice, PriorBase, Uniform

_ROUNDING = 1e-6  # a fixed value may lie on the region's very edge; priors' own numbers are rounded to float32
_CHORDS = 3  # of `Within`: the first ends inside, each further one nearer to the edge


@dataclass(frozen=True)
class Region:
    """A region with its figures worked out: `project` moves rows onto it.

    `fixed (D,)` holds values for the coordinates that keep them, NaN elsewhere. `origin (D,)` is the latent that a region
    near a design is about: a start that lies in it.
    """

    form: Literal["free", "box", "radial"]
    prior: PriorBase = field(default_factory=Normal)
    smallest: float = 0.0
    largest: float = math.inf
    box: PerDevice | None = None
    fixed: PerDevice | None = None
    slices: Slices | None = None
    within: Within | None = None
    origin: Tensor | None = None

    def project(self, z_ND: Tensor) -> Tensor:
        """The rows `(N, D)` moved onto the region, unchanged where they lie in it; differentiable in z.

        Fixed coordinates take their values to the bit. By radius: scaled about the prior's centre, of the fixed coordinates'
        slice where there are any. A row at the very centre of a shell or sphere has no direction and goes along the
        diagonal. NaN rows stay NaN.
        """
        if self.fixed is not None:
            (value_D,) = self.fixed.on(z_ND)
            z_ND = torch.where(value_D.isnan(), z_ND, value_D)
        if self.form == "free":
            return z_ND
        if self.box is not None:
            low, high = self.box.on(z_ND)
            return z_ND.clamp(low, high)
        z_ND = self._by_radius(z_ND) if self.slices is None else self.slices.project(z_ND)
        return z_ND if self.within is None else self.within.project(z_ND)

    def _by_radius(self, z_ND: Tensor) -> Tensor:
        if self.smallest > 0:
            at_centre_N1 = (self.prior.radius(z_ND) < TINY)[:, None]
            z_ND = torch.where(at_centre_N1, self.prior.centre(z_ND) + 1.0, z_ND)
        factor_N1 = _factor(self.prior.radius(z_ND), self.smallest, self.largest)
        if isinstance(self.prior, Normal) and self.prior.is_standard:
            return z_ND * factor_N1
        # lerp gives rows of factor 1 back to the bit, where centre + (z - centre) would round them at every step
        return torch.lerp(self.prior.centre(z_ND), z_ND, factor_N1)


def _factor(radius_N: Tensor, low: float, high: float | Tensor) -> Tensor:
    """What brings each radius into [low, high], `(N, 1)`; exactly 1 for those in it."""
    # clamped last: a number over a tensor is a product with the reciprocal, so x / x need not be 1
    factor_N1 = (high / radius_N.clamp(min=TINY)).clamp(max=1.0)[:, None]
    if low > 0:
        factor_N1 = factor_N1 * (low / radius_N).clamp(min=1.0)[:, None]
    return factor_N1


# ---------------------------------------------------------------------- fixed coordinates


@dataclass(frozen=True)
class Slices:
    """What fixed coordinates leave of a region by radius: one slice a centre of the prior that they leave any of.

    Of all points with the fixed values, a slice's own centre is the nearest to the prior's: the conditional mean of the other
    coordinates. A row's radius then follows from the centre's, which is what the fixed values alone come to, and from
    the row's offset from it: the root of the sum of both squares, or for a uniform prior the larger of the two. So scaling
    the offset brings the radius to any limit exactly, and leaves the fixed coordinates alone.
    """

    priors: tuple[PriorBase, ...]  # C of them, each with one centre
    figures: PerDevice  # centres (C, D), their radii (C,), largest offsets (C,), and 1 where free, 0 where fixed (D,)
    smallest: float  # the least offset; 0 where there are several slices

    def project(self, z_ND: Tensor) -> Tensor:
        centre_CD, alone_C, reach_C, free_D = self.figures.on(z_ND)
        if self.smallest > 0:
            at_centre_N1 = (self._offsets(z_ND, centre_CD)[:, 0] < TINY)[:, None]
            z_ND = torch.where(at_centre_N1, centre_CD + free_D, z_ND)
        offset_NC = self._offsets(z_ND, centre_CD)
        if len(self.priors) == 1:
            return torch.lerp(centre_CD, z_ND, _factor(offset_NC[:, 0], self.smallest, reach_C))
        nearest_N = (alone_C.square() + offset_NC.square()).argmin(1)
        offset_N = offset_NC.gather(1, nearest_N[:, None])[:, 0]
        return torch.lerp(centre_CD[nearest_N], z_ND, _factor(offset_N, self.smallest, reach_C[nearest_N]))

    def _offsets(self, z_ND: Tensor, centre_CD: Tensor) -> Tensor:
        """The radius of each row's offset from each slice's centre, `(N, C)`."""
        parts = zip(self.priors, centre_CD, strict=True)
        return torch.stack([prior.radius(prior.centre(z_ND) + (z_ND - centre)) for prior, centre in parts], dim=1)


def fix(region: Region, values: Mapping[int, float], dim: int) -> Region:
    """The region with some coordinates fixed. Raises `ConfigError` where that leaves nothing of it, with the figures."""
    check_coordinates("fixed", values, dim)
    if len(values) == dim:
        raise ConfigError(f"all {dim} latent coordinates are fixed, so nothing is left to search: leave some out")
    value_D = torch.full((dim,), torch.nan, dtype=torch.float64)
    value_D[list(values)] = torch.tensor(list(values.values()), dtype=torch.float64)
    if region.box is not None:
        _check_in_box(values, *region.box.on(value_D))
    slices = _slices(region, value_D) if region.form == "radial" else None
    within = region.within
    if within is not None and region.origin is not None:
        within = within_ball(within.prior, within.largest, torch.where(value_D.isnan(), region.origin, value_D))
    return replace(region, fixed=PerDevice(value_D), slices=slices, within=within)


def check_coordinates(what: str, indices: Iterable[int], dim: int) -> None:
    """Raise `ConfigError` where some index is not one of D coordinates."""
    far = max(indices, default=0)
    if far >= dim:
        raise ConfigError(f"{what} coordinate {far} is not there: the latent has {dim}, so they go from 0 to {dim - 1}")


def _check_in_box(values: Mapping[int, float], low_D: Tensor, high_D: Tensor) -> None:
    for index, value in values.items():
        if not float(low_D[index]) <= value <= float(high_D[index]):
            raise ConfigError(
                f"fixed coordinate {index} has the value {value:.4g}, and the box goes from {float(low_D[index]):.4g} to "
                f"{float(high_D[index]):.4g} there: give a value in it, or widen the box"
            )


def _slices(region: Region, value_D: Tensor) -> Slices:
    found = []
    nearest = math.inf
    for prior in _parts(region.prior):
        centre_D = _slice_centre(prior, value_D)
        alone = float(prior.radius(centre_D[None])[0])
        nearest = min(nearest, alone)
        if alone <= region.largest * (1 + _ROUNDING):
            reach = region.largest if isinstance(prior, Uniform) else _reach(prior, alone, region.largest)
            found.append((prior, centre_D, alone, reach))
    if not found:
        near = region.origin is not None
        where = (
            f"{nearest:.4g} standard deviations from the design" if near else f"at radius {nearest:.4g} of the prior"
        )
        raise ConfigError(
            f"the fixed values alone lie {where}, and the region ends at {region.largest:.4g}: give values nearer to "
            f"{'the design' if near else 'the prior'}'s own, or widen the region"
        )
    priors, centres, alone_C, reach_C = zip(*found, strict=True)
    smallest = _reach(priors[0], alone_C[0], region.smallest)
    free_D = value_D.isnan().double()
    return Slices(priors, PerDevice(torch.stack(centres), _numbers(alone_C), _numbers(reach_C), free_D), smallest)


def _numbers(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _parts(prior: PriorBase) -> list[PriorBase]:
    """The prior as priors of one centre each: those whose nearest gives its radius."""
    if not isinstance(prior, Mixture):
        return [prior]
    pairs = zip(prior.means.tensor(), prior.covariances.tensor(), strict=True)
    return [Gaussian(mean=mean, covariance=covariance) for mean, covariance in pairs]


def _slice_centre(prior: PriorBase, value_D: Tensor) -> Tensor:
    """The point with the fixed values that is nearest to the prior's centre, `(D,)`, float64.

    Of a Gaussian the conditional mean (Bishop 2006, eq. 2.81); where coordinates are independent, the centre elsewhere.
    """
    free_D = value_D.isnan()
    centre_D = prior.centre(value_D[None].nan_to_num()).reshape(-1).expand(len(value_D))
    found_D = torch.where(free_D, centre_D, value_D)
    if isinstance(prior, Gaussian):
        covariance = prior.covariance.tensor().double().cpu()
        across, among = covariance[free_D][:, ~free_D], covariance[~free_D][:, ~free_D]
        found_D[free_D] += across @ torch.linalg.solve(among, (value_D - centre_D)[~free_D])
    return found_D


def _reach(prior: PriorBase, alone: float, radius: float) -> float:
    """The offset from a slice's centre at which a row has this radius; 0 where the fixed values alone have as much."""
    if isinstance(prior, Uniform):  # whose radius is the larger of the two
        return radius if alone < radius * (1 - _ROUNDING) else 0.0
    return math.sqrt(max(0.0, radius**2 - alone**2))


# ---------------------------------------------------------------------- a second limit


@dataclass(frozen=True)
class Within:
    """A ball of the prior as a second limit: rows beyond it are drawn back towards `centre (D,)`, a point of it.

    A radius is convex along a line, so on the chord from the centre to a row it is at most what the straight line between
    their radii says. Where that line meets the limit the row is inside; chords from there come ever nearer to the edge.
    Differentiable, and without a look at the values.
    """

    prior: PriorBase
    part: PriorBase  # the prior, or of a mixture the component that is nearest to the centre, whose ball is convex
    largest: float
    start: float  # the centre's radius
    centre: PerDevice

    def project(self, z_ND: Tensor) -> Tensor:
        (centre_D,) = self.centre.on(z_ND)
        radius_N = self.part.radius(z_ND)
        share_N, moved_ND, here_N = torch.zeros_like(radius_N), z_ND, torch.full_like(radius_N, self.start)
        for _ in range(_CHORDS):
            step_N = (self.largest - here_N) / (radius_N - here_N).clamp(min=TINY)
            share_N = share_N + (1 - share_N) * step_N.clamp(0.0, 1.0)
            moved_ND = torch.lerp(centre_D, z_ND, share_N[:, None])
            here_N = self.part.radius(moved_ND)
        inside_N1 = (self.prior.radius(z_ND) <= self.largest)[:, None]
        return torch.where(inside_N1, z_ND, moved_ND)


def within_ball(prior: PriorBase, largest: float, centre_D: Tensor) -> Within:
    """The ball of this radius as a second limit about a point. Raises `ConfigError` where the point lies beyond it."""
    parts = _parts(prior)
    radii = [float(part.radius(centre_D[None])[0]) for part in parts]
    start = min(radii)
    if start > largest:
        share = float(prior.radius_percentile(torch.tensor([start], dtype=torch.float64), len(centre_D)))
        raise ConfigError(
            f"the centre of region near lies at radius {start:.4g} of the prior, beyond the percentile's {largest:.4g}: "
            f"leave the percentile out or give one above {share:.4g}, or take a centre nearer to the prior's"
        )
    return Within(prior, parts[radii.index(start)], largest, start, PerDevice(centre_D))

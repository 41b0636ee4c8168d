"""Descriptors of microstructures that have gradients: volume fraction, interface, two-point correlation, lineal path."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentopt import Array, Candidates, ConfigError, Decoder, LeastSquares, Objective, Reference
from latentopt_materials.designs import MaterialObjective, targets_of
from latentopt_materials.properties import (
    SETS,
    THRESHOLD,
    are_known,
    is_structure,
    over_volume_fraction,
    properties,
)

# Directions of the 26 neighbours and their shares of all directions, by Voronoi cells on the sphere (Lang and Ohser 2001).
_SHARES_3D = {1: 2 * 0.045778, 2: 2 * 0.036981, 3: 2 * 0.035196}


class VolumeFraction(MaterialObjective):
    """Share of the white phase, `(M,)`, 0 to 1: the mean of the design."""

    extremes: ClassVar[tuple[float, float]] = (0.0, 1.0)

    kind: Literal["volume_fraction"] = "volume_fraction"

    def build(self, decoder: Decoder) -> Objective:
        self.grid_of(decoder)
        return self.noted(lambda c: self.of(c.designs))

    def of(self, designs: Tensor) -> Tensor:
        """The number of designs `(N, 1, *grid)`, `(N,)`."""
        return self.fractions(designs).flatten(1).mean(1)

    def reference(self, designs: Tensor) -> Reference | None:
        """Known designs: over the interface length; with a threshold, over the volume fraction of the graded design."""
        if not are_known(designs) or self.threshold not in (None, THRESHOLD):
            return None
        name, axis = ("volume fraction", "interface length")
        of_N = interface_length(designs[:, 0].clamp(0, 1))
        if self.threshold is not None:
            name, axis = f"cut {name}", name
            of_N = designs.clamp(0, 1).flatten(1).mean(1)
        sets = {title: properties()[which] for which, title in SETS.items()}
        known = {title: (one[axis][:, 0].float(), one[name][:, 0].float()) for title, one in sets.items()}
        return Reference(axis, of_N, {}, known)


class Grey(MaterialObjective):
    """How far a design is from two pure phases, `(M,)`: the mean of 4 x (1 - x), 0 for pure, 1 for grey throughout.

    Differentiable. An interface of two pixels' width and length l takes about 1.3 l / side. As a constraint,
    `{at_most: 0.06}`, it keeps a search out of the blur at the middle of a decoder's latent space.
    """

    extremes: ClassVar[tuple[float, float]] = (0.0, 1.0)

    kind: Literal["grey"] = "grey"

    def build(self, decoder: Decoder) -> Objective:
        self.grid_of(decoder)

        def value(c: Candidates) -> Tensor:
            x = self.fractions(c.designs).flatten(1)
            return 4 * (x * (1 - x)).mean(1)

        return self.noted(value)


class Change(MaterialObjective):
    """Share of the cell that differs from a target, `(M,)`: the mean absolute difference, for pure phases the pixels that
    change. Differentiable. Places count: a target that is shifted is another.
    """

    extremes: ClassVar[tuple[float, float]] = (0.0, 1.0)

    kind: Literal["change"] = "change"
    target: Array | None = None

    def build(self, decoder: Decoder) -> Objective:
        self.grid_of(decoder)
        target_T = self.fractions(targets_of(self.target, decoder, self.kind))

        def value(c: Candidates) -> Tensor:
            mine = target_T if len(target_T) == 1 else target_T[c.target_index]
            return (self.fractions(c.designs) - mine).abs().flatten(1).mean(1)

        value.targets = len(target_T)  # type: ignore[attr-defined]
        return self.noted(value)

    def reference(self, designs: Tensor) -> Reference | None:
        """Known designs over the volume fraction, for the shipped structure.png as the target."""
        if self.threshold is not None or not are_known(designs) or not is_structure(self.target):
            return None
        return over_volume_fraction(self.fractions(designs), lambda one: one["change"][:, 0])


# ---------------------------------------------------------------------- interface


class InterfaceLength(MaterialObjective):
    """Length of the interface in a cell of unit height and width (3-D: area in a unit cube), `(M,)`; differentiable.

    By Cauchy and Crofton's formula: mean absolute steps of the design along 8 directions of a picture (to 16 neighbours,
    Boykov and Kolmogorov 2003) or 13 of a volume, weighted by their shares of all directions. An interface spread over
    several pixels counts once. Errors: README. The cell's longest side is 1 long, pixels are square.
    """

    extremes: ClassVar[tuple[float, float]] = (0.0, math.inf)

    kind: Literal["interface_length"] = "interface_length"

    def build(self, decoder: Decoder) -> Objective:
        self.grid_of(decoder)
        return self.noted(lambda c: interface_length(self.fractions(c.designs)))

    def reference(self, designs: Tensor) -> Reference | None:
        """Known designs over the volume fraction."""
        if self.threshold is not None or not are_known(designs):
            return None
        return over_volume_fraction(self.fractions(designs), lambda one: one["interface length"][:, 0])


def interface_length(x: Tensor) -> Tensor:
    """Of volume fractions `(N, *grid)`, `(N,)`."""
    axes = tuple(range(1, x.ndim))
    steps = _directions(len(axes))
    parts = [weight * (x - x.roll(step, axes)).abs().flatten(1).mean(1) for step, weight in steps.items()]
    return torch.stack(parts).sum(0) * max(x.shape[1:])


@lru_cache
def _directions(dim: int) -> dict[tuple[int, ...], float]:
    """Steps to neighbours, one of each opposite pair, and what a mean absolute step along each adds to the interface.

    Interface over content is (pi / 2) P in the plane and 2 P in space, P being crossings per length, all directions.
    """
    if dim == 2:
        steps = [(0, 1), (1, 2), (1, 1), (2, 1), (1, 0), (2, -1), (1, -1), (1, -2)]
        angles = [math.atan2(*step) for step in steps]
        after = [*angles[1:], angles[0] + math.pi]
        before = [angles[-1] - math.pi, *angles[:-1]]
        shares = [(b - a) / (2 * math.pi) for a, b in zip(before, after, strict=True)]
        return {step: math.pi / 2 * share / math.hypot(*step) for step, share in zip(steps, shares, strict=True)}
    found: dict[tuple[int, ...], float] = {}
    for index in range(14, 27):
        step = (index // 9 - 1, index // 3 % 3 - 1, index % 3 - 1)
        square = sum(abs(one) for one in step)
        found[step] = 2 * _SHARES_3D[square] / math.sqrt(square)
    return found


# ---------------------------------------------------------------------- statistics against a reference


class _Statistics:
    """The mean squared difference between a design's statistics `(M, R)` and its target's."""

    def __init__(self, config: TwoPoint | LinealPath, decoder: Decoder) -> None:
        self.config = config
        self.target_T = config.statistics(targets_of(config.target, decoder, config.kind))
        self.targets = len(self.target_T)

    def residuals(self, c: Candidates) -> Tensor:
        """`(M, R)`, whose squares add up to the number."""
        mine = self.target_T if self.targets == 1 else self.target_T[c.target_index]
        difference = self.config.statistics(c.designs) - mine
        return difference / difference.shape[1] ** 0.5

    def __call__(self, c: Candidates) -> Tensor:
        return self.residuals(c).square().sum(1)


class TwoPoint(MaterialObjective):
    """Mean squared difference between the two-point correlations of design and target, `(M,)`. Gives residuals.

    S(r) is the mean of c(x) c(x + r), by FFT: at r = 0 of a design of pure phases the volume fraction, far away its square.
    Lags r up to `reach` pixels along each axis count (all, where it is left out), one of each opposite pair. A design that is
    shifted, or turned by 180 degrees, has the same S.
    """

    kind: Literal["two_point"] = "two_point"
    target: Array | None = None
    reach: int | None = Field(default=None, ge=1)

    def build(self, decoder: Decoder) -> LeastSquares:
        _fits(self.reach, self.grid_of(decoder), self.kind)
        return _Statistics(self, decoder)

    def reference(self, designs: Tensor) -> Reference | None:
        """Known designs over the volume fraction, for the shipped structure.png as the target, and all lags."""
        if (self.reach, self.threshold) != (None, None) or not are_known(designs) or not is_structure(self.target):
            return None
        return over_volume_fraction(self.fractions(designs), lambda one: one["two-point distance"][:, 0].square())

    def statistics(self, designs: Tensor) -> Tensor:
        """S at the lags that count, `(N, R)`."""
        x = self.fractions(designs)
        axes, grid = tuple(range(1, x.ndim)), x.shape[1:]
        wave = torch.fft.rfftn(x, dim=axes)
        square = wave.real.square() + wave.imag.square()
        found = torch.fft.irfftn(square.to(wave.dtype), s=grid, dim=axes) / math.prod(grid)
        for axis, n in zip(axes, grid, strict=True):
            last = axis == axes[-1]
            most = n // 2 if self.reach is None else min(self.reach, n // 2)
            lags = torch.arange(0 if last else max(-most, most + 1 - n), most + 1, device=x.device) % n
            found = found.index_select(axis, lags)
        return found.flatten(1)


class LinealPath(MaterialObjective):
    """Mean squared difference between the lineal-path functions of design and target, `(M,)`. Gives residuals.

    L(r) is the probability that r pixels in a row all lie in a phase (Lu and Torquato 1992), here the mean product of
    their volume fractions: the same for pure phases, and differentiable for grey ones, which it takes for less connected than
    they look (0.9 to the r). Along each axis of the grid, r from 1 to `reach`, for `phase` white, black or both.
    """

    kind: Literal["lineal_path"] = "lineal_path"
    target: Array | None = None
    reach: int = Field(default=16, ge=1)
    phase: Literal["white", "black", "both"] = "both"

    def build(self, decoder: Decoder) -> LeastSquares:
        _fits(self.reach, self.grid_of(decoder), self.kind)
        return _Statistics(self, decoder)

    def statistics(self, designs: Tensor) -> Tensor:
        """L by phase, axis and length, `(N, R)`."""
        white = self.fractions(designs)
        phases = {"white": [white], "black": [1 - white], "both": [white, 1 - white]}[self.phase]
        found = []
        for x in phases:
            for axis in range(1, x.ndim):
                path = x
                for r in range(self.reach):
                    path = path * x.roll(-r, axis) if r else path
                    found.append(path.flatten(1).mean(1))
        return torch.stack(found, 1)


def _fits(reach: int | None, grid: tuple[int, ...], kind: str) -> None:
    if reach is not None and reach > min(grid):
        raise ConfigError(
            f"{kind!r} reaches {reach} pixels, this decoder's designs have {min(grid)} a side: choose less"
        )


# ---------------------------------------------------------------------- thin parts, softly


class ThinParts(MaterialObjective):
    """Share of the cell in parts thinner than a disc of `diameter` pixels, `(M,)`: what an opening with it takes away.

    Differentiable. For `phase` white, black, or both (the sum). The opening is of grey values, periodic: the least within the
    disc, then the most (Serra 1982); its gradient goes to the pixels that decide. As a constraint, `{at_most: 0.005}`, it
    keeps a design manufacturable. In 3-D a ball. Takes time in proportion to the disc's pixels.
    """

    extremes: ClassVar[tuple[float, float]] = (0.0, 1.0)

    kind: Literal["thin_parts"] = "thin_parts"
    diameter: int = Field(default=3, ge=2, le=33)
    phase: Literal["white", "black", "both"] = "both"

    def build(self, decoder: Decoder) -> Objective:
        grid = self.grid_of(decoder)
        if self.diameter > min(grid):
            raise ConfigError(
                f"'thin_parts' has a disc of {self.diameter} pixels, this decoder's designs have {min(grid)} a side: "
                "choose less"
            )
        offsets = disc(self.diameter, len(grid))

        def lost(x: Tensor) -> Tensor:
            axes = tuple(range(1, x.ndim))
            least = _extreme(x, offsets, axes, torch.minimum)
            opened = _extreme(least, [tuple(-o for o in offset) for offset in offsets], axes, torch.maximum)
            return (x - opened).flatten(1).mean(1)

        def value(c: Candidates) -> Tensor:
            white = self.fractions(c.designs)
            parts = {"white": [white], "black": [1 - white], "both": [white, 1 - white]}[self.phase]
            return torch.stack([lost(x) for x in parts]).sum(0)

        return self.noted(value)

    def reference(self, designs: Tensor) -> Reference | None:
        """Known designs over the volume fraction, for the default disc and phases."""
        usual = type(self)()
        if any(getattr(self, name) != getattr(usual, name) for name in ("diameter", "phase", "threshold")):
            return None
        if not are_known(designs):
            return None
        return over_volume_fraction(self.fractions(designs), lambda one: one["thin parts"][:, 0])


def disc(diameter: int, dim: int) -> list[tuple[int, ...]]:
    """Offsets of the pixels whose centres lie in a disc (ball) of so many pixels across; even ones sit on a corner."""
    low, middle = -(diameter // 2) + (diameter % 2 == 0), 0.5 * (diameter % 2 == 0)
    side = [range(low, diameter // 2 + 1)] * dim
    near = torch.cartesian_prod(*(torch.tensor(list(one)) for one in side)).double()
    inside = (near - middle).square().sum(1) <= (diameter / 2) ** 2
    return [tuple(int(v) for v in row) for row in near[inside].tolist()]


def _extreme(x: Tensor, offsets: list[tuple[int, ...]], axes: tuple[int, ...], better: Any) -> Tensor:
    found = x.roll(offsets[0], axes)
    for offset in offsets[1:]:
        found = better(found, x.roll(offset, axes))
    return found

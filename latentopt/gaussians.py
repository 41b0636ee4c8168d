"""Full Gaussians and mixtures of them, given or fitted to encodings; and the choice among all priors that configs have."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Generator, Tensor

from latentopt import rng
from latentopt.arrayfield import Array
from latentopt.errors import ConfigError
from latentopt.models import AlsoNames, named
from latentopt.priors import Frozen, GaussianKind, Normal, PerDevice, PriorBase, Uniform, UniformSphere, wide

_MIXTURE_DRAWS = 16384


class Gaussian(GaussianKind):
    """A full Gaussian: `mean (D,)` and `covariance (D, D)`, given or fitted to encoded designs."""

    kind: Literal["gaussian"] = "gaussian"
    mean: Array
    covariance: Array

    def check(self, dim: int) -> None:
        _check_array("mean", self.mean, (dim,))
        _check_array("covariance", self.covariance, (dim, dim))
        _check_symmetric("covariance", self.covariance)
        _cholesky(self.covariance.tensor(), "covariance")

    @cached_property
    def _factors(self) -> PerDevice:
        return PerDevice(self.mean.tensor().double(), _cholesky(self.covariance.tensor(), "covariance"))

    def _on(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, factor = self._factors.on(like)
        return mean, factor

    def from_normal(self, u_ND: Tensor) -> Tensor:
        mean, factor = self._on(u_ND)
        return mean + u_ND @ factor.T

    def log_prob(self, z_ND: Tensor) -> Tensor:
        _, factor = self._on(z_ND)
        constant = factor.diagonal().log().sum() + 0.5 * z_ND.shape[1] * math.log(2 * math.pi)
        return -0.5 * self.radius(z_ND).square() - constant

    def centre(self, z_ND: Tensor) -> Tensor:
        return self._on(z_ND)[0]

    def radius(self, z_ND: Tensor) -> Tensor:
        mean, factor = self._on(z_ND)
        return _mahalanobis(z_ND - mean, factor)

    def moments(self, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, factor = self._on(like)
        return mean, factor.square().sum(1).sqrt()


class Mixture(PriorBase):
    """A Gaussian mixture: `weights (C,)`, `means (C, D)`, `covariances (C, D, D)`.

    A row's radius is the Mahalanobis distance to its nearest component; percentiles of it come from 16,384 of the mixture's
    own draws (fixed seed), since there is no closed form.
    """

    kind: Literal["mixture"] = "mixture"
    weights: Array
    means: Array
    covariances: Array

    def check(self, dim: int) -> None:
        count = self.weights.tensor().numel()
        _check_array("weights", self.weights, (count,))
        _check_array("means", self.means, (count, dim))
        _check_array("covariances", self.covariances, (count, dim, dim))
        _check_symmetric("covariances", self.covariances)
        if (self.weights.tensor() <= 0).any():
            raise ConfigError("the prior's weights must be positive: leave out components without weight")
        total = float(self.weights.tensor().sum())
        if abs(total - 1) > 1e-3:
            raise ConfigError(f"the prior's weights sum to {total:.4g}, expected 1: scale them")
        _cholesky(self.covariances.tensor(), "covariances")

    @cached_property
    def _factors(self) -> PerDevice:
        weights = self.weights.tensor().double()
        factor = _cholesky(self.covariances.tensor(), "covariances")
        return PerDevice(weights / weights.sum(), self.means.tensor().double(), factor)

    def _on(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights, means, factor = self._factors.on(like)
        return weights, means, factor

    def sample(self, n: int, dim: int, generator: Generator) -> Tensor:
        # Two separate streams: were the components drawn between the normals, k draws would not begin n draws.
        seeds = torch.randint(0, 2**62, (2,), generator=generator, device=generator.device).tolist()
        pick_rng, normal_rng = (Generator(device=generator.device).manual_seed(s) for s in seeds)
        pick_N = rng.rand(n, 1, pick_rng)[:, 0]
        return self._carry(pick_N, wide(rng.randn(n, dim, normal_rng))).float()

    def _carry(self, pick_N: Tensor, u_ND: Tensor) -> Tensor:
        weights, means, factor = self._on(u_ND)
        last = len(weights) - 1
        which_N = torch.bucketize(pick_N.to(weights), weights.cumsum(0)).clamp(max=last)
        z_ND = means[which_N]
        for c, part in enumerate(factor):  # a factor for each row would take N * D * D numbers
            rows = (which_N == c).nonzero()[:, 0]
            z_ND = z_ND.index_add(0, rows, u_ND[rows] @ part.T)
        return z_ND

    def from_normal(self, u_ND: Tensor) -> Tensor:
        """The first coordinate chooses the component, and its place within that component's share is its normal."""
        return self.from_uniform(torch.special.ndtr(u_ND))

    def from_uniform(self, u_ND: Tensor) -> Tensor:
        weights, _, _ = self._on(u_ND)
        edge = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
        first = u_ND[:, 0].clamp(1e-7, 1 - 1e-7)
        which_N = (torch.bucketize(first, edge[1:])).clamp(max=len(weights) - 1)
        within = ((first - edge[which_N]) / weights[which_N]).clamp(1e-6, 1 - 1e-6)
        rest = torch.cat([within[:, None], u_ND[:, 1:]], dim=1)
        return self._carry(first, torch.special.ndtri(rest.clamp(1e-7, 1 - 1e-7)))

    def _radii(self, z_ND: Tensor) -> Tensor:
        _, means, factor = self._on(z_ND)
        return torch.stack([_mahalanobis(z_ND - mean, part) for mean, part in zip(means, factor, strict=True)], dim=1)

    def log_prob(self, z_ND: Tensor) -> Tensor:
        weights, _, factor = self._on(z_ND)
        log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        log_part = -0.5 * self._radii(z_ND).square() - log_det + weights.log()
        return torch.logsumexp(log_part, dim=1) - 0.5 * z_ND.shape[1] * math.log(2 * math.pi)

    def centre(self, z_ND: Tensor) -> Tensor:
        return self._on(z_ND)[1][self._radii(z_ND).argmin(1)]

    def radius(self, z_ND: Tensor) -> Tensor:
        return self._radii(z_ND).amin(1)

    @cached_property
    def _sorted_radii(self) -> Tensor:
        dim = self.means.tensor().shape[1]
        draws = self.sample(_MIXTURE_DRAWS, dim, rng.generator(0))
        return self.radius(draws).double().sort().values

    def radius_percentile(self, radius_N: Tensor, dim: int) -> Tensor:
        table = self._sorted_radii.to(radius_N.device)
        return 100.0 * torch.searchsorted(table, radius_N.double().contiguous()) / len(table)

    def moments(self, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
        weights, means, factor = self._on(like)
        mean = weights @ means
        spread = factor.square().sum(2) + (means - mean).square()
        return mean, (weights @ spread).sqrt()

    def interval(self, percentile: float, dim: int) -> tuple[Tensor, Tensor]:
        weights, means, factor = self._on(torch.zeros(1, dtype=torch.float64))
        std = factor.square().sum(2).sqrt()
        ends = []
        for share in (0.5 - percentile / 200, 0.5 + percentile / 200):
            low, high = (means - 40 * std).amin(0), (means + 40 * std).amax(0)
            for _ in range(100):  # each coordinate's distribution function is a sum of normals': bisect it
                middle = (low + high) / 2
                below = weights @ torch.special.ndtr((middle - means) / std) < share
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            ends.append(high)
        return ends[0], ends[1]


class Fitted(Frozen):
    """Asks for a prior fitted to the encodings of the decoder's data: a Gaussian, or a mixture of several."""

    kind: Literal["fitted"] = "fitted"
    components: int = Field(default=1, ge=1, le=256)


_PRIORS = ("normal", "uniform", "sphere", "gaussian", "mixture", "fitted")
PriorChoice = Annotated[
    Normal | Uniform | UniformSphere | Gaussian | Mixture | Fitted,
    Field(discriminator="kind"),
    BeforeValidator(lambda value: named(value, _PRIORS, "prior")),
    AlsoNames(_PRIORS),
]
"""The type of config fields that hold a prior: its name, dict or config."""


def _check_array(name: str, value: Array, shape: tuple[int, ...]) -> None:
    got = tuple(value.tensor().shape)
    if got != shape:
        raise ConfigError(f"the prior's {name} has shape {got}, expected {shape}")
    bad = int((~torch.isfinite(value.tensor())).sum())
    if bad:
        raise ConfigError(f"the prior's {name} holds {bad} values that are NaN or infinite: replace them")


def _check_symmetric(name: str, value: Array) -> None:
    matrix = value.tensor().double()
    if not torch.allclose(matrix, matrix.mT, rtol=1e-4, atol=1e-6 * float(matrix.abs().amax())):
        raise ConfigError(f"the prior's {name} is not symmetric: give a covariance, for example (A + A.T) / 2")


def _cholesky(covariance: Tensor, name: str) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(covariance.double())
    if info.any():
        raise ConfigError(f"the prior's {name} is not positive definite: add a small number to its diagonal")
    return factor


def _mahalanobis(offset_ND: Tensor, factor_DD: Tensor) -> Tensor:
    white = torch.linalg.solve_triangular(factor_DD, offset_ND.T, upper=False)
    return torch.linalg.vector_norm(white, dim=0)

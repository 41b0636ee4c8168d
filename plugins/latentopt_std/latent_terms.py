"""Objectives on where latents lie: how likely, near what, and how far from each other."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from latentopt import (
    Array,
    Candidates,
    ConfigError,
    Decoder,
    LeastSquares,
    Objective,
    ObjectiveConfig,
    Uniform,
    UniformSphere,
)
from latentopt_std.objectives import own

_SCALE_DRAWS = 64


class PriorTerm(ObjectiveConfig):
    """-log p(z) / D under the decoder's prior, `(M,)`, nats a latent value: the density's own constant is kept.

    Divided by D so that one weight means the same for latents of any size; N(0, I) gives about 1.42 at a typical latent and
    0.92 at its mean. It pulls towards the mode, where few latents are: a region by percentile keeps latents typical without
    a weight to choose. Raises `ConfigError` for priors whose density is the same everywhere.
    """

    kind: Literal["prior"] = "prior"

    def build(self, decoder: Decoder) -> Objective:
        prior = decoder.space.prior
        if isinstance(prior, Uniform | UniformSphere):
            raise ConfigError(
                f"objective 'prior' says nothing under a {type(prior).__name__} prior, whose density is the same everywhere: "
                "use region= to stay inside it"
            )
        return lambda c: -prior.log_prob(c.latents) / c.latents.shape[1]


class Anchor(ObjectiveConfig):
    """Mean squared distance to a given latent or design, `(M,)`: stay near it. Gives residuals.

    Exactly one of `latent` (one, `latent_shape` or `(D,)`, or `(T, D)` with one a target), measured in standard deviations of
    the prior, and `design` (one, or one a target), in design units. Raises `ShapeError` where they do not fit.
    """

    kind: Literal["anchor"] = "anchor"
    latent: Array | None = None
    design: Array | None = None

    @model_validator(mode="after")
    def _one(self) -> Anchor:
        if (self.latent is None) == (self.design is None):
            raise ValueError("an anchor takes exactly one of latent and design")
        return self

    def build(self, decoder: Decoder) -> LeastSquares:
        if self.latent is not None:
            aim_T = decoder.as_rows(self.latent.tensor())
            scale = decoder.space.std(aim_T)
        else:
            aim_T = decoder.as_designs(self.design, "anchor design")
            scale = torch.ones((), device=aim_T.device, dtype=aim_T.dtype)
        bad = int((~torch.isfinite(aim_T)).sum())
        if bad:
            raise ConfigError(f"the anchor holds {bad} values that are NaN or infinite: replace them")
        return _Anchor(aim_T, scale, of_latents=self.latent is not None)


class _Anchor:
    def __init__(self, aim_T: Tensor, scale: Tensor, *, of_latents: bool) -> None:
        self.aim_T, self.scale, self.of_latents, self.targets = aim_T, scale, of_latents, len(aim_T)

    def residuals(self, c: Candidates) -> Tensor:
        rows = c.latents if self.of_latents else c.designs
        difference = ((rows - own(self.aim_T, c)) / self.scale).flatten(1)
        return difference / difference.shape[1] ** 0.5

    def __call__(self, c: Candidates) -> Tensor:
        return self.residuals(c).square().sum(1)


class Diversity(ObjectiveConfig):
    """How close a row is to the other rows of its target, `(M,)`, 0 (far) to 1 (the same): minimize it to spread them.

    The mean over those rows of exp(-d^2 / (2 scale^2)), where d is the root mean square difference of designs, or of
    latents in standard deviations of the prior (`space`); a lone row has 0. `scale` is by default the median d between
    64 draws of the prior (the median heuristic, Garreau, Jitkrittum and Kanagawa 2017). Rows that are exactly equal feel
    no force. Memory grows with the square of the number of rows. Raises `ConfigError` where all draws are alike and
    there is no scale.
    """

    across_rows = True

    kind: Literal["diversity"] = "diversity"
    space: Literal["designs", "latents"] = "designs"
    scale: float | None = Field(default=None, gt=0)

    def build(self, decoder: Decoder) -> Objective:
        std = decoder.space.std(torch.zeros(1, device=decoder.device, dtype=decoder.latent_dtype))
        found = _Diversity(std if self.space == "latents" else None, self.scale or 1.0)
        if self.scale is None:
            draws = decoder.as_rows(decoder.space.draw(_SCALE_DRAWS, torch.Generator().manual_seed(0)))
            index = torch.zeros(_SCALE_DRAWS, dtype=torch.long, device=decoder.device)
            designs = decoder.decode(draws) if self.space == "designs" else draws
            points = found.points(Candidates(draws, designs, index))
            found.scale = float(torch.pdist(points).median()) / points.shape[1] ** 0.5
            if found.scale < 1e-6:
                raise ConfigError(
                    f"the median distance between the {self.space} of {_SCALE_DRAWS} draws is {found.scale:g}: "
                    "give 'diversity' a scale"
                )
        return found


class _Diversity:
    def __init__(self, std: Tensor | None, scale: float) -> None:
        self.std, self.scale = std, scale

    def points(self, c: Candidates) -> Tensor:
        """What is compared, `(M, P)`."""
        return c.designs.flatten(1) if self.std is None else c.latents / self.std

    def __call__(self, c: Candidates) -> Tensor:
        x = self.points(c)
        fine_M = torch.isfinite(x).all(1)  # a row that turned NaN is alone in it
        x = torch.where(fine_M[:, None], x, 0.0)
        # By inner products: explicit differences take M^2 P numbers, and the root in cdist has no gradient at 0.
        length_M = x.square().sum(1)
        square_MM = (length_M[:, None] + length_M - 2 * x @ x.T).clamp(min=0) / x.shape[1]
        alike_MM = (c.target_index[:, None] == c.target_index) & fine_M[:, None] & fine_M
        others_MM = alike_MM & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
        near_MM = torch.where(others_MM, torch.exp(square_MM / (-2 * self.scale**2)), 0.0)
        value_M = near_MM.sum(1) / others_MM.sum(1).clamp(min=1)
        return torch.where(fine_M, value_M, torch.nan)

"""Samplers: ways of drawing latents, as starts or for their own sake."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor
from torch.quasirandom import SobolEngine

from latentopt import (
    Array,
    ConfigError,
    Decoder,
    Gaussian,
    LatentSpace,
    Normal,
    Sampler,
    SamplerConfig,
    Uniform,
    fit_prior,
)

# What is worked out in float64 and then rounded gives a row the same bits among any number of rows.


class PriorSampler(SamplerConfig):
    """Draws from the decoder's own prior, whatever it is: the default."""

    kind: Literal["prior"] = "prior"

    def build(self, decoder: Decoder) -> Sampler:
        return lambda n, space, generator: space.draw(n, generator)


class NormalSampler(SamplerConfig):
    """Independent normals of the prior's own mean and standard deviation, or of those given."""

    kind: Literal["normal"] = "normal"
    mean: float | None = None
    std: float | None = Field(default=None, gt=0)

    def build(self, decoder: Decoder) -> Sampler:
        def draw(n: int, space: LatentSpace, generator: Generator) -> Tensor:
            noise = space.normal(n, generator)
            mean = space.mean(noise) if self.mean is None else self.mean
            std = space.std(noise) if self.std is None else self.std
            return noise * std + mean

        return draw


class TruncatedSampler(SamplerConfig):
    """The prior from standard normals that never exceed `threshold` in size: typical designs, less variety.

    What Brock, Donahue and Simonyan 2019 (BigGAN, section 3.1) call the truncation trick, by the inverse distribution
    function in place of redrawing, so that nothing is rejected. 2.0 is where TensorFlow's `truncated_normal` cuts.
    """

    kind: Literal["truncated"] = "truncated"
    threshold: float = Field(default=2.0, gt=0)

    def build(self, decoder: Decoder) -> Sampler:
        def draw(n: int, space: LatentSpace, generator: Generator) -> Tensor:
            limit = torch.tensor(self.threshold, dtype=torch.float64)
            low = float(torch.special.ndtr(-limit))
            middle = space.uniform(n, generator).double() + 2**-25  # centred in their steps of 2**-24: both tails alike
            u_ND = torch.special.ndtri(low + middle * (1 - 2 * low)).clamp(-self.threshold, self.threshold)
            return space.prior.from_normal(u_ND).float()

        return draw


class UniformSampler(SamplerConfig):
    """Uniform in a box: `low` to `high` (numbers or D of them), or the prior's central 98 % of each coordinate."""

    kind: Literal["uniform"] = "uniform"
    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> UniformSampler:
        if (self.low is None) != (self.high is None):
            raise ValueError("a box needs both low and high, or neither")
        if self.low is not None and self.high is not None:
            low, high = torch.tensor(self.low), torch.tensor(self.high)
            if low.ndim and high.ndim and len(low) != len(high):
                raise ValueError(f"low has {len(low)} numbers and high has {len(high)}")
            if bool((low >= high).any()):
                raise ValueError(f"low must be below high, got low={self.low}, high={self.high}")
        return self

    def build(self, decoder: Decoder) -> Sampler:
        if self.low is not None and self.high is not None:
            given = Uniform(low=self.low, high=self.high)
            given.check(decoder.dim)
            return lambda n, space, generator: given.sample(n, space.dim, generator)

        def draw(n: int, space: LatentSpace, generator: Generator) -> Tensor:
            u_ND = space.uniform(n, generator)
            low, high = (end.to(u_ND.device) for end in space.prior.interval(98.0, space.dim))
            return (low + u_ND.double() * (high - low)).float()

        return draw


class SphereSampler(SamplerConfig):
    """Directions uniform over the whole sphere, at the prior's root-mean-square distance from its mean, or at `radius`.

    Distances are in the prior's standard deviations, so the default is sqrt(D). For a Gaussian prior the sphere is its
    ellipsoid of that Mahalanobis radius; for priors that are not Gaussian, the ellipsoid of their mean and standard
    deviations (which is the sphere itself for a spherical prior). Directions by normalised normals: Muller 1959.
    """

    kind: Literal["sphere"] = "sphere"
    radius: float | None = Field(default=None, gt=0)

    def build(self, decoder: Decoder) -> Sampler:
        def draw(n: int, space: LatentSpace, generator: Generator) -> Tensor:
            u_ND = space.normal(n, generator).double()
            size = math.sqrt(space.dim) if self.radius is None else self.radius
            u_ND = u_ND * (size / torch.linalg.vector_norm(u_ND, dim=1, keepdim=True))
            if isinstance(space.prior, Normal | Gaussian):
                return space.prior.from_normal(u_ND).float()
            return (space.mean(u_ND) + u_ND * space.std(u_ND)).float()

        return draw


class SobolSampler(SamplerConfig):
    """Scrambled Sobol points carried over to the prior: they cover it more evenly than independent draws.

    Sobol 1967 with the scrambling of Matousek 1998, as torch has them; best with a power of two for n. Up to 21,201 latent
    values, beyond which torch has no direction numbers.
    """

    kind: Literal["sobol"] = "sobol"

    def build(self, decoder: Decoder) -> Sampler:
        if decoder.dim > SobolEngine.MAXDIM:
            raise ConfigError(
                f"sampler 'sobol' goes up to {SobolEngine.MAXDIM} latent values and this decoder has {decoder.dim}: "
                "use 'prior'"
            )

        def draw(n: int, space: LatentSpace, generator: Generator) -> Tensor:
            seed = int(torch.randint(0, 2**62, (1,), generator=generator, device=generator.device))
            points_ND = SobolEngine(space.dim, scramble=True, seed=seed).draw(n, dtype=torch.float64)
            return space.prior.from_uniform(points_ND.to(generator.device)).float()

        return draw


class AroundSampler(SamplerConfig):
    """Near a known `latent` or `design` (one or several, taken in turn): normals of `spread` prior standard deviations.

    Designs are encoded by the decoder's encoder. Raises `DecoderError` where it has none.
    """

    kind: Literal["around"] = "around"
    latent: Array | None = None
    design: Array | None = None
    spread: float = Field(default=0.25, gt=0)

    @model_validator(mode="after")
    def _one(self) -> AroundSampler:
        if (self.latent is None) == (self.design is None):
            raise ValueError("sampler 'around' takes exactly one of latent and design")
        return self

    def build(self, decoder: Decoder) -> Sampler:
        if self.latent is not None:
            centre_KD = decoder.as_rows(self.latent.tensor())
        else:
            centre_KD = decoder.encode(self.design)
        _check_codes(centre_KD, self.kind)

        def draw(n: int, space: LatentSpace, generator: Generator) -> Tensor:
            noise = space.normal(n, generator)
            turn_N = torch.arange(n, device=noise.device) % len(centre_KD)
            return centre_KD.to(noise)[turn_N] + noise * (space.std(noise) * self.spread)

        return draw


class FittedSampler(SamplerConfig):
    """Draws from a Gaussian, or a mixture of `components`, fitted to encoded `designs` (by default the decoder's data).

    For decoders whose latents do not follow the prior that they are said to. Raises `ConfigError` without designs.
    """

    kind: Literal["fitted"] = "fitted"
    designs: Array | None = None
    components: int = Field(default=1, ge=1, le=256)

    def build(self, decoder: Decoder) -> Sampler:
        prior = fit_prior(_codes(decoder, self.designs, self.kind), self.components)
        return lambda n, space, generator: prior.sample(n, space.dim, generator)


class EncodedSampler(SamplerConfig):
    """The encodings of `designs` (by default of the decoder's data) as they are: row i is the code of design i.

    Raises `ConfigError` where more rows are asked for than there are designs.
    """

    random: ClassVar[bool] = False  # the seed changes nothing

    kind: Literal["encoded"] = "encoded"
    designs: Array | None = None

    def build(self, decoder: Decoder) -> Sampler:
        codes_KD = _codes(decoder, self.designs, self.kind)

        def draw(n: int, space: LatentSpace, generator: Generator) -> Tensor:
            if n > len(codes_KD):
                raise ConfigError(
                    f"sampler 'encoded' has {len(codes_KD)} designs and was asked for {n} rows: "
                    "ask for fewer, give more designs, or use 'around'"
                )
            return codes_KD[:n].to(device=generator.device, dtype=torch.float32)

        return draw


def _codes(decoder: Decoder, designs: Array | None, kind: str) -> Tensor:
    """Encodings `(K, D)` of these designs, or of the decoder's data."""
    codes_KD = decoder.codes if designs is None else decoder.encode(designs)
    if codes_KD is None:
        raise ConfigError(f"sampler {kind!r} needs designs: give it some, or the decoder its data= and encoder=")
    _check_codes(codes_KD, kind)
    return codes_KD


def _check_codes(codes_KD: Tensor, kind: str) -> None:
    bad = int((~torch.isfinite(codes_KD)).any(1).sum())
    if bad or not len(codes_KD):
        found = f"{bad} of its {len(codes_KD)} latents are NaN or infinite" if bad else "it has none"
        raise ConfigError(f"sampler {kind!r} needs finite latents and {found}: give others")

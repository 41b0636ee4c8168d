"""Samplers: ways of drawing latents, as starts or for their own sake."""

from __future__ import annotations

from typing import Literal

from torch import Generator, Tensor

from latentopt import Decoder, LatentSpace, Sampler, SamplerConfig


class PriorSampler(SamplerConfig):
    """Draws from the decoder's own prior, whatever it is: the default."""

    kind: Literal["prior"] = "prior"

    def build(self, decoder: Decoder) -> Sampler:
        return lambda n, space, generator: space.draw(n, generator)


class NormalSampler(SamplerConfig):
    """Independent normals of the prior's own mean and standard deviation, or of those given."""

    kind: Literal["normal"] = "normal"
    mean: float | None = None
    std: float | None = None

    def build(self, decoder: Decoder) -> Sampler:
        def draw(n: int, space: LatentSpace, generator: Generator) -> Tensor:
            noise = space.normal(n, generator)
            mean = space.mean(noise) if self.mean is None else self.mean
            std = space.std(noise) if self.std is None else self.std
            return noise * std + mean

        return draw

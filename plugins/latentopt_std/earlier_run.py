"""Latents that an earlier run found, to go on from."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from latentopt import ConfigError, Decoder, FilePath, LatentSpace, Sampler, SamplerConfig, load


class EarlierRun(SamplerConfig):
    """The latents of an earlier search in `folder`: the best of each of its targets, then their second best, and so on.

    As starts every target gets the first `n`; with `screened_from` larger than n, the n of so many rows that are best for it.
    Raises `InputFileError` where the folder holds no search, `ConfigError` where its latents do not fit, or are fewer.
    """

    random: ClassVar[bool] = False  # the seed changes nothing

    kind: Literal["run"] = "run"
    folder: FilePath

    def build(self, decoder: Decoder) -> Sampler:
        found = load(self.folder)
        if tuple(found.latents.shape[1:]) != decoder.latent_shape:
            raise ConfigError(
                f"the run in {self.folder} has latents of shape {tuple(found.latents.shape[1:])}, this decoder's are "
                f"{decoder.latent_shape}: give a run of the same decoder"
            )
        # rows are ordered by target, then loss: their place among those of their target comes first here
        place = torch.cat([torch.arange(int(count)) for count in found.target_index.bincount() if count])
        rows_KD = decoder.as_rows(found.latents)[place.argsort(stable=True).to(decoder.device)]

        def draw(n: int, space: LatentSpace, generator: Generator) -> Tensor:
            if n > len(rows_KD):
                raise ConfigError(
                    f"the run in {self.folder} has {len(rows_KD)} rows and {n} were asked for: ask for fewer with n"
                )
            return rows_KD[:n].to(device=generator.device, dtype=torch.float32)

        return draw

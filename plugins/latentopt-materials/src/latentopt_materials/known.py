"""Designs that answers are compared with: the structures that the decoder was trained on, and draws from its prior."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from latentopt import ConfigError, Decoder, suggest
from latentopt_materials.decoders import Microstructures, training_record
from latentopt_materials.periodic import centred
from latentopt_materials.structures import FAMILIES, make_structures

SETS = ("training", "draws")
DRAWS = 20_000
_SEED = 20_000  # of the draws: no seed that a run is likely to have
_ROWS = 500


def known_designs(which: Literal["training", "draws"], *, decoder: Decoder | None = None) -> Tensor:
    """Designs `(P, 1, 64, 64)`, float32, the same at every call.

    `training`: what the decoder was trained on, centred, made again from the seed of its record: 4,000 structures of each of
        `structures.FAMILIES`, family by family.
    `draws`: 20,000 draws from the prior, decoded by `decoder` (by `microstructures` where None), on its device.
    Raises `ConfigError` for another name.
    """
    if which == "training":
        recipe = training_record()["recipe"]
        return training_set(recipe["seed"], recipe["per_family"])
    if which == "draws":
        decoder = decoder or Microstructures().build()
        z = decoder.space.draw(DRAWS, torch.Generator().manual_seed(_SEED))
        return torch.cat([decoder.decode(part) for part in z.split(_ROWS)])
    raise ConfigError(f"no known designs are called {which!r}{suggest(which, SETS)}: use one of {', '.join(SETS)}")


def training_set(seed: int, per_family: int) -> Tensor:
    """Centred structures `(6 * per_family, 1, 64, 64)`, family by family."""
    return torch.cat([centred(make_structures(family, per_family, seed)) for family in FAMILIES])

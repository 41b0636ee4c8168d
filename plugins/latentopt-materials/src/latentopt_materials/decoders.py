"""The decoder of this package: `microstructures`, periodic two-phase structures of 64 x 64 from 32 latent values."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from latentopt import (
    Decoder,
    DecoderConfig,
    DecoderError,
    Weights,
    as_device,
    filled,
    package_data,
    parse_weights,
)
from latentopt_materials.nets import LATENT, MicrostructureDecoder, MicrostructureEncoder
from latentopt_materials.structures import SIZE


class Microstructures(DecoderConfig):
    """Periodic two-phase microstructures: 32 latent values to local volume fractions of phase 1 (white), `(1, 64, 64)`.

    A variational auto-encoder trained by `latentopt_materials.train` on what `latentopt_materials.structures` makes
    (data/training.json), with the prior N(0, I), which is checked against the encodings of the examples. Its encoder expects
    centred designs: `latentopt_materials.centred(designs)`. `device`: where it runs.
    Raises `DecoderError` where its files are not those that were published, or the device is not there.
    """

    kind: Literal["microstructures"] = "microstructures"
    device: str = "cpu"

    def build(self) -> Decoder:
        device = as_device(self.device)
        weights = published("microstructures.safetensors")
        return Decoder(
            filled(MicrostructureDecoder, weights.part("decoder.")).to(device),
            latent_shape=(LATENT,),
            encoder=filled(MicrostructureEncoder, weights.part("encoder.")).to(device),
            prior="normal",
            data=self.examples(),
            name="microstructures",
        )

    def examples(self) -> Tensor:
        """Held-out structures `(96, 1, 64, 64)`, float32, centred: 16 of each of `structures.FAMILIES`, family by family."""
        packed = published("examples.safetensors").tensors["phases"].numpy()
        phases = np.unpackbits(packed, axis=-1).reshape(-1, SIZE, 2, SIZE, 2)
        return torch.from_numpy(phases.mean((2, 4), dtype=np.float32)[:, None])

    def draw(self, designs: Tensor) -> Tensor:
        """Pictures `(N, 1, 128, 128)`: each structure 2 x 2 times, so that its borders are seen to fit."""
        return designs.clamp(0, 1).repeat(1, 1, 2, 2)


def training_record() -> dict[str, Any]:
    """How the decoder was trained and what was measured then: data/training.json."""
    try:
        return json.loads((importlib.resources.files("latentopt_materials") / "data" / "training.json").read_text())
    except (OSError, ValueError) as error:
        raise DecoderError(
            f"the decoder's training record cannot be read ({type(error).__name__}: {error}): reinstall latentopt-materials"
        ) from error


def published(name: str) -> Weights:
    """The tensors of a file in data/, if they are those whose sum the training record holds."""
    raw = package_data("latentopt_materials", name, record="training.json", distribution="latentopt-materials")
    return parse_weights(raw, name)

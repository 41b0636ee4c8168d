"""Writes what training gives: weights, examples, and the record with everything measured on held-out structures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentopt_materials import quality
from latentopt_materials.nets import LATENT, MicrostructureDecoder, MicrostructureEncoder
from latentopt_materials.periodic import centred
from latentopt_materials.structures import FAMILIES, SIZE, make_structures

HELD_OUT, EXAMPLES = 200, 16  # structures of each family that are measured; that are shipped


def publish(
    out: Path,
    encoder: MicrostructureEncoder,
    decoder: MicrostructureDecoder,
    recipe: Any,
    curve: list[dict[str, float]],
    seconds: dict[str, float],
    held_out: int = HELD_OUT,
    examples: int = EXAMPLES,
) -> None:
    """Write `microstructures.safetensors` (float16), `examples.safetensors` (bits) and `training.json` into `out`.

    held_out, examples: structures of each family that are measured, and the first of them that are shipped.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts = {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
    parts |= {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    halves = {k: v.half().contiguous() for k, v in parts.items()}
    for prefix, network in (("decoder.", decoder), ("encoder.", encoder)):  # what is shipped is what is measured
        network.load_state_dict({k.removeprefix(prefix): v.float() for k, v in halves.items() if k.startswith(prefix)})
    weights, shown = out / "microstructures.safetensors", out / "examples.safetensors"
    save_file(halves, weights)
    unseen = held_out_structures(recipe.seed + 1, held_out)
    shipped = torch.cat([designs[:examples] for designs in unseen.values()])
    save_file({"phases": torch.from_numpy(packed(shipped))}, shown)
    record = {
        "licence": "CC0-1.0",
        "recipe": dataclasses.asdict(recipe),
        "parameters": {
            n: sum(p.numel() for p in m.parameters()) for n, m in (("decoder", decoder), ("encoder", encoder))
        },
        "seconds": seconds,
        "torch": torch.__version__,
        "curve": curve,
        "held_out": measured(encoder, decoder, unseen),
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (weights, shown)},
    }
    (out / "training.json").write_text(json.dumps(rounded(record), indent=2) + "\n")


def held_out_structures(seed: int, each: int = HELD_OUT) -> dict[str, Tensor]:
    """Centred structures by family that training has not seen."""
    return {family: centred(make_structures(family, each, seed)) for family in FAMILIES}


def measured(
    encoder: MicrostructureEncoder, decoder: MicrostructureDecoder, held_out: dict[str, Tensor]
) -> dict[str, Any]:
    """All figures of the record: reconstruction by family, the posterior, draws from the prior, structures beside them.

    `draws_as_trained` are the draws before the level-set function is made steeper (nets.SHARPNESS).
    """
    every = torch.cat(list(held_out.values()))
    return {
        "reconstruction": {f: quality.reconstruction(encoder, decoder, x) for f, x in held_out.items()},
        "posterior": quality.posterior(encoder, every, seed=0),
        "draws": quality.draws(decoder, LATENT, 2000, seed=0),
        "draws_as_trained": quality.draws(lambda z: torch.sigmoid(decoder.logits(z)), LATENT, 2000, seed=0),
        "structures": quality.appearance(every),
    }


def packed(designs: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Bits of designs whose values are quarters `(N, 1, 64, 64)`: bytes `(N, 128, 16)` of a grid twice as fine."""
    quarters = (designs[:, 0] * 4).round().to(torch.uint8).numpy()
    filled = quarters[..., None] > np.arange(4, dtype=np.uint8)  # which of a pixel's four cells does not matter
    fine = filled.reshape(-1, SIZE, SIZE, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 2 * SIZE, 2 * SIZE)
    return np.packbits(fine, axis=-1)


def rounded(value: Any) -> Any:
    """Numbers to five digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value

"""Loads the trained auto-encoders of this folder and the designs kept back for them. What made both is in data/*.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.trained.nets import SHAPES, build
from latentopt import ConfigError, Decoder, DecoderError, parse_weights, suggest

DATA = Path(__file__).parent / "data"
NAMES = tuple(SHAPES)
KEPT = 64  # of each name as targets, and as many again as known designs
COLUMNS = 16  # pictures a row in the sheets


def load(name: str) -> Decoder:
    """The decoder `d20`, `deep` or `conv` with its encoder, in float32, with prior N(0, I).

    The prior is checked against the encodings of 64 known designs, which are neither among those of the training nor among
    the targets of `held_out`. Each call gives new modules.
    Raises `ConfigError` for other names, and `DecoderError` where a file is not the one that the record names.
    """
    shapes, published = SHAPES[_known(name)], record(name)
    encoder, decoder = _untrained(name)
    file = f"{name}.safetensors"
    tensors = parse_weights((DATA / file).read_bytes(), file, published["sha256"][file]).tensors
    for prefix, network in (("encoder.", encoder), ("decoder.", decoder)):
        part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in part.items()}, assign=True)
        network.eval()
    return Decoder(
        decoder,
        latent_shape=(shapes.latent,),
        encoder=encoder,
        prior="normal",
        data=_kept(name)[KEPT:],
        name=name,
    )


def held_out(name: str, n: int = KEPT) -> Tensor:
    """The first `n` of 64 designs that training never saw, `(n, *design_shape)`, float32 in [0, 1].

    Raises `ConfigError` for other names and for more than there are.
    """
    _known(name)
    if not 1 <= n <= KEPT:
        raise ConfigError(f"held_out has 1 to {KEPT} designs of {name!r}, got n = {n}")
    return _kept(name)[:n]


def record(name: str) -> dict[str, Any]:
    """How it was trained, its figures on held-out designs, and the hashes of its files."""
    found: dict[str, Any] = json.loads((DATA / f"{_known(name)}.json").read_text())
    return found


def write_sheet(images_NCHW: Tensor, path: Path) -> None:
    """Pictures, uint8, 16 a row in one PNG without loss: half the size of raw numbers, and one can look at it."""
    n, c, h, w = images_NCHW.shape
    rows = images_NCHW.view(n // COLUMNS, COLUMNS, c, h, w).permute(0, 3, 1, 4, 2)
    sheet = rows.reshape(n // COLUMNS * h, COLUMNS * w, c).squeeze(-1)
    Image.fromarray(sheet.numpy()).save(path, optimize=True)


def _kept(name: str) -> Tensor:
    """64 targets, then 64 known designs."""
    found, (c, h, w) = record(name), SHAPES[name].design
    file = found["held_out"]
    raw = (DATA / file).read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != found["sha256"][file]:
        raise DecoderError(f"{file} has sha256 {digest}, expected {found['sha256'][file]}: get the right one")
    with Image.open(DATA / file) as sheet:
        pixels = torch.from_numpy(np.array(sheet))
    tiles = pixels.view(2 * KEPT // COLUMNS, h, COLUMNS, w, c).permute(0, 2, 4, 1, 3)
    return tiles.reshape(2 * KEPT, c, h, w).float() / 255


def _known(name: str) -> str:
    if name not in SHAPES:
        raise ConfigError(f"no trained decoder {name!r}{suggest(name, SHAPES)}; there are {', '.join(NAMES)}")
    return name


def _untrained(name: str) -> tuple[torch.nn.Sequential, torch.nn.Sequential]:
    with torch.device("meta"):  # no random numbers are drawn for weights that are replaced at once
        return build(name)

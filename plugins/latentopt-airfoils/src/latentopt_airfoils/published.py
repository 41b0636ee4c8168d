"""The files that ship with the package, each checked against the sha256 that `data/airfoils.json` has of it."""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentopt import DecoderError, parse_weights


@dataclass(frozen=True)
class RealAirfoils:
    """The known airfoils: `numbers (n, 18)`, float32; `names`, those of their files; `held_out (n,)`, not trained on."""

    numbers: Tensor
    names: tuple[str, ...]
    held_out: Tensor


def raw(name: str) -> bytes:
    """The bytes of one file. Raises `DecoderError` where it is missing, or not the file that was published."""
    folder = importlib.resources.files("latentopt_airfoils") / "data"
    try:
        expected = json.loads((folder / "airfoils.json").read_text("utf-8"))["sha256"][name]
        found = (folder / name).read_bytes()
    except (OSError, ValueError, KeyError) as error:
        raise DecoderError(
            f"the file {name} of latentopt-airfoils cannot be read ({type(error).__name__}: {error}): "
            "reinstall latentopt-airfoils"
        ) from error
    digest = hashlib.sha256(found).hexdigest()
    if digest != expected:
        raise DecoderError(
            f"the file {name} of latentopt-airfoils has sha256 {digest}, expected {expected}: reinstall latentopt-airfoils"
        )
    return found


def tensors(name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    return parse_weights(raw(name), name).tensors


def arrays(name: str) -> dict[str, Tensor]:
    """The arrays of an npz file as tensors; nothing in it is unpickled."""
    with np.load(io.BytesIO(raw(name)), allow_pickle=False) as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


@lru_cache(maxsize=1)
def real() -> RealAirfoils:
    """All known airfoils, in the order of their names."""
    found = tensors("real.safetensors")
    names = tuple(raw("real.txt").decode("utf-8").split())
    return RealAirfoils(found["numbers"], names, found["held_out"])


def record() -> dict[str, Any]:
    """What `data/airfoils.json` says: origins, licences, how the decoder was trained and how good it is."""
    folder = importlib.resources.files("latentopt_airfoils") / "data"
    found: dict[str, Any] = json.loads((folder / "airfoils.json").read_text("utf-8"))
    return found

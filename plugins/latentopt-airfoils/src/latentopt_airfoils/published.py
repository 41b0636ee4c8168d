"""The files that ship with the package, each checked against the sha256 that `data/airfoils.json` has of it."""

from __future__ import annotations

import importlib.resources
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentopt import Weights, package_data, parse_weights


@dataclass(frozen=True)
class RealAirfoils:
    """The known airfoils: `numbers (n, 18)`, float32; `names`, those of their files; `held_out (n,)`, not trained on."""

    numbers: Tensor
    names: tuple[str, ...]
    held_out: Tensor


def raw(name: str) -> bytes:
    """The bytes of one file. Raises `DecoderError` where it is missing, or not the file that was published."""
    return package_data("latentopt_airfoils", name, record="airfoils.json", distribution="latentopt-airfoils")


def weights(name: str) -> Weights:
    """The tensors of a safetensors file."""
    return parse_weights(raw(name), name)


def arrays(name: str) -> dict[str, Tensor]:
    """The arrays of an npz file as tensors; nothing in it is unpickled."""
    with np.load(io.BytesIO(raw(name)), allow_pickle=False) as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


@lru_cache(maxsize=1)
def real() -> RealAirfoils:
    """All known airfoils, in the order of their names."""
    found = weights("real.safetensors").tensors
    names = tuple(raw("real.txt").decode("utf-8").split())
    return RealAirfoils(found["numbers"], names, found["held_out"])


def record() -> dict[str, Any]:
    """What `data/airfoils.json` says: origins, licences, how the decoder was trained and how good it is."""
    folder = importlib.resources.files("latentopt_airfoils") / "data"
    found: dict[str, Any] = json.loads((folder / "airfoils.json").read_text("utf-8"))
    return found

"""Properties of known designs, computed once (scripts/known_properties.py): what answers are compared with.

data/known.safetensors holds them for what `known_designs` gives, in its order, as 16-bit integers between the extremes of a
column, compressed. Objectives look their values up here where their options are those that the properties were computed with.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from latentopt import Array, LatentoptError, Reference
from latentopt_materials.decoders import published
from latentopt_materials.structures import SIZE

# By `known_designs`' names. They say whose they are: a decoder of one's own is compared with them too.
SETS = {"draws": "20,000 draws of microstructures", "training": "24,000 training structures of microstructures"}
FILE = "known.safetensors"
THRESHOLD = 0.5  # of the designs cut into two pure phases, whose properties have "cut " before their names
# Conductivities and stiffnesses of the default phases, thin parts by the default disc, percolation of the white phase; and
# how far from runs/structure.png, which two runs start from: the root of `two_point`, and `change`.
COLUMNS = {  # of each property
    "conductivity": ("xx", "xy", "yy"),
    "cut conductivity": ("xx", "xy", "yy"),
    "stiffness": ("xx,xx", "xx,yy", "xx,xy", "yy,yy", "yy,xy", "xy,xy"),
    "volume fraction": ("",),
    "cut volume fraction": ("",),
    "interface length": ("",),
    "thin parts": ("",),
    "percolation": ("x", "y"),
    "two-point distance": ("",),
    "change": ("",),
}
_STEPS = 65_535  # between the least and the most of a column


def pack(found: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of the file, from the properties `(P, columns)` of each set by name."""
    tensors = {}
    for name in COLUMNS:
        every = torch.cat([one[name].double() for one in found.values()])
        low, high = every.amin(0), every.amax(0)
        tensors[f"range.{name}"] = torch.stack([low, high]).float()
        low, high = tensors[f"range.{name}"].double()
        for which, one in found.items():
            share = ((one[name].double() - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
            tensors[f"{which}.{name}"] = _pressed((share * _STEPS).round())
    return tensors


def _pressed(steps: Tensor) -> Tensor:
    """Whole numbers below 2^16 `(P, columns)` as bytes: column by column, high bytes before low ones, by zlib."""
    pairs = steps.numpy().astype(">u2").T.copy().view(np.uint8).reshape(-1, 2)
    return torch.frombuffer(bytearray(zlib.compress(pairs.T.tobytes(), 9)), dtype=torch.uint8)


def _expanded(pressed: Tensor, columns: int) -> Tensor:
    """The whole numbers again, float64."""
    pairs = np.frombuffer(zlib.decompress(pressed.numpy().tobytes()), np.uint8).reshape(2, -1).T.copy()
    return torch.from_numpy(pairs.view(">u2").reshape(columns, -1).T.astype(np.float64))


def unpack(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The properties `(P, columns)`, float64, of each set by name: right to a 130,000th of a column's range."""
    found: dict[str, dict[str, Tensor]] = {}
    for which in SETS:
        found[which] = {}
        for name, columns in COLUMNS.items():
            low, high = tensors[f"range.{name}"].double()
            share = _expanded(tensors[f"{which}.{name}"], len(columns)) / _STEPS
            found[which][name] = low + share * (high - low)
    return found


@lru_cache(maxsize=1)
def properties() -> dict[str, dict[str, Tensor]]:
    """What the package holds: by set ("draws", "training") and by name of `COLUMNS`, `(P, columns)`, float64.

    Raises `DecoderError` where the file is not the one that was published.
    """
    return unpack(published(FILE).tensors)


def are_known(designs: Tensor) -> bool:
    """Whether designs are of the kind that the known ones are: pictures `(N, 1, 64, 64)`."""
    return designs.shape[1:] == (1, SIZE, SIZE)


@lru_cache(maxsize=1)
def structure() -> Tensor:
    """The picture runs/structure.png, `(1, 1, 64, 64)`: a structure that was held out of the training."""
    with resources.as_file(resources.files("latentopt_materials") / "runs" / "structure.png") as path:
        return Array(path).designs((1, SIZE, SIZE))


def is_structure(target: Array | None) -> bool:
    """Whether a target is that picture, and no other."""
    try:
        return target is not None and torch.equal(target.designs((1, SIZE, SIZE)), structure())
    except LatentoptError:  # of another shape, or a file that is not here
        return False


def over_volume_fraction(fractions: Tensor, number: Callable[[dict[str, Tensor]], Tensor]) -> Reference:
    """Where designs of volume fractions `(N, *grid)` lie, and a number `(P,)` of the known designs' properties, by set."""
    sets = {title: properties()[which] for which, title in SETS.items()}
    known = {title: (one["volume fraction"][:, 0].float(), number(one).float()) for title, one in sets.items()}
    return Reference("volume fraction", fractions.flatten(1).mean(1), {}, known)


def symmetric(entries: Tensor) -> Tensor:
    """Symmetric tensors `(P, L, L)` from the entries on and above their diagonals, row by row, `(P, L (L + 1) / 2)`."""
    size = {3: 2, 6: 3}[entries.shape[1]]
    i, j = torch.triu_indices(size, size)
    found = entries.new_zeros(len(entries), size, size)
    found[:, i, j] = entries
    found[:, j, i] = entries
    return found


def upper(tensors: Tensor) -> Tensor:
    """The entries on and above the diagonals of `(P, L, L)`, row by row."""
    i, j = torch.triu_indices(*tensors.shape[1:])
    return tensors[:, i, j]

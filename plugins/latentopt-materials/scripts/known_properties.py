"""Compute the properties of the known designs, and write data/known.safetensors and its sum into data/training.json.

python scripts/known_properties.py      # five minutes of CPU; after every training

20,000 draws from the prior and the 24,000 training structures, as `known_designs` gives them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import latentopt as lo
from latentopt_materials import (
    Change,
    Conductivity,
    InterfaceLength,
    Microstructures,
    Stiffness,
    ThinParts,
    TwoPoint,
    known_designs,
)
from latentopt_materials.properties import COLUMNS, FILE, SETS, THRESHOLD, pack, structure, upper
from latentopt_materials.topology import clusters

DATA = Path(__file__).parents[1] / "src" / "latentopt_materials" / "data"
ROWS = 100


def properties_of(designs: Tensor, decoder: lo.Decoder) -> dict[str, Tensor]:
    """All properties of `properties.COLUMNS`, each `(P, columns)`, of designs `(P, 1, 64, 64)`."""
    rows = lo.Candidates(torch.zeros(len(designs), 1), designs, torch.zeros(len(designs), dtype=torch.long))
    cut = (designs > THRESHOLD).to(designs.dtype)
    found = {
        "conductivity": upper(Conductivity().tensors(designs)),
        "cut conductivity": upper(Conductivity(threshold=THRESHOLD).tensors(designs)),
        "stiffness": upper(Stiffness().tensors(designs)),
        "volume fraction": designs.mean((1, 2, 3))[:, None],
        "cut volume fraction": cut.mean((1, 2, 3))[:, None],
        "interface length": InterfaceLength().build(decoder)(rows)[:, None],
        "thin parts": ThinParts().build(decoder)(rows)[:, None],
        "percolation": torch.tensor([percolating(one) for one in (designs[:, 0] > THRESHOLD).numpy()]),
        "two-point distance": TwoPoint(target=structure()).build(decoder)(rows).sqrt()[:, None],
        "change": Change(target=structure()).build(decoder)(rows)[:, None],
    }
    assert list(found) == list(COLUMNS)
    return found


def percolating(white: np.ndarray) -> list[float]:
    """Shares of the white phase in clusters that percolate along x and along y."""
    labels, wraps = clusters(white)
    return [float(wraps[:, axis][labels].sum()) / max(1, int(white.sum())) for axis in (1, 0)]


def main() -> None:
    """Compute and write."""
    decoder = Microstructures().build()
    found = {}
    for which in SETS:
        parts = []
        for part in known_designs(which, decoder=decoder).split(ROWS):
            parts.append(properties_of(part, decoder))
            if len(parts) % 20 == 0:
                print(f"{which}: {len(parts) * ROWS}", flush=True)
        found[which] = {name: torch.cat([one[name] for one in parts]) for name in COLUMNS}
    if not all(torch.isfinite(one).all() for each in found.values() for one in each.values()):
        raise SystemExit("some properties are not finite: nothing was written")
    save_file(pack(found), DATA / FILE)
    (DATA / FILE).chmod(0o644)
    record = json.loads((DATA / "training.json").read_text())
    record["sha256"][FILE] = hashlib.sha256((DATA / FILE).read_bytes()).hexdigest()
    (DATA / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()

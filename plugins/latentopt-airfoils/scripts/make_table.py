"""Turn the airfoils that AeroSandbox carries into the table of CST numbers that ships, and copy NeuralFoil's networks.

    pip install -c constraints.txt -e 'plugins/latentopt-airfoils[dev]'
    python plugins/latentopt-airfoils/scripts/make_table.py          # 4 seconds; then scripts/train.py

Writes data/real.safetensors, data/real.txt and data/neuralfoil/, and their sums into data/airfoils.json. One airfoil in ten,
chosen by a fixed seed, is marked as held out. Left out are: files that the fit does not follow to 0.001 chords (root mean
square), shapes thinner than 3 % or thicker than 30 % of the chord, with a trailing edge of more than 3 %, whose surfaces
cross, or with a number beyond 1.5; and all but the first of shapes that agree to 0.0001 chords.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path

import aerosandbox
import neuralfoil
import numpy as np
import torch
from aerosandbox.geometry.airfoil.airfoil_families import get_coordinates_from_raw_dat, get_kulfan_parameters
from safetensors.torch import save
from torch import Tensor

from latentopt_airfoils.outlines import TRAILING, heights_of, metric, thickness

DATA = Path(__file__).resolve().parents[1] / "src" / "latentopt_airfoils" / "data"
DATABASE = Path(aerosandbox.__file__).parent / "geometry" / "airfoil" / "airfoil_database"
NETWORKS = Path(neuralfoil.__file__).parent / "nn_weights_and_biases"
SIZES = ("medium", "xlarge", "xxlarge")
SEED, ONE_IN = 0, 10


def fitted(path: Path) -> tuple[Tensor, float]:
    """The 18 numbers of one file `(18,)`, float64, and the root mean square distance of its points to them, in chords."""
    raw = get_coordinates_from_raw_dat(path.read_text(errors="replace").splitlines())
    points = aerosandbox.Airfoil(path.stem, coordinates=raw).normalize().coordinates
    found = get_kulfan_parameters(points, normalize_coordinates=False)
    edges = [found["leading_edge_weight"], found["TE_thickness"]]
    numbers = torch.from_numpy(np.concatenate([found["upper_weights"], found["lower_weights"], edges]))
    nose = int(np.argmin(points[:, 0]))
    upper, lower = heights_of(torch.from_numpy(np.clip(points[:, 0], 0, 1)))
    heights = torch.cat([upper[: nose + 1] @ numbers, lower[nose + 1 :] @ numbers])
    return numbers, float((heights - torch.from_numpy(points[:, 1])).square().mean().sqrt())


def sound(numbers: Tensor, error: float) -> bool:
    """Whether a shape is kept."""
    thick = thickness(numbers[None])[0]
    return bool(
        torch.isfinite(numbers).all()
        and error < 1e-3
        and 0.03 < thick.amax() < 0.3
        and thick[3:-3].amin() > 0
        and numbers[TRAILING] < 0.03
        and numbers.abs().amax() < 1.5
    )


def distinct(numbers: Tensor) -> list[int]:
    """The rows that are not as near as 0.0001 chords to an earlier one."""
    points = numbers @ metric().T
    near = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") < 1e-4
    return [row for row in range(len(points)) if not bool(near[row, :row].any())]


def main() -> None:
    """Write the files."""
    warnings.simplefilter("ignore")  # of points that lie on each other
    files = sorted(DATABASE.glob("*.dat"))
    every = [(path.stem, *fitted(path)) for path in files]
    kept = [(name, numbers, error) for name, numbers, error in every if sound(numbers, error)]
    numbers = torch.stack([numbers for _, numbers, _ in kept])
    rows = distinct(numbers)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
    held_out = torch.zeros(len(rows), dtype=torch.bool)
    held_out[order[: len(rows) // ONE_IN]] = True
    (DATA / "real.safetensors").write_bytes(save({"numbers": numbers[rows].float(), "held_out": held_out}))
    (DATA / "real.txt").write_text("\n".join(kept[row][0] for row in rows) + "\n", encoding="utf-8")

    (DATA / "neuralfoil").mkdir(exist_ok=True)
    names = [f"nn-{size}.npz" for size in SIZES] + ["scaled_input_distribution.npz"]
    for name in names:
        shutil.copyfile(NETWORKS / name, DATA / "neuralfoil" / name)
    path = DATA / "airfoils.json"
    record = json.loads(path.read_text("utf-8")) if path.exists() else {}
    errors = torch.tensor([kept[row][2] for row in rows])
    record["real"] = {
        "origin": "UIUC airfoil coordinates database (Michael S. Selig and others), as packaged by the PyPI package "
        f"aerosandbox {aerosandbox.__version__}",
        "licence": "MIT (aerosandbox)",
        "files": len(files),
        "kept": len(rows),
        "held_out": int(held_out.sum()),
        "fit_error_chords": {"median": float(errors.median()), "largest": float(errors.max())},
    }
    sums = record.setdefault("sha256", {})
    for name in ["real.safetensors", "real.txt", *(f"neuralfoil/{name}" for name in names)]:
        sums[name] = hashlib.sha256((DATA / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(record["real"])


if __name__ == "__main__":
    main()

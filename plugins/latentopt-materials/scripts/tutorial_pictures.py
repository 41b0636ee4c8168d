"""Draw the pictures of docs/materials.md from the runs that the package ships: `python scripts/tutorial_pictures.py`.

The tests draw them too, from shorter runs.
"""

from __future__ import annotations

import runpy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from torch import Tensor

import latentopt as lo
from latentopt_materials import Conductivity, Microstructures, Stiffness

HERE = Path(__file__).parent
OUT = HERE.parents[2] / "docs" / "images"
CLOUDS = ("#b9c7d6", "#e3c48b")  # draws, training structures
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#c2410c", "#00795a", "#a83a7e"
FRACTIONS, SHARES = (0.3, 0.4, 0.5, 0.6, 0.7), (0.2, 0.4, 0.6, 0.8)


def cloud(ax: Axes, sets: Mapping[str, tuple[Tensor, Tensor]], size: float = 2) -> None:
    """Known designs, some of each set, behind all else."""
    for colour, (name, (x, y)) in zip(CLOUDS, sets.items(), strict=True):
        step = -(-len(x) // 4000)
        ax.scatter(x[::step].numpy(), y[::step].numpy(), s=size, color=colour, linewidths=0, rasterized=True)
        ax.scatter([], [], s=30, color=colour, label=name)  # a dot for the legend that can be seen


def picture(ax: Axes, design: Tensor, title: str, tiles: int = 2) -> None:
    """A structure, so many cells each way."""
    shown = Microstructures().draw(design[None])[0, 0] if tiles == 2 else design[0]
    ax.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])


def bounds_picture(found: Sequence[lo.Result]) -> Figure:
    """Conductivity over the volume fraction: bounds, known designs, and the answers; some of them as structures."""
    reference = Conductivity().reference(found[0].designs)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 4)
    ax = figure.add_subplot(grid[:, :2])
    cloud(ax, reference.known)
    for stem, colour in (("Wiener", GREEN), ("Hashin-Shtrikman", PURPLE)):
        for end in ("lower", "upper"):
            label = f"{stem} bounds" if end == "lower" else None
            ax.plot(*(one.numpy() for one in reference.bounds[f"{stem} {end}"]), color=colour, lw=1.6, label=label)
    best = [one.best for one in found]
    at = [(float(one.terms["volume_fraction"]), float(one.terms["conductivity"])) for one in best]
    ax.scatter(*zip(*at, strict=True), s=26, color=ORANGE, zorder=3, label="found")
    ax.set(xlabel="volume fraction of white", ylabel="conductivity (phases: 1 and 10)", xlim=(0.1, 0.9), ylim=(0.8, 9))
    ax.legend(frameon=False, fontsize=9, loc="upper left")
    middle = sorted({v for v, _ in at}, key=lambda v: abs(v - 0.5))[0]
    shown = [i for i in range(len(at)) if abs(at[i][0] - middle) < 0.01][:4]
    for place, i in enumerate(shown):
        picture(
            figure.add_subplot(grid[place // 2, 2 + place % 2]),
            best[i].design,
            f"conductivity {at[i][1]:.2f}, white {at[i][0]:.2f}",
        )
    return figure


def front_picture(found: lo.Result, half: float = 0.01) -> Figure:
    """Conductivity along x against stiffness along y: the front, some of its structures, and known designs before them."""
    across, up = Conductivity(component="xx"), Stiffness(component="young_y")
    references = across.reference(found.designs), up.reference(found.designs)
    sets = {}
    for name, (v, x) in references[0].known.items():
        held = (v - 0.5).abs() <= half
        sets[name] = (x[held], references[1].known[name][1][held])
    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    cloud(ax, sets, size=6)
    x, y = (found.terms[name] for name in found.objectives)
    order = x.argsort()
    ax.plot(x[order].numpy(), y[order].numpy(), color=BLUE, lw=1, marker="o", ms=4, label="found: the front")
    ax.set(
        xlabel="conductivity along x",
        ylabel="stiffness along y",
        title="half of the cell is white",
        ylim=(1.8, 7.4),
        xlim=(1.4, 6.4),
    )
    ax.legend(frameon=False, fontsize=9, loc="upper right")
    line = torch.stack([x[order], y[order]], 1)
    along = torch.cat([torch.zeros(1), (line.diff(dim=0) / line.std(0)).norm(dim=1).cumsum(0)])
    for share in np.linspace(0, 1, 5):
        row = int(order[(along - share * along[-1]).abs().argmin()])
        tile = Microstructures().draw(found.designs[row : row + 1])[0, 0]
        box = AnnotationBbox(
            OffsetImage(tile.numpy(), cmap="gray", zoom=0.42, interpolation="nearest"),
            (float(x[row]), float(y[row])),
            xybox=(30 + 18 * share, 52 - 8 * share),
            boxcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": BLUE},
            pad=0.1,
        )
        ax.add_artist(box)
    return figure


def gallery_picture(runs: Mapping[str, lo.Result]) -> Figure:
    """The other answers: anisotropic, light, from statistics, improved."""
    figure = Figure(figsize=(10, 2.3), layout="constrained")
    axes = figure.subplots(1, 6)
    target = runs["statistics"].targets[0]
    best = {name: one.best for name, one in runs.items()}
    picture(axes[0], best["anisotropic"].design, f"anisotropy {float(best['anisotropic'].terms['anisotropy']):.2f}")
    picture(axes[1], best["polish"].design, f"percolates, {best['polish'].loss:.1%} white")
    picture(axes[2], target, "structure.png")
    picture(axes[3], best["statistics"].design, "from its statistics")
    picture(axes[4], best["improve"].design, "improved by 10 %")
    change = best["improve"].design[0] - target[0]
    axes[5].imshow(change.repeat(2, 2).numpy(), cmap="PuOr", vmin=-1, vmax=1)
    axes[5].set_title(f"changed: {best['improve'].loss:.1%}", fontsize=9)
    axes[5].set_xticks([])
    axes[5].set_yticks([])
    return figure


def save(figure: Figure, path: Path) -> None:
    """A small PNG."""
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Run all and draw."""
    runs: dict[str, Any] = runpy.run_path(str(HERE / "runs.py"))
    run, wish = runs["run"], runs["wish"]
    wishes = [(v, wish(v, s)) for v in FRACTIONS for s in SHARES]
    hits = [
        run("demo", f"task.objectives.0.goal.equals={k}", f"task.objectives.1.goal.equals={v}")[0] for v, k in wishes
    ]
    save(bounds_picture(hits), OUT / "materials-bounds.png")
    save(front_picture(run("front")[0]), OUT / "materials-front.png")
    with tempfile.TemporaryDirectory() as folder:
        run("percolating", out=Path(folder) / "explored")
        found = {name: run(name)[0] for name in ("anisotropic", "statistics", "improve")}
        found["polish"] = run("polish", f"task.starts.0.folder={folder}/explored")[0]
    save(gallery_picture(found), OUT / "materials-gallery.png")


if __name__ == "__main__":
    main()

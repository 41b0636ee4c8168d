"""Run what the package ships, and set it beside bounds and known designs. `python scripts/runs.py` writes README's tables.

The tests load this file too, and hold the figures to limits.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latentopt as lo
from latentopt_materials import Conductivity, Stiffness, bounds
from latentopt_materials.properties import SETS

README = Path(__file__).parents[1] / "README.md"
RANGE = 9.0  # of conductivity, between the phases
GRID_V, GRID_S = (0.3, 0.4, 0.5, 0.6, 0.7), (0.2, 0.4, 0.6, 0.8)


def run(name: str, *changes: str, out: Path | None = None) -> tuple[lo.Result, float]:
    """A shipped run, with changes as `--set` takes them, and the seconds that it took; loading the decoder counts."""
    began = time.perf_counter()
    found = lo.run(f"materials:{name}", changes=changes, out=out)
    return found, time.perf_counter() - began


# ---------------------------------------------------------------------- conductivity at a volume fraction


def wish(v: float, s: float) -> float:
    """The conductivity that lies the share s of the way between the bounds of Hashin and Shtrikman at v."""
    low, high = bounds.conductivity(torch.tensor([v], dtype=torch.float64), (1.0, 10.0), 2)
    return round(float(low + s * (high - low)), 2)


def hit(v: float, k: float) -> dict[str, Any]:
    """The run `demo` with other wishes: how far off it is, as shares of the range between the phases, and its realism."""
    found, seconds = run("demo", f"task.objectives.0.goal.equals={k}", f"task.objectives.1.goal.equals={v}")
    best = found.best
    known = {
        one.name: (abs(one.terms["conductivity"] - k) / RANGE, abs(one.terms["volume_fraction"] - v))
        for one in lo.standings(found)
    }
    return {
        "v": v,
        "k": k,
        "off": abs(float(best.terms["conductivity"]) - k) / RANGE,
        "v off": abs(float(best.terms["volume_fraction"]) - v),
        "thresholded": float(best.measures["conductivity as thresholded"]),
        "v thresholded": float(best.measures["volume fraction as thresholded"]),
        "inside": bool(best.realism.inside),
        "loss": float(best.loss),
        "known losses": [one.loss for one in lo.standings(found)],
        "known": known,
        "seconds": seconds,
    }


# ---------------------------------------------------------------------- tables


def grid_table() -> str:
    """Conductivities k over volume fractions v."""
    lines = [
        "| v | k (share of the way between the bounds) | error of k | of v | as thresholded: k, v | "
        "of the best of 20,000 draws: error of k | of v | realism | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for v in GRID_V:
        for s in GRID_S:
            one = hit(v, wish(v, s))
            draws = one["known"][SETS["draws"]]
            lines.append(
                f"| {v} | {one['k']:.2f} ({s:.0%}) | {one['off']:.4%} | {one['v off']:.5f} | "
                f"{one['thresholded']:.2f}, {one['v thresholded']:.3f} | {draws[0]:.2%} | {draws[1]:.4f} | "
                f"{'inside' if one['inside'] else 'outside'} | {one['seconds']:.1f} |"
            )
    return "\n".join(lines)


def runs_table() -> str:
    """What every shipped run finds."""
    lines = [
        "| run | asks for | finds | theory allows | best of 20,000 draws | best of 24,000 training structures | "
        "as thresholded | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]

    def add(*cells: str | float) -> None:
        lines.append("| " + " | ".join(f"{c:.1f}" if isinstance(c, float) else c for c in cells) + " |")

    def known(found: lo.Result, term: str, form: str = ".3f") -> list[str]:
        return [f"{one.terms[term]:{form}}" for one in lo.standings(found)]

    found, seconds = run("demo")
    best, at = found.best, found.best.terms
    low, high = (float(b[0]) for b in bounds.conductivity(torch.tensor([0.5], dtype=torch.float64), (1.0, 10.0), 2))
    known_k = [f"{one.terms['conductivity']:.4f}, {one.terms['volume_fraction']:.4f}" for one in lo.standings(found)]
    cut = ", ".join(
        f"{float(best.measures[f'{name} as thresholded']):.3f}" for name in ("conductivity", "volume fraction")
    )
    add(
        "`demo`",
        "conductivity 3.5 at volume fraction 0.5",
        f"{float(at['conductivity']):.4f}, {float(at['volume_fraction']):.4f}",
        f"{low:.2f} to {high:.2f}",
        *known_k,
        cut,
        seconds,
    )
    found, seconds = run("anisotropic")
    v = float(found.best.terms["volume_fraction"])
    lower, upper = bounds.means(torch.tensor(v), (1.0, 10.0))
    add(
        "`anisotropic`",
        "most anisotropy of conductivity, volume fraction 0.49 to 0.51",
        f"{float(found.best.terms['anisotropy']):.3f}",
        f"{float(upper / lower):.3f} (a laminate)",
        *known(found, "anisotropy"),
        f"{float(found.best.measures['anisotropy as thresholded']):.3f}",
        seconds,
    )
    found, seconds = run("front")
    ends = [f"{float(found.terms[name].max()):.2f}" for name in ("conductivity along x", "stiffness along y")]
    add(
        "`front`",
        "most conductivity along x and most stiffness along y, volume fraction 0.49 to 0.51",
        f"{len(found)} designs, hypervolume {float(found.hypervolumes[0]):.2f}, ends {', '.join(ends)}",
        f"{_wiener(0.51):.2f}, {_voigt(0.51):.2f} (each alone)",
        *(f"hypervolume {one.hypervolume:.2f}" for one in lo.standings(found)),
        f"ends {float(found.measures['conductivity as thresholded'].max()):.2f}, "
        f"{float(found.measures['stiffness as thresholded'].max()):.2f}",
        seconds,
    )
    with tempfile.TemporaryDirectory() as folder:
        found, seconds = run("percolating", out=Path(folder) / "explored")
        add(
            "`percolating`",
            "least white that percolates along x and y, no thin parts",
            f"{float(found.best.loss):.4f}",
            "",
            *known(found, "volume_fraction"),
            "",
            seconds,
        )
        found, seconds = run("polish", f"task.starts.0.folder={folder}/explored")
        add(
            "`polish`",
            "the same with gradients: conducts 1.5 along x and y, no thin parts",
            f"{float(found.best.loss):.4f}; percolates: {float(found.best.measures['percolation']):.0%}",
            f"{_lightest(1.5):.3f}",
            *known(found, "volume_fraction"),
            "",
            seconds,
        )
    found, seconds = run("statistics")
    add(
        "`statistics`",
        "the two-point correlation of `structure.png` (root mean square difference)",
        f"{math.sqrt(found.best.loss):.5f}; conducts {float(found.best.measures['conductivity']):.2f}, the structure 2.23",
        "0",
        *(f"{math.sqrt(one.loss):.4f}" for one in lo.standings(found)),
        f"conducts {float(found.best.measures['conductivity as thresholded']):.2f}",
        seconds,
    )
    found, seconds = run("improve")
    add(
        "`improve`",
        "ten per cent more conductivity than `structure.png`, 2.45, by the least change",
        f"{float(found.best.loss):.2%} of the cell; {float(found.best.terms['conductivity']):.2f}",
        "",
        *(f"{one.loss:.1%}" for one in lo.standings(found)),
        f"conducts {float(found.best.measures['conductivity as thresholded']):.2f}",
        seconds,
    )
    return "\n".join(lines)


def cut_table() -> str:
    """What cutting at 0.5 changes, how grey designs are, and known designs that the front does not dominate."""
    decoder = lo.load_decoder("microstructures")
    draws = lo.sample(decoder, 200, seed=0).designs
    graded, cut = (_conductivity(draws, threshold) for threshold in (None, 0.5))
    fall, share = graded - cut, torch.tensor([0.5, 0.9, 1.0], dtype=graded.dtype)
    answers = [hit(v, wish(v, s)) for v in GRID_V for s in GRID_S]
    most = max(abs(one["thresholded"] - one["k"]) / RANGE for one in answers)
    mean, some = (_grey(designs) for designs in (decoder.decode(torch.zeros(1, decoder.dim)), draws))
    front, _ = run("front")
    left = ", ".join(f"{one.ahead} of {one.feasible} (of {one.name})" for one in lo.standings(front))
    rows = [
        ("conductivity that 200 draws lose when cut: median, 90 %, most", _spelt(fall.quantile(share))),
        ("of the twenty answers above, by how much of the range the cut ones miss k: most", f"{most:.1%}"),
        ("`grey` of the design at the mean latent", f"{float(mean):.2f}"),
        ("`grey` of 200 draws: median, 90 %, most", _spelt(some.quantile(share.to(some)))),
        ("known designs within the front's constraint that it does not dominate", left),
    ]
    return "\n".join(["| what | figure |", "| --- | --- |", *(f"| {name} | {figure} |" for name, figure in rows)])


def _conductivity(designs: Tensor, threshold: float | None) -> Tensor:
    tensors = Conductivity(threshold=threshold).tensors(designs, torch.eye(2, dtype=torch.float64))
    return tensors.diagonal(dim1=1, dim2=2).mean(1)


def _grey(designs: Tensor) -> Tensor:
    return 4 * (designs * (1 - designs)).flatten(1).mean(1)


def _spelt(values: Tensor) -> str:
    return ", ".join(f"{one:.2f}" for one in values.tolist())


def _wiener(v: float) -> float:
    return float(bounds.means(torch.tensor(v), (1.0, 10.0))[1])


def _voigt(v: float) -> float:
    return float(Stiffness(component="young_y").curves(torch.tensor([v], dtype=torch.float64), 2)["Voigt"][0])


def _lightest(k: float) -> float:
    """The least volume fraction at which a mean conductivity of k is possible, by Hashin and Shtrikman."""
    v = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    return float(v[(bounds.conductivity(v, (1.0, 10.0), 2)[1] >= k).nonzero()[0, 0]])


def main() -> None:
    """Write README's tables."""
    text = README.read_text()
    for name, table in (("runs", runs_table()), ("grid", grid_table()), ("cut", cut_table())):
        before, _, rest = text.partition(f"<!-- begin {name} -->")
        after = rest.partition(f"<!-- end {name} -->")[2]
        text = f"{before}<!-- begin {name} -->\n{table}\n<!-- end {name} -->{after}"
    README.write_text(text)


if __name__ == "__main__":
    main()

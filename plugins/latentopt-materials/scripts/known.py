"""The solver against what is known exactly: errors and orders of convergence. `python known.py` writes README's tables.

The tests load this file too, and hold the figures to limits.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from latentopt_materials import Conductivity, Stiffness, bounds
from latentopt_materials.homogenise import effective
from latentopt_materials.laws import conduction
from latentopt_materials.phases import EffectiveObjective
from latentopt_materials.solver import Accuracy

README = Path(__file__).parents[1] / "README.md"
EXACT = Accuracy(tolerance=1e-12, iterations=5000)

# ---------------------------------------------------------------------- structures, values in [0, 1], (N, 1, *grid)


def axes_of(*grid: int) -> tuple[Tensor, ...]:
    """Coordinates of the pixels' centres in [0, 1), one tensor an axis of the grid."""
    lines = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in grid]
    return torch.meshgrid(*lines, indexing="ij")


def laminate(n: int = 64, white: int = 24) -> Tensor:
    """Layers across x: `white` of n columns."""
    x = torch.zeros(1, 1, n, n, dtype=torch.float64)
    x[..., :white] = 1
    return x


def checkerboard(n: int) -> Tensor:
    """Two by two squares."""
    y, x = axes_of(n, n)
    return ((y < 0.5) ^ (x < 0.5)).double()[None, None]


def ball(n: int, fraction: float, dim: int) -> Tensor:
    """A disc or ball in the middle of the cell: pixels whose centres lie inside."""
    radius = (fraction / math.pi) ** 0.5 if dim == 2 else (3 * fraction / (4 * math.pi)) ** (1 / 3)
    square = sum((one - 0.5).square() for one in axes_of(*(n,) * dim))
    return (square < radius**2).double()[None, None]


def random_structures(count: int, n: int = 32, dim: int = 2, seed: int = 0) -> Tensor:
    """Thresholded Gaussian random fields of unequal length scales and volume fractions, some anisotropic."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *(n,) * dim, generator=generator, dtype=torch.float64)
    widths = 1 + 5 * torch.rand(count, dim, *(1,) * dim, generator=generator, dtype=torch.float64)
    waves = torch.meshgrid(*[torch.fft.fftfreq(n, dtype=torch.float64)] * dim, indexing="ij")
    decay = torch.exp(-2 * sum((math.pi * widths[:, i] * wave).square() for i, wave in enumerate(waves)))
    dims = tuple(range(1, dim + 1))
    field = torch.fft.ifftn(torch.fft.fftn(noise, dim=dims) * decay, dim=dims).real
    level = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    cut = torch.stack([row.quantile(q) for row, q in zip(field.flatten(1), level, strict=True)])
    return (field > cut.view(-1, *(1,) * dim)).double().unsqueeze(1)


# ---------------------------------------------------------------------- what is known of them


def conductivities(design: Tensor, phases: tuple[float, float], accuracy: Accuracy = EXACT) -> Tensor:
    """Effective conductivity tensors in float64."""
    black, white = phases
    return effective(black + (white - black) * design, conduction(design.ndim - 2), accuracy=accuracy)


def laminate_stiffness(share: float, k: Tensor, g: Tensor) -> Tensor:
    """Voigt's stiffness of a laminate in the plane, layers across x (Backus 1962): k and g `(2,)` of black and white."""
    weight = torch.tensor([1 - share, share], dtype=torch.float64)

    def mean(x: Tensor) -> Tensor:
        return (weight * x).sum()

    c11, c12 = k + g, k - g
    found = torch.zeros(3, 3, dtype=torch.float64)
    found[0, 0] = 1 / mean(1 / c11)
    found[0, 1] = found[1, 0] = mean(c12 / c11) * found[0, 0]
    found[1, 1] = mean(c11 - c12**2 / c11) + mean(c12 / c11) ** 2 * found[0, 0]
    found[2, 2] = 1 / mean(1 / g)
    return found


def laminate_errors() -> dict[str, float]:
    """Largest relative errors of laminates, both directions."""
    design, found = laminate(), {}
    for contrast in (10.0, 1000.0):
        lower, upper = bounds.means(torch.tensor(24 / 64, dtype=torch.float64), (1.0, contrast))
        c = conductivities(design, (1.0, contrast))[0]
        found[f"conductivity, contrast {contrast:g}"] = float(
            torch.stack([c[0, 0] / lower - 1, c[1, 1] / upper - 1]).abs().max()
        )
        config = Stiffness(
            young=(1.0, contrast), poisson=(0.2, 0.4), precision="float64", tolerance=1e-12, iterations=5000
        )
        k, g = config.moduli(2)
        exact = laminate_stiffness(24 / 64, k, g)
        error = (config.tensors(design)[0] - exact).abs().max() / exact.max()
        found[f"stiffness, contrast {contrast:g}"] = float(error)
    return found


def checkerboard_errors(contrast: float, sizes: tuple[int, ...]) -> list[float]:
    """Relative error against the geometric mean of the phases (Keller 1964, Dykhne 1970)."""
    return [float(conductivities(checkerboard(n), (1.0, contrast))[0, 0, 0]) / contrast**0.5 - 1 for n in sizes]


def inclusion_errors(contrast: float, sizes: tuple[int, ...], dim: int, fraction: float = 0.05) -> list[float]:
    """Relative error of the *change* that a dilute inclusion makes, against Maxwell (1873) at the grid's own volume fraction.

    A square array of discs differs from Maxwell's formula by f^4 and less (Rayleigh 1892): 1e-6 of the change here; a cubic
    one of balls by f^(10/3), 1e-4 of it.
    """
    found = []
    for n in sizes:
        design = ball(n, fraction, dim)
        f = float(design.mean())
        beta = (contrast - 1) / (contrast + dim - 1)
        exact = dim * f * beta / (1 - f * beta)
        found.append((float(conductivities(design, (1.0, contrast))[0, 0, 0]) - 1) / exact - 1)
    return found


def orders(errors: list[float], sizes: tuple[int, ...]) -> list[float]:
    """Observed orders of convergence from one grid to the next."""
    pairs = zip(errors, errors[1:], sizes, sizes[1:], strict=False)
    return [math.log(abs(a / b)) / math.log(n / m) for a, b, m, n in pairs]


def bound_margins(count: int = 64) -> dict[str, tuple[int, float]]:
    """Of random structures of pure phases: how many leave the bounds, and the least relative distance to one."""
    found: dict[str, tuple[int, float]] = {}
    for dim, number, n in ((2, count, 32), (3, count // 4, 12)):
        designs = random_structures(number, n, dim, seed=dim)
        fraction = designs.flatten(1).mean(1)
        for contrast in (10.0, 1000.0):
            options = {"precision": "float64", "tolerance": 1e-8}
            configs: list[EffectiveObjective] = [
                Conductivity(component="mean", phases=(1.0, contrast), **options),
                Conductivity(component="xx", phases=(contrast, 1.0), **options),
                Stiffness(component="bulk", young=(1.0, contrast), poisson=(0.35, 0.2), **options),
                Stiffness(component="shear", young=(1.0, contrast), poisson=(0.35, 0.2), **options),
                Stiffness(component="young_x", young=(1.0, contrast), **options),
            ]
            for config in configs:
                measure = config.measured(dim)
                value = measure.number(config.tensors(designs, measure.loads))
                curves = list(config.curves(fraction, dim).values())
                low, high = torch.stack(curves[::2]).amax(0), torch.stack(curves[1::2]).amin(0)
                if isinstance(config, Conductivity) and config.component == "xx":
                    low, high = curves[:2]
                margin = torch.minimum(value / low - 1, 1 - value / high)
                kind = f"{config.kind} {config.component}, {dim}-D, contrast {contrast:g}"
                found[kind] = (int((margin < 0).sum()), float(margin.min()))
    return found


def turned_errors() -> dict[str, float]:
    """Largest relative change of the tensors when random structures are turned by 90 degrees, and the tensors turned back."""
    designs = random_structures(8)
    turned = designs.rot90(1, (2, 3))
    c, t = (conductivities(x, (1.0, 100.0)) for x in (designs, turned))
    swapped = torch.stack([torch.stack([t[:, 1, 1], -t[:, 0, 1]], 1), torch.stack([-t[:, 1, 0], t[:, 0, 0]], 1)], 1)
    config = Stiffness(young=(1.0, 100.0), precision="float64", tolerance=1e-12, iterations=5000)
    s, u = config.tensors(designs), config.tensors(turned)[:, [1, 0, 2]][:, :, [1, 0, 2]]
    sign = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    u = u * sign[:, None] * sign
    return {
        "conductivity": float(((c - swapped).abs().amax((1, 2)) / c.amax((1, 2))).max()),
        "stiffness": float(((s - u).abs().amax((1, 2)) / s.amax((1, 2))).max()),
    }


def gradient_error(kind: str, dim: int = 2) -> float:
    """Largest difference between a gradient and central differences, over the largest entry of the gradient, float64.

    Of a weighted sum of all entries of the tensors of grey designs, at a contrast of 100, along 12 pixels.
    """
    generator = torch.Generator().manual_seed(3)
    grid = (12, 16) if dim == 2 else (6, 5, 4)
    x = torch.rand(2, 1, *grid, generator=generator, dtype=torch.float64)
    options = {"precision": "float64", "tolerance": 1e-13, "iterations": 5000, "exponent": 2.0}
    config = (
        Conductivity(phases=(1.0, 100.0), **options)
        if kind == "conductivity"
        else Stiffness(young=(1.0, 100.0), **options)
    )
    weights = torch.randn(config.tensors(x).shape, generator=generator, dtype=torch.float64)

    def value(x: Tensor) -> Tensor:
        return (config.tensors(x) * weights).sum()

    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(x), x)
    flat, worst, step = x.detach().clone().flatten(), 0.0, 1e-5
    for index in torch.randperm(len(flat), generator=generator)[:12].tolist():
        ends = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[index] += sign * step
            ends.append(float(value(moved.view(x.shape))))
        worst = max(worst, abs((ends[0] - ends[1]) / (2 * step) - float(gradient.flatten()[index])))
    return worst / float(gradient.abs().max())


def accuracy_rows(contrast: float, n: int = 64) -> list[dict[str, float | str]]:
    """What tolerances give: real errors of values and gradients, and iterations, on random structures."""
    designs, found = random_structures(16, n), []
    for kind in ("conductivity", "stiffness"):
        reference = _both(kind, designs, contrast, 1e-11, "float64")
        for precision, tolerance in (("float32", 1e-3), ("float32", 1e-4), ("float32", 1e-6), ("float64", 1e-8)):
            value, gradient = _both(kind, designs, contrast, tolerance, precision)
            off = (gradient - reference[1]).flatten(1).norm(dim=1) / reference[1].flatten(1).norm(dim=1)
            error = (value / reference[0] - 1).abs().max()
            found.append({"kind": kind, "precision": precision, "tolerance": tolerance, "value": float(error),
                          "gradient": float(off.max())})  # fmt: skip
    return found


def _both(kind: str, designs: Tensor, contrast: float, tolerance: float, precision: str) -> tuple[Tensor, Tensor]:
    """Diagonal entries of the tensors, and the gradient of their sum."""
    options = {"precision": precision, "tolerance": tolerance, "iterations": 5000}
    config = (
        Conductivity(phases=(1.0, contrast), **options)
        if kind == "conductivity"
        else Stiffness(young=(1.0, contrast), **options)
    )
    x = designs.clone().requires_grad_(True)
    value = config.tensors(x).diagonal(dim1=1, dim2=2).double()
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


# ---------------------------------------------------------------------- README


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def refined(name: str, errors: list[float], sizes: tuple[int, ...]) -> list[str]:
    """A row of the table of convergence."""
    both = ["", *(f" (order {order:.2f})" for order in orders(errors, sizes))]
    return [name, ", ".join(map(str, sizes)), "; ".join(f"{e:+.1e}{o}" for e, o in zip(errors, both, strict=True))]


def report() -> str:
    """All tables."""
    sizes, small = (16, 32, 64, 128, 256), (12, 24, 48)
    exact = [[f"laminate, across and along: {name}", f"{error:.0e}"] for name, error in laminate_errors().items()]
    exact += [
        [f"turned by 90 degrees: {name}, contrast 100", f"{error:.0e}"] for name, error in turned_errors().items()
    ]
    exact += [
        [f"gradient against central differences: {kind}, {dim}-D, contrast 100", f"{gradient_error(kind, dim):.0e}"]
        for kind in ("conductivity", "stiffness")
        for dim in (2, 3)
    ]
    grids = [refined(f"checkerboard, contrast {c:g}", checkerboard_errors(c, sizes), sizes) for c in (2.0, 10.0, 100.0)]
    grids += [
        refined(f"dilute disc, contrast {c:g}", inclusion_errors(c, sizes, 2), sizes) for c in (0.001, 10.0, 1000.0)
    ]
    grids += [refined(f"dilute ball, contrast {c:g}", inclusion_errors(c, small, 3), small) for c in (10.0,)]
    limits = [[name, str(outside), f"{margin:.1e}"] for name, (outside, margin) in bound_margins().items()]
    met = [
        [
            str(row["kind"]),
            str(row["precision"]),
            f"{row['tolerance']:g}",
            f"{row['value']:.0e}",
            f"{row['gradient']:.0e}",
        ]
        for row in accuracy_rows(1000.0)
    ]
    return "\n\n".join(
        [
            "Exact for the grid (float64, tolerance 1e-12), largest relative errors:",
            table(["what", "error"], exact),
            "Exact in the limit: relative error on n pixels a side, and the order from one grid to the next. An inclusion's "
            "is that of the change which it makes, at the volume fraction (near 5 %) of its pixels.",
            table(["what", "n", "error"], grids),
            "Bounds, 64 random structures in the plane (16 in space), of two phases:",
            table(["what", "outside", "least relative distance to a bound"], limits),
            "Contrast 1000, 16 random structures of 64 x 64, largest relative errors against a tolerance of 1e-11:",
            table(["what", "precision", "tolerance", "error of the diagonal", "of the gradient (norm)"], met),
        ]
    )


def main() -> None:
    """Write the tables between README's marks."""
    torch.set_num_threads(1)
    begin, end = "<!-- begin known -->", "<!-- end known -->"
    whole = README.read_text()
    head, rest = whole.split(begin)
    text = report()
    README.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")
    print(text)


if __name__ == "__main__":
    main()

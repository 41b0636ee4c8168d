"""Effective properties of 64 designs with gradients: all at once, one at a time, and in plain NumPy by the same scheme."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common import cpu_seconds, side_by_side, table, write_section
from latentopt.memory import keep_freed_memory

ROWS, SIDE, TOLERANCE, REPEATS = 64, 64, 1e-4, 5
Field = NDArray[np.float32]


def designs(seed: int = 0) -> Tensor:
    """Smooth two-phase structures such as decoders give, `(64, 1, 64, 64)`: squashed Gaussian random fields."""
    noise = torch.randn(ROWS, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    y, x = torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)[None]
    field = torch.fft.irfft2(torch.fft.rfft2(noise) * torch.exp(-70 * (x.square() + y.square())), s=(SIDE, SIDE))
    return torch.sigmoid(4 * field / field.std((1, 2), keepdim=True)).unsqueeze(1)


# ---------------------------------------------------------------------- in plain NumPy, one row, one load after another


def modes(u: Field) -> list[Field]:
    """Differences along y, along x, and along both, of each pixel's corners."""
    right, below = np.roll(u, -1, 1), np.roll(u, -1, 0)
    both = np.roll(below, -1, 1)
    return [below + both - u - right, right + both - u - below, both - below - right + u]


def force(stress: list[Field]) -> Field:
    """The adjoint of `modes`."""
    sy, sx, sxy = stress
    found = np.roll(np.roll(sy + sx + sxy, 1, 0), 1, 1)
    found += np.roll(sy - sx - sxy, 1, 0)
    found += np.roll(sx - sy - sxy, 1, 1)
    found += sxy - sy - sx
    return found


WEIGHTS = (1 / 4, 1 / 4, 1 / 6)


def green(shape: tuple[int, int]) -> Field:
    """1 over the stiffness of the uniform medium of conductivity 1, at each wave of a real transform."""
    y = np.pi * np.arange(shape[0])[:, None] / shape[0]
    x = np.pi * np.arange(shape[1] // 2 + 1)[None] / shape[1]
    squares = [(4 * a * b) ** 2 for a, b in ((np.sin(y), np.cos(x)), (np.cos(y), np.sin(x)), (np.sin(y), np.sin(x)))]
    stiffness = sum(w * s for w, s in zip(WEIGHTS, squares, strict=True))
    stiffness[0, 0] = np.inf
    return (1 / stiffness).astype(np.float32)


def plain(k: Field, kernel: Field) -> tuple[Field, Field]:
    """The effective conductivity `(2, 2)` of one row of pixels, x first, and the gradient of its trace."""
    least, found = float(k.min()), []
    weighted = [np.float32(w) * k for w in WEIGHTS]
    for load in ((0, 2, 0), (2, 0, 0)):
        u, p, before = np.zeros_like(k), np.zeros_like(k), 1.0
        r = -force([w * np.float32(e) for w, e in zip(weighted, load, strict=True)])
        energy = sum(float(w.sum()) * e * e for w, e in zip(weighted, load, strict=True))
        while True:
            z = np.fft.irfft2(np.fft.rfft2(r) * kernel, s=k.shape)
            fall = float((r * z).sum())
            if fall / least <= TOLERANCE * energy:
                break
            p = z + np.float32(fall / before) * p
            image = force([w * a for w, a in zip(weighted, modes(p), strict=True)])
            step = fall / float((p * image).sum())
            u += np.float32(step) * p
            r -= np.float32(step) * image
            energy, before = energy - step * fall, fall
        found.append([a + np.float32(e) for a, e in zip(modes(u), load, strict=True)])
    tensor = [
        [sum(float((w * a * b).sum()) for w, a, b in zip(weighted, one, two, strict=True)) for two in found]
        for one in found
    ]
    gradient = sum(w * a * a for one in found for w, a in zip(WEIGHTS, one, strict=True))
    return np.array(tensor) / k.size, np.asarray(gradient) / k.size


# ---------------------------------------------------------------------- side by side


def with_gradient(config: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Effective tensors, and the gradient of their traces."""
    x = x.detach().requires_grad_(True)
    found = config.tensors(x)
    (gradient,) = torch.autograd.grad(found.diagonal(dim1=1, dim2=2).sum(), x)
    return found.detach(), gradient


def one_by_one(config: Any, x: Tensor) -> None:
    """The same, each row alone."""
    for row in x.split(1):
        with_gradient(config, row)


def in_numpy(k: Field, kernel: Field) -> None:
    """The same in NumPy."""
    for row in k:
        plain(row, kernel)


def check(config: Any, x: Tensor, k: Field, kernel: Field) -> None:
    """Both solvers say the same of the first rows."""
    tensors, gradients = with_gradient(config, x[:4])
    for row in range(4):
        tensor, gradient = plain(k[row], kernel)
        scale = config.phases[1] - config.phases[0]
        np.testing.assert_allclose(tensors[row].numpy(), tensor, rtol=2e-4, atol=2e-4 * tensor.max())
        np.testing.assert_allclose(gradients[row, 0].numpy(), scale * gradient, atol=0.02 * scale * gradient.max())


def iterations(config: Any, x: Tensor) -> float:
    """How many iterations a row takes, on average."""
    from latentopt_materials.solver import Accuracy, Cell

    phases, law = config.moduli(2), config.law(2)
    cell = Cell(law, (SIDE, SIDE), phases.amin(1), torch.eye(len(law.unit)), torch.empty(0))
    black, white = phases.float().view(1, -1, 2, 1, 1).unbind(2)
    return float(cell.solve(torch.lerp(black, white, x), Accuracy(TOLERANCE)).iterations.double().mean())


def least_us(works: dict[str, Any], repeats: int = 200) -> dict[str, float]:
    """Least CPU microseconds of each, taken in turn: each finds the caches as the others leave them."""
    least = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            least[name] = min(least[name], cpu_seconds(work) * 1e6)
    return least


def pieces(rows: int) -> list[str]:
    """What one iteration of conductivity costs, in microseconds a row, piece by piece; and the Fourier transforms' share."""
    from latentopt_materials import elements
    from latentopt_materials.laws import conduction
    from latentopt_materials.solver import Cell

    law = conduction(2)
    cell = Cell(law, (SIDE, SIDE), torch.ones(1), torch.eye(2), torch.empty(0))
    r = torch.randn(1, rows, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    u, p, image, step = torch.zeros_like(r), r.clone(), torch.empty_like(r), torch.zeros(1, rows, 2, 1, 1)
    calls = cell.image_into(image, p, cell.stiffness(1 + designs()[:rows]))
    waves = torch.fft.rfftn(r, dim=(-2, -1))
    works: dict[str, Any] = {
        "green": lambda: cell.green(r),
        "forces": lambda: elements.run(calls),
        "vectors": lambda: (
            (p * image).flatten(3).sum(3),
            *(one.addcmul_(other, step) for one, other in ((p, r), (u, p), (r, image))),
        ),
    }
    us = {name: least / rows for name, least in least_us(works).items()}
    transforms = least_us(
        {
            "there": lambda: torch.fft.rfftn(r, dim=(-2, -1)),
            "back": lambda: torch.fft.irfftn(waves, s=(SIDE, SIDE), dim=(-2, -1)),
        }
    )
    return [str(rows), *(f"{n:.0f}" for n in (*us.values(), sum(us.values()), sum(transforms.values()) / rows))]


def main() -> None:
    """Measure and write the tables."""
    if importlib.util.find_spec("latentopt_materials") is None:
        print("homogenisation: latentopt-materials is not installed, see plugins/latentopt-materials")
        return
    from latentopt_materials import Conductivity, Stiffness

    keep_freed_memory()
    x, kernel, rows = designs(), green((SIDE, SIDE)), []
    cases: list[tuple[str, Any]] = [
        *(
            (f"conductivity, contrast {c:g}", Conductivity(phases=(1.0, c), tolerance=TOLERANCE))
            for c in (10.0, 100.0, 1000.0)
        ),
        ("stiffness, contrast 10", Stiffness(young=(1.0, 10.0), tolerance=TOLERANCE)),
    ]
    for name, config in cases:
        works: dict[str, Any] = {"at once": partial(with_gradient, config, x), "alone": partial(one_by_one, config, x)}
        if isinstance(config, Conductivity):
            k = (1 + (config.phases[1] - 1) * x[:, 0]).numpy()
            check(config, x, k, kernel)
            works["numpy"] = partial(in_numpy, k, kernel)
        for work in works.values():
            work()  # first calls import and plan
        ms = {which: seconds / ROWS * 1e3 for which, seconds in side_by_side(works, REPEATS).items()}
        other = (f"{ms['numpy']:.1f}", f"{ms['numpy'] / ms['at once']:.1f}x") if "numpy" in ms else ("-", "-")
        taken = f"{iterations(config, x):.1f}"
        rows.append(
            (name, taken, f"{ms['at once']:.2f}", f"{ms['alone']:.2f}", f"{ms['alone'] / ms['at once']:.1f}x", *other)
        )
    header = [
        "64 designs of 64 x 64",
        "iterations",
        "at once, ms a row",
        "one at a time",
        "faster",
        "plain NumPy",
        "faster",
    ]
    parts = ["rows", "Green", "modes, moduli, forces", "sums and steps", "together", "of which Fourier transforms"]
    text = (
        f"CPU time, medians of {REPEATS}, value and gradient, tolerance {TOLERANCE:g}.\n\n{table(header, rows)}\n\n"
        f"One iteration of conductivity, least of 200, us a row:\n\n{table(parts, [pieces(n) for n in (1, 4, 16, 64)])}"
    )
    write_section("homogenisation", text)


if __name__ == "__main__":
    main()

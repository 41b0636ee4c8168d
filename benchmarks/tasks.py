"""What the searches are judged on: seven kinds of problem, the same on each decoder, and what is said of a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import latentopt as lo
from benchmarks.trained import held_out, load

REACHED = 1e-3  # a property is reached within this share of the value asked for
# Without the whole picture there is nothing to encode: what `auto` starts from where there is no target.
BLIND_STARTS = ["mean", {"kind": "prior", "n": 7, "screened_from": 512}]


@dataclass(frozen=True)
class Task:
    """Keywords of `optimize`, one set a run; what is judged, smaller is better; and what else there is to say.

    `score` gives one number a target `(T,)` of a result; None for a front, whose hypervolume is judged. `also` takes all
    runs' best designs `(N, *design_shape)`, in the targets' order, and gives a figure and its name. `least` is the best
    possible score where that is known; scores below `resolution` are alike.
    """

    name: str
    runs: Sequence[dict[str, Any]]
    targets: int
    score: Callable[[lo.Result], Tensor] | None
    also: Callable[[Tensor], str] | None = None
    least: float | None = None
    gradients: bool = True
    resolution: float = 1e-12


def decoder_and_designs(name: str) -> tuple[lo.Decoder, Tensor]:
    """A decoder and 64 designs that it was not trained on."""
    if name == "digits":
        return lo.load_decoder("digits"), lo.examples.digits()[:64]
    return load(name), held_out(name, 64)


def best_rows(result: lo.Result) -> lo.Result:
    """The best row of each target, always with a leading axis."""
    index = result.target_index
    first = torch.ones_like(index, dtype=torch.bool)
    first[1:] = index[1:] != index[:-1]
    return result.take(torch.nonzero(first)[:, 0])


def ink(designs: Tensor) -> Tensor:
    """Mean value of each design, `(M,)`."""
    return designs.flatten(1).mean(1)


def wrong_share(design: NDArray[Any], *, wanted: NDArray[Any]) -> NDArray[Any]:
    """Share of values that fall on the wrong side of one half, `(M,)`: a staircase, without gradients."""
    return np.asarray(((design > 0.5) != wanted).reshape(len(design), -1).mean(1))


def mean_square(designs: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
    """Mean squared error of each design `(N,)`, over the values where `where` is 1."""
    error = (designs - target).square().flatten(1)
    return error.mean(1) if where is None else error[:, where.flatten() > 0].mean(1)


def _losses(result: lo.Result) -> Tensor:
    found = best_rows(result)
    return found.losses.where(found.feasible, torch.inf)


def inversion(x: Tensor) -> Task:
    """Which latent gives this design?"""
    return Task("inversion", [{"target": x, "objectives": ["mse"]}], len(x), _losses)


def inpainting(x: Tensor) -> Task:
    """The right half is hidden, from the encoder too: it sees zeros there. Judged also on that half."""
    seen = torch.zeros(x.shape[1:])
    seen[..., : x.shape[-1] // 2] = 1
    options = {"target": x * seen, "objectives": [{"kind": "mse", "mask": seen}]}

    def hidden(designs: Tensor) -> str:
        return f"hidden half {float(mean_square(designs, x, 1 - seen).median()):.4f}"

    return Task("inpainting of the right half", [options], len(x), _losses, hidden)


def recovery(x: Tensor, m: int) -> Task:
    """A design from m random measurements of it, Gaussian with variance 1 / m (Bora et al. 2017, section 6)."""
    rows = torch.randn(m, x[0].numel(), generator=torch.Generator().manual_seed(m)) / m**0.5
    options = {"target": x, "objectives": [{"kind": "measurement", "matrix": rows}], "starts": BLIND_STARTS}

    def whole(designs: Tensor) -> str:
        return f"whole design {float(mean_square(designs, x).median()):.4f}"

    return Task(f"recovery from {m} measurements", [options], len(x), _losses, whole)


def property_value(x: Tensor, n: int) -> Task:
    """Mean ink driven to a value: the held-out designs' quantiles. Judged by how far off, as a share of the value."""
    levels = ink(x).quantile(torch.linspace(0.05, 0.95, n)).tolist()
    runs = [
        {"objectives": [{"kind": "property", "function": ink, "goal": {"equals": level}, "name": "ink"}]}
        for level in levels
    ]

    def off(result: lo.Result) -> Tensor:
        return (result.losses[:1]).sqrt() / ink(result.designs[:1]).clamp(min=1e-6)

    return Task("ink driven to a value", runs, n, off, least=0.0)


def black_box(x: Tensor) -> Task:
    """A thresholded picture matched by a function on NumPy arrays that has no gradients."""
    runs = [
        {
            "objectives": [
                {
                    "kind": "blackbox",
                    "function": partial(wrong_share, wanted=(one > 0.5).numpy()),
                    "vectorized": True,
                    "name": "wrong",
                }
            ]
        }
        for one in x
    ]

    def whole(designs: Tensor) -> str:
        return f"whole design {float(mean_square(designs, x).median()):.4f}"

    one_value = 1 / x[0].numel()
    return Task("black box: a thresholded picture", runs, len(x), _losses, whole, gradients=False, resolution=one_value)


def smooth_black_box(x: Tensor) -> Task:
    """A picture matched in its mean square by a function on NumPy arrays: smooth, and without gradients all the same."""
    runs = []
    for one in x:
        match = {
            "kind": "blackbox",
            "function": partial(_square, wanted=one.numpy()),
            "vectorized": True,
            "name": "mse",
        }
        runs.append({"objectives": [match]})
    return Task("black box: mean square", runs, len(x), _losses, gradients=False)


def _square(design: NDArray[Any], *, wanted: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(((design - wanted) ** 2).reshape(len(design), -1).mean(1))


def constrained(x: Tensor) -> Task:
    """The nearest design with at most 0.8 of the target's ink."""
    ink_T = ink(x)

    def share(c: lo.Candidates) -> Tensor:
        return ink(c.designs) / ink_T[c.target_index]

    limit = {"kind": "callable", "function": share, "goal": {"at_most": 0.8}, "name": "ink"}

    def over(designs: Tensor) -> str:
        over_T = (ink(designs) / ink_T / 0.8 - 1).clamp(min=0)
        return f"feasible {share_of(over_T <= 1e-6)}, at most {100 * float(over_T.max()):.2g} % over"

    return Task(
        "inversion, at most 0.8 of the ink",
        [{"target": x, "objectives": ["mse"], "constraints": [limit]}],
        len(x),
        _losses,
        over,
    )


def front(x: Tensor) -> Task:
    """Near the target, and likely under the prior: which of both, the front leaves open."""
    return Task("front of mse and prior", [{"target": x, "objectives": ["mse", "prior"], "pareto": True}], len(x), None)


def share_of(true_N: Tensor) -> str:
    """A share in words."""
    return f"{100 * float(true_N.double().mean()):.0f} %"

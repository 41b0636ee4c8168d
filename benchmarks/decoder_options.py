"""The decoder's options for speed on a convolutional decoder: what each gains, and what it does to the final loss."""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._inductor.utils import fresh_cache

import latentopt as lo
from benchmarks.common import side_by_side, table, write_section
from benchmarks.trained import held_out, load
from latentopt import SearchConfig
from latentopt_std import LBFGS, Adam, LevenbergMarquardt

TARGETS, STARTS, REPEATS = 4, 4, 5
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"precision": "bfloat16"},
    {"channels_last": True},
    {"fold_batch_norm": True},
    {"compile": True},
    {"channels_last": True, "fold_batch_norm": True},
    {"precision": "bfloat16", "channels_last": True, "fold_batch_norm": True},
    {"precision": "bfloat16", "channels_last": True, "fold_batch_norm": True, "compile": True},
)
SEARCHES: dict[str, SearchConfig] = {
    "lbfgs x 60": LBFGS(steps=60),
    "adam x 60": Adam(steps=60),
    "levenberg_marquardt x 8": LevenbergMarquardt(steps=8),
}


def gradient(decoder: lo.Decoder, z_ND: Tensor, target: Tensor) -> Tensor:
    """Of the mean squared error of each row, `(N, D)`."""
    with decoder.frozen(), torch.enable_grad():
        z_ND = z_ND.detach().requires_grad_(True)
        loss_N = (decoder.forward(z_ND) - target).square().flatten(1).mean(1)
        return torch.autograd.grad(loss_N.sum(), z_ND)[0]


def written(options: dict[str, Any]) -> str:
    """Options as they are written in Python."""
    return ", ".join(f"{key}={value!r}" for key, value in options.items()) or "none (the default)"


def true_losses(plain: lo.Decoder, result: lo.Result, target: Tensor) -> Tensor:
    """What the latents found are worth in float32, the best of each target `(T,)`."""
    loss_N = (plain.decode(result.latents) - target[result.target_index]).square().flatten(1).mean(1)
    best_T = torch.full((len(target),), torch.inf)
    return best_T.scatter_reduce(0, result.target_index, loss_N, "amin")


def main() -> None:
    """Measure and write the table."""
    plain, target = load("conv"), held_out("conv", TARGETS)
    made, making = [], []
    for options in OPTIONS:
        with fresh_cache() if "compile" in options else nullcontext():
            started = time.perf_counter()
            made.append(lo.Decoder(plain.module, plain.latent_shape, prior="normal", name="conv", **options))
            making.append(time.perf_counter() - started)
    z_ND = torch.randn(TARGETS * STARTS, plain.dim, generator=torch.Generator().manual_seed(0))
    wanted = target.repeat_interleave(STARTS, 0)
    for decoder in made:
        gradient(decoder, z_ND, wanted)
    works = {str(i): lambda d=decoder: gradient(d, z_ND, wanted) for i, decoder in enumerate(made)}
    seconds = list(side_by_side(works, REPEATS).values())
    losses = {name: [ends(plain, d, search, z_ND, target) for d in made] for name, search in SEARCHES.items()}
    rows = []
    for i, options in enumerate(OPTIONS):
        ratios = [f"{statistics.median((found[i] / found[0]).tolist()):.3f}" for found in losses.values()]
        each = seconds[i] / len(z_ND)
        rows.append(
            (written(options), f"{each * 1e6:.0f}", f"{seconds[0] / seconds[i]:.2f}x", f"{making[i]:.1f}", *ratios)
        )
    header = [
        "options",
        "loss and gradient, us a row",
        "faster",
        "to make the decoder, s",
        *(f"{n}: loss" for n in SEARCHES),
    ]
    size = sum(p.numel() for p in plain.module.parameters()) / 1e6  # type: ignore[attr-defined]
    text = (
        f"The trained decoder `conv` (64 values to 3 x 64 x 64, {size:.1f} million weights, batch norms), {len(z_ND)} rows "
        f"at once. Losses: the best of {STARTS} starts on each of {TARGETS} held-out designs, decoded again in float32, over "
        "that without options; the median of the targets. Making a decoder includes compilation, with nothing cached on disk."
    )
    write_section("decoder options", f"{text}\n\n{table(header, rows)}")


def ends(plain: lo.Decoder, decoder: lo.Decoder, search: SearchConfig, z_ND: Tensor, target: Tensor) -> Tensor:
    """The best true loss of each target `(T,)`, from the same starts."""
    starts = z_ND.view(TARGETS, STARTS, -1)
    return true_losses(plain, lo.optimize(decoder, target=target, starts=starts, search=search, seed=0), target)

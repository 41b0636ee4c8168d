"""The defaults of `levenberg_marquardt`: dampings on held-out digits, and the size of a Krylov space for wide latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import latentopt as lo
from benchmarks.common import cpu_seconds, table, write_section
from latentopt import rng
from latentopt_std import Adam, LevenbergMarquardt

TARGETS = 40
SETTINGS = (
    ("adam, 300 steps", Adam()),
    ("3 dampings 4 times apart, 30 steps (the default)", LevenbergMarquardt()),
    ("15 steps", LevenbergMarquardt(steps=15)),
    ("1 damping", LevenbergMarquardt(trials=1)),
    ("5 dampings", LevenbergMarquardt(trials=5)),
    ("10 times apart", LevenbergMarquardt(spread=10.0)),
    ("from 1 times the largest curvature", LevenbergMarquardt(damping=1.0)),
    ("from 1e-4 times", LevenbergMarquardt(damping=1e-4)),
    ("Krylov space of 4", LevenbergMarquardt(solver="krylov", inner=4)),
    ("Krylov space of 8", LevenbergMarquardt(solver="krylov", inner=8)),
    ("Krylov space of 16", LevenbergMarquardt(solver="krylov", inner=16)),
)
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one random start", {"starts": [{"kind": "prior", "n": 1}]}),
    (
        "one random start in the ball of median radius",
        {"starts": [{"kind": "prior", "n": 1}], "region": {"kind": "ball", "percentile": 50}},
    ),
    ("default starts", {}),
)
WIDE = (64, 128, 256)
SPACES = (
    ("adam, 300 steps", Adam()),
    ("dense", LevenbergMarquardt(solver="dense")),
    *((f"Krylov space of {k}", LevenbergMarquardt(solver="krylov", inner=k)) for k in (4, 8, 16, 32)),
)


def main() -> None:
    """Measure and write both tables."""
    _dampings()
    _spaces()


def _dampings() -> None:
    decoder = lo.load_decoder("digits")
    targets = lo.examples.digits()[:TARGETS]
    columns = [_compare(decoder, targets, [search for _, search in SETTINGS], options) for _, options in WAYS]
    rows = [(name, *(cell for column in columns for cell in column[i])) for i, (name, _) in enumerate(SETTINGS)]
    header = ["search"]
    for name, _ in WAYS:
        header += [f"{name}: median over best known", "90th percentile", "CPU s"]
    write_section("levenberg-marquardt", f"{TARGETS} held-out digits.\n\n{table(header, rows)}")


def _spaces() -> None:
    """Random networks have no structure that latents of less dimension would explain: the hard case for a small space."""
    columns = []
    for dim in WIDE:
        decoder = lo.Decoder(_wide(dim), (dim,), prior="normal")
        targets = decoder.decode(decoder.space.draw(8, rng.generator(9)))
        targets = targets + 0.1 * rng.randn(8, targets.shape[1], rng.generator(4))
        options = {"starts": [{"kind": "prior", "n": 2}]}
        columns.append(_compare(decoder, targets, [search for _, search in SPACES], options))
    rows = [(name, *(cell for column in columns for cell in column[i])) for i, (name, _) in enumerate(SPACES)]
    header = ["search"]
    for dim in WIDE:
        header += [f"{dim} latent values: median over best known", "90th percentile", "CPU s"]
    write_section("krylov spaces", f"8 noisy targets, 2 random starts each.\n\n{table(header, rows)}")


def _compare(
    decoder: lo.Decoder, targets: Tensor, searches: Sequence[lo.SearchConfig], options: dict[str, Any]
) -> list[list[str]]:
    """Of each search: median and 90th percentile over the best loss that any of them found, and CPU seconds."""
    found = []
    lo.optimize(decoder, target=targets[:1], search=LevenbergMarquardt(steps=1))  # what a first call loads
    for search in searches:
        result: list[lo.Result] = []
        seconds = cpu_seconds(
            lambda search=search, result=result: result.append(
                lo.optimize(decoder, target=targets, search=search, seed=1, **options)
            )
        )
        found.append((result[0].best.loss, seconds))
    best = torch.stack([loss for loss, _ in found]).amin(0)
    return [
        [f"{float((loss / best).median()):.3f}", f"{float((loss / best).quantile(0.9)):.3f}", f"{seconds:.1f}"]
        for loss, seconds in found
    ]


def _wide(dim: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(dim, 256), nn.Linear(256, 512), nn.Linear(512, 784)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=2 / layer.in_features**0.5)
        return nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2], nn.Sigmoid())

"""The defaults of `levenberg_marquardt`: dampings on held-out digits, and the size of a Krylov space for wide latents."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import latentopt as lo
from benchmarks.common import cpu_seconds, side_by_side, table, write_section
from latentopt import rng
from latentopt.problem import Problem
from latentopt.terms import Term
from latentopt_std import MSE, Adam, LevenbergMarquardt

TARGETS = 40
ADAM = ("adam, 300 steps", Adam())
SETTINGS: tuple[tuple[str, lo.SearchConfig], ...] = (
    ADAM,
    ("5 dampings 4 times apart (the default)", LevenbergMarquardt()),
    ("1 damping", LevenbergMarquardt(trials=1)),
    ("3 dampings", LevenbergMarquardt(trials=3)),
    ("7 dampings", LevenbergMarquardt(trials=7)),
    ("2 times apart", LevenbergMarquardt(spread=2.0)),
    ("10 times apart", LevenbergMarquardt(spread=10.0)),
    ("from 1 times the largest curvature", LevenbergMarquardt(damping=1.0)),
    ("from 1e-4 times", LevenbergMarquardt(damping=1e-4)),
    ("Krylov space of 4", LevenbergMarquardt(solver="krylov", inner=4)),
    ("Krylov space of 8", LevenbergMarquardt(solver="krylov", inner=8)),
    ("Krylov space of 16", LevenbergMarquardt(solver="krylov", inner=16)),
)
FEW = 7
REGIONS = (("one random start", "ball"), ("in the ball of median radius", {"kind": "ball", "percentile": 50}))
WIDE = (32, 64, 128)
SPACES: tuple[tuple[str, lo.SearchConfig], ...] = (
    ADAM,
    ("dense", LevenbergMarquardt(solver="dense")),
    *((f"Krylov space of {k}", LevenbergMarquardt(solver="krylov", inner=k)) for k in (4, 8, 16)),
)


def main() -> None:
    """Measure and write the tables."""
    _dampings()
    _spaces()
    _products()


def _dampings() -> None:
    decoder = lo.load_decoder("digits")
    targets = lo.examples.digits()[:TARGETS]
    few = [_shorter(search) for _, search in SETTINGS]
    columns, header = [], ["search"]
    for name, region in REGIONS:
        options = {"starts": [{"kind": "prior", "n": 1}], "region": region}
        columns.append(_compare(decoder, targets, [search for _, search in SETTINGS] + few, options))
        header += [
            f"{name}: median over best known",
            "90th percentile",
            "CPU s",
            f"after {FEW} steps: median",
            "90th percentile",
        ]
    count = len(SETTINGS)
    rows = []
    for i, (name, _) in enumerate(SETTINGS):
        cells = [cell for column in columns for cell in (*column[i], *(column[count + i][:2] if i else ("", "")))]
        rows.append((name, *cells))
    write_section("levenberg-marquardt", f"{TARGETS} held-out digits.\n\n{table(header, rows)}")


def _shorter(search: lo.SearchConfig) -> lo.SearchConfig:
    return search.model_copy(update={"steps": FEW}) if isinstance(search, LevenbergMarquardt) else search


def _spaces() -> None:
    columns = []
    for dim in WIDE:
        decoder = lo.Decoder(_wide(dim), (dim,), prior="normal")
        targets = decoder.decode(decoder.space.draw(16, rng.generator(9)))
        targets = targets + 0.1 * rng.randn(16, targets.shape[1], rng.generator(4))
        options = {"starts": [{"kind": "prior", "n": 1}]}
        columns.append(_compare(decoder, targets, [search for _, search in SPACES], options))
    rows = [(name, *(cell for column in columns for cell in column[i])) for i, (name, _) in enumerate(SPACES)]
    header = ["search"]
    for dim in WIDE:
        header += [f"{dim} latent values: median over best known", "90th percentile", "CPU s"]
    write_section("krylov spaces", f"16 noisy targets, one random start each.\n\n{table(header, rows)}")


def _products() -> None:
    """CPU time of a row's Jacobian, all rows of a few, on dense layers and on convolutions."""
    rows = []
    for name, decoder, count in (("digits", lo.load_decoder("digits"), 64), ("convolutions", _convolutions(), 4)):
        targets = decoder.decode(decoder.space.draw(1, rng.generator(9)))
        term = Term("mse", MSE(target=targets[0]).build(decoder))
        z, target = decoder.space.draw(count, rng.generator(1)), torch.zeros(count, dtype=torch.long)
        for krylov, what in ((0, "a Jacobian"), (8, "a Krylov space of 8")):
            works = {}
            for products in ("batched", "single", "differences"):
                problem = Problem(decoder, [term])
                problem.linearizer._way = problem.linearizer.way._replace(products=products)  # whatever it would choose
                works[products] = functools.partial(problem.linearize, z, target, krylov=krylov)
                works[products]()
            with decoder.frozen():
                found = side_by_side(works, 3)
            rows.append((f"{name}, {what}", *(f"{1e3 * seconds / count:.2f}" for seconds in found.values())))
    header = ["decoder", "two passes, several at once: ms a row", "two passes, one by one", "differences"]
    write_section("products with a jacobian", table(header, rows))


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


def _convolutions() -> lo.Decoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(32, 2048),
            nn.Unflatten(1, (128, 4, 4)),
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )
    return lo.Decoder(net, (32,), prior="normal", name="convolutions")

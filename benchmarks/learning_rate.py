"""Adam's default learning rate and schedule, on the embedded decoder and held-out digits."""

from __future__ import annotations

import torch

import latentopt as lo
from benchmarks.common import cpu_seconds, table, write_section
from latentopt_std import Adam

TARGETS = 40
SETTINGS = (
    ("0.01 constant, 1000 steps (the plain loop's)", Adam(lr=0.01, schedule="constant", steps=1000)),
    ("0.1 constant, 300 steps", Adam(lr=0.1, schedule="constant", steps=300)),
    ("0.1 cosine, 300 steps", Adam(lr=0.1, steps=300)),
    ("0.3 cosine, 300 steps (the default)", Adam(steps=300)),
    ("0.3 cosine, 100 steps", Adam(steps=100)),
    ("0.5 cosine, 300 steps", Adam(lr=0.5, steps=300)),
    ("1.0 cosine, 300 steps", Adam(lr=1.0, steps=300)),
)


def main() -> None:
    """Measure and write the table: one random start a target, and the default starts."""
    decoder = lo.load_decoder("digits")
    targets = lo.examples.digits()[:TARGETS]
    random_start = [{"kind": "prior", "n": 1}]
    found = {}
    for name, search in SETTINGS:
        for label, starts in (("one", random_start), ("default", None)):
            result: list[lo.Result] = []
            seconds = cpu_seconds(
                lambda search=search, starts=starts, result=result: result.append(
                    lo.optimize(decoder, target=targets, starts=starts, search=search, seed=1)
                )
            )
            found[name, label] = (result[0].best.loss, seconds)
    best = torch.stack([loss for loss, _ in found.values()]).amin(0)
    rows = []
    for name, _ in SETTINGS:
        cells = []
        for label in ("one", "default"):
            loss, seconds = found[name, label]
            cells += [
                f"{float((loss / best).median()):.3f}",
                f"{float((loss / best).quantile(0.9)):.3f}",
                f"{seconds:.1f}",
            ]
        rows.append((name, *cells))
    header = ["learning rate", "one random start: median over best known", "90th percentile", "CPU s",
              "default starts: median over best known", "90th percentile", "CPU s"]  # fmt: skip
    write_section("learning rate", f"{TARGETS} held-out digits, default region.\n\n{table(header, rows)}")

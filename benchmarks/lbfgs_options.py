"""L-BFGS's defaults beside Adam, on the embedded decoder and held-out digits, every row from the same start."""

from __future__ import annotations

import torch
from torch import Tensor

import latentopt as lo
from benchmarks.common import cpu_seconds, table, write_section
from latentopt import Ball, Free, SearchConfig
from latentopt_std import LBFGS, Adam

TARGETS, STARTS = 40, 8
SETTINGS: tuple[tuple[str, SearchConfig], ...] = (
    ("adam, 300 steps (its default)", Adam()),
    ("adam, lr 0.5, 1000 steps", Adam(lr=0.5, steps=1000)),
    ("lbfgs, 100 steps (the default)", LBFGS()),
    ("lbfgs, 50 steps", LBFGS(steps=50)),
    ("lbfgs, 200 steps", LBFGS(steps=200)),
    ("lbfgs, history 5", LBFGS(history=5)),
    ("lbfgs, history 20", LBFGS(history=20)),
    ("lbfgs, longest 0.1", LBFGS(longest=0.1)),
    ("lbfgs, longest 1.0", LBFGS(longest=1.0)),
    ("lbfgs, longest 3.0", LBFGS(longest=3.0)),
)
REGIONS: tuple[tuple[str, Free | Ball], ...] = (("no region", Free()), ("default region", Ball(percentile=99)))


def quantiles(ratio: Tensor) -> list[str]:
    """Median and 90th percentile."""
    return [f"{float(ratio.flatten().quantile(share)):.4f}" for share in (0.5, 0.9)]


def main() -> None:
    """Measure and write the table: each row against the best end known of its target, and the best of a target's rows."""
    decoder = lo.load_decoder("digits")
    targets = lo.examples.digits()[:TARGETS]
    sections = []
    for title, region in REGIONS:
        found = {}
        for name, search in SETTINGS:
            kept: list[lo.Result] = []
            seconds = cpu_seconds(
                lambda search=search, kept=kept, region=region: kept.append(
                    lo.optimize(
                        decoder,
                        target=targets,
                        starts={"kind": "prior", "n": STARTS},
                        search=search,
                        region=region,
                        seed=1,
                    )
                )
            )
            result = kept[0]
            rows = result.cost.forward_rows + result.cost.backward_rows
            found[name] = (result.losses.view(TARGETS, STARTS), rows, seconds)  # by target, then loss
        best_T1 = torch.stack([losses[:, 0] for losses, _, _ in found.values()]).amin(0)[:, None]
        lines = [
            (
                name,
                *quantiles(losses / best_T1),
                *quantiles(losses[:, :1] / best_T1),
                f"{rows / 1000:.0f}",
                f"{seconds:.1f}",
            )
            for name, (losses, rows, seconds) in found.items()
        ]
        header = [title, "rows: median over best known", "90th percentile", f"best of {STARTS}: median", "90th percentile",
                  "1000 rows used", "CPU s"]  # fmt: skip
        sections.append(table(header, lines))
    text = f"{TARGETS} held-out digits, {STARTS} starts each from the prior.\n\n" + "\n\n".join(sections)
    write_section("lbfgs options", text)

"""What `auto` chooses, and why: candidate plans on decoders of different make and on objectives of different kinds."""

from __future__ import annotations

from typing import Any

import torch

import latentopt as lo
from benchmarks.common import cpu_seconds, table, write_section
from benchmarks.trained import held_out, load
from latentopt_std import LBFGS, MAE, MSE, SSIM, Adam, LevenbergMarquardt, Measurement, Property

TARGETS = {"digits": 12, "deep": 12, "conv": 4}
RACE = [LBFGS(steps=100, keep=4), Adam(steps=100, keep=4)]
PLANS: dict[str, Any] = {
    "adam x 300": Adam(),
    "lbfgs x 200": LBFGS(steps=200),
    "levenberg_marquardt x 40": LevenbergMarquardt(steps=40),
    "lbfgs x 100, LM x 15": [LBFGS(steps=100, keep=4), LevenbergMarquardt(steps=15)],
    "race of lbfgs and adam x 100, lbfgs x 60": [RACE, LBFGS(steps=60)],
    "adam 0.5 x 60, lbfgs x 60": [Adam(lr=0.5, steps=60, keep=4), LBFGS(steps=60)],
    "auto": "auto",
}


def grey(designs: torch.Tensor) -> torch.Tensor:
    """Mean value of each design, `(M,)`."""
    return designs.flatten(1).mean(1)


def tasks(name: str, target: torch.Tensor) -> dict[str, dict[str, Any]]:
    """What is searched for on one decoder, as keywords of `optimize`."""
    shape = target.shape[1:]
    half = torch.zeros(shape)
    half[..., : shape[-1] // 2] = 1
    level = float(target[0].mean()) * 0.8
    found: dict[str, dict[str, Any]] = {
        "match": {"objectives": [MSE()]},
        "half of it": {"objectives": [MSE(mask=half)]},
        "mean absolute error": {"objectives": [MAE()]},
    }
    if name == "conv":
        return found
    rows = torch.randn(25, shape.numel(), generator=torch.Generator().manual_seed(0)) / 5
    limit = Property(function=grey, goal={"at_most": level})
    found["25 measurements"] = {"objectives": [Measurement(matrix=rows)]}
    found["structural similarity"] = {"objectives": [SSIM()]}
    found["match, less ink"] = {"objectives": [MSE()], "constraints": [limit]}
    return found


def main() -> None:
    """Measure and write the table."""
    rows = []
    for name, count in TARGETS.items():
        decoder = lo.load_decoder("digits") if name == "digits" else load(name)
        target = lo.examples.digits()[:count] if name == "digits" else held_out(name, count)
        for task, options in tasks(name, target).items():
            rows += measured(name, task, decoder, {"target": target, **options})
    header = ["decoder", "task", "plan", "over the best known: median", "90th percentile", "rows a target", "CPU s"]
    words = (
        "Default starts and region (the ball of 99 % of the prior). The best known is the lowest that any plan or the "
        "reference (24 starts more, Adam 0.5 x 500, then L-BFGS x 100) found, a target. LM stands for `levenberg_marquardt`; "
        "it is left out where there are no residuals."
    )
    write_section("auto", f"{words}\n\n{table(header, rows)}")


def measured(name: str, task: str, decoder: lo.Decoder, options: dict[str, Any]) -> list[tuple[Any, ...]]:
    """A row of the table for each plan."""
    starts = [{"kind": "prior", "n": 12 if name == "conv" else 24}]
    chain = [Adam(lr=0.5, steps=500, keep=6), LBFGS(steps=100)]
    reference = lo.optimize(decoder, starts=starts, search=chain, seed=9, **options)
    losses, costs = {"": reference.best.loss}, {}
    for plan, search in PLANS.items():
        result: list[lo.Result] = []

        def once(search: Any = search, result: list[lo.Result] = result) -> None:
            result.append(lo.optimize(decoder, search=search, seed=1, **options))

        try:
            seconds = cpu_seconds(once)
        except lo.ConfigError:  # LM without residuals
            continue
        losses[plan] = result[0].best.loss
        costs[plan] = (result[0].cost.rows / len(result[0].best.loss), seconds)
    best_T = torch.stack(list(losses.values())).amin(0)
    found = []
    for plan, (spent, seconds) in costs.items():
        ratio_T = losses[plan] / best_T
        figures = (f"{float(ratio_T.median()):.3f}", f"{float(ratio_T.quantile(0.9)):.3f}")
        found.append((name, task, plan, *figures, f"{spent:.0f}", f"{seconds:.2f}"))
    return found

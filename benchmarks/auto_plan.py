"""What `auto` chooses, and why: candidate plans on decoders of different make and on objectives of different kinds."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import latentopt as lo
from benchmarks.common import cpu_seconds, table, write_section
from benchmarks.quality import CLOSE, Outcome, attempt, front_volumes
from benchmarks.tasks import Task, black_box, decoder_and_designs, share_of, smooth_black_box
from benchmarks.trained import held_out, load
from latentopt_std import CMAES, LBFGS, MAE, MSE, SSIM, Adam, LevenbergMarquardt, Measurement, Property

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

SMOOTH = {"kind": "callable", "function": lambda c: c.designs.diff(dim=-1).abs().flatten(1).mean(1), "name": "tv"}
FRONTS: dict[str, Any] = {
    "lbfgs x 50": LBFGS(steps=50),
    "lbfgs x 100": LBFGS(steps=100),
    "lbfgs x 200": LBFGS(steps=200),
    "adam x 100": Adam(steps=100),
    "adam x 300": Adam(),
    "auto": "auto",
}
BLIND: dict[str, Any] = {
    "2000 evaluations": CMAES(),
    "2000, population 24": CMAES(population=24),
    "5000": CMAES(evaluations=5000),
    "5000, population 24": CMAES(evaluations=5000, population=24),
    "5000, population 40": CMAES(evaluations=5000, population=40),
    "10000, population 24": CMAES(evaluations=10_000, population=24),
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
    """Measure and write the tables."""
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
    fronts()
    blind()


def fronts(targets: int = 8) -> None:
    """Plans for a front, judged by the volume of the union of all plans' fronts over a plan's own."""
    rows = []
    for name in ("digits", "deep"):
        decoder, x = decoder_and_designs(name)
        for task, objectives in {"mse, prior": ["mse", "prior"], "mse, total variation": ["mse", SMOOTH]}.items():
            found, costs = {}, {}
            for plan, search in FRONTS.items():
                options = {"target": x[:targets], "objectives": objectives, "pareto": True, "search": search, "seed": 1}
                result: list[lo.Result] = []
                costs[plan] = cpu_seconds(partial(_keep, result, decoder, options))
                found[plan] = Outcome(result, result[0].designs, None, result[0].cost.rows / targets)
            volumes = front_volumes(found, targets)
            for plan, outcome in found.items():
                ratio_T = volumes["union"] / volumes[plan].clamp(min=1e-12)
                figures = [f"{float(ratio_T.quantile(q)):.3f}" for q in (0.5, 0.9)]
                rows.append((name, task, plan, *figures, f"{outcome.rows:.0f}", f"{costs[plan]:.2f}"))
    header = ["decoder", "front of", "plan", "volume of all over its own: median", "90th percentile"]
    write_section("auto fronts", f"{targets} targets.\n\n{table([*header, 'rows a target', 'CPU s'], rows)}")


def blind(targets: int = 16) -> None:
    """Sizes of CMA-ES on objectives without gradients: a smooth one, and a staircase."""
    rows = []
    for name in ("digits", "deep"):
        decoder, x = decoder_and_designs(name)
        for task in (smooth_black_box(x[:targets]), black_box(x[:targets])):
            found, costs = {}, {}
            for plan, search in BLIND.items():
                outcome: list[Outcome] = []
                costs[plan] = cpu_seconds(partial(_attempted, outcome, decoder, task, search))
                score_N = outcome[0].score_N
                assert score_N is not None
                found[plan] = score_N.clamp(min=task.resolution)
            best_N = torch.stack(list(found.values())).amin(0)
            for plan, score_N in found.items():
                over_N = score_N / best_N
                figures = [f"{float(over_N.quantile(q)):.3f}" for q in (0.5, 0.9)]
                rows.append(
                    (name, task.name, plan, *figures, share_of(over_N <= CLOSE), f"{costs[plan] / targets:.2f}")
                )
    header = ["decoder", "task", "cmaes", "over the best known: median", "90th percentile", "found it"]
    words = f"{targets} targets, starts as without a target; the best known is the lowest of all rows."
    write_section("auto without gradients", f"{words}\n\n{table([*header, 'CPU s a target'], rows)}")


def _keep(into: list[lo.Result], decoder: lo.Decoder, options: dict[str, Any]) -> None:
    into.append(lo.optimize(decoder, **options))


def _attempted(into: list[Outcome], decoder: lo.Decoder, task: Task, search: Any) -> None:
    into.append(attempt(decoder, task, search=search))


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

"""How good are the designs that come out? `auto` against the best known and against random draws, on seven kinds of task."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import moocore
import torch
from torch import Tensor

import latentopt as lo
from benchmarks import tasks
from benchmarks.common import PAGE as PERFORMANCE, table, write_section
from benchmarks.tasks import Task, best_rows, share_of

PAGE = PERFORMANCE.with_name("quality.md")
CLOSE = 1.05  # times the best known counts as having found it
HEADER = [
    "task",
    "n",
    "method",
    "rows a target",
    "over the best known: median",
    "90th percentile",
    "found it",
    "judged also by",
    "inside",
    "cycle error",
]


@dataclass(frozen=True)
class Effort:
    """Targets of each kind of task on one decoder, and the reference's starts, steps of Adam, and rows without gradients."""

    inversion: int
    others: int
    starts: int
    steps: int
    evaluations: int
    measurements: tuple[int, ...] = (25, 50, 100)


EFFORTS = {
    "digits": Effort(64, 8, 64, 500, 20_000),
    "deep": Effort(64, 8, 64, 500, 20_000),
    "conv": Effort(8, 4, 16, 200, 8000, (50, 100)),
}


@dataclass(frozen=True)
class Outcome:
    """What one method did on one task: scores `(N,)` of the targets (None for a front), best designs, results, rows spent."""

    results: list[lo.Result]
    designs: Tensor
    score_N: Tensor | None
    rows: float  # a target


def planned(x: Tensor, effort: Effort) -> Iterator[Task]:
    """The tasks on one decoder."""
    few = x[: effort.others]
    yield tasks.inversion(x[: effort.inversion])
    yield tasks.inpainting(few)
    for m in effort.measurements:
        yield tasks.recovery(few, m)
    yield tasks.property_value(x, effort.others)
    yield tasks.black_box(few)
    yield tasks.constrained(few)
    yield tasks.front(few)


def attempt(decoder: lo.Decoder, task: Task, seed: int = 1, **options: Any) -> Outcome:
    """One method on all of a task's runs; `options` are keywords of `optimize` that win over the task's."""
    results = [lo.optimize(decoder, **{**run, "seed": seed, **options}) for run in task.runs]
    score_N = None if task.score is None else torch.cat([task.score(result) for result in results])
    designs = torch.cat([best_rows(result).designs for result in results])
    return Outcome(results, designs, score_N, sum(result.cost.rows for result in results) / task.targets)


def random_draws(decoder: lo.Decoder, task: Task, rows: float) -> Outcome:
    """The best of as many draws from the prior: a forward row each, where `rows` counts backward rows too."""
    search = {"kind": "random", "evaluations": max(1, int(rows) - 1)}
    return attempt(decoder, task, search=search, starts=[{"kind": "prior", "n": 1}])


def reference(decoder: lo.Decoder, task: Task, effort: Effort) -> Outcome:
    """A search of many starts and steps: Adam 0.5, then L-BFGS; without gradients CMA-ES from where it is told to look."""
    starts: list[Any] = [{"kind": "prior", "n": effort.starts}]
    if not task.gradients:
        search: list[Any] = [{"kind": "cmaes", "evaluations": effort.evaluations}]
        return attempt(decoder, task, seed=9, starts=starts, search=search)
    chain: list[Any] = [
        {"kind": "adam", "lr": 0.5, "steps": effort.steps, "keep": 8},
        {"kind": "lbfgs", "steps": 200},
    ]
    if task.score is None or any("constraints" in run for run in task.runs):  # each row has its own part of the front
        chain = [{"kind": "adam", "lr": 0.3, "steps": effort.steps}]
    return attempt(decoder, task, seed=9, starts=starts, search=chain)


def scores(task: Task, outcomes: dict[str, Outcome]) -> dict[str, Tensor]:
    """How many times the best known each method is, a target `(N,)`: at least 1 in the same region.

    A front is judged by the best known volume over its own; the best known is the union of all methods' fronts.
    """
    same = [name for name in outcomes if "no region" not in name]
    if task.score is None:
        volumes = front_volumes(outcomes, task.targets)
        return {
            name: volumes["union"] / volume_T.clamp(min=1e-12) for name, volume_T in volumes.items() if name in outcomes
        }
    found = {name: outcome.score_N for name, outcome in outcomes.items() if outcome.score_N is not None}
    found = {name: score_N.clamp(min=task.resolution) for name, score_N in found.items()}
    best_N = torch.stack([found[name] for name in same]).amin(0)
    return {name: score_N / best_N for name, score_N in found.items()}


def front_volumes(outcomes: dict[str, Outcome], targets: int) -> dict[str, Tensor]:
    """Hypervolumes of each method's fronts and of their union, `(T,)`, up to the worst of `auto`'s starts."""
    reference_TK = outcomes["auto"].results[0].reference
    if reference_TK is None:
        raise ValueError("auto gave no front")
    fronts: dict[str, list[Tensor]] = {}
    for name, outcome in outcomes.items():
        result = outcome.results[0]
        each = [result.front(t) for t in range(targets)]
        fronts[name] = [torch.stack([one.terms[k] for k in one.objectives], 1).double() for one in each]
    fronts["union"] = [torch.cat(parts) for parts in zip(*fronts.values(), strict=True)]
    return {
        name: torch.tensor(
            [
                float(moocore.hypervolume(losses_MK.numpy(), ref=reference_TK[t].double().numpy()))
                for t, losses_MK in enumerate(each)
            ]
        )
        for name, each in fronts.items()
    }


def measured(decoder: lo.Decoder, task: Task, effort: Effort) -> list[Sequence[object]]:
    """The rows of one task."""
    outcomes = {"auto": attempt(decoder, task)}
    outcomes["random"] = random_draws(decoder, task, outcomes["auto"].rows)
    if task.least is None:
        outcomes["reference"] = reference(decoder, task, effort)
    if task.name in ("inversion", f"recovery from {effort.measurements[0]} measurements") and effort.inversion > 4:
        outcomes["auto, no region"] = attempt(decoder, task, region="free")
    if task.least is None:
        over = scores(task, outcomes)
    else:
        over = {name: outcome.score_N for name, outcome in outcomes.items() if outcome.score_N is not None}
    return [_line(task, name, outcome, over[name]) for name, outcome in outcomes.items()]


def _line(task: Task, name: str, outcome: Outcome, over_N: Tensor) -> Sequence[object]:
    if task.least is None:
        figures = [f"{float(over_N.quantile(q)):.3f}" for q in (0.5, 0.9)]
        found = share_of(over_N <= CLOSE)
    else:
        figures, found = ["-", "-"], share_of(over_N <= tasks.REACHED)
    also = "" if task.also is None else task.also(outcome.designs)
    if task.least is not None:
        also = f"off by {float(over_N.median()):.1e}, at most {float(over_N.max()):.1e}"
    judged = [result if task.score is None else best_rows(result) for result in outcome.results]
    inside_N = torch.cat([one.realism.inside for one in judged])
    cycles = [one.realism.cycle_error for one in judged if one.realism.cycle_error is not None]
    cycle = f"{float(torch.cat(cycles).median()):.1e}" if cycles else "-"
    return [task.name, task.targets, name, f"{outcome.rows:.0f}", *figures, found, also, share_of(inside_N), cycle]


def main(names: Sequence[str] = tuple(EFFORTS)) -> None:
    """Measure and write a table for each decoder."""
    for name in names:
        decoder, x = tasks.decoder_and_designs(name)
        lines: list[Sequence[object]] = []
        began = time.process_time()
        for task in planned(x, EFFORTS[name]):
            lines += measured(decoder, task, EFFORTS[name])
            print(f"{name}: {task.name}, {time.process_time() - began:.0f} s", flush=True)
        effort = EFFORTS[name]
        words = (
            f"Reference: {effort.starts} starts from the prior, Adam 0.5 with a cosine decay x {effort.steps}, the best 8 "
            f"polished by L-BFGS x 200 (constraint and front: all starts, Adam 0.3; black box: `cmaes` with "
            f"{effort.evaluations} evaluations)."
        )
        write_section(f"quality {name}", f"{table(HEADER, lines)}\n\n{words}", PAGE)

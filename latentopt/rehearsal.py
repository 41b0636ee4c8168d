"""What a run would do and cost, without running it: all of it is loaded, built and checked, and a few steps are timed."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from latentopt import memory, rng
from latentopt.auto import seconds_a_row
from latentopt.budget import Budget, Clock
from latentopt.config import OptimizeTask, RunConfig, SampleTask
from latentopt.decoder import Decoder
from latentopt.driver import check_beginning
from latentopt.interfaces import SamplerConfig, SearchConfig
from latentopt.planning import Plan, memory_needed, plan, rows_kept
from latentopt.problem import Problem
from latentopt.rng import RowNoise
from latentopt.stagerun import Stage, final_rows
from latentopt.starts import build_starts
from latentopt.store import new_folder

_STEPS = 3  # steps of each search that are timed, the first of them alone being often the dearest
_SECONDS = 0.5  # about how long they may take for all rows of a search; above, they are taken of fewer


@dataclass(frozen=True)
class StageCost:
    """One search of a run: its place ("2.1" is the first of a race), size, rows that begin, and what it takes at most."""

    place: str
    search: str
    size: str
    starts: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class Rehearsal:
    """What a run would be. `rows` and `seconds` are estimates, of a run that no budget ends."""

    task: str
    decoder: str
    region: str
    targets: int
    starts: str
    stages: list[StageCost]
    beginning_rows: int
    final_rows: int
    rows: int
    seconds: float
    basis: str
    memory_bytes: int
    free_bytes: int | None
    budget: Budget
    notes: list[str]

    @property
    def fits(self) -> bool:
        """Whether the budget covers the whole run."""
        rows, seconds = self.budget.rows, self.budget.seconds
        return (rows is None or self.rows <= rows) and (seconds is None or self.seconds <= seconds)

    def summary(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        found = {**dataclasses.asdict(self), "budget": self.budget.model_dump(), "fits": self.fits}
        return {**found, "estimate": True}

    def lines(self) -> list[tuple[str, str]]:
        """What it says in words: a name and a sentence each."""
        searches = [
            (
                f"stage {one.place}",
                f"{one.search}, {one.size}, from {one.starts} rows: about {one.rows} rows, {_time(one.seconds)}",
            )
            for one in self.stages
        ]
        free = "" if self.free_bytes is None else f" of {memory.size(self.free_bytes)} that are free"
        of_rows, of_time = self.budget.rows, self.budget.seconds
        limits = [] if of_rows is None else [f"{of_rows} rows"]
        limits += [] if of_time is None else [f"{of_time:g} s"]
        budget = "no limit" if not limits else f"{' and '.join(limits)}: {self._judged()}"
        return [
            ("task", self.task),
            ("decoder", self.decoder),
            *(
                [("region", self.region), ("targets", str(self.targets)), ("starts", self.starts)]
                if self.region
                else []
            ),
            *searches,
            ("rows", f"about {self.rows}: {self.beginning_rows} to begin, {self.final_rows} to judge what was found"),
            ("time", f"about {_time(self.seconds)}, an estimate from {self.basis}"),
            ("memory", f"about {memory.size(self.memory_bytes)}{free}, beside the decoder and one block of rows"),
            ("budget", budget),
            *(("note", note) for note in dict.fromkeys(self.notes)),
        ]

    def _judged(self) -> str:
        if self.fits:
            return "enough for all of it"
        return "ends the run before all steps are taken, with the best found until then"


def rehearse(config: RunConfig, decoder: Decoder, out: Path | None = None) -> Rehearsal:
    """Everything that is checked before a run, and what the run would take. Raises what the run would raise."""
    if out is not None:
        _check_folder(out)
    if isinstance(config.task, OptimizeTask):
        return _optimize(config, decoder)
    return _draws(config, decoder)


def _optimize(config: RunConfig, decoder: Decoder) -> Rehearsal:
    planned = plan(config, decoder)
    problem, task = planned.problem, cast(OptimizeTask, planned.config.task)
    targets = None if task.target is None else decoder.as_designs(task.target)
    clock = Clock(problem, config.budget)
    with decoder.frozen():
        z_ND, target_N = build_starts(task.starts or [], problem, decoder, targets, config.seed)
    check_beginning(problem, planned.stages, clock, len(z_ND))
    begun, took = clock.rows, clock.seconds
    needed = memory_needed(planned, len(z_ND))
    with memory.room(needed, f"{len(z_ND)} starts and their designs", "give fewer starts"):
        stages, kept = _stages(planned, z_ND, target_N)
    last = final_rows(problem, kept)
    price = seconds_a_row(problem)
    return Rehearsal(
        task="optimize",
        decoder=about(decoder),
        region=_kind(task.region),
        targets=problem.targets,
        starts=f"{len(z_ND)} rows: {_starts(task.starts or [])}",
        stages=stages,
        beginning_rows=begun,
        final_rows=last,
        rows=begun + last + sum(one.rows for one in stages),
        seconds=took + last * price + sum(one.seconds for one in stages),
        basis=_basis(stages, price),
        memory_bytes=needed,
        free_bytes=memory.free_bytes(),
        budget=config.budget,
        notes=[*decoder.notes, *planned.notes],
    )


def _stages(planned: Plan, z_ND: Tensor, target_N: Tensor) -> tuple[list[StageCost], int]:
    """What each search takes, each from as many rows as come to it, and how many rows are found in the end."""
    problem, task = planned.problem, cast(OptimizeTask, planned.config.task)
    price = seconds_a_row(problem)
    found = []
    rows = len(z_ND)
    for index, (entry, config) in enumerate(zip(planned.stages, task.search or [], strict=True), start=1):
        entrants = [entry] if isinstance(entry, Stage) else list(entry)
        configs = config if isinstance(config, list) else [config]
        for entrant, (stage, one) in enumerate(zip(entrants, configs, strict=True), start=1):
            place = f"{index}" if len(entrants) == 1 else f"{index}.{entrant}"
            found.append(_stage(place, stage, one, problem, rows, z_ND[:rows], target_N[:rows], price))
        starting = [getattr(stage.search, "start_rows", None) for stage in entrants]
        held = sum(rows if one is None else one(problem, rows)[1] for one in starting)
        keeps = [stage.keep for stage in entrants if stage.keep is not None]
        keep = max(keeps) if keeps else None if len(entrants) == 1 else max(1, rows // problem.targets)
        rows = held if keep is None else min(held, keep * problem.targets)
    return found, rows_kept(planned, len(z_ND)) if problem.pareto else rows


def _stage(
    place: str,
    stage: Stage,
    config: SearchConfig,
    problem: Problem,
    n: int,
    z_ND: Tensor,
    target_N: Tensor,
    price: float,
) -> StageCost:
    evaluations = getattr(config, "evaluations", None)
    if isinstance(evaluations, int):  # what it takes to ask a model grows, and a batch may be dear: not tried
        whole = evaluations * problem.targets
        return StageCost(place, stage.name, f"{evaluations} evaluations a target", n, whole, whole * price)
    m = max(1, min(len(z_ND), int(_SECONDS / max(price, 1e-9) / (2 * _STEPS))))  # the first m rows stand for all
    rows, seconds, steps = _timed(stage, problem, z_ND[:m], target_N[:m])
    size = f"{steps} steps"
    return StageCost(place, stage.name, size, n, math.ceil(rows * n / m), seconds * n / m)


def _timed(stage: Stage, problem: Problem, z_MD: Tensor, target_M: Tensor) -> tuple[float, float, int]:
    """Rows, seconds and steps of a whole search, from a few of its steps: the mean of their rows, and the quickest, as the
    first ones wait for what later ones find done."""
    search, counter = stage.search, problem.decoder.rows
    marks = [(counter.forward + counter.backward, time.perf_counter())]

    def mark() -> None:
        marks.append((counter.forward + counter.backward, time.perf_counter()))

    with problem.decoder.frozen():
        state = search.init(problem, z_MD, target_M, RowNoise(0, 0, len(z_MD)))
        mark()
        while len(marks) < _STEPS + 2 and state.step < search.n_steps and not bool(state.done_N.all()):
            search.step(problem, state)
            mark()
        finish = getattr(search, "finish", None)
        if finish is not None:
            finish(state)
    spent = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(marks)]
    (first_rows, first_seconds), *each = spent
    if not each:
        return first_rows, first_seconds, search.n_steps
    rows = sum(one[0] for one in each) / len(each)
    return (
        first_rows + search.n_steps * rows,
        first_seconds + search.n_steps * min(one[1] for one in each),
        search.n_steps,
    )


def _basis(stages: Sequence[StageCost], price: float) -> str:
    by_row = [one for one in stages if "evaluations" in one.size]
    words = [] if len(by_row) == len(stages) else [f"at most {_STEPS} steps of each search"]
    if by_row:
        words.append(f"the price of a row, {_time(price)}, without what searches take to choose")
    return " and ".join(words)


def _draws(config: RunConfig, decoder: Decoder) -> Rehearsal:
    task = config.task
    n = task.n if isinstance(task, SampleTask) else cast(Any, task).steps
    z_ND = decoder.space.draw(min(n, decoder.block_rows), rng.generator(config.seed))
    decoder.decode(z_ND)  # once to warm up
    began = time.perf_counter()
    decoder.decode(z_ND)
    price = (time.perf_counter() - began) / len(z_ND)
    rows = n * (2 if decoder.encoder is not None else 1)
    values = math.prod(decoder.design_shape) * decoder.probe.dtype.itemsize
    needed = n * (decoder.dim * memory.DRAWN + values)
    with memory.room(needed, f"{n} designs of shape {decoder.design_shape} and their latents", "draw fewer"):
        return Rehearsal(
            task=f"{task.kind} {n} designs",
            decoder=about(decoder),
            region="",
            targets=0,
            starts="",
            stages=[],
            beginning_rows=0,
            final_rows=rows - n,
            rows=rows,
            seconds=rows * price,
            basis=f"the price of a row, {_time(price)}",
            memory_bytes=needed,
            free_bytes=memory.free_bytes(),
            budget=config.budget,
            notes=decoder.notes,
        )


def _check_folder(out: Path) -> None:
    """Refuse what a run would refuse, and leave no folder behind."""
    missing = [one for one in (out, *out.parents) if not one.exists()]
    new_folder(out)
    for one in missing:
        one.rmdir()


# ---------------------------------------------------------------------- in words


def about(decoder: Decoder) -> str:
    """A decoder in a sentence: its shapes, place, encoder, gradient, and the grounds of its prior."""
    encoder = "an encoder" if decoder.encoder is not None else "no encoder"
    gradient = "gradients" if decoder.probe.differentiable else f"no gradients ({decoder.probe.gradient_note})"
    return (
        f"{decoder.name}: latents {decoder.latent_shape} to designs {decoder.design_shape} on {decoder.device}, {encoder}, "
        f"{gradient}; prior {_kind(decoder.space.prior)}, {decoder.space.evidence}"
    )


def _kind(config: Any) -> str:
    """A config's kind, with the numbers that were set."""
    values = {name: getattr(config, name) for name in sorted(config.model_fields_set - {"kind"})}
    words = ", ".join(f"{name} {value:g}" for name, value in values.items() if isinstance(value, int | float))
    return f"{config.kind}{f' ({words})' if words else ''}"


def _starts(starts: Sequence[Any]) -> str:
    words = []
    for one in starts:
        if isinstance(one, SamplerConfig):
            screened = "" if one.screened_from is None else f" of {one.screened_from}"
            words.append(f"{one.n}{screened} by {one.kind_name()}")
        else:
            words.append(one if isinstance(one, str) else "given latents")
    return ", ".join(words) + " a target"


def _time(seconds: float) -> str:
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if seconds < limit:
            return f"{float(f'{seconds * factor:.2g}'):g} {unit}"
    return f"{float(f'{seconds / 3600:.2g}'):g} h"

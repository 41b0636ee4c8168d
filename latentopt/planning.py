"""From a config to a run: defaults filled in, the problem built and checked, the stages made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor

from latentopt import memory
from latentopt.archive import SIZE
from latentopt.arrayfield import Array
from latentopt.auto import choose, seconds_a_row
from latentopt.budget import Budget
from latentopt.config import OptimizeTask, RunConfig, make_plugin_config
from latentopt.decoder import Decoder
from latentopt.driver import Entry
from latentopt.errors import ConfigError
from latentopt.interfaces import ObjectiveConfig, SamplerConfig, SearchConfig
from latentopt.problem import Problem
from latentopt.regions import default_region
from latentopt.registry import installed
from latentopt.stagerun import Stage, Stop
from latentopt.terms import build_terms

# What is used where a run does not say. Here and in auto.py alone does the core know plugins by name.
DEFAULTS: dict[str, Any] = {
    "objectives": ["mse"],
    "sampler": {"kind": "prior"},
    "interpolator": {"kind": "slerp"},
    "starts": ["mean", {"kind": "prior", "n": 7, "screened_from": 512}],
    "starts with codes": ["encoder", "mean", {"kind": "prior", "n": 6, "screened_from": 512}],
    # a front needs rows enough to spread over it, and starts that are not the best of one sum
    "starts of a front": ["mean", {"kind": "prior", "n": 31}],
}
# Of a budget in rows a sixteenth is spent on screening: 0.0164, 0.0166 and 0.0180 at a sixteenth, an eighth and a quarter of
# 300 rows, 0.0089, 0.0095 and 0.0110 of 600 (`cmaes` on 8 digits, median loss); gradients do not care. And a start for each
# so many rows: one decode and gradient at the beginning, the final decode, and a few steps.
_SCREENING, _ROWS_A_START = 16, 16


class Plan(NamedTuple):
    """A run with every default filled in, its problem and its stages; what its objectives say, and how it was chosen."""

    config: RunConfig
    problem: Problem
    stages: Sequence[Entry]
    notes: list[str]


def plan(config: RunConfig, decoder: Decoder) -> Plan:
    """The run as it will be, checked at the door. Raises `LatentoptError`s that say what to change."""
    task = config.task
    if not isinstance(task, OptimizeTask):
        raise ConfigError(f"a plan is for optimize, got {task.kind}")
    targets = None if task.target is None else decoder.as_designs(task.target)
    task, problem = _problem(task, decoder, targets)
    notes = _notes(problem)
    starts = task.starts
    if starts is None:
        codes = targets is not None and decoder.encoder is not None
        chosen = DEFAULTS["starts of a front" if task.pareto else "starts with codes" if codes else "starts"]
        starts = _starts(_affordable(chosen, _rows_of(config.budget, problem), problem.targets))
        if problem.region.origin is not None:  # near a design: from itself
            starts = [Array(problem.region.origin) if one == "mean" else one for one in starts]
    searches = task.search
    if searches is None:
        rows = problem.targets * sum(one.n if isinstance(one, SamplerConfig) else 1 for one in starts)
        chosen, words = choose(problem, config.budget, rows)
        searches = [_searches(entry) for entry in chosen]
        notes.append(words)
    kinds = installed().kinds("searches")
    blind = [kind for kind, cls in kinds.items() if not getattr(cls, "needs_gradient", True)]
    others = [kind for kind, cls in kinds.items() if not getattr(cls, "needs_residuals", False)]
    for search in (one for entry in searches for one in (entry if isinstance(entry, list) else [entry])):
        if search.needs_gradient:
            problem.require_gradient(search.kind_name(), blind)
        if search.needs_residuals:
            problem.require_residuals(search.kind_name(), others)
        search.check(problem)
    filled = task.model_copy(update={"search": searches, "starts": starts})
    stages = [
        [_stage(one, decoder) for one in entry] if isinstance(entry, list) else _stage(entry, decoder)
        for entry in searches
    ]
    return Plan(config.model_copy(update={"task": filled}), problem, stages, notes)


def _problem(task: OptimizeTask, decoder: Decoder, targets: Tensor | None) -> tuple[OptimizeTask, Problem]:
    objectives = task.objectives
    if objectives is None and targets is None and task.constraints:
        objectives = []  # any design that keeps the constraints will do
    if objectives is None:
        if targets is None:
            raise ConfigError("nothing to search for: give a target, objectives, or constraints")
        objectives = [_objective(one) for one in DEFAULTS["objectives"]]
    for limit in task.constraints:
        if not limit.weight:
            raise ConfigError(
                f"constraint {limit.name or limit.kind_name()!r} has the weight 0: drop it, or give a weight above 0"
            )
    aimed = [one.with_target(task.target) if targets is not None else one for one in objectives]
    limits = [one.with_target(task.target) if targets is not None else one for one in task.constraints]
    judges = [one.with_target(task.target) if targets is not None else one for one in task.measures]
    if targets is not None and not any(_uses_target(one) for one in (*aimed, *limits)):
        names = ", ".join(repr(one.name or one.kind_name()) for one in (*aimed, *limits))
        raise ConfigError(f"no objective could use the target ({names} take none): drop the target, or add 'mse'")
    if task.pareto and len(aimed) < 2:
        raise ConfigError(
            f"a front needs two objectives or more to trade off, got {len(aimed)}: add one, or drop pareto"
        )
    region = task.region or default_region(decoder.space.prior)
    terms = build_terms(aimed, decoder)
    constraints = build_terms(limits, decoder, taken=[term.name for term in terms])
    problem = Problem(
        decoder,
        terms,
        constraints=constraints,
        measures=build_terms(judges, decoder, taken=[term.name for term in (*terms, *constraints)]),
        region=region.resolve(decoder.space, None if decoder.encoder is None else decoder.encode),
        targets=1 if targets is None else len(targets),
        pareto=task.pareto,
    )
    problem.check()
    return task.model_copy(update={"objectives": objectives, "region": region}), problem


def _notes(problem: Problem) -> list[str]:
    """What the objectives, constraints and measures have to say, each sentence once."""
    terms = (*problem.terms, *problem.constraints, *problem.measures)
    return list(dict.fromkeys(note for term in terms for note in term.notes))


def _rows_of(budget: Budget, problem: Problem) -> int | None:
    """The rows that a budget covers, by number and by time at what a row takes; None where it has no limit."""
    limits = [] if budget.rows is None else [budget.rows]
    if budget.seconds is not None:
        limits.append(int(budget.seconds / max(seconds_a_row(problem), 1e-9)))
    return min(limits, default=None)


def _affordable(starts: Sequence[Any], rows: int | None, targets: int) -> list[Any]:
    """Default starts for so many rows: fewer of them, and screened from fewer draws, where rows are few."""
    if rows is None:
        return list(starts)
    found: list[Any] = []
    for one in starts:
        if isinstance(one, dict):
            n = max(1, min(one["n"], rows // (_ROWS_A_START * targets)))
            one = {**one, "n": n}
            if "screened_from" in one:
                one["screened_from"] = max(n, min(one["screened_from"], rows // _SCREENING))
        found.append(one)
    return found if rows >= _ROWS_A_START * targets else found[:1]


def _stage(search: SearchConfig, decoder: Decoder) -> Stage:
    stop = Stop(search.stop_at, search.stop_gain, search.stop_window)
    return Stage(search.kind_name(), search.build(decoder), search.keep, stop)


def rows_kept(planned: Plan, n_starts: int) -> int:
    """At most so many rows does the last stage hand over."""
    problem, last = planned.problem, planned.stages[-1]
    keeps = [stage.keep for stage in ([last] if isinstance(last, Stage) else last)]
    if problem.pareto:
        return problem.targets * max(SIZE if keep is None else min(keep, SIZE) for keep in keeps)
    return min(n_starts, problem.targets * max(n_starts if keep is None else keep for keep in keeps))


def memory_needed(planned: Plan, n_starts: int) -> int:
    """Bytes that the rows of a search and the designs that it ends with take, all held at once."""
    decoder = planned.problem.decoder
    design = math.prod(decoder.design_shape) * decoder.probe.dtype.itemsize
    return n_starts * decoder.dim * memory.SEARCHED + rows_kept(planned, n_starts) * design


def _searches(entry: dict[str, Any] | list[dict[str, Any]]) -> SearchConfig | list[SearchConfig]:
    if isinstance(entry, list):
        return [cast(SearchConfig, make_plugin_config("searches", one)) for one in entry]
    return cast(SearchConfig, make_plugin_config("searches", entry))


def _objective(value: Any) -> ObjectiveConfig:
    return cast(ObjectiveConfig, make_plugin_config("objectives", value))


def _uses_target(objective: ObjectiveConfig) -> bool:
    """A callable reads `target_index`, so it may use a target; a config has a field for it or not."""
    return "target" in type(objective).model_fields or objective.kind_name() == "callable"


def _starts(values: Sequence[Any]) -> list[Any]:
    return [v if isinstance(v, str) else make_plugin_config("samplers", v) for v in values]

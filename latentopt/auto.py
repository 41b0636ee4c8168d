"""`auto`: the plan of searches for a problem. No search of its own: what it chooses stands in the resolved config."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from latentopt import rng
from latentopt.budget import Budget
from latentopt.problem import Problem

_Search = dict[str, Any]
Searches = list[_Search | list[_Search]]
_TIMED, _TIMED_CHEAP = 2, 64  # rows whose price is measured, first and where they are cheap
_KEEP = 4  # basins a target that are polished
_MODEL_DIM = 32  # latent values up to which Optuna's samplers take all of them as coordinates
_LEAST_STEPS, _MOST_FACTOR = 10, 4.0
# A Gaussian process takes about this long to ask for a point (docs/performance.md, "Without gradients"): where a row takes
# longer, 80 of its points are worth more than 200 of CMA-ES.
_EXPENSIVE_SECONDS = 0.1
_DEAR_EVALUATIONS = 80
# CMA-ES finds more of a rugged objective with populations twice the usual, and then 5000 evaluations gain more than 2000 do
# ("What auto chooses"); of 64 latent values that is too few for it (1.11 against 1.00, three targets of conv). Above this
# price of a row 5000 would take longer than half a minute.
_CHEAP_SECONDS = 0.005
_CHEAP_EVALUATIONS, _EVALUATIONS, _WIDER = 5000, 2000, 2
# Of so few rows a Gaussian process makes most (80 on digits: 0.0095 against 0.037 by CMA-ES), at a tenth of a second each, so
# not for more than so many in all; below 1000 populations half the usual do better (150: 0.024 against 0.034, 600: 0.0072
# against 0.0091).
_FEW, _MODELLED, _SHORT = 100, 400, 1000


def choose(problem: Problem, budget: Budget, n_starts: int) -> tuple[Searches, str]:
    """The searches of `auto` for this problem, and in words what was chosen and why.

    `n_starts` are the rows that begin, all targets. What is chosen follows from the
    problem, but for the price of a row where there are no gradients, which is measured. The figures behind it stand in
    docs/performance.md, under "What auto chooses" and "Without gradients".
    """
    if problem.without_gradient:
        return _without_gradients(problem, budget)
    rows = budget.rows
    searches, words = _with_gradients(problem)
    each = n_starts / problem.targets
    natural = sum(_rows(entry, n_starts) for entry in searches) + 2 * n_starts
    if rows is not None and abs(rows / natural - 1) > 0.1:
        factor = min(rows / natural, _MOST_FACTOR)
        searches = [_scaled(entry, factor) for entry in searches]
        words += f"; steps are {factor:.2g} times the usual, for {rows} rows and {each:.3g} starts a target"
    return searches, f"auto chose {_named(searches)}: {words}"


def _with_gradients(problem: Problem) -> tuple[Searches, str]:
    if problem.pareto:
        return [{"kind": "lbfgs", "steps": 100}], "gradients reach every objective, and each row has its own weights"
    if problem.constraints:
        why = "there are gradients, and multipliers of constraints need time to settle in one search"
        return [{"kind": "lbfgs", "steps": 200}], why
    if problem.has_residuals and not problem.across_rows:
        why = "the loss is a sum of squares, on which it took the fewest decodes to the best known"
        return [{"kind": "lbfgs", "steps": 200}], why
    race: list[_Search] = [
        {"kind": "lbfgs", "steps": 100, "keep": _KEEP},
        {"kind": "adam", "lr": 0.3, "steps": 100, "keep": _KEEP},
    ]
    why = "there are gradients but no residuals, and whether curvature or momentum does better can only be tried"
    return [race, {"kind": "lbfgs", "steps": 60}], why


def _without_gradients(problem: Problem, budget: Budget) -> tuple[Searches, str]:
    seconds, names = seconds_a_row(problem), ", ".join(map(repr, problem.without_gradient))
    each = _rows_a_target(problem, budget, seconds)
    why = f"no gradient reaches the latents from {names}"
    if problem.pareto:
        search: _Search = {"kind": "optuna", "sampler": "nsgaii", "evaluations": min(_EVALUATIONS, each), "batch": 50}
        return [search], f"auto chose optuna's NSGA-II: {why}, and a front is asked for"
    if problem.space.dim <= _MODEL_DIM:
        if seconds > _EXPENSIVE_SECONDS:
            search = {"kind": "optuna", "sampler": "gp", "evaluations": min(_DEAR_EVALUATIONS, each)}
            return [search], f"auto chose optuna's GP: {why}, and a row takes {seconds:.2g} s, so few can be afforded"
        if each <= _FEW and each * problem.targets <= _MODELLED:
            search = {"kind": "optuna", "sampler": "gp", "evaluations": each}
            return [search], f"auto chose optuna's GP: {why}, and of {each} rows a target a model makes most"
    size = min(_CHEAP_EVALUATIONS if seconds < _CHEAP_SECONDS else _EVALUATIONS, each)
    usual, search = 4 + math.floor(3 * math.log(problem.space.dim)), {"kind": "cmaes", "evaluations": size}
    if size == _CHEAP_EVALUATIONS and problem.space.dim <= _MODEL_DIM:
        search["population"] = _WIDER * usual
    elif size < _SHORT:
        search |= {"population": max(4, usual // 2), "sigma": 0.3}
    return [search], f"auto chose cmaes ({size} evaluations): {why}, and a row takes {seconds:.2g} s"


def _rows_a_target(problem: Problem, budget: Budget, seconds: float) -> int:
    """How many rows a target the budget allows, by its rows and its seconds."""
    limits = [_CHEAP_EVALUATIONS * problem.targets]
    if budget.rows is not None:
        limits.append(budget.rows)
    if budget.seconds is not None and seconds > 0:
        limits.append(int(budget.seconds / seconds))
    return max(1, min(limits) // problem.targets)


def seconds_a_row(problem: Problem) -> float:
    """What it takes to decode and judge one row, from a few prior draws; where rows are cheap, as one of a batch."""
    found = _timed(problem, _TIMED)
    return found if found > _CHEAP_SECONDS else min(found, _timed(problem, _TIMED_CHEAP))


def _timed(problem: Problem, n: int) -> float:
    z_MD = problem.project(problem.space.draw(n, rng.generator(0)).to(problem.decoder.device))
    z_MD = z_MD.to(problem.decoder.latent_dtype)
    target_M = torch.arange(n, device=z_MD.device) % problem.targets
    began = time.perf_counter()
    with problem.decoder.frozen():
        problem.value(z_MD, target_M)
    return (time.perf_counter() - began) / n


def _rows(entry: _Search | list[_Search], n_starts: int) -> float:
    """About how many rows a planned stage takes."""
    if isinstance(entry, list):
        return sum(_rows(one, n_starts) for one in entry)
    return 2.0 * n_starts * float(entry["steps"])


def _scaled(entry: _Search | list[_Search], factor: float) -> Any:
    if isinstance(entry, list):
        return [_scaled(one, factor) for one in entry]
    return {**entry, "steps": max(_LEAST_STEPS, round(entry["steps"] * factor))}


def _named(searches: Searches) -> str:
    def words(entry: _Search | list[_Search]) -> str:
        if isinstance(entry, list):
            return "a race of " + " and ".join(map(words, entry))
        return f"{entry['kind']} ({entry['steps']} steps)"

    return ", then ".join(map(words, searches))

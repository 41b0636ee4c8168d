"""Comparing searches: one problem, the same starts, one budget, several seeds; beside them always random draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import ValidationError

from latentopt import api, sizing
from latentopt.budget import Budget, Report
from latentopt.comparison import Comparison, Curve, Floats, SeedRun, Standing
from latentopt.config import OptimizeTask, RunConfig, make_config, read_config
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, LatentoptError
from latentopt.interfaces import SearchConfig
from latentopt.models import config_error
from latentopt.registry import installed
from latentopt.result import Result
from latentopt.store import new_folder

Chain = list[sizing.Entry] | None  # None is `auto`: the plan of a run that does not say how to search

BASELINE = "random"
# Adam sized for 2000 rows ends within 0.04 % of where 10 000 take it: median of 20 held-out digits, 2 seeds, default starts.
ROWS_A_TARGET = 2000
_SLOTS = 64  # of as many draws the baseline keeps one, as what it keeps is decoded once more at the end
_GRID = 160  # places on the axis of a curve, beside the ends of the runs
_SPENT = 0.8  # of the rows: a run that its budget ended with fewer was ended by the clock


def compare(
    config: RunConfig | str | Path | dict[str, Any],
    searches: Any = None,
    *,
    seeds: int | Sequence[int] = 5,
    rows: int | None = None,
    seconds: float | None = None,
    changes: Sequence[str] = (),
    out: str | Path | None = None,
    on_report: Callable[[Report], object] | None = None,
) -> Comparison:
    """Run several searches on one problem, from the same starts, with the same budget, once a seed; best first.

    Args:
        config: what to search for, as `run` takes it; its own search and seed make way.
        searches: what a run takes as `search`, each: a name, "auto", a dict, a config, or a list, which is a chain. By
            default the config's own. Random draws are added where they are not among them.
        seeds: how many (0, 1, ...), or which.
        rows: the budget of each run, all targets; by default the config's, else 2000 a target.
        seconds: a further limit of each run; by default the config's.
        changes: made to a config that is read from a file, such as "task.region=free".
        out: a new folder for the picture, the figures and the curves.
        on_report: called with every `Report`, its name being the search's with the seed.

    Searches that leave their `steps` or `evaluations` to the default are sized to spend the budget. A search that fails, or
    needs gradients where there are none, is left out and named with its reason; one that takes part has run with every
    seed. After Ctrl-C the seeds are kept that all searches have finished.

    Raises `ConfigError` where the config, a search or the budget cannot be, and whatever stops the random draws.
    """
    if isinstance(config, str | Path):
        config = read_config(config, changes)
    elif isinstance(config, dict):
        config = make_config(config)
    return compare_with(
        config,
        api.load_decoder(config.decoder),
        searches,
        seeds=seeds,
        rows=rows,
        seconds=seconds,
        out=out,
        on_report=on_report,
    )


def compare_with(
    config: RunConfig,
    decoder: Decoder,
    searches: Any = None,
    *,
    seeds: int | Sequence[int] = 5,
    rows: int | None = None,
    seconds: float | None = None,
    out: str | Path | None = None,
    on_report: Callable[[Report], object] | None = None,
) -> Comparison:
    """`compare` on a decoder that is built already."""
    task = config.task
    if not isinstance(task, OptimizeTask):
        raise ConfigError(f"only searches can be compared: the task must be optimize, got {task.kind}")
    if task.pareto:
        raise ConfigError(
            "searches are compared by one loss, and a front has none: drop pareto, or weight the objectives"
        )
    chains, baseline = _chains([task.search] if searches is None else searches, config)
    chosen = _seeds(seeds)
    targets = 1 if task.target is None else len(decoder.as_designs(task.target))
    budget = _budget(config.budget, rows, seconds, targets)
    contest = _Contest(config.model_copy(update={"budget": budget}), task, decoder, targets, on_report)
    made = out is not None and not Path(out).exists()
    folder = None if out is None else new_folder(out)  # before the work, not after it
    try:
        found = contest.hold(chains, baseline, chosen)
        if folder is not None:
            found.save(folder)
    finally:
        if folder is not None and made and not any(folder.iterdir()):
            folder.rmdir()
    return found


@dataclass
class _Contest:
    """The runs: seed by seed and within a seed search by search, so that a machine that slows down slows all of them."""

    config: RunConfig
    task: OptimizeTask
    decoder: Decoder
    targets: int
    on_report: Callable[[Report], object] | None
    sized: dict[str, Chain] = field(default_factory=dict)
    runs: dict[str, list[SeedRun]] = field(default_factory=dict)
    searched: dict[str, list[Any]] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def hold(self, chains: dict[str, Chain], baseline: str, seeds: Sequence[int]) -> Comparison:
        order = sorted(chains, key=lambda name: name != baseline)  # what is wrong with the problem stops the baseline
        done = 0
        try:
            for seed in seeds:
                for name in order:
                    if name not in self.left_out:
                        self._enter(name, chains[name], seed, must=name == baseline)
                done += 1
        except KeyboardInterrupt:
            if not done:
                raise
        runs = {name: tuple(found[:done]) for name, found in self.runs.items() if name not in self.left_out}
        return self._comparison(runs, baseline, seeds[:done], interrupted=done < len(seeds))

    def _enter(self, name: str, chain: Chain, seed: int, must: bool) -> None:
        try:
            if name not in self.sized:
                rows = self.config.budget.rows or 0
                pilot = partial(self._run, seed=seed, title=None)
                chain = _few_slots(chain, rows // self.targets) if must else chain
                self.sized[name] = None if chain is None else sizing.fitted(chain, rows, self.targets, pilot)
            result = self._run(self.sized[name], seed, f"{name}, seed {seed}")
        except LatentoptError as error:
            if must:
                raise
            self.left_out[name] = f"with seed {seed}: {error}" if name in self.runs else str(error)
        else:
            self.searched.setdefault(name, result.config["task"]["search"])
            self.said.setdefault(name, result.notes)
            self.runs.setdefault(name, []).append(_seed_run(seed, result, bool(self.task.constraints)))

    def _run(self, chain: Chain, seed: int, title: str | None) -> Result:
        task = self.task.model_copy(update={"search": chain, "measures": []})
        config = self.config.model_copy(update={"task": task, "seed": seed})
        told = self.on_report
        look = None if told is None or title is None else lambda report: told(replace(report, name=title))
        result = cast(Result, api.run_with(config, self.decoder, on_report=look))
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        return result

    def _comparison(
        self, runs: dict[str, tuple[SeedRun, ...]], baseline: str, seeds: Sequence[int], interrupted: bool
    ) -> Comparison:
        every = [run for found in runs.values() for run in found]
        rows_G, seconds_G = grid([run.rows_R for run in every]), grid([run.seconds_R for run in every])
        standings = [
            Standing(
                name,
                self.searched[name],
                found,
                by_rows=curve([(run.rows_R, run.loss_R) for run in found], rows_G),
                by_seconds=curve([(run.seconds_R, run.loss_R) for run in found], seconds_G),
            )
            for name, found in runs.items()
        ]
        standings.sort(key=lambda one: (-one.feasible, one.loss))
        return Comparison(
            standings=tuple(standings),
            baseline=baseline,
            budget=self.config.budget,
            seeds=tuple(seeds),
            targets=self.targets,
            constrained=bool(self.task.constraints),
            left_out=self.left_out,
            notes=[*self._notes(runs, baseline), *self._late(runs)],
            interrupted=interrupted,
        )

    def _notes(self, runs: Iterable[str], baseline: str) -> list[str]:
        """What the first run of each search had to say, but for what every budget brings."""
        general = self.said[baseline]
        found = [(baseline, note) for note in general]
        found += [(name, note) for name in runs for note in self.said[name] if note not in general]
        worth = [
            (name, note)
            for name, note in found
            if not note.startswith(("the budget ended in stage", "its share of the budget ended in"))
        ]
        return [note if name == baseline else f"{name}: {note}" for name, note in worth]

    def _late(self, runs: dict[str, tuple[SeedRun, ...]]) -> list[str]:
        """Whom the clock stopped before their rows were spent."""
        limit, rows = self.config.budget.seconds, self.config.budget.rows or 0

        def is_late(run: SeedRun) -> bool:
            return run.stopped == "budget" and run.rows < _SPENT * rows

        late = [name for name, found in runs.items() if limit and any(map(is_late, found))]
        return [f"the limit of {limit:g} s ended runs before their rows were spent: {', '.join(late)}"] if late else []


# ---------------------------------------------------------------------- at the door


def _chains(searches: Any, config: RunConfig) -> tuple[dict[str, Chain], str]:
    """The chains by name, random draws among them, and the name of these."""
    listed = searches if isinstance(searches, list | tuple) else [searches]
    if not listed:
        raise ConfigError(f"nothing to compare: name searches, such as {', '.join(installed().kinds('searches'))}")
    found = [_chain(one, config) for one in listed]
    chains = {_label(chain): chain for chain in found}
    for name, chain in chains.items():
        if chain is not None and [_kind(entry) for entry in chain] == [BASELINE]:
            return chains, name
    return {**chains, BASELINE: _chain(BASELINE, config)}, BASELINE


def _chain(search: Any, config: RunConfig) -> Chain:
    """What a run file may say under `search`, as it is read there. Raises `ConfigError`."""
    task = make_config({"decoder": config.decoder, "task": {"kind": "optimize", "search": search}}).task
    return cast(OptimizeTask, task).search


def _few_slots(chain: Chain, rows: int) -> Chain:
    """The baseline with a batch that suits `rows` a target, where the user gave it none: small budgets hold no large one."""
    search = chain[0] if chain else None
    if not isinstance(search, SearchConfig) or sizing.size_field(search) is None:
        return chain
    free = "batch" in type(search).model_fields and "batch" not in search.model_fields_set
    return [search.model_copy(update={"batch": max(1, min(_SLOTS, rows // _SLOTS))})] if free else chain


def _kind(entry: sizing.Entry) -> str:
    return "" if isinstance(entry, list) else entry.kind_name()


def _label(chain: Chain) -> str:
    """What tables call a chain: kinds with the options that were given, stages in order, entrants of a race side by side."""
    if chain is None:
        return "auto"
    return " > ".join(" | ".join(map(_words, one)) if isinstance(one, list) else _words(one) for one in chain)


def _words(search: SearchConfig) -> str:
    given = search.model_dump(mode="json", include=search.model_fields_set - {"kind"})
    return " ".join([search.kind_name() or type(search).__name__, *(f"{k}={v}" for k, v in given.items())])


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise ConfigError(f"seeds must be a number of at least 1, or different seeds of 0 and more, got {seeds!r}")
    return chosen


def _budget(given: Budget, rows: int | None, seconds: float | None, targets: int) -> Budget:
    chosen = {
        "rows": rows if rows is not None else given.rows or ROWS_A_TARGET * targets,
        "seconds": seconds if seconds is not None else given.seconds,
    }
    try:
        return Budget.model_validate(chosen)
    except ValidationError as error:
        raise config_error(error, chosen, "budget") from None


# ---------------------------------------------------------------------- from runs to curves


def _seed_run(seed: int, result: Result, constrained: bool) -> SeedRun:
    best, history = result.best, result.history
    loss_R = np.median(np.array([entry["best_T"] for entry in history], dtype=np.float64), axis=1)
    if not constrained:  # a design that keeps to the constraints is better than one that does not, whatever its loss
        loss_R = np.minimum.accumulate(loss_R)
    return SeedRun(
        seed=seed,
        loss=float(np.median(np.atleast_1d(np.asarray(best.loss, dtype=np.float64)))),
        inside=float(best.realism.inside.float().mean()),
        feasible=float(np.mean(np.atleast_1d(np.asarray(best.feasible, dtype=np.float64)))),
        rows=result.cost.rows,
        seconds=result.cost.seconds,
        stopped=result.stopped,
        rows_R=np.array([entry["forward_rows"] + entry["backward_rows"] for entry in history], dtype=np.float64),
        seconds_R=np.array([entry["seconds"] for entry in history], dtype=np.float64),
        loss_R=loss_R,
    )


def grid(axes: Sequence[Floats]) -> Floats:
    """Places `(G,)` for the curves of all runs, evenly spaced in their logarithm, with every run's end among them."""
    ends = [axis[-1] for axis in axes]
    return np.unique([*np.geomspace(min(axis[0] for axis in axes), max(ends), _GRID), *ends])


def step_values(at_R: Floats, loss_R: Floats, at_G: Floats) -> Floats:
    """The loss at the last report at or before each place `(G,)`; NaN before the first, the last loss after the end."""
    index_G = np.searchsorted(at_R, at_G, side="right") - 1
    return np.where(index_G < 0, np.nan, loss_R[index_G.clip(0)])


def curve(runs: Sequence[tuple[Floats, Floats]], at_G: Floats) -> Curve:
    """Median and range over seeds of runs `(places (R,), losses (R,))`; see `Curve`."""
    values_SG = np.stack([step_values(at_R, loss_R, at_G) for at_R, loss_R in runs])
    values_SG[:, at_G > max(at_R[-1] for at_R, _ in runs)] = np.nan
    # a place before some seed's first report has a NaN among its values, and all three figures are NaN there
    return Curve(at_G, np.median(values_SG, axis=0), values_SG.min(axis=0), values_SG.max(axis=0))

"""The one driver of every search: stages in order, races, one budget, what is handed over. No host sync but at reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latentopt import memory
from latentopt.archive import SIZE, Archive
from latentopt.budget import Budget, Clock, Report
from latentopt.checkpoints import Checkpoints
from latentopt.errors import ConfigError, DivergedError
from latentopt.interrupts import Interrupts
from latentopt.problem import Problem
from latentopt.ranking import Best, distinct, ranked
from latentopt.stagerun import Stage, StageRun, final_rows
from latentopt.trail import Trail

Entry = Stage | Sequence[Stage]  # one search, or several that race


def _whose(share: Budget | None) -> str:
    return "the budget" if share is None else "its share of the budget"


@dataclass
class Outcome:
    """What the driver hands over: the best of each surviving row of the last stage, and how the run went.

    `kept` is what the stages' states hold as a whole, such as a subspace, by `stage.field`. With several objectives the
    rows are the front, and `reference_TK` is the worst of each objective over the starts `(T, K)`. `paths` are the best
    latents of the first targets at each report `(P, T', D)`.
    """

    z_ND: Tensor
    target_N: Tensor
    best_step_N: Tensor
    history: list[Report]
    forward_rows: int
    backward_rows: int
    seconds: float
    stopped: str
    diverged: int
    notes: list[str] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)
    reference_TK: Tensor | None = None
    paths: Tensor | None = None


def drive(
    problem: Problem,
    z_ND: Tensor,
    target_N: Tensor,
    stages: Sequence[Entry],
    *,
    clock: Clock,
    seed: int,
    on_report: Callable[[Report], object] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Outcome:
    """Runs the stages in order on starts `(N, D)` for their targets `(N,)`, each from the best rows of the one before.

    Where the budget is less than the stages would use, each has a share in proportion to that. A stage that is a list is a
    race: its searches begin from the same rows, each with an equal part of the stage's share, and the best distinct rows of
    all of them go on. Stops at the budget, or at an interrupt (Ctrl-C), with
    the best so far. The final evaluation of the returned rows is kept within the budget. Raises `ConfigError` where the
    budget does not cover the starts, `DivergedError` where no row has a finite loss.

    With `checkpoints` the run goes on from the newest of them, and writes more; the starts must be those of the run
    that wrote them. It then ends with the same bits as one that was never stopped.
    """
    return _Drive(problem, stages, clock, seed, on_report, checkpoints).run(z_ND, target_N)


def check_beginning(problem: Problem, stages: Sequence[Entry], clock: Clock, starts: int) -> None:
    """Raises `ConfigError` where the budget does not cover the starts and the final evaluation, as `drive` would."""
    drive = _Drive(problem, stages, clock, 0, None, None)
    entrants = drive.stages[0]
    drive._covered(entrants[-1], entrants, starts, None, alone=True)


@dataclass
class _Here:
    """A stage at work: rows and seconds when it began; of its searches that have ended, the best rows, how, and what to say
    if all rows are lost."""

    index: int
    began: tuple[int, float]
    found: list[Best] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    why: str = ""


class _Drive:
    """One run: what its stages share."""

    def __init__(
        self,
        problem: Problem,
        stages: Sequence[Entry],
        clock: Clock,
        seed: int,
        on_report: Callable[[Report], object] | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.problem, self.clock, self.seed, self.on_report = problem, clock, seed, on_report
        self.checkpoints, self.interrupts = checkpoints, Interrupts()
        self.stages = [[entry] if isinstance(entry, Stage) else list(entry) for entry in stages]
        self.history: list[Report] = []
        self.notes: list[str] = []
        self.kept: dict[str, Tensor] = {}
        self.stopped, self.diverged = "finished", 0
        self.archive = Archive(problem.targets) if problem.pareto else None
        self.reference_TK: Tensor | None = None

    def run(self, z_ND: Tensor, target_N: Tensor) -> Outcome:
        best: Best | None = None
        unknown_N = torch.full((len(z_ND),), torch.inf, dtype=z_ND.dtype, device=z_ND.device)
        starts = Best(z_ND, unknown_N, unknown_N, torch.zeros_like(target_N), target_N)
        self.trail = Trail(self.problem.targets, z_ND)
        memory.keep_freed_memory()
        saved = None if self.checkpoints is None else self.checkpoints.newest(self.problem.decoder.device)
        if saved is not None:
            best = self._resumed(saved)
        with self.problem.decoder.frozen(), self.interrupts:
            for index, entrants in enumerate(self.stages):
                if saved is not None and index < saved["stage"]:
                    continue
                here = saved if saved is not None and index == saved["stage"] else None
                found = self._stage(index, entrants, best or starts, first=best is None, saved=here)
                best = found or best
                if self.stopped != "finished":
                    break
        if best is None:
            raise ConfigError("a run needs at least one search")
        return Outcome(
            z_ND=best.z_ND,
            target_N=best.target_N,
            best_step_N=best.step_N,
            history=self.history,
            forward_rows=self.clock.forward,
            backward_rows=self.clock.backward,
            seconds=self.clock.seconds,
            stopped=self.stopped,
            diverged=self.diverged,
            notes=self.notes,
            kept=self.kept,
            reference_TK=self.reference_TK,
            paths=self.trail.paths(len(self.history)),
        )

    def _stage(
        self, index: int, entrants: list[Stage], starts: Best, *, first: bool, saved: dict[str, Any] | None = None
    ) -> Best | None:
        """One stage, whole: the best rows that go on from it; None where the budget ended before it.

        `saved` is a checkpoint that was written within it.
        """
        z_ND = starts.z_ND
        reserve = final_rows(self.problem, self._most_kept(entrants, len(z_ND)))
        began = (self.clock.rows, self.clock.seconds)
        here = _Here(index, began) if saved is None else _Here(index, tuple(saved["began"]), *saved["here"])
        part = self._part(index, len(z_ND), here.began[0])
        for entrant, stage in enumerate(entrants):
            if saved is not None and entrant < saved["entrant"]:
                continue
            share = None
            if len(entrants) > 1 or part < 1:
                share = self.clock.share(part * (entrant + 1) / len(entrants), reserve, here.began)
            resumed = saved is not None and entrant == saved["entrant"]
            alone = first and not here.found and entrant + 1 == len(entrants)  # without it there is nothing to return
            if not resumed and not self._covered(stage, entrants, len(z_ND), share, alone=alone):
                here.ended.append("budget")
                self.notes.append(f"{_whose(share)} ended before stage {index + 1} ({stage.name})")
                continue
            place = (index, entrant)
            run = StageRun(self.problem, stage, place, starts, self.seed, self.clock, self.archive, self.trail)
            how = self._entrant(run, entrants, here, starts, reserve, share, saved if resumed else None)
            if run.started:
                here.found.append(run.handed_over())
                here.why = run.why_all_diverged()
            elif first and not here.found:
                raise KeyboardInterrupt
            self._note_end(run, how, index, z_ND, share)
            if how == "interrupted":
                self.stopped = how
                break
            here.ended.append(how)
        over = len(here.ended) == len(entrants) and all(one == "budget" for one in here.ended)
        if over and self.stopped == "finished" and part == 1:
            self.stopped = "budget"
            if here.found and index + 1 < len(self.stages):
                self.notes[-1] += "; the stages after it did not run"
        return self._handed_over(here, entrants, len(z_ND)) if here.found else None

    def _entrant(
        self,
        run: StageRun,
        entrants: list[Stage],
        here: _Here,
        starts: Best,
        reserve: int,
        share: Budget | None,
        saved: dict[str, Any] | None,
    ) -> str:
        """One search of a stage, from its start or from a checkpoint; how it ended."""

        def between(over: bool) -> bool:
            asked = self.interrupts.asked
            if self.checkpoints is not None and (asked or over or self.checkpoints.due()):
                self.checkpoints.save(self._state(run, here, None if here.index == 0 else starts))
            return asked

        try:
            run.start()
            if saved is None:
                self._note_start(run, len(entrants))
            else:
                self._restore(run, saved)
            return run.loop(self.history, self.on_report, reserve, share, between, resumed=saved is not None)
        except KeyboardInterrupt:  # the second one, or in a thread or program that keeps signals to itself
            if run.started:
                run.note_best()
            return "interrupted"
        finally:
            run.finish()

    # ------------------------------------------------------------------ checkpoints

    def _state(self, run: StageRun, here: _Here, before: Best | None) -> dict[str, Any]:
        """Everything that the rest of the run depends on. `before` is what the stage began with, None for the starts."""
        archive = self.archive
        return {
            "stage": run.index,
            "entrant": run.entrant,
            "began": here.began,
            "here": [here.found, here.ended, here.why],
            "before": before,
            "run": run.saved(),
            "clock": [self.clock.forward, self.clock.backward, self.clock.seconds],
            "history": [dict(vars(report)) for report in self.history],
            "paths": self.trail.paths(len(self.history)),
            "notes": self.notes,
            "kept": self.kept,
            "diverged": self.diverged,
            "archive": None if archive is None else [archive.best, archive.losses_NK],
            "reference": self.reference_TK,
        }

    def _resumed(self, saved: dict[str, Any]) -> Best | None:
        """What the stage of a checkpoint began with, None for the starts; the run's own records as they were."""
        self.history = [Report(**entry) for entry in saved["history"]]
        self.trail.restore(saved.get("paths"), len(self.history))
        self.notes, self.kept, self.diverged = saved["notes"], saved["kept"], saved["diverged"]
        self._set_archive(saved)
        before: Best | None = saved["before"]
        return before

    def _restore(self, run: StageRun, saved: dict[str, Any]) -> None:
        """Bring a stage that has just begun to where the checkpoint left it."""
        run.restore(saved["run"])
        self._set_archive(saved)  # which the start added to
        self.clock.set(*saved["clock"])

    def _set_archive(self, saved: dict[str, Any]) -> None:
        self.reference_TK = saved["reference"]
        if self.archive is not None and saved["archive"] is not None:
            self.archive.best, self.archive.losses_NK = saved["archive"]

    # ------------------------------------------------------------------ rows and what they cost

    def _covered(self, stage: Stage, entrants: list[Stage], starts: int, share: Budget | None, *, alone: bool) -> bool:
        """Whether the budget covers the beginning of a search and the final evaluation. Raises `ConfigError` where it does
        not and this search is `alone`: the only one that could begin."""
        least = final_rows(self.problem, self._most_kept(entrants, starts, steps=False)) + self._first(stage, starts)
        if not alone:
            return self.clock.allows(least, share)
        if not self.clock.covers(least):
            raise ConfigError(
                f"a budget of {self.clock.budget.rows} rows does not cover {starts} starts and their final "
                f"evaluation, which take {least}, after {self.clock.forward} rows of screening and encoding: "
                "raise budget.rows, or give fewer starts, screened from fewer draws"
            )
        return True

    def _part(self, index: int, starts: int, spent: int) -> float:
        """The part of what is left of the budget that a stage may take: as it needs, and no more than leaves as much to the
        later ones in proportion to what they need. `spent` rows went before it."""
        needs = []
        for entrants in self.stages[index:]:
            needs.append(sum(self._first(stage, starts) * (1 + stage.search.n_steps) for stage in entrants))
            keep = self._keep(entrants, starts)
            starts = starts if keep is None else min(starts, keep * self.problem.targets)
        left = None if self.clock.budget.rows is None else self.clock.budget.rows - spent
        if len(needs) == 1 or (self.clock.budget.seconds is None and (left is None or sum(needs) <= left)):
            return 1.0
        return needs[0] / sum(needs)

    def _first(self, stage: Stage, starts: int) -> int:
        """Rows that a search takes to begin."""
        starting = getattr(stage.search, "start_rows", None)
        first: int = starts if starting is None else starting(self.problem, starts)[0]
        steered = hasattr(stage.search, "changed") and (self.problem.constraints or self.problem.pareto)
        return first * (2 if steered else 1)

    def _most_kept(self, entrants: list[Stage], starts: int, *, steps: bool = True) -> int:
        """Rows that a stage hands over at most, after steps or without any: the final evaluation's, not to be spent."""
        starting = [getattr(stage.search, "start_rows", None) for stage in entrants]
        held = sum(starts if rows is None else rows(self.problem, starts)[1] for rows in starting)
        keep = self._keep(entrants, starts)
        kept = held if keep is None else min(held, keep * self.problem.targets)
        if self.archive is None:
            return kept
        front = min(SIZE, max(stage.keep or SIZE for stage in entrants)) * self.problem.targets
        if not steps:
            front = min(front, held + (0 if self.archive.best is None else len(self.archive.best.loss_N)))
        return max(kept, front)  # a target without a member keeps its best rows

    def _keep(self, entrants: list[Stage], starts: int) -> int | None:
        """How many rows a target go on; None for all. A race hands over no more than it began with, unless told to."""
        keeps = [stage.keep for stage in entrants if stage.keep is not None]
        if keeps:
            return max(keeps)
        return None if len(entrants) == 1 else max(1, starts // self.problem.targets)

    def _note_start(self, run: StageRun, entrants: int) -> None:
        self.notes.extend(run.state.notes)
        place = f"{run.index}" if entrants == 1 else f"{run.index}.{run.entrant}"
        self.kept |= {f"{place}.{name}": value.cpu() for name, value in run.state.kept().items()}
        if self.problem.pareto and self.reference_TK is None:
            evaluation, target_N = run.state.begun
            losses_NK = self.problem.objectives(evaluation)
            worst_TK = losses_NK.new_full((self.problem.targets, losses_NK.shape[1]), -float("inf"))
            where = target_N[:, None].expand_as(losses_NK)
            finite_NK = torch.where(torch.isfinite(losses_NK), losses_NK, worst_TK[0])
            self.reference_TK = worst_TK.scatter_reduce(0, where, finite_NK, "amax")

    def _note_end(self, run: StageRun, ended: str, index: int, z_ND: Tensor, share: Budget | None) -> None:
        lost = run.lost()
        self.diverged += lost
        stage = run.stage
        if lost:
            what = "evaluations" if run.state.rows_restart else f"of {len(z_ND)} rows"
            asked = (*self.problem.terms, *self.problem.constraints)
            means = [f"; a NaN of {one.name!r} means: {one.nan_means}" for one in asked if one.nan_means]
            self.notes.append(
                f"{lost} {what} turned NaN or infinite in stage {index + 1} ({stage.name}) and were dropped"
                + "".join(means)
            )
        self.notes.extend(f"{text}, in stage {index + 1} ({stage.name})" for text in run.closing_notes())
        if ended == "budget":
            where = f"at step {run.state.step} of {stage.search.n_steps}"
            self.notes.append(f"{_whose(share)} ended in stage {index + 1} ({stage.name}), {where}")

    def _handed_over(self, here: _Here, entrants: list[Stage], starts: int) -> Best:
        """The best rows of all entrants, ranked: as many a target as are to be kept, the front where there is one."""
        found = ranked(Best.join(here.found))
        if not len(found.loss_N):
            raise DivergedError(here.why)
        keep = self._keep(entrants, starts)
        best = found if keep is None else distinct(found, keep, self.problem.space.std(found.z_ND))
        if self.archive is None or self.archive.best is None or not len(self.archive.best.loss_N):
            return best
        front = self.archive.few(max(stage.keep or SIZE for stage in entrants))
        without = ~torch.isin(best.target_N, front.target_N)  # targets that have no feasible row yet
        return ranked(Best.join([front, best.take(torch.nonzero(without)[:, 0])]))

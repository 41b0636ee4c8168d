"""The one driver of every search: stages in order, races, one budget, what is handed over. No host sync but at reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from latentopt import memory
from latentopt.archive import SIZE, Archive
from latentopt.budget import Budget, Clock, Report
from latentopt.errors import ConfigError, DivergedError
from latentopt.problem import Problem
from latentopt.ranking import Best, distinct, ranked
from latentopt.stagerun import Stage, StageRun, final_rows

Entry = Stage | Sequence[Stage]  # one search, or several that race


def _whose(share: Budget | None) -> str:
    return "the budget" if share is None else "its share of the budget"


@dataclass
class Outcome:
    """What the driver hands over: the best of each surviving row of the last stage, and how the run went.

    `kept` is what the stages' states hold as a whole, such as a subspace, by `stage.field`. With several objectives the
    rows are the front, and `reference_TK` is the worst of each objective over the starts `(T, K)`.
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


def drive(
    problem: Problem,
    z_ND: Tensor,
    target_N: Tensor,
    stages: Sequence[Entry],
    *,
    clock: Clock,
    seed: int,
    on_report: Callable[[Report], object] | None = None,
) -> Outcome:
    """Runs the stages in order on starts `(N, D)` for their targets `(N,)`, each from the best rows of the one before.

    Where the budget is less than the stages would use, each has a share in proportion to that. A stage that is a list is a
    race: its searches begin from the same rows, each with an equal part of the stage's share, and the best distinct rows of
    all of them go on. Stops at the budget, or at an interrupt (Ctrl-C), with
    the best so far. The final evaluation of the returned rows is kept within the budget. Raises `ConfigError` where the
    budget does not cover the starts, `DivergedError` where no row has a finite loss.
    """
    return _Drive(problem, stages, clock, seed, on_report).run(z_ND, target_N)


class _Drive:
    """One run: what its stages share."""

    def __init__(
        self,
        problem: Problem,
        stages: Sequence[Entry],
        clock: Clock,
        seed: int,
        on_report: Callable[[Report], object] | None,
    ) -> None:
        self.problem, self.clock, self.seed, self.on_report = problem, clock, seed, on_report
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
        memory.keep_freed_memory()
        with self.problem.decoder.frozen():
            for index, entrants in enumerate(self.stages):
                found = self._stage(index, entrants, best or starts, first=best is None)
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
        )

    def _stage(self, index: int, entrants: list[Stage], starts: Best, *, first: bool) -> Best | None:
        """One stage, whole: the best rows that go on from it; None where the budget ended before it."""
        z_ND, runs = starts.z_ND, list[StageRun]()
        began = (self.clock.rows, self.clock.seconds)
        reserve = final_rows(self.problem, self._most_kept(entrants, len(z_ND)))
        part = self._part(index, len(z_ND))
        ended = []
        for entrant, stage in enumerate(entrants):
            least = final_rows(self.problem, self._most_kept(entrants, len(z_ND), steps=False))
            least += self._first(stage, len(z_ND))
            share = None
            if len(entrants) > 1 or part < 1:
                share = self.clock.share(part * (entrant + 1) / len(entrants), reserve, began)
            alone = first and not runs and entrant + 1 == len(entrants)  # without it there is nothing to return
            if not (self.clock.covers(least) if alone else self.clock.allows(least, share)):
                if alone:
                    raise ConfigError(
                        f"a budget of {self.clock.budget.rows} rows does not cover {len(z_ND)} starts and their final "
                        f"evaluation, which take {least}, after {self.clock.forward} rows of screening and encoding: "
                        "raise budget.rows, or give fewer starts, screened from fewer draws"
                    )
                ended.append("budget")
                self.notes.append(f"{_whose(share)} ended before stage {index + 1} ({stage.name})")
                continue
            run = StageRun(self.problem, stage, (index, entrant), starts, self.seed, self.clock, self.archive)
            how = ""
            try:
                run.start()
                runs.append(run)
                self._note_start(run, len(entrants))
                how = run.loop(self.history, self.on_report, reserve, share)
                ended.append(how)
            except KeyboardInterrupt:
                self.stopped = "interrupted"
                if run.started and run not in runs:
                    runs.append(run)
                if not runs and first:
                    raise
                if run.started:
                    run.note_best()
            finally:
                run.finish()
            self._note_end(run, how, index, z_ND, share)
            if self.stopped == "interrupted":
                break
        over = len(ended) == len(entrants) and all(one == "budget" for one in ended)
        if over and self.stopped == "finished" and part == 1:
            self.stopped = "budget"
            if runs and index + 1 < len(self.stages):
                self.notes[-1] += "; the stages after it did not run"
        return self._handed_over(runs, entrants, len(z_ND)) if runs else None

    def _part(self, index: int, starts: int) -> float:
        """The part of what is left of the budget that a stage may take: as it needs, and no more than leaves as much to the
        later ones in proportion to what they need."""
        needs = []
        for entrants in self.stages[index:]:
            needs.append(sum(self._first(stage, starts) * (1 + stage.search.n_steps) for stage in entrants))
            keep = self._keep(entrants, starts)
            starts = starts if keep is None else min(starts, keep * self.problem.targets)
        left = None if self.clock.budget.rows is None else self.clock.budget.rows - self.clock.rows
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
            self.notes.append(
                f"{lost} {what} turned NaN or infinite in stage {index + 1} ({stage.name}) and were dropped"
            )
        self.notes.extend(f"{text}, in stage {index + 1} ({stage.name})" for text in run.closing_notes())
        if ended == "budget":
            where = f"at step {run.state.step} of {stage.search.n_steps}"
            self.notes.append(f"{_whose(share)} ended in stage {index + 1} ({stage.name}), {where}")

    def _handed_over(self, runs: list[StageRun], entrants: list[Stage], starts: int) -> Best:
        """The best rows of all entrants, ranked: as many a target as are to be kept, the front where there is one."""
        found = ranked(Best.join([run.handed_over() for run in runs]))
        if not len(found.loss_N):
            raise DivergedError(runs[-1].why_all_diverged())
        keep = self._keep(entrants, starts)
        best = found if keep is None else distinct(found, keep, self.problem.space.std(found.z_ND))
        if self.archive is None or self.archive.best is None or not len(self.archive.best.loss_N):
            return best
        front = self.archive.few(max(stage.keep or SIZE for stage in entrants))
        without = ~torch.isin(best.target_N, front.target_N)  # targets that have no feasible row yet
        return ranked(Best.join([front, best.take(torch.nonzero(without)[:, 0])]))

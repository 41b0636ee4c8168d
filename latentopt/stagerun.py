"""One stage of a run: the loop over a search's steps, the best of every row, stopping, compaction and reports."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentopt.archive import Archive
from latentopt.budget import Budget, Clock, Report
from latentopt.guidance import ROUNDS, first_steering, next_steering
from latentopt.interfaces import Search, SearchState
from latentopt.problem import Problem
from latentopt.ranking import Best
from latentopt.rng import RowNoise
from latentopt.trail import Trail

REPORTS_PER_STAGE = 40
_COMPACT_BELOW, _COMPACT_ROWS = 0.95, 64
_WINDOW, _WINDOW_VALUES = 64, 2**20  # steps compared with the best in one go; latent values held back at most


class Stop(NamedTuple):
    """When a row is finished: its best loss is `at` or less, or fell by less than the share `gain` over `window` steps."""

    at: float | None = None
    gain: float = 0.0
    window: int = 20


class Stage(NamedTuple):
    """A built search, its name for reports, how many of its best distinct rows a target go on (None: all), when to stop."""

    name: str
    search: Search
    keep: int | None = None
    stop: Stop = Stop()


# What a checkpoint holds of the loop, beside the search's own state.
_LOOP = (
    *("best", "ok_N", "target_N", "failed_N", "_reached_N", "_compacted", "_rounds"),
    *("_step_cost", "_round_cost", "_alive", "_active", "_short"),
)


class _Seen(NamedTuple):
    """What one step made, not yet compared with the best."""

    z_ND: Tensor
    loss_N: Tensor
    violation_N: Tensor
    losses_NK: Tensor | None
    step: int
    pruned_N: Tensor | None = None
    terms: dict[str, Tensor] | None = None


class StageRun:
    """One stage: its state, and the best of every row it began with.

    `place` numbers the stage's noise, `index` and `entrant` its reports; `trail` notes where the best rows lie at them.
    """

    def __init__(
        self,
        problem: Problem,
        stage: Stage,
        place: tuple[int, int],
        starts: Best,
        seed: int,
        clock: Clock,
        archive: Archive | None = None,
        trail: Trail | None = None,
    ) -> None:
        self.problem, self.stage, self.clock, self.archive = problem, stage, clock, archive
        self._trail = Trail(problem.targets, starts.z_ND) if trail is None else trail
        self.index, self.entrant = place
        self._starts, self._seed = starts, seed
        self._compacted = False
        self._pending: list[_Seen] = []
        self._rounds = 0
        self._levels: deque[tuple[int, Tensor]] = deque()  # best feasible losses at earlier reports, by step
        self.started = False

    def start(self) -> None:
        z_ND, target_N = self._starts.z_ND, self._starts.target_N
        before, began = self.clock.rows, self.clock.seconds
        noise = RowNoise(self._seed, self.index + (self.entrant << 16), len(z_ND))
        state = self.stage.search.init(self.problem, z_ND, target_N, noise)
        self.state: SearchState = state
        self.target_N = state.target_N
        loss_N = state.evaluation.loss_M
        worst = torch.full_like(loss_N, torch.inf)
        self.best = Best(state.z_ND.clone(), worst, worst, torch.zeros_like(self.target_N), self.target_N)
        self.terms = {name: torch.full_like(value_N, torch.nan) for name, value_N in state.evaluation.terms.items()}
        self.ok_N = torch.ones_like(state.done_N)
        self._reached_N = torch.zeros_like(state.done_N)
        self.failed_N = torch.zeros_like(state.target_N)
        self._window = max(1, min(_WINDOW, _WINDOW_VALUES // max(1, state.z_ND.numel())))
        self._see()
        stepping = getattr(self.stage.search, "step_rows", None)
        used = self.clock.rows - before
        self._step_cost = used if stepping is None else stepping(self.problem, len(state.z_ND))
        self._step_seconds = self.clock.seconds - began
        self._round_cost = 0
        self._changed = getattr(self.stage.search, "changed", None)
        front = self.archive if self.index else None  # the first searches to race set out alike, whoever goes first
        steering = None if self._changed is None else first_steering(self.problem, state, self._starts.steering, front)
        if self._changed is not None and steering is not None:
            state.steering = steering
            before = self.clock.rows
            self._changed(self.problem, state)
            self._round_cost = self.clock.rows - before
        self.started = True

    def saved(self) -> dict[str, Any]:
        """All that the loop needs to go on from the step just taken."""
        return {
            "state": self.state.saved(),
            "pending": [list(one) for one in self._pending],
            "levels": [list(one) for one in self._levels],
            "terms": self.terms,
            **{name: getattr(self, name) for name in _LOOP},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from there, after `start` on the same rows."""
        self.state.restore(saved["state"])
        self._pending = [_Seen(*one) for one in saved["pending"]]
        self._levels = deque((step, loss_N) for step, loss_N in saved["levels"])
        unknown = {name: torch.full_like(value_N, torch.nan) for name, value_N in self.terms.items()}
        self.terms = saved.get("terms", unknown)  # older checkpoints have none
        for name in _LOOP:
            setattr(self, name, saved[name])

    def finish(self) -> None:
        """Lets the search close what it holds open, however it ended."""
        finish = getattr(self.stage.search, "finish", None)
        if finish is not None and self.started:
            finish(self.state)

    def handed_over(self) -> Best:
        """The best of every row, with the multipliers that it has come to; of draws, each row as it is now."""
        best, state = self.best, self.state
        if state.draws:
            evaluation, old = state.evaluation, best.take(state.row_id_N)
            ok_N = torch.isfinite(evaluation.loss_M) & torch.isfinite(evaluation.violation_M)
            now = old._replace(
                z_ND=torch.where(ok_N[:, None], state.z_ND, old.z_ND),
                loss_N=torch.where(ok_N, evaluation.loss_M, old.loss_N),
                violation_N=torch.where(ok_N, evaluation.violation_M, old.violation_N),
                step_N=torch.where(ok_N, state.step, old.step_N),
            )
            best = best.put(state.row_id_N, now)
        return best._replace(steering=state.steering)

    def loop(
        self,
        history: list[Report],
        on_report: Callable[[Report], object] | None,
        reserve: int,
        share: Budget | None = None,
        between: Callable[[bool], bool] | None = None,
        resumed: bool = False,
    ) -> str:
        """Steps until the search is done, or the budget is, or somebody asks to stop: "finished", "budget", "interrupted".

        `reserve` rows of the budget are left over for the final evaluation; `share` is this search's part of it in a race.
        `between` is called between steps, with whether the budget has ended, and says whether to stop.
        """
        search, state, clock = self.stage.search, self.state, self.clock
        self._reserve, self._share = reserve, share
        every = max(1, search.n_steps // REPORTS_PER_STAGE)
        round_every = max(1, search.n_steps // ROUNDS)
        stopped = "finished"
        if not resumed:
            self._report(history, on_report)
            if self._alive and self._all_done():  # starts that are good enough
                return stopped
            self._compact()
        while state.step < search.n_steps:
            turn = state.steering is not None and state.step > 0 and state.step % round_every == 0
            rows = self._step_cost + turn * self._round_cost + reserve
            over = not clock.allows(rows, share, self._step_seconds * rows / max(1, self._step_cost))
            asked = between is not None and between(over)
            if over or asked:
                stopped = "budget" if over else "interrupted"
                break
            if turn:
                self._next_round()
            before, began = clock.rows, clock.seconds
            search.step(self.problem, state)
            self._step_cost, self._step_seconds = clock.rows - before, clock.seconds - began
            self._see()
            if state.step % every == 0:
                self._report(history, on_report)
                if self._all_done():
                    break
                self._compact()
        if history[-1].step != state.step:
            self._report(history, on_report)
        return stopped

    def _next_round(self) -> None:
        """Bring multipliers and front up to date, and tell the search that its function changed."""
        assert self._changed is not None
        if self.archive is not None:
            self.note_best()
        self.state.steering = next_steering(self.problem, self.state, self.archive)
        before = self.clock.rows
        self._changed(self.problem, self.state)
        self._round_cost = self.clock.rows - before
        self._rounds += 1

    def _see(self) -> None:
        """Keep hold of what the step made. A step replaces its tensors and never writes into them, so no copy is needed."""
        state, evaluation = self.state, self.state.evaluation
        losses_NK = None if self.archive is None else self.problem.objectives(evaluation)
        figures = state.z_ND, evaluation.loss_M, evaluation.violation_M
        self._pending.append(_Seen(*figures, losses_NK, state.step, state.pruned_N, evaluation.terms))
        if len(self._pending) >= self._window:
            self.note_best()

    def note_best(self) -> None:
        """Bring the best-so-far up to date with the steps seen since, all in one go and without a host sync.

        Feasibility first, then the loss without penalties, then the earlier step; NaN and infinite losses never win. The
        terms are those of the same steps.
        """
        seen = self._pending
        if not seen:
            return
        best, state = self.best, self.state
        ids = state.row_id_N if self._compacted else None
        old = best if ids is None else best.take(ids)
        loss_WN = torch.stack([old.loss_N, *(one.loss_N for one in seen)])
        finite_WN = loss_WN.abs() < torch.inf
        violation_WN = None
        if self.problem.constraints:
            violation_WN = torch.stack([old.violation_N, *(one.violation_N for one in seen)])
            finite_WN = finite_WN & (violation_WN < torch.inf)  # a constraint that is NaN is no better than such a loss
            violation_WN = torch.where(finite_WN, violation_WN, torch.inf)
        loss_WN = torch.where(finite_WN, loss_WN, torch.inf)
        ranked_WN = loss_WN
        if violation_WN is not None:
            ranked_WN = torch.where(violation_WN == violation_WN.amin(0), loss_WN, torch.inf)
        which_1N = ranked_WN.min(dim=0, keepdim=True).indices  # among equals the first, which is the earliest
        z_WND = torch.stack([old.z_ND, *(one.z_ND for one in seen)])
        which_N = which_1N[0]
        new = Best(
            z_WND.gather(0, which_1N[:, :, None].expand(1, -1, z_WND.shape[2]))[0],
            loss_WN.gather(0, which_1N)[0],
            old.violation_N if violation_WN is None else violation_WN.gather(0, which_1N)[0],
            torch.where(which_N > 0, which_N + (seen[0].step - 1), old.step_N),  # the steps seen follow one another
            old.target_N,
        )
        terms = self._terms_of(seen, ids, which_1N)
        if ids is not None:
            new = best.put(ids, new)
        if self.archive is not None:
            self._add_to_front(seen)
        if state.rows_restart:
            lost_WN = ~finite_WN[1:]
            for row, one in enumerate(seen):
                if one.pruned_N is not None:
                    lost_WN[row] &= ~one.pruned_N
            self.failed_N = self.failed_N + lost_WN.sum(0)
        self.best, self.terms, self._pending = new, terms, []  # last of all: an interrupt on the way loses no step

    def _terms_of(self, seen: list[_Seen], ids: Tensor | None, which_1N: Tensor) -> dict[str, Tensor]:
        """The terms of every row's best, of which `which_1N` says which step it is: 0 for the best there was."""
        found = {}
        for name, whole_N in self.terms.items():
            old_N = whole_N if ids is None else whole_N[ids]
            unknown_N = torch.full_like(old_N, torch.nan)  # of steps seen before a checkpoint that held no terms
            values = [unknown_N if one.terms is None else one.terms[name] for one in seen]
            new_N = torch.stack([old_N, *values]).gather(0, which_1N)[0]
            found[name] = new_N if ids is None else whole_N.index_copy(0, ids, new_N)
        return found

    def _add_to_front(self, seen: list[_Seen]) -> None:
        """The windows' rows into the archive, which looks at values: once a window, not once a step."""
        assert self.archive is not None
        target_N = self.state.target_N
        rows = [
            Best(one.z_ND, one.loss_N, one.violation_N, torch.full_like(target_N, one.step), target_N) for one in seen
        ]
        self.archive.add(Best.join(rows), torch.cat([one.losses_NK for one in seen if one.losses_NK is not None]))

    def _note_lost(self) -> None:
        """Rows whose loss is not finite now. A latent that turned NaN stays so, hence a look at reports finds them all."""
        if not self.state.rows_restart:
            self.ok_N[self.state.row_id_N] &= self.state.evaluation.loss_M.abs() < torch.inf

    def _note_finished(self) -> None:
        """Rows that reached the loss to stop at, or gained too little since an earlier report. On the device."""
        stop, state = self.stage.stop, self.state
        if (stop.at is None and not stop.gain) or self.archive is not None:
            return
        loss_N = self.best.loss_N
        if self.problem.constraints:
            loss_N = torch.where(self.best.violation_N <= 0, loss_N, torch.inf)
        reached_N = torch.zeros_like(self.ok_N) if stop.at is None else loss_N <= stop.at
        if state.rows_restart:  # a target is reached by any of its rows
            reached_T = torch.zeros(self.problem.targets, dtype=torch.bool, device=reached_N.device)
            reached_N = reached_T.index_put((self.target_N,), reached_N, accumulate=True)[self.target_N]
        done_N = self._reached_N = reached_N
        if stop.gain and not state.rows_restart:
            self._levels.append((state.step, loss_N))
            while len(self._levels) > 1 and self._levels[1][0] <= state.step - stop.window:
                self._levels.popleft()
            step, level_N = self._levels[0]
            if step <= state.step - stop.window:
                done_N = done_N | ((level_N - loss_N <= stop.gain * level_N.abs()) & (level_N < torch.inf))
        state.done_N = state.done_N | done_N[state.row_id_N]

    def _report(self, history: list[Report], on_report: Callable[[Report], object] | None) -> None:
        """The only host sync: one small copy of losses and flags."""
        self.note_best()
        self._note_lost()
        self._note_finished()
        best, state = self.best, self.state
        ok_N, reached_N = self.ok_N, self._reached_N
        if self._compacted:
            ok_N, reached_N = ok_N[state.row_id_N], reached_N[state.row_id_N]
        lost_N = ~ok_N
        best_z_TD, radius_T, terms = self._best_of_targets_now()
        parts = (best.loss_N, best.violation_N, self.ok_N, self.target_N, state.done_N | lost_N, reached_N | lost_N)
        one_copy = torch.cat([*parts, radius_T, *terms]).cpu()
        rows, behind = len(best.loss_N), len(one_copy) - len(radius_T) * (1 + len(terms))
        flat = one_copy[:behind].numpy().astype(np.float64)
        radius_T, *terms = one_copy[behind:].double().reshape(-1, len(radius_T))
        loss, violation, ok, target = flat[: 4 * rows].reshape(4, rows)
        self._alive = int(ok.sum())
        self._active, self._short = (int((1 - part).sum()) for part in flat[4 * rows :].reshape(2, -1))
        finite = np.sort(loss[loss < np.inf])
        middle = (len(finite) - 1) // 2, len(finite) // 2
        report = Report(
            stage=self.index,
            entrant=self.entrant,
            name=self.stage.name,
            step=state.step,
            n_steps=self.stage.search.n_steps,
            forward_rows=self.clock.forward,
            backward_rows=self.clock.backward,
            seconds=self.clock.seconds,
            best_T=self._best_of_targets(loss, violation, target.astype(np.intp)),
            median=float(finite[[*middle]].mean()) if len(finite) else float("nan"),
            alive=self._alive,
            rows_N=tuple(loss.tolist()),
            percentile_T=self._percentiles(radius_T),
            terms={name: tuple(term_T.tolist()) for name, term_T in zip(self.terms, terms, strict=True)},
            best_z_TD=None if on_report is None else best_z_TD,
        )
        history.append(report)
        if on_report is not None:
            on_report(report)

    def _best_of_targets_now(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Latent `(T, D)`, radius and terms, each `(T,)`, of the row that `_best_of_targets` goes by; figures are NaN where
        there is none yet."""
        best, targets = self.best, self.problem.targets
        loss_N, target_N = best.loss_N, best.target_N

        def least(value_N: Tensor) -> Tensor:
            worst_T = torch.full((targets,), torch.inf, dtype=value_N.dtype, device=value_N.device)
            return worst_T.scatter_reduce(0, target_N, value_N, "amin")[target_N]

        if self.problem.constraints:
            loss_N = torch.where(best.violation_N <= least(best.violation_N), loss_N, torch.inf)
        place_N = torch.arange(len(loss_N), device=loss_N.device)
        chosen_N = (loss_N <= least(loss_N)) & (loss_N < torch.inf)
        row_T = place_N.new_full((targets,), len(loss_N))
        row_T = row_T.scatter_reduce(0, target_N, torch.where(chosen_N, place_N, len(loss_N)), "amin")
        known_T, row_T = row_T < len(loss_N), row_T.clamp(max=len(loss_N) - 1)
        z_TD = best.z_ND[row_T]
        self._trail.note(z_TD, known_T)
        figures = [self.problem.space.prior.radius(z_TD), *(value_N[row_T] for value_N in self.terms.values())]
        radius_T, *terms = (torch.where(known_T, figure_T, torch.nan) for figure_T in figures)
        return z_TD, radius_T, terms

    def _percentiles(self, radius_T: Tensor) -> tuple[float, ...]:
        """Radius percentiles; of NaN, NaN."""
        space = self.problem.space
        percentile_T = space.prior.radius_percentile(radius_T, space.dim).double()
        return tuple(torch.where(radius_T.isnan(), torch.nan, percentile_T).tolist())

    def _best_of_targets(self, loss: np.ndarray, violation: np.ndarray, target: np.ndarray) -> tuple[float, ...]:
        """The least loss of each target's rows that break the constraints least: the row that the run would return."""

        def least(values: np.ndarray) -> np.ndarray:
            found = np.full(self.problem.targets, np.inf)
            np.minimum.at(found, target, values)
            return found

        if self.problem.constraints:
            loss = np.where(violation <= least(violation)[target], loss, np.inf)
        return tuple(least(loss).tolist())

    def _all_done(self) -> bool:
        """Whether no row is left to move, as of the last report.

        Under new multipliers finished rows have more to do, but for those that reached the loss to stop at.
        """
        if self._alive == 0:
            return True
        if self._active == 0 and self._short and self.state.steering is not None and self._rounds < ROUNDS:
            if self.clock.allows(self._round_cost + self._step_cost + self._reserve, self._share):
                self._next_round()
            return False
        return self._active == 0

    def _compact(self) -> None:
        """Drop finished and lost rows from the batch where that is worth it. A term across rows needs them all."""
        state = self.state
        rows = len(state.done_N)
        if rows <= _COMPACT_ROWS or self._active > _COMPACT_BELOW * rows:
            return
        if self.problem.across_rows or state.rows_restart or state.steering is not None:
            return
        gone_N = state.done_N | ~self.ok_N[state.row_id_N]
        keep = torch.nonzero(~gone_N)[:, 0]
        if len(keep) < _COMPACT_ROWS:  # fill up with finished rows: smaller batches run no faster
            finished = torch.nonzero(gone_N)[: _COMPACT_ROWS - len(keep), 0]
            keep = torch.cat([keep, finished]).sort().values
        state.take(keep)
        self._compacted = True

    # ------------------------------------------------------------------ after the loop

    def lost(self) -> int:
        """How many rows turned NaN or infinite; of an ask/tell search, how many evaluations."""
        return int((~self.ok_N).sum() + self.failed_N.sum()) if self.started else 0

    def closing_notes(self) -> Sequence[str]:
        """What the search says of how it went."""
        return self.state.closing_notes if self.started else ()

    def why_all_diverged(self) -> str:
        """The error of a run in which no row has a finite loss."""
        terms = self.state.evaluation.terms
        broken = [name for name, value in terms.items() if not bool(torch.isfinite(value).any())]
        where = f"term {broken[0]!r}" if broken else "the loss"
        asked = (*self.problem.terms, *self.problem.constraints)
        means = next((each.nan_means for each in asked if each.name in broken and each.nan_means), "")
        return (
            f"all {len(self.ok_N)} rows diverged: {where} was NaN or infinite for every row at step {self.state.step} "
            f"of {self.stage.name!r}; " + (means or "lower the learning rate, or look at the objective's range")
        )


def final_rows(problem: Problem, n: int) -> int:
    """Rows of the final decode, and of decoding the encoder's answer where realism has one to judge."""
    return n if problem.decoder.encoder is None else 2 * n

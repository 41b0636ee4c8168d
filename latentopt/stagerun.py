"""One stage of a run: the loop over a search's steps, the best of every row, compaction and reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentopt.budget import Clock, Report
from latentopt.errors import DivergedError
from latentopt.interfaces import Search, SearchState
from latentopt.problem import Problem
from latentopt.rng import RowNoise

REPORTS_PER_STAGE = 40
_COMPACT_BELOW, _COMPACT_ROWS = 0.95, 64
_WINDOW, _WINDOW_VALUES = 64, 2**20  # steps compared with the best in one go; latent values held back at most
_SAME = 1e-3  # rows closer than this share of the prior's spread, in every coordinate's root mean square, are one basin


class Stage(NamedTuple):
    """A built search, its name for reports, and how many of its best distinct rows a target go on (None: all)."""

    name: str
    search: Search
    keep: int | None = None


class _Seen(NamedTuple):
    """What one step made, not yet compared with the best."""

    z_ND: Tensor
    loss_N: Tensor
    violation_N: Tensor
    step: int


class _Best(NamedTuple):
    """The best of each row so far, replaced whole, so that an interrupt never sees a latent beside another's loss."""

    z_ND: Tensor
    loss_N: Tensor
    violation_N: Tensor
    step_N: Tensor


class StageRun:
    """One stage: its state, and the best of every row it began with."""

    def __init__(
        self, problem: Problem, stage: Stage, index: int, z_ND: Tensor, target_N: Tensor, seed: int, clock: Clock
    ) -> None:
        self.problem, self.stage, self.index, self.clock = problem, stage, index, clock
        self._starts = (z_ND, target_N)
        self._seed = seed
        self._compacted = False
        self._pending: list[_Seen] = []
        self.started = False

    def start(self) -> None:
        z_ND, target_N = self._starts
        before = self.clock.forward + self.clock.backward
        noise = RowNoise(self._seed, self.index, len(z_ND))
        state = self.stage.search.init(self.problem, z_ND, target_N, noise)
        self.state: SearchState = state
        self.target_N = state.target_N
        stepping = getattr(self.stage.search, "step_rows", None)
        used = self.clock.forward + self.clock.backward - before
        self._last_cost = used if stepping is None else stepping(self.problem, len(state.z_ND))
        loss_N = state.evaluation.loss_M
        worst = torch.full_like(loss_N, torch.inf)
        self.best = _Best(state.z_ND.clone(), worst, worst, torch.zeros_like(state.target_N))
        self.ok_N = torch.ones_like(state.done_N)
        self.failed_N = torch.zeros_like(state.target_N)
        self._window = max(1, min(_WINDOW, _WINDOW_VALUES // max(1, state.z_ND.numel())))
        self._see()
        self.started = True

    def loop(self, history: list[Report], on_report: Callable[[Report], object] | None) -> str:
        search, state, clock = self.stage.search, self.state, self.clock
        every = max(1, search.n_steps // REPORTS_PER_STAGE)
        reserve = final_rows(self.problem, len(self.target_N))
        stopped = "finished"
        self._report(history, on_report)
        while state.step < search.n_steps:
            if not clock.allows(self._last_cost + reserve):
                stopped = "budget"
                break
            before = clock.forward + clock.backward
            search.step(self.problem, state)
            self._last_cost = clock.forward + clock.backward - before
            self._see()
            if state.step % every == 0:
                self._report(history, on_report)
                if self._all_done():
                    break
                self._compact()
        if history[-1].step != state.step:
            self._report(history, on_report)
        return stopped

    def _see(self) -> None:
        """Keep hold of what the step made. A step replaces its tensors and never writes into them, so no copy is needed."""
        state, evaluation = self.state, self.state.evaluation
        self._pending.append(_Seen(state.z_ND, evaluation.loss_M, evaluation.violation_M, state.step))
        if len(self._pending) >= self._window:
            self.note_best()

    def note_best(self) -> None:
        """Bring the best-so-far up to date with the steps seen since, all in one go and without a host sync.

        Feasibility first, then the loss without penalties, then the earlier step; NaN and infinite losses never win.
        """
        seen = self._pending
        if not seen:
            return
        best, state = self.best, self.state
        ids = state.row_id_N if self._compacted else None
        old = best if ids is None else _Best(*(part[ids] for part in best))
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
        rows = torch.arange(z_WND.shape[1], device=z_WND.device)
        steps_WN = torch.stack([old.step_N, *(torch.full_like(old.step_N, one.step) for one in seen)])
        new = _Best(
            z_WND[which_1N[0], rows],
            loss_WN.gather(0, which_1N)[0],
            old.violation_N if violation_WN is None else violation_WN.gather(0, which_1N)[0],
            steps_WN.gather(0, which_1N)[0],
        )
        if ids is not None:
            new = _Best(*(part.index_copy(0, ids, rows) for part, rows in zip(best, new, strict=True)))
        if state.rows_restart:
            self.failed_N = self.failed_N + (~finite_WN[1:]).sum(0)
        self.best, self._pending = new, []  # last of all: an interrupt on the way loses no step

    def _note_lost(self) -> None:
        """Rows whose loss is not finite now. A latent that turned NaN stays so, hence a look at reports finds them all."""
        if not self.state.rows_restart:
            self.ok_N[self.state.row_id_N] &= self.state.evaluation.loss_M.abs() < torch.inf

    def _report(self, history: list[Report], on_report: Callable[[Report], object] | None) -> None:
        """The only host sync: one small copy of losses and flags."""
        self.note_best()
        self._note_lost()
        best, state = self.best, self.state
        parts = (best.loss_N, best.violation_N, self.ok_N, self.target_N, state.done_N)
        flat = torch.cat([part.double() for part in parts]).cpu().numpy()
        rows = len(best.loss_N)
        loss, violation, ok, target = flat[: 4 * rows].reshape(4, rows)
        self._alive, self._active = int(ok.sum()), int(len(state.done_N) - flat[4 * rows :].sum())
        finite = loss[loss < np.inf]
        report = Report(
            stage=self.index,
            name=self.stage.name,
            step=state.step,
            n_steps=self.stage.search.n_steps,
            forward_rows=self.clock.forward,
            backward_rows=self.clock.backward,
            seconds=self.clock.seconds,
            best_T=self._best_of_targets(loss, violation, target.astype(np.intp)),
            median=float(np.median(finite)) if len(finite) else float("nan"),
            alive=self._alive,
            rows_N=tuple(loss.tolist()),
        )
        history.append(report)
        if on_report is not None:
            on_report(report)

    def _best_of_targets(self, loss: np.ndarray, violation: np.ndarray, target: np.ndarray) -> tuple[float, ...]:
        """The least loss of each target's feasible rows; of all its rows where none is feasible yet."""

        def least(values: np.ndarray) -> np.ndarray:
            found = np.full(self.problem.targets, np.inf)
            np.minimum.at(found, target, values)
            return found

        best_T = least(loss)
        if self.problem.constraints:
            feasible_T = least(np.where(violation == 0, loss, np.inf))
            best_T = np.where(feasible_T < np.inf, feasible_T, best_T)
        return tuple(best_T.tolist())

    def _all_done(self) -> bool:
        """Whether no row is left to move, as of the last report."""
        return self._active == 0 or self._alive == 0

    def _compact(self) -> None:
        """Drop finished rows from the batch where that is worth it. A term across rows needs them all."""
        state = self.state
        rows = len(state.done_N)
        if rows <= _COMPACT_ROWS or self._active > _COMPACT_BELOW * rows or self.problem.across_rows:
            return
        keep = torch.nonzero(~state.done_N)[:, 0]
        if len(keep) < _COMPACT_ROWS:  # fill up with finished rows: smaller batches run no faster
            finished = torch.nonzero(state.done_N)[: _COMPACT_ROWS - len(keep), 0]
            keep = torch.cat([keep, finished]).sort().values
        state.take(keep)
        self._compacted = True

    # ------------------------------------------------------------------ after the loop

    def lost(self) -> int:
        """How many rows turned NaN or infinite; of an ask/tell search, how many evaluations."""
        return int((~self.ok_N).sum() + self.failed_N.sum()) if self.started else 0

    def _ranking(self) -> Tensor:
        """Row numbers with a finite best, ordered by target, then violation, then loss."""
        best = self.best
        loss, violation = best.loss_N.cpu().double(), best.violation_N.cpu().double()
        target = self.target_N.cpu()
        keys = [
            (int(t), float(v), float(x), i) for i, (t, v, x) in enumerate(zip(target, violation, loss, strict=True))
        ]
        order = [i for _, _, x, i in sorted(keys) if x < float("inf")]
        if not order:
            raise DivergedError(self._why_all_diverged())
        return torch.tensor(order, device=best.z_ND.device)

    def _why_all_diverged(self) -> str:
        terms = self.state.evaluation.terms
        broken = [name for name, value in terms.items() if not bool(torch.isfinite(value).any())]
        where = f"term {broken[0]!r}" if broken else "the loss"
        return (
            f"all {len(self.ok_N)} rows diverged: {where} was NaN or infinite for every row at step {self.state.step} "
            f"of {self.stage.name!r}; lower the learning rate, or look at the objective's range"
        )

    def survivors(self, keep: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Best latents `(n, D)`, targets `(n,)` and steps `(n,)`, ordered by target, then loss; `keep` a target."""
        order = self._ranking()
        if keep is not None:
            order = self._distinct(order, keep)
        return self.best.z_ND[order], self.target_N[order], self.best.step_N[order]

    def best_rows(self, keep: int | None) -> tuple[Tensor, Tensor]:
        """The starts of the next stage."""
        z_ND, target_N, _ = self.survivors(keep)
        return z_ND, target_N

    def _distinct(self, order: Tensor, keep: int) -> Tensor:
        """The first `keep` rows a target that do not repeat an earlier one; repeats fill up where there are too few."""
        z_ND = (self.best.z_ND[order] / self.problem.space.std(self.best.z_ND)).cpu()
        target = self.target_N[order].tolist()
        chosen: dict[int, list[int]] = {}
        spare: dict[int, list[int]] = {}
        for i, t in enumerate(target):
            taken = chosen.setdefault(t, [])
            near = any(float((z_ND[i] - z_ND[j]).square().mean().sqrt()) < _SAME for j in taken)
            (spare.setdefault(t, []) if near or len(taken) >= keep else taken).append(i)
        rows = [i for t in sorted(chosen) for i in sorted((chosen[t] + spare.get(t, []))[:keep])]
        return order[torch.tensor(rows, device=order.device)]


def final_rows(problem: Problem, n: int) -> int:
    """Rows of the final decode, and of decoding the encoder's answer where realism has one to judge."""
    return n if problem.decoder.encoder is None else 2 * n

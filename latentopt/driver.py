"""The one loop that runs every search: stages, budget, best-so-far, compaction, reports. No host sync but at reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from latentopt.errors import ConfigError, DivergedError
from latentopt.interfaces import Search, SearchState
from latentopt.models import StrictModel
from latentopt.problem import Problem
from latentopt.rng import RowNoise

REPORTS_PER_STAGE = 40
_COMPACT_BELOW, _COMPACT_ROWS = 0.95, 64
_WINDOW, _WINDOW_VALUES = 64, 2**20  # steps compared with the best in one go; latent values held back at most
_SAME = 1e-3  # rows closer than this share of the prior's spread, in every coordinate's root mean square, are one basin


class Budget(StrictModel):
    """Limits of a whole run, all targets: `rows` (forward plus backward) and `seconds`. None is no limit."""

    rows: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)


class Stage(NamedTuple):
    """A built search, its name for reports, and how many of its best distinct rows a target go on (None: all)."""

    name: str
    search: Search
    keep: int | None = None


@dataclass(frozen=True)
class Report:
    """One look at a run. Losses are best-so-far; `best_T` has one a target, `rows_N` one a row of the stage."""

    stage: int
    name: str
    step: int
    n_steps: int
    forward_rows: int
    backward_rows: int
    seconds: float
    best_T: tuple[float, ...]
    median: float
    alive: int
    rows_N: tuple[float, ...]


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


@dataclass
class Outcome:
    """What the driver hands over: the best of each surviving row of the last stage, and how the run went.

    `kept` is what the stages' states hold as a whole, such as a subspace, by `stage.field`.
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


@dataclass
class Clock:
    """Rows and seconds used since the run began, against the budget."""

    problem: Problem
    budget: Budget
    started: float = field(default_factory=lambda: time.perf_counter())

    def __post_init__(self) -> None:
        rows = self.problem.decoder.rows
        self._forward, self._backward = rows.forward, rows.backward

    @property
    def forward(self) -> int:
        """Forward rows used."""
        return self.problem.decoder.rows.forward - self._forward

    @property
    def backward(self) -> int:
        """Backward rows used."""
        return self.problem.decoder.rows.backward - self._backward

    @property
    def seconds(self) -> float:
        """Seconds used."""
        return time.perf_counter() - self.started

    def allows(self, rows: int) -> bool:
        """Whether the budget still covers this many rows, and time is left."""
        if self.budget.rows is not None and self.forward + self.backward + rows > self.budget.rows:
            return False
        return self.budget.seconds is None or self.seconds < self.budget.seconds


def drive(
    problem: Problem,
    z_ND: Tensor,
    target_N: Tensor,
    stages: Sequence[Stage],
    *,
    clock: Clock,
    seed: int,
    on_report: Callable[[Report], object] | None = None,
) -> Outcome:
    """Runs the stages in order on starts `(N, D)` for their targets `(N,)`, each from the best rows of the one before.

    Stops at the budget, or at an interrupt (Ctrl-C), with the best so far. The final evaluation of the returned rows is
    kept within the budget. Raises `ConfigError` where the budget does not cover the starts, `DivergedError` where no
    row has a finite loss.
    """
    history: list[Report] = []
    stopped, diverged = "finished", 0
    run: _StageRun | None = None
    notes: list[str] = []
    kept: dict[str, Tensor] = {}
    with problem.decoder.frozen():
        for index, stage in enumerate(stages):
            if run is not None:
                z_ND, target_N = run.best_rows(stages[index - 1].keep)
            if not clock.allows(_final_rows(problem, len(z_ND)) + len(z_ND)):
                if run is None:
                    raise ConfigError(
                        f"a budget of {clock.budget.rows} rows does not cover {len(z_ND)} starts and their final "
                        f"evaluation, after {clock.forward} rows of screening and encoding: raise budget.rows"
                    )
                stopped = "budget"
                notes.append(f"the budget ended before stage {index + 1} ({stage.name})")
                break
            following = _StageRun(problem, stage, index, z_ND, target_N, seed, clock)
            try:
                following.start()
                run = following
                notes.extend(following.state.notes)
                kept |= {f"{index}.{name}": value.cpu() for name, value in following.state.kept().items()}
                stopped = run.loop(history, on_report)
            except KeyboardInterrupt:
                stopped = "interrupted"
                run = following if following.started else run
                if run is None:
                    raise
                run.note_best()
            diverged += following.lost()
            if stopped != "finished":
                break
    if run is None:
        raise ConfigError("a run needs at least one search")
    rows, target_N, step_N = run.survivors(stages[run.index].keep)
    return Outcome(
        z_ND=rows,
        target_N=target_N,
        best_step_N=step_N,
        history=history,
        forward_rows=clock.forward,
        backward_rows=clock.backward,
        seconds=clock.seconds,
        stopped=stopped,
        diverged=diverged,
        notes=notes,
        kept=kept,
    )


def _final_rows(problem: Problem, n: int) -> int:
    """Rows of the final decode, and of decoding the encoder's answer where realism has one to judge."""
    return n if problem.decoder.encoder is None else 2 * n


class _StageRun:
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
        self._last_cost = self.clock.forward + self.clock.backward - before
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
        reserve = _final_rows(self.problem, len(self.target_N))
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
        seen, self._pending = self._pending, []
        if not seen:
            return
        best, state = self.best, self.state
        ids = state.row_id_N if self._compacted else None
        old = best if ids is None else _Best(*(part[ids] for part in best))
        loss_WN = torch.stack([old.loss_N, *(one.loss_N for one in seen)])
        finite_WN = loss_WN.abs() < torch.inf
        loss_WN = torch.where(finite_WN, loss_WN, torch.inf)
        violation_WN = None
        ranked_WN = loss_WN
        if self.problem.constraints:
            violation_WN = torch.stack([old.violation_N, *(one.violation_N for one in seen)])
            violation_WN = torch.where(finite_WN, violation_WN, torch.inf)
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
        self.best = new

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

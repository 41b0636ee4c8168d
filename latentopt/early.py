"""Early reports: rows are judged by growing estimates, and those that are given up on the way are spared the full value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentopt.errors import ConfigError, ObjectiveError, ShapeError
from latentopt.interfaces import Candidates, EarlyReports, Evaluation
from latentopt.problem import Problem
from latentopt.terms import Term

Prune = Callable[[int, NDArray[np.float64]], NDArray[np.bool_]]  # (rung, merit_M) -> which rows go on


def early_rungs(problem: Problem) -> int:
    """How many estimates come before the full value: as many as the objective has that has most; 0 where none has any.

    Raises `ObjectiveError` for a number of rungs that is none, `ConfigError` where a term looks across the rows that pruning
    would take away.
    """
    terms = (*problem.terms, *problem.constraints)
    found = max((_rungs(term) for term in terms), default=0)
    if found and problem.across_rows:
        names = ", ".join(repr(term.name) for term in terms if term.across_rows)
        raise ConfigError(f"pruning gives rows up before others, and {names} looks across rows: leave out either")
    return found


def _rungs(term: Term) -> int:
    """How many estimates a term gives."""
    if not isinstance(term.function, EarlyReports):
        return 0
    count: object = term.function.rungs
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ObjectiveError(f"objective {term.name!r} has rungs = {count!r}, expected a whole number from 1")
    return count


def judge_early(problem: Problem, z_MD: Tensor, target_M: Tensor, prune: Prune) -> tuple[Evaluation, NDArray[np.bool_]]:
    """The evaluation of rows `(M, D)` for their targets `(M,)`, and which of them were pruned `(M,)`.

    Rows are decoded once. After each rung `prune(rung, merit_M)`, with NaN for rows that are out, says which go on. Rows
    that it gives up are infinite in the evaluation, and rows of which an estimate is not finite are NaN. Objectives that
    do not report early are asked at rung 0; of one with fewer rungs than another, the last estimate holds until the end.
    One copy of merits leaves the device a rung.
    """
    rungs, pruned_M = early_rungs(problem), np.zeros(len(z_MD), dtype=np.bool_)
    if not rungs:
        return problem.value(z_MD, target_M), pruned_M
    with torch.no_grad():
        batch = _Alive(problem, Candidates(z_MD, problem.decoder.decode(z_MD), target_M))
        row_A = np.arange(len(z_MD))  # which rows are alive
        for rung in range(rungs):
            if not len(row_A):
                break
            merit_M = np.full(len(z_MD), np.nan)
            merit_M[row_A] = batch.evaluation(rung).merit_M.double().cpu().numpy()
            merit_M[np.isinf(merit_M)] = np.nan
            sound_A = np.isfinite(merit_M[row_A])
            keep_A = _kept(prune(rung, merit_M), len(z_MD))[row_A]
            pruned_M[row_A] = sound_A & ~keep_A
            going_A = sound_A & keep_A
            row_A = row_A[going_A]
            batch.keep(going_A)
        return batch.spread(batch.evaluation(None), row_A, pruned_M), pruned_M


def _kept(keep: object, rows: int) -> NDArray[np.bool_]:
    keep_M = np.asarray(keep)
    if keep_M.shape != (rows,) or keep_M.dtype != np.bool_:
        raise ShapeError(f"prune returned {keep_M.dtype} of shape {keep_M.shape}, expected bool of shape ({rows},)")
    return keep_M


class _Alive:
    """The A rows of a batch that are alive, their designs, and what each term last said of them."""

    def __init__(self, problem: Problem, candidates: Candidates) -> None:
        self.problem, self.candidates = problem, candidates
        self.terms = (*problem.terms, *problem.constraints)
        self.values = [candidates.latents.new_empty(len(candidates.latents)) for _ in self.terms]

    def evaluation(self, rung: int | None) -> Evaluation:
        """What is known of the rows at this rung; None: their full values."""
        for index, term in enumerate(self.terms):
            asked = _at(term, rung)
            if asked is not None:
                self.values[index] = self._called(asked)
        return self.problem.combined(self.values, len(self.candidates.latents))

    def _called(self, term: Term) -> Tensor:
        """One number a row, block by block."""
        count = len(self.candidates.latents)
        parts = [self.candidates.latents.new_empty(0)] if count == 0 else []

        def block(rows: slice) -> None:
            parts.append(term.values(Candidates(*(part[rows] for part in self.candidates))))

        self.problem.decoder.each_block(count, block)
        return torch.cat(parts)

    def keep(self, keep_A: NDArray[np.bool_]) -> None:
        """Let go of the other rows."""
        if keep_A.all():
            return
        rows = torch.from_numpy(np.flatnonzero(keep_A)).to(self.candidates.latents.device)
        self.candidates = Candidates(*(part[rows] for part in self.candidates))
        self.values = [value[rows] for value in self.values]

    def spread(self, evaluation: Evaluation, row_A: NDArray[np.intp], pruned_M: NDArray[np.bool_]) -> Evaluation:
        """The evaluation of all M rows: infinite for those that were pruned, NaN for those that failed."""
        if len(row_A) == len(pruned_M):
            return evaluation
        device = evaluation.loss_M.device
        rows = torch.from_numpy(row_A).to(device)
        rest_M = torch.from_numpy(np.where(pruned_M, np.inf, np.nan)).to(device)

        def all_of(value_A: Tensor) -> Tensor:
            return rest_M.to(value_A.dtype).index_copy(0, rows, value_A)

        terms = {name: all_of(value_A) for name, value_A in evaluation.terms.items()}
        loss, merit, violation = evaluation.loss_M, evaluation.merit_M, evaluation.violation_M
        return Evaluation(all_of(loss), all_of(merit), all_of(violation), terms)


def _at(term: Term, rung: int | None) -> Term | None:
    """The term as it is to be called at this rung; None where what it said before holds."""
    function = term.function
    if not isinstance(function, EarlyReports):
        return term if rung == 0 else None
    if rung is None:
        return term
    if rung >= _rungs(term):
        return None

    def early(candidates: Candidates, /) -> Tensor:
        return function.early(candidates, rung)

    return dataclasses.replace(term, name=f"{term.name} at rung {rung}", function=early)

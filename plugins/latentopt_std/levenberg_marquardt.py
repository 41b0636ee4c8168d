"""Levenberg-Marquardt on latents: every row its own damping, and several dampings tried for each Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentopt import ConfigError, Decoder, Problem, RowNoise, Search, SearchConfig, SearchState

DENSE_UP_TO = 64  # latent values: beyond, a Krylov space is cheaper than a Jacobian (docs/performance.md)
_LEAST_DAMPING, _MOST_DAMPING = 1e-9, 1e10  # shares of the largest curvature: rounding below, no step at all above


class LevenbergMarquardt(SearchConfig):
    """Damped Gauss-Newton steps for objectives that give residuals (Levenberg 1944, Marquardt 1963; algorithm 3.16 of
    Madsen, Nielsen and Tingleff 2004), each row by itself.

    A step decodes each row once for every latent value, for the Jacobian, and `trials` times, for as many dampings, each
    `spread` times the one before; the best is taken where it improves, and the damping follows its gain ratio. The dampings
    start around `damping` times the largest curvature. At the border of the region, steps follow it.
    `solver`: "dense" takes all of the Jacobian; "krylov", for large latents, takes the steps that `inner` conjugate-gradient
    iterations would find; "auto" is dense up to 64 latent values.
    """

    needs_residuals: ClassVar[bool] = True

    kind: Literal["levenberg_marquardt"] = "levenberg_marquardt"
    steps: int = Field(default=30, ge=1)
    solver: Literal["auto", "dense", "krylov"] = "auto"
    inner: int = Field(default=16, ge=1)
    trials: int = Field(default=3, ge=1, le=16)
    spread: float = Field(default=4.0, gt=1)
    damping: float = Field(default=1e-2, gt=0)

    def build(self, decoder: Decoder) -> Search:
        return LevenbergMarquardtSearch(self, decoder)


@dataclass
class LevenbergMarquardtState(SearchState):
    """The merit's model around `z_ND`, in K directions a row, and each row's damping."""

    basis_NKD: Tensor
    slope_NK: Tensor  # half the merit's derivative along each direction
    curvature_NKK: Tensor  # half the second
    damping_N: Tensor
    growth_N: Tensor  # what the damping is multiplied by when no trial is better
    said: Sequence[str] = field(default=(), kw_only=True)

    @property
    def notes(self) -> Sequence[str]:
        return self.said


class LevenbergMarquardtSearch:
    """`init` linearizes at the starts; `step` tries several dampings, moves to the best, and linearizes there."""

    def __init__(self, config: LevenbergMarquardt, decoder: Decoder) -> None:
        self.config, self.n_steps = config, config.steps
        dense = config.solver == "dense" or (config.solver == "auto" and decoder.dim <= DENSE_UP_TO)
        self.krylov = 0 if dense else min(config.inner, decoder.dim)
        exponents = torch.arange(config.trials, dtype=torch.float64) - config.trials // 2
        self.factors_C = (config.spread**exponents).to(device=decoder.device, dtype=decoder.latent_dtype)

    def start_rows(self, problem: Problem, n: int) -> tuple[int, int]:
        """A linearization for each start, which is a row of the state."""
        problem.require_residuals(self.config.kind_name(), ("another gradient search",))
        return n * sum(problem.linearizer.cost(self.krylov)), n

    def step_rows(self, problem: Problem, n: int) -> int:
        """The trials, and a linearization where they lead."""
        return n * (self.config.trials + sum(problem.linearizer.cost(self.krylov)))

    def init(self, problem: Problem, z_ND: Tensor, target_N: Tensor, rng: RowNoise) -> LevenbergMarquardtState:
        problem.require_residuals(self.config.kind_name(), ("another gradient search",))
        z_ND = problem.project(z_ND)
        n, blank_N = len(z_ND), z_ND.new_zeros(len(z_ND))
        note = problem.linearizer.way.note
        state = LevenbergMarquardtState(
            z_ND=z_ND,
            target_N=target_N,
            row_id_N=torch.arange(n, device=z_ND.device),
            evaluation=None,  # type: ignore[arg-type]  # set by the next line
            done_N=torch.zeros(n, dtype=torch.bool, device=z_ND.device),
            step=0,
            basis_NKD=blank_N,
            slope_NK=blank_N,
            curvature_NKK=blank_N,
            damping_N=blank_N,
            growth_N=blank_N,
            said=(note,) if note else (),
        )
        self.changed(problem, state)
        return state

    def changed(self, problem: Problem, state: SearchState) -> None:
        """The merit is another one now: its model at `z_ND`, the dampings as at the start."""
        assert isinstance(state, LevenbergMarquardtState)
        self._linearize(problem, state)
        state.damping_N = self.config.damping * _largest(state.curvature_NKK)
        state.growth_N = torch.full_like(state.damping_N, 2.0)
        state.done_N = torch.zeros_like(state.done_N)

    def step(self, problem: Problem, state: SearchState) -> None:
        assert isinstance(state, LevenbergMarquardtState)
        state.step += 1
        n, before_N = len(state.z_ND), state.evaluation.merit_M
        damping_CN = self.factors_C[:, None] * state.damping_N
        y_CNK, fall_CN = _damped_steps(state, damping_CN)
        z_CND = state.z_ND + (y_CNK[:, :, None] @ state.basis_NKD)[:, :, 0]
        z_MD = problem.project(z_CND.flatten(0, 1))
        index_M = torch.arange(n, device=z_MD.device).repeat(len(y_CNK))
        steering = None if state.steering is None else state.steering.take(index_M)
        merit_CN = problem.value(z_MD, state.target_N[index_M], steering).merit_M.view(-1, n)
        merit_1N, which_1N = torch.where(merit_CN < torch.inf, merit_CN, torch.inf).min(dim=0, keepdim=True)

        gain_N, fall_N = before_N - merit_1N[0], fall_CN.gather(0, which_1N)[0]
        better_N = gain_N > 0
        moved_ND = z_MD.view(-1, *state.z_ND.shape)[which_1N[0], index_M[:n]]
        state.z_ND = torch.where(better_N[:, None], moved_ND, state.z_ND)
        self._adapt(state, better_N, gain_N / fall_N, damping_CN.gather(0, which_1N)[0], damping_CN[-1])
        # a model that promises less than merits can tell has nothing left to offer
        flat_N = fall_N <= torch.finfo(before_N.dtype).eps * before_N.abs()
        self._linearize(problem, state)
        largest_N = _largest(state.curvature_NKK)
        stuck_N = state.damping_N > _MOST_DAMPING * largest_N
        state.done_N = state.done_N | (~better_N & (flat_N | stuck_N))
        state.damping_N = state.damping_N.maximum(_LEAST_DAMPING * largest_N)

    @staticmethod
    def _adapt(
        state: LevenbergMarquardtState, better_N: Tensor, ratio_N: Tensor, taken_N: Tensor, most_N: Tensor
    ) -> None:
        """Nielsen's rule (Madsen et al. 2004, equation 2.21): the damping that was best, smoothly down to a third where the
        model was right, up to twice where it was not; where no trial was better, beyond the largest of them, ever faster."""
        # a fall that rounding made 0 or less says nothing about the model
        factor_N = (1 - (2 * ratio_N.clamp(0, 1) - 1) ** 3).clamp(1 / 3, 2)
        state.damping_N = torch.where(better_N, taken_N * factor_N, most_N * state.growth_N)
        state.growth_N = torch.where(better_N, 2.0, (2 * state.growth_N).clamp(max=2.0**20))

    def _linearize(self, problem: Problem, state: LevenbergMarquardtState) -> None:
        found = problem.linearize(state.z_ND, state.target_N, state.steering, self.krylov)
        if found is None:
            raise ConfigError(
                "search 'levenberg_marquardt' needs sums of squares, which the way to one point of a front is not: use "
                "another gradient search"
            )
        state.evaluation, state.basis_NKD = found.evaluation, found.basis_MKD
        state.slope_NK = (found.basis_MKD @ found.gradient_MD[:, :, None])[:, :, 0] / 2
        state.curvature_NKK = found.gram_MKK + found.bend_MKK


def _largest(curvature_NKK: Tensor) -> Tensor:
    """The largest curvature along a direction, `(N,)`; 1 where there is none at all."""
    found_N = curvature_NKK.diagonal(dim1=1, dim2=2).amax(1)
    return torch.where(found_N > 0, found_N, 1.0)


def _damped_steps(state: LevenbergMarquardtState, damping_CN: Tensor) -> tuple[Tensor, Tensor]:
    """Steps `(C, N, K)` in the state's directions, and by how much the model says that the merit falls, `(C, N)`.

    (curvature + damping) y = -slope, equation 3.13 of Madsen et al. 2004. NaN where the matrix is not positive definite.
    """
    curvature_NKK, slope_NK = state.curvature_NKK, state.slope_NK
    damped = curvature_NKK + torch.diag_embed(damping_CN[:, :, None].expand(-1, -1, slope_NK.shape[1]))
    factor, failed = torch.linalg.cholesky_ex(damped)  # without the look at `failed` that `cholesky` takes on the host
    y_CNK = torch.cholesky_solve(-slope_NK[:, :, None].expand(*damped.shape[:-1], 1), factor)[..., 0]
    y_CNK = torch.where((failed == 0)[:, :, None], y_CNK, torch.nan)
    half_CN = (y_CNK * slope_NK).sum(2)  # y (curvature) y = -(y slope) - damping |y|^2
    return y_CNK, -half_CN + damping_CN * y_CNK.square().sum(2)

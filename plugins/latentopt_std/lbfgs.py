"""Limited-memory BFGS on latents: every row its own curvature and its own line search, one decode of all rows a step.

Shapes: Q pairs of a step and the change of gradient over it, P = 2 Q of both; the rest as in docs/shapes.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from latentopt import Decoder, Problem, RowNoise, Search, SearchConfig, SearchState

# A rejected trial is followed by one at this share of its length, at least and at most.
SHORTEST, LONGEST = 0.1, 0.5
# A row that has gained nothing for this many trials forgets its pairs and goes on along its gradient; if it has gained
# nothing since it last did so, it is done.
FAILURES = 8
# In units of the merit's own rounding: a promised gain too small to look for, and a gain that makes it worth while to start
# afresh. Digits end 8 % sooner at 10 than at 1, with the same losses.
PROMISED, GAINED = 10, 100
# Rows this close to the region's edge that would leave it count as lying on it; as a share of the prior's spread.
NEAR = 1e-3


class LBFGS(SearchConfig):
    """L-BFGS (Nocedal and Wright 2006, algorithms 7.4 and 7.5) on the latents of all rows, each with its own line search.

    A step is one trial of every row: a row whose trial lowers its merit enough (Armijo, `c1`: equation 3.6a) moves there and
    turns; another keeps its place and tries a shorter step. `history` pairs of a step and the change of gradient over it
    stand for the curvature. No step, and so not the first, is longer than `longest` of the prior's spread (the root of its
    total variance). The defaults are measured (docs/performance.md).
    """

    kind: Literal["lbfgs"] = "lbfgs"
    steps: int = Field(default=100, ge=1)
    history: int = Field(default=10, ge=1)
    longest: float = Field(default=0.3, gt=0)
    c1: float = Field(default=1e-4, gt=0, lt=0.5)
    stop_gain: float = Field(default=1e-3, ge=0, lt=1)
    stop_window: int = Field(default=10, ge=1)

    def build(self, decoder: Decoder) -> Search:
        return LBFGSSearch(self)


@dataclass
class LBFGSState(SearchState):
    """Where each row stands (`z_ND` is the last trial taken), what it tries next, and what it knows of the curvature."""

    reach: float  # the prior's spread
    bounded: bool  # whether there is a region to keep to
    gradient_ND: Tensor
    unit_N: Tensor  # tangents and pairs hold gradients times this, so that no scale of the loss under- or overflows
    tangent_ND: Tensor  # the gradient that counts: on the edge of the region, the one along it
    direction_ND: Tensor
    size_N: Tensor  # the next trial is z + size * direction
    failed_N: Tensor  # trials without a gain since the last with one
    afresh_N: Tensor  # the merit where the pairs were last forgotten
    scale_N: Tensor  # the inverse Hessian before any pair, as a multiple of the identity
    stored_N: Tensor  # pairs stored since they were last forgotten
    pairs_NPD: Tensor  # the steps s, then the changes y; a slot whose row of `inverse_NQQ` is 0 holds none
    inverse_NQQ: Tensor  # of R, where R_ij = s_i . y_j for pairs i no younger than j
    gram_NQQ: Tensor  # y_i . y_j
    product_NQ: Tensor  # s_i . y_i


class Edge(NamedTuple):
    """Rows about to leave the region: a point just `outside_ND` it, its projection, and which rows those are."""

    outside_ND: Tensor
    projected_ND: Tensor
    leaving_N1: Tensor


class LBFGSSearch:
    """`init` evaluates the starts; `step` evaluates one trial of every row. On the device, no row waits for another."""

    def __init__(self, config: LBFGS) -> None:
        self.config, self.n_steps = config, config.steps

    def start_rows(self, problem: Problem, n: int) -> tuple[int, int]:
        """A decode and a gradient for each start, which is a row of the state; with terms across rows, as a step, two."""
        return (4 if problem.across_rows else 2) * n, n

    def init(self, problem: Problem, z_ND: Tensor, target_N: Tensor, rng: RowNoise) -> LBFGSState:
        start_ND, z_ND = z_ND, problem.project(z_ND)
        for _ in range(2 if problem.across_rows else 1):  # as often as a step: a budget goes by what the last one cost
            evaluation, gradient_ND = problem.value_and_grad(z_ND, target_N)
        (n, dim), pairs, merit_N = z_ND.shape, self.config.history, evaluation.merit_M
        state = LBFGSState(
            z_ND=z_ND,
            target_N=target_N,
            row_id_N=torch.arange(n, device=z_ND.device),
            evaluation=evaluation,
            done_N=torch.zeros(n, dtype=torch.bool, device=z_ND.device),
            step=0,
            reach=float(vector_norm(problem.space.std(z_ND))),
            bounded=z_ND is not start_ND,
            gradient_ND=gradient_ND,
            unit_N=torch.ones_like(merit_N),
            tangent_ND=gradient_ND,
            direction_ND=gradient_ND,
            size_N=torch.ones_like(merit_N),
            failed_N=torch.zeros_like(target_N),
            afresh_N=torch.full_like(merit_N, torch.inf),
            scale_N=torch.ones_like(merit_N),
            stored_N=torch.zeros_like(target_N),
            pairs_NPD=z_ND.new_zeros(n, 2 * pairs, dim),
            inverse_NQQ=z_ND.new_zeros(n, pairs, pairs),
            gram_NQQ=z_ND.new_zeros(n, pairs, pairs),
            product_NQ=z_ND.new_zeros(n, pairs),
        )
        self._begin(problem, state)
        return state

    def _begin(self, problem: Problem, state: LBFGSState) -> None:
        """Aim along the gradient, a step of the longest length."""
        tangent_ND, edge = _tangent(problem, state)
        state.unit_N = 1 / _length(tangent_ND)[:, 0]
        state.tangent_ND = tangent_ND * state.unit_N[:, None]
        state.scale_N = torch.full_like(state.scale_N, self.config.longest * state.reach)
        state.direction_ND = self._within_reach(problem, state, state.tangent_ND * -state.scale_N[:, None], edge)

    def changed(self, problem: Problem, state: SearchState) -> None:
        """The merit is another one now: its gradient at `z_ND`, and a whole step along it.

        The pairs stay: as multipliers of constraints move, those of the old merit save a quarter to a half of the steps
        beside a start afresh, for an end at least as good (160 rows on digits with a bound on ink).
        """
        assert isinstance(state, LBFGSState)
        state.evaluation, state.gradient_ND = problem.value_and_grad(state.z_ND, state.target_N, state.steering)
        state.failed_N, state.size_N = torch.zeros_like(state.failed_N), torch.ones_like(state.size_N)
        state.afresh_N = torch.full_like(state.afresh_N, torch.inf)
        tangent_ND, edge = _tangent(problem, state)
        state.tangent_ND = tangent_ND * state.unit_N[:, None]
        self._aim(problem, state, edge)
        state.done_N = torch.zeros_like(state.done_N)

    # ------------------------------------------------------------------ a step

    def step(self, problem: Problem, state: SearchState) -> None:
        assert isinstance(state, LBFGSState)
        state.step += 1
        trial_ND = problem.project(torch.addcmul(state.z_ND, state.direction_ND, state.size_N[:, None]))
        evaluation, gradient_ND = problem.value_and_grad(trial_ND, state.target_N, state.steering)
        moved_ND = trial_ND - state.z_ND
        before_N, after_N = vecdot(state.gradient_ND, moved_ND), vecdot(gradient_ND, moved_ND)
        old_N, new_N = state.evaluation.merit_M, evaluation.merit_M
        # Armijo along the projected arc (Bertsekas 1976), up to the rounding of the merit; NaN compares as False
        rounding_N = _rounding(old_N)
        bound_N = torch.add(old_N + rounding_N, before_N, alpha=self.config.c1)
        finite_N = (after_N + new_N).abs() < torch.inf
        taken_N = (new_N <= bound_N) & (before_N < 0) & finite_N & ~state.done_N
        state.z_ND = torch.where(taken_N[:, None], trial_ND, state.z_ND)
        if problem.across_rows:  # a trial was judged beside trials of other rows, and not all of them were taken
            state.evaluation, state.gradient_ND = problem.value_and_grad(state.z_ND, state.target_N, state.steering)
        else:
            state.evaluation = evaluation.where(taken_N, state.evaluation)
            state.gradient_ND = torch.where(taken_N[:, None], gradient_ND, state.gradient_ND)
        tangent_ND, edge = _tangent(problem, state)
        tangent_ND = tangent_ND * state.unit_N[:, None]
        learnt_N = self._remember(state, taken_N, moved_ND, tangent_ND - state.tangent_ND)
        state.tangent_ND = tangent_ND
        # where a step taken showed no curvature, the next one may be twice as long
        further_N = (2 * state.size_N).clamp(max=8.0).masked_fill(learnt_N, 1.0)
        state.size_N = torch.where(taken_N, further_N, state.size_N * _shorter(old_N, new_N, before_N))
        state.failed_N = (state.failed_N + 1).masked_fill(taken_N & (new_N < old_N - rounding_N), 0)
        self._aim(problem, state, edge)

    def _aim(self, problem: Problem, state: LBFGSState, edge: Edge | None) -> None:
        """The next direction of every row; rows that get nowhere forget their pairs, or are done."""
        newton_ND = _times_inverse_hessian(state)
        promised_N = vecdot(newton_ND, state.tangent_ND) * state.size_N
        merit_N = state.evaluation.merit_M
        rounding_N = _rounding(merit_N)
        stuck_N = (promised_N <= PROMISED * rounding_N * state.unit_N) | (state.failed_N >= FAILURES)
        afresh_N = stuck_N & (state.stored_N > 0) & (merit_N < state.afresh_N - GAINED * rounding_N)
        state.done_N = state.done_N | (stuck_N & ~afresh_N)
        state.afresh_N = torch.where(afresh_N, merit_N, state.afresh_N)
        state.stored_N, state.failed_N = (x.masked_fill(afresh_N, 0) for x in (state.stored_N, state.failed_N))
        state.size_N = state.size_N.masked_fill(afresh_N, 1.0)
        afresh_N1 = afresh_N[:, None]
        state.inverse_NQQ.masked_fill_(afresh_N1[:, :, None], 0.0)
        newton_ND = torch.where(afresh_N1, state.tangent_ND * state.scale_N[:, None], newton_ND)
        state.direction_ND = self._within_reach(problem, state, -newton_ND, edge)

    def _within_reach(self, problem: Problem, state: LBFGSState, direction_ND: Tensor, edge: Edge | None) -> Tensor:
        """No longer than the longest step and, for rows on the edge of the region, along it."""
        longest, length_N1 = self.config.longest * state.reach, _length(direction_ND)
        direction_ND = direction_ND * (longest / length_N1).clamp(max=1.0)
        if edge is None:
            return direction_ND
        # the projection's derivative along the direction, as a difference over half of NEAR
        share_N1 = 0.5 * NEAR * state.reach / length_N1.clamp(max=longest)
        ahead_ND = problem.project(torch.addcmul(edge.outside_ND, direction_ND, share_N1))
        along_ND = (ahead_ND - edge.projected_ND) / share_N1
        # and onto the edge, for a row that is only near it
        return torch.where(edge.leaving_N1, along_ND + edge.outside_ND - edge.projected_ND, direction_ND)

    def _remember(self, state: LBFGSState, taken_N: Tensor, s_ND: Tensor, y_ND: Tensor) -> Tensor:
        """Put each row's new pair in place of its oldest, where its curvature is positive; says which rows did.

        The inverse of the triangular R grows by a column and loses the oldest row and column, which leaves the inverse of
        the rest: no row needs its pairs in order, so each keeps its own ring. A row without a new pair empties its oldest
        slot, which is cheaper than to keep it. Written in place: these tensors are nobody else's.
        """
        sy_N = vecdot(s_ND, y_ND)
        learnt_N = taken_N & (sy_N > torch.finfo(sy_N.dtype).eps * (s_ND * y_ND).abs().sum(1))  # more than its rounding
        state.scale_N = torch.where(learnt_N, sy_N / vecdot(y_ND, y_ND), state.scale_N)  # equation 7.20
        not_N = ~learnt_N
        share_N, not_N1 = sy_N.reciprocal().masked_fill_(not_N, 0.0), not_N[:, None]
        s_ND, y_ND = s_ND.masked_fill(not_N1, 0.0), y_ND.masked_fill(not_N1, 0.0)
        pairs, inverse_NQQ, gram_NQQ = self.config.history, state.inverse_NQQ, state.gram_NQQ
        slot_N = state.stored_N % pairs
        rows_N = torch.arange(len(slot_N), device=slot_N.device)
        state.pairs_NPD[rows_N, slot_N] = s_ND
        state.pairs_NPD[rows_N, slot_N + pairs] = y_ND
        state.product_NQ[rows_N, slot_N] = sy_N.masked_fill_(not_N, 0.0)
        state.stored_N = state.stored_N + learnt_N

        with_y_NP = torch.bmm(y_ND[:, None], state.pairs_NPD.mT)[:, 0]
        sy_NQ, yy_NQ = with_y_NP[:, :pairs], with_y_NP[:, pairs:]
        gram_NQQ[rows_N, slot_N] = yy_NQ
        gram_NQQ[rows_N, :, slot_N] = yy_NQ
        sy_NQ[rows_N, slot_N] = 0.0  # what leaves R has no part in the new column
        column_NQ = torch.bmm(sy_NQ[:, None], inverse_NQQ.mT)[:, 0].mul_(-share_N[:, None])
        column_NQ[rows_N, slot_N] = share_N
        inverse_NQQ[rows_N, slot_N] = 0.0
        inverse_NQQ[rows_N, :, slot_N] = column_NQ
        return learnt_N


# ---------------------------------------------------------------------- rows, one by one and all at once


def _times_inverse_hessian(state: LBFGSState) -> Tensor:
    """H g `(N, D)`: what the two-loop recursion gives, in two products with all pairs at once.

    Byrd, Nocedal and Schnabel 1994, equation 3.1: with gamma the scale and E the diagonal of s_i . y_i,
    H = gamma I + [S, gamma Y] [[R^-T (E + gamma Y^T Y) R^-1, -R^-T], [-R^-1, 0]] [S, gamma Y]^T.
    """
    pairs, scale_N1 = state.inverse_NQQ.shape[1], state.scale_N[:, None]
    with_g_N1P = torch.bmm(state.tangent_ND[:, None], state.pairs_NPD.mT)
    u_N1Q = torch.bmm(with_g_N1P[:, :, :pairs], state.inverse_NQQ.mT)
    w_N1Q = torch.baddbmm(with_g_N1P[:, :, pairs:], u_N1Q, state.gram_NQQ.mT, beta=-1)
    u_NQ = u_N1Q[:, 0]
    v_NQ = torch.addcmul(state.product_NQ * u_NQ, w_N1Q[:, 0], scale_N1)
    # a sum, as a batched product with rows of the untransposed matrix is slow
    share_NP = torch.cat([(state.inverse_NQQ * v_NQ[:, :, None]).sum(1), u_NQ * -scale_N1], dim=1)
    return torch.bmm(share_NP[:, None], state.pairs_NPD)[:, 0].addcmul_(state.tangent_ND, scale_N1)


def _tangent(problem: Problem, state: LBFGSState) -> tuple[Tensor, Edge | None]:
    """The gradient of the merit after projection, just ahead of each row; and the rows that this takes out of the region.

    Inside the region it is the gradient itself. On the edge, steps that lead out end on it, so the function to minimize
    is the merit of the projected point, whatever the projection: its gradient is the projection's Jacobian, transposed,
    times the merit's, 0 where the row can gain nothing within the region.
    """
    near, gradient_ND = NEAR * state.reach, state.gradient_ND
    if not state.bounded:
        return gradient_ND, None
    outside_ND = torch.addcdiv(state.z_ND, gradient_ND, _length(gradient_ND), value=-near).requires_grad_(True)
    with torch.enable_grad():
        projected_ND = problem.project(outside_ND)
    (tangent_ND,) = torch.autograd.grad(projected_ND, outside_ND, gradient_ND)
    outside_ND, projected_ND = outside_ND.detach(), projected_ND.detach()
    # a hundredth or less is a gradient along the edge, or rounding
    leaving_N1 = vector_norm(outside_ND - projected_ND, dim=1, keepdim=True) > 0.01 * near
    return torch.where(leaving_N1, tangent_ND, gradient_ND), Edge(outside_ND, projected_ND, leaving_N1)


def _shorter(old_N: Tensor, new_N: Tensor, before_N: Tensor) -> Tensor:
    """Share `(N,)` of a rejected step to try next: the minimum of the parabola through both merits and the slope before.

    Nocedal and Wright 2006, equation 3.58. Digits end alike with the cubic that fits the slope after it too.
    """
    share_N = before_N / (2 * (before_N + old_N - new_N))
    return share_N.nan_to_num(SHORTEST).clamp(SHORTEST, LONGEST)


def _length(x_ND: Tensor) -> Tensor:
    """Of each row, `(N, 1)`, never 0."""
    return vector_norm(x_ND, dim=1, keepdim=True).clamp(min=torch.finfo(x_ND.dtype).tiny)


def _rounding(merit_N: Tensor) -> Tensor:
    return merit_N.abs() * torch.finfo(merit_N.dtype).eps

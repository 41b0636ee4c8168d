"""How a stage steers its rows: multipliers of constraints between inner solves, and weights that spread over a front."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from latentopt.archive import Archive
from latentopt.interfaces import SearchState
from latentopt.problem import Problem
from latentopt.steering import Steering

ROUNDS = 12  # inner solves a stage: the multipliers and the ideal point are brought up to date between them
# Nocedal and Wright 2006, framework 17.3 as in ALGENCAN (Birgin and Martinez 2014, algorithm 4.1): a penalty grows where a
# round did not halve the violation.
_ENOUGH, _GROWTH, _MOST = 0.5, 4.0, 1e6
_EDGE = 0.02  # the least weight of an objective: a weight of 0 would leave it to chance


def first_steering(
    problem: Problem, state: SearchState, before: Steering | None, archive: Archive | None
) -> Steering | None:
    """The steering to begin a stage with, from that of the rows `before` it; None where nothing is steered."""
    if not problem.constraints and not problem.pareto:
        return None
    like = state.evaluation.loss_M
    if before is None or len(before.multipliers_NC) != len(state.z_ND):
        penalties_NC = problem.penalties_C.to(like).expand(len(state.z_ND), -1)
        before = Steering(torch.zeros_like(penalties_NC), penalties_NC)
    if not problem.pareto:
        return before
    steering = _spread(problem, state, before, archive)
    if archive is None or archive.best is None or not len(archive.best.loss_N):
        return steering._replace(weights_NK=_weights(problem, state).to(like))
    return steering._replace(weights_NK=_weights_here(problem, state, steering))


def next_steering(problem: Problem, state: SearchState, archive: Archive | None) -> Steering:
    """The steering after an inner solve. No value is read: all of it happens on the device."""
    steering = state.steering
    assert steering is not None
    if problem.constraints:
        steering = _multiplied(problem.signed(state.evaluation), problem, steering)
    return _spread(problem, state, steering, archive) if problem.pareto else steering


def _multiplied(signed_NC: Tensor, problem: Problem, old: Steering) -> Steering:
    """First-order updates of the multipliers: lambda + rho g, not below 0 for bounds (Nocedal and Wright 2006, eq. 17.39,
    17.60); the penalty of a row's constraint grows where the last inner solve did not halve what is broken of it."""
    equality_C = problem.equality_C
    moved_NC = old.multipliers_NC + old.penalties_NC * signed_NC
    moved_NC = torch.where(equality_C, moved_NC, moved_NC.clamp(min=0))
    moved_NC = torch.where(torch.isfinite(moved_NC), moved_NC, old.multipliers_NC)
    broken_NC = torch.where(equality_C, signed_NC, signed_NC.clamp(min=0))
    penalties_NC = old.penalties_NC
    if old.broken_NC is not None:
        grown_NC = torch.minimum(penalties_NC * _GROWTH, problem.penalties_C.to(penalties_NC) * _MOST)
        # On the same side as before, that is: what swings from one side to the other asks for no stiffer penalty. Inner
        # solves are cut short, and the stiffer the penalty, the farther their errors throw the multipliers.
        same_NC = broken_NC.sign() == old.broken_NC.sign()
        stays_NC = same_NC & (broken_NC.abs() > _ENOUGH * old.broken_NC.abs())
        penalties_NC = torch.where(stays_NC, grown_NC, penalties_NC)
    return old._replace(multipliers_NC=moved_NC, penalties_NC=penalties_NC, broken_NC=broken_NC)


# ---------------------------------------------------------------------- fronts


def _spread(problem: Problem, state: SearchState, old: Steering, archive: Archive | None) -> Steering:
    """The ideal point and the range of each target's objectives: over its front so far; before there is one what they
    were, and over its rows at first."""
    ideal_NK, span_NK = old.ideal_NK, old.span_NK
    if ideal_NK is None or span_NK is None:
        low_TK, high_TK = _ends(problem, problem.objectives(state.evaluation), state.target_N)
        ideal_NK = torch.where(torch.isfinite(low_TK), low_TK, 0.0)[state.target_N]
        span_NK = torch.where(high_TK > low_TK, high_TK - low_TK, 1.0)[state.target_N]
    if archive is not None and archive.best is not None and archive.losses_NK is not None:
        low_TK, high_TK = _ends(problem, archive.losses_NK, archive.best.target_N)
        low_NK, high_NK = low_TK[state.target_N], high_TK[state.target_N]
        ideal_NK = torch.where(torch.isfinite(low_NK), low_NK, ideal_NK)
        span_NK = torch.where(high_NK > low_NK, high_NK - low_NK, span_NK)  # of one member the range is none
    return old._replace(ideal_NK=ideal_NK, span_NK=span_NK)


def _ends(problem: Problem, losses_NK: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest finite value of each target's objectives, `(T, K)`: infinite where there is none."""
    ends = []
    for reduce, empty in (("amin", torch.inf), ("amax", -torch.inf)):
        finite_NK = torch.where(torch.isfinite(losses_NK), losses_NK, empty)
        start_TK = losses_NK.new_full((problem.targets, losses_NK.shape[1]), empty)
        ends.append(start_TK.scatter_reduce(0, target_N[:, None].expand_as(losses_NK), finite_NK, reduce))
    return ends[0], ends[1]


def _weights(problem: Problem, state: SearchState) -> Tensor:
    """Each row's point on the simplex `(N, K)`, by its place among the rows of its target."""
    weights_NK = torch.empty(len(state.target_N), len(problem.terms), dtype=torch.float64)
    target_N = state.target_N.cpu()
    for target in range(problem.targets):
        rows = torch.nonzero(target_N == target)[:, 0]
        weights_NK[rows] = torch.from_numpy(simplex(len(rows), len(problem.terms)))
    return weights_NK.to(state.target_N.device)


def _weights_here(problem: Problem, state: SearchState, steering: Steering) -> Tensor:
    """The weights whose ray from the ideal point goes through where each row lies: it is to move towards the front there."""
    assert steering.ideal_NK is not None
    assert steering.span_NK is not None
    scaled_NK = (problem.objectives(state.evaluation) - steering.ideal_NK) / steering.span_NK
    inverse_NK = 1 / (scaled_NK.nan_to_num(1.0).clamp(min=0) + _EDGE)
    return inverse_NK / inverse_NK.sum(1, keepdim=True)


def simplex(n: int, count: int) -> np.ndarray:
    """n weight vectors `(n, K)` spread over the simplex: even steps for two objectives, corners and Sobol points for more."""
    if count == 1 or n == 0:
        return np.ones((n, count))
    if count == 2:
        first = np.linspace(_EDGE, 1 - _EDGE, n) if n > 1 else np.array([0.5])
        return np.stack([first, 1 - first], axis=1)
    corners = np.full((count, count), _EDGE) + np.eye(count) * (1 - count * _EDGE)
    if n <= count:
        return corners[:n]
    cube = qmc.Sobol(count - 1, scramble=False).random(2 ** int(np.ceil(np.log2(n + 1))))[1 : n - count + 1]
    # Breaking a stick at Beta(1, K - k) shares is uniform on the simplex (the Dirichlet distribution's stick breaking), and
    # one to one. Spacings of sorted points are uniform too, but the same of (x, y) and (y, x), of which Sobol has many.
    left = np.cumprod((1 - cube) ** (1 / np.arange(count - 1, 0, -1)), axis=1)
    inner = -np.diff(left, axis=1, prepend=1.0, append=0.0)
    return np.concatenate([corners, np.maximum(inner, _EDGE) / np.maximum(inner, _EDGE).sum(1, keepdims=True)])

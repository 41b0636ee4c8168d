"""prototype"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from latentopt import Decoder, Evaluation, Problem, RowNoise, Search, SearchConfig, SearchState


class LBFGS(SearchConfig):
    kind: Literal["lbfgs"] = "lbfgs"
    steps: int = Field(default=100, ge=1)
    history: int = Field(default=10, ge=1)
    first: float = Field(default=0.1, gt=0)
    longest: float = 1.0
    c1: float = 1e-4
    tol: float = 1.0
    flat: float = 1.0
    fails: int = 8
    cubic: bool = True
    grow: float = 2.0
    ytype: str = "proj"
    tangent: bool = True
    low: float = 0.1
    high: float = 0.5
    c2: float = 0.0  # >0: rows whose slope is still steeper than c2 after an accepted step do not store

    def build(self, decoder: Decoder) -> Search:
        return LBFGSSearch(self)


@dataclass
class LBFGSState(SearchState):
    gradient_ND: Tensor
    tangent_ND: Tensor
    active_N: Tensor
    direction_ND: Tensor
    size_N: Tensor
    pairs_NPD: Tensor
    inverse_NQQ: Tensor
    gram_NQQ: Tensor
    sy_NQ: Tensor
    gamma_N: Tensor
    stored_N: Tensor
    failed_N: Tensor
    reset_merit_N: Tensor


class LBFGSSearch:
    def __init__(self, config: LBFGS) -> None:
        self.config, self.n_steps = config, config.steps

    def start_rows(self, problem: Problem, n: int) -> tuple[int, int]:
        return 2 * n, n

    def init(self, problem: Problem, z_ND: Tensor, target_N: Tensor, rng: RowNoise) -> LBFGSState:
        z_ND = problem.project(z_ND)
        evaluation, gradient_ND = problem.value_and_grad(z_ND, target_N)
        n, d = z_ND.shape
        m = self.config.history
        self.reach = float(problem.space.std(z_ND).square().sum().sqrt())
        merit = evaluation.merit_M
        state = LBFGSState(
            z_ND=z_ND,
            target_N=target_N,
            row_id_N=torch.arange(n, device=z_ND.device),
            evaluation=evaluation,
            done_N=torch.zeros(n, dtype=torch.bool, device=z_ND.device),
            step=0,
            gradient_ND=gradient_ND,
            tangent_ND=gradient_ND,
            active_N=torch.zeros(n, dtype=torch.bool, device=z_ND.device),
            direction_ND=gradient_ND,
            size_N=torch.ones_like(merit),
            pairs_NPD=z_ND.new_zeros(n, 2 * m, d),
            inverse_NQQ=z_ND.new_zeros(n, m, m),
            gram_NQQ=z_ND.new_zeros(n, m, m),
            sy_NQ=z_ND.new_zeros(n, m),
            gamma_N=torch.ones_like(merit),
            stored_N=torch.zeros_like(target_N),
            failed_N=torch.zeros_like(target_N),
            reset_merit_N=torch.full_like(merit, torch.inf),
        )
        self._begin(problem, state)
        return state

    def _begin(self, problem, state):
        p, n_ND, push, active = self._tangent(problem, state.z_ND, state.gradient_ND)
        state.tangent_ND, state.active_N = p, active
        state.gamma_N = self.config.first * self.reach / p.norm(dim=1).clamp(min=1e-30)
        state.direction_ND = self._limited(-state.gamma_N[:, None] * p, n_ND, push)

    def _limited(self, d, n_ND, push):
        if n_ND is not None:
            d = d - n_ND * (d * n_ND).sum(1, keepdim=True)
        length = d.norm(dim=1, keepdim=True)
        d = d * (self.config.longest * self.reach / length.clamp(min=1e-30)).clamp(max=1)
        return d if push is None else d - push

    def _tangent(self, problem, z, g):
        near = 1e-3 * self.reach
        norm = g.norm(dim=1, keepdim=True).clamp(min=1e-30)
        w = torch.addcdiv(z, g, norm, value=-near)
        q = problem.project(w)
        if q is w or not self.config.tangent:
            return g, None, None, None
        u = w - q  # outward
        length = u.norm(dim=1, keepdim=True)
        active = length > 0.01 * near
        n = torch.where(active, u / length, 0)
        p = g - n * (g * n).sum(1, keepdim=True)
        return p, n, torch.where(active, -u, 0), active[:, 0]

    def step(self, problem: Problem, state: SearchState) -> None:
        assert isinstance(state, LBFGSState)
        config = self.config
        eps = torch.finfo(state.z_ND.dtype).eps
        m = config.history
        state.step += 1
        trial_ND = problem.project(torch.addcmul(state.z_ND, state.direction_ND, state.size_N[:, None]))
        evaluation, gradient_ND = problem.value_and_grad(trial_ND, state.target_N, state.steering)
        s = trial_ND - state.z_ND
        old, new = state.evaluation.merit_M, evaluation.merit_M
        slope = (state.gradient_ND * s).sum(1)
        slope1 = (gradient_ND * s).sum(1)
        tol = config.tol * eps * old.abs()
        ok = (new <= old + config.c1 * slope + tol) & (slope1.abs() < torch.inf) & (new > -torch.inf) & (slope <= 0) & ~state.done_N
        self.n_ok = getattr(self, "n_ok", 0) + ok.sum()
        self.n_all = getattr(self, "n_all", 0) + (~state.done_N).sum()
        okc = ok[:, None]
        # rejected: shrink
        if config.cubic:
            d1 = slope + slope1 - 3 * (new - old)
            d2 = (d1.square() - slope * slope1).clamp(min=0).sqrt()
            ratio = 1 - (slope1 + d2 - d1) / (slope1 - slope + 2 * d2)
        else:
            ratio = -slope / (2 * (new - old - slope))
        ratio = torch.where(ratio > config.low, ratio, config.low).clamp(max=config.high)
        p, n_ND, push, active = self._tangent(problem, trial_ND, gradient_ND)
        y = p - state.tangent_ND if config.ytype == "proj" else gradient_ND - state.gradient_ND
        if config.ytype == "both" and active is not None:
            y = torch.where((active & state.active_N)[:, None], p - state.tangent_ND, y)
        sy, yy = (s * y).sum(1), (y * y).sum(1)
        ss = (s * s).sum(1)
        store = ok & (sy > eps * (ss * yy).sqrt())
        if config.c2:
            store = store & (slope1 >= config.c2 * slope)
        z = torch.where(okc, trial_ND, state.z_ND)
        state.evaluation = mix(ok, evaluation, state.evaluation)
        state.gradient_ND = torch.where(okc, gradient_ND, state.gradient_ND)
        p = torch.where(okc, p, state.tangent_ND)
        state.tangent_ND = p
        if active is not None:
            state.active_N = torch.where(ok, active, state.active_N)
        state.z_ND = z
        # history
        self._store(state, store, s, y, sy, yy)
        state.gamma_N = torch.where(store, sy / yy, state.gamma_N)
        d = self._direction(state)
        d = self._limited(d, n_ND, push)
        d = torch.where(okc, d, state.direction_ND)
        pred = -(d * p).sum(1)
        size = torch.where(ok, torch.where(store, 1.0, (state.size_N * config.grow).clamp(max=10.0)), state.size_N * ratio)
        state.failed_N = (state.failed_N + 1).masked_fill(ok, 0)
        merit = state.evaluation.merit_M
        stuck = (state.failed_N >= config.fails) | (pred * size <= config.flat * eps * merit.abs())
        again = stuck & (merit < state.reset_merit_N - 100 * eps * merit.abs()) & (state.stored_N > 0)
        state.done_N = state.done_N | (stuck & ~again)
        ag = again[:, None]
        state.reset_merit_N = torch.where(again, merit, state.reset_merit_N)
        state.inverse_NQQ = state.inverse_NQQ.masked_fill(ag[:, :, None], 0)
        state.stored_N = state.stored_N.masked_fill(again, 0)
        state.failed_N = state.failed_N.masked_fill(again, 0)
        state.size_N = torch.where(again, 1.0, size)
        state.direction_ND = torch.where(ag, -state.gamma_N[:, None] * p, d)

    def _store(self, state, store, s, y, sy, yy):
        m = self.config.history
        slot = state.stored_N % m
        rows = torch.arange(len(slot), device=slot.device)
        W = state.pairs_NPD
        sc = store[:, None]
        W[rows, slot] = torch.where(sc, s, W[rows, slot])
        W[rows, slot + m] = torch.where(sc, y, W[rows, slot + m])
        state.stored_N = state.stored_N + store
        e = (torch.arange(m, device=slot.device) == slot[:, None]) & sc
        Wy = (y[:, None] @ W.mT)[:, 0]
        Sy, Yy = Wy[:, :m], Wy[:, m:]
        ei, ej = e[:, :, None], e[:, None, :]
        M = state.inverse_NQQ.masked_fill(ei | ej, 0)
        col = torch.where(e, 1.0, -(Sy[:, None] @ M.mT)[:, 0]) / sy[:, None]
        state.inverse_NQQ = torch.where(ej, col[:, :, None], M)
        state.gram_NQQ = torch.where(ej, Yy[:, :, None], torch.where(ei, Yy[:, None], state.gram_NQQ))
        state.sy_NQ = torch.where(e, sy[:, None], state.sy_NQ)

    def _direction(self, state):
        m = self.config.history
        p, g = state.tangent_ND, state.gamma_N[:, None]
        a = p[:, None] @ state.pairs_NPD.mT
        u = a[:, :, :m] @ state.inverse_NQQ.mT
        gg = g[:, None]
        v = state.sy_NQ[:, None] * u + gg * (u @ state.gram_NQQ - a[:, :, m:])
        coef = torch.cat([-(v @ state.inverse_NQQ), gg * u], 2)
        return torch.addcmul((coef @ state.pairs_NPD)[:, 0], g, p, value=-1)

    def changed(self, problem: Problem, state: SearchState) -> None:
        evaluation, gradient_ND = problem.value_and_grad(state.z_ND, state.target_N, state.steering)
        state.evaluation, state.gradient_ND = evaluation, gradient_ND


def mix(ok, new, old):
    made: dict[int, Tensor] = {}

    def pick(a, b):
        if a is b:
            return a
        if id(a) not in made:
            made[id(a)] = torch.where(ok, a, b)
        return made[id(a)]

    return Evaluation(pick(new.loss_M, old.loss_M), pick(new.merit_M, old.merit_M), pick(new.violation_M, old.violation_M), {k: pick(v, old.terms[k]) for k, v in new.terms.items()})

"""Langevin dynamics on latents: a set of answers, drawn in proportion to how well they fit, in place of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentopt import Decoder, Problem, RowNoise, Search, SearchConfig, SearchState

# Share of proposals that is best accepted (Roberts and Rosenthal 1998), and how fast a row's step follows it: decreasing,
# as adaptation must (Andrieu and Thoms 2008, algorithm 4).
ACCEPTED = 0.574
_HASTE = 0.6
_FIRST = (
    0.1  # first step, as a share of the prior's variance: halved or doubled within a few steps where it does not suit
)


class Langevin(SearchConfig):
    """Draws from p(z) exp(-merit(z) / temperature): every row a chain, so that as many answers come back as there are starts.

    Stochastic gradient Langevin dynamics (Welling and Teh 2011, equation 4) with whole gradients, and each proposal accepted
    or not (MALA: Roberts and Tweedie 1996), so that the step size bends nothing. p is the decoder's prior, the metric its
    variances. `temperature` is in the unit of the loss: how much worse than the best a design may be and still count as an
    answer. Each row tunes its own step over the first half of the `steps`. What a run returns is where each chain ends, not
    the best that it passed.
    """

    kind: Literal["langevin"] = "langevin"
    steps: int = Field(default=500, ge=2)
    temperature: float = Field(gt=0)

    def build(self, decoder: Decoder) -> Search:
        return LangevinSearch(self)


@dataclass
class LangevinState(SearchState):
    """Where each chain stands, its energy and the energy's gradient there, and its own step."""

    draws: ClassVar[bool] = True

    energy_N: Tensor
    gradient_ND: Tensor
    log_size_N: Tensor
    rng: RowNoise


class LangevinSearch:
    """A step proposes, evaluates and accepts or not, row by row."""

    def __init__(self, config: Langevin) -> None:
        self.config, self.n_steps = config, config.steps

    def start_rows(self, problem: Problem, n: int) -> tuple[int, int]:
        """A decode and a gradient for each start, which is a row of the state."""
        return 2 * n, n

    def init(self, problem: Problem, z_ND: Tensor, target_N: Tensor, rng: RowNoise) -> LangevinState:
        z_ND = problem.project(z_ND)
        evaluation, gradient_ND = problem.value_and_grad(z_ND, target_N)
        n = len(z_ND)
        state = LangevinState(
            z_ND=z_ND,
            target_N=target_N,
            row_id_N=torch.arange(n, device=z_ND.device),
            evaluation=evaluation,
            done_N=torch.zeros(n, dtype=torch.bool, device=z_ND.device),
            step=0,
            energy_N=evaluation.merit_M,
            gradient_ND=gradient_ND,
            log_size_N=torch.full_like(evaluation.merit_M, math.log(_FIRST)),
            rng=rng,
        )
        state.energy_N, state.gradient_ND = self._energy(problem, z_ND, evaluation.merit_M, gradient_ND)
        return state

    def changed(self, problem: Problem, state: SearchState) -> None:
        """The merit is another one now, and so is the energy."""
        assert isinstance(state, LangevinState)
        state.evaluation, gradient_ND = problem.value_and_grad(state.z_ND, state.target_N, state.steering)
        merit_N = state.evaluation.merit_M
        state.energy_N, state.gradient_ND = self._energy(problem, state.z_ND, merit_N, gradient_ND)

    def step(self, problem: Problem, state: SearchState) -> None:
        assert isinstance(state, LangevinState)
        state.step += 1
        dim = state.z_ND.shape[1]
        # the last column decides on acceptance: the normal distribution of a uniform number, prefix-stable as the others
        noise = state.rng.normal(state.step, state.row_id_N, dim + 1).to(state.z_ND)
        noise_ND, chance_N = noise[:, :dim], torch.special.ndtr(noise[:, dim])
        variance_D = problem.space.std(state.z_ND).square()
        size_N1 = state.log_size_N.exp()[:, None] * variance_D
        drift_ND = state.z_ND - size_N1 * state.gradient_ND
        proposed_ND = drift_ND + (2 * size_N1).sqrt() * noise_ND
        there_ND = problem.project(proposed_ND)
        evaluation, merit_ND = problem.value_and_grad(there_ND, state.target_N, state.steering)
        energy_N, gradient_ND = self._energy(problem, there_ND, evaluation.merit_M, merit_ND)

        onward_N = _log_density(proposed_ND, drift_ND, size_N1)
        back_N = _log_density(state.z_ND, there_ND - size_N1 * gradient_ND, size_N1)
        log_ratio_N = state.energy_N - energy_N + back_N - onward_N
        # outside the region the density is 0: a proposal that had to be moved back is refused
        moved_N = ((there_ND - proposed_ND).abs() > 1e-6 * proposed_ND.abs().clamp(min=1.0)).any(1)
        chance_of_N = log_ratio_N.clamp(max=0.0).exp().masked_fill(moved_N, 0.0).nan_to_num(0.0)
        taken_N = chance_N < chance_of_N
        taken_N1 = taken_N[:, None]
        state.z_ND = torch.where(taken_N1, there_ND, state.z_ND)
        state.evaluation = evaluation.where(taken_N, state.evaluation)
        state.energy_N = torch.where(taken_N, energy_N, state.energy_N)
        state.gradient_ND = torch.where(taken_N1, gradient_ND, state.gradient_ND)
        if state.step <= self.n_steps // 2:
            state.log_size_N = state.log_size_N + (chance_of_N - ACCEPTED) * state.step**-_HASTE * 2

    def _energy(self, problem: Problem, z_ND: Tensor, merit_N: Tensor, merit_ND: Tensor) -> tuple[Tensor, Tensor]:
        """merit / temperature - log p(z) `(N,)` and its gradient `(N, D)`."""
        temperature = self.config.temperature
        with torch.enable_grad():
            z = z_ND.detach().requires_grad_(True)
            log_p_N = problem.space.prior.log_prob(z)
            prior_ND = torch.autograd.grad(log_p_N.sum(), z)[0] if log_p_N.requires_grad else torch.zeros_like(z)
        return merit_N / temperature - log_p_N.detach(), merit_ND / temperature - prior_ND


def _log_density(z_ND: Tensor, mean_ND: Tensor, size_ND: Tensor) -> Tensor:
    """Of a proposal from N(mean, 2 size), without what cancels, `(N,)`."""
    return -((z_ND - mean_ND).square() / (4 * size_ND)).sum(1)

"""The problem: runs the decoder and the terms block by block and gives one loss a row. Holds no state of rows."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from latentopt import rng
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, GradientError, OutOfMemoryError
from latentopt.goals import Bound, goal_loss
from latentopt.interfaces import Candidates, Evaluation, LeastSquares
from latentopt.linearize import Linearized, Linearizer
from latentopt.outputs import is_out_of_memory, no_room
from latentopt.regions import Region
from latentopt.steering import Steering, lagrangian, residuals, tchebycheff
from latentopt.terms import Term

_CHECK_ROWS = 4
# Weight of a broken constraint's squared violation in what searches minimize (the quadratic penalty method,
# Nocedal and Wright 2006, eq. 17.2) where nothing steers: in spreads over a few draws once the problem is checked. Ten times
# as stiff as the multipliers' first penalties, as no multiplier will pull a row inside. Ranking is feasibility first.
PENALTY = 100.0
# A margin is a thousandth of its bound, so this many of its epsilons are four of the bound's.
_ROUNDING = 4e3


class Problem:
    """A decoder, terms, constraints, a region and T targets; any M rows, any subset of them.

    Args:
        decoder: runs the rows; its `rows` counter counts them.
        terms: objectives; their weighted losses add up.
        constraints: objectives whose goal is a bound that must hold.
        region: where rows may go.
        targets: T, how many targets rows may be for.
        pareto: whether the terms are traded off as a front, rather than summed.
        measures: objectives that judge what was found, and take no part in the search.
    """

    def __init__(
        self,
        decoder: Decoder,
        terms: Sequence[Term],
        *,
        constraints: Sequence[Term] = (),
        region: Region | None = None,
        targets: int = 1,
        pareto: bool = False,
        measures: Sequence[Term] = (),
    ) -> None:
        for constraint in constraints:
            if not isinstance(constraint.goal, Bound):
                raise ConfigError(
                    f"constraint {constraint.name!r} has the goal {constraint.goal!r}, which cannot be broken: "
                    "give it at_most, at_least, between or equals"
                )
        self.decoder, self.space = decoder, decoder.space
        self.terms, self.constraints, self.measures = tuple(terms), tuple(constraints), tuple(measures)
        self.region = region or Region("free")
        self.targets, self.pareto = targets, pareto
        self.across_rows = any(term.across_rows for term in (*self.terms, *self.constraints))
        self._without_gradient: list[str] = []
        # what the check found: some latents, some values of designs, each term's values
        self.seen: dict[str, list[float]] = {}
        self._constant: dict[str, float] = {}  # terms that gave one number for all draws of the check
        equal = [isinstance(c.goal, Bound) and c.goal.equals is not None for c in self.constraints]
        self.equality_C = torch.tensor(equal, dtype=torch.bool, device=decoder.device)
        self.penalties_C = torch.full((len(self.constraints),), 2 * PENALTY, dtype=torch.float64, device=decoder.device)
        self._fixed = [PENALTY * c.weight for c in self.constraints]  # where nothing steers
        self._margins = [
            0.0 if alike else self._bound(c).margin for c, alike in zip(self.constraints, equal, strict=True)
        ]
        self._zero = torch.zeros(1, dtype=decoder.latent_dtype, device=decoder.device)
        self._zero_M, self._one_M = self._zero, self._zero + 1
        self._linearizer = Linearizer(decoder, self._decoded_residuals, self._evaluate, self.project)

    # ------------------------------------------------------------------ values

    def value(self, z_MD: Tensor, target_M: Tensor, steering: Steering | None = None) -> Evaluation:
        """The evaluation of rows `(M, D)` for their targets `(M,)`, without gradients.

        `steering` (the state's own, rows aligned) bends the merit; without it, it is the loss plus a fixed penalty.
        """
        with torch.no_grad():
            if self.across_rows:
                return self._evaluate(Candidates(z_MD, self.decoder.decode(z_MD), target_M), steering)
            parts: list[Evaluation] = []

            def block(rows: slice) -> None:
                z = z_MD[rows]
                parts.append(
                    self._evaluate(Candidates(z, self.decoder.forward(z), target_M[rows]), _some(steering, rows))
                )

            self.decoder.each_block(len(z_MD), block)
            return Evaluation.join(parts)

    def value_and_grad(
        self, z_MD: Tensor, target_M: Tensor, steering: Steering | None = None
    ) -> tuple[Evaluation, Tensor]:
        """The evaluation, and the gradient `(M, D)` of each row's own merit with respect to that row.

        Losses are summed and never averaged, so that a row's step does not depend on how many rows there are.
        """
        if z_MD.shape[0] <= self.decoder.block_rows:
            try:
                return self._grad_block(z_MD, target_M, steering)
            except (RuntimeError, MemoryError) as error:
                if z_MD.shape[0] == 1 or not is_out_of_memory(error):
                    raise
            self.decoder.halve_block(z_MD.shape[0])
        if self.across_rows:
            return self._grad_in_two_passes(z_MD, target_M, steering)
        parts: list[Evaluation] = []
        gradients: list[Tensor] = []

        def block(rows: slice) -> None:
            evaluation, gradient = self._grad_block(z_MD[rows], target_M[rows], _some(steering, rows))
            parts.append(evaluation)
            gradients.append(gradient)

        self.decoder.each_block(len(z_MD), block)
        return Evaluation.join(parts), torch.cat(gradients)

    def _grad_block(self, z_MD: Tensor, target_M: Tensor, steering: Steering | None) -> tuple[Evaluation, Tensor]:
        z = z_MD.detach().requires_grad_(True)
        with torch.enable_grad():
            evaluation = self._evaluate(Candidates(z, self.decoder.forward(z), target_M), steering)
            # the gradient of the rows' sum, without the sum: two operations fewer
            (gradient,) = torch.autograd.grad(evaluation.merit_M, z, self._constants(z.shape[0])[1])
        self.decoder.rows.backward += z.shape[0]
        return evaluation.detach(), gradient

    def _grad_in_two_passes(
        self, z_MD: Tensor, target_M: Tensor, steering: Steering | None
    ) -> tuple[Evaluation, Tensor]:
        """For terms across rows beyond a block: decode without a graph, then pull the designs' gradient back by blocks."""
        z_all = z_MD.detach().requires_grad_(True)
        designs = self.decoder.decode(z_MD).requires_grad_(True)
        with torch.enable_grad():
            evaluation = self._evaluate(Candidates(z_all, designs, target_M), steering)
            by_latent, by_design = torch.autograd.grad(evaluation.merit_M.sum(), (z_all, designs), allow_unused=True)
        gradient = torch.zeros_like(z_MD) if by_latent is None else by_latent
        if by_design is not None:

            def block(rows: slice) -> None:
                z = z_MD[rows].detach().requires_grad_(True)
                with torch.enable_grad():
                    (part,) = torch.autograd.grad(self.decoder.forward(z), z, grad_outputs=by_design[rows])
                self.decoder.rows.backward += len(z)
                gradient[rows] += part

            self.decoder.each_block(len(z_MD), block)
        return evaluation.detach(), gradient

    @property
    def has_residuals(self) -> bool:
        """Whether the merit is a sum of squares: every term a bound or minimized `LeastSquares`, and one term at least."""
        return bool(self.terms) and not self.without_residuals

    @property
    def without_residuals(self) -> tuple[str, ...]:
        """Names of the terms that are not sums of squares."""
        return tuple(
            t.name
            for t in self.terms
            if not (isinstance(t.goal, Bound) or (t.goal == "minimize" and isinstance(t.function, LeastSquares)))
        )

    def residuals(self, z_MD: Tensor, target_M: Tensor, steering: Steering | None = None) -> Tensor | None:
        """Residuals `(M, R)` whose squares add up to the merit; None where there are none. Differentiable in z.

        A bound's shortfall is its own residual; a minimized term needs `LeastSquares`. Under steering towards one point of
        a front the merit is no sum of squares.
        """
        if not self.has_residuals or (steering is not None and steering.weights_NK is not None):
            return None
        return self._residuals(Candidates(z_MD, self.decoder.forward(z_MD), target_M), steering)

    def _residuals(self, candidates: Candidates, steering: Steering | None) -> Tensor:
        parts = []
        for term in self.terms:
            if isinstance(term.goal, Bound):
                part = term.goal.shortfall(term.function(candidates))[:, None]
            elif isinstance(term.function, LeastSquares):
                part = term.function.residuals(candidates)
            parts.append(part * term.weight**0.5)
        for index, term in enumerate(self.constraints):
            if isinstance(term.goal, Bound):
                value_M = term.function(candidates)
                if steering is None:
                    part = self._fixed[index] ** 0.5 * term.goal.shortfall(value_M)[:, None]
                else:
                    one = slice(index, index + 1)
                    part = residuals(
                        self._signed(index, value_M)[:, None],
                        self.equality_C[one],
                        Steering(steering.multipliers_NC[:, one], steering.penalties_NC[:, one]),
                    )
                parts.append(part)
        return torch.cat(parts, dim=1)

    def objectives(self, evaluation: Evaluation) -> Tensor:
        """The weighted loss of each term, `(M, K)`: what a front trades off, each to be minimized."""
        parts = [goal_loss(term.goal, evaluation.terms[term.name]) * term.weight for term in self.terms]
        return torch.stack(parts, dim=1)

    def signed(self, evaluation: Evaluation) -> Tensor:
        """Each constraint as searches see it, `(M, C)`: above 0 where it is broken; of an equality the difference."""
        values = [evaluation.terms[term.name] for term in self.constraints]
        return torch.stack([self._signed(index, value_M) for index, value_M in enumerate(values)], dim=1)

    def _decoded_residuals(self, z_MD: Tensor, target_M: Tensor, steering: Steering | None) -> tuple[Tensor, Tensor]:
        """The residuals, and the designs that they are of."""
        designs = self.decoder.forward(z_MD)
        return self._residuals(Candidates(z_MD, designs, target_M), steering), designs

    @property
    def linearizer(self) -> Linearizer:
        """What a linearization costs, and how its derivatives are taken."""
        return self._linearizer

    def linearize(
        self, z_MD: Tensor, target_M: Tensor, steering: Steering | None = None, krylov: int = 0
    ) -> Linearized | None:
        """The evaluation, the merit's gradient and its Gauss-Newton model within the region, row by row.

        None where the merit is no sum of squares of each row's own residuals. `krylov`: the model on so many directions of a
        Krylov space alone, by products and without a Jacobian.
        """
        if not self.has_residuals or self.across_rows or (steering is not None and steering.weights_NK is not None):
            return None
        return self._linearizer.at(z_MD, target_M, steering, krylov)

    def judge(self, z_MD: Tensor, target_M: Tensor) -> tuple[Evaluation, Tensor]:
        """The evaluation and the designs `(M, ...)` of these rows, from one decode: what a run returns."""
        with self.decoder.frozen(), torch.no_grad():
            designs = self.decoder.decode(z_MD)
            if self.across_rows:
                return self._evaluate(Candidates(z_MD, designs, target_M)), designs
            parts: list[Evaluation] = []

            def block(rows: slice) -> None:  # terms take memory too
                parts.append(self._evaluate(Candidates(z_MD[rows], designs[rows], target_M[rows])))

            self.decoder.each_block(len(z_MD), block)
            return Evaluation.join(parts), designs

    def measured(self, z_MD: Tensor, target_M: Tensor, designs: Tensor) -> dict[str, Tensor]:
        """What each measure says of these rows and their designs `(M, ...)`, by name, `(M,)` each."""
        found: dict[str, list[Tensor]] = {term.name: [] for term in self.measures}

        def block(term: Term, rows: slice) -> None:
            found[term.name].append(term.values(Candidates(z_MD[rows], designs[rows], target_M[rows])).detach())

        with torch.no_grad():
            for term in self.measures:
                if term.across_rows:
                    block(term, slice(None))
                else:
                    self.decoder.each_block(len(z_MD), functools.partial(block, term))
        return {name: torch.cat(parts) for name, parts in found.items() if parts}

    def screen(self, z_MD: Tensor) -> Tensor:
        """The merit of every row for every target `(M, T)`; each row is decoded once."""
        merit_MT = self._zero.new_empty(len(z_MD), self.targets)

        def block(rows: slice) -> None:
            z = z_MD[rows]
            designs = self.decoder.forward(z)
            for target in range(self.targets):
                index = torch.full((len(z),), target, dtype=torch.long, device=z.device)
                merit_MT[rows, target] = self._evaluate(Candidates(z, designs, index)).merit_M

        with torch.no_grad():
            self.decoder.each_block(len(z_MD), block)
        return merit_MT

    def project(self, z_MD: Tensor) -> Tensor:
        """The rows moved onto the region, `(M, D)`."""
        return self.region.project(z_MD)

    def _evaluate(self, candidates: Candidates, steering: Steering | None = None) -> Evaluation:
        values = [term.values(candidates) for term in (*self.terms, *self.constraints)]
        return self.combined(values, candidates.latents.shape[0], steering)

    def combined(self, values: Sequence[Tensor], n: int, steering: Steering | None = None) -> Evaluation:
        """The evaluation of n rows of these values, each `(n,)`: one of every objective, then one of every constraint."""
        zero_M, _ = self._constants(n)
        terms: dict[str, Tensor] = {}
        parts: list[Tensor] = []
        for term, value_M in zip(self.terms, values, strict=False):
            terms[term.name] = value_M
            part = goal_loss(term.goal, value_M)
            parts.append(part if term.weight == 1.0 else part * term.weight)
        loss = sum(parts[1:], parts[0]) if parts else zero_M
        merit = loss
        if steering is not None and steering.weights_NK is not None:
            merit = tchebycheff(torch.stack(parts, dim=1), steering)
        if not self.constraints:
            return Evaluation(loss, merit, zero_M, terms)
        violation, penalty, signed = zero_M, zero_M, []
        for index, term in enumerate(self.constraints):
            terms[term.name] = value_M = values[len(self.terms) + index]
            goal = self._bound(term)
            signed.append(self._signed(index, value_M))
            shortfall = goal.shortfall(value_M)
            violation = violation + goal.beyond(shortfall)
            penalty = penalty + self._fixed[index] * shortfall.square()
        if steering is not None:
            penalty = lagrangian(torch.stack(signed, dim=1), self.equality_C, steering)
        return Evaluation(loss, merit + penalty, violation, terms)

    def _signed(self, index: int, value_M: Tensor) -> Tensor:
        """A bound as searches see it: a little tighter than it is, as multipliers come to rest on either side of it."""
        return self._bound(self.constraints[index]).signed(value_M) + self._margins[index]

    @staticmethod
    def _bound(constraint: Term) -> Bound:
        assert isinstance(constraint.goal, Bound)
        return constraint.goal

    def _constants(self, n: int) -> tuple[Tensor, Tensor]:
        """Zeros and ones `(n,)`, made again only when the number of rows changes."""
        if self._zero_M.shape[0] != n:
            self._zero_M, self._one_M = self._zero.expand(n), (self._zero + 1).expand(n)
        return self._zero_M, self._one_M

    # ------------------------------------------------------------------ at the door

    def check(self) -> None:
        """One evaluation of a few prior draws: every term must give finite real numbers, and may or may not have gradients.

        Raises `ObjectiveError` naming the term, what it returned and the remedy; `OutOfMemoryError` where a row is too much.
        """
        n = _CHECK_ROWS if self.across_rows else min(_CHECK_ROWS, self.decoder.block_rows)
        while True:
            try:
                return self._check(n)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if n == 1:
                    raise OutOfMemoryError(no_room(self.decoder.name, 1, error)) from error
            self.decoder.halve_block(n)
            n //= 2

    def _check(self, n: int) -> None:
        """The same on so many draws."""
        draws = self.space.draw(n, rng.generator(0)).to(self._zero)
        target_M = torch.arange(n, device=draws.device) % self.targets
        z = self.project(draws).detach().requires_grad_(True)
        self._without_gradient, self._constant = [], {}
        with self.decoder.frozen(), torch.enable_grad():
            designs = self.decoder.forward(z)
            candidates = Candidates(z, designs, target_M)
            self.seen = {"latents": _some_values(z), "designs": _some_values(designs)}
            for term in (*self.terms, *self.constraints):
                looked = term.look(candidates, self.targets)
                self.seen[f"term {term.name}"] = looked.values
                if not looked.has_gradient:
                    self._without_gradient.append(term.name)
                if looked.constant is not None:
                    self._constant[term.name] = looked.constant
            for term in self.measures:
                term.look(candidates, self.targets)
            if self.constraints:
                self._scale_constraints(self._evaluate(candidates).detach())

    def _scale_constraints(self, draws: Evaluation) -> None:
        """First penalties: a constraint broken by its own spread over the draws weighs ten times the loss's spread.

        After ALGENCAN (Birgin and Martinez 2014, equation 12.1), with spreads in place of values: no unit is assumed. Along
        a front the merit is scaled already, and its spread is about 1. Searches aim no farther inside a bound than a
        thousandth of the spread, but for rounding: a bound of 1e4 says nothing of how far values move.
        """

        def spread(values_MX: Tensor) -> Tensor:
            finite_MX = torch.where(torch.isfinite(values_MX), values_MX.double(), torch.nan)
            level_X = finite_MX.abs().nanmean(0)
            found_X = (finite_MX - finite_MX.nanmean(0)).square().nanmean(0).sqrt()
            found_X = torch.where(found_X > 1e-6 * level_X, found_X, level_X)  # all alike, or one value
            return torch.where(found_X > 0, found_X, 1.0)

        broken_C = spread(self.signed(draws))
        for index, term in enumerate(self.constraints):
            goal, inside = self._bound(term), 1e-3 * float(broken_C[index])
            rounding = _ROUNDING * torch.finfo(draws.loss_M.dtype).eps * goal.margin
            if goal.equals is None:  # 0 has no thousandth
                zero = 0.0 in (goal.at_most, goal.at_least)
                self._margins[index] = inside if zero else min(goal.margin, max(inside, rounding))
        weights_C = torch.tensor([c.weight for c in self.constraints], dtype=torch.float64, device=self._zero.device)
        loss_1, unit_C = spread(draws.loss_M[:, None]), weights_C.clamp(min=1e-12) / broken_C.square()
        self.penalties_C = 20 * unit_C * (torch.ones_like(loss_1) if self.pareto else loss_1)
        self._fixed = (PENALTY * unit_C * loss_1).tolist()

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """Names of the terms through which no gradient reaches the latents, as `check` found."""
        return tuple(self._without_gradient)

    def constants(self, evaluation: Evaluation) -> list[str]:
        """A warning for each term that gave one and the same number for every draw of the check and every row found."""
        return [
            f"objective {name!r} is constant: it gave {value:g} for every draw from the prior and every row found, so "
            "there was nothing to search for; look at what it computes"
            for name, value in self._constant.items()
            if bool((evaluation.terms[name] == value).all())
        ]

    def require_residuals(self, search: str, others: Sequence[str]) -> None:
        """Raise `ConfigError` where the merit is no sum of squares of each row's own residuals."""
        instead = f"use {' or '.join(others)}"
        if self.without_residuals or not self.terms:
            names = ", ".join(map(repr, self.without_residuals)) or "no objective at all"
            raise ConfigError(
                f"search {search!r} needs sums of squares, and there are no residuals of {names}: {instead}, or objectives "
                "that have them, minimized or with a bound as their goal"
            )
        if self.across_rows:
            names = ", ".join(repr(term.name) for term in (*self.terms, *self.constraints) if term.across_rows)
            raise ConfigError(f"search {search!r} moves every row by itself, and {names} looks across rows: {instead}")

    def require_gradient(self, search: str, others: Sequence[str]) -> None:
        """Raise `GradientError` where a gradient search would be blind, naming the searches that can do without."""
        if not self._without_gradient:
            return
        if not self.decoder.probe.differentiable:
            why = f"decoder {self.decoder.name!r} gives none: {self.decoder.probe.gradient_note}"
        else:
            why = f"no gradient reaches the latents from {', '.join(map(repr, self._without_gradient))}"
            same = [name for name in self._without_gradient if name in self._constant]
            why += f" (constant for all draws: {', '.join(map(repr, same))})" if same else ""
        raise GradientError(f"search {search!r} needs gradients and {why}; use {' or '.join(others)}")


def _some_values(rows: Tensor) -> list[float]:
    """At most 32 values, spread over all of them: enough to know them again by."""
    flat = rows.detach().flatten()
    return flat[:: -(-len(flat) // 32)].double().tolist()


def _some(steering: Steering | None, rows: slice) -> Steering | None:
    return None if steering is None else steering.take(rows)

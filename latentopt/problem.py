"""The problem: runs the decoder and the terms block by block and gives one loss a row. Holds no state of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentopt import rng
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, GradientError, ObjectiveError
from latentopt.goals import Bound, Goal, goal_loss
from latentopt.interfaces import Candidates, Evaluation, LeastSquares, Objective, ObjectiveConfig
from latentopt.linearize import Linearized, Linearizer
from latentopt.outputs import FAILURES, describe, first_line, is_out_of_memory
from latentopt.regions import Region
from latentopt.steering import Steering, lagrangian, residuals, tchebycheff

_CHECK_ROWS = 4
# Weight of a broken constraint's squared violation in what searches minimize (the quadratic penalty method,
# Nocedal and Wright 2006, eq. 17.2). Ranking is feasibility first, so it only steers.
PENALTY = 100.0
# A margin is a thousandth of its bound, so this many of its epsilons are four of the bound's.
_ROUNDING = 4e3


@dataclass(frozen=True)
class Term:
    """One objective or constraint, built: its callable, goal and weight, and whether it sees whole targets."""

    name: str
    function: Objective
    goal: Goal = "minimize"
    weight: float = 1.0
    across_rows: bool = False


def build_terms(configs: Sequence[ObjectiveConfig], decoder: Decoder, taken: Sequence[str] = ()) -> list[Term]:
    """Terms of these configs; a second term of one name is called `name_2`."""
    names = list(taken)
    terms = []
    for config in configs:
        stem = config.name or (config.kind_name() if config.kind_name() != "callable" else _called_name(config))
        name, count = stem, 2
        while name in names:
            name, count = f"{stem}_{count}", count + 1
        names.append(name)
        terms.append(Term(name, config.build(decoder), config.goal, config.weight, config.across_rows))
    return terms


def _called_name(config: ObjectiveConfig) -> str:
    name = getattr(getattr(config, "function", None), "__name__", "callable")
    return "callable" if name == "<lambda>" else str(name)


class Problem:
    """A decoder, terms, constraints, a region and T targets; any M rows, any subset of them.

    Args:
        decoder: runs the rows; its `rows` counter counts them.
        terms: objectives; their weighted losses add up.
        constraints: objectives whose goal is a bound that must hold.
        region: where rows may go.
        targets: T, how many targets rows may be for.
        pareto: whether the terms are traded off as a front, rather than summed.
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
    ) -> None:
        for constraint in constraints:
            if not isinstance(constraint.goal, Bound):
                raise ConfigError(
                    f"constraint {constraint.name!r} has the goal {constraint.goal!r}, which cannot be broken: "
                    "give it at_most, at_least, between or equals"
                )
        self.decoder, self.space = decoder, decoder.space
        self.terms, self.constraints = tuple(terms), tuple(constraints)
        self.region = region or Region("free")
        self.targets, self.pareto = targets, pareto
        self.across_rows = any(term.across_rows for term in (*self.terms, *self.constraints))
        self._without_gradient: list[str] = []
        self._constant: dict[str, float] = {}  # terms that gave one number for all draws of the check
        equal = [isinstance(c.goal, Bound) and c.goal.equals is not None for c in self.constraints]
        self.equality_C = torch.tensor(equal, dtype=torch.bool, device=decoder.device)
        self.penalties_C = torch.full((len(self.constraints),), 2 * PENALTY, dtype=torch.float64, device=decoder.device)
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
                    part = (PENALTY * term.weight) ** 0.5 * term.goal.shortfall(value_M)[:, None]
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
            return self._evaluate(Candidates(z_MD, designs, target_M)), designs

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
        n = candidates.latents.shape[0]
        zero_M, _ = self._constants(n)
        terms: dict[str, Tensor] = {}
        parts: list[Tensor] = []
        for term in self.terms:
            terms[term.name] = value_M = self._call(term, candidates, n)
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
            terms[term.name] = value_M = self._call(term, candidates, n)
            goal = self._bound(term)
            signed.append(self._signed(index, value_M))
            shortfall = goal.shortfall(value_M)
            violation = violation + goal.beyond(shortfall)
            penalty = penalty + PENALTY * term.weight * shortfall.square()
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

    def _call(self, term: Term, candidates: Candidates, n: int) -> Tensor:
        try:
            value = term.function(candidates)
        except (*FAILURES, MemoryError, OSError, ImportError) as error:
            if is_out_of_memory(error):
                raise  # fewer rows may do
            raise ObjectiveError(
                f"objective {term.name!r} fails on designs of shape {tuple(candidates.designs.shape)} "
                f"({type(error).__name__}: {first_line(error)}): make it take a batch of designs and give one number a row"
            ) from error
        if not isinstance(value, Tensor) or value.shape != (n,) or not value.is_floating_point():
            raise ObjectiveError(_wrong_value(term.name, value, n))
        return value

    # ------------------------------------------------------------------ at the door

    def check(self) -> None:
        """One evaluation of a few prior draws: every term must give finite real numbers, and may or may not have gradients.

        Raises `ObjectiveError` naming the term, what it returned and the remedy.
        """
        n = _CHECK_ROWS if self.across_rows else min(_CHECK_ROWS, self.decoder.block_rows)
        draws = self.space.draw(n, rng.generator(0)).to(self._zero)
        target_M = torch.arange(n, device=draws.device) % self.targets
        z = self.project(draws).detach().requires_grad_(True)
        self._without_gradient, self._constant = [], {}
        with self.decoder.frozen(), torch.enable_grad():
            designs = self.decoder.forward(z)
            candidates = Candidates(z, designs, target_M)
            for term in (*self.terms, *self.constraints):
                self._check_term(term, candidates)
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
            margin = self._bound(term).margin
            rounding = _ROUNDING * torch.finfo(draws.loss_M.dtype).eps * margin
            if self._margins[index]:
                self._margins[index] = min(margin, max(1e-3 * float(broken_C[index]), rounding))
        weights_C = torch.tensor([c.weight for c in self.constraints], dtype=torch.float64, device=self._zero.device)
        loss = 1.0 if self.pareto else spread(draws.loss_M[:, None])
        self.penalties_C = 20 * weights_C.clamp(min=1e-12) * loss / broken_C.square()

    def _check_term(self, term: Term, candidates: Candidates) -> None:
        aims = getattr(term.function, "targets", 1)
        if isinstance(aims, int) and aims not in (1, self.targets):
            raise ConfigError(
                f"objective {term.name!r} has {aims} targets of its own and the run has {self.targets}: give it one, or pass "
                "all of them as the task's target"
            )
        value = self._call(term, candidates, len(candidates.latents))
        bad = ~torch.isfinite(value)
        if bool(bad.all()):
            raise ObjectiveError(
                f"objective {term.name!r} gives {float(value.detach()[0])} for every draw from the prior: "
                "it must give finite numbers on the designs that the decoder makes"
            )
        if len(value) > 1 and bool((value == value[0]).all()):
            self._constant[term.name] = float(value.detach()[0])
        if not value.requires_grad:
            self._without_gradient.append(term.name)
            return
        weights = torch.arange(1.0, len(value) + 1, dtype=value.dtype, device=value.device)  # unequal, as in the probe
        (gradient,) = torch.autograd.grad(
            (value.nan_to_num() * weights).sum(), candidates.latents, retain_graph=True, allow_unused=True
        )
        if gradient is None or not bool((gradient != 0).any()):
            self._without_gradient.append(term.name)

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


def _some(steering: Steering | None, rows: slice) -> Steering | None:
    return None if steering is None else steering.take(rows)


def _wrong_value(name: str, value: object, n: int) -> str:
    got = describe(value)
    if isinstance(value, Tensor) and value.shape == (n,):
        got = f"{value.dtype} numbers"
    remedy = "return one number a row and do not reduce over rows, for example .flatten(1).mean(1)"
    if isinstance(value, Tensor) and value.is_complex():
        remedy = "return real numbers, for example .abs()"
    elif isinstance(value, Tensor) and value.shape == (n,):
        remedy = "return floating-point numbers, for example with .float()"
    return f"objective {name!r} returned {got} for {n} rows, expected a float tensor of shape ({n},): {remedy}"

"""AskTell: runs ask/tell optimizers, one a target, as one `Search` whose asks are decoded together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentopt.errors import ShapeError
from latentopt.interfaces import Evaluation, SearchState
from latentopt.problem import Problem
from latentopt.rng import RowNoise, derive_seed

Floats = NDArray[np.float64]


class Told(NamedTuple):
    """What became of n points: `points_nK`, and a figure a point `(n,)`, all on the host.

    `merit_n` is the loss plus the penalty of broken constraints: what to minimize where nothing else is known.
    `loss_n` and `violation_n` are for optimizers that treat constraints themselves; the violation is None where the
    problem has none. A point that failed (a figure was NaN or infinite) has NaN in all of them.
    """

    points_nK: Floats
    loss_n: Floats
    merit_n: Floats
    violation_n: Floats | None

    @property
    def failed_n(self) -> NDArray[np.bool_]:
        """Which points have no value."""
        return np.isnan(self.merit_n)


class AskTellOptimizer(Protocol):
    """Minimizes for one target, in K coordinates. `ask` and `tell` alternate; every number comes from `seed`."""

    def add(self, told: Told) -> None:
        """Takes in points that it did not ask for: the starts, before the first `ask`."""

    def ask(self, n: int, seed: int) -> Floats:
        """n new points `(n, K)`; a function of what it was told and of the seed alone."""

    def tell(self, told: Told) -> None:
        """The points of the last `ask`, in its order, and what became of them."""


@dataclass(frozen=True)
class Coordinates:
    """What optimizers move: latents are `centre + scale * (A u)` for coordinates u `(N, K)`.

    `basis_DK` is A, its columns orthogonal, or None for one coordinate a latent value. `notes` are for the result.
    """

    centre_D: Tensor
    scale_D: Tensor
    basis_DK: Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """K."""
        return len(self.centre_D) if self.basis_DK is None else self.basis_DK.shape[1]

    def latents(self, u_NK: Tensor) -> Tensor:
        """Latents `(N, D)` of coordinates `(N, K)`."""
        w_ND = u_NK if self.basis_DK is None else u_NK @ self.basis_DK.T
        return self.centre_D + self.scale_D * w_ND

    def of(self, z_ND: Tensor) -> Tensor:
        """Coordinates `(N, K)` of latents `(N, D)`, or of the nearest latents that have any (the pseudo-inverse)."""
        w_ND = (z_ND - self.centre_D) / self.scale_D
        return w_ND if self.basis_DK is None else w_ND @ (self.basis_DK / self.basis_DK.square().sum(0))


def prior_coordinates(problem: Problem, seed: int) -> Coordinates:
    """Every latent value, in standard deviations from the prior's mean."""
    like = torch.zeros(1, dtype=problem.decoder.latent_dtype, device=problem.decoder.device)
    return Coordinates(problem.space.mean(like), problem.space.std(like))


@dataclass
class AskTellState(SearchState):
    """`batch` rows (slots) a target, new points at each step. `best_*` rank what each slot has held so far."""

    whole: ClassVar[frozenset[str]] = frozenset({"centre_D", "scale_D", "basis_DK"})
    rows_restart: ClassVar[bool] = True

    best_loss_N: Tensor
    best_violation_N: Tensor
    centre_D: Tensor
    scale_D: Tensor
    basis_DK: Tensor | None
    targets: list[int]
    optimizers: list[AskTellOptimizer]
    rng: RowNoise
    remarks: tuple[str, ...]

    @property
    def notes(self) -> Sequence[str]:
        """What the result should say of how the coordinates were chosen."""
        return self.remarks

    @property
    def coordinates(self) -> Coordinates:
        """The map from the optimizers' coordinates to latents."""
        return Coordinates(self.centre_D, self.scale_D, self.basis_DK)


class AskTell:
    """Adapts ask/tell optimizers to the `Search` protocol: one a target, all their asks decoded as one batch.

    Args:
        make: `(coordinates K, seed) -> AskTellOptimizer`, called once a target.
        evaluations: at most so many rows a target, the starts among them.
        batch: rows a target that are asked for at each step, and rows a target that the state holds.
        coordinates: `(problem, seed) -> Coordinates`; by default all latent values, in the prior's standard deviations.
        coordinate_rows: rows that making them costs at most.

    A batch costs one copy to the device (points) and one back (figures). At each step a row of the state gets a new
    point, and the better a point, the worse the best of the row that it gets: so the rows' best are at every time the
    `batch` best of all points of their target (the first half of Batcher's bitonic merge, 1968), and none is lost.
    """

    def __init__(
        self,
        make: Callable[[int, int], AskTellOptimizer],
        evaluations: int,
        batch: int,
        coordinates: Callable[[Problem, int], Coordinates] = prior_coordinates,
        coordinate_rows: int = 0,
    ) -> None:
        self.make, self.evaluations = make, evaluations
        self.batch = max(1, min(batch, evaluations))
        self.coordinates, self.coordinate_rows = coordinates, coordinate_rows
        self.n_steps = evaluations // self.batch  # init knows how many starts there are, and lowers it

    # ------------------------------------------------------------------ the starts

    def start_rows(self, problem: Problem, n: int) -> tuple[int, int]:
        """The starts, or as many as there are slots, of every target, and what the coordinates cost; and the slots."""
        each = -(-n // problem.targets)
        first = problem.targets * max(self.batch, min(each, self.evaluations)) + self.coordinate_rows
        return first, problem.targets * self.batch

    def init(self, problem: Problem, z_ND: Tensor, target_N: Tensor, rng: RowNoise) -> AskTellState:
        """Evaluates the starts (the first `evaluations` of each target); where they are fewer than slots, asks for more."""
        targets = [int(t) for t in target_N.unique()]
        rows = [torch.nonzero(target_N == t)[: self.evaluations, 0] for t in targets]
        most = max(self.batch, *(len(part) for part in rows))
        self.n_steps = (self.evaluations - most) // self.batch
        # seeds of this place beside those of the asks at step 0, which are seed_for(0, target) themselves
        chart = self.coordinates(problem, derive_seed(rng.seed_for(0, 0), 1))
        optimizers = [self.make(chart.count, derive_seed(rng.seed_for(0, t), 2)) for t in targets]

        order = torch.cat(rows)
        z, target = problem.project(z_ND[order]), target_N[order]
        evaluation = problem.value(z, target)
        counts = [len(part) for part in rows]
        for optimizer, told in zip(optimizers, _told(problem, chart.of(z), evaluation, counts), strict=True):
            optimizer.add(told)
        missing = [max(0, self.batch - count) for count in counts]
        if any(missing):
            seeds = [rng.seed_for(0, t) for t in targets]
            more = target_N.new_tensor(targets).repeat_interleave(target_N.new_tensor(missing))
            filled, found = _ask_and_tell(problem, chart, optimizers, missing, seeds, z, more)
            z, target, evaluation = (
                torch.cat([z, filled]),
                torch.cat([target, more]),
                Evaluation.join([evaluation, found]),
            )
        best = torch.cat([_best_rows(evaluation, target, t)[: self.batch] for t in targets])
        loss_N, violation_N = _figures(evaluation)
        return AskTellState(
            z_ND=z[best],
            target_N=target[best],
            row_id_N=torch.arange(len(best), device=z.device),
            evaluation=evaluation.take(best),
            done_N=torch.zeros(len(best), dtype=torch.bool, device=z.device),
            step=0,
            best_loss_N=loss_N[best],
            best_violation_N=violation_N[best],
            centre_D=chart.centre_D,
            scale_D=chart.scale_D,
            basis_DK=chart.basis_DK,
            targets=targets,
            optimizers=optimizers,
            rng=rng,
            remarks=chart.notes,
        )

    # ------------------------------------------------------------------ a batch

    def step(self, problem: Problem, state: SearchState) -> None:
        """Asks every target's optimizer for `batch` points, decodes all of them at once, and tells."""
        assert isinstance(state, AskTellState)
        state.step += 1
        seeds = [state.rng.seed_for(state.step, t) for t in state.targets]
        counts = [self.batch] * len(state.targets)
        z_ND, evaluation = _ask_and_tell(
            problem, state.coordinates, state.optimizers, counts, seeds, state.z_ND, state.target_N
        )
        loss_N, violation_N = _figures(evaluation)
        rows = _places(loss_N, violation_N, state.best_loss_N, state.best_violation_N, len(counts))
        state.z_ND, state.evaluation = z_ND[rows], evaluation.take(rows)
        loss_N, violation_N = loss_N[rows], violation_N[rows]
        level_N = violation_N == state.best_violation_N
        better_N = (violation_N < state.best_violation_N) | (level_N & (loss_N < state.best_loss_N))
        state.best_loss_N = torch.where(better_N, loss_N, state.best_loss_N)
        state.best_violation_N = torch.where(better_N, violation_N, state.best_violation_N)


def _ask_and_tell(
    problem: Problem,
    chart: Coordinates,
    optimizers: Sequence[AskTellOptimizer],
    counts: Sequence[int],
    seeds: Sequence[int],
    like: Tensor,
    target_N: Tensor,
) -> tuple[Tensor, Evaluation]:
    """Latents and evaluation of so many new points a target, all in one batch."""
    asked = [
        _asked(optimizer, n, seed, chart.count) for optimizer, n, seed in zip(optimizers, counts, seeds, strict=True)
    ]
    points_NK = np.concatenate(asked)
    z_ND = problem.project(chart.latents(torch.from_numpy(points_NK).to(like)))
    evaluation = problem.value(z_ND, target_N)
    for optimizer, n, told in zip(optimizers, counts, _told(problem, points_NK, evaluation, counts), strict=True):
        if n:
            optimizer.tell(told)
    return z_ND, evaluation


def _asked(optimizer: AskTellOptimizer, n: int, seed: int, count: int) -> Floats:
    if n == 0:
        return np.empty((0, count))
    points = np.asarray(optimizer.ask(n, seed), dtype=np.float64)
    if points.shape != (n, count):
        raise ShapeError(
            f"{type(optimizer).__name__}.ask returned points of shape {points.shape}, expected ({n}, {count}): "
            "return one row of coordinates a point"
        )
    return points


def _told(problem: Problem, points_NK: Tensor | Floats, evaluation: Evaluation, counts: Sequence[int]) -> list[Told]:
    """What each target's optimizer is told: the one copy from the device."""
    rows = [evaluation.loss_M, evaluation.merit_M, evaluation.violation_M]
    if isinstance(points_NK, Tensor):  # starts: their coordinates are found on the device
        rows += list(points_NK.T)
    found = torch.stack([row.double() for row in rows]).cpu().numpy()
    loss, merit, violation = found[:3]
    points = found[3:].T if isinstance(points_NK, Tensor) else points_NK
    failed = ~np.isfinite(loss + merit + violation)
    loss, merit, violation = (np.where(failed, np.nan, part) for part in (loss, merit, violation))
    ends = np.cumsum(counts)
    return [
        Told(points[a:b], loss[a:b], merit[a:b], violation[a:b] if problem.constraints else None)
        for a, b in zip([0, *ends[:-1]], ends, strict=True)
    ]


# ---------------------------------------------------------------------- ranks, on the device


def _figures(evaluation: Evaluation) -> tuple[Tensor, Tensor]:
    """Loss and violation, both `(N,)` and infinite for rows that can never win; the driver ranks by the same two."""
    loss_N, violation_N = evaluation.loss_M, evaluation.violation_M
    failed_N = ~torch.isfinite(loss_N) | ~torch.isfinite(violation_N)
    return loss_N.masked_fill(failed_N, torch.inf), violation_N.masked_fill(failed_N, torch.inf)


def _rank(loss_TB: Tensor, violation_TB: Tensor) -> Tensor:
    """Columns in the order of (violation, loss) for each row, `(T, B)`."""
    by_loss = loss_TB.argsort(dim=1, stable=True)
    return by_loss.gather(1, violation_TB.gather(1, by_loss).argsort(dim=1, stable=True))


def _best_rows(evaluation: Evaluation, target_N: Tensor, target: int) -> Tensor:
    """Row numbers of one target, best first."""
    rows = torch.nonzero(target_N == target)[:, 0]
    loss_N, violation_N = _figures(evaluation)
    return rows[_rank(loss_N[rows][None], violation_N[rows][None])[0]]


def _places(loss_N: Tensor, violation_N: Tensor, best_loss_N: Tensor, best_violation_N: Tensor, targets: int) -> Tensor:
    """Which new row each slot gets `(N,)`: a target's best new one goes to the slot with its worst best, and so on."""
    new_TB = _rank(loss_N.view(targets, -1), violation_N.view(targets, -1))
    held_TB = _rank(best_loss_N.view(targets, -1), best_violation_N.view(targets, -1))
    rows_TB = torch.empty_like(new_TB).scatter_(1, held_TB.flip(1), new_TB)
    first_T1 = torch.arange(targets, device=loss_N.device)[:, None] * new_TB.shape[1]
    return (rows_TB + first_T1).flatten()

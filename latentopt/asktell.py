"""AskTell: runs ask/tell optimizers, one a target, as one `Search` whose asks are decoded together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentopt.early import judge_early
from latentopt.interfaces import Evaluation, SearchState
from latentopt.optimizers import AllTargets, AskTellOptimizers, Floats, MakeOne, OneATarget, PruneAll, Told
from latentopt.problem import Problem
from latentopt.rng import RowNoise, derive_seed


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


class _Heard(NamedTuple):
    """What optimizers heard of one step's points: the figures of `Told` after the points, and each rung's estimates."""

    figures: list[Floats | None]
    estimates: list[Floats]


@dataclass
class AskTellState(SearchState):
    """`batch` rows (slots) a target, new points at each step. `held_2N` ranks what each slot has held so far (host)."""

    whole: ClassVar[frozenset[str]] = frozenset({"centre_D", "scale_D", "basis_DK"})
    rows_restart: ClassVar[bool] = True
    made_again: ClassVar[frozenset[str]] = frozenset({"rng", "optimizers", "remarks", "targets", "starts"})

    held_2N: Floats
    centre_D: Tensor
    scale_D: Tensor
    basis_DK: Tensor | None
    targets: list[int]
    optimizers: AskTellOptimizers
    rng: RowNoise
    remarks: tuple[str, ...]
    heard: list[_Heard]  # at each step: for checkpoints
    starts: tuple[Evaluation, Tensor]
    asked: int = 0  # points that optimizers asked for, and those of them that they gave up early
    pruned: int = 0

    @property
    def begun(self) -> tuple[Evaluation, Tensor]:
        """All the starts that were evaluated, with their targets."""
        return self.starts

    def saved(self) -> dict[str, Any]:
        """The same, with what was told in one array a figure."""
        found = super().saved()
        columns = zip(*(heard.figures for heard in self.heard), strict=True)
        told = [None if part[0] is None else np.stack(part) for part in columns]
        found["heard"] = [told, [heard.estimates for heard in self.heard if heard.estimates]]
        keeps = getattr(self.optimizers, "saved", None)
        return found if keeps is None else {**found, "optimizers": keeps()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Become the state that was saved. Optimizers are asked and told again what they were: no decode, and no pickle."""
        fields = {name: value for name, value in saved.items() if name not in ("heard", "optimizers")}
        super().restore({**fields, "heard": []})
        columns, estimates = saved["heard"]
        counts = [len(self.z_ND) // len(self.targets)] * len(self.targets)
        again = getattr(self.optimizers, "told_again", None)
        prune: PruneAll | None = getattr(self.optimizers, "prune", None)
        with nullcontext() if again is None else again(saved["optimizers"]):
            for step in range(1, self.step + 1):
                points_NK = self.optimizers.ask(counts, functools.partial(self.rng.seed_for, step))
                heard = _Heard(
                    [None if column is None else column[step - 1] for column in columns],
                    estimates[step - 1] if estimates else [],
                )
                for rung, merit_N in enumerate(heard.estimates):
                    assert prune is not None
                    prune(rung, merit_N.copy(), counts)
                self.optimizers.tell(Told(points_NK, *heard.figures), counts)  # type: ignore[arg-type]
                self.heard.append(heard)

    @property
    def notes(self) -> Sequence[str]:
        """What the result should say of how the coordinates were chosen."""
        return self.remarks

    @property
    def closing_notes(self) -> Sequence[str]:
        """What the result should say of pruning."""
        if not self.pruned:
            return ()
        return (f"{self.pruned} of {self.asked} candidates were pruned early and spared the full evaluation",)

    @property
    def coordinates(self) -> Coordinates:
        """The map from the optimizers' coordinates to latents."""
        return Coordinates(self.centre_D, self.scale_D, self.basis_DK)

    def take(self, rows: Tensor) -> None:
        """Keep only these rows (indices), in this order."""
        self.held_2N = self.held_2N[:, rows.cpu().numpy()]
        super().take(rows)


class AskTell:
    """Adapts ask/tell optimizers to the `Search` protocol: all targets' asks are decoded as one batch.

    Args:
        make: `(coordinates K, seed) -> AskTellOptimizer`, called once a target; or `AllTargets`, called once for all.
        evaluations: at most so many rows a target, the starts among them.
        batch: rows a target that are asked for at each step, and rows a target that the state holds.
        coordinates: `(problem, seed) -> Coordinates`; by default all latent values, in the prior's standard deviations.
        coordinate_rows: rows that making them costs at most.

    Optimizers are told the points that they asked for, with the figures of where the region moved them to.

    A batch costs one copy of figures from the device, and two to it: points, and row numbers. At each step a row of the
    state gets a new point, and the better a point, the worse the best of the row that it gets: so the rows' best are at
    every time the `batch` best of all points of their target (the first half of Batcher's bitonic merge, 1968), and none
    is lost. Ranks are taken on the host, where the figures are anyway: two dozen small device operations fewer.
    """

    def __init__(
        self,
        make: MakeOne | AllTargets,
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
        counts = [len(part) for part in rows]
        self.n_steps = (self.evaluations - max(self.batch, *counts)) // self.batch
        # seeds of this place beside those of the asks at step 0, which are seed_for(0, target) themselves
        chart = self.coordinates(problem, derive_seed(rng.seed_for(0, 0), 1))
        optimizers = self._optimizers(problem, chart, targets, rng)

        order = torch.cat(rows)
        z, target = problem.project(z_ND[order]), target_N[order]
        evaluation = problem.value(z, target)
        told, figures_2N = _told(problem, chart.of(z), evaluation)
        optimizers.add(told, counts)
        starts = (evaluation, target)
        pruned_N = np.zeros(len(z), dtype=np.bool_)
        missing = [max(0, self.batch - count) for count in counts]
        if any(missing):
            more = target_N.new_tensor(targets).repeat_interleave(target_N.new_tensor(missing))
            filled, found, figures_2M, pruned_M, _ = self._ask_and_tell(
                problem, chart, optimizers, missing, rng, 0, z, more
            )
            pruned_N = np.concatenate([pruned_N, pruned_M])
            z, target = torch.cat([z, filled]), torch.cat([target, more])
            evaluation, figures_2N = Evaluation.join([evaluation, found]), np.concatenate([figures_2N, figures_2M], 1)
        best_N = _best_rows(figures_2N, target.cpu().numpy(), targets, self.batch)
        best = torch.from_numpy(best_N).to(z.device)
        return AskTellState(
            z_ND=z[best],
            target_N=target[best],
            row_id_N=torch.arange(len(best), device=z.device),
            evaluation=evaluation.take(best),
            done_N=torch.zeros(len(best), dtype=torch.bool, device=z.device),
            step=0,
            held_2N=figures_2N[:, best_N],
            centre_D=chart.centre_D,
            scale_D=chart.scale_D,
            basis_DK=chart.basis_DK,
            targets=targets,
            optimizers=optimizers,
            rng=rng,
            remarks=(*chart.notes, *self._spent(max(counts))),
            starts=starts,
            heard=[],
            asked=sum(missing),
            pruned=int(pruned_N.sum()),
            pruned_N=_if_any(pruned_N[best_N], z.device),
        )

    def _spent(self, starts: int) -> list[str]:
        """What to say where the starts leave nothing to search with."""
        if self.n_steps > 0:
            return []
        return [f"its {self.evaluations} evaluations a target went to the {starts} starts: give more, or fewer starts"]

    def _optimizers(self, problem: Problem, chart: Coordinates, targets: list[int], rng: RowNoise) -> AskTellOptimizers:
        if isinstance(self.make, AllTargets):
            return self.make.make(problem, chart, targets, rng)
        made = [self.make(chart.count, derive_seed(rng.seed_for(0, t), 2)) for t in targets]
        return OneATarget(made, targets, chart.count)

    # ------------------------------------------------------------------ a batch

    def step(self, problem: Problem, state: SearchState) -> None:
        """Asks for `batch` points a target, decodes all of them at once, and tells."""
        assert isinstance(state, AskTellState)
        state.step += 1
        counts = [self.batch] * len(state.targets)
        z_ND, evaluation, figures_2N, pruned_N, heard = self._ask_and_tell(
            problem, state.coordinates, state.optimizers, counts, state.rng, state.step, state.z_ND, state.target_N
        )
        state.heard.append(heard)
        rows_N = _places(figures_2N, state.held_2N, len(counts))
        state.held_2N = _better(figures_2N[:, rows_N], state.held_2N)
        rows = torch.from_numpy(rows_N).to(z_ND.device)
        state.z_ND, state.evaluation = z_ND[rows], evaluation.take(rows)
        state.asked, state.pruned = state.asked + len(pruned_N), state.pruned + int(pruned_N.sum())
        state.pruned_N = _if_any(pruned_N[rows_N], rows.device)

    def finish(self, state: SearchState) -> None:
        """The search has ended, or was ended: lets optimizers close what they hold open."""
        assert isinstance(state, AskTellState)
        finish = getattr(state.optimizers, "finish", None)
        if finish is not None:
            finish()

    def _ask_and_tell(
        self,
        problem: Problem,
        chart: Coordinates,
        optimizers: AskTellOptimizers,
        counts: Sequence[int],
        rng: RowNoise,
        step: int,
        like: Tensor,
        target_N: Tensor,
    ) -> tuple[Tensor, Evaluation, Floats, NDArray[np.bool_], _Heard]:
        """Latents, evaluation, figures of so many new points a target, all in one batch, which of them were pruned, and what
        optimizers heard of them."""
        points_NK = optimizers.ask(counts, lambda target: rng.seed_for(step, target))
        z_ND = problem.project(chart.latents(torch.from_numpy(points_NK).to(like)))
        prune: PruneAll | None = getattr(optimizers, "prune", None)
        estimates: list[Floats] = []
        if prune is None:
            evaluation, pruned_N = problem.value(z_ND, target_N), np.zeros(len(z_ND), dtype=np.bool_)
        else:

            def at_rung(rung: int, merit_N: Floats) -> NDArray[np.bool_]:
                estimates.append(merit_N.copy())
                return prune(rung, merit_N, counts)

            evaluation, pruned_N = judge_early(problem, z_ND, target_N, at_rung)
        told, figures_2N = _told(problem, points_NK, evaluation, pruned_N)
        optimizers.tell(told, counts)
        return z_ND, evaluation, figures_2N, pruned_N, _Heard(list(told[1:]), estimates)


def _if_any(flags_N: NDArray[np.bool_], device: torch.device) -> Tensor | None:
    """The flags on the device; None where none is set, which costs no copy."""
    return torch.from_numpy(flags_N).to(device) if flags_N.any() else None


def _told(
    problem: Problem, points_NK: Tensor | Floats, evaluation: Evaluation, pruned_N: NDArray[np.bool_] | None = None
) -> tuple[Told, Floats]:
    """What optimizers are told, and the figures `(2, N)` that rank rows: the one copy from the device."""
    rows = [evaluation.loss_M, evaluation.merit_M, evaluation.violation_M]
    front = problem.pareto
    if front:
        rows += list(problem.objectives(evaluation).T)
    if isinstance(points_NK, Tensor):  # their coordinates are known on the device alone
        rows += list(points_NK.T)
    found = torch.stack(rows).double().cpu().numpy()
    loss, merit, violation = found[:3]
    figures_2N = _figures(found[[0, 2]])
    objectives_KN = found[3 : 3 + len(problem.terms)] if front else None
    points = found[3 + (len(problem.terms) if front else 0) :].T if isinstance(points_NK, Tensor) else points_NK
    sound = np.isfinite(found[: 3 if objectives_KN is None else 3 + len(problem.terms)])
    if not sound.all():
        failed = ~sound.all(0) if pruned_N is None else ~sound.all(0) & ~pruned_N
        loss, merit, violation = (np.where(failed, np.nan, part) for part in (loss, merit, violation))
        objectives_KN = None if objectives_KN is None else np.where(failed, np.nan, objectives_KN)
    told = Told(
        points,
        loss,
        merit,
        violation if problem.constraints else None,
        None if objectives_KN is None else objectives_KN.T,
    )
    return told, figures_2N


# ---------------------------------------------------------------------- ranks, on the host


def _figures(figures_2N: Floats) -> Floats:
    """Loss and violation `(2, N)`, infinite for rows that can never win; the driver ranks by the same two."""
    finite_2N = np.isfinite(figures_2N)
    if not finite_2N.all():
        figures_2N[:, ~finite_2N.all(0)] = np.inf
    return figures_2N


def _rank(figures_2TB: Floats) -> NDArray[np.intp]:
    """Columns in the order of (violation, loss) for each row, `(T, B)`."""
    return np.lexsort(figures_2TB, axis=-1)


def _best_rows(figures_2N: Floats, target_N: NDArray[np.int64], targets: Sequence[int], batch: int) -> NDArray[np.intp]:
    """Numbers of the `batch` best rows of each target, best first."""
    rows = [np.nonzero(target_N == target)[0] for target in targets]
    return np.concatenate([part[_rank(figures_2N[:, part])][:batch] for part in rows])


def _places(figures_2N: Floats, held_2N: Floats, targets: int) -> NDArray[np.intp]:
    """Which new row each slot gets `(N,)`: a target's best new one goes to the slot with its worst best, and so on."""
    new_TB = _rank(figures_2N.reshape(2, targets, -1))
    held_TB = _rank(held_2N.reshape(2, targets, -1))
    first_T1 = np.arange(0, new_TB.size, new_TB.shape[1])[:, None]
    rows_N = np.empty(new_TB.size, dtype=np.intp)
    rows_N[(held_TB[:, ::-1] + first_T1).ravel()] = (new_TB + first_T1).ravel()
    return rows_N


def _better(new_2N: Floats, held_2N: Floats) -> Floats:
    """The better of two by (violation, loss), each `(2, N)`."""
    better_N = (new_2N[1] < held_2N[1]) | ((new_2N[1] == held_2N[1]) & (new_2N[0] < held_2N[0]))
    return np.where(better_N, new_2N, held_2N)

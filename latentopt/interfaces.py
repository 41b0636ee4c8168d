"""What plugins and the core agree on: aligned rows, evaluations, goals, the config bases and the protocols.

Shapes: M or N rows, D latent values, T targets, K objectives, R residuals (docs/shapes.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Generator, Tensor

from latentopt.goals import Goal
from latentopt.models import StrictModel
from latentopt.steering import Steering

if TYPE_CHECKING:
    from latentopt.decoder import Decoder
    from latentopt.latent import LatentSpace
    from latentopt.problem import Problem
    from latentopt.rng import RowNoise

# ---------------------------------------------------------------------- rows


class Candidates(NamedTuple):
    """Aligned rows that an objective judges: `latents (M, D)`, `designs (M, ...)`, `target_index (M,)` (int64)."""

    latents: Tensor
    designs: Tensor
    target_index: Tensor


class Evaluation(NamedTuple):
    """What a problem says of M rows.

    `loss_M`: the weighted sum of the objectives, always minimized. `merit_M`: what searches minimize, the loss plus the
    penalty of broken constraints. `violation_M`: by how much constraints are broken, 0 where all hold. `terms`: each
    term's own value by name, with its raw sign.
    """

    loss_M: Tensor
    merit_M: Tensor
    violation_M: Tensor
    terms: dict[str, Tensor]

    def take(self, rows: Tensor) -> Evaluation:
        """The same evaluation of these rows alone. Tensors that are one stay one."""
        loss = self.loss_M[rows]
        merit = loss if self.merit_M is self.loss_M else self.merit_M[rows]
        terms = {name: loss if value is self.loss_M else value[rows] for name, value in self.terms.items()}
        return Evaluation(loss, merit, self.violation_M[rows], terms)

    def detach(self) -> Evaluation:
        """The same numbers without a graph."""
        loss = self.loss_M.detach()
        merit = loss if self.merit_M is self.loss_M else self.merit_M.detach()
        terms = {name: loss if value is self.loss_M else value.detach() for name, value in self.terms.items()}
        return Evaluation(
            loss, merit, self.violation_M.detach() if self.violation_M.requires_grad else self.violation_M, terms
        )

    def where(self, chosen_M: Tensor, other: Evaluation) -> Evaluation:
        """This evaluation of the rows that are chosen `(M,)`, the other one of the rest. Tensors that are one stay one."""
        made: dict[int, Tensor] = {}

        def pick(mine_M: Tensor, theirs_M: Tensor) -> Tensor:
            if mine_M is theirs_M:
                return mine_M
            if id(mine_M) not in made:
                made[id(mine_M)] = torch.where(chosen_M, mine_M, theirs_M)
            return made[id(mine_M)]

        return Evaluation(
            pick(self.loss_M, other.loss_M),
            pick(self.merit_M, other.merit_M),
            pick(self.violation_M, other.violation_M),
            {name: pick(value_M, other.terms[name]) for name, value_M in self.terms.items()},
        )

    @staticmethod
    def join(parts: Sequence[Evaluation]) -> Evaluation:
        """Evaluations of consecutive blocks of rows as one."""
        if len(parts) == 1:
            return parts[0]
        return Evaluation(
            loss_M=torch.cat([part.loss_M for part in parts]),
            merit_M=torch.cat([part.merit_M for part in parts]),
            violation_M=torch.cat([part.violation_M for part in parts]),
            terms={name: torch.cat([part.terms[name] for part in parts]) for name in parts[0].terms},
        )


# ---------------------------------------------------------------------- protocols


class Objective(Protocol):
    """Gives one number a row, `(M,)`; must not reduce over rows.

    One that keeps several targets, and reads `target_index`, may say how many in an attribute `targets`: the problem
    then checks that the run has as many. What a reader of the result should know of the number (whose opinion it is, that
    designs are resized for it) goes into an attribute `notes`, a list of sentences: it is read when the run is planned, after
    a first call, and the result has each sentence once. What a NaN of it means, and what helps, goes into an attribute
    `nan_means`, a text for errors and for the note on rows that were lost.
    """

    def __call__(self, candidates: Candidates, /) -> Tensor: ...


@runtime_checkable
class LeastSquares(Objective, Protocol):
    """An objective that is a sum of squares, and gives the residuals too: `(M, R)` with `sum(r**2, 1)` the number."""

    def residuals(self, candidates: Candidates, /) -> Tensor: ...


@runtime_checkable
class EarlyReports(Objective, Protocol):
    """An objective that is dear, such as a simulator, and can tell early about what it will say.

    `early(candidates, rung)` estimates the value, `(M,)`, at rung 0 to `rungs - 1`, each better and dearer than the one
    before; the call itself gives the value. A search that prunes spares rows the value where estimates are poor.
    """

    rungs: int

    def early(self, candidates: Candidates, rung: int, /) -> Tensor: ...


class Sampler(Protocol):
    """Draws n latents `(n, D)`; the first k of n are those of k."""

    def __call__(self, n: int, space: LatentSpace, generator: Generator, /) -> Tensor: ...


class Interpolator(Protocol):
    """A path through K >= 2 key latents: `(K, D)` and times `(T,)` in [0, 1] to points `(T, D)`."""

    def __call__(self, keys_KD: Tensor, t_T: Tensor, /) -> Tensor: ...


@dataclass
class SearchState:
    """The visible state of a search. Every tensor field has rows first, unless `whole` names it.

    `evaluation` is the one at `z_ND`, never of the rows before the last move. `steering` is the driver's: a search
    passes it on to every evaluation, `problem.value(z_ND, target_N, state.steering)`.
    """

    whole: ClassVar[frozenset[str]] = frozenset()
    made_again: ClassVar[frozenset[str]] = frozenset({"rng"})  # fields that are no numbers, and that `init` makes alike
    rows_restart: ClassVar[bool] = False  # ask/tell: each step's rows are new points, so a NaN ends no row
    draws: ClassVar[bool] = False  # a sampler's rows are draws: what counts is where they end, not the best they passed

    z_ND: Tensor
    target_N: Tensor
    row_id_N: Tensor
    evaluation: Evaluation
    done_N: Tensor
    step: int
    steering: Steering | None = field(default=None, kw_only=True)
    pruned_N: Tensor | None = field(default=None, kw_only=True)  # rows given up early: infinite, and yet not lost

    @property
    def notes(self) -> Sequence[str]:
        """What the result should say of how the search set itself up; asked for after `init`.

        Of a state with a field `gradient_ND`, the gradient at `z_ND`: how many starts cannot move, for want of a finite one
        where the merit is finite. Rows whose merit is not are dropped and counted.
        """
        gradient_ND = getattr(self, "gradient_ND", None)
        if gradient_ND is None:
            return ()
        sound_N = torch.isfinite(self.evaluation.merit_M)
        stuck = int(((~torch.isfinite(gradient_ND)).any(1) & sound_N).sum())
        if not stuck:
            return ()
        return (
            f"the gradient of {stuck} of {len(gradient_ND)} starts is NaN or infinite, so they cannot move: look at the "
            "objectives there (a root or a logarithm of 0?), or use a search without gradients",
        )

    @property
    def begun(self) -> tuple[Evaluation, Tensor]:
        """What `init` found of the starts and the targets that they are for: fewer rows may have gone into the state."""
        return self.evaluation, self.target_N

    @property
    def closing_notes(self) -> Sequence[str]:
        """What the result should say of how the search went."""
        return ()

    def kept(self) -> dict[str, Tensor]:
        """The tensors that are not by rows, by field: they are saved with the run."""
        found = {name: getattr(self, name) for name in self.whole}
        return {name: value for name, value in sorted(found.items()) if isinstance(value, Tensor)}

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds of it, by field: tensors, numbers, words. What `init` makes again is left out."""
        return {
            one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name not in self.made_again
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Become the state that was saved, from one that `init` just made of the same starts."""
        for name, value in saved.items():
            setattr(self, name, value)

    def take(self, rows: Tensor) -> None:
        """Keep only these rows (indices), in this order."""
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if one.name in self.whole or not isinstance(value, Tensor | Evaluation | Steering):
                continue
            setattr(self, one.name, value[rows] if isinstance(value, Tensor) else value.take(rows))


class Search(Protocol):
    """A way of moving latents. `init` evaluates the starts; `step` moves, projects and evaluates, n_steps times.

    A step replaces the state's tensors and never writes into them. A search whose `init` costs other than one row a start,
    or whose state has other than one row a start, says so with a method `start_rows(problem, n_starts) -> (rows of init,
    rows of the state)`, so that no budget is begun that cannot be kept; one whose first step costs other than its `init` does
    so with a method `step_rows(problem, n_rows)`. One that keeps what an earlier step learnt of the merit (gradients,
    curvature) has a method `changed(problem, state)`: the driver calls it when it has replaced `state.steering`, and the
    search evaluates anew at `z_ND`, forgets what no longer holds, and clears `done_N`. Without it, such a search minimizes
    the loss plus a fixed penalty. One that holds something open has a method `finish(state)`, called once it has ended,
    however it ended.
    """

    n_steps: int

    def init(self, problem: Problem, z_ND: Tensor, target_N: Tensor, rng: RowNoise) -> SearchState: ...

    def step(self, problem: Problem, state: SearchState) -> None: ...


@dataclass(frozen=True)
class Reference:
    """What is known of an objective's value before any search. Reports draw it, and say how the best found compares.

    `axis` is what values are drawn over, such as "volume fraction", and `of_N` what it is for the N designs asked about.
    `bounds` are curves by name, each the axis `(K,)`, ascending, and the value `(K,)` there. `known` are values of known
    designs by the name of their set, such as "the training set": the axis `(P,)` and the value `(P,)`. Sets of one name are
    the same designs in the same order in every objective, so that a run's own loss can be told of them. `names` are what
    the P designs of a set are called, where they have names: the best of them is then told by its own.
    """

    axis: str
    of_N: Tensor
    bounds: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    known: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)


# ---------------------------------------------------------------------- config bases


class PluginConfig(StrictModel):
    """The options of one plugin. Subclasses add `kind: Literal["..."] = "..."` and their fields."""

    slot: ClassVar[str] = ""

    @classmethod
    def kind_name(cls) -> str:
        """The kind, as config files write it; an empty string where the class has none."""
        found = cls.model_fields.get("kind")
        return found.default if found is not None and isinstance(found.default, str) else ""


class DecoderConfig(PluginConfig):
    """Describes a decoder. `build()` gives it; `examples()` and `draw()` are optional."""

    slot: ClassVar[str] = "decoders"

    def build(self) -> Decoder:
        """The decoder."""
        raise NotImplementedError

    def examples(self) -> Tensor | None:
        """Held-out designs `(n, *design_shape)` that ship with the decoder, or None."""
        return None

    def draw(self, designs: Tensor) -> Tensor | None:
        """Designs `(N, ...)` as pictures `(N, C, H, W)` in [0, 1], or None where they are pictures or cannot be drawn."""
        return None


class ObjectiveConfig(PluginConfig):
    """Describes an objective; `build(decoder)` checks shapes and gives a callable from `Candidates` to `(M,)`.

    `goal` says what to do with the number, `weight` scales its loss, `name` is what results call it (its kind by default).
    Reports use what `of(designs)`, `reference(designs)` and `pictures(designs)` give; all are optional.
    """

    slot: ClassVar[str] = "objectives"
    across_rows: ClassVar[bool] = False  # whether a row's number depends on the other rows of its target
    waits_for_device: ClassVar[bool] = False  # whether it reads tensors on the host, as a solver that stops early does

    goal: Goal = "minimize"
    weight: float = Field(default=1.0, ge=0)
    name: str | None = Field(default=None, min_length=1)

    def build(self, decoder: Decoder) -> Objective:
        """The callable."""
        raise NotImplementedError

    def of(self, designs: Tensor) -> Tensor | None:
        """The number of designs `(N, ...)` on the CPU by themselves, `(N,)`; None where it takes a decoder or a target.

        Reports tell by it what a run's target has.
        """
        return None

    def reference(self, designs: Tensor) -> Reference | None:
        """What is known of the value beforehand, for designs `(N, ...)` on the CPU; None where there is nothing to say."""
        return None

    def pictures(self, designs: Tensor) -> Mapping[str, Tensor]:
        """Pictures `(C, H, W)` in [0, 1], by title, that say more of designs than this number: what reports draw.

        The designs `(N, ...)` are on the CPU, distinct and best first; of several targets, the best of each in the targets'
        order; of a front its ends, then what lies between. C is 1 or 3. Of one title a report shows the first, so several
        objectives may give the same picture.
        """
        return {}

    def with_target(self, target: Any) -> ObjectiveConfig:
        """This objective with the task's target filled in, where it has an empty `target` field."""
        if "target" in type(self).model_fields and getattr(self, "target", None) is None:
            return type(self)(**{**_given(self), "target": target})
        return self


class SamplerConfig(PluginConfig):
    """Describes a sampler; `build(decoder)` gives a callable `(n, space, generator) -> (n, D)`.

    As starts of a search it gives `n` rows a target: the first n, or the best n of `screened_from` draws.
    """

    slot: ClassVar[str] = "samplers"

    n: int = Field(default=8, ge=1, le=10_000_000)
    screened_from: int | None = Field(default=None, ge=1, le=10_000_000)

    @model_validator(mode="after")
    def _enough_to_screen(self) -> SamplerConfig:
        if self.screened_from is not None and self.screened_from < self.n:
            raise ValueError(f"screened_from ({self.screened_from}) must be at least n ({self.n})")
        return self

    def build(self, decoder: Decoder) -> Sampler:
        """The callable."""
        raise NotImplementedError


class InterpolatorConfig(PluginConfig):
    """Describes an interpolator; `build(decoder)` gives a callable `(keys_KD, t_T) -> (T, D)`.

    `even` re-spaces the steps so that neighbouring designs are equally far apart in design space.
    """

    slot: ClassVar[str] = "interpolators"

    even: bool = False

    def build(self, decoder: Decoder) -> Interpolator:
        """The callable."""
        raise NotImplementedError


class SearchConfig(PluginConfig):
    """Describes a search; `build(decoder)` gives it. `keep` is how many of its best distinct rows a target go on.

    A row is finished, and leaves the batch where that saves work, when its best loss is `stop_at` or less, or has fallen by
    less than the share `stop_gain` over the last `stop_window` steps (0: never). Looked at with each report; only rows that
    break no constraint count, and rows that spread over a front are never finished.
    """

    slot: ClassVar[str] = "searches"
    needs_gradient: ClassVar[bool] = True
    needs_residuals: ClassVar[bool] = False  # whether it works on sums of squares alone

    keep: int | None = Field(default=None, ge=1)
    stop_at: float | None = None
    stop_gain: float = Field(default=0.0, ge=0, lt=1)
    stop_window: int = Field(default=20, ge=1)

    def check(self, problem: Problem) -> None:
        """Raise `ConfigError` where the search is not for this problem. Called when a run is planned."""

    def build(self, decoder: Decoder) -> Search:
        """The search."""
        raise NotImplementedError


SLOTS: dict[str, type[PluginConfig]] = {
    base.slot: base for base in (DecoderConfig, SamplerConfig, InterpolatorConfig, ObjectiveConfig, SearchConfig)
}


def _given(config: BaseModel) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.model_fields_set}

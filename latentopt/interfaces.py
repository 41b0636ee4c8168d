"""What plugins and the core agree on: aligned rows, evaluations, goals, the config bases and the protocols.

Shapes: M or N rows, D latent values, T targets, K objectives, R residuals (docs/shapes.md).
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, BeforeValidator, Field, SerializationInfo, field_serializer, model_validator
from torch import Generator, Tensor

from latentopt.models import StrictModel
from latentopt.yamltext import suggest

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
        """The same evaluation of these rows alone."""
        return self._each(lambda value: value[rows])

    def detach(self) -> Evaluation:
        """The same numbers without a graph."""
        return self._each(lambda value: value.detach() if value.requires_grad else value)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Evaluation:
        loss = change(self.loss_M)
        terms = {name: loss if value is self.loss_M else change(value) for name, value in self.terms.items()}
        return Evaluation(
            loss_M=loss,
            merit_M=loss if self.merit_M is self.loss_M else change(self.merit_M),
            violation_M=change(self.violation_M),
            terms=terms,
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


# ---------------------------------------------------------------------- goals


class Bound(StrictModel):
    """A goal with numbers: exactly one of `equals`, `at_most`, `at_least`, `between`."""

    equals: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    between: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Bound:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a goal takes exactly one of equals, at_most, at_least, between, got {given or 'none'}")
        if self.between is not None and self.between[0] >= self.between[1]:
            raise ValueError(f"between needs low < high, got {list(self.between)}")
        return self

    def shortfall(self, value_M: Tensor) -> Tensor:
        """How far each value is from meeting the goal, `(M,)`; for `equals` signed, else at least 0."""
        if self.equals is not None:
            return value_M - self.equals
        if self.at_most is not None:
            return (value_M - self.at_most).clamp(min=0)
        if self.at_least is not None:
            return (self.at_least - value_M).clamp(min=0)
        low, high = self.between or (0.0, 0.0)
        return (low - value_M).clamp(min=0) + (value_M - high).clamp(min=0)


def _goal_words(value: Any) -> Any:
    if isinstance(value, str) and value not in ("minimize", "maximize"):
        raise ValueError(
            f"a goal is minimize, maximize, or a bound such as {{at_most: 0.2}} (equals, at_most, at_least, between), "
            f"got {value!r}{suggest(value, ('minimize', 'maximize'))}"
        )
    return value


Goal = Annotated[Literal["minimize", "maximize"] | Bound, BeforeValidator(_goal_words)]


def goal_loss(goal: Goal, value_M: Tensor) -> Tensor:
    """The loss of one objective: the value, minus the value, or the squared shortfall of a bound."""
    if isinstance(goal, Bound):
        return goal.shortfall(value_M).square()
    return value_M if goal == "minimize" else -value_M


# ---------------------------------------------------------------------- protocols


class Objective(Protocol):
    """Gives one number a row, `(M,)`; must not reduce over rows.

    One that keeps several targets, and reads `target_index`, may say how many in an attribute `targets`: the problem
    then checks that the run has as many.
    """

    def __call__(self, candidates: Candidates, /) -> Tensor: ...


@runtime_checkable
class LeastSquares(Objective, Protocol):
    """An objective that is a sum of squares, and gives the residuals too: `(M, R)` with `sum(r**2, 1)` the number."""

    def residuals(self, candidates: Candidates, /) -> Tensor: ...


class Sampler(Protocol):
    """Draws n latents `(n, D)`; the first k of n are those of k."""

    def __call__(self, n: int, space: LatentSpace, generator: Generator, /) -> Tensor: ...


class Interpolator(Protocol):
    """A path through K >= 2 key latents: `(K, D)` and times `(T,)` in [0, 1] to points `(T, D)`."""

    def __call__(self, keys_KD: Tensor, t_T: Tensor, /) -> Tensor: ...


@dataclass
class SearchState:
    """The visible state of a search. Every tensor field has rows first, unless `whole` names it.

    `evaluation` is the one at `z_ND`, never of the rows before the last move.
    """

    whole: ClassVar[frozenset[str]] = frozenset()
    rows_restart: ClassVar[bool] = False  # ask/tell: each step's rows are new points, so a NaN ends no row

    z_ND: Tensor
    target_N: Tensor
    row_id_N: Tensor
    evaluation: Evaluation
    done_N: Tensor
    step: int

    @property
    def notes(self) -> Sequence[str]:
        """What the result should say of how the search set itself up."""
        return ()

    def take(self, rows: Tensor) -> None:
        """Keep only these rows (indices), in this order."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in self.whole or not isinstance(value, Tensor | Evaluation):
                continue
            setattr(self, field.name, value.take(rows) if isinstance(value, Evaluation) else value[rows])


class Search(Protocol):
    """A way of moving latents. `init` evaluates the starts; `step` moves, projects and evaluates, n_steps times."""

    n_steps: int

    def init(self, problem: Problem, z_ND: Tensor, target_N: Tensor, rng: RowNoise) -> SearchState: ...

    def step(self, problem: Problem, state: SearchState) -> None: ...


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
    """

    slot: ClassVar[str] = "objectives"
    across_rows: ClassVar[bool] = False  # whether a row's number depends on the other rows of its target

    goal: Goal = "minimize"
    weight: float = Field(default=1.0, ge=0)
    name: str | None = Field(default=None, min_length=1)

    def build(self, decoder: Decoder) -> Objective:
        """The callable."""
        raise NotImplementedError

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
    """Describes a search; `build(decoder)` gives it. `keep` is how many of its best distinct rows a target go on."""

    slot: ClassVar[str] = "searches"
    needs_gradient: ClassVar[bool] = True

    keep: int | None = Field(default=None, ge=1)

    def build(self, decoder: Decoder) -> Search:
        """The search."""
        raise NotImplementedError


SLOTS: dict[str, type[PluginConfig]] = {
    base.slot: base for base in (DecoderConfig, SamplerConfig, InterpolatorConfig, ObjectiveConfig, SearchConfig)
}

# ---------------------------------------------------------------------- callables in place of configs


def identity_of(function: Any) -> dict[str, str]:
    """A callable's name and the sha256 of its source (or of its name where there is no source)."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        source = inspect.getsource(function if inspect.isroutine(function) else type(function))
    except (OSError, TypeError):
        source = name
    return {"callable": name, "sha256": hashlib.sha256(source.encode()).hexdigest()[:16]}


class _Called(PluginConfig):
    """A callable given in Python where a config could stand; files record its name and hash."""

    function: Any

    @field_serializer("function")
    def _name_it(self, function: Any, info: SerializationInfo) -> Any:
        return identity_of(function) if info.mode == "json" else function

    @model_validator(mode="after")
    def _can_be_called(self) -> _Called:
        if not callable(self.function):
            raise ValueError(
                "a recorded callable cannot be run from a file: pass the function itself from Python, "
                "or make it a plugin or a 'property' objective"
            )
        return self


class CalledObjective(_Called, ObjectiveConfig):
    """Any callable from `Candidates` to `(M,)` as an objective, from Python."""

    kind: Literal["callable"] = "callable"

    def build(self, decoder: Decoder) -> Objective:
        function: Objective = self.function
        return function


class CalledSampler(_Called, SamplerConfig):
    """Any callable `(n, space, generator) -> (n, D)` as a sampler, from Python."""

    kind: Literal["callable"] = "callable"

    def build(self, decoder: Decoder) -> Sampler:
        function: Sampler = self.function
        return function


class CalledInterpolator(_Called, InterpolatorConfig):
    """Any callable `(keys_KD, t_T) -> (T, D)` as an interpolator, from Python."""

    kind: Literal["callable"] = "callable"

    def build(self, decoder: Decoder) -> Interpolator:
        function: Interpolator = self.function
        return function


class GivenDecoder(DecoderConfig):
    """A decoder made in Python; files record its name."""

    kind: Literal["python"] = "python"
    decoder: Any

    @field_serializer("decoder")
    def _name_it(self, decoder: Any, info: SerializationInfo) -> Any:
        return {"name": decoder.name} if info.mode == "json" else decoder

    def build(self) -> Decoder:
        found: Decoder = self.decoder
        if not callable(getattr(found, "decode", None)):
            raise ValueError("a decoder made in Python cannot be rebuilt from a file: use a 'module' decoder")
        return found


CALLED: dict[str, Callable[..., PluginConfig]] = {
    "objectives": CalledObjective,
    "samplers": CalledSampler,
    "interpolators": CalledInterpolator,
}


def _given(config: BaseModel) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.model_fields_set}

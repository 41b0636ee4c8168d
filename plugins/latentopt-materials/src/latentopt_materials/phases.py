"""Objectives that need a solve: phases, how a graded design mixes them, accuracy, and the range of what is possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from latentopt import Candidates, ConfigError, Decoder, Objective, Reference, ShapeError
from latentopt_materials.designs import MaterialObjective, beyond_reach
from latentopt_materials.homogenise import effective
from latentopt_materials.laws import Law
from latentopt_materials.properties import COLUMNS, SETS, THRESHOLD, are_known, properties, symmetric
from latentopt_materials.solver import Accuracy

Positive = Annotated[float, Field(gt=0)]
_LEAST_TOLERANCE = 1e-6  # of float32: its rounding is of this size at a contrast of 1000 (README)
_CONTRASTS = {"float32": 1e4, "float64": 1e8}  # tested at 1000; the rounding of a solve grows with the contrast
_GREY = (
    "{0!r} judges designs as they are decoded, grey pixels too: a measure {{kind: {0}, threshold: 0.5}} says what two pure "
    "phases have, and a constraint {{kind: grey, goal: {{at_most: 0.06}}}} keeps designs crisp"
)
_STRAY = 0.01  # by how much designs may lie outside of 0 to 1 without a word
_POINTS = 101  # of a bound's curve


class Measure(NamedTuple):
    """A number from an effective tensor: the loads to solve for, `(L, unit loads)`, and `(N, L, L)` to `(N,)`."""

    loads: Tensor
    number: Callable[[Tensor], Tensor]


class EffectiveObjective(MaterialObjective):
    """Base of effective properties.

    `exponent` p: a pixel of volume fraction c has the modulus m0 + (m1 - m0) c^p of its phases (black, white). 1 is the
    arithmetic mean, the most that a fine mixture can have; above 1 grey pays less than its share (SIMP, Bendsoe 1989).
    `tolerance`: the most by which a solved row's diagonal entries may be off, as a share, from the grid's own value; a bound,
    not an estimate. The gradient is off by about its root. Rows that do not get there in `iterations` are NaN: the run drops
    and counts them. `precision` is that of the solve.
    """

    waits_for_device: ClassVar[bool] = True  # once every four iterations: rows that are solved leave
    decided_by: ClassVar[tuple[str, ...]] = ()  # options that decide the tensor, besides `exponent` and `threshold`

    exponent: float = Field(default=1.0, ge=1, le=10)
    tolerance: float = Field(default=1e-4, gt=0, le=0.1)
    iterations: int = Field(default=1000, ge=1, le=100_000)
    precision: Literal["float32", "float64"] = "float32"

    @model_validator(mode="after")
    def _reachable(self) -> EffectiveObjective:
        if self.precision == "float32" and self.tolerance < _LEAST_TOLERANCE:
            raise ValueError(
                f"float32 reaches a tolerance of {_LEAST_TOLERANCE:g}, got {self.tolerance:g}: set precision: float64"
            )
        return self

    def law(self, dim: int) -> Law:
        """The local law on grids of so many axes."""
        raise NotImplementedError

    def moduli(self, dim: int) -> Tensor:
        """The phases' moduli `(P, 2)`, black and white, float64."""
        raise NotImplementedError

    def measured(self, dim: int) -> Measure:
        """What is measured. Raises `ConfigError` where there is no such thing in `dim` dimensions."""
        raise NotImplementedError

    def tensors(self, designs: Tensor, loads: Tensor | None = None) -> Tensor:
        """The effective tensors of designs `(N, 1, *grid)`, `(N, L, L)`; all unit loads by default. Differentiable.

        Raises `ShapeError` for designs of another shape.
        """
        if designs.ndim not in (4, 5) or designs.shape[1] != 1 or min(designs.shape) < 1:
            raise ShapeError(
                f"effective tensors are of designs (N, 1, H, W) or (N, 1, D, H, W), got shape {tuple(designs.shape)}"
            )
        fraction = self.fractions(designs).to(getattr(torch, self.precision))
        fraction = fraction if self.exponent == 1 else fraction**self.exponent
        law, phases = self.law(fraction.ndim - 1), self.moduli(fraction.ndim - 1).to(fraction)
        black, white = phases.view(1, *phases.shape, *(1,) * law.dim).unbind(2)
        moduli = torch.lerp(black, white, fraction.unsqueeze(1))
        accuracy = Accuracy(self.tolerance, self.iterations)
        return effective(moduli, law, loads=loads, reference=phases.amin(1).double().cpu(), accuracy=accuracy)

    def build(self, decoder: Decoder) -> Objective:
        dim = len(self.grid_of(decoder))
        self.measured(dim)  # which is there, or refused
        phases = self.moduli(dim)
        contrast, most = float((phases.amax(1) / phases.amin(1)).max()), _CONTRASTS[self.precision]
        if contrast == 1:
            raise ConfigError(f"objective {self.kind_name()!r} has two equal phases: no design differs from any other")
        if contrast > most:
            raise ConfigError(
                f"objective {self.kind_name()!r} has phases of a contrast of {contrast:.3g}, {self.precision} is right up to "
                f"{most:g}: bring them nearer" + (", or set precision: float64" if self.precision == "float32" else "")
            )

        def value(c: Candidates) -> Tensor:
            return self.of(c.designs).to(c.latents.dtype)

        value.nan_means = (  # type: ignore[attr-defined]
            f"not solved to a tolerance of {self.tolerance:g} within {self.iterations} iterations; raise iterations, or the "
            "tolerance, or bring the phases nearer"
        )
        asked = ", ".join(f"{name} {_plain(getattr(self, name))}" for name in self.decided_by)
        notes = [f"values of kind {self.kind_name()!r} are for {asked}"]  # of each, where terms differ
        notes += [_GREY.format(self.kind_name())] if self.threshold is None else []
        low, high = decoder.probe.low, decoder.probe.high
        if low < -_STRAY or high > 1 + _STRAY:
            notes.append(
                f"this decoder's designs go from {low:.3g} to {high:.3g}: {self.kind_name()!r} takes what lies below 0 for "
                "black and above 1 for white"
            )
        value.notes = [*notes, *self._out_of_reach(dim)]  # type: ignore[attr-defined]
        return value

    def _out_of_reach(self, dim: int) -> Iterator[str]:
        """A sentence where the goal's numbers are beyond what any volume fraction allows."""
        ends = [float(end) for _, curve in self.bounds(dim).values() for end in (curve.min(), curve.max())]
        if ends:
            called = f"{self.kind_name()} {getattr(self, 'component', '')}".strip()
            yield from beyond_reach(self.goal, min(ends), max(ends), f"of these phases has a {called}")

    def curves(self, fraction: Tensor, dim: int) -> dict[str, Tensor]:
        """What is possible at these volume fractions of the white phase, by name."""
        return {}

    def bounds(self, dim: int) -> dict[str, tuple[Tensor, Tensor]]:
        """The same as curves over the volume fraction, each `(axis (K,), value (K,))`."""
        axis = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
        return {name: (axis.float(), value.float()) for name, value in self.curves(axis, dim).items()}

    def known(self, designs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Volume fractions and values of the known designs, by set; none where their properties have not been computed.

        They have for the default phases, mixed without exponent; of conductivities also for a threshold of 0.5.
        """
        cut = "" if self.threshold is None else "cut "
        column = f"{cut}{self.kind_name()}"
        usual = all(
            getattr(self, name) == type(self).model_fields[name].default for name in (*self.decided_by, "exponent")
        )
        if not usual or column not in COLUMNS or self.threshold not in (None, THRESHOLD) or not are_known(designs):
            return {}
        measure, found = self.measured(2), {}
        loads = measure.loads.double()
        for which, title in SETS.items():
            one = properties()[which]
            value = measure.number(loads @ symmetric(one[column]) @ loads.T)
            found[title] = (one[f"{cut}volume fraction"][:, 0].float(), value.float())
        return found

    def of(self, designs: Tensor) -> Tensor:
        """The number of designs `(N, 1, *grid)`, `(N,)`. Raises `ShapeError` for others."""
        measure = self.measured(designs.ndim - 2)
        return measure.number(self.tensors(designs, measure.loads)).to(designs.dtype)

    def reference(self, designs: Tensor) -> Reference:
        """Bounds over the volume fraction, where the designs lie on that axis, and known designs."""
        of_N = self.fractions(designs).flatten(1).mean(1)
        return Reference("volume fraction", of_N, self.bounds(designs.ndim - 2), self.known(designs))


def _plain(option: Any) -> str:
    return f"{option[0]:g} (black) and {option[1]:g} (white)" if isinstance(option, tuple) else str(option)


def named(lower_and_upper: tuple[Tensor, Tensor], lower: str, upper: str) -> dict[str, Tensor]:
    """A pair of bounds by name."""
    return {lower: lower_and_upper[0], upper: lower_and_upper[1]}

"""The objective `aero`: what NeuralFoil says of an airfoil at an angle of attack, or at a lift coefficient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from latentopt import Candidates, Decoder, Objective, ObjectiveConfig, Reference
from latentopt_airfoils import published
from latentopt_airfoils.known import check_decoder, reference
from latentopt_airfoils.neuralfoil import LEAST_ALPHA, MOST_ALPHA, Aero as Figures, Flow, NeuralFoil, Size, network
from latentopt_airfoils.outlines import thickness
from latentopt_airfoils.polarplots import polar_picture

Quantity = Literal[
    "drag", "lift", "moment", "lift_to_drag", "confidence", "alpha", "upper_transition", "lower_transition"
]


class Aero(ObjectiveConfig):
    """One figure of each airfoil in the opinion of NeuralFoil, `(M,)`; designs are CST numbers `(M, 18)`.

    `quantity`: the coefficient of `drag`, `lift` or `moment` (about the quarter chord, nose up positive), `lift_to_drag`, the
    network's `confidence` (0 to 1) in all of them, the angle `alpha` in degrees, or where transition lies on the upper or
    the lower surface, in chords. Exactly one of `alpha`, the angle of attack in degrees, and `lift`, a lift coefficient at
    which the figure is taken, says where: the angle is then solved for, with gradients. A design that does not reach that
    lift between -12 and 20 degrees has no such figure, and its value is NaN, which ends a row.

    `reynolds` is by the chord. `n_crit` is the e^n method's amplification factor: 9 for an ordinary wind tunnel, 12 to 14 for
    a glider in flight (XFoil's manual). `trip_upper` and `trip_lower` force transition at a place in chords; at 1 it is free.
    `network` is NeuralFoil's size of that name; its own default is `xlarge`. Incompressible.

    The figures are those of the PyPI package, which was fitted to XFoil's. Add `confidence` as a constraint of at least
    0.9: where it is low they are guesses, and a search finds them.
    """

    kind: Literal["aero"] = "aero"
    quantity: Quantity = "drag"
    alpha: float | None = Field(default=None, ge=-25, le=25)
    lift: float | None = Field(default=None, ge=-3, le=4)
    reynolds: float = Field(default=1e6, ge=1e3, le=1e9)
    n_crit: float = Field(default=9.0, gt=0, le=20)
    trip_upper: float = Field(default=1.0, ge=0, le=1)
    trip_lower: float = Field(default=1.0, ge=0, le=1)
    network: Size = "xlarge"

    @model_validator(mode="after")
    def _where(self) -> Aero:
        given = {"alpha": self.alpha, "lift": self.lift}
        if (self.alpha is None) == (self.lift is None):
            raise ValueError(f"aero takes exactly one of alpha, in degrees, and lift, a coefficient, got {given}")
        if self.quantity in given and given[self.quantity] is not None:
            other = "lift" if self.quantity == "alpha" else "alpha"
            raise ValueError(f"aero of quantity {self.quantity!r} is {self.quantity} itself: give {other} instead")
        return self

    @property
    def flow(self) -> Flow:
        """The conditions."""
        return Flow(self.reynolds, self.n_crit, self.trip_upper, self.trip_lower)

    def build(self, decoder: Decoder) -> Objective:
        check_decoder(decoder, self.kind)
        return _Aero(self, network(self.network, decoder.device, decoder.latent_dtype))

    def of(self, designs: Tensor) -> Tensor:
        """The figure of designs `(N, 18)`, `(N,)`."""
        return _Aero(self, network(self.network, designs.device, designs.dtype)).of(designs)

    def reference(self, designs: Tensor) -> Reference:
        """The real airfoils' figures over their largest thickness, and the designs' thickness."""
        numbers = published.real().numbers.to(designs)
        with torch.no_grad():
            known = thickness(numbers).amax(1), self.of(numbers)
            return reference("largest thickness (chords)", thickness(designs).amax(1), known)

    def pictures(self, designs: Tensor) -> Mapping[str, Tensor]:
        """The polars of the best designs, and of the real airfoil nearest to the best: the same for every aero of one flow.

        The best real airfoil is no matter of one objective, since it has to keep the run's constraints: reports name it.
        """
        return {f"Polars at {self.flow}": polar_picture(designs, self.flow, self.network)} if len(designs) else {}


class _Aero:
    def __init__(self, config: Aero, net: NeuralFoil) -> None:
        self.quantity, self.alpha, self.lift, self.flow = config.quantity, config.alpha, config.lift, config.flow
        self.net = net
        self.notes = [  # of a run whose terms differ in flow there is one of each flow
            "figures of kind 'aero' are the opinion of a surrogate, NeuralFoil, and of no wind tunnel: the measure "
            "distance_to_real says how far from any real airfoil a design lies",
            f"figures of kind 'aero' are for {self.flow}",
        ]
        ends = f"from {LEAST_ALPHA:g} to {MOST_ALPHA:g} degrees"
        self.nan_means = (
            "" if self.lift is None else f"no angle of attack {ends} gives a lift coefficient of {self.lift:g}"
        )

    def of(self, designs: Tensor) -> Tensor:
        alpha: Any = self.alpha if self.lift is None else self.net.alpha_for(designs, self.lift, self.flow)
        if self.quantity == "alpha":
            return alpha  # solved for: without a lift the config refuses it
        found = self.net.at(designs, alpha, self.flow)
        return _ratio(found) if self.quantity == "lift_to_drag" else getattr(found, self.quantity)

    def __call__(self, c: Candidates) -> Tensor:
        return self.of(c.designs.to(c.latents.dtype)).to(c.latents.dtype)


def _ratio(found: Figures) -> Tensor:
    return found.lift / found.drag

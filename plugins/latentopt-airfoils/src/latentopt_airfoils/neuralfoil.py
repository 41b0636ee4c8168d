"""NeuralFoil in torch: lift, drag, moment and the network's own confidence of airfoils, batched and differentiable.

NeuralFoil (Peter Sharpe, MIT licence; PyPI `neuralfoil` 0.3.3) is a set of networks trained on XFoil's results. This is
its evaluation of CST numbers, equation for equation, on the weights that it publishes. Only the outputs that objectives
use are computed. All of it is the opinion of a surrogate of a panel method, not of a wind tunnel.
"""

from __future__ import annotations

import math
import weakref
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from latentopt_airfoils import published
from latentopt_airfoils.outlines import NUMBERS

Size = Literal["medium", "xlarge", "xxlarge"]
_INPUTS, _OUTPUTS = 25, 6
LEAST_ALPHA, MOST_ALPHA = -12.0, 20.0  # degrees: where an angle of attack is looked for
_STEPS, _SLOPE = 8, 0.02  # steps of Newton's method; least slope, per degree
_STRIDE = 5.0  # degrees: the longest step
REACHED = 1e-4  # how near a lift coefficient must be to the one that was asked for


class Aero(NamedTuple):
    """Figures of N airfoils, each `(N,)`: `alpha` in degrees, where transition lies in chords, all others as they are."""

    alpha: Tensor
    lift: Tensor
    drag: Tensor
    moment: Tensor
    confidence: Tensor
    upper_transition: Tensor
    lower_transition: Tensor


class Flow(NamedTuple):
    """The conditions: Reynolds number, amplification factor, and where transition is forced on either surface, in chords."""

    reynolds: float = 1e6
    n_crit: float = 9.0
    trip_upper: float = 1.0
    trip_lower: float = 1.0

    def __str__(self) -> str:
        trips = [
            f"transition by {place:g} chords on the {side} surface"
            for side, place in (("upper", self.trip_upper), ("lower", self.trip_lower))
            if place < 1
        ]
        return ", ".join([f"Reynolds number {self.reynolds:,.0f}", f"n_crit {self.n_crit:g}", *trips])


class NeuralFoil:
    """One of NeuralFoil's networks, on one device and in one precision."""

    def __init__(
        self, size: Size = "xlarge", *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ):
        found = published.arrays(f"neuralfoil/nn-{size}.npz")
        count = len(found) // 2
        self.weights = [found[f"net.{2 * i}.weight"].to(device, dtype) for i in range(count)]
        self.biases = [found[f"net.{2 * i}.bias"].to(device, dtype) for i in range(count)]
        # the other outputs describe boundary layers
        self.weights[-1], self.biases[-1] = self.weights[-1][:_OUTPUTS], self.biases[-1][:_OUTPUTS]
        training = published.arrays("neuralfoil/scaled_input_distribution.npz")
        self.mean = training["mean_inputs_scaled"].to(device, dtype)
        self.inverse = training["inv_cov_inputs_scaled"].to(device, dtype)
        # the other side up: surfaces change places and sign, and so does what is odd in the angle of attack
        self.other_way = torch.tensor([*range(8, 16), *range(8), *range(16, 23), 24, 23], device=device)
        self.signs = torch.ones(_INPUTS, device=device, dtype=dtype)
        self.signs[[*range(17), 18]] = -1
        self._last: tuple[Any, Any, tuple[Tensor, Tensor]] | None = None
        self.signs_out = torch.tensor([1.0, -1, 1, -1, 1, 1], device=device, dtype=dtype)

    # ------------------------------------------------------------------ inputs

    @staticmethod
    def inputs(designs: Tensor, alpha_N: Tensor, flow: Flow) -> Tensor:
        """What the network sees, `(N, 25)`."""
        angle = torch.deg2rad(alpha_N)[:, None]
        rest = torch.tensor(
            [(math.log(flow.reynolds) - 12.5) / 3.5, (flow.n_crit - 9) / 4.5, flow.trip_upper, flow.trip_lower],
            device=designs.device,
            dtype=designs.dtype,
        ).expand(len(designs), 4)
        shape = torch.cat([designs[:, : NUMBERS - 1], designs[:, NUMBERS - 1 :] * 50], dim=1)
        return torch.cat([shape, (2 * angle).sin(), angle.cos(), angle.sin().square(), rest], dim=1)

    # ------------------------------------------------------------------ the network

    def _net(self, x: Tensor) -> Tensor:
        """The raw outputs `(N, 6)`."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.nn.functional.silu(torch.nn.functional.linear(x, weight, bias))
        return torch.nn.functional.linear(x, self.weights[-1], self.biases[-1])

    def _scored(self, x: Tensor) -> Tensor:
        """The same, with the confidence falling to 0 away from the airfoils that the network was trained on."""
        y, away = self._net(x), x - self.mean
        distance = ((away @ self.inverse) * away).sum(1)
        return torch.cat([y[:, :1] - distance[:, None] / (2 * _INPUTS), y[:, 1:]], dim=1)

    def at(self, designs: Tensor, alpha: Tensor | float, flow: Flow = Flow()) -> Aero:  # noqa: B008  # immutable
        """The figures of designs `(N, 18)` at an angle of attack, in degrees, one for all or `(N,)`."""
        alpha_N = torch.as_tensor(alpha, device=designs.device, dtype=designs.dtype).expand(len(designs))
        x = self.inputs(designs, alpha_N, flow)
        y = self._scored(torch.cat([x, x[:, self.other_way] * self.signs]))
        upright, turned = y.chunk(2)
        turned = turned[:, [0, 1, 2, 3, 5, 4]] * self.signs_out
        y = (upright + turned) / 2
        return Aero(
            alpha_N,
            lift=y[:, 1] / 2,
            drag=((y[:, 2] - 2) * 2).exp(),
            moment=y[:, 3] / 20,
            confidence=y[:, 0].sigmoid(),
            upper_transition=y[:, 4].clamp(0, 1),
            lower_transition=y[:, 5].clamp(0, 1),
        )

    # ------------------------------------------------------------------ at a given lift

    def _lift_and_slope(self, designs: Tensor, alpha_N: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        """The lift coefficient and its derivative to the angle of attack, per degree, both `(N,)`.

        Forward differentiation written out, so that it works the same with and without gradients.
        """
        x = self.inputs(designs, alpha_N, flow)
        angle = torch.deg2rad(alpha_N)
        tangent = torch.zeros_like(x)
        tangent[:, 18], tangent[:, 19], tangent[:, 20] = 2 * (2 * angle).cos(), -angle.sin(), (2 * angle).sin()
        x = torch.cat([x, x[:, self.other_way] * self.signs])
        tangent = torch.cat([tangent, tangent * self.signs])
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x, tangent = torch.nn.functional.linear(x, weight, bias), tangent @ weight.T
            open_ = x.sigmoid()
            tangent = tangent * open_ * (1 + x * (1 - open_))
            x = x * open_
        last = self.weights[-1][1]
        both = torch.stack([x @ last + self.biases[-1][1], tangent @ last])
        upright, turned = both.chunk(2, dim=1)
        lift, slope = (upright - turned) / 4  # the mean of both ways up, halved
        return lift, torch.deg2rad(slope)

    def _solved(self, designs: Tensor, lift: float, flow: Flow) -> tuple[Tensor, Tensor]:
        """The angles, NaN where none was found, and the slope of lift there, both `(N,)`, without gradients.

        Several objectives of one problem ask this of one and the same tensor, so the last answer is kept.
        """
        key = None if designs.is_inference() else (designs._version, lift, flow)
        if self._last is not None and self._last[0]() is designs and self._last[1] == key and key is not None:
            return self._last[2]
        with torch.no_grad():
            fixed = designs.detach()
            alpha_N = torch.zeros_like(fixed[:, 0])
            for _ in range(_STEPS):
                found, slope = self._lift_and_slope(fixed, alpha_N, flow)
                step = ((lift - found) / slope.clamp(min=_SLOPE)).clamp(-_STRIDE, _STRIDE)
                alpha_N = (alpha_N + step).clamp(LEAST_ALPHA, MOST_ALPHA)
            found, slope = self._lift_and_slope(fixed, alpha_N, flow)
            answer = torch.where((found - lift).abs() < REACHED, alpha_N, torch.nan), slope
        self._last = (weakref.ref(designs), key, answer)
        return answer

    def alpha_for(self, designs: Tensor, lift: float, flow: Flow = Flow()) -> Tensor:  # noqa: B008  # immutable
        """The angle of attack in degrees at which each design has this lift coefficient, `(N,)`; NaN where none was found.

        Eight steps of Newton's method from 0 degrees, of at most 5 degrees each, kept within -12 to 20 degrees; found where
        the lift coefficient then is within 1e-4. Differentiable once in the designs, by the implicit function theorem: the
        steps are taken without gradients, and one more with them.
        """
        alpha_N, slope = self._solved(designs, lift, flow)
        if not designs.requires_grad:
            return alpha_N
        again, _ = self._lift_and_slope(designs, alpha_N, flow)
        # the value is 0, the gradient that of -lift / slope
        return alpha_N + (again.detach() - again) / slope


@lru_cache(maxsize=8)
def network(size: Size, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> NeuralFoil:
    """A network, read once."""
    return NeuralFoil(size, device=device, dtype=dtype)

"""Objectives on an airfoil's outline alone: thickness and its like, and how far it is from every real one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from latentopt import Decoder, Objective, ObjectiveConfig, Reference
from latentopt_airfoils import published
from latentopt_airfoils.known import check_decoder, distance_to, nearest_index, reference, spacing
from latentopt_airfoils.outlines import LOWER, TRAILING, UPPER, outline, thickness

_FROM, _TO = 0.05, 0.95  # between which places `thinnest` looks: every airfoil ends in an edge


class AirfoilShape(ObjectiveConfig):
    """A measure of each airfoil's outline, `(M,)`, in chords (`area` in square chords); designs are CST numbers `(M, 18)`.

    `quantity`: the largest `thickness`; `thinnest`, the least thickness between 5 and 95 % of the chord, below 0 where the
    surfaces cross; `camber`, the mean line's height where it is farthest from the chord line, with its sign; `area` of the
    section; `nose_radius`, of the leading edge: half the square of the mean first weight of both surfaces (Kulfan
    2008); `trailing_edge`, its thickness. Measured at 101 places, dense at both edges.
    """

    kind: Literal["airfoil_shape"] = "airfoil_shape"
    quantity: Literal["thickness", "thinnest", "camber", "area", "nose_radius", "trailing_edge"] = "thickness"

    def build(self, decoder: Decoder) -> Objective:
        check_decoder(decoder, self.kind)
        return lambda c: self.of(c.designs)

    def of(self, designs: Tensor) -> Tensor:
        """The measure of designs `(N, 18)`, `(N,)`."""
        if self.quantity == "nose_radius":
            mean = (designs[:, UPPER.start] - designs[:, LOWER.start]) / 2
            return mean.square() / 2
        if self.quantity == "trailing_edge":
            return designs[:, TRAILING]
        x_K, upper, lower = outline(designs)
        if self.quantity == "camber":
            line = (upper + lower) / 2
            return line.gather(1, line.abs().argmax(1, keepdim=True))[:, 0]
        thick = upper - lower
        if self.quantity == "area":
            return torch.trapezoid(thick, x_K, dim=1)
        if self.quantity == "thinnest":
            return torch.where((x_K >= _FROM) & (x_K <= _TO), thick, torch.inf).amin(1)
        return thick.amax(1)

    def reference(self, designs: Tensor) -> Reference:
        """The real airfoils' measures over their largest thickness, or over their area where that is the measure."""
        axis = AirfoilShape(quantity="area" if self.quantity == "thickness" else "thickness")
        numbers = published.real().numbers.to(designs)
        word = "area (square chords)" if axis.quantity == "area" else "largest thickness (chords)"
        with torch.no_grad():
            return reference(word, axis.of(designs), (axis.of(numbers), self.of(numbers)))


class DistanceToReal(ObjectiveConfig):
    """How far each airfoil is from the nearest real one, `(M,)`: root mean square distance of outlines, in chords.

    Over both surfaces, at 101 places each, dense at both edges; to the airfoils of the table that ships. As a
    constraint (`goal: {at_most: 0.003}`) it keeps a search among shapes that are known to have been made.
    """

    kind: Literal["distance_to_real"] = "distance_to_real"

    def build(self, decoder: Decoder) -> Objective:
        check_decoder(decoder, self.kind)
        return lambda c: self.of(c.designs)

    def of(self, designs: Tensor) -> Tensor:
        """The distance of designs `(N, 18)`, `(N,)`."""
        return distance_to(designs, nearest_index(designs))

    def reference(self, designs: Tensor) -> Reference:
        """How far the real airfoils are from each other, over their largest thickness, and what 95 % of them stay within."""
        numbers = published.real().numbers.to(designs)
        with torch.no_grad():
            thick, apart = thickness(numbers).amax(1), spacing().to(designs)
            ordinary = torch.quantile(apart, 0.95).expand(2)
            bounds = {
                "95 % of real airfoils lie nearer to their own nearest than": (
                    torch.stack([thick.min(), thick.max()]),
                    ordinary,
                )
            }
            return reference("largest thickness (chords)", thickness(designs).amax(1), (thick, apart), bounds)

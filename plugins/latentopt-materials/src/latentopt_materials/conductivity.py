"""Effective conductivity as an objective: of heat, charge, diffusion, permittivity; the equations are the same."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentopt import ConfigError
from latentopt_materials import bounds
from latentopt_materials.laws import Law, conduction
from latentopt_materials.phases import EffectiveObjective, Measure, Positive, named
from latentopt_materials.principal import largest_over_smallest

_AXES = ("xx", "yy", "zz")
_TIGHT = {
    True: "Hashin-Shtrikman",
    False: "isotropic Hashin-Shtrikman",
}  # of one axis they bind isotropic structures alone


class Conductivity(EffectiveObjective):
    """Effective conductivity of a periodic structure, `(M,)`, in the units of `phases` (black, white).

    `component`: "mean" of the principal conductivities; "xx" along the rows of a picture, "yy" along its columns, "zz"
    through a volume, and "xy"; "ratio" is xx / yy; "anisotropy" the largest over the smallest principal conductivity.
    Bounds that a report draws hold for designs of two pure phases: grey ones can lie above the upper one of Hashin and
    Shtrikman (never above Wiener's), so measure the thresholded design too.
    """

    decided_by: ClassVar[tuple[str, ...]] = ("phases",)

    kind: Literal["conductivity"] = "conductivity"
    component: Literal["mean", "xx", "yy", "zz", "xy", "ratio", "anisotropy"] = "mean"
    phases: tuple[Positive, Positive] = Field(default=(1.0, 10.0))

    def law(self, dim: int) -> Law:
        return conduction(dim)

    def moduli(self, dim: int) -> Tensor:
        return torch.tensor([self.phases], dtype=torch.float64)

    def measured(self, dim: int) -> Measure:
        eye = torch.eye(dim, dtype=torch.float64)
        if self.component in _AXES:
            axis = _AXES.index(self.component)
            if axis >= dim:
                raise ConfigError(
                    "component 'zz' needs designs (1, D, H, W), this decoder's are pictures: use 'xx' or 'yy'"
                )
            return Measure(eye[axis : axis + 1], lambda c: c[:, 0, 0])
        if self.component == "mean":
            return Measure(eye, lambda c: c.diagonal(dim1=1, dim2=2).mean(1))
        if self.component == "anisotropy":
            return Measure(eye, largest_over_smallest)
        if self.component == "xy":
            return Measure(eye[:2], lambda c: c[:, 0, 1])
        return Measure(eye[:2], lambda c: c[:, 0, 0] / c[:, 1, 1])

    def curves(self, fraction: Tensor, dim: int) -> dict[str, Tensor]:
        lower, upper = bounds.means(fraction, self.phases)
        if self.component in ("ratio", "anisotropy"):
            laminate = {"laminate": upper / lower}
            return laminate if self.component == "anisotropy" else laminate | {"laminate, turned": lower / upper}
        if self.component == "xy":
            return named(((lower - upper) / 2, (upper - lower) / 2), "laminate, one way", "laminate, other way")
        isotropic = bounds.conductivity(fraction, self.phases, dim)
        return named((lower, upper), "Wiener lower", "Wiener upper") | named(
            isotropic, *(f"{_TIGHT[self.component == 'mean']} {end}" for end in ("lower", "upper"))
        )

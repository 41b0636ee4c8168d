"""Effective elastic stiffness as an objective, for isotropic phases and small strains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentopt import ConfigError
from latentopt_materials import bounds
from latentopt_materials.laws import VOIGT, Law, elasticity
from latentopt_materials.phases import EffectiveObjective, Measure, Positive, named

Poisson = Annotated[float, Field(gt=-0.9, lt=0.49)]
_DIRECT = {2: {"xx": 0, "yy": 1, "xy": 2}, 3: {"xx": 0, "yy": 1, "zz": 2, "yz": 3, "xz": 4, "xy": 5}}


class Stiffness(EffectiveObjective):
    """Effective stiffness of a periodic structure, `(M,)`, in the units of `young` (black, white).

    `component`: "bulk" and "shear", averages over all directions; "young", Young's modulus of the isotropic medium with these
    two; "young_x", "young_y", "young_z" along an axis; "ratio", young_x / young_y; "poisson", -e_yy / e_xx under a pull along
    x; "xx", "yy", "xy" (3-D also "zz", "yz", "xz"), the diagonal of the stiffness in Voigt's form with engineering shears.
    In the plane, `plane` says which: "strain" or "stress"; "bulk" is then the plane's own (lambda + mu in plane strain), and
    Young's moduli and Poisson's ratios are those of the 2-D stiffness.
    Grey designs mix K and G separately (`exponent`). Bounds hold for designs of two pure phases.
    """

    decided_by: ClassVar[tuple[str, ...]] = ("young", "poisson", "plane")

    kind: Literal["stiffness"] = "stiffness"
    component: Literal[
        "bulk",
        "shear",
        "young",
        "young_x",
        "young_y",
        "young_z",
        "ratio",
        "poisson",
        "xx",
        "yy",
        "zz",
        "yz",
        "xz",
        "xy",
    ] = "bulk"
    young: tuple[Positive, Positive] = Field(default=(1.0, 10.0))
    poisson: tuple[Poisson, Poisson] = Field(default=(0.3, 0.3))
    plane: Literal["strain", "stress"] = "strain"

    def law(self, dim: int) -> Law:
        return elasticity(dim)

    def moduli(self, dim: int) -> Tensor:
        """K and G of both phases, `(2, 2)`: K is the bulk modulus in `dim` dimensions."""
        e, nu = (torch.tensor(pair, dtype=torch.float64) for pair in (self.young, self.poisson))
        g = e / (2 * (1 + nu))
        if dim == 3:
            return torch.stack([e / (3 * (1 - 2 * nu)), g])
        return torch.stack([g / (1 - 2 * nu) if self.plane == "strain" else e / (2 * (1 - nu)), g])

    def measured(self, dim: int) -> Measure:
        count = len(VOIGT[dim])
        eye = torch.eye(count, dtype=torch.float64)
        if self.component in _DIRECT[dim]:
            row = _DIRECT[dim][self.component]
            return Measure(eye[row : row + 1], lambda c: c[:, 0, 0])
        if self.component == "bulk":
            return Measure(eye[:dim].sum(0, keepdim=True), lambda c: c[:, 0, 0] / dim**2)
        numbers = _numbers(dim)
        if self.component not in numbers:
            raise ConfigError(
                f"component {self.component!r} needs designs (1, D, H, W), this decoder's are pictures: choose among "
                f"{', '.join(sorted({'bulk', *_DIRECT[2], *numbers}))}"
            )
        return Measure(eye, numbers[self.component])

    def curves(self, fraction: Tensor, dim: int) -> dict[str, Tensor]:
        (k, g), pairs = self.moduli(dim), self.moduli(dim).tolist()
        bulks, shears = ((low, high) for low, high in pairs)
        if self.component in ("bulk", "shear"):
            own = bulks if self.component == "bulk" else shears
            tight = bounds.bulk if self.component == "bulk" else bounds.shear
            found = named(bounds.means(fraction, own), "Reuss", "Voigt")
            return found | named(
                tight(fraction, bulks, shears, dim), "Hashin-Shtrikman lower", "Hashin-Shtrikman upper"
            )
        if self.component in ("ratio", "poisson"):
            return {}
        if self.component == "young":
            ends = zip(
                bounds.bulk(fraction, bulks, shears, dim), bounds.shear(fraction, bulks, shears, dim), strict=True
            )
            lower, upper = (_young(bulk, shear, dim) for bulk, shear in ends)
            return named((lower, upper), "Hashin-Shtrikman lower", "Hashin-Shtrikman upper")
        phases = torch.stack([_isotropic(k[i], g[i], dim) for i in (0, 1)])
        share = torch.stack([1 - fraction, fraction], 1).double()
        voigt = torch.einsum("kp,pij->kij", share, phases)
        reuss = torch.linalg.inv(torch.einsum("kp,pij->kij", share, torch.linalg.inv(phases)))
        read = self.measured(dim).number if self.component.startswith("young") else _entry(_DIRECT[dim][self.component])
        return named((read(reuss), read(voigt)), "Reuss", "Voigt")


def _entry(row: int) -> Callable[[Tensor], Tensor]:
    return lambda c: c[:, row, row]


def _isotropic(k: Tensor, g: Tensor, dim: int) -> Tensor:
    """Voigt's stiffness of an isotropic medium."""
    count = len(VOIGT[dim])
    found = torch.zeros(count, count, dtype=torch.float64)
    found[:dim, :dim] = k - 2 * g / dim
    found += torch.diag(torch.cat([2 * g.expand(dim), g.expand(count - dim)]))
    return found


def _young(k: Tensor, g: Tensor, dim: int) -> Tensor:
    """Young's modulus of an isotropic medium in `dim` dimensions: 4 K G / (K + G) or 9 K G / (3 K + G)."""
    return dim**2 * k * g / (dim * (dim - 1) / 2 * k + g)


def _numbers(dim: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Numbers of Voigt's whole stiffness `(N, v, v)`."""

    def bulk(c: Tensor) -> Tensor:
        return c[:, :dim, :dim].sum((1, 2)) / dim**2

    def shear(c: Tensor) -> Tensor:
        # the mean energy of all shears: (C_ijij - dim K) / (2 (number of shears)), as in Voigt's average
        whole = c[:, :dim, :dim].diagonal(dim1=1, dim2=2).sum(1) + 2 * c[:, dim:, dim:].diagonal(dim1=1, dim2=2).sum(1)
        return (whole - dim * bulk(c)) / (dim * (dim + 1) - 2)

    def along(axis: int) -> Callable[[Tensor], Tensor]:
        return lambda c: 1 / torch.linalg.inv_ex(c).inverse[:, axis, axis]

    def poisson(c: Tensor) -> Tensor:
        compliance = torch.linalg.inv_ex(c).inverse
        return -compliance[:, 0, 1] / compliance[:, 0, 0]

    axes = {f"young_{name}": along(axis) for axis, name in enumerate("xyz"[:dim])}
    return axes | {
        "shear": shear,
        "young": lambda c: _young(bulk(c), shear(c), dim),
        "ratio": lambda c: axes["young_x"](c) / axes["young_y"](c),
        "poisson": poisson,
    }

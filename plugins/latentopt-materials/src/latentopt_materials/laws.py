"""What a material's local law is, as the solver wants it: the energy of a pixel, the loads, the reference medium."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from latentopt_materials import elements


@dataclass(frozen=True, eq=False)
class Law:
    """A linear law with P moduli a pixel, for fields of `fields` components on grids of `dim` axes.

    The energy of a pixel is sum_p moduli_p sum_r weights[p, r] (V a)_r^2 of its modes a (elements.py). `mix` is V `(r, m)`.
    `unit`, `(L, m)`, are the modes of L uniform loads: gradients or strains of size 1.
    All are float64 on the CPU; the solver moves them.
    """

    dim: int
    fields: int
    mix: Tensor
    weights: Tensor
    unit: Tensor

    def form(self, moduli: Tensor) -> Tensor:
        """Q of uniform moduli `(P,)`, `(m, m)`: the energy of a pixel is a . Q a."""
        return (self.mix.T * (moduli.to(self.weights) @ self.weights)) @ self.mix

    def loaded(self, loads: Tensor) -> Tensor:
        """Modes of loads `(L', L)` that combine the unit loads, `(L', m)`."""
        return loads.to(self.unit) @ self.unit


def _uniform(gradient: Tensor, dim: int) -> Tensor:
    """The modes of a field whose gradient `(i, p)`, d u_p / d s_i, is the same everywhere: 2^(d-1) equal differences."""
    found = torch.zeros(2**dim - 1, gradient.shape[1], dtype=torch.float64)
    for i in range(dim):
        found[(1 << i) - 1] = gradient[i] * 2 ** (dim - 1)
    return found.flatten()


@lru_cache
def conduction(dim: int) -> Law:
    """Heat, charge or diffusion: one modulus, the conductivity. Loads: unit gradients along x, y(, z)."""
    mix, weights = elements.diagonal(elements.conduction_form(dim))
    eye = torch.eye(dim, dtype=torch.float64)
    unit = torch.stack([_uniform(eye[axis, :, None], dim) for axis in reversed(range(dim))])
    return Law(dim, 1, mix, weights, unit)


# Voigt's order, by spatial axes x, y, z = 0, 1, 2.
VOIGT = {2: ((0, 0), (1, 1), (0, 1)), 3: ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))}


@lru_cache
def elasticity(dim: int) -> Law:
    """Small strains of isotropic phases: moduli K and G, energy K (tr e)^2 + 2 G |dev e|^2 with dev in `dim` dimensions.

    Loads: unit strains in Voigt's order, xx, yy, xy or xx, yy, zz, yz, xz, xy; shears are engineering ones (gamma = 2 e).
    """
    mix, weights = elements.diagonal(elements.elastic_forms(dim))
    unit = []
    for p, q in VOIGT[dim]:
        strain = torch.zeros(dim, dim, dtype=torch.float64)
        i, j = dim - 1 - p, dim - 1 - q  # x is the last axis of the grid
        strain[i, j] += 0.5
        strain[j, i] += 0.5
        unit.append(_uniform(strain, dim))
    return Law(dim, dim, mix, weights, torch.stack(unit))

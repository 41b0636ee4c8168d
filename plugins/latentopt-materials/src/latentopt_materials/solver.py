"""Cells of periodic matter solved for uniform loads: conjugate gradients, preconditioned by FFT, all rows at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from latentopt_materials import elements
from latentopt_materials.laws import Law

# Values of one field (rows x loads x components x pixels) that are solved together on a CPU (docs/performance.md).
_VALUES_ON_CPU = 2**19
_EVERY = 4  # iterations between looks at another device than the CPU
_LEAVE_BELOW = 0.75  # share of rows still at work at which the others are taken out, which costs about an iteration
_TINY = 1e-30


@dataclass(frozen=True)
class Accuracy:
    """When a row is solved: its effective moduli are off by at most this share of the grid's own, within so many iterations.

    Every `every` iterations the device is waited for once, to see which rows are solved. Left out, that is at each one on a
    CPU, and at every fourth elsewhere.
    """

    tolerance: float = 1e-4
    iterations: int = 1000
    every: int | None = None


class Solved(NamedTuple):
    """Modes V a of each row's fields `(r, B, L, *grid)`, which rows are solved `(B,)`, after how many iterations `(B,)`."""

    modes: Tensor
    solved: Tensor
    iterations: Tensor


class Green:
    """The Green operator of a uniform reference medium on a grid, for the same elements: forces to displacements.

    It is exact for the discrete system, so the eigenvalues of the preconditioned one lie between the least and the largest
    ratio of a pixel's moduli to the reference's, whatever the grid's size.
    """

    def __init__(self, law: Law, grid: tuple[int, ...], reference: Tensor, like: Tensor) -> None:
        waves = elements.symbols(grid)
        form = law.form(reference).view(len(waves), law.fields, len(waves), law.fields)
        stiffness = torch.einsum("sptq,s...,t...->...pq", form, waves, waves)
        flat = stiffness.view(-1, law.fields, law.fields)
        flat[0] = torch.eye(law.fields)  # the mean, which is free
        inverse = torch.linalg.inv(flat)
        inverse[0] = 0
        kernel = inverse.view(stiffness.shape).movedim((-2, -1), (0, 1)).to(like)
        # twice each, for real and imaginary parts: a real times a complex tensor is done in complex numbers
        self.kernel = kernel.unsqueeze(-1).expand(*kernel.shape, 2).contiguous()
        self.axes, self.grid, self.fields = tuple(range(-len(grid), 0)), grid, law.fields

    def __call__(self, force: Tensor) -> Tensor:
        """Forces `(fields, B, L, *grid)` to displacements of the same shape."""
        waves = torch.view_as_real(torch.fft.rfftn(force, dim=self.axes))
        found = waves[:1] * self.kernel[:, 0].view(self.fields, 1, 1, *waves.shape[3:])
        for p, q in product(range(self.fields), range(1, self.fields)):
            found[p].addcmul_(waves[q], self.kernel[p, q])
        return torch.fft.irfftn(torch.view_as_complex(found), s=self.grid, dim=self.axes)


class Cell:
    """The discrete system of one law on one grid, of one type, on one device."""

    def __init__(self, law: Law, grid: tuple[int, ...], reference: Tensor, loads: Tensor, like: Tensor) -> None:
        self.law, self.grid, self.dim = law, grid, law.dim
        self.reference = reference.to(like)
        self.green = Green(law, grid, reference, like)
        self.weights = law.weights.to(like)
        self.mix = law.mix.to(like)
        self.plain = law.mix.shape == law.unit.shape[1:] * 2 and bool((law.mix.diagonal() == 1).all())  # V is 1
        self.load = (law.loaded(loads) @ law.mix.T).to(like)  # V a of the uniform loads, (L, r)

    def stiffness(self, moduli: Tensor) -> Tensor:
        """What multiplies each squared mode: `(B, P, *grid)` to `(r, B, 1, *grid)`."""
        return torch.einsum("pr,bp...->rb...", self.weights, moduli).contiguous().unsqueeze(2)

    def strain(self, u: Tensor) -> Tensor:
        """V a of displacements `(fields, B, L, *grid)`: `(r, B, L, *grid)`."""
        a = elements.modes(u, self.dim).flatten(0, 1)
        return a if self.plain else (self.mix @ a.flatten(1)).view(-1, *a.shape[1:])

    def force(self, stress: Tensor) -> Tensor:
        """The adjoint of `strain`."""
        a = stress if self.plain else self.mix.T @ stress.flatten(1)
        return elements.corners(a.view(-1, self.law.fields, *stress.shape[1:]), self.dim)

    def rows_at_once(self, device: torch.device) -> int:
        """How many rows are solved together."""
        if device.type != "cpu":
            return 2**62
        return max(1, _VALUES_ON_CPU // (len(self.load) * self.law.fields * math.prod(self.grid)))

    def solve(self, moduli: Tensor, accuracy: Accuracy) -> Solved:
        """The fields of each row `(B, P, *grid)` of moduli. Rows do not see each other. Without a graph."""
        block = self.rows_at_once(moduli.device)
        parts = [self._solve(part, accuracy) for part in moduli.split(block)]
        if len(parts) == 1:
            return parts[0]
        modes, solved, iterations = zip(*parts, strict=True)
        return Solved(torch.cat(modes, 1), torch.cat(solved), torch.cat(iterations))

    def _solve(self, moduli: Tensor, accuracy: Accuracy) -> Solved:
        stiffness = self.stiffness(moduli)
        load = self.load.T.view(-1, 1, len(self.load), *(1,) * self.dim)
        # The energy of the uniform load, and the least ratio of a row's moduli to the reference's.
        energy = (stiffness.flatten(3).sum(3) * load.flatten(2).square()).sum(0)
        least = (moduli / self.reference.view(-1, *(1,) * self.dim)).flatten(1).amin(1)
        found = _Rows(self, stiffness, least, energy, accuracy).run(-self.force(stiffness * load))
        return Solved(self.strain(found.u).add_(load), found.solved, found.iterations)


class _Rows:
    """Conjugate gradients on a batch of systems, one a row and load. Rows that are finished stand still, then leave."""

    def __init__(self, cell: Cell, stiffness: Tensor, least: Tensor, energy: Tensor, accuracy: Accuracy) -> None:
        self.cell, self.stiffness, self.accuracy = cell, stiffness, accuracy
        self.limit, self.energy = accuracy.tolerance * least[:, None], energy
        self.every = accuracy.every or (_EVERY if energy.device.type != "cpu" else 1)
        self.row = torch.arange(len(energy), device=energy.device)  # which row of the batch each of those at work is
        self.finished = torch.zeros(len(energy), dtype=torch.bool, device=energy.device)
        self.solved = torch.zeros_like(self.finished)
        self.iterations = torch.zeros_like(self.row)

    def run(self, r: Tensor) -> _Rows:
        """From the residual at 0 to displacements `self.u`."""
        self.u = torch.zeros_like(r)
        u, p, before = torch.zeros_like(r), torch.zeros_like(r), torch.ones_like(self.energy)
        for count in range(self.accuracy.iterations + 1):
            z = self.cell.green(r)
            fall = _dot(r, z)
            last = count == self.accuracy.iterations
            if count % self.every == 0 or last:
                going = self._look(fall, count, last=last)
                if going is not None:
                    self.u[:, self.row] = u
                    if last or not len(going):
                        break
                    self._take(going)
                    u, r, z, p = (part[:, going] for part in (u, r, z, p))
                    fall, before = fall[going], before[going]
            p = z.add_(p.mul_(_wide(fall / before, p)))
            image = self.cell.force(self.cell.strain(p).mul_(self.stiffness))
            step = (fall / _dot(p, image).clamp(min=_TINY)).masked_fill(self.finished[:, None], 0)
            u.addcmul_(p, _wide(step, p))
            r.addcmul_(image, _wide(step, p), value=-1)
            self.energy = self.energy - step * fall
            before = fall.clamp(min=_TINY)
        return self

    def _look(self, fall: Tensor, count: int, *, last: bool) -> Tensor | None:
        """Note what is finished. Indices of the rows that go on, where so few do that the others should leave; else None.

        The system is at least `least` times the reference's, `least` being the smallest ratio of a pixel's moduli to it, so
        the error of the energy, e . A e = r . A^-1 r, is at most r . z / least: a bound, not an estimate.
        """
        still = (fall > self.limit * self.energy).any(1)  # NaN is not
        ended = ~(still | self.finished)
        if not last and not bool(ended.any()):  # the host waits here
            return None
        self.finished = self.finished | ended
        self.solved[self.row] |= ended & torch.isfinite(fall).all(1)
        self.iterations[self.row] = torch.where(self.finished & ~ended, self.iterations[self.row], count)
        going = torch.nonzero(~self.finished)[:, 0]
        return going if last or len(going) <= _LEAVE_BELOW * len(self.finished) else None

    def _take(self, going: Tensor) -> None:
        self.row, self.energy, self.limit = self.row[going], self.energy[going], self.limit[going]
        self.finished, self.stiffness = self.finished[going], self.stiffness[:, going]


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Of each row and load, `(B, L)`, over all else."""
    return (x * y).flatten(3).sum(3).sum(0)


def _wide(number: Tensor, like: Tensor) -> Tensor:
    return number.view(*number.shape, *(1,) * (like.ndim - 3))

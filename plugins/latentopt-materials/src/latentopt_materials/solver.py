"""Cells of periodic matter solved for uniform loads: conjugate gradients, preconditioned by FFT, all rows at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from latentopt_materials import elements
from latentopt_materials.laws import Law

# Values of one field (rows x loads x components x pixels) that are solved together on a CPU (docs/performance.md).
_VALUES_ON_CPU = 3 * 2**16
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
    """Modes V a of each row's fields `(r, B, L, *grid)`, which rows are solved `(B,)`, after how many iterations `(B,)`.

    Modes of rows that are not solved are NaN.
    """

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
        self.column = self.kernel[:, 0].view(law.fields, 1, 1, *self.kernel.shape[2:])
        self.axes, self.grid, self.fields = tuple(range(-len(grid), 0)), grid, law.fields
        # what each of these numbers counts for in a sum over the grid: waves between the ends of the half grid stand for two
        twice = torch.full((grid[-1] // 2 + 1,), 2.0, dtype=torch.float64)
        twice[0] = 1
        if grid[-1] % 2 == 0:
            twice[-1] = 1
        self.share = (twice / math.prod(grid)).to(like)[:, None].expand(*waves.shape[1:], 2).flatten()

    def __call__(self, force: Tensor) -> Tensor:
        """Forces `(fields, B, L, *grid)` to displacements of the same shape."""
        return self.displacements(self.waves(force)[0])

    def waves(self, force: Tensor) -> tuple[Tensor, Tensor]:
        """Fourier transforms of the displacements, real and imaginary parts last, and forces times displacements `(B, L)`."""
        given = torch.view_as_real(torch.fft.rfftn(force, dim=self.axes))
        found = given[:1] * self.column
        for p, q in product(range(self.fields), range(1, self.fields)):
            found[p].addcmul_(given[q], self.kernel[p, q])
        work = torch.mv(given.mul_(found).reshape(-1, len(self.share)), self.share)
        return found, work.view(given.shape[:3]).sum(0)

    def displacements(self, waves: Tensor) -> Tensor:
        """Displacements on the grid."""
        return torch.fft.irfftn(torch.view_as_complex(waves), s=self.grid, dim=self.axes)


class Cell:
    """The discrete system of one law on one grid, of one type, on one device."""

    def __init__(self, law: Law, grid: tuple[int, ...], reference: Tensor, loads: Tensor, like: Tensor) -> None:
        self.law, self.grid, self.dim = law, grid, law.dim
        self.reference = reference.to(like)
        self.green = Green(law, grid, reference, like)
        self.weights = law.weights.to(like)
        self.mix = law.mix.to(like)
        self.plain = law.mix.shape == law.unit.shape[1:] * 2 and bool((law.mix.diagonal() == 1).all())  # V is 1
        self.sums, self.adjoint_sums = elements.sums(law.mix), elements.sums(law.mix.T)
        load = law.loaded(loads) @ law.mix.T
        self.load = load.to(like)  # V a of the uniform loads, (L, r)
        self.energy = (law.weights @ load.square().T).to(like)  # of a uniform load where the modulus is 1, (P, L)

    def stiffness(self, moduli: Tensor) -> Tensor:
        """What multiplies each squared mode: `(B, P, *grid)` to `(r, B, 1, *grid)`."""
        weights = self.weights.view(*self.weights.shape, *(1,) * (self.dim + 1))
        found = weights[0] * moduli[:, 0]
        for p in range(1, len(weights)):
            found.addcmul_(weights[p], moduli[:, p])
        return found.unsqueeze(2).contiguous()

    def strain(self, u: Tensor) -> Tensor:
        """V a of displacements `(fields, B, L, *grid)`: `(r, B, L, *grid)`."""
        a = elements.modes(u, self.dim).flatten(0, 1)
        if self.plain:
            return a
        found = u.new_empty(len(self.mix), *u.shape[1:])
        elements.run(elements.combined_into(found, a, self.mix, self.sums))
        return found

    def force(self, stress: Tensor) -> Tensor:
        """The adjoint of `strain`."""
        a = stress = stress.contiguous()
        if not self.plain:
            a = stress.new_empty(self.mix.shape[1], *stress.shape[1:])
            elements.run(elements.combined_into(a, stress, self.mix.T, self.adjoint_sums))
        return elements.corners(a.view(-1, self.law.fields, *stress.shape[1:]), self.dim)

    def image_into(self, image: Tensor, u: Tensor, stiffness: Tensor) -> elements.Calls:
        """The calls that write the forces which displacements u take: `strain`, `stiffness`, `force`."""
        a, spare = u.new_empty(2**self.dim - 1, *u.shape), torch.empty_like(u)
        before = elements.modes_into(a, u, self.dim, image, spare)
        after = elements.corners_into(image, a, self.dim, spare)
        stress = a = a.flatten(0, 1)
        if not self.plain:
            stress = u.new_empty(len(self.mix), *u.shape[1:])
            before += elements.combined_into(stress, a, self.mix, self.sums)
            after = elements.combined_into(a, stress, self.mix.T, self.adjoint_sums) + after
        return [*before, partial(torch.mul, stress, stiffness, out=stress), *after]

    def rows_at_once(self, device: torch.device) -> int:
        """How many rows are solved together."""
        if device.type != "cpu":
            return 2**62
        return max(1, _VALUES_ON_CPU // (len(self.load) * self.law.fields * math.prod(self.grid)))

    def solve(self, moduli: Tensor, accuracy: Accuracy) -> Solved:
        """The fields of each row `(B, P, *grid)` of moduli. Rows do not see each other. Without a graph."""
        count = len(moduli)
        modes = moduli.new_empty(self.load.shape[1], count, len(self.load), *self.grid)
        solved = torch.empty(count, dtype=torch.bool, device=moduli.device)
        iterations = torch.empty(count, dtype=torch.long, device=moduli.device)
        block = self.rows_at_once(moduli.device)
        for rows in (slice(start, start + block) for start in range(0, count, block)):
            found = self._solve(moduli[rows], accuracy)
            load = self.load.T[:, None].masked_fill(~found.solved[None, :, None], torch.nan)
            torch.add(self.strain(found.u), _wide(load, modes), out=modes[:, rows])
            solved[rows], iterations[rows] = found.solved, found.iterations
        return Solved(modes, solved, iterations)

    def _solve(self, moduli: Tensor, accuracy: Accuracy) -> _Rows:
        stiffness = self.stiffness(moduli)
        load = self.load.T.view(-1, 1, len(self.load), *(1,) * self.dim)
        # The energy of the uniform load, and the least ratio of a row's moduli to the reference's.
        energy = moduli.flatten(2).sum(2) @ self.energy
        least = (moduli.flatten(2).amin(2) / self.reference).amin(1)
        return _Rows(self, stiffness, least, energy, accuracy).run(self.force(stiffness * -load))


class _Rows:
    """Conjugate gradients on a batch of systems, one a row and load. Rows that are finished stand still, then leave."""

    def __init__(self, cell: Cell, stiffness: Tensor, least: Tensor, energy: Tensor, accuracy: Accuracy) -> None:
        self.cell, self.stiffness, self.accuracy = cell, stiffness, accuracy
        self.limit, self.energy = accuracy.tolerance * least[:, None], energy.clone()
        self.every = accuracy.every or (_EVERY if energy.device.type != "cpu" else 1)
        self.row = torch.arange(len(energy), device=energy.device)  # which row of the batch each of those at work is
        self.finished = torch.zeros(len(energy), dtype=torch.bool, device=energy.device)
        self.standing = False  # whether rows are finished and still here
        self.solved = torch.zeros_like(self.finished)
        self.iterations = torch.zeros_like(self.row)

    def run(self, r: Tensor) -> _Rows:
        """From the residual at 0 to displacements `self.u`."""
        self.u, u, p = torch.zeros_like(r), torch.zeros_like(r), torch.zeros_like(r)
        image, before = torch.empty_like(r), torch.ones_like(self.energy)
        calls = self.cell.image_into(image, p, self.stiffness)
        for count in range(self.accuracy.iterations + 1):
            waves, fall = self.cell.green.waves(r)
            ratio = fall / before
            last = count == self.accuracy.iterations
            if count % self.every == 0 or last:
                going = self._look(fall, count, last=last)
                if going is not None:
                    self.u[:, self.row] = u
                    if last or not len(going):
                        break
                    self._take(going)
                    u, r, p, waves = (part.index_select(1, going) for part in (u, r, p, waves))
                    fall, ratio, image = fall[going], ratio[going], torch.empty_like(r)
                    calls = self.cell.image_into(image, p, self.stiffness)
            z = self.cell.green.displacements(waves)
            torch.addcmul(z, p, _wide(ratio, p), out=p)
            elements.run(calls)
            step = fall / _sum(torch.mul(p, image, out=z)).clamp_(min=_TINY)
            if self.standing:
                step.masked_fill_(self.finished[:, None], 0)
            wide = _wide(step, p)
            u.addcmul_(p, wide)
            r.addcmul_(image, wide, value=-1)
            self.energy.addcmul_(step, fall, value=-1)
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
        self.finished, self.standing = self.finished | ended, True
        self.solved[self.row] |= ended & torch.isfinite(fall).all(1)
        self.iterations[self.row] = torch.where(self.finished & ~ended, self.iterations[self.row], count)
        going = torch.nonzero(~self.finished)[:, 0]
        return going if last or len(going) <= _LEAVE_BELOW * len(self.finished) else None

    def _take(self, going: Tensor) -> None:
        self.row, self.energy, self.limit = self.row[going], self.energy[going], self.limit[going]
        self.finished, self.standing = self.finished[going], False
        self.stiffness = self.stiffness.index_select(1, going)


def _sum(x: Tensor) -> Tensor:
    """Of each row and load, `(B, L)`, over all else."""
    return x.flatten(3).sum(3).sum(0)


def _wide(number: Tensor, like: Tensor) -> Tensor:
    return number.reshape(*number.shape, *(1,) * (like.ndim - 3))

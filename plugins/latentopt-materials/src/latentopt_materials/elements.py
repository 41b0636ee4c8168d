"""Fields on a periodic grid of bilinear (3-D: trilinear) elements, one a pixel, and the energy of each element, exact.

In an element with coordinates s_i in [-1/2, 1/2] a field with values at the 2^d corners is the sum over sets S of axes of
a_S prod_{i in S} s_i, where a_S takes differences along the axes in S and means along the others. With T running over the
sets without i, d/ds_i has the coefficients a_{T+i} of prod_{j in T} s_j, which are orthogonal over the element with square
12^-|T|. So energies are sums of squares of the a_S, without quadrature: T empty is the gradient at the pixel's centre, which
is all that the rotated scheme (Willot 2015) sees; the other T are what keeps checkerboard modes from being free.

Here `modes` are 2^(d-|S|) a_S: sums in place of means. Set S is a bit mask over the grid's axes, 1 to 2^d - 1.
Axis 0 is the grid's first; x is the last axis of a picture, y the one before, z the one before that.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor


def modes(u: Tensor, dim: int) -> Tensor:
    """The modes of fields at corners `(..., *grid)` in each pixel, `(2^d - 1, ..., *grid)`.

    Pixel i has the corners i and i + 1. Not differentiable: writes into its result.
    """
    found = u.new_empty(2**dim - 1, *u.shape)
    parts = {0: u.contiguous()}
    for axis in range(dim):
        last, grown = axis == dim - 1, {}
        for s, x in parts.items():
            for sign, both in ((1, s), (-1, s | 1 << axis)):
                if not last:
                    grown[both] = _neighbours(x, axis - dim, sign, torch.empty_like(x))
                elif both:
                    _neighbours(x, axis - dim, sign, found[both - 1])
        parts = grown
    return found


def corners(found: Tensor, dim: int) -> Tensor:
    """The adjoint of `modes`: `(2^d - 1, ..., *grid)` to `(..., *grid)`."""
    parts = {s: found[s - 1].contiguous() for s in range(1, 2**dim)}
    for axis in reversed(range(dim)):
        bit = 1 << axis
        parts = {s & ~bit: _back(parts.get(s & ~bit), parts[s], axis - dim) for s in parts if s & bit}
    return parts[0]


def _neighbours(x: Tensor, axis: int, sign: int, out: Tensor) -> Tensor:
    """x[i + 1] + sign x[i] along an axis, periodic. All are contiguous."""
    n = x.shape[axis]
    if axis == -1:  # as one line: only the last of each row is wrong, and set right below
        torch.add(x.view(-1)[1:], x.view(-1)[:-1], alpha=sign, out=out.view(-1)[:-1])
    else:
        torch.add(x.narrow(axis, 1, n - 1), x.narrow(axis, 0, n - 1), alpha=sign, out=out.narrow(axis, 0, n - 1))
    torch.add(x.narrow(axis, 0, 1), x.narrow(axis, n - 1, 1), alpha=sign, out=out.narrow(axis, n - 1, 1))
    return out


def _back(total: Tensor | None, difference: Tensor, axis: int) -> Tensor:
    """The adjoint of a sum and a difference: t[i - 1] + d[i - 1] + t[i] - d[i]."""
    before, here = (difference, difference) if total is None else (total + difference, total - difference)
    sign, n, out = -1 if total is None else 1, difference.shape[axis], torch.empty_like(difference)
    if axis == -1:
        torch.add(before.view(-1)[:-1], here.view(-1)[1:], alpha=sign, out=out.view(-1)[1:])
    else:
        torch.add(
            before.narrow(axis, 0, n - 1), here.narrow(axis, 1, n - 1), alpha=sign, out=out.narrow(axis, 1, n - 1)
        )
    torch.add(before.narrow(axis, n - 1, 1), here.narrow(axis, 0, 1), alpha=sign, out=out.narrow(axis, 0, 1))
    return out


# ---------------------------------------------------------------------- energies as quadratic forms of the modes


def _gradients(dim: int) -> list[Tensor]:
    """For each T, the map from one field's modes to the parts of its gradient, `(d, 2^d - 1)`, with the weight of T in it."""
    found = []
    for t in range(2**dim - 1):
        size = t.bit_count()
        part = torch.zeros(dim, 2**dim - 1, dtype=torch.float64)
        for i in range(dim):
            if not t >> i & 1:
                part[i, (t | 1 << i) - 1] = 12 ** (-size / 2) / 2 ** (dim - size - 1)
        found.append(part)
    return found


def conduction_form(dim: int) -> Tensor:
    """Q with a . Q a the integral of |grad u|^2 over a pixel, `(1, m, m)` for the m = 2^d - 1 modes of a potential."""
    return torch.stack([part.T @ part for part in _gradients(dim)]).sum(0)[None]


def elastic_forms(dim: int) -> Tensor:
    """Q_K and Q_G, `(2, m, m)` for the m = (2^d - 1) d modes of a displacement, set by set.

    a . Q_K a is the integral of (tr e)^2 over a pixel and a . Q_G a that of 2 |dev e|^2, e being the strain, dev e its part
    without trace in d dimensions.
    """
    count = dim * (2**dim - 1)
    forms = torch.zeros(2, count, count, dtype=torch.float64)
    for part in _gradients(dim):
        whole = torch.zeros(dim, dim, count, dtype=torch.float64)  # d u_p / d s_i
        for i, p in product(range(dim), repeat=2):
            whole[i, p, p::dim] = part[i]
        strain = (whole + whole.transpose(0, 1)) / 2
        trace = strain.diagonal(dim1=0, dim2=1).sum(1)
        square = torch.einsum("ipm,ipn->mn", strain, strain)
        forms[0] += torch.outer(trace, trace)
        forms[1] += 2 * (square - torch.outer(trace, trace) / dim)
    return forms


def diagonal(forms: Tensor) -> tuple[Tensor, Tensor]:
    """V `(r, m)` and weights `(P, r)` such that each of one or two forms is a . Q_p a = sum_r weights[p, r] (V a)_r^2.

    Two forms whose sum is positive but for a common null space (rigid rotation) have such a V in common. One that is
    diagonal already keeps its modes.
    """
    total = forms.sum(0)
    if len(forms) == 1 and bool((total == total.diagonal().diag()).all()):
        return torch.eye(len(total), dtype=torch.float64), total.diagonal()[None]
    size, vectors = torch.linalg.eigh(total)
    kept = size > 1e-9 * size[-1]
    root = size[kept].sqrt()
    narrow = vectors[:, kept] / root
    share, turn = torch.linalg.eigh(narrow.T @ forms[0] @ narrow)
    share = share.clamp(0, 1)
    weights = share[None] if len(forms) == 1 else torch.stack([share, 1 - share])
    mix = turn.T @ (vectors[:, kept] * root).T
    return torch.where(mix.abs() > 1e-12, mix, 0.0), weights


def symbols(grid: tuple[int, ...]) -> Tensor:
    """What the modes are in Fourier space, up to a phase that they share: `(2^d - 1, *half grid)`, real, float64."""
    dim = len(grid)
    found = []
    for s in range(1, 2**dim):
        value = torch.ones((), dtype=torch.float64)
        for axis, n in enumerate(grid):
            count = n // 2 + 1 if axis == dim - 1 else n
            half = torch.pi * torch.arange(count, dtype=torch.float64) / n
            wave = 2 * (half.sin() if s >> axis & 1 else half.cos())
            value = value[..., None] * wave
        found.append(value)
    return torch.stack(found)

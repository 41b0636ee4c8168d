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

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch import Tensor

# What each iteration does over again is a list of calls on tensors that stay: making views takes longer than small sums do.
Calls = list[Callable[[], object]]
Sums = list[tuple[int, int | None, float]]


def modes(u: Tensor, dim: int) -> Tensor:
    """The modes of fields at corners `(..., *grid)` in each pixel, `(2^d - 1, ..., *grid)`.

    Pixel i has the corners i and i + 1. Not differentiable: writes into its result.
    """
    found = u.new_empty(2**dim - 1, *u.shape)
    run(modes_into(found, u.contiguous(), dim))
    return found


def corners(found: Tensor, dim: int) -> Tensor:
    """The adjoint of `modes`: `(2^d - 1, ..., *grid)` to `(..., *grid)`."""
    found = found.clone(memory_format=torch.contiguous_format)
    u = torch.empty_like(found[0])
    run(corners_into(u, found, dim, torch.empty_like(u)))
    return u


def run(calls: Calls) -> None:
    """Make the calls, in turn."""
    for call in calls:
        call()


def modes_into(found: Tensor, u: Tensor, dim: int, *spare: Tensor) -> Calls:
    """The calls that write the modes of u, all contiguous. They write over `spare` too, tensors of u's shape."""
    parts, calls, free = {0: u}, Calls(), list(spare)
    for axis in range(dim):
        last, grown = axis == dim - 1, {}
        for s, x in parts.items():
            for sign, both in ((1, s), (-1, s | 1 << axis)):
                if last and not both:
                    continue
                grown[both] = found[both - 1] if last else free.pop() if free else torch.empty_like(x)
                calls += _shifted(x, x, sign, grown[both], axis - dim, (1, 0, 0))  # x[i + 1] +- x[i]
        parts = grown
    return calls


def corners_into(u: Tensor, found: Tensor, dim: int, spare: Tensor) -> Calls:
    """The calls that write the adjoint of the modes into u, all contiguous. They write over the modes and `spare` too."""
    parts, calls = {s: found[s - 1] for s in range(1, 2**dim)} | {0: u}, Calls()
    for axis in reversed(range(dim)):
        for s in range(1 << axis):
            total, difference, before = parts[s], parts[s | 1 << axis], spare
            if s == 0 and axis == dim - 1:  # nothing is there yet
                calls += _shifted(difference, difference, -1, total, axis - dim, (0, 1, 1))
                continue
            # t[i - 1] + d[i - 1] + t[i] - d[i], over the sum
            calls += [
                partial(torch.add, total, difference, out=before),
                partial(torch.sub, total, difference, out=difference),
                *_shifted(before, difference, 1, total, axis - dim, (0, 1, 1)),
            ]
    return calls


def _shifted(x: Tensor, y: Tensor, sign: int, out: Tensor, axis: int, starts: tuple[int, int, int]) -> Calls:
    """x + sign y, each from its start on (0 or 1) along a periodic axis: all but the seam, then the seam."""
    n, all_three = x.shape[axis], list(zip((x, y, out), starts, strict=True))
    seam = [part.narrow(axis, (1 - start) * (n - 1), 1) for part, start in all_three]
    if axis == -1:  # as one line: wrong at the seam, which is set after it
        line = [part.view(-1).narrow(0, start, part.numel() - 1) for part, start in all_three]
    else:
        line = [part.narrow(axis, start, n - 1) for part, start in all_three]
    return [partial(torch.add, first, second, alpha=sign, out=third) for first, second, third in (line, seam)]


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
    # the largest of each row to 1, so that sums need no factors
    scale = mix.gather(1, mix.abs().argmax(1, keepdim=True))
    return (mix / scale).round(decimals=12), weights * scale[:, 0].square()


def sums(matrix: Tensor) -> Sums | None:
    """A matrix whose rows say x_i or x_i + c x_j, as (i, j, c), j being None in the first case; None where one does not."""
    found = Sums()
    for row in matrix:
        used = sorted(row.nonzero()[:, 0].tolist(), key=lambda i: float(row[i]) != 1)
        if len(used) not in (1, 2) or float(row[used[0]]) != 1:
            return None
        first, *rest = used
        found.append((first, rest[0], float(row[rest[0]])) if rest else (first, None, 0.0))
    return found


def combined_into(found: Tensor, x: Tensor, matrix: Tensor, by_sums: Sums | None) -> Calls:
    """The calls that write a matrix `(r, m)` times x `(m, ...)`: by its `sums` where it has them, which is faster."""
    if by_sums is None:
        return [partial(torch.mm, matrix, x.view(len(x), -1), out=found.view(len(found), -1))]
    calls = Calls()
    for out, (i, j, factor) in zip(found, by_sums, strict=True):
        calls.append(partial(out.copy_, x[i]) if j is None else partial(torch.add, x[i], x[j], alpha=factor, out=out))
    return calls


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

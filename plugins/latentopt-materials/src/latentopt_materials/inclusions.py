"""Random inclusions that do not overlap, in a periodic cell: discs, and ellipses that all point one way."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float64]

_MOST = 5  # inclusions a cell
_FEWEST = 2
_CLEARANCE = 1.12  # centres lie at least so many times the sum of two radii apart
_PUSHES = 60


def inclusion_field(rng: Generator, filled: Floats, ratio: Floats, angle: Floats, size: int) -> Floats:
    """Fields `(n, size, size)` whose highest `filled` share, cut off, is a set of inclusions apart from each other.

    filled, ratio, angle: `(n,)`, the share of the cell (at most 0.5), long axis over short, and direction of the long axis.
    Centres start anywhere and are pushed apart until they lie clear of each other (as in the force-biased algorithm of
    Moscinski et al. 1989); a row that stays crowded starts again. The field is minus the distance to the nearest centre in
    units of its radius, in a metric that makes all ellipses of a row discs: in it, "apart" is exact.
    """
    n = len(filled)
    metric = _metric(ratio, angle)
    centres = np.zeros((n, _MOST, 2), np.float32)
    radii = np.zeros((n, _MOST), np.float32)
    todo = np.arange(n)
    while len(todo):
        # Small inclusions would be hard to see: at most one for each 6 % of the cell that is filled.
        most = np.clip(filled[todo] / 0.06, _FEWEST, _MOST).astype(int)
        count = rng.integers(_FEWEST, most + 1)
        present = np.arange(_MOST) < count[:, None]
        relative = np.where(present, rng.uniform(0.7, 1.3, (len(todo), _MOST)), 0)
        # Ellipses of the metric have the area pi r**2: it has determinant 1.
        radius = relative * np.sqrt(filled[todo] / (np.pi * (relative**2).sum(1)))[:, None]
        placed = _pushed_apart(rng.random((len(todo), _MOST, 2)), radius, present, metric[todo])
        good = _clear(placed, radius, present, metric[todo])
        centres[todo[good]], radii[todo[good]] = placed[good], radius[good]
        todo = todo[~good]
    return _field(centres, radii, metric, size)


def _metric(ratio: Floats, angle: Floats) -> Floats:
    """Matrices `(n, 2, 2)` that map offsets (x, y) to ones in which a row's ellipses are discs; determinant 1."""
    cosine, sine = np.cos(angle), np.sin(angle)
    along, across = 1 / np.sqrt(ratio), np.sqrt(ratio)
    return np.stack([along * cosine, along * sine, -across * sine, across * cosine], 1).reshape(-1, 2, 2)


def _nearest(offset: Floats, metric: Floats) -> tuple[Floats, Floats]:
    """The shortest periodic image of offsets `(n, K, K, 2)` in the metric: mapped offset and length."""
    x, y, squared = _shortest(offset[..., 0], offset[..., 1], metric)
    return np.einsum("nij,nabj->nabi", metric, np.stack([x, y], -1)), np.sqrt(squared)


def _shortest(x: Floats, y: Floats, metric: Floats) -> tuple[Floats, Floats, Floats]:
    """The offsets `(n, a, b)` of the nearest periodic image and their squared lengths in the metric.

    Offsets are brought into [-0.5, 0.5] first; one image more on each side is enough for ratios of up to 4.
    """
    form = np.einsum("nki,nkj->nij", metric, metric)[:, :, :, None, None]
    x, y = x - np.rint(x), y - np.rint(y)
    best_x, best_y = x, y
    least = form[:, 0, 0] * x * x + form[:, 1, 1] * y * y + 2 * form[:, 0, 1] * x * y
    if np.abs(form[:, 0, 1]).max() + np.abs(form[:, 0, 0] - 1).max() < 1e-6:
        return x, y, least  # discs: no other image is nearer
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            u, v = x + np.float32(i), y + np.float32(j)
            squared = form[:, 0, 0] * u * u + form[:, 1, 1] * v * v + 2 * form[:, 0, 1] * u * v
            closer = squared < least
            best_x, best_y = np.where(closer, u, best_x), np.where(closer, v, best_y)
            least = np.where(closer, squared, least)
    return best_x, best_y, least


def _wanted(radius: Floats, present: NDArray[np.bool_]) -> Floats:
    """The distance that each pair should keep, `(n, K, K)`; 0 for no pair, and its own image for one."""
    both = present[:, :, None] & present[:, None, :] & ~np.eye(_MOST, dtype=bool)
    return np.where(both, _CLEARANCE * (radius[:, :, None] + radius[:, None, :]), 0)


def _pushed_apart(centres: Floats, radius: Floats, present: NDArray[np.bool_], metric: Floats) -> Floats:
    inverse = np.linalg.inv(metric)
    wanted = _wanted(radius, present)
    for _ in range(_PUSHES):
        offset, distance = _nearest(centres[:, :, None] - centres[:, None, :], metric)
        lacking = np.maximum(1.02 * wanted - distance, 0)
        push = (offset * (0.5 * lacking / np.maximum(distance, 1e-6))[..., None]).sum(2)
        centres = (centres + np.einsum("nij,nkj->nki", inverse, push)) % 1
    return centres


def _clear(centres: Floats, radius: Floats, present: NDArray[np.bool_], metric: Floats) -> NDArray[np.bool_]:
    """Rows whose inclusions are apart from each other and from their own periodic images."""
    _, distance = _nearest(centres[:, :, None] - centres[:, None, :], metric)
    apart = (distance >= _wanted(radius, present)).all((1, 2))
    steps = np.array([[1, 0], [0, 1], [1, 1], [1, -1], [2, 1], [1, 2], [2, -1], [1, -2]], np.float32)
    period = np.sqrt((np.einsum("nij,kj->nki", metric, steps) ** 2).sum(-1)).min(1)
    return apart & (period >= _CLEARANCE * 2 * radius.max(1))


def _field(centres: Floats, radii: Floats, metric: Floats, size: int) -> Floats:
    at = ((np.arange(size) + 0.5) / size).astype(np.float32)
    field = np.full((len(centres), size, size), np.inf, np.float32)
    for k in range(_MOST):
        some = radii[:, k] > 0
        if not some.any():
            continue
        x, y = centres[some, k, 0, None, None], centres[some, k, 1, None, None]
        _, _, squared = _shortest(at - x + 0 * at[:, None], at[:, None] - y + 0 * at, metric[some])
        field[some] = np.minimum(field[some], np.sqrt(squared) / radii[some, k, None, None])
    return -field

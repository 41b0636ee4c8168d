"""Interpolators: paths through two or more key latents."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from latentopt import Decoder, Interpolator, InterpolatorConfig


def _pieces(keys_KD: Tensor, t_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each time its left key, right key `(T, D)` and place between them `(T, 1)`, keys evenly spaced in time."""
    place = t_T.clamp(0, 1) * (len(keys_KD) - 1)
    left = place.floor().long().clamp(max=len(keys_KD) - 2)
    return keys_KD[left], keys_KD[left + 1], (place - left)[:, None]


class Lerp(InterpolatorConfig):
    """Straight lines from key to key."""

    kind: Literal["lerp"] = "lerp"

    def build(self, decoder: Decoder) -> Interpolator:
        def path(keys_KD: Tensor, t_T: Tensor) -> Tensor:
            a, b, t = _pieces(keys_KD, t_T)
            return torch.lerp(a, b, t)

        return path


class Slerp(InterpolatorConfig):
    """The direction along the great circle (Shoemake 1985), the norm linearly: neither shrinks nor leaves the shell.

    Nearly parallel keys, and keys at zero, have no great circle worth the name: there the path is a straight line.
    Opposite keys have many: the one taken turns through the axis of the key's smallest coordinate.
    """

    kind: Literal["slerp"] = "slerp"

    def build(self, decoder: Decoder) -> Interpolator:
        def path(keys_KD: Tensor, t_T: Tensor) -> Tensor:
            return slerp(*_pieces(keys_KD, t_T))

        return path


class Spline(InterpolatorConfig):
    """A natural cubic spline through all keys, without the corners that pieces have there; two keys give a straight line.

    The twice differentiable path of least bending (de Boor 1978, chapter IV), by SciPy's `CubicSpline` on the host. Between
    keys at unequal distances it may swing out.
    """

    kind: Literal["spline"] = "spline"

    def build(self, decoder: Decoder) -> Interpolator:
        return spline


def spline(keys_KD: Tensor, t_T: Tensor) -> Tensor:
    """The natural cubic spline through keys evenly spaced in time, `(T, D)`; exact at t = 0 and 1."""
    if len(keys_KD) == 2:
        return torch.lerp(keys_KD[:1], keys_KD[1:], t_T.clamp(0, 1)[:, None])
    from scipy.interpolate import CubicSpline

    keys, t = (part.detach().cpu().double().numpy() for part in (keys_KD, t_T.clamp(0, 1)))
    found = CubicSpline(np.linspace(0, 1, len(keys)), keys, bc_type="natural")(t)
    t_T1 = t_T[:, None]
    points = torch.from_numpy(found).to(keys_KD)
    return torch.where(t_T1 <= 0, keys_KD[0], torch.where(t_T1 >= 1, keys_KD[-1], points))


def slerp(a_TD: Tensor, b_TD: Tensor, t_T1: Tensor) -> Tensor:
    """Spherical interpolation of directions with linear norms, row by row, `(T, D)`; exact at t = 0 and 1."""
    norm_a, norm_b = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (a_TD, b_TD))
    tiny = torch.finfo(a_TD.dtype).tiny
    u, v = a_TD / norm_a.clamp(min=tiny), b_TD / norm_b.clamp(min=tiny)
    # the angle from chord lengths: accurate near 0 and near pi, where acos of the dot product is not
    chord, across = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (u - v, u + v))
    angle = 2 * torch.atan2(chord, across)
    side = v - u * (u * v).sum(1, keepdim=True)
    length = torch.linalg.vector_norm(side, dim=1, keepdim=True)
    opposite = (across < 1e-4) & (norm_a > 0) & (norm_b > 0)
    side = torch.where(opposite, _perpendicular(u), side / length.clamp(min=tiny))
    turned = torch.cos(t_T1 * angle) * u + torch.sin(t_T1 * angle) * side
    curved = turned * torch.lerp(norm_a, norm_b, t_T1)
    straight = torch.lerp(a_TD, b_TD, t_T1)
    flat = (chord < 1e-4) | (norm_a == 0) | (norm_b == 0)
    found = torch.where(flat, straight, curved)
    return torch.where(t_T1 <= 0, a_TD, torch.where(t_T1 >= 1, b_TD, found))


def _perpendicular(u_TD: Tensor) -> Tensor:
    """A unit vector at right angles to each row: the axis of its smallest coordinate, made perpendicular."""
    if u_TD.shape[1] == 1:
        return torch.zeros_like(u_TD)
    axis = torch.zeros_like(u_TD).scatter_(1, u_TD.abs().argmin(1, keepdim=True), 1.0)
    side = axis - u_TD * (u_TD * axis).sum(1, keepdim=True)
    return side / torch.linalg.vector_norm(side, dim=1, keepdim=True)

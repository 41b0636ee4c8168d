"""Descriptors that look at each design on the host, without gradients: percolation and the smallest feature."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import fft, ndimage
from torch import Tensor

from latentopt import Candidates, ConfigError, Decoder, Objective, Reference
from latentopt_materials.descriptors import disc
from latentopt_materials.designs import MaterialObjective
from latentopt_materials.properties import THRESHOLD, are_known, over_volume_fraction

Mask = NDArray[np.bool_]


class HostObjective(MaterialObjective):
    """Base of black boxes: one copy of the designs leaves the device a batch, one of the numbers goes back.

    `threshold` tells the phases apart: white is what lies above it.
    """

    waits_for_device: ClassVar[bool] = True

    threshold: float = Field(default=0.5, gt=0, lt=1)

    def judge(self, grid: tuple[int, ...]) -> Callable[[Mask], float]:
        """The number of one design, given where it is white. Raises `ConfigError` where the grid does not fit."""
        raise NotImplementedError

    def build(self, decoder: Decoder) -> Objective:
        judge = self.judge(self.grid_of(decoder))

        def value(c: Candidates) -> Tensor:
            x = c.designs[:, 0].detach().cpu().numpy()
            found = [judge(one > self.threshold) if np.isfinite(one).all() else np.nan for one in x]
            return torch.tensor(found, dtype=c.latents.dtype).to(c.latents.device)

        return self.noted(value)


# ---------------------------------------------------------------------- percolation


class Percolation(HostObjective):
    """Share of a phase that belongs to clusters which go on for ever, `(M,)`: 0 where none percolates, at most 1. Black box.

    The structure repeats without end; a cluster percolates along an axis where one can walk in it from a pixel to one of that
    pixel's copies that lies further along this axis, across the cell's borders as needed. `direction`: x (along the rows of a
    picture), y, z; "any" of them, or "all" (clusters that percolate along every axis). `corners`: whether pixels that
    touch at a corner only are connected.
    """

    extremes: ClassVar[tuple[float, float]] = (0.0, 1.0)

    kind: Literal["percolation"] = "percolation"
    phase: Literal["white", "black"] = "white"
    direction: Literal["x", "y", "z", "any", "all"] = "any"
    corners: bool = False

    def judge(self, grid: tuple[int, ...]) -> Callable[[Mask], float]:
        dim = len(grid)
        if self.direction == "z" and dim == 2:
            raise ConfigError("direction 'z' needs designs (1, D, H, W), this decoder's are pictures: use 'x' or 'y'")

        def share(white: Mask) -> float:
            phase = white if self.phase == "white" else ~white
            count = int(phase.sum())
            labels, wraps = clusters(phase, corners=self.corners)
            along: Any = wraps[:, ::-1]  # x is the grid's last axis
            if self.direction in ("any", "all"):
                good = along.any(1) if self.direction == "any" else along.all(1)
            else:
                good = along[:, "xyz".index(self.direction)]
            return float(good[labels].sum()) / count if count else 0.0

        return share

    def reference(self, designs: Tensor) -> Reference | None:
        """Known designs over the volume fraction, of the white phase and neighbours that share a side."""
        if self.phase != "white" or self.corners or self.threshold != THRESHOLD or not are_known(designs):
            return None
        # Two clusters of the plane that go on for ever go the same way, or they would cross: all of a direction, or none.
        read = {"x": lambda s: s[:, 0], "y": lambda s: s[:, 1], "any": lambda s: s.amax(1), "all": lambda s: s.amin(1)}
        return over_volume_fraction(designs.clamp(0, 1), lambda one: read[self.direction](one["percolation"]))


def clusters(phase: Mask, *, corners: bool = False) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Labels of the pieces of a phase within the cell (0 elsewhere), and along which axes of the grid each one's periodic
    cluster goes on for ever, `(pieces + 1, d)`.

    Pieces are the nodes of a graph whose edges cross the cell's borders, each with the cell that it leads to. Copies of a
    piece are placed by walking the graph; where a walk comes back to a piece in another copy of the cell, the cluster
    goes on for ever along that difference (Machta et al. 1996).
    """
    dim = phase.ndim
    labels, count = ndimage.label(phase, ndimage.generate_binary_structure(dim, dim if corners else 1))
    edges: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in range(count + 1)]
    for step in np.ndindex(*(3,) * dim):
        offset = np.array(step) - 1
        if corners or np.abs(offset).sum() == 1:
            for a, b, shift in _crossings(labels, offset):
                edges[a].append((b, shift))
    wraps = np.zeros((count + 1, dim), dtype=bool)
    place: dict[int, NDArray[np.intp]] = {}
    for seed in range(1, count + 1):
        if seed in place:
            continue
        place[seed], members, found = np.zeros(dim, dtype=np.intp), [seed], np.zeros(dim, dtype=bool)
        queue = deque([seed])
        while queue:
            a = queue.popleft()
            for b, shift in edges[a]:
                there = place[a] + shift
                if b in place:
                    found |= place[b] != there
                else:
                    place[b] = there
                    members.append(b)
                    queue.append(b)
        wraps[members] = found
    return labels, wraps


def _crossings(labels: NDArray[np.intp], offset: NDArray[np.intp]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Pairs of pieces that touch across the border along an offset, with the cell that the second one lies in."""
    axes = tuple(range(labels.ndim))
    there = np.roll(labels, tuple(-offset), axes)
    index = np.indices(labels.shape)
    sizes = np.array(labels.shape).reshape(-1, *(1,) * labels.ndim)
    shift = (index + offset.reshape(sizes.shape)) // sizes
    touching = (labels > 0) & (there > 0) & shift.any(0)
    if not touching.any():
        return []
    rows = np.unique(np.column_stack([labels[touching], there[touching], *(s[touching] for s in shift)]), axis=0)
    return [(int(row[0]), int(row[1]), tuple(int(v) for v in row[2:])) for row in rows]


# ---------------------------------------------------------------------- smallest feature


class FeatureSize(HostObjective):
    """Smallest feature of a design, in pixels, `(M,)`: the diameter of the largest disc that fits everywhere. Black box.

    That is the last diameter, from 1 upwards, whose opening takes no more than `slack` of the phase away; pixels that touch
    what is left are not counted, since a disc rounds corners. For `phase` white, black, or both (the smaller of them), up to
    `most` pixels; a phase that fills the cell, or is absent, has `most`. 1 means single pixels. Periodic; in 3-D a ball.
    """

    extremes: ClassVar[tuple[float, float]] = (0.0, np.inf)

    kind: Literal["feature_size"] = "feature_size"
    phase: Literal["white", "black", "both"] = "both"
    slack: float = Field(default=0.01, ge=0, lt=1)
    most: int = Field(default=16, ge=2, le=64)

    def judge(self, grid: tuple[int, ...]) -> Callable[[Mask], float]:
        most = min(self.most, *grid)

        def size(phase: Mask) -> float:
            count = int(phase.sum())
            if count in (0, phase.size):
                return float(most)
            for diameter in range(2, most + 1):
                if int((phase & ~_grown(opened(phase, diameter))).sum()) > self.slack * count:
                    return float(diameter - 1)
            return float(most)

        def smallest(white: Mask) -> float:
            phases = {"white": [white], "black": [~white], "both": [white, ~white]}[self.phase]
            return min(size(phase) for phase in phases)

        return smallest


def opened(phase: Mask, diameter: int) -> Mask:
    """The union of all discs of a diameter (of the same pixels as in `thin_parts`) that fit into a periodic phase."""
    offsets = np.array(disc(diameter, phase.ndim))
    kernel = np.zeros(phase.shape)
    np.add.at(kernel, tuple((offsets % phase.shape).T), 1.0)
    wave = fft.rfftn(kernel)

    def overlap(x: Any, wave_of_kernel: Any) -> Any:
        return fft.irfftn(fft.rfftn(x) * wave_of_kernel, s=phase.shape)

    fits = overlap(phase.astype(float), wave.conj()) > len(offsets) - 0.5
    found: Mask = overlap(fits.astype(float), wave) > 0.5
    return found


def _grown(x: Mask) -> Mask:
    """With the neighbours of each pixel, corners included, periodic."""
    axes = tuple(range(x.ndim))
    found: Mask = np.logical_or.reduce([np.roll(x, np.array(step) - 1, axes) for step in np.ndindex(*(3,) * x.ndim)])
    return found

"""Where the best row of each target lay at each report: what maps draw as paths."""

from __future__ import annotations

import torch
from torch import Tensor

# Paths kept at most, and latent values of all of them at one report: a stage's 41 reports of float32 hold 1.3 MB at most.
_TARGETS, _VALUES = 8, 2**13


class Trail:
    """Best latents of the first targets at each report, on the run's device: no host sync, and small.

    `like` is a tensor of latents `(N, D)`. None are kept where one latent alone is larger than all that is.
    """

    def __init__(self, targets: int, like: Tensor) -> None:
        self.count = min(targets, _TARGETS, _VALUES // like.shape[1])
        self._nowhere_TD = like.new_full((self.count, like.shape[1]), torch.nan)
        self._points: list[Tensor] = []

    def note(self, z_TD: Tensor, known_T: Tensor) -> None:
        """The latents at one report `(T, D)`, of the targets that have a row with a finite loss `(T,)`."""
        if self.count:
            self._points.append(torch.where(known_T[: self.count, None], z_TD[: self.count], self._nowhere_TD))

    def paths(self, reports: int) -> Tensor | None:
        """The latents at the first so many reports `(P, T', D)`, NaN where there were none yet; None where none are kept."""
        return torch.stack(self._points[:reports]) if self._points[:reports] else None

    def restore(self, saved: Tensor | None, reports: int) -> None:
        """Go on from the paths that a checkpoint with so many reports holds; of an older one, which has none, unknown."""
        self._points = [self._nowhere_TD] * (reports if self.count else 0) if saved is None else list(saved.unbind())

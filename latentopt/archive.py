"""The front of a run with several objectives: for each target the designs that no other beats in every objective."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentopt.ranking import Best

SIZE = 100  # members a target, spread over its front


class Archive:
    """Non-dominated, feasible rows of each target, at most `size` a target.

    `best` holds them as rows and `losses_NK` their objectives, each to be minimized.
    """

    def __init__(self, targets: int, size: int = SIZE) -> None:
        self.targets, self.size = targets, size
        self.best: Best | None = None
        self.losses_NK: Tensor | None = None

    def add(self, rows: Best, losses_NK: Tensor) -> None:
        """Takes in rows; what is dominated, infeasible or not finite leaves or stays out."""
        good = torch.isfinite(losses_NK).all(1) & (rows.violation_N == 0) & torch.isfinite(rows.loss_N)
        rows, losses_NK = rows.take(good), losses_NK[good]
        if self.best is not None and self.losses_NK is not None:
            rows, losses_NK = Best.join([self.best, rows]), torch.cat([self.losses_NK, losses_NK])
        kept = []
        for target in range(self.targets):
            index = torch.nonzero(rows.target_N == target)[:, 0]
            front = index[non_dominated(losses_NK[index])]
            kept.append(front[thin(losses_NK[front], self.size)])
        chosen = torch.cat(kept)
        # both at once, or neither: an interrupt never sees one beside another's
        self.best, self.losses_NK = rows.take(chosen), losses_NK[chosen]

    def few(self, keep: int) -> Best:
        """At most `keep` members a target, spread over its front. There must be members."""
        assert self.best is not None
        assert self.losses_NK is not None
        kept = []
        for target in range(self.targets):
            index = torch.nonzero(self.best.target_N == target)[:, 0]
            kept.append(index[thin(self.losses_NK[index], keep)])
        return self.best.take(torch.cat(kept))


def non_dominated(losses_MK: Tensor) -> Tensor:
    """Indices of the rows that no other row beats: not worse anywhere and better somewhere. Of equal rows, the first."""
    if len(losses_MK) == 0:
        return torch.arange(0, device=losses_MK.device)
    # By the first objective, then the second, ...: whoever dominates a row comes before it. A sum would round, and tie.
    order = torch.arange(len(losses_MK), device=losses_MK.device)
    for k in reversed(range(losses_MK.shape[1])):
        order = order[losses_MK[order, k].argsort(stable=True)]
    sorted_MK = losses_MK[order]
    beaten_M = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    block = max(1, 2**22 // len(order))
    for start in range(0, len(order), block):
        some_BK = sorted_MK[start : start + block]
        no_worse = torch.ones(len(sorted_MK), len(some_BK), dtype=torch.bool, device=order.device)
        for k in range(sorted_MK.shape[1]):
            no_worse &= sorted_MK[:, k, None] <= some_BK[None, :, k]
        before = torch.arange(len(sorted_MK), device=order.device)[:, None] < torch.arange(
            start, start + len(some_BK), device=order.device
        )
        beaten_M[start : start + block] = (no_worse & before).any(0)
    return order[~beaten_M]


def thin(losses_MK: Tensor, size: int) -> Tensor:
    """Indices of at most `size` rows: the least of each objective first, then whichever lies farthest from those taken.

    Farthest-first traversal (Gonzalez 1985) over objectives scaled to their range: no row left out is farther from the rows
    taken than twice the least possible. Crowding distances (Deb et al. 2002), ranked once, leave gaps four times as wide.
    """
    if len(losses_MK) <= size:
        return torch.arange(len(losses_MK), device=losses_MK.device)
    losses = losses_MK.double().cpu().numpy()
    span = np.ptp(losses, axis=0)
    scaled = losses / np.where(span > 0, span, 1.0)
    taken = list(dict.fromkeys(scaled.argmin(0).tolist()))[:size]
    distance = np.min([((scaled - scaled[i]) ** 2).sum(1) for i in taken], axis=0)
    while len(taken) < size:
        taken.append(int(distance.argmax()))
        distance = np.minimum(distance, ((scaled - scaled[taken[-1]]) ** 2).sum(1))
    return torch.tensor(sorted(taken), device=losses_MK.device)

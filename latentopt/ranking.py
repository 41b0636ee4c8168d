"""Which rows are best: feasibility first, then the loss; which of them are distinct; and what a front dominates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentopt.steering import Steering

_SAME = 1e-3  # rows closer than this share of the prior's spread, in every coordinate's root mean square, are one basin


class Best(NamedTuple):
    """The best of each row so far, replaced whole, so that an interrupt never sees a latent beside another's loss."""

    z_ND: Tensor
    loss_N: Tensor
    violation_N: Tensor
    step_N: Tensor
    target_N: Tensor
    steering: Steering | None = None

    def take(self, rows: Tensor) -> Best:
        """The same of these rows alone."""
        steering = None if self.steering is None else self.steering.take(rows)
        return self._each(lambda part: part[rows])._replace(steering=steering)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Best:
        return Best(
            change(self.z_ND), change(self.loss_N), change(self.violation_N), change(self.step_N), change(self.target_N)
        )

    def put(self, rows: Tensor, new: Best) -> Best:
        """The same with these rows replaced."""
        return Best(
            self.z_ND.index_copy(0, rows, new.z_ND),
            self.loss_N.index_copy(0, rows, new.loss_N),
            self.violation_N.index_copy(0, rows, new.violation_N),
            self.step_N.index_copy(0, rows, new.step_N),
            self.target_N,
            self.steering,
        )

    @staticmethod
    def join(parts: Sequence[Best]) -> Best:
        """The rows of several, one after the other."""
        if len(parts) == 1:
            return parts[0]
        steerings = [part.steering for part in parts if part.steering is not None]
        return Best(
            torch.cat([part.z_ND for part in parts]),
            torch.cat([part.loss_N for part in parts]),
            torch.cat([part.violation_N for part in parts]),
            torch.cat([part.step_N for part in parts]),
            torch.cat([part.target_N for part in parts]),
            Steering.join(steerings) if len(steerings) == len(parts) else None,
        )


def ranked(best: Best) -> Best:
    """The rows with a finite loss, ordered by target, then violation, then loss, then their old order."""
    loss, violation, target = (part.double().cpu().numpy() for part in (best.loss_N, best.violation_N, best.target_N))
    order = np.lexsort((loss, violation, target))
    order = order[loss[order] < np.inf]
    return best.take(torch.from_numpy(order).to(best.z_ND.device))


def distinct(best: Best, keep: int, std_D: Tensor) -> Best:
    """Of ranked rows the first `keep` a target that do not repeat a better one; repeats fill up where there are too few."""
    z_ND = (best.z_ND / std_D).cpu()
    chosen: dict[int, list[int]] = {}
    spare: dict[int, list[int]] = {}
    for i, t in enumerate(best.target_N.tolist()):
        taken = chosen.setdefault(t, [])
        if len(taken) >= keep:
            continue
        near = bool(taken) and float((z_ND[taken] - z_ND[i]).square().mean(1).amin()) < _SAME**2
        (spare.setdefault(t, []) if near else taken).append(i)
    rows = [i for t in sorted(chosen) for i in sorted((chosen[t] + spare.get(t, []))[:keep])]
    return best.take(torch.tensor(rows, device=best.z_ND.device))


def hypervolume(losses_NK: Tensor, reference_K: Tensor) -> float:
    """The volume that rows of losses dominate up to a point, in their units multiplied; 0 of no rows. Fonseca et al. 2006, by
    moocore."""
    import moocore

    if not len(losses_NK):
        return 0.0
    return float(moocore.hypervolume(losses_NK.double().cpu().numpy(), ref=reference_K.double().cpu().numpy()))

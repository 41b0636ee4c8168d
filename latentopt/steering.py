"""What bends a row's merit: multipliers of constraints, and weights over several objectives. Rows of a search's state.

Shapes: N rows, C constraints, K objectives (docs/shapes.md).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Temperature of the smooth maximum, as a share of the objectives' range: small beside the gaps between neighbours on a
# front, large enough for quasi-Newton steps to see a smooth function.
SMOOTHING = 0.02
# Share of the plain sum in the augmented Tchebycheff norm (Steuer and Choo 1983), which rules out weakly optimal points.
AUGMENTATION = 0.05


class Steering(NamedTuple):
    """One row's own view of the problem, aligned with the rows of a search's state.

    `multipliers_NC` and `penalties_NC` belong to the constraints (augmented Lagrangian). `weights_NK` and `ideal_NK`
    belong to the objectives of a front; None where their sum is minimized.
    """

    multipliers_NC: Tensor
    penalties_NC: Tensor
    weights_NK: Tensor | None = None
    ideal_NK: Tensor | None = None

    def take(self, rows: Tensor | slice) -> Steering:
        """The same of these rows alone."""
        return Steering(*(None if part is None else part[rows] for part in self))  # type: ignore[arg-type]


def tchebycheff(losses_NK: Tensor, weights_NK: Tensor, ideal_NK: Tensor) -> Tensor:
    """The smooth, augmented Tchebycheff norm of each row's losses above its ideal point, `(N,)`.

    mu log sum_k exp(w_k (f_k - i_k) / mu) + a sum_k w_k (f_k - i_k): Lin et al. 2024 (smooth Tchebycheff scalarization,
    equation 10) with the augmentation of Steuer and Choo 1983. The weights carry the objectives' units away.
    """
    scaled_NK = weights_NK * (losses_NK - ideal_NK)
    return SMOOTHING * torch.logsumexp(scaled_NK / SMOOTHING, dim=1) + AUGMENTATION * scaled_NK.sum(1)


def lagrangian(signed_NC: Tensor, equality_C: Tensor, steering: Steering) -> Tensor:
    """What the constraints add to each row's merit, `(N,)`: the augmented Lagrangian without its constant.

    `signed_NC` is above 0 where a bound is broken; of an equality (`equality_C`) it is the difference. Rockafellar 1973
    as in Nocedal and Wright 2006, equations 17.36 and 17.57: the sum of (rho / 2) (g + lambda / rho)^2, cut off below 0
    for bounds.
    """
    return residuals(signed_NC, equality_C, steering).square().sum(1)


def residuals(signed_NC: Tensor, equality_C: Tensor, steering: Steering) -> Tensor:
    """The same as residuals `(N, C)`, whose squares add up to it: sqrt(rho / 2) (g + lambda / rho)."""
    shifted_NC = signed_NC + steering.multipliers_NC / steering.penalties_NC
    cut_NC = torch.where(equality_C, shifted_NC, shifted_NC.clamp(min=0))
    return cut_NC * (steering.penalties_NC / 2).sqrt()

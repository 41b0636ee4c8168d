"""What bends a row's merit: multipliers of constraints, and weights over several objectives. Rows of a search's state.

Shapes: N rows, C constraints, K objectives (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
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

    `multipliers_NC` and `penalties_NC` belong to the constraints (augmented Lagrangian), and `broken_NC` is by how much
    they were broken when the driver last looked (of an equality the difference). `weights_NK` (on the simplex), `ideal_NK`
    and `span_NK` (the least value and the range of each objective on the front so far) belong to a front; None where the
    sum is minimized.
    """

    multipliers_NC: Tensor
    penalties_NC: Tensor
    broken_NC: Tensor | None = None
    weights_NK: Tensor | None = None
    ideal_NK: Tensor | None = None
    span_NK: Tensor | None = None

    def take(self, rows: Tensor | slice) -> Steering:
        """The same of these rows alone."""
        return Steering(*(None if part is None else part[rows] for part in self))  # type: ignore[arg-type]

    @staticmethod
    def join(parts: Sequence[Steering]) -> Steering:
        """The rows of several, one after the other; a part that one of them lacks is left out."""
        columns = zip(*parts, strict=True)
        return Steering(*(None if any(p is None for p in column) else torch.cat(column) for column in columns))  # type: ignore[arg-type]


def tchebycheff(losses_NK: Tensor, steering: Steering) -> Tensor:
    """The smooth, augmented Tchebycheff norm of each row's losses above its ideal point, `(N,)`.

    With x_k = w_k (f_k - ideal_k) / span_k it is mu log sum_k exp(x_k / mu) + a sum_k x_k: the smooth Tchebycheff
    scalarization of Lin et al. 2024 with the augmentation of Steuer and Choo 1983.
    """
    weights_NK, ideal_NK, span_NK = steering.weights_NK, steering.ideal_NK, steering.span_NK
    assert weights_NK is not None
    assert ideal_NK is not None
    assert span_NK is not None
    scaled_NK = weights_NK * (losses_NK - ideal_NK) / span_NK
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

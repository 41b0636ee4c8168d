"""A region as searches by curvature see it: which way a step from its border may go, and how the merit bends along it.

Shapes: M rows, D latent values, C directions a row (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

# How far down the merit a row looks for the border, in deviations of the prior: far above rounding, far below a step.
_LOOK = 1e-3
_TINY = 1e-30


class Tangents:
    """The derivatives of `project` at each of M rows, a little way down the merit.

    A row on the border that would leave sees its step along the border, P' v, and the curvature of the merit that comes of
    staying on it, the second derivative of gradient . project: on a ball of radius R the multiplier -gradient . z / R^2, the
    Hessian of the Lagrangian's second part (Nocedal and Wright 2006, equation 12.65). Every other row sees no region.
    """

    def __init__(self, project: Callable[[Tensor], Tensor], z_MD: Tensor, gradient_MD: Tensor, scale_D: Tensor) -> None:
        down_MD = -gradient_MD * scale_D
        down_MD = down_MD / down_MD.norm(dim=1, keepdim=True).clamp(min=_TINY)
        self.project, self.gradient_MD = project, gradient_MD
        self.at_MD = z_MD + _LOOK * down_MD * scale_D
        self.inside_M1 = (project(self.at_MD) == self.at_MD).all(1, keepdim=True)

    def push(self, v_CMD: Tensor) -> tuple[Tensor, Tensor]:
        """P' v and half the merit's bend (gradient . project)'' v, both `(C, M, D)`."""

        def moved_and_slope(p_MD: Tensor) -> tuple[Tensor, Tensor]:
            moved_MD, pull = vjp(self.project, p_MD)  # type: ignore[misc]  # three only with has_aux
            return moved_MD, pull(self.gradient_MD)[0]

        def along(v_MD: Tensor) -> tuple[Tensor, Tensor]:
            return jvp(moved_and_slope, (self.at_MD,), (v_MD,))[1]

        with torch.no_grad():
            moved_CMD, bend_CMD = vmap(along)(v_CMD)
        return torch.where(self.inside_M1, v_CMD, moved_CMD), torch.where(self.inside_M1, 0.0, bend_CMD / 2)

    def pull(self, w_MD: Tensor) -> Tensor:
        """w P', `(M, D)`: what a slope in all directions is along those that are free."""
        (slope_MD,) = vjp(self.project, self.at_MD)[1](w_MD)
        return torch.where(self.inside_M1, w_MD, slope_MD.detach())

"""A region as searches by curvature see it: which way a step from its border may go, and how the merit bends along it.

Shapes: M rows, D latent values, C directions a row (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# How far down the merit a row looks for the border, in deviations of the prior: far above rounding, far below a step.
_LOOK = 1e-3
_TINY = 1e-30


class Tangents:
    """The derivatives of `project` at each of M rows, a little way down the merit.

    A row on the border that would leave sees its step v along the border, P v, and the curvature of the merit that comes of
    staying on it, the second derivative of gradient . project: on a ball of radius R the multiplier -gradient . z / R^2, the
    Hessian of the Lagrangian's second part (Nocedal and Wright 2006, equation 12.65). Every other row sees no region.
    """

    def __init__(self, project: Callable[[Tensor], Tensor], z_MD: Tensor, gradient_MD: Tensor, scale_D: Tensor) -> None:
        down_MD = -gradient_MD * scale_D
        down_MD = down_MD / down_MD.norm(dim=1, keepdim=True).clamp(min=_TINY)
        at_MD = (z_MD + _LOOK * down_MD * scale_D).detach().requires_grad_(True)
        with torch.enable_grad():
            moved_MD = project(at_MD)
            self.free = moved_MD is at_MD
            if self.free:
                return
            self.inside_M1 = (moved_MD == at_MD).all(1, keepdim=True)
            # Graphs, to be run backwards as often as there are directions: at few rows a fifth of what torch.func costs.
            # P' w is linear in w, so that its own derivative along v is P v.
            self.at_MD, self.moved_MD = at_MD, moved_MD
            self.w_MD = torch.zeros_like(at_MD, requires_grad=True)
            (self.pulled_MD,) = torch.autograd.grad(moved_MD, at_MD, self.w_MD, create_graph=True)
            (self.slope_MD,) = torch.autograd.grad(moved_MD, at_MD, gradient_MD, create_graph=True)

    def push(self, v_CMD: Tensor) -> tuple[Tensor, Tensor]:
        """P v, along the border, and half the merit's bend (gradient . project)'' v, both `(C, M, D)`."""
        if self.free:
            return v_CMD, torch.zeros_like(v_CMD)
        moved_CMD = _along(self.pulled_MD, self.w_MD, v_CMD)
        bend_CMD = _along(self.slope_MD, self.at_MD, v_CMD)
        return torch.where(self.inside_M1, v_CMD, moved_CMD), torch.where(self.inside_M1, 0.0, bend_CMD / 2)

    def pull(self, w_MD: Tensor) -> Tensor:
        """P' w, `(M, D)`: what a slope in all directions is along those that are free."""
        if self.free:
            return w_MD
        (slope_MD,) = torch.autograd.grad(self.moved_MD, self.at_MD, w_MD, retain_graph=True)
        return torch.where(self.inside_M1, w_MD, slope_MD)


def _along(of_MD: Tensor, by_MD: Tensor, v_CMD: Tensor) -> Tensor:
    """The derivative of `of_MD` pulled back from each v, `(C, M, D)`; 0 where it does not depend on `by_MD`."""
    if not of_MD.requires_grad:
        return torch.zeros_like(v_CMD)
    found = torch.autograd.grad(of_MD, by_MD, v_CMD, retain_graph=True, allow_unused=True, is_grads_batched=True)[0]
    return torch.zeros_like(v_CMD) if found is None else found

"""Effective tensors of rows of moduli, with gradients: one solve gives both.

With e_i the local gradient (or strain) under the unit load i, the effective tensor is C_ij = <e_i . c e_j>, with the
local law c. Each e_i makes <e_i . c e_i> least among the fields of mean i (and the first variation of the mixed energies
is 0 too), so a change of c changes C only through c itself: dC_ij / dc(x) = e_i(x) . e_j(x) / n. The adjoint problem is
the problem itself: its solution is at hand, and no second solve is needed. This holds for the discrete system to the
letter, since its energies are exact sums of squares (elements.py).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from latentopt_materials.laws import Law
from latentopt_materials.solver import Accuracy, Cell


def effective(
    moduli: Tensor,
    law: Law,
    *,
    loads: Tensor | None = None,
    reference: Tensor | None = None,
    accuracy: Accuracy | None = None,
) -> Tensor:
    """The effective tensor of each row, `(N, L, L)`, for moduli `(N, P, *grid)`, positive; differentiable in them.

    `loads`, `(L, unit loads)`, combine the law's unit loads (all of them by default): the tensor is in their basis.
    `reference`, `(P,)`, are the moduli of the solver's reference medium: best the phases' least ones; 1 by default.
    Rows that are not solved within `accuracy`, and rows that hold NaN, are NaN. Second derivatives are NaN.
    Raises `ValueError` where the shapes do not fit.
    """
    modulus_count = len(law.weights)
    if moduli.ndim != law.dim + 2 or moduli.shape[1] != modulus_count:
        raise ValueError(
            f"moduli have shape {tuple(moduli.shape)}, expected (N, {modulus_count}, *grid) with {law.dim} axes of the grid: "
            "take the law of the right dimension"
        )
    count = len(law.unit)
    loads = torch.eye(count, dtype=torch.float64) if loads is None else loads
    reference = torch.ones(modulus_count) if reference is None else reference
    cell = _cell(law, tuple(moduli.shape[2:]), _plain(reference), _plain(loads), moduli.dtype, moduli.device)
    return _Effective.apply(moduli, cell, accuracy or Accuracy())


def _plain(values: Tensor) -> tuple[Any, ...]:
    return tuple(tuple(row) if isinstance(row, list) else row for row in values.tolist())


@lru_cache(maxsize=16)
def _cell(
    law: Law, grid: tuple[int, ...], reference: Any, loads: Any, dtype: torch.dtype, device: torch.device
) -> Cell:
    like = torch.empty(0, dtype=dtype, device=device)
    wanted = torch.tensor(loads, dtype=torch.float64)
    return Cell(law, grid, torch.tensor(reference, dtype=torch.float64), wanted, like)


class _Effective(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, moduli: Tensor, cell: Cell, accuracy: Accuracy) -> Tensor:
        """The tensors; keeps the fields."""
        e = cell.solve(moduli, accuracy).modes
        flat, stiffness = e.flatten(3), cell.stiffness(moduli).flatten(3)
        found = sum((k * one) @ one.mT for k, one in zip(stiffness, flat, strict=True)) / flat.shape[-1]
        ctx.save_for_backward(moduli, e)
        ctx.cell = cell
        return found

    @staticmethod
    def backward(ctx: Any, by_tensor: Tensor) -> tuple[Tensor, None, None]:
        """sum_ij g_ij e_i . e_j, mode by mode, weighted into each modulus."""
        moduli, e = ctx.saved_tensors
        flat = e.flatten(3)
        symmetric = (by_tensor + by_tensor.mT) / 2
        square = torch.stack([sum(((symmetric @ one) * one).unbind(1)) for one in flat])
        found = torch.einsum("pr,rbx->bpx", ctx.cell.weights / flat.shape[-1], square)
        return _FirstOrder.apply(found.view(moduli.shape), moduli), None, None


class _FirstOrder(torch.autograd.Function):
    """The gradient as it is. Linear in what is pulled back, so that may be differentiated; what it depends on else is NaN."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, moduli: Tensor) -> Tensor:
        """The gradient."""
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, pulled: Tensor) -> tuple[Tensor, Tensor]:
        """Never a wrong second derivative: NaN."""
        return pulled, torch.full_like(pulled, torch.nan)

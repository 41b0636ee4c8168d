"""Principal values of small symmetric tensors, row by row, with gradients that stay finite where two are equal."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-12  # share of the squared mean below which a difference of principal values has no direction


def largest_over_smallest(tensor: Tensor) -> Tensor:
    """Of `(N, 2, 2)` or `(N, 3, 3)`, positive definite, the ratio of the extreme principal values, `(N,)`; NaN stays NaN."""
    if tensor.shape[-1] == 2:
        mean = (tensor[:, 0, 0] + tensor[:, 1, 1]) / 2
        square = ((tensor[:, 0, 0] - tensor[:, 1, 1]) / 2).square() + tensor[:, 0, 1] * tensor[:, 1, 0]
        radius = (square + _LEAST * mean.square()).sqrt()
        return (mean + radius) / (mean - radius)
    finite = torch.isfinite(tensor).flatten(1).all(1)
    safe = torch.where(finite[:, None, None], tensor, torch.eye(tensor.shape[-1]).to(tensor))
    values = torch.linalg.eigvalsh(safe)
    return torch.where(finite, values[:, -1] / values[:, 0], torch.nan)

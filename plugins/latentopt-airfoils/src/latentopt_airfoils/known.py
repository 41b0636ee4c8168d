"""The real airfoils as known designs: which of them is nearest, and what they say of an objective's values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from latentopt import ConfigError, Decoder, Reference, ShapeError
from latentopt_airfoils import published
from latentopt_airfoils.outlines import NUMBERS, metric

REAL = "the real airfoils"  # what reports call them
_BLOCK = 2048  # rows whose distances to all real airfoils are held at once


class Nearest(NamedTuple):
    """The nearest real airfoil of N designs: its row in the table `(N,)`, its name, and how far it is `(N,)`, in chords."""

    rows: Tensor
    names: list[str]
    distance: Tensor


@lru_cache(maxsize=8)
def _on(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The real airfoils, the metric, and the airfoils where plain distances are those of outlines, `(n, 18)`."""
    numbers, root = published.real().numbers.double(), metric()
    return numbers.to(device, dtype), root.to(device, dtype), (numbers @ root.T).to(device, dtype)


def nearest_index(designs: Tensor, *, but: Tensor | None = None) -> Tensor:
    """The index of the nearest real airfoil of each design `(N,)`; of `but (N,)`, where given, none is taken."""
    with torch.no_grad():
        _, root, known = _on(designs.device, torch.float64)
        points = designs.detach().double() @ root.T
        found = []
        for start in range(0, len(points), _BLOCK):
            part = points[start : start + _BLOCK]
            square = part.square().sum(1)[:, None] + known.square().sum(1) - 2 * part @ known.T
            if but is not None:
                rows = torch.arange(len(part), device=designs.device)
                square[rows, but[start : start + _BLOCK]] = torch.inf
            found.append(square.argmin(1))
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)


def distance_to(designs: Tensor, index: Tensor) -> Tensor:
    """How far each design's outline is from that of the real airfoil of this index `(N,)`: root mean square, in chords."""
    numbers, root, _ = _on(designs.device, designs.dtype)
    # a millionth of a chord keeps the root's gradient finite where a design is a real airfoil
    return (((designs - numbers[index]) @ root.T).square().sum(1) + 1e-12).sqrt()


def nearest_real(designs: Tensor) -> Nearest:
    """The nearest real airfoil of each design `(N, 18)`, by the distance of outlines. Raises `ShapeError`."""
    designs = as_designs(designs)
    index = nearest_index(designs)
    names = published.real().names
    return Nearest(index, [names[i] for i in index.tolist()], distance_to(designs, index))


@lru_cache(maxsize=1)
def spacing() -> Tensor:
    """How far each real airfoil is from the nearest other one `(n,)`, in chords."""
    numbers = published.real().numbers
    index = nearest_index(numbers, but=torch.arange(len(numbers)))
    return distance_to(numbers, index)


def as_designs(designs: Tensor) -> Tensor:
    """Designs as rows `(N, 18)`; one `(18,)` is a row. Raises `ShapeError` for anything else."""
    if designs.ndim in (1, 2) and designs.shape[-1] == NUMBERS:
        return designs.detach().reshape(-1, NUMBERS)
    raise ShapeError(
        f"airfoils of shape {tuple(designs.shape)}, expected (N, {NUMBERS}) or ({NUMBERS},): give CST numbers, as the "
        "decoder 'airfoils' makes them"
    )


def check_decoder(decoder: Decoder, kind: str) -> None:
    """Raises `ConfigError` where a decoder's designs are no airfoils."""
    if tuple(decoder.design_shape) != (NUMBERS,):
        raise ConfigError(
            f"objective {kind!r} judges airfoils of {NUMBERS} CST numbers, decoder {decoder.name!r} gives designs of shape "
            f"{tuple(decoder.design_shape)}: use the decoder 'airfoils', or one that makes such numbers"
        )


def reference(
    axis: str,
    of_N: Tensor,
    known: tuple[Tensor, Tensor],
    bounds: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> Reference:
    """The real airfoils as known designs: their axis and their values, in the table's order."""
    names = {REAL: published.real().names}
    return Reference(axis=axis, of_N=of_N, bounds=bounds or {}, known={REAL: known}, names=names)

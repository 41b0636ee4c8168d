"""One look at a decoder, at the door: what its designs are like, and whether rows and calls are independent."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentopt import memory, outputs, rng
from latentopt.errors import DecoderError, OutOfMemoryError
from latentopt.priors import wide

if TYPE_CHECKING:
    from latentopt.decoder import Decoder

_ROWS = (4, 2, 1)  # rows of the look, fewer where memory is short


@dataclass(frozen=True)
class Probe:
    """What one look at the decoder found: of its designs, its gradient, and whether rows and calls are independent.

    Differences are shares of the designs' largest value. `rows` is how many were decoded at once. `spread` is how far
    apart their designs lie: the median root mean square difference, None where there are not two finite ones.
    """

    design_shape: tuple[int, ...]
    dtype: torch.dtype
    low: float
    high: float
    differentiable: bool
    gradient_note: str
    row_difference: float
    call_difference: float
    broken_rows: int
    rows: int
    spread: float | None

    def warnings(self, decoder: Decoder) -> list[str]:
        """What may not be what was meant, a sentence each."""
        found = []
        name, (call, row) = decoder.name, tolerances(decoder.compute_dtype, decoder.device)
        if self.broken_rows:
            found.append(
                f"decoder {name!r} returns NaN or infinite values for {self.broken_rows} of {self.rows} draws from its "
                "prior: such rows are dropped from a search; check its weights and its latent_shape"
            )
        if self.call_difference > call:
            found.append(
                f"decoder {name!r} gives another design on a second call with the same latents (they differ by "
                f"{self.call_difference:.1e}): losses will be noisy; make it deterministic in eval mode"
            )
        elif self.row_difference > row:
            found.append(
                f"decoder {name!r} decodes a row differently alone and in a batch (they differ by "
                f"{self.row_difference:.1e}): rows are not independent, so a result depends on the block it was in"
            )
        return found


def tolerances(dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
    """How far two calls, and a row alone and in a batch, may differ by rounding.

    On a CPU the same call gives the same bits; on a GPU sums come in any order, and float32 products may be TF32, of 10 bits.
    """
    eps = torch.finfo(dtype).eps
    gpu = device.type != "cpu"
    return (128 if gpu else 8) * eps, max(1e-3, 8 * max(eps, 2.0**-10 if gpu else 0.0))


def probe(decoder: Decoder) -> Probe:
    """Decode a few draws from the prior, twice and one alone, and take a gradient.

    Raises `DecoderError` where the latents are rejected or the designs cannot be used, `OutOfMemoryError` where the latents
    or one row are too much. The caller freezes the decoder.
    """
    like = torch.empty(0, device=decoder.device, dtype=decoder.latent_dtype)
    what = f"{_ROWS[0]} latents of shape {decoder.space.shape}"
    with memory.room(_ROWS[0] * decoder.dim * memory.DRAWN, what, "set latent_shape to what it was trained with"):
        draws = decoder.space.draw(_ROWS[0], rng.generator(0)).to(like)
    with torch.no_grad():
        kept = draws.clone()
        first = _first(decoder, draws)
        if not torch.equal(draws, kept):
            decoder.spare_latents()
            draws = kept
            first = _first(decoder, draws)
        draws = draws[: len(first)]
        again = _decode(decoder, draws)
        alone = again if len(draws) == 1 else _alone(decoder, draws)
    finite = torch.isfinite(first)
    broken = int((~finite.flatten(1).all(1)).sum())
    if broken == len(first):
        share = float((~finite).float().mean())
        raise DecoderError(
            f"decoder {decoder.name!r} returns {share:.1%} NaN or infinite values for draws from its prior: "
            "check its weights and its latent_shape"
        )
    first = first.where(finite, 0.0)
    scale = float(first.abs().amax()) or 1.0
    differentiable, note = _gradient(decoder, draws)
    return Probe(
        design_shape=tuple(first.shape[1:]),
        dtype=first.dtype,
        low=float(first[finite].amin()),
        high=float(first[finite].amax()),
        differentiable=differentiable,
        gradient_note=note,
        row_difference=_difference(first[:1], alone, finite[:1]) / scale,
        call_difference=_difference(first, again, finite) / scale,
        broken_rows=broken,
        rows=len(first),
        spread=_spread(first[finite.flatten(1).all(1)]),
    )


def _spread(designs: Tensor) -> float | None:
    """The median of six pairs is within a third of that of 512 draws' nine times in ten, for designs of pictures' kind."""
    pairs = torch.combinations(torch.arange(len(designs)))
    apart = [float((wide(designs[i]) - wide(designs[j])).square().mean().sqrt()) for i, j in pairs.tolist()]
    return statistics.median(apart) if apart else None


def _difference(one: Tensor, other: Tensor, where: Tensor) -> float:
    """The largest difference where `one` is finite; infinite where only `other` is not."""
    return float((one - other).abs().where(where, 0.0).nan_to_num(nan=torch.inf, posinf=torch.inf).amax())


def _first(decoder: Decoder, draws: Tensor) -> Tensor:
    for rows in _ROWS[:-1]:
        try:
            return _decode(decoder, draws[:rows])
        except OutOfMemoryError:
            continue
    return _decode(decoder, draws[: _ROWS[-1]])


def _decode(decoder: Decoder, z_ND: Tensor) -> Tensor:
    try:
        designs = decoder.forward(z_ND)
    except (MemoryError, *outputs.FAILURES) as error:
        if outputs.is_out_of_memory(error):
            raise OutOfMemoryError(outputs.no_room(decoder.name, len(z_ND), error)) from error
        shape = (len(z_ND), *decoder.space.shape)
        if len(z_ND) > 1 and _takes(decoder, z_ND[:1]):
            raise DecoderError(
                f"decoder {decoder.name!r} decodes one latent of shape {decoder.space.shape} but not {len(z_ND)} at once "
                f"({outputs.first_line(error)}): searches decode many rows, so take out what fixes the batch size at 1"
            ) from error
        raise DecoderError(
            f"decoder {decoder.name!r} rejects latents of shape {shape}, {decoder.dtype}, on {decoder.device} "
            f"({outputs.first_line(error)}): {outputs.remedy(error, decoder.module)}"
        ) from error
    if not designs[0].numel():
        raise DecoderError(f"decoder {decoder.name!r} returned {outputs.describe(designs)}: a design needs a value")
    return designs


def _takes(decoder: Decoder, z_ND: Tensor) -> bool:
    """Whether these latents are decoded at all."""
    try:
        decoder.forward(z_ND)
    except (MemoryError, DecoderError, *outputs.FAILURES):
        return False
    return True


def _alone(decoder: Decoder, draws: Tensor) -> Tensor:
    try:
        return _decode(decoder, draws[:1])
    except DecoderError as error:
        raise DecoderError(
            f"decoder {decoder.name!r} decodes {len(draws)} latents at once but not one alone "
            f"({outputs.first_line(error.__cause__ or error)}): its rows must be independent; give conditions a first size "
            "of 1, and batch norms their running statistics"
        ) from error


def _gradient(decoder: Decoder, draws: Tensor) -> tuple[bool, str]:
    """Whether a gradient of the designs reaches the latents, and where not, why."""
    for rows in [n for n in _ROWS if n <= len(draws)]:
        try:
            return _gradient_of(decoder, draws[:rows])
        except (MemoryError, *outputs.FAILURES) as error:
            if not outputs.is_out_of_memory(error):
                return False, f"its backward pass fails ({outputs.first_line(error)})"
    return False, "memory runs out in the backward pass of one row"


def _gradient_of(decoder: Decoder, draws: Tensor) -> tuple[bool, str]:
    z = draws.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        designs = decoder.forward(z)
        if not designs.requires_grad:
            return False, "its output is cut off from its latents (no_grad, detach, argmax or NumPy inside)"
        # unequal weights of values and rows: the plain sum of a softmax, the squares of a unit vector, and the sum of rows
        # from which their mean was taken have no gradient
        weights = torch.linspace(-1.0, 1.0, designs[0].numel() + 1, dtype=designs.dtype, device=designs.device)[1:]
        rows = torch.arange(1.0, len(z) + 1, dtype=designs.dtype, device=designs.device)
        total = ((designs.flatten(1) * weights).sum(1) * rows).sum()
        (gradient,) = torch.autograd.grad(total, z, allow_unused=True)
    decoder.rows.backward += len(z)
    if gradient is None or not bool((gradient != 0).any()):
        return False, "the gradient of its output with respect to the latents is zero"
    if not bool(torch.isfinite(gradient).all(1).any()):
        return False, "the gradient of its output with respect to the latents is NaN or infinite"
    return True, ""

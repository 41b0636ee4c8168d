"""Points along a path through key latents, re-spaced evenly in design space where that is asked."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.decoder import Decoder
from latentopt.errors import DecoderError, ShapeError
from latentopt.interfaces import Interpolator
from latentopt.outputs import describe

_PIECES = 32  # decodes per wanted step from which lengths in design space are measured
# Then the steps themselves are measured and shifted, so often: where designs bend, a step is shorter than its piece.
_ROUNDS = 4


def path_points(
    decoder: Decoder, interpolator: Interpolator, keys_KD: Tensor, steps: int, *, even: bool
) -> tuple[Tensor, Tensor]:
    """Latents `(steps, D)` and their times `(steps,)` in [0, 1]; the first and last are the first and last key.

    `even` places them so that neighbours are equally far apart in design space (root mean square difference), measured
    along a finely decoded path and then from step to step.

    Raises `ShapeError` with fewer than two keys, `DecoderError` where designs on the path are NaN or infinite and are to
    be spaced evenly.
    """
    if len(keys_KD) < 2:
        raise ShapeError(f"a path needs at least 2 key latents, got {len(keys_KD)}")
    t_T = torch.linspace(0, 1, steps, dtype=keys_KD.dtype, device=keys_KD.device)
    if even and steps > 2:
        t_T = _even_times(decoder, interpolator, keys_KD, steps)
    return _points(interpolator, keys_KD, t_T), t_T


def _points(interpolator: Interpolator, keys_KD: Tensor, t_T: Tensor) -> Tensor:
    points, shape = interpolator(keys_KD, t_T), (len(t_T), keys_KD.shape[1])
    if not isinstance(points, Tensor) or tuple(points.shape) != shape:
        raise ShapeError(f"the interpolator returned {describe(points)}, expected a tensor of shape {shape}")
    return points


def _even_times(decoder: Decoder, interpolator: Interpolator, keys_KD: Tensor, steps: int) -> Tensor:
    fine = torch.linspace(0, 1, _PIECES * (steps - 1) + 1, dtype=keys_KD.dtype, device=keys_KD.device)
    lengths = _lengths(decoder, _points(interpolator, keys_KD, fine))
    total = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    if float(total[-1]) == 0.0:  # all designs on the path are one: every spacing is even
        return torch.linspace(0, 1, steps, dtype=keys_KD.dtype, device=keys_KD.device)
    even_T = torch.linspace(0, 1, steps, dtype=torch.float64, device=keys_KD.device)
    places, tried = even_T * total[-1], []
    for _ in range(_ROUNDS):
        times = _interpolated(places, total, fine.double()).to(keys_KD.dtype)
        times[0], times[-1] = 0.0, 1.0
        steps_T = _lengths(decoder, _points(interpolator, keys_KD, times))
        tried.append((float(steps_T.amax() - steps_T.amin()), times))
        along = torch.cat([steps_T.new_zeros(1), steps_T.cumsum(0)])
        places = _interpolated(even_T * along[-1], along, places)
    return min(tried, key=lambda pair: pair[0])[1]


def _interpolated(wanted: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """Values at the wanted places, straight lines between those at `at`, which never decrease."""
    right = torch.searchsorted(at, wanted).clamp(1, len(at) - 1)
    left = right - 1
    share = (wanted - at[left]) / (at[right] - at[left]).clamp(min=1e-300)
    return values[left] + share.clamp(0, 1) * (values[right] - values[left])


def _lengths(decoder: Decoder, z_TD: Tensor) -> Tensor:
    """Root mean square differences of neighbouring designs `(T - 1,)`, float64; only a block of designs is kept at once."""
    lengths: list[Tensor] = []
    before: Tensor | None = None
    for z_ND in z_TD.split(decoder.block_rows):
        designs = decoder.decode(z_ND).flatten(1)
        joined = designs if before is None else torch.cat([before, designs])
        lengths.append((joined[1:] - joined[:-1]).square().mean(1).sqrt().double())
        before = designs[-1:]
    length_T = torch.cat(lengths)
    if not bool(torch.isfinite(length_T).all()):
        raise DecoderError(
            f"decoder {decoder.name!r} gives NaN or infinite designs on this path, so it cannot be spaced evenly: "
            "choose other keys, or even=False"
        )
    return length_T

"""Makers of periodic two-phase microstructures of 64 x 64: random fields, spinodal decomposition, inclusions.

A structure is a picture `(1, 64, 64)` of the local volume fraction of phase 1 (white) in [0, 1]: the phases are laid out on a
grid twice as fine and averaged over 2 x 2, so that only pixels on an interface lie between 0 and 1. All lengths are in pixels
of the 64 x 64 grid, wave numbers in periods a cell. Row `i` of a family is a function of the seed and of `i` alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray
from scipy import fft
from torch import Tensor

from latentopt import ConfigError, suggest
from latentopt_materials.inclusions import inclusion_field

SIZE = 64
FAMILIES = ("gaussian", "ring", "power", "spinodal", "discs", "ellipses")
_FINE = 2 * SIZE
_COARSE = SIZE // 2  # enough for wave numbers up to 15, where the spectra below end at about 5
_BLOCK = 250  # rows that one random generator makes

Floats = NDArray[np.float32]


def make_structures(
    family: str, n: int, seed: int, volume_fraction: tuple[float, float] = (0.2, 0.8), anisotropy: float = 3.0
) -> Tensor:
    """Structures `(n, 1, 64, 64)` of one family, float32: the same bits for the same seed, and the first k of n those of k.

    family: `gaussian`, `ring` and `power` are Gaussian random fields with a low-pass, a ring-shaped and a power-law spectrum;
        `spinodal` is the field of the Cahn-Hilliard equation; all four are cut at the level that gives the volume fraction
        (Teubner 1991, for the first three). `discs` and `ellipses` are inclusions that do not overlap, of
        either phase.
    volume_fraction: of phase 1, drawn uniformly between the two. Inclusions fill at most half of the cell.
    anisotropy: the largest ratio of lengths along and across, 1 or more; each structure draws its own, and an angle. Discs
        have none.
    Raises `ConfigError` for an unknown family and impossible numbers.
    """
    if family not in FAMILIES:
        raise ConfigError(f"unknown family {family!r}{suggest(family, FAMILIES)}: use one of {', '.join(FAMILIES)}")
    low, high = volume_fraction
    if not 0.05 <= low <= high <= 0.95:
        raise ConfigError(f"volume_fraction is {volume_fraction}, expected 0.05 <= low <= high <= 0.95")
    if n < 1 or not anisotropy >= 1:
        raise ConfigError(f"got n = {n} and anisotropy = {anisotropy}, expected 1 or more of both")
    blocks = []
    for block in range(-(-n // _BLOCK)):
        rng = default_rng(SeedSequence(seed, spawn_key=(FAMILIES.index(family), block)))
        fraction = rng.uniform(low, high, _BLOCK).astype(np.float32)
        ratio = np.exp(rng.uniform(0, np.log(anisotropy), _BLOCK)).astype(np.float32)
        angle = rng.uniform(0, np.pi, _BLOCK).astype(np.float32)
        blocks.append(_MAKERS[family](rng, fraction, ratio, angle))
    return torch.from_numpy(np.concatenate(blocks)[:n, None])


def cut(field: Floats, fraction: Floats) -> Floats:
    """Structures `(n, 64, 64)` from fine fields `(n, 128, 128)`: phase 1 is the highest `fraction` of the values."""
    values = field.reshape(len(field), -1)
    ranks = np.clip(np.rint((1 - fraction) * values.shape[1]).astype(int), 0, values.shape[1] - 1)
    level = np.sort(values, axis=1)[np.arange(len(values)), ranks]
    phase = (field >= level[:, None, None]).astype(np.float32)
    return phase.reshape(-1, SIZE, 2, SIZE, 2).mean((2, 4))


# ---------------------------------------------------------------------- random fields


def wave_numbers(size: int, ratio: Floats, angle: Floats) -> Floats:
    """Lengths of the wave vectors `(n, size, size // 2 + 1)`, those along `angle` counted `ratio` times.

    A spectrum of them is narrower along `angle`, by `ratio`, so that structures are as much longer there.
    """
    k_y = fft.fftfreq(size, 1 / size).astype(np.float32)[None, :, None]
    k_x = fft.rfftfreq(size, 1 / size).astype(np.float32)[None, None, :]
    cosine, sine = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    along, across = ratio[:, None, None] * (k_x * cosine + k_y * sine), k_y * cosine - k_x * sine
    return np.sqrt(along**2 + across**2)


def _refined(spectrum: NDArray[np.complex64]) -> Floats:
    """The real fields `(n, 128, 128)` of spectra `(n, 32, 17)` by zero padding: exact for what the coarse grid holds."""
    half = _COARSE // 2
    fine = np.zeros((len(spectrum), _FINE, half + 1), np.complex64)
    fine[:, :half], fine[:, -half + 1 :] = spectrum[:, :half], spectrum[:, -half + 1 :]
    fine[:, :, half] = 0
    return fft.irfft2(fine, s=(_FINE, _FINE))


def _white(rng: Generator, n: int) -> NDArray[np.complex64]:
    return fft.rfft2(rng.standard_normal((n, _COARSE, _COARSE), np.float32))


def _random_field(
    amplitude: Callable[[Floats, Callable[[float, float], Floats]], Floats],
) -> Callable[[Generator, Floats, Floats, Floats], Floats]:
    """A maker of structures cut from Gaussian random fields; `amplitude` is the root of the spectrum at wave numbers."""

    def make(rng: Generator, fraction: Floats, ratio: Floats, angle: Floats) -> Floats:
        n = len(fraction)

        def drawn(low: float, high: float) -> Floats:
            return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

        filtered = _white(rng, n) * amplitude(wave_numbers(_COARSE, ratio, angle), drawn)
        return cut(_refined(filtered), fraction)

    return make


# The ranges keep features at about 8 pixels and more: wave numbers up to about 3.5.
_gaussian = _random_field(lambda k, drawn: np.exp(-0.25 * (k / drawn(1.0, 1.6)) ** 2))
_ring = _random_field(lambda k, drawn: np.exp(-0.25 * ((k - drawn(1.6, 2.6)) / 0.35) ** 2))
_power = _random_field(lambda k, drawn: (k**2 + 0.5) ** (-0.5 * drawn(2.5, 4.0)) * np.exp(-((k / 3.0) ** 4)))


# ---------------------------------------------------------------------- spinodal decomposition

_DT, _STEPS = 0.5, (100, 240)


def _spinodal(rng: Generator, fraction: Floats, ratio: Floats, angle: Floats) -> Floats:
    """The Cahn-Hilliard equation dc/dt = lap(c**3 - c - kappa lap c) on 32 x 32, from noise, for 50 to 120 units of time.

    Spectral in space, and semi-implicit in time: the bilaplacian and a stabilising 1.5 lap(c) are implicit (Eyre 1998; Chen
    and Shen 1998). The mean is that of the volume fraction by the lever rule, within +-0.45, where mixtures are unstable.
    """
    n = len(fraction)
    mean = np.clip(2 * fraction - 1, -0.45, 0.45)[:, None, None]
    kappa = rng.uniform(1.0, 2.2, (n, 1, 1)).astype(np.float32)
    stops = rng.integers(*_STEPS, n)
    k2 = (wave_numbers(_COARSE, np.ones(1, np.float32), np.zeros(1, np.float32)) * 2 * np.pi / _COARSE) ** 2
    stretched = (wave_numbers(_COARSE, ratio, angle) * 2 * np.pi / _COARSE) ** 2
    inverse = 1 / (1 + _DT * k2 * (kappa * stretched + 1.5))
    c = mean + 0.1 * rng.standard_normal((n, _COARSE, _COARSE), np.float32)
    spectrum = fft.rfft2(c)
    spectrum[:, 0, 0] = mean[:, 0, 0] * _COARSE**2  # the noise moves no matter
    kept = spectrum.copy()
    for step in range(1, stops.max() + 1):
        explicit = fft.rfft2(c * c * c - 2.5 * c)  # -c, and the -1.5 c that is implicit above; c**3 is 300 times slower
        spectrum = (spectrum - _DT * k2 * explicit) * inverse
        c = fft.irfft2(spectrum)
        kept[stops == step] = spectrum[stops == step]
    return cut(_refined(kept), fraction)


# ---------------------------------------------------------------------- inclusions


def _inclusions(elliptic: bool) -> Callable[[Generator, Floats, Floats, Floats], Floats]:
    def make(rng: Generator, fraction: Floats, ratio: Floats, angle: Floats) -> Floats:
        # The rarer phase is the included one: equal inclusions that do not overlap cannot fill much more than half.
        filled = np.minimum(fraction, 1 - fraction)
        field = inclusion_field(rng, filled, ratio if elliptic else np.ones_like(ratio), angle, SIZE)
        phase = cut(_doubled(np.asarray(field, np.float32)), filled)
        return np.where((fraction <= 0.5)[:, None, None], phase, 1 - phase)

    return make


def _doubled(field: Floats) -> Floats:
    """Periodic bilinear interpolation to twice the size, at the centres of the quarter pixels."""
    for axis in (1, 2):
        sides = [0.75 * field + 0.25 * np.roll(field, shift, axis) for shift in (1, -1)]
        field = np.stack(sides, axis + 1).reshape(*(s * (1 + (a == axis)) for a, s in enumerate(field.shape)))
    return field


_MAKERS: dict[str, Callable[[Generator, Floats, Floats, Floats], Floats]] = {
    "gaussian": _gaussian,
    "ring": _ring,
    "power": _power,
    "spinodal": _spinodal,
    "discs": _inclusions(elliptic=False),
    "ellipses": _inclusions(elliptic=True),
}

"""Structural similarity of pictures, at one scale and at several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from latentopt import Candidates, ConfigError, Decoder, Objective
from latentopt_std.objectives import TargetObjective, own, shares, weighted_mean

_SIGMA = 1.5  # of the Gaussian window, with K1 and K2 below: Wang et al. 2004, section III.C
_C1, _C2 = 0.01**2, 0.03**2
_EXPONENTS = (
    0.0448,
    0.2856,
    0.3001,
    0.2363,
    0.1333,
)  # Wang, Simoncelli and Bovik 2003, section 3.2, finest scale first
_LEAST = 1e-6  # mean similarities of a scale are kept above this: a fractional power has no value below 0

Filter = Callable[[Tensor], Tensor]


class _Structural(TargetObjective):
    """What both share: pictures only, an odd window that fits."""

    window_size: int = Field(default=11, ge=3)

    @field_validator("window_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"window_size must be odd, got {value}: use {value - 1} or {value + 1}")
        return value

    def picture_of(self, decoder: Decoder) -> tuple[int, int]:
        """Height and width of the decoder's pictures. Raises `ConfigError` where its designs are none."""
        shape = decoder.design_shape
        if len(shape) != 3:
            raise ConfigError(
                f"{self.kind_name()!r} compares pictures (C, H, W), this decoder's designs have shape {shape}: use 'mse'"
            )
        return shape[1], shape[2]


class SSIM(_Structural):
    """1 - SSIM (Wang et al. 2004), `(M,)`: 0 for equal pictures, at most 2.

    A Gaussian window of `window_size` (11) and sigma 1.5, K1 = 0.01, K2 = 0.03, borders reflected; the map is averaged over
    pixels and channels, under the mask where there is one. Pictures are first mapped from the decoder's `value_range` to
    [0, 1]. Raises `ConfigError` for designs that are no pictures or are smaller than the window.
    """

    kind: Literal["ssim"] = "ssim"

    def build(self, decoder: Decoder) -> Objective:
        side = min(self.picture_of(decoder))
        if side < self.window_size:
            fits = side if side % 2 else side - 1
            remedy = f"set window_size={fits}" if fits >= 3 else "use 'mse'"
            raise ConfigError(
                f"'ssim' has a window of {self.window_size} pixels, the pictures of this decoder are "
                f"{' x '.join(map(str, self.picture_of(decoder)))}: {remedy}"
            )
        return _Scales(self, decoder, (1.0,))


class MSSSIM(_Structural):
    """1 - multi-scale SSIM (Wang, Simoncelli and Bovik 2003, eq. 7), `(M,)`, between 0 and 1.

    The picture is halved by 2 x 2 means from scale to scale; contrast and structure count at every scale, luminance at the
    coarsest, with the paper's five exponents. Fewer `scales` take the first of them, scaled to sum to 1. Means are taken
    over pixels and channels (under the mask, halved in the same way) before the powers, and kept above 1e-6.
    Windows and value range are as in `ssim`. Raises `ConfigError` for designs that are no pictures or too small.
    """

    kind: Literal["ms_ssim"] = "ms_ssim"
    scales: int = Field(default=5, ge=1, le=len(_EXPONENTS))

    def build(self, decoder: Decoder) -> Objective:
        side = min(self.picture_of(decoder))
        sizes = [-(-side // 2**k) for k in range(len(_EXPONENTS))]
        if sizes[self.scales - 1] < self.window_size:
            fits = sum(size >= self.window_size for size in sizes)
            remedy = f"set scales={fits}" if fits else "set a smaller window_size, or use 'mse'"
            raise ConfigError(
                f"'ms_ssim' with {self.scales} scales and a window of {self.window_size} needs pictures of at least "
                f"{2 ** (self.scales - 1) * (self.window_size - 1) + 1} pixels a side, this decoder's are "
                f"{' x '.join(map(str, self.picture_of(decoder)))}: {remedy}"
            )
        exponents = _EXPONENTS[: self.scales]
        return _Scales(self, decoder, tuple(e / sum(exponents) for e in exponents))


class _Scale(NamedTuple):
    """The targets at one scale, worked out once: pictures, local means and variances `(T, C, h, w)`; and the mask."""

    picture_T: Tensor
    mean_T: Tensor
    variance_T: Tensor
    share: Tensor | None
    exponent: float


class _Scales:
    def __init__(self, config: _Structural, decoder: Decoder, exponents: tuple[float, ...]) -> None:
        target_T = config.targets_of(decoder)
        self.low, high = decoder.value_range
        self.width = high - self.low
        self.targets = len(target_T)
        self.smooth = _gaussian_filter(config.window_size, target_T)
        y, mask = self._unit(target_T), config.mask_of(decoder)
        # what is masked is the same in design and target, or windows across the mask's edge would see it
        self.visible = None if mask is None else (mask > 0).to(y)
        y = y if self.visible is None else y * self.visible
        self.scales: list[_Scale] = []
        for exponent in exponents:
            if self.scales:
                y, mask = _halved(y), None if mask is None else _halved(mask[None])[0]
            mean, square = self.smooth(torch.cat([y, y * y])).chunk(2)
            self.scales.append(_Scale(y, mean, square - mean.square(), shares(mask), exponent))

    def _unit(self, x: Tensor) -> Tensor:
        return x if (self.low, self.width) == (0.0, 1.0) else (x - self.low) / self.width

    def __call__(self, c: Candidates) -> Tensor:
        x = self._unit(c.designs)
        x = x if self.visible is None else x * self.visible
        found: list[Tensor] = []
        for scale in self.scales:
            x = _halved(x) if found else x
            found.append(self._similarity(x, scale, c, luminance=scale is self.scales[-1]))
        if len(found) == 1:
            return 1 - found[0]
        logs = [part.clamp(min=_LEAST).log() * scale.exponent for part, scale in zip(found, self.scales, strict=True)]
        return 1 - torch.stack(logs).sum(0).exp()

    def _similarity(self, x: Tensor, scale: _Scale, c: Candidates, *, luminance: bool) -> Tensor:
        """Mean contrast and structure of one scale, `(M,)`, times luminance at each pixel where asked."""
        y, mean_y = own(scale.picture_T, c), own(scale.mean_T, c)
        mean_x, square_x, product = self.smooth(torch.cat([x, x * x, x * y])).chunk(3)
        variance = square_x - mean_x.square() + own(scale.variance_T, c)
        both = mean_x * mean_y
        found = (2 * (product - both) + _C2) / (variance + _C2)
        if luminance:
            found = found * (2 * both + _C1) / (mean_x.square() + mean_y.square() + _C1)
        return weighted_mean(found, scale.share)


def _halved(x: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; at an odd border of those that are there."""
    return functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def _gaussian_filter(window: int, like: Tensor) -> Filter:
    from kornia.filters import filter2d_separable, get_gaussian_kernel1d  # slow to import, and needed here alone

    kernel = get_gaussian_kernel1d(window, _SIGMA, device=like.device, dtype=like.dtype)

    def smooth(x: Tensor) -> Tensor:
        found: Tensor = filter2d_separable(x, kernel, kernel, border_type="reflect")
        return found

    return smooth

"""The objective `lpips`."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from latentopt import Array, Candidates, ConfigError, Decoder, LeastSquares, ObjectiveConfig
from latentopt_lpips import weights
from latentopt_lpips.nets import Features, Net


class LPIPS(ObjectiveConfig):
    """The learned perceptual distance between design and target, version 0.1, `(M,)`. Gives residuals.

    Zhang et al. 2018, equation 1, with the published weights of `net`: `alex`, which its authors recommend for comparing, or
    `vgg`, which is smoother and some twenty times dearer. Designs are pictures `(3, H, W)`, or grey `(1, H, W)` or `(H, W)`,
    which are repeated to three channels. `value_range` is what black and white are, the decoder's own by default.

    `least_side`: pictures whose shorter side has fewer pixels are enlarged to it first (bilinear), design and target alike.
    The first layer of AlexNet is 11 pixels wide and strides over 4, so it sees little of a picture of less than 32; 64 is the
    size that the weights were learned at.

    `target`: one design, which serves every row, or T, of which each row has its own; filled in from the task's target.
    The weights are fetched once, by `python -m latentopt_lpips fetch`. Raises `InputFileError` where they are not there,
    `ConfigError` where there is no target or designs are no pictures, `ShapeError` where the target does not fit.
    """

    kind: Literal["lpips"] = "lpips"
    net: Net = "alex"
    target: Array | None = None
    value_range: tuple[float, float] | None = None
    least_side: int = Field(default=64, ge=32, le=1024)

    def build(self, decoder: Decoder) -> LeastSquares:
        shape = decoder.design_shape
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
            raise ConfigError(
                f"objective 'lpips' compares pictures (3, H, W), (1, H, W) or (H, W), decoder {decoder.name!r} gives designs "
                f"of shape {shape}: use 'perceptual' with a network that takes them"
            )
        low, high = self.value_range or decoder.value_range
        if not low < high:
            raise ConfigError(f"the value_range of 'lpips' must be (low, high) with low < high, got {(low, high)}")
        if self.target is None:
            raise ConfigError("objective 'lpips' needs a target: pass target= to the task or to the objective")
        target_T = decoder.as_designs(self.target, "lpips target")
        features = Features(self.net, weights.load(self.net), decoder.device, decoder.latent_dtype)
        return _LPIPS(features, target_T, (low, high), self.least_side)


class _LPIPS:
    def __init__(self, features: Features, target_T: Tensor, values: tuple[float, float], least_side: int) -> None:
        self.features, self.values, self.targets = features, values, len(target_T)
        height, width = target_T.shape[-2:]
        larger = least_side / min(height, width)
        self.size = (round(height * larger), round(width * larger)) if larger > 1 else None
        self.notes: list[str] = []
        if self.size is not None:
            enlarged = f"{self.size[0]} x {self.size[1]} pixels"
            self.notes.append(
                f"'lpips' compares designs of {height} x {width} enlarged to {enlarged}, as its network needs"
            )
        with torch.no_grad():
            parts = [self._of(target[None]) for target in target_T]
        self.features_T = [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def _of(self, designs: Tensor) -> list[Tensor]:
        """The features of designs, one `(M, F)` a layer."""
        low, high = self.values
        x = (designs - low) * (2 / (high - low)) - 1
        x = x[:, None] if x.ndim == 3 else x
        x = x.expand(-1, 3, -1, -1)
        if self.size is not None:
            x = functional.interpolate(x, self.size, mode="bilinear", align_corners=False)
        return self.features.of(x)

    def _differences(self, c: Candidates) -> list[Tensor]:
        pairs = zip(self._of(c.designs), self.features_T, strict=True)
        if self.targets == 1:
            return [found - aim_T for found, aim_T in pairs]
        return [found - aim_T[c.target_index] for found, aim_T in pairs]

    def __call__(self, c: Candidates) -> Tensor:
        return torch.stack([difference.square().sum(1) for difference in self._differences(c)]).sum(0)

    def residuals(self, c: Candidates) -> Tensor:
        return torch.cat(self._differences(c), dim=1)

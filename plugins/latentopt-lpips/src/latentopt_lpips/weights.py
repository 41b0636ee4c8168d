"""Where the weights lie on this machine, and how they are read. They do not ship with the package."""

from __future__ import annotations

import hashlib
import os
import sys
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from latentopt import InputFileError, read_weights
from latentopt_lpips.nets import Net, shapes

FOLDER = "LATENTOPT_LPIPS"  # the environment variable that names the folder of the weights
# of the numbers in each file, whatever wrote it
SUMS: dict[str, str] = {
    "alex": "b5a820ee8039f04c1800e91308a26d37d147eba43649aa9d69439249284c92ac",
    "vgg": "88c6515992269a6a67e28ad0ca8253baea146e1329de73aa110821082289f64b",
}
REMEDY = "run `python -m latentopt_lpips fetch`, which downloads them once (64 MB)"


def folder() -> Path:
    """Where the weights are looked for: `LATENTOPT_LPIPS`, or `latentopt-lpips` in the user's cache folder."""
    named = os.environ.get(FOLDER)
    if named:
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "latentopt-lpips"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "latentopt-lpips"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentopt-lpips"


def path_of(net: Net) -> Path:
    """The file of one network's weights."""
    return folder() / f"lpips_{net}.safetensors"


def content_sum(tensors: dict[str, Tensor]) -> str:
    """The sha256 of weights by name, shape and value."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].float().contiguous()
        total.update(f"{name} {tuple(values.shape)}".encode())
        total.update(values.numpy().tobytes())
    return total.hexdigest()


def check(net: Net, tensors: dict[str, Tensor], name: str) -> None:
    """Raises `InputFileError` where these are not the published weights of LPIPS 0.1."""
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if found != shapes(net):
        raise InputFileError(f"{name} does not hold the {len(shapes(net))} arrays of LPIPS's network {net!r}: {REMEDY}")
    digest = content_sum(tensors)
    if digest != SUMS[net]:
        raise InputFileError(
            f"the weights in {name} have sha256 {digest}, expected {SUMS[net]}: they are damaged or others; {REMEDY}"
        )


def load(net: Net) -> dict[str, Tensor]:
    """The weights of one network, float32 on the CPU. Raises `InputFileError` where they are not there, or others."""
    return _loaded(net, path_of(net))


@lru_cache(maxsize=4)
def _loaded(net: Net, path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputFileError(
            f"the weights of LPIPS's network {net!r} are not on this machine (looked for {path}): {REMEDY}, or set {FOLDER} "
            "to the folder that has them"
        )
    tensors = {name: value.to(torch.float32) for name, value in read_weights(path).tensors.items()}
    check(net, tensors, str(path))
    return tensors

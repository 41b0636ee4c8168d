"""Files that ship inside a package, taken only as they were published, and networks that are filled from them."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from latentopt.errors import DecoderError
from latentopt.weights import Weights

Network = TypeVar("Network", bound=nn.Module)


def package_data(package: str, name: str, *, record: str, distribution: str) -> bytes:
    """The bytes of a file in a package's folder data/, if they are those whose sha256 its record holds.

    `package` is an import name; `record` a JSON file in the same folder, with `{"sha256": {name: sum}}`; `distribution` what
    pip calls it, for the remedy. Raises `DecoderError` where the file or its record cannot be read, or the sum is another.
    """
    folder = importlib.resources.files(package) / "data"
    try:
        expected = json.loads((folder / record).read_text("utf-8"))["sha256"][name]
        found = (folder / name).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DecoderError(
            f"the file {name} of {distribution} cannot be read ({type(error).__name__}: {error}): reinstall {distribution}"
        ) from error
    digest = hashlib.sha256(found).hexdigest()
    if digest != expected:
        raise DecoderError(
            f"the file {name} of {distribution} has sha256 {digest}, expected {expected}: reinstall {distribution}"
        )
    return found


def filled(make: Callable[[], Network], weights: Weights) -> Network:
    """The network that `make()` gives, on the CPU, with these weights in float32; none are drawn for it before.

    For networks and weights that were published together: raises `RuntimeError`, torch's own, where names or shapes differ.
    """
    with torch.device("meta"):
        network = make()
    network.load_state_dict({name: value.float() for name, value in weights.tensors.items()}, assign=True)
    return network

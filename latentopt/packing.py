"""The state of a run as tensors and plain data, and back: what a checkpoint holds. No pickles, no classes by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from latentopt.errors import InputFileError
from latentopt.interfaces import Evaluation
from latentopt.ranking import Best
from latentopt.steering import Steering

_KNOWN: dict[str, type[Any]] = {"Evaluation": Evaluation, "Steering": Steering, "Best": Best}
_MARK = "$"
_PLAIN = (bool, int, float, str, type(None))
# What reading damaged bytes and building from damaged structures raises.
_DAMAGE = (
    SafetensorError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
    RuntimeError,
)


class _UnknownKindError(Exception):
    """A value of a kind that cannot be packed."""


def packable(value: Any) -> bool:
    """Whether a value can be packed: numbers, words, tensors, arrays, and lists, tuples and dicts of them."""
    try:
        _plain(value, {})
    except _UnknownKindError:
        return False
    return True


def pack(value: Any) -> bytes:
    """A value as one safetensors file, its structure in the header. Raises `TypeError` where it cannot be packed."""
    tensors: dict[str, Tensor] = {}
    try:
        structure = _plain(value, tensors)
    except _UnknownKindError as error:
        raise TypeError(f"keeps a value of type {error}, which no file can hold") from None
    return save(tensors, metadata={"structure": json.dumps(structure)})


def unpack(data: bytes, device: torch.device | str = "cpu") -> Any:
    """What `pack` packed, with its tensors on this device. Raises `InputFileError` where it is damaged."""
    try:
        length = int.from_bytes(data[:8], "little")
        structure = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["structure"])
        return _value(structure, load(data), device)
    except _DAMAGE as error:
        raise InputFileError(f"a checkpoint cannot be read ({type(error).__name__}: {error}): it is damaged") from None


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_MARK: "tensor", "name": name}
    if isinstance(value, np.ndarray):
        return {_MARK: "array", "tensor": _plain(torch.from_numpy(np.ascontiguousarray(value)), tensors)}
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple) and type(value).__name__ in _KNOWN and type(value) is _KNOWN[type(value).__name__]:
        return {_MARK: type(value).__name__, "parts": [_plain(part, tensors) for part in value]}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {_MARK: "tuple", "parts": [_plain(part, tensors) for part in value]}
    if isinstance(value, list):
        return [_plain(part, tensors) for part in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {_MARK: "dict", "keys": list(value), "parts": [_plain(part, tensors) for part in value.values()]}
    raise _UnknownKindError(type(value).__name__)


def _value(structure: Any, tensors: dict[str, Tensor], device: torch.device | str) -> Any:
    if isinstance(structure, list):
        return [_value(part, tensors, device) for part in structure]
    if not isinstance(structure, dict):
        return structure
    kind = structure[_MARK]
    if kind == "tensor":
        return tensors[structure["name"]].to(device)
    if kind == "array":
        return _value(structure["tensor"], tensors, "cpu").numpy()
    parts = [_value(part, tensors, device) for part in structure["parts"]]
    if kind == "tuple":
        return tuple(parts)
    if kind == "dict":
        return dict(zip(structure["keys"], parts, strict=True))
    return _KNOWN[kind](*parts)

"""What decoders and encoders return, and how they fail, put into plain words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from latentopt import modules
from latentopt.errors import DecoderError, EncoderError, ShapeError

_DESIGN_KEYS = ("sample", "reconstruction")
_CODE_KEYS = ("embedding", "mean", "mu", "latents")
# What a user's network may raise when it is given what it was not made for.
FAILURES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError)
REJECTIONS = (*FAILURES, ShapeError)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, with its type where it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: CUDA raises its own type, the CPU allocator a RuntimeError with a text."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        part in text for part in ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    )


def remedy(error: BaseException, module: Callable[..., Any]) -> str:
    """What to change, where a decoder rejects its latents with this error."""
    text = str(error)
    if isinstance(error, TypeError) and "argument" in text:
        return "give the inputs that it takes besides latents as conditions="
    if "device" in text:
        return "move it and its conditions to one device, or say with device= where its latents go"
    if re.search(r"dtype|scalar type|[Ii]nput type|Half|BFloat16", text):
        return "say with dtype= what its latents are to be, or convert it with .float()"
    return f"set latent_shape to what it was trained with{modules.latent_hint(module)}"


# ---------------------------------------------------------------------- the part that is meant


def describe(result: Any) -> str:
    """What a module returned, for an error text."""
    if isinstance(result, Tensor):
        return f"a tensor of shape {tuple(result.shape)}"
    if isinstance(result, Mapping):
        return f"a dict with keys {', '.join(map(repr, result))}"
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    return "None" if result is None else f"a {type(result).__name__}"


def _named(result: Any, key: str | int, who: str) -> Any:
    wrong, option = (EncoderError, "encoder_output") if who == "encoder" else (DecoderError, "output")
    if isinstance(result, Tensor):
        raise wrong(f"{who} returned {describe(result)}, which has no parts to choose from: leave {option}= out")
    try:
        if isinstance(key, int) or isinstance(result, Mapping):
            return result[key]
        return getattr(result, key)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise wrong(
            f"{who} returned {describe(result)}, which has no output {key!r}: set {option}= to a part of it"
        ) from None


def _tensor(found: Any) -> Tensor | None:
    if isinstance(found, np.ndarray) and found.dtype.kind in "fiubc":
        return torch.from_numpy(np.ascontiguousarray(found))
    return found if isinstance(found, Tensor) else None


def pick(result: Any, key: str | int | None, who: str) -> Tensor:
    """The tensor of designs in what a module returned. Raises `DecoderError` where that is not clear.

    Without a key: a tensor or NumPy array; the only part of a tuple or dict; a dict's or an object's `sample` (diffusers) or
    `reconstruction` (pythae); the mean of a distribution.
    """
    if isinstance(result, Tensor) and key is None:
        return result
    if key is not None:
        found = _named(result, key, who)
    elif isinstance(result, Distribution):
        found = result.mean
    elif isinstance(result, Mapping):
        known = [k for k in _DESIGN_KEYS if k in result]
        found = result[known[0]] if known else next(iter(result.values())) if len(result) == 1 else None
    elif isinstance(result, tuple | list):
        found = result[0] if len(result) == 1 else None
    else:
        found = result if isinstance(result, np.ndarray) else getattr(result, "sample", None)
    tensor = _tensor(found)
    if tensor is None:
        part = "" if key is None else f" as its part {key!r}"
        raise DecoderError(
            f"{who} returned {describe(result if key is None else found)}{part}, not a tensor of designs: "
            "set output= to the part that is the design"
        )
    return tensor


def pick_code(result: Any, key: str | int | None, dim: int) -> Tensor:
    """The latents in what an encoder returned: of `(mean, log_variance)` or a distribution the mean.

    Raises `EncoderError` where that is not clear, or where mean and log-variance lie side by side.
    """
    if key is not None:
        found = _named(result, key, "encoder")
    elif isinstance(result, Mapping):
        only = next(iter(result.values())) if len(result) == 1 else None
        found = next((result[k] for k in _CODE_KEYS if k in result), only)
    elif isinstance(result, tuple | list):
        found = result[0] if result else None
    else:
        dist = getattr(result, "latent_dist", result)
        found = dist if isinstance(dist, Tensor | np.ndarray) else getattr(dist, "mean", None)
    tensor = _tensor(found)
    if tensor is None:
        raise EncoderError(
            f"the encoder returned {describe(result)}: set encoder_output= to the part that is the latent"
        )
    if tensor.ndim >= 2 and math.prod(tensor.shape[1:]) == 2 * dim:
        raise EncoderError(
            f"the encoder returned {describe(tensor)}, twice the latent size of {dim}: "
            "wrap it to return the mean alone, not mean and log-variance side by side"
        )
    return tensor


# ---------------------------------------------------------------------- what it must be


def as_designs(designs: Tensor, n: int, shape: tuple[int, ...] | None, like: Tensor, name: str) -> Tensor:
    """Designs as float32 or float64, where `like` is. Raises `DecoderError` unless they are n real designs of this shape."""
    if designs.is_complex():
        raise DecoderError(f"decoder {name!r} returns complex numbers: return torch.view_as_real of them")
    if designs.layout is not torch.strided:
        raise DecoderError(f"decoder {name!r} returns a sparse tensor: return .to_dense()")
    if designs.ndim == 1 and len(designs) == n:
        raise DecoderError(
            f"decoder {name!r} returned one number a latent ({describe(designs)}), and a design has one axis at least: "
            "return .unsqueeze(1) of them"
        )
    if designs.ndim < 2 or designs.shape[0] != n or (shape is not None and designs.shape[1:] != shape):
        each = "" if shape is None else f" of shape {shape}"
        raise DecoderError(
            f"decoder {name!r} returned {describe(designs)} for {n} latents: expected {n} designs{each}, one a row"
        )
    if designs.dtype not in (torch.float32, torch.float64):
        designs = designs.float()
    return designs if designs.device == like.device else designs.to(like.device)


def no_room(name: str, rows: int, error: BaseException) -> str:
    """The text of an `OutOfMemoryError`."""
    what = "one row" if rows == 1 else f"{rows} rows"
    return (
        f"{what} of decoder {name!r} does not fit into memory ({first_line(error)}): "
        "use a machine with more memory or a smaller decoder"
    )

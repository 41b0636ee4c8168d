"""What decoders and encoders return, and how they fail, put into plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latentopt.errors import DecoderError

_DESIGN_KEYS = ("sample", "reconstruction")
_CODE_KEYS = ("embedding", "mean", "mu", "latents")


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


def device_and_dtype(
    module: Callable[..., Any], device: torch.device | str | None, dtype: torch.dtype | None, name: str
) -> tuple[torch.device, torch.dtype]:
    """Where a module lives, from its own parameters; what the caller says of a callable that has none."""
    tensors = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
    devices = sorted({str(t.device) for t in tensors})
    if "meta" in devices:
        raise DecoderError(f"decoder {name!r} has meta tensors, which hold no weights: load its weights first")
    if len(devices) > 1:
        raise DecoderError(f"decoder {name!r} lies on several devices ({', '.join(devices)}): move it to one")
    if device is not None and devices and torch.device(device) != torch.device(devices[0]):
        raise DecoderError(
            f"decoder {name!r} is on {devices[0]} and device={device} was asked: move it yourself with .to({device!r})"
        )
    floats = sorted({str(t.dtype): t.dtype for t in tensors if t.is_floating_point()}.items())
    own = next((d for key, d in floats if key == "torch.float32"), floats[0][1] if floats else None)
    where = torch.device(devices[0] if devices else device or "cpu")
    if where.type == "cuda" and not torch.cuda.is_available():
        raise DecoderError(f"device {where} was asked and this machine has no CUDA device: use device='cpu'")
    return where, dtype or own or torch.float32


def check_weights(module: Callable[..., Any], name: str) -> None:
    """Raise `DecoderError` where weights are NaN or infinite, naming the first such tensor."""
    if not isinstance(module, nn.Module):
        return
    for key, weight in module.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            count = int((~torch.isfinite(weight)).sum())
            raise DecoderError(
                f"weights of decoder {name!r} contain {count} non-finite values in {key!r}: load an undamaged checkpoint"
            )


def _named(result: Any, key: str | int, who: str) -> Any:
    try:
        if isinstance(key, int) or isinstance(result, Mapping):
            return result[key]
        return getattr(result, key)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise DecoderError(f"{who} returned {describe(result)}, which has no output {key!r}") from None


def describe(result: Any) -> str:
    """What a module returned, for an error text."""
    if isinstance(result, Tensor):
        return f"a tensor of shape {tuple(result.shape)}"
    if isinstance(result, Mapping):
        return f"a dict with keys {', '.join(map(repr, result))}"
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    return f"a {type(result).__name__}"


def pick(result: Any, key: str | int | None, who: str) -> Tensor:
    """The tensor of designs in what a module returned. Raises `DecoderError` where that is not clear."""
    if isinstance(result, Tensor) and key is None:
        return result
    if key is not None:
        found = _named(result, key, who)
    elif isinstance(result, Mapping):
        known = [k for k in _DESIGN_KEYS if k in result]
        found = result[known[0]] if known else next(iter(result.values())) if len(result) == 1 else None
    elif isinstance(result, tuple | list):
        found = result[0] if len(result) == 1 else None
    else:
        found = getattr(result, "sample", None)
    if not isinstance(found, Tensor):
        raise DecoderError(
            f"{who} returned {describe(result)}, not a tensor of designs: set output= to the part that is the design"
        )
    return found


def pick_code(result: Any, key: str | int | None, dim: int) -> Tensor:
    """The latents in what an encoder returned: of `(mean, log_variance)` the mean."""
    if key is not None:
        found = _named(result, key, "encoder")
    elif isinstance(result, Mapping):
        found = next((result[k] for k in _CODE_KEYS if k in result), None)
    elif isinstance(result, tuple | list):
        found = result[0] if result else None
    else:
        dist = getattr(result, "latent_dist", result)
        found = dist if isinstance(dist, Tensor) else getattr(dist, "mean", None)
    if not isinstance(found, Tensor):
        raise DecoderError(
            f"the encoder returned {describe(result)}: set encoder_output= to the part that is the latent"
        )
    if found.ndim == 2 and found.shape[1] == 2 * dim:
        raise DecoderError(
            f"the encoder returned {describe(found)}, twice the latent size of {dim}: "
            "wrap it to return the mean alone, not mean and log-variance side by side"
        )
    return found


def check_designs(designs: Tensor, n: int, name: str) -> None:
    """Raise `DecoderError` unless these are n finite, real designs."""
    if designs.is_complex():
        raise DecoderError(f"decoder {name!r} returns complex numbers: return torch.view_as_real of them")
    if designs.is_sparse:
        raise DecoderError(f"decoder {name!r} returns a sparse tensor: return .to_dense()")
    if designs.ndim < 2 or len(designs) != n:
        raise DecoderError(
            f"decoder {name!r} returned {describe(designs)} for {n} latents: expected {n} designs, one a row"
        )
    if not bool(torch.isfinite(designs).all()):
        share = float((~torch.isfinite(designs)).float().mean())
        raise DecoderError(
            f"decoder {name!r} returns {share:.1%} NaN or infinite values for draws from its prior: "
            "check its weights and its latent_shape"
        )

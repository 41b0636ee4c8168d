"""The nn.Modules behind a decoder: which they are, where they lie, whether their weights are sound; and freezing them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from latentopt.errors import DecoderError

# ---------------------------------------------------------------------- which


def modules_of(*functions: Any) -> list[nn.Module]:
    """The modules that these callables run, each once.

    A module itself, the owner of a bound method (`vae.decode`), what a partial holds, and the modules that a function or
    lambda names or a callable object keeps as attributes. What lies deeper is not looked for.
    """
    found = {id(module): module for function in functions for module in _behind(function)}
    return list(found.values())


def _behind(function: Any) -> Iterator[nn.Module]:
    if isinstance(function, nn.Module):
        yield function
    elif isinstance(function, functools.partial):
        for part in (function.func, *function.args, *function.keywords.values()):
            yield from _behind(part)
    elif inspect.isfunction(function):
        for value in _named_in(function):
            owner = getattr(value, "__self__", None)
            yield from (part for part in (value, owner) if isinstance(part, nn.Module))
    else:
        owner = function.__self__ if inspect.ismethod(function) else function
        kept = [owner, *getattr(owner, "__dict__", {}).values()] if not isinstance(owner, nn.Module) else [owner]
        yield from (part for part in kept if isinstance(part, nn.Module))


def _named_in(function: Any) -> list[Any]:
    try:
        names = inspect.getclosurevars(function)
    except ValueError:  # a name that is not bound yet
        return []
    return [*names.nonlocals.values(), *names.globals.values()]


# ---------------------------------------------------------------------- where, and in what precision


def as_device(device: torch.device | str) -> torch.device:
    """A device that this machine has. Raises `DecoderError` for one that it has not, or that is no device."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        text = str(error).splitlines()[0][:200]
        raise DecoderError(f"{device!r} is no device ({text}): use 'cpu', or for example 'cuda:0'") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise DecoderError(f"device {found} was asked and this machine has no CUDA device: use device='cpu'")
    if found.type == "meta":
        raise DecoderError("device meta was asked, which holds no numbers: use device='cpu'")
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, ImportError) as error:
        text = str(error).splitlines()[0][:200]
        raise DecoderError(f"device {found} cannot be used here ({text}): use device='cpu'") from None
    return found


def device_and_dtype(
    module: Callable[..., Any], device: torch.device | str | None, dtype: torch.dtype | None, name: str
) -> tuple[torch.device, torch.dtype]:
    """Where a module wants its latents and in what precision: what the caller says, else what its parameters say.

    The precision is that of the first floating-point parameter, float32 without any. Raises `DecoderError` where a module
    holds no numbers (meta), lies on several devices and none was chosen, or lies elsewhere than the caller says.
    """
    asked = None if device is None else as_device(device)
    parts = modules_of(module)
    parameters = [p for part in parts for p in part.parameters()]
    tensors = [*parameters, *(b for part in parts for b in part.buffers())]
    devices = sorted({str(t.device) for t in tensors})
    if "meta" in devices:
        raise DecoderError(f"decoder {name!r} has meta tensors, which hold no weights: load its weights first")
    if asked is None and len(devices) > 1:
        raise DecoderError(
            f"decoder {name!r} lies on several devices ({', '.join(devices)}): move it to one, or say with device= "
            "where its latents go"
        )
    its_own = isinstance(module, nn.Module) or inspect.ismethod(module)  # a function may move its latents itself
    if asked is not None and devices and its_own and not any(_same(asked, torch.device(d)) for d in devices):
        raise DecoderError(
            f"decoder {name!r} is on {', '.join(devices)} and device={str(asked)!r} was asked: "
            f"move it yourself with .to({str(asked)!r})"
        )
    floats = (t.dtype for t in (*parameters, *tensors) if t.is_floating_point())
    return asked or torch.device(devices[0] if devices else "cpu"), dtype or next(floats, torch.float32)


def _same(one: torch.device, other: torch.device) -> bool:
    """Whether two names mean one device: "cuda" is any CUDA device."""
    return one.type == other.type and (one.index is None or other.index is None or one.index == other.index)


# ---------------------------------------------------------------------- weights


@torch.no_grad()
def check_weights(module: Callable[..., Any], name: str) -> None:
    """Raise `DecoderError` where weights are not finite, naming the first such tensor.

    Buffers may hold infinity (attention masks do), but no NaN.
    """
    for part in modules_of(module):
        for key, weight in part.named_parameters():
            if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
                raise _damaged(name, key, int((~torch.isfinite(weight)).sum()), "non-finite")
        for key, buffer in part.named_buffers():
            if buffer.is_floating_point() and bool(torch.isnan(buffer).any()):
                raise _damaged(name, key, int(torch.isnan(buffer).sum()), "NaN")


def _damaged(name: str, key: str, count: int, what: str) -> DecoderError:
    return DecoderError(
        f"weights of decoder {name!r} contain {count} {what} values in {key!r}: load an undamaged checkpoint"
    )


@contextmanager
def frozen(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Eval mode and parameters without gradients inside; each submodule's and parameter's own flags again after.

    A caller's `inference_mode` is left for the time, for nothing that is made in it could take part in a gradient.
    """
    training = [(part, part.training) for module in modules for part in module.modules()]
    parameters = (p for module in modules for p in module.parameters() if not p.is_inference())  # whose flag is fixed
    wanted: list[tuple[Tensor, bool]] = [(p, p.requires_grad) for p in parameters]
    try:
        for module in modules:
            module.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        with torch.inference_mode(False):
            yield
    finally:
        for part, flag in training:
            part.training = flag
        for parameter, flag in wanted:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)


# ---------------------------------------------------------------------- what would help


def latent_hint(module: Callable[..., Any]) -> str:
    """What the first layer says of the latents that a module takes, as a clause; empty where it says nothing."""
    if not isinstance(module, nn.Module):
        return ""
    if isinstance(getattr(module, "encoder", None), nn.Module) and isinstance(
        getattr(module, "decoder", None), nn.Module
    ):
        return "; it has encoder.* and decoder.*: give its .decoder as the decoder and its .encoder as the encoder"
    for key, part in module.named_modules():
        where = f"; its first layer{f' {key!r}' if key else ''} takes"
        if isinstance(part, nn.Linear):
            return f"{where} {part.in_features} values"
        if isinstance(part, nn.modules.conv._ConvNd):
            sides = ", ".join("LHW"[:1] if len(part.kernel_size) == 1 else "DHW"[-len(part.kernel_size) :])
            return f"{where} {part.in_channels} channels, as in latent_shape=({part.in_channels}, {sides})"
    return ""

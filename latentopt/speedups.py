"""What makes a decoder faster on request: bfloat16, channels-last memory, folded batch norms, compilation.

None is on by default; what each gains, and what it costs in the final loss, is measured in docs/performance.md.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

from latentopt import outputs
from latentopt.errors import ConfigError

_Module = Callable[..., Any]
# How far designs may move, as a share of their largest value, when batch norms are folded: rounding in float32 stays below
# 1e-5, and a layer folded wrongly shows at once.
_FOLDED = 1e-4
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_FORMATS = (
    ((nn.Conv2d, nn.ConvTranspose2d), torch.channels_last),
    ((nn.Conv3d, nn.ConvTranspose3d), torch.channels_last_3d),
)


@dataclass(frozen=True)
class Speedups:
    """The options of one decoder. `Decoder` says what they mean."""

    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    fold_batch_norm: bool = False
    compile: bool = False

    @property
    def wanted(self) -> str:
        """Those that are on, as they are written; empty where none is."""
        precision = [] if self.precision == "float32" else [f"precision={self.precision!r}"]
        flags = [f"{key}=True" for key in ("channels_last", "fold_batch_norm", "compile") if getattr(self, key)]
        return ", ".join(precision + flags)

    def check(self, module: _Module, device: torch.device, dtype: torch.dtype, name: str) -> None:
        """Raise `ConfigError` for what cannot work with this module."""
        if self.precision not in ("float32", "bfloat16"):
            raise ConfigError(f"precision must be 'float32' or 'bfloat16', got {self.precision!r}")
        for key in ("channels_last", "fold_batch_norm", "compile"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"{key} must be True or False, got {getattr(self, key)!r}")
        if self.precision == "bfloat16":
            if dtype != torch.float32:
                raise ConfigError(
                    f"precision='bfloat16' is for decoders in float32, and {name!r} is in {dtype} on {device}: "
                    "convert it with .float(), or leave precision= out"
                )
            if not torch.amp.is_autocast_available(device.type):
                raise ConfigError(
                    f"precision='bfloat16' is not available on {device} (torch.autocast): leave precision= out"
                )
        if (self.channels_last or self.fold_batch_norm) and _owner(module) is None:
            asked = "channels_last" if self.channels_last else "fold_batch_norm"
            raise ConfigError(
                f"{asked}=True changes the layers of a copy, and decoder {name!r} is a {type(module).__name__}: give an "
                "nn.Module or a method of one"
            )

    def compute_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The precision of the products inside a module whose own is `dtype`."""
        return torch.bfloat16 if self.precision == "bfloat16" else dtype

    def settings(self) -> AbstractContextManager[Any]:
        """What decoding and gradients happen in: a compiled module keeps its buffers, for gradients may be taken twice."""
        if not self.compile:
            return nullcontext()
        functorch = importlib.import_module("torch._functorch.config")  # torch's own error text names it
        patch: AbstractContextManager[Any] = functorch.patch(donated_buffer=False)
        return patch

    def applied(
        self, module: _Module, exercise: Callable[[_Module], Tensor], device: torch.device, name: str
    ) -> tuple[_Module, list[str]]:
        """The callable to run in place of `module`, which is left as it is, and what there is to note.

        `exercise(module)` decodes a few latents by it, takes their gradient where there is one, and gives the designs. The
        caller has frozen the module. Raises `ConfigError` where it cannot be copied, or fails in bfloat16.
        """
        run, owner, notes = module, _owner(module), list[str]()
        if self.fold_batch_norm:
            made, note = _folded(module, exercise, name)
            notes.append(note)
            run, owner = made or (module, owner)
        if self.channels_last:
            if run is module:
                run, owner = _copied(module, name)
            notes += _to_channels_last(owner, name)
        around: Callable[[_Module], _Module] = _as_it_is
        if self.precision == "bfloat16":
            around = functools.partial(_autocast, device)
            notes.append(_in_bfloat16(run, around(run), exercise, name))
        if self.compile:
            run, note = _compiled(run, lambda made: exercise(around(made)), name)
            notes.append(note)
        return around(run), notes


# ---------------------------------------------------------------------- copies


def _owner(module: _Module) -> nn.Module | None:
    """The module itself, or the one whose bound method it is."""
    owner = getattr(module, "__self__", None) if inspect.ismethod(module) else module
    return owner if isinstance(owner, nn.Module) else None


def _copied(module: _Module, name: str) -> tuple[_Module, nn.Module]:
    """A copy, frozen and in eval mode, of a module or of a method with its module; and that module."""
    owner = _owner(module)
    try:
        made = copy.deepcopy(owner)
    except (*outputs.FAILURES, OSError) as error:
        made, why = None, outputs.first_line(error)
    else:
        why = "it is no nn.Module"
    if made is None:
        raise ConfigError(
            f"decoder {name!r} cannot be copied ({why}), as channels_last= and fold_batch_norm= need: leave them out"
        )
    made.eval().requires_grad_(False)
    return (made if owner is module else getattr(made, module.__name__)), made


# ---------------------------------------------------------------------- batch norms


def _folded(
    module: _Module, exercise: Callable[[_Module], Tensor], name: str
) -> tuple[tuple[_Module, nn.Module] | None, str]:
    """A copy with its batch norms folded into the layers before them, and a note; None where that is not possible.

    gamma (W x + b - mean) / sqrt(var + eps) + beta is again of the form W' x + b' (Jacob et al. 2018, section 3.2).
    Layers that follow each other are found by running it, so that any `forward` will do; the designs are compared after.
    """
    run, owner = _copied(module, name)
    norms = [part for part in owner.modules() if isinstance(part, _BATCH_NORMS)]
    with _followers(owner) as pairs:
        before = exercise(run)
    found = [(layer, norm) for layer, norm in pairs() if _foldable(layer, norm)]
    if not found:
        why = "no batch norm directly follows a linear or convolutional layer" if norms else "it has no batch norm"
        return None, f"fold_batch_norm=True changed nothing in decoder {name!r}: {why}"
    for layer, norm in found:
        _fuse(layer, norm)
    gone = {id(norm) for _, norm in found}
    for part in list(owner.modules()):
        for key, child in part._modules.items():
            part._modules[key] = nn.Identity() if id(child) in gone else child
    try:
        moved = _moved(before, exercise(run))
    except outputs.REJECTIONS as error:
        return None, f"fold_batch_norm=True was left out: decoder {name!r} then fails ({outputs.first_line(error)})"
    if not moved <= max(_FOLDED, 8 * torch.finfo(next(owner.parameters()).dtype).eps):
        return None, f"fold_batch_norm=True was left out: designs of decoder {name!r} then differ by {moved:.1e}"
    note = f"folded {len(found)} of {len(norms)} batch norms of decoder {name!r} into the layers before them"
    return (run, owner), note


@contextmanager
def _followers(owner: nn.Module) -> Iterator[Callable[[], list[tuple[nn.Module, nn.Module]]]]:
    """Watches a run; the function that it gives then names the pairs (layer, batch norm that took the layer's output).

    Only layers and batch norms that always met each other are named.
    """
    made_by: dict[int, tuple[Tensor, int, nn.Module]] = {}  # the tensor is kept, so that its id stays its own
    met: dict[nn.Module, set[nn.Module | None]] = {}
    calls: dict[nn.Module, int] = {}

    def made(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            made_by[id(output)] = output, output._version, layer
        calls[layer] = calls.get(layer, 0) + 1

    def taken(norm: nn.Module, inputs: Any) -> None:
        given = inputs[0] if inputs else None
        output, version, layer = made_by.get(id(given), (None, 0, None))
        if output is not None and output._version != version:
            layer = None  # something wrote into it meanwhile, as ReLU(inplace=True) does
        if output is not None and isinstance(layer, nn.Linear) and output.ndim != 2:
            layer = None  # of (N, L, C) a batch norm takes L for the channels
        met.setdefault(norm, set()).add(layer)
        calls[norm] = calls.get(norm, 0) + 1

    def pairs() -> list[tuple[nn.Module, nn.Module]]:
        found = [(next(iter(layers)), norm) for norm, layers in met.items() if len(layers) == 1]
        owners = [layer for layer, _ in found]
        return [
            (layer, norm)
            for layer, norm in found
            if layer is not None and owners.count(layer) == 1 and calls[layer] == calls[norm]
        ]

    handles = [part.register_forward_hook(made) for part in owner.modules() if isinstance(part, _LINEAR)]
    handles += [part.register_forward_pre_hook(taken) for part in owner.modules() if isinstance(part, _BATCH_NORMS)]
    try:
        yield pairs
    finally:
        for handle in handles:
            handle.remove()


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether both are torch's own, without hooks or parametrizations, and the norm goes by its running statistics."""
    hooks = any(part._forward_hooks or part._forward_pre_hooks for part in (layer, norm))
    grouped = isinstance(layer, _TRANSPOSED) and layer.groups > 1  # torch's formula is for one group
    plain = type(layer) in _LINEAR and type(norm) in _BATCH_NORMS
    return plain and not hooks and not grouped and not norm.training and getattr(norm, "running_mean", None) is not None


@torch.no_grad()
def _fuse(layer: Any, norm: Any) -> None:
    """Writes the batch norm into the layer. torch's formula for convolutions holds for a linear layer as well."""
    transposed = isinstance(layer, _TRANSPOSED)
    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    weight, bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics, transpose=transposed)
    layer.weight, layer.bias = weight.requires_grad_(False), bias.requires_grad_(False)


def _moved(before: Tensor, after: Tensor) -> float:
    """The largest difference of designs, as a share of their largest value; values that were not finite do not count."""
    finite = torch.isfinite(before)
    scale = float(before.where(finite, 0.0).abs().amax()) or 1.0
    apart = (before - after).abs().where(finite, 0.0).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return float(apart.amax()) / scale


# ---------------------------------------------------------------------- precision, memory format, compilation


def _as_it_is(module: _Module) -> _Module:
    return module


def _autocast(device: torch.device, module: _Module) -> _Module:
    """The module, and nothing around it, under `torch.autocast` to bfloat16."""

    def run(*args: Any, **conditions: Any) -> Any:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return module(*args, **conditions)

    return run


def _in_bfloat16(plain: _Module, cast: _Module, exercise: Callable[[_Module], Tensor], name: str) -> str:
    """How far bfloat16 moves the designs. Raises `ConfigError` where the module fails in it."""
    before = exercise(plain)
    try:
        after = exercise(cast)
    except outputs.REJECTIONS as error:
        if outputs.is_out_of_memory(error):
            raise
        raise ConfigError(
            f"decoder {name!r} fails with precision='bfloat16' ({outputs.first_line(error)}): leave precision= out"
        ) from error
    moved = _moved(before, after)
    return f"precision='bfloat16' moves designs of decoder {name!r} by up to {moved:.1e} of their largest value"


@torch.no_grad()
def _to_channels_last(owner: nn.Module | None, name: str) -> list[str]:
    """Puts the weights of a copy's convolutions in that order; their outputs follow."""
    layers = [] if owner is None else list(owner.modules())
    found: list[tuple[Any, torch.memory_format]] = [
        (part, order) for kinds, order in _FORMATS for part in layers if isinstance(part, kinds)
    ]
    for part, order in found:
        if isinstance(part.weight, nn.Parameter):  # not one that a parametrization computes
            part.weight.data = part.weight.data.contiguous(memory_format=order)
    return (
        [] if found else [f"channels_last=True changed nothing in decoder {name!r}: it has no 2-d or 3-d convolution"]
    )


def _compiled(module: _Module, exercise: Callable[[_Module], Tensor], name: str) -> tuple[_Module, str]:
    """`torch.compile` of it, for any number of rows, and compiled at once; the module itself where that fails."""
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():  # the compiler warns of its own code and of this machine
            warnings.simplefilter("ignore")
            made: _Module = torch.compile(module, dynamic=True)
            exercise(made)
    except (*outputs.REJECTIONS, OSError, ImportError) as error:  # the C++ compiler may lack, or its headers
        if outputs.is_out_of_memory(error):
            raise
        reason = outputs.first_line(error)
        return module, f"compile=True was left out: decoder {name!r} cannot be compiled ({reason})"
    took = time.perf_counter() - started
    return made, f"compiled decoder {name!r} in {took:.0f} s, which pays in long runs only (docs/performance.md)"

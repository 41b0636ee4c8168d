"""Objectives that a user's own code gives: a predictor in torch, or any Python function on NumPy arrays."""

from __future__ import annotations

import copy
import inspect
import numbers
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from latentopt import Candidates, CodeRef, ConfigError, Decoder, Objective, ObjectiveConfig, ObjectiveError

# ---------------------------------------------------------------------- code that a config names


def load_code(code: CodeRef) -> Any:
    """What `code` names: a module or function as it is; of a class, or a function that needs no argument, what it returns.

    An `nn.Module` comes back as a frozen copy in eval mode, so that the user's own is never touched; one that was made by a
    call belongs to the objective and is frozen without a copy. Raises `ConfigError` where it cannot be copied.
    """
    found = code.load()
    if isinstance(found, nn.Module):
        return freeze(_copied(found, code.name))
    found = made(found, code.name)
    return freeze(found) if isinstance(found, nn.Module) else found


def made(found: Any, name: str) -> Any:
    """What a class, or a function that needs no argument, gives when called; anything else as it is."""
    if isinstance(found, type) and not _needs_nothing(found):
        raise ConfigError(f"class {name!r} needs arguments: name a function without arguments that makes one")
    return found() if _needs_nothing(found) else found


def freeze(network: nn.Module) -> nn.Module:
    """The network itself, in eval mode and without gradients of its parameters."""
    return network.eval().requires_grad_(False)


def copied_encoder(encoder: nn.Module) -> nn.Module:
    """A frozen copy of a decoder's encoder."""
    return freeze(_copied(encoder, "the decoder's encoder"))


def _copied(network: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"the network {name} cannot be copied ({str(error).splitlines()[0]}): "
            "pass a function without arguments that returns it instead"
        ) from error


def _needs_nothing(function: Any) -> bool:
    """Whether it makes something rather than judging designs: a class or function that can be called without arguments.

    A function that takes `*args` takes designs.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return False
    optional = (p.default is not p.empty or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)
    takes_any = any(p.kind == p.VAR_POSITIONAL for p in parameters) and not isinstance(function, type)
    return all(optional) and not takes_any


def dtype_of(network: Any) -> torch.dtype | None:
    """The floating dtype of a network's parameters; None where it has none."""
    if not isinstance(network, nn.Module):
        return None
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), None)


# ---------------------------------------------------------------------- in torch


class Property(ObjectiveConfig):
    """A predictor's number for each design, `(M,)`: designs `(M, *design_shape)` to `(M,)` or `(M, 1)` in torch.

    `function`: an `nn.Module`, or a function of designs; or a class, or a function that can be called without arguments,
    that gives one. `output` chooses a column where it gives `(M, K)`, for example a class's logit. Gradients flow through
    it; a module is copied, frozen and moved to the decoder's device. Set `goal` to maximize or to a bound as needed.
    Raises `ObjectiveError` for anything but such a tensor.
    """

    kind: Literal["property"] = "property"
    function: CodeRef
    output: int | None = Field(default=None, ge=0)

    def build(self, decoder: Decoder) -> Objective:
        function = load_code(self.function)
        if not callable(function):
            raise ConfigError(
                f"property function {self.function.name!r} gives {type(function).__name__}, expected an nn.Module or a "
                "function of designs"
            )
        if isinstance(function, nn.Module):
            function = function.to(decoder.device)
        return _Property(function, self.function.name, self.output)


class _Property:
    def __init__(self, function: Callable[[Tensor], Any], name: str, output: int | None) -> None:
        self.function, self.name, self.output = function, name, output
        self.dtype = dtype_of(function)

    def __call__(self, c: Candidates) -> Tensor:
        value = self.function(c.designs if self.dtype is None else c.designs.to(self.dtype))
        if not isinstance(value, Tensor):
            raise ObjectiveError(
                f"property function {self.name!r} returned {type(value).__name__}, expected a tensor: return one, or use "
                "'blackbox' for plain Python and NumPy"
            )
        value = self._column(value)
        return value.to(c.latents.dtype) if value.is_floating_point() else value

    def _column(self, value: Tensor) -> Tensor:
        columns = value.shape[1] if value.ndim == 2 else 0
        if self.output is not None:
            if self.output >= columns:
                raise ObjectiveError(
                    f"property function {self.name!r} returned shape {tuple(value.shape)}, which has no output "
                    f"{self.output}: " + (f"choose 0 to {columns - 1}" if columns else "leave output= out")
                )
            return value[:, self.output]
        if columns > 1:
            raise ObjectiveError(
                f"property function {self.name!r} returned {columns} numbers a design: choose one with output=0 to "
                f"{columns - 1}"
            )
        return value[:, 0] if columns == 1 else value


# ---------------------------------------------------------------------- in plain Python


class BlackBox(ObjectiveConfig):
    """What a plain Python function says of each design, `(M,)`, without gradients: for searches that need none.

    `function` is called with one design as a NumPy array of the design's shape and returns a number; with `vectorized`,
    once a batch with `(M, *design_shape)`, and returns `(M,)`. It gets copies, and may change them. NaN or infinity ends a
    row. One copy leaves the device a batch, and one goes back. Raises `ObjectiveError` where the function fails
    or returns no number.
    """

    kind: Literal["blackbox"] = "blackbox"
    function: CodeRef
    vectorized: bool = False

    def build(self, decoder: Decoder) -> Objective:
        function = made(self.function.load(), self.function.name)
        if not callable(function):
            raise ConfigError(
                f"blackbox function {self.function.name!r} gives {type(function).__name__}, expected a function of a design"
            )
        return _BlackBox(function, self.function.name, self.vectorized)


class _BlackBox:
    def __init__(self, function: Callable[[Any], Any], name: str, vectorized: bool) -> None:
        self.function, self.name, self.vectorized = function, name, vectorized

    def __call__(self, c: Candidates) -> Tensor:
        designs = np.array(c.designs.detach().cpu().numpy())
        values = self._batch(designs) if self.vectorized else [self._one(row, x) for row, x in enumerate(designs)]
        return torch.as_tensor(np.asarray(values, dtype=np.float64)).to(c.latents.dtype).to(c.latents.device)

    def _call(self, argument: Any, where: str) -> Any:
        try:
            return self.function(argument)
        except Exception as error:  # the user's own code may raise anything; nothing is hidden
            text = (str(error).splitlines() or [""])[0]
            raise ObjectiveError(
                f"blackbox function {self.name!r} failed on {where} of shape {argument.shape} "
                f"({type(error).__name__}: {text}): make it return NaN for designs that it cannot judge"
            ) from error

    def _one(self, row: int, design: Any) -> float:
        value = self._call(design, f"row {row}, a design")
        if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
            value = value.item()
        if not isinstance(value, numbers.Real | np.bool_):
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, np.ndarray | Tensor) else ""
            raise ObjectiveError(
                f"blackbox function {self.name!r} returned {type(value).__name__}{shape} for row {row}, expected one real "
                "number: return a float, or set vectorized: true where it takes all rows at once"
            )
        return float(value)

    def _batch(self, designs: Any) -> Any:
        found = self._call(designs, "designs")
        try:
            values = np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found)
        except ValueError:  # rows of unequal length
            values = np.empty(0, dtype=object)
        if values.shape != (len(designs),) or values.dtype.kind not in "fiub":
            raise ObjectiveError(
                f"blackbox function {self.name!r} returned shape {values.shape} of {values.dtype} for {len(designs)} "
                f"designs, expected {len(designs)} real numbers: set vectorized: false where it takes one design"
            )
        return values

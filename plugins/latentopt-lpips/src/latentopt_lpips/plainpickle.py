"""Arrays out of a pickle without unpickling it: the opcodes are read as data, and nothing is ever called or imported.

`pickletools.genops` splits a pickle into opcodes and runs nothing. Of these only the ones that nested dicts of NumPy arrays
are made of are understood here, and the three names that NumPy writes stand for plain records. All else is an error.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentopt import InputFileError

_RECONSTRUCT, _NDARRAY, _DTYPE = "numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"
_NAMES = {_RECONSTRUCT, _NDARRAY, _DTYPE}
_VALUES = {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "SHORT_BINBYTES", "BINBYTES"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass
class _Array:
    """An array before (None) and after its contents were given."""

    values: NDArray[np.float32] | None = None


@dataclass
class _Type:
    code: str
    order: str = "="


def read_arrays(raw: bytes, name: str) -> dict[str, NDArray[np.float32]]:
    """All arrays in a pickle of nested dicts of float32 arrays, by their keys joined with dots.

    Raises `InputFileError` for anything else: other types, other objects, damaged or cut-off bytes.
    """
    try:
        return _flat(_Reader(name).read(raw), "", name)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise InputFileError(
            f"{name} is no pickle of plain arrays, or is damaged ({type(error).__name__}: {error}): fetch it again"
        ) from None


def _flat(found: Any, prefix: str, name: str) -> dict[str, NDArray[np.float32]]:
    if isinstance(found, _Array) and found.values is not None:
        return {prefix: found.values}
    if not isinstance(found, dict):
        raise InputFileError(
            f"{name} holds a {type(found).__name__} at {prefix or 'its top'}, expected dicts of arrays"
        )
    arrays: dict[str, NDArray[np.float32]] = {}
    for key, value in found.items():
        arrays |= _flat(value, f"{prefix}.{key}" if prefix else str(key), name)
    return arrays


class _Reader:
    """A stack machine for the opcodes that are understood."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, raw: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(raw):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("it ends without a STOP")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in _VALUES:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            stack[-_TUPLES[opcode] :] = [tuple(stack[-_TUPLES[opcode] :])]
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode == "EMPTY_DICT":
            stack.append({})
        elif opcode == "MARK":
            stack.append(_MARK)
        elif opcode == "TUPLE":
            items = self._since_mark()
            stack.append(tuple(items))
        elif opcode in ("SETITEM", "SETITEMS"):
            self._set(opcode)
        elif opcode == "GLOBAL":
            self._global(argument)
        elif opcode == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(self._made(called, arguments))
        elif opcode == "BUILD":
            state = stack.pop()
            self._fill(stack[-1], state)
        elif opcode != "PROTO":
            raise InputFileError(
                f"{self.name} holds the pickle opcode {opcode}, which plain arrays do not need: not read"
            )

    def _since_mark(self) -> list[Any]:
        place = max(i for i, value in enumerate(self.stack) if value is _MARK)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _set(self, opcode: str) -> None:
        items = self._since_mark() if opcode == "SETITEMS" else [self.stack.pop(-2), self.stack.pop()]
        into = self.stack[-1]
        if not isinstance(into, dict) or not all(isinstance(key, str) for key in items[::2]):
            raise ValueError("keys that are no words, or no dict to hold them")
        into.update(zip(items[::2], items[1::2], strict=True))

    def _global(self, argument: str) -> None:
        if argument not in _NAMES:
            shown = argument.replace(" ", ".")
            raise InputFileError(f"{self.name} names {shown}, which is no part of a plain array: not read")
        self.stack.append(_Name(argument))

    @staticmethod
    def _made(called: Any, arguments: Any) -> _Array | _Type:
        if called == _Name(_RECONSTRUCT) and arguments == (_Name(_NDARRAY), (0,), b"b"):
            return _Array()
        if called == _Name(_DTYPE) and arguments == ("f4", False, True):
            return _Type("f4")
        raise ValueError(f"an object that is no float32 array: {arguments!r}"[:200])

    @staticmethod
    def _fill(into: Any, state: Any) -> None:
        if isinstance(into, _Type):
            if state[1] not in ("<", ">"):
                raise ValueError(f"byte order {state[1]!r}")
            into.order = state[1]
            return
        if not isinstance(into, _Array):
            raise ValueError(f"contents for a {type(into).__name__}")
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Type) or not isinstance(content, bytes) or by_columns not in (True, False):
            raise ValueError("contents that are no bytes of float32")
        if not all(isinstance(n, int) and n > 0 for n in shape) or math.prod(shape) * 4 != len(content):
            raise ValueError(f"{len(content)} bytes for shape {shape}")
        values = np.frombuffer(content, dtype=f"{kind.order}f4").astype(np.float32)
        into.values = values.reshape(shape, order="F" if by_columns else "C")

"""The `Array` field type of configs: a path, a nested list or `{path, key, resize, gray}` in files, a tensor in Python."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SerializationInfo, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticSerializationUnexpectedValue, core_schema
from torch import Tensor

from latentopt import arrays, shaping
from latentopt.errors import ShapeError
from latentopt.filefield import saved_path

_FILE_KEYS = {"path", "key", "resize", "gray"}


class Array:
    """Numbers named in a config, by path, by several paths, or by value. Two are equal where their contents are.

    A file is read when its numbers are first asked for, and only once. Values are kept as given (no copy).
    """

    def __init__(
        self,
        source: Any,
        *,
        key: str | None = None,
        resize: bool = False,
        gray: bool = False,
    ) -> None:
        self.path: Path | None = Path(source) if isinstance(source, str | Path) else None
        self.key, self.resize, self.gray = key, resize, gray
        self.parts = _files(source, key=key, resize=resize, gray=gray)
        self._values: Tensor | None = None if self.path is not None or self.parts else _as_tensor(source)
        self._loaded: arrays.Loaded | None = None
        self._notes: tuple[str, ...] = ()

    def tensor(self) -> Tensor:
        """The numbers as they are, on the CPU where they come from a file. Raises `InputFileError`."""
        if self._values is not None:
            return self._values
        if self.parts:
            return _joined([part.tensor()[None] for part in self.parts])
        return self._read().values

    def designs(self, shape: tuple[int, ...], what: str = "target") -> Tensor:
        """The numbers as designs `(T, *shape)`, float32. Never broadcasts. Raises `ShapeError`, `InputFileError`."""
        if self._values is not None:
            return shaping.fit_batch(self._values, shape, resize=self.resize, gray=self.gray, what=what)
        if self.parts:
            if len({part.is_picture for part in self.parts}) > 1:
                raise ShapeError(
                    "a list of files mixes pictures and arrays, which are scaled differently: give one kind"
                )
            return _joined([part.designs(shape, what) for part in self.parts])
        loaded = self._read()
        if not loaded.is_picture:
            return shaping.fit_batch(loaded.values, shape, resize=self.resize, gray=self.gray, what=what)
        fitted = shaping.fit_to_shape(loaded, shape, resize=self.resize, gray=self.gray, what=str(self.path))
        self._notes = fitted.notes
        return fitted.values[None]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the file's content so far, one sentence each."""
        if self.parts:
            return tuple(dict.fromkeys(note for part in self.parts for note in part.notes))
        return self._notes or (self._loaded.notes if self._loaded is not None else ())

    @property
    def is_picture(self) -> bool:
        """Whether the numbers come from a picture file, scaled to [0, 1]."""
        if self.parts:
            return all(part.is_picture for part in self.parts)
        return self.path is not None and self._read().is_picture

    def _read(self) -> arrays.Loaded:
        if self._loaded is None:
            if self.path is None:
                raise ShapeError("an array needs a path or values")
            self._loaded = arrays.read_array(self.path, self.key)
        return self._loaded

    def sha256(self) -> str:
        """Hash of the content: of the numbers and their shape, or of the file's path and options."""
        if self.parts:
            return hashlib.sha256("".join(part.sha256() for part in self.parts).encode()).hexdigest()
        if self._values is None:
            text = f"{self.path}|{self.key}|{self.resize}|{self.gray}"
            return hashlib.sha256(text.encode()).hexdigest()
        values = self._values.detach().cpu().contiguous()
        head = f"{values.dtype}|{tuple(values.shape)}|{self.resize}|{self.gray}"
        return hashlib.sha256(head.encode() + values.numpy().tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and self.sha256() == other.sha256()

    def __hash__(self) -> int:
        return hash(self.sha256())

    def __repr__(self) -> str:
        if self.path is not None:
            return f"Array({str(self.path)!r})"
        if self.parts:
            return f"Array({list(self.parts)!r})"
        return f"Array(shape={tuple(self.tensor().shape)})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_serialize, info_arg=True),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        flag = {"type": "boolean", "default": False}
        return {
            "anyOf": [
                {"type": "string", "description": "path of a picture, .npy or .safetensors"},
                {"type": "number"},
                {"type": "array", "items": {}},
                {
                    "type": "object",
                    "properties": {
                        "path": {"type": "string"},
                        "key": {"type": "string"},
                        "resize": flag,
                        "gray": flag,
                    },
                    "required": ["path"],
                    "additionalProperties": False,
                },
            ]
        }

    @classmethod
    def _validate(cls, value: Any, info: ValidationInfo) -> Array:
        if isinstance(value, Array):
            return value
        folder = (info.context or {}).get("folder")
        if isinstance(value, dict):
            unknown = sorted(set(value) - _FILE_KEYS)
            if unknown or "path" not in value:
                raise ValueError(f"an array by file takes path, key, resize and gray, got {sorted(map(str, value))}")
            kinds = {"path": str | Path, "key": str | None, "resize": bool, "gray": bool}
            for name, one in value.items():
                if not isinstance(one, kinds[name]):
                    words = {"path": "a path", "key": "the name of an array"}.get(name, "true or false")
                    raise ValueError(f"{name} of an array by file is {words}, got {type(one).__name__}")
            options = {k: v for k, v in value.items() if k != "path"}
            return cls(_under(folder, value["path"]), **options)
        if isinstance(value, str | Path):
            return cls(_under(folder, value))
        if isinstance(value, list | tuple) and any(isinstance(one, str | Path | dict | Array) for one in value):
            return cls([cls._validate(one, info) for one in value])
        try:
            return cls(value)
        except ShapeError as error:
            raise ValueError(str(error)) from None


def _files(source: Any, **options: Any) -> tuple[Array, ...]:
    """The arrays of a list of paths or arrays; nothing for numbers."""
    if not isinstance(source, list | tuple) or not any(isinstance(one, str | Path | Array) for one in source):
        return ()
    return tuple(one if isinstance(one, Array) else Array(one, **options) for one in source)


def _joined(parts: list[Tensor]) -> Tensor:
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    if len(shapes) > 1:
        raise ShapeError(f"arrays of shapes {', '.join(map(str, shapes))} cannot be put together: give one shape")
    return torch.cat(parts)


def _under(folder: Path | None, path: str | Path) -> Path:
    """A path in a config file is relative to that file's folder."""
    return Path(path) if folder is None else Path(folder) / path


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"expected numbers in a regular nested list, got rows of unequal length ({error})") from None
    if found.dtype.kind not in "fiub":
        raise ShapeError(f"expected numbers, got {type(value).__name__} of {found.dtype}")
    if found.dtype.kind == "u" and not isinstance(value, np.ndarray):
        found = found.astype(np.float64)  # a list with whole numbers above int64's
    numbers = torch.from_numpy(np.array(found))
    return numbers.float() if found.dtype.kind == "f" and not isinstance(value, np.ndarray) else numbers


def _serialize(array: Array, info: SerializationInfo) -> Any:
    """A path stays a path. Values go to the `arrays` dict of the serialization context, else become nested lists."""
    if not isinstance(array, Array):  # one branch of a union was tried on another branch's value
        raise PydanticSerializationUnexpectedValue
    if array.parts:
        return [_serialize(part, info) for part in array.parts]
    if array.path is not None:
        options = {"key": array.key, "resize": array.resize, "gray": array.gray}
        chosen = {name: value for name, value in options.items() if value}
        path = saved_path(array.path, info)
        return {"path": path, **chosen} if chosen else path
    if info.mode != "json":
        return array
    stored = (info.context or {}).get("arrays")
    if stored is None:
        return array.tensor().tolist()
    name = f"array_{array.sha256()[:16]}"
    stored[name] = array.tensor()
    return {"path": "arrays.safetensors", "key": name}

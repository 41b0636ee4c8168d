"""The `Array` field type of configs: a path, a nested list or `{path, key, resize, gray}` in files, a tensor in Python."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SerializationInfo, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticSerializationUnexpectedValue, core_schema
from torch import Tensor

from latentopt import arrays, shaping
from latentopt.errors import InputFileError, ShapeError
from latentopt.filefield import saved_path
from latentopt.trust import path_of

_FILE_KEYS = {"path", "key", "resize", "gray"}
_KEPT_KEYS = {"stored", "was", "notes"}  # in the config of a run that was kept


class Array:
    """Numbers named in a config, by path, by several paths, or by value. Two are equal where their contents are.

    A file is read when its numbers are first asked for, and only once. Values are kept as given (no copy).

    `stored` marks an array in a run's folder, with the name of the file that it was read from in `was` and what was done to
    it in `notes`: "values" are as they were given, of any type, and a "picture" was read and scaled to [0, 1] already.
    """

    def __init__(
        self,
        source: Any,
        *,
        key: str | None = None,
        resize: bool = False,
        gray: bool = False,
        stored: Literal["values", "picture"] | None = None,
        was: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.path: Path | None = Path(source) if isinstance(source, str | Path) else None
        self.key, self.resize, self.gray = key, resize, gray
        self.stored, self.was = stored, was
        self.parts = _files(source, key=key, resize=resize, gray=gray)
        self._values: Tensor | None = None if self.path is not None or self.parts else _as_tensor(source)
        self._loaded: arrays.Loaded | None = None
        self._notes: tuple[str, ...] = tuple(map(str, notes))

    def tensor(self) -> Tensor:
        """The numbers as they are, on the CPU where they come from a file. Raises `InputFileError`."""
        values = self._by_value()
        if values is not None:
            return values
        if self.parts:
            return _joined([part.tensor()[None] for part in self.parts])
        return self._read().values

    def designs(self, shape: tuple[int, ...], what: str = "target") -> Tensor:
        """The numbers as designs `(T, *shape)`, float32. Never broadcasts. Raises `ShapeError`, `InputFileError`."""
        values = self._by_value()
        if values is not None:
            return shaping.fit_batch(values, shape, resize=self.resize, gray=self.gray, what=what)
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
        self._notes = self._notes if self.stored is not None else fitted.notes
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
        return self.path is not None and self.stored != "values" and self._read().is_picture

    def _by_value(self) -> Tensor | None:
        """The numbers where they were given by value, in Python or to a run that was kept."""
        if self._values is None and self.path is not None and self.stored == "values":
            self._values = _kept(self.path, self.key)
        return self._values

    def _read(self) -> arrays.Loaded:
        if self._loaded is None:
            if self.path is None:
                raise ShapeError("an array needs a path or values")
            if self.stored is not None:
                self._loaded = arrays.Loaded(_kept(self.path, self.key), (), self.stored == "picture")
            else:
                self._loaded = arrays.read_array(self.path, self.key)
        return self._loaded

    def sha256(self) -> str:
        """Hash of the content: of the numbers and their shape, or of the file's path and options."""
        if self.parts:
            return hashlib.sha256("".join(part.sha256() for part in self.parts).encode()).hexdigest()
        if self.path is not None or self._values is None:
            text = f"{self.path}|{self.key}|{self.resize}|{self.gray}"
            return hashlib.sha256(text.encode()).hexdigest()
        return _sum(self._values, f"{self.resize}|{self.gray}")

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
            cls.validated,
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
                        "stored": {"enum": ["values", "picture"]},
                        "was": {"type": "string"},
                        "notes": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["path"],
                    "additionalProperties": False,
                },
            ]
        }

    @classmethod
    def validated(cls, value: Any, info: ValidationInfo) -> Array:
        """The array of what stands in a config. Raises `ValueError`."""
        if isinstance(value, Array):
            return value
        if isinstance(value, dict):
            unknown = sorted(set(value) - _FILE_KEYS - _KEPT_KEYS)
            if unknown or "path" not in value:
                raise ValueError(f"an array by file takes path, key, resize and gray, got {sorted(map(str, value))}")
            kinds = {"path": str | Path, "key": str | None, "resize": bool, "gray": bool}
            for name, one in value.items():
                if name in kinds and not isinstance(one, kinds[name]):
                    words = {"path": "a path", "key": "the name of an array"}.get(name, "true or false")
                    raise ValueError(f"{name} of an array by file is {words}, got {type(one).__name__}")
            options = {k: v for k, v in value.items() if k != "path"}
            if not isinstance(options.get("notes", []), list):
                raise ValueError("the notes of an array are a list of sentences")
            if options.get("stored") not in (None, "values", "picture"):
                raise ValueError(f"an array is stored as values or as a picture, got {str(options['stored'])[:50]!r}")
            return cls(path_of(value["path"], info), **options)
        if isinstance(value, str | Path):
            return cls(path_of(value, info))
        if isinstance(value, list | tuple) and any(isinstance(one, str | Path | dict | Array) for one in value):
            return cls([cls.validated(one, info) for one in value])
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


def _sum(values: Tensor, options: str) -> str:
    """The sha256 of some numbers, their type and their shape."""
    plain = values.detach().cpu().contiguous()
    head = f"{plain.dtype}|{tuple(plain.shape)}|{options}".encode()
    return hashlib.sha256(head + plain.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def _name(values: Tensor) -> str:
    """What numbers are called in a run's folder: by their sum, so that damage shows."""
    return f"array_{_sum(values, '')[:16]}"


def _kept(path: Path, key: str | None) -> Tensor:
    """Numbers as a run's folder keeps them. Raises `InputFileError`."""
    values = arrays.read_stored(path, str(key))
    if _name(values) != key:
        raise InputFileError(f"{path} is damaged: {key!r} in it is not what was written")
    return values


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
    """Numbers go to the `arrays` dict of the serialization context. Without one, paths stay paths and values become lists."""
    if not isinstance(array, Array):  # one branch of a union was tried on another branch's value
        raise PydanticSerializationUnexpectedValue
    if array.parts:
        return [_serialize(part, info) for part in array.parts]
    context = info.context or {}
    stored = context.get("arrays")
    if array.path is not None and (stored is None or context.get("paths")):
        return _as_path(array, info)
    if info.mode != "json":
        return array
    if stored is None:
        return array.tensor().tolist()
    values = array.tensor()
    name = _name(values)
    stored[name] = values
    kept: dict[str, Any] = {"path": "arrays.safetensors", "key": name}
    kept["stored"] = "picture" if array.is_picture else "values"
    was = array.was if array.stored is not None or array.path is None else array.path.name
    options = {"resize": array.resize, "gray": array.gray, "was": was, "notes": list(array.notes)}
    return kept | {option: value for option, value in options.items() if value}


def _as_path(array: Array, info: SerializationInfo) -> Any:
    assert array.path is not None
    options = {name: getattr(array, name) for name in ("key", "resize", "gray", "stored", "was")}
    options["notes"] = list(array.notes) if array.stored is not None else None
    chosen = {name: value for name, value in options.items() if value}
    path = saved_path(array.path, info)
    return {"path": path, **chosen} if chosen else path

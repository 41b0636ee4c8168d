"""Code that a config names: `"package.module:function"` in files, the function itself in Python. Nothing else names code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, SerializationInfo, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from latentopt.errors import ConfigError
from latentopt.trust import check_code
from latentopt.wording import suggest


class CodeRef:
    """A function or class by name or by itself. `load()` imports it, and only then does any of its code run."""

    def __init__(self, source: Any) -> None:
        self.source = source

    @property
    def name(self) -> str:
        """What errors, files and the list of named code call it."""
        if isinstance(self.source, str):
            return self.source
        return str(getattr(self.source, "__qualname__", type(self.source).__qualname__))

    @property
    def is_named(self) -> bool:
        """Whether it is a name to import, rather than an object from Python."""
        return isinstance(self.source, str)

    def load(self) -> Any:
        """The object. A module is looked for where Python does, then in the current folder. Raises `ConfigError`."""
        if not isinstance(self.source, str):
            return self.source
        module_name, _, attribute = self.source.partition(":")
        module = _import(module_name, self.source)
        found = module
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise ConfigError(
                    f"module {module_name!r} has no {attribute!r}{suggest(part, [n for n in dir(found) if n[0] != '_'])}"
                )
            found = getattr(found, part)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CodeRef) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"CodeRef({self.name!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_serialize, info_arg=True),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": r"^[\w.]+:[\w.]+$", "description": "package.module:function"}

    @classmethod
    def _validate(cls, value: Any, info: ValidationInfo) -> CodeRef:
        if isinstance(value, CodeRef):
            return value
        if isinstance(value, str):
            module, colon, attribute = value.partition(":")
            if "<" in value:
                raise ValueError(
                    f"{value!r} was a function in Python, which no file can hold: give it again from Python, as "
                    "latentopt.resume and latentopt.reproduce take it (objectives=, constraints=, decoder=)"
                )
            if not (colon and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))):
                raise ValueError(f"code is named as 'package.module:function', got {value!r}")
            check_code(value, info)
            return cls(value)
        if callable(value):
            return cls(value)
        raise ValueError(f"expected 'package.module:function' or a callable, got {type(value).__name__}")


def _import(module_name: str, named: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise ConfigError(f"importing {named!r} failed: it needs {error.name!r}, which is not installed") from error
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"cannot import {error.name!r} named in {named!r}: install it, or run in the folder that holds it ({os.getcwd()})"
        ) from error
    finally:
        sys.path.remove(os.getcwd())


def _serialize(code: CodeRef, info: SerializationInfo) -> Any:
    return code.name if info.mode == "json" else code


def named_code(config: BaseModel) -> list[str]:
    """Every name in a config that would be imported, in order: what is printed before a file's run begins."""
    return list(dict.fromkeys(_find(config)))


def _find(value: Any) -> Iterator[str]:
    if isinstance(value, CodeRef) and value.is_named:
        yield value.name
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _find(getattr(value, name))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _find(one)

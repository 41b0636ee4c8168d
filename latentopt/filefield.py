"""The `FilePath` field type of configs: the path of a file, relative to the folder of the config file that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, SerializationInfo, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from latentopt.trust import path_of
from latentopt.yamltext import Typed


def saved_path(path: Path, info: SerializationInfo) -> str:
    """A path as a file holds it: absolute in a config saved with its run, which lies in another folder."""
    saving = (info.context or {}).get("arrays") is not None
    return str(path.resolve() if saving else path)


def _resolved(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Path:
    path = handler(value)  # a `Typed` text is no longer told apart in a `Path`
    return path_of(value if isinstance(value, Typed) else path, info)


FilePath = Annotated[Path, WrapValidator(_resolved), PlainSerializer(saved_path, when_used="json")]
"""The type of config fields that name a file: relative to the config's own, to where an option that names it was typed, and
in the config's folder in a received config."""

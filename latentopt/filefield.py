"""The `FilePath` field type of configs: the path of a file, relative to the folder of the config file that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer, SerializationInfo, ValidationInfo


def _under_folder(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return path if folder is None else Path(folder) / path


def saved_path(path: Path, info: SerializationInfo) -> str:
    """A path as a file holds it: absolute in a config saved with its run, which lies in another folder."""
    saving = (info.context or {}).get("arrays") is not None
    return str(path.resolve() if saving else path)


FilePath = Annotated[Path, AfterValidator(_under_folder), PlainSerializer(saved_path, when_used="json")]

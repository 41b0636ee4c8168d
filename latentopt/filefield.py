"""The `FilePath` field type of configs: the path of a file, relative to the folder of the config file that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer, SerializationInfo

from latentopt.trust import path_of


def saved_path(path: Path, info: SerializationInfo) -> str:
    """A path as a file holds it: absolute in a config saved with its run, which lies in another folder."""
    saving = (info.context or {}).get("arrays") is not None
    return str(path.resolve() if saving else path)


FilePath = Annotated[Path, AfterValidator(path_of), PlainSerializer(saved_path, when_used="json")]
"""The type of config fields that name a file: relative to the config's own, and in its folder in a received config."""

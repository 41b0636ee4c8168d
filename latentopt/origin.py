"""Where a picture comes from: the config of its run as a text inside the PNG, so that a sheet alone finds its way back."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save
from torch import Tensor

from latentopt import store, trust
from latentopt.errors import InputFileError
from latentopt.pngtext import MAX_TEXT, read_text
from latentopt.result import ARRAYS, Draws, Result
from latentopt.runfolder import tensor_sha256, versions

KEYWORD, SCHEMA = "latentopt", 1
MAX_ARRAYS = 256 * 1024  # characters of numbers in base64 that travel in the picture
COMPARED = ("latents", "designs", "losses")


@dataclass(frozen=True)
class Origin:
    """What a picture says of its run: config, its folder's name, sums of what was found, versions; its arrays or their
    sum."""

    config: dict[str, Any]
    run: str
    sums: dict[str, str]
    versions: dict[str, str]
    arrays: bytes | None
    arrays_sha256: str | None


def sums_of(found: Result | Draws) -> dict[str, str]:
    """The sha256 of latents, designs and, of a search, losses."""
    return {name: tensor_sha256(getattr(found, name)) for name in COMPARED if hasattr(found, name)}


def text_of(found: Result | Draws, run: str) -> str:
    """The text for a picture of this run, kept in the folder `run`; empty where its config is too large for one."""
    arrays = _bytes(found.arrays)
    packed = base64.b64encode(arrays).decode()
    about = {
        "schema": SCHEMA,
        "run": run,
        "config": found.config,
        "sums": sums_of(found),
        "versions": versions(),
        "arrays_sha256": store.sha256(arrays) if arrays else None,
        "arrays": packed if arrays and len(packed) <= MAX_ARRAYS else None,
    }
    text = json.dumps(about)
    return text if len(text) <= MAX_TEXT else ""


def _bytes(arrays: dict[str, Tensor]) -> bytes:
    return save({name: value.contiguous().cpu() for name, value in arrays.items()}) if arrays else b""


def read(path: Path) -> Origin:
    """What a picture says of its run. Raises `InputFileError` where it says nothing, is damaged, or of a newer version."""
    text = read_text(path, KEYWORD)
    if text is None:
        raise InputFileError(f"{path} says nothing of a run: only sheets that latentopt drew into a run's folder do")
    try:
        about = json.loads(text)
        if not isinstance(about, dict) or about.get("schema") != SCHEMA:
            schema = about.get("schema") if isinstance(about, dict) else None
            raise InputFileError(
                f"{path} holds a run of schema {str(schema)[:20]}, this version reads {SCHEMA}: update latentopt"
            )
        packed, total = about.get("arrays"), about.get("arrays_sha256")
        arrays = None if packed is None else base64.b64decode(packed, validate=True)
        plain = all(isinstance(about[name], dict) for name in ("config", "sums", "versions"))
        if not plain or not isinstance(about["run"], str) or not isinstance(total, str | None):
            raise TypeError("a part of it is of another kind")
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise InputFileError(f"what {path} says of its run cannot be read ({type(error).__name__}: {error})") from None
    if arrays is not None and store.sha256(arrays) != total:
        raise InputFileError(f"{path} is damaged: the numbers in it are not those that were written")
    if not about["sums"]:
        raise InputFileError(
            f"{path} does not say what its run found, so there is nothing to compare with: it is damaged"
        )
    sums, made_with = ({str(k): str(v) for k, v in about[name].items()} for name in ("sums", "versions"))
    return Origin(about["config"], about["run"], sums, made_with, arrays, total)


@contextmanager
def folder_for(origin: Origin, path: Path) -> Iterator[Path]:
    """A folder that holds the arrays of the picture's config: the run's own beside the picture, or one made from it.

    Raises `InputFileError` where the arrays did not travel in the picture and no such folder is there.
    """
    if origin.arrays is None and origin.arrays_sha256 is not None:
        yield beside(origin, path)
        return
    with TemporaryDirectory(prefix="latentopt-") as made:
        if origin.arrays is not None:
            store.write(Path(made, ARRAYS), origin.arrays)
        yield Path(made)


def beside(origin: Origin, path: Path) -> Path:
    """The run's folder: the one that the picture lies in, or one of its name next to the picture. Raises `InputFileError`."""
    here = path.resolve().parent
    named = [here / origin.run] if Path(origin.run).name == origin.run not in ("", "..") else []
    for folder in (here, *named):
        file = folder / ARRAYS
        if file.is_symlink() or not file.is_file() or not file.resolve().is_relative_to(here):
            continue
        if store.sha256(file.read_bytes()) == origin.arrays_sha256:
            trust.check_folder(folder)
            return folder
    raise InputFileError(
        f"the numbers of the run {origin.run[:100]!r} were too large to travel in {path}: put the picture into the run's "
        f"folder, or that folder beside the picture (its {ARRAYS} has sha256 {str(origin.arrays_sha256)[:12]}...)"
    )

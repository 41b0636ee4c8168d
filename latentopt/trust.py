"""What a config from a received folder or picture may name: no code, and no path that leaves its folder, until it is trusted.

The validation context says so: `within` is the folder that a received config must keep to, and is missing for configs that
the user wrote, typed or passed. Every field type that names code or a path asks here, before anything is opened or imported.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ValidationInfo

from latentopt.errors import ConfigError, InputFileError
from latentopt.yamltext import Typed

REMEDY = "pass --trust-code (in Python: trust_code=True) if you made this run or trust who did"
MAX_DEPTH = 50  # levels of a received config, as of a run file
_MOST_FILES = 10_000  # that a run's folder is searched for links; runs of ours hold about ten


class NotTrustedError(ValueError):
    """A field that names code or a place, in a config that may not."""


def within(info: ValidationInfo) -> Path | None:
    """The folder that the config being read must keep to; None where it is trusted."""
    return (info.context or {}).get("within")


def path_of(path: str | Path, info: ValidationInfo) -> Path:
    """A path in a config: relative to the config's folder unless it was `Typed`, and inside it where the config was received.

    Raises `NotTrustedError` where it is not, which pydantic turns into an error with its place.
    """
    folder, home = (info.context or {}).get("folder"), within(info)
    found = Path(path) if folder is None or isinstance(path, Typed) else Path(folder) / path
    return found if home is None else _inside(found, Path(home), str(path))


def _inside(path: Path, home: Path, named: str) -> Path:
    """The path with its links followed, which is what is opened later."""
    try:
        real = _followed(path)
        if real.is_relative_to(_followed(home)):
            return real
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a zero byte
        raise NotTrustedError(f"names the path {_short(named)}, which cannot be followed ({error})") from None
    raise NotTrustedError(f"names the path {_short(named)}, which leads out of what was received: {REMEDY}")


def _followed(path: Path) -> Path:
    """The path without links. Raises `OSError`, `RuntimeError`, `ValueError` where they lead in a circle, or it is none.

    Python gives up on a circle that the path leaves again (`circle/../link`) and then keeps the links that follow.
    """
    real = path.resolve()
    if real.resolve() != real:
        raise OSError("its links lead in a circle")
    return real


def check_code(name: str, info: ValidationInfo) -> None:
    """Raises `NotTrustedError` where a received config names code."""
    if within(info) is not None:
        raise NotTrustedError(f"names the code {_short(name)}, which would be imported: {REMEDY}")


def _outside(text: str, info: ValidationInfo) -> str:
    if within(info) is not None:
        raise NotTrustedError(f"names {_short(text)}, which would be opened or written to: {REMEDY}")
    return text


Outside = Annotated[str, AfterValidator(_outside)]
"""The type of config fields that name what is opened or written to, such as a database: refused in received configs."""


def _short(text: str) -> str:
    """A received text fit for an error: quoted, escaped, not too long."""
    return repr(text if len(text) <= 200 else text[:197] + "...")


# ---------------------------------------------------------------------- configs as a whole


def check_depth(data: Any, where: str) -> None:
    """Raise `ConfigError` for plain data nested deeper than any config is."""
    level = [data]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels: this is no config of a run")


def check_paths(config: BaseModel, home: Path, where: str) -> None:
    """Raise `ConfigError` for a path outside of `home` in a field of a plugin that uses neither `FilePath` nor `Array`."""
    for name, path in _paths(config, ""):
        try:
            _inside(path, home, str(path))
        except NotTrustedError as error:
            raise ConfigError(f"{where}: {name}: {error}") from None


def _paths(value: Any, place: str) -> Iterator[tuple[str, Path]]:
    """Every path that was set in a config, with its place. Defaults come with the plugin, which is installed."""
    if isinstance(value, Path):
        yield place, value
    elif isinstance(value, BaseModel):
        for name in value.model_fields_set:
            yield from _paths(getattr(value, name), f"{place}.{name}".lstrip("."))
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _paths(one, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            yield from _paths(one, f"{place}.{index}")


# ---------------------------------------------------------------------- folders


def check_folder(folder: Path) -> None:
    """Raise `InputFileError` for a link in a run's folder that leads out of it, and for pipes and devices.

    What is read from a folder, and what a run that goes on writes into it, then stays in it. No trust lifts this, for runs
    write no links. A folder that is not there passes: its readers say so.
    """
    count = 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            count += 1
            if count > _MOST_FILES:
                raise InputFileError(f"{folder} holds more than {_MOST_FILES} files: this is not the folder of a run")
            try:
                mode = path.lstat().st_mode
                leaves = stat.S_ISLNK(mode) and not _followed(path).is_relative_to(_followed(folder))
            except (OSError, RuntimeError, ValueError) as error:
                if isinstance(error, FileNotFoundError):  # a temporary file of a run at work
                    continue
                raise InputFileError(f"{path} cannot be followed ({error}): remove it") from None
            if leaves:
                raise InputFileError(f"{path} is a link that leads out of the run's folder: put the file itself there")
            if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InputFileError(f"{path} is a pipe or a device, which no run has in its folder: remove it")

"""Files that are written whole or not at all, sums that find damage, and a lock that dies with its owner."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from latentopt.errors import ConfigError, InputFileError

MANIFEST = "manifest.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCK, _OWNER = ".lock", ".owner.json"
_NAMING = 0.5  # seconds that the owner of a lock gets to write its name down


def write(path: Path, data: bytes) -> None:
    """The file with this content, or as it was: a temporary file, flushed to the disk, takes its place in one move.

    Raises `InputFileError` where it cannot be written: a full disk, a read-only folder.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _write_all(number, data)
            os.fsync(number)
        finally:
            os.close(number)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # of a read-only file system nothing can be taken away either
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: BaseException) -> InputFileError:
    """The error for a file or folder that cannot be written, in words."""
    text = (getattr(error, "strerror", None) or str(error)).strip().splitlines()[0]
    number = getattr(error, "errno", None)
    remedy = "make its folder, or choose another place" if number == errno.ENOENT else "choose another place"
    remedy = "free some space, or choose another place" if number in _FULL else remedy
    return InputFileError(f"cannot write {path} ({text}): {remedy}")


def append(path: Path, data: bytes) -> None:
    """More at a file's end, left to the system to put on the disk. A kill may leave the last line incomplete."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _write_all(number, data)
        finally:
            os.close(number)
    except OSError as error:
        raise cannot_write(path, error) from error


def _write_all(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def write_json(path: Path, data: Any) -> None:
    """Plain data as indented JSON."""
    write(path, (json.dumps(data, indent=2) + "\n").encode())


def _flush_folder(folder: Path) -> None:
    """The move itself onto the disk, where folders can be opened at all."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)


# ---------------------------------------------------------------------- sums


def sha256(data: bytes) -> str:
    """The sum of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_manifest(folder: Path) -> None:
    """The sums of a finished run's files, but for checkpoints, which carry their own, and reports, which are made again."""
    files = sorted(
        p
        for p in folder.iterdir()
        if p.is_file() and not p.name.startswith(".") and p.name != MANIFEST and p.suffix != ".html"
    )
    sums = {path.name: {"sha256": sha256(path.read_bytes()), "bytes": path.stat().st_size} for path in files}
    write_json(folder / MANIFEST, {"schema": 1, "files": sums})


def check_manifest(folder: Path) -> None:
    """Raise `InputFileError` naming the first file that is not what the manifest says. Folders without one pass."""
    path = folder / MANIFEST
    if not path.exists():
        return
    try:
        files = dict(json.loads(path.read_bytes())["files"])
        sums = {str(name): str(about["sha256"]) for name, about in files.items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputFileError(f"{path} cannot be read ({type(error).__name__}): it is damaged") from None
    for name, expected in sums.items():
        if Path(name).name != name:
            raise InputFileError(f"{path} names {name!r}, which is no file of this folder: it is damaged")
        try:
            found = sha256((folder / name).read_bytes())
        except OSError as error:
            raise InputFileError(f"{folder / name} is in the manifest and cannot be read ({error.strerror})") from None
        if found != expected:
            raise InputFileError(
                f"{folder / name} is not what was written (sha256 {found[:12]}..., the manifest says {expected[:12]}...): "
                "it is damaged or was changed; delete manifest.json to read it all the same"
            )


# ---------------------------------------------------------------------- a run's folder


def new_folder(folder: str | Path) -> Path:
    """A folder made for this run. Raises `ConfigError` where one with content is there already, or it cannot be made."""
    path = Path(folder)
    try:
        if is_there(path) and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(taken(path))
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot make the folder {str(path)[:200]} ({getattr(error, 'strerror', None) or error}): choose a place where "
            "you may write"
        ) from None
    if not os.access(path, os.W_OK):
        raise ConfigError(f"the folder {path} is read-only: choose a place where you may write")
    return path


def is_there(path: str | Path) -> bool:
    """Whether there is such a file or folder; of names that no file can have, not."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def taken(path: Path) -> str:
    """The error for a folder that holds something already."""
    return f"{path} exists and is not an empty folder: a run never overwrites another; choose a new name"


# ---------------------------------------------------------------------- one folder, one process


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone. Raises `ConfigError` at once where another has it, naming it."""
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"{folder} is in use by {_owner(folder)}: wait for it, or choose another folder") from None
    except (OSError, NotImplementedError) as error:
        raise ConfigError(f"{folder} cannot be locked ({error}): choose a place on a local disk") from error
    try:
        write_json(folder / _OWNER, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        (folder / _OWNER).unlink(missing_ok=True)
        lock.release()


def remove_lock(folder: Path) -> None:
    """Take the lock's file out of a folder that is not kept: by its owner alone, for others would lock a second file."""
    (folder / _LOCK).unlink(missing_ok=True)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what locks leave there."""
    return not any(path for path in folder.iterdir() if not path.name.startswith((_LOCK, _OWNER, f".{_OWNER}")))


def is_running(pid: int) -> bool:
    """Whether this machine has a process of this number."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)  # the signal 0 is not sent: it only asks
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _owner(folder: Path) -> str:
    """Who has the lock, in words. It is taken a moment before its owner's name is written: a dead process is not meant."""
    ends = time.perf_counter() + _NAMING
    while True:
        try:
            about = json.loads((folder / _OWNER).read_bytes())
            pid, host = int(about["pid"]), str(about["host"])
            if host != socket.gethostname() or is_running(pid):
                return f"process {pid} on {host}"
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if time.perf_counter() > ends:
            return "another process"
        time.sleep(0.01)

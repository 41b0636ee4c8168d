"""Lists of runs: what every run's folder says of itself in run.json and result.json, damaged ones too. No tensor is read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentopt import store
from latentopt.errors import ConfigError, InputFileError
from latentopt.wording import suggest

ABOUT, SUMMARY, CONFIG, OWNER = "run.json", "result.json", "config.json", ".owner.json"
SCHEMA = 1
MAX_BYTES = 16 * 2**20  # of one such file
SORTS = ("began", "loss", "rows", "seconds", "name")
STATUSES = ("running", "killed", "finished", "budget", "interrupted", "failed", "damaged", "newer")


@dataclass(frozen=True)
class Run:
    """One run as its folder describes it. What it does not say is None.

    `status` is "finished", "budget", "interrupted" or "failed"; "running" while a process is at work on it and "killed"
    where that process is gone; "damaged" and "newer" where it cannot be read, with the reason in `problem`. `loss` is the
    best one, of several targets the mean of each one's best.
    """

    name: str
    path: Path
    status: str
    task: str | None = None
    decoder: str | None = None
    began: str | None = None
    loss: float | None = None
    targets: int | None = None
    designs: int | None = None
    rows: int | None = None
    seconds: float | None = None
    seed: int | None = None
    problem: str = ""

    def plain(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return {**asdict(self), "path": str(self.path)}


def runs_below(folder: str | Path, *, sort: str = "began", statuses: Sequence[str] = ()) -> list[Run]:
    """The runs in the folders below this one, itself included.

    Sorted by when they began, by loss (best first), by rows or seconds (most first), or by name. Links are not followed.
    Raises `ConfigError` for a sort or status that is none, `InputFileError` where there is no such folder.
    """
    top = Path(folder)
    if sort not in SORTS:
        raise ConfigError(f"runs are not sorted by {sort!r}{suggest(sort, SORTS)}; known: {', '.join(SORTS)}")
    for one in statuses:
        if one not in STATUSES:
            raise ConfigError(f"no run has the status {one!r}{suggest(one, STATUSES)}; known: {', '.join(STATUSES)}")
    if not top.is_dir():
        raise InputFileError(f"there is no folder {top} (looked in {Path.cwd()}): give the one that your runs are in")
    found = []
    for parent, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if name != "checkpoints" and not name.startswith("."))
        if ABOUT in files or (SUMMARY in files and CONFIG in files):
            found.append(run_in(Path(parent), top))
    kept = [run for run in found if not statuses or run.status in statuses]
    return sorted(kept, key=lambda run: _key(run, sort))


def _key(run: Run, sort: str) -> tuple[bool, Any, str]:
    """What a run lacks puts it last."""
    value: Any = getattr(run, sort)
    if isinstance(value, float) and not math.isfinite(value):
        value = None
    if value is not None and sort in ("rows", "seconds"):
        value = -value
    return value is None, value, run.name


def run_in(path: Path, top: Path | None = None) -> Run:
    """The run in one folder; one that is damaged says so and raises nothing."""
    name = plain_text(str(path if top is None or path == top else path.relative_to(top)))
    try:
        about, result, config = (_read(path / file) for file in (ABOUT, SUMMARY, CONFIG))
        for part in (about, result):
            if part is not None and part.get("schema") != SCHEMA:
                schema = plain_text(str(part.get("schema")))
                if isinstance(part.get("schema"), int) and part["schema"] > SCHEMA:
                    return Run(
                        name, path, "newer", problem=f"schema {schema}, this version reads {SCHEMA}: update latentopt"
                    )
                raise ValueError(f"schema {schema}")
        return _described(name, path, about or {}, result or {}, config or {})
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        return Run(name, path, "damaged", problem=plain_text(f"{type(error).__name__}: {error}"))


def _described(name: str, path: Path, about: dict[str, Any], result: dict[str, Any], config: dict[str, Any]) -> Run:
    status = str(about.get("status") or result.get("stopped", "finished"))
    if status == "running":
        status = "running" if _alive(path) else "killed"
    if status not in STATUSES:
        raise ValueError(f"status {status!r}")
    if status in ("finished", "budget", "interrupted") and not result:
        raise ValueError(f"it ended ({status}) and {SUMMARY} is missing")
    decoder, task = _part(config, "decoder"), _part(config, "task")
    cost, loss = _part(result, "cost"), _part(result, "best").get("loss")
    losses = [float(one) for one in (loss if isinstance(loss, list) else [loss]) if one is not None]
    rows = [cost[part] for part in ("forward_rows", "backward_rows") if part in cost]
    return Run(
        name,
        path,
        status,
        task=_text(task.get("kind")),
        decoder=_text(decoder.get("factory") or decoder.get("kind")),
        began=_text(about.get("began")),
        loss=sum(losses) / len(losses) if losses else None,
        targets=len(losses) or None,
        designs=None if result.get("designs") is None else int(result["designs"]),
        rows=int(sum(rows)) if rows else None,
        seconds=None if cost.get("seconds") is None else float(cost["seconds"]),
        seed=None if config.get("seed") is None else int(config["seed"]),
        problem=_text(about.get("error")) or "",
    )


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where there is no such file. Raises `ValueError`, `OSError` where it is none."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError(f"{path.name} is no ordinary file")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(raw) > MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_BYTES // 2**20} MiB")
    found = json.loads(raw)
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no object")
    return found


def _part(found: dict[str, Any], name: str) -> dict[str, Any]:
    """An object within an object, empty where it is left out; a name stands for its kind. Raises `ValueError`."""
    part = found.get(name)
    if isinstance(part, str):
        return {"kind": part}
    if not isinstance(part, dict | None):
        raise ValueError(f"{name} is {type(part).__name__}, expected an object")
    return part or {}


def _alive(path: Path) -> bool:
    """Whether the process that runs say is at work on this folder is there; one on another machine is taken to be."""
    import socket

    try:
        owner = _read(path / OWNER)
        return owner is not None and (owner["host"] != socket.gethostname() or store.is_running(int(owner["pid"])))
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return False


def _text(value: Any) -> str | None:
    return None if value is None else plain_text(str(value))


def plain_text(text: str, limit: int = 200) -> str:
    """A received text fit for a terminal: one line, nothing that moves the cursor, not too long."""
    safe = "".join(letter if letter.isprintable() else "?" for letter in text[: limit + 1])
    return safe if len(text) <= limit else safe[: limit - 3] + "..."

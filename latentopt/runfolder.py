"""The folder of a run while it is at work: what it is, its checkpoints and reports, and what came of it.

config.json, arrays.safetensors   the run as it was resolved, and the numbers given to it by value
run.json                          state, versions, the decoder's identity, the seed, when it began
history.jsonl                     one line a report, appended as they come
checkpoints/                      the newest two; each file's name holds its sum
result.safetensors, result.json   what was found, once the run has ended
manifest.json                     the sum of each file, once the run has ended
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt import __version__, modules, store
from latentopt.budget import Report
from latentopt.called import identity_of
from latentopt.checkpoints import Checkpoints
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, InputFileError
from latentopt.registry import installed
from latentopt.result import CONFIG, HISTORY, Draws, Result, save_config
from latentopt.store import is_there, new_folder, taken

SCHEMA = 1
ABOUT, CHECKPOINTS = "run.json", "checkpoints"


class RunFolder:
    """A run's folder, locked by this process. `about` is the content of run.json."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        self.checkpoints = Checkpoints(path / CHECKPOINTS)
        self._at_work = False

    @property
    def begun(self) -> bool:
        """Whether its config has been written: it can be resumed from then on."""
        return bool(self.about)

    def begin(
        self,
        config: dict[str, Any],
        arrays: dict[str, Tensor],
        decoder: Decoder,
        targets: Tensor | None,
        notes: list[str],
        seen: dict[str, list[float]],
    ) -> None:
        """Write what the run is, before its first step. `seen` are the figures of the check at the door."""
        save_config(self.path, config, arrays)
        self._at_work = True
        self.about = {
            "schema": SCHEMA,
            "status": "running",
            "began": now(),
            "seed": config["seed"],
            "decoder": decoder_identity(decoder),
            "targets_sha256": None if targets is None else tensor_sha256(targets),
            "notes": notes,
            "config": config,
            "seen": seen,
            "versions": versions(),
            "plugins": [
                {"name": one.name, "distribution": one.distribution, "version": one.version}
                for one in installed().plugins
            ],
        }
        self._write_about()

    def keep(self, draws: Draws, decoder: Decoder, began: str) -> None:
        """Write draws or a path, which are made in one go: what the run is, and what came of it."""
        self.begin(draws.config, draws.arrays, decoder, None, [], {})
        self.about["began"] = began
        self.finish(draws)

    def go_on(self, decoder: Decoder, targets: Tensor | None, seen: dict[str, list[float]]) -> list[str]:
        """Check that decoder, targets and what was `seen` are those of the run that goes on: its notes of how it was planned.

        Raises `ConfigError` where they are not.
        """
        found = decoder_identity(decoder)
        if found != self.about["decoder"]:
            raise ConfigError(
                f"resume refused: the decoder is {found}, and the run in {self.path} began with {self.about['decoder']}: "
                "give the same weights"
            )
        sums = None if targets is None else tensor_sha256(targets)
        if sums != self.about["targets_sha256"]:
            raise ConfigError(f"resume refused: the targets are not those that the run in {self.path} began with")
        here = versions()
        if not decoder.probe.call_difference:
            other = changed_since(self.about, seen, exact=here == self.about["versions"])
            if other:
                raise ConfigError(
                    f"resume refused: {other[0]} since the run in {self.path} began: put it back, or run anew"
                )
        self._at_work = True
        (self.path / store.MANIFEST).unlink(missing_ok=True)
        self.about["status"] = "running"
        self._write_about()
        saved = self.checkpoints.newest()
        history = [] if saved is None else saved["history"]
        store.write(self.path / HISTORY, "".join(json.dumps(entry) + "\n" for entry in history).encode())
        changed = [
            f"{k} {v} (was {self.about['versions'].get(k)})"
            for k, v in here.items()
            if v != self.about["versions"].get(k)
        ]
        notes = list(self.about["notes"])
        if changed:
            notes.append(
                f"resumed under other versions: {', '.join(changed)}; its bits may differ from an unbroken run's"
            )
        return notes

    def keep_budget(self, budget: dict[str, Any]) -> None:
        """Write down the larger budget that a run goes on with, which is part of what it is from now on."""
        config = read_config_json(self.path)
        if config.get("budget") != budget:
            config = {**config, "budget": budget}
            store.write_json(self.path / CONFIG, config)
        if "config" in self.about and self.about["config"] != config:
            self.about["config"] = config
            self._write_about()

    def edits(self, config: dict[str, Any]) -> list[str]:
        """What was changed in config.json since the run began, but for the budget: `place (old -> new)`."""
        held = self.about.get("config")
        if not isinstance(held, dict):  # of an earlier version
            return []
        return [
            one
            for key in {**held, **config}
            if key != "budget"
            for one in differences(held.get(key), config.get(key), key)
        ]

    def watching(self, on_report: Callable[[Report], object] | None) -> Callable[[Report], object]:
        """Appends each report to the history, and passes it on."""

        def look(report: Report) -> None:
            store.append(self.path / HISTORY, (json.dumps(vars(report)) + "\n").encode())
            if on_report is not None:
                on_report(report)

        return look

    def finish(self, result: Result | Draws) -> None:
        """Write what was found."""
        result.write(self.path)
        stopped = result.stopped if isinstance(result, Result) else "finished"
        self.about |= {"status": stopped, "ended": now()}
        self._write_about()
        store.write_manifest(self.path)

    def fail(self, error: BaseException) -> None:
        """Note why the run ended without a result; quietly, as there is an error on its way already."""
        if not self._at_work:
            return
        self.about |= {
            "status": "failed",
            "ended": now(),
            "error": f"{type(error).__name__}: {error}".splitlines()[0][:500],
        }
        try:
            self._write_about()
        except InputFileError:
            return

    def _write_about(self) -> None:
        store.write_json(self.path / ABOUT, self.about)


@contextmanager
def new_run(path: str | Path) -> Iterator[RunFolder]:
    """A new folder for a run. Raises `ConfigError` where one with content is there already. Empty ones are taken away."""
    made = not is_there(path)
    folder = new_folder(path)
    run = RunFolder(folder, {})
    try:
        with store.locked(folder):
            if not store.is_empty(folder):  # another process was at work here since it was looked at
                raise ConfigError(taken(folder))
            try:
                with _noting(run):
                    yield run
            finally:
                if made and not run.begun:
                    store.remove_lock(folder)
    finally:
        if made and not run.begun:
            with suppress(OSError):  # another process has it now
                folder.rmdir()


@contextmanager
def old_run(path: str | Path) -> Iterator[RunFolder]:
    """The folder of a run that may go on. Raises `ConfigError`, `InputFileError` where it is none, or in use."""
    folder = Path(path)
    about = read_about(folder)
    with store.locked(folder):
        run = RunFolder(folder, about)
        with _noting(run):
            yield run


@contextmanager
def _noting(run: RunFolder) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        run.fail(error)
        raise


def read_about(folder: Path) -> dict[str, Any]:
    """What run.json says. Raises `InputFileError` where it is missing, damaged, or of a newer version."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
    except FileNotFoundError:
        raise InputFileError(f"{folder} is not the folder of an optimize run: {ABOUT} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputFileError(f"{folder / ABOUT} cannot be read ({error}): it is damaged") from None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        schema = about.get("schema") if isinstance(about, dict) else None
        raise InputFileError(f"the run in {folder} has schema {schema}, this version reads {SCHEMA}: update latentopt")
    kinds = {"status": str, "decoder": str, "notes": list, "versions": dict}
    for name, kind in kinds.items():
        if not isinstance(about.get(name), kind):
            raise InputFileError(f"{folder / ABOUT} says nothing of its {name}: it is damaged")
    return about


def read_config_json(folder: Path) -> dict[str, Any]:
    """The run's config as plain data. Raises `InputFileError`."""
    try:
        found = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputFileError(f"{folder / CONFIG} cannot be read ({error}): it is damaged or missing") from None
    if not isinstance(found, dict):
        raise InputFileError(f"{folder / CONFIG} holds {type(found).__name__}, expected a config: it is damaged")
    return found


# ---------------------------------------------------------------------- what ran


def versions() -> dict[str, str]:
    """Versions that a run's bits may depend on: of Python, of latentopt and of what it requires, and the threads."""
    required = [
        re.split(r"[^\w.-]", text, maxsplit=1)[0]
        for text in metadata.requires("latentopt") or ()
        if "extra ==" not in text
    ]
    return {
        "latentopt": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in sorted(required)},
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "machine": platform.machine(),
    }


def decoder_identity(decoder: Decoder) -> str:
    """The decoder's name, and the sha256 of its weights; of a callable without any, that of its source."""
    digest = hashlib.sha256()
    found = False
    for part in modules.modules_of(decoder.module):
        for name, value in sorted(part.state_dict().items()):
            if isinstance(value, Tensor):
                digest.update(f"{name}|{tensor_sha256(value)}".encode())
                found = True
    sums = digest.hexdigest() if found else identity_of(decoder.module)["sha256"]
    return f"{decoder.name} {sums}"


def changed_since(about: dict[str, Any], seen: dict[str, list[float]], *, exact: bool) -> list[str]:
    """What is not as it was when a run began, in words, by the figures of the check at the door.

    Bit for bit where the versions are the same, else to a thousandth. Runs that kept no such figures say nothing.
    """
    held = about.get("seen")
    found = []
    for name, old in held.items() if isinstance(held, dict) else ():
        new = seen.get(name)
        if new is None or _alike(old, new, exact):
            continue
        if name in ("latents", "designs"):
            what = "designs" if name == "designs" else "draws from its prior, or another region"
            found.append(f"the decoder gives other {what}: its code, options or known designs have changed")
        else:
            found.append(
                f"objective {name.removeprefix('term ')!r} gives other values: its code or options have changed"
            )
    return found


def _alike(old: Any, new: list[float], exact: bool) -> bool:
    if not isinstance(old, list) or len(old) != len(new) or not all(isinstance(one, int | float) for one in old):
        return False
    scale = max((abs(one) for one in old if math.isfinite(one)), default=0.0)
    return all(
        a == b or (math.isnan(a) and math.isnan(b)) or (not exact and abs(a - b) <= 1e-3 * scale)
        for a, b in zip(old, new, strict=True)
    )


def tensor_sha256(value: Tensor) -> str:
    """The sum of a tensor's type, shape and values."""
    plain = value.detach().cpu().contiguous()
    head = f"{plain.dtype}|{tuple(plain.shape)}|".encode()
    return hashlib.sha256(
        head + plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else head
    ).hexdigest()


def now() -> str:
    """The time, as run.json has it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def differences(old: Any, new: Any, place: str) -> list[str]:
    """What differs between two configs as plain data: `place (old -> new)`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [one for key in keys for one in differences(old.get(key), new.get(key), f"{place}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [one for i, (a, b) in enumerate(zip(old, new, strict=True)) for one in differences(a, b, f"{place}.{i}")]
    return [] if old == new else [f"{place} ({_short(old)} -> {_short(new)})"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."

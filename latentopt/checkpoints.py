"""Checkpoints of a run: written now and then, each whole and with its own sum; the last sound one is found again."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import torch

from latentopt import store
from latentopt.errors import InputFileError
from latentopt.packing import pack, unpack

# A checkpoint is due after so many seconds, and not before the last one's cost is this share of the time since.
SECONDS, SHARE = 1.0, 0.01
_KEPT = 2
_NAME = re.compile(r"(\d{6})-([0-9a-f]{64})\.safetensors")


class Checkpoints:
    """The checkpoints in a folder. `notes` say which of them were found damaged."""

    def __init__(self, folder: Path, seconds: float = SECONDS) -> None:
        self.folder, self.seconds = folder, seconds
        self.notes: list[str] = []
        self.spent = 0.0
        self._number = max((number for number, _ in self._there()), default=0)
        self._last = time.perf_counter()
        self._cost = 0.0

    def _there(self) -> list[tuple[int, Path]]:
        """Number and path of each, the newest first."""
        if not self.folder.is_dir():
            return []
        found = [(match, path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return sorted(((int(match[1]), path) for match, path in found), reverse=True)

    def due(self) -> bool:
        """Whether it is time for another one."""
        return time.perf_counter() - self._last >= max(self.seconds, self._cost / SHARE)

    def save(self, state: Any) -> None:
        """Write one more, and drop all but the newest two; of a state that cannot be packed, none, which `notes` say.

        Raises `InputFileError` where there is no room for it.
        """
        began = time.perf_counter()
        try:
            data = pack(state)
        except TypeError as error:
            self.notes = [f"no checkpoints were written, so this run cannot be resumed: its search {error}"]
            self._last = float("inf")
            return
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise store.cannot_write(self.folder, error) from error
        self._number += 1
        store.write(self.folder / f"{self._number:06d}-{store.sha256(data)}.safetensors", data)
        for _, path in self._there()[_KEPT:]:
            path.unlink(missing_ok=True)
        self._last = time.perf_counter()
        self._cost = self._last - began
        self.spent += self._cost

    def newest(self, device: torch.device | str = "cpu") -> Any | None:
        """What the newest sound checkpoint holds; None where there is none. Damaged ones are noted and passed over."""
        self.notes = []
        there = self._there()
        for place, (_, path) in enumerate(there, start=1):
            try:
                data = path.read_bytes()
                if store.sha256(data) != path.stem.partition("-")[2]:
                    raise InputFileError("its sum is not that of its name")
                return unpack(data, device)
            except (OSError, InputFileError) as error:
                again = "what came after the one before is done again" if place < len(there) else "the run begins anew"
                self.notes.append(f"checkpoint {path.name[:6]} is damaged ({error}): {again}")
        return None

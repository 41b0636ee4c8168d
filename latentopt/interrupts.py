"""Ctrl-C and SIGTERM while a run is at work: the first ends it after its step, the second at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Inside, the first signal sets `asked` in place of raising; the handlers that were there see the second themselves.

    They are called at the first signal too, and a `KeyboardInterrupt` of theirs is held back. Signals that nobody handles in
    Python, and all signals outside the main thread, stay as they are.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if self.asked:
            handler(number, frame)
            return
        self.asked = True
        with contextlib.suppress(KeyboardInterrupt):
            handler(number, frame)

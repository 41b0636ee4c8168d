"""Whether anything in a folder was opened, read, made or changed: asked of the kernel, which sees libraries in C too."""

import ctypes
import os
import struct
import sys
from contextlib import contextmanager

import pytest

# inotify(7): access, modify, open, create, delete
_EVENTS = {0x1: "read", 0x2: "changed", 0x20: "opened", 0x100: "made", 0x200: "deleted"}


@contextmanager
def untouched(*folders):
    """Fails where a file in one of these folders was touched meanwhile."""
    if not sys.platform.startswith("linux"):
        pytest.skip("asks the kernel of Linux")
    library = ctypes.CDLL(None, use_errno=True)
    number = library.inotify_init1(os.O_NONBLOCK)
    assert number >= 0
    try:
        for folder in folders:
            assert library.inotify_add_watch(number, os.fsencode(folder), sum(_EVENTS)) >= 0
        yield
        found = _events(number)
    finally:
        os.close(number)
    assert not found, f"a file outside was touched: {found}"


def _events(number):
    try:
        raw = os.read(number, 65536)
    except BlockingIOError:
        return []
    found, place = [], 0
    while place < len(raw):
        _, mask, _, length = struct.unpack_from("iIII", raw, place)
        name = raw[place + 16 : place + 16 + length].rstrip(b"\0").decode()
        found += [f"{name} {word}" for bit, word in _EVENTS.items() if mask & bit]
        place += 16 + length
    return found

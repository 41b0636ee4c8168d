"""Whether what a run is about to keep fits into memory: asked before it starts, for systems promise more than they have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from latentopt.errors import OutOfMemoryError
from latentopt.outputs import first_line, is_out_of_memory

# Bytes that a latent value takes while it is drawn: float32, and up to three times in float64 on the way.
DRAWN = 4 + 3 * 8
# Bytes that a latent value of a search takes: itself, its gradient, two moments, its best, and what a step makes of these.
SEARCHED = 8 * 4


def free_bytes() -> int | None:
    """Main memory that could be had now: Linux says so, of other systems all that there is; None where neither is known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


@contextmanager
def room(needed: int, what: str, remedy: str) -> Iterator[None]:
    """Checks that `needed` bytes are free, and turns running out of memory inside into the same error.

    Raises `OutOfMemoryError` with the bytes needed, those free, and the remedy.
    """
    free = free_bytes()
    if free is not None and needed > free:
        raise OutOfMemoryError(f"{what} need about {size(needed)}, and {size(free)} are free: {remedy}")
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{what} need about {size(needed)}, which are not free ({first_line(error)}): {remedy}"
        ) from error


def size(count: int) -> str:
    """A number of bytes in words."""
    unit, name = next((pair for pair in ((2**30, "GiB"), (2**20, "MiB")) if count >= pair[0] / 8), (2**10, "KiB"))
    return f"{count / unit:.3g} {name}"


def keep_freed_memory() -> None:
    """Have glibc's malloc keep memory that a step frees, where it would give it back and fault it in again at the next.

    Freeing one block that was mapped raises malloc's dynamic thresholds to its size, 32 MiB at most (mallopt(3),
    M_MMAP_THRESHOLD). The block is never touched, so this costs microseconds; other allocators are not changed by it.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)

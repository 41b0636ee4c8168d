"""What watching costs: a search with each kind of progress and tracking, over the same search unwatched."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from rich.console import Console

import latentopt as lo
from benchmarks.common import plain_decoder, table, write_section
from latentopt import progress, tracking
from latentopt_std import Adam

ROWS, STEPS, REPEATS = 64, 8_000, 11
Watching = Callable[[], AbstractContextManager[object]]


def shown(mode: str, *, terminal: bool = False) -> Watching:
    """Progress in this mode, into a buffer that may pass for a terminal."""

    def watching() -> AbstractContextManager[object]:
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
        return progress.watch(console, mode, budget=lo.Budget(rows=10 * ROWS * STEPS))

    return watching


def tracked(make: Callable[[str], tracking.Tracker]) -> Watching:
    """Reports kept in a new folder."""

    @contextmanager
    def watching() -> Iterator[object]:
        with tempfile.TemporaryDirectory() as folder, make(folder) as track:
            yield track

    return watching


def main() -> None:
    """Measure and write the table."""
    logging.disable(logging.INFO)
    decoder = lo.Decoder(plain_decoder(), (20,), prior="normal")
    generator = torch.Generator().manual_seed(0)
    target, z = torch.rand(784, generator=generator), torch.randn(ROWS, 20, generator=generator)
    film = lo.Film(decoder)
    kinds: dict[str, Watching] = {
        "unwatched": contextlib.nullcontext,
        f"bars, redrawn {progress.REFRESH_PER_SECOND} times a second": shown("auto", terminal=True),
        "lines": shown("lines"),
        "JSON lines": shown("jsonl"),
        "film (the latents of an animation)": lambda: contextlib.nullcontext(film),
        "TensorBoard": tracked(tracking.tensorboard),
        "MLflow, SQLite": tracked(lambda folder: tracking.mlflow(Path(folder))),
        "W&B, offline": tracked(lambda folder: tracking.wandb(folder=folder)),
    }

    def cost(watching: Watching) -> tuple[float, float, int]:
        search = Adam(lr=0.01, schedule="constant", steps=STEPS)
        with watching() as look:
            began, wall = time.process_time(), time.perf_counter()
            found = lo.optimize(decoder, target=target, starts=z, region="free", search=search, on_report=look)
            return time.process_time() - began, time.perf_counter() - wall, len(found.history)

    for watching in kinds.values():
        cost(watching)  # imports
    taken: dict[str, list[tuple[float, float, int]]] = {name: [] for name in kinds}
    for turn in range(REPEATS):  # in turn, nobody always after the same one: a busy moment hits them all
        names = list(kinds)[turn % len(kinds) :] + list(kinds)[: turn % len(kinds)]
        for name in names:
            taken[name].append(cost(kinds[name]))
    least = {name: min(one[0] for one in found) for name, found in taken.items()}
    plain, wall, reports = least["unwatched"], *min(taken["unwatched"])[1:]
    rows = [
        (name, f"{cpu:.2f} s", f"{cpu / plain:.3f}x", f"{1e3 * (cpu - plain) / reports:.2f} ms")
        for name, cpu in least.items()
    ]
    words = (
        f"{ROWS} starts, {STEPS} steps of Adam, {reports} reports; a run of {wall:.1f} s. The least CPU time of {REPEATS} "
        "runs each, in turn: what is added is less than a busy machine adds."
    )
    head = ["watched by", "CPU", "over the unwatched run", "CPU more, a report"]
    write_section("reports", f"{words}\n\n{table(head, rows)}")

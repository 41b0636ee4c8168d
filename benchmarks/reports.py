"""What watching costs: a search with each kind of progress and tracking, over the same search unwatched."""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

import latentopt as lo
from benchmarks.common import plain_decoder, table, write_section
from latentopt import progress, tracking
from latentopt_std import Adam

ROWS, STEPS, REPEATS = 64, 8_000, 5
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


class Taken(NamedTuple):
    """What one run took: CPU time of the whole, of watching itself; wall time; and how many reports there were."""

    cpu: float
    own: float
    wall: float
    reports: int


class Timed:
    """A watcher, and the CPU time of its calls."""

    def __init__(self, look: Any) -> None:
        self.look, self.seconds = look, 0.0

    def __call__(self, report: lo.Report) -> None:
        began = time.thread_time()
        self.look(report)
        self.seconds += time.thread_time() - began

    def finish(self, found: lo.Result) -> None:
        """The end of it, where it has one."""
        began = time.thread_time()
        if hasattr(self.look, "finish"):
            self.look.finish(found)
        self.seconds += time.thread_time() - began


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

    def cost(watching: Watching) -> Taken:
        search = Adam(lr=0.01, schedule="constant", steps=STEPS)
        with watching() as look:
            timed = None if look is None else Timed(look)
            whole, main, wall = time.process_time(), time.thread_time(), time.perf_counter()
            found = lo.optimize(decoder, target=target, starts=z, region="free", search=search, on_report=timed)
            if timed is not None:
                timed.finish(found)
            whole, main = time.process_time() - whole, time.thread_time() - main
            own = 0.0 if timed is None else timed.seconds + whole - main
            return Taken(whole, own, time.perf_counter() - wall, len(found.history))

    for watching in kinds.values():
        cost(watching)  # imports
    taken: dict[str, list[Taken]] = {name: [] for name in kinds}
    for turn in range(REPEATS):  # in turn, nobody always after the same one: a busy moment hits them all
        names = list(kinds)[turn % len(kinds) :] + list(kinds)[: turn % len(kinds)]
        for name in names:
            taken[name].append(cost(kinds[name]))
    least = {name: min(one.cpu for one in found) for name, found in taken.items()}
    own = {name: statistics.median(one.own / (one.cpu - one.own) for one in found) for name, found in taken.items()}
    plain, _, wall, reports = min(taken["unwatched"])
    rows = [
        (
            name,
            f"{100 * own[name]:.1f} %",
            f"{1e3 * own[name] * plain / reports:.2f} ms",
            f"{cpu:.2f} s",
            f"{cpu / plain:.3f}x",
        )
        for name, cpu in least.items()
    ]
    words = (
        f"{ROWS} starts, {STEPS} steps of Adam, {reports} reports; a run of {wall:.1f} s, {plain:.2f} s of CPU time, of each "
        f"kind {REPEATS} runs in turn. What watching takes itself: the CPU time of its calls, of its end and of its threads, "
        "over that of the rest of the run; the median. The last columns are whole runs, the least of each, which other "
        "work on the machine lengthens by a few per cent either way."
    )
    head = ["watched by", "takes itself", "a report", "CPU of the run", "over the unwatched run"]
    write_section("reports", f"{words}\n\n{table(head, rows)}")

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

import torch
from rich.console import Console

import latentopt as lo
from benchmarks.common import plain_decoder, table, write_section
from latentopt import progress, tracking
from latentopt_std import Adam

ROWS, STEPS, REPEATS = 64, 12_000, 7
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
    for _ in range(REPEATS):  # in turn, so that a busy moment hits them all
        for name, watching in kinds.items():
            taken[name].append(cost(watching))
    plain = taken["unwatched"]
    rows = []
    for name, found in taken.items():
        cpu = [own[0] / other[0] for own, other in zip(found, plain, strict=True)]
        more = (statistics.median(cpu) - 1) * statistics.median(one[0] for one in plain)
        rows.append((name, f"{statistics.median(one[0] for one in found):.2f} s", f"{statistics.median(cpu):.3f}x",
                     f"{1e3 * more / found[0][2]:.2f} ms"))  # fmt: skip
    words = (
        f"{ROWS} starts, {STEPS} steps of Adam, {plain[0][2]} reports; a run of "
        f"{statistics.median(one[1] for one in plain):.1f} s. Medians of {REPEATS} runs, each over the unwatched run "
        "beside it."
    )
    head = ["watched by", "CPU", "over the unwatched run", "CPU more, a report"]
    write_section("reports", f"{words}\n\n{table(head, rows)}")
    bars = statistics.median(own[0] / other[0] for own, other in zip(list(taken.values())[1], plain, strict=True))
    print(f"bars: {100 * (bars - 1):.1f} % more CPU, of 2 % that are promised")

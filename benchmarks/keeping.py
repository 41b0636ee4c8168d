"""What it costs to keep a run in a folder: checkpoints, history, sums and fsyncs, against the same run that is not kept."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import latentopt as lo
from benchmarks.common import table, write_section
from latentopt.checkpoints import Checkpoints
from latentopt_std import CMAES, LBFGS, Adam

REPEATS = 5
RUNS: dict[str, tuple[int, Any]] = {
    "adam, 64 targets x 8 starts, 1500 steps": (64, Adam(steps=1500)),
    "lbfgs, 64 targets x 8 starts, 600 steps": (64, LBFGS(steps=600, stop_gain=0.0)),
    "cmaes, 64 targets, 5000 evaluations each": (64, CMAES(evaluations=5000)),
    "adam, one target, 100 steps": (1, Adam(steps=100)),
}


def once(targets: int, search: Any, out: Path | None) -> float:
    """Seconds of wall time of one run."""
    decoder = lo.load_decoder("digits")
    began = time.perf_counter()
    lo.optimize(decoder, target=lo.examples.digits()[:targets], search=search, out=out, seed=1)
    return time.perf_counter() - began


def main() -> None:
    """Measure and write the table."""
    rows = []
    spent: list[float] = []
    written: list[int] = []
    save = Checkpoints.save

    def counted(self: Checkpoints, state: Any) -> None:
        before = self.spent
        save(self, state)
        spent.append(self.spent - before)
        written.append(max(path.stat().st_size for path in self.folder.iterdir()))

    Checkpoints.save = counted  # type: ignore[method-assign]
    for name, (targets, search) in RUNS.items():
        pairs = []
        shares = []
        with tempfile.TemporaryDirectory() as folder:
            for repeat in range(REPEATS):
                spent.clear()
                written.clear()
                plain = once(targets, search, None)
                kept = once(targets, search, Path(folder) / str(repeat))
                pairs.append((plain, kept, kept / plain))
                shares.append(sum(spent) / kept)
        plain, kept, ratio = (statistics.median(column) for column in zip(*pairs, strict=True))
        size = f"{max(written) / 2**20:.2f} MiB" if written else "-"
        share = f"{100 * statistics.median(shares):.2f} %"
        rows.append((name, f"{plain:.2f}", f"{kept:.2f}", f"{ratio:.3f}x", len(written), size, share))
    Checkpoints.save = save  # type: ignore[method-assign]
    header = ["run on digits", "not kept, s", "kept, s", "ratio", "checkpoints", "of", "share spent on checkpoints"]
    write_section("keeping a run", f"Wall time, {REPEATS} pairs, medians.\n\n{table(header, rows)}")


if __name__ == "__main__":
    main()

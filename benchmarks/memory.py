"""Peak memory of many draws, in a process of its own: how far it grows beyond the output."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.common import table, write_section

CODE = """
import resource, sys, threading, time
import torch
import latentopt as lo
from benchmarks.common import plain_decoder
torch.set_num_threads(1)
decoder = lo.Decoder(plain_decoder(), (20,), prior="normal")
lo.sample(decoder, 64)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before, peak, done = resident(), [0], threading.Event()
def watch():
    while not done.is_set():
        peak[0] = max(peak[0], resident())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
draws = lo.sample(decoder, int(sys.argv[1]))
done.set()
watcher.join()
size = draws.designs.numel() * 4
print(size, max(peak[0], resident()) - before)
"""


def growth(rows: int) -> tuple[int, int]:
    """Bytes of the designs, and by how many bytes the process grew at its peak."""
    done = subprocess.run([sys.executable, "-c", CODE, str(rows)], capture_output=True, text=True, check=True)
    size, grown = map(int, done.stdout.split())
    return size, grown


def main() -> None:
    """Measure and write the table."""
    rows = []
    for count in (4096, 65536):
        size, grown = growth(count)
        rows.append((count, f"{size / 2**20:.0f} MiB", f"{grown / 2**20:.0f} MiB", f"{grown / size:.2f}x"))
    write_section("memory of draws", table(["draws of 784 values", "designs", "growth at the peak", "ratio"], rows))

"""How many rows to decode at once: CPU time a row for several block sizes, which is where the default comes from."""

from __future__ import annotations

import torch

import latentopt as lo
from benchmarks.common import plain_decoder, side_by_side, table, write_section
from latentopt.decoder import default_block_rows

ROWS = 16384
SIZES = (16, 64, 256, 1024, 4096, ROWS)


def main() -> None:
    """Measure and write the table."""
    z = torch.randn(ROWS, 20, generator=torch.Generator().manual_seed(0))
    works = {}
    for size in SIZES:
        decoder = lo.Decoder(plain_decoder(), (20,), prior="normal", block_rows=size)
        works[str(size)] = lambda decoder=decoder: decoder.decode(z)
    found = side_by_side(works)
    best = min(found.values())
    rows = [(size, f"{found[str(size)] / ROWS * 1e6:.2f}", f"{found[str(size)] / best:.2f}x") for size in SIZES]
    text = table(["rows a block", "us a row", "against the best"], rows)
    chosen = default_block_rows(784, torch.device("cpu"))
    write_section("block size", f"{text}\n\nThe default for designs of 784 values on a CPU is {chosen} rows.")

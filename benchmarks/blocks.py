"""How many rows to decode at once: CPU time a row for several block sizes, which is where the default comes from."""

from __future__ import annotations

import torch

import latentopt as lo
from benchmarks.common import plain_decoder, side_by_side, table, write_section
from latentopt.decoder import default_block_rows
from latentopt.problem import Problem
from latentopt.terms import build_terms
from latentopt_std import MSE

ROWS = 8192
SIZES = (16, 64, 256, 334, 512, 1024, 4096, ROWS)


def main() -> None:
    """Measure and write the table."""
    generator = torch.Generator().manual_seed(0)
    z, index = torch.randn(ROWS, 20, generator=generator), torch.zeros(ROWS, dtype=torch.long)
    target = torch.rand(784, generator=generator)
    decodes, gradients = {}, {}
    for size in SIZES:
        decoder = lo.Decoder(plain_decoder(), (20,), prior="normal", block_rows=size)
        problem = Problem(decoder, build_terms([MSE(target=target)], decoder))

        def with_gradient(decoder: lo.Decoder = decoder, problem: Problem = problem) -> object:
            with decoder.frozen():
                return problem.value_and_grad(z, index)

        decodes[str(size)] = lambda decoder=decoder: decoder.decode(z)
        gradients[str(size)] = with_gradient
    plain, steep = side_by_side(decodes), side_by_side(gradients)
    rows = []
    for size in SIZES:
        cells = [size]
        for found in (plain, steep):
            seconds = found[str(size)]
            cells += [f"{seconds / ROWS * 1e6:.2f}", f"{seconds / min(found.values()):.2f}x"]
        rows.append(cells)
    header = ["rows a block", "decode, us a row", "against the best", "loss and gradient, us a row", "against the best"]
    chosen = default_block_rows(784, torch.device("cpu"))
    words = f"The default for designs of 784 values on a CPU is {chosen} rows. That of a GPU is not measured yet."
    write_section("block size", f"{table(header, rows)}\n\n{words}")

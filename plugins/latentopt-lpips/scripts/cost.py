"""What a distance costs, both ways. `python scripts/cost.py` writes README's table; needs the fetched weights."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

import latentopt as lo
from latentopt.testing import ToyImages
from latentopt_lpips import LPIPS

README = Path(__file__).parents[1] / "README.md"
ROWS, SIDE, REPEATS = 16, 64, 5


def milliseconds(net: str) -> float:
    """CPU time a picture."""
    decoder = lo.Decoder(ToyImages(4, (3, SIDE, SIDE)), latent_shape=(4,), prior="normal")
    z = decoder.space.draw(ROWS, torch.Generator().manual_seed(0))
    designs = decoder.decode(z).requires_grad_()
    value = LPIPS(net=net, target=decoder.decode(z[:1])).build(decoder)
    taken = []
    for _ in range(REPEATS + 1):
        began = time.process_time()
        found = value(lo.Candidates(z, designs, torch.zeros(ROWS, dtype=torch.long)))
        torch.autograd.grad(found.sum(), designs)
        taken.append(1000 * (time.process_time() - began) / ROWS)
    return statistics.median(taken[1:])


def main() -> None:
    """Write README's table."""
    torch.set_num_threads(1)
    rows = [f"| {net} | {milliseconds(net):.0f} ms |" for net in ("alex", "vgg")]
    text = README.read_text("utf-8")
    before, _, rest = text.partition("<!-- begin cost -->")
    after = rest.partition("<!-- end cost -->")[2]
    table = "\n".join(["| network | CPU time, one thread |", "| --- | --- |", *rows])
    README.write_text(f"{before}<!-- begin cost -->\n{table}\n<!-- end cost -->{after}", "utf-8")


if __name__ == "__main__":
    main()

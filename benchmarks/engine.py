"""The plain loop against the engine, and the engine against a hand-written batched loop."""

from __future__ import annotations

import torch

import latentopt as lo
from benchmarks.common import hand_written_loop, plain_decoder, plain_loop, side_by_side, table, write_section
from latentopt_std import Adam

STEPS = 1000
SIZES = {
    1: 1000,
    16: 1000,
    256: 300,
    4096: 40,
}  # starts at once: engine steps measured; the cost a step is what is compared
PLAIN_STEPS = 400


def run_engine(decoder: lo.Decoder, target: torch.Tensor, z: torch.Tensor, steps: int) -> lo.Result:
    """The engine as a user calls it: history, best-so-far, reports and all."""
    search = Adam(lr=0.01, schedule="constant", steps=steps)
    return lo.optimize(decoder, target=target, starts=z, region="free", search=search, on_report=lambda report: None)


def main() -> None:
    """Measure and write both tables."""
    net = plain_decoder()
    decoder = lo.Decoder(net, (20,), prior="normal")
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(784, generator=generator)
    run_engine(decoder, target, torch.randn(2, 20, generator=generator), 20)
    plain_loop(net, target[None], torch.randn(1, 20, generator=generator), 20)
    speed, overhead = [], []
    for n, steps in SIZES.items():
        z = torch.randn(n, 20, generator=generator)

        def plain(z: torch.Tensor = z) -> object:
            return plain_loop(net, target[None], z[:1], PLAIN_STEPS)

        def engine(steps: int = steps, z: torch.Tensor = z) -> object:
            return run_engine(decoder, target, z, steps)

        def by_hand(steps: int = steps, z: torch.Tensor = z) -> object:
            return hand_written_loop(net, target, z, steps)

        def fixed(z: torch.Tensor = z) -> object:
            return run_engine(decoder, target, z, 1)

        found = side_by_side({"plain": plain, "engine": engine, "hand": by_hand, "fixed": fixed})
        plain_row = found["plain"] / PLAIN_STEPS
        engine_step = (found["engine"] - found["fixed"]) / (steps - 1)
        hand_step = found["hand"] / steps
        ratio = plain_row * n / engine_step
        whole = plain_row * n * STEPS / (engine_step * STEPS + found["fixed"])
        speed.append(
            (
                n,
                f"{plain_row * 1e6:.0f}",
                f"{engine_step / n * 1e6:.1f}",
                f"{ratio:.2f}x",
                f"{found['fixed'] * 1e3:.1f} ms",
                f"{whole:.2f}x",
            )
        )
        if n >= 16:
            overhead.append(
                (n, f"{hand_step / n * 1e6:.1f}", f"{engine_step / n * 1e6:.1f}", f"{engine_step / hand_step:.2f}x")
            )
    # overhead is promised from 64 starts on
    z = torch.randn(64, 20, generator=generator)
    found = side_by_side(
        {"hand": lambda: hand_written_loop(net, target, z, 500), "engine": lambda: run_engine(decoder, target, z, 500),
         "fixed": lambda: run_engine(decoder, target, z, 1)}
    )  # fmt: skip
    engine_step, hand_step = (found["engine"] - found["fixed"]) / 499, found["hand"] / 500
    overhead.insert(
        1, (64, f"{hand_step / 64 * 1e6:.1f}", f"{engine_step / 64 * 1e6:.1f}", f"{engine_step / hand_step:.2f}x")
    )
    write_section(
        "plain loop against engine",
        table(
            [
                "starts at once",
                "plain loop, us a step",
                "engine, us a row and step",
                "faster",
                "engine's fixed cost",
                "faster over 1000 steps, fixed cost included",
            ],
            speed,
        ),
    )
    write_section(
        "engine against hand-written loop",
        table(
            ["starts at once", "by hand, us a row and step", "engine, us a row and step", "engine / by hand"], overhead
        ),
    )

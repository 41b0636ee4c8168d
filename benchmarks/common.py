"""Shared by the benchmarks: the plain loop, CPU time, medians, and the tables written into pages of docs/."""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def plain_decoder(seed: int = 0) -> nn.Module:
    """Linear(20, 128) - ReLU - Linear(128, 784) - Sigmoid with torch's own initial weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 784), nn.Sigmoid())


def plain_loop(net: nn.Module, target: Tensor, z: Tensor, steps: int, lr: float = 0.01) -> Tensor:
    """What everyone writes: one start, torch's Adam, a mean squared error, backward, step. Returns the last latent."""
    z = z.clone().requires_grad_(True)
    adam = torch.optim.Adam([z], lr=lr)
    for _ in range(steps):
        adam.zero_grad()
        loss = nn.functional.mse_loss(net(z), target)
        loss.backward()
        adam.step()
    return z.detach()


def hand_written_loop(net: nn.Module, target: Tensor, z: Tensor, steps: int, lr: float = 0.01) -> Tensor:
    """The same for all rows at once, by hand: frozen weights, `autograd.grad`, Adam in place, no history, no reports."""
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    for step in range(1, steps + 1):
        z = z.detach().requires_grad_(True)
        loss = (net(z) - target).square().mean(1).sum()
        (gradient,) = torch.autograd.grad(loss, z)
        first.mul_(0.9).add_(gradient, alpha=0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
        z = z.detach().addcdiv(first, root, value=-lr / (1 - 0.9**step))
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    return z


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call, this process, all its threads."""
    started = time.process_time()
    work()
    return time.process_time() - started


def side_by_side(works: dict[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """Median CPU seconds of each, taken in turn so that a busy moment hits them all."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(cpu_seconds(work))
    return {name: statistics.median(values) for name, values in taken.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def write_section(name: str, text: str, page: Path = PAGE) -> None:
    """Put a section's text between its markers in a page, docs/performance.md by default, with the date and the versions."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    whole = page.read_text()
    if begin not in whole or end not in whole:
        raise SystemExit(f"{page} has no markers for {name!r}: add {begin} and {end}")
    stamp = (
        f"*Written by `python -m benchmarks` on {datetime.date.today()}: torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}, {torch.get_num_threads()} thread(s).*"
    )
    head, rest = whole.split(begin)
    tail = rest.split(end)[1]
    page.write_text(f"{head}{begin}\n{text.strip()}\n\n{stamp}\n{end}{tail}")
    print(f"\n## {name}\n{text}\n{stamp}")

"""Other libraries on the same decoders, targets, box and evaluations; and torch's own L-BFGS, with gradients.

The libraries come with `pip install -e '.[peers]'`. One that is not installed is left out, and the table says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import torch
from torch import Tensor, nn

import latentopt as lo
from benchmarks.common import cpu_seconds, table, write_section
from benchmarks.peer_loops import FEW, MANY, NARROW, PEERS, SOBOL, SPAN, WIDE, Match, Peer
from benchmarks.trained import held_out, load
from latentopt_std import CMAES, LBFGS, OptunaSearch

BOX = lo.Box(low=-SPAN, high=SPAN)


class BlackBox(nn.Module):
    """A decoder that gives designs and no gradients, as a program outside would."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @torch.no_grad()
    def forward(self, z_ND: Tensor) -> Tensor:
        """Designs `(N, *design_shape)`."""
        designs: Tensor = self.net(z_ND)
        return designs


@dataclass(frozen=True)
class Ours:
    """A search of this package: all targets in one call, or a call each; None is `auto`."""

    name: str
    search: Any
    together: bool = False
    evaluations: int = MANY


OURS = (
    Ours(f"**latentopt**, cmaes, first step {NARROW:g} (the default)", CMAES(evaluations=MANY)),
    Ours("the same, all targets in one call", CMAES(evaluations=MANY), together=True),
    Ours(f"**latentopt**, cmaes, first step {WIDE:g}", CMAES(evaluations=MANY, sigma=WIDE)),
    Ours("**latentopt**, auto, all targets in one call", None, together=True),
    Ours("**latentopt**, optuna gp", OptunaSearch(sampler="gp", evaluations=FEW), evaluations=FEW),
    Ours(f"**latentopt**, cmaes, first step {NARROW:g}", CMAES(evaluations=FEW), evaluations=FEW),
)


@dataclass
class Taken:
    """What a search took and reached, a target each: decoded rows, CPU seconds, the least loss."""

    rows: list[float]
    seconds: list[float]
    least: list[float]


def net_of(decoder: lo.Decoder) -> nn.Module:
    """The decoder's module, ready to be called."""
    net = decoder.module
    if not isinstance(net, nn.Module):
        raise TypeError(f"expected a module, got {type(net).__name__}")
    return net.eval()


def take_peer(peer: Peer, decoder: lo.Decoder, targets: Tensor, evaluations: int) -> Taken:
    """Each target after another. A short run before pays for imports and compilation."""
    net, dim = net_of(decoder), decoder.dim
    peer.run(Match(net, targets[0], dim), min(evaluations, max(SOBOL + 4, evaluations // 20)), 0)
    taken = Taken([], [], [])
    for seed, target in enumerate(targets):
        match = Match(net, target, dim)
        taken.seconds.append(cpu_seconds(lambda m=match, s=seed: peer.run(m, evaluations, s)))
        taken.rows.append(match.rows)
        taken.least.append(match.least)
    return taken


def take_ours(ours: Ours, decoder: lo.Decoder, targets: Tensor, evaluations: int) -> Taken:
    """The same by this package, on a black box without an encoder: whole runs, final decode and realism included.

    From the prior's mean; `auto` from its own starts. All rows that are decoded count, those of the starts too.
    """
    blind = lo.Decoder(BlackBox(net_of(decoder)), latent_shape=(decoder.dim,), prior="normal", name="black box")
    search = ours.search and ours.search.model_copy(update={"evaluations": evaluations})
    taken = Taken([], [], [])
    groups = [targets] if ours.together else [one[None] for one in targets]
    for seed, group in enumerate(groups):
        own: dict[str, Any] = {} if search is None else {"starts": "mean", "search": search}
        budget = {"rows": evaluations * len(group)}
        found: list[lo.Result] = []
        spent = cpu_seconds(
            lambda g=group, b=budget, s=seed, own=own, found=found: found.append(
                lo.optimize(blind, target=g, region=BOX, budget=b, seed=s, **own)
            )
        )
        taken.seconds += [spent / len(group)] * len(group)
        taken.rows += [found[0].cost.rows / len(group)] * len(group)
        taken.least += torch.as_tensor(found[0].best.loss).flatten().tolist()
    return taken


def best_known(decoder: lo.Decoder, targets: Tensor) -> Tensor:
    """The least losses `(T,)` in the box, by gradients from many starts."""
    starts = [{"kind": "prior", "n": 32}]
    return lo.optimize(decoder, target=targets, region=BOX, starts=starts, search=LBFGS(steps=200), seed=9).best.loss


def rows_of(name: str, decoder: lo.Decoder, targets: Tensor, many: bool, scale: float = 1.0) -> list[Sequence[object]]:
    """A table's rows for one decoder: searches that take many evaluations, or those that take few; `scale` shrinks both."""
    chosen = [one for one in (*OURS, *PEERS) if (one.evaluations == MANY) is many]
    found: dict[int, Taken | None] = {}
    for number, one in enumerate(chosen):
        evaluations = max(SOBOL + 4, round(one.evaluations * scale))
        if isinstance(one, Ours):
            found[number] = take_ours(one, decoder, targets, evaluations)
        else:
            found[number] = take_peer(one, decoder, targets, evaluations) if one.installed() else None
    known_T = best_known(decoder, targets)
    for taken in found.values():
        if taken is not None:
            known_T = torch.minimum(known_T, torch.tensor(taken.least))
    rows: list[Sequence[object]] = []
    for number, one in enumerate(chosen):
        taken = found[number]
        if taken is None:
            rows.append((name, one.name, "not installed", "", "", ""))
            continue
        over = [least / known for least, known in zip(taken.least, known_T.tolist(), strict=True)]
        rate = statistics.median(r / s for r, s in zip(taken.rows, taken.seconds, strict=True))
        speed = f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"
        counted = f"{statistics.median(taken.rows):.0f}"
        rows.append((name, one.name, counted, speed, f"{statistics.median(over):.2f}", f"{max(over):.2f}"))
    return rows


def without_gradients(targets: int = 10, few: int = 3) -> None:
    """Both decoders with many evaluations, digits with few."""
    settings = {
        "digits": (lo.load_decoder("digits"), lo.examples.digits()[:targets]),
        "d20": (load("d20"), held_out("d20", targets)),
    }
    rows = [row for name, (decoder, wanted) in settings.items() for row in rows_of(name, decoder, wanted, many=True)]
    decoder, wanted = settings["digits"]
    rows += rows_of("digits", decoder, wanted[:few], many=False)
    header = [
        "decoder",
        "search",
        "evaluations a target",
        "evaluations a CPU second",
        "loss over the best known: median",
        "worst",
    ]
    words = (
        f"{targets} held-out targets ({few} where evaluations are few), mean squared error, in the box of {SPAN:g} standard "
        "deviations of the prior to each side, from its middle. The best known is by L-BFGS with gradients from 32 starts a "
        "target, or what any search here found, if less."
    )
    write_section("peers", f"{words}\n\n{table(header, rows)}")


def by_torch_lbfgs(net: nn.Module, target: Tensor, z_ND: Tensor) -> tuple[Tensor, int]:
    """`torch.optim.LBFGS` with its line search, 100 iterations: latents `(N, D)` as one vector, and evaluations of rows."""
    z = z_ND.clone().requires_grad_(True)
    search = torch.optim.LBFGS([z], max_iter=100, line_search_fn="strong_wolfe")
    rows = 0

    def closure() -> Tensor:
        nonlocal rows
        rows += len(z_ND)
        search.zero_grad()
        loss = (net(z) - target).square().flatten(1).mean(1).sum()
        loss.backward()
        return loss

    search.step(closure)
    return z.detach(), rows


def with_gradients(targets: int = 10, starts: int = 8) -> None:
    """torch's own L-BFGS, start by start and on all starts as one vector, against batched rows."""
    rows = []
    for name, decoder, wanted in (
        ("digits", lo.load_decoder("digits"), lo.examples.digits()[:targets]),
        ("d20", load("d20"), held_out("d20", targets)),
    ):
        net = net_of(decoder)
        z_TND = torch.randn(targets, starts, decoder.dim, generator=torch.Generator().manual_seed(3))
        taken: dict[str, tuple[float, float, Tensor]] = {}
        for label, each in (
            ("torch.optim.LBFGS, a start at a time", 1),
            ("the same, a target's starts at once", starts),
        ):
            ended, counted = list[Tensor](), list[int]()

            def work(each: int = each, ended: list[Tensor] = ended, counted: list[int] = counted) -> None:
                for target, z_ND in zip(wanted, z_TND, strict=True):  # noqa: B023
                    for part in z_ND.split(each):
                        z, count = by_torch_lbfgs(net, target, part)  # noqa: B023
                        ended.append(z)
                        counted.append(count)

            seconds = cpu_seconds(work)
            with torch.no_grad():
                designs = net(torch.cat(ended)).view(targets, starts, *wanted.shape[1:])
            loss_TN = (designs - wanted[:, None]).square().flatten(2).mean(2).nan_to_num(nan=float("inf"))
            taken[label] = (seconds, sum(counted) / targets, loss_TN.amin(1))
        for label, search in (("**latentopt**, lbfgs", LBFGS()), ("**latentopt**, auto", None)):
            found: list[lo.Result] = []
            seconds = cpu_seconds(
                lambda search=search, found=found, decoder=decoder, wanted=wanted, z_TND=z_TND: found.append(
                    lo.optimize(decoder, target=wanted, starts=z_TND, region="free", search=search, seed=1)
                )
            )
            taken[label] = (seconds, found[0].cost.forward_rows / targets, found[0].best.loss)
        known_T = torch.stack([loss_T for *_, loss_T in taken.values()]).amin(0)
        for label, (seconds, count, loss_T) in taken.items():
            over_T = loss_T / known_T
            figures = (f"{float(over_T.median()):.3f}", f"{float(over_T.amax()):.3f}")
            rows.append((name, label, f"{count:.0f}", f"{seconds:.2f}", *figures))
    header = [
        "decoder",
        "search",
        "decoded rows a target",
        "CPU s, all targets",
        "best of the starts over the best known: median",
        "worst",
    ]
    words = (
        f"{targets} held-out targets, the same {starts} starts each from the prior, no region. The best known is the "
        "least that any of them found."
    )
    write_section("peers with gradients", f"{words}\n\n{table(header, rows)}")


def main() -> None:
    """Measure both and write the sections."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    without_gradients()
    with_gradients()


if __name__ == "__main__":
    main()

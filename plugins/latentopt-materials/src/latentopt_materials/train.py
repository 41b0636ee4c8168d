"""Train the decoder `microstructures` and write its weights, its examples and its record: five minutes of one CPU core.

    python -m latentopt_materials.train --out src/latentopt_materials/data

A variational auto-encoder (Kingma and Welling 2014) with a Bernoulli likelihood on local volume fractions, on structures that
this package makes. They are centred (periodic.py), then turned and their phases swapped at random. To the evidence lower
bound come free bits (Kingma et al. 2016) and a sliced Wasserstein distance between the batch's latents and the prior (Kolouri
et al. 2018), so that the prior is honest. What is shipped is the running mean of the weights, with latents whitened.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from latentopt_materials.known import training_set
from latentopt_materials.nets import LATENT, MicrostructureDecoder, MicrostructureEncoder
from latentopt_materials.periodic import centred, turned
from latentopt_materials.publishing import publish


@dataclass(frozen=True)
class Recipe:
    """Every number that training depends on.

    seed: of the structures, the first weights and all noise. Held-out structures have `seed + 1`.
    beta: weight of the KL divergence; free_bits: nats a latent value that are not charged.
    wasserstein: weight of the squared sliced distance over `directions`; covariance: of the squared distance of the batch's
        covariance from I, which few directions of 32 would see.
    lr_warm_up: steps until the learning rate is at its height, from where it falls along a cosine; warm_up: the share of all
        steps after which the divergence has its full weight.
    average: of the running mean of the weights, a step.
    """

    seed: int = 0
    per_family: int = 4000
    steps: int = 8000
    batch: int = 96
    lr: float = 2e-3
    lr_warm_up: int = 200
    beta: float = 1.0
    free_bits: float = 0.05
    wasserstein: float = 500.0
    directions: int = 64
    covariance: float = 10.0
    average: float = 0.999
    warm_up: float = 0.1


class AutoEncoder(nn.Module):
    """Both networks, and their losses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = MicrostructureEncoder(), MicrostructureDecoder()

    def losses(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction in nats a structure, KL divergence `(32,)` in nats, and latents drawn `(N, 32)`.

        The networks run in bfloat16, which halves the time; the losses in float32.
        """
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_variance = (part.float() for part in self.encoder(x))
        z = mean + noise * torch.exp(0.5 * log_variance)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.decoder.logits(z).float()
        reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(0)
        return reconstruction, kl, z


def sliced_wasserstein(z: Tensor, directions: int, generator: torch.Generator) -> Tensor:
    """Squared sliced 2-Wasserstein distance between latents `(N, D)` and N(0, I), whose quantiles are known.

    For N draws from the prior itself it is about 2 / N, not 0.
    """
    axes = nn.functional.normalize(torch.randn(z.shape[1], directions, generator=generator), dim=0)
    quantiles = torch.special.ndtri((torch.arange(len(z)) + 0.5) / len(z))
    return ((z @ axes).sort(0).values - quantiles[:, None]).square().mean()


class Batches:
    """Structures at random, in one of 16 guises a batch: 8 symmetries of the square, of a structure or of its negative."""

    def __init__(self, white: Tensor, size: int, generator: torch.Generator) -> None:
        # A negative has its own centre. Values are quarters: bytes hold them, a quarter of the memory.
        self.guises = [(part * 4).to(torch.uint8) for part in (white, centred(1 - white))]
        self.size, self.generator = size, generator

    def draw(self) -> Tensor:
        """Structures `(size, 1, 64, 64)`."""
        guise = int(torch.randint(16, (1,), generator=self.generator))
        some = self.guises[guise // 8]
        rows = torch.randint(len(some), (self.size,), generator=self.generator)
        return turned(some[rows].float() / 4, guise % 8)


def train(recipe: Recipe, batches: Batches, kept: Path | None = None) -> tuple[AutoEncoder, list[dict[str, float]]]:
    """The trained networks (the running mean of their weights), and the mean losses of each fortieth of the steps."""
    with torch.random.fork_rng(devices=[]):  # where layers take their first weights from; left as it was
        torch.set_rng_state(torch.Generator().manual_seed(recipe.seed).get_state())
        network, averaged = AutoEncoder(), AutoEncoder()
    noise = torch.Generator().manual_seed(recipe.seed + 1)
    averaged.load_state_dict(network.state_dict())
    parameters: list[Tensor] = list(network.parameters())
    means: list[Tensor] = list(averaged.parameters())
    adam = torch.optim.Adam(parameters, lr=recipe.lr, betas=(0.9, 0.99), fused=True)
    curve, total, each = [], torch.zeros(3), max(1, recipe.steps // 40)
    for step in range(1, recipe.steps + 1):
        rate = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        adam.param_groups[0]["lr"] = recipe.lr * min(1.0, step / recipe.lr_warm_up) * (rate + 0.003)
        x = batches.draw()
        reconstruction, kl, z = network.losses(x, torch.randn(len(x), LATENT, generator=noise))
        distance = sliced_wasserstein(z, recipe.directions, noise)
        crossed = (torch.cov(z.T) - torch.eye(LATENT)).square().sum()
        charged = recipe.beta * kl.clamp(min=recipe.free_bits).sum()
        warm = min(1.0, step / (recipe.warm_up * recipe.steps))  # keeps latents alive
        loss = reconstruction + warm * charged + recipe.wasserstein * distance + recipe.covariance * crossed
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 2000.0)  # one early batch in some runs
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(means, parameters, 1 - min(recipe.average, step / (step + 10)))
            total += torch.stack([reconstruction, kl.sum(), distance]) / each
        if step % each == 0:
            curve.append(dict(zip(("reconstruction", "kl", "wasserstein"), map(float, total), strict=True)))
            print(f"step {step}/{recipe.steps}", {k: round(v, 4) for k, v in curve[-1].items()}, flush=True)
            total.zero_()
            if kept is not None:
                torch.save(averaged.state_dict(), kept)
    return averaged.eval(), curve


@torch.no_grad()
def whiten(network: AutoEncoder, batches: Batches, rounds: int = 64) -> None:
    """Make the latents' mean 0 and their covariance I, over structures in all guises: an affine map put into the weights.

    What the decoder gives for a code stays the same. The posterior's variances take the diagonal of the map, which is near I.
    """
    noise = torch.Generator().manual_seed(0)
    found = []
    for _ in range(rounds):
        mean, log_variance = network.encoder(batches.draw())
        found.append(mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=noise))
    z = torch.cat(found).double()
    centre, (values, vectors) = z.mean(0), torch.linalg.eigh(torch.cov(z.T))
    whitener = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    head, first = network.encoder.head, network.decoder.fc1
    weight, bias = head.weight[:LATENT].double(), head.bias[:LATENT].double()
    first.bias.add_((first.weight.double() @ centre).float())
    first.weight.copy_(first.weight.double() @ whitener.inverse())
    head.weight[:LATENT] = (whitener @ weight).float()
    head.bias[:LATENT] = (whitener @ (bias - centre)).float()
    head.bias[LATENT:] += 2 * whitener.diagonal().log().float()


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, examples and the record")
    parser.add_argument("--kept", type=Path, help="file for weights on the way")
    for name, default in vars(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args())
    out, kept = options.pop("out"), options.pop("kept")
    recipe = Recipe(**options)
    torch.set_num_threads(1)
    started, cpu = time.perf_counter(), time.process_time()
    white = training_set(recipe.seed, recipe.per_family)
    seconds = {"structures": time.perf_counter() - started, "structures_cpu": time.process_time() - cpu}
    batches = Batches(white, recipe.batch, torch.Generator().manual_seed(recipe.seed))
    del white
    started, cpu = time.perf_counter(), time.process_time()
    network, curve = train(recipe, batches, kept)
    seconds |= {"training": time.perf_counter() - started, "training_cpu": time.process_time() - cpu}
    whiten(network, batches)
    publish(out, network.encoder, network.decoder, recipe, curve, seconds)


if __name__ == "__main__":
    main()

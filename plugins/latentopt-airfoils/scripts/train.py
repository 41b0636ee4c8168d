"""Train the decoder `airfoils` and write its weights and its record.

    python plugins/latentopt-airfoils/scripts/train.py          # 15 seconds; after scripts/make_table.py

A variational auto-encoder (Kingma and Welling 2014) of CST numbers with a Gaussian likelihood on outlines: an error counts
as the root mean square distance of outlines, not as that of the numbers, of which some hardly move the outline. Its
standard deviation is 0.0002 chords, of the order of the fits' own error. Trained on nine real airfoils in ten; figures are
of the tenth.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time

import torch
from make_table import DATA
from safetensors.torch import save
from torch import Tensor, nn

from latentopt_airfoils import neuralfoil, published
from latentopt_airfoils.known import nearest_real
from latentopt_airfoils.nets import LATENT, AirfoilDecoder, AirfoilEncoder
from latentopt_airfoils.outlines import metric, thickness

WIDTH = 2e-4  # chords: standard deviation of the likelihood, all of an outline's root mean square error
WEAK = 0.02  # weight of the squared error of the standardised numbers, for directions that the outline does not show
EPOCHS, BATCH, LR, WARM_UP = 300, 128, 4e-3, 0.2


def begin(network: AirfoilEncoder | AirfoilDecoder, numbers: Tensor, generator: torch.Generator) -> None:
    """First weights, uniform as `nn.Linear` draws them but from this generator; and the mean and spread of the numbers."""
    network.mean.copy_(numbers.mean(0))
    network.std.copy_(numbers.std(0))
    for layer in (part for part in network.modules() if isinstance(part, nn.Linear)):
        bound = layer.in_features**-0.5
        with torch.no_grad():
            for values in (layer.weight, layer.bias):
                values.copy_((torch.rand(values.shape, generator=generator) * 2 - 1) * bound)


def train(numbers: Tensor, seed: int) -> tuple[AirfoilEncoder, AirfoilDecoder, list[float]]:
    """The trained networks, and each epoch's mean loss in nats."""
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = AirfoilEncoder(), AirfoilDecoder()
    for network in (encoder, decoder):
        begin(network, numbers, generator)
    root, std = metric().float(), numbers.std(0)
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LR)
    steps = EPOCHS * (len(numbers) // BATCH)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, LR, steps, pct_start=0.1, cycle_momentum=False)
    curve: list[float] = []
    for _ in range(EPOCHS):
        total, batches = 0.0, torch.randperm(len(numbers), generator=generator).split(BATCH)
        for rows in (part for part in batches if len(part) == BATCH):
            x = numbers[rows]
            mean, log_variance = encoder(x)
            noise = torch.randn(mean.shape, generator=generator)
            away = decoder(mean + noise * (log_variance / 2).exp()) - x
            error = (away @ root.T).square().sum(1) / WIDTH**2 + WEAK * (away / std).square().sum(1)
            kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
            warm = min(1.0, (cycle.last_epoch + 1) / (WARM_UP * steps))  # keeps dimensions alive
            adam.zero_grad()
            (0.5 * (error + warm * kl).mean()).backward()
            adam.step()
            cycle.step()
            total += float(0.5 * (error + kl).mean().detach())
        curve.append(total / (len(numbers) // BATCH))
    return encoder.eval(), decoder.eval(), curve


def share(values: Tensor, *percentiles: float) -> list[float]:
    """These percentiles, rounded."""
    found = torch.quantile(values.double(), torch.tensor(percentiles, dtype=torch.float64) / 100)
    return [float(f"{value:.3g}") for value in found.tolist()]


@torch.no_grad()
def measure(encoder: AirfoilEncoder, decoder: AirfoilDecoder, seen: Tensor, numbers: Tensor) -> dict[str, object]:
    """Figures on airfoils that were held out, and of draws from the prior; distances in chords."""
    mean, log_variance = encoder(numbers)
    again = decoder(mean)
    root = metric().float().T
    error = ((again - numbers) @ root).norm(dim=1)
    spread = ((numbers - seen.mean(0)) @ root).square().sum(1).mean()
    net = neuralfoil.network("xlarge")
    real, made = net.at(numbers, 4.0), net.at(again, 4.0)
    draws = decoder(torch.randn(2000, LATENT, generator=torch.Generator().manual_seed(1)))
    codes = encoder(torch.cat([seen, numbers]))[0]
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(0)
    return {
        "airfoils": len(numbers),
        "outline_variance_kept": float(1 - error.square().mean() / spread),
        "outline_error_chords": {
            "median": share(error, 50)[0],
            "p90": share(error, 90)[0],
            "largest": share(error, 100)[0],
        },
        "at_alpha_4_reynolds_1e6": {
            "lift_error": dict(zip(("median", "p90"), share((made.lift - real.lift).abs(), 50, 90), strict=True)),
            "relative_drag_error": dict(
                zip(("median", "p90"), share((made.drag / real.drag - 1).abs(), 50, 90), strict=True)
            ),
        },
        "active_dimensions": int((kl > 0.05).sum()),
        "code_std": [round(value, 3) for value in codes.std(0).tolist()],
        "code_radius": dict(zip(("median", "p99"), share(codes.norm(dim=1), 50, 99), strict=True)),
        "draws": {
            "count": len(draws),
            "surfaces_cross": int((thickness(draws)[:, 3:-3].amin(1) < 0).sum()),
            "confidence": dict(zip(("p5", "median"), share(net.at(draws, 4.0).confidence, 5, 50), strict=True)),
            "confidence_of_real": dict(zip(("p5", "median"), share(net.at(seen, 4.0).confidence, 5, 50), strict=True)),
            "distance_to_real_chords": dict(
                zip(("median", "p95"), share(nearest_real(draws).distance, 50, 95), strict=True)
            ),
        },
    }


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    known = published.real()
    seen, held_out = known.numbers[~known.held_out], known.numbers[known.held_out]
    start = time.perf_counter()
    encoder, decoder, curve = train(seen, seed)
    seconds = time.perf_counter() - start
    parts = {"encoder": encoder, "decoder": decoder}
    tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    raw = save(tensors)
    (DATA / "airfoils.safetensors").write_bytes(raw)
    record = published.record()
    record["decoder"] = {
        "origin": "trained by scripts/train.py on the airfoils of real.safetensors",
        "licence": "MIT",
        "seed": seed,
        "epochs": EPOCHS,
        "seconds": round(seconds, 1),
        "torch": torch.__version__,
        "trained_on": len(seen),
        "train_nats": {str(epoch): round(curve[epoch - 1], 1) for epoch in (1, 10, 30, 100, 200, EPOCHS)},
        "held_out": measure(encoder, decoder, seen, held_out),
    }
    record["sha256"]["airfoils.safetensors"] = hashlib.sha256(raw).hexdigest()
    (DATA / "airfoils.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record["decoder"], indent=2))


if __name__ == "__main__":
    main()

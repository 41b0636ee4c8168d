"""Priors of every kind for latents of 4 values, and decoders that have them."""

import torch

import latentopt as lo
from latentopt import rng
from latentopt.testing import ToyImages

DIM = 4


def _covariance(seed):
    a = rng.randn(DIM, DIM, rng.generator(seed)).double()
    return a @ a.T / DIM + 0.2 * torch.eye(DIM, dtype=torch.float64)


def priors():
    """One of every kind, none of them centred or scaled alike."""
    return {
        "standard": lo.Normal(),
        "normal": lo.Normal(mean=(1.0, -2.0, 0.0, 3.0), std=(0.5, 2.0, 1.0, 3.0)),
        "uniform": lo.Uniform(low=(-1.0, 0.0, 2.0, -5.0), high=(1.0, 0.5, 5.0, -1.0)),
        "sphere": lo.UniformSphere(size=3.0),
        "gaussian": lo.Gaussian(mean=torch.tensor([0.5, -1.0, 2.0, 0.0]), covariance=_covariance(1)),
        "mixture": lo.Mixture(
            weights=torch.tensor([0.2, 0.5, 0.3]),
            means=torch.tensor([[4.0, 0, 0, 0], [-3.0, 1, 0, 2], [0.0, -4, 3, 0]]),
            covariances=torch.stack([_covariance(2), _covariance(3), _covariance(4)]),
        ),
    }


def linear_encoder(x):
    """Designs `(N, ...)` to their first four values, as latents of `known` go."""
    return x.flatten(1)[:, :DIM]


def image_decoder(prior="normal", **options):
    """Pictures from 4 latent values under this prior."""
    return lo.Decoder(ToyImages(DIM, (1, 8, 8)), DIM, prior=prior, name="image", **options)


def identity_decoder(prior="normal", **options):
    """Designs that are their latents, and their encoder: what encodes to what is known exactly."""
    return lo.Decoder(lambda z: z * 1.0, DIM, prior=prior, encoder=linear_encoder, name="identity", **options)

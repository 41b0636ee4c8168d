"""Networks as people have them, for `latentopt init` to find its way about in: what each wants is not said."""

import torch
from torch import nn


class Vae(nn.Module):
    """Pictures `(N, 1, 8, 8)` by way of 6 latent values, with methods `encode` and `decode`; says its `latent_dim`."""

    def __init__(self, latent_dim=6):
        super().__init__()
        self.latent_dim = latent_dim
        self.to_code = nn.Linear(64, 2 * latent_dim)
        self.to_design = nn.Sequential(nn.Linear(latent_dim, 32), nn.Tanh(), nn.Linear(32, 64), nn.Sigmoid())

    def encode(self, x):
        mean, log_variance = self.to_code(x.flatten(1)).chunk(2, 1)
        return mean, log_variance

    def decode(self, z):
        return self.to_design(z).view(-1, 1, 8, 8)

    def forward(self, x):
        return self.decode(self.encode(x)[0])


class Silent(Vae):
    """The same, which does not say the size of its latents."""

    def __init__(self):
        super().__init__(6)
        del self.latent_dim


class Parts(nn.Module):
    """An auto-encoder of two parts."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
        self.decoder = nn.Sequential(nn.Linear(5, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))


class Short(nn.Module):
    """An auto-encoder of two parts with short names, and a forward of the whole."""

    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(64, 5))
        self.dec = nn.Sequential(nn.Linear(5, 64), nn.Sigmoid())

    def forward(self, x):
        return self.dec(self.enc(x))


class OnlyDecodes(nn.Module):
    """A network without a forward, which decodes by a method."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 9)

    def decode(self, z):
        return self.net(z)


class Generator(nn.Module):
    """A GAN's generator of pictures in colour, in [-1, 1], of latents `(N, 4, 1, 1)`."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.ConvTranspose2d(4, 8, 4), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh())

    def forward(self, z):
        return self.net(z)


class Wave(nn.Module):
    """A waveform `(N, 1, 100)` of 7 latent values."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(7, 100)

    def forward(self, z):
        return self.net(z)[:, None]


class Blind(Wave):
    """Numbers that no gradient leads to."""

    def forward(self, z):
        with torch.no_grad():
            return self.net(z).round()


class Dumb(nn.Module):
    """Nothing in it says what it takes: 9 latent values, times its own numbers."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(9))

    def forward(self, z):
        return z * self.scale

"""Networks that the tests of the `module` decoder name in config files."""

import torch
from torch import nn

THRESHOLD = 0.5


class Decoder(nn.Module):
    """Latents `(N, D)` to `(N, 1, 4, 4)`."""

    def __init__(self, dim=3, width=8):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, width), nn.Linear(width, 16)

    def forward(self, z):
        return torch.sigmoid(self.fc2(torch.tanh(self.fc1(z)))).view(-1, 1, 4, 4)


class Encoder(nn.Module):
    """Designs to mean and log-variance."""

    def __init__(self, dim=3):
        super().__init__()
        self.fc = nn.Linear(16, 2 * dim)

    def forward(self, x):
        return self.fc(x.flatten(1)).chunk(2, dim=1)


class AutoEncoder(nn.Module):
    """A whole variational auto-encoder."""

    def __init__(self, dim=3):
        super().__init__()
        self.encoder, self.decoder = Encoder(dim), Decoder(dim)

    def forward(self, x):
        return self.decoder(self.encoder(x)[0])


class WithMethods(nn.Module):
    """One whose parts are methods."""

    def __init__(self):
        super().__init__()
        self.vae = AutoEncoder()

    def decode(self, z):
        return self.vae.decoder(z)

    def encode(self, x):
        return self.vae.encoder(x)


class Uneven(AutoEncoder):
    """One whose encoder stops at its features."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))


class Conditional(Decoder):
    """One that takes a label and a scale."""

    def forward(self, z, label, scale):
        return super().forward(z) * scale + label.view(-1, 1, 1, 1)


def build(dim=3):
    """A function in place of a class."""
    return Decoder(dim)


def not_a_network():
    """A factory that gives no network."""
    return {"decoder": Decoder()}


def fails(dim=3):
    """A factory that cannot do what it is asked."""
    raise KeyError("no such\nmodel")


net = Decoder()

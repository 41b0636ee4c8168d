"""Networks and functions that tests name in configs, as a user's own module would hold them."""

import numpy as np
import torch
from torch import nn


class SmallConv(nn.Module):
    """Pictures (N, 1, H, W) to 3 numbers: two convolutions and a head, of fixed weights."""

    def __init__(self, seed=0):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU())
        self.head = nn.Linear(6, 3)
        self.unused = nn.ReLU()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class NeedsWidth(nn.Module):
    def __init__(self, width):
        super().__init__()


network = SmallConv(seed=1)


def build(seed=2):
    return SmallConv(seed)


def build_nothing():
    return "not a network"


def brightness(designs):
    return designs.flatten(1).mean(1)


def two_numbers(designs):
    return designs.flatten(1)[:, :2]


def one_column(designs):
    return designs.flatten(1).mean(1, keepdim=True)


def ink(design):
    """Share of pixels above one half, of one design: a plain Python number without a gradient."""
    assert isinstance(design, np.ndarray)
    return float((design > 0.5).mean())


def all_ink(designs):
    return (designs > 0.5).reshape(len(designs), -1).mean(1)

"""Decoders and objectives that misbehave, each in its own way, for configs to name."""

import torch
from torch import nn


class Net(nn.Module):
    """Latents `(N, dim)` to `(N, 1, 4, 4)`."""

    def __init__(self, dim=3):
        super().__init__()
        self.fc = nn.Linear(dim, 16)

    def forward(self, z):
        return torch.sigmoid(self.fc(z)).view(-1, 1, 4, 4)


class Whole(nn.Module):
    """An auto-encoder, whose decoder is a part."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 3), Net()


_RETURNS = {
    "dict": lambda x: {"mean": x, "scale": x},
    "tuple": lambda x: (x, x),
    "none": lambda x: None,
    "text": lambda x: "a design",
    "complex": lambda x: x.to(torch.complex64),
    "bytes": lambda x: (x * 255).to(torch.uint8),
    "sparse": lambda x: x.to_sparse(),
    "one design": lambda x: x[0],
    "nan": lambda x: x * torch.nan,
    "detached": lambda x: x.detach(),
    "argmax": lambda x: (x > 0.5).float(),
    "random": lambda x: torch.nn.functional.dropout(x, 0.5, training=True),
}


class Returns(Net):
    """A decoder that returns what it should not."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, z):
        return _RETURNS[self.what](super().forward(z))


def made_as(what):
    """A sound network in a state that may not be."""
    net = Net()
    if what == "nan weights":
        with torch.no_grad():
            net.fc.weight[0, :2] = torch.nan
    return {"half": net.half, "meta": lambda: net.to("meta")}.get(what, lambda: net)()


class OneAtATime(Net):
    """Says that a batch has one row."""

    def forward(self, z):
        assert z.shape[0] == 1, "batch size must be 1"
        return super().forward(z)


class Reshaped(Net):
    """Takes a batch of one row for granted."""

    def forward(self, z):
        return torch.sigmoid(self.fc(z)).view(1, 1, 4, 4)


class Dropout(Net):
    """Noisy in training mode alone."""

    def forward(self, z):
        return nn.functional.dropout(super().forward(z), 0.5, self.training)


# ---------------------------------------------------------------------- objectives of one design


def text(design):
    return "good"


def complex_number(design):
    return 1j


def nothing(design):
    return None


def array(design):
    return design


def nan(design):
    return float("nan")


def constant(design):
    return 1.0


def dies(design):
    raise OSError("the solver died\nsomewhere")


# ---------------------------------------------------------------------- objectives of a batch


def text_for_all(designs):
    return "good"


def reduced(designs):
    return designs.mean()


def complex_numbers(designs):
    return designs.flatten(1).mean(1).to(torch.complex64)


def truth_values(designs):
    return designs.flatten(1).mean(1) > 0.5


def infinite(designs):
    return designs.flatten(1).mean(1) / 0


def ones(designs):
    return designs.flatten(1).mean(1) * 0 + 1


def divides_by_zero(designs):
    return 1 / (len(designs) - len(designs))


def finite_at_the_centre(designs):
    """Finite for the check's four draws, NaN for all other counts of rows."""
    values = designs.flatten(1).mean(1)
    return values if len(values) == 4 else values * torch.nan

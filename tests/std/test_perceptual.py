"""The perceptual distance against the formula written out, its choice of layers, its care for the user's network."""

import pytest
import torch
from feature_nets import NeedsWidth, SmallConv, brightness
from torch import nn
from torch.nn import functional

import latentopt as lo
from latentopt.testing import ObjectiveConformance, ToyImages, ToyNet, toy_decoders
from latentopt_std import Perceptual


def candidates(decoder, n=6, targets=2):
    z = decoder.space.draw(n, torch.Generator().manual_seed(3))
    target = decoder.decode(decoder.space.draw(targets, torch.Generator().manual_seed(7)))
    return lo.Candidates(z, decoder.decode(z), torch.arange(n) % targets), target


def with_encoder(encoder):
    return lo.Decoder(ToyImages(4, (1, 8, 8)), 4, encoder=encoder, prior="normal", name="coded")


class Encoder(SmallConv):
    def __init__(self):
        super().__init__(seed=3)
        self.head = nn.Linear(6, 4)


class TestPerceptualConforms(ObjectiveConformance):
    config = Perceptual(network="feature_nets:SmallConv")


class TestWeightedPerceptualConforms(ObjectiveConformance):
    config = Perceptual(network="feature_nets:build", layers={"body.1": 0.5, "head": 2.0}, mask=torch.eye(8).tolist())


class TestPlainPerceptualConforms(ObjectiveConformance):
    config = Perceptual(network="feature_nets:network", layers=["body.2"], normalize=False)


class TestPerceptualOfTheEncoderConforms(ObjectiveConformance):
    config = Perceptual()

    def decoder(self):
        return with_encoder(Encoder())


# ---------------------------------------------------------------------- values


def by_hand(net, x, y, weights, normalize=True):
    """Equation 1 of Zhang et al. 2018 with one weight a layer, from the layers' own forwards."""
    total = torch.zeros(len(x))
    a, b = x, y
    for name, layer in [(f"body.{i}", part) for i, part in enumerate(net.body)]:
        a, b = layer(a), layer(b)
        if name in weights:
            if normalize:
                left, right = functional.normalize(a, dim=1), functional.normalize(b, dim=1)
                total = total + weights[name] * (left - right).square().sum(1).mean((1, 2))
            else:
                total = total + weights[name] * (a - b).square().mean((1, 2, 3))
    return total


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("layers", [None, ["body.1"], {"body.1": 0.3, "body.2": 2.0}])
def test_values_are_those_of_the_formula(layers, normalize):
    decoder = toy_decoders()["image"]
    rows, target = candidates(decoder)
    net = SmallConv()
    objective = Perceptual(network=net, layers=layers, normalize=normalize, target=target).build(decoder)
    weights = {"body.0": 1.0, "body.2": 1.0} if layers is None else layers
    weights = weights if isinstance(weights, dict) else dict.fromkeys(weights, 1.0)
    with torch.no_grad():
        expected = by_hand(net, rows.designs, target[rows.target_index], weights, normalize)
    assert torch.allclose(objective(rows), expected, rtol=1e-3, atol=1e-6)
    assert expected.min() > 1e-4


def test_flat_features_are_channels_at_one_position():
    decoder = toy_decoders()["vector"]
    rows, target = candidates(decoder)
    net = ToyNet(5, (7,))
    found = Perceptual(network=net, layers=["first"], target=target).build(decoder)(rows)
    a, b = (functional.normalize(net.first(x), dim=1) for x in (rows.designs, target[rows.target_index]))
    assert torch.allclose(found, (a - b).square().sum(1), rtol=1e-4)


def test_a_mask_multiplies_design_and_target():
    decoder = toy_decoders()["image"]
    rows, target = candidates(decoder)
    mask = torch.zeros(8, 8)
    mask[:4] = 1
    net = SmallConv()
    found = Perceptual(network=net, target=target, mask=mask).build(decoder)(rows)
    masked = rows._replace(designs=rows.designs * mask)
    assert torch.allclose(found, Perceptual(network=net, target=target * mask).build(decoder)(masked), rtol=1e-5)
    hidden = rows.designs.clone()
    hidden[:, :, 4:] = 0.3
    objective = Perceptual(network=net, target=target, mask=mask).build(decoder)
    assert torch.equal(objective(rows._replace(designs=hidden)), found)


def test_positions_without_any_feature_have_a_finite_gradient():
    decoder = toy_decoders()["image"]
    _, target = candidates(decoder)
    designs = torch.zeros(1, 1, 8, 8, requires_grad=True)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU())
    with torch.no_grad():
        net[0].weight.fill_(-1.0)
    objective = Perceptual(network=net, layers=["1"], target=target).build(decoder)
    value = objective(lo.Candidates(torch.zeros(1, 4), designs, torch.zeros(1, dtype=torch.long)))
    assert torch.isfinite(torch.autograd.grad(value.sum(), designs)[0]).all()


def test_a_half_precision_network_is_served():
    decoder = toy_decoders()["image"]
    rows, target = candidates(decoder)
    whole = Perceptual(network=SmallConv(), target=target).build(decoder)(rows)
    half = Perceptual(network=SmallConv().to(torch.bfloat16), target=target).build(decoder)(rows)
    assert half.dtype == torch.float32
    assert torch.allclose(half, whole, rtol=0.2, atol=0.01)


# ---------------------------------------------------------------------- the user's own network


def test_the_users_network_is_left_as_it_was():
    decoder = toy_decoders()["image"]
    rows, target = candidates(decoder)
    net = SmallConv().train()
    objective = Perceptual(network=net, target=target).build(decoder)
    before = objective(rows)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert not any(part._forward_hooks for part in net.modules())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(objective(rows), before), "the objective must keep its own copy"


def test_the_encoder_is_the_default_network_and_stays_clean():
    encoder = Encoder()
    decoder = with_encoder(encoder)
    rows, target = candidates(decoder)
    found = Perceptual(target=target).build(decoder)(rows)
    assert torch.equal(found, Perceptual(network=encoder, target=target).build(decoder)(rows))
    assert not any(part._forward_hooks for part in encoder.modules())


def test_dropout_is_off():
    decoder = toy_decoders()["image"]
    rows, target = candidates(decoder)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.5), nn.Conv2d(4, 2, 3), nn.Conv2d(2, 2, 1))
    objective = Perceptual(network=net, target=target).build(decoder)
    assert torch.equal(objective(rows), objective(rows))


def test_a_search_finds_the_target():
    decoder = toy_decoders()["image"]
    _, target = candidates(decoder)
    found = lo.optimize(
        decoder,
        target=target,
        objectives=[{"kind": "perceptual", "network": "feature_nets:build"}, {"kind": "mse", "weight": 0.1}],
        search=[{"kind": "adam", "steps": 100}],
    )
    for t in range(2):
        best = found.designs[found.target_index == t][0]
        assert (best - target[t]).square().mean() < 0.3 * (best - target[1 - t]).square().mean()


# ---------------------------------------------------------------------- errors


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 3, batch_first=True)
        self.last = nn.Linear(3, 1)

    def forward(self, x):
        return self.last(self.rnn(x[:, 0])[0])


class Folding(nn.Module):
    def __init__(self):
        super().__init__()
        self.fold = nn.Identity()

    def forward(self, x):
        return self.fold(x.flatten())


def uncopyable():
    net = SmallConv()
    net.kept = next(iter(net.parameters())) * 2  # what is worked out from a parameter cannot be copied
    return net


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "'perceptual' needs a network and decoder 'image' has no encoder module to stand in: pass network="),
        (
            {"network": "feature_nets:build_nothing"},
            "network 'feature_nets:build_nothing' gives str, expected an nn.Module, or a class or function without arguments",
        ),
        ({"network": brightness}, "network 'brightness' gives function, expected an nn.Module"),
        (
            {"network": NeedsWidth},
            "class 'NeedsWidth' needs arguments: name a function without arguments that makes one",
        ),
        (
            {"network": SmallConv(), "layers": ["body.9"]},
            r"network 'SmallConv' has no layer 'body.9'; did you mean 'body.\d'\?; its layers: body, body.0, body.1, .*head",
        ),
        (
            {"network": SmallConv(), "layers": ["unused"]},
            "layer 'unused' of network 'SmallConv' never runs: name another in",
        ),
        (
            {"network": nn.Sequential(nn.Flatten(), nn.Linear(64, 2))},
            r"network 'Sequential' has no layer with weights before its last, .*: pass layers= \(its layers: 0, 1\)",
        ),
        ({"network": nn.Identity()}, r"pass layers= \(its layers: none\)"),
        (
            {"network": nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))},
            r"network 'Sequential' does not take designs of shape \(1, 1, 8, 8\) \(.*\): wrap it in a module that prepares",
        ),
        (
            {"network": Recurrent()},
            "layer 'rnn' of network 'Recurrent' gives tuple for 1 designs, expected one tensor with a row",
        ),
        (
            {"network": Folding(), "layers": ["fold"]},
            r"layer 'fold' of network 'Folding' gives shape \(64,\) for 1 designs",
        ),
        (
            {"network": uncopyable()},
            r"the network SmallConv cannot be copied \(.*\): pass a function without arguments that",
        ),
    ],
    ids=[
        "no network",
        "no module",
        "function",
        "class",
        "unknown",
        "unused",
        "only last",
        "nothing",
        "input",
        "tuple",
        "rows",
        "copy",
    ],
)
def test_networks_and_layers_that_cannot_be_used_are_named(options, text):
    with pytest.raises(lo.ConfigError, match=text):
        Perceptual(target=torch.full((1, 8, 8), 0.5), **options).build(toy_decoders()["image"])


def test_what_a_function_makes_needs_no_copy():
    decoder = toy_decoders()["image"]
    rows, target = candidates(decoder)
    found = Perceptual(network=uncopyable, target=target).build(decoder)(rows)
    assert torch.equal(found, Perceptual(network=SmallConv(), target=target).build(decoder)(rows))


def test_weights_of_layers_are_checked():
    with pytest.raises(ValueError, match="layers is empty: name at least one, or leave it out"):
        Perceptual(layers=[])
    with pytest.raises(ValueError, match="weights of layers must be above 0, got -1: leave such a layer out"):
        Perceptual(layers={"a": 1.0, "b": -1.0})

"""Objectives made of a user's own code: networks and functions in torch, and black boxes in NumPy."""

import numpy as np
import pytest
import torch
from feature_nets import NeedsWidth, SmallConv, brightness, one_column, two_numbers
from torch import nn

import latentopt as lo
from latentopt.testing import ObjectiveConformance, toy_decoders
from latentopt_std import BlackBox, Property


def candidates(decoder, n=6):
    z = decoder.space.draw(n, torch.Generator().manual_seed(3))
    return lo.Candidates(z, decoder.decode(z), torch.arange(n) % 2)


class TestPropertyConforms(ObjectiveConformance):
    config = Property(function="feature_nets:brightness")


class TestPropertyOfANetworkConforms(ObjectiveConformance):
    config = Property(function="feature_nets:network", output=2, goal="maximize")


class TestPropertyOfAVectorConforms(ObjectiveConformance):
    config = Property(function="feature_nets:one_column")

    def decoder(self):
        return toy_decoders()["vector"]


class TestBlackBoxConforms(ObjectiveConformance):
    config = BlackBox(function="feature_nets:ink")


class TestVectorizedBlackBoxConforms(ObjectiveConformance):
    config = BlackBox(function="feature_nets:all_ink", vectorized=True)

    def decoder(self):
        return toy_decoders()["waveform"]


# ---------------------------------------------------------------------- property


@pytest.mark.parametrize("kind", ["image", "waveform", "tokens", "vector"])
@pytest.mark.parametrize("function", [brightness, one_column, "feature_nets:brightness"], ids=str)
def test_a_function_of_designs_is_used_as_it_is(kind, function):
    decoder = toy_decoders()[kind]
    rows = candidates(decoder)
    found = Property(function=function).build(decoder)(rows)
    assert torch.allclose(found, rows.designs.flatten(1).mean(1))


@pytest.mark.parametrize(
    "function",
    [SmallConv(), SmallConv, lambda: SmallConv(), "feature_nets:SmallConv"],
    ids=["module", "class", "function", "name"],
)
def test_a_network_may_be_given_in_every_form(function):
    decoder = toy_decoders()["image"]
    rows = candidates(decoder)
    with torch.no_grad():
        expected = SmallConv()(rows.designs)
    for output in range(3):
        found = Property(function=function, output=output).build(decoder)(rows)
        assert torch.allclose(found, expected[:, output], atol=1e-6)


def test_the_users_network_is_copied_and_left_as_it_was():
    decoder = toy_decoders()["image"]
    rows = candidates(decoder)
    net = nn.Sequential(SmallConv(), nn.Dropout(0.9)).train()
    objective = Property(function=net, output=0).build(decoder)
    before = objective(rows)
    assert torch.equal(before, objective(rows)), "dropout must be off"
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(before, objective(rows))


def test_a_network_of_another_precision_is_served():
    decoder = toy_decoders()["image"]
    rows = candidates(decoder)
    found = Property(function=SmallConv().double(), output=1).build(decoder)(rows)
    assert found.dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(found, SmallConv()(rows.designs)[:, 1], atol=1e-5)


@pytest.mark.parametrize("goal", ["maximize", "minimize", {"equals": 0.5}, {"between": [0.51, 0.52]}], ids=str)
def test_a_search_reaches_its_goal(goal):
    decoder = toy_decoders()["image"]
    values = brightness(candidates(decoder, 64).designs)
    found = lo.optimize(
        decoder,
        objectives=[Property(function=brightness, goal=goal, name="light")],
        search=[{"kind": "adam", "steps": 100}],
    )
    light = float(found.terms["light"][0])
    if isinstance(goal, dict):
        low, high = goal.get("between", [0.5, 0.5])
        assert low - 1e-3 <= light <= high + 1e-3
    elif goal == "maximize":
        assert light > values.max()
    else:
        assert light < values.min()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"function": two_numbers},
            lo.ObjectiveError,
            "property function 'two_numbers' returned 2 numbers a design: choose one with output=0 to 1",
        ),
        (
            {"function": two_numbers, "output": 2},
            lo.ObjectiveError,
            r"shape \(4, 2\), which has no output 2: choose 0 to 1",
        ),
        (
            {"function": brightness, "output": 0},
            lo.ObjectiveError,
            r"shape \(4,\), which has no output 0: leave output= out",
        ),
        (
            {"function": lambda x: x.detach().numpy().sum()},
            lo.ObjectiveError,
            "returned float32, expected a tensor: return one, or use 'blackbox' for plain Python and NumPy",
        ),
        (
            {"function": lambda x: x.mean()},
            lo.ObjectiveError,
            r"objective 'property' returned .* expected a float tensor of",
        ),
        ({"function": lambda x: (x > 0).flatten(1).sum(1)}, lo.ObjectiveError, "return floating-point numbers"),
        (
            {"function": "feature_nets:build_nothing"},
            lo.ConfigError,
            "property function 'feature_nets:build_nothing' gives str, expected an nn.Module or a function of designs",
        ),
        (
            {"function": NeedsWidth},
            lo.ConfigError,
            "class 'NeedsWidth' needs arguments: name a function without arguments",
        ),
        ({"function": "feature_nets:brightnes"}, lo.ConfigError, "did you mean 'brightness'"),
    ],
    ids=["columns", "output", "no output", "numpy", "scalar", "whole", "factory", "class", "name"],
)
def test_what_is_no_property_is_refused(options, error, text):
    with pytest.raises(error, match=text):
        lo.optimize(toy_decoders()["image"], objectives=[Property(**options)])


# ---------------------------------------------------------------------- black boxes


@pytest.mark.parametrize("kind", ["image", "waveform", "tokens", "vector"])
def test_a_black_box_sees_one_design_as_numpy(kind):
    decoder = toy_decoders()[kind]
    rows = candidates(decoder)
    seen = []

    def judge(design):
        seen.append(design.shape)
        value = design.sum()
        design[:] = 0  # its own copy
        return value

    expected = rows.designs.flatten(1).sum(1)
    found = BlackBox(function=judge).build(decoder)(rows)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.allclose(rows.designs.flatten(1).sum(1), expected)
    assert seen == [decoder.design_shape] * 6
    assert not found.requires_grad


@pytest.mark.parametrize(
    "value",
    [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0)],
    ids=["int", "float", "float32", "int64", "array", "tensor"],
)
def test_numbers_of_every_kind_are_taken(value):
    decoder = toy_decoders()["vector"]
    assert BlackBox(function=lambda x: value).build(decoder)(candidates(decoder)).tolist() == [2.0] * 6


def test_yes_and_no_are_1_and_0():
    decoder = toy_decoders()["vector"]
    rows = candidates(decoder)
    expected = (rows.designs[:, 0] > 0).float()
    for function in (lambda x: x[0] > 0, lambda x: bool(x[0] > 0)):
        assert torch.equal(BlackBox(function=function).build(decoder)(rows), expected)


def test_a_vectorized_black_box_is_called_once_a_batch():
    decoder = toy_decoders()["image"]
    rows = candidates(decoder)
    seen = []

    def judge(designs):
        seen.append(designs.shape)
        return designs.reshape(len(designs), -1).max(1)

    found = BlackBox(function=judge, vectorized=True).build(decoder)(rows)
    assert torch.equal(found, rows.designs.flatten(1).amax(1))
    assert seen == [(6, 1, 8, 8)]
    listed = BlackBox(function=lambda x: [float(one.mean()) for one in x], vectorized=True).build(decoder)(rows)
    assert torch.allclose(listed, rows.designs.flatten(1).mean(1))
    tensors = BlackBox(function=lambda x: torch.from_numpy(x).flatten(1).amax(1), vectorized=True).build(decoder)(rows)
    assert torch.equal(tensors, found)


def test_a_class_without_arguments_is_made_once():
    class Counter:
        made = 0

        def __init__(self):
            Counter.made += 1

        def __call__(self, design):
            return float(design.mean())

    decoder = toy_decoders()["image"]
    rows = candidates(decoder)
    found = BlackBox(function=Counter).build(decoder)(rows)
    assert torch.allclose(found, rows.designs.flatten(1).mean(1))
    assert Counter.made == 1


def test_nan_of_one_row_is_passed_on():
    decoder = toy_decoders()["vector"]
    rows = candidates(decoder)
    first = float(rows.designs[0, 0])
    found = BlackBox(function=lambda x: float("nan") if x[0] == np.float32(first) else 1.0).build(decoder)(rows)
    assert torch.isnan(found[0])
    assert found[1:].tolist() == [1.0] * 5


def test_gradient_searches_refuse_a_black_box_by_name():
    with pytest.raises(lo.GradientError, match="no gradient reaches the latents from 'blackbox'"):
        lo.optimize(toy_decoders()["image"], objectives=[BlackBox(function="feature_nets:ink")], search=["adam"])


def raises(design):
    raise KeyError("no such design")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"function": raises},
            lo.ObjectiveError,
            r"blackbox function 'raises' failed on row 0, a design of shape \(1, 8, 8\) \(KeyError: 'no such design'\): make",
        ),
        (
            {"function": raises, "vectorized": True},
            lo.ObjectiveError,
            r"blackbox function 'raises' failed on designs of shape \(4, 1, 8, 8\) \(KeyError",
        ),
        (
            {"function": lambda x: None},
            lo.ObjectiveError,
            "returned NoneType for row 0, expected one real number: return a",
        ),
        ({"function": lambda x: "3"}, lo.ObjectiveError, "returned str for row 0"),
        ({"function": lambda x: 1j}, lo.ObjectiveError, "returned complex for row 0"),
        (
            {"function": lambda x: x.mean(2)},
            lo.ObjectiveError,
            r"returned ndarray of shape \(1, 8\) for row 0, .* vectorized",
        ),
        (
            {"function": lambda x: x.mean(), "vectorized": True},
            lo.ObjectiveError,
            r"returned shape \(\) of float32 for 4 designs, expected 4 real numbers: set vectorized: false where",
        ),
        ({"function": lambda x: [None] * 4, "vectorized": True}, lo.ObjectiveError, r"returned shape \(4,\) of object"),
        (
            {"function": lambda x: [[1], [1, 2]], "vectorized": True},
            lo.ObjectiveError,
            r"returned shape \(0,\) of object",
        ),
        ({"function": NeedsWidth}, lo.ConfigError, "class 'NeedsWidth' needs arguments"),
        (
            {"function": "feature_nets:build_nothing"},
            lo.ConfigError,
            "blackbox function 'feature_nets:build_nothing' gives str, expected a function of a design",
        ),
    ],
    ids=["raises", "all raise", "none", "text", "complex", "array", "scalar", "object", "ragged", "class", "factory"],
)
def test_what_is_no_black_box_is_refused(options, error, text):
    with pytest.raises(error, match=text):
        lo.optimize(toy_decoders()["image"], objectives=[BlackBox(**options)])

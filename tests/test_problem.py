"""The problem: values, gradients, blocks, goals, constraints, targets, and what it says at the door."""

import pytest
import torch

import latentopt as lo
from latentopt import rng
from latentopt.goals import Bound, goal_loss
from latentopt.interfaces import Candidates
from latentopt.problem import PENALTY, Problem
from latentopt.terms import Term, build_terms
from latentopt.testing import NoHostSync, ToyImages, ToyNet, toy_decoders


def brightness(c: Candidates) -> torch.Tensor:
    return c.designs.flatten(1).mean(1)


def rows(decoder, n, targets=1):
    z = decoder.space.draw(n, rng.generator(1))
    return z, torch.arange(n) % targets


@pytest.fixture
def decoder():
    return toy_decoders()["image"]


@pytest.mark.parametrize(
    ("goal", "value", "loss"),
    [
        ("minimize", 3.0, 3.0),
        ("maximize", 3.0, -3.0),
        (Bound(equals=1.0), 3.0, 4.0),
        (Bound(at_most=1.0), 3.0, 4.0),
        (Bound(at_most=5.0), 3.0, 0.0),
        (Bound(at_least=5.0), 3.0, 4.0),
        (Bound(at_least=1.0), 3.0, 0.0),
        (Bound(between=(4.0, 5.0)), 3.0, 1.0),
        (Bound(between=(1.0, 2.0)), 3.0, 1.0),
        (Bound(between=(1.0, 4.0)), 3.0, 0.0),
    ],
)
def test_goals(goal, value, loss):
    assert goal_loss(goal, torch.tensor([value])).tolist() == [loss]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "exactly one of equals, at_most, at_least, between, got none"),
        ({"at_most": 1, "at_least": 0}, "exactly one of"),
        ({"between": (2, 1)}, r"between needs low < high, got \[2.0, 1.0\]"),
        ({"at_most": float("nan")}, "finite number"),
        ({"atmost": 1}, "unknown key 'atmost'; did you mean 'at_most'"),
    ],
)
def test_bad_bounds(fields, text):
    with pytest.raises(ValueError, match=text):
        Bound(**fields)


def test_the_loss_is_the_weighted_sum_and_terms_keep_their_raw_sign(decoder):
    terms = [Term("a", brightness, "maximize", 2.0), Term("b", lambda c: c.latents.square().sum(1), Bound(at_most=1.0))]
    problem = Problem(decoder, terms)
    z, target = rows(decoder, 6)
    found = problem.value(z, target)
    a, b = decoder.decode(z).flatten(1).mean(1), z.square().sum(1)
    assert torch.allclose(found.terms["a"], a)
    assert torch.allclose(found.terms["b"], b)
    assert torch.allclose(found.loss_M, -2 * a + (b - 1).clamp(min=0).square())
    assert torch.equal(found.merit_M, found.loss_M)
    assert not found.violation_M.any()


def test_gradients_are_each_rows_own_and_equal_autograd(decoder):
    problem = Problem(decoder, [Term("a", brightness, Bound(equals=0.3), 5.0)])
    z, target = rows(decoder, 7)
    evaluation, gradient = problem.value_and_grad(z, target)
    for i in range(7):
        one = z[i : i + 1].clone().requires_grad_(True)
        loss = 5 * (decoder.module(one).flatten(1).mean(1) - 0.3).square()
        (own,) = torch.autograd.grad(loss.sum(), one)
        assert torch.allclose(gradient[i], own[0], atol=1e-6)
    assert not evaluation.loss_M.requires_grad
    assert torch.equal(evaluation.loss_M, problem.value(z, target).loss_M)


def test_a_callers_no_grad_does_no_harm(decoder):
    problem = Problem(decoder, [Term("a", brightness)])
    with torch.no_grad():
        _, gradient = problem.value_and_grad(*rows(decoder, 3))
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("block", [1, 3, 7, 64])
def test_blocks_change_nothing(block):
    whole, parts = (lo.Decoder(ToyImages(4, (1, 8, 8)), (4,), prior="normal", block_rows=size) for size in (64, block))
    z, target = rows(whole, 20, targets=3)
    targets = whole.decode(z[:3])

    def build(decoder):
        distance = Term("d", lambda c: (c.designs - targets[c.target_index]).square().flatten(1).mean(1))
        return Problem(decoder, [distance], targets=3)

    a, ga = build(whole).value_and_grad(z, target)
    b, gb = build(parts).value_and_grad(z, target)
    assert torch.allclose(a.loss_M, b.loss_M, atol=1e-6)
    assert torch.allclose(ga, gb, atol=1e-6)
    assert torch.allclose(build(whole).screen(z), build(parts).screen(z), atol=1e-6)


def test_terms_across_rows_see_whole_targets_beyond_a_block():
    whole, parts = (lo.Decoder(ToyImages(4, (1, 8, 8)), (4,), prior="normal", block_rows=size) for size in (64, 3))
    z, target = rows(whole, 10)

    def spread(c):  # each row's distance from the mean of all rows
        return -(c.designs - c.designs.mean(0)).square().flatten(1).mean(1) + c.latents.square().mean(1)

    a, ga = Problem(whole, [Term("s", spread, across_rows=True)]).value_and_grad(z, target)
    problem = Problem(parts, [Term("s", spread, across_rows=True)])
    b, gb = problem.value_and_grad(z, target)
    assert torch.allclose(a.loss_M, b.loss_M, atol=1e-6)
    assert torch.allclose(ga, gb, atol=1e-6)
    assert torch.allclose(problem.value(z, target).loss_M, a.loss_M, atol=1e-6)


def test_rows_are_counted(decoder):
    problem = Problem(decoder, [Term("a", brightness)], targets=5)
    z, target = rows(decoder, 6)
    before = decoder.rows.forward, decoder.rows.backward
    problem.value(z, target)
    problem.value_and_grad(z, target)
    problem.screen(z)
    assert (decoder.rows.forward - before[0], decoder.rows.backward - before[1]) == (18, 6)


def test_screening_scores_every_row_for_every_target(decoder):
    targets = decoder.decode(decoder.space.draw(3, rng.generator(8)))
    problem = Problem(
        decoder, [Term("d", lambda c: (c.designs - targets[c.target_index]).square().flatten(1).mean(1))], targets=3
    )
    z, _ = rows(decoder, 5)
    merit = problem.screen(z)
    for t in range(3):
        assert torch.allclose(merit[:, t], problem.value(z, torch.full((5,), t)).loss_M)


def test_constraints_are_penalized_but_not_part_of_the_loss(decoder):
    limit = Term("limit", brightness, Bound(at_most=0.4))
    problem = Problem(decoder, [Term("a", lambda c: c.latents.sum(1))], constraints=[limit])
    z, target = rows(decoder, 6)
    found = problem.value(z, target)
    over = (found.terms["limit"] - 0.4).clamp(min=0)
    assert torch.allclose(found.loss_M, z.sum(1))
    assert torch.allclose(found.violation_M, over)
    assert torch.allclose(found.merit_M, z.sum(1) + PENALTY * over.square())
    assert over.any()


def test_a_constraint_needs_a_bound(decoder):
    with pytest.raises(lo.ConfigError, match="constraint 'a' has the goal 'minimize', which cannot be broken"):
        Problem(decoder, [], constraints=[Term("a", brightness)])


def test_residuals_square_up_to_the_loss(decoder):
    from latentopt_std import MSE

    target = decoder.decode(decoder.space.draw(1, rng.generator(2)))
    terms = build_terms([MSE(target=target, weight=3.0)], decoder)
    terms.append(Term("bright", brightness, Bound(equals=0.7), 2.0))
    problem = Problem(decoder, terms)
    z, index = rows(decoder, 4)
    residuals = problem.residuals(z, index)
    assert torch.allclose(residuals.square().sum(1), problem.value(z, index).loss_M, rtol=1e-5)
    assert Problem(decoder, [Term("a", brightness)]).residuals(z, index) is None


def test_value_and_grad_makes_no_host_sync(decoder):
    from latentopt_std import MSE

    target = decoder.decode(decoder.space.draw(1, rng.generator(2)))
    limits = [Term("limit", brightness, Bound(at_most=0.4))]
    problem = Problem(decoder, build_terms([MSE(target=target)], decoder), constraints=limits)
    z, index = rows(decoder, 4)
    with NoHostSync():
        problem.value_and_grad(z, index)
        problem.value(z, index)


# ---------------------------------------------------------------------- at the door


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda c: c.designs.mean(),
            r"returned a tensor of shape \(\) for 4 rows, expected a float tensor of shape \(4,\)",
        ),
        (lambda c: c.designs.mean((2, 3)), r"returned a tensor of shape \(4, 1\)"),
        (lambda c: (c.designs > 0.5).flatten(1).sum(1), "returned torch.int64 numbers"),
        (lambda c: torch.fft.fft(c.designs).flatten(1).sum(1), "return real numbers, for example .abs()"),
        (lambda c: 1.0, "returned a float"),
        (lambda c: "good", "returned a str"),
        (lambda c: None, "returned None"),
        (lambda c: c.designs.flatten(1).mean(1) * torch.nan, "gives nan for every draw from the prior"),
        (lambda c: c.designs.flatten(1).mean(1) * torch.inf, "gives inf for every draw from the prior"),
        (lambda c: c.designs @ torch.zeros(3, 3), r"fails on designs of shape \(4, 1, 8, 8\)"),
        (lambda c: c.nothing, "AttributeError"),
    ],
)
def test_bad_objectives_are_named_at_the_door(decoder, function, text):
    problem = Problem(decoder, [Term("mine", function)])
    with pytest.raises(lo.ObjectiveError, match=text) as caught:
        problem.check()
    assert "'mine'" in str(caught.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda c: (c.designs > 0.5).float().flatten(1).sum(1),
        lambda c: c.designs.detach().flatten(1).sum(1),
        lambda c: c.designs.round().flatten(1).sum(1),
        lambda c: torch.zeros(len(c.designs)),
    ],
    ids=["threshold", "detached", "round", "constant"],
)
def test_a_gradient_search_stops_at_the_door_and_names_those_that_can(decoder, function):
    with pytest.raises(
        lo.GradientError, match="search 'adam' needs gradients and no gradient reaches the latents from 'n'"
    ):
        lo.optimize(decoder, objectives=[{"kind": "callable", "function": function, "name": "n"}], search="adam")


def test_a_decoder_without_gradient_is_named_too():
    class Cut(ToyNet):
        def forward(self, z):
            return super().forward(z).detach()

    cut = lo.Decoder(Cut(3, (5,)), (3,), prior="normal", name="cut")
    with pytest.raises(lo.GradientError, match="decoder 'cut' gives none: its output is cut off"):
        lo.optimize(cut, target=torch.zeros(5), search="adam")


def test_equal_names_are_told_apart(decoder):
    from latentopt_std import MSE

    target = decoder.decode(decoder.space.draw(1, rng.generator(2)))
    names = [
        t.name for t in build_terms([MSE(target=target), MSE(target=target), MSE(target=target, name="x")], decoder)
    ]
    assert names == ["mse", "mse_2", "x"]

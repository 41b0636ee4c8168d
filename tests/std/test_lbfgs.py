"""L-BFGS on latents: the kit, the two-loop recursion, line searches of each row alone, edges of regions, steering."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import latentopt as lo
from latentopt import rng
from latentopt.budget import Budget, Clock
from latentopt.driver import drive
from latentopt.goals import Bound
from latentopt.problem import Problem
from latentopt.regions import Ball, Box, Region, Sphere
from latentopt.stagerun import Stage
from latentopt.steering import Steering
from latentopt.terms import Term
from latentopt.testing import SearchConformance, ToyImages, toy_decoders
from latentopt_std import LBFGS, Adam
from latentopt_std.lbfgs import _times_inverse_hessian


class TestLBFGS(SearchConformance):
    config = LBFGS(steps=40)


class TestLBFGSShortHistory(SearchConformance):
    config = LBFGS(steps=30, history=1, longest=0.05)


class TestLBFGSInAnEllipsoid(SearchConformance):
    config = LBFGS(steps=30)

    def decoder(self):
        return decoder_of(4, lo.Normal(mean=(0.3, 0.0, -0.2, 0.1), std=(1.0, 0.4, 1.5, 0.8)))


def decoder_of(dim, prior="normal", dtype=torch.float32):
    return lo.Decoder(ToyImages(dim, (1, 8, 8)).to(dtype), latent_shape=(dim,), prior=prior, name="toy")


def problem_of(function, dim=4, region=None, prior="normal", dtype=torch.float32, **options):
    return Problem(decoder_of(dim, prior, dtype), [Term("value", function)], region=region, **options)


def begun(problem, z, config=None, target=None):
    search = (config or LBFGS(steps=1000)).build(problem.decoder)
    target = torch.zeros(len(z), dtype=torch.long) if target is None else target
    return search, search.init(problem, z, target, lo.RowNoise(0, 0, len(z)))


def after(problem, z, steps, config=None, target=None):
    search, state = begun(problem, z, config, target)
    for _ in range(steps):
        search.step(problem, state)
    return state


def starts(n, dim, scale=1.0, seed=2):
    return scale * rng.randn(n, dim, rng.generator(seed))


def quadratic(curvature_D, optimum=0.5):
    return lambda c: (curvature_D * (c.latents - optimum).square()).sum(1)


def rosenbrock(c):
    x, y = c.latents[:, :-1], c.latents[:, 1:]
    return (100 * (y - x.square()).square() + (1 - x).square()).sum(1)


# ---------------------------------------------------------------------- curvature


def two_loops(gradient, steps, changes, scale):
    """Nocedal and Wright 2006, algorithm 7.4, oldest pair first."""
    q, shares = gradient.clone(), []
    for s, y in reversed(list(zip(steps, changes, strict=True))):
        shares.append((s @ q) / (s @ y))
        q = q - shares[-1] * y
    r = scale * q
    for (s, y), share in zip(zip(steps, changes, strict=True), reversed(shares), strict=True):
        r = r + (share - (y @ r) / (s @ y)) * s
    return r


@pytest.mark.parametrize("history", [1, 3, 10])
def test_the_direction_is_that_of_the_two_loop_recursion(history):
    problem = problem_of(rosenbrock, dim=6, dtype=torch.float64)
    search, state = begun(problem, starts(5, 6).double(), LBFGS(history=history))
    kept = [([], []) for _ in range(5)]
    compared = 0
    for _ in range(25):
        z, tangent, stored = state.z_ND, state.tangent_ND, state.stored_N
        search.step(problem, state)
        found = _times_inverse_hessian(state)
        for row, (s, y) in enumerate(kept):
            if state.stored_N[row] == stored[row] + 1:
                s.append(state.z_ND[row] - z[row])
                y.append(state.tangent_ND[row] - tangent[row])
                del s[:-history], y[:-history]
            elif state.stored_N[row] == stored[row]:  # a row that learns nothing empties its next slot
                if len(s) == history:
                    del s[0], y[0]
            else:
                s.clear(), y.clear()
            expected = two_loops(state.tangent_ND[row], s, y, state.scale_N[row])
            assert torch.allclose(found[row], expected, rtol=1e-6, atol=1e-12)
            compared += bool(s)
    assert compared > 50


def test_a_quadratic_takes_few_steps():
    curvature = torch.tensor([1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
    state = after(problem_of(quadratic(curvature), dim=6), starts(8, 6), 45)
    assert torch.allclose(state.z_ND, torch.full((8, 6), 0.5), atol=1e-4)
    assert state.done_N.all()
    slow = after(problem_of(quadratic(curvature), dim=6), starts(8, 6), 45, Adam(steps=45))
    assert (slow.evaluation.loss_M > 1e3 * state.evaluation.loss_M).all()


@pytest.mark.parametrize("function", ["rosenbrock", "quadratic"])
def test_it_finds_the_minimum_that_scipy_finds(function):
    curvature = torch.logspace(0, 5, 8, dtype=torch.float64)
    found = {"rosenbrock": rosenbrock, "quadratic": quadratic(curvature)}[function]
    z = starts(4, 8, 0.3).double()
    state = after(problem_of(found, dim=8, dtype=torch.float64), z, 400)

    def both(x):
        latents = torch.tensor(x[None], requires_grad=True)
        value = found(lo.Candidates(latents, latents, torch.zeros(1, dtype=torch.long)))[0]
        value.backward()
        return value.item(), latents.grad[0].numpy()

    for row in range(4):
        answer = minimize(both, z[row].numpy(), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9})
        assert np.allclose(state.z_ND[row], answer.x, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-15, 1e-9, 1e9, 1e15])
def test_the_scale_of_the_loss_does_not_matter(scale):
    z = starts(4, 6, 0.5)
    plain = after(problem_of(rosenbrock, dim=6), z, 12)
    scaled = after(problem_of(lambda c: rosenbrock(c) * scale, dim=6), z, 12)
    assert torch.allclose(scaled.z_ND, plain.z_ND, atol=1e-3)


# ---------------------------------------------------------------------- rows alone


def test_a_row_does_not_see_the_others():
    """A hard row, an easy one, one that is NaN: each goes as it would alone."""
    curvature = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1e2, 1e4, 1e3]])

    def mixed(c):
        hard = rosenbrock(c)
        return torch.where(c.target_index == 2, hard, (curvature[c.target_index % 2] * c.latents.square()).sum(1))

    problem = problem_of(mixed, targets=3)
    z, target = starts(9, 4), torch.arange(9) % 3
    z[4] = torch.nan
    together = after(problem, z, 25, target=target)
    for row in (0, 1, 2, 3, 5, 8):
        alone = after(problem, z[[row]], 25, target=target[[row]])
        assert torch.allclose(alone.z_ND[0], together.z_ND[row], atol=1e-4)
    assert together.z_ND[4].isnan().all()
    assert together.done_N[4]


def test_a_rejected_row_keeps_its_place_while_others_go_on():
    """A first step of 0.3 spreads is far too long for the steep row, and short for the flat ones."""
    steep = torch.tensor([1.0, 1e6])
    problem = problem_of(lambda c: steep[c.target_index] * c.latents.square().sum(1), targets=2)
    z, target = torch.full((4, 4), 3.0), torch.tensor([0, 1, 0, 1])
    z[1], z[3] = 0.01, 0.01
    search, state = begun(problem, z, target=target)
    search.step(problem, state)
    assert torch.equal(state.z_ND[[1, 3]], z[[1, 3]])
    assert (state.failed_N == torch.tensor([0, 1, 0, 1])).all()
    assert (state.z_ND[[0, 2]] != z[[0, 2]]).all()
    assert (state.evaluation.merit_M[[1, 3]] == steep[1] * z[[1, 3]].square().sum(1)).all()
    for _ in range(30):
        search.step(problem, state)
    assert (state.z_ND.abs() < 1e-4).all()


def test_merits_never_rise_but_by_their_rounding():
    problem = problem_of(rosenbrock, dim=6)
    search, state = begun(problem, starts(16, 6, 2.0))
    for _ in range(60):
        before = state.evaluation.merit_M
        search.step(problem, state)
        assert (state.evaluation.merit_M <= before * (1 + 2e-7)).all()


def test_rows_that_stay_go_on_as_before():
    problem = problem_of(rosenbrock, dim=6, region=Ball(radius=2.0).resolve(decoder_of(6).space))
    z, keep = starts(8, 6), torch.tensor([6, 1, 3])
    search, whole = begun(problem, z)
    for _ in range(15):
        search.step(problem, whole)
    part = dataclasses.replace(whole)
    for name in ("pairs_NPD", "inverse_NQQ", "gram_NQQ", "product_NQ"):  # written in place
        setattr(part, name, getattr(part, name).clone())
    part.take(keep)
    for _ in range(10):
        search.step(problem, whole)
        search.step(problem, part)
        assert torch.allclose(part.z_ND, whole.z_ND[keep], atol=1e-4)
    assert torch.equal(part.row_id_N, keep)
    assert torch.allclose(part.evaluation.merit_M, problem.value(part.z_ND, part.target_N).merit_M, rtol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_it_backs_out_of_where_the_objective_is_not_finite(bad):
    """The minimum of the bowl is at 0.5, beside a wall at 0.55 that the first steps run into."""

    def walled(c):
        value = (c.latents - 0.5).square().sum(1)
        return torch.where((c.latents < 0.55).all(1), value, bad)

    problem = problem_of(walled)
    z = torch.full((3, 4), -2.0)
    search, state = begun(problem, z, LBFGS(longest=5.0))
    hit = 0
    for _ in range(40):
        search.step(problem, state)
        hit += int(state.failed_N.amax())
        assert torch.isfinite(state.evaluation.merit_M).all()
    assert hit > 0
    assert torch.allclose(state.z_ND, torch.full((3, 4), 0.5), atol=1e-3)


def test_a_row_at_its_minimum_is_done_at_once():
    z = torch.full((2, 4), 0.5)
    z[1] = 2.0
    state = after(problem_of(quadratic(torch.ones(4))), z, 1)
    assert state.done_N.tolist() == [True, False]
    assert torch.equal(state.z_ND[0], z[0])


def test_finished_rows_save_work():
    problem = problem_of(quadratic(torch.tensor([1.0, 5.0, 20.0, 100.0])))
    z = starts(200, 4)
    stage = Stage("lbfgs", LBFGS(steps=100).build(problem.decoder))
    found = drive(problem, z, torch.zeros(200, dtype=torch.long), [stage], clock=Clock(problem, Budget()), seed=0)
    assert found.history[-1].step < 100
    assert found.backward_rows < 200 * 50
    assert (found.z_ND - 0.5).abs().max() < 1e-3


def test_terms_across_rows_are_judged_where_the_rows_are():
    def apart(c):
        return (c.latents - c.latents.mean(0)).square().sum(1).neg().exp() + c.latents.square().sum(1)

    decoder = decoder_of(4)
    problem = Problem(decoder, [Term("apart", apart, across_rows=True)])
    search, state = begun(problem, starts(6, 4))
    for _ in range(8):
        search.step(problem, state)
        again = problem.value(state.z_ND, state.target_N)
        assert torch.allclose(again.loss_M, state.evaluation.loss_M, rtol=1e-5)
    before = decoder.rows.forward + decoder.rows.backward
    stage = Stage("lbfgs", LBFGS().build(decoder))
    z, target = starts(6, 4), torch.zeros(6, dtype=torch.long)
    drive(problem, z, target, [stage], clock=Clock(problem, Budget(rows=100)), seed=0)
    assert decoder.rows.forward + decoder.rows.backward - before + 6 <= 100


# ---------------------------------------------------------------------- edges of regions


def test_on_the_edge_of_a_ball_it_ends_where_the_gradient_points_straight_out():
    """Karush, Kuhn and Tucker: the gradient is a negative multiple of the outward normal, and the radius the ball's."""
    curvature = torch.tensor([1.0, 10.0, 30.0, 100.0])
    problem = problem_of(quadratic(curvature, optimum=1.0), region=Region("radial", largest=1.0))
    state = after(problem, starts(8, 4), 60)
    assert torch.allclose(state.z_ND.norm(dim=1), torch.ones(8), atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(-state.gradient_ND, state.z_ND)
    assert (cosine > 0.99999).all()
    assert state.done_N.all()


@pytest.mark.parametrize(
    "prior",
    [
        lo.Normal(mean=0.2, std=(0.3, 1.0, 2.0, 0.6)),
        lo.Gaussian(mean=0.1 * torch.arange(4.0), covariance=torch.diag(torch.tensor([0.1, 1.0, 3.0, 0.4])) + 0.05),
    ],
    ids=["normal", "gaussian"],
)  # fmt: skip
def test_on_the_edge_of_an_ellipsoid_which_is_not_met_at_right_angles(prior):
    """The projection goes along rays from the centre; the normal of the edge is another direction."""
    decoder = decoder_of(4, prior)
    region = Ball(percentile=30).resolve(decoder.space)
    problem = problem_of(quadratic(torch.tensor([1.0, 10.0, 30.0, 5.0]), optimum=3.0), region=region, prior=prior)
    state = after(problem, starts(8, 4), 100)
    z = state.z_ND.clone().requires_grad_(True)
    radius = prior.radius(z)
    (normal,) = torch.autograd.grad(radius.sum(), z)
    assert torch.allclose(radius, torch.full((8,), region.largest), rtol=1e-4)
    assert (torch.nn.functional.cosine_similarity(-state.gradient_ND, normal) > 0.9999).all()


def test_in_a_box_each_coordinate_ends_at_its_bound_or_its_minimum():
    optimum = torch.tensor([3.0, 0.2, -3.0, -0.4])
    mixed = torch.tensor([[4.0, 1.0, 0.0, 0.5], [1.0, 3.0, 0.3, 0.0], [0.0, 0.3, 2.0, 0.2], [0.5, 0.0, 0.2, 1.0]])
    region = Box(low=-1.0, high=1.0).resolve(decoder_of(4).space)
    problem = problem_of(lambda c: (((c.latents - optimum) @ mixed) * (c.latents - optimum)).sum(1), region=region)
    state = after(problem, starts(8, 4), 60)
    ended = problem.project(state.z_ND - state.gradient_ND)
    assert torch.allclose(ended, state.z_ND, atol=1e-2)  # the merit, about 20, is flat to its rounding within this
    assert (state.z_ND.abs() == 1).any()


def test_on_a_sphere_it_never_leaves_it():
    region = Sphere(radius=1.5).resolve(decoder_of(4).space)
    problem = problem_of(quadratic(torch.tensor([1.0, 2.0, 4.0, 8.0]), optimum=1.0), region=region)
    search, state = begun(problem, starts(6, 4))
    for _ in range(50):
        search.step(problem, state)
        assert torch.allclose(state.z_ND.norm(dim=1), torch.full((6,), 1.5), rtol=1e-5)
    along = state.gradient_ND - state.z_ND * (state.gradient_ND * state.z_ND).sum(1, keepdim=True) / 1.5**2
    assert (along.norm(dim=1) < 1e-2 * state.gradient_ND.norm(dim=1)).all()


def test_it_leaves_the_edge_where_the_gradient_leads_inward():
    problem = problem_of(quadratic(torch.ones(4), optimum=0.1), region=Region("radial", largest=2.0))
    state = after(problem, starts(6, 4, 50.0), 30)
    assert torch.allclose(state.z_ND, torch.full((6, 4), 0.1), atol=1e-4)


# ---------------------------------------------------------------------- steering


def test_multipliers_lead_to_the_constrained_minimum():
    """min |z - 1|^2 with z_0 + z_1 <= 1 (row by row, its own multiplier): (0.5, 0.5, 1, 1), multiplier 1."""
    constraint = Term("sum", lambda c: c.latents[:, :2].sum(1), Bound(at_most=1.0))
    problem = problem_of(quadratic(torch.ones(4), optimum=1.0), constraints=[constraint])
    search, state = begun(problem, starts(5, 4))
    steering = Steering(torch.zeros(5, 1), torch.linspace(1.0, 30.0, 5)[:, None])
    for _ in range(12):
        state.steering = steering
        search.changed(problem, state)
        assert not state.done_N.any()
        again = problem.value(state.z_ND, state.target_N, steering)
        assert torch.allclose(again.merit_M, state.evaluation.merit_M)
        for _ in range(25):
            search.step(problem, state)
        signed = state.evaluation.terms["sum"][:, None] - 0.999  # searches see a bound a margin tighter
        steering = steering._replace(
            multipliers_NC=(steering.multipliers_NC + steering.penalties_NC * signed).clamp(min=0)
        )
    assert torch.allclose(state.z_ND[1:], torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(4, 4), atol=5e-3)
    assert torch.allclose(steering.multipliers_NC[1:], torch.ones(4, 1), atol=2e-2)


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ({"steps": 0}, "greater than or equal to 1"),
        ({"history": 0}, "greater than or equal to 1"),
        ({"longest": 0}, "greater than 0"),
        ({"c1": 0.5}, "less than 0.5"),
    ],
)
def test_ranges(field, text):
    with pytest.raises(ValueError, match=text):
        LBFGS(**field)


def test_no_step_is_longer_than_the_longest():
    problem = problem_of(lambda c: 1e-6 * c.latents.sum(1), dim=9)
    search, state = begun(problem, starts(4, 9), LBFGS(longest=0.2))
    for count in range(3):
        before = state.z_ND
        search.step(problem, state)
        longest = 0.2 * 3.0 * 2**count  # along a slope without curvature each is twice as long
        assert torch.allclose((state.z_ND - before).norm(dim=1), torch.full((4,), longest), rtol=1e-4)


@pytest.mark.parametrize("search", ["lbfgs", "adam", {"kind": "langevin", "temperature": 1e-3}])
def test_starts_whose_gradient_is_not_finite_are_told_of(search):
    def root(c):
        x = c.designs.flatten(1).mean(1)
        return (x - 0.1).square() + (c.latents[:, 0] * 0).abs().sqrt()

    result = lo.optimize(toy_decoders()["image"], objectives=root, search=search, budget={"rows": 300})
    words = f"the gradient of {len(result)} of {len(result)} starts is NaN or infinite, so they cannot move"
    assert any(note.startswith(words) for note in result.notes)

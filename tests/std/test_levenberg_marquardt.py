"""Levenberg-Marquardt on latents: the kit, SciPy's answers, dampings, borders, Krylov spaces, constraints, refusals."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import nn

import latentopt as lo
from latentopt import rng
from latentopt.goals import Bound
from latentopt.problem import Problem
from latentopt.steering import Steering
from latentopt.terms import Term
from latentopt.testing import NoHostSync, SearchConformance, ToyImages, toy_decoders
from latentopt_std import MSE, LevenbergMarquardt


class TestLevenbergMarquardt(SearchConformance):
    config = LevenbergMarquardt(steps=20)


class TestLevenbergMarquardtKrylov(SearchConformance):
    config = LevenbergMarquardt(steps=20, solver="krylov", inner=3)


class TestLevenbergMarquardtOneTrial(SearchConformance):
    config = LevenbergMarquardt(steps=20, trials=1, damping=1.0)


class Function:
    """Residuals that are a function of the latents alone."""

    def __init__(self, function):
        self.function = function

    def residuals(self, c):
        return self.function(c.latents)

    def __call__(self, c):
        return self.residuals(c).square().sum(1)


def flat(dim):
    """A float64 decoder whose designs are its latents."""
    return lo.Decoder(nn.Identity().double(), (dim,), prior="normal", dtype=torch.float64)


def run(problem, config, z, steps=None):
    search = config.build(problem.decoder)
    state = search.init(problem, z, torch.zeros(len(z), dtype=torch.long), lo.RowNoise(0, 0, len(z)))
    for _ in range(steps or search.n_steps):
        search.step(problem, state)
    return state


def rosenbrock(z):
    return torch.stack([10 * (z[:, 1] - z[:, 0].square()), 1 - z[:, 0]], dim=1)


def powell(z):  # singular at the solution
    a, b, c, d = z.unbind(1)
    return torch.stack([a + 10 * b, 5**0.5 * (c - d), (b - 2 * c).square(), 10**0.5 * (a - d).square()], dim=1)


TIMES = torch.linspace(0.1, 2.0, 12, dtype=torch.float64)
DATA = 2.0 * torch.exp(-1.3 * TIMES) + 0.05 * torch.sin(40 * TIMES)


def decay(z):  # residuals stay at the solution
    return z[:, :1] * torch.exp(-z[:, 1:2] * TIMES) - DATA


def beale(z):
    a, b = z[:, :1], z[:, 1:2]
    powers = torch.arange(1, 4, dtype=z.dtype)
    return torch.tensor([1.5, 2.25, 2.625], dtype=z.dtype) - a * (1 - b**powers)


KNOWN = {
    "rosenbrock": (rosenbrock, [-1.2, 1.0]),
    "powell": (powell, [3.0, -1.0, 0.0, 1.0]),
    "decay": (decay, [0.5, 0.3]),
    "beale": (beale, [1.0, 0.8]),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("solver", ["dense", "krylov"])
def test_it_ends_where_scipy_ends(name, solver):
    function, start = KNOWN[name]
    z = torch.tensor([start], dtype=torch.float64)
    problem = Problem(flat(len(start)), [Term("f", Function(function))])
    state = run(problem, LevenbergMarquardt(steps=60, solver=solver), z)
    known = least_squares(lambda x: function(torch.tensor(x)[None])[0].numpy(), np.array(start), xtol=1e-15, ftol=1e-15)
    assert float(state.evaluation.loss_M) <= 2 * known.cost * (1 + 1e-6) + 1e-12
    if name != "powell":
        assert torch.allclose(state.z_ND[0], torch.tensor(known.x), atol=1e-5)


def test_within_a_box_it_ends_where_scipy_ends():
    region = lo.Box(low=(-0.5, -2.0), high=(0.4, 2.0))
    decoder = flat(2)
    problem = Problem(decoder, [Term("f", Function(rosenbrock))], region=region.resolve(decoder.space))
    state = run(problem, LevenbergMarquardt(), torch.tensor([[-0.4, 1.5], [0.3, -1.0]], dtype=torch.float64))
    known = least_squares(
        lambda x: rosenbrock(torch.tensor(x)[None])[0].numpy(), [-0.4, 1.5], bounds=([-0.5, -2], [0.4, 2]), xtol=1e-12
    )
    assert torch.allclose(state.z_ND, torch.tensor(known.x).expand(2, 2), atol=1e-6)
    assert float(state.z_ND[0, 0]) == pytest.approx(0.4, abs=1e-7)


@pytest.mark.parametrize("solver", ["dense", "krylov"])
@pytest.mark.parametrize("region", [lo.Ball(radius=1.0), lo.Sphere(radius=1.0)])
def test_on_a_border_a_few_steps_find_the_nearest_point(region, solver):
    """Stretched distances: the nearest point is not the direction of the aim, and projected steps alone crawl along."""
    decoder = flat(6)
    stretch = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], dtype=torch.float64)
    aim = torch.full((6,), 2.0, dtype=torch.float64)
    resolved = region.resolve(decoder.space)
    problem = Problem(decoder, [Term("f", Function(lambda z: (z - aim) * stretch))], region=resolved)
    z = decoder.space.draw(4, rng.generator(0)).double()
    state = run(problem, LevenbergMarquardt(steps=15, solver=solver), z)
    # the multiplier's equation, by bisection: z = s^2 a / (s^2 + m) of length 1
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        long = float((stretch.square() * aim / (stretch.square() + middle)).norm()) > 1
        low, high = (middle, high) if long else (low, middle)
    nearest = stretch.square() * aim / (stretch.square() + low)
    assert torch.allclose(state.z_ND, nearest.expand(4, 6), atol=1e-5)


def test_when_no_trial_is_better_the_row_stays_and_its_damping_grows_ever_faster():
    def wall(z):  # flat and far below for the model, but everything beyond 0 is worse
        return torch.where(z > 0, 10.0, 1.0 - 0.5 * z)

    problem = Problem(flat(1), [Term("f", Function(wall))])
    config = LevenbergMarquardt(trials=1, damping=1e-6)
    z = torch.zeros(1, 1, dtype=torch.float64)
    search = config.build(problem.decoder)
    state = search.init(problem, z, torch.zeros(1, dtype=torch.long), lo.RowNoise(0, 0, 1))
    dampings = [float(state.damping_N)]
    for _ in range(4):
        search.step(problem, state)
        dampings.append(float(state.damping_N))
    assert [b / a for a, b in pairwise(dampings)] == pytest.approx([2, 4, 8, 16])
    assert torch.equal(state.z_ND, z)
    assert not state.done_N.any()
    for _ in range(12):
        search.step(problem, state)
    assert state.done_N.all(), "no damping helps"


def test_the_damping_follows_the_gain_ratio():
    problem = Problem(flat(2), [Term("f", Function(lambda z: z - 1.0))])  # linear: the model is exact
    state = run(problem, LevenbergMarquardt(trials=1, damping=0.1), torch.zeros(1, 2, dtype=torch.float64), steps=1)
    assert float(state.damping_N) == pytest.approx(0.1 / 3)
    assert torch.allclose(state.z_ND, torch.full((1, 2), 1 / 1.1, dtype=torch.float64)), "(1 + damping) y = -slope"


def test_of_several_dampings_the_best_is_taken():
    problem = Problem(flat(2), [Term("f", Function(lambda z: z - 1.0))])
    config = LevenbergMarquardt(trials=3, damping=0.1, spread=10)
    state = run(problem, config, torch.zeros(1, 2, dtype=torch.float64), steps=1)
    assert torch.allclose(state.z_ND, torch.full((1, 2), 1 / 1.01, dtype=torch.float64))
    assert float(state.damping_N) == pytest.approx(0.01 / 3)


def test_a_row_at_its_best_is_done_and_others_are_not():
    problem = Problem(flat(2), [Term("f", Function(rosenbrock))])
    state = run(problem, LevenbergMarquardt(), torch.tensor([[1.0, 1.0], [-1.2, 1.0]], dtype=torch.float64), steps=3)
    assert state.done_N.tolist() == [True, False]


def reach(decoder, region=None):
    targets = decoder.decode(decoder.space.draw(1, rng.generator(9)))
    return Problem(decoder, [Term("mse", MSE(target=targets[0]).build(decoder))], region=region)


def test_a_whole_krylov_space_gives_the_dense_steps():
    decoder = lo.Decoder(ToyImages(4, (1, 8, 8)).double(), (4,), prior="normal")
    problem = reach(decoder, lo.Ball(radius=1.2).resolve(decoder.space))
    z = decoder.space.draw(6, rng.generator(1)).double()
    dense = run(problem, LevenbergMarquardt(solver="dense", damping=1e-6), z, 4)
    krylov = run(problem, LevenbergMarquardt(solver="krylov", inner=9, damping=1e-6), z, 4)
    assert krylov.basis_NKD.shape == (6, 4, 4)
    assert torch.allclose(dense.evaluation.loss_M, krylov.evaluation.loss_M, rtol=1e-2)


def test_large_latents_take_a_krylov_space_by_themselves():
    decoder = toy_decoders()["volume"]
    problem = reach(decoder)
    state = run(problem, LevenbergMarquardt(inner=5, steps=4), decoder.space.draw(3, rng.generator(1)))
    assert state.basis_NKD.shape == (3, 5, 256)
    whole = run(problem, LevenbergMarquardt(solver="dense", steps=1), decoder.space.draw(3, rng.generator(1)))
    assert whole.basis_NKD.shape == (3, 256, 256)


@pytest.mark.parametrize("solver", ["dense", "krylov"])
@pytest.mark.parametrize("trials", [1, 3])
def test_what_it_says_that_it_costs_is_what_it_costs(solver, trials):
    problem = reach(toy_decoders()["image"])
    config = LevenbergMarquardt(solver=solver, inner=2, trials=trials)
    search, rows = config.build(problem.decoder), problem.decoder.rows
    said, held = search.start_rows(problem, 5)
    assert held == 5
    before = rows.forward + rows.backward
    z = problem.space.draw(5, rng.generator(1))
    state = search.init(problem, z, torch.zeros(5, dtype=torch.long), lo.RowNoise(0, 0, 5))
    assert rows.forward + rows.backward - before == said
    before = rows.forward + rows.backward
    search.step(problem, state)
    assert rows.forward + rows.backward - before == search.step_rows(problem, 5)


def test_multipliers_of_constraints_are_followed():
    decoder = flat(3)
    limit = Term("sum", lambda c: c.latents.sum(1), Bound(at_most=1.0))
    problem = Problem(decoder, [Term("f", Function(lambda z: z - 1.0))], constraints=[limit])
    config = LevenbergMarquardt()
    search = config.build(decoder)
    z = torch.zeros(2, 3, dtype=torch.float64)
    state = search.init(problem, z, torch.zeros(2, dtype=torch.long), lo.RowNoise(0, 0, 2))
    multipliers, penalties = torch.zeros(2, 1).double(), torch.full((2, 1), 10.0).double()
    for _ in range(12):  # the method of multipliers, Nocedal and Wright 2006, framework 17.3
        state.steering = Steering(multipliers, penalties)
        state.done_N = torch.ones_like(state.done_N)
        search.changed(problem, state)
        assert not state.done_N.any()
        for _ in range(4):
            search.step(problem, state)
        signed = limit.goal.signed(state.z_ND.sum(1)) + limit.goal.margin
        multipliers = (multipliers + penalties * signed[:, None]).clamp(min=0)
    assert torch.allclose(state.z_ND, torch.full((2, 3), (1 - limit.goal.margin) / 3).double(), atol=1e-6)
    assert not state.evaluation.violation_M.any()
    towards = Steering(multipliers, penalties, torch.ones(2, 1).double(), torch.zeros(2, 1).double())
    state.steering = towards
    with pytest.raises(lo.ConfigError, match="one point of a front is not: use another gradient search"):
        search.changed(problem, state)


class OnceOnly(torch.autograd.Function):
    """A tanh that can be differentiated once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * (1 - ctx.saved_tensors[0].square())


class Odd(ToyImages):
    def forward(self, z):
        return torch.sigmoid(self.second(OnceOnly.apply(self.first(z)))).view(-1, 1, 8, 8)


def test_finite_differences_stand_in_and_the_result_says_so():
    odd, plain = (lo.Decoder(net(4, (1, 8, 8)), (4,), prior="normal", name="net") for net in (Odd, ToyImages))
    target = plain.decode(plain.space.draw(1, rng.generator(3)))[0]
    found = lo.optimize(odd, target=target, search="levenberg_marquardt")
    assert any("'net' or an objective has no second derivative" in note for note in found.notes)
    assert found.best.loss < 1e-9
    assert not any(
        "second derivative" in note for note in lo.optimize(plain, target=target, search=LevenbergMarquardt()).notes
    )


def test_a_module_of_rounded_values_gives_finite_steps():
    """Through a straight-through estimate the curvature by differences is 0, and the gradient is not."""

    class Rounded(ToyImages):
        def forward(self, z):
            x = super().forward(z)
            return x + (x.detach() * 4).round() / 4 - x.detach()

    decoder = lo.Decoder(Rounded(4, (1, 8, 8)), (4,), prior="normal")
    state = run(reach(decoder), LevenbergMarquardt(), decoder.space.draw(4, rng.generator(1)), steps=5)
    assert torch.isfinite(state.z_ND).all()


@pytest.mark.parametrize(
    ("objectives", "text"),
    [
        (["mae"], "no residuals of 'mae': use adam or"),
        (["mse", lambda c: c.latents.sum(1)], "no residuals of 'callable'"),
        ([{"kind": "mse", "goal": "maximize"}], "no residuals of 'mse'"),
        (["mse", {"kind": "diversity", "goal": {"at_most": 0.5}}], "'diversity' looks across rows"),
    ],
)
def test_without_residuals_it_says_which_term_has_none(objectives, text):
    with pytest.raises(lo.ConfigError, match=text):
        lo.optimize(
            toy_decoders()["image"], target=torch.zeros(1, 8, 8), objectives=objectives, search="levenberg_marquardt"
        )


def test_used_by_hand_it_says_so_too():
    problem = Problem(toy_decoders()["image"], [Term("sum", lambda c: c.latents.sum(1))])
    search = LevenbergMarquardt().build(problem.decoder)
    for call in (lambda: search.start_rows(problem, 2), lambda: run(problem, LevenbergMarquardt(), torch.zeros(2, 4))):
        with pytest.raises(lo.ConfigError, match="no residuals of 'sum': use another gradient search"):
            call()


def test_rows_that_are_done_leave_the_batch():
    decoder = toy_decoders()["image"]
    target = decoder.decode(decoder.space.draw(1, rng.generator(3)))[0]
    search = LevenbergMarquardt(steps=40)
    found = lo.optimize(decoder, target=target, starts=[{"kind": "prior", "n": 200}], search=search)
    built = search.build(decoder)
    whole = 200 * 5 + 40 * built.step_rows(reach(decoder), 200)
    assert found.cost.forward_rows < 0.8 * whole
    assert found.best.loss < 1e-9


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ({"steps": 0}, "greater than or equal to 1"),
        ({"trials": 0}, "greater than or equal to 1"),
        ({"spread": 1}, "greater than 1"),
        ({"damping": 0}, "greater than 0"),
        ({"inner": 0}, "greater than or equal to 1"),
        ({"solver": "cg"}, "dense"),
    ],
)
def test_ranges(field, text):
    with pytest.raises(ValueError, match=text):
        LevenbergMarquardt(**field)


def test_steered_steps_read_nothing_on_the_host():
    decoder = toy_decoders()["image"]
    limit = Term("mean", lambda c: c.designs.flatten(1).mean(1), Bound(at_most=0.4))
    targets = decoder.decode(decoder.space.draw(1, rng.generator(9)))
    mse = Term("mse", MSE(target=targets[0]).build(decoder))
    problem = Problem(decoder, [mse], constraints=[limit], region=lo.Ball(radius=1.0).resolve(decoder.space))
    search = LevenbergMarquardt().build(decoder)
    z = decoder.space.draw(3, rng.generator(1))
    state = search.init(problem, z, torch.zeros(3, dtype=torch.long), lo.RowNoise(0, 0, 3))
    state.steering = Steering(torch.ones(3, 1), torch.full((3, 1), 10.0))
    with NoHostSync():
        search.changed(problem, state)
        search.step(problem, state)

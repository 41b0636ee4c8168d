"""Levenberg-Marquardt: the kit, known problems against scipy, borders, the Krylov form, notes, row counts, constraints."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

import latentopt as lo
from latentopt import rng
from latentopt.goals import Bound
from latentopt.problem import Problem, Term, build_terms
from latentopt.regions import Ball
from latentopt.steering import Steering
from latentopt.testing import SearchConformance, toy_decoders
from latentopt_std import MSE, Adam, LevenbergMarquardt


class TestDense(SearchConformance):
    config = LevenbergMarquardt(steps=15)


class TestKrylov(SearchConformance):
    config = LevenbergMarquardt(steps=15, solver="krylov", inner=4)


class TestByRows(SearchConformance):
    """Fewer residuals than latent values: the Jacobian is taken row by row."""

    config = LevenbergMarquardt(steps=15)

    def decoder(self):
        return toy_decoders()["waveform"]

    def problem(self, *, region=None):
        decoder = self.decoder()
        target = decoder.decode(decoder.space.draw(2, rng.generator(11)))
        matrix = torch.randn(5, 4096, generator=rng.generator(2)) / 16
        found = Problem(decoder, [Term("few", Few(target, matrix))], region=region, targets=2)
        found.check()
        return found


class Few:
    """A few numbers of each design against those of its target."""

    def __init__(self, target, matrix):
        self.aim, self.matrix = target.flatten(1) @ matrix.T, matrix

    def residuals(self, c):
        return c.designs.flatten(1) @ self.matrix.T - self.aim[c.target_index]

    def __call__(self, c):
        return self.residuals(c).square().sum(1)


def rosenbrock_decoder():
    """10 (y - x^2), 1 - x: as residuals towards 0, Rosenbrock's function."""
    return lo.Decoder(lambda z: torch.stack([10 * (z[:, 1] - z[:, 0] ** 2), 1 - z[:, 0]], 1), (2,), prior="normal")


def test_rosenbrock_as_scipy_finds_it():
    starts = torch.tensor([[-1.2, 1.0], [2.0, -1.5], [0.0, 0.0]])
    found = lo.optimize(rosenbrock_decoder(), target=torch.zeros(2), starts=starts, region="free",
                        search=LevenbergMarquardt(steps=60))  # fmt: skip
    for start in starts.numpy():
        reference = least_squares(lambda x: [10 * (x[1] - x[0] ** 2), 1 - x[0]], start)
        assert np.allclose(reference.x, 1, atol=1e-6)
    assert torch.allclose(found.latents, torch.ones(3, 2), atol=1e-3)
    assert (found.losses < 1e-8).all()


def test_a_linear_problem_is_solved_in_a_few_steps():
    matrix = torch.randn(9, 4, generator=rng.generator(0))
    decoder = lo.Decoder(lambda z: z @ matrix.T, (4,), prior="normal")
    target = torch.randn(9, generator=rng.generator(1))
    expected = torch.linalg.lstsq(matrix, target[:, None]).solution[:, 0]
    found = lo.optimize(decoder, target=target, starts="mean", region="free", search=LevenbergMarquardt(steps=8))
    assert torch.allclose(found.best.latent, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["image", "waveform", "volume"])
def test_the_model_is_that_of_the_explicit_jacobian(name):
    decoder = toy_decoders()[name]
    target = decoder.decode(decoder.space.draw(2, rng.generator(3)))
    problem = Problem(decoder, build_terms([MSE(target=target)], decoder), targets=2)
    z, index = decoder.space.draw(5, rng.generator(1)), torch.arange(5) % 2
    with decoder.frozen():
        found = problem.linearize(z, index)
        evaluation, gradient = problem.value_and_grad(z, index)
        for row in range(5):
            one = index[row : row + 1]
            jacobian = torch.autograd.functional.jacobian(
                lambda x, one=one: problem.residuals(x[None], one)[0], z[row]
            )  # (R, D)
            within = jacobian @ found.basis_MKD[row].T
            assert torch.allclose(found.gram_MKK[row], within.T @ within, atol=1e-5, rtol=1e-3)
    assert torch.allclose(found.evaluation.loss_M, evaluation.loss_M, rtol=1e-4)
    assert torch.allclose(found.gradient_MD, gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("solver", ["dense", "krylov"])
def test_rows_are_counted_to_the_row(solver):
    decoder = toy_decoders()["image"]
    target = decoder.decode(decoder.space.draw(1, rng.generator(3)))[0]
    problem = Problem(decoder, build_terms([MSE(target=target)], decoder))
    search = LevenbergMarquardt(solver=solver, inner=3).build(decoder)
    z, index = decoder.space.draw(5, rng.generator(1)), torch.zeros(5, dtype=torch.long)
    with decoder.frozen():
        first, held = search.start_rows(problem, 5)
        before = decoder.rows.forward + decoder.rows.backward
        state = search.init(problem, z, index, rng.RowNoise(0, 0, 5))
        middle = decoder.rows.forward + decoder.rows.backward
        search.step(problem, state)
        after = decoder.rows.forward + decoder.rows.backward
    assert held == 5
    assert middle - before == first
    assert after - middle == search.step_rows(problem, 5)


def test_the_krylov_form_comes_where_the_dense_one_does():
    decoder = toy_decoders()["volume"]
    target = decoder.decode(0.5 * decoder.space.draw(1, rng.generator(3)))[0]
    kw = {"target": target, "starts": [{"kind": "prior", "n": 3}], "seed": 1}
    dense = lo.optimize(decoder, search=LevenbergMarquardt(steps=12, solver="dense"), **kw)
    krylov = lo.optimize(decoder, search=LevenbergMarquardt(steps=12, solver="krylov"), **kw)
    start = dense.history[0]["best_T"][0]
    assert dense.best.loss < 0.02 * start
    assert krylov.best.loss < 0.02 * start
    assert krylov.cost.rows < dense.cost.rows


def test_at_the_border_of_a_ball_it_ends_at_the_constrained_optimum():
    matrix = torch.tensor([[2.0, 0.3, 0.0], [0.0, 1.0, 0.5], [0.4, 0.0, 1.5], [1.0, 1.0, 1.0]])
    decoder = lo.Decoder(lambda z: z @ matrix.T, (3,), prior="normal")
    target = torch.tensor([6.0, 4.0, -3.0, 5.0])
    found = lo.optimize(decoder, target=target, starts=[{"kind": "prior", "n": 4}], region=Ball(radius=1.0),
                        search=LevenbergMarquardt(steps=40))  # fmt: skip
    z = found.best.latent
    assert z.norm() == pytest.approx(1.0, abs=1e-4)
    slope = -2 * matrix.T @ (matrix @ z - target)
    assert torch.allclose(slope / slope.norm(), z / z.norm(), atol=1e-3), "the gradient points straight out (KKT)"
    assert torch.allclose(found.losses, found.losses[:1].expand(4), rtol=1e-3)


def test_a_rejected_step_leaves_the_row_and_raises_its_damping():
    decoder = rosenbrock_decoder()
    problem = Problem(decoder, build_terms([MSE(target=torch.zeros(2))], decoder))
    search = LevenbergMarquardt(trials=1, damping=1e-9).build(decoder)
    z = torch.tensor([[-1.2, 1.0], [0.9, 0.81]])
    with decoder.frozen():
        state = search.init(problem, z, torch.zeros(2, dtype=torch.long), rng.RowNoise(0, 0, 2))
        rejected = 0
        for _ in range(12):
            before, damping = state.z_ND, state.damping_N
            loss = state.evaluation.loss_M
            search.step(problem, state)
            still = (state.z_ND == before).all(1)
            rejected += int(still[0])
            assert (state.evaluation.loss_M <= loss).all()
            grown = state.damping_N > damping
            assert (grown | ~still | state.done_N).all()
    assert rejected > 0


class Rounded(torch.autograd.Function):
    """Has a first derivative and no second."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 - torch.tanh(x).square())


def test_without_second_derivatives_it_goes_on_by_differences_and_says_so():
    matrix = torch.randn(6, 3, generator=rng.generator(0))
    decoder = lo.Decoder(lambda z: Rounded.apply(z @ matrix.T), (3,), prior="normal", name="rounded")
    target = decoder.decode(torch.tensor([[0.5, -0.5, 0.2]]))[0]
    found = lo.optimize(decoder, target=target, starts="mean", search=LevenbergMarquardt(steps=20))
    assert any("decoder 'rounded' or an objective has no second derivative" in note for note in found.notes)
    assert any("finite differences" in note for note in found.notes)
    assert found.best.loss < 1e-6


def test_objectives_without_residuals_are_refused_with_their_names():
    decoder = toy_decoders()["image"]
    target = decoder.decode(decoder.space.draw(1, rng.generator(3)))[0]
    with pytest.raises(lo.ConfigError, match="needs sums of squares, and there are no residuals of 'mae': use adam"):
        lo.optimize(decoder, target=target, objectives=["mse", "mae"], search="levenberg_marquardt")
    with pytest.raises(lo.ConfigError, match="moves every row by itself, and 'diversity' looks across rows"):
        lo.optimize(decoder, target=target, objectives=["mse", {"kind": "diversity", "goal": {"at_least": 1.0}}],
                    search="levenberg_marquardt")  # fmt: skip


def test_goals_are_residuals_too():
    decoder = toy_decoders()["image"]
    level = {"kind": "property", "function": lambda x: x.flatten(1).mean(1), "goal": {"equals": 0.55}}
    found = lo.optimize(decoder, objectives=[level], search=LevenbergMarquardt(steps=20), seed=0)
    assert found.best.terms["property"] == pytest.approx(0.55, abs=1e-4)


def test_constraints_under_multipliers():
    decoder = lo.Decoder(lambda z: z * 1.0, (3,), prior="normal")
    target = torch.tensor([1.0, 2.0, -1.0])
    # nearest point to the target with x + y <= 1: half of the excess off each
    limit = {"kind": "property", "function": lambda x: x[:, 0] + x[:, 1], "goal": {"at_most": 1.0}}
    found = lo.optimize(decoder, target=target, constraints=[limit], region="free", starts="mean",
                        search=LevenbergMarquardt(steps=60))  # fmt: skip
    assert found.best.feasible
    assert torch.allclose(found.best.latent, torch.tensor([0.0, 1.0, -1.0]), atol=1e-2)


def test_the_linearized_merit_is_that_of_the_steering():
    decoder = toy_decoders()["image"]
    target = decoder.decode(decoder.space.draw(1, rng.generator(3)))[0]
    limit = Term("x", lambda c: c.latents[:, 0], Bound(at_most=0.1))
    problem = Problem(decoder, build_terms([MSE(target=target)], decoder), constraints=[limit])
    problem.check()
    steering = Steering(torch.full((4, 1), 0.3), torch.full((4, 1), 7.0))
    z, index = decoder.space.draw(4, rng.generator(1)), torch.zeros(4, dtype=torch.long)
    with decoder.frozen():
        found = problem.linearize(z, index, steering)
        evaluation, gradient = problem.value_and_grad(z, index, steering)
    assert torch.allclose(found.evaluation.merit_M, evaluation.merit_M, rtol=1e-4)
    assert torch.allclose(found.gradient_MD, gradient, atol=1e-5, rtol=1e-3)


def test_it_polishes_what_another_search_found():
    decoder = lo.load_decoder("digits")
    target = lo.examples.digits()[:4]
    rough = lo.optimize(decoder, target=target, search=Adam(steps=40, lr=0.1), seed=0)
    polished = lo.optimize(decoder, target=target, seed=0,
                           search=[Adam(steps=40, lr=0.1, keep=2), LevenbergMarquardt(steps=12)])  # fmt: skip
    exact = lo.optimize(decoder, target=target, seed=0, search=Adam(lr=0.5, steps=800))
    assert (polished.best.loss <= rough.best.loss + 1e-9).all()
    assert (polished.best.loss <= exact.best.loss * 1.02).all()
    assert polished.realism.inside.all()

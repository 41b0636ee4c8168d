"""CMA-ES: equal to the cmaes package, resumable, restarts, constraints, regions, one decode a generation."""

import math

import numpy as np
import pytest
import torch
from cmaes import CMA, SepCMA

import latentopt as lo
from latentopt import rng
from latentopt.decoder import Decoder
from latentopt.goals import Bound
from latentopt.problem import Problem
from latentopt.regions import Ball
from latentopt.terms import Term
from latentopt.testing import SearchConformance, ToyNet, toy_decoders
from latentopt_std import CMAES
from latentopt_std.cmaes_search import Populations
from latentopt_std.evolution import Strategies, rates


class TestFull(SearchConformance):
    config = CMAES(evaluations=60, population=6)
    rows_move_alone = False


class TestSeparable(SearchConformance):
    config = CMAES(evaluations=60, population=6, covariance="separable")
    rows_move_alone = False


class TestRestarting(SearchConformance):
    config = CMAES(evaluations=200, population=4, sigma=2e-5)
    rows_move_alone = False


def ellipsoid(x, skew=1e3):
    """Sum of squares `(..., L)`, each coordinate weighing more than the one before it."""
    return (np.geomspace(1, skew, x.shape[-1]) * np.square(x - 0.5)).sum(-1)


def told(points, loss, violation=None):
    loss = np.asarray(loss, dtype=float)
    return lo.Told(np.asarray(points, dtype=float), loss, loss, None if violation is None else np.asarray(violation))


# ---------------------------------------------------------------------- the evolution strategy


@pytest.mark.parametrize("population", [None, 5, 30])
@pytest.mark.parametrize("dim", [2, 3, 20])
@pytest.mark.parametrize("package", [CMA, SepCMA])
def test_each_target_moves_as_the_cmaes_package_does(package, dim, population):
    mean = np.linspace(-1, 1, dim)
    theirs = package(mean=mean.copy(), sigma=0.7, population_size=population)
    ours = Strategies(np.stack([mean + 3, mean]), 0.7, separable=package is SepCMA, stale=0)
    generator = np.random.default_rng(0)
    for _ in range(40):
        x = ours.points(generator.standard_normal((2, theirs.population_size, dim)))
        value = ellipsoid(x)
        theirs.tell([(x[1, i], value[1, i]) for i in range(theirs.population_size)])
        ours.update(slice(None), np.take_along_axis(x, value.argsort(1)[:, :, None], axis=1))
        assert np.allclose(ours.mean_TK[1], theirs.mean, rtol=1e-8, atol=1e-10)
        assert ours.sigma_T[1] == pytest.approx(theirs._sigma, rel=1e-8)
        assert np.allclose(ours.cov[1], theirs._C, rtol=1e-6, atol=1e-10)
        assert np.allclose(ours.step_path_TK[1], theirs._p_sigma, rtol=1e-6, atol=1e-9)
        assert np.allclose(ours.path_TK[1], theirs._pc, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("separable", [False, True])
def test_points_follow_the_mean_and_covariance(separable):
    ours = Strategies(np.zeros((1, 3)), 0.5, separable, stale=0)
    generator = np.random.default_rng(1)
    for _ in range(10):
        x = ours.points(generator.standard_normal((1, 10, 3)))
        ours.update(slice(None), np.take_along_axis(x, ellipsoid(x).argsort(1)[:, :, None], axis=1))
    x = ours.points(generator.standard_normal((1, 100_000, 3)))[0]
    cov = np.diag(ours.cov[0]) if separable else ours.cov[0]
    assert np.allclose(x.mean(0), ours.mean_TK[0], atol=0.01 * ours.longest()[0])
    assert np.allclose(np.cov(x.T) / ours.sigma_T[0] ** 2, cov, atol=0.02 * np.abs(cov).max())


def test_updating_some_targets_leaves_the_others_as_they_are():
    ours, alone = (Strategies(np.zeros((n, 4)), 0.5, separable=False, stale=0) for n in (3, 1))
    x = np.random.default_rng(2).standard_normal((1, 8, 4))
    ours.update([1], x)
    alone.update(slice(None), x)
    assert np.array_equal(ours.cov[1], alone.cov[0])
    assert np.array_equal(ours.length_TK[1], alone.length_TK[0])
    for other in (0, 2):
        assert np.array_equal(ours.cov[other], np.eye(4))
        assert ours.sigma_T[other] == 0.5
        assert ours.generation_T[other] == 0


def test_a_covariance_is_decomposed_only_when_enough_of_it_is_new(monkeypatch):
    calls = []
    plain = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda a: calls.append(len(a)) or plain(a))
    ours = Strategies(np.zeros((3, 20)), 0.5, separable=False, stale=0.1)
    r = rates(12, 20, False)
    every = math.floor(0.1 / (r.c_one + r.c_mu)) + 1
    for _ in range(4 * every):
        ours.update(slice(None), ours.points(np.random.default_rng(3).standard_normal((3, 12, 20))))
    assert calls == [3, 3, 3, 3]


# ---------------------------------------------------------------------- populations


def generations(search, count, loss=ellipsoid, seed=0):
    """Ask and tell so often; the points of each step."""
    asked = []
    for step in range(count):
        counts = [search.population] * search.targets
        asked.append(search.ask(counts, lambda target, step=step: rng.derive_seed(seed, step, target)))
        search.tell(told(asked[-1], loss(asked[-1])), counts)
    return asked


def test_told_again_it_asks_the_same_and_knows_no_other_state():
    def made():
        search = Populations(4, 2, 6, 0.3, False, 9)
        search.add(told(np.ones((3, 4)), [3, 1, 2]), [2, 1])
        return search

    first = generations(made(), 30)
    second = made()
    for step, points in enumerate(first):
        assert np.array_equal(points, second.ask([6, 6], lambda target, step=step: rng.derive_seed(0, step, target)))
        second.tell(told(points, ellipsoid(points)), [6, 6])


@pytest.mark.parametrize("count", [4, 5, 16])
def test_a_target_does_not_depend_on_how_many_come_after_it(count):
    few, many = Populations(count, 1, 6, 0.3, False, 9), Populations(count, 5, 6, 0.3, False, 9)
    for one, two in zip(generations(few, 20), generations(many, 20), strict=True):
        assert np.allclose(one, two[:6], rtol=1e-9)


def test_a_target_that_begins_anew_does_not_depend_on_those_after_it_either():
    few, many = Populations(3, 1, 6, 0.3, False, 9), Populations(3, 4, 6, 0.3, False, 9)
    flat = [generations(search, 60, lambda points: np.zeros(len(points))) for search in (few, many)]
    assert few.begun_T[0] == many.begun_T[0] > 0
    for one, two in zip(*flat, strict=True):
        assert np.allclose(one, two[:6], rtol=1e-9)


def test_each_step_has_normals_of_its_own():
    search = Populations(2, 2, 6, 1.0, False, 0)
    asked = [search.ask([6, 6], lambda target, step=step: rng.derive_seed(0, step, target)) for step in range(20)]
    assert len(np.unique(np.concatenate(asked))) == 20 * 12 * 2


def test_it_begins_at_the_best_start_feasibility_first():
    search = Populations(2, 2, 6, 1e-9, False, 0)
    points = np.arange(10.0).reshape(5, 2)
    search.add(told(points, [0.0, 5, np.nan, 2, 1], [1.0, 0, np.nan, 0, 0]), [3, 2])
    asked = search.ask([6, 6], lambda target: 0)
    assert np.allclose(asked[:6], points[1], atol=1e-6)
    assert np.allclose(asked[6:], points[4], atol=1e-6)


def test_where_starts_are_too_few_the_first_points_count_as_starts():
    search = Populations(2, 2, 6, 0.1, False, 0)
    search.add(told(np.zeros((7, 2)), np.ones(7)), [6, 1])
    points = search.ask([0, 5], lambda target: 1)
    assert points.shape == (5, 2)
    search.tell(told(points, [4, 3, 0.5, 3, 4]), [0, 5])
    assert np.array_equal(search.strategies.mean_TK[1], points[2])
    assert search.strategies.generation_T.tolist() == [0, 0]


def test_a_population_that_ended_begins_anew_from_the_next_best_start_and_twice_as_large():
    search = Populations(2, 2, 6, 0.1, False, 2)
    starts = np.array([[0.0, 0], [7, 7], [3, 3], [1, 1]])
    search.add(told(starts, [1, 2, 3, 1]), [3, 1])

    def flat_for_the_first(points):
        return np.concatenate([np.zeros(6), ellipsoid(points[6:], skew=1)])

    window = 10 + math.ceil(30 * 2 / 6)
    generations(search, 24, flat_for_the_first)
    assert window <= 24
    assert search.begun_T.tolist() == [1, 0]
    assert np.allclose(search.strategies.mean_TK[0], [7, 7])
    before = search.strategies.generation_T.copy()
    generations(search, 1, flat_for_the_first)
    assert (search.strategies.generation_T - before).tolist() == [0, 1], "half a population is no generation"
    generations(search, 1, flat_for_the_first)
    assert (search.strategies.generation_T - before).tolist() == [1, 2]
    generations(search, 200, flat_for_the_first)
    assert search.begun_T[0] == 2, "no more than it may"
    assert np.isfinite(search.strategies.mean_TK).all()


def test_a_grown_population_is_updated_with_all_its_points():
    grown, plain = Populations(3, 1, 5, 0.3, False, 9), Populations(3, 1, 10, 0.3, False, 9)
    grown.begun_T[:] = 1
    points = np.random.default_rng(0).standard_normal((10, 3))
    for half in (points[:5], points[5:]):
        grown.ask([5], lambda target: 0)
        grown.tell(told(half, ellipsoid(half)), [5])
    plain.ask([10], lambda target: 0)
    plain.tell(told(points, ellipsoid(points)), [10])
    assert np.allclose(grown.strategies.mean_TK, plain.strategies.mean_TK)
    assert np.allclose(grown.strategies.cov, plain.strategies.cov)


def test_failed_points_rank_last():
    search, other = Populations(3, 1, 8, 0.3, False, 0), Populations(3, 1, 8, 0.3, False, 0)
    points = search.ask([8], lambda target: 0)
    loss = ellipsoid(points)
    lost, worst = loss.copy(), loss.copy()
    lost[loss.argmin()], worst[loss.argmin()] = np.nan, 1e9
    search.tell(told(points, lost), [8])
    other.tell(told(points, worst), [8])
    assert np.array_equal(search.strategies.mean_TK, other.strategies.mean_TK)
    assert np.isfinite(search.strategies.cov).all()


# ---------------------------------------------------------------------- whole runs


def rows_of(decoder):
    calls = []
    plain = decoder.module.forward
    decoder.module.forward = lambda z: calls.append(len(z)) or plain(z)
    return calls


def test_one_decode_a_generation_however_many_targets():
    decoder = Decoder(ToyNet(4, (5,)), latent_shape=(4,), prior="normal")
    problem = Problem(decoder, [Term("size", lambda c: c.designs.square().sum(1))], targets=5)
    search = CMAES(evaluations=100).build(decoder)
    state = search.init(problem, torch.zeros(5, 4), torch.arange(5), rng.RowNoise(0, 0, 5))
    calls = rows_of(decoder)
    for _ in range(search.n_steps):
        search.step(problem, state)
    assert calls == [5 * 8] * search.n_steps, "4 + 3 ln 4 rows a target"


def ill_conditioned(dim):
    """A quadratic in rotated coordinates, scaled 1 to 1000, whose least value 0 is at 0.5."""
    rotation = torch.linalg.qr(rng.randn(dim, dim, rng.generator(4))).Q
    scale = torch.logspace(0, 3, dim)
    decoder = Decoder(lambda z: z, latent_shape=(dim,), prior="normal", device="cpu", dtype=torch.float32)
    return decoder, lambda c: (scale * ((c.designs - 0.5) @ rotation).square()).sum(1)


def test_a_full_covariance_learns_what_a_separable_one_cannot():
    decoder, loss = ill_conditioned(8)
    found = {
        kind: lo.optimize(decoder, objectives=loss, starts="mean", search=CMAES(evaluations=4000, covariance=kind))
        for kind in ("full", "separable")
    }
    assert found["full"].losses[0] < 1e-6 * found["separable"].losses[0]
    automatic = lo.optimize(decoder, objectives=loss, starts="mean", search=CMAES(evaluations=4000))
    assert torch.equal(automatic.latents, found["full"].latents)


def test_auto_is_separable_where_latent_values_are_many():
    kinds = {}
    for dim in (100, 101):
        decoder = Decoder(lambda z: z, latent_shape=(dim,), prior="normal", device="cpu", dtype=torch.float32)
        search = CMAES().build(decoder)
        problem = Problem(decoder, [Term("size", lambda c: c.designs.square().sum(1))])
        state = search.init(problem, torch.zeros(1, dim), torch.zeros(1, dtype=torch.long), rng.RowNoise(0, 0, 1))
        kinds[dim] = state.optimizers.strategies.separable
    assert kinds == {100: False, 101: True}


def test_it_beats_random_draws_by_far():
    decoder = toy_decoders()["image"]
    target = decoder.decode(decoder.space.draw(4, rng.generator(21)))
    starts = {"kind": "prior", "n": 2}
    ours, random = (
        lo.optimize(decoder, target=target, starts=starts, search={"kind": kind, "evaluations": 300}, seed=1)
        for kind in ("cmaes", "random")
    )
    assert ours.best.loss.mean() < 0.1 * random.best.loss.mean()


def test_restarts_leave_a_local_minimum():
    decoder = Decoder(lambda z: z, latent_shape=(2,), prior="normal", device="cpu", dtype=torch.float32)

    def rugged(c):
        x = c.designs - 0.5
        return (x.square() + 1 - torch.cos(9 * x)).sum(1)  # Rastrigin's, a minimum each 0.7

    start = torch.tensor([[2.6, -1.5]])
    loss = {
        restarts: float(
            lo.optimize(decoder, objectives=rugged, starts=start, search=CMAES(evaluations=6000, restarts=restarts))
            .losses[0]
        )
        for restarts in (0, 9)
    }  # fmt: skip
    assert loss[9] < 1e-6
    assert loss[0] > 0.3


@pytest.mark.parametrize("goal", [Bound(at_least=1.0), Bound(equals=1.0)], ids=["bound", "equality"])
@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_constraints_are_met_whatever_their_unit(goal, unit):
    decoder = Decoder(ToyNet(5, (3,)), latent_shape=(5,), prior="normal")
    scaled = Bound(**{name: value * unit for name, value in goal.model_dump(exclude_none=True).items() if name in
                      ("at_least", "equals")})  # fmt: skip
    wall = Term("wall", lambda c: unit * c.latents[:, 0], scaled)
    problem = Problem(decoder, [Term("size", lambda c: c.latents.square().sum(1))], constraints=[wall])
    search = CMAES(evaluations=1500).build(decoder)
    state = search.init(problem, torch.zeros(1, 5), torch.zeros(1, dtype=torch.long), rng.RowNoise(3, 0, 1))
    best = math.inf
    for _ in range(search.n_steps):
        search.step(problem, state)
        feasible = state.evaluation.violation_M == 0
        if feasible.any():
            best = min(best, float(state.evaluation.loss_M[feasible].min()))
    assert best == pytest.approx(1.0, rel=0.01)


def test_the_best_of_a_ball_is_found_on_its_surface():
    decoder = Decoder(lambda z: z, latent_shape=(3,), prior="normal", device="cpu", dtype=torch.float32)
    found = lo.optimize(
        decoder, objectives=lambda c: c.designs.sum(1), region=Ball(radius=2.0), search=CMAES(evaluations=1000)
    )
    assert found.losses[0] == pytest.approx(-2 * 3**0.5, rel=1e-4)
    assert found.latents.norm(dim=1).max() <= 2 + 1e-4


def test_one_latent_value_is_enough():
    decoder = Decoder(lambda z: z, latent_shape=(1,), prior="normal", device="cpu", dtype=torch.float32)
    for kind in ("full", "separable"):
        search = CMAES(evaluations=300, covariance=kind)
        found = lo.optimize(decoder, objectives=lambda c: (c.designs[:, 0] - 1).square(), search=search)
        assert found.losses[0] < 1e-8


def test_fewer_evaluations_than_a_population_are_kept_to():
    decoder = toy_decoders()["vector"]
    before = decoder.rows.forward
    problem = Problem(decoder, [Term("sum", lambda c: c.designs.sum(1))])
    search = CMAES(evaluations=5, population=20).build(decoder)
    search.init(problem, torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), rng.RowNoise(0, 0, 1))
    assert search.n_steps == 0
    assert decoder.rows.forward - before == 5

"""Fronts: the archive against brute force, known fronts reached, constraints, targets, chains, what is kept and drawn."""

import math

import moocore
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

import latentopt as lo
from latentopt import charts, pictures, rng
from latentopt.archive import SIZE, Archive, non_dominated, thin
from latentopt.budget import Budget, Clock
from latentopt.driver import drive
from latentopt.goals import Bound
from latentopt.guidance import first_steering, next_steering, simplex
from latentopt.interfaces import SearchState
from latentopt.problem import Problem
from latentopt.ranking import Best
from latentopt.stagerun import Stage
from latentopt.steering import AUGMENTATION, SMOOTHING, Steering, tchebycheff
from latentopt.terms import Term
from latentopt.testing import NoHostSync, toy_decoders
from latentopt_std import Adam

# ---------------------------------------------------------------------- the archive


def brute_force(losses):
    """Rows that no other beats, by the definition; of equal rows the first."""
    found = []
    for i, row in enumerate(losses):
        beaten = any((other <= row).all() and (other < row).any() for other in losses)
        repeats = any((other == row).all() for other in losses[:i])
        if not beaten and not repeats:
            found.append(i)
    return found


def values(least, most):
    """Small whole numbers, which tie and repeat, and floats of very different sizes, whose sums round."""
    shape = st.tuples(st.integers(0, 25), st.integers(least, most))
    sizes = st.sampled_from([0.0, 1e-6, 2e-6, 1.0, 1.0 + 1e-6, 1e4, 1e4 + 1, -1.0, -1e6])
    return shape.flatmap(lambda s: hnp.arrays(np.float32, s, elements=st.integers(0, 3).map(float) | sizes))


@given(values(2, 4))
@settings(max_examples=300, deadline=None)
def test_non_dominated_is_what_brute_force_finds(losses):
    found = non_dominated(torch.from_numpy(losses)).tolist()
    assert len(set(found)) == len(found)
    assert sorted(found) == brute_force(losses)


def test_a_row_that_is_beaten_by_less_than_a_sum_can_tell_is_beaten():
    losses = torch.tensor([[1e4, 1e-6], [1e4, 0.0]])
    assert losses.sum(1).unique().numel() == 1
    assert non_dominated(losses).tolist() == [1]


def test_many_rows_go_by_blocks():
    losses = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0))
    found = losses[non_dominated(losses)]
    assert found[:, 0].diff().ge(0).all()
    assert found[:, 1].diff().le(0).all()
    best = losses[:, 1][losses[:, 0].argsort()].cummin(0).values.unique()
    assert len(found) == len(best)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("size", [2, 5, 20, 100])
def test_thinning_keeps_the_ends_and_spreads_over_the_rest(count, size):
    losses = torch.rand(400, count, generator=torch.Generator().manual_seed(count)).pow(3)
    losses = losses / losses.sum(1, keepdim=True) * torch.logspace(-4, 4, count)  # far from even, units far apart
    kept = thin(losses, size)
    assert len(kept) == size
    assert kept.tolist() == sorted(set(kept.tolist()))
    if size >= count:
        assert set(losses.argmin(0).tolist()) <= set(kept.tolist())
    scaled = (losses - losses.amin(0)) / (losses.amax(0) - losses.amin(0))
    left_out = torch.cdist(scaled, scaled[kept]).amin(1).max()
    apart = torch.cdist(scaled[kept], scaled[kept])
    is_end = torch.isin(kept, losses.argmin(0))
    apart[is_end[:, None] & is_end[None, :]] = torch.inf  # ends lie where they lie
    apart.fill_diagonal_(torch.inf)
    assert left_out <= apart.min() + 1e-6, "whoever is left out lies no farther off than the closest two kept"


def test_thinning_a_line_is_nearly_even():
    x = torch.rand(500, generator=torch.Generator().manual_seed(0)).sort().values
    for size in (5, 9, 33, 100):
        gaps = x[thin(torch.stack([x, 1 - x], 1), size)].diff()
        assert gaps.max() <= 2.1 / (size - 1)


def test_few_rows_are_all_kept():
    assert thin(torch.rand(7, 2), 7).tolist() == list(range(7))
    assert thin(torch.rand(0, 2), 7).tolist() == []
    assert thin(torch.ones(9, 3), 4).tolist() == [0, 1, 2, 3] or len(thin(torch.ones(9, 3), 4)) == 4


def best(losses, violation=None, target=None):
    n = len(losses)
    none = torch.zeros(n)
    index = torch.zeros(n, dtype=torch.long) if target is None else torch.tensor(target)
    violation = none if violation is None else torch.tensor(violation)
    return Best(torch.arange(float(n))[:, None], losses.sum(1), violation, index, index)


def test_the_archive_takes_what_is_feasible_finite_and_not_beaten():
    archive = Archive(targets=2)
    losses = torch.tensor([[1, 3], [3, 1], [2, 2], [2, 2.5], [0, 0], [torch.nan, 0], [-torch.inf, 9], [5, 5]])
    violation = [0, 0, 0, 0, 0.1, 0, 0, 0.0]
    archive.add(best(losses, violation, [0, 0, 0, 0, 0, 0, 0, 1]), losses)
    assert archive.best.z_ND[:, 0].tolist() == [0, 2, 1, 7]
    assert archive.losses_NK.tolist() == [[1, 3], [2, 2], [3, 1], [5, 5]]
    better = torch.tensor([[1.5, 1.5]])
    archive.add(best(better), better)
    assert archive.losses_NK.tolist() == [[1, 3], [1.5, 1.5], [3, 1], [5, 5]]
    archive.add(best(better), better)
    assert len(archive.losses_NK) == 4, "no member twice"


def test_the_archive_holds_so_many_a_target():
    archive = Archive(targets=2, size=10)
    x = torch.linspace(0, 1, 60)
    losses = torch.stack([x, 1 - x], 1)
    target = (torch.arange(60) % 2).tolist()
    archive.add(best(losses, target=target), losses)
    assert torch.bincount(archive.best.target_N).tolist() == [10, 10]
    assert archive.losses_NK[:, 0].amin() == 0
    assert archive.losses_NK[:, 0].amax() == 1
    few = archive.few(3)
    assert torch.bincount(few.target_N).tolist() == [3, 3]
    assert torch.equal(few.loss_N, few.loss_N.new_ones(6))


def test_an_archive_of_nothing_feasible_is_empty():
    archive = Archive(targets=1)
    losses = torch.ones(3, 2)
    archive.add(best(losses, [1.0, 1.0, torch.nan]), losses)
    assert len(archive.best.loss_N) == 0


# ---------------------------------------------------------------------- weights and norms


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 8, 32, 100])
def test_weights_cover_the_simplex(n, count):
    weights = simplex(n, count)
    assert weights.shape == (n, count)
    if not n:
        return
    assert weights.min() > 0, "no objective is left to chance"
    assert np.allclose(weights.sum(1), 1)
    assert len(np.unique(weights.round(9), axis=0)) == (n if count > 1 else 1)
    if n >= 32 and count > 1:
        assert (weights.max(0) > 0.8).all(), "towards each end"
        assert np.allclose(weights.mean(0), 1 / count, atol=0.08), "and evenly between them"


def test_the_norm_is_a_smooth_maximum_with_a_little_of_the_sum():
    steering = Steering(
        torch.zeros(2, 0),
        torch.zeros(2, 0),
        weights_NK=torch.tensor([[0.5, 0.5], [0.9, 0.1]]),
        ideal_NK=torch.tensor([[1.0, 10.0], [1.0, 10.0]]),
        span_NK=torch.tensor([[2.0, 100.0], [2.0, 100.0]]),
    )
    losses = torch.tensor([[3.0, 30.0], [2.0, 110.0]], requires_grad=True)
    scaled = [(0.5, 0.1), (0.45, 0.1)]
    known = [
        SMOOTHING * math.log(sum(math.exp(x / SMOOTHING) for x in row)) + AUGMENTATION * sum(row) for row in scaled
    ]
    found = tchebycheff(losses, steering)
    assert found.tolist() == pytest.approx(known, rel=1e-5)
    assert found.tolist() == pytest.approx([0.53, 0.4775], rel=1e-3)
    (gradient,) = torch.autograd.grad(found.sum(), losses)
    assert (gradient > 0).all(), "every objective counts a little: no weakly optimal points"


# ---------------------------------------------------------------------- known fronts


class Same(nn.Module):
    """Designs are the latents."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z):
        return z + 0 * self.unused


def plane(dim=2):
    return lo.Decoder(Same(), latent_shape=(dim,), prior="normal", name="same")


@pytest.fixture
def decoder():
    return plane()


def towards(place, name, scale=1.0, **more):
    """The squared distance from a place: of two such the front is the segment between the places."""
    at = torch.tensor(place)
    function = lambda c: scale * (c.designs - at).square().sum(1)  # noqa: E731
    return {"kind": "callable", "function": function, "name": name, **more}


def two(scale=(1.0, 1.0)):
    return [towards([1.0, 0.0], "a", scale[0]), towards([-1.0, 0.0], "b", scale[1])]


def front_of(decoder, objectives, **more):
    given = {"region": "free", "search": {"kind": "adam", "steps": 150}, **more}
    return lo.optimize(decoder, objectives=objectives, pareto=True, **given)


def segment_volume(reference, scale=(1.0, 1.0)):
    """The volume that the whole front of `two()` dominates: a = 4 t^2, b = 4 (1 - t)^2."""
    t = np.linspace(0, 1, 4000)
    curve = np.stack([4 * scale[0] * t**2, 4 * scale[1] * (1 - t) ** 2], axis=1)
    return float(moocore.hypervolume(curve, ref=np.asarray(reference, dtype=float)))


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1e3, 1e-3), (1e-6, 1e-6)])
def test_the_known_front_is_reached_and_covered(decoder, scale):
    found = front_of(decoder, two(scale))
    share = float(found.hypervolumes[0]) / segment_volume(found.reference[0].tolist(), scale)
    assert 0.99 <= share <= 1.0 + 1e-5
    members = found.front()
    assert len(members) == SIZE
    assert members.latents[:, 1].abs().max() < 0.15, "on the segment"
    place = members.latents[:, 0]  # along the first objective: from its minimum at 1 to the other at -1
    assert place.diff().lt(0.02).all()
    assert place.max() > 0.9
    assert place.min() < -0.9
    assert place.sort().values.diff().max() < 0.12, "no gaps: 2 / 99 would be even"


def test_members_beat_no_other_and_are_as_reported(decoder):
    found = front_of(decoder, two())
    losses = torch.stack([found.terms["a"], found.terms["b"]], 1)
    assert len(non_dominated(losses)) == len(found)
    assert torch.allclose(found.losses, losses.sum(1), rtol=1e-5)
    assert found.losses.diff().ge(0).all()
    assert found.front().terms["a"].diff().ge(0).all()
    assert found.feasible.all()


def test_three_objectives_cover_their_triangle(decoder):
    corners = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.5]]
    found = front_of(decoder, [towards(at, name) for at, name in zip(corners, "abc", strict=True)])
    members = found.front()
    assert len(members) == SIZE
    for at in corners:
        assert (members.latents - torch.tensor(at)).norm(dim=1).min() < 0.2
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 41), torch.linspace(0, 1.5, 41))
    inside = grid[(grid[:, 1] <= 1.5 * (1 - grid[:, 0].abs()) + 1e-6)]
    assert torch.cdist(inside, members.latents).amin(1).max() < 0.35, "no hole in the triangle"
    losses = torch.stack([(inside - torch.tensor(at)).square().sum(1) for at in corners], 1).double().numpy()
    whole = moocore.hypervolume(losses, ref=found.reference[0].double().numpy())
    assert float(found.hypervolumes[0]) >= 0.98 * whole


def test_a_concave_front_is_covered_too(decoder):
    """Fonseca and Fleming 1995: no weighted sum has a minimum in the middle of this front."""

    def dent(sign):
        return lambda c: 1 - torch.exp(-(c.designs - sign * 2**-0.5).square().sum(1))

    terms = [{"kind": "callable", "function": dent(s), "name": name} for s, name in ((1.0, "a"), (-1.0, "b"))]
    found = front_of(decoder, terms, search={"kind": "adam", "steps": 300})
    x = torch.linspace(-1, 1, 2000, dtype=torch.float64) * 2**-0.5
    curve = torch.stack([1 - torch.exp(-2 * (x - s * 2**-0.5).square()) for s in (1, -1)], 1)
    whole = moocore.hypervolume(curve.numpy(), ref=found.reference[0].double().numpy())
    assert float(found.hypervolumes[0]) >= 0.98 * whole
    middle = (found.terms["a"] - found.terms["b"]).abs() < 0.2
    assert middle.sum() >= 5


def test_goals_and_weights(decoder):
    up = towards([1.0, 0.0], "up", -1.0, goal="maximize", weight=3.0)
    near = {"kind": "callable", "function": lambda c: c.designs[:, 0], "name": "x", "goal": {"equals": -1.0}}
    found = front_of(decoder, [up, near])
    members = found.front()
    assert members.objectives == ["up", "x"]
    assert (members.terms["up"] <= 0).all(), "terms keep their raw sign"
    assert members.terms["up"].max() == pytest.approx(0.0, abs=0.05)
    assert members.terms["x"].min() == pytest.approx(-1.0, abs=0.1)
    losses = torch.stack([-3 * members.terms["up"], (members.terms["x"] + 1).square()], 1)
    assert torch.allclose(losses.sum(1), members.losses, rtol=1e-4, atol=1e-5)
    assert len(non_dominated(losses)) == len(members)
    known = segment_volume(found.reference[0].tolist(), (3.0, 1.0))
    assert float(found.hypervolumes[0]) == pytest.approx(known, rel=0.02)


def test_the_hypervolume_of_a_hand_case():
    from latentopt.api import _hypervolumes

    decoder = plane()
    terms = [Term(name, lambda c, k=k: c.designs[:, k]) for k, name in enumerate("ab")]
    limit = [Term("c", lambda c: c.designs.sum(1), Bound(at_least=-10.0))]
    problem = Problem(decoder, terms, constraints=limit, targets=3, pareto=True)
    z = torch.tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [0.0, 0.0], [-90.0, -90.0]])
    target = torch.tensor([0, 0, 0, 1, 2])

    class Outcome:
        reference_TK = torch.tensor([[4.0, 4.0], [2.0, 3.0], [1.0, 1.0]])
        target_N = target

    # 3 x 1 + 2 x 1 + 1 x 1, and 2 x 3; what breaks a constraint dominates nothing
    assert _hypervolumes(problem, problem.value(z, target), Outcome()).tolist() == [6.0, 6.0, 0.0]


# ---------------------------------------------------------------------- constraints, targets, other searches


def limit(function, **goal):
    return {"kind": "callable", "function": function, "goal": goal, "name": "limit"}


@pytest.mark.parametrize("unit", [1e-5, 1.0, 1e5])
def test_a_front_within_a_constraint(decoder, unit):
    """The segment from (-1, 0) to (1, 0), kept above y = 1/2: the segment between (-1, 1/2) and (1, 1/2)."""
    above = limit(lambda c: c.designs[:, 1], at_least=0.5)
    found = front_of(decoder, two((unit, unit)), constraints=above, search={"kind": "adam", "steps": 300})
    members = found.front()
    assert found.feasible.all()
    assert (members.latents[:, 1] >= 0.5).all()
    assert members.latents[:, 1].median() < 0.56
    place = members.latents[:, 0].sort().values
    assert place[0] < -0.85
    assert place[-1] > 0.85
    assert place.diff().max() < 0.15
    t = np.linspace(0, 1, 4000)
    curve = unit * np.stack([4 * t**2 + 0.25, 4 * (1 - t) ** 2 + 0.25], axis=1)
    whole = moocore.hypervolume(curve, ref=found.reference[0].double().numpy())
    assert 0.98 * whole <= float(found.hypervolumes[0]) <= whole * (1 + 1e-5)


def test_a_target_that_nothing_feasible_reaches_keeps_its_best_rows_beside_the_others_front(decoder, tmp_path):
    def hopeless(c):  # the second target asks for a square below -1/2
        return torch.where(c.target_index == 0, c.designs[:, 1], c.designs[:, 1].square() + 1)

    chain = [{"kind": "adam", "steps": 40, "keep": 5}, {"kind": "adam", "steps": 40}]
    for search in (chain[0], chain, {"kind": "random", "evaluations": 100}):
        found = front_of(
            decoder, two(), target=torch.zeros(2, 2), constraints=limit(hopeless, at_most=0.5), search=search
        )
        assert found.n_targets == 2
        assert found.diverged == 0
        assert found.best.feasible.tolist() == [True, False]
        assert found.violations[found.target_index == 1].min() == pytest.approx(0.5, abs=0.05)
        assert len(found.front(0)) == int((found.target_index == 0).sum())
        assert len(found.front(1)) == 0
        assert found.hypervolumes[0] > 0
        assert found.hypervolumes[1] == 0
    figure = charts.front(found, title="none", target=1)
    assert "0 designs" in figure.texts[1].get_text()
    assert len(lo.load(found.save(tmp_path / "run")).front(1)) == 0


def test_fronts_of_several_targets_are_each_their_own(decoder):
    def aimed(sign, name):
        def function(c):
            centre = torch.stack([torch.full_like(c.designs[:, 0], sign), 3.0 * c.target_index], 1)
            return (c.designs - centre).square().sum(1)

        return {"kind": "callable", "function": function, "name": name}

    found = front_of(decoder, [aimed(1.0, "a"), aimed(-1.0, "b")], target=torch.zeros(2, 2))
    assert found.hypervolumes.shape == (2,)
    assert found.reference.shape == (2, 2)
    for target in (0, 1):
        members = found.front(target)
        assert len(members) == SIZE
        assert (members.latents[:, 1] - 3 * target).abs().max() < 0.3
        known = segment_volume(found.reference[target].tolist())
        assert float(found.hypervolumes[target]) == pytest.approx(known, rel=0.02)
    with pytest.raises(lo.ConfigError, match="target 2 has no rows: targets go from 0 to 1"):
        found.front(2)


@pytest.mark.parametrize("search", [{"kind": "random", "evaluations": 1000}, {"kind": "optuna", "evaluations": 150}])
def test_searches_without_gradients_give_a_front(decoder, search):
    found = front_of(decoder, two(), search=search)
    losses = torch.stack([found.terms["a"], found.terms["b"]], 1)
    assert len(non_dominated(losses)) == len(found) > 5
    known = segment_volume(found.reference[0].tolist())
    assert 0.9 * known < float(found.hypervolumes[0]) <= known * (1 + 1e-5)


def test_a_second_stage_loses_no_volume(decoder):
    first = {"kind": "adam", "steps": 30}
    once = front_of(decoder, two(), search=first)
    for keep in (None, 8):
        chain = [first if keep is None else {**first, "keep": keep}, {"kind": "adam", "steps": 60, "lr": 0.03}]
        twice = front_of(decoder, two(), search=chain)
        assert torch.equal(twice.reference, once.reference), "the starts' own, whatever the stage"
        assert float(twice.hypervolumes[0]) >= float(once.hypervolumes[0])
        starts = next(r for r in twice.history if r["stage"] == 1)
        assert len(starts["rows_N"]) == (keep or len(once))
    blind = front_of(decoder, two(), search=[{"kind": "random", "evaluations": 200, "keep": 10}, first])
    assert float(blind.hypervolumes[0]) == pytest.approx(segment_volume(blind.reference[0].tolist()), rel=0.02)


def test_searches_that_race_for_a_front_set_out_alike(decoder):
    seen = []

    class Spy:
        def __init__(self, search):
            self.search, self.n_steps, self.init, self.step = search, search.n_steps, search.init, search.step

        def changed(self, problem, state):
            if state.step == 0:
                seen.append(state.steering)
            self.search.changed(problem, state)

    terms = [Term(one["name"], one["function"]) for one in two()]
    problem = Problem(decoder, terms, pareto=True)
    stages = [[Stage(name, Spy(Adam(steps=20).build(decoder))) for name in "ab"]]
    z = rng.randn(12, 2, rng.generator(0))
    target = torch.zeros(12, dtype=torch.long)
    found = drive(problem, z, target, stages, clock=Clock(problem, Budget()), seed=0)
    assert len(seen) == 2
    for mine, theirs in zip(seen[0], seen[1], strict=True):
        assert (mine is None and theirs is None) or torch.equal(mine, theirs)
    assert seen[1].weights_NK[:, 0].tolist() == pytest.approx(np.linspace(0.02, 0.98, 12).tolist())
    assert len(found.z_ND) > 12


# ---------------------------------------------------------------------- budgets and odd values


@pytest.mark.parametrize("rows", [160, 200, 300, 1000])
@pytest.mark.parametrize("search", [{}, {"keep": 7}])
def test_the_budget_holds_with_the_front_that_is_handed_over(decoder, rows, search):
    found = front_of(decoder, two(), budget={"rows": rows}, search={"kind": "adam", **search})
    assert found.cost.rows <= rows
    assert found.stopped == "budget"
    assert len(found) <= search.get("keep", SIZE)


@pytest.mark.parametrize("rows", [330, 400, 470])
def test_the_budget_holds_over_a_chain_and_a_race(decoder, rows):
    adam = {"kind": "adam", "steps": 20}
    for search in ([{**adam, "keep": 5}, adam], [[adam, adam]], [{**adam, "steps": 2, "keep": 5}, adam]):
        found = front_of(decoder, two(), budget={"rows": rows}, starts=rng.randn(9, 2, rng.generator(0)), search=search)
        assert found.cost.rows <= rows


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_objectives_without_a_value_are_no_members_and_no_reference(decoder, bad):
    def broken(c):
        return torch.where(c.designs[:, 0] > 1.9, bad, (c.designs[:, 0] + 1).square())

    z = torch.tensor([[0.5, 0.5], [-0.5, 0.2], [3.0, 0.0], [0.1, -1.0]])
    found = front_of(decoder, [two()[0], {"kind": "callable", "function": broken, "name": "b"}], starts=z)
    assert torch.isfinite(found.reference).all()
    assert found.reference[0, 1] == pytest.approx(2.25)
    assert torch.isfinite(found.losses).all()
    assert 0 < found.hypervolumes[0] < 100
    assert (found.latents[:, 0] <= 1.9).all()


def still(problem, z, target):
    n = len(z)
    flags = torch.zeros(n, dtype=torch.bool)
    return SearchState(z, target, torch.arange(n), problem.value(z, target), flags, 0)


def test_ideal_and_range_come_from_each_targets_front_and_else_from_its_rows(decoder):
    terms = [Term("a", lambda c: c.designs[:, 0]), Term("b", lambda c: c.designs[:, 1])]
    problem = Problem(decoder, terms, targets=2, pareto=True)
    z = torch.tensor([[0.0, 5.0], [2.0, 1.0], [10.0, 7.0], [14.0, 7.0]])
    state = still(problem, z, torch.tensor([0, 0, 1, 1]))
    with NoHostSync():
        state.steering = first_steering(problem, state, None, None)
    assert state.steering.ideal_NK.tolist() == [[0, 1], [0, 1], [10, 7], [10, 7]]
    assert state.steering.span_NK.tolist() == [[2, 4], [2, 4], [4, 1], [4, 1]], "a range of none is 1"
    archive = Archive(targets=2)
    front = torch.tensor([[-1.0, 3.0], [1.0, -2.0]])
    archive.add(best(front), front)
    with NoHostSync():
        moved = next_steering(problem, state, archive)
    assert moved.ideal_NK.tolist() == [[-1, -2], [-1, -2], [10, 7], [10, 7]]
    assert moved.span_NK.tolist() == [[2, 5], [2, 5], [4, 1], [4, 1]]
    one = Archive(targets=2)
    one.add(best(front[:1]), front[:1])
    assert next_steering(problem, state, one).span_NK[0].tolist() == [2, 4], "of one member the range is what it was"
    again = first_steering(problem, state, None, archive)
    for part in (again.ideal_NK, again.span_NK, again.weights_NK):
        assert torch.isfinite(part).all(), "where a later stage begins without a front of the second target"
    assert torch.allclose(again.weights_NK.sum(1), torch.ones(4))
    assert torch.isfinite(problem.value(z, state.target_N, again).merit_M).all()


def test_rows_of_a_later_stage_go_on_where_they_are(decoder):
    terms = [Term("a", lambda c: c.designs[:, 0]), Term("b", lambda c: c.designs[:, 1])]
    problem = Problem(decoder, terms, pareto=True)
    z = torch.tensor([[0.0, 1.0], [0.25, 0.25], [1.0, 0.0]])
    state = still(problem, z, torch.zeros(3, dtype=torch.long))
    archive = Archive(targets=1)
    archive.add(best(z), z)
    weights = first_steering(problem, state, None, archive).weights_NK
    assert weights[0, 0] > 0.95, "at the least of the first objective, which is to stay there"
    assert weights[1].tolist() == pytest.approx([0.5, 0.5])
    assert weights[2, 1] > 0.95


# ---------------------------------------------------------------------- at the door, on disk, on paper


def test_one_objective_has_no_front(decoder):
    with pytest.raises(lo.ConfigError, match="a front needs two objectives or more to trade off, got 1: add one"):
        front_of(decoder, [two()[0]])
    with pytest.raises(lo.ConfigError, match="a front needs two objectives or more to trade off, got 1"):
        lo.optimize(decoder, target=torch.zeros(2), pareto=True)


def test_a_run_without_a_front_says_so(decoder):
    found = lo.optimize(decoder, objectives=two(), search={"kind": "adam", "steps": 3})
    assert found.hypervolumes is None
    assert found.objectives == ["a", "b"]
    with pytest.raises(lo.ConfigError, match="this run has no front: ask for one with pareto=True"):
        found.front()


def test_a_front_comes_back_from_its_folder(decoder, tmp_path):
    # names out of order, and a constraint that comes first in the alphabet
    terms = [towards([1.0, 0.0], "zeta"), towards([-1.0, 0.0], "beta")]
    above = {**limit(lambda c: c.designs[:, 1], at_least=0.5), "name": "alpha"}
    found = front_of(decoder, terms, constraints=above, search={"kind": "adam", "steps": 60})
    again = lo.load(found.save(tmp_path / "run"))
    assert again.objectives == found.objectives == ["zeta", "beta"]
    assert list(again.terms) == ["zeta", "beta", "alpha"]
    assert torch.equal(again.hypervolumes, found.hypervolumes)
    assert torch.equal(again.reference, found.reference)
    assert torch.equal(again.front().latents, found.front().latents)
    assert again.summary()["hypervolumes"] == found.hypervolumes.tolist()
    assert again.config["task"]["pareto"] is True


def test_same_seed_same_front(decoder):
    one, two_ = (front_of(decoder, two(), search={"kind": "adam", "steps": 40, "noise": 0.05}) for _ in range(2))
    assert torch.equal(one.latents, two_.latents)
    assert torch.equal(one.hypervolumes, two_.hypervolumes)


@pytest.mark.parametrize(("count", "panels"), [(2, 1), (3, 3), (4, 6), (5, 6)])
def test_a_front_is_drawn_with_a_panel_for_each_pair(decoder, count, panels, tmp_path):
    names = "abcde"[:count]
    places = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.5, 0.5]]
    terms = [towards(at, name) for at, name in zip(places, names, strict=False)]
    found = front_of(decoder, terms, search={"kind": "adam", "steps": 20})
    figure = charts.front(found, title="A front", subtitle="of toys")
    assert len(figure.axes) == panels
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    assert labels == [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]][:panels]
    title, words = (text.get_text() for text in figure.texts[:2])
    assert title == "A front"
    assert words.startswith(f"of toys. {len(found)} designs. Hypervolume ")
    drawn = sum(len(part.get_offsets()) for part in figure.axes[0].collections)
    assert drawn == len(found)
    assert figure.dpi == charts.DPI
    path = pictures.write(figure, tmp_path / "front.png")
    assert path.stat().st_size > 10_000


def test_the_folder_of_a_front_gets_its_chart(decoder):
    found = front_of(decoder, two(), search={"kind": "adam", "steps": 10})
    assert "front.png" in pictures.of_result(found, decoder)
    plain = lo.optimize(decoder, objectives=two(), search={"kind": "adam", "steps": 3})
    assert "front.png" not in pictures.of_result(plain, decoder)


def test_the_terminal_tells_of_the_front(decoder, capsys):
    from latentopt.terminal import Screen, show_result

    found = front_of(decoder, two(), search={"kind": "adam", "steps": 60})
    show_result(Screen(), found)
    assert f"front    {len(found)} designs, hypervolume {float(found.hypervolumes[0]):.4g}" in capsys.readouterr().out


@pytest.mark.parametrize("search", ["lbfgs", "random", {"kind": "optuna", "sampler": "gp", "evaluations": 10}])
def test_the_reference_is_the_worst_of_all_starts_whatever_the_search(search):
    decoder = toy_decoders()["image"]
    z = decoder.space.draw(9, torch.Generator().manual_seed(1))
    objectives = [lambda c: c.latents[:, 0], lambda c: c.designs.flatten(1).mean(1)]
    result = lo.optimize(
        decoder, objectives=objectives, pareto=True, starts=z, region="free", search=search, budget={"rows": 200}
    )
    expected = torch.stack([z[:, 0].max(), decoder.decode(z).flatten(1).mean(1).max()])
    assert torch.allclose(result.reference[0], expected.to(result.reference), atol=1e-6)


def test_cmaes_refuses_a_front():
    with pytest.raises(lo.ConfigError, match="cmaes minimizes one number and a front has several: use lbfgs"):
        lo.optimize(
            toy_decoders()["image"], objectives=["prior", lambda c: c.latents[:, 0]], pareto=True, search="cmaes"
        )

"""Constraints: known optima, multipliers, units, hand-over, budgets, failures, and what results say of them."""

import pytest
import torch
from torch import nn

import latentopt as lo
from latentopt import rng
from latentopt.budget import Budget, Clock
from latentopt.driver import drive
from latentopt.goals import Bound
from latentopt.guidance import ROUNDS, first_steering, next_steering
from latentopt.interfaces import SearchState
from latentopt.problem import PENALTY, Problem
from latentopt.ranking import Best
from latentopt.stagerun import Stage, StageRun
from latentopt.steering import Steering, lagrangian, residuals
from latentopt.terms import Term
from latentopt.testing import NoHostSync, toy_decoders
from latentopt_std import Adam


class Same(nn.Module):
    """Designs are the latents."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z):
        return z + 0 * self.unused


@pytest.fixture
def decoder():
    return plane()


def plane(dim=2):
    return lo.Decoder(Same(), latent_shape=(dim,), prior="normal", name="same")


def bowl(c):  # around (1, 1)
    return (c.designs - 1).square().sum(1)


def total(c):
    return c.designs.sum(1)


def norm(c):
    return c.designs.square().sum(1)


def first(c):
    return c.designs[:, 0]


def limit(function, name="c", **goal):
    return {"kind": "callable", "function": function, "goal": goal, "name": name}


def starts(n=8, dim=2):
    return rng.randn(n, dim, rng.generator(3))


def solve(decoder, loss, *constraints, steps=300, **more):
    given = {"starts": starts(), "region": "free", "search": {"kind": "adam", "steps": steps}, **more}
    return lo.optimize(decoder, objectives=loss, constraints=list(constraints), **given)


# ---------------------------------------------------------------------- known optima

CASES = {
    "active": (bowl, [limit(total, at_most=1.0)], 0.5, (0.5, 0.5)),
    "inactive": (bowl, [limit(total, at_most=5.0)], 0.0, (1.0, 1.0)),
    "at_least": (bowl, [limit(total, at_least=3.0)], 0.5, (1.5, 1.5)),
    "at zero": (bowl, [limit(total, at_most=0.0)], 2.0, (0.0, 0.0)),
    "equality": (bowl, [limit(total, equals=1.0)], 0.5, (0.5, 0.5)),
    "equality from inside": (lambda c: norm(c), [limit(total, equals=1.0)], 0.5, (0.5, 0.5)),
    "equality at zero": (bowl, [limit(total, equals=0.0)], 2.0, (0.0, 0.0)),
    "between, active": (bowl, [limit(total, between=(-1.0, 1.0))], 0.5, (0.5, 0.5)),
    "between, inactive": (bowl, [limit(total, between=(1.0, 3.0))], 0.0, (1.0, 1.0)),
    "between, narrow": (bowl, [limit(total, between=(0.999, 1.0))], 0.5, (0.5, 0.5)),
    "two active": (bowl, [limit(total, at_most=1.0), limit(first, "d", at_most=0.2)], 0.68, (0.2, 0.8)),
    "linear and quadratic": (
        lambda c: (c.designs - 2).square().sum(1),
        [limit(norm, at_most=2.0), limit(first, "d", at_most=0.5)],
        1.5**2 + (2 - 1.75**0.5) ** 2,
        (0.5, 1.75**0.5),
    ),
    "linear loss on a disc": (total, [limit(norm, at_most=2.0)], -2.0, (-1.0, -1.0)),
    "linear loss on a circle": (total, [limit(norm, equals=2.0)], -2.0, (-1.0, -1.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_row_ends_feasible_and_near_the_known_optimum(decoder, case):
    loss, constraints, optimum, place = CASES[case]
    found = solve(decoder, loss, *constraints)
    assert found.violations.tolist() == [0.0] * 8
    assert found.feasible.all()
    # an equality holds within a thousandth, which shows in the loss
    slack = 3e-3 if "equals" in constraints[0]["goal"] else 1e-6
    assert optimum - slack * (1 + abs(optimum)) <= found.losses[0] <= optimum + 2e-3 * (1 + abs(optimum))
    near = found.losses <= optimum + 0.02 * (1 + abs(optimum))
    # along a curve or a slit a row of Adam's may come to rest early
    assert near.sum() >= (4 if case in ("between, narrow", "linear loss on a circle") else 8), "not the best alone"
    assert found.best.latent.tolist() == pytest.approx(place, abs=0.02)


def test_in_twenty_dimensions_and_through_a_network():
    found = solve(plane(20), bowl, limit(total, at_most=10.0), starts=starts(dim=20))
    assert found.feasible.all()
    assert found.losses[0] == pytest.approx(5.0, rel=2e-3)
    net = toy_decoders()["vector"]
    free = solve(net, lambda c: -total(c), starts=starts(dim=3), region={"kind": "ball", "radius": 2.0})
    held = solve(
        net,
        lambda c: -total(c),
        limit(first, at_most=0.1),
        starts=starts(dim=3),
        region={"kind": "ball", "radius": 2.0},
    )
    assert free.designs[0, 0] > 0.1
    assert held.feasible.all()
    assert held.designs[0, 0] == pytest.approx(0.1, abs=2e-3), "pushed against its limit"
    assert free.losses[0] < held.losses[0] < 0


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("bound", [1.0, 0.0])
def test_units_of_losses_and_constraints_change_nothing(decoder, unit, scale, bound):
    found = solve(decoder, lambda c: unit * bowl(c), limit(lambda c: scale * total(c), at_most=scale * bound))
    optimum = {1.0: 0.5, 0.0: 2.0}[bound]
    assert found.feasible.all()
    assert (found.losses / unit).tolist() == pytest.approx([optimum] * 8, rel=0.01)
    assert found.losses[0] / unit == pytest.approx(optimum, rel=1e-3)


@pytest.mark.parametrize("offset", [300.0, 1e4])
def test_a_bound_far_from_zero_is_met_as_closely_as_one_near_it(decoder, offset):
    found = solve(decoder, bowl, limit(lambda c: total(c) + offset, at_most=offset + 1))
    assert found.feasible.all()
    assert found.losses[0] == pytest.approx(0.5, rel=5e-3)


def test_a_heavier_weight_is_no_other_problem(decoder):
    for weight in (0.01, 100.0):
        found = solve(decoder, bowl, {**limit(total, at_most=1.0), "weight": weight})
        assert found.feasible.all()
        assert found.losses[0] == pytest.approx(0.5, rel=2e-3)


@pytest.mark.parametrize("kind", ["adam", "lbfgs", "cmaes", "random"])
@pytest.mark.parametrize(("unit", "scale"), [(1.0, 1.0), (1e-6, 1e3), (1e6, 1e-3)])
def test_every_kind_of_search_is_free_of_units(decoder, kind, unit, scale):
    sizes = {"adam": {"steps": 200}, "lbfgs": {"steps": 100}, "cmaes": {"evaluations": 1500}}
    search = {"kind": kind, **sizes.get(kind, {"evaluations": 3000})}
    constraint = limit(lambda c: scale * total(c), at_most=0.0)
    found = solve(decoder, lambda c: unit * bowl(c), constraint, search=search)
    assert found.best.feasible
    assert found.losses[0] / unit == pytest.approx(2.0, rel=0.05)
    if kind in ("adam", "lbfgs"):
        assert found.feasible.all()


def test_what_nothing_steers_weighs_broken_constraints_by_their_spread(decoder):
    z, target = torch.tensor([[2.0, 1.0]]), torch.zeros(1, dtype=torch.long)
    shares = []
    for unit, scale in ((1.0, 1.0), (1e-6, 1e3), (1e6, 1e-3)):
        loss = Term("loss", lambda c, unit=unit: unit * bowl(c))
        broken = Term("c", lambda c, scale=scale: scale * total(c), Bound(at_most=scale), 2.0)
        problem = Problem(decoder, [loss], constraints=[broken])
        before = problem.value(z, target)
        assert float(before.merit_M) == pytest.approx(float(before.loss_M) + PENALTY * 2 * (2 * scale) ** 2, rel=1e-5)
        problem.check()
        after = problem.value(z, target)
        assert torch.equal(after.loss_M, before.loss_M)
        assert torch.equal(after.violation_M, before.violation_M)
        shares.append(float(after.merit_M / after.loss_M))
    assert shares[0] > 10
    assert shares == pytest.approx([shares[0]] * 3, rel=1e-3)


# ---------------------------------------------------------------------- multipliers


def staged(decoder, loss, *constraints, search=None, n=8, keep=None):
    problem = Problem(decoder, [Term("loss", loss)], constraints=constraints)
    problem.check()
    z, target = starts(n), torch.zeros(n, dtype=torch.long)
    unknown = torch.full((n,), torch.inf)
    search = (search or Adam(steps=400)).build(decoder)
    best = Best(z, unknown, unknown, target.clone(), target)
    return StageRun(problem, Stage("adam", search, keep), (0, 0), best, 0, Clock(problem, Budget())), problem


@pytest.mark.parametrize(
    ("loss", "constraints", "multipliers"),
    [
        (bowl, [Term("c", total, Bound(at_most=1.0))], [1.0]),  # 2 (x - 1) + lambda = 0 at x = 1/2
        (bowl, [Term("c", total, Bound(at_least=3.0))], [1.0]),
        (bowl, [Term("c", total, Bound(at_most=5.0))], [0.0]),
        (bowl, [Term("c", total, Bound(equals=1.0))], [1.0]),
        (norm, [Term("c", total, Bound(equals=1.0))], [-1.0]),
        (bowl, [Term("c", total, Bound(at_most=1.0)), Term("d", first, Bound(at_most=0.2))], [0.4, 1.2]),
        (total, [Term("c", norm, Bound(at_most=2.0))], [0.5]),
        (lambda c: 1e-6 * bowl(c), [Term("c", lambda c: 1e3 * total(c), Bound(at_most=1e3))], [1e-9]),
    ],
)
def test_multipliers_approach_the_known_ones(decoder, loss, constraints, multipliers):
    run, _ = staged(decoder, loss, *constraints)
    run.start()
    run.loop([], None, reserve=0)
    found = run.state.steering.multipliers_NC
    assert found.shape == (8, len(constraints))
    for column, known in zip(found.T, multipliers, strict=True):
        off = (column - known).abs()
        assert (off <= 0.05 * max(map(abs, multipliers))).sum() >= 7, column.tolist()


def test_inequalities_never_pull_and_equalities_pull_both_ways(decoder):
    run, problem = staged(decoder, bowl, Term("c", total, Bound(at_most=50.0)), Term("d", total, Bound(equals=2.5)))
    run.start()
    run.loop([], None, reserve=0)
    steering = run.state.steering
    assert steering.multipliers_NC[:, 0].tolist() == [0.0] * 8
    assert (steering.multipliers_NC[:, 1] < 0).all()
    assert problem.equality_C.tolist() == [False, True]


def test_a_penalty_grows_where_a_round_did_not_halve_what_is_broken_and_only_there(decoder):
    limits = [Term("c", total, Bound(at_most=0.0)), Term("d", total, Bound(equals=0.0))]
    problem = Problem(decoder, [Term("loss", bowl)], constraints=limits)
    problem.check()
    rows = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]])
    state = still(problem, rows)
    state.steering = first_steering(problem, state, None, None)
    before = state.steering.penalties_NC.clone()
    state.steering = next_steering(problem, state, None)
    assert torch.equal(state.steering.penalties_NC, before), "the first look has nothing to compare with"
    assert state.steering.broken_NC[:, 0].tolist() == pytest.approx([2, 2, 0, 0], abs=0.01)
    assert state.steering.broken_NC[:, 1].tolist() == pytest.approx([2, 2, -2, -2], abs=0.01)
    # hardly better, much better, the same, and over to the other side
    move(problem, state, torch.tensor([[1.0, 0.9], [0.1, 0.1], [-1.0, -1.0], [0.9, 0.9]]))
    state.steering = next_steering(problem, state, None)
    grown = state.steering.penalties_NC / before
    assert grown[:, 0].tolist() == pytest.approx([4, 1, 1, 1])
    assert grown[:, 1].tolist() == pytest.approx([4, 1, 4, 1])
    for _ in range(30):
        state.steering = next_steering(problem, state, None)
    assert state.steering.penalties_NC[0, 0] / before[0, 0] == pytest.approx(1e6, rel=1e-3), "but not for ever"
    assert state.steering.multipliers_NC[2, 0] == 0
    assert state.steering.multipliers_NC[2, 1] < 0


def still(problem, z):
    n = len(z)
    target = torch.zeros(n, dtype=torch.long)
    flags = torch.zeros(n, dtype=torch.bool)
    return SearchState(z, target, torch.arange(n), problem.value(z, target), flags, 0)


def move(problem, state, z):
    state.z_ND, state.evaluation = z, problem.value(z, state.target_N, state.steering)


def test_steering_is_updated_without_a_host_sync(decoder):
    problem = Problem(decoder, [Term("loss", bowl)], constraints=[Term("c", total, Bound(at_most=0.0))])
    problem.check()
    state = still(problem, starts())
    with NoHostSync():
        state.steering = first_steering(problem, state, None, None)
        state.steering = next_steering(problem, state, None)
        problem.value_and_grad(state.z_ND, state.target_N, state.steering)


def test_rounds_are_spread_over_the_stage(decoder):
    changes = []

    class Spy:
        def __init__(self, search):
            self.search, self.n_steps, self.init, self.step = search, search.n_steps, search.init, search.step

        def changed(self, problem, state):
            changes.append(state.step)
            self.search.changed(problem, state)

    problem = Problem(decoder, [Term("loss", bowl)], constraints=[Term("c", total, Bound(at_most=0.0))])
    stage = Stage("spy", Spy(Adam(steps=120).build(decoder)))
    drive(problem, starts(), torch.zeros(8, dtype=torch.long), [stage], clock=Clock(problem, Budget()), seed=0)
    assert changes == [0, *range(10, 120, 10)]
    assert len(changes) == ROUNDS
    changes.clear()
    problem = Problem(decoder, [Term("loss", bowl)])
    drive(problem, starts(), torch.zeros(8, dtype=torch.long), [stage], clock=Clock(problem, Budget()), seed=0)
    assert changes == [], "nothing to steer"


def test_the_next_stage_begins_with_the_multipliers_of_its_rows(decoder):
    seen = []

    class Second:
        n_steps = 1

        def init(self, problem, z_ND, target_N, noise):
            return still(problem, z_ND)

        def changed(self, problem, state):
            seen.append((state.z_ND.clone(), state.steering))

        def step(self, problem, state):
            state.step += 1

    def slanted(c):
        return bowl(c) * (1 + c.target_index)

    problem = Problem(decoder, [Term("loss", slanted)], constraints=[Term("c", total, Bound(at_most=1.0))], targets=2)
    problem.check()
    stages = [Stage("adam", Adam(steps=300).build(decoder), 2), Stage("second", Second())]
    target = torch.arange(8) % 2
    drive(problem, starts(), target, stages, clock=Clock(problem, Budget()), seed=0)
    z, steering = seen[0]
    assert z.shape == (4, 2)
    # a loss twice as steep has a multiplier twice as large, and rows are ordered by target now
    assert steering.multipliers_NC[:, 0].tolist() == pytest.approx([1.0, 1.0, 2.0, 2.0], rel=0.05)
    assert (z.sum(1) - 1).abs().max() < 0.02


def test_a_second_stage_stays_feasible_and_gains(decoder):
    chain = [{"kind": "adam", "steps": 60, "keep": 4}, {"kind": "adam", "steps": 60, "lr": 0.02}]
    found = solve(decoder, bowl, limit(total, at_most=1.0), search=chain)
    assert found.feasible.all()
    middle = [r for r in found.history if r["stage"] == 0][-1]["best_T"][0]
    assert 0.5 <= found.losses[0] <= middle
    assert found.losses[0] == pytest.approx(0.5, rel=2e-3)


# ---------------------------------------------------------------------- what searches see


@pytest.mark.parametrize("steered", [False, True])
def test_residuals_square_up_to_the_merit(decoder, steered):
    class Squares:
        def __call__(self, c):
            return self.residuals(c).square().sum(1)

        def residuals(self, c):
            return c.designs - 1

    goals = [Bound(at_most=0.1), Bound(equals=0.3), Bound(at_least=0.4), Bound(between=(-0.1, 0.1))]
    limits = [Term(f"c{i}", total if i % 2 else norm, goal, 1.0 + i) for i, goal in enumerate(goals)]
    problem = Problem(decoder, [Term("s", Squares(), weight=3.0)], constraints=limits)
    problem.check()
    z, target = starts(6), torch.zeros(6, dtype=torch.long)
    steering = None
    if steered:
        state = still(problem, z)
        state.steering = first_steering(problem, state, None, None)
        steering = next_steering(problem, state, None)
    merit = problem.value(z, target, steering).merit_M
    found = problem.residuals(z, target, steering)
    assert found.shape == (6, 2 + 4)
    assert found.square().sum(1).tolist() == pytest.approx(merit.tolist(), rel=1e-4)
    zr = z.clone().requires_grad_(True)
    (by_residuals,) = torch.autograd.grad(problem.residuals(zr, target, steering).square().sum(), zr)
    _, gradient = problem.value_and_grad(z, target, steering)
    assert torch.allclose(by_residuals, gradient, rtol=1e-3, atol=1e-3)


def test_the_lagrangian_is_the_loss_at_zero_multipliers_within_the_bounds_and_flat_there():
    equality = torch.tensor([False, True])
    steering = Steering(torch.tensor([[0.0, 0.0], [4.0, -2.0]]), torch.tensor([[8.0, 8.0], [8.0, 8.0]]))
    signed = torch.tensor([[-1.0, 0.0], [-1.0, 0.5]])
    # row 1: max(0, -1 + 4/8) = 0; (8/2) (0.5 - 2/8)^2
    assert lagrangian(signed, equality, steering).tolist() == pytest.approx([0.0, 0.25])
    assert residuals(signed, equality, steering)[1].tolist() == pytest.approx([0.0, 0.5])
    broken = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    # (8/2) 0.5^2 twice; (8/2) (0.5 + 0.5)^2 + (8/2) (0.5 - 0.25)^2
    assert lagrangian(broken, equality, steering).tolist() == pytest.approx([2.0, 4.25])


def test_rows_of_a_batch_do_not_change_each_other(decoder):
    together, _ = staged(decoder, bowl, Term("c", total, Bound(at_most=1.0)), search=Adam(steps=60))
    together.start()
    together.loop([], None, reserve=0)
    alone, _ = staged(decoder, bowl, Term("c", total, Bound(at_most=1.0)), search=Adam(steps=60), n=1)
    alone.start()
    alone.loop([], None, reserve=0)
    assert torch.allclose(alone.state.z_ND, together.state.z_ND[:1], atol=1e-5)
    assert torch.allclose(alone.best.z_ND, together.best.z_ND[:1], atol=1e-5)
    for mine, theirs in zip(alone.state.steering[:3], together.state.steering[:3], strict=True):
        assert torch.allclose(mine, theirs[:1], rtol=1e-4, atol=1e-5)


def test_same_seed_same_result(decoder):
    one, two = (solve(decoder, bowl, limit(total, at_most=1.0), steps=40) for _ in range(2))
    assert torch.equal(one.latents, two.latents)


# ---------------------------------------------------------------------- goals


@pytest.mark.parametrize(
    ("goal", "margin"),
    [
        (Bound(equals=2.0), 2e-3),
        (Bound(equals=-50.0), 0.05),
        (Bound(equals=0.0), 1e-4),
        (Bound(at_most=0.0), 1e-4),
        (Bound(at_least=3.0), 3e-3),
        (Bound(between=(-1.0, 5.0)), 5e-3),
        (Bound(between=(1.0, 1.001)), 2.5e-4),
    ],
)
def test_margins(goal, margin):
    assert goal.margin == pytest.approx(margin)


def test_an_equality_holds_within_its_margin_and_other_bounds_to_the_number():
    off = torch.tensor([0.0, 1.9e-3, -1.9e-3, 2.1e-3, -2.1e-3, torch.nan])
    equal = Bound(equals=2.0)
    assert equal.beyond(equal.shortfall(2 + off))[:5].tolist() == pytest.approx([0, 0, 0, 2.1e-3, 2.1e-3], rel=1e-3)
    assert equal.beyond(equal.shortfall(2 + off))[5].isnan()
    most = Bound(at_most=2.0)
    assert most.beyond(most.shortfall(2 + off))[:5].tolist() == pytest.approx([0, 1.9e-3, 0, 2.1e-3, 0], rel=1e-3)
    assert most.beyond(most.shortfall(2 + off))[5].isnan()


@pytest.mark.parametrize(
    "goal", [Bound(at_most=1.0), Bound(at_least=1.0), Bound(between=(0.5, 1.0)), Bound(equals=1.0)]
)
def test_signed_agrees_with_shortfall(goal):
    value = torch.linspace(-2, 3, 101)
    signed, shortfall = goal.signed(value), goal.shortfall(value)
    assert torch.allclose(signed if goal.equals is not None else signed.clamp(min=0), shortfall)
    if goal.equals is None:
        assert ((signed < 0) | (shortfall > 0) | (signed == 0)).all()


# ---------------------------------------------------------------------- budgets, failures, other searches


@pytest.mark.parametrize("rows", [48, 100, 333, 1000])
def test_the_budget_holds_to_the_row(decoder, rows):
    before = decoder.rows.forward + decoder.rows.backward
    found = solve(decoder, bowl, limit(total, at_most=1.0), budget={"rows": rows})
    spent = decoder.rows.forward + decoder.rows.backward - before
    assert found.cost.rows <= rows
    assert spent - found.cost.rows == 4, "but for the check at the door, which is before the clock"
    assert found.cost.rows > rows - 2 * 16, "and it was used, a step or a round less at most"
    assert found.stopped == "budget"


def test_a_budget_that_does_not_cover_the_steered_start_is_refused(decoder):
    with pytest.raises(lo.ConfigError, match="a budget of 39 rows does not cover 8 starts .* which take 40"):
        solve(decoder, bowl, limit(total, at_most=1.0), budget={"rows": 39})


def test_of_what_cannot_be_met_the_result_says_by_how_much(decoder, capsys):
    both = [limit(total, at_most=1.0), limit(total, "d", at_least=3.0)]
    found = solve(decoder, bowl, *both)
    assert not found.feasible.any()
    assert found.best.feasible is False
    assert found.violations[0] == pytest.approx(2.0, abs=1e-3), "as little as there can be"
    assert found.summary()["best"]["feasible"] is False
    assert torch.equal(found.violations, found.violations.sort().values)
    again = (found.terms["c"] - 1).clamp(min=0) + (3 - found.terms["d"]).clamp(min=0)
    assert torch.allclose(found.violations, again, atol=1e-5)

    from latentopt.terminal import Screen, show_result

    show_result(Screen(), found)
    assert "no, by 2" in capsys.readouterr().out
    show_result(Screen(), solve(decoder, bowl, both[0]))
    out = capsys.readouterr().out
    assert "yes" in out
    assert "no, by" not in out


def test_feasible_rows_come_first_whatever_their_loss(decoder):
    found = solve(decoder, bowl, limit(total, at_most=-2.0), steps=3)
    assert torch.equal(found.feasible, found.feasible.sort(descending=True).values)
    assert found.feasible.any()
    assert not found.feasible.all()
    assert found.losses[found.feasible].min() > found.losses[~found.feasible].min()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_whose_constraint_has_no_value_are_lost_alone(decoder, bad):
    def broken(c):
        return total(c) * torch.where(c.designs[:, 0] > 4, bad, 1.0)

    z = starts()
    z[2] = torch.tensor([5.0, 0.0])
    sane = solve(decoder, bowl, limit(total, at_most=1.0), starts=torch.cat([z[:2], z[3:]]), steps=60)
    hurt = solve(decoder, bowl, limit(broken, at_most=1.0), starts=z, steps=60)
    assert torch.isfinite(hurt.violations).all()
    assert hurt.feasible.all()
    assert len(hurt) == 7, "the row that never had a value is no result"
    assert torch.allclose(hurt.losses, sane.losses, rtol=1e-3)


@pytest.mark.parametrize(
    "search",
    [
        {"kind": "random", "evaluations": 400},
        {"kind": "optuna", "sampler": "tpe", "evaluations": 120},
        {"kind": "optuna", "sampler": "cmaes", "evaluations": 300},
        {"kind": "optuna", "sampler": "random", "evaluations": 200},
    ],
    ids=["random", "tpe", "cmaes", "optuna-random"],
)
def test_searches_without_gradients_are_feasible_first_too(decoder, search):
    def blind(c):
        return total(c.__class__(c.latents, c.designs.detach(), c.target_index))

    # outside of the limit lies all that has a small loss
    found = solve(decoder, bowl, limit(blind, at_most=0.0), search=search, starts="mean")
    assert found.best.feasible
    assert 2.0 <= found.losses[0] < 3.5
    assert (found.terms["c"][found.feasible] <= 0).all()
    assert torch.equal(found.feasible, found.feasible.sort(descending=True).values)


def test_constraints_without_gradient_stop_a_gradient_search_at_the_door(decoder):
    with pytest.raises(lo.GradientError, match="no gradient reaches the latents from 'c'"):
        solve(decoder, bowl, limit(lambda c: (c.designs > 0).float().sum(1), at_most=1.0))


def test_a_chain_from_random_search_to_adam(decoder):
    chain = [{"kind": "random", "evaluations": 100, "keep": 4}, {"kind": "adam", "steps": 150}]
    found = solve(decoder, bowl, limit(total, at_most=1.0), search=chain)
    assert len(found) == 4
    assert found.feasible.all()
    assert found.losses[0] == pytest.approx(0.5, rel=5e-3)


def test_constraints_of_several_targets_are_each_their_own(decoder):
    def apart(c):
        return (c.designs - c.target_index[:, None]).square().sum(1)

    found = lo.optimize(
        decoder,
        target=torch.zeros(2, 2),
        objectives=apart,
        constraints=limit(total, at_most=1.0),
        starts=starts(4),
        region="free",
        search={"kind": "adam", "steps": 200},
    )
    assert found.feasible.all()
    assert found.best.loss.tolist() == pytest.approx([0.0, 0.5], abs=2e-3)


def test_a_saved_result_keeps_its_violations(decoder, tmp_path):
    found = solve(decoder, bowl, limit(total, at_most=1.0), limit(total, "d", at_least=3.0), steps=30)
    again = lo.load(found.save(tmp_path / "run"))
    assert torch.equal(again.violations, found.violations)
    assert list(again.terms) == list(found.terms)
    assert not again.best.feasible

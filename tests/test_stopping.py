"""Stop rules: the loss to stop at, the gain over a window, rows that leave the batch, and what constraints have to say."""

import pytest
import torch
from torch import nn

import latentopt as lo
from latentopt import rng
from latentopt.budget import Budget, Clock
from latentopt.driver import drive
from latentopt.goals import Bound
from latentopt.interfaces import SearchState
from latentopt.problem import Problem
from latentopt.ranking import Best
from latentopt.stagerun import Stage, StageRun, Stop
from latentopt.terms import Term
from latentopt.testing import NoHostSync
from latentopt_std import Adam


class Same(nn.Module):
    """Designs are the latents."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z):
        return z + 0 * self.unused


def plane(dim=1):
    return lo.Decoder(Same(), latent_shape=(dim,), prior="normal", name="same")


@pytest.fixture
def decoder():
    return plane()


def first(c):
    return c.designs[:, 0]


class Script:
    """Rows (one latent value each) go through given values `(S, N)`, a step each; forty steps or fewer report at each."""

    def __init__(self, values_SN):
        self.values = torch.as_tensor(values_SN, dtype=torch.float32)
        self.n_steps = len(self.values)
        self.batches = []

    def init(self, problem, z_ND, target_N, noise):
        flags = torch.zeros(len(z_ND), dtype=torch.bool)
        return SearchState(z_ND, target_N, torch.arange(len(z_ND)), problem.value(z_ND, target_N), flags, 0)

    def step(self, problem, state):
        state.step += 1
        self.batches.append(len(state.z_ND))
        state.z_ND = self.values[state.step - 1][state.row_id_N][:, None]
        state.evaluation = problem.value(state.z_ND, state.target_N)


def scripted(decoder, values, stop, *, start=10.0, constraints=(), targets=1, **more):
    """The driver's outcome, and the search."""
    search = Script(values)
    n = search.values.shape[1]
    problem = Problem(decoder, [Term("x", first)], constraints=constraints, targets=targets)
    target = torch.arange(n) % targets
    stage = Stage("script", search, None, stop)
    z = torch.full((n, 1), start)
    found = drive(problem, z, target, [stage], clock=Clock(problem, Budget()), seed=0, **more)
    return found, search


def last_step(found):
    return found.history[-1].step


# ---------------------------------------------------------------------- one row: when it is finished


@pytest.mark.parametrize(("at", "step"), [(5.0, 3), (5.5, 3), (4.9, 4), (4.0, 4), (0.9, 6), (None, 6)])
def test_stop_at_ends_with_the_first_best_that_is_low_enough(decoder, at, step):
    found, _ = scripted(decoder, [[8.0], [9.0], [5.0], [4.0], [3.0], [1.0]], Stop(at=at))
    assert last_step(found) == step
    assert found.stopped == "finished"


def test_stop_at_of_a_negative_loss(decoder):
    path = [[-1.0], [-2.0], [-3.0], [-4.0]]
    assert last_step(scripted(decoder, path, Stop(at=-2.5))[0]) == 3
    assert last_step(scripted(decoder, path, Stop(at=0.0))[0]) == 1


def test_starts_that_are_good_enough_are_not_moved(decoder):
    found, search = scripted(decoder, [[9.0]] * 30, Stop(at=10.0))
    assert search.batches == []
    assert last_step(found) == 0
    assert found.z_ND[0, 0] == 10.0


@pytest.mark.parametrize(
    ("gain", "window", "step"),
    [
        (0.0, 2, 9),  # never
        (0.1, 2, 5),  # 10 8 6 5 4.9 4.8: over the last two steps 5 to 4.8 is the first below a tenth
        (0.1, 4, 7),  # 5 at step 3 to 4.7 at step 7
        (0.5, 2, 2),  # 10 at the start to 6 at step 2
        (0.1, 20, 9),  # the window is longer than the search
    ],
)
@pytest.mark.parametrize("sign", ["+", "-"])
def test_stop_gain_looks_at_the_share_gained_over_the_window(decoder, gain, window, step, sign):
    path = torch.tensor([8.0, 6.0, 5.0, 4.9, 4.8, 4.75, 4.7, 4.65, 4.6])[:, None]
    start = 10.0
    if sign == "-":  # the same shares of a negative level, downwards
        levels = [-1.0]
        for before, after in zip([10.0, *path[:-1, 0].tolist()], path[:, 0].tolist(), strict=True):
            levels.append(levels[-1] * (1 + (before - after) / before))
        start, path = levels[0], torch.tensor(levels[1:])[:, None]
    found, _ = scripted(decoder, path, Stop(gain=gain, window=window), start=start)
    if sign == "+" or gain == 0.0 or window == 20:
        assert last_step(found) == step
    else:  # compounded shares of a growing level are a little larger
        assert step <= last_step(found) <= step + 2


def test_a_row_that_stands_still_is_finished_at_any_level(decoder):
    for level in (5.0, 0.0, -5.0):
        found, _ = scripted(decoder, [[level]] * 30, Stop(gain=1e-3, window=6), start=level)
        assert last_step(found) == 6, level


def test_without_a_value_yet_a_row_is_not_finished(decoder):
    path = [[torch.nan]] * 6 + [[3.0]] * 20
    # from a start that has a value none is lost for good, but one without a value has no gain to speak of
    search, n = Script(torch.tensor(path).expand(-1, 2).clone()), 2
    search.values[:, 1] = torch.linspace(9, 1, 26)
    problem = Problem(decoder, [Term("x", first)])
    z = torch.tensor([[torch.nan], [10.0]])
    stage = Stage("script", search, None, Stop(gain=0.01, window=4))
    found = drive(problem, z, torch.zeros(n, dtype=torch.long), [stage], clock=Clock(problem, Budget()), seed=0)
    assert last_step(found) == 26
    assert found.z_ND[:, 0].tolist() == pytest.approx([1.0, 3.0])


def test_all_rows_must_be_finished(decoder):
    path = torch.tensor([[8.0, 9.0], [4.0, 9.0], [3.0, 9.0], [2.0, 4.0], [1.0, 1.0]])
    found, search = scripted(decoder, path, Stop(at=5.0))
    assert last_step(found) == 4
    assert search.batches == [2] * 4, "so few rows stay together"
    assert found.z_ND[:, 0].tolist() == [2.0, 4.0], "and a finished row that is still there goes on"


def test_a_lost_row_does_not_keep_the_others_going(decoder):
    path = torch.linspace(9, 1, 30)[:, None].repeat(1, 2)
    path[5:, 1] = torch.nan
    found, _ = scripted(decoder, path, Stop(at=5.0))
    assert found.diverged == 1
    assert last_step(found) < 20


# ---------------------------------------------------------------------- many rows: the batch shrinks


def descent(n, steps=60):
    """Rows that come down at different speeds `(S, N)`, and then stay."""
    speed = torch.linspace(0.05, 0.5, n)
    return (10 - torch.arange(1, steps + 1)[:, None] * speed).clamp(min=1.0)


def test_finished_rows_leave_the_batch_and_results_keep_their_order(decoder):
    n = 300
    whole, plain = scripted(decoder, descent(n), Stop())
    fewer, search = scripted(decoder, descent(n), Stop(at=3.0))
    assert set(plain.batches) == {n}
    assert search.batches[0] == n
    assert search.batches == sorted(search.batches, reverse=True)
    assert len(set(search.batches)) > 5, "again and again"
    assert sum(search.batches) < 0.75 * sum(plain.batches)
    assert fewer.forward_rows == n + sum(search.batches)
    assert len(fewer.z_ND) == n
    rows = fewer.history[-1].rows_N
    assert len(rows) == n
    assert max(rows[i] for i in range(n) if descent(n)[-1, i] <= 3.0) <= 3.0
    slow = [i for i in range(n) if descent(n)[-1, i] > 3.0]
    assert len(slow) > 20
    assert [rows[i] for i in slow] == [whole.history[-1].rows_N[i] for i in slow], "who stays ends as in the whole"


def test_batches_are_never_made_smaller_than_64(decoder):
    path = descent(300)
    path[:, 10:] = 1.0
    found, search = scripted(decoder, path, Stop(at=3.0))
    assert search.batches[0] == 300
    assert set(search.batches[1:]) == {64}
    assert sum(loss <= 3.0 for loss in found.history[-1].rows_N) == 290
    _, search = scripted(decoder, descent(64), Stop(at=3.0))
    assert set(search.batches) == {64}


def test_a_batch_of_which_few_are_finished_stays_whole(decoder):
    path = torch.full((80, 200), 9.0)
    path[:, :9] = 1.0
    _, search = scripted(decoder, path, Stop(at=3.0))
    assert set(search.batches) == {200}, "more than 95 % are still at work"
    path[:, :11] = 1.0
    _, search = scripted(decoder, path, Stop(at=3.0))
    assert search.batches[-1] == 189


def test_lost_rows_leave_the_batch_too(decoder):
    path = torch.linspace(9, 1, 80)[:, None].repeat(1, 200)
    path[3:, ::2] = torch.nan
    found, search = scripted(decoder, path, Stop())
    assert search.batches[-1] == 100
    assert found.diverged == 100
    assert len(found.z_ND) == 200


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_rows_that_stay_end_as_they_would_without_compaction(noise):
    decoder = plane(3)

    def loss(c):  # rows of odd targets never come below 1
        return (c.designs - 0.5).square().sum(1) + c.target_index % 2

    def run(stop):
        search = Adam(steps=80, noise=noise, lr=0.1).build(decoder)
        problem = Problem(decoder, [Term("loss", loss)], targets=2)
        z, target = rng.randn(200, 3, rng.generator(1)), torch.arange(200) % 2
        clock = Clock(problem, Budget())
        return drive(problem, z, target, [Stage("adam", search, None, stop)], clock=clock, seed=0)

    whole, fewer = run(Stop()), run(Stop(at=0.5))
    assert fewer.forward_rows < 0.8 * whole.forward_rows
    late = torch.tensor(whole.history[-1].rows_N)[1::2], torch.tensor(fewer.history[-1].rows_N)[1::2]
    assert torch.allclose(*late, atol=1e-5)
    assert torch.allclose(whole.z_ND[whole.target_N == 1], fewer.z_ND[fewer.target_N == 1], atol=1e-3)
    assert max(fewer.history[-1].rows_N[::2]) <= 0.5


def test_options_reach_the_driver_by_every_door(decoder, tmp_path):
    def loss(c):
        return c.designs.square().sum(1)

    search = {"kind": "adam", "steps": 200, "stop_at": 1e-3}
    found = lo.optimize(decoder, objectives=loss, search=search)
    assert found.history[-1]["step"] < 200
    assert found.losses.max() <= 1e-3
    assert found.config["task"]["search"][0]["stop_at"] == 1e-3
    gain = lo.optimize(decoder, objectives=loss, search=Adam(steps=400, lr=0.05, schedule="constant", stop_gain=0.01))
    assert gain.history[-1]["step"] < 400
    path = tmp_path / "run.yaml"
    path.write_text("{decoder: digits, task: {kind: optimize, objectives: prior, search: adam}}")
    changes = [f"task.search.{name}" for name in ("stop_at=0.5", "stop_gain=0.01", "stop_window=7")]
    from latentopt.config import read_config

    (made,) = read_config(path, changes).task.search
    assert (made.stop_at, made.stop_gain, made.stop_window) == (0.5, 0.01, 7)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"stop_gain": 1.0}, "task.search.0.stop_gain: Input should be less than 1, got 1"),
        ({"stop_gain": -0.1}, "task.search.0.stop_gain: Input should be greater than or equal to 0"),
        ({"stop_window": 0}, "task.search.0.stop_window: Input should be greater than or equal to 1, got 0"),
        ({"stop_at": float("nan")}, "task.search.0.stop_at: Input should be a finite number"),
        ({"stop_att": 1}, "task.search.0: unknown key 'stop_att'; did you mean 'stop_at'"),
    ],
)
def test_bad_options(decoder, option, text):
    with pytest.raises(lo.ConfigError) as caught:
        lo.optimize(decoder, objectives=first, search={"kind": "adam", **option})
    assert text in str(caught.value)


# ---------------------------------------------------------------------- ask/tell


def test_a_target_is_reached_by_any_of_its_rows(decoder):
    def loss(c):
        return c.designs.square().sum(1)

    search = {"kind": "random", "evaluations": 5000, "batch": 20}
    whole = lo.optimize(decoder, objectives=loss, search=search, starts="mean")
    found = lo.optimize(decoder, objectives=loss, search={**search, "stop_at": 1e-4}, starts="mean")
    assert found.best.loss <= 1e-4
    assert found.cost.forward_rows < whole.cost.forward_rows
    assert len(found) == 20
    assert found.losses.max() > 1e-4, "one row is enough"


def test_every_target_must_be_reached(decoder):
    def loss(c):  # the second target is out of reach
        return c.designs.square().sum(1) + c.target_index

    search = {"kind": "random", "evaluations": 600, "batch": 20, "stop_at": 0.5}
    both = lo.optimize(decoder, target=torch.zeros(2, 1), objectives=loss, search=search, starts="mean")
    one = lo.optimize(decoder, target=torch.zeros(1, 1), objectives=loss, search=search, starts="mean")
    assert one.history[-1]["step"] <= 1
    last = both.history[-1]
    assert last["step"] == last["n_steps"] > 10


# ---------------------------------------------------------------------- constraints and fronts


def test_rows_that_break_a_constraint_are_never_finished(decoder):
    """At 4, 3 and 2 the loss is low enough, but the limit is broken."""
    limit = Term("c", first, Bound(at_least=5.0))
    found, _ = scripted(
        decoder, [[4.0], [3.0], [2.0], [6.0], [5.5], [5.0]], Stop(at=5.6), start=4.0, constraints=[limit]
    )
    assert last_step(found) == 5
    assert found.z_ND[0, 0] == 5.5
    still, _ = scripted(decoder, [[4.0]] * 20, Stop(gain=0.01, window=3), start=4.0, constraints=[limit])
    assert last_step(still) == 20, "nothing gained, but nothing feasible either"


def test_a_row_that_has_only_just_become_feasible_has_gained(decoder):
    """Its loss is higher than before, when it broke the constraint: no reason to stop."""
    limit = Term("c", first, Bound(at_least=5.0))
    path = [[1.0]] * 5 + [[9.0], [8.0], [7.0], [6.0], [5.5]] + [[5.4]] * 9
    found, _ = scripted(decoder, path, Stop(gain=0.05, window=4), start=1.0, constraints=[limit])
    assert found.z_ND[0, 0] == pytest.approx(5.4)
    assert last_step(found) == 14, "5.5 at step 10 to 5.4 at step 14"


def bowl(c):
    return (c.designs - 1).square().sum(1)


def test_under_constraints_a_loss_that_is_reached_ends_the_run():
    limit = {"kind": "callable", "function": lambda c: c.designs.sum(1), "goal": {"at_most": 1.0}, "name": "c"}
    given = {"objectives": bowl, "constraints": limit, "region": "free", "starts": rng.randn(8, 2, rng.generator(3))}
    found = lo.optimize(plane(2), search={"kind": "adam", "steps": 300, "stop_at": 0.6}, **given)
    assert found.feasible.all()
    assert found.losses.max() <= 0.6
    whole = [max(loss for loss in r["rows_N"]) <= 0.6 for r in found.history]
    assert whole.index(True) == len(whole) - 1, "with the first report that says so"
    never = lo.optimize(plane(2), search={"kind": "adam", "steps": 100, "stop_at": 0.4}, **given)
    assert never.history[-1]["step"] == 100, "0.5 is the least within the limit, below it all is infeasible"


def test_rows_that_gain_nothing_get_new_multipliers_before_they_are_given_up():
    """At the end of its first inner solve a row gains nothing, but with its multipliers it has more to do."""
    changes = []

    class Spy:
        def __init__(self, search):
            self.search, self.n_steps, self.init, self.step = search, search.n_steps, search.init, search.step

        def changed(self, problem, state):
            changes.append(state.step)
            self.search.changed(problem, state)

    decoder = plane(2)
    problem = Problem(
        decoder, [Term("loss", bowl)], constraints=[Term("c", lambda c: c.designs.sum(1), Bound(at_most=1.0))]
    )
    problem.check()
    stop = Stop(gain=0.5, window=10)
    stage = Stage("spy", Spy(Adam(steps=4000, lr=0.02, schedule="constant").build(decoder)), None, stop)
    z = rng.randn(4, 2, rng.generator(3))
    found = drive(problem, z, torch.zeros(4, dtype=torch.long), [stage], clock=Clock(problem, Budget()), seed=0)
    assert last_step(found) < 4000
    assert len(changes) == 13, "the first and twelve rounds"
    assert changes[1] < 4000 // 12, "and none waited for its turn"
    value = problem.value(found.z_ND, found.target_N)
    assert value.violation_M.max() == 0
    assert value.loss_M.min() == pytest.approx(0.5, rel=0.02)


def test_a_front_is_never_finished_early():
    objectives = [
        {"kind": "callable", "function": lambda c, k=k: (c.designs - k).square().sum(1), "name": f"o{k}"}
        for k in (0, 1)
    ]
    search = {"kind": "adam", "steps": 50, "stop_at": 100.0, "stop_gain": 0.9, "stop_window": 1}
    found = lo.optimize(plane(2), objectives=objectives, pareto=True, search=search)
    assert found.history[-1]["step"] == 50


# ---------------------------------------------------------------------- cost


@pytest.mark.parametrize("constrained", [False, True])
def test_stop_rules_read_no_value_between_reports(constrained):
    decoder = plane(2)
    limits = [Term("c", lambda c: c.designs.sum(1), Bound(at_most=1.0))] if constrained else []
    problem = Problem(decoder, [Term("loss", bowl)], constraints=limits)
    problem.check()
    z, target = rng.randn(100, 2, rng.generator(3)), torch.zeros(100, dtype=torch.long)
    unknown = torch.full((100,), torch.inf)
    stage = Stage("adam", Adam(steps=400).build(decoder), None, Stop(at=0.1, gain=0.01, window=5))
    run = StageRun(problem, stage, (0, 0), Best(z, unknown, unknown, target, target), 0, Clock(problem, Budget()))
    history, reported = [], run._report

    def aside(*given):  # a report copies figures to the host, once
        guard.__exit__(None, None, None)
        reported(*given)
        guard.__enter__()

    run._report = aside
    with decoder.frozen():
        run.start()
        guard = NoHostSync()
        run._note_finished = no_sync(run._note_finished)
        with guard:
            run.loop(history, None, reserve=0)
    assert len(history) > 2


def no_sync(function):
    def guarded():
        with NoHostSync():
            function()

    return guarded

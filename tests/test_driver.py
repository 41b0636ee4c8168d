"""The driver: best-so-far, stages, budget, reports, NaN rows, compaction, interrupts."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import latentopt as lo
from latentopt import rng
from latentopt.budget import Budget, Clock
from latentopt.driver import drive
from latentopt.goals import Bound
from latentopt.interfaces import SearchState
from latentopt.problem import Problem
from latentopt.stagerun import Stage
from latentopt.terms import Term
from latentopt.testing import ToyNet, toy_decoders
from latentopt_std import Adam


def distance(c):
    return (c.latents - 0.5).square().sum(1)


@dataclass
class ScriptedState(SearchState):
    pass


class Scripted:
    """Moves every row through a given list of latents; may call a function at a step."""

    def __init__(self, path_SND, at_step=None, done=None):
        self.path, self.n_steps = path_SND, len(path_SND)
        self.at_step, self.done = at_step or {}, done or {}

    def init(self, problem, z_ND, target_N, noise):
        n = len(z_ND)
        flags = torch.zeros(n, dtype=torch.bool)
        return ScriptedState(z_ND, target_N, torch.arange(n), problem.value(z_ND, target_N), flags, 0)

    def step(self, problem, state):
        state.step += 1
        if state.step in self.at_step:
            self.at_step[state.step]()
        state.z_ND = self.path[state.step - 1][state.row_id_N]
        state.evaluation = problem.value(state.z_ND, state.target_N)
        if state.step in self.done:
            state.done_N = state.done_N | torch.isin(state.row_id_N, self.done[state.step])


@pytest.fixture
def decoder():
    return toy_decoders()["vector"]


def drive_path(decoder, path, *, terms=(), constraints=(), budget=None, on_report=None, targets=1, **scripted):
    problem = Problem(decoder, terms or [Term("d", distance)], constraints=constraints, targets=targets)
    z = torch.full((path.shape[1], 3), 2.0)
    clock = Clock(problem, Budget(**(budget or {})))
    stage = Stage("scripted", Scripted(path, **scripted))
    target = torch.arange(path.shape[1]) % targets
    return drive(problem, z, target, [stage], clock=clock, seed=0, on_report=on_report), problem


def test_returns_the_best_and_never_the_last(decoder):
    path = torch.stack([torch.full((2, 3), v) for v in (1.0, 0.6, 3.0)])
    found, _ = drive_path(decoder, path)
    assert torch.allclose(found.z_ND, torch.full((2, 3), 0.6))
    assert found.best_step_N.tolist() == [2, 2]
    assert [report.step for report in found.history] == [0, 1, 2, 3]
    assert found.history[-1].best_T[0] == pytest.approx(0.03)


def test_each_row_keeps_its_own_best_and_rows_come_ordered_by_target_then_loss(decoder):
    path = torch.tensor([[[0.9] * 3, [0.6] * 3, [0.7] * 3, [0.8] * 3]])
    found, _ = drive_path(decoder, path, targets=2)
    assert found.target_N.tolist() == [0, 0, 1, 1]
    assert found.z_ND[:, 0].tolist() == pytest.approx([0.7, 0.9, 0.6, 0.8])


def test_feasible_first_then_the_loss_without_penalties(decoder):
    limit = Term("x", lambda c: c.latents[:, 0], Bound(at_least=1.0))
    path = torch.tensor([[[0.5] * 3], [[1.5] * 3], [[1.0] * 3], [[0.9] * 3]])
    found, _ = drive_path(decoder, path, constraints=[limit])
    assert found.z_ND[0, 0] == 1.0


def test_a_nan_row_is_counted_and_never_wins_and_never_touches_the_others(decoder):
    clean = torch.stack([torch.full((3, 3), v) for v in (1.5, 1.0, 0.8)])
    broken = clean.clone()
    broken[1:, 1] = torch.nan
    sane, _ = drive_path(decoder, clean)
    hurt, _ = drive_path(decoder, broken)
    assert hurt.diverged == 1
    assert hurt.history[-1].alive == 2
    assert torch.isfinite(hurt.z_ND).all()
    assert torch.equal(hurt.z_ND[:2], sane.z_ND[:2])
    assert hurt.z_ND[2, 0] == 1.5, "the best before it broke is kept"


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_infinite_losses_never_win(decoder, bad):
    def loss(c):
        return torch.where(c.latents[:, 0] < 1, bad, distance(c))

    path = torch.stack([torch.full((2, 3), v) for v in (1.5, 0.5, 1.2)])
    path[1, 1] = 1.4
    found, _ = drive_path(decoder, path, terms=[Term("d", loss)])
    assert found.z_ND[:, 0].tolist() == pytest.approx([1.2, 1.2])
    assert found.diverged == 1
    alone, _ = drive_path(decoder, path[:, :1], terms=[Term("d", loss)])
    assert alone.z_ND[0, 0] == 1.5, "with every row lost the run ends, and the best before that is returned"


def test_all_rows_diverged_says_which_term_and_step(decoder):
    def loss(c):
        return distance(c) * torch.nan

    with pytest.raises(lo.DivergedError, match="all 2 rows diverged: term 'loss' was NaN or infinite for every row"):
        drive_path(decoder, torch.full((2, 2, 3), 1.0), terms=[Term("loss", loss)])
    assert lo.DivergedError.exit_code == 1


def test_budget_in_rows_is_never_overrun(decoder):
    path = torch.linspace(2, 0.5, 50)[:, None, None].expand(50, 4, 3)
    for rows in (8, 11, 40, 100, 203):
        found, problem = drive_path(decoder, path, budget={"rows": rows})
        assert found.stopped == ("budget" if rows < 208 else "finished")
        assert found.forward_rows + 4 <= rows, "the final decode of 4 rows is within the budget"
        assert found.forward_rows + 4 > rows - 4, "and the budget was used"
    assert problem.decoder.rows.forward > 0


def test_a_budget_too_small_for_the_starts_is_an_error(decoder):
    with pytest.raises(lo.ConfigError, match="a budget of 7 rows does not cover 4 starts and their final evaluation"):
        drive_path(decoder, torch.ones(3, 4, 3), budget={"rows": 7})


def test_budget_in_seconds(decoder, monkeypatch):
    now = iter(range(10_000))
    monkeypatch.setattr("latentopt.budget.time.perf_counter", lambda: float(next(now)))
    found, _ = drive_path(decoder, torch.ones(5000, 1, 3), budget={"seconds": 100.0})
    assert found.stopped == "budget"
    assert 0 < found.history[-1].step < 5000


def test_an_interrupt_returns_the_best_so_far(decoder):
    def interrupt():
        raise KeyboardInterrupt

    path = torch.stack([torch.full((2, 3), v) for v in (1.0, 0.6, 0.5)])
    found, _ = drive_path(decoder, path, at_step={3: interrupt})
    assert found.stopped == "interrupted"
    assert torch.allclose(found.z_ND, torch.full((2, 3), 0.6))


def test_reports_about_forty_times_and_hands_over_plain_numbers(decoder):
    seen = []
    path = torch.linspace(2, 0.5, 400)[:, None, None].expand(400, 2, 3)
    found, _ = drive_path(decoder, path, on_report=seen.append)
    assert 40 <= len(seen) <= 42
    assert seen == found.history
    last = seen[-1]
    assert (last.step, last.n_steps, last.alive, last.forward_rows) == (400, 400, 2, 802)
    assert isinstance(last.best_T[0], float)
    assert len(last.rows_N) == 2


def test_finished_rows_leave_the_batch_and_results_keep_their_order(decoder):
    n = 200
    path = torch.linspace(2, 0.5, 80)[:, None, None].expand(80, n, 3) + torch.arange(n)[None, :, None] * 1e-3
    done = {10: torch.arange(0, 100)}
    whole, _ = drive_path(decoder, path)
    fewer, _ = drive_path(decoder, path, done=done)
    assert fewer.forward_rows < 0.7 * whole.forward_rows
    assert len(fewer.z_ND) == n
    last = fewer.history[-1].rows_N
    assert last[100:] == whole.history[-1].rows_N[100:], "rows that stayed end as they would have"
    assert last[0] > whole.history[-1].rows_N[0], "rows that left stopped improving"


def test_few_rows_and_terms_across_rows_are_not_compacted(decoder):
    path = torch.ones(80, 60, 3)
    few, _ = drive_path(decoder, path, done={10: torch.arange(50)})
    assert few.forward_rows == 81 * 60
    whole = [Term("d", distance, across_rows=True)]
    across, _ = drive_path(decoder, torch.ones(80, 200, 3), done={10: torch.arange(150)}, terms=whole)
    assert across.forward_rows == 81 * 200


def test_stages_chain_from_the_best_rows(decoder):
    problem = Problem(decoder, [Term("d", distance)])
    first = torch.stack([torch.tensor([[0.9] * 3, [0.6] * 3, [0.6] * 3, [1.4] * 3])])
    seen = []

    class Second(Scripted):
        def init(self, problem, z_ND, target_N, noise):
            seen.append(z_ND.clone())
            return super().init(problem, z_ND, target_N, noise)

    stages = [Stage("a", Scripted(first), keep=2), Stage("b", Second(torch.full((1, 2, 3), 5.0)))]
    z = torch.full((4, 3), 2.0)
    found = drive(problem, z, torch.zeros(4, dtype=torch.long), stages, clock=Clock(problem, Budget()), seed=0)
    assert seen[0][:, 0].tolist() == pytest.approx([0.6, 0.9]), "the best distinct rows go on"
    assert found.z_ND[:, 0].tolist() == pytest.approx([0.6, 0.9]), "a worse stage loses nothing"
    assert [r.name for r in found.history] == ["a", "a", "b", "b"]


def test_the_callers_module_is_as_it_was_after_a_run():
    net = ToyNet(3, (5,))
    net.train()
    net.first.eval()
    net.first.weight.requires_grad_(False)
    decoder = lo.Decoder(net, (3,), prior="normal")
    lo.optimize(decoder, target=torch.zeros(5), search=Adam(steps=3))
    assert (net.training, net.first.training, net.second.training) == (True, False, True)
    assert not net.first.weight.requires_grad
    assert net.second.weight.requires_grad
    assert net.second.weight.grad is None


def test_noise_is_the_same_with_compaction_on_and_off():
    noise = rng.RowNoise(0, 0, 100)
    ids = torch.arange(100)
    kept = ids[ids % 3 == 0]
    assert torch.equal(noise.normal(7, ids, 3)[kept], noise.normal(7, kept, 3))
    assert not torch.equal(noise.normal(7, ids, 3), noise.normal(8, ids, 3))


def test_state_take_keeps_aligned_rows(decoder):
    problem = Problem(decoder, [Term("d", distance)])
    z = decoder.space.draw(5, rng.generator(0))
    state = Adam().build(decoder).init(problem, z, torch.arange(5) * 0, rng.RowNoise(0, 0, 5))
    rows = torch.tensor([3, 1])
    loss: Tensor = state.evaluation.loss_M.clone()
    state.take(rows)
    assert state.row_id_N.tolist() == [3, 1]
    assert torch.equal(state.evaluation.loss_M, loss[rows])
    assert len(state.first_ND) == len(state.gradient_ND) == len(state.evaluation.terms["d"]) == 2


def test_a_nan_constraint_costs_its_own_step_alone(decoder, monkeypatch):
    monkeypatch.setattr("latentopt.stagerun.REPORTS_PER_STAGE", 1)  # so that all steps are compared in one go
    limit = Term("x", lambda c: torch.where(c.latents[:, 0] == 0.8, torch.nan, c.latents[:, 0]), Bound(at_least=0.4))
    path = torch.tensor([[[1.5] * 3], [[0.8] * 3], [[0.6] * 3], [[0.9] * 3]])
    found, _ = drive_path(decoder, path, constraints=[limit])
    assert found.z_ND[0, 0] == pytest.approx(0.6)


def test_an_interrupt_while_comparing_loses_no_step(decoder, monkeypatch):
    path = torch.stack([torch.full((2, 3), v) for v in (1.0, 0.6, 0.9)])
    whole, real = [], torch.stack

    def once(parts, *rest):
        if len(parts) > 2 and not whole:
            whole.append(True)
            raise KeyboardInterrupt
        return real(parts, *rest)

    monkeypatch.setattr("latentopt.stagerun.REPORTS_PER_STAGE", 1)
    monkeypatch.setattr("latentopt.stagerun.torch.stack", once)
    found, _ = drive_path(decoder, path)
    assert found.stopped == "interrupted"
    assert torch.allclose(found.z_ND, torch.full((2, 3), 0.6))


# ---------------------------------------------------------------------- what stages and seconds leave to each other


def stages_within(decoder, lengths, **budget):
    problem = Problem(decoder, [Term("d", distance)])
    z = torch.full((4, 3), 2.0)
    stages = [Stage(f"s{i}", Scripted(torch.full((n, 4, 3), 1.0 + i))) for i, n in enumerate(lengths)]
    clock = Clock(problem, Budget(**budget))
    return drive(problem, z, torch.zeros(4, dtype=torch.long), stages, clock=clock, seed=0)


def steps_by_stage(found):
    return [
        max(report.step for report in found.history if report.stage == stage)
        for stage in sorted({r.stage for r in found.history})
    ]


def test_stages_share_a_budget_that_is_too_small_in_proportion(decoder):
    found = stages_within(decoder, [30, 10], rows=4 * 21)
    first, second = steps_by_stage(found)
    assert second >= 4, "a quarter of the steps"
    assert 12 <= first <= 16
    assert found.forward_rows <= 4 * 21
    assert found.stopped == "budget"
    assert found.notes[0] == f"its share of the budget ended in stage 1 (s0), at step {first} of 30"
    assert found.notes[1] == f"the budget ended in stage 2 (s1), at step {second} of 10"


def test_a_budget_that_is_enough_is_not_shared_out(decoder):
    found = stages_within(decoder, [30, 10], rows=4 * 50)
    assert steps_by_stage(found) == [30, 10]
    assert found.notes == []
    assert found.stopped == "finished"


def test_what_a_stage_leaves_goes_to_the_next(decoder):
    problem = Problem(decoder, [Term("d", distance)])
    short = Scripted(torch.full((30, 4, 3), 1.0), done={2: torch.arange(4)})
    stages = [Stage("short", short), Stage("long", Scripted(torch.full((10, 4, 3), 1.5)))]
    clock = Clock(problem, Budget(rows=4 * 20))
    found = drive(problem, torch.full((4, 3), 2.0), torch.zeros(4, dtype=torch.long), stages, clock=clock, seed=0)
    assert steps_by_stage(found) == [2, 10]


def test_no_time_at_all_still_evaluates_the_starts(decoder):
    found = stages_within(decoder, [5], seconds=1e-9)
    assert steps_by_stage(found) == [0]
    assert found.forward_rows == 4
    assert found.stopped == "budget"


def test_a_step_that_would_end_after_the_time_is_not_begun(decoder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("latentopt.budget.time.perf_counter", lambda: now[0])

    def slow():
        now[0] += 3.0

    path = torch.full((9, 2, 3), 1.0)
    found, _ = drive_path(decoder, path, budget={"seconds": 10.0}, at_step=dict.fromkeys(range(1, 10), slow))
    assert found.history[-1].step == 2, "the third would end at 9 s, and its rows' final decode after 10"
    assert found.seconds == 6.0

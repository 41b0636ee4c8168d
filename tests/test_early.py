"""Early reports: one decode a row, dear calls for few rows, failures, blocks, several terms, what the driver counts."""

import numpy as np
import pytest
import torch

import latentopt as lo
from latentopt import rng
from latentopt.asktell import AskTell, Told
from latentopt.budget import Budget, Clock
from latentopt.driver import drive
from latentopt.early import early_rungs, judge_early
from latentopt.goals import Bound
from latentopt.optimizers import OneATarget
from latentopt.problem import Problem
from latentopt.stagerun import Stage
from latentopt.terms import Term
from latentopt.testing import toy_decoders


class Growing:
    """The designs' mean square, and less and less of a bias; keeps what it was called with."""

    def __init__(self, rungs: int = 2, bias: float = 0.1) -> None:
        self.rungs, self.bias = rungs, bias
        self.calls: list[tuple[int | None, int]] = []

    def early(self, c, rung):
        self.calls.append((rung, len(c.latents)))
        return c.designs.square().mean(1) + self.bias * (self.rungs - rung)

    def __call__(self, c):
        self.calls.append((None, len(c.latents)))
        return c.designs.square().mean(1)


def rows(n=8):
    decoder = toy_decoders()["vector"]
    return decoder, decoder.space.draw(n, rng.generator(3)), torch.arange(n) % 2


def keep_all(rung, merit_N):
    return np.isfinite(merit_N)


def best_half(rung, merit_N):
    return merit_N <= np.nanmedian(merit_N)


# ---------------------------------------------------------------------- a batch


def test_where_all_rows_go_on_the_evaluation_is_the_usual_one():
    decoder, z_ND, target_N = rows()
    wall = Term("wall", lambda c: c.latents[:, 0], Bound(at_least=0.0), 2.0)
    problem = Problem(decoder, [Term("dear", Growing(), "maximize", 3.0)], constraints=[wall], targets=2)
    problem.check()
    before = decoder.rows.forward
    found, pruned_N = judge_early(problem, z_ND, target_N, keep_all)
    assert decoder.rows.forward - before == 8, "decoded once"
    usual = problem.value(z_ND, target_N)
    assert not pruned_N.any()
    for mine, theirs in zip(found[:3], usual[:3], strict=True):
        assert torch.equal(mine, theirs)
    assert all(torch.equal(found.terms[name], usual.terms[name]) for name in ("dear", "wall"))


def test_rows_given_up_are_spared_the_dearer_calls_and_are_infinite():
    decoder, z_ND, target_N = rows()
    term, seen = Growing(), []
    problem = Problem(decoder, [Term("dear", term)], targets=2)

    def prune(rung, merit_N):
        seen.append(merit_N.copy())
        return best_half(rung, merit_N)

    found, pruned_N = judge_early(problem, z_ND, target_N, prune)
    assert term.calls == [(0, 8), (1, 4), (None, 2)]
    assert pruned_N.sum() == 6
    assert torch.isposinf(found.loss_M).tolist() == pruned_N.tolist()
    assert torch.isposinf(found.merit_M).tolist() == pruned_N.tolist()
    usual = problem.value(z_ND, target_N).loss_M
    assert torch.equal(found.loss_M[~pruned_N], usual[~pruned_N])
    assert set(found.loss_M[~pruned_N].tolist()) == set(usual.sort().values[:2].tolist())
    assert np.isnan(seen[1]).sum() == 4, "rows that are out have no merit"
    assert seen[0] == pytest.approx(usual.double().numpy() + 0.2, rel=1e-5)
    again = ~np.isnan(seen[1])
    assert seen[1][again] == pytest.approx(usual.double().numpy()[again] + 0.1, rel=1e-5)


def test_a_row_whose_estimate_is_not_finite_fails_and_is_not_pruned():
    decoder, z_ND, target_N = rows()

    class Broken(Growing):
        def early(self, c, rung):
            value = super().early(c, rung)
            bad = torch.tensor([torch.nan, torch.inf, *([0.0] * (len(value) - 2))])
            return value + bad if rung == 0 else value

    found, pruned_N = judge_early(Problem(decoder, [Term("dear", Broken())], targets=2), z_ND, target_N, keep_all)
    assert not pruned_N.any()
    assert torch.isnan(found.loss_M).tolist() == [True, True] + [False] * 6


def test_a_batch_of_which_no_row_goes_on_calls_nothing_more():
    decoder, z_ND, target_N = rows()
    term = Growing()
    found, pruned_N = judge_early(
        Problem(decoder, [Term("dear", term)], targets=2), z_ND, target_N, lambda rung, merit_N: merit_N < 0
    )
    assert term.calls == [(0, 8)]
    assert pruned_N.all()
    assert torch.isposinf(found.loss_M).all()


def test_cheap_terms_are_asked_once_and_a_shorter_ladder_holds_its_last_estimate():
    decoder, z_ND, target_N = rows()
    long, short, cheap = Growing(3), Growing(1), []

    def plain(c):
        cheap.append(len(c.latents))
        return c.latents.square().sum(1)

    problem = Problem(decoder, [Term("long", long), Term("plain", plain), Term("short", short)], targets=2)
    assert early_rungs(problem) == 3
    seen = []

    def prune(rung, merit_N):
        seen.append(merit_N.copy())
        return best_half(rung, merit_N)

    found, pruned_N = judge_early(problem, z_ND, target_N, prune)
    assert long.calls == [(0, 8), (1, 4), (2, 2), (None, 1)]
    assert short.calls == [(0, 8), (None, 1)]
    assert cheap == [8]
    usual = problem.value(z_ND, target_N)
    assert torch.allclose(found.loss_M[~pruned_N], usual.loss_M[~pruned_N])
    last = np.isfinite(seen[2])
    assert seen[2][last] == pytest.approx(usual.loss_M.double().numpy()[last] + 0.1 + 0.1, rel=1e-5)


def test_a_constraint_may_report_early_and_its_penalty_is_in_the_merit():
    decoder, z_ND, target_N = rows()
    seen = []
    wall = Term("wall", Growing(1, bias=5.0), Bound(at_most=4.0))
    problem = Problem(decoder, [Term("size", lambda c: c.latents.square().sum(1))], constraints=[wall], targets=2)

    def prune(rung, merit_N):
        seen.append(merit_N.copy())
        return keep_all(rung, merit_N)

    found, _ = judge_early(problem, z_ND, target_N, prune)
    size_N = z_ND.square().sum(1).double().numpy()
    assert (seen[0] > size_N + 50).all(), "at rung 0 the bound is broken"
    assert found.violation_M.tolist() == problem.value(z_ND, target_N).violation_M.tolist()


def test_blocks_change_nothing():
    decoder, z_ND, target_N = rows()
    problem = Problem(decoder, [Term("dear", Growing())], targets=2)
    whole, pruned_N = judge_early(problem, z_ND, target_N, best_half)
    small = lo.Decoder(decoder.module, latent_shape=(3,), prior="normal", name="vector", block_rows=3)
    term = Growing()
    found, same_N = judge_early(Problem(small, [Term("dear", term)], targets=2), z_ND, target_N, best_half)
    assert torch.allclose(found.loss_M, whole.loss_M)
    assert same_N.tolist() == pruned_N.tolist()
    assert max(count for _, count in term.calls) <= 3


# ---------------------------------------------------------------------- errors


def test_what_early_returns_is_checked_and_the_rung_is_named():
    decoder, z_ND, target_N = rows()
    term = Growing()
    term.early = lambda c, rung: c.designs.mean()
    with pytest.raises(lo.ObjectiveError, match=r"objective 'dear at rung 0' returned .* for 8 rows, expected a float"):
        judge_early(Problem(decoder, [Term("dear", term)], targets=2), z_ND, target_N, keep_all)


@pytest.mark.parametrize("rungs", [0, 1.5, True])
def test_rungs_that_are_no_number_of_rungs_are_refused(rungs):
    with pytest.raises(
        lo.ObjectiveError, match=f"objective 'dear' has rungs = {rungs}, expected a whole number from 1"
    ):
        early_rungs(Problem(rows()[0], [Term("dear", Growing(rungs))]))


def test_a_term_that_looks_across_rows_cannot_have_rows_taken_away():
    terms = [Term("dear", Growing()), Term("spread", lambda c: c.latents.std(0).sum().expand(len(c.latents)),
                                           across_rows=True)]  # fmt: skip
    with pytest.raises(lo.ConfigError, match="pruning gives rows up before others, and 'spread' looks across rows"):
        early_rungs(Problem(rows()[0], terms))


def test_what_prune_returns_is_checked():
    decoder, z_ND, target_N = rows()
    problem = Problem(decoder, [Term("dear", Growing())], targets=2)
    with pytest.raises(lo.ShapeError, match=r"prune returned float64 of shape \(8,\), expected bool of shape \(8,\)"):
        judge_early(problem, z_ND, target_N, lambda rung, merit_N: merit_N)


# ---------------------------------------------------------------------- through AskTell and the driver


class Halving:
    """Asks for normal points, and lets the better half of a batch go on."""

    def __init__(self, coordinates, seed):
        self.coordinates, self.told, self.rungs = coordinates, [], []

    def add(self, told):
        self.told.append(told)

    def ask(self, n, seed):
        return np.random.default_rng(seed).normal(size=(n, self.coordinates))

    def prune(self, rung, merit_n):
        self.rungs.append((rung, len(merit_n)))
        return best_half(rung, merit_n)

    def tell(self, told):
        self.told.append(told)


def drive_with(make, term, evaluations=42, batch=8, targets=1, constraints=()):
    decoder = toy_decoders()["vector"]
    problem = Problem(decoder, [term], targets=targets, constraints=constraints)
    z_ND = torch.zeros(2 * targets, 3)
    target_N = torch.arange(targets).repeat_interleave(2)
    stage = Stage("halving", AskTell(make, evaluations, batch))
    return drive(problem, z_ND, target_N, [stage], clock=Clock(problem, Budget()), seed=1), problem


def test_optimizers_are_told_what_was_pruned_and_the_driver_calls_nothing_lost():
    made, term = [], Growing()

    def make(coordinates, seed):
        made.append(Halving(coordinates, seed))
        return made[-1]

    found, problem = drive_with(make, Term("dear", term), targets=2)
    assert found.diverged == 0
    asked = 2 * (6 + 4 * 8)  # 8 - 2 starts to begin with, and 4 batches
    assert found.forward_rows == asked + 4, "each row is decoded once"
    for one in made:
        assert one.rungs == [(0, 6), (1, 6)] + [(0, 8), (1, 8)] * 4
        batches = one.told[1:]
        assert all(isinstance(told, Told) for told in batches)
        assert [int(told.pruned_n.sum()) for told in batches] == [4] + [6] * 4
        for told in batches:
            assert not told.failed_n.any()
            assert np.isposinf(told.loss_n[told.pruned_n]).all()
            assert np.isfinite(told.merit_n[~told.pruned_n]).all()
    assert found.notes == [
        f"56 of {asked} candidates were pruned early and spared the full evaluation, in stage 1 (halving)"
    ]
    assert sum(count for rung, count in term.calls if rung is None) == asked + 4 - 56
    assert torch.isfinite(problem.value(found.z_ND, found.target_N).loss_M).all()


def test_rows_that_fail_early_are_still_counted_as_lost():
    class Broken(Growing):
        def early(self, c, rung):
            return torch.where(c.latents[:, 0] > 0.5, torch.nan, super().early(c, rung))

    found, _ = drive_with(Halving, Term("dear", Broken()))
    assert found.diverged > 0
    assert any("turned NaN or infinite" in note for note in found.notes)
    assert any("were pruned early" in note for note in found.notes)
    assert (found.z_ND[:, 0] <= 0.5).all()


def test_without_early_reports_a_pruning_optimizer_judges_all_rows_in_full():
    found, _ = drive_with(Halving, Term("plain", lambda c: c.designs.square().mean(1)))
    assert found.diverged == 0
    assert found.notes == []


def test_optimizers_of_which_one_cannot_prune_do_not_prune():
    class Plain:
        def add(self, told): ...
        def ask(self, n, seed): ...
        def tell(self, told): ...

    assert OneATarget([Halving(3, 0), Plain()], [0, 1], 3).prune is None
    merit_N = np.array([1.0, 2.0, 3.0, 9.0, 8.0])
    both = OneATarget([Halving(3, 0), Halving(3, 1)], [0, 1], 3)
    assert both.prune(0, merit_N, [3, 2]).tolist() == [True, True, False, False, True]
    assert both.prune(0, merit_N[:3], [3, 0]).tolist() == [True, True, False]

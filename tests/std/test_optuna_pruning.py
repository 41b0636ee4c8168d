"""Optuna's pruners: full evaluations saved, seeds, what is told, doors, recording, targets, constraints."""

from typing import Literal

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

import latentopt as lo
from latentopt import rng
from latentopt.asktell import Told
from latentopt.problem import Problem
from latentopt.terms import Term
from latentopt.testing import ObjectiveConformance, SearchConformance, toy_decoders
from latentopt_std import OptunaSearch
from latentopt_std.optuna_pruning import Rungs
from latentopt_std.optuna_search import PrunedStudy

PRUNERS = ["median", "successive_halving", "hyperband"]


class Simulator:
    """The distance to each row's target, estimated from ever more of the design's pixels. Counts its calls by rung."""

    def __init__(self, target_T, rungs=2):
        self.target_T, self.rungs = target_T, rungs
        self.rows = dict.fromkeys((*range(rungs), None), 0)
        self.values = []  # of all rows ever judged in full

    def _distance(self, c, pixels):
        return (c.designs - self.target_T[c.target_index]).square().flatten(1)[:, :pixels].mean(1)

    def early(self, c, rung):
        self.rows[rung] += len(c.latents)
        return self._distance(c, 16 * (rung + 1))

    def __call__(self, c):
        self.rows[None] += len(c.latents)
        value = self._distance(c, None)
        self.values += value.tolist()
        return value


def simulated(pruner, *, targets=1, rungs=2, sampler="random", constraints=None, seed=4, evaluations=100, **options):
    decoder = toy_decoders()["image"]
    simulator = Simulator(decoder.decode(decoder.space.draw(targets, rng.generator(21))), rungs)
    search = OptunaSearch(sampler=sampler, pruner=pruner, evaluations=evaluations, **options)
    found = lo.optimize(decoder, target=simulator.target_T, objectives=simulator, constraints=constraints,
                        starts={"kind": "prior", "n": 4}, search=search, seed=seed)  # fmt: skip
    return found, simulator


# ---------------------------------------------------------------------- conformance


class Dear(lo.ObjectiveConfig):
    """Reports early, as a config."""

    kind: Literal["dear"] = "dear"
    rungs: int = 3

    def build(self, decoder):
        return Simulator(torch.zeros(2, *decoder.design_shape), self.rungs)


class TestDear(ObjectiveConformance):
    config = Dear()


@pytest.mark.parametrize(
    "fault", [lambda value: value.mean(), lambda value: value - value.mean(), lambda value: value / 0]
)
def test_the_kit_finds_estimates_that_are_none(fault):
    class Faulty(Dear):
        def build(self, decoder):
            built = super().build(decoder)
            early = built.early
            built.early = lambda c, rung: fault(early(c, rung)) if rung == 2 else early(c, rung)
            return built

    class Kit(ObjectiveConformance):
        config = Faulty()

    with pytest.raises(AssertionError):
        Kit().test_early_estimates_are_finite_numbers_of_each_row_alone()


class _Kit(SearchConformance):
    rows_move_alone = False

    def problem(self, *, region=None):
        decoder = self.decoder()
        target_T = decoder.decode(decoder.space.draw(2, rng.generator(11)))
        problem = Problem(decoder, [Term("distance", Simulator(target_T))], region=region, targets=2)
        problem.check()
        return problem


class TestMedian(_Kit):
    config = OptunaSearch(sampler="tpe", pruner="median", evaluations=60)


class TestSuccessiveHalving(_Kit):
    config = OptunaSearch(sampler="cmaes", pruner="successive_halving", evaluations=60)


class TestHyperband(_Kit):
    config = OptunaSearch(sampler="tpe", pruner="hyperband", evaluations=60)


# ---------------------------------------------------------------------- what it saves


@pytest.mark.parametrize("pruner", PRUNERS)
def test_it_saves_full_evaluations_and_says_how_many(pruner):
    _, plain = simulated("none")
    found, simulator = simulated(pruner)
    (note,) = (note for note in found.notes if "pruned early" in note)
    pruned = int(note.split()[0])
    assert note.endswith("of 96 candidates were pruned early and spared the full evaluation, in stage 1 (optuna)")
    assert pruned >= 20
    assert plain.rows == {0: 0, 1: 0, None: plain.rows[None]}
    held = len(plain.values) - len(simulator.values) - pruned  # the final evaluation may be of fewer rows
    assert 0 <= held <= 8
    assert simulator.rows[0] == 96
    assert simulator.rows[1] < 96
    assert found.cost.forward_rows <= 4 + 96 + 10, "each candidate is decoded once"
    assert found.diverged == 0


@pytest.mark.parametrize("pruner", PRUNERS)
def test_same_seed_same_result(pruner):
    first, one = simulated(pruner)
    again, two = simulated(pruner)
    assert torch.equal(first.latents, again.latents)
    assert one.values == two.values
    other, _ = simulated(pruner, seed=5)
    assert not torch.equal(first.latents, other.latents)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_rows_that_come_back_were_judged_in_full(pruner):
    found, simulator = simulated(pruner)
    judged = np.array(simulator.values[: -len(found.losses)])
    assert len(found.losses) == 10
    for loss in found.losses.tolist():
        assert np.abs(judged - loss).min() < 1e-6
    assert torch.isfinite(found.losses).all()
    assert found.losses.min() == pytest.approx(judged.min(), rel=1e-4), "the best of all that were judged in full"


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "qmc", "nsgaii", "random"])
@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_sampler_goes_with_every_pruner(sampler, pruner):
    options = {"n_startup_trials": 4} if sampler == "gp" else {}
    found, simulator = simulated(
        pruner, sampler=sampler, sampler_options=options, targets=2, evaluations=14 if sampler == "gp" else 54, batch=5
    )
    assert torch.isfinite(found.losses).all()
    assert simulator.rows[None] < 2 * 54
    assert found.diverged == 0


def test_targets_are_pruned_each_among_its_own():
    """The second target lies far away: beside the first one's, its rows would all look bad."""
    decoder = toy_decoders()["vector"]
    target_T = torch.stack([torch.zeros(5), torch.full((5,), 100.0)])
    simulator = Simulator(target_T)
    search = OptunaSearch(sampler="random", pruner="median", evaluations=60)
    found = lo.optimize(decoder, target=target_T, objectives=simulator, starts="mean", search=search)
    for target in (0, 1):
        assert (found.target_index == target).sum() == 10, "rows enough of either"


def test_one_rung_and_one_row_at_a_time_will_do():
    for pruner in PRUNERS:
        found, simulator = simulated(pruner, rungs=1, batch=1, evaluations=44)
        assert simulator.rows[0] == 40
        assert any("pruned early" in note for note in found.notes)


def test_what_comes_back_keeps_a_constraint():
    ink = {"kind": "property", "function": lambda x: x.flatten(1).mean(1), "goal": {"at_most": 0.5}}
    for sampler in ("tpe", "cmaes"):
        found, _ = simulated("median", sampler=sampler, constraints=[ink])
        assert found.best.feasible
        assert any("pruned early" in note for note in found.notes)


def test_rows_whose_estimates_fail_are_lost_and_not_pruned():
    class Broken(Simulator):
        def early(self, c, rung):
            return torch.where(c.latents[:, 0] > 1.0, torch.nan, super().early(c, rung))

    decoder = toy_decoders()["image"]
    objective = Broken(decoder.decode(decoder.space.draw(1, rng.generator(21))))
    search = OptunaSearch(sampler="random", pruner="median", evaluations=80)
    found = lo.optimize(decoder, objectives=objective, starts="mean", search=search)
    assert found.diverged > 0
    assert (found.latents[:, 0] <= 1.0).all()


# ---------------------------------------------------------------------- a study


def study(pruner, sampler="random", options=None, rungs=2):
    return PrunedStudy(sampler, {}, 3.0, 3, 1, rungs=Rungs(pruner, options or {}, rungs))


def bowl(points):
    return (points**2).sum(1)


def asked(pruner, sampler):
    """The points, and what became of them, of a few batches."""
    one, points, kept = study(pruner, sampler), [], []
    for seed in range(5):
        points.append(one.ask(6, seed))
        alive = one.prune(0, bowl(points[-1]) + 2)
        alive &= one.prune(1, np.where(alive, bowl(points[-1]) + 1, np.nan))
        value = np.where(alive, bowl(points[-1]), np.inf)
        one.tell(Told(points[-1], value, value, None))
        kept.append(alive)
    return one, np.concatenate(points), np.concatenate(kept)


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_asked_and_told_again_a_study_does_the_same(pruner, sampler):
    one, points, kept = asked(pruner, sampler)
    _, again, same = asked(pruner, sampler)
    assert (points == again).all()
    assert (kept == same).all()
    assert 0 < kept.sum() < 30
    states = [trial.state for trial in one.study.trials]
    assert states == [TrialState.COMPLETE if alive else TrialState.PRUNED for alive in kept]


def test_optuna_is_told_the_merit_at_each_rung():
    one, points, kept = asked("median", "random")
    for trial, point, alive in zip(one.study.trials, points, kept, strict=True):
        merits = {0: bowl(point[None])[0] + 2, 1: bowl(point[None])[0] + 1}
        last = max(trial.intermediate_values)
        assert trial.intermediate_values == pytest.approx({rung: merits[rung] for rung in range(last + 1)})
        assert trial.value == pytest.approx(bowl(point[None])[0] if alive else merits[last])
    assert any(len(trial.intermediate_values) == 1 for trial in one.study.trials)


def test_the_median_of_those_that_went_through_decides():
    one = study("median", options={"n_startup_trials": 3})
    points = one.ask(3, 0)
    assert one.prune(0, np.array([1.0, 2.0, 3.0])).all(), "none is finished yet"
    one.tell(Told(points, np.ones(3), np.ones(3), None))
    one.ask(3, 1)
    assert one.prune(0, np.array([1.9, 2.1, np.nan])).tolist() == [True, False, False]


def test_rungs_are_the_steps_of_successive_halving():
    """Of four rows at a rung one goes on, at every rung."""
    one = study("successive_halving", rungs=3)
    one.ask(8, 0)
    keep = one.prune(0, np.array([8.0, 7, 6, 5, 4, 3, 2, 1]))
    assert keep.all(), "each was the best so far"
    keep = one.prune(1, np.array([1.0, 2, 3, 4, 5, 6, 7, 8]))
    assert keep.tolist() == [True] + [False] * 7
    steps = [Rungs("successive_halving", {"reduction_factor": 3}, 3).step(rung) for rung in range(3)]
    assert steps == [1, 3, 9]


def test_hyperbands_brackets_begin_at_different_rungs():
    one = study("hyperband", rungs=2)
    one.ask(60, 0)
    first = one.prune(0, np.arange(1.0, 61))
    assert len(one.study.pruner._pruners) == 3, "the last of them prunes nothing"
    later = one.prune(1, np.where(first, np.arange(1.0, 61), np.nan))
    assert 60 > first.sum() > later.sum() > 3


# ---------------------------------------------------------------------- at the door


def test_a_pruner_needs_an_objective_that_reports_early():
    decoder = toy_decoders()["vector"]
    with pytest.raises(
        lo.ConfigError, match=r"pruner 'median' needs an objective that reports early, and none of 'size' does: give it"
    ):
        lo.optimize(decoder, objectives={"kind": "property", "function": lambda x: x.sum(1), "name": "size"},
                    starts="mean", search={"kind": "optuna", "pruner": "median"})  # fmt: skip


def test_a_front_is_refused():
    decoder = toy_decoders()["vector"]
    objectives = [Simulator(torch.zeros(1, 5)), lambda c: c.latents.square().sum(1)]
    with pytest.raises(lo.ConfigError, match="pruner 'hyperband' compares one number and a front has several"):
        lo.optimize(decoder, objectives=objectives, pareto=True, search={"kind": "optuna", "pruner": "hyperband"})


def test_a_plan_refuses_before_anything_is_decoded(monkeypatch):
    decoder = toy_decoders()["vector"]
    monkeypatch.setattr("latentopt.api.build_starts", lambda *args: pytest.fail("it went on to the starts"))
    with pytest.raises(lo.ConfigError, match="reports early"):
        lo.optimize(decoder, objectives=lambda c: c.designs.sum(1), search=OptunaSearch(pruner="median"))
    with pytest.raises(lo.ConfigError, match="cmaes sampler minimizes one number"):
        lo.optimize(decoder, objectives=[lambda c: c.designs.sum(1), lambda c: c.latents.sum(1)], pareto=True,
                    search=OptunaSearch(sampler="cmaes"))  # fmt: skip


def test_pruner_options_are_checked_like_a_samplers():
    decoder = toy_decoders()["vector"]
    with pytest.raises(lo.ConfigError, match="pruner_options belong to a pruner: name it, one of median, succ"):
        OptunaSearch(pruner_options={"n_startup_trials": 3}).build(decoder)
    with pytest.raises(lo.ConfigError, match=r"optuna's median pruner has no option 'n_startup_trails'; did you mean"):
        OptunaSearch(pruner="median", pruner_options={"n_startup_trails": 3}).build(decoder)
    with pytest.raises(lo.ConfigError, match="pruner_options takes no 'min_resource': the objective's rungs say it"):
        OptunaSearch(pruner="hyperband", pruner_options={"min_resource": 3}).build(decoder)
    for pruner in ("successive_halving", "hyperband"):
        with pytest.raises(
            lo.ConfigError, match=f"{pruner} pruner refuses .* reduction_factor is 1, expected at least 2"
        ):
            OptunaSearch(pruner=pruner, pruner_options={"reduction_factor": 1}).build(decoder)
    OptunaSearch(pruner="median", pruner_options={"n_startup_trials": 3}).build(decoder)


def test_options_reach_the_pruner():
    one = study("median", options={"n_startup_trials": 7, "n_warmup_steps": 1})
    assert isinstance(one.study.pruner, optuna.pruners.MedianPruner)
    assert one.study.pruner._n_startup_trials == 7


# ---------------------------------------------------------------------- recording


def test_pruned_candidates_are_recorded_as_such_with_their_estimates(tmp_path):
    path = tmp_path / "runs.db"
    ink = {"kind": "property", "function": lambda x: x.flatten(1).mean(1), "goal": {"at_most": 0.5}}
    plain, _ = simulated("median", targets=2, constraints=[ink])
    found, simulator = simulated("median", targets=2, constraints=[ink], record=str(path), study="mine")
    assert torch.equal(found.latents, plain.latents), "recording changes nothing"
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    trials = optuna.load_study(study_name="mine", storage=storage).trials
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(trials) == len(pruned) + len(finished) == 200
    assert f"{len(pruned)} of 192 candidates were pruned early" in found.notes[-1]
    for trial in pruned:
        assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]
        assert trial.constraints == {}
    assert {tuple(trial.intermediate_values) for trial in finished} == {(), (0, 1)}
    assert sum(not trial.intermediate_values for trial in finished) == 8, "the starts"
    assert sum(0 in trial.intermediate_values for trial in trials) == simulator.rows[0]
    assert sum(1 in trial.intermediate_values for trial in trials) == simulator.rows[1]
    storage.remove_session()
    storage.engine.dispose()

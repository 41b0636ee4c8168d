"""Optuna's samplers: conformance of each, seeds, options, failures, constraints, silence."""

import logging
import subprocess
import sys
import warnings

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

import latentopt as lo
from latentopt import rng
from latentopt.asktell import Told
from latentopt.budget import Budget, Clock
from latentopt.driver import drive
from latentopt.goals import Bound
from latentopt.problem import Problem
from latentopt.stagerun import Stage
from latentopt.terms import Term
from latentopt.testing import SearchConformance, toy_decoders
from latentopt_std import OptunaSearch
from latentopt_std.optuna_search import Study, quiet

SAMPLERS = ["tpe", "cmaes", "gp", "qmc", "nsgaii", "random"]


class _Kit(SearchConformance):
    rows_move_alone = False


class TestTPE(_Kit):
    config = OptunaSearch(sampler="tpe", evaluations=40)


class TestCMAES(_Kit):
    config = OptunaSearch(sampler="cmaes", evaluations=60)


class TestGP(_Kit):
    config = OptunaSearch(sampler="gp", sampler_options={"n_startup_trials": 4}, evaluations=5, batch=1)


class TestQMC(_Kit):
    config = OptunaSearch(sampler="qmc", evaluations=40)


class TestNSGAII(_Kit):
    config = OptunaSearch(sampler="nsgaii", sampler_options={"population_size": 10}, evaluations=40)


class TestRandomSampler(_Kit):
    config = OptunaSearch(sampler="random", evaluations=40)


def told(points, value, violation=None):
    points, value = np.asarray(points, dtype=float), np.asarray(value, dtype=float)
    return Told(points, value, value + 1, None if violation is None else np.asarray(violation, dtype=float))


def bowl(points):
    return (np.asarray(points) ** 2).sum(1)


# ---------------------------------------------------------------------- a study


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_points_are_a_function_of_the_finished_trials_and_the_seed(sampler):
    options = {} if sampler == "random" else {"n_startup_trials": 5}
    first = Study(sampler, options, 3.0, 3, seed=1)
    start = np.random.default_rng(0).uniform(-3, 3, (6, 3))
    first.add(told(start, bowl(start)))
    middle = first.ask(2, seed=5)
    first.tell(told(middle, bowl(middle)))
    resumed = Study(sampler, options, 3.0, 3, seed=1)
    resumed.add(told(np.concatenate([start, middle]), np.concatenate([bowl(start), bowl(middle)])))
    last = first.ask(2, seed=7)
    assert (last == resumed.ask(2, seed=7)).all()
    resumed.tell(told(last, bowl(last)))
    assert not np.isin(resumed.ask(2, seed=8), last).any()


@pytest.mark.parametrize("sampler", ["cmaes", "qmc", "nsgaii"])
def test_told_again_from_the_first_ask_a_study_asks_the_same(sampler):
    def asked():
        study = Study(sampler, {"population_size": 4} if sampler == "nsgaii" else {}, 3.0, 3, seed=1)
        study.add(told([[1.0, 1, 1]], [3.0]))
        points = []
        for seed in range(5):
            points.append(study.ask(4, seed))
            study.tell(told(points[-1], bowl(points[-1])))
        return np.concatenate(points)

    points = asked()
    assert (points == asked()).all()
    assert sampler == "nsgaii" or len(np.unique(points, axis=0)) == 20  # a child may be its parent's equal
    assert abs(points).max() <= 3


def test_quasi_random_points_go_on_where_they_left_off_and_differ_by_target():
    def points(seed, batches):
        study = Study("qmc", {}, 1.0, 2, seed)
        study.add(told([[0.0, 0]], [1.0]))
        found = []
        for step, n in enumerate(batches):
            found.append(study.ask(n, step))
            study.tell(told(found[-1], bowl(found[-1])))
        return np.concatenate(found)

    assert (points(1, [4, 4, 8]) == points(1, [16])).all()
    assert not np.isin(points(1, [16]), points(2, [16])).any()
    counts, _ = np.histogram(points(1, [16])[:, 0], bins=16, range=(-1, 1))
    assert (counts == 1).all(), "one point in each sixteenth"


def test_what_has_no_value_is_a_failed_trial_and_never_a_number():
    study = Study("tpe", {}, 3.0, 2, seed=0)
    study.add(told([[0.5, np.nan], [9.0, -1.0]], [np.nan, 2.0]))
    asked = study.ask(3, 0)
    study.tell(told(asked, [1.0, np.nan, 2.0]))
    trials = study.study.trials
    assert [t.state for t in trials] == [
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]
    assert trials[1].params == {"u0": 3.0, "u1": -1.0}, "the nearest place within the span"
    assert [t.value for t in trials] == [None, 3.0, 2.0, None, 3.0], "the merit"
    assert all(np.isfinite(t.value) for t in trials if t.value is not None)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsgaii"])
def test_samplers_that_treat_constraints_get_loss_and_violation(sampler):
    study = Study(sampler, {}, 3.0, 2, seed=0)
    study.add(told([[0.0, 1.0]], [5.0], [0.25]))
    study.tell(told(study.ask(2, 0), [1.0, 2.0], [0.0, 0.5]))
    assert [t.value for t in study.study.trials] == [5.0, 1.0, 2.0]
    assert [t.constraints for t in study.study.trials] == [{"violation": 0.25}, {"violation": 0.0}, {"violation": 0.5}]
    assert study.study.best_value == 1.0


@pytest.mark.parametrize("sampler", ["cmaes", "qmc", "random"])
def test_the_others_get_the_merit(sampler):
    study = Study(sampler, {}, 3.0, 2, seed=0)
    study.tell(told(study.ask(2, 0), [1.0, 2.0], [0.0, 0.5]))
    assert [t.value for t in study.study.trials] == [2.0, 3.0]
    assert [t.constraints for t in study.study.trials] == [{}, {}]


# ---------------------------------------------------------------------- a run


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_learning_samplers_beat_random_ones_on_four_coordinates(sampler):
    decoder = toy_decoders()["image"]
    target = decoder.decode(decoder.space.draw(4, rng.generator(21)))

    def mean_best(name):
        search = OptunaSearch(sampler=name, evaluations=100)
        found = lo.optimize(decoder, target=target, starts={"kind": "prior", "n": 2}, search=search, seed=1)
        assert all(b < a for a, b in zip(found.history[0]["best_T"], found.history[-1]["best_T"], strict=True))
        return float(found.best.loss.mean())

    assert mean_best(sampler) < 0.5 * mean_best("random")


def test_a_start_that_is_the_answer_is_kept_and_learned_from():
    decoder = toy_decoders()["vector"]
    answer = decoder.space.draw(1, rng.generator(3))
    found = lo.optimize(decoder, target=decoder.decode(answer), starts=answer,
                        search=OptunaSearch(sampler="tpe", evaluations=20))  # fmt: skip
    assert torch.allclose(found.latents[0], answer[0])
    assert found.losses[0] == pytest.approx(0, abs=1e-10)


def test_failing_rows_are_counted_and_passed_over():
    decoder = toy_decoders()["vector"]

    def loss(c):
        return torch.where(c.latents[:, 0] > 0.5, torch.inf, c.designs.square().sum(1))

    problem = Problem(decoder, [Term("loss", loss)])
    search = OptunaSearch(evaluations=40).build(decoder)
    stage, clock = Stage("optuna", search), Clock(problem, Budget())
    found = drive(problem, torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), [stage], clock=clock, seed=0)
    assert found.diverged > 0
    assert (found.z_ND[:, 0] <= 0.5).all()
    assert len(found.z_ND) == 10


def test_a_constraint_is_met():
    decoder = toy_decoders()["vector"]
    problem_wall = Term("wall", lambda c: c.latents[:, 0], Bound(at_least=1.0))
    problem = Problem(decoder, [Term("size", lambda c: c.latents.square().sum(1))], constraints=[problem_wall])
    stage = Stage("optuna", OptunaSearch(sampler="tpe", evaluations=100).build(decoder))
    zero = torch.zeros(1, dtype=torch.long)
    found = drive(problem, torch.zeros(1, 3), zero, [stage], clock=Clock(problem, Budget()), seed=0)
    best = found.z_ND[0]
    assert best[0] >= 1.0
    assert best.square().sum() < 3.0


def test_optuna_is_the_default_where_there_are_no_gradients_and_a_row_is_dear(monkeypatch):
    decoder = lo.Decoder(lambda z: z.detach().round(), latent_shape=(2,), device="cpu", dtype=torch.float32)
    monkeypatch.setattr("latentopt.auto._EXPENSIVE_SECONDS", 0.0)
    found = lo.optimize(decoder, objectives=lambda c: c.designs.sum(1), starts="mean")
    assert found.history[0]["name"] == "optuna"
    assert "so few can be afforded" in found.notes[0]
    assert found.losses[0] < -2


def test_a_box_prior_is_searched_to_its_walls_and_no_further():
    decoder = lo.Decoder(lambda z: z, latent_shape=(2,), prior="uniform", device="cpu", dtype=torch.float32)
    search = OptunaSearch(sampler="qmc", evaluations=64, batch=64).build(decoder)
    problem = Problem(decoder, [Term("x", lambda c: c.designs[:, 0])])
    state = search.init(problem, torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), rng.RowNoise(0, 0, 1))
    assert 0.95 < state.z_ND.abs().max() <= 1.0 + 1e-6


# ---------------------------------------------------------------------- several objectives


def front_problem(decoder, **options):
    """Distances to two points: the front is the line between them."""
    ends = torch.zeros(2, 3)
    ends[0, 0], ends[1, 0] = -1.0, 1.0
    terms = [
        Term("left", lambda c: (c.latents - ends[0]).square().sum(1)),
        Term("right", lambda c: 2 - (c.latents - ends[1]).square().sum(1), "maximize", 3.0),
    ]
    return Problem(decoder, terms, pareto=True, **options)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "nsgaii", "random"])
def test_a_front_is_told_every_terms_weighted_loss(sampler):
    decoder = toy_decoders()["vector"]
    problem = front_problem(decoder)
    search = OptunaSearch(sampler=sampler, evaluations=8, batch=2).build(decoder)
    state = search.init(problem, torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), rng.RowNoise(0, 0, 1))
    search.step(problem, state)
    (study,) = (one.study for one in state.optimizers.optimizers)
    assert len(study.directions) == 2
    assert len(study.trials) == 4
    for trial in study.trials:
        u = torch.tensor([trial.params[name] for name in sorted(trial.params)])
        left, right = (u - torch.tensor([[-1.0, 0, 0], [1, 0, 0]])).square().sum(1).tolist()
        assert trial.values == pytest.approx([left, -3 * (2 - right)], rel=1e-4, abs=1e-5)


def test_nsgaii_comes_nearer_to_a_front_than_random_points():
    decoder = toy_decoders()["vector"]

    def distance_from_the_line(sampler):
        problem = front_problem(decoder)
        stage = Stage("optuna", OptunaSearch(sampler=sampler, evaluations=400, batch=50).build(decoder))
        zero = torch.zeros(1, dtype=torch.long)
        found = drive(problem, torch.zeros(1, 3), zero, [stage], clock=Clock(problem, Budget()), seed=0)
        return float(found.z_ND[:, 1:].norm(dim=1).mean())

    assert distance_from_the_line("nsgaii") < 0.8 * distance_from_the_line("random")


def test_constraints_of_a_front_reach_the_samplers_that_treat_them():
    decoder = toy_decoders()["vector"]
    wall = Term("wall", lambda c: c.latents[:, 1], Bound(at_least=1.0))
    problem = front_problem(decoder, constraints=[wall])
    for sampler, known in (("nsgaii", True), ("random", False)):
        search = OptunaSearch(sampler=sampler, evaluations=4, batch=2).build(decoder)
        state = search.init(problem, torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), rng.RowNoise(0, 0, 1))
        trials = state.optimizers.optimizers[0].study.trials
        assert [bool(trial.constraints) for trial in trials] == [known] * len(trials)


def test_a_front_point_with_one_lost_objective_is_a_failed_trial():
    study = Study("nsgaii", {}, 3.0, 2, seed=0, objectives=2)
    objectives = np.array([[1.0, 2.0], [np.nan, np.nan]])
    loss = objectives.sum(1)
    study.tell(Told(study.ask(2, 0), loss, loss, None, objectives))
    assert [t.state for t in study.study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert study.study.trials[0].values == [1.0, 2.0]


def test_a_front_is_refused_by_the_sampler_that_has_one_number():
    decoder = toy_decoders()["vector"]
    search = OptunaSearch(sampler="cmaes", evaluations=4, batch=2).build(decoder)
    with pytest.raises(
        lo.ConfigError, match="cmaes sampler minimizes one number and a front has several: use nsgaii, tpe, gp, qmc"
    ):
        search.init(front_problem(decoder), torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), rng.RowNoise(0, 0, 1))


# ---------------------------------------------------------------------- options, silence, imports


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_unknown_option_names_the_known_ones(sampler):
    search = OptunaSearch(sampler=sampler, sampler_options={"n_startup_trails": 3})
    with pytest.raises(lo.ConfigError, match=f"optuna's {sampler} sampler has no option 'n_startup_trails'.*known: "):
        search.build(toy_decoders()["vector"])


def test_a_misspelt_option_is_guessed():
    with pytest.raises(lo.ConfigError, match="did you mean 'n_startup_trials'"):
        OptunaSearch(sampler="tpe", sampler_options={"n_startup_trails": 3}).build(toy_decoders()["vector"])


def test_the_seed_is_the_runs_own():
    with pytest.raises(
        lo.ConfigError, match="sampler_options takes no 'seed': samplers are seeded by the run's own seed"
    ):
        OptunaSearch(sampler="tpe", sampler_options={"seed": 3}).build(toy_decoders()["vector"])


def test_a_value_that_the_sampler_refuses_is_its_own_words():
    search = OptunaSearch(sampler="qmc", sampler_options={"qmc_type": "magic"})
    with pytest.raises(lo.ConfigError, match="optuna's qmc sampler refuses {'qmc_type': 'magic'}: .*halton"):
        search.build(toy_decoders()["vector"])


def test_options_reach_the_sampler_with_their_types():
    config = OptunaSearch.model_validate(
        {"sampler": "tpe", "sampler_options": {"n_startup_trials": 3, "multivariate": False, "n_ei_candidates": 8}}
    )
    study = Study(config.sampler, config.sampler_options, 3.0, 2, seed=0)
    study.ask(1, 0)
    assert study.study.sampler._n_startup_trials == 3
    assert study.study.sampler._multivariate is False


def test_a_deprecated_option_is_said_once_when_built_and_not_in_the_run():
    config = OptunaSearch(sampler="cmaes", sampler_options={"sigma0": 0.2}, evaluations=20)
    decoder = toy_decoders()["vector"]
    with pytest.warns(FutureWarning, match="`sigma0` has been deprecated"):
        search = config.build(decoder)
    problem = Problem(decoder, [Term("sum", lambda c: c.designs.sum(1))])
    stage, zero = Stage("optuna", search), torch.zeros(1, dtype=torch.long)
    found = drive(problem, torch.zeros(1, 3), zero, [stage], clock=Clock(problem, Budget()), seed=0)
    assert len(found.z_ND) == 10


def test_options_need_a_named_sampler():
    with pytest.raises(ValueError, match="sampler_options belong to one sampler: name it, one of tpe, cmaes, gp"):
        OptunaSearch(sampler_options={"n_startup_trials": 3})


@pytest.mark.parametrize(("pareto", "sampler"), [(False, "cmaes"), (True, "tpe")])
def test_auto_takes_a_sampler_that_can(pareto, sampler):
    decoder = toy_decoders()["vector"]
    problem = front_problem(decoder) if pareto else Problem(decoder, [Term("sum", lambda c: c.designs.sum(1))])
    search = OptunaSearch(evaluations=20).build(decoder)
    assert search.batch == 10
    state = search.init(problem, torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), rng.RowNoise(0, 0, 1))
    assert [study.sampler for study in state.optimizers.optimizers] == [sampler]


def test_gp_asks_for_one_at_a_time():
    assert OptunaSearch(sampler="gp").build(toy_decoders()["vector"]).batch == 1


def test_cmaes_begins_at_the_best_start():
    start = np.array([[1.0, -1.0, 2.0], [0.5, 0.5, 0.5], [np.nan, 0, 0]])
    study = Study("cmaes", {}, 3.0, 3, seed=0)
    study.add(told(start, [4.0, 3.0, np.nan]))
    points = [study.ask(10, 0)]
    study.tell(told(points[0], bowl(points[0] - 0.5)))
    points.append(study.ask(10, 1))
    assert abs(np.concatenate(points)[1:] - start[1]).max() < 2, "within a few steps of 0.3"
    assert abs(np.concatenate(points)[1:] - start[1]).mean() < 0.4


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="'auto', 'tpe', 'cmaes', 'gp', 'qmc', 'nsgaii' or 'random'"):
        OptunaSearch(sampler="bayes")


def test_optuna_says_nothing_and_keeps_its_settings(capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        config = OptunaSearch(sampler="cmaes", sampler_options={"lr_adapt": True}, evaluations=30)
        lo.optimize(toy_decoders()["vector"], objectives=lambda c: c.designs.sum(1), starts="mean", search=config)
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
        assert capfd.readouterr().err == ""
        assert logging.getLogger("optuna").level == logging.INFO
        with quiet(), pytest.raises(KeyError):
            raise KeyError
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            warnings.warn("still heard", optuna.exceptions.ExperimentalWarning, stacklevel=1)
    finally:
        optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_optuna_is_imported_only_when_a_search_is_built():
    code = (
        "import sys, latentopt_std, latentopt.api; c = latentopt_std.OptunaSearch(sampler='tpe'); "
        "print('optuna' in sys.modules); "
        "from latentopt.testing import toy_decoders; c.build(toy_decoders()['vector']); print('optuna' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]

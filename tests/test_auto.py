"""`auto`: which plan it makes for which problem, at which size, and that its plan stands in the resolved config."""

import pytest
import torch

import latentopt as lo
from latentopt import auto
from latentopt.config import make_config
from latentopt.planning import plan
from latentopt.testing import toy_decoders
from latentopt_std import MAE, MSE


def steps(c):
    """Without gradients."""
    return (c.designs.flatten(1) > 0.5).float().mean(1)


def planned(decoder=None, *, rows=None, seconds=None, starts=("mean",), **task):
    decoder = toy_decoders()["image"] if decoder is None else decoder
    if "target" in task:
        task["target"] = decoder.decode(torch.zeros(task["target"], decoder.dim))
    config = make_config(
        {
            "decoder": decoder,
            "budget": {"rows": rows, "seconds": seconds},
            "task": {"kind": "optimize", "starts": list(starts), **task},
        }
    )
    made = plan(config, decoder)
    searches = made.config.task.search
    return made, [[one.kind for one in entry] if isinstance(entry, list) else entry.kind for entry in searches]


PLANS = {  # more of them in test_quality.py
    "across rows": (
        {"target": 1, "objectives": [MSE(), {"kind": "diversity"}]},
        [["lbfgs", "adam"], "lbfgs"],
        "no residuals",
    ),
    "a front without": ({"objectives": [steps, MSE()], "target": 1, "pareto": True}, ["optuna"], "NSGA-II"),
}


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_fits_the_problem(name):
    task, kinds, words = PLANS[name]
    made, found = planned(**task)
    assert found == kinds
    [note] = made.notes
    assert note.startswith("auto chose ")
    assert words in note


@pytest.mark.parametrize(
    ("seconds", "budget", "kind", "options"),
    [
        (1e-4, {}, "cmaes", {"evaluations": 5000, "population": 16}),
        (0.02, {}, "cmaes", {"evaluations": 2000, "population": None}),
        (1e-4, {"rows": 600}, "cmaes", {"evaluations": 600, "population": 4, "sigma": 0.3}),
        (1e-4, {"rows": 90}, "optuna", {"evaluations": 90, "sampler": "gp"}),
        (0.5, {}, "optuna", {"evaluations": 80, "sampler": "gp"}),
        (0.5, {"rows": 30}, "optuna", {"evaluations": 30, "sampler": "gp"}),
        (0.01, {"seconds": 5.0}, "cmaes", {"evaluations": 500}),
        (0.05, {"seconds": 2.0}, "optuna", {"evaluations": 40}),
    ],
)
def test_without_gradients_the_price_of_a_row_and_the_budget_decide(monkeypatch, seconds, budget, kind, options):
    monkeypatch.setattr(auto, "seconds_a_row", lambda problem: seconds)
    made, _ = planned(objectives=[steps], **budget)
    [search] = made.config.task.search
    assert (search.kind, *(getattr(search, name) for name in options)) == (kind, *options.values())
    assert made.notes[0].startswith("auto chose ")


def test_wider_populations_are_for_short_latents(monkeypatch):
    monkeypatch.setattr(auto, "seconds_a_row", lambda problem: 1e-4)
    for dim, population in ((32, 28), (33, None)):
        decoder = lo.Decoder(lambda z: z.round(), latent_shape=dim)
        made, _ = planned(decoder, target=1)
        [search] = made.config.task.search
        assert (search.evaluations, search.population) == (5000, population)


def test_a_target_gets_its_share_of_the_rows(monkeypatch):
    monkeypatch.setattr(auto, "seconds_a_row", lambda problem: 1e-4)
    near = lo.Decoder(lambda z: z.round(), latent_shape=4)
    made, _ = planned(near, target=3, rows=900)
    assert made.config.task.search[0].evaluations == 300


def test_the_price_is_measured(monkeypatch):
    ticks = iter([10.0, 13.0])
    monkeypatch.setattr(auto.time, "perf_counter", lambda: next(ticks))
    decoder = toy_decoders()["image"]
    problem = plan(
        make_config({"decoder": decoder, "task": {"kind": "optimize", "objectives": [steps], "search": "random"}}),
        decoder,
    ).problem
    assert auto.seconds_a_row(problem) == 1.5


@pytest.mark.parametrize(("rows", "steps"), [(None, 200), (1600, 200), (800, 100), (8, 10), (10**7, 800)])
def test_steps_follow_the_budget(rows, steps):
    made, _ = planned(target=1, rows=rows, starts=["mean", {"kind": "prior", "n": 3}])
    assert made.config.task.search[0].steps == steps
    assert ("times the usual" in made.notes[0]) == (steps != 200)


def test_a_plan_run_again_by_its_resolved_config_gives_the_same():
    decoder = toy_decoders()["image"]
    target = decoder.decode(decoder.space.draw(3, torch.Generator().manual_seed(3)))
    first = lo.optimize(decoder, target=target, objectives=[MAE()], budget={"rows": 4000}, seed=5)
    again = lo.optimize(
        decoder, target=target, objectives=[MAE()], budget={"rows": 4000}, seed=5, search=first.config["task"]["search"]
    )
    assert torch.equal(first.latents, again.latents)
    assert first.cost.rows <= 4000

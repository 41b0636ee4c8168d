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


def planned(decoder=None, *, rows=None, starts=("mean",), **task):
    decoder = toy_decoders()["image"] if decoder is None else decoder
    if "target" in task:
        task["target"] = decoder.decode(torch.zeros(task["target"], decoder.dim))
    config = make_config(
        {"decoder": decoder, "budget": {"rows": rows}, "task": {"kind": "optimize", "starts": list(starts), **task}}
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
    ("seconds", "rows", "kind", "evaluations", "population"),
    [
        (1e-4, None, "cmaes", 5000, True),
        (0.02, None, "cmaes", 2000, False),
        (1e-4, 600, "cmaes", 600, False),
        (0.5, None, "optuna", 80, False),
        (0.5, 30, "optuna", 30, False),
    ],
)
def test_without_gradients_the_price_of_a_row_decides(monkeypatch, seconds, rows, kind, evaluations, population):
    monkeypatch.setattr(auto, "_seconds_a_row", lambda problem: seconds)
    made, _ = planned(objectives=[steps], rows=rows)
    [search] = made.config.task.search
    assert (search.kind, search.evaluations) == (kind, evaluations)
    if kind == "cmaes":
        assert (search.population is not None) == population
    assert f"{seconds:.2g} s" in made.notes[0]


def test_a_target_gets_its_share_of_the_rows(monkeypatch):
    monkeypatch.setattr(auto, "_seconds_a_row", lambda problem: 1e-4)
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
    assert auto._seconds_a_row(problem) == 1.5


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

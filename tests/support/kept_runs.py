"""Runs of every search and kind of problem, and when two of them are the same to the bit."""

import json

import torch

from latentopt.testing import toy_decoders

ROWS = ("latents", "designs", "losses", "target_index", "violations", "best_steps")
GREY = {"kind": "property", "function": lambda x: x.flatten(1).mean(1), "name": "grey"}

SEARCHES = {
    "adam": {"kind": "adam", "steps": 24, "noise": 0.01},
    "adam, plateau": {"kind": "adam", "steps": 24, "schedule": "plateau"},
    "lbfgs": {"kind": "lbfgs", "steps": 24, "stop_gain": 1e-3},
    "levenberg_marquardt": {"kind": "levenberg_marquardt", "steps": 8},
    "langevin": {"kind": "langevin", "steps": 24, "temperature": 1e-3},
    "cmaes": {"kind": "cmaes", "evaluations": 200, "restarts": 3},
    "cmaes, separable": {"kind": "cmaes", "evaluations": 200, "covariance": "separable"},
    "random": {"kind": "random", "evaluations": 200, "batch": 10},
    **{
        f"optuna {sampler}": {"kind": "optuna", "sampler": sampler, "evaluations": 30, "batch": 5}
        for sampler in ("tpe", "cmaes", "qmc", "nsgaii", "random")
    },
    "optuna gp": {"kind": "optuna", "sampler": "gp", "evaluations": 14, "batch": 1},
    "a chain": [{"kind": "random", "evaluations": 40, "batch": 10, "keep": 2}, {"kind": "adam", "steps": 12}],
    "a race": [
        [{"kind": "adam", "steps": 10, "keep": 2}, {"kind": "lbfgs", "steps": 10, "keep": 2}],
        {"kind": "lbfgs", "steps": 10},
    ],
}


class Early:
    """The mean square of each design, and rough estimates of it before."""

    rungs = 2

    def __call__(self, c):
        return c.designs.flatten(1).square().mean(1)

    def early(self, c, rung):
        return c.designs.flatten(1)[:, : 8 * (rung + 1)].square().mean(1)


PROBLEMS = {
    "pruned": {
        "search": {"kind": "optuna", "sampler": "random", "evaluations": 40, "batch": 5, "pruner": "median"},
        "objectives": [Early()],
        "target": None,
    },
    "constraints": {"search": {"kind": "lbfgs", "steps": 24}, "constraints": [{**GREY, "goal": {"at_most": 0.45}}]},
    "constraints, optuna": {"search": SEARCHES["optuna tpe"], "constraints": [{**GREY, "goal": {"at_most": 0.45}}]},
    "a front": {"search": {"kind": "lbfgs", "steps": 24}, "objectives": ["mse", GREY], "pareto": True},
    "a front, optuna": {"search": SEARCHES["optuna nsgaii"], "objectives": ["mse", GREY], "pareto": True},
    "a loss to stop at": {"search": {"kind": "adam", "steps": 24, "stop_at": 1e-3}},
    "many rows": {
        "search": {"kind": "adam", "steps": 24, "stop_gain": 0.2, "stop_window": 3},
        "starts": {"kind": "prior", "n": 40},
    },
}
CASES = {**{name: {"search": search} for name, search in SEARCHES.items()}, **PROBLEMS}


class KilledError(Exception):
    """In the place of a kill: nothing of the run's own code catches it."""


def decoder():
    return toy_decoders()["image"]


def options(name):
    made = decoder()
    target = made.decode(made.space.draw(2, torch.Generator().manual_seed(5)))
    return {"target": target, "starts": ["mean", {"kind": "prior", "n": 3}], "seed": 4, **CASES[name]}


def callables(name):
    """What has to be given again, as no file can hold it."""
    given = options(name)
    said = {key: str(given[key]) for key in ("objectives", "constraints") if key in given}
    return {key: given[key] for key, text in said.items() if GREY["name"] in text or "Early" in text}


def same(one, other):
    for field in ROWS:
        assert torch.equal(getattr(one, field), getattr(other, field)), field
    assert one.terms.keys() == other.terms.keys()
    assert all(torch.equal(one.terms[name], other.terms[name]) for name in one.terms)
    assert (one.cost.forward_rows, one.cost.backward_rows) == (other.cost.forward_rows, other.cost.backward_rows)
    assert (one.stopped, one.diverged, one.notes) == (other.stopped, other.diverged, other.notes)
    assert untimed(one.history) == untimed(other.history)
    assert torch.equal(one.paths.nan_to_num(7e7), other.paths.nan_to_num(7e7))
    assert len(one.paths) == len(one.history)


def untimed(history):
    """What a file holds of it, without the seconds: as text, since NaN is NaN there."""
    return [json.dumps({**entry, "seconds": 0}) for entry in history]

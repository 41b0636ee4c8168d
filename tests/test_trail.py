"""Terms and paths of the best rows: they are those of the rows that reports go by, and cost no decode."""

import pytest
import torch
from kept_runs import GREY, decoder, options

import latentopt as lo
from latentopt import maps
from latentopt.budget import Budget, Clock
from latentopt.driver import drive
from latentopt.problem import Problem
from latentopt.stagerun import Stage
from latentopt.terms import Term
from latentopt.testing import toy_decoders
from latentopt.trail import Trail
from latentopt_std import Adam

KINDS = [
    "adam",
    "lbfgs",
    "levenberg_marquardt",
    "cmaes",
    "optuna tpe",
    "a chain",
    "a race",
    "constraints",
    "a front",
    "many rows",
]


def watched(name, **more):
    """A run, and of each report the terms, and those that its best latents have once decoded."""
    given = {**options(name), **more}
    made, target, seen = decoder(), given["target"], []

    def look(report):
        with torch.no_grad():
            designs = toy_decoders()["image"].module(report.best_latents)
        found = {"mse": (designs - target).square().flatten(1).mean(1), "grey": GREY["function"](designs)}
        seen.append((report, found))

    return lo.optimize(made, on_report=look, **given), seen


@pytest.mark.parametrize("name", KINDS)
def test_terms_are_those_of_the_best_row_of_each_target(name):
    more = {} if name in ("constraints", "a front") else {"objectives": ["mse", {**GREY, "weight": 1e-3}]}
    found, seen = watched(name, **({} if name == "levenberg_marquardt" else more))
    assert len(seen) == len(found.history) > 2
    for report, expected in seen:
        assert list(report.terms) == list(found.terms)
        for term, value_T in report.terms.items():
            assert torch.allclose(torch.tensor(value_T), expected[term], atol=1e-6), (term, report.step)
    assert len({entry["terms"]["mse"] for entry in found.history}) > 2, "they change as the search goes on"


def test_a_raw_term_keeps_its_sign_and_scale():
    grey = {**GREY, "goal": "maximize", "weight": 3.0}
    found = lo.optimize(decoder(), objectives=[grey], search={"kind": "adam", "steps": 5}, starts="mean")
    last = found.history[-1]
    assert last["terms"]["grey"][0] == pytest.approx(found.best.terms["grey"], abs=1e-6)
    assert last["best_T"][0] == pytest.approx(-3 * last["terms"]["grey"][0], rel=1e-6)


def test_terms_and_paths_cost_no_decode_and_no_look_at_values(monkeypatch):
    copies = []
    cpu = torch.Tensor.cpu
    problem = Problem(
        decoder(), [Term("one", lambda c: c.latents[:, 0]), Term("two", lambda c: c.latents[:, 1].square())]
    )
    z_ND, clock = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), Clock(problem, Budget())
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self.shape) or cpu(self))
    stage = Stage("adam", Adam(lr=0.1, steps=30).build(problem.decoder))
    outcome = drive(problem, z_ND, torch.zeros(6, dtype=torch.long), [stage], clock=clock, seed=0)
    assert outcome.forward_rows == 6 * 31
    one_a_report = [shape for shape in copies if shape == (4 * 6 + 2 * 6 + 1 + 2,)]
    assert len(one_a_report) == len(outcome.history) == 31


def test_a_target_without_a_finite_loss_has_neither():
    def loss(c):
        return torch.where(c.target_index == 1, torch.nan, c.latents[:, 0])

    problem = Problem(
        toy_decoders()["vector"], [Term("loss", loss), Term("size", lambda c: c.latents.square().sum(1))], targets=2
    )
    z_ND, clock = torch.tensor([[3.0, 0, 0], [1.0, 0, 0]]), Clock(problem, Budget())
    stage = Stage("adam", Adam(lr=0.1, steps=2).build(problem.decoder))
    outcome = drive(problem, z_ND, torch.tensor([0, 1]), [stage], clock=clock, seed=0)
    first = outcome.history[0].terms
    assert (first["loss"][0], first["size"][0]) == (3.0, 9.0)
    assert all(first[name][1] != first[name][1] for name in first)
    assert torch.equal(outcome.paths[0, 0], z_ND[0])
    assert bool(outcome.paths[:, 1].isnan().all())


# ---------------------------------------------------------------------- paths


@pytest.mark.parametrize("name", ["adam", "cmaes", "a race", "constraints"])
def test_paths_are_the_best_latents_at_each_report(name, tmp_path):
    found, seen = watched(name)
    assert found.paths.shape == (len(found.history), 2, 4)
    for place, (report, _) in zip(found.paths, seen, strict=True):
        assert torch.equal(place, report.best_latents)
    if name != "a race":  # whose last report may be a loser's
        assert torch.equal(found.paths[-1], found.best.latent.flatten(1))
    assert torch.equal(lo.load(found.save(tmp_path / "run")).paths, found.paths)
    assert found.take(torch.tensor([0])).paths is found.paths


def test_paths_are_of_few_targets_and_not_of_huge_latents():
    assert Trail(3, torch.zeros(1, 20)).count == 3
    assert Trail(100, torch.zeros(1, 20)).count == 8
    assert Trail(100, torch.zeros(1, 4096)).count == 2
    huge = Trail(100, torch.zeros(1, 10_000))
    huge.note(torch.zeros(100, 10_000), torch.ones(100, dtype=torch.bool))
    assert huge.paths(1) is None
    decoder = lo.Decoder(torch.nn.Linear(10_000, 4), latent_shape=(10_000,), prior="normal")
    found = lo.optimize(decoder, target=torch.zeros(4), starts="mean", search={"kind": "adam", "steps": 2})
    assert found.paths is None
    assert maps.latent_map(found).legs == []
    assert Trail(2, torch.zeros(1, 3)).paths(0) is None


def test_legs_of_a_map_begin_with_each_search_and_leave_repeats_out():
    found, _ = watched("a race")
    legs = maps.latent_map(found).legs
    assert [(leg.target, leg.stage, leg.racing) for leg in legs] == [
        (target, stage, stage == 0) for target in (0, 1) for stage in (0, 0, 1)
    ]
    spots = maps.latent_map(found)
    for leg in (legs[2], legs[5]):
        row = int(found.firsts()[leg.target])
        assert torch.allclose(leg.places_R2[-1], spots.found_N2[row], atol=1e-6), "the last stage ends at the best row"
        assert bool((leg.places_R2[1:] != leg.places_R2[:-1]).any(1).all())
    assert torch.equal(legs[0].places_R2[0], legs[1].places_R2[0]), "those that race set out alike"

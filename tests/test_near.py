"""Searches near a given design: how far rows may go, what stays, and what else is promised."""

import numpy as np
import pytest
import torch
from spaces import DIM, identity_decoder, priors
from typer.testing import CliRunner

import latentopt as lo
from latentopt import rng
from latentopt.cli import app
from latentopt.config import json_schema, make_config
from latentopt.testing import NoHostSync, toy_decoders

every_prior = pytest.mark.parametrize("prior", list(priors()))
most_priors = pytest.mark.parametrize("prior", [name for name in priors() if name != "sphere"])
FAST = {"kind": "adam", "steps": 60}


def about(prior):
    """A space and a typical point of it, float64."""
    space = lo.LatentSpace((DIM,), priors()[prior])
    return space, space.draw(1, rng.generator(5))[0].double()


def scattered(space, centre, n=300):
    z = space.draw(n, rng.generator(4)).double()
    return centre + (z - centre) * torch.logspace(-3, 2, n, dtype=torch.float64)[:, None]


def distance(space, z, centre):
    """Written out a second time."""
    return ((z.double() - centre) / space.std(centre)).square().sum(1).sqrt()


@every_prior
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_stay_within_the_radius(prior, dtype):
    space, centre = about(prior)
    z = scattered(space, centre).to(dtype)
    moved = lo.Near(latent=centre, radius=0.7).resolve(space).project(z)
    assert moved.dtype == dtype
    before, after = distance(space, z, centre), distance(space, moved, centre)
    assert (after <= 0.7 * (1 + 1e-4)).all()
    assert (before > 0.71).any()
    assert after[before > 0.7].tolist() == pytest.approx([0.7] * int((before > 0.7).sum()), rel=1e-4)
    inside = before < 0.6999
    assert inside.any()
    assert torch.equal(moved[inside], z[inside])
    far = before > 0.71
    cosine = torch.cosine_similarity(z[far].double() - centre, moved[far].double() - centre)
    assert cosine.min() > 1 - 1e-6, "straight back towards the centre"


@every_prior
def test_gradients_are_right_and_a_nan_row_is_alone(prior):
    space, centre = about(prior)
    found = lo.Near(latent=centre, radius=0.7).resolve(space)
    z = scattered(space, centre, 12)
    assert torch.autograd.gradcheck(found.project, z.clone().requires_grad_(True), atol=1e-5)
    broken = z.clone()
    broken[2] = torch.nan
    others = [0, 1, 3, 4]
    assert found.project(broken)[2].isnan().all()
    assert torch.equal(found.project(broken)[others], found.project(z)[others])


# ---------------------------------------------------------------------- and within a percentile of the prior


@most_priors
@pytest.mark.parametrize("some", [False, True], ids=["all free", "one fixed"])
@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_rows_stay_within_both(prior, some, dtype, slack):
    space, centre = about(prior)
    largest, middle = space.prior.radius_at(60, DIM), space.prior.centre(centre[None]).reshape(-1)
    centre = middle + (centre - middle) * (0.8 * largest / space.prior.radius(centre[None]))
    values = {1: float(centre[1] + 0.05 * space.std(centre)[1])} if some else {}
    alone = lo.Near(latent=centre, radius=1.5, fixed=values).resolve(space)
    both = lo.Near(latent=centre, radius=1.5, fixed=values, percentile=60).resolve(space)
    z = scattered(space, centre).to(dtype)
    once, moved = alone.project(z), both.project(z)
    assert (distance(space, moved, centre) <= 1.5 * (1 + slack)).all()
    radius = space.prior.radius(moved.double())
    assert (radius <= largest * (1 + slack)).all()
    cut = space.prior.radius(once) > largest
    assert 0 < int(cut.sum()) < len(cut), "the percentile has something to do"
    assert torch.equal(moved[~cut], once[~cut])
    if prior != "mixture":
        assert (radius[cut] > largest * 0.95).all(), "not much further in than they must be"
    for index, value in values.items():
        assert torch.equal(moved[:, index], torch.full((len(moved),), value, dtype=dtype))
    with NoHostSync():
        both.project(z)


def test_rows_of_a_mixture_inside_another_component_stay():
    """The union of the components' balls is not convex: what is inside it already is not moved."""
    space = lo.LatentSpace(
        (2,), lo.Mixture(weights=[0.5, 0.5], means=[[-3.0, 0], [3.0, 0]], covariances=[[[1.0, 0], [0, 1]]] * 2)
    )
    found = lo.Near(latent=[-3.0, 0.0], radius=50.0, percentile=80).resolve(space)
    z = torch.tensor([[3.1, 0.2], [0.0, 0.0], [-3.0, 9.0]])
    moved = found.project(z)
    assert torch.equal(moved[0], z[0])
    largest = space.prior.radius_at(80, 2)
    assert space.prior.radius(moved).max() <= largest * (1 + 1e-5)
    assert moved[1, 0] < -1
    assert moved[2].tolist() == pytest.approx([-3.0, largest], rel=1e-3)


# ---------------------------------------------------------------------- held and fixed coordinates


def test_held_coordinates_keep_the_centres_own_values():
    space, centre = about("normal")
    found = lo.Near(latent=centre, radius=1.0, held=(0, 3), fixed={1: float(centre[1]) + 0.5}).resolve(space)
    moved = found.project(scattered(space, centre))
    assert (moved[:, [0, 3]] == centre[[0, 3]]).all()
    assert (moved[:, 1] == centre[1] + 0.5).all()
    apart = distance(space, moved, centre)
    assert (apart <= 1 + 1e-9).all()
    assert float(apart.max()) == pytest.approx(1.0)
    assert len(moved[:, 2].unique()) > 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"latent": [5.0, 0, 0, 0], "percentile": 99},
            "lies at radius 5 of the prior, beyond the percentile's 3.64.*above 99.99",
        ),
        (
            {"latent": [1.0, 0, 0, 0], "fixed": {2: 3.0}},
            "alone lie 3 standard deviations from the design, and the region ends at 1",
        ),
        (
            {"latent": [1.0, 0, 0, 0], "radius": 9, "percentile": 90, "fixed": {2: 5.0}},
            "lies at radius 5.099 of the prior",
        ),
        ({"latent": [0.0, 0, 0, 0], "held": (4,)}, "held coordinate 4 is not there: the latent has 4"),
        ({"latent": [0.0, 0, 0, 0], "held": (0, 1, 2, 3)}, "all 4 latent coordinates are fixed"),
        ({"latent": torch.zeros(2, 4)}, "takes one centre, which serves all targets, got 2: give one"),
        ({"latent": [0.0, float("nan"), 0, 0]}, "the centre of region near holds 1 values that are NaN or infinite"),
        ({"latent": [0.0, 0.0]}, r"latents of shape \(2,\) do not fit this decoder: give \(N, 4\)"),
        (
            {"design": torch.zeros(1, 8, 8)},
            "has a design, which is encoded, and the decoder has no encoder: give the design's",
        ),
    ],
)
def test_what_does_not_fit(options, text):
    with pytest.raises(lo.LatentoptError, match=text):
        lo.Near(**options).resolve(lo.LatentSpace((4,)))


def test_a_sphere_prior_has_no_percentile_to_stay_within():
    space, centre = about("sphere")
    with pytest.raises(lo.ConfigError, match="all draws of a sphere prior share one radius: leave it out"):
        lo.Near(latent=centre, percentile=99).resolve(space)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "exactly one of latent and design"),
        ({"latent": [0.0], "design": [0.0]}, "exactly one of latent and design"),
        ({"latent": [0.0], "radius": 0}, "greater than 0"),
        (
            {"latent": [0.0, 1.0], "held": [1], "fixed": {1: 0.0}},
            "coordinate 1 is both held and fixed: give one of them",
        ),
    ],
)
def test_options_that_contradict_each_other(options, text):
    with pytest.raises(lo.ConfigError, match=text):
        make_config({"decoder": "digits", "task": {"kind": "optimize", "region": {"kind": "near", **options}}})


# ---------------------------------------------------------------------- in a run


def brightness(c):
    return c.designs.flatten(1).mean(1)


BRIGHT = {"kind": "callable", "function": brightness, "goal": "maximize", "name": "bright"}


def test_a_run_improves_the_design_and_stays_near_it():
    decoder = toy_decoders()["volume"]
    start = decoder.space.draw(1, rng.generator(8))
    before = float(brightness(lo.Candidates(start, decoder.decode(start), torch.zeros(1, dtype=torch.long))))
    gains = []
    for radius in (0.5, 2.0):
        found = lo.optimize(
            decoder,
            objectives=BRIGHT,
            region={"kind": "near", "latent": start, "radius": radius, "held": (7,)},
            search=FAST,
        )
        z = found.latents.flatten(1)
        assert (z - start).norm(dim=1).max() <= radius * (1 + 1e-4)
        assert (z[:, 7] == start[0, 7]).all()
        assert found.realism.inside.all()
        gains.append(found.best.terms["bright"] - before)
    assert 0 < gains[0] < gains[1]


def test_it_starts_from_the_design_itself():
    decoder = toy_decoders()["image"]
    start = torch.tensor([0.3, -0.2, 1.0, 0.4])
    found = lo.optimize(
        decoder, objectives=BRIGHT, region=lo.Near(latent=start), search={"kind": "adam", "steps": 1, "lr": 1e-9}
    )
    assert ((found.latents - start).norm(dim=1) < 1e-6).any()
    kinds = [
        one["kind"] if isinstance(one, dict) and "kind" in one else "given" for one in found.config["task"]["starts"]
    ]
    assert kinds == ["given", "prior"]
    given = lo.optimize(decoder, objectives=BRIGHT, region=lo.Near(latent=start), starts="mean", search=FAST)
    assert len(given) == 1, "starts that were given are kept"


def test_a_design_is_encoded_first():
    decoder = identity_decoder(lo.Normal(std=2.0))
    design = torch.tensor([1.0, -1.0, 0.5, 2.0])
    by_design, by_latent = (
        lo.optimize(decoder, target=torch.zeros(4), region={"kind": "near", key: design, "radius": 0.5}, search=FAST)
        for key in ("design", "latent")
    )
    assert torch.equal(by_design.latents, by_latent.latents)
    assert float((by_design.best.latent - design).norm()) == pytest.approx(1.0, rel=1e-4), (
        "0.5 standard deviations of 2"
    )
    assert float(by_design.best.design.norm()) == pytest.approx(float(design.norm()) - 1.0, rel=1e-3)


def test_a_saved_run_holds_its_centre(tmp_path):
    decoder = toy_decoders()["image"]
    start = torch.tensor([0.3, -0.2, 1.0, 0.4])
    found = lo.optimize(decoder, objectives="prior", region=lo.Near(latent=start), search=FAST, out=tmp_path / "run")
    place = found.config["task"]["region"]["latent"]
    assert place["path"] == "arrays.safetensors"
    assert torch.equal(lo.load(tmp_path / "run").arrays[place["key"]], start)


def test_the_default_radius_is_less_than_what_counts_as_another_answer():
    digits = lo.load_decoder("digits")
    codes = digits.encode(lo.examples.digits())
    step = rng.randn(100, 20, rng.generator(3))
    moved = digits.decode(codes + step / step.norm(dim=1, keepdim=True) * lo.Near(latent=codes[0]).radius)
    change = (moved - digits.decode(codes)).square().flatten(1).mean(1).sqrt() / digits.probe.spread
    assert 0.1 < float(change.median()) < 0.25


@pytest.mark.parametrize("form", ["npy", "list", "design"])
def test_from_the_command_line(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = lo.load_decoder("digits")
    pictures = lo.examples.digits()
    code = digits.encode(pictures[4:5])[0]
    np.save("code.npy", code.numpy())
    np.save("four.npy", pictures[4].numpy())
    np.save("nine.npy", pictures[9].numpy())
    centre = {"npy": "latent: code.npy", "list": f"latent: {code.tolist()}", "design": "design: four.npy"}[form]
    region = f"{{kind: near, {centre}, radius: 0.5, held: [2], fixed: {{0: {float(code[0]) + 0.25}}}}}"
    command = ["optimize", "-d", "digits", "-t", "nine.npy", "--region", region, "-s", "{kind: adam, steps: 3}", "-q"]
    done = CliRunner().invoke(app, [*command, "--out", "run"])
    assert done.exit_code == 0, done.output
    z = lo.load("run").latents
    assert ((z - code).norm(dim=1) <= 0.5 * (1 + 1e-4)).all()
    assert (z[:, 2] - code[2]).abs().max() < 1e-5
    assert (z[:, 0] - code[0] - 0.25).abs().max() < 1e-5


def test_the_json_schema_describes_it():
    fields = json_schema()["$defs"]["Near"]["properties"]
    assert {"kind", "latent", "design", "radius", "held", "percentile", "fixed"} == set(fields)

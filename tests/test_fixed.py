"""Fixed coordinates: kept to the bit in every region under every prior, and the region holds all the same."""

import numpy as np
import pytest
import torch
from spaces import DIM, priors

import latentopt as lo
from latentopt import rng
from latentopt.config import json_schema, make_config
from latentopt.testing import NoHostSync, toy_decoders

REGIONS = {
    "free": lo.Free,
    "box": lo.Box,
    "ball": lo.Ball,
    "shell": lo.Shell,
    "sphere": lo.Sphere,
}
OPTIONS = {"box": {"percentile": 90}}
HELD = [0, 2]
PAIRS = [(p, r) for p in priors() for r in REGIONS if not (p == "mixture" and r in ("shell", "sphere"))]
matrix = pytest.mark.parametrize(("prior", "region"), PAIRS)


def inner_point(space):
    """A point well inside of every region but the shells and spheres, whose slice it crosses."""
    draw = space.draw(1, rng.generator(1)).double()
    centre = space.prior.centre(draw)
    return (centre + (draw - centre) * 0.4).reshape(-1)


def resolved(prior, region):
    """The space, the region without and with fixed coordinates, and their values."""
    space = lo.LatentSpace((DIM,), priors()[prior])
    point = inner_point(space)
    fixed = {i: float(point[i]) for i in HELD}
    options = OPTIONS.get(region, {})
    plain = REGIONS[region](**options).resolve(space)
    return space, plain, REGIONS[region](**options, fixed=fixed).resolve(space), fixed


def scattered(space, n=200):
    """Rows far inside and far outside of anything, float64."""
    z = space.draw(n, rng.generator(4)).double()
    centre = space.prior.centre(z)
    return centre + (z - centre) * torch.logspace(-3, 3, n, dtype=torch.float64)[:, None]


def with_values(z, fixed):
    z = z.clone()
    for index, value in fixed.items():
        z[:, index] = value
    return z


@matrix
@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_both_hold(prior, region, dtype, slack):
    space, plain, found, fixed = resolved(prior, region)
    moved = found.project(scattered(space).to(dtype))
    assert moved.dtype == dtype
    for index, value in fixed.items():
        assert torch.equal(moved[:, index], torch.full((len(moved),), value, dtype=dtype))
    if region == "box":
        low, high = plain.box.on(moved)
        assert ((moved >= low) & (moved <= high)).all()
    if plain.form == "radial":
        radius = space.prior.radius(moved.double())
        assert (radius <= plain.largest * (1 + slack)).all()
        assert (radius >= plain.smallest * (1 - slack)).all()


@matrix
def test_rows_outside_go_no_further_than_the_edge(prior, region):
    space, plain, found, fixed = resolved(prior, region)
    if plain.form != "radial":
        pytest.skip("not by radius")
    z = with_values(scattered(space), fixed)
    outside = space.prior.radius(z) > plain.largest * 1.001
    radius = space.prior.radius(found.project(z))[outside]
    assert outside.any()
    if prior == "mixture":  # beyond one component's edge may be inside another's
        assert (radius > plain.largest * 0.7).all()
    else:
        assert radius.tolist() == pytest.approx([plain.largest] * int(outside.sum()), rel=1e-9)


@matrix
def test_rows_inside_keep_every_bit(prior, region):
    space, plain, found, fixed = resolved(prior, region)
    z = with_values(scattered(space, 2000).float(), fixed)
    if region == "box":
        low, high = plain.box.on(z)
        inside = ((z >= low) & (z <= high)).all(1)
    else:
        radius = space.prior.radius(z)
        inside = (radius >= plain.smallest * 1.0001) & (radius < plain.largest * 0.9999)
    if region == "sphere" or (region, prior) == ("shell", "sphere"):
        assert not inside.any(), "a sphere has no inside"
        return
    assert inside.any()
    assert torch.equal(found.project(z)[inside], z[inside])


@matrix
def test_gradients_are_right(prior, region):
    space, _, found, _ = resolved(prior, region)
    z = scattered(space, 12).requires_grad_(True)
    assert torch.autograd.gradcheck(found.project, z, atol=1e-5)


@matrix
def test_a_nan_row_stays_nan_and_alone(prior, region):
    space, _, found, _ = resolved(prior, region)
    z = scattered(space, 6).float()
    broken = z.clone()
    broken[2] = torch.nan
    moved, others = found.project(broken), [0, 1, 3, 4, 5]
    assert moved[2, [1, 3]].isnan().all()
    assert torch.equal(moved[others], found.project(z)[others])


@matrix
def test_no_value_is_looked_at(prior, region):
    space, _, found, _ = resolved(prior, region)
    z = scattered(space, 6).float()
    found.project(z)
    with NoHostSync():
        found.project(z)


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_a_ball_is_refused_only_where_the_other_coordinates_cannot_make_up_for_the_values(name):
    """The least radius of any point with the values is their own Mahalanobis distance under the marginal."""
    prior = priors()[name]
    fixed = {0: 2.0, 2: -1.5}
    means = prior.mean.tensor()[None] if name == "gaussian" else prior.means.tensor()
    covariances = prior.covariance.tensor()[None] if name == "gaussian" else prior.covariances.tensor()
    offsets = torch.tensor(list(fixed.values())).double() - means[:, HELD].double()
    among = covariances[:, HELD][:, :, HELD].double()
    least = float((offsets * torch.linalg.solve(among, offsets)).sum(1).sqrt().min())
    space = lo.LatentSpace((DIM,), prior)
    moved = lo.Ball(radius=least * 1.001, fixed=fixed).resolve(space).project(scattered(space))
    assert (prior.radius(moved) <= least * 1.0011).all()
    with pytest.raises(lo.ConfigError, match=f"the fixed values alone lie at radius {least:.4g} of the prior"):
        lo.Ball(radius=least * 0.999, fixed=fixed).resolve(space)


@pytest.mark.parametrize("region", [lo.Shell(fixed={1: 0.2}), lo.Sphere(fixed={1: 0.2})])
def test_a_row_at_the_slices_centre_has_somewhere_to_go(region):
    space = lo.LatentSpace((DIM,))
    z = torch.zeros(2, DIM, requires_grad=True)
    moved = region.resolve(space).project(z)
    plain = type(region)().resolve(space)
    radius = moved.detach().norm(dim=1)
    assert ((radius >= plain.smallest * (1 - 1e-5)) & (radius <= plain.largest * (1 + 1e-5))).all()
    assert moved[0, 0] == moved[0, 2] != moved[0, 1] == 0.2
    (gradient,) = torch.autograd.grad(moved.sum(), z)
    assert torch.isfinite(gradient).all()


def test_a_value_on_the_edge_of_a_uniform_prior_leaves_the_others_free():
    space = lo.LatentSpace((3,), lo.Uniform(low=-0.1, high=0.7))
    moved = lo.Ball(radius=1.0, fixed={1: 0.7}).resolve(space).project(torch.tensor([[9.0, 9.0, 0.2]]))
    assert moved[0].tolist() == pytest.approx([0.7, 0.7, 0.3 + (0.2 - 0.3) * 0.4 / 8.7])
    edge = lo.Sphere(fixed={1: 0.7}).resolve(space).project(torch.tensor([[0.5, 0.0, 0.2]]))
    assert edge[0].tolist() == pytest.approx([0.5, 0.7, 0.2]), "it is on the surface already"


def test_components_that_the_values_cannot_reach_are_left_out():
    space = lo.LatentSpace((DIM,), priors()["mixture"])
    found = lo.Ball(radius=2.0, fixed={0: 4.0}).resolve(space)
    assert len(found.slices.priors) == 1
    moved = found.project(space.draw(100, rng.generator(0)) * 5)
    assert (space.prior.radius(moved.double()) <= 2.0 * (1 + 1e-4)).all()
    assert (moved[:, 0] == 4.0).all()


# ---------------------------------------------------------------------- boxes by coordinate


def test_a_box_bounds_the_coordinates_that_it_names():
    space = lo.LatentSpace((3,))
    z = torch.tensor([[9.0, 9.0, 9.0], [-9.0, -9.0, -9.0]])
    both = lo.Box(low={2: 0.0}, high={2: 1.0}).resolve(space).project(z)
    assert both.tolist() == [[9.0, 9.0, 1.0], [-9.0, -9.0, 0.0]]
    one = lo.Box(low={0: -1.0}).resolve(space).project(z)
    assert one.tolist() == [[9.0, 9.0, 9.0], [-1.0, -9.0, -9.0]]
    mixed = lo.Box(low={1: -1.0}, high=2.0).resolve(space).project(z)
    assert mixed.tolist() == [[2.0, 2.0, 2.0], [-9.0, -1.0, -9.0]]
    rest = lo.Box(low={2: 0.0}, high={2: 1.0}, percentile=95, fixed={1: 0.5}).resolve(space).project(z)
    assert rest[0].tolist() == pytest.approx([1.95996, 0.5, 1.0], rel=1e-4)
    assert rest[1].tolist() == pytest.approx([-1.95996, 0.5, 0.0], rel=1e-4)


# ---------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("region", "text"),
    [
        (lo.Ball(fixed={4: 0.0}), "fixed coordinate 4 is not there: the latent has 4, so they go from 0 to 3"),
        (
            lo.Free(fixed=dict.fromkeys(range(4), 0.0)),
            "all 4 latent coordinates are fixed, so nothing is left to search",
        ),
        (
            lo.Ball(radius=2.0, fixed={0: 3.0, 1: 4.0}),
            "lie at radius 5 of the prior, and the region ends at 2: give values",
        ),
        (lo.Shell(low=1, high=2, fixed={0: 3.0}), "lie at radius 3 of the prior, and the region ends at 2"),
        (lo.Sphere(fixed={3: -2.5}), "lie at radius 2.5 of the prior, and the region ends at 2"),
        (lo.Box(low=-1, high=1, fixed={2: 1.5}), "fixed coordinate 2 has the value 1.5, and the box goes from -1 to 1"),
        (lo.Box(low={9: 0.0}), "low: coordinate 9 is not there: the latent has 4"),
        (lo.Box(high={4: 0.0}), "high: coordinate 4 is not there: the latent has 4"),
        (
            lo.Box(low={1: 0.0}, high={1: 0.0}),
            "the box goes from 0 to 0 in coordinate 1: low must be below high; to hold",
        ),
        (lo.Box(low={1: 9.0}, percentile=90), "the box goes from 9 to 1.645 in coordinate 1: low must be below high"),
    ],
)
def test_numbers_that_do_not_fit(region, text):
    with pytest.raises(lo.ConfigError, match=text):
        region.resolve(lo.LatentSpace((DIM,)))


@pytest.mark.parametrize(
    ("region", "text"),
    [
        ({"kind": "ball", "fixed": {-1: 0.0}}, "task.region.fixed.*greater than or equal to 0"),
        ({"kind": "ball", "fixed": {0: float("nan")}}, "task.region.fixed.*finite number"),
        ({"kind": "ball", "fixed": {"x": 0.0}}, "task.region.fixed.*whole number"),
        ({"kind": "box", "low": {2: float("inf")}}, "task.region.low.*finite number"),
        (
            {"kind": "box", "low": {2: 1.0}, "high": 1.0, "percentile": 90},
            "give a percentile or low and high, not both",
        ),
    ],
)
def test_values_that_cannot_be(region, text):
    with pytest.raises(lo.ConfigError, match=text):
        make_config({"decoder": "digits", "task": {"kind": "optimize", "region": region}})


def test_the_json_schema_describes_them():
    found = json_schema()["$defs"]
    assert found["Ball"]["properties"]["fixed"]["anyOf"][0]["additionalProperties"] == {"type": "number"}
    assert any(one.get("type") == "object" for one in found["Box"]["properties"]["low"]["anyOf"])


# ---------------------------------------------------------------------- in a run


@pytest.mark.parametrize(
    "search", ["adam", {"kind": "optuna", "sampler": "cmaes", "evaluations": 60}, {"kind": "random", "evaluations": 60}]
)
def test_a_search_keeps_them_and_its_region(search):
    decoder = toy_decoders()["image"]
    target = decoder.decode(decoder.space.draw(1, rng.generator(4)))[0]
    search = {"kind": "adam", "steps": 40} if search == "adam" else search
    found = lo.optimize(decoder, target=target, search=search, region={"kind": "ball", "fixed": {1: 0.7, 3: -0.2}})
    assert torch.equal(found.latents[:, [1, 3]], torch.tensor([0.7, -0.2]).expand(len(found), 2))
    assert found.realism.inside.all()
    assert found.config["task"]["region"]["fixed"] == {"1": 0.7, "3": -0.2}
    again = lo.run({**found.config, "decoder": decoder, "task": {**found.config["task"], "target": target}})
    assert torch.equal(again.latents, found.latents)


def test_chosen_pixels_stay_as_they_are():
    """The upper half of a four is a constraint, the lower half is to look like a nine's."""
    digits = lo.load_decoder("digits")
    four, nine = (lo.examples.digits()[i] for i in (4, 9))
    kept = digits.decode(digits.encode(four))[0]
    upper = torch.zeros(28, 28)
    upper[:14] = 1
    limit = {"kind": "mse", "target": kept, "mask": upper, "goal": {"at_most": 1e-3}, "name": "kept"}
    wish = {"kind": "mse", "mask": 1 - upper}
    options = {"target": nine, "objectives": wish, "starts": {"kind": "prior", "n": 4}}
    loose = lo.optimize(digits, search={"kind": "adam", "steps": 200}, **options).best
    held = lo.optimize(digits, search={"kind": "adam", "steps": 200}, constraints=[limit], **options).best
    changed = [float((one.design - kept)[:, :14].square().mean()) for one in (loose, held)]
    assert changed[0] > 0.05, "without the constraint they are lost"
    assert changed[1] < 5e-3
    assert changed[1] == pytest.approx(held.terms["kept"], rel=1e-3)
    before, after = ((x - nine)[:, 14:].square().mean() for x in (kept, held.design))
    assert after < 0.7 * before, "the others went on to the target"


def test_from_the_command_line(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from latentopt.cli import app

    monkeypatch.chdir(tmp_path)
    np.save("target.npy", lo.examples.digits()[3].numpy())
    region = "{kind: box, percentile: 99, fixed: {0: 1.5}, low: {3: 0}}"
    command = ["optimize", "-d", "digits", "-t", "target.npy", "--region", region, "-s", "{kind: adam, steps: 3}", "-q"]
    done = CliRunner().invoke(app, [*command, "--out", "run"])
    assert done.exit_code == 0, done.output
    found = lo.load("run")
    assert (found.latents[:, 0] == 1.5).all()
    assert (found.latents[:, 3] >= 0).all()

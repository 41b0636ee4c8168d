"""Regions: every kind under every prior. Rows land in them exactly, those inside stay, gradients are right."""

import math

import pytest
import torch
from pydantic import TypeAdapter
from scipy import stats
from spaces import DIM, priors

import latentopt as lo
from latentopt import rng
from latentopt.regions import Region, RegionBase, RegionChoice, default_region

REGIONS = {
    "free": lo.Free(),
    "box by number": lo.Box(low=-1.5, high=2.0),
    "box by vector": lo.Box(low=(-1.0, -2.0, 0.0, 1.0), high=(0.0, 2.0, 0.5, 4.0)),
    "box by percentile": lo.Box(percentile=90),
    "ball": lo.Ball(),
    "ball by number": lo.Ball(radius=0.8),
    "ball by percentile": lo.Ball(percentile=30),
    "shell": lo.Shell(),
    "shell by number": lo.Shell(low=0.5, high=0.75),
    "shell by percentile": lo.Shell(percentile=60),
    "sphere": lo.Sphere(),
    "sphere by number": lo.Sphere(radius=0.7),
    "sphere by percentile": lo.Sphere(percentile=75),
}
PAIRS = [
    (prior, region)
    for prior in priors()
    for region in REGIONS
    if not (prior == "mixture" and region.split()[0] in ("shell", "sphere"))
]
matrix = pytest.mark.parametrize(("prior", "region"), PAIRS)


def resolved(prior, region):
    space = lo.LatentSpace((DIM,), priors()[prior])
    return space, REGIONS[region].resolve(space)


def scattered(space, n=200):
    """Rows far inside and far outside of anything, float64."""
    z = space.draw(n, rng.generator(4)).double()
    centre = space.prior.centre(z)
    return centre + (z - centre) * torch.logspace(-3, 3, n, dtype=torch.float64)[:, None]


def limits(space, name):
    """Where the rows of a region lie, worked out a second time: (low, high) of radii, or (low_D, high_D) of a box."""
    region, prior = REGIONS[name], space.prior
    if isinstance(region, lo.Box):
        if region.percentile is None:
            return torch.tensor(region.low).double(), torch.tensor(region.high).double()
        return prior.interval(region.percentile, DIM)
    if isinstance(region, lo.Shell) and region.low is not None:
        return region.low, region.high
    if isinstance(region, lo.Sphere) and region.percentile is None:
        size = region.radius or (math.sqrt(DIM) if isinstance(prior, lo.Normal | lo.Gaussian) else 1.0)
        return size, size
    if isinstance(region, lo.Ball) and region.radius is not None:
        return 0.0, region.radius
    high = prior.radius_at(99 if region.percentile is None else region.percentile, DIM)
    if isinstance(region, lo.Ball):
        return 0.0, high
    if isinstance(region, lo.Sphere):
        return high, high
    return prior.radius_at(100 - (region.percentile or 99), DIM), high


@matrix
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_land_in_the_region(prior, region, dtype):
    space, found = resolved(prior, region)
    z = scattered(space).to(dtype)
    moved = found.project(z)
    assert moved.dtype == dtype
    assert moved.shape == z.shape
    if region == "free":
        assert moved is z
        return
    low, high = limits(space, region)
    if region.startswith("box"):
        assert (moved >= low.to(dtype)).all()
        assert (moved <= high.to(dtype)).all()
        return
    radius = space.prior.radius(moved.double())
    assert (radius <= high * (1 + 1e-5)).all()
    assert (radius >= low * (1 - 1e-5)).all()
    before = space.prior.radius(z)
    assert torch.allclose(radius[before > high], torch.tensor(high).double(), rtol=1e-5) or prior == "mixture"


@matrix
def test_projecting_twice_changes_nothing(prior, region):
    space, found = resolved(prior, region)
    once = found.project(scattered(space).float())
    scale = space.std(once) + (once - space.prior.centre(once)).abs()
    assert ((found.project(once) - once).abs() <= 1e-5 * scale).all()


@matrix
def test_rows_inside_keep_every_bit(prior, region):
    space, found = resolved(prior, region)
    if region == "free":
        pytest.skip("everything is inside")
    z = scattered(space, 2000).float()
    low, high = limits(space, region)
    if region.startswith("box"):
        inside = ((z >= low.float()) & (z <= high.float())).all(1)
    else:
        radius = space.prior.radius(z)
        inside = (radius > low * 1.00001) & (radius < high * 0.99999)
    if region.startswith("sphere") or (region.startswith("shell") and prior == "sphere" and "number" not in region):
        assert not inside.any(), "a sphere has no inside"
        return
    if region.startswith("box by"):  # a given box need not meet this prior's scattered rows
        z = torch.cat([z, ((low + high) / 2).float().expand(1, DIM)])
        inside = torch.cat([inside, torch.tensor([True])])
    assert inside.any()
    assert torch.equal(found.project(z)[inside], z[inside])


@matrix
def test_rows_keep_their_direction_from_the_centre(prior, region):
    if region == "free" or region.startswith("box"):
        pytest.skip("not by radius")
    space, found = resolved(prior, region)
    z = scattered(space)
    centre = space.prior.centre(z)
    a, b = z - centre, found.project(z) - centre
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    assert cosine.min() > 1 - 1e-9


@matrix
def test_gradients_are_right(prior, region):
    space, found = resolved(prior, region)
    z = scattered(space, 12).requires_grad_(True)
    assert torch.autograd.gradcheck(found.project, z, atol=1e-5)


@matrix
def test_the_centre_has_somewhere_to_go(prior, region):
    space, found = resolved(prior, region)
    centre = space.prior.centre(torch.zeros(1, DIM)).float().expand(2, DIM).clone().requires_grad_(True)
    moved = found.project(centre)
    assert torch.isfinite(moved).all()
    (gradient,) = torch.autograd.grad(moved.sum(), centre)
    assert torch.isfinite(gradient).all()
    if region.startswith(("shell", "sphere")):
        low, high = limits(space, region)
        radius = space.prior.radius(moved.detach().double())
        assert (radius >= low * (1 - 1e-5)).all()
        assert (radius <= high * (1 + 1e-5)).all()


@matrix
def test_a_nan_row_stays_nan_and_alone(prior, region):
    space, found = resolved(prior, region)
    z = scattered(space, 6).float()
    broken = z.clone()
    broken[2] = torch.nan
    others = [0, 1, 3, 4, 5]
    moved = found.project(broken)
    assert moved[2].isnan().all()
    assert torch.equal(moved[others], found.project(z)[others])


def test_a_ball_by_percentile_is_the_chi_distributions():
    found = lo.Ball(percentile=90).resolve(lo.LatentSpace((16,)))
    far = found.project(torch.full((1, 16), 100.0))
    assert float(far.norm()) == pytest.approx(stats.chi(16).ppf(0.9), rel=1e-6)


def test_a_box_by_percentile_lies_within_a_uniform_prior():
    space = lo.LatentSpace((3,), lo.Uniform(low=-2.0, high=2.0))
    ends = lo.Box(percentile=95).resolve(space).project(torch.tensor([[9.0, -9.0, 0.0]]))
    assert ends[0].tolist() == pytest.approx([1.9, -1.9, 0.0])


def test_rows_of_a_latent_of_rank_three_are_projected_whole():
    space = lo.LatentSpace((2, 2, 4))
    moved = lo.Sphere().resolve(space).project(space.draw(5, rng.generator(0)))
    assert moved.norm(dim=1).tolist() == pytest.approx([4.0] * 5)


@pytest.mark.parametrize("region", [lo.Shell(), lo.Sphere(), lo.Shell(low=1, high=2), lo.Sphere(radius=1)])
def test_a_mixture_has_no_shell_and_no_sphere(region):
    text = f"region {region.kind} is not defined for a mixture prior .several centres.: use ball, box or free"
    with pytest.raises(lo.ConfigError, match=text):
        region.resolve(lo.LatentSpace((DIM,), priors()["mixture"]))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: lo.Box(), "a box needs low and high, or a percentile"),
        (lambda: lo.Box(low=-1.0), "a box needs low and high, or a percentile"),
        (lambda: lo.Box(low=-1.0, percentile=90), "give a percentile or low and high, not both"),
        (lambda: lo.Box(low=1.0, high=-1.0), "low must be below high, got low=1.0, high=-1.0"),
        (lambda: lo.Box(percentile=100), "less than 100"),
        (lambda: lo.Ball(radius=1.0, percentile=90), "give a percentile or radius, not both"),
        (lambda: lo.Ball(radius=0.0), "greater than 0"),
        (lambda: lo.Ball(percentile=0), "greater than 0"),
        (lambda: lo.Shell(low=1.0), "a shell by number needs both low and high"),
        (lambda: lo.Shell(high=1.0), "a shell by number needs both low and high"),
        (lambda: lo.Shell(low=2.0, high=1.0), "low must be below high, got low=2.0, high=1.0"),
        (lambda: lo.Shell(low=1.0, high=2.0, percentile=90), "give a percentile or low and high, not both"),
        (lambda: lo.Shell(percentile=50), "greater than 50"),
        (lambda: lo.Sphere(radius=1.0, percentile=90), "give a percentile or radius, not both"),
        (lambda: TypeAdapter(RegionChoice).validate_python("bal"), "unknown region 'bal'; did you mean 'ball'"),
    ],
)
def test_numbers_that_cannot_be(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("region", "text"),
    [
        (lo.Box(low=(0.0, 0.0), high=(1.0, 1.0)), "low has 2 numbers, the latent has 4: give one number or 4"),
        (lo.Box(low=0.0, high=(1.0, 1.0)), "high has 2 numbers, the latent has 4"),
    ],
)
def test_numbers_that_do_not_fit_the_latent(region, text):
    with pytest.raises(lo.ConfigError, match=text):
        region.resolve(lo.LatentSpace((DIM,)))


@pytest.mark.parametrize("name", list(priors()))
def test_the_default_region_keeps_nearly_all_of_the_priors_draws(name):
    space = lo.LatentSpace((DIM,), priors()[name])
    found = default_region(space.prior).resolve(space)
    z = space.draw(5000, rng.generator(0))
    kept = ((found.project(z) - z).abs().amax(1) < 1e-4).float().mean()
    assert kept > 0.985
    bounded = name in ("uniform", "sphere")
    assert float(kept) == (1.0 if bounded else pytest.approx(0.99, abs=0.005))


def test_the_base_and_the_plain_region():
    with pytest.raises(NotImplementedError):
        RegionBase().resolve(lo.LatentSpace((2,)))
    z = torch.randn(3, 2, generator=rng.generator(0))
    assert Region("free").project(z) is z

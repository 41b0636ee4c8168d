"""Priors: draws, densities, radii and percentiles, each against a second way of working it out, and every error's text."""

import math

import pytest
import torch
from pydantic import TypeAdapter
from scipy import stats
from spaces import DIM, priors
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, Uniform

import latentopt as lo
from latentopt import rng
from latentopt.gaussians import PriorChoice
from latentopt.priors import PriorBase
from latentopt.testing import global_rng_untouched

NAMES = list(priors())
ROUND = [name for name in NAMES if name != "sphere"]  # those whose radius varies
N = 40_000


@pytest.fixture(params=NAMES)
def prior(request):
    return priors()[request.param]


def reference(name):
    """The same distribution as torch has it."""
    prior = priors()[name]
    like = torch.zeros(1, dtype=torch.float64)
    if name == "uniform":
        low, high = torch.tensor(prior.low).double(), torch.tensor(prior.high).double()
        return Independent(Uniform(low, high), 1)
    if name == "gaussian":
        return MultivariateNormal(prior.mean.tensor().double(), prior.covariance.tensor().double())
    if name == "mixture":
        parts = MultivariateNormal(prior.means.tensor().double(), prior.covariances.tensor().double())
        return MixtureSameFamily(Categorical(prior.weights.tensor().double()), parts)
    return Independent(Normal(*prior.moments(DIM, like)), 1)


# ---------------------------------------------------------------------- draws


def test_draws_have_the_moments_that_it_states(prior):
    z = prior.sample(N, DIM, rng.generator(0))
    assert z.dtype == torch.float32
    mean, std = prior.moments(DIM, z)
    assert mean.shape == std.shape == (DIM,)
    assert ((z.mean(0) - mean).abs() / std).max() < 0.025
    assert (z.std(0) / std - 1).abs().max() < 0.02


@pytest.mark.parametrize("name", [n for n in NAMES if n != "sphere"])
def test_moments_are_those_of_the_reference(name):
    mean, std = priors()[name].moments(DIM, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(mean, reference(name).mean, check_dtype=False, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(std, reference(name).variance.sqrt(), check_dtype=False, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_draws_have_the_covariance_of_the_reference(name):
    z = priors()[name].sample(N, DIM, rng.generator(0))
    torch.testing.assert_close(torch.cov(z.T.double()), torch.cov(torch_draws(reference(name)).T), rtol=0.05, atol=0.1)


def torch_draws(distribution):
    """Draws of torch's own, with its global state put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return distribution.sample((N,))


def test_the_first_draws_are_those_of_fewer(prior):
    many = prior.sample(40, DIM, rng.generator(3))
    for n in range(1, 41):
        assert torch.equal(prior.sample(n, DIM, rng.generator(3)), many[:n]), n


@pytest.mark.parametrize("dim", [3, 64])
def test_the_first_draws_of_a_correlated_prior_are_those_of_fewer(dim):
    a = rng.randn(dim, dim, rng.generator(0)).double()
    covariance = a @ a.T + torch.eye(dim)
    mean = torch.zeros(2, dim)
    pair = lo.Mixture(weights=torch.ones(2), means=mean, covariances=torch.stack([covariance, 2 * covariance]))
    for prior in (lo.Gaussian(mean=mean[0], covariance=covariance), pair):
        many = prior.sample(40, dim, rng.generator(3))
        for n in range(1, 41):
            assert torch.equal(prior.sample(n, dim, rng.generator(3)), many[:n]), n


def test_draws_are_a_function_of_the_generator(prior):
    with global_rng_untouched():
        first = prior.sample(5, DIM, rng.generator(0))
    assert torch.equal(first, prior.sample(5, DIM, rng.generator(0)))
    assert not torch.equal(first, prior.sample(5, DIM, rng.generator(1)))


@pytest.mark.parametrize("how", ["from_uniform", "from_normal"])
def test_carried_over_numbers_follow_the_prior(prior, how):
    """By the radius of each, and by each coordinate, against the prior's own draws (Kolmogorov and Smirnov)."""
    draw = rng.rand if how == "from_uniform" else rng.randn
    found = getattr(prior, how)(draw(4000, DIM, rng.generator(5)))
    own = prior.sample(4000, DIM, rng.generator(6))
    for i in range(DIM):
        assert stats.ks_2samp(found[:, i].numpy(), own[:, i].numpy()).pvalue > 1e-3
    if not isinstance(prior, lo.UniformSphere):
        assert stats.ks_2samp(prior.radius(found).numpy(), prior.radius(own).numpy()).pvalue > 1e-3


def test_the_ends_of_the_uniform_range_stay_finite(prior):
    for end in (0.0, 1.0, 1e-12, 1 - 2**-24):
        points = torch.full((2, DIM), end)
        points[1, 0] = 0.5
        assert torch.isfinite(prior.from_uniform(points)).all(), end


def test_every_component_of_a_mixture_is_reached():
    prior = priors()["mixture"]
    means = prior.means.tensor()
    for z in (
        prior.sample(N, DIM, rng.generator(0)),
        prior.from_uniform(rng.rand(N, DIM, rng.generator(0))),
    ):
        shares = (prior.centre(z)[:, None] == means).all(2).float().mean(0)
        assert (shares - torch.tensor([0.2, 0.5, 0.3])).abs().max() < 0.02


def test_a_component_with_hardly_any_weight_does_no_harm():
    prior = lo.Mixture(weights=[1.0, 1e-9], means=[[0.0], [1.0]], covariances=[[[1.0]], [[1.0]]])
    assert torch.isfinite(prior.sample(1000, 1, rng.generator(0))).all()
    assert torch.isfinite(prior.from_uniform(torch.tensor([[0.0], [1.0], [1 - 1e-7]]))).all()


# ---------------------------------------------------------------------- densities


@pytest.mark.parametrize("name", ROUND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_density_is_that_of_the_reference(name, dtype):
    prior = priors()[name]
    z = prior.sample(50, DIM, rng.generator(1)).to(dtype)
    found = prior.log_prob(z)
    assert found.shape == (50,)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), reference(name).log_prob(z.double()), rtol=1e-4, atol=1e-4)


def test_the_density_of_a_box_is_none_outside_it():
    prior = lo.Uniform(low=0.0, high=2.0)
    found = prior.log_prob(torch.tensor([[1.0, 1.0], [2.5, 1.0], [1.0, -0.1]]))
    assert found.tolist() == pytest.approx([-2 * math.log(2), -math.inf, -math.inf])


@pytest.mark.parametrize("dim", [1, 2, 3, 64])
def test_the_density_on_a_sphere_is_one_over_its_area(dim):
    prior = lo.UniformSphere(size=2.0)
    z = prior.sample(3, dim, rng.generator(0))
    log_area = math.log(2 * math.pi ** (dim / 2)) - math.lgamma(dim / 2) + (dim - 1) * math.log(2.0)
    assert prior.log_prob(z).tolist() == pytest.approx([-log_area] * 3, rel=1e-5)
    assert prior.log_prob(1.1 * z).tolist() == [-math.inf] * 3


@pytest.mark.parametrize("name", [n for n in ROUND if n != "uniform"])
def test_the_density_has_the_right_gradient(name):
    prior = priors()[name]
    z = prior.sample(4, DIM, rng.generator(1)).double().requires_grad_(True)
    assert torch.autograd.gradcheck(prior.log_prob, z)


# ---------------------------------------------------------------------- radii and percentiles


@pytest.mark.parametrize("name", ROUND)
def test_percentiles_of_its_own_draws_are_uniform(name):
    prior = priors()[name]
    z = prior.sample(4000, DIM, rng.generator(9))
    percentile = prior.radius_percentile(prior.radius(z), DIM)
    assert stats.kstest(percentile.numpy() / 100, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", ROUND)
@pytest.mark.parametrize("percentile", [0.5, 1.0, 50.0, 99.0, 99.9])
def test_the_radius_at_a_percentile_is_its_inverse(name, percentile):
    prior = priors()[name]
    radius = torch.tensor([prior.radius_at(percentile, DIM)], dtype=torch.float64)
    step = 0.01 if name == "mixture" else 1e-6  # 16,384 draws: steps of 0.006 per cent
    assert float(prior.radius_percentile(radius, DIM)) == pytest.approx(percentile, abs=step)


@pytest.mark.parametrize("dim", [1, 4, 64, 16384])
def test_the_radius_of_a_normal_has_the_chi_distribution(dim):
    for p in (0.5, 50.0, 99.5):
        assert lo.Normal().radius_at(p, dim) == pytest.approx(stats.chi(dim).ppf(p / 100), rel=1e-9)


def test_the_radius_of_a_box_is_one_on_its_surface():
    prior = priors()["uniform"]
    middle, _ = prior.moments(DIM, torch.zeros(1))
    assert prior.radius(middle[None]).tolist() == pytest.approx([0.0], abs=1e-6)
    assert prior.radius(torch.tensor([[1.0, 0.25, 3.5, -3.0], [0.0, 0.25, 5.0, -3.0]])).tolist() == pytest.approx(
        [1, 1]
    )


def test_a_sphere_has_one_radius():
    prior = lo.UniformSphere()
    assert prior.radius(prior.sample(9, 7, rng.generator(0))).tolist() == pytest.approx([1.0] * 9)
    assert prior.sample(2, 7, rng.generator(0)).norm(dim=1).tolist() == pytest.approx([math.sqrt(7)] * 2)
    assert prior.radius_percentile(torch.tensor([0.5, 1.0, 1.5]), 7).tolist() == [0.0, 50.0, 100.0]
    assert prior.radius_at(99.0, 7) == 1.0


def test_the_radius_of_a_mixture_is_to_the_nearest_component():
    prior = priors()["mixture"]
    z = prior.sample(20, DIM, rng.generator(2)).double()
    parts = zip(prior.means.tensor().double(), prior.covariances.tensor().double(), strict=True)
    far = torch.stack([((z - m) @ torch.linalg.inv(c) * (z - m)).sum(1).sqrt() for m, c in parts], dim=1)
    torch.testing.assert_close(prior.radius(z), far.amin(1))
    assert torch.equal(prior.centre(z), prior.means.tensor().double()[far.argmin(1)])


def test_scaling_about_the_centre_scales_the_radius(prior):
    if isinstance(prior, lo.Mixture):
        pytest.skip("another component may come nearer")
    z = prior.sample(20, DIM, rng.generator(2)).double()
    centre = prior.centre(z)
    torch.testing.assert_close(prior.radius(centre + 2.5 * (z - centre)), 2.5 * prior.radius(z))


def test_a_nan_row_stays_alone_in_radius_and_density(prior):
    z = prior.sample(6, DIM, rng.generator(2))
    broken = z.clone()
    broken[3, 1] = torch.nan
    others = [0, 1, 2, 4, 5]
    for measure in (prior.radius, prior.log_prob):
        assert torch.equal(measure(broken)[others], measure(z)[others])
    assert prior.radius(broken)[3].isnan()


# ---------------------------------------------------------------------- intervals of coordinates


@pytest.mark.parametrize("percentile", [50.0, 98.0])
def test_intervals_hold_their_share_of_every_coordinate(prior, percentile):
    low, high = prior.interval(percentile, DIM)
    assert low.dtype == torch.float64
    assert low.shape == high.shape == (DIM,)
    z = prior.sample(N, DIM, rng.generator(0)).double()
    for below in ((z < low).double().mean(0), (z > high).double().mean(0)):
        assert (100 * below - (100 - percentile) / 2).abs().max() < 0.8


@pytest.mark.parametrize("dim", [1, 2, 3, 100])
def test_intervals_of_spheres_of_any_dimension(dim):
    low, high = lo.UniformSphere().interval(90.0, dim)
    z = lo.UniformSphere().sample(N, dim, rng.generator(0))[:, 0].double()
    assert float((z > high[0] + 1e-9).double().mean()) == pytest.approx(0.0 if dim == 1 else 0.05, abs=0.005)
    assert torch.equal(low, -high)


# ---------------------------------------------------------------------- at the door


def square(*values):
    return torch.diag(torch.tensor(values))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: lo.Normal(std=0.0), "std must be positive, got 0.0"),
        (lambda: lo.Normal(std=(1.0, -1.0)), r"std must be positive, got \(1.0, -1.0\)"),
        (lambda: lo.Normal(mean=float("nan")), "finite number"),
        (lambda: lo.Uniform(low=1.0, high=1.0), "low must be below high, got low=1.0, high=1.0"),
        (lambda: lo.Uniform(low=(0.0, 2.0), high=1.0), r"low must be below high, got low=\(0.0, 2.0\), high=1.0"),
        (lambda: lo.Uniform(low=(0.0, 0.0), high=(1.0, 1.0, 1.0)), "low has 2 numbers and high has 3"),
        (lambda: lo.UniformSphere(size=0.0), "greater than 0"),
        (lambda: lo.Fitted(components=0), "greater than or equal to 1"),
        (lambda: lo.Normal(sd=1.0), "unknown key 'sd'; did you mean 'std'"),
    ],
)
def test_numbers_that_cannot_be(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("prior", "text"),
    [
        (lo.Normal(mean=(0.0,) * 5), "mean has 5 numbers, the latent has 4: give one number or 4"),
        (lo.Normal(std=()), "std has 0 numbers, the latent has 4: give one number or 4"),
        (lo.Uniform(low=(0.0,) * 3), "low has 3 numbers, the latent has 4"),
        (lo.Uniform(high=(2.0,) * 3), "high has 3 numbers, the latent has 4"),
        (
            lo.Gaussian(mean=torch.zeros(3), covariance=torch.eye(3)),
            r"the prior's mean has shape \(3,\), expected \(4,\)",
        ),
        (
            lo.Gaussian(mean=torch.zeros(4), covariance=torch.ones(4)),
            r"the prior's covariance has shape \(4,\), expected \(4, 4\)",
        ),
        (
            lo.Gaussian(mean=torch.tensor([0.0, math.nan, 0, math.inf]), covariance=torch.eye(4)),
            "the prior's mean holds 2 values that are NaN or infinite: replace them",
        ),
        (
            lo.Gaussian(mean=torch.zeros(4), covariance=square(1.0, 1.0, 1.0, math.nan)),
            "the prior's covariance holds 1 values that are NaN or infinite",
        ),
        (
            lo.Gaussian(mean=torch.zeros(4), covariance=square(1.0, 1.0, 1.0, 0.0)),
            "the prior's covariance is not positive definite: add a small number to its diagonal",
        ),
        (
            lo.Gaussian(mean=torch.zeros(4), covariance=torch.eye(4) + torch.ones(4, 4).triu(1) * 0.5),
            "the prior's covariance is not symmetric: give a covariance, for example",
        ),
        (
            lo.Mixture(weights=torch.ones(2), means=torch.zeros(3, 4), covariances=torch.eye(4).expand(3, 4, 4)),
            r"the prior's means has shape \(3, 4\), expected \(2, 4\)",
        ),
        (
            lo.Mixture(weights=torch.ones(2), means=torch.zeros(2, 4), covariances=torch.eye(4)),
            r"the prior's covariances has shape \(4, 4\), expected \(2, 4, 4\)",
        ),
        (
            lo.Mixture(weights=[1.0, 0.0], means=torch.zeros(2, 4), covariances=torch.eye(4).expand(2, 4, 4)),
            "the prior's weights must be positive: leave out components without weight",
        ),
        (
            lo.Mixture(weights=torch.ones(2, 1), means=torch.zeros(2, 4), covariances=torch.eye(4).expand(2, 4, 4)),
            r"the prior's weights has shape \(2, 1\), expected \(2,\)",
        ),
        (
            lo.Mixture(weights=torch.ones(2) / 2, means=torch.zeros(2, 4), covariances=-torch.eye(4).expand(2, 4, 4)),
            "the prior's covariances is not positive definite",
        ),
        (
            lo.Mixture(
                weights=torch.tensor([0.5, 0.9]), means=torch.zeros(2, 4), covariances=torch.eye(4).expand(2, 4, 4)
            ),
            "the prior's weights sum to 1.4, expected 1: scale them",
        ),
    ],
)
def test_numbers_that_do_not_fit_the_latent(prior, text):
    with pytest.raises(lo.ConfigError, match=text):
        prior.check(DIM)


def test_one_number_fits_any_latent(prior):
    prior.check(DIM)
    lo.Normal(mean=2.0, std=3.0).check(77)
    lo.Uniform(low=-3.0, high=(1.0,) * 5).check(5)


def test_a_prior_may_be_named_or_written_out():
    choice = TypeAdapter(PriorChoice)
    assert choice.validate_python("normal") == lo.Normal()
    assert choice.validate_python({"kind": "uniform", "low": 0}) == lo.Uniform(low=0.0)
    with pytest.raises(ValueError, match="unknown prior 'normall'; did you mean 'normal'"):
        choice.validate_python("normall")


@pytest.mark.parametrize("name", NAMES)
def test_a_prior_survives_a_file(name):
    prior = priors()[name]
    again = TypeAdapter(PriorChoice).validate_python(prior.model_dump(mode="json"))
    assert torch.allclose(prior.sample(5, DIM, rng.generator(0)), again.sample(5, DIM, rng.generator(0)), atol=1e-5)


def test_the_base_leaves_nothing_half_done():
    base, z = PriorBase(), torch.zeros(1, 2)
    for call in (base.from_normal, base.log_prob, base.centre, base.radius):
        with pytest.raises(NotImplementedError):
            call(z)
    for call in (base.radius_percentile, base.moments, base.interval):
        with pytest.raises(NotImplementedError):
            call(2, z)

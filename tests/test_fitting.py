"""Fitted priors find the distribution that made the encodings, and given ones are checked against them."""

import pytest
import torch
from spaces import DIM, identity_decoder, priors

import latentopt as lo
from latentopt import rng
from latentopt.fitting import check_against
from latentopt.testing import global_rng_untouched


def draws(name, n=4000):
    return priors()[name].sample(n, DIM, rng.generator(1))


def test_a_gaussian_is_found_again():
    true = priors()["gaussian"]
    with global_rng_untouched():
        found = lo.fit_prior(draws("gaussian"))
    assert isinstance(found, lo.Gaussian)
    assert (found.mean.tensor() - true.mean.tensor()).abs().max() < 0.06
    difference = found.covariance.tensor() - true.covariance.tensor()
    assert difference.abs().max() < 0.06 * true.covariance.tensor().abs().max()


def test_a_mixture_is_found_again():
    true = priors()["mixture"]
    found = lo.fit_prior(draws("mixture"), components=3)
    assert isinstance(found, lo.Mixture)
    found.check(DIM)
    distance = torch.cdist(found.means.tensor(), true.means.tensor().double())
    order = distance.argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    assert distance.amin(1).max() < 0.15
    assert (found.weights.tensor() - true.weights.tensor()[order]).abs().max() < 0.02
    assert (found.covariances.tensor() - true.covariances.tensor()[order]).abs().max() < 0.25


def test_a_mixture_explains_its_data_better_than_one_gaussian():
    codes = draws("mixture")
    one, three = (lo.fit_prior(codes, components).log_prob(codes).mean() for components in (1, 3))
    assert three > one + 0.5


def test_the_same_encodings_give_the_same_prior():
    codes = draws("mixture", 300)
    assert lo.fit_prior(codes, 3) == lo.fit_prior(codes, 3)


@pytest.mark.parametrize("components", [1, 2])
def test_hardly_any_encodings_still_give_a_prior_that_can_be_drawn_from(components):
    codes = rng.randn(4, 16, rng.generator(0))
    found = lo.fit_prior(codes, components)
    found.check(16)
    assert torch.isfinite(found.sample(9, 16, rng.generator(0))).all()


def test_a_coordinate_that_never_changes_is_no_obstacle():
    codes = draws("gaussian", 100)
    codes[:, 2] = 7.0
    found = lo.fit_prior(codes)
    found.check(DIM)
    assert (found.sample(50, DIM, rng.generator(0))[:, 2] - 7).abs().max() < 0.05


@pytest.mark.parametrize("n", [8, 100])
def test_every_coordinate_keeps_its_own_spread(n):
    """Units of one coordinate are nothing to the others: with few encodings too."""
    codes, scale = rng.randn(n, DIM, rng.generator(0)), torch.tensor([1.0, 1e-2, 10.0, 1.0])
    std = lo.fit_prior(codes * scale).moments(DIM, codes)[1]
    torch.testing.assert_close(std, codes.std(0, correction=0) * scale, rtol=0.02, atol=0.005)


def test_encodings_that_are_all_one_are_no_obstacle():
    found = lo.fit_prior(torch.full((5, 3), 2.0))
    assert (found.sample(50, 3, rng.generator(0)) - 2).abs().max() < 0.1


@pytest.mark.parametrize(
    ("codes", "components", "error", "text"),
    [
        (torch.zeros(1, 4), 1, lo.ConfigError, "a prior of 1 components needs at least 2 encodings, got 1"),
        (torch.zeros(5, 4), 3, lo.ConfigError, "a prior of 3 components needs at least 6 encodings, got 5"),
        (torch.full((5, 4), torch.nan), 1, lo.ConfigError, "the encoder gives NaN or infinite latents for the data"),
        (torch.zeros(5, 4), 0, lo.ConfigError, "components must be at least 1, got 0"),
        (torch.zeros(5, 2, 2), 1, lo.ShapeError, r"rows of encodings \(n, D\), got shape \(5, 2, 2\)"),
    ],
)
def test_encodings_that_no_prior_fits(codes, components, error, text):
    with pytest.raises(error, match=text):
        lo.fit_prior(codes, components)


@pytest.mark.parametrize("name", list(priors()))
def test_a_prior_agrees_with_its_own_draws(name):
    assert check_against(priors()[name], draws(name, 500)).startswith("agrees with 500 encodings (median radius ")


@pytest.mark.parametrize(
    ("scale", "verdict"),
    [(0.3, "does not match"), (0.5, "agrees with"), (1.2, "agrees with"), (1.4, "does not match")],
)
def test_encodings_may_lie_inside_a_prior_but_not_outside(scale, verdict):
    codes = scale * rng.randn(4000, 20, rng.generator(0))
    words = check_against(lo.Normal(), codes)
    assert words.startswith(f"{verdict} 4000 encodings (median radius ")
    assert words.endswith("the prior's 4.4)")


def test_a_decoder_fits_its_prior_or_checks_the_one_given():
    codes = draws("gaussian", 200)
    fitted = identity_decoder(None, data=codes)
    assert isinstance(fitted.space.prior, lo.Gaussian)
    assert str(fitted.space.evidence) == "fitted to 200 encodings"
    mixed = identity_decoder({"kind": "fitted", "components": 2}, data=codes)
    assert isinstance(mixed.space.prior, lo.Mixture)
    given = identity_decoder(lo.Normal(mean=50.0), data=codes)
    assert str(given.space.evidence).startswith("given with the decoder; does not match 200 encodings")


def test_a_gaussian_over_clusters_says_that_it_does_not_fit():
    noise = rng.randn(400, 20, rng.generator(0)) * 0.1
    codes = noise + 5.0 * torch.where(torch.arange(400) % 2 == 0, 1.0, -1.0)[:, None]
    decoder = lo.Decoder(lambda z: z * 1.0, (20,), encoder=lambda x: x * 1.0, data=codes)
    words = str(lo.interpolate(decoder, torch.zeros(2, 20), steps=2).realism)
    assert "the prior fitted to 400 encodings, which does not match their shape" in words
    assert "fit more components" in words
    two = lo.Decoder(
        lambda z: z * 1.0, (20,), encoder=lambda x: x * 1.0, data=codes, prior={"kind": "fitted", "components": 2}
    )
    assert "outside" in str(lo.interpolate(two, torch.zeros(2, 20), steps=2).realism)


def test_a_prior_fitted_to_few_encodings_is_called_a_guess():
    codes = rng.randn(3, 20, rng.generator(0))
    decoder = lo.Decoder(lambda z: z * 1.0, (20,), encoder=lambda x: x * 1.0, data=codes)
    words = str(lo.sample(decoder, 1).realism)
    assert "the prior fitted to 3 encodings, which is a rough guess: 3 encodings for 20 coordinates" in words

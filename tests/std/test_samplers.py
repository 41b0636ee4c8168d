"""Samplers: each against what it claims, all of them under every prior, and every error's text."""

import math

import pytest
import torch
from scipy import stats
from spaces import DIM, identity_decoder, image_decoder, priors

import latentopt as lo
from latentopt import rng
from latentopt.registry import installed
from latentopt.testing import SamplerConformance, ToyImages, ToyNet, global_rng_untouched
from latentopt_std import (
    AroundSampler,
    EncodedSampler,
    FittedSampler,
    NormalSampler,
    PriorSampler,
    SobolSampler,
    SphereSampler,
    TruncatedSampler,
    UniformSampler,
)

CENTRES = torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [-9.0, 0.0, 0.0, 0.0]])


def known(n=40):
    """Designs of the identity decoder, so latents too."""
    return rng.randn(n, DIM, rng.generator(8)) * 2 + 1


def draw(config, n, prior="normal", *, decoder=None, seed=0):
    decoder = decoder or identity_decoder(prior)
    with global_rng_untouched():
        return config.build(decoder)(n, decoder.space, rng.generator(seed))


# ---------------------------------------------------------------------- the kit


class TestPriorConforms(SamplerConformance):
    config = PriorSampler()


class TestNormalConforms(SamplerConformance):
    config = NormalSampler()


class TestTruncatedConforms(SamplerConformance):
    config = TruncatedSampler()


class TestUniformConforms(SamplerConformance):
    config = UniformSampler()


class TestUniformOfABoxConforms(SamplerConformance):
    config = UniformSampler(low=(-1.0, 0.0, 1.0, 2.0), high=3.0)


class TestSphereConforms(SamplerConformance):
    config = SphereSampler()


class TestSobolConforms(SamplerConformance):
    config = SobolSampler()


class TestAroundALatentConforms(SamplerConformance):
    config = AroundSampler(latent=[0.0, 1.0, 2.0, 3.0])


class TestAroundADesignConforms(SamplerConformance):
    config = AroundSampler(design=[[0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]])

    def decoder(self):
        return identity_decoder()


class TestFittedConforms(SamplerConformance):
    config = FittedSampler(designs=known())

    def decoder(self):
        return identity_decoder()


class TestFittedMixtureConforms(SamplerConformance):
    config = FittedSampler(components=2)

    def decoder(self):
        return identity_decoder(data=known())


class TestEncodedConforms(SamplerConformance):
    config = EncodedSampler(designs=known())

    def decoder(self):
        return identity_decoder()


class TestEncodedOfTheDecodersDataConforms(SamplerConformance):
    config = EncodedSampler()

    def decoder(self):
        return identity_decoder(data=known())


# ---------------------------------------------------------------------- all samplers under all priors

SHAPES = {"rank 1": (DIM,), "rank 2": (2, 2), "rank 3": (1, 2, 2)}
NEEDS = {"around": {"latent": [0.0, 1.0, 2.0, 3.0]}, "fitted": {"designs": known()}, "encoded": {"designs": known()}}
KINDS = [kind for kind, cls in installed().kinds("samplers").items() if cls.__module__ == "latentopt_std.samplers"]


def test_the_lists_here_name_every_built_in():
    assert set(KINDS) == {
        "around", "encoded", "fitted", "normal", "prior", "sobol", "sphere", "truncated", "uniform",
    }  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("prior", list(priors()))
@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_under_every_prior(kind, prior, shape):
    decoder = lo.Decoder(
        lambda z: z.flatten(1) * 1.0, shape, prior=priors()[prior], encoder=lambda x: x.reshape(-1, *shape)
    )
    found = lo.sample(decoder, n=24, sampler={"kind": kind, **NEEDS.get(kind, {})})
    assert found.latents.shape == (24, *shape)
    assert found.latents.dtype == torch.float32
    assert torch.isfinite(found.latents).all()
    fewer = lo.sample(decoder, n=5, sampler={"kind": kind, **NEEDS.get(kind, {})})
    assert torch.equal(fewer.latents, found.latents[:5])
    if kind in ("prior", "normal", "truncated", "sphere", "sobol"):
        rows, space = found.latents.flatten(1), decoder.space
        assert ((rows - space.mean(rows)).abs() / space.std(rows)).max() < 6


@pytest.mark.parametrize("dim", [1, 64])
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in NEEDS])
def test_every_sampler_in_one_dimension_and_in_many(kind, dim):
    decoder = lo.Decoder(ToyNet(dim, (3,)), dim, prior="normal")
    config = installed().get("samplers", kind)()
    many = draw(config, 33, decoder=decoder)
    assert many.shape == (33, dim)
    assert torch.isfinite(many).all()
    for n in (1, 2, 8, 17):
        assert torch.equal(draw(config, n, decoder=decoder), many[:n])


# ---------------------------------------------------------------------- one by one


def test_prior_is_the_decoders_own():
    decoder = identity_decoder(priors()["mixture"])
    assert torch.equal(draw(PriorSampler(), 9, decoder=decoder), decoder.space.draw(9, rng.generator(0)))


def test_normal_takes_the_priors_moments_or_its_own():
    z = draw(NormalSampler(), 20000, priors()["uniform"])
    mean, std = priors()["uniform"].moments(DIM, z)
    assert ((z.mean(0) - mean).abs() / std).max() < 0.03
    assert (z.std(0) / std - 1).abs().max() < 0.03
    own = draw(NormalSampler(mean=5.0, std=0.1), 20000, priors()["uniform"])
    assert (own.mean(0) - 5).abs().max() < 0.01
    assert (own.std(0) - 0.1).abs().max() < 0.01


@pytest.mark.parametrize("threshold", [0.1, 0.7, 2.0, 10.0])
def test_truncated_never_exceeds_its_threshold_and_is_normal_below(threshold):
    z = draw(TruncatedSampler(threshold=threshold), 10000)
    assert z.abs().max() <= threshold
    reference = stats.truncnorm(-threshold, threshold)
    assert stats.kstest(z.flatten().double().numpy(), reference.cdf).pvalue > 1e-3
    if threshold < 5:
        assert z.max() > 0.97 * threshold
        assert z.min() < -0.97 * threshold


def test_truncated_leaves_nothing_out_up_to_the_threshold():
    assert TruncatedSampler().threshold == 2.0
    prior = priors()["normal"]
    z = draw(TruncatedSampler(threshold=0.5), 1000, prior)
    mean, std = prior.moments(DIM, z)
    assert ((z - mean).abs() <= 0.5 * std * (1 + 1e-6)).all()


@pytest.mark.parametrize("prior", list(priors()))
def test_uniform_fills_the_priors_central_98_per_cent(prior):
    z = draw(UniformSampler(), 20000, priors()[prior])
    low, high = priors()[prior].interval(98.0, DIM)
    place = (z - low) / (high - low)
    assert -1e-6 <= place.min() < 1e-3
    assert 1 - 1e-3 < place.max() <= 1 + 1e-6
    for i in range(DIM):
        assert stats.kstest(place[:, i].numpy(), "uniform").pvalue > 1e-3


def test_uniform_reaches_from_the_first_to_the_99th_percentile_of_a_normal():
    z = draw(UniformSampler(), 20000)
    assert float(z.max()) == pytest.approx(stats.norm.ppf(0.99), abs=1e-3)


def test_uniform_takes_a_box_by_number_and_by_vector():
    z = draw(UniformSampler(low=(-1.0, 0.0, 1.0, 2.0), high=3.0), 20000)
    low, high = torch.tensor([-1.0, 0.0, 1.0, 2.0]), 3.0
    assert ((z - low) / (high - low)).amin(0).max() < 1e-3
    assert (z >= low).all()
    assert (z <= high).all()
    assert (z.mean(0) - (low + high) / 2).abs().max() < 0.03


@pytest.mark.parametrize("radius", [None, 0.5, 7.0])
def test_sphere_lies_on_its_sphere_in_every_orthant(radius):
    z = draw(SphereSampler(radius=radius), 4000)
    assert torch.allclose(z.norm(dim=1), torch.tensor(radius or math.sqrt(DIM)), rtol=1e-6)
    orthant = ((z > 0).long() * 2 ** torch.arange(DIM)).sum(1)
    counts = torch.bincount(orthant, minlength=2**DIM)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_sphere_points_nowhere_in_particular():
    z = draw(SphereSampler(), 4000)
    axis = torch.tensor([0.6, 0.0, -0.8, 0.0])
    half = (DIM - 1) / 2  # (1 + cosine) / 2 follows Beta(half, half)
    assert stats.kstest(((z @ axis / 2 + 1) / 2).double().numpy(), stats.beta(half, half).cdf).pvalue > 1e-3


@pytest.mark.parametrize("prior", ["normal", "gaussian"])
def test_sphere_of_a_gaussian_is_an_ellipsoid_of_one_mahalanobis_radius(prior):
    for radius in (None, 1.5):
        z = draw(SphereSampler(radius=radius), 200, priors()[prior])
        assert torch.allclose(priors()[prior].radius(z), torch.tensor(radius or math.sqrt(DIM)), rtol=1e-4)


def test_sphere_of_a_sphere_is_that_sphere():
    z = draw(SphereSampler(), 200, priors()["sphere"])
    assert torch.allclose(z.norm(dim=1), torch.tensor(3.0), rtol=1e-6)


def test_sphere_has_the_priors_root_mean_square_distance():
    for prior in priors().values():
        z, own = draw(SphereSampler(), 40000, prior), prior.sample(40000, DIM, rng.generator(1))
        mean = prior.moments(DIM, z)[0]
        far = [(rows - mean).square().sum(1).mean().sqrt() for rows in (z, own)]
        assert float(far[0] / far[1]) == pytest.approx(1.0, rel=0.02)


def test_sobol_covers_a_box_more_evenly_than_chance():
    box = lo.Uniform(low=0.0, high=1.0)
    found, chance = (draw(config, 256, box) for config in (SobolSampler(), PriorSampler()))
    for i in range(DIM):  # a (t, m, s)-net in base 2: one point in each of 256 intervals of every coordinate
        assert torch.equal((found[:, i] * 256).floor().long().sort().values, torch.arange(256))
    quality = [stats.qmc.discrepancy(points.double().numpy()) for points in (found, chance)]
    assert quality[0] < quality[1] / 5


@pytest.mark.parametrize("prior", list(priors()))
def test_sobol_follows_the_prior(prior):
    prior = priors()[prior]
    z = draw(SobolSampler(), 4096, prior)
    mean, std = prior.moments(DIM, z)
    assert ((z.mean(0) - mean).abs() / std).max() < 0.02
    assert (z.std(0) / std - 1).abs().max() < 0.02


def test_around_stays_near_its_centre():
    z = draw(AroundSampler(latent=CENTRES[0]), 20000, priors()["normal"])
    std = priors()["normal"].moments(DIM, z)[1]
    assert ((z.mean(0) - CENTRES[0]).abs() / std).max() < 0.01
    assert (z.std(0) / std - 0.25).abs().max() < 0.01
    near = draw(AroundSampler(latent=CENTRES[0], spread=1e-3), 100, priors()["normal"])
    assert ((near - CENTRES[0]).abs() / std).max() < 0.006


@pytest.mark.parametrize("by", ["latent", "design"])
def test_around_takes_several_centres_in_turn(by):
    z = draw(AroundSampler(**{by: CENTRES, "spread": 1e-4}), 8)
    assert (z - CENTRES[torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])]).abs().max() < 1e-3


def test_around_takes_a_latent_of_any_rank():
    decoder = lo.Decoder(ToyImages(12, (1, 8, 8)), (3, 2, 2), prior="normal")
    centre = torch.randn(3, 2, 2, generator=rng.generator(0))
    z = draw(AroundSampler(latent=centre, spread=1e-4), 5, decoder=decoder)
    assert (z - centre.flatten()).abs().max() < 1e-3


def test_fitted_follows_the_designs_and_not_the_prior():
    codes = known(400)
    z = draw(FittedSampler(designs=codes), 20000)
    assert (z.mean(0) - codes.mean(0)).abs().max() < 0.06
    assert (z.std(0) / codes.std(0) - 1).abs().max() < 0.05


def test_fitted_takes_the_decoders_data():
    codes = known(400)
    z = draw(FittedSampler(), 9, decoder=identity_decoder("normal", data=codes))
    assert torch.equal(z, draw(FittedSampler(designs=codes), 9))


def test_fitted_mixtures_keep_apart_what_lies_apart():
    codes = torch.cat([known(100) * 0.1 - 5, known(100) * 0.1 + 5])
    z = draw(FittedSampler(designs=codes, components=2), 1000)
    assert (z.abs() > 3).all()
    assert 0.4 < float((z[:, 0] > 0).float().mean()) < 0.6
    one = draw(FittedSampler(designs=codes), 1000)
    assert (one.abs() < 3).any()


def test_encoded_gives_row_i_the_code_of_design_i():
    codes = known()
    assert torch.equal(draw(EncodedSampler(designs=codes), 40), codes)
    assert torch.equal(draw(EncodedSampler(), 7, decoder=identity_decoder(data=codes)), codes[:7])


def test_samplers_serve_as_starts():
    decoder = identity_decoder(data=known())
    target = torch.full((1, DIM), 0.5)
    samplers = [{"kind": kind, "n": 2, **NEEDS.get(kind, {})} for kind in KINDS]
    found = lo.optimize(decoder, target=target, starts=samplers, search={"kind": "adam", "steps": 5, "lr": 0.1})
    assert torch.isfinite(found.losses).all()


# ---------------------------------------------------------------------- at the door


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: NormalSampler(std=0.0), "greater than 0"),
        (lambda: TruncatedSampler(threshold=0.0), "greater than 0"),
        (lambda: UniformSampler(low=1.0, high=1.0), "low must be below high, got low=1.0, high=1.0"),
        (lambda: UniformSampler(low=(0.0, 2.0), high=1.0), r"low must be below high, got low=\(0.0, 2.0\), high=1.0"),
        (lambda: UniformSampler(low=(0.0, 0.0), high=(1.0,) * 3), "low has 2 numbers and high has 3"),
        (lambda: UniformSampler(low=1.0), "a box needs both low and high, or neither"),
        (lambda: UniformSampler(high=1.0), "a box needs both low and high, or neither"),
        (lambda: SphereSampler(radius=0.0), "greater than 0"),
        (lambda: AroundSampler(), "sampler 'around' takes exactly one of latent and design"),
        (lambda: AroundSampler(latent=[0.0], design=[0.0]), "takes exactly one of latent and design"),
        (lambda: AroundSampler(latent=[0.0], spread=0.0), "greater than 0"),
        (lambda: FittedSampler(components=0), "greater than or equal to 1"),
        (lambda: TruncatedSampler(treshold=1.0), "unknown key 'treshold'; did you mean 'threshold'"),
    ],
)
def test_options_that_cannot_be(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        (UniformSampler(low=(0.0, 0.0), high=1.0), lo.ConfigError, "low has 2 numbers, the latent has 4: give one"),
        (
            AroundSampler(latent=[0.0] * 3),
            lo.ShapeError,
            r"latents of shape \(3,\) do not fit this decoder: give \(N, 4\)",
        ),
        (AroundSampler(latent=[0.0, 0.0, 0.0, math.nan]), lo.ConfigError, "1 of its 1 latents are NaN or infinite"),
        (AroundSampler(latent=torch.zeros(0, 4)), lo.ConfigError, "'around' needs finite latents and it has none"),
        (AroundSampler(design=torch.zeros(1, 8, 8)), lo.DecoderError, "'image' has no encoder: pass Decoder"),
        (FittedSampler(designs=torch.zeros(9, 1, 8, 8)), lo.DecoderError, "'image' has no encoder: pass Decoder"),
        (FittedSampler(), lo.ConfigError, "sampler 'fitted' needs designs: give it some, or the decoder its data="),
        (EncodedSampler(), lo.ConfigError, "sampler 'encoded' needs designs: give it some, or the decoder its data="),
    ],
)
def test_options_that_do_not_fit_the_decoder(config, error, text):
    with pytest.raises(error, match=text):
        config.build(image_decoder())


def test_encodings_that_are_nan_are_refused():
    decoder = lo.Decoder(lambda z: z * 1.0, DIM, prior="normal", encoder=lambda x: torch.exp(200 * x))
    for config in (EncodedSampler(designs=known() + 1e3), FittedSampler(designs=known() + 1e3)):
        with pytest.raises(lo.ConfigError, match=f"'{config.kind}' needs finite latents and 40 of its 40 latents"):
            config.build(decoder)


def test_a_mixture_needs_enough_designs():
    with pytest.raises(lo.ConfigError, match="a prior of 4 components needs at least 8 encodings, got 5"):
        FittedSampler(designs=known(5), components=4).build(identity_decoder())


def test_encoded_has_no_more_rows_than_designs():
    text = (
        "sampler 'encoded' has 40 designs and was asked for 41 rows: ask for fewer, give more designs, or use 'around'"
    )
    with pytest.raises(lo.ConfigError, match=text):
        draw(EncodedSampler(designs=known()), 41)


def test_sobol_has_a_limit():
    class Large:
        dim = 21202

    text = "sampler 'sobol' goes up to 21201 latent values and this decoder has 21202: use 'prior'"
    with pytest.raises(lo.ConfigError, match=text):
        SobolSampler().build(Large())

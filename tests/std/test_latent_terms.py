"""Terms on the latents: likelihood, nearness and spread, against formulas written out, and every error's text."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import latentopt as lo
from latentopt.problem import Problem
from latentopt.terms import build_terms
from latentopt.testing import NoHostSync, ObjectiveConformance, ToyImages, ToyNet, toy_decoders
from latentopt_std import Anchor, Diversity, PriorTerm


def candidates(decoder, n=6, targets=2):
    z = decoder.space.draw(n, torch.Generator().manual_seed(3))
    return lo.Candidates(z, decoder.decode(z), torch.arange(n) % targets)


def skewed(prior=None):
    """A decoder whose latents have their own mean and spread in each coordinate."""
    prior = prior or lo.Normal(mean=(1.0, -2.0, 0.0, 3.0), std=(0.5, 2.0, 1.0, 3.0))
    return lo.Decoder(ToyImages(4, (1, 8, 8)), 4, prior=prior, name="skewed")


class TestPriorConforms(ObjectiveConformance):
    config = PriorTerm()


class TestPriorOfAMixtureConforms(ObjectiveConformance):
    config = PriorTerm()

    def decoder(self):
        covariances = torch.eye(4).expand(2, 4, 4).tolist()
        return skewed(lo.Mixture(weights=[0.5, 0.5], means=[[1.0] * 4, [-1.0] * 4], covariances=covariances))


class TestAnchorOfALatentConforms(ObjectiveConformance):
    config = Anchor(latent=[0.0, 1.0, 2.0, -1.0])

    def decoder(self):
        return skewed()


class TestAnchorOfADesignConforms(ObjectiveConformance):
    config = Anchor(design=[[0.5] * 7] * 5)

    def decoder(self):
        return lo.Decoder(ToyNet(4, (5, 7)), 4, prior="normal")


class TestDiversityConforms(ObjectiveConformance):
    config = Diversity()


class TestDiversityOfLatentsConforms(ObjectiveConformance):
    config = Diversity(space="latents", scale=0.5)

    def decoder(self):
        return skewed()


# ---------------------------------------------------------------------- prior


def test_the_prior_term_is_the_negative_log_density_a_latent_value():
    rows = candidates(toy_decoders()["image"])
    standard = -torch.distributions.Normal(0, 1).log_prob(rows.latents).mean(1)
    assert torch.allclose(PriorTerm().build(toy_decoders()["image"])(rows), standard, rtol=1e-5)
    own = torch.distributions.Normal(torch.tensor([1.0, -2, 0, 3]), torch.tensor([0.5, 2, 1, 3]))
    assert torch.allclose(PriorTerm().build(skewed())(rows), -own.log_prob(rows.latents).mean(1), rtol=1e-5)
    factor = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    covariance = factor @ factor.T + torch.eye(4)
    gaussian = MultivariateNormal(torch.ones(4), covariance)
    decoder = skewed(lo.Gaussian(mean=torch.ones(4), covariance=covariance))
    assert torch.allclose(PriorTerm().build(decoder)(rows), -gaussian.log_prob(rows.latents) / 4, rtol=1e-4)


def test_it_says_the_same_of_latents_of_any_size():
    for name in ("image", "volume"):
        decoder = toy_decoders()[name]
        z = torch.zeros(1, decoder.dim)
        rows = lo.Candidates(z, decoder.decode(z), torch.zeros(1, dtype=torch.long))
        assert float(PriorTerm().build(decoder)(rows)) == pytest.approx(0.5 * math.log(2 * math.pi), rel=1e-5)


def test_the_prior_term_pulls_to_the_mode():
    decoder = skewed()
    found = lo.optimize(decoder, objectives=["prior"], search=[{"kind": "adam", "steps": 300}], region={"kind": "free"})
    off = (found.latents[0] - torch.tensor([1.0, -2, 0, 3])) / torch.tensor([0.5, 2, 1, 3])
    assert off.abs().max() < 0.1


@pytest.mark.parametrize("prior", [lo.Uniform(), lo.UniformSphere()], ids=lambda p: type(p).__name__)
def test_flat_priors_are_refused(prior):
    text = (
        f"says nothing under a {type(prior).__name__} prior, whose density is the same everywhere: use region= to stay"
    )
    with pytest.raises(lo.ConfigError, match=text):
        PriorTerm().build(skewed(prior))


# ---------------------------------------------------------------------- anchor


def test_an_anchor_measures_latents_in_the_priors_own_units():
    decoder = skewed()
    rows = candidates(decoder)
    anchors = torch.tensor([[0.0, 1, 2, 3], [1, 1, 1, 1]])
    std = torch.tensor([0.5, 2, 1, 3])
    one = Anchor(latent=anchors[0]).build(decoder)(rows)
    assert torch.allclose(one, ((rows.latents - anchors[0]) / std).square().mean(1), rtol=1e-5)
    each = Anchor(latent=anchors).build(decoder)(rows)
    assert torch.allclose(each, ((rows.latents - anchors[rows.target_index]) / std).square().mean(1), rtol=1e-5)


def test_an_anchor_measures_designs_in_their_own():
    decoder = toy_decoders()["waveform"]
    rows = candidates(decoder)
    design = rows.designs[3]
    found = Anchor(design=design).build(decoder)(rows)
    assert torch.allclose(found, (rows.designs - design).square().mean((1, 2)), rtol=1e-4)
    assert found[3] == 0


def test_an_anchor_holds_a_search_back():
    decoder = toy_decoders()["image"]
    start = torch.tensor([[0.5, -0.5, 1.0, 0.2]])
    target = decoder.decode(-start)

    def distance(weight):
        found = lo.optimize(
            decoder,
            target=target,
            starts=start,
            objectives=["mse", Anchor(latent=start, weight=weight)],
            search=[{"kind": "adam", "steps": 100}],
        )
        return float((found.latents[0] - start[0]).norm())

    assert distance(10.0) < 0.05 < 1.0 < distance(0.0)


def test_a_bad_anchor_is_refused():
    for options in ({}, {"latent": [0.0] * 4, "design": [0.0]}):
        with pytest.raises(ValueError, match="an anchor takes exactly one of latent and design"):
            Anchor(**options)
    decoder = toy_decoders()["image"]
    with pytest.raises(lo.ShapeError, match=r"latents of shape \(3,\) do not fit this decoder"):
        Anchor(latent=[0.0] * 3).build(decoder)
    with pytest.raises(lo.ShapeError, match="anchor design"):
        Anchor(design=torch.zeros(5, 5)).build(decoder)
    with pytest.raises(lo.ConfigError, match="the anchor holds 1 values that are NaN or infinite: replace them"):
        Anchor(latent=[0.0, 0.0, float("nan"), 0.0]).build(decoder)


# ---------------------------------------------------------------------- diversity


def by_hand(points, target, scale):
    values = []
    for i, p in enumerate(points):
        near = [
            math.exp(-float((p - q).square().mean()) / (2 * scale**2))
            for j, q in enumerate(points)
            if j != i and target[j] == target[i]
        ]
        values.append(sum(near) / len(near) if near else 0.0)
    return values


@pytest.mark.parametrize("kind", ["image", "waveform", "tokens", "vector"])
def test_diversity_is_the_mean_kernel_to_the_other_rows_of_the_target(kind):
    decoder = toy_decoders()[kind]
    rows = candidates(decoder, 7)._replace(target_index=torch.tensor([0, 1, 0, 1, 2, 0, 1]))
    found = Diversity(scale=0.3).build(decoder)(rows)
    assert found.tolist() == pytest.approx(by_hand(rows.designs.flatten(1), rows.target_index, 0.3), abs=1e-5)
    assert found[4] == 0, "a lone row"
    found = Diversity(space="latents", scale=0.8).build(decoder)(rows)
    assert found.tolist() == pytest.approx(by_hand(rows.latents, rows.target_index, 0.8), abs=1e-5)


def test_distances_of_latents_are_in_the_priors_own_units():
    decoder = skewed()
    rows = candidates(decoder)
    scaled = rows.latents / torch.tensor([0.5, 2, 1, 3])
    found = Diversity(space="latents", scale=0.8).build(decoder)(rows)
    assert found.tolist() == pytest.approx(by_hand(scaled, rows.target_index, 0.8), abs=1e-5)


@pytest.mark.parametrize("space", ["designs", "latents"])
def test_the_default_scale_is_the_median_distance_of_draws(space):
    decoder = toy_decoders()["image"]
    z = decoder.space.draw(64, torch.Generator().manual_seed(0))
    points = z if space == "latents" else decoder.decode(z).flatten(1)
    squares = [(points[i] - points[j]).square().mean() for i in range(64) for j in range(i)]
    median = float(torch.stack(squares).sqrt().median())
    rows = candidates(decoder)
    found = Diversity(space=space).build(decoder)(rows)
    assert torch.allclose(found, Diversity(space=space, scale=median).build(decoder)(rows), rtol=1e-4)


def test_its_gradient_is_that_of_explicit_differences_and_needs_no_host_sync():
    decoder = toy_decoders()["image"]
    rows = candidates(decoder)
    objective = Diversity(scale=0.2).build(decoder)
    designs = rows.designs.double().requires_grad_(True)
    with NoHostSync():
        value = objective(rows._replace(designs=designs))
        (found,) = torch.autograd.grad(value.sum(), designs)
    flat = designs.flatten(1)
    square = (flat[:, None] - flat).square().mean(2)
    other = (rows.target_index[:, None] == rows.target_index) & ~torch.eye(6, dtype=torch.bool)
    (expected,) = torch.autograd.grad(((torch.exp(-square / 0.08) * other).sum() / 2), designs)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-10)
    assert found.abs().max() > 1e-4


def test_equal_rows_have_1_and_a_finite_gradient():
    decoder = toy_decoders()["image"]
    designs = decoder.decode(torch.ones(3, 4)).requires_grad_(True)
    rows = lo.Candidates(torch.ones(3, 4), designs, torch.zeros(3, dtype=torch.long))
    value = Diversity().build(decoder)(rows)
    assert value.tolist() == pytest.approx([1.0] * 3, abs=1e-4)
    assert torch.isfinite(torch.autograd.grad(value.sum(), designs)[0]).all()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_row_is_alone_in_it(broken):
    decoder = toy_decoders()["image"]
    rows = candidates(decoder, targets=1)
    objective = Diversity(scale=0.3).build(decoder)
    designs = rows.designs.clone()
    designs[2, 0, 0, 0] = broken
    designs.requires_grad_(True)
    value = objective(rows._replace(designs=designs))
    others = [0, 1, 3, 4, 5]
    sane = objective(lo.Candidates(*(part[others] for part in rows)))
    assert torch.isnan(value[2])
    assert torch.allclose(value[others], sane, atol=1e-6)
    (gradient,) = torch.autograd.grad(value[others].sum(), designs)
    assert torch.isfinite(gradient).all()


def test_it_keeps_the_rows_of_a_search_apart():
    decoder = toy_decoders()["image"]

    def spread(weight):
        found = lo.optimize(
            decoder,
            objectives=[PriorTerm(weight=0.05), Diversity(weight=weight)],
            starts=[{"kind": "normal", "n": 8}],
            search=[{"kind": "adam", "steps": 200}],
        )
        designs = found.designs.flatten(1)
        return float(torch.pdist(designs).median() / designs.shape[1] ** 0.5)

    assert spread(0.0) < 0.02 < 0.1 < spread(1.0)


def test_two_passes_give_the_same_as_one():
    net = ToyImages(4, (1, 8, 8))
    z = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    target = torch.arange(12) % 2
    found = []
    for block in (None, 5):
        decoder = lo.Decoder(net, 4, prior="normal", block_rows=block)
        term = Diversity(scale=0.3)
        problem = Problem(decoder, build_terms([term], decoder), targets=2)
        found.append(problem.value_and_grad(z, target))
    (one, gradient), (two, split) = found
    assert torch.allclose(one.loss_M, two.loss_M, atol=1e-5)
    assert torch.allclose(gradient, split, atol=1e-5)


def test_a_decoder_of_one_design_has_no_scale():
    decoder = lo.Decoder(lambda z: z.sum() * 0 + torch.ones(len(z), 3), 4, prior="normal")
    with pytest.raises(
        lo.ConfigError, match="the median distance between the designs of 64 draws is 0: give 'diversity' a"
    ):
        Diversity().build(decoder)
    assert Diversity(scale=1.0).build(decoder)

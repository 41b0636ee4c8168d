"""Langevin dynamics: the draws follow the density that the config names, by moments known in closed form."""

import pytest
import torch

import latentopt as lo
from latentopt import rng
from latentopt.testing import SearchConformance
from latentopt_std import Adam, Langevin


class TestConformance(SearchConformance):
    config = Langevin(temperature=0.01, steps=60)
    draws = True


MATRIX = torch.tensor([[1.2, -0.4, 0.7], [0.3, 0.9, -0.5]])
AIM = torch.tensor([1.0, -0.5])


def linear_decoder() -> lo.Decoder:
    return lo.Decoder(lambda z: z @ MATRIX.T, (3,), prior="normal")


def answers(temperature: float, n: int, steps: int, **more) -> lo.Result:
    search = Langevin(temperature=temperature, steps=steps)
    given = {"target": AIM, "region": "free", "starts": [{"kind": "prior", "n": n}], "seed": 1, "search": search}
    return lo.optimize(linear_decoder(), **{**given, **more})


def test_draws_have_the_mean_and_covariance_of_the_posterior():
    temperature = 0.2
    found = answers(temperature, 3000, 600).latents
    # mse is |A z - y|^2 / 2, so the precision is A^T A / T + I
    precision = MATRIX.T @ MATRIX / temperature + torch.eye(3)
    covariance = torch.linalg.inv(precision)
    mean = covariance @ MATRIX.T @ AIM / temperature
    assert torch.allclose(found.mean(0), mean, atol=0.05)
    assert torch.allclose(torch.cov(found.T), covariance, atol=0.06)


def test_a_low_temperature_comes_near_the_optimum_and_a_high_one_back_to_the_prior():
    cold, hot = answers(1e-4, 200, 600), answers(100.0, 2000, 300)
    assert cold.losses.median() < 1e-3
    assert torch.allclose(hot.latents.std(0), torch.ones(3), atol=0.1)


def test_a_region_is_kept_and_bends_nothing_inside_it():
    found = answers(1.0, 3000, 400, objectives=[lambda c: 1e-6 * c.latents.sum(1)], target=None,
                    region={"kind": "box", "low": -0.5, "high": 2.0})  # fmt: skip
    assert found.latents.min() >= -0.5
    assert found.latents.max() <= 2.0
    edge = torch.distributions.Normal(0.0, 1.0)
    low, high = torch.tensor(-0.5), torch.tensor(2.0)
    share = edge.cdf(high) - edge.cdf(low)
    mean = (edge.log_prob(low).exp() - edge.log_prob(high).exp()) / share  # of a truncated normal
    assert torch.allclose(found.latents.mean(0), mean.expand(3), atol=0.05)


def test_one_target_gets_several_designs_where_many_fit():
    decoder = lo.load_decoder("digits")
    half = {"kind": "property", "function": lambda x: x.flatten(1).mean(1), "goal": {"equals": 0.15}}
    starts = [{"kind": "prior", "n": 16}]
    search = Langevin(temperature=1e-6, steps=400)
    several = lo.optimize(decoder, objectives=[half], starts=starts, search=search, seed=0)
    one = lo.optimize(decoder, objectives=[half], starts=["mean"] * 16, search=Adam(steps=100), seed=0)
    assert ((several.terms["property"] - 0.15).abs() < 0.005).float().mean() > 0.9
    assert float(torch.pdist(several.latents).median()) > 2.0
    assert float(torch.pdist(one.latents).median()) < 1e-3
    assert several.realism.inside.all()


def test_what_comes_back_is_where_each_chain_ends():
    result = answers(0.5, 50, 100)
    assert (result.best_steps == 100).all()
    again = linear_decoder().decode(result.latents)
    assert torch.allclose((again - AIM).square().mean(1), result.losses, atol=1e-5)
    best = torch.tensor(result.history[-1]["rows_N"])
    assert (result.losses.sort().values >= best.sort().values - 1e-6).all()
    assert (result.losses.sort().values > best.sort().values + 1e-4).any()


def test_a_row_that_turned_nan_keeps_its_last_good_place():
    def loss(c):
        return torch.where(c.latents[:, 0] > 0.3, torch.nan, c.latents.square().sum(1))

    decoder = linear_decoder()
    z = rng.randn(20, 3, rng.generator(0)) * 0.2 - torch.tensor([0.3, 0, 0])
    result = lo.optimize(decoder, objectives=[loss], starts=z, search=Langevin(temperature=1.0, steps=50))
    assert torch.isfinite(result.latents).all()
    assert torch.isfinite(result.losses).all()


def test_a_temperature_is_asked_for():
    with pytest.raises(lo.ConfigError, match=r"task.search.0.temperature: Field required"):
        lo.optimize(linear_decoder(), target=AIM, search="langevin")


def test_lost_chains_leave_the_batch_and_the_others_are_draws_all_the_same():
    def loss(c):
        return torch.where(c.latents[:, 0] > 1.0, torch.nan, c.latents.square().sum(1))

    decoder = linear_decoder()
    z = rng.randn(200, 3, rng.generator(0))
    broken = z[:, 0] > 1.0
    assert 20 < broken.sum() < 60, "enough to be worth leaving out"
    search = Langevin(temperature=1.0, steps=80)
    result = lo.optimize(decoder, objectives=[loss], starts=z, region="free", search=search)
    assert result.diverged == broken.sum()
    assert len(result) == 200 - int(broken.sum())
    assert (result.best_steps == 80).all(), "where each chain ends, not the best that it passed"

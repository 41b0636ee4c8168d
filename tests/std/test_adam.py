"""Adam on latents: the kit, torch's own Adam step for step, schedules, noise."""

import math

import pytest
import torch

import latentopt as lo
from latentopt import rng
from latentopt.problem import Problem
from latentopt.terms import Term
from latentopt.testing import SearchConformance, toy_decoders
from latentopt_std import Adam


class TestAdam(SearchConformance):
    config = Adam(steps=40)


class TestAdamConstant(SearchConformance):
    config = Adam(steps=30, lr=0.05, schedule="constant", warmup=5)


class TestAdamPlateau(SearchConformance):
    config = Adam(steps=40, schedule="plateau", patience=3)


class TestAdamNoisy(SearchConformance):
    config = Adam(steps=40, noise=0.02)


def bowl(c):
    return (c.latents - 0.5).square().sum(1) * torch.tensor([1.0, 100.0])[c.target_index]


def run(config, z, steps, targets=1):
    decoder = toy_decoders()["image"]
    problem = Problem(decoder, [Term("bowl", bowl)], targets=targets)
    search = config.build(decoder)
    target = torch.arange(len(z)) % targets
    state = search.init(problem, z, target, lo.RowNoise(0, 0, len(z)))
    for _ in range(steps):
        search.step(problem, state)
    return state


@pytest.mark.parametrize("options", [{}, {"betas": (0.5, 0.9)}, {"eps": 1e-2}])
def test_it_is_torchs_adam(options):
    z = toy_decoders()["image"].space.draw(3, rng.generator(2))
    state = run(Adam(lr=0.07, schedule="constant", steps=25, **options), z, 25)
    plain = z.clone().requires_grad_(True)
    adam = torch.optim.Adam([plain], lr=0.07, **options)
    for _ in range(25):
        adam.zero_grad()
        (plain - 0.5).square().sum().backward()
        adam.step()
    assert torch.allclose(state.z_ND, plain.detach(), atol=1e-5)


def test_the_rates_of_the_schedules():
    cosine = Adam(lr=2.0, steps=10).build(None)
    expected = [2.0 * 0.5 * (1 + math.cos(math.pi * i / 10)) for i in range(10)]
    assert [cosine.rate(step) for step in range(1, 11)] == pytest.approx(expected)
    assert cosine.rate(1) == 2.0
    warm = Adam(lr=1.0, steps=10, warmup=4, schedule="constant").build(None)
    assert [warm.rate(step) for step in (1, 2, 4, 5)] == [0.25, 0.5, 1.0, 1.0]


def test_on_a_plateau_each_row_has_a_rate_of_its_own():
    z = torch.full((2, 4), 0.5)
    z[1] = 30.0  # the first row starts at its best and cannot gain; the second gains at every step
    state = run(Adam(lr=0.1, schedule="plateau", patience=5, steps=100), z, 50)
    assert state.share_N[0] < 0.01
    assert state.share_N[1] == 1.0


def test_noise_falls_with_the_rate_and_is_the_rows_own():
    z = toy_decoders()["image"].space.draw(6, rng.generator(2))
    config = Adam(lr=1e-9, schedule="constant", noise=0.1, steps=10)
    moved = (run(config, z, 1).z_ND - z).flatten()
    assert float(moved.std()) == pytest.approx(0.1, rel=0.5)
    again = run(config, z[:3], 1).z_ND
    assert torch.equal(again, run(config, z, 1).z_ND[:3])
    quiet = run(Adam(lr=1e-9, noise=0.1, steps=10), z, 10).z_ND
    loud = run(config, z, 10).z_ND
    assert (quiet - z).norm() < (loud - z).norm()


@pytest.mark.parametrize(
    ("field", "text"),
    [({"lr": 0}, "greater than 0"), ({"steps": 0}, "greater than or equal to 1"), ({"noise": -1}, "greater")],
)
def test_ranges(field, text):
    with pytest.raises(ValueError, match=text):
        Adam(**field)


def test_cycles_begin_the_cosine_anew():
    search = Adam(lr=1.0, steps=100, cycles=4).build(toy_decoders()["image"])
    rates = [search.rate(step) for step in range(1, 101)]
    once = [Adam(lr=1.0, steps=25).build(toy_decoders()["image"]).rate(step) for step in range(1, 26)]
    assert rates == pytest.approx(once * 4)


def test_cycles_help_a_row_out_of_a_shallow_basin():
    def two_basins(c):  # the deeper one at 2, the shallow one at -1, a ridge between them
        x = c.latents[:, 0]
        return torch.minimum((x + 1) ** 2 + 0.5, (x - 2) ** 2) + 0.1 * c.latents[:, 1:].square().sum(1)

    decoder = toy_decoders()["vector"]
    z = torch.zeros(1, 3)
    z[0, 0] = 0.2
    slow = lo.optimize(decoder, objectives=[two_basins], starts=z, region="free", search=Adam(lr=0.01, steps=300))
    far = lo.optimize(decoder, objectives=[two_basins], starts=z, region="free",
                      search=Adam(lr=1.0, steps=300, cycles=3, noise=0.5))  # fmt: skip
    assert slow.best.loss > 0.4
    assert far.best.loss < 0.05


@pytest.mark.parametrize("options", [{"cycles": 3, "schedule": "constant"}, {"cycles": 20, "steps": 10}])
def test_cycles_that_make_no_sense(options):
    with pytest.raises(ValueError, match="cycles are warm restarts of the cosine, at most one a step"):
        Adam(**options)

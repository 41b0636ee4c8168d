"""Random numbers: functions of (seed, place), the same however many are drawn, and never from global state."""

import pytest
import torch

from latentopt import rng
from latentopt.rng import RowNoise
from latentopt.testing import global_rng_untouched

DIMS = (1, 2, 3, 5, 16, 17, 64)


def test_a_seed_is_a_function_of_its_place():
    assert rng.derive_seed(3, 1, 4) == rng.derive_seed(3, 1, 4)
    assert 0 <= rng.derive_seed(2**63 - 1, 7) < 2**63


def test_neighbouring_seeds_and_places_give_other_seeds():
    places = [(s, *where) for s in range(4) for where in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1)]]
    assert len({rng.derive_seed(*place) for place in places}) == len(places)


def test_zeros_at_the_end_of_a_place_count():
    assert len({rng.derive_seed(5), rng.derive_seed(5, 0), rng.derive_seed(5, 0, 0), rng.derive_seed(5, 0, 0, 0)}) == 4


def test_a_long_seed_does_not_run_into_its_place():
    assert rng.derive_seed(5 + 3 * 2**32) != rng.derive_seed(5, 3)


def test_starts_share_no_numbers_with_the_stages():
    starts = {rng.derive_seed(0, rng.STARTS, index) for index in range(20)}
    stages = {rng.derive_seed(0, stage, step) for stage in range(20) for step in range(20)}
    assert not starts & stages


@pytest.mark.parametrize("draw", [rng.randn, rng.rand])
@pytest.mark.parametrize("dim", DIMS)
def test_the_first_rows_are_those_of_fewer(draw, dim):
    many = draw(40, dim, rng.generator(2))
    assert many.shape == (40, dim)
    for n in range(1, 41):
        assert torch.equal(draw(n, dim, rng.generator(2)), many[:n]), n


@pytest.mark.parametrize("draw", [rng.randn, rng.rand])
def test_no_rows_are_no_rows(draw):
    assert draw(0, 3, rng.generator(0)).shape == (0, 3)


def test_numbers_have_the_moments_they_should():
    normal, uniform = rng.randn(20000, 3, rng.generator(0)), rng.rand(20000, 3, rng.generator(0))
    assert normal.mean(0).abs().max() < 0.03
    assert (normal.std(0) - 1).abs().max() < 0.03
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert (uniform.mean(0) - 0.5).abs().max() < 0.01


@pytest.mark.parametrize("draw", [rng.randn, rng.rand])
def test_numbers_are_float32_whatever_the_default(draw):
    before = torch.get_default_dtype()
    expected = draw(3, 5, rng.generator(1))
    torch.set_default_dtype(torch.float64)
    try:
        found = draw(3, 5, rng.generator(1))
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_noise_belongs_to_rows_and_not_to_places_in_the_batch():
    noise = RowNoise(7, 1, 10)
    whole = noise.normal(3, torch.arange(10), 5)
    kept = torch.tensor([8, 2, 5])
    assert torch.equal(noise.normal(3, kept, 5), whole[kept])
    assert torch.equal(RowNoise(7, 1, 10).normal(3, torch.arange(10), 5), whole)


def test_noise_differs_by_step_stage_and_seed():
    rows = torch.arange(4)
    drawn = [RowNoise(*place, 4).normal(step, rows, 3) for place in [(0, 0), (0, 1), (1, 0)] for step in (0, 1)]
    for i, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[:i])


def test_seeds_for_libraries_differ_by_step_and_target():
    noise = RowNoise(0, 0, 4)
    assert len({noise.seed_for(step, target) for step in range(5) for target in range(5)}) == 25


def test_nothing_touches_global_state():
    with global_rng_untouched():
        rng.randn(3, 3, rng.generator(0))
        rng.rand(3, 3, rng.generator(0))
        RowNoise(0, 0, 4).normal(0, torch.arange(4), 2)

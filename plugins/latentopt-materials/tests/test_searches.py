"""Searches on the decoder, small: a held-out structure is found again, and a config file names it."""

import pytest
import torch

import latentopt as lo
from latentopt_materials import Microstructures


@pytest.fixture(scope="module")
def decoder():
    return Microstructures().build()


def test_a_held_out_structure_is_matched_better_than_by_its_code(decoder):
    target = Microstructures().examples()[40]
    coded = (decoder.decode(decoder.encode(target[None]))[0] - target).square().mean()
    found = lo.optimize(
        decoder, target=target, starts=["encoder"], region={"kind": "ball", "percentile": 99}, search=[ADAM], seed=0
    )
    assert found.best.loss < 0.9 * coded
    assert found.best.realism.inside


ADAM = {"kind": "adam", "lr": 0.05, "steps": 60}


def test_a_volume_fraction_is_hit_inside_the_prior(decoder):
    found = lo.optimize(
        decoder,
        objectives=["prior", lambda c: (c.designs.mean((1, 2, 3)) - 0.31).abs() * 100],
        starts=[{"kind": "normal", "n": 4}],
        search=[{"kind": "adam", "lr": 0.05, "steps": 80}],
        seed=0,
    )
    assert float(found.best.design.mean()) == pytest.approx(0.31, abs=0.005)
    assert torch.isfinite(found.losses).all()

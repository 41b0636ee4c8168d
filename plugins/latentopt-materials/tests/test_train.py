"""Training, small: its parts do what they say, and a short run writes what the package loads."""

import json

import pytest
import torch

import latentopt as lo
from latentopt.testing import global_rng_untouched
from latentopt_materials.known import training_set
from latentopt_materials.nets import LATENT, MicrostructureDecoder, MicrostructureEncoder
from latentopt_materials.publishing import publish
from latentopt_materials.train import Batches, Recipe, sliced_wasserstein, train, whiten

SHORT = Recipe(per_family=10, steps=80, batch=24, lr=3e-3, lr_warm_up=10)


@pytest.fixture(scope="module")
def batches():
    return Batches(training_set(0, 10), 24, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained(batches):
    return train(SHORT, batches)


def test_batches_come_in_sixteen_guises(batches):
    drawn = torch.cat([batches.draw() for _ in range(40)])
    assert drawn.shape == (960, 1, 64, 64)
    assert set(drawn.unique().tolist()) == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert len(drawn.flatten(1).unique(dim=0)) > 400  # 60 structures; 16 guises of each are 960
    centre = drawn[..., 30:35, 30:35].mean((1, 2, 3))
    assert (centre > 0.5).float().mean() > 0.9  # white in the middle, negatives too


def test_the_distance_to_the_prior_is_small_for_the_prior_alone():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, LATENT, generator=generator)
    own = sliced_wasserstein(z, 64, generator)
    assert own < 0.01
    assert sliced_wasserstein(z + 0.5, 64, generator) > 10 * own
    assert sliced_wasserstein(2 * z, 64, generator) == pytest.approx(1.0, rel=0.1)  # (2 - 1)**2


def test_training_lowers_the_loss_and_leaves_global_state_alone(trained, batches, capsys):
    curve = trained[1]
    assert len(curve) == 40
    assert curve[-1]["reconstruction"] < 0.95 * curve[0]["reconstruction"]
    with global_rng_untouched():
        train(Recipe(per_family=10, steps=1, batch=4), batches)
    assert capsys.readouterr().out.startswith("step 1/1 {'reconstruction': ")


def test_whitening_changes_latents_and_not_designs(trained, batches):
    network = trained[0]
    x = batches.draw()
    with torch.no_grad():
        before = network.decoder(network.encoder(x)[0])
        whiten(network, batches, rounds=40)
        after = network.decoder(network.encoder(x)[0])
        assert torch.allclose(before, after, atol=1e-4)
        mean, log_variance = network.encoder(torch.cat([batches.draw() for _ in range(40)]))
        z = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
        assert z.mean(0).abs().max() < 0.3


def test_what_is_published_loads_again(tmp_path):
    network = (MicrostructureEncoder(), MicrostructureDecoder())
    publish(tmp_path, *network, SHORT, [{"kl": 1.0}], {"training": 1.23456789}, held_out=3, examples=2)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["recipe"]["steps"] == 80
    assert record["seconds"] == {"training": 1.2346}
    weights = lo.read_weights(tmp_path / "microstructures.safetensors", record["sha256"]["microstructures.safetensors"])
    fresh = MicrostructureDecoder()
    lo.load_weights(fresh, weights.part("decoder."))
    z = torch.randn(2, LATENT, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fresh(z), network[1](z))  # in float16's precision, as measured
    assert lo.read_weights(tmp_path / "examples.safetensors").tensors["phases"].shape == (12, 128, 16)

"""The trained auto-encoders of benchmarks/trained: what they give back, how their codes lie, and what their records say."""

import functools
import hashlib
import shutil

import pytest
import torch
from torch import nn

import latentopt as lo
from benchmarks.trained import NAMES, held_out, load, loading, microstructures

# Mean squared errors of reconstructed test designs, a quarter above those measured (data/*.json).
LARGEST_ERROR = {"d20": 0.0134, "deep": 0.0096, "conv": 0.0018}
SIZES = {"d20": (20, (1, 28, 28), 103_824), "deep": (20, (1, 28, 28), 653_784), "conv": (64, (3, 64, 64), 1_945_251)}


@functools.cache
def decoder(name):
    return load(name)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_sizes_are_those_of_the_plan(name):
    found = decoder(name)
    latent, design, parameters = SIZES[name]
    assert (found.latent_shape, found.design_shape) == ((latent,), design)
    assert sum(p.numel() for p in found.module.parameters()) == parameters
    assert {p.dtype for p in found.module.parameters()} == {torch.float32}
    assert not found.module.training
    assert not found.encoder.training
    assert held_out(name, 3).shape == (3, *design)
    assert torch.equal(held_out(name)[:3], held_out(name, 3))


@pytest.mark.parametrize("name", NAMES)
def test_held_out_designs_are_given_back(name):
    x = held_out(name)
    again = decoder(name).decode(decoder(name).encode(x))
    error = float((again - x).square().mean())
    assert error < LARGEST_ERROR[name]
    assert error < 0.2 * float((x - x.mean(0)).square().mean()), "less than 80 % of the variance"


@pytest.mark.parametrize("name", NAMES)
def test_the_record_is_of_these_weights(name):
    record, folder = loading.record(name), loading.DATA
    assert set(record["sha256"]) == {f"{name}.safetensors", record["held_out"]}
    for file, digest in record["sha256"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
    x = held_out(name)
    error = float((decoder(name).decode(decoder(name).encode(x)) - x).square().mean())
    assert error == pytest.approx(record["test"]["mse"], rel=0.3)  # 64 of the thousands that were measured
    assert len(record["train_kl_nats_by_epoch"]) == record["epochs"]


@pytest.mark.parametrize("name", NAMES)
def test_codes_lie_as_the_prior_says(name):
    found = decoder(name)
    assert found.space.evidence.source == "given"
    assert found.space.evidence.finding.startswith("agrees with 64 encodings")
    codes = torch.cat([found.codes, found.encode(held_out(name))])
    assert float(codes.mean(0).abs().amax()) < 0.5  # chance: three or four standard errors of 1 / sqrt(128) are 0.3
    assert float(codes.std(0).amax()) < 1.4
    assert 0.7 < float(codes.std()) < 1.1


@pytest.mark.parametrize("name", NAMES)
def test_prior_draws_look_like_designs(name):
    drawn = lo.sample(decoder(name), n=64, seed=3).designs
    x = held_out(name)
    assert float(drawn.amin()) >= 0
    assert float(drawn.amax()) <= 1
    assert float(drawn.mean()) == pytest.approx(float(x.mean()), rel=0.2)
    spread, expected = (float((d - d.mean(0)).square().mean()) for d in (drawn, x))
    assert 0.5 * expected < spread < 1.1 * expected


@pytest.mark.parametrize("name", NAMES)
def test_targets_and_known_designs_are_apart(name):
    both = loading._kept(name).flatten(1)
    distance = torch.cdist(both, both) + 10 * torch.eye(len(both))
    assert float(distance.amin()) > 1


def test_held_out_digits_are_not_the_examples_of_digits():
    distance = torch.cdist(loading._kept("deep").flatten(1), lo.examples.digits().flatten(1))
    assert float(distance.amin()) > 1


def test_held_out_pictures_are_what_their_seed_draws():
    drawn = microstructures.draw(8, microstructures.KEPT_SEED).float() / 255
    assert float((drawn - held_out("conv", 8)).abs().amax()) < 1.5 / 255


def test_pictures_are_a_function_of_the_seed_and_leave_torchs_own_alone():
    before = torch.get_rng_state()
    first, again, other = (microstructures.draw(5, seed, block=8) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(microstructures.draw(19, 1, block=8)[:16], microstructures.draw(16, 1, block=8))
    load("d20")
    assert torch.equal(torch.get_rng_state(), before)


def test_conv_has_batch_normalisation_with_statistics_of_its_own():
    layers = [m for m in decoder("conv").module if isinstance(m, nn.BatchNorm2d)]
    assert len(layers) == 4
    for layer in layers:
        assert float(layer.running_var.amin()) > 1e-3  # far from where half precision ends
        assert float((layer.running_var - 1).abs().amax()) > 0.05
        assert int(layer.num_batches_tracked) > 1000


def test_two_loads_share_nothing():
    other = load("d20")
    assert other.module is not decoder("d20").module
    z = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    before = decoder("d20").decode(z)
    assert torch.equal(other.decode(z), before)
    with torch.no_grad():
        other.module[0].weight.zero_()
    assert not torch.equal(other.decode(z), before)
    assert torch.equal(decoder("d20").decode(z), before)


@pytest.mark.parametrize("ask", [load, held_out, loading.record])
def test_an_unknown_name_is_refused(ask):
    with pytest.raises(lo.ConfigError, match="no trained decoder 'depe'.*did you mean 'deep'.*d20, deep, conv"):
        ask("depe")


@pytest.mark.parametrize("n", [0, -1, 65])
def test_more_than_there_are_is_refused(n):
    with pytest.raises(lo.ConfigError, match=f"1 to 64 designs of 'deep', got n = {n}"):
        held_out("deep", n)


@pytest.mark.parametrize("file", ["d20.safetensors", "digits_held_out.png"])
def test_a_damaged_file_is_refused(monkeypatch, tmp_path, file):
    for name in ("d20.json", "d20.safetensors", "digits_held_out.png"):
        shutil.copy(loading.DATA / name, tmp_path / name)
    raw = bytearray((tmp_path / file).read_bytes())
    raw[-100] ^= 1
    (tmp_path / file).write_bytes(raw)
    monkeypatch.setattr(loading, "DATA", tmp_path)
    with pytest.raises(lo.DecoderError, match=rf"{file} has sha256 \w+, expected \w+: .*get the right one"):
        load("d20")


def test_a_sheet_keeps_every_pixel(tmp_path):
    from PIL import Image

    images = microstructures.draw(32, 7, block=32)
    loading.write_sheet(images, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (16 * 64, 2 * 64)
        third = torch.tensor(list(sheet.crop((2 * 64, 64, 3 * 64, 2 * 64)).tobytes()), dtype=torch.uint8)
    assert torch.equal(third.view(64, 64, 3).permute(2, 0, 1), images[18])

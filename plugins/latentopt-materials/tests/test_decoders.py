"""The decoder `microstructures`: conformance, its files, its quality as recorded, periodicity by construction."""

import importlib.resources
import json
from importlib.resources import files

import pytest
import torch

import latentopt as lo
from latentopt.testing import DecoderConformance, global_rng_untouched
from latentopt_materials import FAMILIES, Microstructures, centred, decoders, known
from latentopt_materials.decoders import training_record
from latentopt_materials.nets import MicrostructureDecoder, MicrostructureEncoder, splines
from latentopt_materials.publishing import held_out_structures, measured, packed
from latentopt_materials.quality import axis_ratio, grey_share, interface_length, two_point

DATA = files("latentopt_materials") / "data"


class TestMicrostructures(DecoderConformance):
    config = Microstructures()


@pytest.fixture(scope="module")
def decoder():
    return Microstructures().build()


@pytest.fixture(scope="module")
def record():
    return training_record()


def test_it_says_what_it_is(decoder):
    assert repr(decoder).startswith(
        "Decoder(microstructures: (32,) -> (1, 64, 64), prior given with the decoder; agrees with 96 encodings"
    )
    assert decoder.notes == []
    assert decoder.probe.differentiable
    assert decoder.probe.low >= 0.0
    assert decoder.probe.high <= 1.0
    assert {p.dtype for p in decoder.module.parameters()} == {torch.float32}


def test_it_is_found_by_name_among_the_plugins(monkeypatch):
    monkeypatch.setenv("LATENTOPT_PLUGINS", "std,materials")
    assert Microstructures in Microstructures.__mro__
    from latentopt_materials import latentopt_register_decoders

    assert latentopt_register_decoders() == [Microstructures]


def test_files_are_small():
    sizes = {path.name: len(path.read_bytes()) for path in DATA.iterdir()}
    assert sizes["microstructures.safetensors"] < 4e6
    assert sizes["known.safetensors"] < 1.6e6
    assert sum(sizes.values()) < 5.2e6


def test_draws_of_a_seed_are_those_that_were_recorded(decoder):
    with global_rng_untouched():
        draws = lo.sample(decoder, 4, seed=0).designs
    quarters = draws[:, 0].unfold(1, 16, 16).unfold(2, 16, 16).mean((-1, -2))
    assert torch.allclose(quarters[:, 1], torch.tensor(RECORDED), atol=2e-3)


RECORDED = [
    [0.674, 0.6592, 0.6095, 0.7481],
    [0.0761, 0.7808, 0.6304, 0.0116],
    [0.0007, 0.7271, 0.3226, 0.0],
    [0.1545, 0.4545, 0.6912, 0.5328],
]


def test_one_seed_gives_one_set_of_bits(decoder):
    one, again = (lo.sample(d, 5, seed=3).designs for d in (decoder, Microstructures().build()))
    assert torch.equal(one, again)


# ---------------------------------------------------------------------- periodic


def test_the_networks_commute_with_shifts_of_their_grid(decoder):
    grid = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    network = decoder.module
    shifted = network.refined(grid.roll((3, 5), (2, 3)))
    assert torch.allclose(shifted, network.refined(grid).roll((24, 40), (2, 3)), atol=1e-3)


def test_splines_draw_out_constants_and_waves():
    spread = splines(torch.zeros(1, dtype=torch.float64))
    assert torch.allclose(spread.sum(1), torch.ones(64, dtype=torch.float64))
    wave = torch.cos(2 * torch.pi * 2 * (torch.arange(32, dtype=torch.float64) + 0.5) / 32)
    fine = torch.cos(2 * torch.pi * 2 * (torch.arange(64, dtype=torch.float64) + 0.5) / 64)
    drawn = spread @ wave
    ratio = drawn @ fine / (fine @ fine)  # splines flatten a wave a little, and neither shift nor bend it
    assert 0.9 < ratio < 1
    assert torch.allclose(drawn, ratio * fine, atol=1e-3)


def test_draws_go_on_across_the_border(decoder):
    x = lo.sample(decoder, 300, seed=1).designs
    for axis in (2, 3):
        steps = (x - x.roll(-1, axis)).abs().mean([0, 1, 2 if axis == 3 else 3])
        assert steps[-1] < 1.25 * steps[[6, 12, 50, 56]].max()  # centred designs have most interfaces between
        assert (x.narrow(axis, 0, 1) - x.narrow(axis, 40, 1)).abs().mean() > 4 * steps[-1]


def test_pictures_are_two_by_two_tiles(decoder):
    designs = lo.sample(decoder, 2, seed=0).designs
    pictures = Microstructures().draw(designs)
    assert pictures.shape == (2, 1, 128, 128)
    for corner in (pictures[..., :64, :64], pictures[..., 64:, :64], pictures[..., 64:, 64:]):
        assert torch.equal(corner, designs)


# ---------------------------------------------------------------------- examples and quality


def test_examples_are_the_first_held_out_structures_by_bits(record):
    examples = Microstructures().examples()
    assert examples.shape == (96, 1, 64, 64)
    made = held_out_structures(record["recipe"]["seed"] + 1, 16)
    expected = torch.cat([made[family] for family in FAMILIES])
    # other machines round a few interface pixels the other way
    assert (examples != expected).float().mean() < 1e-3
    unpacked = Microstructures().examples()
    assert torch.equal(
        torch.from_numpy(packed(unpacked)), lo.read_weights(DATA / "examples.safetensors").tensors["phases"]
    )


def test_quality_is_what_the_record_says(record, decoder):
    """Measured again on the same held-out structures, in float32 as shipped: to what another machine may round."""
    held_out = held_out_structures(record["recipe"]["seed"] + 1)
    found = measured(decoder.encoder, decoder.module, held_out)
    for group, expected in record["held_out"].items():
        for name, value in expected.items():
            again = found[group][name]
            assert again == (pytest.approx(value, rel=0.02, abs=2e-4)), (group, name)


def test_quality_is_good_enough_to_search(record):
    held_out = record["held_out"]
    for family, figures in held_out["reconstruction"].items():
        assert figures["wrong_phase"] < LIMITS["wrong_phase"], family
        assert figures["volume_fraction_error"] < LIMITS["volume_fraction_error"], family
        assert figures["two_point_error"] < figures["two_point_spread"] / 5, family
    assert held_out["draws"]["grey"] < LIMITS["grey"]
    assert abs(held_out["draws"]["interface_mean"] / held_out["structures"]["interface_mean"] - 1) < 0.15
    posterior = held_out["posterior"]
    assert posterior["active_units"] >= 28
    assert 5.2 < posterior["radius_of_draws"] < 6.0  # 5.61 for N(0, I)
    assert posterior["mean_norm"] < 0.4


LIMITS = {"wrong_phase": 0.06, "volume_fraction_error": 0.01, "grey": 0.06}


def laminates(layers, white):
    """Layers a cell, of `white` pixels each, across and along: `(2, 1, 64, 64)`."""
    phase = (torch.arange(64) % (64 // layers) < white).float()
    return centred(torch.stack([phase[:, None].expand(64, 64), phase.expand(64, 64)])[:, None])


@pytest.mark.parametrize(("layers", "white"), [(1, 16), (1, 32), (2, 10), (2, 16), (2, 22)])
def test_laminates_lie_inside_the_prior(decoder, layers, white):
    """No draw is one, and what bounds the properties must be in reach of a search."""
    x = laminates(layers, white)
    codes = decoder.encode(x)
    assert ((decoder.decode(codes) > 0.5) != (x > 0.5)).float().mean() < 0.01
    assert codes.norm(dim=1).max() < 6.3  # the prior's radius: 5.6, 90 % within 6.5


def test_diagnose_finds_it_fit_for_search(decoder):
    found = lo.diagnose(decoder)
    assert found.prior_agrees
    assert found.smooth
    assert found.differentiable


def test_training_record_is_whole(record):
    assert record["licence"] == "CC0-1.0"
    assert set(record["held_out"]["reconstruction"]) == set(FAMILIES)
    assert record["seconds"]["training_cpu"] > 60
    assert len(record["curve"]) == 40
    assert record["curve"][-1]["reconstruction"] < record["curve"][4]["reconstruction"]
    assert record["parameters"] == {
        "decoder": sum(p.numel() for p in MicrostructureDecoder().parameters()),
        "encoder": sum(p.numel() for p in MicrostructureEncoder().parameters()),
    }


def test_designs_off_centre_are_encoded_outside_the_prior(decoder):
    examples = Microstructures().examples()
    shifted = examples.roll((16, 16), (2, 3))
    assert decoder.encode(examples).norm(dim=1).median() < 5.6
    assert decoder.encode(shifted).norm(dim=1).median() > 8
    again = decoder.encode(centred(shifted))
    back = (again - decoder.encode(examples)).abs().amax(1) < 1e-3
    assert back.float().mean() > 0.9  # laminates have several highest places: any of them will do
    assert again.norm(dim=1).median() < 5.6


# ---------------------------------------------------------------------- measures


def test_two_point_correlations_are_those_counted_by_hand():
    x = (torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.4).float()
    found = two_point(x)
    for shift in ((0, 0), (1, 0), (3, 5)):
        by_hand = (x * x.roll((-shift[0], -shift[1]), (2, 3))).mean((1, 2, 3))
        assert torch.allclose(found[:, shift[0], shift[1]], by_hand, atol=1e-6)


def test_interfaces_and_grey_are_counted():
    x = torch.zeros(1, 1, 64, 64)
    x[..., :20] = 1
    assert interface_length(x).tolist() == [2.0]  # two walls, each as long as the cell
    assert axis_ratio(x).tolist() == [128.0]  # 2 to an edge of one pixel
    square = torch.zeros(1, 1, 64, 64)
    square[..., 10:20, 30:50] = 1
    assert axis_ratio(square).tolist() == [2.0]
    x[..., 20] = 0.5
    assert grey_share(x) == pytest.approx(1 / 64)


# ---------------------------------------------------------------------- bad files


@pytest.fixture
def copied(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for path in DATA.iterdir():
        (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["microstructures.safetensors", "examples.safetensors"])
def test_damaged_files_are_refused(name, copied):
    damaged = bytearray((copied / name).read_bytes())
    damaged[-100] ^= 1
    (copied / name).write_bytes(damaged)
    with pytest.raises(
        lo.DecoderError,
        match=f"the file {name} of latentopt-materials has sha256 [0-9a-f]{{64}}, expected [0-9a-f]{{64}}: reinstall",
    ):
        Microstructures().build()
    (copied / name).unlink()
    words = rf"the file {name} of latentopt-materials cannot be read \(FileNotFoundError: .*\): reinstall latentopt-materials"
    with pytest.raises(lo.DecoderError, match=words):
        Microstructures().build()


def test_a_damaged_record_is_refused(copied):
    (copied / "training.json").write_text("{")
    words = (
        r"the file microstructures.safetensors of latentopt-materials cannot be read \(JSONDecodeError: .*\): reinstall"
    )
    with pytest.raises(lo.DecoderError, match=words):
        Microstructures().build()
    with pytest.raises(lo.DecoderError, match=r"the decoder's training record cannot be read \(JSONDecodeError: .*\)"):
        decoders.training_record()
    (copied / "training.json").write_text(json.dumps({"sha256": {}}))
    with pytest.raises(lo.DecoderError, match=r"cannot be read \(KeyError: 'microstructures.safetensors'\)"):
        Microstructures().build()


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(lo.DecoderError, match="device cuda was asked and this machine has no CUDA device"):
        Microstructures(device="cuda").build()


# ---------------------------------------------------------------------- known designs


def test_known_draws_are_the_same_at_every_call(decoder, monkeypatch):
    monkeypatch.setattr(known, "DRAWS", 1200)
    draws = known.known_designs("draws")
    assert draws.shape == (1200, 1, 64, 64)
    assert torch.equal(draws, known.known_designs("draws", decoder=decoder))
    monkeypatch.setattr(known, "DRAWS", 300)
    assert torch.allclose(known.known_designs("draws"), draws[:300], atol=1e-5)


def test_known_training_designs_are_those_of_the_record(record, monkeypatch):
    recipe = record["recipe"]
    assert (recipe["seed"], recipe["per_family"]) == (0, 4000)
    changed = {**record, "recipe": {**recipe, "per_family": 20}}
    monkeypatch.setattr(known, "training_record", lambda: changed)
    designs = known.known_designs("training")
    assert designs.shape == (120, 1, 64, 64)
    assert torch.equal(designs, known.training_set(0, 20))
    held_out = Microstructures().examples()[:20]
    assert not (designs[:20] == held_out[:1]).flatten(1).all(1).any()


def test_unknown_known_designs_are_refused():
    words = r"no known designs are called 'draw'; did you mean 'draws'\?: use one of training, draws"
    with pytest.raises(lo.ConfigError, match=words):
        known.known_designs("draw")

"""Results on disk: everything comes back, nothing is overwritten, damage is named."""

import json

import numpy as np
import pytest
import torch

import latentopt as lo
from latentopt import rng
from latentopt.testing import toy_decoders

FAST = {"kind": "adam", "steps": 3}


@pytest.fixture
def decoder():
    return toy_decoders()["image"]


@pytest.fixture
def result(decoder):
    targets = decoder.decode(decoder.space.draw(2, rng.generator(4)))
    return lo.optimize(decoder, target=targets, search=FAST)


def test_a_saved_result_comes_back_whole(result, tmp_path, decoder):
    again = lo.load(result.save(tmp_path / "run"))
    for name in ("latents", "designs", "losses", "target_index", "violations", "targets"):
        assert torch.equal(getattr(again, name), getattr(result, name))
    assert torch.equal(again.terms["mse"], result.terms["mse"])
    assert again.config == result.config
    assert again.history == json.loads(json.dumps(result.history))
    assert str(again.realism) == str(result.realism)
    assert again.cost == result.cost
    assert again.best.loss.tolist() == result.best.loss.tolist()
    assert list(again.arrays) == list(result.arrays)
    assert torch.allclose(decoder.decode(again.latents), result.designs, atol=1e-6)


def test_out_writes_the_folder_without_a_pickle(decoder, tmp_path):
    out = tmp_path / "run"
    lo.optimize(decoder, target=torch.zeros(1, 8, 8), search=FAST, out=out)
    names = {path.name for path in out.iterdir()}
    assert names == {"result.safetensors", "result.json", "config.json", "history.jsonl", "arrays.safetensors"}
    lo.sample(decoder, 3, out=tmp_path / "draws")
    lo.interpolate(decoder, torch.eye(4)[:2], out=tmp_path / "path")
    assert (tmp_path / "draws" / "result.safetensors").exists()
    assert json.loads((tmp_path / "path" / "result.json").read_text())["times"][-1] == 1.0


def test_a_run_never_overwrites_another_and_says_so_before_it_works(decoder, tmp_path):
    (tmp_path / "something").write_text("mine")
    before = decoder.rows.forward
    with pytest.raises(lo.ConfigError, match="exists and is not an empty folder: a run never overwrites another"):
        lo.optimize(decoder, target=torch.zeros(1, 8, 8), out=tmp_path)
    assert decoder.rows.forward == before
    with pytest.raises(lo.ConfigError, match="exists and is not an empty folder"):
        lo.sample(decoder, 3).save(tmp_path / "something")


def test_a_folder_that_cannot_be_made(decoder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(lo.ConfigError, match="cannot make the folder"):
        lo.sample(decoder, 3).save(tmp_path / "file" / "below")


def test_damage_is_named(result, tmp_path):
    with pytest.raises(lo.InputFileError, match="is not the folder of an optimize run: result.json is missing"):
        lo.load(tmp_path)
    path = result.save(tmp_path / "run")
    about = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**about, "schema": 99}))
    with pytest.raises(lo.InputFileError, match="has schema 99, this version reads 1: update latentopt"):
        lo.load(path)
    (path / "result.json").write_text("{")
    with pytest.raises(lo.InputFileError, match="cannot be read .*: it is damaged"):
        lo.load(path)
    del about["cost"]
    (path / "result.json").write_text(json.dumps(about))
    with pytest.raises(lo.InputFileError, match="cannot be read .*cost.*: it is damaged"):
        lo.load(path)
    (path / "result.safetensors").write_bytes(b"nonsense")
    with pytest.raises(lo.InputFileError, match="it is damaged"):
        lo.load(path)


def test_summaries_are_json(result):
    text = json.dumps(result.summary(), allow_nan=False)
    assert json.loads(text)["designs"] == len(result)


def test_a_searchs_subspace_is_saved_with_the_run(tmp_path):
    volume = toy_decoders()["volume"]
    target = volume.decode(volume.space.draw(1, rng.generator(4)))[0]
    search = {"kind": "optuna", "sampler": "random", "evaluations": 20, "coordinates": 6, "subspace": "random"}
    found = lo.optimize(volume, target=target, search=[search, FAST], out=tmp_path / "run")
    assert set(found.search) == {"0.basis_DK", "0.centre_D", "0.scale_D"}
    assert found.search["0.basis_DK"].shape == (256, 6)
    again = lo.load(tmp_path / "run")
    assert torch.equal(again.search["0.basis_DK"], found.search["0.basis_DK"])


def test_a_saved_config_runs_again_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("target.npy", lo.examples.digits()[3].numpy())
    first = lo.optimize("digits", target="target.npy", search=FAST, out="found")
    monkeypatch.chdir("/")
    again = lo.run(tmp_path / "found" / "config.json")
    assert torch.equal(again.latents, first.latents)


def test_a_decoder_from_python_cannot_be_rebuilt(decoder, tmp_path):
    lo.optimize(decoder, target=torch.zeros(1, 8, 8), search=FAST, out=tmp_path / "run")
    with pytest.raises(lo.ConfigError, match="a decoder made in Python cannot be rebuilt from a file"):
        lo.run(tmp_path / "run" / "config.json")

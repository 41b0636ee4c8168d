"""Results on disk: everything comes back, nothing is overwritten, damage is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

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
    assert {name for name in names if not name.startswith(".")} == {
        *("run.json", "config.json", "arrays.safetensors", "history.jsonl"),
        *("result.safetensors", "result.json", "manifest.json"),
    }
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
    (path / "manifest.json").unlink()
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


# ---------------------------------------------------------------------- answers apart


def given_result(latents, designs, losses=None, decoder=None, **changes):
    """A result of one target with these rows, best first, as a run of one step would give it."""
    decoder = decoder or lo.Decoder(lambda z: z * 1.0, latents.shape[1], prior="normal")
    start = lo.optimize(decoder, objectives="prior", starts=latents, search={"kind": "adam", "steps": 1})
    losses = torch.arange(len(latents)) * 1.0 if losses is None else losses
    return replace(start, latents=latents, designs=designs, losses=losses, **changes)


def test_latents_are_compared_in_the_priors_standard_deviations():
    decoder = lo.Decoder(lambda z: z * 1.0, (2,), prior=lo.Normal(std=(0.1, 10.0)))
    latents = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.1, 0.0], [0.1, 10.0]])
    result = given_result(latents, latents, decoder=decoder)
    assert result.latent_std.tolist() == pytest.approx([0.1, 10.0])
    assert result.top(4, distinct=0.5).losses.tolist() == [0, 2, 3]
    assert result.top(4, distinct=0.72).losses.tolist() == [0, 3]
    assert result.top(4, distinct=1.1).losses.tolist() == [0]
    assert len(result.top(4, distinct=0.0)) == len(result.top(4)) == 4


def test_answers_lie_apart_in_latents_and_in_designs():
    latents = torch.tensor([[0.0], [0.0], [1.0], [2.0], [2.05]])
    designs = torch.tensor([[0.0], [5.0], [0.1], [1.0], [3.0]])
    result = given_result(latents, designs, design_spread=2.0)
    assert result.top(5, distinct=0.5).losses.tolist() == [0, 2, 3], "designs are not asked about"
    assert result.top(5, distinct=(0.0, 0.5)).losses.tolist() == [0, 1, 3, 4], "nor are latents"
    assert result.top(5, distinct=(0.5, 0.5)).losses.tolist() == [0, 3]
    # True: a tenth of the root of 2, and a quarter of 2
    assert result.top(5, distinct=True).losses.tolist() == [0, 3]
    assert result.top(1, distinct=True).losses.tolist() == [0]
    assert len(result.top(0, distinct=True)) == 0


def test_a_row_gives_way_to_better_ones_only():
    """Greedy by rank: the second is too near to the first, and the third is measured against the first alone."""
    latents = torch.tensor([[0.0], [0.6], [1.2]])
    assert given_result(latents, latents).top(3, distinct=1.0).losses.tolist() == [0, 2]


def test_copies_of_one_optimum_are_one_answer():
    digits = lo.load_decoder("digits")
    target = lo.examples.digits()[3]
    found = lo.optimize(digits, target=target, starts={"kind": "prior", "n": 12}, search={"kind": "adam", "steps": 150})
    assert len(found.top(12, distinct=True)) == 1
    assert len(found.top(12)) == 12


def test_latents_that_give_the_same_design_are_one_answer():
    """The last three latent values do nothing."""
    decoder = lo.Decoder(lambda z: z[:, :1].repeat(1, 5), (4,), prior="normal")
    target = torch.full((5,), 0.4)
    found = lo.optimize(
        decoder, target=target, starts={"kind": "prior", "n": 10}, search={"kind": "adam", "steps": 100}
    )
    assert len(found.top(10, distinct=0.14)) > 5, "their latents are far apart"
    assert len(found.top(10, distinct=True)) == 1


def ink(c):
    return c.designs.flatten(1).mean(1)


def test_diversity_in_the_search_gives_more_answers():
    """Many digits have this much ink; all rows start beside the same one."""
    digits = lo.load_decoder("digits")
    starts = digits.encode(lo.examples.digits()[3:4]) + 0.1 * rng.randn(12, 20, rng.generator(2))
    wish = {"kind": "callable", "function": ink, "goal": {"equals": 0.12}, "weight": 70.0, "name": "ink"}
    answers = []
    for objectives in ([wish], [wish, {"kind": "diversity", "weight": 0.03}]):
        found = lo.optimize(
            digits, objectives=objectives, starts=starts, search={"kind": "adam", "lr": 0.1, "steps": 150}
        )
        top = found.top(12, distinct=True)
        assert (top.terms["ink"] - 0.12).abs().max() < 0.005
        answers.append(len(top))
    assert answers[0] <= 4
    assert answers[1] >= 10


def test_what_distances_are_measured_by_is_saved(result, tmp_path):
    path = result.save(tmp_path / "run")
    again = lo.load(path)
    assert torch.equal(again.latent_std, result.latent_std)
    assert again.design_spread == result.design_spread > 0
    expected = result.top(8, distinct=True)
    assert torch.equal(again.top(8, distinct=True).latents, expected.latents)
    about = json.loads((path / "result.json").read_text())
    (path / "manifest.json").unlink()
    del about["design_spread"]  # as a run saved before there was one
    (path / "result.json").write_text(json.dumps(about))
    tensors = load_file(path / "result.safetensors")
    del tensors["latent_std"]
    save_file(tensors, path / "result.safetensors")
    older = lo.load(path)
    assert older.design_spread is older.latent_std is None
    designs = older.designs[older.target_index == 0].flatten(1)
    least = 0.25 * float(torch.pdist(designs).median()) / 8
    assert 1 <= len(older.top(8, distinct=True)) == len(older.top(8, distinct=(0.1 * 2**0.5, least)))


@pytest.mark.parametrize("distinct", [-0.1, float("nan"), float("inf"), "far", (0.1,), (0.1, -1.0), (0.1, 0.2, 0.3)])
def test_distances_that_cannot_be(result, distinct):
    with pytest.raises(
        lo.ConfigError, match="distinct must be True, a least distance of latents, or .latent, design., with"
    ):
        result.top(3, distinct=distinct)


# ---------------------------------------------------------------------- constraints that nothing keeps


def held(at_least, **options):
    decoder = toy_decoders()["image"]
    bound = {"kind": "property", "function": lambda x: x.flatten(1).mean(1), "goal": {"at_least": at_least}}
    return lo.optimize(decoder, constraints=[bound], budget={"rows": 300}, seed=1, **options)


def test_a_result_says_by_how_much_its_best_break_the_constraints():
    result = held(9.0, objectives=["prior"])
    by = float(result.violations[0])
    words = f"no design keeps the constraints: the best break them by {by:.3g}"
    assert result.notes[-1] == words
    assert words in repr(result)
    fine = held(0.1, objectives=["prior"])
    assert fine.infeasible() == ""
    assert "constraints" not in repr(fine)


def test_constraints_alone_are_enough():
    result = held(0.5)
    assert bool(result.best.feasible)
    assert float(result.losses.abs().max()) == 0


def test_an_empty_front_has_words():
    result = held(9.0, objectives=["prior", lambda c: c.designs.flatten(1).amax(1)], pareto=True)
    front = result.front()
    assert len(front) == 0
    assert repr(front) == f"Result(no designs, {result.stopped})"
    with pytest.raises(lo.ConfigError, match="no designs at all, so none is the best"):
        _ = front.best
    assert repr(result.top(0)) == repr(front)
    with pytest.raises(lo.ConfigError, match="top takes a number of rows, got -1"):
        result.top(-1)


def test_a_constraint_without_weight_is_refused():
    bound = {"kind": "property", "function": lambda x: x.flatten(1).mean(1), "goal": {"at_least": 1}, "weight": 0}
    with pytest.raises(lo.ConfigError, match="constraint 'property' has the weight 0: drop it"):
        lo.optimize(toy_decoders()["image"], constraints=[bound])

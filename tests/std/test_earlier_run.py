"""Starts from the best rows of an earlier run."""

import pytest
import torch

import latentopt as lo
from latentopt import rng
from latentopt.testing import SamplerConformance, toy_decoders
from latentopt_std import LBFGS, Adam, EarlierRun


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    decoder = toy_decoders()["image"]
    target = decoder.decode(decoder.space.draw(3, rng.generator(4)))
    out = tmp_path_factory.mktemp("runs") / "first"
    starts = [{"kind": "prior", "n": 12}]
    lo.optimize(decoder, target=target, starts=starts, search=Adam(steps=5), out=out, seed=3)
    return out


class TestConformance(SamplerConformance):
    @pytest.fixture(autouse=True)
    def _config(self, folder):
        type(self).config = EarlierRun(folder=folder)


def test_the_best_of_each_target_come_first(folder):
    decoder, earlier = toy_decoders()["image"], lo.load(folder)
    rows = EarlierRun(folder=folder).build(decoder)(6, decoder.space, rng.generator(0))
    expected = [earlier.top(2, target=t).latents for t in range(3)]
    assert torch.equal(rows[:3], torch.stack([part[0] for part in expected]))
    assert torch.equal(rows[3:], torch.stack([part[1] for part in expected]))


def test_a_run_goes_on_from_where_an_earlier_one_stopped(folder):
    decoder, earlier = toy_decoders()["image"], lo.load(folder)
    starts = [{"kind": "run", "folder": str(folder), "n": 2, "screened_from": 36}]
    later = lo.optimize(decoder, target=earlier.targets, starts=starts, search=LBFGS(steps=1), seed=0)
    for began, ended in zip(later.history[0]["best_T"], earlier.best.loss.tolist(), strict=True):
        assert began <= ended * (1 + 1e-4), "screening may find a better one among the rows of another target"
    assert (later.best.loss <= earlier.best.loss + 1e-7).all()


def test_errors(folder, tmp_path):
    decoder = toy_decoders()["image"]
    with pytest.raises(lo.ConfigError, match="has 36 rows and 37 were asked for: ask for fewer with n"):
        lo.sample(decoder, 37, sampler={"kind": "run", "folder": str(folder)})
    with pytest.raises(lo.ConfigError, match=r"has latents of shape \(4,\), this decoder's are \(3,\)"):
        lo.sample(toy_decoders()["vector"], 1, sampler={"kind": "run", "folder": str(folder)})
    with pytest.raises(lo.InputFileError, match="is not the folder of an optimize run"):
        lo.sample(decoder, 1, sampler={"kind": "run", "folder": str(tmp_path)})

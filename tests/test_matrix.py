"""The matrix, from the registry's own lists: every search with every objective, on more than one kind of design."""

import pytest
import torch

import latentopt as lo
from latentopt import rng
from latentopt.registry import installed
from latentopt.testing import toy_decoders

FAST = {
    "adam": {"steps": 15},
    "langevin": {"steps": 60, "temperature": 1e-3},
    "lbfgs": {"steps": 15},
    "levenberg_marquardt": {"steps": 2},
    "random": {"evaluations": 60},
    "cmaes": {"evaluations": 60},
    "optuna": {"evaluations": 30, "batch": 10, "sampler": "random"},
}
# What an objective needs beside its kind; those that need no target are listed with `target` False.
NEEDS = {
    "ssim": {"window_size": 3},
    "measurement": {"matrix": torch.eye(64)[:10]},
    "property": {"function": lambda x: x.flatten(1).mean(1)},
    "blackbox": {"function": lambda x: float(x.mean())},
    "anchor": {"latent": torch.zeros(4)},
    "perceptual": {"network": torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))},
}
TARGETLESS = {"property", "blackbox", "anchor", "prior", "diversity"}
RESIDUALS = {"mse", "measurement", "anchor", "perceptual"}  # objectives that are sums of squares
TOO_SMALL = {"ms_ssim": "8x8 is below what five scales need", "cross_entropy": "token logits alone"}


def kinds(slot):
    return [kind for kind in installed().kinds(slot) if kind != "tv"]


def build(kind):
    return {"kind": kind, **NEEDS.get(kind, {})}


def test_the_lists_here_name_every_built_in():
    assert set(FAST) <= set(kinds("searches"))
    assert (set(NEEDS) | TARGETLESS | RESIDUALS | set(TOO_SMALL)) <= set(kinds("objectives"))


@pytest.mark.parametrize("objective", [kind for kind in kinds("objectives") if kind not in TOO_SMALL])
@pytest.mark.parametrize("search", kinds("searches"))
def test_every_search_with_every_objective(search, objective):
    decoder = toy_decoders()["image"]
    target = None if objective in TARGETLESS else decoder.decode(decoder.space.draw(2, rng.generator(3)))
    found = {"kind": search, **FAST.get(search, {})}
    kind = installed().kinds("searches")[search]
    if kind.needs_gradient and objective == "blackbox":
        with pytest.raises(lo.GradientError, match="'blackbox'"):
            lo.optimize(decoder, objectives=[build(objective)], search=found)
        return
    if kind.needs_residuals and objective not in RESIDUALS:
        with pytest.raises(lo.ConfigError, match=f"no residuals of '{objective}': use adam or"):
            lo.optimize(decoder, target=target, objectives=[build(objective)], search=found)
        return
    result = lo.optimize(
        decoder, target=target, objectives=[build(objective)], starts=[{"kind": "prior", "n": 4}], search=found
    )
    first, last = result.history[0]["best_T"], result.history[-1]["best_T"]
    assert all(after <= before for before, after in zip(first, last, strict=True))
    assert torch.isfinite(result.losses).all()
    assert result.realism.inside.all(), "the default region is inside what the decoder knows"
    assert torch.allclose(decoder.decode(result.latents), result.designs, atol=1e-6)


@pytest.mark.parametrize("name", ["waveform", "tokens", "vector", "volume"])
@pytest.mark.parametrize("search", kinds("searches"))
def test_every_search_on_every_kind_of_design(search, name):
    decoder = toy_decoders()[name]
    target = decoder.decode(decoder.space.draw(1, rng.generator(3)))[0]
    squares = installed().kinds("searches")[search].needs_residuals
    objective = "cross_entropy" if name == "tokens" and not squares else "mse"
    result = lo.optimize(
        decoder, target=target, objectives=objective, starts=[{"kind": "prior", "n": 3}],
        search={"kind": search, **FAST.get(search, {})},
    )  # fmt: skip
    assert result.history[-1]["best_T"][0] <= result.history[0]["best_T"][0]
    assert result.designs.shape[1:] == decoder.design_shape


@pytest.mark.parametrize("search", kinds("searches"))
def test_every_search_chains_into_adam(search):
    decoder = toy_decoders()["image"]
    target = decoder.decode(decoder.space.draw(1, rng.generator(3)))[0]
    first = {"kind": search, "keep": 3, **FAST.get(search, {})}
    result = lo.optimize(decoder, target=target, search=[first, {"kind": "adam", "steps": 40}], seed=2)
    assert len(result) == 3
    assert {report["name"] for report in result.history} == {search, "adam"}
    stages = [report["best_T"][0] for report in result.history if report["stage"] == 0]
    assert result.best.loss < max(stages[-1], 1e-12)  # a search may leave nothing but rounding

"""Realism: honest designs are inside, exploited ones outside, and the words say on what grounds."""

import json
import math

import pytest
import torch
from torch import nn

import latentopt as lo
from latentopt import realism, rng
from latentopt.result import load
from latentopt.testing import ToyImages, ToyNet, toy_decoders

D = 20


class Linear(nn.Module):
    """An orthogonal map from 20 latents to 50 numbers; `back` is its exact encoder."""

    def __init__(self):
        super().__init__()
        square = rng.randn(50, 50, rng.generator(3)).double()
        self.basis = nn.Parameter(torch.linalg.qr(square).Q[:, :D].float())

    def forward(self, z):
        return z @ self.basis.T

    def back(self, x):
        return x @ self.basis


def wide_autoencoder(n=400, **options):
    """A deterministic auto-encoder whose codes have radius about 11, where N(0, I) would have 4.4."""
    net = Linear()
    codes = 11 / math.sqrt(D) * rng.randn(n, D, rng.generator(5))
    with torch.no_grad():
        designs = net(codes)
    if options.pop("with_data", False):
        options["data"] = designs
    return lo.Decoder(net, D, encoder=net.back, **options), codes, designs


def judge(decoder, z):
    return realism.judge(decoder, z, decoder.decode(z))


def total(c):
    return c.designs.flatten(1).mean(1)


def maximize(decoder, function=total, **options):
    goal = {"kind": "callable", "function": function, "goal": "maximize"}
    search = {"kind": "adam", "lr": 0.3, "steps": 60}
    return lo.optimize(decoder, objectives=[goal], search=search, **options)


# ---------------------------------------------------------------------- the grounds


def test_without_data_the_prior_is_assumed_and_every_result_says_so():
    decoder, codes, _ = wide_autoencoder()
    verdict = judge(decoder, codes)
    assert verdict.evidence == "assumed, unchecked"
    assert verdict.inside.float().mean() < 0.01
    assert verdict.sentence().startswith("outside the assumed prior N(0, I), which nothing has checked: radius 1")
    found = maximize(decoder, starts="mean")
    assert "the assumed prior N(0, I), which nothing has checked: radius" in str(found.realism)
    assert "which nothing has checked" in found.summary()["best"]["realism"]["words"]


def test_with_data_the_prior_is_fitted_and_its_own_codes_are_inside():
    decoder, codes, _ = wide_autoencoder(with_data=True)
    verdict = judge(decoder, codes)
    assert verdict.evidence == "fitted to 400 encodings"
    assert verdict.inside.float().mean() >= 0.98
    assert verdict.sentence().startswith("inside what the decoder knows: radius ")
    assert verdict.sentence().endswith("(prior fitted to 400 encodings)")
    fresh = 11 / math.sqrt(D) * rng.randn(1000, D, rng.generator(6))
    assert judge(decoder, fresh).inside.float().mean() >= 0.97
    assert not judge(decoder, 3 * fresh).inside.any()


def test_a_given_prior_that_does_not_match_the_data_is_reported():
    decoder, codes, _ = wide_autoencoder(with_data=True, prior="normal")
    words = judge(decoder, codes).sentence()
    assert words.startswith("outside the given prior, which does not match 400 encodings (median radius 10.")
    assert ", the prior's 4.4): radius 1" in words
    inside = judge(decoder, decoder.space.draw(1, rng.generator(0)))
    assert inside.sentence().startswith("inside the given prior, which does not match 400 encodings")


def test_a_given_prior_that_matches_says_so():
    decoder, codes, _ = wide_autoencoder(with_data=True, prior={"kind": "normal", "std": 11 / math.sqrt(D)})
    verdict = judge(decoder, codes)
    assert "(prior given with the decoder; agrees with 400 encodings" in str(verdict)
    assert "400 designs lie " in str(verdict)


def test_an_assumed_prior_that_is_no_standard_normal_is_not_called_one():
    space = lo.LatentSpace((2,), lo.Uniform(), lo.Evidence("assumed"))
    assert realism.place_in_words(space) == "the assumed prior, which nothing has checked"


# ---------------------------------------------------------------------- searches


@pytest.mark.parametrize("name", list(toy_decoders()))
def test_a_free_search_that_maximises_ends_outside_and_the_default_region_inside(name):
    decoder = toy_decoders()[name]
    free = maximize(decoder, region="free")
    kept = maximize(decoder)
    assert kept.realism.inside.all()
    assert not free.realism.inside[0]
    assert float(free.losses[0]) < float(kept.losses[0])
    assert free.best.realism.sentence().startswith("outside what the decoder knows: radius ")
    low, high = (f"{value:.3g}" for value in kept.realism.typical_radius)
    assert f"typical {low} to {high}" in free.best.realism.sentence()


@pytest.mark.parametrize(
    "prior",
    [
        {"kind": "uniform", "low": -1, "high": 3},
        {"kind": "uniform", "low": 100, "high": 100.5},
        "sphere",
        {"kind": "sphere", "size": 3.0},
        {"kind": "normal", "mean": 2.0, "std": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("starts", [None, "mean", {"kind": "prior", "n": 5}], ids=["default", "mean", "prior"])
def test_the_default_region_is_inside_for_every_prior(prior, starts):
    decoder = lo.Decoder(ToyNet(8, (5,)), 8, prior=prior)
    assert maximize(decoder, starts=starts).realism.inside.all()


def mixture(weights=(0.7, 0.3)):
    covariances = torch.stack([torch.eye(4) * 0.25, torch.eye(4)])
    means = torch.stack([torch.full((4,), -4.0), torch.full((4,), 4.0)])
    return lo.Mixture(weights=lo.Array(list(weights)), means=lo.Array(means), covariances=lo.Array(covariances))


def test_the_default_region_of_a_mixture_is_inside_near_a_rare_component_too():
    decoder = lo.Decoder(ToyNet(4, (5,)), 4, prior=mixture((0.999, 0.001)))
    found = maximize(decoder, function=lambda c: c.latents.sum(1), starts=torch.full((1, 4), 4.0))
    assert found.latents.min() > 1.0
    assert found.realism.inside.all()
    assert found.realism.log_density_percentile[0] < 0.5


# ---------------------------------------------------------------------- priors of every kind

PRIORS = {
    "normal": "normal",
    "shifted": {"kind": "normal", "mean": 5.0, "std": 0.2},
    "uniform": "uniform",
    "sphere": "sphere",
    "mixture": mixture(),
    "gaussian": lo.Gaussian(
        mean=lo.Array(torch.ones(4)), covariance=lo.Array(torch.diag(torch.tensor([1.0, 2, 3, 4])))
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_draws_are_inside_and_far_points_never(name):
    decoder = lo.Decoder(ToyNet(4, (5,)), 4, prior=PRIORS[name])
    draws = decoder.space.draw(4000, rng.generator(17))
    share = float(judge(decoder, draws).inside.float().mean())
    assert share >= 0.99
    if name not in ("uniform", "sphere"):  # those have an edge; the others end at the 99.5th percentile
        assert share < 1
    centre = decoder.space.mean(draws)
    for far in (20.0, 1e3, 1e6):
        assert not judge(decoder, centre + far * decoder.space.std(draws) * (draws[:50] - centre).sign()).inside.any()


@pytest.mark.parametrize("name", PRIORS)
def test_summaries_are_json_without_nan_or_infinity(name, tmp_path):
    decoder = lo.Decoder(ToyNet(4, (5,)), 4, prior=PRIORS[name])
    found = maximize(decoder, region="free")
    text = json.dumps(found.summary(), allow_nan=False)
    if name in ("uniform", "sphere"):
        assert found.realism.log_density[0] == -math.inf
        assert '"log_density": [null]' in text
    path = found.save(tmp_path / "run")
    for file in path.glob("*.json*"):
        for line in file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            json.dumps(json.loads(line), allow_nan=False)
    again = load(path)
    assert str(again.realism) == str(found.realism)
    assert torch.equal(again.realism.log_density, found.realism.log_density)


def test_a_point_inside_the_sphere_is_off_the_sphere_prior():
    decoder = lo.Decoder(ToyNet(4, (5,)), 4, prior="sphere")
    verdict = judge(decoder, torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0], [2.01, 0, 0, 0], [2.1, 0, 0, 0]]))
    assert verdict.inside.tolist() == [False, True, True, False]
    assert verdict.sentence(0).startswith("outside what the decoder knows: radius 0.5, typical 1 (prior given")


# ---------------------------------------------------------------------- cycles, neighbours, words


def test_a_design_that_its_encoder_does_not_know_is_outside_though_its_radius_is_ordinary():
    net = Linear()

    def encode(x):  # knows the first 19 directions only where the last is small, as trained encoders do
        code = net.back(x)
        return torch.where(code[:, -1:].abs() < 5, code, torch.zeros_like(code))

    decoder = lo.Decoder(net, D, encoder=encode, prior="normal")
    odd, plain = torch.zeros(1, D), torch.ones(1, D)
    odd[0, -1] = 5.5
    verdict = judge(decoder, torch.cat([plain, odd]))
    assert verdict.inside.tolist() == [True, False]
    assert "; cycle error 0.6" in verdict.sentence(1)
    assert "typical up to" in verdict.sentence(1).split("cycle error")[1]
    assert "cycle error" not in verdict.sentence(0)
    assert str(verdict).startswith("1 of 2 designs lie outside what the decoder knows; the farthest: radius 5.5, ")


def test_rounding_in_an_exact_encoder_is_no_evidence():
    def encode(x):  # exact for most designs, and for a few off by what float32 arithmetic may lose
        return torch.where(x[:, :1] > 3, x + 1e-6, x)

    decoder = lo.Decoder(lambda z: z, D, encoder=encode, prior="normal")
    verdict = judge(decoder, decoder.space.draw(4000, rng.generator(4)))
    assert verdict.cycle_error.amax() > 1e-13
    assert torch.equal(verdict.inside, verdict.radius <= verdict.largest_radius)


def test_known_designs_are_near_and_far_ones_are_said_to_be_far():
    decoder, codes, _ = wide_autoencoder(with_data=True)
    verdict = judge(decoder, torch.cat([codes[:3], codes[:1] * 4]))
    assert verdict.nearest_known[:3].max() < 1e-6
    assert verdict.nearest_known[3] > verdict.largest_nearest > 0
    assert "distance to the nearest known design " in verdict.sentence(3)
    by_hand = ((codes - codes[0] * 4) / decoder.space.std(codes)).square().mean(1).amin()
    assert verdict.nearest_known[3] == pytest.approx(float(by_hand), rel=1e-3)


def test_nearest_designs_are_found_block_by_block(monkeypatch):
    decoder, codes, _ = wide_autoencoder(with_data=True)
    z = decoder.space.draw(37, rng.generator(2))
    whole = realism.nearest_code(decoder, z)
    monkeypatch.setattr(realism, "_NEAREST_BLOCK", 3 * len(codes))
    assert torch.allclose(realism.nearest_code(decoder, z), whole, atol=1e-5)


def test_an_average_design_is_inside_and_called_average():
    decoder = lo.Decoder(ToyNet(D, (5,)), D, prior="normal")
    verdict = judge(decoder, torch.cat([torch.zeros(1, D), torch.ones(1, D)]))
    assert verdict.inside.all()
    assert "near the prior's centre, so an average design" in verdict.sentence(0)
    assert "average" not in verdict.sentence(1)


def test_rows_that_are_not_finite_are_outside_and_said_to_be():
    def fragile(z):
        return torch.where(z[:, :1] > 100, torch.nan, z)

    decoder = lo.Decoder(fragile, 3, encoder=lambda x: x, prior=lo.Normal(std=30.0))
    z = torch.tensor([[1.0, 0, 0], [101.0, 0, 0], [torch.nan, 0, 0]])
    verdict = judge(decoder, z)
    assert verdict.inside.tolist() == [True, False, False]
    for row in (1, 2):
        assert "is not finite" in verdict.sentence(row)
    assert verdict.cycle_error.isnan().tolist() == [False, True, True]
    json.dumps(verdict.summary(), allow_nan=False)
    blind = lo.Decoder(fragile, 3, prior=lo.Normal(std=30.0))
    assert judge(blind, z).inside.tolist() == [True, False, False]
    assert "is not finite" in judge(blind, z).sentence(1)


def test_taking_rows_keeps_their_figures_and_words():
    decoder, codes, _ = wide_autoencoder(with_data=True)
    verdict = judge(decoder, torch.cat([codes[:4], codes[:1] * 5, codes[:1] * 8]))
    rows = torch.tensor([5, 0])
    few = verdict.take(rows)
    assert len(few) == 2
    assert few.sentence(0) == verdict.sentence(5)
    for name, value in verdict.tensors().items():
        assert torch.equal(few.tensors()[name], value[rows])
    assert set(few.tensors()) == {
        "radius",
        "radius_percentile",
        "log_density",
        "log_density_percentile",
        "cycle_error",
        "nearest_known",
        "inside",
    }
    farthest = f"the farthest: radius {float(verdict.radius[5]):.3g}, typical "
    assert str(verdict).startswith(f"2 of 6 designs lie outside what the decoder knows; {farthest}")
    assert str(verdict.take(torch.tensor([0]))) == verdict.sentence(0)
    assert str(verdict.take(torch.arange(3))).startswith(
        "all 3 designs lie inside what the decoder knows; the farthest: "
    )
    assert str(verdict.take(torch.tensor([], dtype=torch.long))) == "no designs to judge"


def test_percentiles_are_shares_of_prior_draws():
    decoder = lo.Decoder(ToyNet(6, (5,)), 6, prior="normal")
    verdict = judge(decoder, decoder.space.draw(4000, rng.generator(8)))
    for percentile in (verdict.radius_percentile, verdict.log_density_percentile):
        for share in (5, 50, 95):
            assert (percentile < share).float().mean() == pytest.approx(share / 100, abs=0.02)
    far = judge(decoder, torch.full((1, 6), 50.0))
    assert far.radius_percentile.tolist() == [100.0]
    assert far.log_density_percentile.tolist() == [0.0]


def test_the_reference_is_worked_out_once_a_decoder_and_draws_no_global_numbers():
    decoder, _, _ = wide_autoencoder(with_data=True)
    before = torch.random.get_rng_state()
    first = realism.reference(decoder)
    used = decoder.rows.forward
    assert realism.reference(decoder) is first
    assert decoder.rows.forward == used
    assert torch.equal(before, torch.random.get_rng_state())


def test_judging_costs_one_decode_a_row_with_an_encoder_and_none_without():
    decoder, codes, designs = wide_autoencoder(with_data=True)
    realism.reference(decoder)
    used = decoder.rows.forward
    realism.judge(decoder, codes[:7], designs[:7])
    assert decoder.rows.forward - used == 7
    blind = lo.Decoder(ToyImages(4, (1, 8, 8)), 4)
    used = blind.rows.forward
    realism.judge(blind, torch.zeros(7, 4), torch.zeros(7, 1, 8, 8))
    assert blind.rows.forward == used


# ---------------------------------------------------------------------- a trained decoder


@pytest.fixture(scope="module")
def digits():
    return lo.load_decoder("digits")


def ink(c):
    return c.designs.flatten(1).mean(1)


def strokes(c):
    return c.designs.diff(dim=-1).abs().flatten(1).mean(1)


def test_honest_digits_are_inside(digits):
    assert judge(digits, digits.encode(lo.examples.digits())).inside.float().mean() >= 0.98
    assert judge(digits, digits.space.draw(2000, rng.generator(21))).inside.float().mean() >= 0.98


@pytest.mark.parametrize("function", [ink, strokes], ids=["ink", "strokes"])
def test_exploited_digits_are_outside_and_kept_ones_inside(digits, function):
    starts = {"kind": "prior", "n": 16}
    search = {"kind": "adam", "lr": 0.1, "steps": 150}
    goal = {"kind": "callable", "function": function, "goal": "maximize"}
    found = {
        region: lo.optimize(digits, objectives=[goal], starts=starts, region=region, search=search)
        for region in ("free", "ball", "sphere")
    }
    assert not found["free"].realism.inside.any()
    assert found["free"].realism.radius.median() > 1.5 * found["free"].realism.largest_radius
    for region in ("ball", "sphere"):
        assert found[region].realism.inside.float().mean() >= 0.98
        assert found["free"].realism.cycle_error.median() > 1.5 * found[region].realism.cycle_error.median()

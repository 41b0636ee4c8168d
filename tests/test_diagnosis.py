"""diagnose: decoders built to have one property each, and the decoders that have none of them."""

import json

import pytest
import torch
from torch.nn.functional import one_hot

import latentopt as lo
from latentopt import examination, rng
from latentopt.examination import Look
from latentopt.testing import ToyImages, ToyNet, global_rng_untouched, toy_decoders

D = 20
MAP = rng.randn(50, D, rng.generator(1))


def linear(change=lambda z: z, after=lambda x: x, dim=D, **options):
    """Latents changed, mapped to 50 numbers by a fixed matrix, and changed again."""
    columns = rng.randn(50, dim, rng.generator(1)) if dim != D else MAP
    return lo.Decoder(lambda z: after(change(z) @ columns.T), dim, name="linear", **{"prior": "normal", **options})


def line(found, head):
    (only,) = [text for text in found.lines if text.startswith(head + ":")]
    return only


# ---------------------------------------------------------------------- decoders with nothing wrong


@pytest.mark.parametrize("name", list(toy_decoders()))
def test_toy_decoders_are_smooth_alive_and_differentiable(name):
    decoder = toy_decoders()[name]
    before = decoder.rows.forward
    with global_rng_untouched():
        found = lo.diagnose(decoder)
    assert found.smooth
    assert found.differentiable
    assert not found.saturated
    assert found.response.dead == ()
    assert found.prior_match is None
    assert found.broken_share == 0
    assert found.forward_rows == decoder.rows.forward - before
    assert 1000 < found.forward_rows < 5000
    assert f"seen through {found.forward_rows:,} decodes" in str(found)
    assert line(found, "paths").startswith("paths: smooth; ")
    assert line(found, "gradients") == "gradients: reach the latents"
    assert line(found, "rows and calls") == "rows and calls: independent, a latent has one design"
    assert found.advice.count(".") == 1
    assert found.advice.endswith(" and interpolate with slerp.")
    assert str(found).splitlines()[-1] == f"Advice: {found.advice}"


def test_a_linear_decoder_is_even_and_its_figures_are_those_of_its_matrix():
    found = lo.diagnose(linear())
    exact = torch.linalg.svdvals(MAP.double())
    assert found.conditioning.condition == pytest.approx(float(exact[0] / exact[-1]), rel=1e-2)
    rank = exact.square().sum().square() / exact.pow(4).sum()
    assert found.conditioning.effective_rank == pytest.approx(float(rank), rel=1e-2)
    effects = MAP.square().mean(0).sqrt().tolist()
    assert found.response.effects == pytest.approx(effects, rel=1e-3)
    assert found.smoothness.top_share < 0.06
    assert line(found, "latents") == "latents: all 20 move the design"


def test_the_same_seed_gives_the_same_diagnosis_and_another_another():
    decoder = toy_decoders()["image"]
    first = lo.diagnose(decoder, seed=3)
    assert lo.diagnose(decoder, seed=3) == first
    assert lo.diagnose(decoder, seed=4).response != first.response


@pytest.mark.parametrize("name", ["image", "volume"])
def test_summaries_are_json(name):
    found = lo.diagnose(toy_decoders()[name])
    data = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert data["advice"] == found.advice
    assert data["conditioning"]["condition"] == found.conditioning.condition
    assert data["latent_shape"] == list(found.latent_shape)


# ---------------------------------------------------------------------- what latents do


def test_dead_coordinates_are_found():
    found = lo.diagnose(linear(lambda z: torch.cat([z[:, :3], z[:, 3:5] * 1e-3, z[:, 5:]], 1)))
    assert found.response.dead == (3, 4)
    assert line(found, "latents") == "latents: 2 of 20 are dead (under 1 % of the usual effect): 3, 4"


def test_a_collapsed_decoder_with_most_coordinates_dead_is_seen_through():
    found = lo.diagnose(linear(lambda z: torch.cat([z[:, :4], z[:, 4:] * 1e-4], 1)))
    assert found.response.dead == tuple(range(4, 20))
    assert line(found, "latents").endswith(": 4, 5, 6, 7, 8, 9, 10, 11 and 8 more")
    assert found.conditioning.effective_rank < 4.1


def test_a_decoder_that_ignores_its_latents_is_said_to():
    found = lo.diagnose(lo.Decoder(lambda z: torch.ones(len(z), 5), 3))
    assert line(found, "latents") == "latents: none of 3 moves the design at all"
    assert line(found, "Jacobian") == "Jacobian: zero, small moves do not change the design"
    json.dumps(found.summary(), allow_nan=False)


@pytest.mark.parametrize("gradient", [True, False], ids=["gradient", "subset"])
def test_many_coordinates_are_looked_at_by_gradients_or_a_random_subset(gradient):
    scale = torch.ones(600)
    scale[::3] = 1e-4
    decoder = linear(lambda z: (z if gradient else z.detach()) * scale, dim=600)
    found = lo.diagnose(decoder)
    assert found.response.how == ("gradient" if gradient else "subset")
    assert found.response.dead == tuple(i for i in found.response.coordinates if i % 3 == 0)
    assert len(found.response.coordinates) == (600 if gradient else 256)
    assert (found.backward_rows == 64) == gradient
    assert ("256 of 600 coordinates (a random subset)" in line(found, "latents")) == (not gradient)
    assert "64 random directions" in line(found, "Jacobian")
    assert "at least" in line(found, "Jacobian")
    assert found.conditioning.effective_rank > 15  # 50 values, 64 directions
    assert found.forward_rows < 5000


def test_random_directions_see_whichever_coordinates_matter():
    found = lo.diagnose(linear(lambda z: z * (torch.arange(600) >= 500), dim=600))
    assert found.conditioning.effective_rank > 15


def test_effects_by_gradient_agree_with_effects_by_moving():
    look = Look(linear(), 0)
    moved = examination._by_moving(look, torch.arange(D))
    assert torch.allclose(examination._by_gradient(look, 4096), moved, rtol=0.1)


def test_an_ill_conditioned_map_is_called_stretched_and_gets_second_order():
    found = lo.diagnose(linear(lambda z: z * torch.logspace(0, -1.5, D) ** 2))
    assert found.conditioning.condition > 300
    assert line(found, "Jacobian").startswith("Jacobian: stretched, condition number ")
    assert "let a second-order search polish" in found.advice


def test_directions_are_whitened_by_a_correlated_prior():
    prior = lo.Gaussian(mean=lo.Array([1.0, -1.0]), covariance=lo.Array([[4.0, 1.9], [1.9, 1.0]]))
    factor = torch.linalg.cholesky(torch.tensor([[4.0, 1.9], [1.9, 1.0]]).double())
    unmix = torch.linalg.inv(factor).float()
    found = lo.diagnose(lo.Decoder(lambda z: z @ unmix.T, 2, prior=prior))
    assert found.conditioning.condition == pytest.approx(1.0, abs=0.02)
    assert found.conditioning.effective_rank == pytest.approx(2.0, abs=0.02)


# ---------------------------------------------------------------------- jumps


@pytest.mark.parametrize(
    "change",
    [torch.sign, torch.round, lambda z: z + 3 * torch.sign(z[:, :1]), lambda z: torch.tanh(1000 * z)],
    ids=["sign", "round", "one step", "steep"],
)
def test_decoders_that_jump_are_fragmented(change):
    found = lo.diagnose(linear(change))
    assert not found.smooth
    assert found.smoothness.jumps >= 0.35
    assert line(found, "paths").startswith("paths: fragmented; ")
    assert line(found, "Jacobian") == "Jacobian: says nothing, the designs jump"
    assert "many screened draws" in found.advice
    assert "use a search without gradients" in found.advice


@pytest.mark.parametrize(
    "after",
    [torch.sin, lambda x: torch.round(255 * torch.sigmoid(x)) / 255, lambda x: torch.tanh(3 * x)],
    ids=["sine", "eight bits", "tanh"],
)
def test_curved_and_finely_quantised_decoders_are_smooth(after):
    assert lo.diagnose(linear(after=after)).smooth


def test_uneven_paths_are_to_be_spaced_evenly():
    found = lo.diagnose(linear(lambda z: torch.tanh(10 * z)))
    assert found.smooth
    assert line(found, "paths").startswith("paths: smooth but uneven; ")
    assert found.advice.endswith("interpolate with slerp, evenly spaced in design space.")


@pytest.mark.parametrize("name", ["normal", "sphere", "uniform"])
def test_paths_end_at_draws_and_stay_where_draws_are(name):
    look = Look(linear(prior=name), 0)
    a, b = look.draws(2, 9)
    path = examination._path(look, a, b, torch.linspace(0, 1, 33))
    assert torch.allclose(path[[0, -1]], torch.stack([a, b]), atol=1e-5)
    radius = look.decoder.space.prior.radius(path)
    assert radius.max() < 1.5 * radius[[0, -1]].max()
    if name != "uniform":
        assert radius.min() > 0.6 * radius[[0, -1]].min()


# ---------------------------------------------------------------------- saturation and gradients


def test_saturated_outputs_are_found_and_bounded_ones_are_not_called_so():
    found = lo.diagnose(linear(after=lambda x: torch.sigmoid(20 * x)))
    assert found.saturated
    assert found.conditioning.saturation.share > 0.9
    assert line(found, "outputs").startswith("outputs: saturated in 0 to 1; of the values that vary, 9")
    tanh = lo.diagnose(linear(after=lambda x: torch.tanh(0.5 * x)))
    assert not tanh.saturated
    assert line(tanh, "outputs").startswith("outputs: bounded in -1 to 1; ")
    assert lo.diagnose(linear()).conditioning.saturation is None


def test_values_that_never_vary_do_not_count_as_saturated():
    decoder = linear(after=lambda x: torch.cat([torch.sigmoid(0.5 * x), torch.zeros(len(x), 500)], 1))
    found = lo.diagnose(decoder)
    assert not found.saturated
    assert found.conditioning.saturation.varying < 0.1


@pytest.mark.parametrize(
    ("after", "note"),
    [
        (lambda x: one_hot(x.argmax(1), 50).float(), "cut off from its latents"),
        (lambda x: torch.from_numpy(x.detach().numpy() ** 2), "cut off from its latents"),
    ],
    ids=["argmax", "numpy"],
)
def test_decoders_without_gradients_are_diagnosed_all_the_same(after, note):
    found = lo.diagnose(linear(after=after))
    assert not found.differentiable
    assert note in line(found, "gradients")
    assert "use a search without gradients" in found.advice
    json.dumps(found.summary(), allow_nan=False)


def test_noisy_decoders_and_rows_that_see_each_other_are_named():
    noise = rng.generator(0)
    with pytest.warns(lo.LatentoptWarning, match="second call"):
        noisy = linear(after=lambda x: x + 0.1 * torch.randn(x.shape, generator=noise))
    assert line(lo.diagnose(noisy), "calls").startswith("calls: a second call gives another design (by ")
    with pytest.warns(lo.LatentoptWarning, match="alone and in a batch"):
        joined = linear(after=lambda x: x - x.mean(0))
    assert line(lo.diagnose(joined), "rows").startswith("rows: a design depends on its batch (by ")


def test_designs_that_are_not_finite_are_counted():
    def fragile(x):
        return torch.where(x[:, :1] > 12, torch.nan, x)

    found = lo.diagnose(linear(after=fragile))
    assert 0 < found.broken_share < 0.2
    assert line(found, "finite").endswith(" % of the decoded rows had NaN or infinite values")
    json.dumps(found.summary(), allow_nan=False)


# ---------------------------------------------------------------------- the prior


def autoencoder(codes, **options):
    basis = torch.linalg.qr(rng.randn(50, 50, rng.generator(2))).Q[:, :D]
    return lo.Decoder(lambda z: z @ basis.T, D, encoder=lambda x: x @ basis, **options), codes @ basis.T


CODES = rng.randn(500, D, rng.generator(7))


def test_a_prior_that_matches_agrees():
    decoder, data = autoencoder(CODES, prior="normal")
    found = lo.diagnose(decoder, data=data)
    assert found.prior_agrees is True
    assert found.prior_match.radius_ratio == pytest.approx(1, abs=0.05)
    assert found.prior_match.ks < found.prior_match.ks_noise
    assert line(found, "prior").startswith("prior: agrees with 500 encodings: median radius ")
    assert found.advice.startswith(
        "Search in a ball at the 99th percentile, start from the target's code, the mean and "
    )


def test_posterior_means_inside_the_prior_are_ordinary():
    decoder, data = autoencoder(0.7 * CODES, prior="normal")
    assert line(lo.diagnose(decoder, data=data), "prior").startswith(
        "prior: agrees with 500 encodings, which lie inside it as posterior means do: "
    )


@pytest.mark.parametrize(
    "codes",
    [2.5 * CODES, CODES + 2 * torch.eye(D)[3], CODES * (1 + torch.eye(D)[3]), 0.1 * CODES],
    ids=["too wide", "shifted", "one coordinate wide", "collapsed"],
)
def test_a_prior_that_does_not_match_is_named(codes):
    decoder, data = autoencoder(codes, prior="normal")
    found = lo.diagnose(decoder, data=data)
    assert found.prior_agrees is False
    assert line(found, "prior").startswith("prior: does not match 500 encodings: median radius ")
    assert found.advice.startswith(
        'Let the prior be fitted to your data (prior="fitted", data=...) before all else; then '
    )


def test_data_that_the_decoder_was_given_is_looked_at_again():
    decoder, data = autoencoder(2.5 * CODES)
    fitted = lo.Decoder(decoder.module, D, encoder=decoder.encoder, data=data)
    found = lo.diagnose(fitted)
    assert found.prior_agrees is True
    assert found.prior_match.encodings == 500
    assert found.evidence == "fitted to 500 encodings"


def test_a_fitted_gaussian_of_clusters_is_said_to_have_the_wrong_shape():
    sides = 4 * torch.sign(rng.randn(500, 1, rng.generator(8)))
    decoder, data = autoencoder(CODES + sides * torch.eye(D)[0])
    found = lo.diagnose(lo.Decoder(decoder.module, D, encoder=decoder.encoder, data=data))
    assert line(found, "prior").startswith("prior: right in size, but 500 encodings have another shape: ")
    assert found.advice.startswith('Fit a mixture (prior={"kind": "fitted", "components": 8}); then search in ')


def test_an_assumed_prior_is_to_be_replaced():
    decoder, data = autoencoder(CODES)
    found = lo.diagnose(decoder)
    assert line(found, "prior") == "prior: assumed, unchecked; give data= to check it"
    assert found.advice.startswith("Give data= in place of the assumed prior; then search in ")
    blind = lo.diagnose(lo.Decoder(ToyNet(3, (5,)), 3))
    assert line(blind, "prior") == "prior: assumed, unchecked; no encoder, so nothing can check it"
    assert blind.advice.startswith(
        "Give the prior it was trained with, or an encoder and data=, in place of the assumed"
    )
    assert lo.diagnose(decoder, data=data).advice.startswith("Search in ")


def test_an_encoder_of_another_decoder_is_found_out():
    decoder, _ = autoencoder(CODES, prior="normal")
    assert lo.diagnose(decoder).latent_cycle < 1e-3
    assert "start from the target's code" in lo.diagnose(decoder).advice
    other = lo.Decoder(decoder.module, D, encoder=lambda x: decoder.encoder(x).roll(1, 1), prior="normal")
    found = lo.diagnose(other)
    assert found.latent_cycle == pytest.approx(2**0.5, abs=0.1)
    assert line(found, "encoder").startswith("encoder: is no inverse of the decoder, ")
    assert "start from the mean and screened draws" in found.advice


def test_data_without_an_encoder_is_refused():
    with pytest.raises(lo.ConfigError, match="decoder 'linear' has no encoder: drop data="):
        lo.diagnose(linear(), data=torch.zeros(3, 50))


def test_one_known_design_is_too_few():
    decoder, data = autoencoder(CODES)
    with pytest.raises(lo.ConfigError, match="needs at least 2 known designs, got 1: give more data"):
        lo.diagnose(decoder, data=data[:1])


def test_encodings_that_are_not_finite_are_refused():
    decoder, data = autoencoder(CODES)
    with pytest.warns(lo.LatentoptWarning, match="the encoder of .* gives NaN"):
        broken = lo.Decoder(decoder.module, D, encoder=lambda x: decoder.encoder(x).log())
    with pytest.raises(lo.ConfigError, match="NaN or infinite latents for the data"):
        lo.diagnose(broken, data=data)


# ---------------------------------------------------------------------- advice


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prior": "uniform"}, ("in the prior's box", "lerp")),
        ({"prior": "sphere"}, ("in the prior's sphere", "slerp")),
        ({"prior": {"kind": "normal", "mean": 3.0}}, ("in a ball at the 99th percentile", "lerp")),
        ({"prior": "normal", "dim": 64}, ("in a shell at the 99th percentile", "slerp")),
    ],
    ids=["box", "sphere", "off centre", "high dimension"],
)
def test_advice_follows_the_prior(options, words):
    advice = lo.diagnose(linear(**options)).advice
    region, path = words
    assert region in advice
    assert advice.endswith(f" interpolate with {path}.")


def test_large_designs_are_looked_at_by_a_random_subset_of_their_values():
    decoder = lo.Decoder(ToyImages(2, (1, 300, 300)), 2)
    look = Look(decoder, 0)
    z = look.draws(3, 0)
    assert look.designs(z).shape == (3, 65536)
    assert torch.equal(look.designs(z), decoder.decode(z).flatten(1)[:, look.columns].double())


def test_diagnose_takes_what_load_decoder_takes():
    with pytest.raises(lo.ConfigError, match="no_such_decoder"):
        lo.diagnose("no_such_decoder")


def test_the_function_is_not_hidden_by_a_module_of_its_name():
    assert lo.Diagnosis.__name__ == "Diagnosis"
    assert callable(lo.diagnose)

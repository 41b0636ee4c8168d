"""Subspaces: which one is chosen, that it holds what matters, what it costs, and what it says."""

import warnings

import pytest
import torch
from torch import nn

import latentopt as lo
from latentopt import rng
from latentopt.budget import Budget, Clock
from latentopt.decoder import Decoder
from latentopt.driver import drive
from latentopt.problem import Problem
from latentopt.regions import Ball
from latentopt.stagerun import Stage
from latentopt.terms import Term
from latentopt.testing import SearchConformance, toy_decoders
from latentopt_std import OptunaSearch
from latentopt_std.subspace import DRAWS, PROBES, choose, jacobian_directions, random_directions, resolve

DIM, TRUE = 64, 6


class Narrow(nn.Module):
    """64 latent values of which only 6 directions reach the design."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("axes", random_directions(DIM, TRUE, 0).float() * scale)
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z @ self.axes) + 0 * self.unused


class Lift(nn.Module):
    """Designs `(N, 2)` to latents on a plane of unequal sides, about a centre."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("plane", random_directions(DIM, 2, 3).T.float() * torch.tensor([[2.0], [0.5]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.1 + x @ self.plane


def narrow(**options):
    return Decoder(Narrow(), latent_shape=(DIM,), **{"prior": "normal", **options})


def encoded(n=100):
    decoder = Decoder(lambda z: z[:, :2], latent_shape=(DIM,), device="cpu", dtype=torch.float32, prior="normal",
                      encoder=Lift(), data=rng.randn(n, 2, rng.generator(4)))  # fmt: skip
    assert decoder.codes is not None
    return decoder


def blind():
    """No gradient and no codes."""
    return Decoder(lambda z: z.detach()[:, :3], latent_shape=(DIM,), device="cpu", dtype=torch.float32, prior="normal")


def held(basis, axes):
    """The share of each axis that lies in the span of the basis."""
    q = torch.linalg.qr(basis.double()).Q
    return (q.T @ axes.double()).norm(dim=0) / axes.double().norm(dim=0)


def test_auto_takes_all_values_then_pca_then_the_jacobian_then_chance():
    assert resolve("auto", 32, toy_decoders()["image"]) == "identity"
    assert resolve("auto", DIM, blind()) == "identity"
    assert resolve("auto", 32, encoded()) == "pca"
    assert resolve("auto", 32, encoded(20)) == "jacobian", "too few codes to trust"
    assert resolve("auto", 32, narrow()) == "jacobian"
    assert resolve("auto", 32, blind()) == "random"
    assert resolve("random", 2, toy_decoders()["image"]) == "random"


def test_identity_is_in_the_priors_own_units():
    decoder = narrow(prior={"kind": "normal", "mean": 1.0, "std": 2.0})
    with pytest.warns(lo.LatentoptWarning, match="64 coordinates"):
        OptunaSearch(subspace="identity").build(decoder)
    chart = choose("identity", 32, Problem(decoder, ()), 0)
    assert chart.basis_DK is None
    assert chart.notes == ()
    assert torch.equal(chart.latents(torch.full((1, DIM), -0.5)), torch.zeros(1, DIM))


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_the_jacobians_directions_hold_all_that_reaches_the_design(scale):
    decoder = Decoder(Narrow(scale), latent_shape=(DIM,), prior="normal")
    basis = jacobian_directions(decoder, torch.ones(DIM), 8, seed=0)
    assert basis.shape == (DIM, 8)
    assert torch.allclose(basis.T @ basis, torch.eye(8).double(), atol=1e-6)
    assert held(basis, decoder.module.axes).min() > 0.9999
    assert held(random_directions(DIM, 8, 0), rng.randn(DIM, 6, rng.generator(1))).max() < 0.9
    again = jacobian_directions(decoder, torch.ones(DIM), 8, seed=0)
    assert torch.equal(basis, again)


def test_the_jacobian_is_that_of_whitened_latents():
    spread = (100.0, *[1.0] * (DIM - 1))
    decoder = Decoder(lambda z: z, latent_shape=(DIM,), device="cpu", dtype=torch.float32,
                      prior={"kind": "normal", "std": spread})  # fmt: skip
    chart = choose("jacobian", 1, Problem(decoder, ()), 0)
    assert chart.basis_DK[0, 0] == pytest.approx(1.0, abs=1e-2)


def test_the_rows_of_the_probes_are_counted_and_come_in_blocks():
    decoder = narrow(block_rows=50)
    forward, backward = decoder.rows.forward, decoder.rows.backward
    choose("jacobian", 8, Problem(decoder, ()), 0)
    assert decoder.rows.forward - forward == DRAWS
    assert decoder.rows.backward - backward == DRAWS * PROBES


def test_pca_spans_the_codes_about_their_mean_in_their_own_spread():
    decoder = encoded()
    chart = choose("pca", 32, Problem(decoder, ()), 0)
    codes = decoder.codes
    assert chart.count == 2, "the codes have no more dimensions than that"
    u = chart.of(codes)
    assert torch.allclose(chart.latents(u), codes, atol=1e-4)
    assert torch.allclose(u.std(0), torch.ones(2), atol=1e-4)
    assert torch.allclose(u.mean(0), torch.zeros(2), atol=1e-4)
    assert chart.notes == (
        "searched 2 of 64 latent dimensions: principal axes of 100 encoded designs, 100 % of their variance",
    )


def test_random_directions_say_so():
    chart = choose("auto", 16, Problem(blind(), ()), 0)
    assert chart.notes == (
        "searched 16 of 64 latent dimensions: random directions, for want of encoded designs and of gradients: expect little",
    )
    assert torch.allclose(chart.basis_DK.T @ chart.basis_DK, torch.eye(16), atol=1e-5)
    other = choose("random", 16, Problem(blind(), ()), 1)
    assert other.notes == ("searched 16 of 64 latent dimensions: random directions",)
    assert not torch.equal(chart.basis_DK, other.basis_DK)


class Rough(Narrow):
    """NaN where the first value exceeds a limit."""

    limit = 1.5

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return super().forward(z) * torch.where(z[:, :1] > self.limit, torch.nan, 1.0)


def test_gradients_that_are_not_numbers_are_left_out():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lo.LatentoptWarning)  # the decoder says itself that it gives NaN
        decoder = Decoder(Rough(), latent_shape=(DIM,), prior="normal")
    basis = jacobian_directions(decoder, torch.ones(DIM), 8, 0)
    assert held(basis, decoder.module.axes).min() > 0.99
    decoder.module.limit = -9.0
    assert jacobian_directions(decoder, torch.ones(DIM), 8, 0) is None
    chart = choose("jacobian", 8, Problem(decoder, ()), 0)
    assert chart.notes == (
        "searched 8 of 64 latent dimensions: random directions, for want of finite gradients: expect little",
    )


# ---------------------------------------------------------------------- refusals


def test_pca_needs_codes():
    with pytest.raises(
        lo.ConfigError, match="subspace 'pca' needs encoded designs and decoder 'Narrow' has none: give it"
    ):
        OptunaSearch(subspace="pca").build(narrow())


def test_the_jacobian_needs_gradients():
    match = (
        "subspace 'jacobian' needs gradients and decoder .* gives none: its output is cut off .*; use 'pca' or 'random'"
    )
    with pytest.raises(lo.GradientError, match=match):
        OptunaSearch(subspace="jacobian").build(blind())


@pytest.mark.parametrize(
    "config",
    [OptunaSearch(coordinates=40, subspace="random"), OptunaSearch(coordinates=64), OptunaSearch(subspace="identity")],
    ids=["wider", "auto", "identity"],
)
def test_more_than_32_coordinates_quote_their_cost(config):
    with pytest.warns(
        lo.LatentoptWarning, match=r"\d+ coordinates are many for Optuna: with 1000 trials TPE takes 22 ms an ask"
    ):
        config.build(blind())


def test_as_many_as_32_say_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OptunaSearch().build(narrow())


# ---------------------------------------------------------------------- runs


def reach(decoder, config, *, n=3, seed=0):
    target = decoder.decode(decoder.space.draw(2, rng.generator(5)))

    def distance(c):
        return (c.designs - target[c.target_index]).square().flatten(1).mean(1)

    region = Ball(percentile=99).resolve(decoder.space)
    problem = Problem(decoder, [Term("distance", distance)], region=region, targets=2)
    stage = Stage("optuna", config.build(decoder))
    z, index = decoder.space.draw(2 * n, rng.generator(6)), torch.arange(2).repeat_interleave(n)
    return drive(problem, z, index, [stage], clock=Clock(problem, Budget()), seed=seed), problem


def test_a_latent_of_rank_three_is_searched_in_32_coordinates():
    decoder = toy_decoders()["volume"]
    search = OptunaSearch(evaluations=30).build(decoder)
    problem = Problem(decoder, [Term("mean", lambda c: c.designs.flatten(1).mean(1))])
    state = search.init(
        problem, decoder.space.draw(2, rng.generator(0)), torch.zeros(2, dtype=torch.long), rng.RowNoise(0, 0, 2)
    )
    assert state.basis_DK.shape == (256, 32)
    assert state.centre_D.shape == (256,)
    assert {"basis_DK", "centre_D", "scale_D"} <= state.whole
    search.step(problem, state)
    w = (state.z_ND - state.centre_D) / state.scale_D
    assert torch.allclose(w @ state.basis_DK @ state.basis_DK.T, w, atol=1e-4), "points lie in the subspace"
    assert len(state.optimizers.optimizers[0].distributions) == 32


def test_the_jacobians_subspace_beats_a_random_one_and_stays_in_the_region():
    decoder = narrow()
    bests = {}
    for kind in ("jacobian", "random"):
        config = OptunaSearch(subspace=kind, coordinates=TRUE, sampler="cmaes", evaluations=150)
        found, problem = reach(decoder, config)
        bests[kind] = sum(found.history[-1].best_T)
        assert problem.space.prior.radius(found.z_ND).max() <= problem.region.largest * (1 + 1e-5)
        assert sum(found.history[-1].best_T) < sum(found.history[0].best_T)
    assert bests["jacobian"] < 0.3 * bests["random"]


def test_the_note_reaches_the_result():
    decoder = narrow()
    found = lo.optimize(
        decoder, objectives=lambda c: c.designs.sum(1), starts="mean", search=OptunaSearch(evaluations=20)
    )
    note = "searched 32 of 64 latent dimensions: the decoder's strongest directions (128 draws x 2 probes)"
    assert found.notes.count(note) == 1
    assert note not in decoder.notes
    assert found.cost.backward_rows == DRAWS * PROBES


class TestOptunaInASubspace(SearchConformance):
    config = OptunaSearch(evaluations=30, subspace="random", coordinates=3)
    rows_move_alone = False

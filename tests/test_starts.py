"""Starts: every kind of them, their shapes for one target and several, and screening against brute force."""

import pytest
import torch
from spaces import DIM, identity_decoder, image_decoder

import latentopt as lo
from latentopt import rng
from latentopt.called import CalledSampler
from latentopt.problem import Problem
from latentopt.starts import build_starts
from latentopt.terms import Term
from latentopt_std import NormalSampler, PriorSampler


def problem_of(decoder, targets=1, region=None):
    """Reach one of `targets` designs; the designs."""
    aim_T = decoder.decode(decoder.space.draw(targets, rng.generator(7)))

    def distance(c):
        return (c.designs - aim_T[c.target_index]).square().flatten(1).mean(1)

    resolved = None if region is None else region.resolve(decoder.space)
    return Problem(decoder, [Term("distance", distance)], region=resolved, targets=targets), aim_T


def build(starts, decoder=None, targets=1, region=None, seed=0, given=True):
    decoder = decoder or identity_decoder()
    problem, aim_T = problem_of(decoder, targets, region)
    z, target = build_starts(starts, problem, decoder, aim_T if given else None, seed)
    return z.reshape(targets, -1, decoder.dim), target, problem, aim_T


@pytest.mark.parametrize("targets", [1, 3])
def test_the_mean_is_the_priors(targets):
    z, target, *_ = build(["mean"], identity_decoder(lo.Normal(mean=(1.0, 2.0, 3.0, 4.0))), targets)
    assert z.tolist() == [[[1.0, 2.0, 3.0, 4.0]]] * targets
    assert target.tolist() == list(range(targets))


@pytest.mark.parametrize("targets", [1, 3])
def test_the_encoder_gives_each_target_its_own_code(targets):
    z, _, _, aim_T = build(["encoder"], targets=targets)
    assert torch.equal(z[:, 0], aim_T)


@pytest.mark.parametrize("shape", [(5, DIM), (3, 5, DIM), (DIM,)])
def test_given_latents_go_to_every_target_or_to_their_own(shape):
    given = torch.randn(shape, generator=rng.generator(1))
    z, *_ = build([lo.Array(given)], targets=3)
    expected = given if given.ndim == 3 else given.reshape(1, -1, DIM).expand(3, -1, -1)
    assert torch.equal(z, expected)


@pytest.mark.parametrize("shape", [(5, 2, 2), (3, 5, 2, 2), (2, 2), (5, 4), (3, 5, 4), (4,)])
def test_given_latents_of_higher_rank(shape):
    decoder = lo.Decoder(lambda z: z.flatten(1) * 1.0, (2, 2), prior="normal")
    given = torch.randn(shape, generator=rng.generator(1))
    z, *_ = build([lo.Array(given)], decoder, targets=3)
    own = given.numel() > 20
    assert torch.equal(z, given.reshape(3, 5, 4) if own else given.reshape(1, -1, 4).expand(3, -1, -1))


def test_given_whole_numbers_and_doubles_are_latents_too():
    for dtype in (torch.int64, torch.float64):
        z, *_ = build([lo.Array(torch.ones(2, DIM, dtype=dtype))])
        assert z.dtype == torch.float32
        assert z.tolist() == [[[1.0] * DIM] * 2]


def test_a_sampler_gives_its_first_n_to_every_target():
    z, *_ = build([PriorSampler(n=6)], targets=2)
    assert z.shape == (2, 6, DIM)
    assert torch.equal(z[0], z[1])
    more, *_ = build([PriorSampler(n=9)], targets=2)
    assert torch.equal(more[:, :6], z)


def test_samplers_of_one_list_draw_their_own_numbers_and_seeds_matter():
    z, *_ = build([PriorSampler(n=4), PriorSampler(n=4)])
    assert not torch.equal(z[0, :4], z[0, 4:])
    other, *_ = build([PriorSampler(n=4), PriorSampler(n=4)], seed=1)
    assert not torch.equal(z, other)
    again, *_ = build([PriorSampler(n=4), PriorSampler(n=4)])
    assert torch.equal(z, again)


def test_entries_follow_each_other_target_by_target():
    given = torch.full((2, DIM), 9.0)
    z, target, _, aim_T = build(["mean", "encoder", lo.Array(given), NormalSampler(n=3)], targets=2)
    assert z.shape == (2, 7, DIM)
    assert target.tolist() == [0] * 7 + [1] * 7
    for t in (0, 1):
        assert z[t, 0].tolist() == [0.0] * DIM
        assert torch.equal(z[t, 1], aim_T[t])
        assert torch.equal(z[t, 2:4], given)


@pytest.mark.parametrize("targets", [1, 3])
def test_screening_picks_the_best_for_each_target(targets):
    decoder = image_decoder()
    z, _, problem, _ = build([PriorSampler(n=4, screened_from=50)], decoder, targets)
    draws = decoder.space.draw(50, rng.generator(0, rng.STARTS, 0))
    for t in range(targets):
        loss = problem.value(draws, torch.full((50,), t)).merit_M
        assert torch.equal(z[t], draws[loss.argsort()[:4]])
    if targets > 1:
        assert not torch.equal(z[0], z[1])


def test_screening_decodes_every_draw_once():
    decoder = image_decoder(block_rows=16)
    problem, aim_T = problem_of(decoder, 3)
    before = decoder.rows.forward
    build_starts([PriorSampler(n=4, screened_from=50)], problem, decoder, aim_T, 0)
    assert decoder.rows.forward - before == 50
    assert decoder.rows.backward <= 4, "only the probe at the door took a gradient"


def test_starts_that_are_not_screened_are_not_decoded():
    decoder = image_decoder()
    problem, aim_T = problem_of(decoder)
    before = decoder.rows.forward
    build_starts(["mean", PriorSampler(n=4)], problem, decoder, aim_T, 0)
    assert decoder.rows.forward == before


def test_screening_puts_draws_whose_loss_is_nan_last():
    decoder = identity_decoder()

    def loss(c):
        return torch.where(c.latents[:, 0] > 0, torch.nan, c.latents[:, 1])

    problem = Problem(decoder, [Term("loss", loss)])
    z, _ = build_starts([PriorSampler(n=5, screened_from=60)], problem, decoder, None, 0)
    assert (z[:, 0] <= 0).all()
    assert torch.equal(z[:, 1], z[:, 1].sort().values)


def test_screening_judges_draws_where_they_will_start():
    """On the region, and not where they were drawn."""
    region = lo.Sphere(radius=0.1)
    z, _, problem, aim_T = build([PriorSampler(n=3, screened_from=40)], targets=2, region=region)
    draws = problem.project(problem.space.draw(40, rng.generator(0, rng.STARTS, 0)))
    for t in (0, 1):
        order = (draws - aim_T[t]).square().mean(1).argsort()
        torch.testing.assert_close(z[t], draws[order[:3]])


def test_every_start_is_moved_onto_the_region():
    far = lo.Array(torch.full((2, DIM), 100.0))
    z, *_ = build(["mean", "encoder", far, PriorSampler(n=5)], region=lo.Sphere(radius=1.5))
    assert z.norm(dim=2).flatten().tolist() == pytest.approx([1.5] * 9)


def test_latents_are_in_the_decoders_own_precision():
    decoder = lo.Decoder(lambda z: z * 1.0, DIM, prior="normal", dtype=torch.float64)
    z, *_ = build(["mean", lo.Array(torch.ones(2, DIM)), PriorSampler(n=3)], decoder)
    assert z.dtype == torch.float64


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (torch.zeros(5, 3), r"starts of shape \(5, 3\) do not fit 2 target\(s\) and latents of shape \(4,\): give"),
        (torch.zeros(3, 5, DIM), r"starts of shape \(3, 5, 4\) do not fit 2 target\(s\).*give \(n, 4\) or \(2, n, 4\)"),
        (torch.zeros(1, 2, 5, DIM), r"starts of shape \(1, 2, 5, 4\) do not fit"),
        (torch.tensor(1.0), r"starts of shape \(\) do not fit"),
        (torch.full((2, DIM), torch.inf), "starts contain NaN or infinite values: give finite latents"),
        (torch.zeros(0, DIM), r"starts of shape \(0, 4\) hold no latents: give at least one"),
        (torch.zeros(2, 0, DIM), r"starts of shape \(2, 0, 4\) hold no latents"),
    ],
)
def test_latents_that_do_not_fit(given, text):
    with pytest.raises(lo.ShapeError, match=text):
        build([lo.Array(given)], targets=2)


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (torch.zeros(3, DIM), r"returned a tensor of shape \(3, 4\), expected a tensor of shape \(8, 4\)"),
        (torch.zeros(8, 2, 2), r"returned a tensor of shape \(8, 2, 2\), expected"),
        ([[0.0] * DIM] * 8, "returned a list of 8, expected a tensor"),
        (None, "returned None, expected a tensor"),
    ],
)
def test_a_sampler_that_returns_something_else(returned, text):
    with pytest.raises(lo.ShapeError, match=f"sampler 'callable' {text}"):
        build([CalledSampler(function=lambda n, space, generator: returned)])


def test_the_encoder_needs_a_target():
    text = "starts 'encoder' encodes the target, and there is none: use 'mean' or a sampler"
    with pytest.raises(lo.ConfigError, match=text):
        build(["encoder"], given=False)


def test_the_encoder_needs_an_encoder():
    with pytest.raises(lo.DecoderError, match="decoder 'image' has no encoder: pass Decoder"):
        build(["encoder"], image_decoder())


def test_a_search_needs_starts():
    with pytest.raises(lo.ConfigError, match="a search needs starts: 'mean', 'encoder', a sampler, or latents"):
        build([])

"""Paths: ends that are the keys, even steps in design space, and the errors."""

import re

import pytest
import torch
from spaces import DIM, image_decoder

import latentopt as lo
from latentopt import rng
from latentopt.paths import path_points
from latentopt.testing import ToyImages
from latentopt_std import Lerp, Slerp, Spline

KINDS = [Lerp, Slerp, Spline]


def warped(block_rows=None):
    """A decoder that changes slowly for small z and fast for large: the design is (z, z^3)."""
    return lo.Decoder(lambda z: torch.cat([z, z**3], dim=1), 2, prior="normal", block_rows=block_rows, name="warped")


def path(decoder, kind, keys, steps=9, *, even=False):
    return path_points(decoder, kind().build(decoder), keys, steps, even=even)


def unevenness(decoder, z):
    """By how much the largest step between neighbouring designs exceeds the smallest."""
    designs = decoder.decode(z).flatten(1)
    lengths = (designs[1:] - designs[:-1]).norm(dim=1)
    return float(lengths.max() / lengths.min()) - 1


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [2, 3, 10])
def test_ends_are_the_keys_to_the_bit(kind, steps, even):
    keys = rng.randn(3, DIM, rng.generator(0))
    z, times = path(image_decoder(), kind, keys, steps, even=even)
    assert z.shape == (steps, DIM)
    assert torch.equal(z[[0, -1]], keys[[0, -1]])
    assert times[0] == 0
    assert times[-1] == 1
    assert (times[1:] > times[:-1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_even_steps_are_equally_long_in_design_space(kind):
    keys = torch.tensor([[0.1, 0.2], [2.0, 1.0]])
    plain, plain_times = path(warped(), kind, keys)
    even, times = path(warped(), kind, keys, even=True)
    assert unevenness(warped(), plain) > 0.3
    assert unevenness(warped(), even) < 0.05
    assert torch.equal(plain_times, torch.linspace(0, 1, 9))
    assert not torch.allclose(times, plain_times, atol=0.01)


def test_even_steps_lie_on_the_same_path():
    keys = torch.tensor([[0.1, 0.2], [2.0, 1.0]])
    z, times = path(warped(), Slerp, keys, even=True)
    assert torch.equal(z, Slerp().build(warped())(keys, times))


def test_even_steps_do_not_depend_on_the_block():
    keys = rng.randn(3, 2, rng.generator(0))
    whole, _ = path(warped(), Lerp, keys, even=True)
    blocks, _ = path(warped(block_rows=7), Lerp, keys, even=True)
    torch.testing.assert_close(whole, blocks)


def test_even_steps_keep_no_more_designs_than_a_block():
    seen = []

    def decode(z):
        seen.append(len(z))
        return z * 1.0

    decoder = lo.Decoder(decode, 2, prior="normal", block_rows=16)
    seen.clear()
    path(decoder, Lerp, torch.tensor([[0.0, 0.0], [1.0, 1.0]]), even=True)
    assert max(seen) <= 16
    assert sum(seen) == 8 * 32 + 1 + 4 * 9


def test_plain_steps_decode_nothing():
    decoder = warped()
    before = decoder.rows.forward
    path(decoder, Lerp, torch.ones(2, 2))
    assert decoder.rows.forward == before


def test_designs_that_are_all_one_are_evenly_spaced_anyhow():
    z, times = path(warped(), Lerp, torch.ones(3, 2), even=True)
    assert torch.equal(z, torch.ones(9, 2))
    assert torch.equal(times, torch.linspace(0, 1, 9))


def test_a_stretch_on_which_nothing_changes_is_passed_over():
    keys = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    z, times = path(warped(), Lerp, keys, even=True)
    assert torch.isfinite(z).all()
    assert unevenness(warped(), z) < 0.05
    assert (times[1:] >= 0.5).all()


def test_latents_of_rank_three_have_paths_too():
    decoder = lo.Decoder(ToyImages(12, (1, 8, 8)), (3, 2, 2), prior="normal")
    keys = torch.randn(2, 3, 2, 2, generator=rng.generator(0))
    for kind in ("lerp", "slerp", "spline"):
        found = lo.interpolate(decoder, keys=keys, steps=5, interpolator={"kind": kind, "even": True})
        assert found.latents.shape == (5, 3, 2, 2)
        assert torch.equal(found.latents[[0, -1]], keys)
        assert found.designs.shape == (5, 1, 8, 8)


@pytest.mark.parametrize("count", [0, 1])
def test_a_path_needs_two_keys(count):
    with pytest.raises(lo.ShapeError, match=f"a path needs at least 2 key latents, got {count}"):
        path(warped(), Lerp, torch.zeros(count, 2))


def test_an_interpolator_that_returns_something_else():
    for returned, got in [(torch.zeros(3, 2), r"a tensor of shape \(3, 2\)"), (None, "None"), ([1.0], "a list of 1")]:
        text = f"the interpolator returned {got}, expected a tensor of shape {re.escape('(9, 2)')}"
        with pytest.raises(lo.ShapeError, match=text):
            path_points(warped(), lambda keys, t, found=returned: found, torch.zeros(2, 2), 9, even=False)
        with pytest.raises(lo.ShapeError, match=r"expected a tensor of shape \(257, 2\)"):
            path_points(warped(), lambda keys, t, found=returned: found, torch.zeros(2, 2), 9, even=True)


def test_designs_that_are_nan_cannot_be_evenly_spaced():
    decoder = lo.Decoder(lambda z: (4 - z).sqrt(), 2, prior=lo.Uniform(), name="root")
    keys = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    assert torch.equal(path(decoder, Lerp, keys)[0][-1], keys[-1])
    with pytest.raises(lo.DecoderError, match="decoder 'root' gives NaN or infinite designs on this path.*even=False"):
        path(decoder, Lerp, keys, even=True)

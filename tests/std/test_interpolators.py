"""Interpolators: exact ends, the right geometry between them, and the pairs on which others fail."""

import math

import pytest
import torch
from scipy.interpolate import CubicSpline
from spaces import image_decoder

from latentopt import rng
from latentopt.testing import InterpolatorConformance
from latentopt_std import Lerp, Slerp, Spline

T = torch.linspace(0, 1, 33)
KINDS = [Lerp, Slerp, Spline]


class TestLerpConforms(InterpolatorConformance):
    config = Lerp()


class TestSlerpConforms(InterpolatorConformance):
    config = Slerp()


class TestSplineConforms(InterpolatorConformance):
    config = Spline(even=True)


def path(kind, keys, t=T):
    return kind().build(image_decoder())(keys, t)


def pair(dim, seed, scale=1.0):
    return rng.randn(2, dim, rng.generator(seed)) * torch.tensor([[1.0], [scale]])


def angles(points, origin):
    """Angles to the first key, from chords: exact near 0 and near pi."""
    u = points.double() / points.double().norm(dim=1, keepdim=True)
    v = origin.double() / origin.double().norm()
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))


# ---------------------------------------------------------------------- all of them


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_goes_through_every_key_in_the_keys_own_precision(kind, count, dtype):
    keys = rng.randn(count, 5, rng.generator(0)).to(dtype)
    found = path(kind, keys, torch.linspace(0, 1, 4 * (count - 1) + 1, dtype=dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found[::4], keys, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[[0, -1]], keys[[0, -1]])


@pytest.mark.parametrize("kind", KINDS)
def test_times_in_any_order_and_beyond_the_ends(kind):
    keys = rng.randn(3, 5, rng.generator(0))
    shuffled = torch.randperm(33, generator=rng.generator(1))
    torch.testing.assert_close(path(kind, keys, T[shuffled]), path(kind, keys)[shuffled])
    assert torch.equal(path(kind, keys, torch.tensor([-0.5, 1.5])), keys[[0, -1]])


@pytest.mark.parametrize("kind", KINDS)
def test_backwards_is_the_same_path(kind):
    keys = rng.randn(3, 5, rng.generator(0))
    torch.testing.assert_close(path(kind, keys.flip(0), 1 - T), path(kind, keys), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_keys_that_are_one_stay_where_they_are(kind):
    keys = rng.randn(1, 5, rng.generator(0)).expand(3, 5)
    torch.testing.assert_close(path(kind, keys), keys[:1].expand(33, 5))


# ---------------------------------------------------------------------- straight lines


def test_lerp_is_straight():
    a, b = pair(5, 0)
    torch.testing.assert_close(path(Lerp, torch.stack([a, b])), a + T[:, None] * (b - a), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- great circles


@pytest.mark.parametrize("scale", [1.0, 7.0, 1e-3])
@pytest.mark.parametrize("dim", [2, 3, 64])
def test_slerp_turns_uniformly_with_linear_norms(dim, scale):
    keys = pair(dim, 3, scale)
    found = path(Slerp, keys)
    norm = keys.norm(dim=1)
    torch.testing.assert_close(found.norm(dim=1), torch.lerp(norm[0], norm[1], T), rtol=1e-5, atol=1e-6)
    whole = angles(keys[1:], keys[0])
    torch.testing.assert_close(angles(found, keys[0]), whole * T.double(), rtol=1e-4, atol=1e-5)


def test_slerp_stays_in_the_plane_of_its_keys():
    keys = pair(8, 4)
    basis = torch.linalg.qr(keys.T.double()).Q
    found = path(Slerp, keys).double()
    assert (found - found @ basis @ basis.T).norm(dim=1).max() < 1e-6


def test_slerp_keeps_to_the_sphere_where_lerp_falls_inside():
    keys = torch.nn.functional.normalize(pair(64, 5), dim=1) * 8
    assert path(Slerp, keys).norm(dim=1).sub(8).abs().max() < 1e-5
    assert path(Lerp, keys).norm(dim=1).min() < 6.5


def test_slerp_of_a_right_angle_is_known():
    keys = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    half = path(Slerp, keys, torch.tensor([0.5]))
    assert half[0].tolist() == pytest.approx([math.sqrt(2)] * 2, rel=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1.5, 4.0])
def test_slerp_of_collinear_keys_is_the_line(factor):
    a = rng.randn(1, 6, rng.generator(0))
    found = path(Slerp, torch.cat([a, factor * a]))
    torch.testing.assert_close(found, a * (1 + (factor - 1) * T[:, None]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 3, 64])
@pytest.mark.parametrize("factor", [-1.0, -2.5])
def test_slerp_of_opposite_keys_turns_half_way_round(dim, factor):
    a = rng.randn(1, dim, rng.generator(0))
    keys = torch.cat([a, factor * a])
    found, norm = path(Slerp, keys), keys.norm(dim=1)
    assert torch.equal(found[[0, -1]], keys)
    torch.testing.assert_close(found.norm(dim=1), torch.lerp(norm[0], norm[1], T), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(angles(found, a[0]), math.pi * T.double(), rtol=1e-4, atol=1e-4)
    assert torch.equal(found, path(Slerp, keys)), "which way round must not be chance"


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_slerp_has_no_jump_near_collinear_and_opposite_keys(size, sign):
    a, other = pair(6, 0)
    fine = torch.linspace(0, 1, 501)
    found = path(Slerp, torch.stack([a, sign * a + size * other]), fine)
    assert torch.isfinite(found).all()
    length = float(a.norm()) * math.pi
    assert (found[1:] - found[:-1]).norm(dim=1).max() < 1.5 * length / 500


@pytest.mark.parametrize("at", [0, 1])
def test_slerp_from_or_to_zero_is_the_line(at):
    keys = torch.zeros(2, 5)
    keys[at] = rng.randn(1, 5, rng.generator(0))
    torch.testing.assert_close(path(Slerp, keys), path(Lerp, keys))


def test_slerp_in_one_dimension_passes_through_zero():
    found = path(Slerp, torch.tensor([[1.0], [-1.0]]))
    assert torch.isfinite(found).all()
    assert (found[1:] <= found[:-1]).all()


# ---------------------------------------------------------------------- splines


def test_spline_is_the_natural_cubic():
    keys = rng.randn(5, 3, rng.generator(0)).double()
    fine = torch.linspace(0, 1, 101).double()
    expected = CubicSpline([0, 0.25, 0.5, 0.75, 1], keys.numpy(), bc_type="natural")(fine.numpy())
    torch.testing.assert_close(path(Spline, keys, fine), torch.from_numpy(expected), rtol=1e-9, atol=1e-12)


def test_spline_has_no_corners_where_lines_have():
    keys = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]).double()
    fine = torch.linspace(0, 1, 2001).double()
    turn = [(path(k, keys, fine).diff(dim=0) * 2000).diff(dim=0).norm(dim=1).max() for k in (Lerp, Spline)]
    assert turn[0] > 3
    assert turn[1] < 0.05


def test_spline_bends_at_no_end():
    keys = rng.randn(4, 3, rng.generator(0)).double()
    fine = torch.linspace(0, 1, 1001).double()
    bend = (path(Spline, keys, fine).diff(dim=0) * 1000).diff(dim=0).norm(dim=1)
    assert bend[[0, -1]].max() < 0.02 * bend.max()


def test_spline_through_two_keys_is_the_line():
    keys = pair(5, 0)
    assert torch.equal(path(Spline, keys), path(Lerp, keys))


def test_spline_through_keys_on_a_line_stays_on_it():
    keys = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
    torch.testing.assert_close(path(Spline, keys), path(Lerp, keys), rtol=1e-5, atol=1e-5)

"""Centring and turning: the same material, in one place; eight symmetries of the square."""

import pytest
import torch

import latentopt as lo
from latentopt_materials.periodic import centred, peak, turned
from latentopt_materials.quality import interface_length, two_point
from latentopt_materials.structures import make_structures


def test_centring_undoes_any_shift():
    x = torch.cat([make_structures(family, 20, 7) for family in ("gaussian", "spinodal", "discs")])
    shifted = torch.stack([row.roll((5 * i, 11 * i), (1, 2)) for i, row in enumerate(x)])
    same = (centred(shifted) == centred(x)).flatten(1).all(1)
    assert same.float().mean() > 0.95  # laminates and equal discs have several highest places
    assert torch.allclose(two_point(centred(x)), two_point(x), atol=1e-5)
    rows, columns = peak(centred(x))
    assert ((rows - 32).abs() <= 1).all()
    assert ((columns - 32).abs() <= 1).all()


def test_the_middle_of_the_largest_white_place_is_centred():
    x = torch.zeros(1, 1, 64, 64)
    x[..., 60:, 10:16] = x[..., :8, 10:16] = 1  # 12 by 6, across the border: its middle lies at row 1.5, column 12.5
    found = centred(x)[0, 0].nonzero()
    assert found.min(0).values.tolist() in ([26, 29], [26, 30], [27, 29], [27, 30])
    assert len(found) == 72


def test_centring_leaves_gradients_and_devices_alone():
    x = make_structures("ring", 3, 0).requires_grad_()
    centred(x).square().sum().backward()
    assert torch.equal(x.grad, 2 * x.detach())


def test_turns_are_the_eight_symmetries_about_the_middle_pixel():
    x = centred(make_structures("gaussian", 4, 0))
    guises = [turned(x, which) for which in range(8)]
    assert torch.equal(guises[0], x)
    for i, one in enumerate(guises):
        assert torch.equal(one[..., 32, 32], x[..., 32, 32])
        assert torch.equal(interface_length(one), interface_length(x))
        for other in guises[:i]:
            assert not torch.equal(one, other)
    assert torch.equal(turned(turned(x, 2), 2), x)


def test_other_shapes_are_refused():
    with pytest.raises(lo.ShapeError, match=r"structures are \(N, 1, H, W\), got shape \(64, 64\)"):
        centred(torch.zeros(64, 64))

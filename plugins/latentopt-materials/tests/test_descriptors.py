"""Descriptors with gradients."""

import math

import pytest
import torch

import latentopt as lo
from latentopt.testing import ObjectiveConformance, ToyImages
from latentopt_materials import Change, Grey, InterfaceLength, LinealPath, ThinParts, TwoPoint, VolumeFraction
from latentopt_materials.designs import beyond_reach


def decoder(*grid):
    return lo.Decoder(ToyImages(4, (1, *grid)), latent_shape=(4,), prior="normal", name="cells")


def candidates(designs):
    return lo.Candidates(torch.zeros(len(designs), 4), designs, torch.zeros(len(designs), dtype=torch.long))


def value(config, designs):
    return config.build(decoder(*designs.shape[2:]))(candidates(designs))


class OnCells(ObjectiveConformance):
    def decoder(self):
        return decoder(16, 16)


class InSpace(ObjectiveConformance):
    def decoder(self):
        return decoder(4, 6, 5)


class TestVolumeFraction(OnCells):
    config = VolumeFraction()


class TestGrey(OnCells):
    config = Grey()


def test_grey_is_how_far_a_design_is_from_two_pure_phases():
    x = torch.tensor([0.0, 1.0, 0.5, 0.25]).view(1, 1, 2, 2)
    assert value(Grey(), x).item() == pytest.approx((0 + 0 + 1 + 0.75) / 4)
    assert value(Grey(threshold=0.4), x).item() == 0


class TestChange(OnCells):
    config = Change()


class TestChangeInSpace(InSpace):
    config = Change(threshold=0.5)


def test_change_is_the_share_of_the_cell_that_differs_from_the_rows_own_target():
    x = torch.tensor([0.0, 1.0, 0.5, 0.25]).view(1, 1, 2, 2)
    targets = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    objective = Change(target=targets).build(decoder(2, 2))
    assert objective.targets == 2
    rows = lo.Candidates(torch.zeros(3, 4), x.expand(3, -1, -1, -1), torch.tensor([1, 0, 1]))
    assert objective(rows).tolist() == pytest.approx([2.25 / 4, 1.75 / 4, 2.25 / 4])
    assert value(Change(target=targets[:1], threshold=0.4), x).item() == 0.5
    with pytest.raises(lo.ConfigError, match="'change' needs a target"):
        value(Change(), x)


class TestThresholdedVolumeFraction(OnCells):
    config = VolumeFraction(threshold=0.5)


class TestInterface(OnCells):
    config = InterfaceLength()


class TestInterfaceInSpace(InSpace):
    config = InterfaceLength()


class TestTwoPoint(OnCells):
    config = TwoPoint()


class TestTwoPointInSpace(InSpace):
    config = TwoPoint(reach=2)


class TestLinealPath(OnCells):
    config = LinealPath(reach=6)


class TestLinealPathInSpace(InSpace):
    config = LinealPath(reach=3, phase="black")


class TestThinParts(OnCells):
    config = ThinParts(diameter=3)


class TestThinPartsInSpace(InSpace):
    config = ThinParts(diameter=2, phase="white")


def pixels(*grid):
    lines = [torch.arange(n) for n in grid]
    return torch.meshgrid(*lines, indexing="ij")


def circle(n, radius):
    y, x = pixels(n, n)
    return ((x - n / 2) ** 2 + (y - n / 2) ** 2 < radius**2).float()[None, None]


def test_volume_fraction_is_the_mean_and_that_of_the_threshold():
    x = torch.tensor([0.0, 0.4, 0.6, 0.6]).view(1, 1, 2, 2)
    assert value(VolumeFraction(), x).item() == pytest.approx(0.4)
    assert value(VolumeFraction(threshold=0.5), x).item() == 0.5


# ---------------------------------------------------------------------- interface


def test_a_circles_interface_is_its_circumference():
    assert value(InterfaceLength(), circle(128, 40)).item() == pytest.approx(2 * math.pi * 40 / 128, rel=0.01)


@pytest.mark.parametrize("across", [(0, 1), (1, 0), (1, 1), (1, 2), (-1, 1), (3, 1)])
def test_straight_interfaces_are_right_to_2_percent_in_every_direction(across):
    y, x = pixels(128, 128)
    stripes = ((across[0] * y + across[1] * x) // 64 % 2 == 0).float()[None, None]
    expected = 2 * math.hypot(*across)  # two interfaces for each period of 128 pixels along an axis
    assert value(InterfaceLength(), stripes).item() == pytest.approx(expected, rel=0.02)


def test_a_balls_interface_is_its_surface():
    z, y, x = pixels(32, 32, 32)
    ball = ((x - 16) ** 2 + (y - 16) ** 2 + (z - 16) ** 2 < 10**2).float()[None, None]
    assert value(InterfaceLength(), ball).item() == pytest.approx(4 * math.pi * (10 / 32) ** 2, rel=0.04)


def test_a_soft_interface_counts_once_and_has_a_gradient():
    ramp = torch.tensor([0.0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]).repeat(12, 1)[None, None]
    sharp = (ramp > 0.6).float()
    ramp.requires_grad_(True)
    soft = value(InterfaceLength(), ramp)
    assert soft.item() == pytest.approx(value(InterfaceLength(), sharp).item(), rel=0.1)
    assert torch.autograd.grad(soft.sum(), ramp)[0].abs().sum() > 0


# ---------------------------------------------------------------------- two points


@pytest.mark.parametrize("grid", [(6, 8), (7, 5), (4, 3, 5)])
def test_two_point_correlations_are_those_of_the_definition(grid):
    x = torch.rand(1, 1, *grid, generator=torch.Generator().manual_seed(0))
    found = TwoPoint().statistics(x)[0]
    axes = tuple(range(len(grid)))
    lags = [range(0 if i == len(grid) - 1 else n // 2 + 1 - n, n // 2 + 1) for i, n in enumerate(grid)]
    expected = [(x[0, 0] * x[0, 0].roll([-int(r) for r in lag], axes)).mean() for lag in torch.cartesian_prod(
        *(torch.tensor(list(one)) for one in lags))]  # fmt: skip
    assert torch.allclose(found, torch.stack(expected), atol=1e-6)


def test_two_point_does_not_see_shifts_or_half_turns_but_sees_all_else():
    x = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    config = TwoPoint(target=x)
    assert value(config, x.roll((3, 5), (2, 3))).item() < 1e-10
    assert value(config, x.flip(2, 3)).item() < 1e-10
    assert value(config, x.roll(1, 3).lerp(x, 0.5)).item() > 1e-6
    assert value(config, x.mT).item() > 1e-7


def test_reach_leaves_far_lags_out():
    x = torch.rand(2, 1, 8, 8)
    assert TwoPoint(reach=2).statistics(x).shape == (2, 5 * 3)
    assert TwoPoint().statistics(x).shape == (2, 8 * 5)


# ---------------------------------------------------------------------- lineal path


def test_lineal_paths_of_stripes_are_known():
    """White stripes 4 wide of 8, across x: along x a path of r fits at 4 - r + 1 of 8 places, along y at 4 of 8."""
    x = torch.zeros(1, 1, 8, 8)
    x[..., :4] = 1
    found = LinealPath(reach=5, phase="white").statistics(x)[0]
    along_y, along_x = [0.5] * 5, [(4 - r + 1) / 8 for r in range(1, 5)] + [0.0]
    assert found.tolist() == pytest.approx([*along_y, *along_x])
    assert torch.allclose(LinealPath(reach=5, phase="black").statistics(x)[0], found)


def test_a_target_of_each_row_is_its_own():
    targets = torch.rand(2, 1, 8, 8)
    objective = TwoPoint(target=targets).build(decoder(8, 8))
    rows = lo.Candidates(torch.zeros(2, 4), targets, torch.arange(2))
    assert objective(rows).tolist() == pytest.approx([0.0, 0.0])
    assert (objective(rows._replace(target_index=torch.tensor([1, 0]))) > 1e-6).all()
    assert objective.targets == 2


# ---------------------------------------------------------------------- thin parts


def test_thin_parts_find_a_hair_and_spare_a_bar():
    hair, bar = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    hair[..., 5], bar[..., 5:10] = 1, 1
    config = ThinParts(diameter=3)
    assert value(config, hair).item() == pytest.approx(1 / 16)
    assert value(config, bar).item() == 0
    assert value(config, 1 - hair).item() == pytest.approx(1 / 16)  # a slit is a thin part of black
    assert value(ThinParts(diameter=3, phase="black"), hair).item() == 0
    wrapped = bar.roll(9, 3)  # across the border
    assert value(config, wrapped).item() == 0


def test_thin_parts_have_a_gradient_that_thickens_or_removes_them():
    x = torch.full((1, 1, 12, 12), 0.1)
    x[..., 5] = 0.9
    x.requires_grad_(True)
    found = value(ThinParts(diameter=3, phase="white"), x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert (gradient[..., 5] > 0).all()  # less of the hair is better
    assert (gradient[..., [4, 6]] <= 0).all()  # and so is more beside it
    assert gradient[..., [4, 6]].sum() + gradient[..., :4].sum() + gradient[..., 7:].sum() < 0


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("config", [TwoPoint(), LinealPath(reach=4)], ids=["two_point", "lineal_path"])
def test_a_target_is_needed(config):
    with pytest.raises(lo.ConfigError, match="needs a target: pass target= to the task or to the objective"):
        config.build(decoder(8, 8))


@pytest.mark.parametrize("config", [TwoPoint(reach=9), LinealPath(reach=9)], ids=["two_point", "lineal_path"])
def test_too_far_a_reach_is_refused(config):
    with pytest.raises(lo.ConfigError, match="reaches 9 pixels, this decoder's designs have 8 a side: choose less"):
        config.with_target(torch.zeros(1, 8, 8)).build(decoder(8, 8))


def test_too_wide_a_disc_is_refused():
    with pytest.raises(
        lo.ConfigError, match="has a disc of 9 pixels, this decoder's designs have 8 a side: choose less"
    ):
        ThinParts(diameter=9).build(decoder(8, 8))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (VolumeFraction(goal={"equals": 1.4}), "no structure has volume_fraction above 1, and 1.4 is asked for"),
        (VolumeFraction(goal={"at_most": -0.1}), "no structure has volume_fraction below 0, and -0.1 is asked for"),
        (Grey(goal={"at_least": 2}), "no structure has grey above 1, and 2 is asked for"),
        (InterfaceLength(goal={"at_most": -2}), "no structure has interface_length below 0, and -2 is asked for"),
        (ThinParts(goal={"between": [1.5, 2]}), "no structure has thin_parts above 1, and 1.5 is asked for"),
        (VolumeFraction(goal={"equals": 1}), ""),
        (VolumeFraction(goal={"at_most": 0}), ""),
        (InterfaceLength(goal={"equals": 90}), ""),
        (Grey(), ""),
    ],
    ids=repr,
)
def test_a_wish_that_no_structure_fulfils_is_told(config, said):
    assert config.build(decoder(8, 8)).notes == [said] * bool(said)


def test_a_wish_at_the_very_end_of_what_is_possible_is_no_wish_beyond_it():
    for number in (-2.0, 2.0):
        for bound in ("at_most", "at_least", "equals"):
            assert list(beyond_reach(lo.Bound(**{bound: number}), -2.0, 2.0, "is")) == []
    assert list(beyond_reach(lo.Bound(at_most=-2.1), -2.0, 2.0, "is")) == [
        "no structure is below -2, and -2.1 is asked for"
    ]

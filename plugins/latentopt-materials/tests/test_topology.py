"""Descriptors without gradients: percolation across borders, the smallest feature."""

import numpy as np
import pytest
import torch

import latentopt as lo
from latentopt.testing import ObjectiveConformance, ToyImages
from latentopt_materials import FeatureSize, Percolation
from latentopt_materials.topology import clusters


def decoder(*grid):
    return lo.Decoder(ToyImages(4, (1, *grid)), latent_shape=(4,), prior="normal", name="cells")


class TestPercolation(ObjectiveConformance):
    config = Percolation()

    def decoder(self):
        return decoder(16, 16)


class TestFeatureSize(ObjectiveConformance):
    config = FeatureSize(most=6)

    def decoder(self):
        return decoder(16, 16)


class TestFeatureSizeInSpace(ObjectiveConformance):
    config = FeatureSize(most=3)

    def decoder(self):
        return decoder(6, 5, 4)


def share(design, **options):
    x = torch.as_tensor(np.array(design, dtype=np.float32))[None, None]
    rows = lo.Candidates(torch.zeros(1, 4), x, torch.zeros(1, dtype=torch.long))
    return Percolation(**options).build(decoder(*x.shape[2:]))(rows).item()


# ---------------------------------------------------------------------- percolation


def picture(text):
    return [[cell == "#" for cell in line] for line in text.split()]


ALONG_X = picture("..... ##### ..... ..... .....")
GAP = picture("..... ####. ..... ..... .....")
DIAGONAL = picture("##... .##.. ..##. ...## #...#")  # steps down to the right, and across both borders
SHIFTED = picture("##... .#### ..... ..... .....")  # leaves on the right in row 1, comes in on the left in row 0
HELIX = picture("##.## .###. .....")  # rows 0 and 1 joined twice, wraps along x
LOOP = picture("##### #...# #.#.# #...# #####")  # whole borders
CORNER = picture("#.... ..... ..... ..... ....#")  # one piece in all four corners, goes nowhere
TWO = picture("##### ..... #.... ..... .....")


@pytest.mark.parametrize(
    ("design", "x", "y", "any_", "all_"),
    [
        (ALONG_X, 1, 0, 1, 0),
        (GAP, 0, 0, 0, 0),
        (DIAGONAL, 1, 1, 1, 1),
        (SHIFTED, 0, 0, 0, 0),
        (HELIX, 1, 0, 1, 0),
        (LOOP, 16 / 17, 16 / 17, 16 / 17, 16 / 17),
        (CORNER, 0, 0, 0, 0),
        (TWO, 5 / 6, 0, 5 / 6, 0),
        (np.zeros((5, 5)), 0, 0, 0, 0),
        (np.ones((5, 5)), 1, 1, 1, 1),
    ],
    ids=["along x", "a gap", "diagonal", "shifted", "helix", "loop", "corners", "two pieces", "none", "full"],
)
def test_what_percolates(design, x, y, any_, all_):
    found = [share(design, direction=d) for d in ("x", "y", "any", "all")]
    assert found == pytest.approx([x, y, any_, all_])


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (2, 3), (4, 4)])
@pytest.mark.parametrize("design", [ALONG_X, GAP, DIAGONAL, SHIFTED, LOOP, TWO])
def test_where_the_cells_border_lies_does_not_matter(design, shift):
    for direction in ("x", "y", "any", "all"):
        assert share(np.roll(design, shift, (0, 1)), direction=direction) == share(design, direction=direction)


def test_a_cluster_that_touches_both_sides_without_closing_does_not_percolate():
    """The mistake of labelling one cell: it spans from left to right, but its ends do not meet across the border."""
    assert share(SHIFTED, direction="x") == 0
    labels, wraps = clusters(np.array(SHIFTED))
    assert labels.max() == 1
    assert not wraps.any()


def test_a_path_that_closes_after_two_cells_percolates():
    """It leaves at row 1 and enters at row 3, leaves at row 3 and enters at row 1."""
    design = picture("..... ##... .#.#. ####. .#.## ...#.")
    twice = np.tile(design, (1, 2))
    assert share(design, direction="x") == share(twice, direction="x")


def test_copies_of_the_cell_agree_with_the_cell():
    random = np.random.default_rng(0)
    for _ in range(40):
        design = random.random((8, 8)) < 0.6
        for direction in ("x", "y", "any", "all"):
            once, tiled = share(design, direction=direction), share(np.tile(design, (3, 2)), direction=direction)
            assert once == pytest.approx(tiled, abs=1e-6)


def test_corners_and_phases():
    diagonal = np.eye(5)
    assert share(diagonal) == 0
    assert share(diagonal, corners=True) == 1
    assert share(1 - diagonal, phase="black", corners=True, direction="all") == 1
    assert share(1 - diagonal, phase="white") == 1


def test_in_space():
    x = np.zeros((4, 5, 6))
    x[:, 2, 2] = 1
    assert [share(x, direction=d) for d in "xyz"] == [0, 0, 1]
    x[2, 2, :] = 1
    assert [share(x, direction=d) for d in ("x", "y", "z", "all")] == [1, 0, 1, 0]


def test_the_threshold_tells_the_phases_apart():
    grey = np.where(ALONG_X, 0.4, 0.1)
    assert share(grey) == 0
    assert share(grey, threshold=0.3) == 1


def test_z_needs_a_volume():
    with pytest.raises(
        lo.ConfigError, match=r"direction 'z' needs designs \(1, D, H, W\), this decoder's are pictures"
    ):
        Percolation(direction="z").build(decoder(8, 8))


# ---------------------------------------------------------------------- smallest feature


def size(design, **options):
    x = torch.as_tensor(np.array(design, dtype=np.float32))[None, None]
    rows = lo.Candidates(torch.zeros(1, 4), x, torch.zeros(1, dtype=torch.long))
    return FeatureSize(**options).build(decoder(*x.shape[2:]))(rows).item()


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shift", [0, 5, 30])
def test_the_width_of_a_stripe(width, shift):
    x = np.zeros((32, 32))
    x[:, :width] = 1
    x = np.roll(x, shift, 1)
    assert size(x, phase="white") == width
    assert size(x.T) == width
    assert size(1 - x, phase="black") == width
    assert size(x, phase="black") == 16  # the rest is wider than `most`


@pytest.mark.parametrize("radius", [3, 5, 8])
def test_a_disc_measures_its_diameter_to_two_pixels(radius):
    y, x = np.mgrid[:40, :40]
    found = size((x - 20) ** 2 + (y - 20) ** 2 <= radius**2, phase="white", most=20)
    assert 2 * radius - 1 <= found <= 2 * radius + 1


def test_a_hair_on_a_square_is_its_smallest_feature():
    x = np.zeros((32, 32))
    x[4:12, 4:12] = 1
    assert size(x, phase="white") == 8
    x[8, 12:24] = 1
    assert size(x, phase="white") == 1


def test_an_empty_or_full_cell_has_no_feature():
    assert size(np.zeros((16, 16)), most=9) == 9
    assert size(np.ones((16, 16)), most=9) == 9


def test_nan_is_no_measure():
    x = torch.zeros(2, 1, 8, 8)
    x[1, 0, 0, 0] = torch.nan
    rows = lo.Candidates(torch.zeros(2, 4), x, torch.zeros(2, dtype=torch.long))
    for config in (FeatureSize(), Percolation()):
        found = config.build(decoder(8, 8))(rows)
        assert torch.isfinite(found[0])
        assert found[1].isnan()

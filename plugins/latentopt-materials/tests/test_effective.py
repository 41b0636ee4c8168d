"""Conductivity and stiffness as objectives."""

import pytest
import torch

import latentopt as lo
from latentopt.testing import ObjectiveConformance, ToyImages
from latentopt_materials import Conductivity, Stiffness


def decoder(*grid):
    return lo.Decoder(ToyImages(4, (1, *grid)), latent_shape=(4,), prior="normal", name="cells")


class OnCells(ObjectiveConformance):
    def decoder(self):
        return decoder(16, 16)


class InSpace(ObjectiveConformance):
    def decoder(self):
        return decoder(4, 6, 5)


class TestConductivity(OnCells):
    config = Conductivity(component="mean", phases=(1.0, 100.0))


class TestConductivityAlongX(OnCells):
    config = Conductivity(component="xx", exponent=3)


class TestAnisotropy(OnCells):
    config = Conductivity(component="anisotropy")


class TestAnisotropyInSpace(InSpace):
    config = Conductivity(component="anisotropy")


class TestThresholded(OnCells):
    config = Conductivity(threshold=0.5, precision="float64", tolerance=1e-8)


class TestBulk(OnCells):
    config = Stiffness()


class TestYoungInPlaneStress(OnCells):
    config = Stiffness(component="young", plane="stress", poisson=(0.2, 0.4))


class TestShearInSpace(InSpace):
    config = Stiffness(component="shear")


def candidates(designs):
    return lo.Candidates(torch.zeros(len(designs), 4), designs, torch.zeros(len(designs), dtype=torch.long))


def stripes(n=16, share=0.5):
    """Layers across x."""
    x = torch.zeros(1, 1, n, n)
    x[..., : int(share * n)] = 1
    return x


def value(config, designs):
    return config.build(decoder(*designs.shape[2:]))(candidates(designs))


@pytest.mark.parametrize(
    ("component", "expected"),
    [
        ("xx", 20 / 11),
        ("yy", 5.5),
        ("xy", 0.0),
        ("mean", (20 / 11 + 5.5) / 2),
        ("ratio", 20 / 11 / 5.5),
        ("anisotropy", 5.5 / (20 / 11)),
    ],
)
def test_components_of_a_laminate(component, expected):
    assert value(Conductivity(component=component), stripes()).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_x_is_along_rows_in_space_too():
    x = torch.zeros(1, 1, 4, 4, 8)
    x[..., :4] = 1
    found = [value(Conductivity(component=c), x).item() for c in ("xx", "yy", "zz")]
    assert found == pytest.approx([20 / 11, 5.5, 5.5], rel=1e-4)


@pytest.mark.parametrize(
    "component", ["bulk", "shear", "young", "young_x", "young_y", "xx", "yy", "xy", "poisson", "ratio"]
)
@pytest.mark.parametrize("plane", ["strain", "stress"])
def test_a_uniform_design_has_its_own_moduli(component, plane):
    e, nu = 3.0, 0.3
    g = e / (2 * (1 + nu))
    k = g / (1 - 2 * nu) if plane == "strain" else e / (2 * (1 - nu))
    young = 4 * k * g / (k + g)
    known = {"bulk": k, "shear": g, "xx": k + g, "yy": k + g, "xy": g, "ratio": 1.0, "poisson": (k - g) / (k + g)}
    config = Stiffness(component=component, young=(1.0, e), poisson=(0.1, nu), plane=plane)
    assert value(config, torch.ones(1, 1, 8, 8)).item() == pytest.approx(known.get(component, young), rel=1e-4)
    if plane == "stress" and component == "young":
        assert young == pytest.approx(e)


@pytest.mark.parametrize("component", ["bulk", "shear", "young", "young_x", "young_z", "xx", "yz", "poisson"])
def test_a_uniform_volume_has_its_own_moduli(component):
    e, nu = 3.0, 0.3
    k, g = e / (3 * (1 - 2 * nu)), e / (2 * (1 + nu))
    known = {"bulk": k, "shear": g, "xx": k + 4 * g / 3, "yz": g, "poisson": nu}
    config = Stiffness(component=component, young=(1.0, e), poisson=(0.1, nu))
    assert value(config, torch.ones(1, 1, 4, 4, 4)).item() == pytest.approx(known.get(component, e), rel=1e-4)


def test_the_gradient_of_anisotropy_is_finite_where_there_is_none():
    x = torch.full((1, 1, 16, 16), 0.5, requires_grad=True)
    found = value(Conductivity(component="anisotropy"), x)
    assert found.item() == pytest.approx(1, abs=1e-5)
    assert torch.isfinite(torch.autograd.grad(found.sum(), x)[0]).all()


def test_a_thresholded_design_is_one_of_pure_phases_and_has_no_gradient():
    grey = torch.where(stripes() > 0, 0.7, 0.3).requires_grad_(True)
    found = value(Conductivity(component="xx", threshold=0.5), grey)
    assert found.item() == pytest.approx(20 / 11, rel=1e-4)
    assert not found.requires_grad


def test_what_lies_outside_0_to_1_counts_as_pure():
    assert value(Conductivity(component="yy"), stripes() * 3 - 1).item() == pytest.approx(5.5, rel=1e-4)


def test_rows_that_are_not_solved_are_nan():
    hard = Conductivity(phases=(1.0, 1000.0), iterations=4)
    found = value(hard, torch.cat([torch.ones(1, 1, 16, 16), torch.rand(1, 1, 16, 16).round()]))
    assert found[0].item() == pytest.approx(1000.0)
    assert found[1].isnan()


def test_a_run_drops_rows_that_are_not_solved_and_says_so():
    hard = Conductivity(phases=(1.0, 1000.0), iterations=3)
    starts = {"kind": "normal", "n": 16}
    found = lo.optimize(decoder(16, 16), objectives=[hard], search={"kind": "adam", "steps": 3}, starts=starts, seed=0)
    assert torch.isfinite(found.losses).all()
    said = (
        "of 16 rows turned NaN or infinite in stage 1 (adam) and were dropped; a NaN of 'conductivity' means: not solved to "
        "a tolerance of 0.0001 within 3 iterations; raise iterations, or the tolerance, or bring the phases nearer"
    )
    assert any(note.endswith(said) for note in found.notes)
    words = r"for every draw from the prior: not solved to a tolerance of 0\.0001 within 1"
    with pytest.raises(lo.ObjectiveError, match=words):
        lo.optimize(decoder(16, 16), objectives=[hard.model_copy(update={"iterations": 1})], starts=starts, seed=0)


def test_a_search_reaches_a_conductivity():
    goal = Conductivity(component="yy", goal={"equals": 5.5})
    found = lo.optimize(decoder(16, 16), objectives=[goal], search={"kind": "lbfgs", "steps": 30}, seed=0)
    assert found.terms["conductivity"][0] == pytest.approx(5.5, abs=0.01)


def test_levenberg_marquardt_takes_it_too():
    goal = Conductivity(component="yy", goal={"equals": 5.5})
    found = lo.optimize(decoder(16, 16), objectives=[goal], search={"kind": "levenberg_marquardt", "steps": 10}, seed=0)
    assert found.terms["conductivity"][0] == pytest.approx(5.5, abs=0.01)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8), (1, 1, 8)])
def test_other_designs_are_refused(shape):
    other = lo.Decoder(ToyImages(4, shape), latent_shape=(4,), prior="normal")
    with pytest.raises(
        lo.ConfigError, match=r"'conductivity' reads designs of one channel, \(1, H, W\) or \(1, D, H, W\)"
    ):
        Conductivity().build(other)


def test_another_value_range_is_refused():
    other = lo.Decoder(ToyImages(4, (1, 8, 8)), latent_shape=(4,), prior="normal", value_range=(-1, 1))
    with pytest.raises(lo.ConfigError, match=r"this decoder's value_range is \(-1, 1\): map its designs to 0 to 1"):
        Conductivity().build(other)


@pytest.mark.parametrize("config", [Conductivity(component="zz"), Stiffness(component="zz")], ids=["heat", "stiffness"])
def test_depth_needs_a_volume(config):
    with pytest.raises(
        lo.ConfigError, match=r"component 'zz' needs designs \(1, D, H, W\), this decoder's are pictures"
    ):
        config.build(decoder(8, 8))


def test_float32_has_its_limit():
    with pytest.raises(ValueError, match=r"float32 reaches a tolerance of 1e-06, got 1e-09: set precision: float64"):
        Conductivity(tolerance=1e-9)
    Conductivity(tolerance=1e-9, precision="float64")


@pytest.mark.parametrize("shape", [(1, 16, 16), (16, 16), (1, 3, 16, 16), (0, 1, 16, 16)])
def test_designs_of_another_shape_are_refused(shape):
    with pytest.raises(lo.ShapeError, match=r"effective tensors are of designs \(N, 1, H, W\) or"):
        Conductivity().tensors(torch.zeros(shape))


def test_contrasts_beyond_what_is_solved_rightly_are_refused():
    with pytest.raises(
        lo.ConfigError, match=r"phases of a contrast of 1e\+05, float32 is right up to 10000: bring them nearer, or"
    ):
        Conductivity(phases=(1.0, 1e5)).build(decoder(16, 16))
    assert Conductivity(phases=(1.0, 1e5), precision="float64").build(decoder(16, 16))
    with pytest.raises(lo.ConfigError, match=r"float64 is right up to 1e\+08: bring them nearer$"):
        Conductivity(phases=(1.0, 1e9), precision="float64").build(decoder(16, 16))


def test_a_run_says_that_grey_pixels_count():
    given = {"search": {"kind": "adam", "steps": 2}, "starts": ["mean"]}
    notes = lo.optimize(decoder(16, 16), objectives=[Conductivity()], **given).notes
    assert any(note.startswith("'conductivity' judges designs as they are decoded, grey pixels too") for note in notes)
    cut = Conductivity(threshold=0.5)
    assert not any("grey" in note for note in cut.build(decoder(16, 16)).notes)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Conductivity(goal={"equals": 12}), "has a conductivity mean above 10, and 12 is asked for"),
        (Conductivity(component="yy", goal={"at_least": 12}), "has a conductivity yy above 10, and 12 is asked for"),
        (Conductivity(goal={"between": [0.1, 0.5]}), "has a conductivity mean below 1, and 0.5 is asked for"),
        (Conductivity(component="anisotropy", goal={"at_least": 3.1}), "conductivity anisotropy above 3.025, and 3.1"),
        (Stiffness(component="bulk", goal={"at_most": 0.1}), "has a stiffness bulk below"),
        (Conductivity(goal={"equals": 10}), ""),
        (Conductivity(goal={"at_most": 12}), ""),
        (Conductivity(goal={"between": [0.5, 12]}), ""),
        (Conductivity(component="anisotropy", goal={"at_least": 3.0}), ""),
        (Stiffness(component="poisson", goal={"equals": 12}), ""),
        (Conductivity(), ""),
    ],
    ids=repr,
)
def test_a_wish_that_no_structure_fulfils_is_told(config, said):
    notes = [one for one in config.build(decoder(8, 8)).notes if one.startswith("no structure of these phases")]
    assert len(notes) == bool(said)
    assert not said or said in notes[0]


def test_terms_of_other_phases_are_told_apart_and_equal_ones_refused():
    cut = Conductivity(threshold=0.5)
    found = lo.optimize(
        decoder(8, 8),
        objectives=[Conductivity(phases=(10.0, 1.0))],
        measures=[cut],
        starts=["mean"],
        search={"kind": "adam", "steps": 2},
    )
    said = [note for note in found.notes if note.startswith("values of kind 'conductivity' are for phases")]
    assert [note.partition("phases ")[2] for note in said] == ["10 (black) and 1 (white)", "1 (black) and 10 (white)"]
    stray = lo.Decoder(lambda z: 3 * z.view(-1, 1, 2, 2), latent_shape=(4,), prior="normal", name="stray")
    assert any("'conductivity' takes what lies below 0 for black" in note for note in cut.build(stray).notes)
    assert not any("takes what lies" in note for note in found.notes)
    (note,) = Stiffness(threshold=0.5).build(decoder(8, 8)).notes
    assert note.endswith("young 1 (black) and 10 (white), poisson 0.3 (black) and 0.3 (white), plane strain")
    with pytest.raises(lo.ConfigError, match="'conductivity' has two equal phases: no design differs"):
        Conductivity(phases=(2.0, 2.0)).build(decoder(8, 8))
    with pytest.raises(lo.ConfigError, match="'stiffness' has two equal phases"):
        Stiffness(young=(2.0, 2.0)).build(decoder(8, 8))

"""What the package knows of 44,000 designs is what its objectives compute, and what they say of it."""

import importlib.util
from pathlib import Path

import pytest
import torch

import latentopt as lo
from latentopt_materials import (
    Change,
    Conductivity,
    InterfaceLength,
    Microstructures,
    Percolation,
    Stiffness,
    ThinParts,
    TwoPoint,
    VolumeFraction,
    make_structures,
    periodic,
    structures,
)
from latentopt_materials.known import _SEED, DRAWS
from latentopt_materials.properties import (
    COLUMNS,
    SETS,
    are_known,
    pack,
    properties,
    structure,
    symmetric,
    unpack,
    upper,
)

SCRIPT = Path(__file__).parents[1] / "scripts" / "known_properties.py"
spec = importlib.util.spec_from_file_location("known_properties", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
TITLES = list(SETS.values())


@pytest.fixture(scope="module")
def decoder():
    return Microstructures().build()


@pytest.fixture(scope="module")
def sample(decoder):
    """Some known designs, made again, and their rows: draws, and training structures of three families."""
    z = decoder.space.draw(DRAWS, torch.Generator().manual_seed(_SEED))
    rows = {"draws": torch.arange(0, DRAWS, 997)}
    designs = {"draws": decoder.decode(z[rows["draws"]])}
    first = {family: make_structures(family, 8, 0) for family in ("gaussian", "ring", "ellipses")}
    designs["training"] = periodic.centred(torch.cat(list(first.values())))
    rows["training"] = torch.cat([4000 * structures.FAMILIES.index(family) + torch.arange(8) for family in first])
    return designs, rows


@pytest.mark.parametrize("which", list(SETS))
def test_a_sample_computed_again_is_what_is_stored(which, sample, decoder):
    designs, rows = sample
    again, stored = script.properties_of(designs[which], decoder), properties()[which]
    for name in COLUMNS:
        kept = stored[name][rows[which]]
        assert len(stored[name]) == {"draws": 20_000, "training": 24_000}[which]
        span = stored[name].amax(0) - stored[name].amin(0)
        assert ((again[name] - kept).abs() <= 1e-4 * span + 1e-4 * kept.abs()).all(), name


ASKED = [
    TwoPoint(target=structure()),
    Change(target=structure()),
    Conductivity(),
    Conductivity(component="anisotropy"),
    Conductivity(component="xy"),
    Conductivity(component="yy", threshold=0.5),
    *(Stiffness(component=one) for one in ("bulk", "shear", "young", "young_y", "ratio", "poisson", "yy")),
    VolumeFraction(),
    VolumeFraction(threshold=0.5),
    InterfaceLength(),
    ThinParts(),
    *(Percolation(direction=one) for one in ("x", "y", "any", "all")),
]


@pytest.mark.parametrize("config", ASKED, ids=repr)
def test_an_objective_knows_its_own_values(config, sample, decoder):
    designs, rows = sample
    for which, title in SETS.items():
        x = designs[which]
        reference = config.reference(x)
        own = config.build(decoder)(lo.Candidates(torch.zeros(len(x), 1), x, torch.zeros(len(x), dtype=torch.long)))
        axis, value = reference.known[title]
        span = float(value.max() - value.min())
        assert (value[rows[which]] - own).abs().max() < 3e-4 * span + 1e-3 * float(own.abs().min())
        assert (axis[rows[which]] - reference.of_N).abs().max() < 1e-3


@pytest.mark.parametrize(
    "config",
    [
        Conductivity(phases=(1, 100)),
        Conductivity(exponent=2),
        Conductivity(threshold=0.4),
        Stiffness(threshold=0.5),
        Stiffness(plane="stress"),
        Stiffness(poisson=(0.3, 0.2)),
    ],
    ids=repr,
)
def test_other_options_have_bounds_alone(config, sample):
    reference = config.reference(sample[0]["draws"])
    assert not reference.known
    assert reference.bounds


@pytest.mark.parametrize(
    "config",
    [
        VolumeFraction(threshold=0.4),
        InterfaceLength(threshold=0.5),
        Percolation(phase="black"),
        Percolation(corners=True),
        ThinParts(diameter=5),
        TwoPoint(target=structure(), reach=8),
        TwoPoint(target=structure().roll(1, 3)),
        TwoPoint(target=torch.zeros(1, 32, 32)),
        TwoPoint(target="no/such/file.png"),
        TwoPoint(),
        Change(target=structure(), threshold=0.5),
        Change(target=1 - structure()),
    ],
    ids=repr,
)
def test_other_descriptors_know_nothing(config, sample):
    assert config.reference(sample[0]["draws"]) is None


def test_designs_of_other_grids_are_compared_with_bounds_alone():
    x = torch.rand(2, 1, 32, 32)
    assert not are_known(x)
    assert not Conductivity().reference(x).known
    assert VolumeFraction().reference(x) is None


def test_known_structures_of_two_phases_keep_their_bounds():
    cut = Conductivity(threshold=0.5)
    reference = cut.reference(torch.rand(1, 1, 64, 64))
    lower, upper_bound = reference.bounds["Hashin-Shtrikman lower"], reference.bounds["Hashin-Shtrikman upper"]
    for title in TITLES:
        v, k = (one.double() for one in reference.known[title])
        at = (v * 100).clamp(0, 99.999)
        i, share = at.long(), at - at.long()
        low, high = (c[1].double()[i] * (1 - share) + c[1].double()[i + 1] * share for c in (lower, upper_bound))
        assert ((k > low - 2e-3) & (k < high + 2e-3)).all()  # curves are drawn through 101 points


def test_packing_keeps_what_was_packed():
    generator = torch.Generator().manual_seed(0)
    found = {
        which: {name: torch.rand(5, len(columns), generator=generator) for name, columns in COLUMNS.items()}
        for which in SETS
    }
    again = unpack(pack(found))
    for which in SETS:
        for name in COLUMNS:
            assert torch.allclose(again[which][name], found[which][name].double(), atol=1e-5)


def test_symmetric_tensors_come_back():
    for size in (2, 3):
        entries = torch.rand(4, size * (size + 1) // 2)
        assert torch.equal(upper(symmetric(entries)), entries)
        assert torch.equal(symmetric(entries), symmetric(entries).mT)

"""Bounds: what reaches them, and how they lie to each other."""

import pytest
import torch

import latentopt as lo
from latentopt_materials import Conductivity, Stiffness, bounds

F = torch.linspace(0, 1, 11, dtype=torch.float64)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("phases", [(1.0, 10.0), (10.0, 1.0)])
def test_bounds_of_conductivity_nest_and_end_at_the_phases(dim, phases):
    harmonic, arithmetic = bounds.means(F, phases)
    lower, upper = bounds.conductivity(F, phases, dim)
    assert (harmonic <= lower + 1e-12).all()
    assert (lower <= upper + 1e-12).all()
    assert (upper <= arithmetic + 1e-12).all()
    assert lower[[0, -1]].tolist() == pytest.approx(phases)
    assert upper[[0, -1]].tolist() == pytest.approx(phases)


def test_hashin_and_shtrikmans_conductivity_is_that_of_coated_spheres():
    """Their equation 3.21, as it stands in the paper."""
    k1, k2, f2 = 1.0, 10.0, 0.3
    lower = k1 + f2 / (1 / (k2 - k1) + (1 - f2) / (3 * k1))
    upper = k2 + (1 - f2) / (1 / (k1 - k2) + f2 / (3 * k2))
    found = bounds.conductivity(torch.tensor(0.3, dtype=torch.float64), (k1, k2), 3)
    assert [float(one) for one in found] == pytest.approx([lower, upper])


def test_hashin_and_shtrikmans_moduli_as_they_stand_in_the_paper():
    k, g, f = (2.0, 30.0), (1.0, 10.0), 0.3
    (k1, k2), (g1, g2) = k, g
    k_low = k1 + f / (1 / (k2 - k1) + 3 * (1 - f) / (3 * k1 + 4 * g1))
    g_low = g1 + f / (1 / (g2 - g1) + 6 * (k1 + 2 * g1) * (1 - f) / (5 * g1 * (3 * k1 + 4 * g1)))
    at = torch.tensor(f, dtype=torch.float64)
    assert float(bounds.bulk(at, k, g, 3)[0]) == pytest.approx(k_low)
    assert float(bounds.shear(at, k, g, 3)[0]) == pytest.approx(g_low)
    plane_k = k1 + f / (1 / (k2 - k1) + (1 - f) / (k1 + g1))
    plane_g = g1 + f / (1 / (g2 - g1) + (1 - f) * (k1 + 2 * g1) / (2 * g1 * (k1 + g1)))
    assert float(bounds.bulk(at, k, g, 2)[0]) == pytest.approx(plane_k)
    assert float(bounds.shear(at, k, g, 2)[0]) == pytest.approx(plane_g)


COMPONENTS = [
    *(Conductivity(component=c) for c in ("mean", "xx", "yy", "xy", "ratio", "anisotropy")),
    *(
        Stiffness(component=c)
        for c in ("bulk", "shear", "young", "young_x", "young_y", "xx", "yy", "xy", "ratio", "poisson")
    ),
]


@pytest.mark.parametrize("config", COMPONENTS, ids=lambda c: f"{c.kind} {c.component}")
def test_a_laminate_lies_on_its_curves_or_between_them(config):
    laminate = torch.zeros(1, 1, 16, 16)
    laminate[..., :6] = 1
    measure = config.measured(2)
    value = float(measure.number(config.tensors(laminate, measure.loads)))
    curves = [float(v) for v in config.curves(torch.tensor([6 / 16], dtype=torch.float64), 2).values()]
    if config.component in ("ratio", "poisson") and config.kind == "stiffness":
        assert curves == []
        return
    if config.component == "anisotropy":
        curves.append(1.0)
    assert min(curves) - 1e-3 <= value <= max(curves) + 1e-3


def test_curves_run_over_the_volume_fraction():
    found = Conductivity().bounds(2)
    assert set(found) == {"Wiener lower", "Wiener upper", "Hashin-Shtrikman lower", "Hashin-Shtrikman upper"}
    for axis, value in found.values():
        assert axis.shape == value.shape == (101,)
        assert value[[0, -1]].tolist() == pytest.approx([1.0, 10.0])


@pytest.mark.skipif("Reference" not in lo.__all__, reason="this latentopt has no references yet")
@pytest.mark.parametrize("config", [Conductivity(), Stiffness()], ids=["conductivity", "stiffness"])
def test_a_reference_has_the_designs_on_its_axis(config):
    found = config.reference(torch.full((3, 1, 8, 8), 0.25))
    assert found.axis == "volume fraction"
    assert found.of_N.tolist() == pytest.approx([0.25] * 3)
    assert len(found.bounds) == 4
    assert found.known == {}

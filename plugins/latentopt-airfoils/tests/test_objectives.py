import math

import pytest
import torch

import latentopt as lo
from latentopt import Candidates, ConfigError, Decoder, ShapeError
from latentopt.testing import ObjectiveConformance, ToyNet, toy_decoders
from latentopt_airfoils import Aero, AirfoilShape, DistanceToReal, nearest_real, real
from latentopt_airfoils.known import REAL, spacing
from latentopt_airfoils.outlines import metric, outline


class OnAirfoils(ObjectiveConformance):
    def decoder(self):
        return lo.load_decoder("airfoils")


class TestDrag(OnAirfoils):
    config = Aero(alpha=4)


class TestLiftToDrag(OnAirfoils):
    config = Aero(quantity="lift_to_drag", alpha=4, goal="maximize", reynolds=3e5)


class TestDragAtLift(OnAirfoils):
    config = Aero(lift=0.5, network="medium")


class TestAngleAtLift(OnAirfoils):
    config = Aero(quantity="alpha", lift=0.5)


class TestConfidence(OnAirfoils):
    config = Aero(quantity="confidence", alpha=4, goal={"at_least": 0.9})


class TestThickness(OnAirfoils):
    config = AirfoilShape()


class TestCamber(OnAirfoils):
    config = AirfoilShape(quantity="camber")


class TestDistanceToReal(OnAirfoils):
    config = DistanceToReal()


def naca(name):
    return real().numbers[[real().names.index(name)]].double()


def test_shapes_of_naca_sections_are_as_published():
    # Abbott and von Doenhoff 1959: thickness 12 %, area 0.685 t, nose radius 1.1019 t^2; camber 4 % for the 4412
    symmetric, cambered = naca("n0012"), naca("naca4412")
    measure = {name: AirfoilShape(quantity=name) for name in ("thickness", "camber", "area", "nose_radius")}
    assert float(measure["thickness"].of(symmetric)) == pytest.approx(0.12, abs=5e-4)
    assert float(measure["camber"].of(symmetric)) == pytest.approx(0, abs=2e-4)
    assert float(measure["area"].of(symmetric)) == pytest.approx(0.685 * 0.12, rel=0.01)
    radius = 1.1019 * 0.12**2  # the fit is of the whole outline, and less good at the nose
    assert float(measure["nose_radius"].of(symmetric)) == pytest.approx(radius, rel=0.08)
    assert float(measure["camber"].of(cambered)) == pytest.approx(0.04, abs=1e-3)


def test_the_thinnest_place_tells_crossing_surfaces():
    fine = naca("n0012")
    crossed = fine.clone()
    crossed[:, 11:16] = 0.4  # of the lower surface, behind its first third
    shape = AirfoilShape(quantity="thinnest")
    assert 0 < float(shape.of(fine)) < float(AirfoilShape().of(fine))
    assert float(shape.of(crossed)) < 0
    assert float(AirfoilShape(quantity="trailing_edge").of(fine)) == float(fine[0, 17])


@pytest.mark.parametrize(
    "config", [AirfoilShape(quantity=q) for q in ("thickness", "thinnest", "camber", "area", "nose_radius")]
)
def test_gradients_of_shapes_agree_with_finite_differences(config):
    numbers = real().numbers[::200].double()
    direction = torch.randn(numbers.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = numbers.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(config.of(x).sum(), x)
    expected = (config.of(numbers + 1e-7 * direction) - config.of(numbers - 1e-7 * direction)) / 2e-7
    assert torch.allclose((gradient * direction).sum(1), expected, rtol=1e-4, atol=1e-6)


def test_the_metric_is_the_root_mean_square_distance_of_outlines():
    a, b = real().numbers[5].double(), real().numbers[900].double()
    _, upper, lower = outline((a - b)[None])
    assert float((metric() @ (a - b)).norm()) == pytest.approx(float(torch.cat([upper, lower]).square().mean().sqrt()))


def test_real_airfoils_are_no_distance_from_themselves():
    found = nearest_real(real().numbers)
    assert float(found.distance.max()) < 1e-5
    assert found.names[7] == real().names[found.rows[7]]


def test_the_nearest_is_the_nearest_of_all():
    z = torch.randn(20, 8, generator=torch.Generator().manual_seed(3))
    designs = lo.load_decoder("airfoils").decode(z)
    root = metric().T
    every = torch.cdist(designs.double() @ root, real().numbers.double() @ root)
    assert torch.allclose(nearest_real(designs).distance.double(), every.amin(1), atol=1e-6)
    assert 0.0005 < float(spacing().median()) < 0.003


def test_one_term_solves_for_the_same_angle_as_the_other():
    decoder = lo.load_decoder("airfoils")
    z = torch.randn(6, 8, generator=torch.Generator().manual_seed(4))
    rows = Candidates(z, decoder.decode(z), torch.zeros(6, dtype=torch.long))
    drag, lift_to_drag = (Aero(quantity=q, lift=0.6).build(decoder)(rows) for q in ("drag", "lift_to_drag"))
    assert torch.allclose(0.6 / drag, lift_to_drag, rtol=1e-3)


def test_a_lift_out_of_reach_is_no_number():
    assert torch.isnan(Aero(lift=3.5).of(naca("n0012").float())).all()


# ---------------------------------------------------------------------- known designs


@pytest.mark.parametrize(
    "config",
    [
        Aero(quantity="lift_to_drag", alpha=4),
        Aero(lift=0.5),
        AirfoilShape(),
        AirfoilShape(quantity="camber"),
        DistanceToReal(),
    ],
)
def test_real_airfoils_are_the_known_designs(config):
    designs = real().numbers[:3]
    found = config.reference(designs)
    axis, values = found.known[REAL]
    assert found.names[REAL] == real().names
    assert len(axis) == len(values) == len(real().names)
    assert torch.allclose(found.of_N, axis[:3])
    if not isinstance(config, DistanceToReal):
        assert torch.allclose(config.of(designs), values[:3], atol=1e-6, equal_nan=True)
    assert found.axis.startswith("area" if config == AirfoilShape() else "largest thickness")


# ---------------------------------------------------------------------- what does not fit


def test_only_airfoils_are_judged():
    text = r"objective 'aero' judges airfoils of 18 CST numbers, decoder 'vector' gives designs of shape \(5,\): use"
    with pytest.raises(ConfigError, match=text):
        Aero(alpha=4).build(toy_decoders()["vector"])
    for config in (AirfoilShape(), DistanceToReal()):
        with pytest.raises(ConfigError, match=f"objective '{config.kind}' judges airfoils"):
            config.build(toy_decoders()["image"])
    with pytest.raises(ShapeError, match=r"airfoils of shape \(3, 5\), expected \(N, 18\) or \(18,\): give CST"):
        nearest_real(torch.zeros(3, 5))


def test_anyones_decoder_of_such_numbers_is_judged():
    decoder = Decoder(ToyNet(3, (18,)), latent_shape=(3,), prior="normal")
    z = torch.zeros(2, 3)
    value = AirfoilShape().build(decoder)(Candidates(z, decoder.decode(z), torch.zeros(2, dtype=torch.long)))
    assert value.shape == (2,)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "aero takes exactly one of alpha, in degrees, and lift, a coefficient, got"),
        ({"alpha": 3, "lift": 0.5}, "aero takes exactly one of alpha"),
        ({"quantity": "lift", "lift": 0.5}, "aero of quantity 'lift' is lift itself: give alpha instead"),
        ({"quantity": "alpha", "alpha": 3}, "aero of quantity 'alpha' is alpha itself: give lift instead"),
        ({"alpha": 3, "reynolds": 10}, "reynolds"),
        ({"alpha": math.nan}, "alpha"),
    ],
)
def test_questions_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Aero(**options)

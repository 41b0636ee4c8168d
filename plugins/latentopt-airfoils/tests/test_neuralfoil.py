import math

import pytest
import torch

from latentopt_airfoils import Flow, NeuralFoil, real
from latentopt_airfoils.neuralfoil import network

FLOWS = [(3.0, Flow()), (-4.0, Flow(2e5, 5.0, 0.3, 0.8)), (11.0, Flow(5e6, 9.0, 1.0, 0.5))]
FIGURES = {
    "CL": "lift",
    "CD": "drag",
    "CM": "moment",
    "analysis_confidence": "confidence",
    "Top_Xtr": "upper_transition",
    "Bot_Xtr": "lower_transition",
}

# neuralfoil 0.3.3, get_aero_from_kulfan_parameters of the table's n0012, alpha 5, Re 1e6, xlarge
RECORDED = {
    "lift": 0.55892725,
    "drag": 0.00850316,
    "moment": 0.001351117,
    "confidence": 0.965440566,
    "upper_transition": 0.139441388,
    "lower_transition": 1.0,
}


def some(count=16):
    return real().numbers[:: len(real().numbers) // count][:count].double()


@pytest.mark.parametrize("size", ["medium", "xlarge", "xxlarge"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_figures_equal_the_packages_own(size, dtype, near):
    theirs = pytest.importorskip("neuralfoil")
    numbers = real().numbers.double()
    arrays = numbers.numpy()
    shape = {
        "upper_weights": arrays[:, :8].T,
        "lower_weights": arrays[:, 8:16].T,
        "leading_edge_weight": arrays[:, 16],
        "TE_thickness": arrays[:, 17],
    }
    mine = NeuralFoil(size, dtype=dtype)
    for alpha, flow in FLOWS:
        expected = theirs.get_aero_from_kulfan_parameters(
            shape,
            alpha=alpha,
            Re=flow.reynolds,
            n_crit=flow.n_crit,
            xtr_upper=flow.trip_upper,
            xtr_lower=flow.trip_lower,
            model_size=size,
        )
        found = mine.at(numbers.to(dtype), alpha, flow)
        for theirs_name, name in FIGURES.items():
            away = (getattr(found, name).double() - torch.from_numpy(expected[theirs_name])).abs().max()
            assert away < near, f"{name} at {alpha}: {away}"


def test_figures_equal_recorded_ones_of_the_package():
    numbers = real().numbers[[real().names.index("n0012")]].double()
    found = NeuralFoil("xlarge", dtype=torch.float64).at(numbers, 5.0)
    for name, value in RECORDED.items():
        assert float(getattr(found, name)) == pytest.approx(value, abs=1e-7)


def test_an_airfoil_upside_down_lifts_the_other_way():
    numbers = some()
    turned = torch.cat([-numbers[:, 8:16], -numbers[:, :8], -numbers[:, 16:17], numbers[:, 17:]], dim=1)
    net = network("xlarge", dtype=torch.float64)
    upright, other = net.at(numbers, 4.0), net.at(turned, -4.0)
    assert torch.allclose(upright.lift, -other.lift)
    assert torch.allclose(upright.moment, -other.moment)
    assert torch.allclose(upright.drag, other.drag)
    assert torch.allclose(upright.upper_transition, other.lower_transition)


def test_confidence_falls_to_nothing_far_from_airfoils():
    net = network("xlarge", dtype=torch.float64)
    assert float(net.at(some() * 100, 4.0).confidence.max()) < 0.01
    assert float(net.at(some(), 4.0).confidence.median()) > 0.9


@pytest.mark.parametrize("lift", [0.0, 0.5, 1.0])
def test_the_angle_for_a_lift_gives_that_lift(lift):
    numbers = real().numbers
    net = network("xlarge")
    alpha = net.alpha_for(numbers, lift)
    found = net.at(numbers, alpha).lift
    reached = torch.isfinite(alpha)
    assert reached.float().mean() > 0.95
    assert float((found[reached] - lift).abs().max()) < 1.1e-4
    assert torch.isnan(found[~reached]).all()


def test_a_lift_out_of_reach_has_no_angle():
    assert torch.isnan(network("xlarge").alpha_for(some().float(), 3.5)).all()


def test_the_slope_of_lift_is_its_derivative():
    net, numbers = network("xlarge", dtype=torch.float64), some()
    alpha = torch.linspace(-5, 12, len(numbers), dtype=torch.float64)
    _, slope = net._lift_and_slope(numbers, alpha, Flow())
    step = 1e-5
    above, below = (net.at(numbers, alpha + sign * step).lift for sign in (1, -1))
    assert torch.allclose(slope, (above - below) / (2 * step), atol=1e-8)


def finite_difference(function, numbers, direction, step=1e-4):
    """Of fourth order: drag bends sharply."""
    near, far = (function(numbers + k * step * direction) - function(numbers - k * step * direction) for k in (1, 2))
    return (8 * near - far) / (12 * step)


def small_direction(numbers, seed):
    noise = torch.randn(numbers.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise * real().numbers.double().std(0)


def easy(count=16):
    """Airfoils for which the angle of a lift of 0.7 is found to the last digit."""
    numbers = some(2 * count)
    net = network("medium", dtype=torch.float64)
    exact = (net.at(numbers, net.alpha_for(numbers, 0.7)).lift - 0.7).abs() < 1e-12
    assert int(exact.sum()) >= count
    return numbers[exact][:count]


@pytest.mark.parametrize("name", ["lift", "drag", "moment", "confidence"])
@pytest.mark.parametrize("lift", [None, 0.7])
def test_gradients_agree_with_finite_differences(name, lift):
    net, numbers = network("medium", dtype=torch.float64), easy()
    direction = small_direction(numbers, 0)

    def value(x):
        alpha = 3.0 if lift is None else net.alpha_for(x, lift)
        return getattr(net.at(x, alpha), name)

    x = numbers.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(x).sum(), x)
    along = (gradient * direction).sum(1)
    expected = finite_difference(value, numbers, direction)
    if name == "lift" and lift is not None:
        assert float(along.abs().max()) < 1e-6  # it is held
    else:
        assert torch.isfinite(expected).all()
        assert torch.allclose(along, expected, rtol=1e-5, atol=1e-8)


def test_the_angles_gradient_agrees_with_finite_differences():
    net, numbers = network("medium", dtype=torch.float64), easy()
    direction = small_direction(numbers, 1)
    x = numbers.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(net.alpha_for(x, 0.7).sum(), x)
    expected = finite_difference(lambda y: net.alpha_for(y, 0.7), numbers, direction)
    assert torch.allclose((gradient * direction).sum(1), expected, rtol=1e-5, atol=1e-8)


def test_the_answer_that_is_kept_is_of_that_tensor_and_that_question_alone():
    net, numbers = NeuralFoil("medium"), some().float()
    first = net.alpha_for(numbers, 0.5)
    assert net.alpha_for(numbers, 0.5) is first
    assert not torch.allclose(net.alpha_for(numbers, 0.6), first)
    numbers[:, :8] *= 1.1
    assert not torch.allclose(net.alpha_for(numbers, 0.5), first)
    assert not torch.allclose(net.alpha_for(numbers.flip(0), 0.5), net.alpha_for(numbers, 0.5))


def test_inputs_are_those_that_the_network_was_trained_on():
    x = NeuralFoil.inputs(some(1), torch.tensor([30.0], dtype=torch.float64), Flow(math.exp(12.5), 13.5, 0.25, 0.75))
    assert x[0, 18:].tolist() == pytest.approx([math.sin(math.pi / 3), math.cos(math.pi / 6), 0.25, 0, 1, 0.25, 0.75])

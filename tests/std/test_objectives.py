"""The objectives that compare values: each against an independent formula, under masks, and every error's text."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch.nn import functional

import latentopt as lo
from latentopt.testing import ObjectiveConformance, ToyImages, ToyNet, toy_decoders
from latentopt_std import BCE, MAE, MSE, CrossEntropy, Huber


def candidates(decoder, n=6, targets=2, seed=3):
    z = decoder.space.draw(n, torch.Generator().manual_seed(seed))
    return lo.Candidates(z, decoder.decode(z), torch.arange(n) % targets)


def draws(decoder, n, seed=7):
    return decoder.decode(decoder.space.draw(n, torch.Generator().manual_seed(seed)))


class TestMSEConforms(ObjectiveConformance):
    config = MSE()


class TestMaskedMSEConforms(ObjectiveConformance):
    config = MSE(mask=[[1.0] * 8] * 3 + [[0.5] * 8] + [[0.0] * 8] * 4)


class TestMSEOfWaveformsConforms(ObjectiveConformance):
    config = MSE()

    def decoder(self):
        return toy_decoders()["waveform"]


class TestMAEConforms(ObjectiveConformance):
    config = MAE()


class TestHuberConforms(ObjectiveConformance):
    config = Huber(delta=0.05)


class TestHuberOfVectorsConforms(ObjectiveConformance):
    config = Huber()

    def decoder(self):
        return toy_decoders()["vector"]


class TestBCEConforms(ObjectiveConformance):
    config = BCE()


class TestCrossEntropyConforms(ObjectiveConformance):
    config = CrossEntropy()

    def decoder(self):
        return toy_decoders()["tokens"]


class TestCrossEntropyOfOneChoiceConforms(ObjectiveConformance):
    config = CrossEntropy()

    def decoder(self):
        return toy_decoders()["vector"]


# ---------------------------------------------------------------------- values


REFERENCES = {
    "mse": (MSE(), lambda x, y: sklearn.metrics.mean_squared_error(x, y)),
    "mae": (MAE(), lambda x, y: sklearn.metrics.mean_absolute_error(x, y)),
    "huber": (
        Huber(delta=0.2),
        lambda x, y: np.where(abs(x - y) < 0.2, (x - y) ** 2 / 2, 0.2 * (abs(x - y) - 0.1)).mean(),
    ),
}


@pytest.mark.parametrize("kind", ["image", "waveform", "vector", "tokens", "volume"])
@pytest.mark.parametrize("name", REFERENCES)
def test_values_are_those_of_an_independent_formula_on_every_kind_of_design(name, kind):
    config, reference = REFERENCES[name]
    decoder = toy_decoders()[kind]
    rows, target = candidates(decoder), draws(decoder, 2)
    found = config.with_target(target).build(decoder)(rows)
    x, y = rows.designs.flatten(1).double().numpy(), target.flatten(1).double().numpy()
    expected = [reference(x[i], y[i % 2]) for i in range(6)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_binary_cross_entropy_is_the_log_loss():
    decoder = toy_decoders()["image"]
    rows, target = candidates(decoder, targets=1), (draws(decoder, 1) > 0.5).float()
    found = BCE(target=target).build(decoder)(rows)
    y = target.flatten().numpy()
    expected = [sklearn.metrics.log_loss(y, x.flatten().double().numpy()) for x in rows.designs]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_binary_cross_entropy_takes_soft_targets_and_the_decoders_range():
    net = ToyImages(4, (1, 8, 8))
    decoder = lo.Decoder(lambda z: 2 * net(z) - 1, 4, prior="normal", value_range=(-1, 1))
    plain = toy_decoders()["image"]
    rows, target = candidates(plain), draws(plain, 2)
    expected = functional.binary_cross_entropy(rows.designs, target[rows.target_index], reduction="none")
    shifted = lo.Candidates(rows.latents, 2 * rows.designs - 1, rows.target_index)
    found = BCE(target=2 * target - 1).build(decoder)(shifted)
    assert torch.allclose(found, expected.flatten(1).mean(1), rtol=1e-4)


def test_binary_cross_entropy_is_finite_where_designs_saturate():
    decoder = toy_decoders()["image"]
    designs = torch.zeros(2, 1, 8, 8)
    designs[1] = 1
    designs.requires_grad_(True)
    rows = lo.Candidates(torch.zeros(2, 4), designs, torch.zeros(2, dtype=torch.long))
    found = BCE(target=torch.ones(1, 8, 8)).build(decoder)(rows)
    assert found.tolist() == pytest.approx([-np.log(1e-6), 1e-6], rel=0.1)
    assert torch.isfinite(torch.autograd.grad(found.sum(), designs)[0]).all()


@pytest.mark.parametrize("form", ["numbers", "one-hot", "whole one-hot", "probabilities", "logits"])
def test_cross_entropy_reads_every_form_of_target(form):
    decoder = toy_decoders()["tokens"]
    rows = candidates(decoder)
    logits = draws(decoder, 2) * 3
    numbers = logits.argmax(-1)
    one_hot = functional.one_hot(numbers, 11)
    target, goal = {
        "numbers": (numbers, numbers),
        "one-hot": (one_hot.float(), numbers),
        "whole one-hot": (one_hot, numbers),
        "probabilities": (logits.softmax(-1), logits.softmax(-1).movedim(-1, 1)),
        "logits": (logits, logits.softmax(-1).movedim(-1, 1)),
    }[form]
    found = CrossEntropy(target=target).build(decoder)(rows)
    expected = functional.cross_entropy(rows.designs.movedim(-1, 1), goal[rows.target_index], reduction="none").mean(1)
    assert torch.allclose(found, expected, rtol=1e-5)


def test_cross_entropy_of_one_choice_takes_one_number():
    decoder = toy_decoders()["vector"]
    rows = candidates(decoder, targets=1)
    expected = functional.cross_entropy(rows.designs, torch.full((6,), 3), reduction="none")
    for target in (3, [3]):
        assert torch.allclose(CrossEntropy(target=target).build(decoder)(rows), expected, rtol=1e-5)


def test_a_mask_of_positions_weighs_the_cross_entropy():
    decoder = toy_decoders()["tokens"]
    rows = candidates(decoder, targets=1)
    mask = torch.tensor([2.0, 0, 0, 1, 0, 0, 0])
    numbers = torch.tensor([1, 99, 2, 3, 4, 5, -1])  # what the mask leaves out need not be a class
    found = CrossEntropy(target=numbers, mask=mask).build(decoder)(rows)
    each = functional.cross_entropy(rows.designs.movedim(-1, 1), numbers.clamp(0, 10).expand(6, 7), reduction="none")
    assert torch.allclose(found, (2 * each[:, 0] + each[:, 3]) / 3, rtol=1e-5)
    distributions = torch.full((7, 11), -5.0)
    distributions[[0, 3]] = torch.eye(11)[[1, 3]]
    assert torch.allclose(CrossEntropy(target=distributions, mask=mask).build(decoder)(rows), found, rtol=1e-5)


@pytest.mark.parametrize("config", [MSE(), MAE(), Huber(), BCE()], ids=lambda c: c.kind)
@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8)])
def test_a_mask_gives_the_weighted_mean_and_hides_the_rest(config, shape):
    decoder = toy_decoders()["image"]
    rows, target = candidates(decoder), draws(decoder, 2)
    mask = torch.zeros(shape)
    mask[..., :3, :4] = 2.0
    mask[..., 3, :4] = 1.0
    holed = torch.where(mask.expand(1, 8, 8) > 0, target, 77.0)
    found = type(config)(target=holed, mask=mask).build(decoder)(rows)
    whole = config.with_target(target).build(decoder)
    full = whole.error(rows.designs, whole.target_T[rows.target_index])
    expected = (2 * full[..., :3, :4].sum((1, 2, 3)) + full[..., 3, :4].sum((1, 2))) / (2 * 12 + 4)
    assert torch.allclose(found, expected, rtol=1e-5)


def test_a_mask_of_ones_changes_nothing_and_one_serves_every_channel():
    decoder = lo.Decoder(ToyNet(4, (3, 6, 5)), 4, prior="normal")
    rows, target = candidates(decoder), draws(decoder, 2)
    plain = MSE(target=target).build(decoder)(rows)
    assert torch.allclose(MSE(target=target, mask=torch.ones(6, 5, dtype=torch.bool)).build(decoder)(rows), plain)
    half = torch.zeros(1, 6, 5)
    half[:, :2] = 1
    expected = (rows.designs - target[rows.target_index])[:, :, :2].square().mean((1, 2, 3))
    assert torch.allclose(MSE(target=target, mask=half).build(decoder)(rows), expected, rtol=1e-5)


@pytest.mark.parametrize("config", [MSE(), MAE(), Huber(), BCE()], ids=lambda c: c.kind)
def test_one_target_serves_rows_of_every_index(config):
    decoder = toy_decoders()["image"]
    rows, target = candidates(decoder, targets=3), draws(decoder, 1)
    objective = config.with_target(target).build(decoder)
    alone = objective(rows._replace(target_index=torch.zeros(6, dtype=torch.long)))
    assert torch.equal(objective(rows), alone)


@pytest.mark.parametrize("config", [MSE(), MAE(), Huber(), CrossEntropy()], ids=lambda c: c.kind)
def test_numpy_decoders_of_double_precision_are_served(config):
    weight = np.linspace(-1, 1, 15).reshape(3, 5)
    decoder = lo.Decoder(lambda z: torch.from_numpy(z.detach().numpy().astype(float) @ weight), 3, prior="normal")
    found = config.with_target(torch.zeros(5)).build(decoder)(candidates(decoder))
    assert found.shape == (6,)
    assert torch.isfinite(found).all()


# ---------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("kind", "objective"),
    [("image", "mse"), ("image", "mae"), ("waveform", "huber"), ("image", "bce"), ("tokens", "cross_entropy")],
)
def test_a_search_reaches_two_targets(kind, objective):
    decoder = toy_decoders()[kind]
    target = draws(decoder, 2)
    options = {"target": target, "objectives": [objective], "seed": 0}
    search = [{"kind": "adam", "steps": 60}]
    first = lo.optimize(decoder, **options, search=[{"kind": "adam", "steps": 1}])
    found = lo.optimize(decoder, **options, search=search)
    for t in range(2):
        before, after = (r.losses[r.target_index == t].amin() for r in (first, found))
        assert after < before
        best = found.designs[found.target_index == t][0]
        other = (best - target[1 - t]).abs().mean()
        assert (best - target[t]).abs().mean() < 0.5 * other


@pytest.mark.parametrize(
    "goal",
    ["minimize", "maximize", {"equals": 0.05}, {"at_most": 0.02}, {"at_least": 0.06}, {"between": [0.05, 0.06]}],
    ids=str,
)
def test_every_goal_is_met(goal):
    decoder = toy_decoders()["image"]
    target = draws(decoder, 1)
    found = lo.optimize(
        decoder, target=target, objectives=[{"kind": "mse", "goal": goal}], search=[{"kind": "adam", "steps": 80}]
    )
    value = float(found.terms["mse"][0])
    start = float(MSE(target=target).build(decoder)(candidates(decoder, targets=1)).median())
    low, high = {
        "minimize": (0, 1e-4),
        "maximize": (start, 1),
        "{'equals': 0.05}": (0.045, 0.055),
        "{'at_most': 0.02}": (0, 0.0201),
        "{'at_least': 0.06}": (0.0599, 1),
        "{'between': [0.05, 0.06]}": (0.0499, 0.0601),
    }[str(goal)]
    assert low <= value <= high


def test_an_objective_and_a_constraint_share_the_tasks_target():
    decoder = toy_decoders()["image"]
    found = lo.optimize(
        decoder,
        target=draws(decoder, 1),
        objectives=["mae"],
        constraints=[{"kind": "mse", "goal": {"at_least": 0.01}}],
        search=[{"kind": "adam", "steps": 100}],
    )
    assert found.terms["mse"][0] >= 0.01 - 1e-6
    assert found.violations[0] == 0


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("kind", ["mse", "mae", "huber", "bce", "cross_entropy", "ssim", "ms_ssim", "perceptual"])
def test_a_missing_target_is_asked_for(kind):
    decoder = toy_decoders()["tokens" if kind == "cross_entropy" else "image"]
    options = {"ssim": {"window_size": 3}, "ms_ssim": {"window_size": 3, "scales": 1}}.get(kind, {})
    with pytest.raises(lo.ConfigError, match=rf"objective '{kind}' needs a target: pass target= to the task or to the"):
        lo.optimize(decoder, objectives=[{"kind": kind, **options}])


def test_a_target_that_does_not_fit_is_refused_by_name():
    with pytest.raises(lo.ShapeError, match="mae target"):
        MAE(target=torch.zeros(5, 5)).build(toy_decoders()["image"])


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        (
            torch.ones(8),
            lo.ShapeError,
            r"the mask of 'mse' has shape \(8,\), expected \(1, 8, 8\) or \(8, 8\): it is never",
        ),
        (torch.ones(3, 8, 8), lo.ShapeError, r"shape \(3, 8, 8\), expected \(1, 8, 8\)"),
        (torch.zeros(8, 8), lo.ConfigError, "the mask of 'mse' is 0 everywhere, so nothing would be compared: use 1"),
        (
            torch.full((8, 8), torch.nan),
            lo.ConfigError,
            "finite weights of at least 0, got a smallest value of nan: use 0",
        ),
        (torch.full((8, 8), -0.5), lo.ConfigError, "finite weights of at least 0, got a smallest value of -0.5: use 0"),
    ],
    ids=["line", "channels", "zero", "nan", "negative"],
)
def test_a_bad_mask_is_refused(mask, error, text):
    with pytest.raises(error, match=text):
        MSE(target=torch.zeros(1, 8, 8), mask=mask).build(toy_decoders()["image"])


def test_a_mask_of_a_vector_has_its_own_shape_alone():
    with pytest.raises(
        lo.ShapeError, match=r"the mask of 'mse' has shape \(1,\), expected \(5,\): it is never broadcast"
    ):
        MSE(target=torch.zeros(5), mask=[1.0]).build(toy_decoders()["vector"])
    with pytest.raises(lo.ShapeError, match=r"the mask of 'cross_entropy' has shape \(7, 11\), expected \(7,\)"):
        CrossEntropy(target=torch.zeros(7, 11), mask=torch.ones(7, 11)).build(toy_decoders()["tokens"])


def test_binary_cross_entropy_refuses_what_are_no_probabilities():
    with pytest.raises(lo.ConfigError, match="the bce target must lie in 0 to 1, got 0 to 2: scale it, or use 'mse'"):
        BCE(target=2 * torch.eye(8)[None]).build(toy_decoders()["image"])
    with pytest.raises(
        lo.ConfigError, match="'bce' reads designs as probabilities, this decoder gives .* use 'mse', or set"
    ):
        BCE(target=torch.zeros(5)).build(toy_decoders()["vector"])


def test_binary_cross_entropy_ignores_the_range_of_what_a_mask_hides():
    target = torch.zeros(1, 8, 8)
    target[0, 0] = 255.0
    decoder = toy_decoders()["image"]
    found = BCE(target=target, mask=target == 0).build(decoder)(candidates(decoder))
    assert torch.isfinite(found).all()


def test_cross_entropy_refuses_numbers_that_are_no_classes():
    decoder = toy_decoders()["tokens"]
    with pytest.raises(lo.ConfigError, match="class numbers must be 0 to 10, got 0 to 11: this decoder has 11 classes"):
        CrossEntropy(target=[0, 1, 2, 3, 4, 5, 11]).build(decoder)
    with pytest.raises(lo.ConfigError, match="got -1 to 6"):
        CrossEntropy(target=[[0, 1, 2, 3, 4, 5, -1], [6] * 7]).build(decoder)
    with pytest.raises(
        lo.ShapeError,
        match=r"shape \(3,\), expected class numbers \(7,\) or \(T, 7\), or probabilities or logits \(7, 11\)",
    ):
        CrossEntropy(target=[1, 2, 3]).build(decoder)
    with pytest.raises(lo.ShapeError, match=r"shape \(2, 2\), expected class numbers \(\) or \(T, \), or"):
        CrossEntropy(target=[[1, 2], [3, 4]]).build(toy_decoders()["vector"])
    with pytest.raises(lo.ShapeError, match="cross_entropy target"):
        CrossEntropy(target=[0.0, 1.0]).build(decoder)


def test_delta_is_positive():
    with pytest.raises(ValueError, match="greater than 0"):
        Huber(delta=0)


def test_objectives_with_more_targets_than_the_run_are_refused():
    decoder = toy_decoders()["image"]
    with pytest.raises(
        lo.ConfigError, match="objective 'mse' has 3 targets of its own and the run has 1: give it one, or pass"
    ):
        lo.optimize(decoder, objectives=[MSE(target=draws(decoder, 3))])

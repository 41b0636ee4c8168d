"""Linear measurements: matrix, downsampling and blur against NumPy and SciPy, and every error's text."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import latentopt as lo
from latentopt.testing import ObjectiveConformance, ToyImages, ToyNet, toy_decoders
from latentopt_std import Measurement


def candidates(decoder, n=6, targets=2):
    z = decoder.space.draw(n, torch.Generator().manual_seed(3))
    target = decoder.decode(decoder.space.draw(targets, torch.Generator().manual_seed(7)))
    return lo.Candidates(z, decoder.decode(z), torch.arange(n) % targets), target


MATRIX = np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32)


class TestMatrixConforms(ObjectiveConformance):
    config = Measurement(matrix=MATRIX.tolist())


class TestMeasuredMatrixConforms(ObjectiveConformance):
    config = Measurement(matrix=MATRIX.tolist(), measured=[[0.5] * 9, [1.0] * 9])


class TestDownsampleConforms(ObjectiveConformance):
    config = Measurement(operator="downsample", factor=4)


class TestBlurConforms(ObjectiveConformance):
    config = Measurement(operator="blur", sigma=1.5)


class TestBlurOfWaveformsConforms(ObjectiveConformance):
    config = Measurement(operator="blur", sigma=5)

    def decoder(self):
        return toy_decoders()["waveform"]


# ---------------------------------------------------------------------- values


def mean_square(a, b):
    return ((a - b) ** 2).reshape(len(a), -1).mean(1).tolist()


@pytest.mark.parametrize("kind", ["image", "vector", "tokens"])
def test_a_matrix_acts_on_the_flattened_design(kind):
    decoder = toy_decoders()[kind]
    rows, target = candidates(decoder)
    matrix = np.random.default_rng(1).normal(size=(4, rows.designs[0].numel())).astype(np.float32)
    x, y = (v.flatten(1).numpy() @ matrix.T for v in (rows.designs, target[rows.target_index]))
    found = Measurement(matrix=matrix, target=target).build(decoder)(rows)
    assert found.tolist() == pytest.approx(mean_square(x, y), rel=1e-4)
    given = Measurement(matrix=matrix, measured=target.flatten(1).numpy() @ matrix.T).build(decoder)(rows)
    assert torch.allclose(found, given, rtol=1e-4)
    one = Measurement(matrix=matrix, measured=[1.0, 2.0, 3.0, 4.0]).build(decoder)(rows)
    assert one.tolist() == pytest.approx(mean_square(x, np.array([[1.0, 2, 3, 4]])), rel=1e-4)


@pytest.mark.parametrize("shape", [(2, 12), (1, 8, 12), (3, 4, 4, 8)], ids=["waveform", "picture", "volume"])
def test_downsampling_takes_means_of_blocks(shape):
    decoder = lo.Decoder(ToyNet(4, shape), 4, prior="normal")
    rows, target = candidates(decoder)

    def blocks(x):
        for axis in range(2, x.ndim):
            x = np.moveaxis(x, axis, -1)
            x = np.moveaxis(x.reshape(*x.shape[:-1], -1, 4).mean(-1), -1, axis)
        return x

    x, y = (blocks(v.numpy()) for v in (rows.designs, target[rows.target_index]))
    found = Measurement(operator="downsample", factor=4, target=target).build(decoder)(rows)
    assert found.tolist() == pytest.approx(mean_square(x, y), rel=1e-4)
    small = torch.from_numpy(blocks(target.numpy()))
    for measured in (small, small.flatten(1)):
        given = Measurement(operator="downsample", factor=4, measured=measured).build(decoder)(rows)
        assert torch.allclose(given, found, rtol=1e-4)
    first = Measurement(operator="downsample", factor=4, measured=small[0]).build(decoder)(rows)
    assert first.tolist() == pytest.approx(mean_square(x, blocks(target[:1].numpy())), rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 40), (3, 9, 14), (1, 8, 9, 10)], ids=["waveform", "picture", "volume"])
def test_a_blur_is_scipys(shape):
    decoder = lo.Decoder(ToyNet(4, shape), 4, prior="normal")
    rows, target = candidates(decoder)
    sigma = [0, 0] + [1.3] * (len(shape) - 1)
    x, y = (
        ndimage.gaussian_filter(v.double().numpy(), sigma, mode="mirror", radius=[0, 0] + [4] * (len(shape) - 1))
        for v in (rows.designs, target[rows.target_index])
    )
    found = Measurement(operator="blur", sigma=1.3, target=target).build(decoder)(rows)
    assert found.tolist() == pytest.approx(mean_square(x, y), rel=1e-4)


def test_a_decoder_of_double_precision_is_served():
    net = ToyNet(4, (1, 8, 8))
    decoder = lo.Decoder(lambda z: net(z).double(), 4, prior="normal")
    rows, target = candidates(decoder)
    for options in ({"operator": "blur"}, {"operator": "downsample"}, {"matrix": MATRIX}):
        found = Measurement(**options, target=target).build(decoder)(rows)
        assert torch.isfinite(found).all()


def test_a_measured_picture_is_mapped_to_the_decoders_range(tmp_path):
    from PIL import Image

    pixels = (np.arange(16).reshape(4, 4) * 16).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    net = ToyImages(4, (1, 8, 8))
    decoder = lo.Decoder(lambda z: 2 * net(z) - 1, 4, prior="normal", value_range=(-1, 1))
    rows, _ = candidates(decoder)
    found = Measurement(operator="downsample", measured=tmp_path / "small.png").build(decoder)(rows)
    small = torch.nn.functional.avg_pool2d(rows.designs, 2) - (2 * torch.from_numpy(pixels / 255.0).float() - 1)
    assert torch.allclose(found, small.square().mean((1, 2, 3)), rtol=1e-4)


# ---------------------------------------------------------------------- runs


def test_a_search_finds_designs_from_a_coarse_view_of_two():
    decoder = toy_decoders()["image"]
    _, target = candidates(decoder)
    found = lo.optimize(
        decoder,
        target=target,
        objectives=[{"kind": "measurement", "operator": "downsample"}],
        search=[{"kind": "adam", "steps": 200}],
    )
    for t in range(2):
        best = found.designs[found.target_index == t][0]
        assert (best - target[t]).square().mean() < 0.2 * (best - target[1 - t]).square().mean()


def test_what_was_measured_stays_where_the_task_has_a_target():
    decoder = toy_decoders()["image"]
    _, target = candidates(decoder)
    config = Measurement(operator="downsample", measured=torch.zeros(16))
    assert config.with_target(target) == config
    filled = Measurement(operator="downsample").with_target(target)
    assert isinstance(filled, Measurement)
    assert filled.target is not None


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "a measurement takes exactly one of matrix and operator"),
        ({"matrix": [[1.0]], "operator": "blur"}, "a measurement takes exactly one of matrix and operator"),
        ({"operator": "blur", "factor": 3}, "factor belongs to operator: downsample"),
        ({"matrix": [[1.0]], "sigma": 3}, "sigma belongs to operator: blur"),
        (
            {"operator": "blur", "measured": [1.0], "target": [1.0]},
            r"takes measured \(y itself\) or target \(y = A target\), not both",
        ),
        ({"operator": "sharpen"}, "'downsample' or 'blur'"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Measurement(**options)


@pytest.mark.parametrize(
    ("kind", "options", "error", "text"),
    [
        (
            "image",
            {"operator": "blur"},
            lo.ConfigError,
            "'measurement' needs measured=, or a target to measure: pass target=",
        ),
        (
            "image",
            {"matrix": [[1.0, 2.0]]},
            lo.ShapeError,
            r"matrix has shape \(1, 2\), expected \(m, 64\): a design has 64 values",
        ),
        (
            "image",
            {"matrix": [[float("nan")] * 64]},
            lo.ConfigError,
            "matrix holds 64 values that are NaN or infinite: leave those",
        ),
        (
            "image",
            {"matrix": MATRIX, "measured": [float("inf")] * 9},
            lo.ConfigError,
            "9 of the measured values are NaN or infinite: leave their rows out of the matrix",
        ),
        (
            "image",
            {"matrix": MATRIX, "measured": [1.0] * 8},
            lo.ShapeError,
            r"measured .*; \(9,\) and \(T, 9\) fit too",
        ),
        (
            "vector",
            {"operator": "blur"},
            lo.ConfigError,
            r"operator 'blur' needs designs with channels and one to three axes, .* have shape \(5,\): use a matrix",
        ),
        (
            "image",
            {"operator": "downsample", "factor": 3},
            lo.ConfigError,
            r"downsampling by 3 needs sizes that it divides, this decoder's designs have shape \(1, 8, 8\): choose another",
        ),
        (
            "image",
            {"operator": "blur", "sigma": 4},
            lo.ConfigError,
            r"a blur of sigma 4 reaches 12 values, this decoder's designs have shape \(1, 8, 8\): sigma can be at most 2.33",
        ),
    ],
    ids=["nothing", "matrix", "nan matrix", "nan measured", "measured", "vector", "factor", "sigma"],
)
def test_what_does_not_fit_the_decoder_is_refused(kind, options, error, text):
    with pytest.raises(error, match=text):
        Measurement(**options).build(toy_decoders()[kind])


def test_measurements_of_more_targets_than_the_run_has_are_refused():
    decoder = toy_decoders()["image"]
    _, target = candidates(decoder)
    config = Measurement(matrix=MATRIX, measured=torch.zeros(3, 9))
    with pytest.raises(lo.ConfigError, match="objective 'measurement' has 3 targets of its own and the run has 2"):
        lo.optimize(decoder, target=target, objectives=[config])

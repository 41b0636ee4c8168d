"""SSIM and multi-scale SSIM against kornia's and SciPy's filters, under masks, and every error's text."""

import kornia.metrics
import numpy as np
import pytest
import torch
from scipy import ndimage

import latentopt as lo
from latentopt.testing import ObjectiveConformance, ToyImages, toy_decoders
from latentopt_std import MSSSIM, SSIM

EXPONENTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])


def pictures(shape=(3, 33, 40), value_range=(0.0, 1.0)):
    net, (low, high) = ToyImages(4, shape), value_range
    return lo.Decoder(
        lambda z: net(z) * (high - low) + low, 4, prior="normal", value_range=value_range, name="pictures"
    )


def candidates(decoder, n=6, targets=2):
    z = decoder.space.draw(n, torch.Generator().manual_seed(3))
    target = decoder.decode(decoder.space.draw(targets, torch.Generator().manual_seed(7)))
    return lo.Candidates(z, decoder.decode(z), torch.arange(n) % targets), target


class TestSSIMConforms(ObjectiveConformance):
    config = SSIM(window_size=7)


class TestMaskedSSIMConforms(ObjectiveConformance):
    config = SSIM(window_size=5, mask=[[1.0] * 8] * 3 + [[0.0] * 8] * 5)


class TestMSSSIMConforms(ObjectiveConformance):
    config = MSSSIM(window_size=3, scales=2)


class TestMaskedMSSSIMConforms(ObjectiveConformance):
    config = MSSSIM(window_size=5, scales=3, mask=torch.eye(33, 40).tolist())

    def decoder(self):
        return pictures()


# ---------------------------------------------------------------------- values


@pytest.mark.parametrize("window", [3, 7, 11, 33])
def test_ssim_is_one_minus_kornias(window):
    decoder = pictures()
    rows, target = candidates(decoder)
    found = SSIM(target=target, window_size=window).build(decoder)(rows)
    similar = kornia.metrics.ssim(rows.designs, target[rows.target_index], window)
    assert torch.allclose(found, 1 - similar.flatten(1).mean(1), atol=1e-6)
    assert found.min() > 0.01


def test_ssim_maps_the_decoders_range_to_0_and_1():
    plain, shifted = pictures(), pictures(value_range=(-1.0, 1.0))
    rows, target = candidates(plain)
    moved, aim = candidates(shifted)
    found = SSIM(target=aim).build(shifted)(moved)
    assert torch.allclose(found, SSIM(target=target).build(plain)(rows), atol=1e-5)


def test_a_mask_averages_the_map_of_ssim():
    decoder = pictures()
    rows, target = candidates(decoder)
    mask = torch.zeros(33, 40)
    mask[:5, 10:] = 2.0
    mask[20, 3] = 1.0
    found = SSIM(target=target, mask=mask).build(decoder)(rows)
    seen = (mask > 0).float()
    similar = kornia.metrics.ssim(rows.designs * seen, target[rows.target_index] * seen, 11).mean(1)
    expected = 1 - (similar * mask).sum((1, 2)) / mask.sum()
    assert torch.allclose(found, expected, atol=1e-5)


def smooth(x, window):
    offsets = np.arange(window) - window // 2
    kernel = np.exp(-(offsets**2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    for axis in (-1, -2):
        x = ndimage.correlate1d(x, kernel, axis=axis, mode="mirror")
    return x


def multi_scale(x, y, window, scales):
    """Equation 7 of Wang, Simoncelli and Bovik 2003 in NumPy, for sizes that halve evenly."""
    value = 1.0
    exponents = EXPONENTS[:scales] / EXPONENTS[:scales].sum()
    for scale in range(scales):
        mean_x, mean_y = smooth(x, window), smooth(y, window)
        var_x, var_y = smooth(x * x, window) - mean_x**2, smooth(y * y, window) - mean_y**2
        both = smooth(x * y, window) - mean_x * mean_y
        similar = (2 * both + 9e-4) / (var_x + var_y + 9e-4)
        if scale == scales - 1:
            similar *= (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        value *= max(similar.mean(), 1e-6) ** exponents[scale]
        if scale < scales - 1:
            x, y = (p.reshape(len(p), p.shape[1] // 2, 2, p.shape[2] // 2, 2).mean((2, 4)) for p in (x, y))
    return 1 - value


@pytest.mark.parametrize(("side", "window", "scales"), [(176, 11, 5), (64, 11, 3), (32, 7, 2), (16, 5, 1)])
def test_multi_scale_ssim_is_that_of_the_paper(side, window, scales):
    decoder = pictures((1, side, side))
    rows, target = candidates(decoder, n=4)
    mixed = 0.7 * target[rows.target_index] + 0.3 * rows.designs  # so that some similarity is left
    found = MSSSIM(target=target, window_size=window, scales=scales).build(decoder)(rows._replace(designs=mixed))
    x, y = mixed.double().numpy(), target[rows.target_index].double().numpy()
    expected = [multi_scale(a, b, window, scales) for a, b in zip(x, y, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=2e-5)
    assert 0.01 < min(expected) < max(expected) < 0.99


def test_one_scale_of_multi_scale_ssim_is_ssim():
    decoder = pictures()
    rows, target = candidates(decoder)
    one = MSSSIM(target=target, scales=1).build(decoder)(rows)
    assert torch.equal(one, SSIM(target=target).build(decoder)(rows))


@pytest.mark.parametrize("config", [SSIM(), MSSSIM(scales=2)], ids=lambda c: c.kind)
def test_equal_pictures_have_0_and_a_mask_hides_what_it_hides(config):
    decoder = pictures()
    rows, target = candidates(decoder)
    same = rows._replace(designs=target[rows.target_index].clone())
    assert config.with_target(target).build(decoder)(same).abs().max() < 1e-5
    mask = torch.zeros(33, 40)
    mask[:6] = 1
    hurt = same.designs.clone()
    hurt[:, :, 28:] = 1 - hurt[:, :, 28:]
    masked = type(config)(**{**config.model_dump(), "target": target, "mask": mask}).build(decoder)
    assert masked(same._replace(designs=hurt)).abs().max() < 1e-5
    hurt[:, :, :3] = 1 - hurt[:, :, :3]
    assert masked(same._replace(designs=hurt)).min() > 0.1


def test_opposite_pictures_keep_a_finite_gradient():
    decoder = pictures()
    rows, target = candidates(decoder)
    designs = (1 - target[rows.target_index]).requires_grad_(True)
    value = MSSSIM(target=target, scales=2).build(decoder)(rows._replace(designs=designs))
    assert torch.isfinite(torch.autograd.grad(value.sum(), designs)[0]).all()
    assert value.max() <= 1


@pytest.mark.parametrize(
    "objective", [{"kind": "ssim", "window_size": 7}, {"kind": "ms_ssim", "window_size": 3, "scales": 2}]
)
def test_a_search_finds_the_target(objective):
    decoder = toy_decoders()["image"]
    _, target = candidates(decoder)
    found = lo.optimize(
        decoder, target=target, objectives=[objective], constraints=[{"kind": "mse", "goal": {"at_most": 0.01}}],
        search=[{"kind": "adam", "steps": 80}],
    )  # fmt: skip
    for t in range(2):
        rows = found.target_index == t
        assert found.losses[rows].min() < 0.05
        best = found.designs[rows][0]
        assert (best - target[t]).square().mean() < 0.5 * (best - target[1 - t]).square().mean()


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("config", [SSIM(), MSSSIM()], ids=lambda c: c.kind)
def test_only_pictures_are_compared(config):
    decoder = toy_decoders()["waveform"]
    text = rf"'{config.kind}' compares pictures \(C, H, W\), this decoder's designs have shape \(1, 4096\): use 'mse'"
    with pytest.raises(lo.ConfigError, match=text):
        config.with_target(torch.zeros(1, 4096)).build(decoder)


def test_a_window_that_does_not_fit_is_answered_with_one_that_does():
    target = torch.zeros(1, 8, 8)
    decoder = toy_decoders()["image"]
    with pytest.raises(
        lo.ConfigError, match="a window of 11 pixels, the pictures of this decoder are 8 x 8: set window_size=7"
    ):
        SSIM(target=target).build(decoder)
    assert SSIM(target=target, window_size=7).build(decoder)
    with pytest.raises(lo.ConfigError, match="2 x 9: use 'mse'"):
        SSIM(target=torch.zeros(1, 2, 9)).build(pictures((1, 2, 9)))


def test_scales_that_do_not_fit_are_answered_with_those_that_do():
    decoder = pictures((1, 28, 28))
    target = torch.zeros(1, 28, 28)
    with pytest.raises(
        lo.ConfigError,
        match="'ms_ssim' with 5 scales and a window of 11 needs pictures of at least 161 pixels a side, this decoder's "
        "are 28 x 28: set scales=2",
    ):
        MSSSIM(target=target).build(decoder)
    assert MSSSIM(target=target, scales=2).build(decoder)
    with pytest.raises(lo.ConfigError, match="8 x 8: set a smaller window_size, or use 'mse'"):
        MSSSIM(target=torch.zeros(1, 8, 8), scales=1).build(toy_decoders()["image"])


def test_a_window_is_odd():
    with pytest.raises(ValueError, match="window_size must be odd, got 8: use 7 or 9"):
        SSIM(window_size=8)
    with pytest.raises(ValueError, match="less than or equal to 5"):
        MSSSIM(scales=6)


@pytest.mark.parametrize("config", [SSIM(), MSSSIM(scales=2, window_size=5)])
def test_what_is_masked_has_no_say(config):
    decoder = pictures()
    rows, target = candidates(decoder)
    mask = torch.zeros(33, 40)
    mask[:20] = 1.0
    other = target.clone()
    other[..., 20:, :] = 0.77
    built = [type(config)(**{**dict(config), "target": one, "mask": mask}).build(decoder) for one in (target, other)]
    assert torch.equal(built[0](rows), built[1](rows))
    changed = rows._replace(designs=torch.where(mask > 0, rows.designs, 0.1))
    assert torch.equal(built[0](changed), built[0](rows))

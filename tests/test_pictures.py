"""Sheets and curves: right size, right pixels, right words. The pictures are looked at by people."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

import latentopt as lo
from latentopt import charts, pictures
from latentopt.testing import toy_decoders

SOME = torch.linspace(0, 1, 3 * 64).view(3, 1, 8, 8)


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def words(figure):
    return " | ".join(text.get_text() for axes in figure.axes for text in axes.texts)


class Drawn(lo.DecoderConfig):
    """Vectors drawn as small pictures."""

    kind: str = "drawn"

    def draw(self, designs):
        return designs[:, None, None, :].expand(-1, 3, 8, -1) * 2


def test_designs_of_one_or_three_channels_are_pictures_in_the_value_range():
    decoder = toy_decoders()["image"]
    designs = lo.sample(decoder, 2).designs
    assert torch.equal(pictures.as_pictures(designs, decoder), designs)
    decoder.value_range = (-1.0, 1.0)
    assert torch.allclose(pictures.as_pictures(designs * 2 - 1, decoder), designs, atol=1e-6)
    assert pictures.as_pictures(torch.rand(2, 3, 5, 4), decoder).shape == (2, 3, 5, 4)


def test_flat_designs_are_pictures_where_they_keep_to_the_range():
    decoder = toy_decoders()["image"]
    assert pictures.as_pictures(torch.rand(2, 9, 8), decoder).shape == (2, 1, 9, 8)
    assert pictures.as_pictures(torch.rand(2, 9, 8) * 3, decoder) is None


@pytest.mark.parametrize("name", ["waveform", "tokens", "vector"])
def test_other_designs_are_no_pictures(name):
    decoder = toy_decoders()[name]
    assert pictures.as_pictures(lo.sample(decoder, 2).designs, decoder) is None


def test_a_decoder_config_may_draw_its_designs():
    decoder = toy_decoders()["vector"]
    decoder.config = Drawn()
    found = pictures.as_pictures(torch.rand(2, 5), decoder)
    assert found.shape == (2, 3, 8, 5)
    assert float(found.max()) <= 1


def test_tiles_are_enlarged_pixel_by_pixel():
    figure = pictures.sheet(SOME, title="A title", columns=2, size=16)
    found = pixels(figure)
    start = found[pictures._TOP :, pictures._MARGIN :]
    enlarged = (SOME[0, 0] * 255).round().to(torch.uint8).numpy().repeat(2, 0).repeat(2, 1)
    assert np.abs(start[:16, :16, 0].astype(int) - enlarged).max() <= 1
    below = start[16 + pictures._GAP :, :16, 2][:16]
    assert np.abs(below.astype(int) - (SOME[2, 0] * 255).round().numpy().repeat(2, 0).repeat(2, 1)).max() <= 1
    assert "A title" in words(figure)


def test_large_pictures_are_reduced_by_averaging():
    tile = pictures.as_tiles(torch.ones(1, 1, 400, 300) * 0.5, 100)[0]
    assert tile.shape == (100, 75, 3)
    assert set(tile.ravel()) == {128}


def test_labels_frames_and_a_limit_on_how_many_are_shown():
    many = torch.zeros(300, 1, 8, 8)
    figure = pictures.sheet(many, title="T", labels=[f"no {i}" for i in range(300)], framed=[True, False, True], size=8)
    assert "the first 256 of 300" in words(figure)
    assert "no 255" in words(figure)
    assert "no 256" not in words(figure)
    assert sum(isinstance(patch, Rectangle) for patch in figure.axes[0].patches) == 2


def test_difference_is_black_where_equal_blue_where_too_dark_orange_where_too_bright():
    target = torch.tensor([0.5, 1.0, 0.0]).view(1, 1, 1, 3)
    found = torch.tensor([0.5, 0.0, 1.0]).view(1, 1, 1, 3)
    equal, dark, bright = pictures.difference(target, found, 1.0)[0, :, 0].T
    assert float(equal.max()) < 0.02
    assert float(dark[2]) > float(dark[0])  # more blue than red
    assert float(bright[0]) > float(bright[2])


def test_comparison_puts_target_found_and_difference_side_by_side():
    figure = pictures.comparison(SOME, SOME.flip(0), title="T", labels=["one", "two", "three"])
    text = words(figure)
    assert text.count("target") == text.count("found") == 3
    assert "blue where too dark" in text
    assert "three" in text


def test_strips_name_their_rows():
    rows = [pictures.Row("before", SOME, ["x", "y", "z"]), pictures.Row("after", SOME)]
    assert all(word in words(pictures.strips(rows, title="T")) for word in ("before", "after", "y"))


@pytest.mark.parametrize("bad", [torch.zeros(8, 8), torch.zeros(0, 1, 8, 8), torch.zeros(2, 2, 8, 8)])
def test_what_is_no_picture_is_refused(bad):
    with pytest.raises(lo.ShapeError, match=r"a sheet takes pictures \(N, 1 or 3, H, W\) in \[0, 1\], at least one"):
        pictures.sheet(bad, title="T")


def test_a_comparison_needs_a_target_a_picture():
    with pytest.raises(lo.ShapeError, match="a comparison needs a target a picture"):
        pictures.comparison(SOME, SOME[:2], title="T")


def entry(stage, name, spent, rows):
    return {
        "stage": stage, "name": name, "forward_rows": spent, "backward_rows": 0, "rows_N": rows, "best_T": [min(rows)],
    }  # fmt: skip


def test_curves_follow_every_row_and_the_best_over_the_stages():
    history = [entry(0, "first", 10, [3.0, 2.0]), entry(0, "first", 20, [2.0, 0.01]), entry(1, "second", 30, [0.01]),
               entry(1, "second", 40, [0.001])]  # fmt: skip
    figure = charts.curves(history, title="T")
    axes = figure.axes[0]
    lines = [line for collection in axes.collections for line in collection.get_segments()]
    assert sorted(len(line) for line in lines) == [2] * 5
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["first", "second"]
    assert axes.get_xlim()[1] >= 40


def test_curves_of_losses_below_zero_or_infinite_are_drawn_too():
    history = [entry(0, "s", 1, [-1.0, float("inf")]), entry(0, "s", 2, [-2.0, 1.0])]
    figure = charts.curves(history, title="T")
    assert figure.axes[0].get_yscale() == "linear"
    assert pixels(figure).std() > 0


def test_sheets_of_a_result_and_of_draws(tmp_path):
    decoders = toy_decoders()
    draws = lo.sample(decoders["image"], 4)
    fast = {"kind": "adam", "steps": 2}
    matched = lo.optimize(decoders["image"], target=draws.designs[:2], search=fast)
    free = lo.optimize(decoders["image"], objectives=lambda c: c.designs.flatten(1).mean(1), search=fast)
    wave = lo.optimize(decoders["waveform"], objectives=lambda c: c.designs.flatten(1).mean(1), search=fast)
    assert "difference" in words(pictures.of_result(matched, decoders["image"])["sheet.png"])
    assert "by loss, best first" in words(pictures.of_result(free, decoders["image"])["sheet.png"])
    assert set(pictures.of_result(wave, decoders["waveform"])) == {"losses.png"}
    assert "4 draws" in words(pictures.of_draws(draws, decoders["image"])["sheet.png"])
    path = lo.interpolate(decoders["image"], draws.latents[:2], steps=3)
    assert "t = 0.50" in words(pictures.of_draws(path, decoders["image"])["sheet.png"])
    assert pictures.of_draws(lo.sample(decoders["waveform"], 2), decoders["waveform"]) == {}
    path = pictures.write(pictures.of_draws(draws, decoders["image"])["sheet.png"], tmp_path / "sheet.png")
    assert path.read_bytes().startswith(b"\x89PNG")

"""Plots as functions: each returns a figure of what it was given, and writes nothing."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from report_runs import FAST, ink, run

import latentopt as lo
from latentopt import charts, maps, pictures, plots
from latentopt.testing import toy_decoders


@pytest.fixture(scope="module")
def result():
    return run()


@pytest.fixture(scope="module")
def front():
    objectives = ["mse", {"kind": "property", "function": ink, "name": "ink"}]
    return run(objectives=objectives, pareto=True, search={"kind": "adam", "steps": 20})


def words(figure):
    return " | ".join(text.get_text() for place in (figure, *figure.axes) for text in place.texts)


def drawn(figure):
    assert isinstance(figure, Figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert np.asarray(canvas.buffer_rgba()).std() > 1
    return words(figure)


def test_they_are_public_and_need_no_import_of_their_own():
    assert lo.plots is plots
    assert plots.__all__ == ["convergence", "front", "interpolation", "latent_map", "sheet", "terms"]
    assert all(callable(getattr(plots, name)) for name in plots.__all__)


def test_a_sheet_of_a_result_of_draws_and_of_a_path(result):
    assert f"{float(result.losses[0]):.3g}" in drawn(plots.sheet(result))
    decoder = toy_decoders()["image"]
    assert "6 designs" in drawn(plots.sheet(lo.sample(decoder, 6)))
    path = lo.interpolate(decoder, torch.eye(4)[:2], steps=5)
    assert "t = 0.25" in drawn(plots.sheet(path, title="A path"))


def test_a_sheet_is_drawn_by_the_decoder_where_it_is_given():
    class Drawn(lo.DecoderConfig):
        kind: str = "drawn"

        def draw(self, designs):
            return torch.ones(len(designs), 1, 8, 8)

    decoder = toy_decoders()["vector"]
    draws = lo.sample(decoder, 3)
    with pytest.raises(
        lo.ShapeError, match=r"designs of shape \(5,\) are no pictures: give a decoder whose config draws"
    ):
        plots.sheet(draws)
    decoder.config = Drawn()
    assert "3 designs" in drawn(plots.sheet(draws, decoder=decoder))


def test_an_interpolation_is_one_strip_with_both_ends():
    decoder = toy_decoders()["image"]
    path = lo.interpolate(decoder, torch.eye(4)[:2], steps=40)
    text = drawn(plots.interpolation(path, steps=4))
    assert text.count("t = ") == 4
    assert "t = 0.00" in text
    assert "t = 1.00" in text
    with pytest.raises(lo.ConfigError, match="these draws are no path"):
        plots.interpolation(lo.sample(decoder, 3))
    with pytest.raises(lo.ConfigError, match="a strip shows 2 steps or more, got 1"):
        plots.interpolation(path, steps=1)


def test_convergence_names_its_stage_and_cost(result):
    text = drawn(plots.convergence(result))
    assert "adam" in text
    assert f"{result.cost.rows} rows" in text


def test_the_latent_map_shows_every_row(result):
    figure = plots.latent_map(result)
    assert "of the variance of starts and ends" in drawn(figure)
    shown = {one.get_label(): one.get_offsets().shape[0] for one in figure.axes[0].collections}
    inside = int(result.realism.inside.sum())
    assert shown["where rows ended"] == inside
    assert shown["starts"] == 5
    assert shown["draws from the prior"] == 256
    assert np.allclose(figure.axes[0].collections[-1].get_offsets(), maps.latent_map(result).found_N2[:1])


def test_the_latent_map_shows_paths(result):
    figure = plots.latent_map(result)
    drawn(figure)
    (leg,) = maps.latent_map(result).legs
    line, begin = figure.axes[0].lines
    assert np.allclose(line.get_xydata(), leg.places_R2)
    assert np.allclose(begin.get_xydata(), leg.places_R2[:1])
    chain = plots.latent_map(run(search=[FAST, {"kind": "lbfgs", "steps": 4}]))
    assert [line.get_label() for line in chain.axes[0].lines][2:] == ["where a path began", "where a later stage began"]


def test_terms_are_a_panel_each_with_their_bounds(result):
    bound = {"kind": "property", "function": ink, "name": "$ink$", "goal": {"at_most": 0.5}}
    found = run(constraints=[bound], search=[FAST, {"kind": "lbfgs", "steps": 4}])
    figure = plots.terms(found)
    text = drawn(figure)
    assert "minimize" in text
    assert "must be at most 0.5" in text
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["mse", "$ink$"]
    first, second, start, bounded = figure.axes[1].lines
    rows = [r["forward_rows"] + r["backward_rows"] for r in found.history]
    assert [*first.get_xdata(), *second.get_xdata()] == rows
    assert [*first.get_ydata(), *second.get_ydata()] == [r["terms"]["$ink$"][0] for r in found.history]
    assert start.get_xdata()[0] == second.get_xdata()[0]
    assert list(bounded.get_ydata()) == [0.5, 0.5]
    assert "One term alone: the losses show it" in drawn(plots.terms(result))
    found.history[:] = [{**entry, "terms": {}} for entry in found.history]
    assert "This run's reports hold no terms" in drawn(plots.terms(found))


def test_a_front_is_drawn_or_refused(front, result):
    assert f"{len(front.front())} designs" in drawn(plots.front(front))
    with pytest.raises(lo.ConfigError, match="this run has no front"):
        plots.front(result)


# ---------------------------------------------------------------------- what a run's folder gets


def entry(stage, name, spent, loss):
    return {
        "stage": stage, "name": name, "forward_rows": spent, "backward_rows": 0, "rows_N": [loss, 2 * loss], "best_T": [loss],
    }  # fmt: skip


@pytest.mark.parametrize(
    "names", [["levenberg_marquardt"] * 5, ["optuna sampler=cmaes evaluations=1000 coordinates=16 span=2"] * 3]
)
def test_names_of_stages_keep_apart_however_close_they_begin(names):
    history = [entry(0, names[0], 0, 9.0), entry(0, names[0], 10000, 5.0)]
    for i, name in enumerate(names[1:], 1):
        history += [entry(i, name, 10000 + 40 * i, 5.0 / i), entry(i, name, 10030 + 40 * i, 4.0 / i)]
    figure = charts.curves(history, title="T", subtitle="words")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in axes.texts]
    frame = figure.bbox
    assert len(boxes) == len(names)
    for i, box in enumerate(boxes):
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert box.y0 >= axes.get_window_extent().y1 - 1, "they stand above the curves"
        for other in [*boxes[:i], *(t.get_window_extent(canvas.get_renderer()) for t in figure.texts)]:
            assert not box.overlaps(other)


def test_the_sheet_of_a_front_shows_members_spread_along_it(front, tmp_path):
    decoder = toy_decoders()["image"]
    text = drawn(pictures.of_result(front, decoder)["sheet.png"])
    members = front.front()
    for end in (0, -1):
        assert ", ".join(f"{float(members.terms[name][end]):.2g}" for name in ("mse", "ink")) in text
    assert "spread along the front; under each its mse, ink" in text
    assert "target" in text


def test_the_sheet_of_a_front_without_members_shows_the_best_rows():
    objectives = ["mse", {"kind": "property", "function": ink, "name": "ink"}]
    bound = {"kind": "property", "function": ink, "name": "bound", "goal": {"at_most": -1.0}}
    found = run(objectives=objectives, constraints=[bound], pareto=True, search=FAST)
    assert len(found.front()) == 0
    assert "Found designs" in drawn(pictures.of_result(found, toy_decoders()["image"])["sheet.png"])

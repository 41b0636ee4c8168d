import dataclasses
import importlib.resources
import subprocess
import sys

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

import latentopt as lo
from latentopt import ConfigError, ShapeError, knownsection
from latentopt_airfoils import Aero, AirfoilShape, Flow, opinion, polarplots, polars, real
from latentopt_airfoils.known import REAL
from latentopt_airfoils.opinions import best_real

RUNS = importlib.resources.files("latentopt_airfoils") / "runs"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The runs that ship, run."""
    return {name: lo.run(str(RUNS / f"{name}.yaml")) for name in ("demo", "cruise")}


@pytest.mark.parametrize(("name", "sign", "gain"), [("demo", 1, 0.10), ("cruise", -1, 0.10)])
def test_the_runs_find_better_airfoils_than_the_best_real_one(found, name, sign, gain):
    result = found[name]
    judged = opinion(result)
    assert judged.feasible
    assert judged.inside
    assert judged.confidence >= 0.9
    assert sign * (judged.value / judged.real_value - 1) > gain
    assert sign * (judged.second / judged.real_second - 1) > gain - 0.03  # a larger network thinks so too
    assert judged.distance == pytest.approx(result.best.measures["distance_to_real"], abs=1e-6)
    assert judged.second == pytest.approx(result.best.measures["second_opinion"], rel=1e-4)
    assert judged.distance < judged.ordinary
    assert float(AirfoilShape(quantity="thinnest").of(result.best.design[None])) > 0


def test_an_opinion_says_whose_it_is_and_how_far_from_any_real_airfoil(found):
    text = str(opinion(found["demo"]))
    assert text.startswith("lift_to_drag 22")
    assert "where the best real airfoil, fx76mp120, has 189.7: in the opinion of a surrogate, NeuralFoil xlarge" in text
    assert "and of no wind tunnel. Its network xxlarge says 21" in text
    assert "chords away, no farther than 95 % of real ones" in text
    assert "It lies inside what the decoder knows" in text


def test_the_command_line_and_the_report_say_whose_opinion_it_is_and_how_far_from_any_real_airfoil(found):
    result = found["demo"]
    said = [*knownsection.sentences(result), *result.notes]
    assert said[0] == f"the best of {REAL}, fx76mp120, has the loss -190"
    assert said[1].startswith("distance_to_real 0.00")
    assert "95 % of real airfoils lie nearer to their own nearest than 0.00556" in said[1]
    assert said[2].startswith(
        "figures of kind 'aero' are the opinion of a surrogate, NeuralFoil, and of no wind tunnel"
    )
    assert sum("of no wind tunnel" in note for note in result.notes) == 1
    (best,) = lo.standings(result)
    real_name, value = best_real(
        Aero(quantity="lift_to_drag", alpha=5, goal="maximize"), [AirfoilShape(goal={"at_least": 0.1})]
    )
    assert (best.design, best.count) == (real_name, len(real().names))
    assert best.terms["lift_to_drag"] == pytest.approx(value)
    page = lo.report(result)
    for words in ("fx76mp120", "distance_to_real, measured", "and of no wind tunnel"):
        assert words in page


def test_an_opinion_does_not_hide_broken_constraints(found):
    result = found["demo"]
    broken = dataclasses.replace(result, violations=torch.ones_like(result.violations))
    assert "It breaks the run's constraints." in str(opinion(broken))
    strict = dict(result.config["task"], constraints=[{"kind": "airfoil_shape", "goal": {"at_least": 0.9}}])
    nothing = dataclasses.replace(result, config={**result.config, "task": strict})
    assert "where no real airfoil keeps the constraints" in str(opinion(nothing))


def test_the_best_real_airfoil_is_the_best_of_those_that_keep_the_constraints():
    aim = Aero(quantity="lift_to_drag", alpha=5, goal="maximize")
    name, value = best_real(aim, [])
    assert value == pytest.approx(float(aim.of(real().numbers).amax()))
    thick = AirfoilShape(goal={"at_least": 0.15})
    other, less = best_real(aim, [thick])
    assert other != name
    assert less < value
    assert float(thick.of(real().numbers[[real().names.index(other)]])) >= 0.15


def test_a_run_without_aero_is_no_matter_of_opinion(found):
    result = lo.optimize("airfoils", target=real().numbers[3], search={"kind": "adam", "steps": 2}, seed=0)
    with pytest.raises(ConfigError, match="neither minimized nor maximized an objective of kind 'aero'"):
        opinion(result)
    with pytest.raises(ConfigError, match="this result has 8 rows, so none of index 8: give 0 to 7"):
        opinion(found["demo"], row=8)


# ---------------------------------------------------------------------- polars


def test_polars_draw_what_the_network_says():
    numbers = real().numbers[:2]
    figure = polars(numbers, ["one", "other"], title="Two")
    shapes, lift, drag, ratio, moment = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "other"]
    assert {axes.get_xlabel() for axes in (lift, ratio, moment)} == {"angle of attack, degrees"}
    drawn = lift.lines[0].get_xydata()
    expected = Aero(quantity="lift", alpha=float(drawn[40][0])).of(numbers[:1])
    assert drawn[40][1] == pytest.approx(float(expected), abs=1e-5)
    assert len(drag.lines) == 4
    assert shapes.get_aspect() == 1.0
    assert "a surrogate's opinion" in figure.texts[1].get_text()


def test_narrow_polars_hold_the_same_lines_within_the_page():
    numbers, flow = real().numbers[:6], Flow(4e5, 9, 0.05, 0.1)
    names = [f"a name of thirty letters or so {row}" for row in range(6)]
    wide, narrow = (polars(numbers, names, flow=flow, width=width) for width in (9.6, 5))
    assert [len(axes.lines) for axes in wide.axes] == [len(axes.lines) for axes in narrow.axes]
    for figure in (wide, narrow):
        words = " ".join(text.get_text() for text in figure.texts[1:])
        assert words == (
            "NeuralFoil xlarge, Reynolds number 400,000, n_crit 9, transition by 0.05 chords on the upper surface, "
            "transition by 0.1 chords on the lower surface: a surrogate's opinion, faint where its confidence is below 0.9"
        )
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for part in (*figure.texts, *figure.legends):
            box = part.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
        assert figure.legends[0].get_window_extent().y0 >= figure.axes[0].bbox.y1 - 6
        assert figure.legends[0].get_window_extent().y1 <= figure.texts[-1].get_window_extent().y0 + 12


def test_a_report_has_one_picture_of_polars_a_flow(found):
    for name in ("demo", "cruise"):
        page = lo.report(found[name])
        asked = next(iter(found[name].terms))
        assert page.count("Polars at Reynolds number 1,000,000, n_crit 9") == 2, (
            "its title, and its words for who does not see it"
        )
        assert f'alt="Polars at Reynolds number 1,000,000, n_crit 9, drawn by {asked}"' in page
        assert "could not draw" not in page
        assert len(page) < 600_000
    slow = {"kind": "aero", "quantity": "drag", "lift": 0.3, "reynolds": 4e5, "n_crit": 12, "trip_upper": 0.05}
    two = lo.optimize(
        "airfoils", objectives=[{"kind": "aero", "lift": 0.3}, slow], search={"kind": "adam", "steps": 2}, seed=0
    )
    page = lo.report(two)
    for title in (
        "Polars at Reynolds number 1,000,000, n_crit 9",
        "Polars at Reynolds number 400,000, n_crit 12, transition by 0.05 chords on the upper surface",
    ):
        assert f'alt="{title}, drawn by aero' in page


def test_the_picture_holds_the_best_designs_and_the_real_airfoil_nearest_to_the_best(monkeypatch):
    drawn = []

    def watched(designs, labels, **more):
        drawn.append((designs, labels, more))
        return polars(designs, labels, **more)

    monkeypatch.setattr(polarplots, "polars", watched)
    designs = real().numbers[[5, 500, 900, 1300]] + 1e-3
    config = Aero(quantity="drag", alpha=3, reynolds=123_456, network="medium")
    (picture,) = config.pictures(designs).values()
    again = Aero(quantity="confidence", alpha=9, reynolds=123_456, network="medium", goal={"at_least": 0.9})
    assert torch.equal(again.pictures(designs)["Polars at Reynolds number 123,456, n_crit 9"], picture)
    ((shown, labels, more),) = drawn
    assert torch.allclose(shown, torch.cat([designs[:3], real().numbers[5:6]]))
    near = f"the real one nearest to the first, {real().names[5]}"
    assert labels == ["the first design", "the second", "the third", near]
    assert (more["flow"].reynolds, more["size"]) == (123_456, "medium")
    assert picture.shape == (3, 1440, 1280)
    assert config.pictures(designs[:1])
    assert drawn[1][1] == ["found", f"the real one nearest to it, {real().names[5]}"]
    assert config.pictures(designs[:0]) == {}


def test_the_plugin_loads_without_matplotlib():
    code = (
        "import sys, latentopt as lo, latentopt_airfoils as a; a.Aero(alpha=1); sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_polars_refuse_what_they_cannot_draw():
    with pytest.raises(ConfigError, match="one figure has the polars of 1 to 6 airfoils, got 7: choose some"):
        polars(real().numbers[:7])
    with pytest.raises(ConfigError, match="1 labels for 2 airfoils: give one each"):
        polars(real().numbers[:2], ["one"])
    with pytest.raises(ConfigError, match="width is 3 inches: give 5 to 40"):
        polars(real().numbers[:2], width=3)
    with pytest.raises(ShapeError, match=r"airfoils of shape \(2, 3\)"):
        polars(torch.zeros(2, 3))


def test_terms_of_other_flows_are_told_apart_and_a_lift_out_of_reach_is_named():
    aims = [Aero(quantity="lift_to_drag", alpha=5, reynolds=2e5, goal="maximize")]
    sure = [Aero(quantity="confidence", alpha=5, goal={"at_least": 0.9})]
    fast = {"starts": ["mean"], "search": {"kind": "adam", "steps": 2}}
    decoder = lo.load_decoder("airfoils")
    notes = lo.optimize(decoder, objectives=aims, constraints=sure, **fast).notes
    flows = [note for note in notes if note.startswith("figures of kind 'aero' are for")]
    assert [flow.partition("number ")[2] for flow in flows] == ["200,000, n_crit 9", "1,000,000, n_crit 9"]
    words = "no angle of attack from -12 to 20 degrees gives a lift coefficient of 4"
    with pytest.raises(lo.ObjectiveError, match=f"for every draw from the prior: {words}"):
        lo.optimize(decoder, objectives=[Aero(quantity="drag", lift=4)], **fast)

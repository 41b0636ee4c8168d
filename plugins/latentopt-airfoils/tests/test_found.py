import dataclasses
import importlib.resources

import pytest
import torch

import latentopt as lo
from latentopt import ConfigError, ShapeError, knownsection
from latentopt_airfoils import Aero, AirfoilShape, opinion, polars, real
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
    assert "95 % of real airfoils from their own nearest 0.00556" in said[1]
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


def test_polars_refuse_what_they_cannot_draw():
    with pytest.raises(ConfigError, match="one figure has the polars of 1 to 6 airfoils, got 7: choose some"):
        polars(real().numbers[:7])
    with pytest.raises(ConfigError, match="1 labels for 2 airfoils: give one each"):
        polars(real().numbers[:2], ["one"])
    with pytest.raises(ShapeError, match=r"airfoils of shape \(2, 3\)"):
        polars(torch.zeros(2, 3))

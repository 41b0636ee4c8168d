"""What is judged beside the search, and what is known beforehand: measures, bounds, sets of known designs."""

import json
from typing import Literal

import pytest
import torch
from typer.testing import CliRunner

import latentopt as lo
from latentopt import known, knownsection, registry
from latentopt.cli import app
from latentopt.testing import toy_decoders

GIVEN = torch.linspace(0.1, 0.9, 41)


class Bright(lo.ObjectiveConfig):
    """Mean of a design, known to lie between 0 and 1, and known of 41 designs."""

    kind: Literal["bright"] = "bright"
    scale: float = 1.0
    mask: lo.Array | None = None

    def build(self, decoder):
        return lambda c: self.scale * c.designs.flatten(1).mean(1)

    def of(self, designs):
        return self.scale * designs.flatten(1).mean(1)

    def reference(self, designs):
        spread_N = designs.flatten(1).std(1)
        axis = torch.tensor([0.0, 1.0])
        return lo.Reference(
            "spread",
            spread_N,
            bounds={"none": (axis, 0 * axis), "all": (axis, self.scale * (1 + axis))},
            known={"shades": (0 * GIVEN, self.scale * GIVEN), "one shade": (0 * GIVEN[:1], self.scale * GIVEN[-1:])},
            names={"shades": [f"shade {row}" for row in range(41)]},
        )


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """The objective above among the installed ones."""
    found = registry.load()
    kinds = {**found.kinds("objectives"), "bright": Bright}
    monkeypatch.setattr(found, "kinds", lambda slot, real=found.kinds: kinds if slot == "objectives" else real(slot))
    monkeypatch.setattr(known, "installed", lambda: found)


def search(**more):
    fast = {"starts": ["mean"], "search": {"kind": "adam", "steps": 5}, "seed": 0}
    return lo.optimize(toy_decoders()["image"], **{**fast, **more})


def test_measures_judge_what_was_found_and_change_nothing(tmp_path):
    plain = search(objectives=[Bright()])
    calls = []

    def double(c):
        calls.append(len(c.latents))
        return 2 * c.designs.flatten(1).mean(1)

    judged = search(objectives=[Bright()], measures=[double, Bright(scale=3)], out=tmp_path / "run")
    assert judged.latents.equal(plain.latents)
    assert judged.losses.equal(plain.losses)
    assert list(judged.terms) == ["bright"]
    assert list(judged.measures) == ["double", "bright_2"]
    assert torch.allclose(judged.measures["double"], 2 * judged.terms["bright"])
    assert torch.allclose(judged.measures["bright_2"], 3 * judged.terms["bright"])
    assert judged.best.measures["double"] == pytest.approx(2 * judged.best.terms["bright"])
    assert calls == [4, 1], "a look at the door, and one judgement of the row found"
    loaded = lo.load(tmp_path / "run")
    assert loaded.measures["double"].equal(judged.measures["double"])
    assert loaded.top(1).measures["bright_2"].equal(judged.measures["bright_2"][:1])
    about = json.loads((tmp_path / "run" / "result.json").read_text())
    assert about["best"]["measures"]["double"] == pytest.approx(2 * judged.best.terms["bright"])
    given = {"decoder": toy_decoders()["image"], "objectives": [Bright()], "measures": [double, Bright(scale=3)]}
    again = lo.reproduce(tmp_path / "run", **given)
    assert again.same


def test_a_measure_is_checked_at_the_door():
    with pytest.raises(lo.ObjectiveError, match=r"objective 'bad' returned .* for 4 rows, expected a float tensor"):
        search(objectives=[Bright()], measures=[bad])


def bad(c):
    return c.designs.sum()


def test_measures_that_look_across_rows_see_all_of_them():
    found = search(objectives=[Bright()], starts=[{"kind": "normal", "n": 3}], measures=[{"kind": "diversity"}])
    assert found.measures["diversity"].shape == (3,)
    assert bool(torch.isfinite(found.measures["diversity"]).all())


def test_the_best_of_each_known_set_is_told_by_the_runs_own_loss_and_constraints():
    found = search(
        objectives=[Bright(goal={"equals": 0.3}, weight=2.0)],
        constraints=[Bright(name="limit", goal={"at_least": 0.4})],
    )
    shades, one = lo.standings(found)
    assert (shades.name, shades.count) == ("shades", 41)
    assert (shades.row, shades.design) == (15, "shade 15")  # of 41 from 0.1 to 0.9: 0.4
    assert (one.row, one.design) == (0, "")
    assert shades.terms["bright"] == pytest.approx(0.4, abs=1e-6), (
        "of those that keep the constraint, the nearest to 0.3"
    )
    assert shades.loss == pytest.approx(2 * 0.1**2, rel=1e-4)
    assert shades.violation == pytest.approx(0, abs=1e-7)
    assert one.terms == {"bright": pytest.approx(0.9), "limit": pytest.approx(0.9)}


def test_a_set_that_some_objective_does_not_know_has_no_standing():
    assert lo.standings(search(objectives=[Bright(), "prior"])) == []
    assert lo.standings(search(objectives=[lambda c: c.latents.sum(1)])) == []


def test_what_the_target_itself_has_is_told():
    target = torch.full((1, 8, 8), 0.375)
    more = {"objectives": ["mse", Bright(scale=2)], "measures": [Bright(name="once")]}
    found = search(target=target, **more)
    assert known.of_target(found) == {"bright": pytest.approx(0.75), "once": pytest.approx(0.375)}
    assert knownsection.sentences(found)[0] == "the target has bright 0.75, once 0.375"
    assert "<p>The target has bright 0.75, once 0.375.</p>" in lo.report(found)
    assert known.of_target(search(objectives=[Bright()])) == {}
    two = search(target=torch.stack([target, target / 3]), **more)
    assert known.of_target(two, 1)["bright"] == pytest.approx(0.25)
    assert "The target has" not in lo.report(two)
    masked = search(target=target, objectives=["mse", Bright(mask=torch.ones(2))])
    assert known.of_target(masked) == {"bright": pytest.approx(0.375)}, "numbers by value are no file"


def test_a_value_beyond_a_bound_is_told(monkeypatch):
    def reference(self, designs):
        axis = torch.tensor([0.0, 1.0])
        bounds = {"strict lower": (axis, 2 + axis), "strict upper": (axis, 0 * axis), "wide upper": (axis, 9 + axis)}
        return lo.Reference("spread", designs.flatten(1).std(1), bounds)

    monkeypatch.setattr(Bright, "reference", reference)
    found = search(objectives=[Bright()])
    (between,) = known.between(found, 0, known.references(found))
    assert between.beyond == ["strict lower", "strict upper"]
    assert knownsection.sentences(found)[0].endswith("; it lies beyond strict lower and strict upper")
    assert '<span class="warn">it lies beyond strict lower and strict upper</span>' in lo.report(found)
    near = known.Between("bright", 1.0009, "spread", 0.0, {"a upper": 1.0, "a lower": 1.0019, "b": 0.0})
    assert near.beyond == []


def test_a_front_is_compared_by_hypervolumes():
    spread = {"starts": [{"kind": "prior", "n": 6}]}
    front = search(objectives=[Bright(scale=2), Bright(goal="maximize", name="most")], pareto=True, **spread)
    shades, one = lo.standings(front)
    corner = front.reference[0].double()
    losses = torch.stack([2 * GIVEN, -GIVEN], 1).double()
    beneath = (losses < corner).all(1)
    assert beneath.any()
    steps = losses[beneath]  # the less of one, the more of the other: a staircase
    last = torch.cat([corner[1:], steps[:-1, 1]])
    volume = float(((corner[0] - steps[:, 0]) * (last - steps[:, 1])).sum())
    assert shades.hypervolume == pytest.approx(volume, rel=1e-5)
    assert 0 <= one.hypervolume <= shades.hypervolume
    assert (shades.feasible, shades.ahead) == (41, 41), "the less of one is the more of the other"
    assert knownsection.sentences(front)[0].startswith("shades have the hypervolume ")
    assert knownsection.sentences(front)[0].endswith("; 41 of 41 are not dominated by the front found")
    page = lo.report(front)
    assert "<th>front of</th>" in page
    assert ">41 of 41<" in page
    assert page.count('class="dot known0" d="M') > 1  # behind the front too, and in its legend
    held = search(
        objectives=[Bright(scale=2), Bright(goal="maximize", name="most")],
        constraints=[Bright(name="limit", goal={"at_most": 0.05})],
        pareto=True,
    )
    none = [(one.hypervolume, one.feasible, one.ahead) for one in lo.standings(held)]
    assert none == [(0, 0, 0), (0, 0, 0)], "none keeps the constraint"
    both = [Bright(scale=2), Bright(name="also")]
    some = search(objectives=both, constraints=[Bright(name="limit", goal={"at_least": 0.3})], pareto=True, **spread)
    least = float(some.terms["also"][some.feasible].min())
    ahead = int(((least > GIVEN) & (GIVEN >= 0.3)).sum())
    first = lo.standings(some)[0]
    assert (first.feasible, first.ahead) == (int((GIVEN >= 0.3).sum()), ahead)
    assert f"{ahead} of the {int((GIVEN >= 0.3).sum())} that keep" in knownsection.sentences(some)[0]
    assert 0 < ahead < 20
    assert knownsection.behind(held, 0) == {}


def test_known_designs_without_a_value_are_not_counted(monkeypatch):
    whole = Bright.reference

    def holed(self, designs):
        given = whole(self, designs)
        known = {name: (x, torch.where(y == y[0], torch.nan, y)) for name, (x, y) in given.known.items()}
        return lo.Reference(given.axis, given.of_N, {}, known)

    monkeypatch.setattr(Bright, "reference", holed)
    front = search(objectives=[Bright(scale=2), Bright(goal="maximize", name="most")], pareto=True)
    assert "; 40 of 40 are not dominated" in knownsection.sentences(front)[0]


def test_a_plugins_fault_costs_a_front_its_cloud_alone(monkeypatch):
    front = search(objectives=[Bright(scale=2), Bright(goal="maximize", name="most")], pareto=True)

    def fail(self, designs):
        raise RuntimeError("no table")

    monkeypatch.setattr(Bright, "reference", fail)
    assert knownsection.behind(front, 0) == {}
    assert "could not be shown (RuntimeError: no table)" in lo.report(front)


def test_a_value_lies_between_its_bounds_at_its_own_place():
    found = search(objectives=[Bright(scale=2)])
    (one,) = known.between(found, 0, known.references(found))
    assert one.axis == "spread"
    assert one.at == pytest.approx(float(found.designs[0].std()))
    assert one.bounds == {"none": 0.0, "all": pytest.approx(2 * (1 + one.at))}
    assert one.value == found.best.terms["bright"]


def test_arrays_of_the_run_reach_the_objective_and_files_do_not(tmp_path):
    seen = []

    class Masked(Bright):
        kind: Literal["masked"] = "masked"

        def reference(self, designs):
            seen.append(self.mask.tensor())
            return super().reference(designs)

    registered = known.installed()
    kinds = {**registered.kinds("objectives"), "masked": Masked}
    registered.kinds = lambda slot: kinds
    mask = torch.arange(4.0)
    found = search(objectives=[Masked(mask=mask)])
    assert list(known.references(found)) == ["masked"]
    assert seen[0].equal(mask)
    torch.save({}, tmp_path / "x.pt")
    found.config["task"]["objectives"][0]["mask"] = {"path": str(tmp_path / "x.npy")}
    assert known.references(found) == {}, "what a config names by path is not opened"


def test_a_report_shows_it_and_escapes_it():
    found = search(objectives=[Bright()], measures=[Bright(name="again")])
    page = lo.report(found)
    assert "Beside what is known" in page
    assert "again, measured" in page
    assert "shades (41): shade 0<" in page
    assert "one shade (1)<" in page
    assert page.count('class="chart"') >= 4


@pytest.mark.parametrize("share", [0, 0.5, 1, 1.001, 2.999])
def test_of_many_known_designs_the_best_is_drawn_among_others(share):
    most = knownsection._MOST_KNOWN
    count = max(1, int(share * most))
    row = torch.arange(float(count))
    for best in {0, count // 2, count - 1}:
        drawn = knownsection._thinned(row, -row, best)
        assert (best, -best) in drawn
        assert min(count, most // 2) <= len(drawn) <= most


def test_names_of_what_is_known_are_escaped(monkeypatch):
    text = "<img src=x onerror=alert(1)>"
    found = search(objectives=[Bright(name=text)], measures=[Bright(name=f"{text} 2")])
    axis = torch.tensor([0.0, 1.0])
    wild = lo.Reference(
        text, torch.zeros(1), bounds={text: (axis, axis)}, known={text: (axis, axis)}, names={text: [text, text]}
    )
    monkeypatch.setattr(Bright, "reference", lambda self, designs: wild)
    page = lo.report(found)
    assert "Beside what is known" in page
    assert "<img src=x" not in page


def test_a_reference_that_fails_costs_no_report(monkeypatch):
    found = search(objectives=[Bright()])

    def broken(self, designs):
        raise ValueError("no table")

    monkeypatch.setattr(Bright, "reference", broken)
    assert "could not be shown (ValueError: no table)" in lo.report(found)
    assert knownsection.sentences(found) == ["what is known beforehand could not be told (ValueError: no table)"]


def test_nothing_is_said_where_nothing_is_known():
    assert "Beside what is known" not in lo.report(search(objectives=["prior"]))


def test_the_command_line_says_it(tmp_path, monkeypatch):
    found = search(objectives=[Bright()])
    said = knownsection.sentences(found)
    assert said[0] == "the best of shades, shade 0, has the loss 0.1"
    assert said[1] == "the best of one shade has the loss 0.9"
    assert said[2].startswith("bright ")
    assert "none 0, all " in said[2]
    options = [
        "--decoder",
        "digits",
        "--objective",
        "prior",
        "--measure",
        "{kind: prior, name: again}",
        "--starts",
        "mean",
    ]
    done = CliRunner().invoke(app, ["optimize", *options, "--search", "{kind: adam, steps: 2}", "--json"])
    assert done.exit_code == 0, done.output
    best = json.loads(done.stdout)["best"]
    assert best["measures"]["again"] == pytest.approx(best["terms"]["prior"])


def test_a_target_that_is_not_there_has_no_standings():
    with pytest.raises(lo.ConfigError, match="target 1 has no rows: targets go from 0 to 0"):
        lo.standings(search(objectives=[Bright()]), target=1)


def test_what_was_asked_of_each_term_is_told_by_name():
    found = search(objectives=[Bright(weight=2.0), "prior"], constraints=[Bright(name="limit", goal={"at_least": 0.4})])
    asked = found.asked()
    assert [(name, one.plain["kind"], one.constraint) for name, one in asked.items()] == [
        ("bright", "bright", False),
        ("prior", "prior", False),
        ("limit", "bright", True),
    ]
    found.config["task"]["constraints"] = []
    assert found.asked() == {}

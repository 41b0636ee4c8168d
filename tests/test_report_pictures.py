"""What objectives draw of the designs found: which designs they are given, and how a report shows it."""

import base64
import dataclasses
import io

import pytest
import torch
from PIL import Image
from report_page import Page, assert_sound
from report_runs import Drawn, run, with_drawn
from xss import CORPUS

import latentopt as lo
from latentopt import thumbnails


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    with_drawn(monkeypatch)


def shown(page):
    """The pictures of the section by title."""
    found = Page(page)
    alts = [one for one in found.all("img") if ", drawn by " in one.get("alt", "")]
    return {one["alt"].rpartition(", drawn by ")[0]: opened(one["src"]) for one in alts}


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_an_objective_draws_the_distinct_designs_best_first():
    found = run(objectives=[Drawn()], starts=[{"kind": "prior", "n": 8}])
    page = lo.report(found)
    assert "A closer look" in page
    assert "What objectives draw of these designs, best first." in page
    picture = shown(page)["Means of designs"]
    designs = found.top(24, distinct=True).designs
    assert picture.size == (len(designs), 20)
    assert [picture.convert("L").getpixel((i, 0)) for i in range(len(designs))] == [
        round(255 * float(one.mean())) for one in designs
    ]


def test_of_several_targets_the_best_of_each_is_drawn_with_the_targets_filled_in(monkeypatch):
    asked = []
    monkeypatch.setattr(Drawn, "pictures", lambda self, designs: asked.append((self.target.tensor(), designs)) or {})
    found = run(targets=3, objectives=["mse", Drawn()])
    page = lo.report(found)
    (targets, designs), *more = asked
    assert not more
    assert torch.equal(targets, found.targets)
    assert torch.equal(designs, found.best.design)
    assert "A closer look" not in page, "it drew nothing"
    few = dataclasses.replace(found.take(torch.nonzero(found.target_index == 2)[:, 0]), targets=found.targets)
    lo.report(few)
    assert torch.equal(asked[-1][0], found.targets[2:]), "the target of the designs that are left"


def test_of_a_front_the_ends_are_drawn_first(monkeypatch):
    asked = []
    monkeypatch.setattr(Drawn, "pictures", lambda self, designs: asked.append(designs) or {"one": torch.ones(1, 4, 4)})
    ink = {"kind": "property", "function": lambda x: -x.flatten(1).mean(1), "name": "ink"}
    starts = [{"kind": "prior", "n": 8}]
    found = run(objectives=[Drawn(), "prior", ink], pareto=True, starts=starts, search={"kind": "adam", "steps": 20})
    page = lo.report(found)
    assert "What objectives draw of the front, its ends first." in page
    front, (designs,) = found.front(), asked
    assert len(front) > 3
    assert torch.equal(designs[0], front.designs[0])
    assert torch.equal(designs[1], front.designs[-1])
    assert len(designs) == len(torch.unique(designs.flatten(1), dim=0))


def test_of_one_title_the_first_is_shown_and_objectives_come_before_measures():
    found = run(
        objectives=[Drawn(name="first")],
        constraints=[Drawn(name="second", title="Another", goal={"at_most": 1.0})],
        measures=[Drawn(name="third", noise=8), Drawn(name="fourth", title="Of a measure")],
    )
    page = lo.report(found)
    assert list(shown(page)) == ["Means of designs", "Another", "Of a measure"]
    assert "Means of designs, drawn by first" in page
    assert "drawn by third" not in page


def test_pictures_that_fail_cost_no_report_and_no_other_pictures(monkeypatch):
    real = Drawn.pictures

    def some(self, designs):
        designs.zero_()  # its own copy
        if self.title == "broken":
            raise RuntimeError("no <ink>")
        return {"wide": torch.ones(4)} if self.title == "wrong" else real(self, designs + 1)

    monkeypatch.setattr(Drawn, "pictures", some)
    names = ["broken", "wrong", "sound"]
    found = run(objectives=[Drawn(name=name, title=name) for name in names])
    before = found.designs.clone()
    page = lo.report(found)
    assert list(shown(page)) == ["sound"]
    assert "broken could not draw its pictures (RuntimeError: no &lt;ink&gt;)" in page
    assert "wrong could not draw its pictures (ValueError: &#39;wide&#39; has the shape (4,), expected" in page
    assert torch.equal(found.designs, before)
    monkeypatch.setattr(Drawn, "pictures", lambda self, designs: {"bright": torch.full((1, 2, 2), 2.0)})
    assert "&#39;bright&#39; has values that are not in 0 to 1" in lo.report(found)


def test_an_objective_that_fails_before_it_draws_costs_no_report(monkeypatch):
    found = run(objectives=[Drawn()])

    def fail(self, target):
        raise RuntimeError("no target")

    monkeypatch.setattr(Drawn, "with_target", fail)
    page = lo.report(found)
    assert "The objectives could not draw its pictures" not in page
    assert "no objective could be asked for pictures (RuntimeError: no target)" in page


def test_objectives_that_draw_nothing_have_no_section():
    assert "A closer look" not in lo.report(run())


def test_nothing_that_a_config_names_is_opened(tmp_path):
    found = run(objectives=[Drawn()])
    found.config["task"]["objectives"][0]["target"] = {"path": str(tmp_path / "x.npy")}
    assert "A closer look" not in lo.report(found)


@pytest.mark.parametrize("text", CORPUS)
def test_titles_are_no_markup(text, monkeypatch):
    monkeypatch.setattr(Drawn, "pictures", lambda self, designs: {text: torch.ones(1, 4, 4)})
    page = lo.report(run(objectives=[Drawn()]))
    assert_sound(Page(page))
    assert page.count("<script") == 2


def test_many_large_and_noisy_pictures_are_few_and_small(monkeypatch):
    noise = {f"picture {i}": torch.rand(3, 900, 1800) for i in range(3)}
    monkeypatch.setattr(
        Drawn, "pictures", lambda self, designs: noise | {f"small {i}": torch.ones(1, 4, 4) for i in range(20)}
    )
    page = lo.report(run(objectives=[Drawn()]))
    assert len(shown(page)) == 12
    assert "and 11 pictures more, which this page leaves out" in page
    assert len(page) < 600_000
    wide, high = shown(page)["picture 0"].size
    assert 1.9 < wide / high < 2.1


def test_a_picture_fits_into_its_letters_and_is_exact_where_it_fits():
    lines = torch.ones(3, 300, 1200)
    lines[:, ::7] = 0.25
    lines[0, :, ::31] = 0
    uri = thumbnails.fitted(lines, 1440, 100_000)
    assert len(uri) <= 100_000
    found = torch.frombuffer(bytearray(opened(uri).convert("RGB").tobytes()), dtype=torch.uint8).view(300, 1200, 3)
    assert torch.equal(found.permute(2, 0, 1), (lines * 255).round().to(torch.uint8))
    assert opened(thumbnails.fitted(lines, 600, 100_000)).size == (600, 150)
    noise = torch.rand(3, 400, 400)
    assert len(thumbnails.fitted(noise, 1440, 50_000)) <= 50_000
    assert max(opened(thumbnails.fitted(noise, 1440, 50_000)).size) > 80, "no smaller than need be"
    assert opened(thumbnails.fitted(noise, 1440, 10)).size == (8, 8)

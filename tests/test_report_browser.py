"""Reports in a real browser: they render on a phone and on a wide screen, light and dark, and nothing from a file runs.

The browser is Debian's `chromium`, driven by Playwright; without one these tests are skipped.
"""

import dataclasses
import io
import shutil

import numpy as np
import pytest
from PIL import Image
from report_runs import FAST, Drawn, hostile, ink, run, with_drawn
from xss import CORPUS

import latentopt as lo
from latentopt.testing import toy_decoders

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
    # Chromium's pipes are closed by its own garbage, later than the test that used them
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SIZES = [(390, 844), (1400, 900)]


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    bound = {"kind": "property", "function": ink, "name": "ink", "goal": {"at_most": -1.0}}
    objectives = ["mse", {"kind": "property", "function": ink, "name": "ink"}]
    runs = {
        "image": run(search=[FAST, {"kind": "lbfgs", "steps": 4}], budget={"rows": 400}),
        "targets": run(targets=4, search=[[FAST, {"kind": "lbfgs", "steps": 4}], FAST]),
        "terms": run(
            targets=2,
            objectives=["mse", {"kind": "mae", "name": "a name that is long, " * 6}],
            constraints=[
                {**bound, "goal": {"between": [0.2, 0.6]}},
                {**bound, "name": "w" * 90, "goal": {"at_most": 1}},
            ],
            search=[FAST, {"kind": "lbfgs", "steps": 4}],
        ),
        "waveform": run("waveform"),
        "infeasible": run(constraints=[bound]),
        "front": run(objectives=objectives, pareto=True, search={"kind": "adam", "steps": 20}),
    }
    evil = hostile(runs["front"], "".join(CORPUS))
    runs["evil"] = dataclasses.replace(evil, reference=runs["front"].reference)
    pages = {name: base / f"{name}.html" for name in (*runs, "compared")}
    runs["pictures"] = run(
        objectives=[Drawn(noise=500, title="A picture that is wider than a phone")], measures=[Drawn(title="w" * 190)]
    )
    pages["pictures"] = base / "pictures.html"
    with pytest.MonkeyPatch.context() as monkeypatch:
        with_drawn(monkeypatch)
        for name, result in runs.items():
            lo.report(result, out=pages[name])
    lo.report(runs["image"], runs["infeasible"], hostile(runs["image"], CORPUS[0]), out=pages["compared"])
    return pages


class Visit:
    """A page that was opened, and everything that it did wrong."""

    def __init__(self, browser, path, size, scheme="light", touch=False):
        self.wrong = []
        width, height = size
        view = {"width": width, "height": height}
        self.context = browser.new_context(viewport=view, color_scheme=scheme, has_touch=touch)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("popup", lambda popup: self.wrong.append("popup"))
        self.page.on("framenavigated", lambda frame: self.wrong.append("navigated") if self.opened else None)
        self.page.route("**/*", self._route)
        self.open(path)

    def open(self, path):
        self.opened, self.address = False, path.as_uri()
        self.page.goto(self.address)
        self.opened = True

    def _route(self, route):
        if route.request.url == self.address and not self.opened:
            route.continue_()
        elif not route.request.url.startswith("data:"):
            self.wrong.append(f"request: {route.request.url}")
            route.abort()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()

    def pixels(self):
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"), dtype=float)


NAMES = ["image", "targets", "terms", "waveform", "infeasible", "front", "compared", "evil", "pictures"]


@pytest.mark.parametrize("size", SIZES, ids=["phone", "wide"])
@pytest.mark.parametrize("name", NAMES)
def test_it_fits_every_screen_in_light_and_dark(browser, folders, name, size):
    for scheme in ("light", "dark"):
        with Visit(browser, folders[name], size, scheme) as visit:
            page = visit.page
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0], "it scrolls sideways"
            light = visit.pixels().mean()
            assert (light > 150) if scheme == "light" else (light < 110)
            broken = "[...document.images].filter(i => i.src && !(i.complete && i.naturalWidth)).length"
            assert page.evaluate(broken) == 0
            assert page.evaluate("window.hit") is None
            empty = (
                "[...document.querySelectorAll('section')].filter(s => s.getBoundingClientRect().height < 40).length"
            )
            assert page.evaluate(empty) == 0
            assert visit.wrong == []


@pytest.mark.parametrize("size", SIZES, ids=["phone", "wide"])
@pytest.mark.parametrize("name", ["image", "front", "compared", "waveform", "terms"])
def test_no_words_of_a_chart_overlap(browser, folders, name, size):
    script = """() => [...document.querySelectorAll('.chart')].flatMap(chart => {
        const words = [...chart.querySelectorAll('.lanes span, .plot span, .yl, .legend li')];
        const boxes = words.map(w => [w.textContent, w.getBoundingClientRect()]);
        return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([, q]) =>
            p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 1 && q.top < p.bottom - 1
        ).map(([b]) => `${a} | ${b}`));
    })"""
    with Visit(browser, folders[name], size) as visit:
        assert visit.page.evaluate(script) == []


def test_paths_and_small_charts_are_seen(browser, folders):
    with Visit(browser, folders["terms"], SIZES[1]) as visit:
        page = visit.page
        boxes = [page.locator("#terms .plot").nth(i).bounding_box() for i in range(4)]
        assert all(box["width"] > 200 and box["height"] > 100 for box in boxes)
        assert boxes[0]["y"] == boxes[1]["y"], "they stand side by side"
        seen = "getComputedStyle(document.querySelector('#map .plot .path')).stroke"
        assert page.evaluate(seen) == page.evaluate(
            "getComputedStyle(document.querySelector('#map .plot .top')).stroke"
        )
        holes = "getComputedStyle(document.querySelector('#map .plot .hole')).stroke"
        assert page.evaluate(holes) == "rgb(255, 255, 255)", "where a path begins is a ring, where it ends a full dot"
        assert visit.wrong == []


def test_pointing_at_the_map_shows_the_design(browser, folders):
    with Visit(browser, folders["image"], SIZES[1]) as visit:
        page, tip = visit.page, visit.page.locator("#tip")
        assert not tip.is_visible()
        mark = page.locator("#map [data-p]").last  # drawn on top of the others
        page.locator("#map .plot").scroll_into_view_if_needed()
        for _ in range(20):  # the page may still be scrolling to the mark, which hides the tip again
            mark.hover(force=True)
            page.wait_for_timeout(100)
            if tip.is_visible():
                break
        assert tip.is_visible()
        shown = tip.locator("img").get_attribute("src")
        points = page.evaluate("JSON.parse(document.getElementById('points').textContent)")
        point = points[int(mark.get_attribute("data-p"))]
        assert shown == point["u"]
        assert tip.inner_text().strip() == point["t"]
        assert page.evaluate("document.querySelector('#tip img').naturalWidth") == 8
        box = tip.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= SIZES[1][0]
        page.mouse.move(2, 2)
        assert not tip.is_visible()
        assert visit.wrong == []


def test_a_touch_on_a_front_shows_the_design(browser, folders):
    with Visit(browser, folders["front"], SIZES[0], touch=True) as visit:
        plot = visit.page.locator("#fronts .plot").first
        plot.scroll_into_view_if_needed()
        mark = visit.page.locator("#fronts [data-p]").first.bounding_box()
        visit.page.touchscreen.tap(mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2)
        assert visit.page.locator("#tip").is_visible()
        assert "mse" in visit.page.locator("#tip").inner_text()
        assert visit.wrong == []


def test_the_config_is_copied(browser, folders):
    with Visit(browser, folders["image"], SIZES[1]) as visit:
        visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
        visit.page.get_by_role("button", name="Copy").click()
        visit.page.get_by_role("button", name="Copied").wait_for()
        copied = visit.page.evaluate("navigator.clipboard.readText()")
        assert copied == visit.page.locator("#config-text").text_content()
        assert visit.wrong == []


def test_nothing_from_a_file_runs(browser, folders, tmp_path):
    result = run()
    with Visit(browser, folders["image"], SIZES[0]) as visit:
        for number, text in enumerate(CORPUS):
            path = tmp_path / f"{number}.html"
            lo.report(hostile(result, text), out=path)
            visit.open(path)
            visit.page.wait_for_timeout(20)
            assert visit.page.evaluate("window.hit") is None, text
            assert visit.wrong == [], text


def test_notebook_cards_run_nothing(browser, tmp_path):
    result = run()
    draws = lo.sample(toy_decoders()["image"], 3)
    cards = [hostile(result, text)._repr_html_() for text in CORPUS] + [draws._repr_html_()]
    (tmp_path / "cards.html").write_text(f"<!doctype html><link rel=icon href='data:,'>{''.join(cards)}")
    with Visit(browser, tmp_path / "cards.html", SIZES[1]) as visit:
        visit.page.wait_for_timeout(50)
        assert visit.page.evaluate("window.hit") is None
        assert visit.page.locator("img").count() >= len(CORPUS)
        assert visit.wrong == []

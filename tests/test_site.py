"""The documentation as a site: it builds without a warning, has all of it, loads nothing from elsewhere, and fits a phone.

The browser is Debian's `chromium`, driven by Playwright; without one those tests are skipped.
"""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import latentopt

pytest.importorskip("material", reason="the extra 'docs' is not installed")
pytest.importorskip("mkdocstrings", reason="the extra 'docs' is not installed")
ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LOADED = re.compile(
    r"<(script|link|img|iframe|source|video|audio|object|embed)\b[^>]*?\b(?:src|href|data)=[\"']?([^\"' >]+)"
)
SIZES = [(390, 844), (1400, 900)]
# A page of each sort: text and links, wide tables, long lines of code, signatures
SHOWN = [
    "index.html",
    "performance.html",
    "writing-a-plugin.html",
    "configuration.html",
    "api.html",
    "decisions/index.html",
]


def run(*command, cwd):
    """What a command says, on both streams; it must succeed. Nothing that it asks for comes from another machine."""
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **closed, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        [str(one) for one in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, of which no warning was given."""
    folder = tmp_path_factory.mktemp("site")
    said = run(sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder, cwd=ROOT)
    assert "WARNING" not in said
    assert "Documentation built" in said
    return folder


def pages_of(folder):
    return sorted(path for path in folder.rglob("*.html"))


def test_every_page_is_there_and_every_decision_in_the_navigation(site):
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert len(pages) >= 35
    start = (site / "index.html").read_text()
    for page in pages:
        assert (site / page).is_file()
        assert f'href="{page}"' in start, f"{page} is not in the navigation"


def test_every_public_name_is_described(site):
    text = (site / "api.html").read_text()
    import griffe

    known = griffe.load("latentopt", search_paths=[str(ROOT)])
    for name in set(latentopt.__all__) - {"__version__"}:
        assert (known[name].final_target if known[name].is_alias else known[name]).docstring, f"{name} has no docstring"
    for name in set(latentopt.__all__) - {"__version__"}:
        assert f'id="latentopt.{name}"' in text, f"{name} is not on the page"
    assert "objectives whose goal is a bound that must hold" in text  # from the docstring of optimize


def loads_of(page):
    """What a page loads when it is opened, rather than links to."""
    found = LOADED.findall(page.read_text())
    return [address for _, address in found if not address.startswith("data:")]


def test_pages_load_nothing_from_elsewhere(site):
    assert len(loads_of(site / "index.html")) >= 5
    for page in pages_of(site):
        for address in loads_of(page):
            assert not re.match(r"([a-z]+:)?//", address), f"{page.name} loads {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text()), (
            f"{sheet.name} loads from elsewhere"
        )


def test_no_fence_or_table_is_left_as_text(site):
    for page in pages_of(site):
        text = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        text = re.sub(r"<[^>]*>", "", text)
        left = re.findall(r"^.*(?:```|\| ?---|^\s*::: |\]\().*$", text, re.MULTILINE)
        assert left == [], f"{page.name}: {left[:3]}"


def test_zensical_builds_the_same_pages(site, tmp_path):
    pytest.importorskip("zensical", reason="zensical is not installed")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for folder in ("docs", "latentopt"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    said = run(Path(sys.executable).with_name("zensical"), "build", "--strict", cwd=tmp_path)
    assert "No issues found" in said
    assert "griffe" not in said
    made = [path.relative_to(tmp_path / "site") for path in pages_of(tmp_path / "site")]
    assert made == [path.relative_to(site) for path in pages_of(site)]
    for page in pages_of(tmp_path / "site"):
        assert not [address for address in loads_of(page) if re.match(r"([a-z]+:)?//", address)]
    assert 'id="latentopt.optimize"' in (tmp_path / "site/api.html").read_text()


# ---------------------------------------------------------------------- in a browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        """Nothing."""


@pytest.fixture(scope="module")
def address(site):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def visit(browser, page, size, scheme="light"):
    """A page that was opened, and all that it did wrong: errors, and requests to anywhere but where it came from."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    opened, wrong = context.new_page(), []
    home = page[: page.index("/", len("http://"))]

    def route(route):
        if route.request.url.startswith((f"{home}/", "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(f"request: {route.request.url}")
            route.abort()

    context.route("**/*", route)
    opened.on("console", lambda message: wrong.append(f"console: {message.text}"))
    opened.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    opened.goto(page, wait_until="networkidle")
    return opened, wrong


SIDEWAYS = """() => [...document.querySelectorAll('article :is(table, pre, p, li, h3)')].filter(e => {
    const box = e.getBoundingClientRect();
    if (!box.width) return false;
    for (let up = e; up && up.tagName != 'ARTICLE'; up = up.parentElement)
        if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(up).overflowX)) return false;
    return box.right > innerWidth + 1;
}).map(e => e.tagName + ' ' + e.textContent.slice(0, 60))"""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", SIZES, ids=["phone", "wide"])
@pytest.mark.parametrize("page", SHOWN)
def test_it_fits_every_screen_in_light_and_dark(browser, address, page, size):
    for scheme in ("light", "dark"):
        opened, wrong = visit(browser, f"{address}/{page}", size, scheme)
        assert opened.evaluate("document.documentElement.scrollWidth") <= size[0], "it scrolls sideways"
        assert opened.evaluate(SIDEWAYS) == []
        colour = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
        assert (light > 200) if scheme == "light" else (light < 80)
        assert wrong == []
        opened.context.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_search_finds_words(browser, address):
    opened, wrong = visit(browser, f"{address}/index.html", SIZES[1])
    opened.locator("input[name=query]").click()
    opened.keyboard.type("conformance kit")
    opened.locator(".md-search-result__link[href*='writing-a-plugin']").first.wait_for()
    assert wrong == []
    opened.context.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_may_be_read_from_a_disk(browser, site):
    opened, wrong = visit(browser, f"{site.as_uri()}/index.html", SIZES[1])
    opened.get_by_role("link", name="tutorial", exact=True).first.click()
    opened.get_by_role("heading", name="From a trained VAE").wait_for()
    assert [one for one in wrong if one.startswith("request")] == []
    opened.context.close()

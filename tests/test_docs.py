"""The docs run: code in README.md and docs/ is executed, generated pages are up to date, links lead somewhere."""

import re
import sys
from pathlib import Path

import pytest
from torch import nn

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
sys.path.insert(0, str(ROOT / "scripts"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/searching.md",
        "docs/compare.md",
        "docs/recipes.md",
        "docs/watching.md",
        "docs/writing-a-plugin.md",
    ],
)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / page, "python")
    assert code
    if page == "docs/watching.md":
        pytest.importorskip("tensorboard")
    space = {"my_module": nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 9)), "__name__": "page"}
    for number, block in enumerate(code):
        exec(compile(block, f"{page} block {number}", "exec"), space)


def test_the_page_on_plugins_shows_the_plugin_as_it_is():
    shown = blocks(ROOT / "docs/writing-a-plugin.md", "python")[0]
    real = (ROOT / "plugins/latentopt-tv/src/latentopt_tv/__init__.py").read_text()
    assert shown in real
    lines = [line for line in shown.splitlines() if line.strip()]
    assert len(lines) <= 18


def test_generated_pages_are_up_to_date():
    import make_docs

    for path, text in make_docs.pages().items():
        assert path.read_text() == text, f"{path.name} is out of date: run python scripts/make_docs.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_every_figure_on_the_performance_page_was_written_by_a_benchmark():
    text = (ROOT / "docs/performance.md").read_text()
    sections = re.findall(r"<!-- begin (.+?) -->\n(.*?)<!-- end \1 -->", text, re.DOTALL)
    assert len(sections) >= 4
    for name, body in sections:
        assert "Written by `python -m benchmarks`" in body, f"section {name!r} is empty"


def test_the_map_names_every_file_of_the_core():
    text = (ROOT / "docs/architecture.md").read_text()
    for path in (ROOT / "latentopt").glob("*.py"):
        assert path.name in text, f"docs/architecture.md does not say what {path.name} is for"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_config_files_shown_are_valid(page):
    from latentopt.config import make_config
    from latentopt.yamltext import parse_yaml

    for block in blocks(page, "yaml"):
        data = parse_yaml(block)
        if "task" in data and "decoder" in data and "pareto" not in data["task"]:
            make_config(data)

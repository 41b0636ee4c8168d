"""The docs run: code in README.md and docs/ is executed, generated pages are up to date, links lead somewhere."""

import contextlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from latentopt import cli

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
        "docs/report.md",
        "docs/runs.md",
        "docs/watching.md",
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


def fenced(page):
    """The fenced blocks of a page in their order: what a comment in the line above says, language, text."""
    return re.findall(r"(?:^<!-- ([^\n]*) -->\n)?^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def shell(line, code=0):
    """Runs a line of a page as a shell would, here: `latentopt`, `python` and `ls`."""
    command, *words = shlex.split(line)
    if command == "python":
        runpy.run_path(words[0], run_name="__main__")
        return ""
    if command == "ls":
        return " ".join(sorted(path.name for path in Path(words[0]).iterdir()))
    assert command == "latentopt"
    found = CliRunner().invoke(cli.app, words, env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert found.exit_code == code, found.stderr
    return found.stdout + found.stderr


def edit(path, changes):
    """Puts each line `key: value` in place of the line, or else the comment, that has this key."""
    text = path.read_text()
    for line in changes.splitlines():
        key = line.partition(":")[0]
        for there in (rf"^{key}:.*$", rf"^{key.replace(key.strip(), '# ' + key.strip())}:.*$"):
            text, found = re.subn(there, line, text, count=1, flags=re.MULTILINE)
            if found:
                break
        assert found, f"{path} has no {key}"
    path.write_text(text)


def test_the_tutorial_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_vae", raising=False)
    space, said, ran = {"__name__": "page"}, "", []
    with torch.random.fork_rng():  # the training script seeds as such scripts do
        for more, language, text in fenced(ROOT / "docs/tutorial.md"):
            if language == "python" and (name := re.match(r"# (\w+\.py)\n", text)):
                Path(name[1]).write_text(text)
            elif language == "python":
                exec(compile(text, "docs/tutorial.md", "exec"), space)
            elif language == "sh":
                said = "".join(shell(line, code=2 if more == "fails" else 0) for line in text.splitlines())
                ran += text.splitlines()
            elif language == "yaml":
                edit(Path(more.removeprefix("edit ")), text)
            else:
                assert text in said, "the page shows what was not said"
    assert [line.split()[1] for line in ran if line.startswith("latentopt")] == ["init", "run", "run", "run", "report"]
    assert {
        "result.safetensors",
        "result.json",
        "config.json",
        "history.jsonl",
        "checkpoints",
        "sheet.png",
        "losses.png",
    } <= {path.name for path in Path("found").iterdir()}
    assert (space["found"].stopped, space["more"].stopped) == ("budget", "finished")
    assert space["found"].config["decoder"]["data"].endswith("spots.npy")


def test_the_page_on_plugins_shows_the_plugin_as_it_is():
    shown = blocks(ROOT / "docs/writing-a-plugin.md", "python")[0]
    real = (ROOT / "plugins/latentopt-tv/src/latentopt_tv/__init__.py").read_text()
    assert shown in real
    lines = [line for line in shown.splitlines() if line.strip()]
    assert len(lines) <= 18


def test_the_page_on_plugins_begins_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line, *looked), *_ = (block.splitlines() for block in blocks(ROOT / "docs/writing-a-plugin.md", "sh"))
    assert "latentopt plugins new" in line
    assert "wrote " in shell(line)
    assert [shell(one) + "\n" for one in looked] == blocks(ROOT / "docs/writing-a-plugin.md", "text")[:1]


def test_the_page_on_plugins_shows_objectives_and_decoders_that_conform(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "page"}
    for number, block in enumerate(blocks(ROOT / "docs/writing-a-plugin.md", "python")):
        exec(compile(block, f"page block {number}", "exec"), space)
    kits = [one for name, one in space.items() if name.startswith("Test")]
    assert len(kits) == 5
    assert space["found"].best.feasible
    for kit in kits:
        checks = [name for name in dir(kit) if name.startswith("test_")]
        assert len(checks) >= 3
        for name in checks:
            with contextlib.suppress(pytest.skip.Exception):
                getattr(kit(), name)()


def test_generated_pages_are_up_to_date():
    import make_docs

    for path, text in make_docs.pages().items():
        assert path.read_text() == text, f"{path.name} is out of date: run python scripts/make_docs.py"


def test_every_decision_has_a_number_of_its_own():
    records = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    numbers = [int(path.name[:4]) for path in records]
    assert numbers == list(range(1, len(records) + 1))
    for number, path in zip(numbers, records, strict=True):
        assert path.read_text().startswith(f"# {number}. "), f"{path.name} has another number in its title"


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

    for more, language, block in fenced(page):
        if language != "yaml" or more.startswith(("edit ", "with ")):  # with a package, whose own tests run it
            continue
        data = parse_yaml(block)
        if "task" in data and "decoder" in data and "pareto" not in data["task"]:
            make_config(data)

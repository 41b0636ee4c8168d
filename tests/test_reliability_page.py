"""The page of promises: each names tests that there are, and figures that they have."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_promise_is_shown_by_a_test_that_is_there(file, name):
    (path,) = (ROOT / "tests").rglob(file)
    functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert name in functions


def test_each_row_names_a_test_and_a_figure():
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|") and "---" not in line]
    rows = [[cell.strip() for cell in row] for row in rows if row[0].strip() != "promise"]
    assert len(rows) > 20
    for promise, short, long, shown in rows:
        assert promise
        assert short
        assert long
        assert "::" in shown, promise


def test_the_long_forms_are_run_by_the_makefile():
    """Each file with a long form is in `make soak`."""
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^soak:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    long = [
        path.name
        for path in (ROOT / "tests").glob("test_*.py")
        if re.search("^from soak import", path.read_text(), re.MULTILINE)
    ]
    assert len(long) >= 5
    for name in [*long, "test_crashes.py"]:
        assert f"tests/{name}" in recipe, f"make soak leaves {name} out"


@pytest.mark.parametrize(
    ("file", "figure"),
    [
        ("test_crashes.py", '"LATENTOPT_KILLS", "20"'),
        ("test_fuzz.py", "TOTAL or 3500"),
        ("test_every_step.py", "MUTATIONS = figure(1000, 10_000)"),
        ("test_memory_runs_out.py", "STEPS = figure(2000, 20_000)"),
        ("test_one_folder.py", "RACES = figure(100, 1000)"),
        ("test_same_bits.py", "PROCESSES = figure(3, 20)"),
        ("test_signals.py", "TIMES = figure(5, 50)"),
    ],
)
def test_the_pages_figures_are_those_of_the_tests(file, figure):
    assert figure in (ROOT / "tests" / file).read_text(), f"change the figure in docs/reliability.md too: {figure}"

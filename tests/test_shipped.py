"""Run files that plugins ship as package data, named as plugin:run."""

import sys
from importlib import metadata

import pytest
from typer.testing import CliRunner

import latentopt as lo
from latentopt import shipped
from latentopt.cli import app

RUN = "decoder: {kind: digits}\ntask: {kind: sample, n: 2}\n"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed plugin `wood` whose package ships two runs; importing it fails."""
    package = tmp_path / "latentopt_wood"
    (package / "runs").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "runs" / "demo.yaml").write_text(RUN)
    (package / "runs" / "grain.yaml").write_text(RUN.replace("2", "3"))
    about = tmp_path / "latentopt_wood-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: latentopt-wood\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text("[latentopt]\nwood = latentopt_wood\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    assert "wood" in {entry.name for entry in metadata.entry_points(group="latentopt")}
    return package


def test_a_run_of_a_plugin_is_found_without_importing_it(plugin):
    assert shipped.run_file("wood:demo") == plugin / "runs" / "demo.yaml"
    assert list(shipped.runs_of("latentopt_wood.hooks")) == ["demo", "grain"]
    assert len(lo.run("wood:grain")) == 3
    done = CliRunner().invoke(app, ["run", "wood:demo", "--set", "task.n=4"])
    assert done.exit_code == 0, done.output
    assert "designs  4" in done.output


def test_a_file_of_that_name_comes_first(plugin, tmp_path):
    (tmp_path / "wood:demo").write_text(RUN)
    assert str(shipped.run_file("wood:demo")) == "wood:demo"


@pytest.mark.parametrize("text", ["run.yaml", "C:/runs/run.yaml", "wood:demo.yaml", "no-name:demo"])
def test_paths_stay_paths(text, plugin):
    assert str(shipped.run_file(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wod:demo", "'wod:demo' is no file, and no plugin 'wod' is installed; did you mean 'wood'?; installed: "),
        ("wood:demos", "plugin 'wood' ships no run 'demos'; did you mean 'demo'?; its runs: demo, grain"),
        ("std:demo", "plugin 'std' ships no run 'demo'; it ships none"),
    ],
)
def test_what_is_not_there_is_said(text, words, plugin):
    with pytest.raises(lo.ConfigError) as caught:
        shipped.run_file(text)
    assert words in str(caught.value)
    done = CliRunner().invoke(app, ["run", text])
    assert done.exit_code == 2
    assert words in done.output


def test_an_error_of_a_shipped_run_begins_with_where_it_stands(plugin):
    (plugin / "runs" / "far.yaml").write_text(
        "decoder: {kind: digits}\ntask: {kind: optimize, target: far.png, search: [{kind: adam, steps: 1}]}\n"
    )
    done = CliRunner().invoke(app, ["run", "wood:far"])
    assert done.exit_code == 2
    assert "far.yaml:2" in done.stderr
    assert "config file not found" not in done.stderr

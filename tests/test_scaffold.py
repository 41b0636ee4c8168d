"""`latentopt plugins new`: for every slot a distribution that installs, passes its tests and is used, untouched."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from typer.testing import CliRunner

import latentopt as lo
from latentopt import cli, scaffold

ROOT = Path(__file__).parents[1]
# Long and short words: what is written must keep its style with both
NAMES = {slot: f"{slot}-of-mine-with-a-name-as-long-as-it-may"[:40].rstrip("-") for slot in scaffold.SLOTS}
NAMES["decoder"] = "x"


def call(*arguments, code=0):
    found = CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": "300", "NO_COLOR": "1"})
    assert found.exit_code == code, found.output
    return found


def test_a_new_plugin_is_written_and_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = call("plugins", "new", "grain-size").stdout
    folder = Path("latentopt-grain-size")
    written = [
        "pyproject.toml",
        "README.md",
        "src/latentopt_grain_size/__init__.py",
        "src/latentopt_grain_size/py.typed",
        "src/latentopt_grain_size/runs/demo.yaml",
        "tests/test_grain_size.py",
    ]
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == sorted(written)
    assert [line for line in said.splitlines() if line.startswith("wrote ")] == [f"wrote {folder / p}" for p in written]
    assert "latentopt run grain_size:demo" in said
    about = tomllib.loads((folder / "pyproject.toml").read_text())
    assert about["project"]["name"] == "latentopt-grain-size"
    assert about["project"]["entry-points"] == {"latentopt": {"grain_size": "latentopt_grain_size"}}
    assert not any("$" in path.read_text() for path in folder.rglob("*") if path.is_file())


def test_names_may_be_those_of_the_distribution_or_of_the_kind(tmp_path):
    for number, name in enumerate(("latentopt-grain-size", "grain_size")):
        out = tmp_path / "new" / str(number)
        said = json.loads(call("plugins", "new", name, "--slot", "search", "--out", out, "--json").stdout)
        assert said["kind"] == "grain_size"
        assert said["folder"] == str(out)
        assert 'name = "latentopt-grain-size"' in (out / "pyproject.toml").read_text()
        assert "class GrainSizeSearch(SearchConfig)" in (out / "src/latentopt_grain_size/__init__.py").read_text()
    assert (
        json.loads(call("plugins", "--json", "new", "roughness", "--out", tmp_path / "r").stdout)["kind"] == "roughness"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Grain Size", "joined by single hyphens, beginning with a letter, got 'Grain Size': try 'grain-size'"),
        ("2-d", "got '2-d': try 'd'"),
        ("---", "got '---': try 'grain-size'"),
        ("a--b", "got 'a--b': try 'a-b'"),
        ("ä" * 100, "try 'grain-size'"),
        ("../evil", "got '../evil': try 'evil'"),
        ("a" * 41, "a plugin's name has at most 40 letters, got 41: shorten 'aaa"),
        ("null", "'null' is no word in a run file, where it means null itself: choose another name"),
        ("true", "'true' is no word in a run file"),
        ("std", "plugin 'std' is installed by latentopt: choose another name, or uninstall it"),
        ("mse", "objectives have a kind 'mse' already, of latentopt: choose another name"),
        ("cross-entropy", "objectives have a kind 'cross_entropy' already"),
    ],
)
def test_names_that_cannot_be(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = call("plugins", "new", "--", name, code=2)
    assert said.stderr.count("\n") == 1
    assert words in said.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_kind_is_taken_in_its_own_slot_only(tmp_path):
    call("plugins", "new", "mse", "--slot", "search", "--out", tmp_path / "mse")
    for name, slot in (("auto", "search"), ("mean", "sampler")):
        with pytest.raises(
            lo.ConfigError, match=f"'{name}' among .* of a run file means something else: choose another"
        ):
            scaffold.new_plugin(name, slot, tmp_path / name)


def test_an_unknown_slot_is_said(tmp_path):
    said = call("plugins", "new", "grain", "--slot", "searches", "--out", tmp_path / "x", code=2).stderr
    assert said == (
        "error: unknown slot 'searches'; did you mean 'search'?; a plugin is one of objective, sampler, interpolator, "
        "search, decoder\n"
    )


def test_nothing_is_overwritten(tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    said = call("plugins", "new", "grain", "--out", out, code=2).stderr
    assert f"{out} is there already, and nothing is overwritten: give another --out, or move it away" in said
    assert list(out.iterdir()) == []
    (tmp_path / "file").write_text("")
    said = call("plugins", "new", "grain", "--out", tmp_path / "file" / "below", code=2).stderr
    assert "cannot write" in said
    assert "choose another --out" in said


def test_what_is_written_keeps_its_style_with_short_names_and_long_ones(made, tmp_path):
    for slot in NAMES:
        scaffold.new_plugin("x" if len(NAMES[slot]) > 1 else "n" * 40, slot, tmp_path / slot)
    for base in (made, tmp_path):
        run(sys.executable, "-m", "ruff", "check", ".", cwd=base)
        run(sys.executable, "-m", "ruff", "format", "--check", ".", cwd=base)


# ---------------------------------------------------------------------- in an environment of its own


def run(*command, cwd, **environment):
    settings = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, cwd=cwd, env={**settings, **environment}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A plugin for every slot, written beside each other: the folder that they lie in."""
    base = tmp_path_factory.mktemp("plugins")
    for slot, name in NAMES.items():
        scaffold.new_plugin(name, slot, base / slot)
    return base


@pytest.fixture(scope="module")
def installed(made, tmp_path_factory):
    """The Python of a fresh environment with all five installed; it borrows what else is needed from this one by path."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=folder).strip()
    lent = [ROOT, ROOT / "plugins", sysconfig.get_paths()["purelib"]]
    (Path(packages) / "borrowed.pth").write_text("".join(f"{path}\n" for path in lent))
    pip = (python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    run(*pip, *(made / slot for slot in NAMES), cwd=made)
    return python


@pytest.mark.slow
def test_all_of_them_pass_their_tests_untouched(made, installed):
    for slot in NAMES:
        options = tomllib.loads((made / slot / "pyproject.toml").read_text())["tool"]["pytest"]
        assert options == tomllib.loads((made / "objective/pyproject.toml").read_text())["tool"]["pytest"]
    # one process and one import of torch for all of them; their options are the same
    tests = [made / slot / "tests" for slot in NAMES]
    said = run(installed, "-m", "pytest", "-q", "-c", made / "objective/pyproject.toml", *tests, cwd=made)
    assert "failed" not in said
    assert int(said.split(" passed")[0].split()[-1]) >= 40


USE = """
import json, sys
from typer.testing import CliRunner
from latentopt.cli import app

def call(*words):
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)

kinds = sys.argv[1:]
runs = {kind: call("run", kind + ":demo", "--json") for kind in kinds}
print(json.dumps({"listed": call("plugins", "--json"), "runs": runs}))
"""


@pytest.mark.slow
def test_all_of_them_are_listed_and_used(made, installed, tmp_path):
    kinds = {slot: name.replace("-", "_") for slot, name in NAMES.items()}
    said = json.loads(
        run(installed, "-c", USE, *kinds.values(), cwd=tmp_path, LATENTOPT_PLUGINS=",".join(["std", *kinds.values()]))
    )
    listed = {plugin["name"]: plugin for plugin in said["listed"]}
    for slot, kind in kinds.items():
        assert listed[kind]["distribution"] == f"latentopt-{NAMES[slot]}"
        assert listed[kind]["kinds"] == {scaffold.SLOTS[slot]: [kind]}
        assert listed[kind]["runs"] == [f"{kind}:demo"]
    assert listed["std"]["runs"] == []
    runs = {slot: said["runs"][kind] for slot, kind in kinds.items()}
    assert runs["objective"]["best"]["loss"] < 0.02  # a digit's mean is about 0.13; the demo asks for 0.2
    assert runs["search"]["best"]["loss"] < 10
    for slot, n in {"sampler": 16, "interpolator": 9, "decoder": 16}.items():
        assert runs[slot]["designs"] == n


@pytest.mark.slow
def test_what_is_written_keeps_its_types(made, installed, tmp_path):
    files = [path for slot in NAMES for path in (made / slot).rglob("*.py")]
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", installed, "--cache-dir", tmp_path)
    assert "no issues found in 10 source files" in run(*mypy, *files, cwd=tmp_path)

"""A wheel as a user gets it: built, installed beside a third party's plugin into an environment of its own, and used."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    for source in (ROOT, ROOT / "plugins" / "latentopt-tv"):
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source))
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def environment(wheels, tmp_path_factory) -> Path:
    """A fresh environment with both wheels; the heavy dependencies are borrowed from this one by path."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    packages = Path(
        run(str(folder / "bin/python"), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    )
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = (
        str(folder / "bin/python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
    )
    run(*pip, *(str(path) for path in wheels.values()))
    return folder


def latentopt(environment: Path, *arguments: str, cwd: Path) -> str:
    settings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    settings["LATENTOPT_PLUGINS"] = "std,tv"  # what else this environment lends is not installed in that one
    return run(str(environment / "bin/latentopt"), *arguments, cwd=cwd, env=settings)


def test_the_wheel_holds_both_packages_the_weights_and_their_licence(wheels):
    names = zipfile.ZipFile(wheels["latentopt"]).namelist()
    for wanted in (
        "latentopt/cli.py",
        "latentopt/py.typed",
        "latentopt/plugin_template/search.py.txt",
        "latentopt_std/adam.py",
        "latentopt_std/data/digits.safetensors",
        "latentopt_std/data/digits.json",
        "latentopt_std/data/LICENSE.md",
    ):
        assert wanted in names
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)
    assert wheels["latentopt"].stat().st_size < 2.5e6


def test_both_distributions_are_listed(environment, tmp_path):
    listed = latentopt(environment, "plugins", "--json", cwd=tmp_path)
    by_name = {plugin["name"]: plugin for plugin in json.loads(listed)}
    assert by_name["std"]["distribution"] == "latentopt"
    assert by_name["tv"]["distribution"] == "latentopt-tv"
    assert by_name["tv"]["kinds"] == {"objectives": ["tv"]}


def test_it_is_the_installed_package_that_runs(environment, tmp_path):
    where = run(
        str(environment / "bin/python"),
        "-c",
        "import latentopt, latentopt_std; print(latentopt.__file__)",
        cwd=tmp_path,
    )
    assert str(environment) in where


def test_a_run_uses_the_plugin(environment, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "decoder: digits\n"
        "task:\n  kind: optimize\n  objectives: [{kind: tv, goal: {equals: 0.1}}]\n  search: {kind: adam, steps: 20}\n"
    )
    found = json.loads(latentopt(environment, "run", "run.yaml", "--json", cwd=tmp_path))
    assert found["best"]["terms"]["tv"] == pytest.approx(0.1, abs=0.01)

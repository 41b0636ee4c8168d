"""docs/materials.md runs from top to bottom, and its pictures are drawn by their script."""

import importlib.util
import os
import re
import runpy
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import latentopt as lo
from latentopt.cli import app

HERE = Path(__file__).parents[1]
PAGE = HERE.parents[1] / "docs" / "materials.md"
IMAGES = PAGE.parent / "images"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the page lies in latentopt's repository")


def shell(line):
    command, *words = shlex.split(os.path.expandvars(line))
    assert command == "latentopt"
    found = CliRunner().invoke(app, words, env={"COLUMNS": "400", "NO_COLOR": "1"})
    assert found.exit_code == 0, found.output
    return found.stdout + found.stderr


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The page's names, once all of it ran."""
    folder, space, said = tmp_path_factory.mktemp("page"), {}, ""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PWD", str(folder))
        for language, text in re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
            if language == "sh":
                said = "".join(map(shell, text.splitlines()))
            elif language == "python":
                (folder / "block.py").write_text(text)
                space = runpy.run_path(str(folder / "block.py"), init_globals=space)
            else:
                assert language == "text"
                for line in text.splitlines():
                    assert line in said, f"the page shows what was not said: {line}"
        space |= {"layers": lo.load("anisotropic"), "front": lo.load("front")}
    return space


def test_the_page_keeps_its_word(ran):
    demo, foam = ran["demo"].best, ran["foam"].best
    assert float(demo.terms["conductivity"]) == pytest.approx(3.5, abs=0.001)
    assert float(demo.terms["volume_fraction"]) == pytest.approx(0.5, abs=0.0005)
    assert float(ran["change"].min()) <= abs(float(demo.measures["conductivity as thresholded"]) - 3.5)
    assert ran["chosen"].shape == (1, 64, 64)
    assert foam.feasible
    assert bool(foam.realism.inside)
    assert ran["draws"].terms["anisotropy"] == pytest.approx(2.46, abs=0.005)
    assert ran["polished"].best.loss < ran["explored"].best.loss
    assert float(ran["polished"].best.measures["percolation"]) > 0.9
    assert ran["again"].best.loss ** 0.5 < 0.003
    assert float(ran["improved"].best.loss) < 0.025
    better = ran["better"].best
    assert better.feasible
    assert bool(better.realism.inside)
    assert better.loss < 0.08


def test_its_runs_are_all_that_the_package_ships():
    shown = set(re.findall(r"materials:(\w+)", PAGE.read_text()))
    files = (HERE / "src" / "latentopt_materials" / "runs").glob("*.yaml")
    assert shown == {one.stem for one in files}


def test_its_pictures_are_small_and_drawn_by_the_script(ran, tmp_path):
    spec = importlib.util.spec_from_file_location("tutorial_pictures", HERE / "scripts" / "tutorial_pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    runs = {"anisotropic": "layers", "statistics": "again", "polish": "polished", "improve": "improved"}
    drawn = {
        "bounds": pictures.bounds_picture([ran["demo"]]),
        "front": pictures.front_picture(ran["front"]),
        "gallery": pictures.gallery_picture({name: ran[key] for name, key in runs.items()}),
    }
    for name, figure in drawn.items():
        pictures.save(figure, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as now, Image.open(IMAGES / f"materials-{name}.png") as kept:
            assert now.size == kept.size
            assert len(set(now.convert("L").tobytes())) > 50
    for path in IMAGES.glob("materials-*.png"):
        assert f"images/{path.name}" in PAGE.read_text()
        assert path.stat().st_size < 200_000

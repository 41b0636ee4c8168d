"""The page docs/airfoils.md runs from top to bottom: what it shows is what is said."""

import os
import re
import runpy
import shlex
from pathlib import Path

import yaml
from typer.testing import CliRunner

import latentopt as lo
from latentopt import cli
from latentopt_airfoils import Aero, real

PAGE = Path(__file__).parents[3] / "docs" / "airfoils.md"
FIGURE = re.compile(r"-?\d[\d,.]*")


def numbers(text):
    return [float(one.strip(".,").replace(",", "")) for one in FIGURE.findall(text)]


def same(shown, said):
    """Whether a line of the page is one that was said: its words to the letter, its figures to 2 %."""
    if FIGURE.sub("#", shown) != FIGURE.sub("#", said):
        return False
    return all(abs(a - b) <= 0.02 * abs(a) for a, b in zip(numbers(shown), numbers(said), strict=True))


def test_the_page_on_airfoils_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space, said = {}, []
    for language, text in re.findall(
        r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        if language == "python":
            Path("block.py").write_text(text, encoding="utf-8")
            space = runpy.run_path("block.py", init_globals=space)
        elif language == "sh":
            done = CliRunner().invoke(cli.app, shlex.split(text)[1:], env={**os.environ, "COLUMNS": "200"})
            assert done.exit_code == 0, done.output
            said = done.stdout.splitlines()
        elif language == "yaml":
            config = yaml.safe_load(text)
            glider = space["glider"].config["task"]
            asked = lo.run({**config, "task": {**config["task"], "search": {"kind": "adam", "steps": 2}}}).config[
                "task"
            ]
            for slot in ("objectives", "constraints", "measures"):
                assert asked[slot] == glider[slot], "the file asks for what the call does"
        else:
            for line in text.splitlines():
                assert any(same(line, one) for one in said), f"the page shows what was not said: {line}"
    report = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "Polars at Reynolds number 1,000,000, n_crit 9, drawn by lift_to_drag" in report
    assert (tmp_path / "polars.png").stat().st_size > 10_000
    space["near_it"] = space["better"].best.design
    found, glider, best = (space[name] for name in ("found", "glider", "best"))
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    (real_best,) = lo.standings(found)
    assert f"has {found.best.terms['lift_to_drag']:.0f}, the best of the {len(real().names):,} real ones" in text
    assert f"keep the same constraints {real_best.terms['lift_to_drag']:.0f}." in text
    assert 0.98 < found.best.measures["second_opinion"] / found.best.terms["lift_to_drag"] < 1
    moment = [float(Aero(quantity="moment", alpha=5).of(space[name][None])) for name in ("clark_y", "near_it")]
    assert f"went from {moment[0]:.3f} to {moment[1]:.3f} at 5 degrees" in text
    less = 100 * (1 - glider.best.loss / best.loss)
    more = 100 * (glider.best.terms["fast"] / best.terms["fast"] - 1)
    assert (
        f"both drags is {less:.0f} % below that of the best real airfoil; drag when fast alone is {more:.0f} % above"
        in text
    )

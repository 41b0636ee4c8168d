"""The README's code runs, and its figures are those of the record."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

import latentopt as lo
from latentopt_airfoils import published

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


def test_its_python_runs_and_prints_what_it_says(tmp_path):
    code = "\n".join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed, shown = done.stdout.split(), blocks("text")[0].split()
    numbers = re.compile(r"[\d.]+\d")
    assert [numbers.sub("#", word) for word in printed] == [numbers.sub("#", word) for word in shown]
    assert (tmp_path / "polars.png").stat().st_size > 10_000


def test_its_config_is_one():
    for text in blocks("yaml"):
        config = yaml.safe_load(text)
        config["task"]["search"] = [{"kind": "adam", "steps": 3}]
        assert len(lo.run(config).best.terms) == 4


def test_its_figures_are_the_records():
    record = published.record()
    held_out = record["decoder"]["held_out"]
    for text in (
        f"{record['real']['kept']:,} real ones",
        f"{record['real']['files']:,} files",
        f"on {record['decoder']['trained_on']:,} of the",
        f"{held_out['airfoils']} held out",
        f"{100 * held_out['outline_variance_kept']:.1f} %",
        f"{100 * held_out['draws']['surfaces_cross'] / held_out['draws']['count']:.1f} %",
    ):
        assert text in README

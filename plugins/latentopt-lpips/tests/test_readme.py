"""The README's figures are those recorded, and its options those of the config."""

import re
from pathlib import Path

import numpy as np

from latentopt_lpips import LPIPS, weights

HERE = Path(__file__).parent
README = (HERE.parent / "README.md").read_text(encoding="utf-8")


def test_its_distances_are_those_recorded():
    with np.load(HERE / "reference.npz") as found:
        shown = re.findall(r"\| (0\.\d{4}) \| (0\.\d{4}) \|", README)
        assert shown == [(f"{a:.4f}", f"{b:.4f}") for a, b in zip(found["alex"], found["vgg"], strict=True)]


def test_its_options_are_those_of_the_config():
    listed = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert listed == set(LPIPS.model_fields) - {"kind", "goal", "weight", "name"}
    assert f"`{weights.FOLDER}`" in README
    assert weights.REMEDY.split("`")[1] in README

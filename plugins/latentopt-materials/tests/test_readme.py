"""The README's section on the decoder: its code runs, its figures are the record's, its picture is there."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from latentopt_materials.decoders import training_record

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def section():
    return (ROOT / "README.md").read_text().partition("## Decoder and data")[2].partition("\n## ")[0]


def test_its_code_runs(section, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    (tmp_path / "page.py").write_text("\n".join(blocks))
    space = runpy.run_path(tmp_path / "page.py")
    assert space["pictures"].shape == (16, 1, 128, 128)
    assert space["codes"].shape == (4, 32)
    assert not torch.equal(space["mine"], space["decoder"].decode(space["codes"]))
    error = (space["decoder"].decode(space["codes"]) - space["mine"]).square().mean()
    assert error < 0.05


def test_its_table_is_the_record(section):
    assert runpy.run_path(ROOT / "scripts" / "decoder_picture.py")["table"]() in section
    held_out = training_record()["held_out"]
    assert f"{held_out['draws']['grey']:.1%}" in section
    assert f"median radius {held_out['posterior']['radius_of_draws']:.2f}" in section
    assert f"{held_out['posterior']['active_units']} of 32 latents" in section


def test_its_picture_is_drawn_by_its_script(section, tmp_path):
    from PIL import Image

    drawn = tmp_path / "decoder.png"
    runpy.run_path(ROOT / "scripts" / "decoder_picture.py")["main"](drawn)
    with Image.open(drawn) as now, Image.open(ROOT / "docs" / "decoder.png") as kept:
        assert now.size == kept.size
        pixels = [
            torch.frombuffer(bytearray(one.convert("L").tobytes()), dtype=torch.uint8).float() for one in (now, kept)
        ]
    assert (pixels[0] - pixels[1]).abs().mean() < 2  # of 255: other machines round, and 16 greys are chosen anew
    assert "docs/decoder.png" in section

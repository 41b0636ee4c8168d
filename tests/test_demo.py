"""The demo: what it writes and what it claims."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import latentopt as lo
from latentopt import cli, demo, progress


def ring(height=9, width=9):
    picture = np.zeros((1, height, width), np.float32)
    picture[0, 1:-1, 1:-1] = 1
    picture[0, 2:-2, 2:-2] = 0
    return picture


def test_holes_are_what_ink_encloses():
    eight = ring()
    eight[0, 5, :] = eight[0, 1, :]
    assert demo.hole_areas(np.zeros((1, 9, 9))) == []
    assert demo.hole_areas(np.ones((1, 9, 9))) == []
    assert demo.hole_areas(ring()) == [25]
    assert demo.hole_areas(eight) == [15, 5]
    assert demo.two_holes(eight) == pytest.approx(5 + 1.5)
    assert demo.two_holes(ring()) == pytest.approx(2.5)
    open_ring = ring()
    open_ring[0, 4, 7:] = 0
    assert demo.hole_areas(open_ring) == []


def test_ink_at_the_border_does_not_make_a_hole_of_the_corner():
    picture = np.zeros((1, 9, 9))
    picture[0, 4, :] = 1
    assert demo.hole_areas(picture) == []


def test_labels_say_where_a_hole_was_lost():
    assert demo._areas([7, 5]) == demo._areas([7, 5], "lost") == "7 + 5"
    assert demo._areas([7], "lost") == "7, lost"
    assert demo._areas([]) == "no hole"


def test_grey_is_nothing_for_ink_and_paper_and_one_for_the_middle():
    assert demo.grey(torch.tensor([[0.0, 1.0], [0.5, 0.5]])).tolist() == [0, 1]


def test_the_demo_writes_its_pictures_and_data_and_tells_the_truth(tmp_path):
    out = tmp_path / "demo"
    threads = torch.get_num_threads()
    found = CliRunner().invoke(cli.app, ["demo", "--out", str(out), "--json"])
    assert found.exit_code == 0, found.stderr
    assert torch.get_num_threads() == threads
    document = json.loads(found.stdout)
    for name in ("draws", "interpolation", "matches", "property", "losses"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 300
            assert np.asarray(picture.convert("L")).std() > 10
    with Image.open(out / "three.png") as picture:
        assert picture.size == (28, 28)
    matches = lo.load(out / "matches")
    assert len(matches.best.loss) == 16
    assert document["matches"]["best"]["loss"] == pytest.approx(matches.best.loss.tolist())
    assert float(matches.best.loss.median()) < 0.012
    held_out = lo.examples.digits()
    assert all(bool((held_out == target).all((1, 2, 3)).any()) for target in matches.targets)
    polished, search = lo.load(out / "polished"), lo.load(out / "property")
    assert document["property"]["after"]["holes"] == [demo.hole_areas(x.numpy()) for x in polished.best.design]
    assert float(search.terms["blackbox"].max()) == pytest.approx(demo.two_holes(search.best.design.numpy()), abs=1e-3)
    before, after = document["property"]["before"], document["property"]["after"]
    assert np.mean(after["grey"]) < np.mean(before["grey"])
    assert sum(len(areas) >= 2 for areas in before["holes"]) == len(before["holes"])
    held = sum(len(areas) >= 2 for areas in after["holes"])
    assert held > len(before["holes"]) / 2
    assert f"{len(before['holes'])} of {len(before['holes'])} designs have two, {held} after" in found.stderr
    for command in ("latentopt optimize", "latentopt interpolate", "latentopt plugins"):
        assert command in found.stderr
    assert "what the decoder knows" in found.stderr


def test_an_interrupted_demo_ends_and_leaves_what_is_done(tmp_path, monkeypatch):
    @contextmanager
    def watch(*_, **__):
        def stop(_):
            raise KeyboardInterrupt

        yield stop

    monkeypatch.setattr(progress, "watch", watch)
    found = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path / "demo")])
    assert found.exit_code == 130
    assert found.stderr == "interrupted\n"
    assert (tmp_path / "demo" / "interpolation.png").exists()
    assert lo.load(tmp_path / "demo" / "matches").stopped == "interrupted"
    assert not (tmp_path / "demo" / "property.png").exists()

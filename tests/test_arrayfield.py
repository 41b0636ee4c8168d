"""Several files as one array: targets in a list."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import latentopt as lo
from latentopt.config import make_config
from latentopt.testing import toy_decoders


@pytest.fixture
def files(tmp_path):
    """Two small gray pictures, and an array."""
    for name, value in (("a.png", 0), ("b.png", 255)):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / name)
    np.save(tmp_path / "c.npy", np.zeros((1, 8, 8), np.float32))
    return tmp_path


def test_a_list_of_files_is_a_target_each(files):
    array = lo.Array([files / "a.png", str(files / "b.png")])
    designs = array.designs((1, 8, 8))
    assert designs.shape == (2, 1, 8, 8)
    assert designs.amax((1, 2, 3)).tolist() == [0, 1]
    assert array.is_picture
    assert array.tensor().shape == (2, 1, 8, 8)
    assert array == lo.Array([files / "a.png", files / "b.png"]) != lo.Array([files / "b.png", files / "a.png"])
    assert "b.png" in repr(array)


def test_options_of_each_file_and_what_was_done_to_it(files):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(files / "small.png")
    data = [
        {"path": "a.png"},
        {"path": "small.png", "resize": True, "gray": True},
        {"path": "small.png", "resize": True},
    ]
    task = make_config(
        {"decoder": toy_decoders()["image"], "task": {"kind": "optimize", "target": data}}, folder=files
    ).task
    assert task.target.designs((1, 8, 8)).shape == (3, 1, 8, 8)
    assert any("resized" in note for note in task.target.notes)
    assert len(set(task.target.notes)) == len(task.target.notes)


def test_a_list_of_files_survives_a_config_file(files):
    data = {"decoder": "digits", "task": {"kind": "optimize", "target": [str(files / "a.png"), str(files / "b.png")]}}
    config = make_config(data)
    stored = config.to_dict()
    assert stored["task"]["target"] == data["task"]["target"]
    assert make_config(json.loads(json.dumps(stored))) == config


def test_a_search_takes_a_list_of_files(files):
    decoder = toy_decoders()["image"]
    found = lo.optimize(decoder, target=[files / "a.png", files / "b.png"], search={"kind": "adam", "steps": 2})
    assert found.n_targets == 2
    assert found.targets.mean((1, 2, 3)).tolist() == [0, 1]


def test_pictures_and_arrays_do_not_mix(files):
    with pytest.raises(lo.ShapeError, match="a list of files mixes pictures and arrays"):
        lo.Array([files / "a.png", files / "c.npy"]).designs((1, 8, 8))


def test_arrays_of_two_shapes_do_not_join(files):
    np.save(files / "d.npy", np.zeros((1, 4, 4), np.float32))
    with pytest.raises(lo.ShapeError, match=r"arrays of shapes \(1, 4, 4\), \(1, 8, 8\) cannot be put together"):
        lo.Array([files / "c.npy", files / "d.npy"]).tensor()


def test_numbers_are_still_numbers():
    assert torch.equal(lo.Array([[0.0, 1.0]]).tensor(), torch.tensor([[0.0, 1.0]]))
    assert lo.Array([0.5, 1]).parts == ()

"""Files that ship inside packages: only as they were published; networks filled from them without drawing weights."""

import hashlib
import json
import sys

import pytest
import torch
from torch import nn

import latentopt as lo
from latentopt.testing import global_rng_untouched
from latentopt.weights import Weights


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package with one file in data/ and a record of its sum."""
    folder = tmp_path / "shipped_here" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "a.bin").write_bytes(b"as published")
    (folder / "record.json").write_text(json.dumps({"sha256": {"a.bin": hashlib.sha256(b"as published").hexdigest()}}))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield folder
    sys.modules.pop("shipped_here", None)


def read(name="a.bin"):
    return lo.package_data("shipped_here", name, record="record.json", distribution="shipped-here")


def test_a_file_comes_as_it_was_published(package):
    assert read() == b"as published"


def test_another_file_is_refused(package):
    (package / "a.bin").write_bytes(b"something else")
    words = "the file a.bin of shipped-here has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}: reinstall shipped-here"
    with pytest.raises(lo.DecoderError, match=words):
        read()


@pytest.mark.parametrize(
    ("record", "kind"),
    [("{", "JSONDecodeError"), ("{}", "KeyError"), ("[]", "TypeError"), ('{"sha256": {}}', "KeyError")],
)
def test_a_record_that_does_not_say_is_refused(record, kind, package):
    (package / "record.json").write_text(record)
    words = rf"the file a.bin of shipped-here cannot be read \({kind}: .*\): reinstall shipped-here"
    with pytest.raises(lo.DecoderError, match=words):
        read()


def test_a_missing_file_is_refused(package):
    (package / "a.bin").unlink()
    with pytest.raises(lo.DecoderError, match=r"the file a.bin of shipped-here cannot be read \(FileNotFoundError"):
        read()


def test_a_network_is_filled_without_drawing_its_weights():
    half = {"weight": torch.eye(3, dtype=torch.float16), "bias": torch.ones(3, dtype=torch.float16)}
    with global_rng_untouched():
        made = lo.filled(lambda: nn.Linear(3, 3), Weights(half, "", "x"))
    assert made.weight.dtype == torch.float32
    assert made(torch.arange(3.0)).tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(RuntimeError, match="Missing key"):
        lo.filled(lambda: nn.Linear(3, 3), Weights({"weight": half["weight"]}, "", "x"))

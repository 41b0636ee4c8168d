"""Weights from files: what loads, what is refused and in which words, and that no code in a file is ever run."""

import hashlib
import io
import os
import random
import re
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from decoder_nets import AutoEncoder, Decoder
from safetensors.torch import save as save_safetensors
from torch import nn

from latentopt import weights as loader
from latentopt.errors import DecoderError, InputFileError, LatentoptError


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(value.shape, generator=generator) for key, value in Decoder().state_dict().items()}


def refusal(raw, error=InputFileError):
    with pytest.raises(error) as caught:
        loader.parse_weights(raw, "m.pt")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(tensors, others):
    return list(tensors) == list(others) and all(torch.equal(tensors[key], others[key]) for key in tensors)


# ---------------------------------------------------------------------- what loads


@pytest.mark.parametrize(
    "raw",
    [
        save_safetensors(state()),
        saved(state()),
        saved(OrderedDict(state())),
        saved(state(), _use_new_zipfile_serialization=False),
        saved({key: nn.Parameter(value) for key, value in state().items()}),
    ],
    ids=["safetensors", "state_dict", "ordered", "legacy", "parameters"],
)
def test_weights_load_whatever_the_file_is_called(raw, tmp_path):
    for name in ("model.safetensors", "model.pt", "model.bin"):
        path = tmp_path / name
        path.write_bytes(raw)
        found = loader.read_weights(path)
        assert {key: value.tolist() for key, value in found.tensors.items()} == {
            key: value.tolist() for key, value in state().items()
        }
        assert found.sha256 == hashlib.sha256(raw).hexdigest()
        assert found.notes == ()


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_the_dict_that_training_scripts_save_is_unwrapped(wrapper):
    checkpoint = {"epoch": 3, "optimizer": {"state": {}}, wrapper: state()}
    found = loader.parse_weights(saved(checkpoint), "folder/m.pt")
    assert same(found.tensors, state())
    assert found.notes == (f"took {wrapper!r} of the checkpoint in m.pt",)
    twice = loader.parse_weights(saved({"model": {"state_dict": state()}}), "m.pt")
    assert same(twice.tensors, state())
    assert len(twice.notes) == 2


def test_entries_that_are_no_tensors_are_left_out_with_a_note():
    found = loader.parse_weights(saved({**state(), "epoch": 3, 7: "x"}), "m.pt")
    assert same(found.tensors, state())
    assert found.notes == ("left out 'epoch', 7 of m.pt, which are no tensors",)


def test_the_file_is_opened_once_and_what_is_hashed_is_loaded(tmp_path, monkeypatch):
    path = tmp_path / "m.pt"
    path.write_bytes(saved(state()))
    expected = hashlib.sha256(path.read_bytes()).hexdigest().upper()
    opened = []
    usual = type(path).read_bytes

    def then_replaced(self):
        opened.append(self)
        raw = usual(self)
        self.write_bytes(saved(state(1)))
        return raw

    monkeypatch.setattr(type(path), "read_bytes", then_replaced)
    assert same(loader.read_weights(path, expected).tensors, state())
    assert opened == [path]


def test_a_wrong_hash_is_refused():
    raw = saved(state())
    with pytest.raises(
        DecoderError, match=f"m.pt has sha256 {hashlib.sha256(raw).hexdigest()}, expected {'0' * 64}: it is"
    ):
        loader.parse_weights(raw, "m.pt", "0" * 64)


def test_one_part_of_the_names():
    found = loader.Weights({"a.x": torch.ones(1), "b.x": torch.zeros(1)}, "0", "m").part("a.")
    assert same(found.tensors, {"x": torch.ones(1)})


# ---------------------------------------------------------------------- files


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path, text in (
        ("modle.pt", f"model file not found: modle.pt (looked in {tmp_path}). Did you mean 'model.pt'?"),
        ("other/x.pt", f"model file not found: other/x.pt (looked in {tmp_path}). Check the path"),
        ("quite_else", f"model file not found: quite_else (looked in {tmp_path}). Check the path"),
        ("folder", "model file folder is a folder: give one .safetensors or state_dict file in it"),
        ("pipe", "model file pipe is a pipe or a device: give an ordinary file"),
        ("model.pt", "model file model.pt is empty (0 bytes): copy or download it again"),
        ("a\0b", "cannot read the model file 'a\\x00b': embedded null byte"),
    ):
        with pytest.raises(InputFileError, match=f"^{re.escape(text)}$"):
            loader.read_weights(path)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied"), "no permission to read the model file"),
        (OSError(5, "Input/output error"), "cannot read the model file .*Input/output error"),
        (MemoryError(), "does not fit into memory: use a machine with more"),
    ],
)
def test_files_that_fail_to_read(error, text, tmp_path, monkeypatch):
    path = tmp_path / "m.pt"
    path.write_bytes(b"x")

    def fail(self):
        raise error

    monkeypatch.setattr(type(path), "read_bytes", fail)
    with pytest.raises(InputFileError, match=text):
        loader.read_weights(path)


# ---------------------------------------------------------------------- other formats


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


EXPORT = "export a state_dict, torch.save(module.state_dict(), ...), or safetensors from it where it was made"
ONNX = bytes.fromhex("080a1207707974 6f726368 1a05322e31332e30 3a4a".replace(" ", ""))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a Git LFS pointer, not weights: run git lfs pull"),
        (ONNX, f"is an ONNX model, which gives no gradients and is not read: {EXPORT}"),
        (b"\x80\x04\x95\x0b\x00\x00\x00", f"is a bare pickle, which is never loaded for it can run any code: {EXPORT}"),
        (b"\x89HDF\r\n\x1a\n", f"is an HDF5 file (Keras?), not PyTorch or safetensors weights: {EXPORT}"),
        (b"<!DOCTYPE html><html>", f"is a web page (the download went wrong), not PyTorch or safetensors weights: {EXPORT}"),
        (b"\x93NUMPY\x01\x00", "is a NumPy array, not PyTorch"),
        (b"\x1f\x8b\x08\x00", "is compressed with gzip, not PyTorch"),
        (npz(), f"is a zip archive but no checkpoint (it holds a.npy): {EXPORT}"),
        (
            b"hello, these are weights",
            "is not a readable PyTorch or safetensors file (it starts with 'hello, these are'): it is damaged or of another",
        ),
        (b"\x00\xff" * 20, "is not a readable PyTorch or safetensors file (it starts with 00 ff 00 ff 00 ff 00 ff): it is"),
        (saved(state())[:2000], "is a zip archive that is damaged or cut short (BadZipFile: File is not a zip file): copy"),
        (save_safetensors(state())[:300], "is a safetensors file that is damaged or cut short (SafetensorError: "),
        (saved(torch.zeros(2, 3)), f"holds a tensor of shape (2, 3), expected a state_dict: {EXPORT}"),
        (saved([1, 2]), "holds a list, expected a state_dict"),
        (saved({"epoch": 3}), "has no tensors at its top level (it holds 'epoch'): "),
        (saved({}), "has no tensors at its top level (it holds nothing): "),
        (saved({"a": torch.zeros(2).to_sparse()}), "holds 'a' as torch.sparse_coo on cpu: save plain, dense tensors"),
        (saved({"a": torch.zeros(2, device="meta")}), "holds 'a' as torch.strided on meta: save plain, dense tensors"),
    ],
)  # fmt: skip
def test_what_is_no_weights_is_named(raw, text):
    assert refusal(raw).startswith(f"model file m.pt {text}")


def test_names_from_a_file_cannot_break_the_line():
    text = refusal(zipped(**{"m/a\n\x1b[31mb": "", "m/" + "x" * 999: ""}))
    assert text.startswith("model file m.pt is a zip archive but no checkpoint (it holds a??[31mb, xxx")
    assert len(text) < 500


def test_an_empty_zip_archive_is_of_no_known_kind():
    assert refusal(zipped()).startswith(
        "model file m.pt is not a readable PyTorch or safetensors file (it starts with 50 4b"
    )


def test_quantized_tensors_are_named():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = saved({"a": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)})
    assert refusal(raw) == "model file m.pt holds 'a' as quantized: save plain, dense tensors"


def test_packed_archives_are_refused_before_they_fill_memory():
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(state()))) as plain,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
        packed.writestr("archive/data/9", bytes(10**6))
    assert refusal(buffer.getvalue()) == (
        "model file m.pt is a packed zip archive: save it again with torch.save, which packs none"
    )


# ---------------------------------------------------------------------- code in files


class Canary:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


class Twice(nn.Module):
    def forward(self, z):
        return z * 2


def torchscript():
    buffer = io.BytesIO()
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def exported():
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(3, 2),)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("where", [lambda c: c, lambda c: {**state(), "x": c}, lambda c: {"model": state(), "x": [c]}])
def test_a_pickle_that_would_run_a_command_does_not(where, new, tmp_path):
    marker = tmp_path / "marker"
    raw = saved(where(Canary(marker)), _use_new_zipfile_serialization=new)
    assert refusal(raw) == (
        f"model file m.pt contains Python code (classes: {os.system.__module__}.system), which is not run: {EXPORT}"
    )
    assert not marker.exists()


def test_a_bare_pickle_that_would_run_a_command_does_not(tmp_path):
    marker = tmp_path / "marker"
    # protocol 2: posix.system(command)
    raw = (
        b"\x80\x02cposix\nsystem\nX"
        + len(f"touch {marker}").to_bytes(4, "little")
        + f"touch {marker}".encode()
        + b"\x85R."
    )
    assert "is a bare pickle, which is never loaded" in refusal(raw)
    hidden = zipped(**{"archive/data.pkl": raw, "archive/version": "3\n"})
    assert f"contains Python code (classes: {os.system.__module__}.system)" in refusal(hidden)
    assert not marker.exists()


def test_a_pickled_module_names_its_classes():
    for new in (True, False):
        text = refusal(saved(Twice(), _use_new_zipfile_serialization=new))
        assert text.startswith("model file m.pt contains Python code (classes: ")
        assert "test_weights.Twice" in text
        assert text.endswith(f"which is not run: {EXPORT}")


def test_many_classes_are_cut_short():
    text = refusal(saved(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Mish())))
    assert re.search(r"\(classes: (torch[\w.]+, ){4}torch[\w.]+ and 2 more\)", text)


def test_torchscript_is_refused(tmp_path):
    marker = tmp_path / "marker"
    text = f"model file m.pt is a TorchScript archive, which holds code and is not run: {EXPORT}"
    assert refusal(torchscript()) == text
    pickle = b"cposix\nsystem\n(Vtouch " + str(marker).encode() + b"\ntR."
    assert refusal(zipped(**{"m/constants.pkl": pickle, "m/data.pkl": pickle})) == text
    assert refusal(zipped(**{"m/code/__torch__.py": "", "m/data.pkl": pickle})) == text
    assert not marker.exists()


def test_an_exported_program_is_refused(tmp_path):
    marker = tmp_path / "marker"
    text = f"model file m.pt is a torch.export archive (.pt2), which can run code and is not loaded: {EXPORT}"
    assert refusal(exported()) == text
    inputs = saved(Canary(marker))
    assert refusal(zipped(**{"m/archive_format": "pt2", "m/data/sample_inputs/model.pt": inputs})) == text
    assert refusal(zipped(**{"serialized_exported_program.json": "{}", "serialized_state_dict.pt": inputs})) == text
    assert not marker.exists()


def test_no_environment_variable_lets_code_in(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "marker"
    assert "contains Python code" in refusal(saved(Canary(marker)))
    assert not marker.exists()


def test_a_class_that_is_allowed_elsewhere_is_still_no_state_dict():
    with torch.serialization.safe_globals([Twice, set]):
        assert "holds a Twice, expected a state_dict" in refusal(saved(Twice()))


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_damaged_files_raise_only_errors_of_latentopt(kind):
    raw = (
        save_safetensors(state())
        if kind == "safetensors"
        else saved(state(), _use_new_zipfile_serialization=kind == "zip")
    )
    chance = random.Random(0)
    texts = []
    for _ in range(300):
        damaged = bytearray(raw)
        for _ in range(chance.choice((1, 4, 32))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        cut = chance.randrange(len(damaged)) if chance.random() < 0.2 else len(damaged)
        try:
            loader.parse_weights(bytes(damaged[:cut]), "m.pt")
        except LatentoptError as error:
            texts.append(str(error))
    assert len(texts) > 20
    for text in texts:
        assert text.startswith("model file m.pt ")
        assert "\n" not in text
        assert "weights_only" not in text  # torch advises to lay the guard aside


# ---------------------------------------------------------------------- into a module


def fill(module, tensors):
    notes = loader.load_weights(module, loader.Weights(tensors, "0", "folder/m.pt"))
    return module, notes


def prefixed(prefix, tensors=None):
    return {prefix + key: value for key, value in (tensors or state()).items()}


@pytest.mark.parametrize(
    ("tensors", "notes"),
    [
        (state(), []),
        (prefixed("module."), ["took the prefix 'module.' off the weights' names"]),
        (prefixed("_orig_mod."), ["took the prefix '_orig_mod.' off the weights' names"]),
        (
            prefixed("_orig_mod.module."),
            ["took the prefix '_orig_mod.' off the weights' names", "took the prefix 'module.' off the weights' names"],
        ),
        (
            prefixed("module._orig_mod."),
            ["took the prefix 'module.' off the weights' names", "took the prefix '_orig_mod.' off the weights' names"],
        ),
        (prefixed("decoder."), ["took decoder.* of the checkpoint"]),
        (prefixed("generator."), ["took generator.* of the checkpoint"]),
        (
            {**prefixed("decoder."), "encoder.fc.weight": torch.zeros(6, 16), "step": torch.tensor(3)},
            ["took decoder.* of the checkpoint and left out encoder.*"],
        ),
        (
            {**prefixed("ema.", state(1)), **prefixed("decoder.")},
            ["took decoder.* of the checkpoint and left out ema.*"],
        ),
        (
            {key: value.double() for key, value in state().items()},
            ["weights of m.pt converted from torch.float64 to torch.float32"],
        ),
    ],
)
def test_names_are_made_to_fit_with_a_note(tensors, notes):
    module, found = fill(Decoder(), tensors)
    assert found == notes
    assert same(module.state_dict(), state())


def test_prefixes_that_are_the_modules_own_stay():
    wrapped = nn.ModuleDict({"module": Decoder()})
    assert fill(wrapped, prefixed("module."))[1] == []
    compiled = {
        key.replace("decoder.", "decoder._orig_mod."): value for key, value in AutoEncoder().state_dict().items()
    }
    assert fill(AutoEncoder(), compiled)[1] == ["took '_orig_mod.' out of the weights' names"]


def test_tied_weights_are_stored_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

    kept = {"one.weight": torch.eye(3), "one.bias": torch.zeros(3), "two.bias": torch.ones(3)}
    module, _ = fill(Tied(), kept)
    assert torch.equal(module.two.weight, torch.eye(3))


def test_lazy_layers_take_their_shape_from_the_weights():
    module, _ = fill(nn.Sequential(nn.LazyLinear(2)), {"0.weight": torch.ones(2, 5), "0.bias": torch.zeros(2)})
    assert module[0].weight.shape == (2, 5)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        (
            {**state(), "fc1.weight": torch.zeros(8, 4)},
            "the weights in folder/m.pt do not fit Decoder: 'fc1.weight' has shape (8, 4), expected (8, 3): name the factory",
        ),
        ({k: v for k, v in state().items() if k != "fc2.bias"}, "do not fit Decoder: 'fc2.bias' is missing: name"),
        ({**state(), "fc3.bias": torch.zeros(1)}, "do not fit Decoder: 'fc3.bias' is unexpected: name the factory"),
        (
            {f"layer{i}": torch.zeros(1) for i in range(9)},
            "do not fit Decoder: 'fc1.weight' is missing, 'fc1.bias' is missing, 'fc2.weight' is missing, 'fc2.bias' is "
            "missing, 'layer0' is unexpected and 8 more: name the factory and factory_options that they were saved from",
        ),
        (
            {**prefixed("decoder."), "decoder.fc1.weight": torch.zeros(8, 4), "encoder.fc.bias": torch.zeros(6)},
            "do not fit Decoder: 'fc1.weight' has shape (8, 4), expected (8, 3): name the factory",
        ),
        (
            {**prefixed("first."), **prefixed("second.", state(1))},  # either would fit
            "'fc2.bias' is missing, 'first.fc1.weight' is unexpected and 7 more",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tensors, text):
    with pytest.raises(DecoderError, match=re.escape(text)) as caught:
        fill(Decoder(), tensors)
    assert "\n" not in str(caught.value)


def test_a_module_that_refuses_its_weights_says_why():
    class Picky(Decoder):
        def _load_from_state_dict(self, *args, **kwargs):
            raise ValueError("weights of version 1\nare too old")

    with pytest.raises(
        DecoderError, match="the weights in folder/m.pt do not fit Picky: are too old: name the factory"
    ):
        fill(Picky(), state())


def test_the_weights_of_a_decoder_alone_do_not_fit_a_whole_auto_encoder():
    with pytest.raises(
        DecoderError, match="'encoder.fc.weight' is missing, 'encoder.fc.bias' is missing: name the factory"
    ):
        fill(AutoEncoder(), prefixed("decoder."))

"""Weights from files, without running any code that a file may hold: safetensors, or a state_dict of `torch.save`.

A file is judged by its content, never by its name, and read once: what is hashed is what is loaded. There is no second,
laxer attempt (torch's own advice to repeat with `weights_only=False` is what attackers count on).
"""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from latentopt.errors import DecoderError, InputFileError

# First bytes of what torch.save wrote before version 1.6: a pickle of a magic number (torch/serialization.py).
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_EXPORT = "export a state_dict, torch.save(module.state_dict(), ...), or safetensors from it where it was made"
_OTHERS = {
    b"\x89HDF": "an HDF5 file (Keras?)",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "a picture",
    b"\x1f\x8b": "compressed with gzip",
    b"<!DOCTYPE": "a web page (the download went wrong)",
    b"<html": "a web page (the download went wrong)",
}
# What torch.load raises on damaged files, beside UnpicklingError, which is reached through it: this module imports no pickle.
_UnpicklingError: type[Exception] = vars(torch.serialization)["pickle"].UnpicklingError
_BROKEN = (
    _UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    EOFError,
    OSError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_SHOWN = 5


@dataclass(frozen=True)
class Weights:
    """The tensors of one file by name, on the CPU; what was done to get at them; and the hash of the file's bytes."""

    tensors: dict[str, Tensor]
    sha256: str
    name: str
    notes: tuple[str, ...] = ()

    def part(self, prefix: str) -> Weights:
        """The tensors whose names begin with `prefix`, without it."""
        found = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        return Weights(found, self.sha256, self.name, self.notes)


# ---------------------------------------------------------------------- reading


def read_weights(path: str | Path, sha256: str | None = None) -> Weights:
    """The weights in a safetensors file or a state_dict of `torch.save`. No code in the file is run.

    Raises `InputFileError`: missing, empty, damaged, or of another kind; `DecoderError`: not the file that `sha256` is of.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputFileError(f"model file {path} is a folder: give one .safetensors or state_dict file in it")
        if path.exists() and not path.is_file():
            raise InputFileError(f"model file {path} is a pipe or a device: give an ordinary file")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputFileError(f"model file not found: {path} (looked in {Path.cwd()}){_near(path)}") from None
    except PermissionError:
        raise InputFileError(f"no permission to read the model file {path}: change its mode, or its folder's") from None
    except MemoryError:
        raise InputFileError(f"model file {path} does not fit into memory: use a machine with more") from None
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot read the model file {str(path)!r}: {error}") from None
    return parse_weights(raw, str(path), sha256)


def parse_weights(raw: bytes, name: str, sha256: str | None = None) -> Weights:
    """The same from a file's bytes; `name` is what errors call it."""
    if not raw:
        raise InputFileError(f"model file {name} is empty (0 bytes): copy or download it again")
    if raw.startswith(b"version https://git-lfs"):
        raise InputFileError(f"model file {name} is a Git LFS pointer, not weights: run git lfs pull")
    found = hashlib.sha256(raw).hexdigest()
    if sha256 is not None and found != sha256.strip().lower():
        raise DecoderError(
            f"model file {name} has sha256 {found}, expected {sha256}: it is damaged or another file; get the right one"
        )
    notes: list[str] = []
    if raw[8:9] == b"{":
        tensors = _safetensors(raw, name)
    elif raw.startswith(b"PK\x03\x04"):
        _check_archive(raw, name)
        tensors = _state_dict(_unpickled(raw, name), name, notes)
    elif raw.startswith(_LEGACY):
        tensors = _state_dict(_unpickled(raw, name), name, notes)
    else:
        raise InputFileError(_unknown(raw, name))
    for key, value in tensors.items():
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            what = "quantized" if value.is_quantized else f"{value.layout} on {value.device}"
            raise InputFileError(f"model file {name} holds {key!r} as {what}: save plain, dense tensors")
    return Weights(tensors, found, name, tuple(notes))


def _near(path: Path) -> str:
    try:
        names = os.listdir(path.parent)
    except OSError:
        return ". Check the path"
    found = difflib.get_close_matches(path.name, names, n=1)
    return f". Did you mean {found[0]!r}?" if found else ". Check the path"


def _unknown(raw: bytes, name: str) -> str:
    for magic, what in _OTHERS.items():
        if raw.startswith(magic):
            return f"model file {name} is {what}, not PyTorch or safetensors weights: {_EXPORT}"
    if raw[0] == 0x80 and raw[1:2] <= b"\x05":
        return f"model file {name} is a bare pickle, which is never loaded for it can run any code: {_EXPORT}"
    # ONNX is a protobuf: field 1, ir_version, a small number; then a string (2-6) or the graph (7) or opsets (8)
    if raw[0] == 0x08 and raw[1:2] <= b"\x20" and raw[2:3] in b"\x12\x1a\x22\x28\x32\x3a\x42":
        return f"model file {name} is an ONNX model, which gives no gradients and is not read: {_EXPORT}"
    start = raw[:16]
    text = all(32 <= byte < 127 or byte in (9, 10, 13) for byte in start)
    shown = repr(start.decode()) if text else start[:8].hex(" ")
    return (
        f"model file {name} is not a readable PyTorch or safetensors file (it starts with {shown}): "
        "it is damaged or of another format"
    )


def _plain(text: str) -> str:
    """A file's own words, shortened and without what would break a line or a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


def _damaged(name: str, what: str, error: BaseException) -> InputFileError:
    # of torch's long text only what it met: the rest tells readers to lay the guard aside
    text = str(error).strip()
    met = (
        re.search(r"WeightsUnpickler error:\s*(.+)", text)
        if "Weights only load failed" in text
        else re.match(".*", text)
    )
    text = _plain(met[met.lastindex or 0].strip()) if met else ""
    detail = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return InputFileError(f"model file {name} is {what} that is damaged or cut short ({detail}): copy it again")


def _safetensors(raw: bytes, name: str) -> dict[str, Tensor]:
    try:
        return load_safetensors(raw)
    except (
        SafetensorError,
        KeyError,
        ValueError,
        RuntimeError,
        OverflowError,
    ) as error:  # KeyError: a dtype unknown here
        raise _damaged(name, "a safetensors file", error) from None


def _check_archive(raw: bytes, name: str) -> None:
    """Refuse every zip archive but that of `torch.save`, by its members."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = archive.infolist()
    except _BROKEN as error:
        raise _damaged(name, "a zip archive", error) from None
    paths = [member.filename.partition("/")[2] or member.filename for member in members]
    if "constants.pkl" in paths or any(path.startswith("code/") for path in paths):
        raise InputFileError(f"model file {name} is a TorchScript archive, which holds code and is not run: {_EXPORT}")
    if "archive_format" in paths or "serialized_exported_program.json" in paths:
        raise InputFileError(
            f"model file {name} is a torch.export archive (.pt2), which can run code and is not loaded: {_EXPORT}"
        )
    if "data.pkl" not in paths:
        shown = _plain(", ".join(paths[:3]))
        raise InputFileError(f"model file {name} is a zip archive but no checkpoint (it holds {shown}): {_EXPORT}")
    # torch.save stores its members as they are; packed or overlapping ones are made to fill memory
    if sum(member.file_size for member in members) > len(raw):
        raise InputFileError(
            f"model file {name} is a packed zip archive: save it again with torch.save, which packs none"
        )


def _unpickled(raw: bytes, name: str) -> Any:
    """What `torch.load` finds with its restricted unpickler, which builds tensors and containers and calls nothing else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dtypes and storages that are going away
            if not raw.startswith(_LEGACY):
                _refuse_code(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(raw)), name)
            return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except _BROKEN as error:
        _refuse_code(re.findall(r"GLOBAL ([\w.]+) (?:was not an allowed|whose module)", str(error)), name)
        raise _damaged(name, "a checkpoint of torch.save", error) from None


def _refuse_code(classes: list[str], name: str) -> None:
    if classes:
        found = sorted(classes)
        shown = _plain(", ".join(found[:_SHOWN])) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        raise InputFileError(f"model file {name} contains Python code (classes: {shown}), which is not run: {_EXPORT}")


def _state_dict(found: Any, name: str, notes: list[str]) -> dict[str, Tensor]:
    """The tensors in a checkpoint, out of the dict that training scripts wrap them in."""
    for _ in _WRAPPERS:
        if not isinstance(found, Mapping):
            break
        inner = next((key for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        notes.append(f"took {inner!r} of the checkpoint in {Path(name).name}")
        found = found[inner]
    if not isinstance(found, Mapping):
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InputFileError(f"model file {name} holds {what}, expected a state_dict: {_EXPORT}")
    tensors = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
    others = [key for key in found if key not in tensors]
    if not tensors:
        shown = ", ".join(repr(key) for key in others[:_SHOWN]) or "nothing"
        raise InputFileError(f"model file {name} has no tensors at its top level (it holds {shown}): {_EXPORT}")
    if others:
        notes.append(f"left out {', '.join(map(repr, others[:_SHOWN]))} of {Path(name).name}, which are no tensors")
    return tensors


# ---------------------------------------------------------------------- into a module


def load_weights(module: nn.Module, weights: Weights) -> list[str]:
    """Put weights into a module, strictly; returns what was done to make the names fit, a sentence each.

    Prefixes of DistributedDataParallel and torch.compile are taken off, and of a file that holds more than this module the
    one part that fits it is taken. Raises `DecoderError` naming the first keys that are missing, unexpected or of another
    shape; the module may then hold some of the weights.
    """
    notes = list(weights.notes)
    fitting = _fitting(module, _bare(weights.tensors, module, notes), notes)
    expected = module.state_dict()
    missing, unexpected, wrong = _mismatch(module, fitting)
    if not wrong:
        try:
            missing, unexpected = module.load_state_dict(fitting, strict=False)
        except _BROKEN as error:
            wrong = [f"{str(error).strip().splitlines()[-1].strip()[:200]}"]
        loaded = {expected[key].data_ptr() for key in fitting if key in expected}
        # tied weights are stored once
        missing = [key for key in missing if key not in expected or expected[key].data_ptr() not in loaded]
    if missing or unexpected or wrong:
        raise DecoderError(_misfit(module, weights.name, missing, unexpected, wrong))
    dtypes = {f"{fitting[k].dtype} to {expected[k].dtype}" for k in fitting if fitting[k].dtype != expected[k].dtype}
    if dtypes:
        notes.append(f"weights of {Path(weights.name).name} converted from {', '.join(sorted(dtypes))}")
    return notes


def _bare(tensors: dict[str, Tensor], module: nn.Module, notes: list[str]) -> dict[str, Tensor]:
    """The tensors without the prefixes that wrappers around a module leave in every name."""
    own = set(module.state_dict())
    for prefix in (*_PREFIXES, *_PREFIXES):
        wrapped = all(key.startswith(prefix) for key in tensors) and not any(key.startswith(prefix) for key in own)
        if wrapped:
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
            notes.append(f"took the prefix {prefix!r} off the weights' names")
    if any("._orig_mod." in key for key in tensors) and not any("._orig_mod." in key for key in own):
        tensors = {key.replace("._orig_mod.", "."): value for key, value in tensors.items()}
        notes.append("took '_orig_mod.' out of the weights' names")
    return tensors


def _fitting(module: nn.Module, tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """All tensors where their names fit, else the one part (`decoder.*`) of them whose names and shapes do."""
    if not any(_mismatch(module, tensors)):
        return tensors
    heads = sorted({key.partition(".")[0] + "." for key in tensors if "." in key})
    parts = {head: {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)} for head in heads}
    fits = [head for head, part in parts.items() if not any(_mismatch(module, part))]
    chosen = "decoder." if "decoder." in fits else fits[0] if len(fits) == 1 else None
    if (
        chosen is None
        and not fits
        and "decoder." in parts
        and not any(k.startswith("decoder.") for k in module.state_dict())
    ):
        chosen = "decoder."  # it fits no better, and the error then speaks of the part that is meant
    if chosen is None:
        return tensors
    others = [head + "*" for head in heads if head != chosen]
    notes.append(f"took {chosen}* of the checkpoint" + (f" and left out {', '.join(others)}" if others else ""))
    return parts[chosen]


def _mismatch(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Keys that are missing, unexpected, and of another shape."""
    expected = module.state_dict()
    shared = [key for key in tensors if key in expected and not nn.parameter.is_lazy(expected[key])]
    return (
        [key for key in expected if key not in tensors],
        [key for key in tensors if key not in expected],
        [
            f"{key!r} has shape {tuple(tensors[key].shape)}, expected {tuple(expected[key].shape)}"
            for key in shared
            if tensors[key].shape != expected[key].shape
        ],
    )


def _misfit(module: nn.Module, name: str, missing: list[str], unexpected: list[str], wrong: list[str]) -> str:
    found = [
        *wrong,
        *(f"{key!r} is missing" for key in missing),
        *(f"{key!r} is unexpected" for key in unexpected),
    ]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (
        f"the weights in {name} do not fit {type(module).__name__}: {', '.join(found[:_SHOWN])}{more}: "
        "name the factory and factory_options that they were saved from"
    )

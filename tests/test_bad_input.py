"""Bad input, a row of the table each: one line that says what was got, what was expected and the remedy; and the exit code.

Nearly all go through the command line, as users meet them. What each check does in depth is in its own file's tests.
"""

import os
import re
import struct
import types
import zipfile
import zlib
from pathlib import Path

import bad_nets
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import latentopt as lo
from latentopt import api, cli, memory, registry, shipped, store

QUICK = ["--search", "{kind: adam, steps: 2}", "--starts", "mean"]
BLIND = ["--search", "{kind: random, evaluations: 8}", "--starts", "{kind: prior, n: 4}"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*arguments):
    found = CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def refused(words, *arguments, code=2):
    """Checks that a command fails in one line that has these words, and prints nothing to stdout; gives what follows it."""
    found = call(*arguments)
    lines = found.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert found.exit_code == code, found.stderr
    assert found.stdout == ""
    assert len(errors) == 1, found.stderr
    at = lines.index(errors[0])
    expected = ("this config runs code: ", "warning: ", "stage ")
    assert all(line.startswith(expected) for line in lines[:at]), found.stderr
    assert all(line.startswith("  ") for line in lines[at + 1 :]), "only an excerpt may follow"
    for part in [words] if isinstance(words, str) else words:
        assert part in errors[0]
    return lines[at + 1 :]


def module(factory="Net", **fields):
    """A file that describes a decoder of `bad_nets`."""
    described = {"kind": "module", "factory": f"bad_nets:{factory}", "latent_shape": [3], **fields}
    with open("decoder.yaml", "w") as file:
        yaml.safe_dump({"decoder": described}, file)
    return "decoder.yaml"


def returns(what):
    return module("Returns", factory_options={"what": what})


def no_folder_left(tmp_path):
    return not [path for path in tmp_path.iterdir() if path.is_dir()]


# ---------------------------------------------------------------------- files of weights


def cut(path):
    torch.save(bad_nets.Net().state_dict(), path)
    with open(path, "r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)


WEIGHTS = {
    "missing": (lambda path: None, "model file not found: w.pt (looked in "),
    "a directory": (os.mkdir, "model file w.pt is a folder: give one .safetensors or state_dict file in it"),
    "empty": (lambda path: open(path, "w").close(), "model file w.pt is empty (0 bytes): copy or download it again"),
    "Git LFS pointer": (
        lambda path: save_bytes(path, b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "w.pt is a Git LFS pointer, not weights: run git lfs pull",
    ),
    "truncated": (cut, "w.pt is a zip archive that is damaged or cut short"),
    "random bytes": (
        lambda path: save_bytes(path, b"\x07\x01 nothing known"),
        "w.pt is not a readable PyTorch or safetensors file (it starts with 07 01",
    ),
    "pickled module": (
        lambda path: torch.save(bad_nets.Net(), path),
        ["w.pt contains Python code (classes: bad_nets.Net", "export a state_dict"],
    ),
    "missing and unexpected keys": (
        lambda path: torch.save({"other": torch.zeros(2)}, path),
        ["'fc.weight' is missing", "'other' is unexpected", "name the factory"],
    ),
    "wrong shape": (
        lambda path: torch.save({"fc.weight": torch.zeros(16, 5), "fc.bias": torch.zeros(16)}, path),
        "'fc.weight' has shape (16, 5), expected (16, 3)",
    ),
    "NaN": (
        lambda path: torch.save({"fc.weight": torch.full((16, 3), torch.nan), "fc.bias": torch.zeros(16)}, path),
        "contain 48 non-finite values in 'fc.weight': load an undamaged checkpoint",
    ),
}


def save_bytes(path, raw):
    with open(path, "wb") as file:
        file.write(raw)


@pytest.mark.parametrize("row", WEIGHTS)
def test_weights(row):
    make, words = WEIGHTS[row]
    make("w.pt")
    refused(words, "sample", "-d", module(weights="w.pt"), "-n", 1)


def archive(path, *members):
    with zipfile.ZipFile(path, "w") as file:
        for name in members:
            file.writestr(f"w/{name}", b"0")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (("data.pkl", "constants.pkl"), "w.pt is a TorchScript archive, which holds code and is not run: export a"),
        (("archive_format",), "w.pt is a torch.export archive (.pt2), which can run code and is not loaded: export a"),
    ],
    ids=["TorchScript", "torch.export"],
)
def test_formats_that_hold_code(members, words):
    archive("w.pt", *members)
    refused(words, "sample", "-d", module(weights="w.pt"))


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "net.onnx", "folder"])
def test_weights_in_place_of_a_decoder(name):
    os.mkdir("folder")
    words = [
        f"{name} is no decoder by itself",
        "write 'kind: module', factory, weights and latent_shape into a YAML file",
    ]
    refused(words, "sample", "-d", name)


# ---------------------------------------------------------------------- decoders


DECODERS = {
    "whole auto-encoder": (
        ("Whole", {}),
        "a whole auto-encoder (found encoder.* and decoder.*): set attribute: decoder",
    ),
    "no such factory": (("Nett", {}), "module 'bad_nets' has no 'Nett'; did you mean 'Net'?"),
    "wrong factory option": (("Net", {"factory_options": {"dimm": 3}}), "did you mean 'dim'?; it takes dim"),
    "other latent shape": (
        ("Net", {"latent_shape": [64]}),
        ["rejects latents of shape (4, 64)", "'fc' takes 3 values"],
    ),
    "batches of 1 only": (
        ("OneAtATime", {}),
        "decodes one latent of shape (3,) but not 4 at once (batch size must be 1): searches decode many rows, so take",
    ),
    "batches of 1 taken for granted": (
        ("Reshaped", {}),
        "decodes one latent of shape (3,) but not 4 at once (shape '[1, ",
    ),
    "latent shape of 1e9": (
        ("Net", {"latent_shape": [10**9]}),
        ["4 latents of shape (1000000000,) need about 104 GiB, and 8 GiB are free", "set latent_shape to what it was"],
    ),
    "latent shape of 1e30": (("Net", {"latent_shape": [10**30]}), "and 8 GiB are free: set latent_shape"),
    "latent shape of 0": (
        ("Net", {"latent_shape": [0]}),
        "decoder.latent_shape.0: Input should be greater than or equal",
    ),
    "no latent shape": (("Net", {"latent_shape": []}), "decoder.latent_shape: expected at least 1, got 0"),
    "value range turned round": (("Net", {"value_range": [1, 0]}), "value_range must be (low, high) with low < high"),
    "prior turned round": (
        ("Net", {"prior": {"kind": "uniform", "low": 1, "high": 0}}),
        "decoder.prior: low must be below high, got low=1.0, high=0.0",
    ),
    "data without encoder": (("Net", {"data": "d.npy"}), "data= needs encoder="),
    "sha256 of nothing": (("Net", {"sha256": "0" * 64}), "no weights are given: add weights, or drop sha256"),
    "meta tensors": (
        ("made_as", {"factory_options": {"what": "meta"}}),
        "has meta tensors, which hold no numbers: give its",
    ),
    "NaN weights": (
        ("made_as", {"factory_options": {"what": "nan weights"}}),
        "contain 2 non-finite values in 'fc.weight': load an undamaged checkpoint",
    ),
    "no CUDA": (
        ("Net", {"device": "cuda"}),
        "device cuda was asked and this machine has no CUDA device: use device='cpu'",
    ),
    "no device": (("Net", {"device": "gpu"}), ["'gpu' is no device", "use 'cpu', or for example 'cuda:0'"]),
    "device meta": (("Net", {"device": "meta"}), "device meta was asked, which holds no numbers: use device='cpu'"),
}


@pytest.mark.parametrize("row", DECODERS)
def test_decoders(row, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 8 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    np.save("d.npy", np.zeros((2, 1, 4, 4), np.float32))
    (factory, fields), words = DECODERS[row]
    refused(words, "sample", "-d", module(factory, **fields), "-n", 1)


def test_no_cuda_for_digits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = "device cuda was asked and this machine has no CUDA device: use device='cpu'"
    refused(words, "sample", "-d", "digits", "--set", "decoder.device=cuda")


OUTPUTS = {
    "dict": "decoder returned a dict with keys 'mean', 'scale', not a tensor of designs: set output= to the part",
    "tuple": "decoder returned a tuple of 2, not a tensor of designs: set output= to the part that is the design",
    "none": "decoder returned None, not a tensor of designs",
    "text": "decoder returned a str, not a tensor of designs",
    "complex": "returns complex numbers: return torch.view_as_real of them",
    "sparse": "returns a sparse tensor: return .to_dense()",
    "one design": "returned a tensor of shape (1, 4, 4) for 4 latents: expected 4 designs, one a row",
    "nan": "returns 100.0% NaN or infinite values for draws from its prior: check its weights and its latent_shape",
}


@pytest.mark.parametrize("row", OUTPUTS)
def test_outputs(row):
    refused(OUTPUTS[row], "sample", "-d", returns(row), "-n", 1)


@pytest.mark.parametrize(
    ("row", "why"), [("detached", "its output is cut off from its latents"), ("argmax", "its output is cut off")]
)
def test_outputs_without_a_gradient(row, why):
    np.save("t.npy", np.zeros((1, 4, 4), np.float32))
    words = ["search 'adam' needs gradients", why, "use cmaes or optuna or random"]
    refused(words, "optimize", "-d", returns(row), "-t", "t.npy", *QUICK)


@pytest.mark.filterwarnings("always")
def test_a_random_decoder_is_warned_of():
    found = call("sample", "-d", returns("random"), "-n", 1)
    assert found.exit_code == 0
    warnings = [line for line in found.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "gives another design on a second call" in warnings[0]
    assert "make it deterministic in eval mode" in warnings[0]


@pytest.mark.parametrize(
    "fields", [("Dropout", {}), ("made_as", {"factory_options": {"what": "half"}})], ids=["dropout", "half"]
)
def test_what_is_put_right_without_a_word(fields):
    found = call("sample", "-d", module(fields[0], **fields[1]), "-n", 2)
    assert (found.exit_code, "warning" in found.stderr) == (0, False)


def test_designs_of_8_bits_are_noted():
    found = call("sample", "-d", returns("bytes"), "-n", 1)
    assert found.exit_code == 0
    assert "set value_range=(0, 255) if they are pictures of 8 bits" in found.stdout


# ---------------------------------------------------------------------- objectives


BLACK_BOXES = {
    "text": "blackbox function 'bad_nets:text' returned str for row 0, expected one real number: return a float",
    "complex_number": "returned complex for row 0, expected one real number",
    "nothing": "returned NoneType for row 0, expected one real number",
    "array": "returned ndarray of shape (1, 28, 28) for row 0, expected one real number",
    "nan": "objective 'blackbox' gives nan for every draw from the prior: it must give finite numbers",
    "dies": "'bad_nets:dies' failed on row 0, a design of shape (1, 28, 28) (OSError: the solver died): make it return NaN",
}
PROPERTIES = {
    "text_for_all": "property function 'bad_nets:text_for_all' returned str, expected a tensor",
    "reduced": "returned a tensor of shape () for 4 rows, expected a float tensor of shape (4,): return one number a row",
    "complex_numbers": "returned torch.complex64 numbers for 4 rows, expected a float tensor of shape (4,): return real",
    "truth_values": "returned torch.bool numbers for 4 rows, expected a float tensor of shape (4,): return floating-point",
    "infinite": "objective 'property' gives inf for every draw from the prior",
    "dies": "fails on designs of shape (4, 1, 28, 28) (OSError: the solver died): make it take a batch of designs",
    "divides_by_zero": "fails on designs of shape (4, 1, 28, 28) (ZeroDivisionError: division by zero): make it take",
    "ones": [
        "no gradient reaches the latents from 'property' (constant for all draws: 'property')",
        "use cmaes or optuna or random",
    ],
}


@pytest.mark.parametrize("row", BLACK_BOXES)
def test_objectives_of_one_design(row):
    objective = f"{{kind: blackbox, function: 'bad_nets:{row}'}}"
    refused(BLACK_BOXES[row], "optimize", "-d", "digits", "--objective", objective, *BLIND)


@pytest.mark.parametrize("row", PROPERTIES)
def test_objectives_of_a_batch(row):
    objective = f"{{kind: property, function: 'bad_nets:{row}'}}"
    refused(PROPERTIES[row], "optimize", "-d", "digits", "--objective", objective, *QUICK)


@pytest.mark.filterwarnings("always")
def test_a_constant_objective_is_warned_of():
    objective = "{kind: blackbox, function: 'bad_nets:constant'}"
    found = call("optimize", "-d", "digits", "--objective", objective, *BLIND)
    assert found.exit_code == 0
    words = "objective 'blackbox' is constant: it gave 1 for every draw from the prior and every row found"
    assert [line for line in found.stderr.splitlines() if line.startswith(f"warning: {words}")]
    assert f"note     {words}" in found.stdout
    other = call("optimize", "-d", "digits", "--objective", "prior", *BLIND)
    assert "constant" not in other.stderr + other.stdout


def test_an_objective_that_turns_nan_for_all_rows_names_step_and_term():
    objective = "{kind: property, function: 'bad_nets:finite_at_the_centre'}"
    words = [
        "all 1 rows diverged: term 'property' was NaN or infinite for every row at step",
        "lower the learning rate",
    ]
    refused(words, "optimize", "-d", "digits", "--objective", objective, *QUICK, code=1)


# ---------------------------------------------------------------------- targets


def png(path, width, height):
    """A picture that says it is this large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b""))
    save_bytes(path, b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def truncated(path):
    Image.effect_noise((28, 28), 50).save(path)
    with open(path, "r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)


def colours(path):
    Image.fromarray(np.arange(28 * 28 * 3, dtype=np.uint8).reshape(28, 28, 3)).save(path)


TARGETS = {
    "missing": ("t.png", lambda path: None, "file not found: t.png (looked in "),
    "a directory": ("t.png", os.mkdir, "t.png is a folder: give one picture, .npy or .safetensors file"),
    "empty": ("t.png", lambda path: save_bytes(path, b""), "t.png is empty (0 bytes)"),
    "text": (
        "t.txt",
        lambda path: save_bytes(path, b"seven"),
        "t.txt is a text file: give a PNG, JPEG or WebP picture",
    ),
    "truncated": ("t.png", truncated, "t.png is a damaged or truncated picture"),
    "0 x 0": ("t.png", lambda path: png(path, 0, 0), "t.png has 0 x 0 pixels: give a picture that holds something"),
    "30,000 squared": (
        "t.png",
        lambda path: png(path, 30_000, 30_000),
        "t.png has 30000 x 30000 pixels, the limit is 40 megapixels: scale it down",
    ),
    "BMP": (
        "t.bmp",
        lambda path: Image.new("L", (28, 28)).save(path),
        "t.bmp is a BMP, which is not read: convert it to PNG",
    ),
    "TIFF": ("t.tiff", lambda path: Image.new("L", (28, 28)).save(path), "t.tiff is a TIFF, which is not read"),
    "FITS": ("t.fits", lambda path: save_bytes(path, b"SIMPLE  =                    T"), "t.fits is a FITS file"),
    "PSD": ("t.psd", lambda path: save_bytes(path, b"8BPS\0\1" + bytes(40)), "t.psd is a Photoshop file"),
    "other size": (
        "t.png",
        lambda path: Image.new("L", (64, 64)).save(path),
        "t.png is 1x64x64, the decoder gives 1x28x28: add resize: true (--resize)",
    ),
    "colours": ("t.png", colours, "t.png is 3x28x28, the decoder gives 1x28x28: add gray: true (--gray)"),
    "pickle in .npy": (
        "t.npy",
        lambda path: np.save(path, np.array([{}], dtype=object)),
        "t.npy holds Python objects, which are never unpickled (allow_pickle=False): save plain numbers",
    ),
    "complex .npy": ("t.npy", lambda path: np.save(path, np.zeros((1, 28, 28), complex)), "save real numbers"),
    "text .npy": ("t.npy", lambda path: np.save(path, np.array(["a"])), "t.npy holds <U1 values: save real numbers"),
    "NaN in .npy": (
        "t.npy",
        lambda path: np.save(path, np.full((1, 28, 28), np.nan)),
        "t.npy contains 784 NaN or infinite values, the first at [0, 0, 0]: give finite numbers",
    ),
    "never broadcast": (
        "t.npy",
        lambda path: np.save(path, np.zeros((1, 28, 1), np.float32)),
        "target has shape 1x28x1, the decoder gives 1x28x28",
    ),
    "two arrays": (
        "t.npz",
        lambda path: np.savez(path, a=np.zeros(3), b=np.zeros(3)),
        "t.npz holds 2 arrays (a, b): choose",
    ),
    "checkpoint": ("t.pt", lambda path: torch.save({}, path), "t.pt is a zip archive and no .npz (a checkpoint?)"),
}


@pytest.mark.parametrize("row", TARGETS)
def test_targets(row):
    name, make, words = TARGETS[row]
    make(name)
    refused(words, "optimize", "-d", "digits", "-t", name, *QUICK)


def test_latents_of_another_shape():
    np.save("k.npy", np.zeros((2, 5), np.float32))
    Image.new("L", (28, 28)).save("t.png")
    refused(
        "latents of shape (2, 5) do not fit this decoder: give (N, 20)",
        "interpolate",
        "-d",
        "digits",
        "--keys",
        "k.npy",
    )
    words = "starts of shape (2, 5) do not fit 1 target(s) and latents of shape (20,): give (n, 20) or (1, n, 20)"
    refused(words, "optimize", "-d", "digits", "-t", "t.png", "--starts", "k.npy")


def test_a_path_of_one_key_and_starts_without_an_encoder():
    Image.new("L", (28, 28)).save("t.png")
    refused("a path needs at least 2 key latents, got 1", "interpolate", "-d", "digits", "--between", "t.png")
    np.save("t.npy", np.zeros((1, 4, 4), np.float32))
    words = "has no encoder: pass Decoder(..., encoder=...)"
    refused(words, "optimize", "-d", module(), "-t", "t.npy", "--starts", "encoder")


# ---------------------------------------------------------------------- run files

TOP = "decoder: digits\n"
SYNTAX = {
    "tab": (TOP + "task:\n\tkind: sample\n", "run.yaml:3:1: a tab in the indentation", True),
    "unclosed": (TOP + "task: {kind: sample\n", "run.yaml:2:20: a mapping has no closing '}'", True),
    "tag": (TOP + "task: !!python/object/apply:os.system [ls]\n", "run.yaml:2:7: the tag '!!python/object/apply", True),
    "alias bomb": ("a: &a [x, x]\nb: &b [*a, *a]\n", "run.yaml:1:4: the anchor '&a' is not read: remove it", True),
    "nesting": ("a: " + "[" * 20_000, "run.yaml:1:53: nested more than 50 levels deep: flatten it", True),
    "duplicate key": (TOP + "seed: 1\nseed: 2\n", "the key 'seed' is given twice (first in line 2): keep one", True),
    "list at top": ("- 1\n", "run.yaml:1:1: a list at top, expected a mapping", True),
    "empty": ("", "run.yaml is empty: write at least 'decoder:' and 'task:'", False),
    "binary": ("\x00\x01", "run.yaml: binary data (a zero byte at offset 0): give a YAML text file", False),
    "100 MB": ("#" * 2_000_000, "run.yaml is larger than 1000000 bytes, the limit for a config file", False),
    "NO as a key": (TOP + "task: sample\nNO: 3\n", "the key NO reads as a boolean, expected a text: quote it", True),
}


@pytest.mark.parametrize("row", SYNTAX)
def test_yaml(row, tmp_path):
    text, words, excerpt = SYNTAX[row]
    (tmp_path / "run.yaml").write_text(text)
    after = refused(words, "run", "run.yaml")
    assert len(after) == (2 if excerpt else 0)
    assert not excerpt or after[1].strip() == "^"


def searching(options):
    return f"{TOP}task: {{kind: optimize, target: t.png, starts: mean, search: {{kind: adam, {options}}}}}\n"


def optimizing(fields, more=""):
    return f"{TOP}task: {{kind: optimize, target: t.png, {fields}}}\n{more}"


VALUES = {
    "NaN": (searching("lr: .nan"), "task.search.0.lr: Input should be a finite number, got nan"),
    "NaN as text": (searching("lr: 'nan'"), "task.search.0.lr: Input should be a finite number, got 'nan'"),
    "infinity": (f"{TOP}budget: {{seconds: .inf}}\ntask: sample\n", "budget.seconds: Input should be a finite number"),
    "truth as a number": (
        f"{TOP}seed: true\ntask: sample\n",
        "run.yaml:2:1: seed is a number, got true: write it in digits",
    ),
    "NO as a number": (f"{TOP}task: {{kind: sample, n: NO}}\n", "task.n: expected a whole number"),
    "no kind of task": (
        f"{TOP}task: {{n: 3}}\n",
        "run.yaml:2:7: task: this task needs a kind: one of optimize, sample",
    ),
    "no kind of search": (optimizing("search: {lr: 1}"), "task.search.0: this search needs a kind: one of adam, cmaes"),
    "no kind of start": (optimizing("starts: {n: 3}"), "task.starts.0: this start needs a kind, one of around, "),
    "a number as an objective": (
        optimizing("objectives: 3"),
        "task.objectives.0: expected an objective: a name, a dict",
    ),
    "a number as a path": (
        optimizing("objectives: {kind: mse, target: {path: 3}}"),
        "path of an array by file is a path",
    ),
    "sexagesimal": (f"{TOP}seed: 12:30:00\ntask: sample\n", "seed: expected a whole number"),
    "unknown key": (
        optimizing("seach: adam"),
        "run.yaml:2:39: task: unknown key 'seach'; did you mean 'search'?; known: ",
    ),
    "unknown option": (
        searching("setps: 3"),
        "run.yaml:2:74: task.search.0: unknown key 'setps'; did you mean 'steps'?",
    ),
    "unknown search": (optimizing("search: adma"), "unknown search 'adma'; did you mean 'adam'?; installed: adam"),
    "unknown task": (f"{TOP}task: samlpe\n", "unknown task 'samlpe'; did you mean 'sample'?"),
    "no task": (TOP, "run.yaml: task: Field required"),
    "lr 0": (searching("lr: 0"), "task.search.0.lr: Input should be greater than 0, got 0"),
    "lr below 0": (searching("lr: -1e-3"), "task.search.0.lr: Input should be greater than 0, got "),
    "steps 0": (searching("steps: 0"), "task.search.0.steps: Input should be greater than or equal to 1, got 0"),
    "no starts": (optimizing("starts: []"), "task.starts: expected at least 1, got 0"),
    "0 starts": (
        optimizing("starts: {kind: prior, n: 0}"),
        "run.yaml:2:64: task.starts.0.n: Input should be greater than or equal to 1, got 0",
    ),
    "batch 0": (optimizing("search: {kind: optuna, batch: 0}"), "task.search.0.batch: Input should be greater than or"),
    "low above high": (
        f"{TOP}task: {{kind: sample, sampler: {{kind: uniform, low: 1, high: 0}}}}\n",
        "task.sampler: low must be below high, got low=1.0, high=0.0",
    ),
    "starts screened from too few": (
        optimizing("starts: {kind: normal, n: 8, screened_from: 4}"),
        "error: run.yaml:2:47: task.starts.0: screened_from (4) must be at least n (8)",
    ),
    "sampler_options without a sampler": (
        optimizing("search: {kind: optuna, sampler_options: {foo: 1}}"),
        "run.yaml:2:47: task.search.0: sampler_options belong to one sampler: name it, one of tpe, ",
    ),
    "bound turned round": (
        optimizing("objectives: {kind: mse, goal: {between: [3, 1]}}"),
        "run.yaml:2:69: task.objectives.0.goal: between needs low < high, got [3.0, 1.0]",
    ),
    "seed below 0": (f"{TOP}seed: -1\ntask: sample\n", "seed: Input should be greater than or equal to 0, got -1"),
    "n 0": (f"{TOP}task: {{kind: sample, n: 0}}\n", "task.n: Input should be greater than or equal to 1, got 0"),
    "n 1e10": (
        f"{TOP}task: {{kind: sample, n: 10000000000}}\n",
        "task.n: Input should be less than or equal to 100000000",
    ),
    "budget 0": (
        f"{TOP}budget: {{rows: 0}}\ntask: sample\n",
        "budget.rows: Input should be greater than or equal to 1",
    ),
    "budget too small": (optimizing("starts: mean", "budget: {rows: 2}\n"), "does not cover 1 starts and their final"),
}


@pytest.mark.parametrize("row", VALUES)
def test_values(row, tmp_path):
    Image.new("L", (28, 28)).save("t.png")
    text, words = VALUES[row]
    (tmp_path / "run.yaml").write_text(text)
    after = refused(words, "run", "run.yaml")
    assert [line.strip() for line in after[1:]] == (["^"] if after else [])
    assert bool(after) != (row in ("no task", "budget too small")), "the line of what is wrong is shown"
    if after:  # the caret is below the place that the message names
        line, column = map(int, re.search(r"run\.yaml:(\d+):(\d+): ", call("run", "run.yaml").stderr).groups())
        assert text.splitlines()[line - 1][column - 1 :].startswith(after[0][after[1].index("^") :])


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    (tmp_path / "run.yaml").write_text(searching("lr: 1e-3"))
    found = call("run", "run.yaml", "--print-config")
    assert yaml.safe_load(found.stdout)["task"]["search"][0]["lr"] == 0.001


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("a.b.c=3", "error: --set a.b.c: unknown key 'a'; known: decoder, seed, budget, task"),
        ("task.n.x=3", "--set task.n.x: task.n is '16', which holds no 'x': set task.n itself to a mapping or a list"),
        ("taks.n=3", "unknown key 'taks'; did you mean 'task'?"),
        ("task..n=3", "a name in the key is empty"),
        ("task.n", "no '=' in it: write KEY=VALUE"),
        ("task.n=", "no value after '='"),
        ("task.n=many", "error: --set task.n: expected a whole number"),
        ("seed=-1", "error: --set seed: Input should be greater than or equal to 0, got -1"),
        ("budget={row: 2}", "error: --set budget: unknown key 'row'; did you mean 'rows'?"),
    ],
)
def test_changes(change, words):
    refused(words, "sample", "-d", "digits", "--set", change)


OPTIONS = {
    "seed": (["sample", "--seed", "-1"], "error: --seed: Input should be greater than or equal to 0, got -1"),
    "n": (["sample", "-n", "0"], "error: -n: Input should be greater than or equal to 1, got 0"),
    "sampler": (["sample", "--sampler", "{kind: prior, x: 1}"], "error: --sampler: unknown key 'x'; known: "),
    "search": (["optimize", "-s", "{kind: adam, lr: 0}"], "error: --search: task.search.0.lr: Input should be greater"),
    "rows": (["optimize", "--rows", "0"], "error: --rows: Input should be greater than or equal to 1, got 0"),
    "empty search": (["optimize", "-s", ""], "error: --search is empty: give a kind, or '{kind: ..., ...}'"),
    "broken search": (["optimize", "-s", "{kind: adam"], "error: --search:1:12: a mapping has no closing '}'"),
    "not a number": (["sample", "--seed", "x"], "error: invalid value for '--seed': "),
}


@pytest.mark.parametrize("row", OPTIONS)
def test_options_are_named(row):
    arguments, words = OPTIONS[row]
    assert len(refused(words, *arguments, "-d", "digits")) == (2 if row == "broken search" else 0)
    refused("error: --decoder is empty: give the name of a decoder", "sample", "-d", "")


def test_what_set_changes_is_told_from_what_the_file_says(tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"{TOP}task:\n  kind: optimize\n  search:\n    - {{kind: adam, lr: 0}}\n    - adma\n"
    )
    words = ["error: run.yaml:5:24: task.search.0.lr: ", "; run.yaml:6:7: task.search.1: unknown search 'adma'"]
    assert refused(words, "run", "run.yaml")[1].index("^") == 2 + 23
    words = ["error: --set task.search.0.lr: Input should be greater than 0, got -1; run.yaml:6:7: task.search.1: "]
    after = refused(words, "run", "run.yaml", "--set", "task.search.0.lr=-1")
    assert after[0].strip() == "- adma"
    changes = ["--set", "task.search.0.lr=1", "--set", "task.search.1.kind=lbfgs", "--set", "task.starts.n=0"]
    words = "error: --set task.starts.n: task.starts"
    assert refused(words, "run", "run.yaml", *changes) == []


def test_the_file_of_a_decoder_is_named_with_line_and_column(tmp_path):
    described = "kind: module\nfactory: bad_nets:Net\nlatent_shape: [0]\n"
    (tmp_path / "decoder.yaml").write_text(described)
    words = "error: decoder.yaml:3:16: decoder.latent_shape.0: Input should be greater than or equal to 1, got 0"
    assert refused(words, "sample", "-d", "decoder.yaml")[0] == "  latent_shape: [0]"
    (tmp_path / "decoder.yaml").write_text(f"decoder:\n  {described}".replace("\nf", "\n  f").replace("\nl", "\n  l"))
    refused("error: decoder.yaml:4:18: decoder.latent_shape.0: ", "sample", "-d", "decoder.yaml")
    words = (
        "error: --set decoder.latent_shape: decoder.latent_shape.0: Input should be greater than or equal to 1, got -1"
    )
    assert refused(words, "sample", "-d", "decoder.yaml", "--set", "decoder.latent_shape=[-1]") == []


# ---------------------------------------------------------------------- memory


TOO_LARGE = {
    "sample": (
        ["-n", 100_000_000],
        "100000000 designs of shape (1, 28, 28) and their latents need about 344 GiB, and 2 GiB",
    ),
    "interpolate": (["--keys", "k.npy", "--steps", 1_000_000], "need about 3.44 GiB, and 2 GiB are free: lower steps"),
    "optimize": (
        ["-t", "t.png", "--starts", "{kind: prior, n: 10000000}"],
        "10000000 draws for starts need about 5.22 GiB, and 2 GiB are free: lower n or screened_from",
    ),
}


@pytest.mark.parametrize("command", TOO_LARGE)
def test_more_than_memory_holds_is_refused_before_it_is_taken(command, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**31)
    Image.new("L", (28, 28)).save("t.png")
    np.save("k.npy", np.zeros((2, 20), np.float32))
    arguments, words = TOO_LARGE[command]
    refused(words, command, "-d", "digits", *arguments, "--out", "made")
    assert no_folder_left(tmp_path)


def test_starts_that_fit_with_designs_that_do_not(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**20)
    Image.new("L", (28, 28)).save("t.png")
    words = ["1000 starts and their designs need about 3.6 MiB, and 1 MiB are free: give fewer starts"]
    refused(words, "optimize", "-d", "digits", "-t", "t.png", "--starts", "{kind: prior, n: 1000}")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_memory_that_runs_out_is_the_same_error(error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(lo.LatentSpace, "draw", fail)
    words = [
        "4 latents of shape (20,) need about",
        "which are not free",
        "set latent_shape to what it was trained with",
    ]
    refused(words, "sample", "-d", "digits")


def test_other_errors_pass_through_the_check_of_memory():
    with pytest.raises(RuntimeError, match="something else"), memory.room(1, "these", "lower n"):
        raise RuntimeError("something else")


def test_memory_that_is_not_known_refuses_nothing(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    with memory.room(2**60, "these", "lower n"):
        pass


def test_free_memory_is_a_number_of_this_machine():
    assert 2**20 < memory.free_bytes() < 2**50


# ---------------------------------------------------------------------- plugins


class Entry:
    """An installed plugin's entry point."""

    def __init__(self, name, found):
        self.name, self.value, self.found = name, f"{name}_module", found
        self.dist = types.SimpleNamespace(name=f"latentopt-{name}", version="0.3")

    def load(self):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def plugin(hook):
    made = types.ModuleType("made")
    hook = hook if callable(hook) else lambda value=hook: value
    made.latentopt_register_objectives = registry.pluggy.HookimplMarker("latentopt")(hook)
    return made


def raises():
    raise ZeroDivisionError("in the hook")


class NoBuild(lo.ObjectiveConfig):
    kind: str = "no_build"


PLUGINS = {
    "import error": (
        ImportError("no 'left_pad'"),
        "plugin 'bad' (latentopt-bad 0.3) failed to import (ImportError: no 'l",
    ),
    "raises on import": (
        ZeroDivisionError("7"),
        "failed to import (ZeroDivisionError: 7): repair or uninstall it, or leave",
    ),
    "raises on register": (
        plugin(raises),
        "failed to register (ZeroDivisionError: in the hook): repair or uninstall it",
    ),
    "wrong signature": (plugin(lambda extra: []), "plugin 'bad' (latentopt-bad 0.3): "),
    "no list": (plugin(None), "latentopt_register_objectives must return a list of config classes"),
    "no config class": (
        plugin([3]),
        "latentopt_register_objectives returned 3, expected a subclass of ObjectiveConfig",
    ),
}


@pytest.fixture
def installing(monkeypatch):
    """Puts a plugin beside the built-ins, and forgets what was loaded before and after."""
    before = list(registry.metadata.entry_points(group=shipped.GROUP))

    def install(found):
        monkeypatch.setattr(registry.metadata, "entry_points", lambda group: [*before, Entry("bad", found)])
        registry.installed.cache_clear()

    monkeypatch.delenv("LATENTOPT_PLUGINS", raising=False)
    kept = registry.installed()
    yield install
    monkeypatch.setattr(registry, "load", lambda: kept)  # the very registry that other tests know
    registry.installed.cache_clear()
    registry.installed()


@pytest.mark.parametrize("row", PLUGINS)
def test_plugins(row, installing):
    found, words = PLUGINS[row]
    installing(found)
    refused(words, "sample", "-d", "digits", "-n", 1)


def test_two_plugins_of_one_name(installing):
    installing(plugin([registry.installed().get("objectives", "mse")]))
    words = [
        "two plugins claim objectives kind 'mse': latentopt ",
        "and latentopt-bad 0.3; uninstall one, or choose with",
    ]
    refused(words, "sample", "-d", "digits", "-n", 1)


def test_a_plugin_that_is_chosen_and_not_there(installing, monkeypatch):
    monkeypatch.setenv("LATENTOPT_PLUGINS", "sdt")
    installing(plugin([]))
    refused("LATENTOPT_PLUGINS names 'sdt', which is not installed; did you mean 'std'?", "plugins")


def test_code_that_needs_a_package_that_is_missing(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = "importing 'needs_more:Net' failed: it needs 'no_such_package_at_all', which is not installed"
    described = {"kind": "module", "factory": "needs_more:Net", "latent_shape": [3]}
    (tmp_path / "decoder.yaml").write_text(yaml.safe_dump(described))
    refused(words, "sample", "-d", "decoder.yaml")


# ---------------------------------------------------------------------- folders


def test_a_folder_that_is_there_already(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kept.txt").write_text("mine")
    refused(
        "there exists and is not an empty folder: a run never overwrites", "sample", "-d", "digits", "--out", "there"
    )
    (tmp_path / "file").write_text("mine")
    refused("file exists and is not an empty folder", "sample", "-d", "digits", "--out", "file")
    words = "cannot make the folder file/run (Not a directory): choose a place where you may write"
    refused(words, "sample", "-d", "digits", "--out", "file/run")


def untouched(*_, **__):
    raise ZeroDivisionError("the work has begun")


@pytest.mark.parametrize("made", [False, True], ids=["parent", "folder"])
def test_a_read_only_place_is_refused_before_the_work(made, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "_sample", untouched)
    if made:
        (tmp_path / "run").mkdir()
        monkeypatch.setattr(store.os, "access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
        words = "the folder run is read-only: choose a place where you may write"
    else:

        def mkdir(path, *_, **__):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(store.Path, "mkdir", mkdir)
        words = "cannot make the folder run (Read-only file system): choose a place where you may write"
    refused(words, "sample", "-d", "digits", "--out", "run")


def test_a_full_disk(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "write", full)
    words = ["cannot write run/", "(No space left on device): free some space, or choose another place"]
    refused(words, "sample", "-d", "digits", "-n", 1, "--out", "run")


def test_a_run_that_fails_leaves_no_folder(tmp_path):
    refused("asked for 5 rows", "sample", "-d", "digits", "-n", 5, "--sampler", encoded(4), "--out", "run")
    assert no_folder_left(tmp_path)
    (tmp_path / "run").mkdir()
    refused("asked for 5 rows", "sample", "-d", "digits", "-n", 5, "--sampler", encoded(4), "--out", "run")
    assert (tmp_path / "run").exists(), "what was there before stays"


def test_a_search_that_cannot_start_leaves_no_folder(tmp_path):
    Path("run.yaml").write_text("decoder: digits\ntask:\n  kind: optimize\n  starts: {kind: run, folder: ./no/run}\n")
    words = (
        f"run.yaml:4:31: there is no folder no/run (looked in {Path.cwd()}): give the folder of a run, as out= or --out"
    )
    refused(words, "run", "run.yaml", "--set", "task.objectives=prior", "--out", "out")
    assert not Path("out").exists()


def encoded(n):
    np.save("x.npy", lo.examples.digits()[:n].numpy())
    return "{kind: encoded, designs: x.npy}"


def test_an_interrupt_is_exit_code_130(monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "_sample", stop)
    found = call("sample", "-d", "digits", "--out", "run")
    assert (found.exit_code, found.stdout, found.stderr) == (130, "", "interrupted\n")
    assert no_folder_left(tmp_path)

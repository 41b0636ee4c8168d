"""Whatever a file holds, only `LatentoptError`s come out, each fit for a terminal.

Every parser gets damaged and mixed-up input of its own kind. `make fuzz` runs 100,000 in all (LATENTOPT_FUZZ says how many);
without it a few thousand, the same ones each time.
"""

import copy
import io
import json
import os
import warnings

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors.torch import save as save_safetensors

import latentopt as lo
from latentopt import arrays, packing, runfolder, store
from latentopt.budget import Budget
from latentopt.config import make_config
from latentopt.errors import LatentoptError
from latentopt.settings import Origins, set_path
from latentopt.testing import toy_decoders
from latentopt.weights import parse_weights
from latentopt.yamltext import parse_document

TOTAL = int(os.environ.get("LATENTOPT_FUZZ", "0"))
PARSERS = 7  # that share the total


def examples(share=1.0):
    """How many inputs a test gets; those that take long get a part of the usual."""
    many = max(1, int((TOTAL or 3500) / PARSERS * share))
    return settings(
        max_examples=many, deadline=None, derandomize=not TOTAL, database=None, suppress_health_check=list(HealthCheck)
    )


def attempt(call, *args):
    """Runs a parser: it may succeed, or say in a line (and the excerpt of a file) what is wrong."""
    said = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch and Pillow warn of odd files
            call(*args)
    except LatentoptError as error:
        said = str(error)
    if said is not None:
        lines = said.split("\n")
        assert len(lines) in (1, 3), said
        assert lines[0].strip()
        assert all(line.isprintable() for line in lines), repr(said)


@st.composite
def damaged(draw, originals):
    """The bytes of a sound file with a few of them changed, cut out, doubled or put in, or cut short."""
    raw = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        what = draw(st.sampled_from(("change", "cut", "insert", "double", "end", "head")))
        if what == "change" and raw:
            raw[at] = draw(st.integers(0, 255))
        elif what == "cut":
            del raw[at : at + draw(st.integers(1, 64))]
        elif what == "insert":
            raw[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif what == "double":
            raw[at:at] = raw[at : at + draw(st.integers(1, 64))]
        elif what == "end":
            del raw[at:]
        else:
            at = draw(st.integers(0, min(200, max(0, len(raw) - 1))))
            raw[at : at + 1] = draw(st.binary(max_size=2))
    return bytes(raw)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(
        [2**31, 2**63, -(2**70), 10**100, 1e308, float("nan"), float("inf"), "", "a", "\x1b[2J", "x\ny", "\x00"]
    )
    | st.floats(),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(max_size=5), child, max_size=3),
    max_leaves=6,
)


@st.composite
def altered(draw, originals, odd=ODD):
    """Plain data in which some values are replaced, removed, renamed or wrapped."""
    data = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(data))
        if not places:
            return data
        holder, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(("replace", "replace", "remove", "rename", "wrap", "swap")))
        if what == "remove":
            del holder[key]
        elif what == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from([f"{key}x", "kind", "path", "n"]))] = holder.pop(key)
        elif what == "wrap":
            holder[key] = draw(st.sampled_from([[holder[key]], {"kind": holder[key]}, [holder[key]] * 2]))
        elif what == "swap":
            other, name = draw(st.sampled_from(places))
            holder[key] = (
                copy.deepcopy(other[name])
                if name in (other if isinstance(other, dict) else range(len(other)))
                else None
            )
        else:
            holder[key] = draw(odd)
    return data


def _places(data):
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield data, key
        yield from _places(data[key])


# ---------------------------------------------------------------------- configs

CONFIGS = [
    {
        "decoder": {"kind": "digits"},
        "seed": 3,
        "budget": {"rows": 2000, "seconds": 6.5},
        "task": {
            "kind": "optimize",
            "target": "target.png",
            "starts": [
                "encoder",
                {"kind": "normal", "n": 7, "screened_from": 512},
                [[0.5] * 3],
                {"path": "a.npy", "key": "z"},
            ],
            "region": {"kind": "shell", "percentile": 99, "fixed": {"3": 0.5}},
            "objectives": [
                {"kind": "mse", "goal": {"at_most": 0.2}, "weight": 0.1},
                "prior",
                {"kind": "blackbox", "function": "a:b"},
            ],
            "constraints": [{"kind": "prior", "goal": {"between": [1, 2]}}],
            "pareto": False,
            "search": [
                [{"kind": "adam", "lr": 0.1}, "lbfgs"],
                {"kind": "optuna", "sampler": "tpe", "sampler_options": {"a": 1}},
            ],
        },
    },
    {
        "decoder": {
            "kind": "module",
            "factory": "a.b:c",
            "factory_options": {"x": [1, {"y": 2}]},
            "weights": "w.pt",
            "latent_shape": [4, 8, 8],
            "prior": {"kind": "mixture", "weights": [0.5, 0.5], "means": [[0.0], [1.0]]},
            "data": ["a.png", {"path": "b.png", "gray": True}],
            "conditions": {"label": 3, "more": [1.0]},
            "value_range": [-1, 1],
        },
        "task": {"kind": "sample", "n": 9, "sampler": {"kind": "uniform", "low": -1, "high": 1}},
    },
    {
        "decoder": "digits",
        "task": {
            "kind": "interpolate",
            "keys": [[0, 1], [1, 0]],
            "steps": 5,
            "interpolator": {"kind": "slerp", "even": True},
        },
    },
]
TEXTS = [yaml.safe_dump(one, default_flow_style=style).encode() for one in CONFIGS for style in (None, False)]


@examples()
@given(damaged(TEXTS))
def test_texts_of_configs(raw):
    def read():
        document = parse_document(raw.decode("utf-8", "replace"), "run.yaml")
        make_config(document.data, where=Origins(document))

    attempt(read)


@examples()
@given(altered(CONFIGS))
def test_data_of_configs(data):
    if isinstance(data, dict):
        attempt(make_config, data)


@examples()
@given(
    st.sampled_from(
        ["task.search.0.lr", "task.starts", "seed", "decoder.latent_shape.1", "task.objectives.0.goal", "a.b"]
    ),
    st.text("ab1 0.:-[]{}?,&*!|>'\"%@`#~<=\n\\eE", max_size=30) | ODD.map(repr),
)
def test_changes_of_configs(place, value):
    def change():
        make_config(set_path(CONFIGS[0], f"{place}={value}"))

    attempt(change)


# ---------------------------------------------------------------------- files


def encoded(make):
    buffer = io.BytesIO()
    make(buffer)
    return buffer.getvalue()


PIXELS = Image.fromarray(np.arange(12 * 8 * 3, dtype=np.uint8).reshape(12, 8, 3))
PICTURES = [
    *(encoded(lambda file, kind=kind: PIXELS.save(file, kind)) for kind in ("PNG", "JPEG", "WEBP")),
    encoded(lambda file: PIXELS.convert("P").save(file, "PNG")),
    encoded(lambda file: Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(file, "PNG")),
    encoded(lambda file: PIXELS.convert("CMYK").save(file, "JPEG")),
]
NUMBERS = [
    encoded(lambda file: np.save(file, np.arange(12.0).reshape(3, 4))),
    encoded(lambda file: np.savez(file, a=np.arange(3), b=np.arange(4))),
    encoded(lambda file: np.savez_compressed(file, a=np.arange(30))),
    save_safetensors({"a": torch.arange(6.0), "b": torch.arange(4, dtype=torch.int8)}),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "input"


@examples()
@given(damaged(PICTURES) | damaged(NUMBERS))
def test_pictures_and_arrays(place, raw):
    place.write_bytes(raw)
    attempt(arrays.read_array, place)


STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.zeros(2)}
WEIGHTS = [
    save_safetensors(STATE),
    encoded(lambda file: torch.save(STATE, file)),
    encoded(lambda file: torch.save({"state_dict": STATE, "epoch": 3}, file)),
    encoded(lambda file: torch.save(STATE, file, _use_new_zipfile_serialization=False)),
]


@examples()
@given(damaged(WEIGHTS))
def test_weights(raw):
    attempt(parse_weights, raw, "w.pt")


# ---------------------------------------------------------------------- the folder of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run with checkpoints, and what its files hold."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    decoder = toy_decoders()["image"]
    search = {"kind": "adam", "steps": 3}
    lo.optimize(decoder, target=torch.zeros(1, 8, 8), search=search, starts="mean", out=folder, budget=Budget(rows=500))
    return folder, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@st.composite
def files(draw, raws):
    """The bytes of one of them, damaged as bytes, or as the plain data that it holds."""
    raw = draw(st.sampled_from(raws))
    if draw(st.booleans()):
        return draw(damaged([raw]))
    return json.dumps(draw(altered([json.loads(raw)]))).encode()


@examples(0.5)
@given(data=st.data(), name=st.sampled_from(["run.json", "config.json", "manifest.json", "result.json"]))
def test_files_of_a_run(run, data, name):
    folder, held = run
    raw = data.draw(files([held[name]]))
    manifest = folder / "manifest.json"
    try:
        (folder / name).write_bytes(raw)
        attempt(store.check_manifest, folder)
        attempt(runfolder.read_about, folder)
        attempt(runfolder.read_config_json, folder)
        if name != "manifest.json":
            manifest.unlink()  # without sums damage reaches what reads the file
        attempt(lo.load, folder)
    finally:
        (folder / name).write_bytes(held[name])
        manifest.write_bytes(held["manifest.json"])


PACKED = packing.pack(
    {
        "step": 3,
        "began": (1, 2.5),
        "here": [[], ["budget"], "why"],
        "z": torch.arange(6.0).reshape(2, 3),
        "seen": np.arange(4),
        "best": packing._KNOWN["Best"](*[torch.zeros(2)] * len(packing._KNOWN["Best"]._fields)),
    }
)


def repacked(structure):
    """A checkpoint with another structure over the same tensors."""
    length = int.from_bytes(PACKED[:8], "little")
    header = json.loads(PACKED[8 : 8 + length])
    header["__metadata__"]["structure"] = json.dumps(structure)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + PACKED[8 + length :]


def structure_of(packed):
    length = int.from_bytes(packed[:8], "little")
    return json.loads(json.loads(packed[8 : 8 + length])["__metadata__"]["structure"])


@examples()
@given(damaged([PACKED]) | altered([structure_of(PACKED)]).map(repacked))
def test_checkpoints(raw):
    attempt(packing.unpack, raw)

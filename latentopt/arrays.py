"""Numbers from files: pictures, `.npy`, `.npz` and `.safetensors`, judged by content and limited in size.

Nothing here unpickles, follows a reference to another file, or lets a library's own exception out.
"""

from __future__ import annotations

import difflib
import io
import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_safetensors
from torch import Tensor

from latentopt.errors import InputFileError

MAX_BYTES, MAX_PIXELS = 64 * 2**20, 40_000_000
_FORMATS = ("PNG", "JPEG", "WEBP")
_REFUSED = {
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"BM": "a BMP",
    b"8BPS": "a Photoshop file",
    b"SIMPLE": "a FITS file",
    b"%PDF": "a PDF",
}
# What Pillow, numpy, zipfile and safetensors raise on damaged files.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError),
    *(EOFError, MemoryError, RuntimeError, struct.error, zlib.error, tokenize.TokenError, zipfile.BadZipFile),
    *(UnidentifiedImageError, SafetensorError),
)


class Loaded(NamedTuple):
    """Numbers from a file, float32: a picture `(C, H, W)` in [0, 1] or an array of any shape, and what was done to it."""

    values: Tensor
    notes: tuple[str, ...]
    is_picture: bool


def read_array(path: str | Path, key: str | None = None) -> Loaded:
    """The numbers in a PNG, JPEG, WebP, `.npy`, `.npz` or `.safetensors` file; `key` picks an array of several.

    Raises `InputFileError`: missing, empty, damaged, too large (64 MiB, 40 megapixels), or of a kind that is not read.
    """
    path = Path(path)
    raw = _bytes_of(path)
    if raw.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _npz(raw, path, key)
    if raw[8:9] == b"{" and int.from_bytes(raw[:8], "little") <= 100_000_000:  # the format's own limit on headers
        return _safetensors(raw, path, key)
    if key is not None:
        raise InputFileError(f"{path} holds no arrays by name: leave out key {key!r}")
    if raw.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (raw[:4] == b"RIFF" and raw[8:12] == b"WEBP"):
        return _picture(raw, path)
    if raw.startswith(b"\x93NUMPY"):
        return _npy(raw, str(path))
    raise InputFileError(_unknown(raw, path))


def read_stored(path: Path, key: str) -> Tensor:
    """A tensor of a run's own safetensors file, of whatever type and size. Raises `InputFileError`."""
    try:
        if not path.is_file():
            raise InputFileError(f"file not found: {path}: it belongs to the run, copy the whole folder")
        with safe_open(path, "pt") as file:
            if key not in file.keys():  # noqa: SIM118  # the file is no mapping
                raise InputFileError(f"{path} has no tensor {key!r}: it is damaged or of another run")
            found: Tensor = file.get_tensor(key)
            return found
    except _BROKEN as error:
        raise InputFileError(f"{path} is a damaged .safetensors file ({_said(error)})") from None


def _bytes_of(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise InputFileError(f"{path} is a folder: give one picture, .npy or .safetensors file")
        if not path.is_file():
            raise InputFileError(f"{path} is not an ordinary file: give a picture, .npy or .safetensors file")
        if size > MAX_BYTES:
            raise InputFileError(
                f"{path} has {size / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20}: give a smaller file"
            )
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputFileError(f"file not found: {path} (looked in {Path.cwd()}){_near(path)}") from None
    except PermissionError:
        raise InputFileError(f"no permission to read {path}") from None
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot read {str(path)!r}: {error}") from None
    if not raw:
        raise InputFileError(f"{path} is empty (0 bytes)")
    if raw.startswith(b"version https://git-lfs"):
        raise InputFileError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    return raw


def _near(path: Path) -> str:
    try:
        names = os.listdir(path.parent)
    except OSError:
        return ""
    found = difflib.get_close_matches(path.name, names, n=1)
    return f". Did you mean {found[0]!r}?" if found else ""


def _unknown(raw: bytes, path: Path) -> str:
    kind = next((name for magic, name in _REFUSED.items() if raw.startswith(magic)), None)
    if kind is not None:
        return f"{path} is {kind}, which is not read: convert it to PNG"
    if raw.startswith(b"\x80"):
        return f"{path} is a pickle, which is never loaded: save the array as .npy or .safetensors"
    text = all(byte >= 32 or byte in (9, 10, 12, 13) for byte in raw[:64]) and _is_utf8(raw)
    what = "a text file" if text else f"not of a known kind (it starts with {raw[:8].hex(' ')})"
    return f"{path} is {what}: give a PNG, JPEG or WebP picture, a .npy or a .safetensors file"


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _said(error: BaseException) -> str:
    """One line of what a library said, without objects' addresses."""
    text = "" if "<_io." in str(error) else " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _stated_size(raw: bytes) -> tuple[int, int] | None:
    """Width and height by the header: Pillow allocates on opening a WebP, and gives no size where it refuses a PNG."""
    if raw.startswith(b"\x89PNG") and raw[12:16] == b"IHDR" and len(raw) >= 24:
        return int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")
    if raw[8:12] != b"WEBP" or len(raw) < 30:
        return None
    if raw[12:16] == b"VP8X":  # RFC 9649, sections 2.5 to 2.7
        return 1 + int.from_bytes(raw[24:27], "little"), 1 + int.from_bytes(raw[27:30], "little")
    if raw[12:16] == b"VP8L":
        bits = int.from_bytes(raw[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(raw[26:28], "little") & 0x3FFF, int.from_bytes(raw[28:30], "little") & 0x3FFF


def _check_pixels(path: Path, width: int, height: int) -> None:
    if width * height == 0:
        raise InputFileError(f"{path} has {width} x {height} pixels: give a picture that holds something")
    if width * height > MAX_PIXELS:
        raise InputFileError(
            f"{path} has {width} x {height} pixels, the limit is {MAX_PIXELS // 10**6} megapixels: scale it down"
        )


def _picture(raw: bytes, path: Path) -> Loaded:
    notes: list[str] = []
    _check_pixels(path, *(_stated_size(raw) or (1, 1)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; the limit below refuses them
            with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
                _check_pixels(path, *image.size)
                frames = getattr(image, "n_frames", 1)
                if frames > 1:
                    notes.append(f"the first of {frames} frames taken")
                    image.seek(0)
                image.load()
                if raw.startswith(b"\x89PNG") and raw[24] == 16 and raw[25] & 2:  # Pillow keeps the high bytes
                    notes.append("16-bit colours reduced to 8 bits")
                values = _pixels(image, notes)
    except Image.DecompressionBombError:
        raise InputFileError(f"{path} has over {MAX_PIXELS // 10**6} megapixels, the limit: scale it down") from None
    except _BROKEN as error:
        raise InputFileError(f"{path} is a damaged or truncated picture ({_said(error)})") from None
    return Loaded(values, tuple(notes), True)


def _pixels(image: Image.Image, notes: list[str]) -> Tensor:
    """`(C, H, W)` in [0, 1], with one or three channels."""
    if image.getexif().get(0x0112, 1) in range(2, 9):
        image = ImageOps.exif_transpose(image)
        notes.append("rotated by its EXIF orientation")
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        notes.append("16-bit gray scaled to [0, 1]")
        gray = np.asarray(image).astype(np.float32) / 65535.0
        return torch.from_numpy(np.clip(gray, 0, 1))[None]
    if image.mode == "P":
        notes.append("palette expanded to colours")
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if image.convert("RGBA").getchannel("A").getextrema() != (
            255,
            255,
        ):  # opaque throughout, there is nothing to flatten
            notes.append("transparency flattened onto white")
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        if _is_gray(np.asarray(image)):
            image = image.convert("L")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB"):
        notes.append(f"{image.mode} converted to RGB")
        image = image.convert("RGB")
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).float() / 255
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _is_gray(pixels: np.ndarray) -> bool:
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())


def _npz(raw: bytes, path: Path, key: str | None) -> Loaded:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            if not sizes or not all(name.endswith(".npy") for name in sizes):
                raise InputFileError(
                    f"{path} is a zip archive and no .npz (a checkpoint?): save one array as .npy or .safetensors"
                )
            name = _chosen([name.removesuffix(".npy") for name in sizes], path, "array", key)
            size = sizes[f"{name}.npy"]
            if size > MAX_BYTES:  # zeros pack a thousandfold
                raise InputFileError(
                    f"{path} unpacks to {size / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20}: give a smaller array"
                )
            unpacked = archive.read(f"{name}.npy")
    except _BROKEN as error:
        raise InputFileError(f"{path} is a damaged zip archive ({_said(error)})") from None
    return _npy(unpacked, f"{path} ({name})")


def _npy(raw: bytes, path: str) -> Loaded:
    """The header is held against the bytes that are there before anything is allocated."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # numpy warns of headers from Python 2
            stream = io.BytesIO(raw)
            version = np.lib.format.read_magic(stream)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(stream)
            if dtype.hasobject:
                raise InputFileError(
                    f"{path} holds Python objects, which are never unpickled (allow_pickle=False): save plain numbers"
                )
            if dtype.kind not in "fiub":
                raise InputFileError(f"{path} holds {dtype} values: save real numbers")
            needed, there = math.prod(shape) * dtype.itemsize, len(raw) - stream.tell()
            if needed > there:
                raise InputFileError(f"{path} is truncated: its header promises {needed} bytes, {there} are there")
            if needed < there or any(n < 0 for n in shape):
                raise InputFileError(
                    f"{path} is damaged, or holds more than one array: its header promises {needed} bytes, {there} are "
                    "there: save one array"
                )
            found = np.load(io.BytesIO(raw), allow_pickle=False)
            values = torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32).reshape(found.shape))
    except _BROKEN as error:
        raise InputFileError(f"{path} is a damaged .npy file ({_said(error)})") from None
    return _numbers(values, path, dtype.name)


def _safetensors(raw: bytes, path: Path, key: str | None) -> Loaded:
    try:
        tensors = load_safetensors(raw)
    except _BROKEN as error:
        raise InputFileError(f"{path} is a damaged .safetensors file ({_said(error)})") from None
    values = tensors[_chosen(sorted(tensors), path, "tensor", key)]
    if values.is_complex():
        raise InputFileError(f"{path} holds complex numbers: save real ones")
    return _numbers(values.float(), str(path), str(values.dtype).removeprefix("torch."))


def _chosen(names: list[str], path: Path, what: str, key: str | None) -> str:
    if key is None and len(names) != 1:
        raise InputFileError(f"{path} holds {len(names)} {what}s ({', '.join(names[:8])}): choose one with key")
    if key is not None and key not in names:
        raise InputFileError(f"{path} has no {what} {key!r}: it holds {', '.join(names[:8])}")
    return names[0] if key is None else key


def _numbers(values: Tensor, path: str, dtype: str) -> Loaded:
    if not values.numel():
        raise InputFileError(f"{path} holds no numbers (shape {tuple(values.shape)}): give at least one")
    bad = non_finite(values)
    if bad:
        raise InputFileError(f"{path} {bad}")
    if dtype == "uint8":
        return Loaded(values / 255, ("8-bit values scaled to [0, 1]",), False)
    return Loaded(values, () if dtype == "float32" else (f"{dtype} converted to float32",), False)


def non_finite(values: Tensor) -> str:
    """Nothing, or how many values are not finite and where the first one is."""
    bad = ~torch.isfinite(values)
    count = int(bad.sum())
    if not count:
        return ""
    place = np.unravel_index(int(bad.flatten().to(torch.uint8).argmax()), tuple(values.shape))
    return f"contains {count} NaN or infinite values, the first at {[int(i) for i in place]}: give finite numbers"

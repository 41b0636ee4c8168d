"""Numbers from files: pictures, `.npy` and `.safetensors`, judged by content and limited in size; and pictures written.

Nothing here unpickles, follows a reference to another file, or lets a library's own exception out.
"""

from __future__ import annotations

import contextlib
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
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from latentopt.errors import ConfigError, InputFileError, ShapeError

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
    bad = _non_finite(values)
    if bad:
        raise InputFileError(f"{path} {bad}")
    if dtype == "uint8":
        return Loaded(values / 255, ("8-bit values scaled to [0, 1]",), False)
    return Loaded(values, () if dtype == "float32" else (f"{dtype} converted to float32",), False)


def _non_finite(values: Tensor) -> str:
    """Nothing, or how many values are not finite and where the first one is."""
    bad = ~torch.isfinite(values)
    count = int(bad.sum())
    if not count:
        return ""
    place = np.unravel_index(int(bad.flatten().to(torch.uint8).argmax()), tuple(values.shape))
    return f"contains {count} NaN or infinite values, the first at {[int(i) for i in place]}: give finite numbers"


# ---------------------------------------------------------------------- fitting to a design's shape


def fit_to_shape(
    loaded: Loaded, shape: tuple[int, ...], *, resize: bool = False, gray: bool = False, what: str = "target"
) -> Loaded:
    """One picture or array as one design of exactly `shape`. Never broadcasts; raises `ShapeError` naming what would fix it.

    `gray` turns RGB into luma (ITU-R BT.601) or repeats one channel three times; `resize` scales bilinearly.
    """
    shape, got = tuple(shape), tuple(loaded.values.shape)
    if not loaded.is_picture:
        found = fit_batch(loaded.values, shape, resize=resize, gray=gray, what=what)
        if len(found) != 1:
            raise ShapeError(f"{what} is {_by(got)}, {len(found)} designs of {_by(shape)}: give one")
        note = () if got == shape else (f"{_by(got)} read as {_by(shape)}",)
        return Loaded(found[0], (*loaded.notes, *note), False)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        raise ShapeError(
            f"{what} is a picture of {_by(got)}, the decoder gives {_by(shape)}: give an array of that shape"
        )
    values, notes = _fit_pictures(loaded.values[None], shape, resize, gray, f"{what} is {_by(got)}")
    return Loaded(values[0], (*loaded.notes, *notes), True)


def fit_batch(
    values: Tensor, shape: tuple[int, ...], *, resize: bool = False, gray: bool = False, what: str = "target"
) -> Tensor:
    """An array as T designs `(T, *shape)`, float32 (float64 is kept; uint8 is divided by 255, as from a file).

    Accepted in this order: `(*shape)`, `(T, *shape)`, the same without axes of size 1. With `resize` or `gray`, pictures
    `(C, H, W)` or `(T, C, H, W)` as in `fit_to_shape`. Never broadcasts. Raises `ShapeError` for another shape, for bool or
    complex numbers, or NaN and infinite values.
    """
    shape, values = tuple(shape), _real(values, what)
    got = tuple(values.shape)
    if not values.numel():
        raise ShapeError(f"{what} is empty (shape {got}): give at least one design")
    rgb = gray and len(got) == 3 and got[0] == 3 and len(shape) == 3  # said to have colours, so not three gray designs
    found = _aligned(values, shape) if not rgb or got == shape else None
    if found is not None:
        return found
    _refuse_channels_last(got, shape, what)
    fit = len(shape) == 3 and len(got) in (3, 4) and (got[-3] == shape[0] or {got[-3], shape[0]} == {1, 3})
    if not fit:
        raise ShapeError(f"{what} has shape {_by(got)}, the decoder gives {_by(shape)}: give a target of that shape")
    x_TCHW = values if len(got) == 4 else values[None]
    return _fit_pictures(x_TCHW, shape, resize, gray, f"{what} has shape {_by(got)}")[0]


def _fit_pictures(
    x_TCHW: Tensor, shape: tuple[int, ...], resize: bool, gray: bool, found: str
) -> tuple[Tensor, list[str]]:
    """Pictures as `(T, *shape)`, and what was done to them; raises `ShapeError` naming the options that would do it."""
    channels, size = (shape[0] if len(shape) == 3 else 1), shape[-2:]
    was, notes, missing = tuple(x_TCHW.shape[2:]), list[str](), list[str]()
    if was != size and not resize:
        missing.append("resize: true (--resize)")
    if x_TCHW.shape[1] == 3 and channels == 1 and bool((x_TCHW[:, :1] == x_TCHW).all()):
        x_TCHW = x_TCHW[:, :1]
        notes.append("equal channels read as gray")
    elif x_TCHW.shape[1] != channels and not gray:
        missing.append("gray: true (--gray)")
    elif x_TCHW.shape[1] == 3 and channels == 1:
        luma = x_TCHW.new_tensor([0.299, 0.587, 0.114])
        x_TCHW = (x_TCHW * luma[:, None, None]).sum(1, keepdim=True)
        notes.append("colours turned to gray")
    elif x_TCHW.shape[1] != channels:
        x_TCHW = x_TCHW.expand(-1, channels, -1, -1)
        notes.append("gray repeated for three channels")
    if missing:
        raise ShapeError(
            f"{found}, the decoder gives {_by(shape)}: add {' and '.join(missing)}, or give a target of that shape"
        )
    if was != size:
        x_TCHW = _resized(x_TCHW, size)
        stretched = ", which changes its proportions" if was[0] * size[1] != was[1] * size[0] else ""
        notes.append(f"resized from {was[0]} x {was[1]} to {size[0]} x {size[1]}{stretched}")
    return x_TCHW.reshape(-1, *shape), notes


def _refuse_channels_last(got: tuple[int, ...], shape: tuple[int, ...], what: str) -> None:
    if len(shape) != 3 or shape[0] not in (1, 3) or len(got) not in (3, 4):
        return
    if got[-1] in (1, 3, 4) and got[-3] not in (1, 3, 4):
        moved = (*got[:-3], got[-1], *got[-3:-1])
        raise ShapeError(
            f"{what} has shape {_by(got)}, height x width x channels by its looks, the decoder gives {_by(shape)}: "
            f"transpose it to {_by(moved)}, or give a target of that shape"
        )


def _real(values: Tensor, what: str) -> Tensor:
    """Finite float32 or float64, detached. Raises `ShapeError`."""
    if not isinstance(values, Tensor):
        raise ShapeError(f"{what} is of type {type(values).__name__}: give a tensor")
    if values.layout != torch.strided:
        raise ShapeError(f"{what} is a sparse tensor: make it dense with to_dense()")
    if values.is_complex() or values.dtype == torch.bool:
        kind = "complex numbers" if values.is_complex() else "truth values (bool)"
        raise ShapeError(f"{what} holds {kind}: give real ones")
    numbers = values.detach() if values.dtype == torch.float64 else values.detach().float()
    bad = _non_finite(numbers)
    if bad:
        raise ShapeError(f"{what} {bad}")
    return numbers / 255 if values.dtype == torch.uint8 else numbers


def _aligned(values: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    got = tuple(values.shape)
    if got == shape:
        return values[None]
    if got[1:] == shape and values.ndim == len(shape) + 1:
        return values
    short = tuple(n for n in shape if n != 1)
    squeezed = tuple(n for n in got if n != 1)
    if squeezed == short and values.ndim <= len(shape) + 1:
        return values.reshape(1, *shape)
    if got[:1] and tuple(n for n in got[1:] if n != 1) == short and values.ndim <= len(shape) + 1 and short:
        return values.reshape(got[0], *shape)
    return None


def _resized(values: Tensor, size: tuple[int, ...]) -> Tensor:
    low, high = values.aminmax()  # rounding must not leave the values' own range
    return torch.nn.functional.interpolate(values, size=size, mode="bilinear", antialias=True).clamp(low, high)


def _by(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape)) or "a single number"


# ---------------------------------------------------------------------- pictures written


def sheet(designs: Tensor, columns: int | None = None, pad: int = 2, scale: int = 1, background: float = 1.0) -> Tensor:
    """Pictures `(N, C, H, W)` side by side as one `(C, H', W')`, each pixel `scale` wide, `pad` pixels apart."""
    if designs.ndim != 4 or not len(designs):
        raise ShapeError(f"a sheet takes pictures (N, C, H, W), got shape {tuple(designs.shape)}")
    n, channels, height, width = designs.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    if columns < 1 or pad < 0 or scale < 1:
        raise ShapeError(f"a sheet takes columns >= 1, pad >= 0 and scale >= 1, got {columns}, {pad} and {scale}")
    designs = designs.detach() / 255 if designs.dtype == torch.uint8 else designs.detach()
    lines = math.ceil(n / columns)
    high, wide = height * scale, width * scale
    page = torch.full((channels, lines * (high + pad) + pad, columns * (wide + pad) + pad), background)
    for i, design in enumerate(designs.float().cpu()):
        top, left = pad + (i // columns) * (high + pad), pad + (i % columns) * (wide + pad)
        big = design.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        page[:, top : top + high, left : left + wide] = big
    return page


def write_png(path: str | Path, image: Tensor, metadata: dict[str, str] | None = None) -> None:
    """Write a picture `(H, W)` or `(C, H, W)`, float in [0, 1] (clipped; NaN is 0) or uint8, with text chunks where asked.

    The file is there whole or not at all. Raises `ShapeError`, `InputFileError`, `ConfigError` for a key beyond PNG's.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, 3)) or not image.numel():
        raise ShapeError(f"a picture is (H, W), (1, H, W) or (3, H, W), got shape {tuple(image.shape)}")
    pixels = image.detach().cpu()
    if pixels.dtype != torch.uint8:
        pixels = (pixels.float().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    if pixels.ndim == 3:
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels.permute(1, 2, 0)
    chunks = PngImagePlugin.PngInfo()
    for name, text in (metadata or {}).items():
        if not 0 < len(name) < 80 or not name.isprintable() or any(ord(letter) > 255 for letter in name):
            raise ConfigError(f"a key of a PNG's text has 1 to 79 Latin-1 characters, got {name!r}: rename it")
        chunks.add_text(name, text)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(stream, format="PNG", pnginfo=chunks)
    target = Path(path)
    part = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        part.write_bytes(stream.getvalue())
        os.replace(part, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise InputFileError(f"cannot write {path}: {error.strerror or error}") from None

"""Numbers from files: pictures, `.npy` and `.safetensors`, judged by content and limited in size; and pictures written.

Nothing here unpickles, follows a reference to another file, or lets a library's own exception out.
"""

from __future__ import annotations

import difflib
import io
import math
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from latentopt.errors import InputFileError, ShapeError

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
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, MemoryError, OverflowError, IndexError, KeyError, TypeError)


class Loaded(NamedTuple):
    """Numbers from a file, float32: a picture `(C, H, W)` in [0, 1] or an array of any shape, and what was done to it."""

    values: Tensor
    notes: tuple[str, ...]
    is_picture: bool


def read_array(path: str | Path, key: str | None = None) -> Loaded:
    """The numbers in a PNG, JPEG, WebP, `.npy` or `.safetensors` file; `key` picks a tensor of several.

    Raises `InputFileError`: missing, empty, damaged, too large (64 MiB, 40 megapixels), or of a kind that is not read.
    """
    path = Path(path)
    raw = _bytes_of(path)
    if raw.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (raw[:4] == b"RIFF" and raw[8:12] == b"WEBP"):
        return _picture(raw, path)
    if raw.startswith(b"\x93NUMPY"):
        return _npy(raw, path)
    if raw[8:9] == b"{" and int.from_bytes(raw[:8], "little") <= len(raw) - 8:
        return _safetensors(raw, path, key)
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
    if raw.startswith(b"PK"):
        return f"{path} is a zip archive (.npz or a checkpoint?): save one array as .npy or .safetensors"
    if raw.startswith(b"\x80"):
        return f"{path} is a pickle, which is never loaded: save the array as .npy or .safetensors"
    text = all(32 <= byte < 127 or byte in (9, 10, 13) for byte in raw[:64])
    what = "a text file" if text else f"not of a known kind (it starts with {raw[:8].hex(' ')})"
    return f"{path} is {what}: give a PNG, JPEG or WebP picture, a .npy or a .safetensors file"


def _picture(raw: bytes, path: Path) -> Loaded:
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; the limit below refuses them
            with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise InputFileError(
                        f"{path} has {width} x {height} pixels, the limit is {MAX_PIXELS // 10**6} megapixels: scale it down"
                    )
                frames = getattr(image, "n_frames", 1)
                if frames > 1:
                    notes.append(f"the first of {frames} frames taken")
                    image.seek(0)
                image.load()
                values = _pixels(image, notes)
    except Image.DecompressionBombError:
        raise InputFileError(f"{path} has over {MAX_PIXELS // 10**6} megapixels, the limit: scale it down") from None
    except (UnidentifiedImageError, *_BROKEN) as error:
        raise InputFileError(f"{path} is a damaged or truncated picture ({type(error).__name__}: {error})") from None
    return Loaded(values, tuple(notes), True)


def _pixels(image: Image.Image, notes: list[str]) -> Tensor:
    """`(C, H, W)` in [0, 1], with one or three channels."""
    if image.getexif().get(0x0112, 1) != 1:
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


def _npy(raw: bytes, path: Path) -> Loaded:
    try:
        stream = io.BytesIO(raw)
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(stream)
        if dtype.hasobject:
            raise InputFileError(
                f"{path} holds Python objects, which are never unpickled (allow_pickle=False): save plain numbers"
            )
        needed = math.prod(shape) * dtype.itemsize
        if needed > len(raw) - stream.tell():
            raise InputFileError(
                f"{path} is truncated: its header promises {needed} bytes, {len(raw) - stream.tell()} are there"
            )
        found = np.load(io.BytesIO(raw), allow_pickle=False)
    except _BROKEN as error:
        raise InputFileError(f"{path} is a damaged .npy file ({type(error).__name__}: {error})") from None
    if found.dtype.kind not in "fiub":
        raise InputFileError(f"{path} holds {found.dtype} values: save real numbers")
    return _numbers(torch.from_numpy(np.ascontiguousarray(found.astype(found.dtype.newbyteorder("=")))), path)


def _safetensors(raw: bytes, path: Path, key: str | None) -> Loaded:
    try:
        tensors = load_safetensors(raw)
    except (SafetensorError, *_BROKEN) as error:
        raise InputFileError(f"{path} is a damaged .safetensors file ({error})") from None
    names = sorted(tensors)
    if key is None and len(names) != 1:
        raise InputFileError(f"{path} holds {len(names)} tensors ({', '.join(names[:8])}): choose one with key")
    if key is not None and key not in tensors:
        raise InputFileError(f"{path} has no tensor {key!r}: it holds {', '.join(names[:8])}")
    return _numbers(tensors[names[0] if key is None else key], path)


def _numbers(values: Tensor, path: Path) -> Loaded:
    if values.is_complex():
        raise InputFileError(f"{path} holds complex numbers: save real ones")
    notes = []
    if values.dtype == torch.uint8:
        notes.append("8-bit values scaled to [0, 1]")
        values = values.float() / 255
    values = values.float()
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise InputFileError(f"{path} contains {bad} NaN or infinite values: give finite numbers")
    return Loaded(values, tuple(notes), False)


# ---------------------------------------------------------------------- fitting to a design's shape


def fit_to_shape(
    loaded: Loaded, shape: tuple[int, ...], *, resize: bool = False, gray: bool = False, what: str = "target"
) -> Loaded:
    """One picture or array as one design of exactly `shape`. Never broadcasts; raises `ShapeError` naming what would fix it.

    `gray` turns RGB into luma (ITU-R BT.601) or repeats one channel three times; `resize` scales bilinearly.
    """
    if not loaded.is_picture:
        return Loaded(fit_batch(loaded.values, shape, resize=resize, gray=gray, what=what)[0], loaded.notes, False)
    values, notes = loaded.values, list(loaded.notes)
    wanted = (1, *shape) if len(shape) == 2 else shape
    if len(wanted) != 3 or wanted[0] not in (1, 3):
        raise ShapeError(
            f"{what} is a picture of {_by(values.shape)}, the decoder gives {_by(shape)}: give an array of that shape"
        )
    colours = values.shape[0] == 3
    equal = colours and torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])
    wrong_channels = values.shape[0] != wanted[0] and not (equal and wanted[0] == 1)
    wrong_size = tuple(values.shape[1:]) != tuple(wanted[1:])
    missing = [f"{name}: true (--{name})" for name, needed, given in
               (("resize", wrong_size, resize), ("gray", wrong_channels, gray)) if needed and not given]  # fmt: skip
    if missing:
        raise ShapeError(
            f"{what} is {_by(values.shape)}, the decoder gives {_by(shape)}: add {' and '.join(missing)}, "
            "or give a target of that shape"
        )
    if colours and wanted[0] == 1:
        luma = torch.tensor([0.299, 0.587, 0.114])
        values = values[:1] if equal else (values * luma[:, None, None]).sum(0, keepdim=True)
        notes.append("equal channels read as gray" if equal else "colours turned to gray")
    elif not colours and wanted[0] == 3:
        values = values.expand(3, -1, -1)
        notes.append("gray repeated for three channels")
    if wrong_size:
        notes.append(f"resized from {values.shape[1]} x {values.shape[2]} to {wanted[1]} x {wanted[2]}")
        values = _resized(values[None], wanted[1:])[0]
    return Loaded(values.reshape(shape), tuple(notes), True)


def fit_batch(
    values: Tensor, shape: tuple[int, ...], *, resize: bool = False, gray: bool = False, what: str = "target"
) -> Tensor:
    """An array as T designs `(T, *shape)`, float32 (float64 is kept). Never broadcasts.

    Accepted: `(*shape)`, `(T, *shape)`, and the same without axes of size 1. With `resize`, pictures of another size.
    Raises `ShapeError` for another shape, complex numbers, or NaN and infinite values.
    """
    shape = tuple(shape)
    if values.is_complex():
        raise ShapeError(f"{what} holds complex numbers: give real ones")
    values = values if values.dtype == torch.float64 else values.float()
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ShapeError(f"{what} contains {bad} NaN or infinite values: give finite numbers")
    found = _aligned(values, shape)
    if found is None and resize and len(shape) == 3:
        channels = [v for v in (values, values[None]) if v.ndim == 4 and v.shape[1] == shape[0]]
        if channels:
            return _resized(channels[0], shape[1:])
    if found is None:
        size_only = values.ndim >= 3 and len(shape) == 3 and values.shape[-3] == shape[0]
        remedy = "add resize: true (--resize), or give" if size_only and not resize else "give"
        raise ShapeError(
            f"{what} has shape {_by(values.shape)}, the decoder gives {_by(shape)}: {remedy} a target of that shape"
        )
    if not len(found):
        raise ShapeError(f"{what} is empty (shape {tuple(values.shape)}): give at least one design")
    return found


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
    return torch.nn.functional.interpolate(values, size=tuple(size), mode="bilinear", antialias=True).clamp(0, 1)


def _by(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape)) or "a single number"


# ---------------------------------------------------------------------- pictures written


def sheet(designs: Tensor, columns: int | None = None, pad: int = 2, scale: int = 1, background: float = 1.0) -> Tensor:
    """Pictures `(N, C, H, W)` side by side as one `(C, H', W')`, each pixel `scale` wide, `pad` pixels apart."""
    if designs.ndim != 4 or not len(designs):
        raise ShapeError(f"a sheet takes pictures (N, C, H, W), got shape {tuple(designs.shape)}")
    n, channels, height, width = designs.shape
    columns = columns or math.ceil(math.sqrt(n))
    lines = math.ceil(n / columns)
    high, wide = height * scale, width * scale
    page = torch.full((channels, lines * (high + pad) + pad, columns * (wide + pad) + pad), background)
    for i, design in enumerate(designs.float().cpu()):
        top, left = pad + (i // columns) * (high + pad), pad + (i % columns) * (wide + pad)
        big = design.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        page[:, top : top + high, left : left + wide] = big
    return page


def write_png(path: str | Path, image: Tensor, metadata: dict[str, str] | None = None) -> None:
    """Write a picture `(H, W)` or `(C, H, W)`, float in [0, 1] (clipped) or uint8, with text chunks where asked."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, 3)):
        raise ShapeError(f"a picture is (H, W), (1, H, W) or (3, H, W), got shape {tuple(image.shape)}")
    pixels = image.cpu()
    if pixels.dtype != torch.uint8:
        pixels = (pixels.float().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    if pixels.ndim == 3:
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels.permute(1, 2, 0)
    chunks = PngImagePlugin.PngInfo()
    for name, text in (metadata or {}).items():
        chunks.add_text(name, text)
    try:
        Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(path, format="PNG", pnginfo=chunks)
    except OSError as error:
        raise InputFileError(f"cannot write {path}: {error.strerror or error}") from None

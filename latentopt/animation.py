"""Paths and searches as moving pictures: GIF and WebP by Pillow, MP4 by imageio-ffmpeg (the extra `video`)."""

from __future__ import annotations

import importlib
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latentopt import store
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, ShapeError
from latentopt.pictures import as_pictures, as_tiles
from latentopt.result import Draws, Result
from latentopt.wording import suggest

if TYPE_CHECKING:
    from latentopt.budget import Report

Pixels = NDArray[np.uint8]

ENDINGS = (".gif", ".webp", ".mp4")
MOST_FRAMES, MOST_TARGETS = 1000, 64
FASTEST = 50.0  # frames a second: browsers show GIF frames of less than 20 ms at a tenth of a second
_GAP = 4  # pixels between the pictures of several targets
_CRF = 12  # x264's quality, 0 (lossless) to 51: mean error below one grey level in 255 on digits and on noise (tests)


class Style(NamedTuple):
    """`fps` frames a second, `back` and forth or not, and about how many pixels the longer side has."""

    fps: float = 10.0
    back: bool = False
    size: int = 256


# ---------------------------------------------------------------------- what is shown


def animate(
    decoder: Decoder, found: Draws | Tensor, path: str | Path, *, fps: float = 10.0, back: bool = False, size: int = 256
) -> Path:
    """Write a path, or designs `(F, ...)` in their order, as a moving picture: one frame a design.

    Args:
        decoder: says how its designs look.
        found: what `interpolate` returned, or designs.
        path: ends in .gif, .webp (these two repeat for ever) or .mp4.
        fps: frames a second, up to 50.
        back: whether it runs back again to the first frame, so that it repeats without a jump.
        size: about how many pixels the longer side has. Small pictures are enlarged by a whole number.

    GIF shows colours by a palette of 256 a frame (grey pictures are exact), WebP is lossless, MP4 is neither.
    Raises `ConfigError` where the path's ending is not known, the designs are no pictures, or the extra `video` is missing
    for MP4; `InputFileError` where it cannot be written.
    """
    style = Style(fps, back, size)
    place = checked(path, style)
    designs = found.designs if isinstance(found, Draws) else torch.as_tensor(found)
    return _write(place, _pictures(designs, decoder)[:, None], style)


class Film:
    """Keeps the best design of each target at each report: pass it as `on_report`, then `write` it.

    It keeps latents, and decodes them when it is written, so that the run's budget and clock know nothing of it.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._z: list[Tensor] = []

    def __call__(self, report: Report) -> None:
        if report.best_latents is not None:
            self._z.append(report.best_latents)

    def finish(self, result: Result | None = None) -> None:
        """What the run returned is the last picture: a race may report its winner before the others."""
        if result is not None and len(result):
            last = result.best.latent.reshape(-1, self.decoder.dim)
            if not self._z or last.shape == self._z[-1].shape:
                self._z.append(last.to(self._z[-1]) if self._z else last)

    def __len__(self) -> int:
        return len(self._z)

    def write(self, path: str | Path, *, fps: float = 10.0, back: bool = False, size: int = 256) -> Path:
        """The search as a moving picture, one frame a report; the targets side by side, at most 64. As `animate`."""
        style = Style(fps, back, size)
        place = checked(path, style)
        if not self._z:
            raise ConfigError("there is nothing to show: pass the film as on_report to optimize first")
        z_FTD = torch.stack(self._z)[:, :MOST_TARGETS]
        shown = _pictures(self.decoder.decode(z_FTD.flatten(0, 1)), self.decoder)
        return _write(place, shown.unflatten(0, z_FTD.shape[:2]), style)


# ---------------------------------------------------------------------- at the door


def checked(path: str | Path, style: Style) -> Path:
    """The path, if a moving picture of this style can be written there. Raises `ConfigError` or `InputFileError`."""
    place = Path(path)
    if place.suffix.lower() not in ENDINGS:
        known = ", ".join(ENDINGS)
        raise ConfigError(f"{place} is no animation: those end in {known}{suggest(place.suffix, ENDINGS)}")
    if not 0.1 <= style.fps <= FASTEST:
        raise ConfigError(f"an animation takes 0.1 to {FASTEST:g} frames a second, got {style.fps:g}")
    if not 16 <= style.size <= 4096:
        raise ConfigError(f"an animation's longer side takes 16 to 4096 pixels, got {style.size}")
    if place.suffix.lower() == ".mp4":
        _ffmpeg()
    probe = _beside(place)
    try:
        if place.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise store.cannot_write(place, error) from error
    return place


def drawable(decoder: Decoder, path: str | Path, style: Style) -> None:
    """Look at one design before the work begins. Raises what `animate` would raise at its end."""
    checked(path, style)
    like = torch.zeros(1, decoder.dim, dtype=decoder.latent_dtype, device=decoder.device)
    _pictures(decoder.decode(decoder.space.mean(like).expand_as(like)), decoder)


def _pictures(designs: Tensor, decoder: Decoder) -> Tensor:
    shown = as_pictures(designs, decoder) if len(designs) else None
    if shown is None or shown.ndim != 4 or shown.shape[1] not in (1, 3):
        shape = tuple(designs.shape[1:])
        raise ShapeError(
            f"designs of shape {shape} are no pictures, so they cannot be animated: give the decoder's config a "
            "draw(designs) that returns pictures (N, 1 or 3, H, W)"
        )
    return shown


def _ffmpeg() -> Any:
    try:
        return importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise ConfigError(f"MP4 needs extra: pip install 'latentopt[video]' ({error}); GIF and WebP do not") from error


def _beside(place: Path) -> Path:
    """A name next to the file, to be written first and moved then."""
    return place.with_name(f".{place.stem}.{os.getpid()}{place.suffix}")


# ---------------------------------------------------------------------- frames and files


def _write(place: Path, pictures: Tensor, style: Style) -> Path:
    """Pictures `(F, T, C, H, W)` in [0, 1] into the file, whole or not at all."""
    if len(pictures) > MOST_FRAMES:
        raise ConfigError(f"an animation has at most {MOST_FRAMES} frames, got {len(pictures)}: take fewer steps")
    shown = frames(pictures, style.size)
    if style.back:
        shown += shown[-2:0:-1]
    kind = place.suffix.lower()
    if kind == ".mp4":
        _write_mp4(place, shown, style.fps)
        return place
    grey = pictures.shape[2] == 1
    images = [Image.fromarray(frame[..., 0] if grey and kind == ".gif" else frame) for frame in shown]
    options = {"duration": round(1000 / style.fps), "loop": 0, "save_all": True, "append_images": images[1:]}
    data = io.BytesIO()
    if kind == ".gif":
        images[0].save(data, "GIF", **options)
    else:
        images[0].save(data, "WEBP", lossless=True, **options)
    store.write(place, data.getvalue())
    return place


def frames(pictures: Tensor, size: int) -> list[Pixels]:
    """Pictures `(F, T, C, H, W)` as F frames `(high, wide, 3)`, those of several targets side by side on white."""
    count, targets = pictures.shape[:2]
    columns = math.ceil(math.sqrt(targets))
    cells = as_tiles(pictures.flatten(0, 1), max(16, size // columns))
    if targets == 1:
        return cells
    rows, (high, wide) = math.ceil(targets / columns), cells[0].shape[:2]
    found = []
    for first in range(0, count * targets, targets):
        page = np.full((rows * (high + _GAP) - _GAP, columns * (wide + _GAP) - _GAP, 3), 255, np.uint8)
        for i, cell in enumerate(cells[first : first + targets]):
            y, x = i // columns * (high + _GAP), i % columns * (wide + _GAP)
            page[y : y + high, x : x + wide] = cell
        found.append(page)
    return found


def _write_mp4(place: Path, shown: Sequence[Pixels], fps: float) -> None:
    """H.264 with 4:2:0 colours, which every player shows; it needs even sides."""
    high, wide = (-side % 2 for side in shown[0].shape[:2])
    even = [np.pad(frame, ((0, high), (0, wide), (0, 0)), mode="edge") for frame in shown]
    half = _beside(place)
    size = (even[0].shape[1], even[0].shape[0])
    options = ["-crf", str(_CRF), "-movflags", "+faststart"]
    writer = _ffmpeg().write_frames(
        str(half), size, fps=fps, quality=None, macro_block_size=2, output_params=options, ffmpeg_log_level="error"
    )
    try:
        writer.send(None)
        for frame in even:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        os.replace(half, place)
    except OSError as error:
        raise store.cannot_write(place, error) from error
    finally:
        half.unlink(missing_ok=True)

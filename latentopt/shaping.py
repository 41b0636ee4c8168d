"""Numbers as designs of exactly the decoder's shape. Nothing is ever broadcast."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.arrays import Loaded, non_finite
from latentopt.errors import ShapeError


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
    bad = non_finite(numbers)
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

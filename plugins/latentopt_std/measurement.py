"""Reach what was measured: y = A x for a linear A, such as a coarse or blurred view of the design."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from latentopt import Array, Candidates, ConfigError, Decoder, LeastSquares, ObjectiveConfig, ShapeError
from latentopt_std.objectives import own

Operator = Callable[[Tensor], Tensor]
_BLUR_REACH = 3.0  # standard deviations at which the blur's kernel ends


class Measurement(ObjectiveConfig):
    """Mean squared difference between A x and the measurement, `(M,)`, in squared measured units. Gives residuals.

    A is exactly one of `matrix`, of shape (m, values of a design), which acts on the flattened design, and `operator`:
    "downsample" takes means of blocks of `factor` values a side, "blur" is a Gaussian of `sigma` values, cut off at 3 sigma,
    borders reflected. Operators act on every axis of a design but the first (its channels).
    `measured` is y: `(m,)` or `(T, m)`, or of the shape that the operator gives, such as a small picture. Where it is left
    out, y = A target, with the objective's or the task's target.
    Raises `ConfigError` and `ShapeError` where these do not fit each other or the design.
    """

    kind: Literal["measurement"] = "measurement"
    matrix: Array | None = None
    operator: Literal["downsample", "blur"] | None = None
    factor: int = Field(default=2, ge=2)
    sigma: float = Field(default=1.0, gt=0)
    measured: Array | None = None
    target: Array | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Measurement:
        if (self.matrix is None) == (self.operator is None):
            raise ValueError("a measurement takes exactly one of matrix and operator")
        for option, operator in (("factor", "downsample"), ("sigma", "blur")):
            if self.operator != operator and getattr(self, option) != type(self).model_fields[option].default:
                raise ValueError(f"{option} belongs to operator: {operator}")
        if self.measured is not None and self.target is not None:
            raise ValueError("a measurement takes measured (y itself) or target (y = A target), not both")
        return self

    def with_target(self, target: Any) -> ObjectiveConfig:
        """The task's target filled in where nothing was measured."""
        return self if self.measured is not None else super().with_target(target)

    def build(self, decoder: Decoder) -> LeastSquares:
        operator = self._operator(decoder)
        blank = torch.zeros(1, *decoder.design_shape, device=decoder.device, dtype=decoder.latent_dtype)
        shape = tuple(operator(blank).shape[1:])
        if self.measured is not None:
            measured = self._measured(self.measured, shape, decoder)
        elif self.target is not None:
            measured = operator(decoder.as_designs(self.target, "measurement target")).flatten(1)
        else:
            raise ConfigError(
                "objective 'measurement' needs measured=, or a target to measure: pass target= to the task or the objective"
            )
        bad = int((~torch.isfinite(measured)).sum())
        if bad:
            raise ConfigError(f"{bad} of the measured values are NaN or infinite: leave their rows out of the matrix")
        return _Measurement(operator, measured)

    def _operator(self, decoder: Decoder) -> Operator:
        shape = decoder.design_shape
        if self.matrix is not None:
            return _matrix(self.matrix.tensor(), shape, decoder)
        if not 2 <= len(shape) <= 4:
            raise ConfigError(
                f"operator {self.operator!r} needs designs with channels and one to three axes, such as (C, H, W), this "
                f"decoder's have shape {shape}: use a matrix"
            )
        return _downsample(self.factor, shape) if self.operator == "downsample" else _blur(self.sigma, shape, decoder)

    @staticmethod
    def _measured(array: Array, shape: tuple[int, ...], decoder: Decoder) -> Tensor:
        m = math.prod(shape)
        values = array.tensor()
        if values.ndim in (1, 2) and values.shape[-1] == m:
            found = values.reshape(-1, m)
        else:
            try:
                found = array.designs(shape, "measured").flatten(1)
            except ShapeError as error:
                raise ShapeError(f"{error}; ({m},) and (T, {m}) fit too") from None
        low, high = decoder.value_range
        found = found.to(device=decoder.device, dtype=decoder.latent_dtype)
        return found * (high - low) + low if array.is_picture else found


class _Measurement:
    def __init__(self, operator: Operator, measured_T: Tensor) -> None:
        self.operator, self.measured_T, self.targets = operator, measured_T, len(measured_T)

    def _difference(self, c: Candidates) -> Tensor:
        return self.operator(c.designs).flatten(1) - own(self.measured_T, c)

    def __call__(self, c: Candidates) -> Tensor:
        return self._difference(c).square().mean(1)

    def residuals(self, c: Candidates) -> Tensor:
        difference = self._difference(c)
        return difference / difference.shape[1] ** 0.5


def _matrix(values: Tensor, shape: tuple[int, ...], decoder: Decoder) -> Operator:
    count = math.prod(shape)
    if values.ndim != 2 or values.shape[1] != count:
        raise ShapeError(
            f"the measurement's matrix has shape {tuple(values.shape)}, expected (m, {count}): a design has {count} values"
        )
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ConfigError(f"the measurement's matrix holds {bad} values that are NaN or infinite: leave those rows out")
    matrix = values.to(device=decoder.device, dtype=decoder.latent_dtype)
    return lambda x: x.flatten(1).to(matrix.dtype) @ matrix.T


def _downsample(factor: int, shape: tuple[int, ...]) -> Operator:
    if any(size % factor for size in shape[1:]):
        raise ConfigError(
            f"downsampling by {factor} needs sizes that it divides, this decoder's designs have shape {shape}: "
            "choose another factor"
        )
    pool = {2: functional.avg_pool1d, 3: functional.avg_pool2d, 4: functional.avg_pool3d}[len(shape)]
    return lambda x: pool(x, factor)


def _blur(sigma: float, shape: tuple[int, ...], decoder: Decoder) -> Operator:
    reach = math.ceil(_BLUR_REACH * sigma)
    if reach >= min(shape[1:]):
        raise ConfigError(
            f"a blur of sigma {sigma:g} reaches {reach} values, this decoder's designs have shape {shape}: sigma can be at "
            f"most {(min(shape[1:]) - 1) / _BLUR_REACH:.3g}"
        )
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = (weights / weights.sum()).to(device=decoder.device, dtype=decoder.latent_dtype).view(1, 1, -1)

    def blur(x: Tensor) -> Tensor:
        for axis in range(2, x.ndim):
            lines = x.movedim(axis, -1)
            padded = functional.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="reflect")
            x = functional.conv1d(padded, kernel.to(x.dtype)).view(lines.shape).movedim(-1, axis)
        return x

    return blur

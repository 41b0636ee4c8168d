"""Objectives that compare designs with a target, value by value; and the base of all that take a target."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from latentopt import Array, Candidates, ConfigError, Decoder, Objective, ObjectiveConfig, ShapeError

_TINY = 1e-6  # probabilities are kept this far from 0 and 1 before the logarithm
_SUMS_TO_ONE = 1e-3
_RANGE_SLACK = 0.05  # share of the value range by which designs of an unbounded decoder may overshoot it


# ---------------------------------------------------------------------- what all of them share


class TargetObjective(ObjectiveConfig):
    """Base of objectives with a target.

    `target`: one design, which serves every row, or T designs, of which each row has its own; filled in from the task's
    target where it is left out. `mask`: weights of at least 0 that say how much each value of a design counts (inpainting:
    0 where the target is unknown), of the design's own shape, or `(H, W)` or `(1, H, W)` for pictures `(C, H, W)`.
    Where the mask is 0 any finite number may stand in the target.
    """

    target: Array | None = None
    mask: Array | None = None

    def targets_of(self, decoder: Decoder) -> Tensor:
        """The target as designs `(T, *design_shape)` on the decoder's device.

        Raises `ConfigError` where there is none, `ShapeError` where it does not fit or is not finite.
        """
        if self.target is None:
            raise no_target(self.kind_name())
        return decoder.as_designs(self.target, f"{self.kind_name()} target")

    def mask_of(self, decoder: Decoder) -> Tensor | None:
        """The mask `(*design_shape)` on the decoder's device. Raises `ShapeError`, `ConfigError`."""
        shape = decoder.design_shape
        also = [shape[1:], (1, *shape[1:])] if len(shape) == 3 else []
        return self.weights_of(shape, also, decoder)

    def weights_of(self, shape: tuple[int, ...], also: list[tuple[int, ...]], decoder: Decoder) -> Tensor | None:
        """The mask, which must have `shape` or be one of the shapes that `also` may be repeated to it."""
        if self.mask is None:
            return None
        values = self.mask.tensor()
        got = tuple(values.shape)
        if got != shape and got not in also:
            extra = f" or {also[0]}" if also else ""
            raise ShapeError(
                f"the mask of {self.kind_name()!r} has shape {got}, expected {shape}{extra}: it is never broadcast"
            )
        mask = values.to(device=decoder.device, dtype=decoder.latent_dtype).expand(shape)
        if not bool((torch.isfinite(mask) & (mask >= 0)).all()):
            raise ConfigError(
                f"the mask of {self.kind_name()!r} must hold finite weights of at least 0, got a smallest value of "
                f"{float(mask.amin()):g}: use 0 for what does not count and 1 for what does"
            )
        if not bool(mask.any()):
            raise ConfigError(
                f"the mask of {self.kind_name()!r} is 0 everywhere, so nothing would be compared: use 1 for what counts"
            )
        return mask


def no_target(kind: str) -> ConfigError:
    """The error of an objective that was given no target."""
    return ConfigError(f"objective {kind!r} needs a target: pass target= to the task or to the objective")


def own(values_T: Tensor, c: Candidates) -> Tensor:
    """Of values with one entry a target, each row's own `(M, ...)`; a single entry serves every row."""
    if len(values_T) == 1:
        return values_T  # broadcast on purpose: one target, any number of rows
    return values_T[c.target_index]


def weighted_mean(values_M: Tensor, share: Tensor | None) -> Tensor:
    """Mean over everything but the rows, `(M,)`; under `share`, a mask that sums to 1, the mean over its weight."""
    if share is not None:
        return (values_M * share).flatten(1).sum(1)
    flat = values_M.flatten(1)
    return flat.sum(1) * (1 / flat.shape[1])  # the gradient of a mean over rows is written out in full, a sum's is not


def shares(mask: Tensor | None) -> Tensor | None:
    """A mask scaled to sum to 1."""
    return None if mask is None else mask / mask.sum()


class _Elementwise:
    """Mean over a design's values of an error of each, `(M,)`."""

    def __init__(self, config: TargetObjective, decoder: Decoder) -> None:
        self.target_T, self.share = config.targets_of(decoder), shares(config.mask_of(decoder))
        self.targets = len(self.target_T)

    def error(self, x: Tensor, y: Tensor) -> Tensor:
        """The error of each value of designs `x` against their targets `y`, both `(M, *design_shape)`."""
        raise NotImplementedError

    def __call__(self, c: Candidates) -> Tensor:
        return weighted_mean(self.error(c.designs, own(self.target_T, c)), self.share)


# ---------------------------------------------------------------------- numbers


class MSE(TargetObjective):
    """Mean squared difference between design and target, `(M,)`, in squared design units. Gives residuals."""

    kind: Literal["mse"] = "mse"

    def build(self, decoder: Decoder) -> Objective:
        return _MSE(self, decoder)


class _MSE(_Elementwise):
    def error(self, x: Tensor, y: Tensor) -> Tensor:
        # The operator itself: fused, a pass over the designs fewer each way; `functional.mse_loss` around it costs a
        # search of one row 3 % of its step.
        return torch.ops.aten.mse_loss.default(x, y, 0)

    def residuals(self, c: Candidates) -> Tensor:
        difference = (c.designs - own(self.target_T, c)).flatten(1)
        return (
            difference / difference.shape[1] ** 0.5 if self.share is None else difference * self.share.flatten().sqrt()
        )


class MAE(TargetObjective):
    """Mean absolute difference between design and target, `(M,)`, in design units."""

    kind: Literal["mae"] = "mae"

    def build(self, decoder: Decoder) -> Objective:
        return _MAE(self, decoder)


class _MAE(_Elementwise):
    def error(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs()


class Huber(TargetObjective):
    """Mean Huber loss between design and target, `(M,)`: d^2 / 2 up to `delta`, delta (|d| - delta / 2) beyond (Huber 1964).

    `delta` is in design units.
    """

    kind: Literal["huber"] = "huber"
    delta: float = Field(default=1.0, gt=0)

    def build(self, decoder: Decoder) -> Objective:
        return _Huber(self, decoder)


class _Huber(_Elementwise):
    def __init__(self, config: Huber, decoder: Decoder) -> None:
        super().__init__(config, decoder)
        self.delta = config.delta

    def error(self, x: Tensor, y: Tensor) -> Tensor:
        return functional.huber_loss(x, y.expand_as(x), reduction="none", delta=self.delta)


# ---------------------------------------------------------------------- probabilities


class BCE(TargetObjective):
    """Mean binary cross entropy, `(M,)`, nats a value: designs and target are read as probabilities.

    Both are mapped from the decoder's `value_range` to [0, 1]; designs are then kept 1e-6 away from 0 and 1. Where the target
    is not 0 or 1, its own entropy is the least that can be reached. Raises `ConfigError` for a target outside the range,
    and for a decoder whose designs are.
    """

    kind: Literal["bce"] = "bce"

    def build(self, decoder: Decoder) -> Objective:
        return _BCE(self, decoder)


class _BCE(_Elementwise):
    def __init__(self, config: BCE, decoder: Decoder) -> None:
        super().__init__(config, decoder)
        self.low, high = decoder.value_range
        self.width = high - self.low
        if decoder.probe.low < self.low - _RANGE_SLACK * self.width or decoder.probe.high > high + (
            _RANGE_SLACK * self.width
        ):
            raise ConfigError(
                f"'bce' reads designs as probabilities, this decoder gives {decoder.probe.low:.3g} to "
                f"{decoder.probe.high:.3g} where its value_range is {self.low:g} to {high:g}: use 'mse', or set value_range"
            )
        mask = config.mask_of(decoder)
        counted = self.target_T if mask is None else self.target_T[:, mask > 0]
        least, most = float(counted.amin()), float(counted.amax())
        if least < self.low - _TINY or most > high + _TINY:
            raise ConfigError(
                f"the bce target must lie in {self.low:g} to {high:g}, got {least:.3g} to {most:.3g}: "
                "scale it, or use 'mse'"
            )
        self.target_T = (self.target_T - self.low) / self.width

    def error(self, x: Tensor, y: Tensor) -> Tensor:
        p = ((x - self.low) / self.width).clamp(_TINY, 1 - _TINY)
        return -(y * p.log() + (1 - y) * (1 - p).log())


class CrossEntropy(TargetObjective):
    """Mean cross entropy of logits `(..., V)` over their positions, `(M,)`, nats a position; the last axis is the classes.

    `target` is either class numbers of shape `(...)` or `(T, ...)`, whole numbers from 0 to V - 1; or of the designs' own
    shape: then it is read as probabilities where it is non-negative and sums to 1 along V (to 1e-3), else as logits,
    of which the softmax is taken. The least that can be reached is the target's own entropy. `mask` has one weight a
    position.
    """

    kind: Literal["cross_entropy"] = "cross_entropy"

    def mask_of(self, decoder: Decoder) -> Tensor | None:
        return self.weights_of(decoder.design_shape[:-1], [], decoder)

    def targets_of(self, decoder: Decoder) -> Tensor:
        """Probabilities `(T, ..., V)`. Raises `ConfigError`, `ShapeError`."""
        if self.target is None:
            raise no_target("cross_entropy")
        mask = self.mask_of(decoder)
        values = self.target.tensor()
        shape = decoder.design_shape
        whole = not values.is_floating_point()
        if whole and shape not in (tuple(values.shape), tuple(values.shape[1:])):
            return self._from_numbers(values, shape, mask, decoder)
        target_T = decoder.as_designs(self.target, "cross_entropy target")
        counted = target_T if mask is None else target_T[:, mask > 0]
        if bool((counted >= 0).all()) and bool(((counted.sum(-1) - 1).abs() <= _SUMS_TO_ONE).all()):
            return target_T
        return target_T.softmax(-1)

    @staticmethod
    def _from_numbers(values: Tensor, shape: tuple[int, ...], mask: Tensor | None, decoder: Decoder) -> Tensor:
        places, classes = shape[:-1], shape[-1]
        got = tuple(values.shape)
        if places not in (got, got[1:]) or (not places and len(got) > 1):
            raise ShapeError(
                f"the cross_entropy target has shape {got}, expected class numbers {places} or (T, "
                f"{''.join(f'{n}, ' for n in places).removesuffix(', ')}), or probabilities or logits {shape}"
            )
        numbers = values.long().to(decoder.device).reshape(-1, *places)
        if mask is not None:
            numbers = torch.where(mask > 0, numbers, 0)
        least, most = int(numbers.amin()), int(numbers.amax())
        if least < 0 or most >= classes:
            raise ConfigError(
                f"the cross_entropy target's class numbers must be 0 to {classes - 1}, got {least} to {most}: "
                f"this decoder has {classes} classes"
            )
        return functional.one_hot(numbers, classes).to(decoder.latent_dtype)

    def build(self, decoder: Decoder) -> Objective:
        return _CrossEntropy(self, decoder)


class _CrossEntropy(_Elementwise):
    def error(self, x: Tensor, y: Tensor) -> Tensor:
        return -(y * x.log_softmax(-1)).sum(-1)

    def __call__(self, c: Candidates) -> Tensor:
        error = self.error(c.designs, own(self.target_T, c))
        return weighted_mean(error if error.ndim > 1 else error[:, None], self.share)

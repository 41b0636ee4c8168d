"""How this package reads a design: the local volume fraction of the white phase, periodic, `(N, 1, *grid)` in [0, 1]."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from latentopt import Array, ConfigError, Decoder, ObjectiveConfig


class MaterialObjective(ObjectiveConfig):
    """Base of this package's objectives.

    `threshold`: judge the design of two pure phases, white where a value lies above it, in place of the graded one. Has no
    gradient.
    """

    threshold: float | None = Field(default=None, gt=0, lt=1)

    def fractions(self, designs: Tensor) -> Tensor:
        """`(N, 1, *grid)` to `(N, *grid)` in [0, 1]: what lies outside counts as 0 or 1, NaN stays NaN."""
        x = designs[:, 0]
        if self.threshold is None:
            return x.clamp(0, 1)
        return (x > self.threshold).to(x.dtype) + 0 * x.detach()  # so NaN stays NaN here too

    def grid_of(self, decoder: Decoder, axes: tuple[int, ...] = (2, 3)) -> tuple[int, ...]:
        """The grid `(H, W)` or `(D, H, W)` of a decoder's designs. Raises `ConfigError` where they are no microstructures."""
        shape, kind = decoder.design_shape, self.kind_name()
        if len(shape) - 1 not in axes or shape[0] != 1 or min(shape) < 1 or min(shape[1:]) < 2:
            wanted = " or ".join({2: "(1, H, W)", 3: "(1, D, H, W)"}[n] for n in axes)
            raise ConfigError(
                f"objective {kind!r} reads designs of one channel, {wanted}, with 2 pixels a side or more; this decoder's "
                f"have shape {shape}: use a decoder of microstructures"
            )
        if decoder.value_range != (0.0, 1.0):
            raise ConfigError(
                f"objective {kind!r} reads values from 0 to 1 as volume fractions, this decoder's value_range is "
                f"{decoder.value_range}: map its designs to 0 to 1"
            )
        return shape[1:]


def targets_of(target: Array | None, decoder: Decoder, kind: str) -> Tensor:
    """The target designs `(T, 1, *grid)` on the decoder's device. Raises `ConfigError` where there is none."""
    if target is None:
        raise ConfigError(f"objective {kind!r} needs a target: pass target= to the task or to the objective")
    return decoder.as_designs(target, f"{kind} target")

"""LPIPS for latentopt: the perceptual distance of Zhang et al. as an objective."""

from __future__ import annotations

from collections.abc import Sequence

from latentopt import ObjectiveConfig, hookimpl
from latentopt_lpips.objective import LPIPS

__all__ = ["LPIPS"]


@hookimpl
def latentopt_register_objectives() -> Sequence[type[ObjectiveConfig]]:
    return [LPIPS]

"""latentopt's built-ins. They enter through the same hooks as anyone's plugin and import only latentopt's public names."""

from __future__ import annotations

from collections.abc import Sequence

from latentopt import InterpolatorConfig, ObjectiveConfig, SamplerConfig, SearchConfig, hookimpl
from latentopt_std.adam import Adam
from latentopt_std.interpolators import Lerp, Slerp
from latentopt_std.objectives import MSE
from latentopt_std.samplers import NormalSampler, PriorSampler

__all__ = ["MSE", "Adam", "Lerp", "NormalSampler", "PriorSampler", "Slerp"]


@hookimpl
def latentopt_register_samplers() -> Sequence[type[SamplerConfig]]:
    return [PriorSampler, NormalSampler]


@hookimpl
def latentopt_register_interpolators() -> Sequence[type[InterpolatorConfig]]:
    return [Lerp, Slerp]


@hookimpl
def latentopt_register_objectives() -> Sequence[type[ObjectiveConfig]]:
    return [MSE]


@hookimpl
def latentopt_register_searches() -> Sequence[type[SearchConfig]]:
    return [Adam]

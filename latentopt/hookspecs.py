"""The hooks, nothing else. Each returns config classes; none takes an argument, so there is nothing to mutate."""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from latentopt.interfaces import DecoderConfig, InterpolatorConfig, ObjectiveConfig, SamplerConfig, SearchConfig

hookspec = pluggy.HookspecMarker("latentopt")
hookimpl = pluggy.HookimplMarker("latentopt")
"""Marks a function of a plugin as one of the hooks."""


@hookspec
def latentopt_register_decoders() -> Sequence[type[DecoderConfig]]:
    """Config classes of decoders."""
    return ()


@hookspec
def latentopt_register_samplers() -> Sequence[type[SamplerConfig]]:
    """Config classes of samplers."""
    return ()


@hookspec
def latentopt_register_interpolators() -> Sequence[type[InterpolatorConfig]]:
    """Config classes of interpolators."""
    return ()


@hookspec
def latentopt_register_objectives() -> Sequence[type[ObjectiveConfig]]:
    """Config classes of objectives."""
    return ()


@hookspec
def latentopt_register_searches() -> Sequence[type[SearchConfig]]:
    """Config classes of searches."""
    return ()

"""Callables and decoders from Python in the place of configs; files record their names and hashes."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SerializationInfo, field_serializer, model_validator

from latentopt.errors import ConfigError
from latentopt.interfaces import (
    DecoderConfig,
    Interpolator,
    InterpolatorConfig,
    Objective,
    ObjectiveConfig,
    PluginConfig,
    Sampler,
    SamplerConfig,
)

if TYPE_CHECKING:
    from latentopt.decoder import Decoder


def identity_of(function: Any) -> dict[str, str]:
    """A callable's name and the sha256 of its source (or of its name where there is no source)."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        source = inspect.getsource(function if inspect.isroutine(function) else type(function))
    except (OSError, TypeError):
        source = name
    return {"callable": name, "sha256": hashlib.sha256(source.encode()).hexdigest()[:16]}


class _Called(PluginConfig):
    """A callable given in Python where a config could stand; files record its name and hash."""

    function: Any

    @field_serializer("function")
    def _name_it(self, function: Any, info: SerializationInfo) -> Any:
        return identity_of(function) if info.mode == "json" else function

    @model_validator(mode="after")
    def _can_be_called(self) -> _Called:
        if not callable(self.function):
            raise ValueError(
                "a recorded callable cannot be run from a file: pass the function itself from Python, "
                "or make it a plugin or a 'property' objective"
            )
        return self


class CalledObjective(_Called, ObjectiveConfig):
    """Any callable from `Candidates` to `(M,)` as an objective, from Python."""

    kind: Literal["callable"] = "callable"

    def build(self, decoder: Decoder) -> Objective:
        function: Objective = self.function
        return function


class CalledSampler(_Called, SamplerConfig):
    """Any callable `(n, space, generator) -> (n, D)` as a sampler, from Python."""

    kind: Literal["callable"] = "callable"

    def build(self, decoder: Decoder) -> Sampler:
        function: Sampler = self.function
        return function


class CalledInterpolator(_Called, InterpolatorConfig):
    """Any callable `(keys_KD, t_T) -> (T, D)` as an interpolator, from Python."""

    kind: Literal["callable"] = "callable"

    def build(self, decoder: Decoder) -> Interpolator:
        function: Interpolator = self.function
        return function


class GivenDecoder(DecoderConfig):
    """A decoder made in Python; files record its name."""

    kind: Literal["python"] = "python"
    decoder: Any

    @field_serializer("decoder")
    def _name_it(self, decoder: Any, info: SerializationInfo) -> Any:
        return {"name": getattr(decoder, "name", "")} if info.mode == "json" else decoder

    def build(self) -> Decoder:
        found: Decoder = self.decoder
        if not callable(getattr(found, "decode", None)):
            raise ConfigError(
                "a decoder made in Python cannot be rebuilt from a file: describe it as a 'module' decoder"
            )
        return found


CALLED: dict[str, Callable[..., PluginConfig]] = {
    "objectives": CalledObjective,
    "samplers": CalledSampler,
    "interpolators": CalledInterpolator,
}

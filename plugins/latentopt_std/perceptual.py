"""Distance between the features that a network sees in design and target."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import field_validator
from torch import Tensor, nn

from latentopt import Candidates, CodeRef, ConfigError, Decoder, LeastSquares, suggest
from latentopt_std.objectives import TargetObjective, own
from latentopt_std.properties import copied_encoder, dtype_of, load_code

_TINY = 1e-10  # added to a squared length, so that a position without any feature has a gradient


class Perceptual(TargetObjective):
    """Squared distance between a network's features of design and target, `(M,)`. Gives residuals.

    As in LPIPS (Zhang et al. 2018, eq. 1), without its learned channel weights: features are scaled to unit length over
    the channels at each position, their squared differences summed over channels, averaged over positions, and added up
    over layers by weight. With `normalize: false` they are used as they are and averaged over channels too (Johnson et
    al. 2016, eq. 2). Channels are the second dimension; features `(M, F)` are F channels at one position.

    `network`: an `nn.Module`, or a class or function without arguments that gives one; the decoder's encoder by default.
    It is copied and frozen, and sees designs as the decoder makes them: put any scaling into it. `layers`: names of layers
    as in `named_modules()`, or weights by name; by default every layer with weights of its own but the last. A layer that
    runs several times counts with its last run. `mask` multiplies design and target before the network.
    Raises `ConfigError` where the network does not take designs, or a layer is unknown, not run, or gives no tensor.
    """

    kind: Literal["perceptual"] = "perceptual"
    network: CodeRef | None = None
    layers: dict[str, float] | list[str] | None = None
    normalize: bool = True

    @field_validator("layers")
    @classmethod
    def _some(cls, value: dict[str, float] | list[str] | None) -> dict[str, float] | list[str] | None:
        if value is not None and not value:
            raise ValueError("layers is empty: name at least one, or leave it out")
        if isinstance(value, dict) and min(value.values()) <= 0:
            raise ValueError(f"weights of layers must be above 0, got {min(value.values()):g}: leave such a layer out")
        return value

    def build(self, decoder: Decoder) -> LeastSquares:
        target_T, mask = self.targets_of(decoder), self.mask_of(decoder)
        network = self._network(decoder).to(decoder.device)
        weights = self._weights(network)
        if mask is not None:
            target_T = target_T * mask
        return _Perceptual(_Features(network, weights, self._name, normalize=self.normalize), target_T, mask)

    @property
    def _name(self) -> str:
        return "the decoder's encoder" if self.network is None else repr(self.network.name)

    def _network(self, decoder: Decoder) -> nn.Module:
        if self.network is None:
            if not isinstance(decoder.encoder, nn.Module):
                raise ConfigError(
                    f"'perceptual' needs a network and decoder {decoder.name!r} has no encoder module to stand in: "
                    "pass network="
                )
            return copied_encoder(decoder.encoder)
        found = load_code(self.network)
        if not isinstance(found, nn.Module):
            raise ConfigError(
                f"network {self._name} gives {type(found).__name__}, expected an nn.Module, or a class or function "
                "without arguments that returns one"
            )
        return found

    def _weights(self, network: nn.Module) -> dict[str, float]:
        known = [name for name, _ in network.named_modules() if name]
        if self.layers is None:
            leaves = [
                name
                for name, part in network.named_modules()
                if name and any(True for _ in part.parameters(recurse=False))
            ]
            if len(leaves) < 2:
                raise ConfigError(
                    f"network {self._name} has no layer with weights before its last, so none can be chosen: "
                    f"pass layers= (its layers: {', '.join(known) or 'none'})"
                )
            return dict.fromkeys(leaves[:-1], 1.0)
        for name in self.layers:
            if name not in known:
                raise ConfigError(
                    f"network {self._name} has no layer {name!r}{suggest(name, known)}; its layers: {', '.join(known)}"
                )
        return self.layers if isinstance(self.layers, dict) else dict.fromkeys(self.layers, 1.0)


class _Features:
    """Designs to the features of the chosen layers, scaled so that squared differences add up to the distance."""

    def __init__(self, network: nn.Module, weights: dict[str, float], name: str, *, normalize: bool) -> None:
        self.network, self.weights, self.name, self.normalize = network, weights, name, normalize
        self.dtype = dtype_of(network)
        self._seen: dict[str, Any] = {}
        for layer in weights:  # the network is the objective's own copy, so its hooks stay on it
            network.get_submodule(layer).register_forward_hook(self._keep(layer))

    def _keep(self, layer: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self._seen[layer] = output

        return hook

    def of(self, x: Tensor) -> list[Tensor]:
        """One `(M, F)` a layer."""
        self._seen.clear()
        try:
            self.network(x if self.dtype is None else x.to(self.dtype))
            return [self._scaled(self._seen[layer].to(x.dtype), weight) for layer, weight in self.weights.items()]
        finally:
            self._seen.clear()  # keeps no graph alive

    def _scaled(self, features: Tensor, weight: float) -> Tensor:
        if self.normalize:
            features = features * torch.rsqrt(features.square().sum(1, keepdim=True) + _TINY)
            count = features[0, 0].numel()
        else:
            count = features[0].numel()
        return features.flatten(1) * (weight / count) ** 0.5

    def check(self, x: Tensor) -> None:
        """Raises `ConfigError` where the network does not take `x`, or a layer gives nothing to compare."""
        try:
            self.network(x if self.dtype is None else x.to(self.dtype))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"network {self.name} does not take designs of shape {tuple(x.shape)} ({str(error).splitlines()[0]}): "
                "wrap it in a module that prepares them"
            ) from error
        for layer in self.weights:
            if layer not in self._seen:
                raise ConfigError(f"layer {layer!r} of network {self.name} never runs: name another in layers=")
            found = self._seen[layer]
            if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(x):
                got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
                raise ConfigError(
                    f"layer {layer!r} of network {self.name} gives {got} for {len(x)} designs, expected one tensor with a "
                    "row a design: name another in layers="
                )
        self._seen.clear()


class _Perceptual:
    def __init__(self, features: _Features, target_T: Tensor, mask: Tensor | None) -> None:
        self.features, self.mask, self.targets = features, mask, len(target_T)
        with torch.no_grad():
            features.check(target_T[:1])
            parts = [features.of(target[None]) for target in target_T]
        self.features_T = [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def _differences(self, c: Candidates) -> list[Tensor]:
        x = c.designs if self.mask is None else c.designs * self.mask
        return [found - own(aim_T, c) for found, aim_T in zip(self.features.of(x), self.features_T, strict=True)]

    def __call__(self, c: Candidates) -> Tensor:
        return torch.stack([difference.square().sum(1) for difference in self._differences(c)]).sum(0)

    def residuals(self, c: Candidates) -> Tensor:
        return torch.cat(self._differences(c), dim=1)

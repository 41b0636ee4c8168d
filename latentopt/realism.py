"""Realism: how well designs are supported by what is known of the prior, in figures and in a plain sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from latentopt import rng
from latentopt.decoder import Decoder

_DRAWS, _CYCLE_DRAWS = 4096, 256
# A row is outside where fewer than one prior draw in 200 lies as far out. The default region ends at 1 in 100.
_PERCENTILE = 99.5
_CYCLE_SLACK = 1.5


@dataclass(frozen=True)
class Reference:
    """What prior draws of a decoder look like: radii, log-densities `(4096,)` sorted, and their usual cycle error."""

    typical_radius: tuple[float, float]
    largest_radius: float
    log_density: Tensor
    smallest_log_density: float
    largest_cycle: float | None


@dataclass(frozen=True)
class Realism:
    """One entry a row, on the CPU. `inside` is the verdict, `evidence` the grounds it stands on.

    `radius` is in the prior's units, percentiles are in [0, 100], `log_density` is natural; `cycle_error` is the mean
    squared difference between a design and the decoded encoding of it (None without an encoder); `nearest_known` the
    mean squared latent distance to the nearest encoded design in prior standard deviations (None without data).
    """

    radius: Tensor
    radius_percentile: Tensor
    log_density: Tensor
    log_density_percentile: Tensor
    cycle_error: Tensor | None
    nearest_known: Tensor | None
    inside: Tensor
    typical_radius: tuple[float, float]
    largest_radius: float
    largest_cycle: float | None
    evidence: str

    def __len__(self) -> int:
        return len(self.radius)

    def take(self, rows: Tensor) -> Realism:
        """The same of these rows alone."""
        parts = {name: value[rows] for name, value in self.tensors().items()}
        return Realism(**{**self.__dict__, **parts})

    def tensors(self) -> dict[str, Tensor]:
        """The entries that have one value a row."""
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Tensor)}

    def sentence(self, row: int = 0) -> str:
        """The verdict on one row in plain words, with its figures and its grounds."""
        low, high = self.typical_radius
        facts = [f"radius {float(self.radius[row]):.3g}, typical {low:.3g} to {high:.3g}"]
        if self.cycle_error is not None and self.largest_cycle is not None:
            error = float(self.cycle_error[row])
            if error > self.largest_cycle or not bool(self.inside[row]):
                facts.append(f"cycle error {error:.2g}, typical up to {self.largest_cycle:.2g}")
        verdict = "inside" if bool(self.inside[row]) else "outside"
        return f"{verdict} what the decoder knows: {'; '.join(facts)} (prior {self.evidence})"

    def __str__(self) -> str:
        if len(self) == 1:
            return self.sentence()
        count = int((~self.inside).sum())
        if not count:
            return f"all {len(self)} designs: {self.sentence(int(self.radius.argmax()))}"
        return f"{count} of {len(self)} designs lie outside: {self.sentence(int(self.radius.argmax()))}"

    def summary(self) -> dict[str, Any]:
        """The figures as plain data, for JSON."""
        rows = {name: value.tolist() for name, value in self.tensors().items()}
        return {
            **rows,
            "typical_radius": list(self.typical_radius),
            "largest_cycle": self.largest_cycle,
            "evidence": self.evidence,
            "words": str(self),
        }


_references: WeakKeyDictionary[Decoder, Reference] = WeakKeyDictionary()


def reference(decoder: Decoder) -> Reference:
    """What draws from this decoder's prior look like; worked out once a decoder."""
    found = _references.get(decoder)
    if found is None:
        found = _references[decoder] = _reference(decoder)
    return found


def _reference(decoder: Decoder) -> Reference:
    space, prior = decoder.space, decoder.space.prior
    draws = space.draw(_DRAWS, rng.generator(0)).to(device=decoder.device, dtype=decoder.latent_dtype)
    log_density = prior.log_prob(draws).sort().values
    cycle = None
    if decoder.encoder is not None:
        some = draws[:_CYCLE_DRAWS]
        cycle = _CYCLE_SLACK * float(torch.quantile(cycle_error(decoder, decoder.decode(some)), _PERCENTILE / 100))
    return Reference(
        typical_radius=(prior.radius_at(5.0, space.dim), prior.radius_at(95.0, space.dim)),
        largest_radius=prior.radius_at(_PERCENTILE, space.dim) * (1 + 1e-4),
        log_density=log_density,
        smallest_log_density=float(log_density[int(len(log_density) * (100 - _PERCENTILE) / 100)]) - 1e-3,
        largest_cycle=cycle,
    )


def cycle_error(decoder: Decoder, designs: Tensor) -> Tensor:
    """Mean squared difference between designs `(N, ...)` and the decoded encoding of them, `(N,)`."""
    again = decoder.decode(decoder.encode(designs))
    return (again - designs).square().flatten(1).mean(1)


def judge(decoder: Decoder, z_ND: Tensor, designs: Tensor) -> Realism:
    """The realism of rows `(N, D)` and their designs. Costs one encode and one decode a row where there is an encoder."""
    prior, known = decoder.space.prior, reference(decoder)
    radius_N = prior.radius(z_ND)
    log_N = prior.log_prob(z_ND)
    inside_N = (radius_N <= known.largest_radius) & (log_N >= known.smallest_log_density)
    cycle_N = None
    if decoder.encoder is not None and known.largest_cycle is not None:
        cycle_N = cycle_error(decoder, designs)
        inside_N = inside_N & (cycle_N <= known.largest_cycle)
    nearest_N = None
    if decoder.codes is not None:
        scale = decoder.space.std(z_ND)
        nearest_N = torch.cdist(z_ND / scale, decoder.codes.to(z_ND) / scale).amin(1).square() / decoder.dim
    rank_N = torch.searchsorted(known.log_density, log_N.contiguous(), right=True)
    return Realism(
        radius=radius_N.cpu(),
        radius_percentile=prior.radius_percentile(radius_N, decoder.dim).float().cpu(),
        log_density=log_N.cpu(),
        log_density_percentile=(100.0 * rank_N / len(known.log_density)).cpu(),
        cycle_error=None if cycle_N is None else cycle_N.cpu(),
        nearest_known=None if nearest_N is None else nearest_N.cpu(),
        inside=inside_N.cpu(),
        typical_radius=known.typical_radius,
        largest_radius=known.largest_radius,
        largest_cycle=known.largest_cycle,
        evidence=str(decoder.space.evidence),
    )

"""Realism: how well designs are supported by what is known of the prior, in figures and in a plain sentence."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from latentopt import rng
from latentopt.decoder import Decoder
from latentopt.latent import LatentSpace
from latentopt.priors import Normal, Uniform, UniformSphere

_DRAWS, _CYCLE_DRAWS = 4096, 256
# A row is outside where fewer than one prior draw in 200 lies as far out. The default region ends at 1 in 100.
_PERCENTILE = 99.5
# The largest cycle error of 8,192 fresh draws was 1.7 times the 99.5th percentile of 256 (the digits decoder), and one in
# 10,000 exceeded 1.5 times it; designs that maximised one property without a region reached up to 5 times it.
_CYCLE_SLACK = 1.5
_ROUNDING = 1e-10  # of the designs' mean square: an exact encoder's cycle error is rounding and no evidence
_EDGE = 1e-4  # float32 rows projected onto a region's surface lie this close to it
_SPHERE_WIDTH = 1e-2  # a sphere prior's own idea of being on it (`UniformSphere.radius_percentile`)
_NEAREST_BLOCK = 2**24  # distances held at once
KNOWN = "what the decoder knows"


@dataclass(frozen=True)
class Reference:
    """What 4,096 prior draws of a decoder look like: radii, sorted log-densities, cycle errors, nearest known designs."""

    typical_radius: tuple[float, float]
    largest_radius: float
    log_density: Tensor
    largest_cycle: float | None
    largest_nearest: float | None


@dataclass(frozen=True)
class Realism:
    """One entry a row, on the CPU. `inside` is the verdict, `evidence` the grounds it stands on.

    `radius` is in the prior's units; percentiles, in [0, 100], are the share of prior draws with a smaller radius or a
    lower density; `log_density` is natural, -inf where a box or a sphere has none. `cycle_error` is the mean squared
    difference between a design and the decoded encoding of it (None without an encoder). `nearest_known` is the mean
    squared latent distance to the nearest encoded design, in prior standard deviations (None without data).

    A row is inside where its radius is at most the 99.5th percentile of the prior's (the whole of a box, within one per
    cent of a sphere), its design is finite, and its cycle error at most 1.5 times the 99.5th percentile of prior draws'.
    `place` is what the verdict is about, in words; `typical_radius` the prior's 5th and 95th percentile.
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
    largest_nearest: float | None
    evidence: str
    place: str

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
        verdict = "inside" if bool(self.inside[row]) else "outside"
        return f"{verdict} {self.place}: {self._facts(row)}{self._grounds()}"

    def _facts(self, row: int) -> str:
        low, high = self.typical_radius
        radius, inside = float(self.radius[row]), bool(self.inside[row])
        typical = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
        facts = [f"radius {radius:.3g}, typical {typical}"]
        if inside and radius > high:
            facts[0] += f", inside up to {self.largest_radius:.3g}"
        if inside and radius < low / 2:
            facts.append("near the prior's centre, so an average design")
        if not inside and self.cycle_error is not None and self.largest_cycle is not None:
            facts.append(f"cycle error {float(self.cycle_error[row]):.2g}, typical up to {self.largest_cycle:.2g}")
        if not inside and self.nearest_known is not None and self.largest_nearest is not None:
            near = float(self.nearest_known[row])
            facts.append(f"distance to the nearest known design {near:.2g}, typical up to {self.largest_nearest:.2g}")
        if not inside and self._excess(row) == math.inf:
            facts.append("the latent, its design or the design encoded and decoded again is not finite")
        return "; ".join(facts)

    def _grounds(self) -> str:
        return f" (prior {self.evidence})" if self.place == KNOWN else ""  # other places name their grounds themselves

    def _excess(self, row: int) -> float:
        """How far a row is beyond the limits, as a multiple of them; infinite where its figures are not numbers."""
        over = [float(self.radius[row]) / self.largest_radius]
        if self.cycle_error is not None and self.largest_cycle is not None:
            over.append(float(self.cycle_error[row]) / max(self.largest_cycle, 1e-30))
        finite = all(math.isfinite(value) for value in over)
        unexplained = max(over) <= 1 and not bool(self.inside[row]) and math.isfinite(float(self.log_density[row]))
        return max(over) if finite and not unexplained else math.inf

    def __str__(self) -> str:
        if not len(self):
            return "no designs to judge"
        if len(self) == 1:
            return self.sentence()
        outside = torch.nonzero(~self.inside)[:, 0].tolist()
        rows = outside or range(len(self))
        worst = max(rows, key=self._excess)
        count = f"{len(outside)} of {len(self)}" if outside else f"all {len(self)}"
        verdict = "outside" if outside else "inside"
        return f"{count} designs lie {verdict} {self.place}; the farthest: {self._facts(worst)}{self._grounds()}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(str(self))}</p>"

    def summary(self) -> dict[str, Any]:
        """The figures as plain data, for JSON, which knows no infinity and no NaN: None stands for either."""
        rows = {name: [_plain(entry) for entry in value.tolist()] for name, value in self.tensors().items()}
        return {
            **rows,
            "typical_radius": list(self.typical_radius),
            "largest_radius": self.largest_radius,
            "largest_cycle": self.largest_cycle,
            "largest_nearest": self.largest_nearest,
            "evidence": self.evidence,
            "words": str(self),
        }


def _plain(value: float | bool) -> float | bool | None:
    return value if math.isfinite(value) else None


_references: WeakKeyDictionary[Decoder, Reference] = WeakKeyDictionary()


def reference(decoder: Decoder) -> Reference:
    """What draws from this decoder's prior look like; worked out once a decoder, with 512 decodes if it has an encoder."""
    found = _references.get(decoder)
    if found is None:
        found = _references[decoder] = _reference(decoder)
    return found


def _reference(decoder: Decoder) -> Reference:
    space, prior = decoder.space, decoder.space.prior
    draws = space.draw(_DRAWS, rng.generator(0)).to(device=decoder.device, dtype=decoder.latent_dtype)
    some = draws[:_CYCLE_DRAWS]
    cycle = nearest = None
    if decoder.encoder is not None:
        designs = decoder.decode(some)
        rounding = _ROUNDING * float(designs.nan_to_num(0.0, 0.0, 0.0).double().square().mean())
        cycle = _high(cycle_error(decoder, designs), _CYCLE_SLACK)
        cycle = None if cycle is None else max(cycle, rounding)
    if decoder.codes is not None:
        nearest = _high(nearest_code(decoder, some))
    return Reference(
        typical_radius=(prior.radius_at(5.0, space.dim), prior.radius_at(95.0, space.dim)),
        largest_radius=_largest_radius(space),
        log_density=prior.log_prob(draws).sort().values,
        largest_cycle=cycle,
        largest_nearest=nearest,
    )


def _largest_radius(space: LatentSpace) -> float:
    """Where the inside ends. A box and a sphere have an edge of their own, which their default regions reach."""
    if isinstance(space.prior, Uniform):
        return 1 + _EDGE
    if isinstance(space.prior, UniformSphere):
        return 1 + _SPHERE_WIDTH
    return space.prior.radius_at(_PERCENTILE, space.dim) * (1 + _EDGE)


def _high(value_N: Tensor, slack: float = 1.0) -> float | None:
    """The 99.5th percentile of the finite values, times the slack; None where there are none."""
    finite = value_N[torch.isfinite(value_N)]
    return slack * float(torch.quantile(finite.double(), _PERCENTILE / 100)) if len(finite) else None


def cycle_error(decoder: Decoder, designs: Tensor) -> Tensor:
    """Mean squared difference between designs `(N, ...)` and the decoded encoding of them, `(N,)`; NaN where not finite.

    It says how well a *decoded* design agrees with its own code. For a design from elsewhere it is the reconstruction
    error, which is larger for honest designs too.
    """
    finite_N = finite_rows(designs)
    error_N = torch.full(finite_N.shape, torch.nan, dtype=designs.dtype, device=designs.device)
    for rows in torch.nonzero(finite_N)[:, 0].split(decoder.block_rows):
        known = designs[rows]
        again = decoder.decode(decoder.encode(known))
        error_N[rows] = (again - known).square().flatten(1).mean(1).to(error_N)
    return error_N


def nearest_code(decoder: Decoder, z_ND: Tensor) -> Tensor:
    """Mean squared distance of rows to the nearest of the decoder's encoded designs, in prior standard deviations, `(N,)`."""
    if decoder.codes is None:
        return torch.full_like(z_ND[:, 0], torch.nan)
    scale = decoder.space.std(z_ND)
    known = decoder.codes.to(z_ND) / scale
    blocks = (z_ND / scale).split(max(1, _NEAREST_BLOCK // len(known)))
    return torch.cat([torch.cdist(rows, known).amin(1).square() / decoder.dim for rows in blocks])


def judge(decoder: Decoder, z_ND: Tensor, designs: Tensor) -> Realism:
    """The realism of rows `(N, D)` and their decoded designs `(N, ...)`; one more decode a row where there is an encoder."""
    prior, known = decoder.space.prior, reference(decoder)
    radius_N, log_N = prior.radius(z_ND), prior.log_prob(z_ND)
    # By radius and not by density: the same measure as the regions', so what a default region allows is inside.
    inside_N = (radius_N <= known.largest_radius) & (log_N > -math.inf)
    inside_N = inside_N & finite_rows(designs)
    cycle_N = None
    if decoder.encoder is not None and known.largest_cycle is not None:
        cycle_N = cycle_error(decoder, designs)
        inside_N = inside_N & (cycle_N <= known.largest_cycle)
    nearest_N = nearest_code(decoder, z_ND) if decoder.codes is not None else None
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
        largest_nearest=known.largest_nearest,
        evidence=str(decoder.space.evidence),
        place=place_in_words(decoder.space),
    )


def finite_rows(designs: Tensor) -> Tensor:
    """Whether each design `(N, ...)` is finite, `(N,)`, without a temporary as large as the designs."""
    low_N, high_N = designs.flatten(1).aminmax(dim=1)
    return (low_N > -math.inf) & (high_N < math.inf)


def place_in_words(space: LatentSpace) -> str:
    """What a verdict is about: what the decoder knows, or a prior that nothing supports."""
    evidence = space.evidence
    if evidence.source == "assumed":
        standard = isinstance(space.prior, Normal) and space.prior.is_standard
        return f"the assumed prior{' N(0, I)' if standard else ''}, which nothing has checked"
    if evidence.source == "given" and evidence.finding.startswith("does not match"):
        return f"the given prior, which {evidence.finding}"
    if evidence.source == "fitted" and evidence.finding:
        return f"the prior fitted to {evidence.encodings} encodings, which is {evidence.finding}".replace(
            "is does", "does"
        )
    return KNOWN

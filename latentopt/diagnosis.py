"""diagnose: what a decoder's latent space is like to search in, in figures, plain lines and one sentence of advice."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

from latentopt import examination
from latentopt.api import load_decoder
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError
from latentopt.examination import Conditioning, Look, PriorMatch, Response, Smoothness
from latentopt.gaussians import Mixture
from latentopt.priors import GaussianKind, Uniform, UniformSphere

# Verdicts' thresholds, set between what known cases measured (tests/test_diagnosis.py keeps them apart).
_JUMPS, _TOP_SHARE = (
    0.25,
    0.3,
)  # smooth networks 0 and 0.05 to 0.07; the sign or the rounding of latents 0.7 to 1, 0.2 to 0.4
_UNEVEN = 0.1  # tanh(10 z) 0.13
_STRETCHED = 100.0  # linear maps and the digits decoder 3 to 20
_SATURATED = 0.7  # the digits decoder 0.46; sigmoid and tanh of 3 to 20 times too much 0.85 to 0.97
_RADIUS_RATIO = (0.4, 1.25)  # as when a given prior is checked: posterior means lie inside a prior, not outside it
_LARGEST_MEAN, _LARGEST_STD, _LARGEST_KS = 1.0, 1.5, 0.1
_POOR_CYCLE = 1.0  # an unrelated encoder has 1.4, the digits encoder 0.42
_HIGH_DIMENSION = 50  # where a ball's inside is far from every draw


@dataclass(frozen=True)
class Diagnosis:
    """What was measured, from prior draws of `seed`, with `forward_rows` decodes and `backward_rows` gradients.

    `prior_match` is None without encodings, `latent_cycle` without an encoder. `broken_share` is the share of decoded rows
    that were not finite; `row_difference` and `call_difference` how much a design depends on its batch and on the call,
    relative to the largest value. `lines` are the findings in words, `advice` one sentence drawn from them.
    """

    name: str
    latent_shape: tuple[int, ...]
    design_shape: tuple[int, ...]
    evidence: str
    prior_match: PriorMatch | None
    latent_cycle: float | None
    response: Response
    conditioning: Conditioning
    smoothness: Smoothness
    differentiable: bool
    gradient_note: str
    row_difference: float
    call_difference: float
    broken_share: float
    seed: int
    forward_rows: int
    backward_rows: int
    prior_agrees: bool | None
    smooth: bool
    saturated: bool
    lines: tuple[str, ...]
    advice: str

    def summary(self) -> dict[str, Any]:
        """The figures as plain data, for JSON; None stands for infinity and NaN, which JSON does not know."""
        found: dict[str, Any] = _plain(dataclasses.asdict(self))
        return found

    def __str__(self) -> str:
        cost = f"{self.forward_rows:,} decodes" + (f" and {self.backward_rows:,} gradients" * bool(self.backward_rows))
        head = f"{self.name}: latents {self.latent_shape} to designs {self.design_shape}, seen through {cost}"
        return "\n".join([head, *(f"- {line}" for line in self.lines), f"Advice: {self.advice}"])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def diagnose(decoder: Any, *, data: Any = None, seed: int = 0) -> Diagnosis:
    """Look at a decoder's latent space before searching it. Costs 2,500 to 5,000 decodes, which the result counts.

    Args:
        decoder: a `Decoder`, or the name, dict or config of one.
        data: known designs `(n, *design_shape)`, encoded to check the prior; the decoder's own where it was given some.
        seed: same seed, same diagnosis.

    Raises `ConfigError` where there is data and no encoder, or fewer than two designs; what `load_decoder` raises.
    """
    decoder = load_decoder(decoder)
    before = (decoder.rows.forward, decoder.rows.backward)
    look = Look(decoder, seed)
    codes = _codes(decoder, data)
    match = None if codes is None else examination.prior_match(look, codes)
    cycle = examination.latent_cycle(look) if decoder.encoder is not None else None
    response, conditioning = examination.response(look), examination.conditioning(look)
    smoothness, saturation = examination.smoothness(look), conditioning.saturation
    probe = decoder.probe
    partial = Diagnosis(
        name=decoder.name,
        latent_shape=decoder.latent_shape,
        design_shape=decoder.design_shape,
        evidence=str(decoder.space.evidence),
        prior_match=match,
        latent_cycle=cycle,
        response=response,
        conditioning=conditioning,
        smoothness=smoothness,
        differentiable=probe.differentiable,
        gradient_note=probe.gradient_note,
        row_difference=probe.row_difference,
        call_difference=probe.call_difference,
        broken_share=look.broken_rows / look.rows,
        seed=seed,
        forward_rows=decoder.rows.forward - before[0],
        backward_rows=decoder.rows.backward - before[1],
        prior_agrees=None if match is None else _agrees(match),
        smooth=smoothness.jumps < _JUMPS and smoothness.top_share < _TOP_SHARE,
        saturated=saturation is not None and saturation.share > _SATURATED,
        lines=(),
        advice="",
    )
    return dataclasses.replace(partial, lines=tuple(_lines(partial, decoder)), advice=_advice(partial, decoder))


def _codes(decoder: Decoder, data: Any) -> torch.Tensor | None:
    if data is None:
        return decoder.codes
    if decoder.encoder is None:
        raise ConfigError(
            f"data= is encoded to check the prior, and decoder {decoder.name!r} has no encoder: drop data="
        )
    codes = decoder.encode(data)
    if len(codes) < 2:
        raise ConfigError(f"checking the prior needs at least 2 known designs, got {len(codes)}: give more data")
    if not bool(torch.isfinite(codes).all()):
        raise ConfigError(
            "the encoder gives NaN or infinite latents for the data: the prior cannot be checked with them"
        )
    return codes


def _agrees(match: PriorMatch) -> bool:
    low, high = _RADIUS_RATIO
    wide = match.largest_mean > _LARGEST_MEAN or match.largest_std > _LARGEST_STD
    return low <= match.radius_ratio <= high and not wide


# ---------------------------------------------------------------------- words


def _share(value: float) -> str:
    return f"{100 * value:.2g} %" if value < 0.995 else "100 %"


def _lines(found: Diagnosis, decoder: Decoder) -> list[str]:
    lines = [_prior_line(found, decoder)]
    if found.latent_cycle is not None:
        verdict = "is no inverse of the decoder" if found.latent_cycle > _POOR_CYCLE else "finds latents again"
        lines.append(f"encoder: {verdict}, to {found.latent_cycle:.2g} prior standard deviations a coordinate")
    lines += [_response_line(found), _stretch_line(found), _path_line(found)]
    if found.conditioning.saturation is not None:
        lines.append(_saturation_line(found))
    lines.append("gradients: " + ("reach the latents" if found.differentiable else f"none, {found.gradient_note}"))
    if found.call_difference > 1e-6:
        lines.append(f"calls: a second call gives another design (by {found.call_difference:.1e}), so losses are noisy")
    elif found.row_difference > 1e-3:
        lines.append(f"rows: a design depends on its batch (by {found.row_difference:.1e})")
    else:
        lines.append("rows and calls: independent, a latent has one design")
    if found.broken_share:
        lines.append(f"finite: {_share(found.broken_share)} of the decoded rows had NaN or infinite values")
    return lines


def _prior_line(found: Diagnosis, decoder: Decoder) -> str:
    match = found.prior_match
    if match is None:
        missing = "no encoder, so nothing can check it" if decoder.encoder is None else "give data= to check it"
        return f"prior: {found.evidence}; {missing}"
    figures = (
        f"median radius {match.radius_ratio:.2f} times the prior's, coordinates' means off by up to "
        f"{match.largest_mean:.2f} and standard deviations {match.smallest_std:.2f} to {match.largest_std:.2f} of the "
        f"prior's, Kolmogorov-Smirnov distance {match.ks:.2f} "
        f"(chance up to {match.ks_noise:.2f})"
    )
    if not found.prior_agrees:
        return f"prior: does not match {match.encodings} encodings: {figures}"
    if _other_shape(match, decoder):
        return f"prior: right in size, but {match.encodings} encodings have another shape: {figures}"
    inside = ", which lie inside it as posterior means do" if match.smallest_std < 0.9 else ""
    return f"prior: agrees with {match.encodings} encodings{inside}: {figures}"


def _other_shape(match: PriorMatch, decoder: Decoder) -> bool:
    """Whether a prior that was fitted to these encodings, and so has their moments, has another shape than they."""
    return decoder.space.evidence.source == "fitted" and match.ks > max(_LARGEST_KS, match.ks_noise)


def _response_line(found: Diagnosis) -> str:
    seen = found.response
    n = len(seen.coordinates)
    which = f"{n} of {math.prod(found.latent_shape)} coordinates (a random subset)" if seen.how == "subset" else f"{n}"
    if not any(seen.effects):
        return f"latents: none of {which} moves the design at all"
    if not seen.dead:
        return (
            f"latents: all {which} move the design" if seen.how != "subset" else f"latents: {which} all move the design"
        )
    some = ", ".join(map(str, seen.dead[:8])) + (f" and {len(seen.dead) - 8} more" if len(seen.dead) > 8 else "")
    return f"latents: {len(seen.dead)} of {which} are dead (under 1 % of the usual effect): {some}"


def _stretch_line(found: Diagnosis) -> str:
    seen = found.conditioning
    full = seen.directions == math.prod(found.latent_shape)
    where = f"{seen.directions} directions" if full else f"{seen.directions} random directions"
    if seen.effective_rank == 0.0:
        return "Jacobian: zero, small moves do not change the design"
    if not found.smooth:
        return "Jacobian: says nothing, the designs jump"
    least = "at least " if seen.condition >= examination.LARGEST_CONDITION or not full else ""
    verdict = "stretched" if seen.condition > _STRETCHED else "even"
    rank = f"the design responds along {seen.effective_rank:.1f} of {where}"
    number = f"{seen.condition:,.0f}" if seen.condition >= 100 else f"{seen.condition:.2g}"
    return f"Jacobian: {verdict}, condition number {least}{number}; {rank}"


def _path_line(found: Diagnosis) -> str:
    seen = found.smoothness
    verdict = "fragmented" if not found.smooth else "smooth but uneven" if seen.top_share > _UNEVEN else "smooth"
    return (
        f"paths: {verdict}; the longest step is {min(seen.largest_step, 999):.3g} times the median, the top 5 % of steps "
        f"make {_share(seen.top_share)} of the way, {_share(seen.jumps)} of paths have a jump"
    )


def _saturation_line(found: Diagnosis) -> str:
    seen = found.conditioning.saturation
    if seen is None:
        return ""
    verdict = "saturated" if found.saturated else "bounded"
    return (
        f"outputs: {verdict} in {seen.low:g} to {seen.high:g}; of the values that vary, {_share(seen.share)} are at an end "
        f"and carry {_share(seen.response)} of the response"
    )


def _advice(found: Diagnosis, decoder: Decoder) -> str:
    """One sentence on the prior where it needs work, the region, the starts, the search and the interpolator."""
    first = _on_the_prior(found, decoder)
    parts = [f"search in {_region(found, decoder)}", _starts(found, decoder)]
    if not found.differentiable:
        parts.append("use a search without gradients")
    elif not found.smooth:
        parts.append("use a search without gradients first, as gradients do not cross the jumps")
    elif found.conditioning.condition > _STRETCHED:
        parts.append("let a second-order search polish")
    parts.append(_interpolation(found, decoder))
    sentence = f"{first}; then " * bool(first) + ", ".join(parts[:-1]) + f" and {parts[-1]}."
    return sentence[0].upper() + sentence[1:]


def _on_the_prior(found: Diagnosis, decoder: Decoder) -> str:
    if found.prior_agrees is False:
        return 'let the prior be fitted to your data (prior="fitted", data=...) before all else'
    if found.prior_match is not None and _other_shape(found.prior_match, decoder):
        return 'fit a mixture (prior={"kind": "fitted", "components": 8})'
    if decoder.space.evidence.source == "assumed" and found.prior_match is None:
        how = "data=" if decoder.encoder is not None else "the prior it was trained with, or an encoder and data=,"
        return f"give {how} in place of the assumed prior"
    return ""


def _region(found: Diagnosis, decoder: Decoder) -> str:
    prior = decoder.space.prior
    if isinstance(prior, Uniform):
        return "the prior's box"
    if isinstance(prior, UniformSphere):
        return "the prior's sphere"
    inside = found.prior_match is not None and found.prior_match.radius_ratio < 0.9
    if isinstance(prior, GaussianKind) and decoder.dim >= _HIGH_DIMENSION and not inside:
        return "a shell at the 99th percentile"
    return "a ball at the 99th percentile"


def _starts(found: Diagnosis, decoder: Decoder) -> str:
    usable = decoder.encoder is not None and (found.latent_cycle or 0.0) <= _POOR_CYCLE
    many = "many screened draws" if found.saturated or not found.smooth else "screened draws"
    return f"start from the target's code, the mean and {many}" if usable else f"start from the mean and {many}"


def _interpolation(found: Diagnosis, decoder: Decoder) -> str:
    prior = decoder.space.prior
    zero = torch.zeros(1, decoder.dim, dtype=torch.float64)
    straight = isinstance(prior, Uniform | Mixture) or float(prior.radius(zero)) > 0.5 * prior.radius_at(
        50.0, decoder.dim
    )
    if isinstance(prior, UniformSphere):
        straight = False
    even = ", evenly spaced in design space" if found.smooth and found.smoothness.top_share > _UNEVEN else ""
    return f"interpolate with {'lerp' if straight else 'slerp'}{even}"

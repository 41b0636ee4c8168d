"""The starts of a search: the prior's mean, each target's own code, samplers (screened or not), and given latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentopt import memory, rng
from latentopt.arrayfield import Array
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, ShapeError
from latentopt.interfaces import SamplerConfig
from latentopt.outputs import describe
from latentopt.problem import Problem


def build_starts(
    starts: Sequence[str | Array | SamplerConfig], problem: Problem, decoder: Decoder, targets: Tensor | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Start latents `(T * n, D)`, target by target, and the target of each `(T * n,)`.

    Raises `ConfigError` where there is no start, or "encoder" has no target, `DecoderError` where it has no encoder, and
    `ShapeError` where given latents or a sampler's draws do not fit.
    """
    if not starts:
        raise ConfigError("a search needs starts: 'mean', 'encoder', a sampler, or latents")
    groups = [_group(start, index, problem, decoder, targets, seed) for index, start in enumerate(starts)]
    z_TnD = torch.cat(groups, dim=1)
    count, n, dim = z_TnD.shape
    target_N = torch.arange(count, device=z_TnD.device).repeat_interleave(n)
    return problem.project(z_TnD.reshape(count * n, dim)), target_N


def _group(
    start: str | Array | SamplerConfig,
    index: int,
    problem: Problem,
    decoder: Decoder,
    targets: Tensor | None,
    seed: int,
) -> Tensor:
    """One entry of the list as latents `(T, n, D)`."""
    count = problem.targets
    like = torch.zeros(1, device=decoder.device, dtype=decoder.latent_dtype)
    if isinstance(start, SamplerConfig):
        return _sampled(start, index, problem, decoder, seed)
    if isinstance(start, Array):
        return _given(start.tensor(), problem, decoder)
    if start == "mean":
        return decoder.space.mean(like).expand(count, 1, decoder.dim)
    if targets is None:
        raise ConfigError("starts 'encoder' encodes the target, and there is none: use 'mean' or a sampler")
    return decoder.encode(targets)[:, None, :]


def _given(z: Tensor, problem: Problem, decoder: Decoder) -> Tensor:
    """`(n, D)` or `(n, *latent_shape)` for every target, or `(T, n, ...)`."""
    space, count = decoder.space, problem.targets
    if z.numel() == 0:
        raise ShapeError(f"starts of shape {tuple(z.shape)} hold no latents: give at least one")
    lead = z.shape[: z.ndim - len(space.shape)] if tuple(z.shape[-len(space.shape) :]) == space.shape else None
    if lead is None and z.ndim >= 1 and z.shape[-1] == space.dim:
        lead = z.shape[:-1]
    if lead is None or len(lead) > 2 or (len(lead) == 2 and lead[0] != count):
        raise ShapeError(
            f"starts of shape {tuple(z.shape)} do not fit {count} target(s) and latents of shape {space.shape}: "
            f"give (n, {space.dim}) or ({count}, n, {space.dim})"
        )
    if not bool(torch.isfinite(z).all()):
        raise ShapeError("starts contain NaN or infinite values: give finite latents")
    rows = z.reshape(-1, space.dim).to(device=decoder.device, dtype=decoder.latent_dtype)
    return rows.reshape(count, -1, space.dim) if len(lead) == 2 else rows.expand(count, *rows.shape)


def _sampled(config: SamplerConfig, index: int, problem: Problem, decoder: Decoder, seed: int) -> Tensor:
    """The first n draws for every target; or, screened, the n draws that are best for each."""
    count = config.n if config.screened_from is None else config.screened_from
    draw = config.build(decoder)
    with memory.room(count * decoder.dim * memory.DRAWN, f"{count} draws for starts", "lower n or screened_from"):
        draws = draw(count, decoder.space, rng.generator(seed, rng.STARTS, index))
    if not isinstance(draws, Tensor) or tuple(draws.shape) != (count, decoder.dim):
        raise ShapeError(
            f"sampler {config.kind_name()!r} returned {describe(draws)}, "
            f"expected a tensor of shape ({count}, {decoder.dim})"
        )
    draws = problem.project(draws.to(device=decoder.device, dtype=decoder.latent_dtype))
    if config.screened_from is None:
        return draws.expand(problem.targets, *draws.shape)
    merit_MT = problem.screen(draws).nan_to_num(nan=torch.inf)
    return draws[merit_MT.argsort(dim=0, stable=True)[: config.n].T]

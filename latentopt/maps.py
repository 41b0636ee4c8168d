"""Where a search went: starts, found latents and draws of the prior in two directions; members spread along a front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentopt.result import Result

_MOST = 1024  # rows that the directions are worked out from


class Leg(NamedTuple):
    """The places `(R, 2)` of one target's best row at the reports of one search of a stage, repeated ones left out.

    `racing` says whether it is one of several searches of its stage.
    """

    target: int
    stage: int
    places_R2: Tensor
    racing: bool


@dataclass(frozen=True)
class LatentMap:
    """Places `(..., 2)`: of the found rows, in the result's order, of starts, and of draws from the prior.

    `names` are the two directions'; `share` is how much of the variance of starts and found rows they hold. `legs` are the
    paths of the best rows of the first targets, stage by stage.
    """

    found_N2: Tensor
    starts_S2: Tensor
    prior_P2: Tensor
    names: tuple[str, str]
    share: float
    legs: list[Leg]


def latent_map(result: Result) -> LatentMap:
    """The two principal components of starts and found rows, in the prior's standard deviations, around its mean.

    Components (Pearson 1901) of what the search visited, and not of the prior's draws: those spread alike in every
    direction, once measured so. Latents of one or two values are shown as they are. A result that was saved without
    starts, draws or paths has a map without them.
    """
    found_ND = result.latents.flatten(1).double()
    dim = found_ND.shape[1]
    none = found_ND.new_zeros(0, dim)
    starts_SD = none if result.starts is None else result.starts.double()
    prior_PD = none if result.prior_draws is None else result.prior_draws.double()
    paths_RTD = none[:, None] if result.paths is None else result.paths.double()
    layers = (found_ND, starts_SD, prior_PD, paths_RTD)
    if dim <= 2:
        flat = [torch.nn.functional.pad(rows, (0, 2 - dim)) for rows in layers]
        names = ("latent value 0", "latent value 1" if dim == 2 else "")
        return LatentMap(flat[0], flat[1], flat[2], names, 1.0, _legs(flat[3], result.history))
    std_D = torch.ones(dim).double() if result.latent_std is None else result.latent_std.double()
    visited = torch.cat([found_ND[:_MOST], starts_SD]) / std_D
    centre_D = prior_PD.mean(0) / std_D if len(prior_PD) else visited.mean(0)
    spread = visited - visited.mean(0)
    _, size_K, directions_KD = torch.linalg.svd(spread, full_matrices=False)
    if len(size_K) < 2:  # one row alone
        directions_KD = torch.eye(dim, dtype=torch.double)[:2]
    basis_2D = directions_KD[:2]
    largest = basis_2D.gather(1, basis_2D.abs().argmax(1, keepdim=True))
    basis_2D = basis_2D * torch.where(largest < 0, -1.0, 1.0)  # a component's sign means nothing: fix it
    total = float(size_K.square().sum())
    share = float(size_K[:2].square().sum()) / total if total > 0 else 1.0
    placed = [(rows / std_D - centre_D) @ basis_2D.T for rows in layers]
    legs = _legs(placed[3], result.history)
    return LatentMap(placed[0], placed[1], placed[2], ("first component", "second component"), share, legs)


def _legs(paths_RT2: Tensor, history: Sequence[dict[str, Any]]) -> list[Leg]:
    """The paths, cut where a search of a stage begins; a history that is not theirs has none."""
    if len(paths_RT2) != len(history):
        return []
    found = []
    keys = [(entry["stage"], entry.get("entrant", 0)) for entry in history]
    races = {stage for stage, entrant in keys if entrant}
    for target in range(paths_RT2.shape[1]):
        for key in sorted(set(keys)):
            rows = [index for index, one in enumerate(keys) if one == key]
            places_R2 = paths_RT2[rows, target]
            places_R2 = places_R2[places_R2.isfinite().all(1)]
            if len(places_R2):
                moved = (places_R2[1:] != places_R2[:-1]).any(1)
                found.append(Leg(target, key[0], torch.cat([places_R2[:1], places_R2[1:][moved]]), key[0] in races))
    return found


def along(members: Result, most: int) -> Tensor:
    """Indices of members of a front spread along it, both ends among them; `members` as `Result.front` orders them."""
    if len(members) <= most:
        return torch.arange(len(members))
    values = torch.stack([members.terms[name].double() for name in members.objectives], 1)
    spread = (values.amax(0) - values.amin(0)).clamp(min=1e-300)
    steps = ((values[1:] - values[:-1]) / spread).square().sum(1).sqrt()
    at = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    wanted = torch.linspace(0, float(at[-1]), most, dtype=at.dtype)
    return (at[None] - wanted[:, None]).abs().argmin(1).unique()

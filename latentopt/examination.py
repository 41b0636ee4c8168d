"""Figures about a decoder's latent space, from a few thousand decodes: what `diagnose` puts into words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latentopt import rng
from latentopt.decoder import Decoder
from latentopt.priors import GaussianKind, UniformSphere

_VALUES = 65536  # of larger designs a random subset of this many values is looked at
_CODES = 4096
_COORDINATES = 256  # moved one by one; where there are more, the gradient or a random subset answers
_DIRECTIONS = 64
_BASES, _FEW_BASES = 8, 4
_PAIRS, _STEPS, _REFINED = 32, 64, 16
_STEP = 1e-2  # of forward differences, in prior standard deviations: rounding in float32 then stays near 1e-5
LARGEST_CONDITION = 1e5  # what such differences can still tell apart
_SATURATED = 0.01
_DEAD = 0.01
_JUMP = 0.5


class Look:
    """Prior draws and their designs `(N, P)` in float64 on the CPU, P at most 65,536 values picked once by seed."""

    def __init__(self, decoder: Decoder, seed: int) -> None:
        self.decoder, self.seed = decoder, seed
        size = math.prod(decoder.design_shape)
        self.columns = torch.randperm(size, generator=rng.generator(seed, 0))[:_VALUES] if size > _VALUES else None
        self.rows = self.broken_rows = 0

    def draws(self, n: int, where: int) -> Tensor:
        """n prior draws `(n, D)`; `where` tells one set of draws from another."""
        z = self.decoder.space.draw(n, rng.generator(self.seed, 1, where))
        return z.to(device=self.decoder.device, dtype=self.decoder.latent_dtype)

    def designs(self, z_ND: Tensor) -> Tensor:
        """Designs `(N, P)`; rows that are not finite become zeros and are counted."""
        parts = []
        for rows in z_ND.split(self.decoder.block_rows):
            flat = self.decoder.decode(rows).flatten(1)
            parts.append((flat if self.columns is None else flat[:, self.columns.to(flat.device)]).cpu().double())
        found = torch.cat(parts)
        broken = ~torch.isfinite(found).all(1)
        self.rows += len(found)
        self.broken_rows += int(broken.sum())
        found[broken] = 0.0
        return found

    def moves(self, directions_KD: Tensor) -> Tensor:
        """Directions in units that make the prior round, as moves of latents `(K, D)`.

        A Gaussian's own units are its Cholesky factor's, so that correlated coordinates move together.
        """
        prior = self.decoder.space.prior
        if isinstance(prior, GaussianKind):
            return prior.from_normal(directions_KD) - prior.from_normal(torch.zeros_like(directions_KD[:1]))
        return directions_KD * self.decoder.space.std(directions_KD)


# ---------------------------------------------------------------------- the prior


@dataclass(frozen=True)
class PriorMatch:
    """How encodings lie under the prior.

    `radius_ratio`: their median radius over the prior's. `largest_mean`: the largest distance of a coordinate's mean from
    the prior's, in prior standard deviations. `smallest_std`, `largest_std`: of the coordinates' standard deviations, over
    the prior's. `ks`: the largest two-sample Kolmogorov-Smirnov distance of a coordinate; `ks_noise` what chance gives.
    """

    encodings: int
    radius_ratio: float
    largest_mean: float
    smallest_std: float
    largest_std: float
    ks: float
    ks_noise: float


def prior_match(look: Look, codes_ND: Tensor) -> PriorMatch:
    """Encodings `(n, D)` against the prior; of more than 4,096 a random 4,096."""
    space = look.decoder.space
    codes = codes_ND[torch.randperm(len(codes_ND), generator=rng.generator(look.seed, 2))[:_CODES].to(codes_ND.device)]
    drawn = look.draws(_CODES, 0)
    mean, std = space.mean(drawn), space.std(drawn)
    spread = codes.std(0, correction=0) / std
    n = len(codes)
    # 1.63 is the 1 % point of the Kolmogorov distribution; of D coordinates the worst is looked at (Bonferroni)
    point = math.sqrt(-0.5 * math.log(0.01 / space.dim / 2))
    return PriorMatch(
        encodings=len(codes_ND),
        radius_ratio=float(space.prior.radius(codes).median()) / space.prior.radius_at(50.0, space.dim),
        largest_mean=float(((codes.mean(0) - mean) / std).abs().amax()),
        smallest_std=float(spread.amin()),
        largest_std=float(spread.amax()),
        ks=float(_ks(codes.double().cpu(), drawn.double().cpu())),
        ks_noise=point * math.sqrt(1 / n + 1 / len(drawn)),
    )


def _ks(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """The largest difference of the two empirical distribution functions over all coordinates."""
    both = torch.cat([a_ND, b_MD]).T.contiguous()
    shares = [torch.searchsorted(x.T.contiguous().sort(1).values, both, right=True) / len(x) for x in (a_ND, b_MD)]
    return (shares[0] - shares[1]).abs().amax()


def latent_cycle(look: Look, n: int = 256) -> float:
    """Root mean square distance of `encode(decode(z))` from prior draws z, a coordinate, in prior standard deviations."""
    decoder = look.decoder
    z = look.draws(n, 1)
    designs = decoder.decode(z)
    finite = torch.isfinite(designs).flatten(1).all(1)
    look.rows += n
    look.broken_rows += int((~finite).sum())
    if not bool(finite.any()):
        return math.inf
    back = decoder.encode(designs[finite])
    return float(((back - z[finite]) / decoder.space.std(z)).double().square().mean().sqrt())


# ---------------------------------------------------------------------- what the latents do


@dataclass(frozen=True)
class Response:
    """What each latent coordinate does: root mean square change of the design for a move of one prior std, `(C,)`.

    `dead` are coordinates below 1 % of the coordinates' root mean square effect. (The median would do until half of them
    are dead, and collapsed auto-encoders have more.) `how`: "moved" one by one, "gradient", or a "subset" moved.
    """

    coordinates: tuple[int, ...]
    effects: tuple[float, ...]
    dead: tuple[int, ...]
    how: str


def response(look: Look) -> Response:
    """The effect of every coordinate: by moving it; of more than 256 by gradients, or of 256 random ones by moving."""
    decoder = look.decoder
    coordinates = torch.arange(decoder.dim)
    how = "moved" if decoder.dim <= _COORDINATES else "gradient" if decoder.probe.differentiable else "subset"
    if how == "gradient":
        effect_C = _by_gradient(look)
    else:
        if how == "subset":
            picked = torch.randperm(decoder.dim, generator=rng.generator(look.seed, 3))[:_COORDINATES]
            coordinates = picked.sort().values
        effect_C = _by_moving(look, coordinates)
    dead = effect_C <= _DEAD * effect_C.square().mean().sqrt()
    return Response(
        coordinates=tuple(coordinates.tolist()),
        effects=tuple(effect_C.tolist()),
        dead=tuple(coordinates[dead].tolist()),
        how=how,
    )


def _by_moving(look: Look, coordinates: Tensor) -> Tensor:
    bases = look.draws(_BASES if len(coordinates) <= _DIRECTIONS else _FEW_BASES, 2)
    std = look.decoder.space.std(bases)
    total = torch.zeros(len(coordinates), dtype=torch.float64)
    for base in bases:
        moved = base.repeat(len(coordinates), 1)
        moved[torch.arange(len(coordinates)), coordinates] += std[coordinates]
        total += (look.designs(moved) - look.designs(base[None])).square().mean(1)
    return (total / len(bases)).sqrt()


def _by_gradient(look: Look, n: int = 64) -> Tensor:
    """For random signs s, the mean of (J^T s)^2 is the squared length of each column of J: one backward row a draw."""
    decoder = look.decoder
    z_ND = look.draws(n, 2)
    total = torch.zeros(decoder.dim, dtype=torch.float64)
    signs = rng.generator(look.seed, 4)

    def block(rows: slice) -> None:
        z = z_ND[rows].requires_grad_(True)
        with torch.enable_grad():
            designs = decoder.forward(z)
            sign = torch.randint(0, 2, designs.shape, generator=signs).to(designs) * 2 - 1
            (gradient,) = torch.autograd.grad((designs * sign).sum(), z)
        decoder.rows.backward += len(z)
        look.rows += len(z)
        total.add_(gradient.cpu().double().nan_to_num(0.0, 0.0, 0.0).square().sum(0))

    with decoder.frozen():
        decoder.each_block(n, block)
    size = math.prod(decoder.design_shape)
    return (total / n / size).sqrt() * decoder.space.std(z_ND).cpu().double()


@dataclass(frozen=True)
class Saturation:
    """Of a bounded decoder, over the design values that vary (by a tenth of the range in standard deviation) at all.

    `share`: of them within 1 % of an end of the range, mean over 8 draws. `response`: their share of the design's
    response to the latents; the gradient through them is as small. `varying`: share of design values that vary.
    """

    low: float
    high: float
    varying: float
    share: float
    response: float


@dataclass(frozen=True)
class Conditioning:
    """The Jacobian in whitened coordinates at 8 prior draws, medians over them.

    `condition`: largest over smallest singular value (100,000 is the most that is told apart). `effective_rank`:
    (sum s^2)^2 / sum s^4, how many directions the design's response is spread over. Of more than 64 coordinates,
    64 random directions: the condition number is then a lower bound.
    """

    condition: float
    effective_rank: float
    directions: int
    saturation: Saturation | None


def conditioning(look: Look) -> Conditioning:
    """Singular values by forward differences, and, since the same differences tell, saturation."""
    decoder = look.decoder
    k = min(decoder.dim, _DIRECTIONS)
    square = rng.randn(decoder.dim, k, rng.generator(look.seed, 5)).double()
    directions = torch.eye(decoder.dim).double() if k == decoder.dim else torch.linalg.qr(square).Q.T
    bases = look.draws(_BASES, 3)
    moves = look.moves(directions.to(bases)) * _STEP
    conditions, ranks, at_ends, dying = [], [], [], []
    bounds = _bounds(look)
    for base in bases:
        centre_P = look.designs(base[None])[0]
        jacobian_KP = (look.designs(base + moves) - centre_P) / _STEP
        energy = torch.linalg.eigvalsh(jacobian_KP @ jacobian_KP.T).clamp(min=0)[-min(jacobian_KP.shape) :]
        top = float(energy[-1])
        ratio = math.sqrt(top / max(float(energy[0]), 1e-300)) if top else math.inf
        conditions.append(min(LARGEST_CONDITION, ratio))
        ranks.append(float(energy.sum().square() / energy.square().sum()) if top else 0.0)
        if bounds is not None:
            low, high, varies_P = bounds
            edge = _SATURATED * (high - low)
            at_end_P = ((centre_P < low + edge) | (centre_P > high - edge)) & varies_P
            force_P = jacobian_KP.square().sum(0)
            at_ends.append(float(at_end_P.sum() / varies_P.sum()))
            dying.append(float(force_P[at_end_P].sum() / force_P[varies_P].sum().clamp(min=1e-300)))
    saturation = None
    if bounds is not None:
        saturation = Saturation(*bounds[:2], float(bounds[2].double().mean()), _mean(at_ends), _mean(dying))
    return Conditioning(_median(conditions), _median(ranks), k, saturation)


def _bounds(look: Look) -> tuple[float, float, Tensor] | None:
    """The range of a bounded decoder and which values vary `(P,)`; None where its designs keep to none or do not vary.

    The range is the one of those that sigmoid, tanh or its `value_range` would give which its designs keep to and reach.
    """
    designs = look.designs(look.draws(64, 4))
    low, high = float(designs.amin()), float(designs.amax())
    for a, b in (look.decoder.value_range, (0.0, 1.0), (-1.0, 1.0)):
        edge = _SATURATED * (b - a)
        varies_P = designs.std(0) > 0.1 * (b - a)
        if a - 1e-6 <= low and high <= b + 1e-6 and (low < a + edge or high > b - edge) and bool(varies_P.any()):
            return a, b, varies_P
    return None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _median(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))


# ---------------------------------------------------------------------- paths


@dataclass(frozen=True)
class Smoothness:
    """Paths of 64 steps between 32 pairs of prior draws.

    `largest_step`: largest over median step in design space, median over paths. `top_share`: share of a path's design
    length in its top 5 % of steps (5 % is perfectly even), median over paths. `jumps`: share of paths whose largest step,
    cut into 16, has half of its length or more in one piece (a smooth step has a sixteenth): there the design jumps.
    """

    largest_step: float
    top_share: float
    jumps: float


def smoothness(look: Look) -> Smoothness:
    """Step lengths along paths, and a finer look at the largest step of each."""
    a_ND, b_ND = look.draws(2 * _PAIRS, 5).chunk(2)
    t = torch.linspace(0, 1, _STEPS + 1, dtype=a_ND.dtype, device=a_ND.device)
    top = max(1, round(0.05 * _STEPS))
    ratios, shares, jumps = [], [], []
    for a, b in zip(a_ND, b_ND, strict=True):
        steps = _lengths(look.designs(_path(look, a, b, t)))
        total = float(steps.sum())
        if total == 0.0:  # nothing happens on this path: even, and no jump
            continue
        ratios.append(float(steps.amax()) / max(float(steps.median()), 1e-3 * total / _STEPS))
        shares.append(float(steps.topk(top).values.sum()) / total)
        i = int(steps.argmax())
        fine = _lengths(
            look.designs(_path(look, a, b, torch.linspace(float(t[i]), float(t[i + 1]), _REFINED + 1).to(t)))
        )
        jumps.append(float(fine.amax() / fine.sum().clamp(min=1e-300)) >= _JUMP)
    if not ratios:
        return Smoothness(1.0, 0.05, 0.0)
    return Smoothness(_median(ratios), _median(shares), sum(jumps) / len(jumps))


def _lengths(designs: Tensor) -> Tensor:
    return (designs[1:] - designs[:-1]).square().mean(1).sqrt()


def _path(look: Look, a: Tensor, b: Tensor, t_T: Tensor) -> Tensor:
    """From a to b `(T, D)` where the prior has its draws: a quarter turn for Gaussians, whose every point is a draw again."""
    space = look.decoder.space
    t = t_T[:, None]
    if not isinstance(space.prior, GaussianKind | UniformSphere):
        return torch.lerp(a, b, t)
    centre = space.mean(a)
    turned = centre + torch.cos(t * math.pi / 2) * (a - centre) + torch.sin(t * math.pi / 2) * (b - centre)
    if isinstance(space.prior, UniformSphere):
        return turned / space.prior.radius(turned)[:, None]
    return turned

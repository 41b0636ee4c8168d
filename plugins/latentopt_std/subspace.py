"""Few coordinates for many latent values: the directions that known designs, or the decoder itself, say matter.

All of it happens in whitened latents w, where z = mean + std * w with the prior's own mean and standard deviation.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Generator, Tensor

from latentopt import ConfigError, Coordinates, Decoder, GradientError, LatentoptWarning, Problem

SubspaceKind = Literal["auto", "identity", "jacobian", "pca", "random"]

MOST = 32  # coordinates beyond which Optuna's samplers cost much and find little
# Gradients of random outputs at draws from the prior, 384 rows. On a 256-value decoder whose best 32 directions hold 88 %
# of the squared gradient these find 86 %, and twice as many draws 87 %.
DRAWS, PROBES = 128, 2
JACOBIAN_ROWS = DRAWS * (1 + PROBES)


def check_subspace(kind: SubspaceKind, coordinates: int, decoder: Decoder) -> None:
    """Refuse what the decoder cannot give, and warn of more coordinates than are worth their cost.

    Raises `ConfigError` for `pca` without encoded designs, `GradientError` for `jacobian` without gradients.
    """
    chosen = resolve(kind, coordinates, decoder)
    if chosen == "pca" and (decoder.codes is None or len(decoder.codes) < 3):
        raise ConfigError(
            f"subspace 'pca' needs encoded designs and decoder {decoder.name!r} has none: give it an encoder and data=, "
            "or use 'jacobian' or 'random'"
        )
    if chosen == "jacobian" and not decoder.probe.differentiable:
        raise GradientError(
            f"subspace 'jacobian' needs gradients and decoder {decoder.name!r} gives none: "
            f"{decoder.probe.gradient_note}; use 'pca' or 'random'"
        )
    count = decoder.dim if chosen == "identity" else min(coordinates, decoder.dim)
    if count > MOST:
        warnings.warn(
            f"{count} coordinates are many for Optuna: with 1000 trials TPE takes 22 ms an ask at 8 coordinates, 90 at 64, "
            "660 at 512, GP 1 s at 8 and 3 s at 64, random 200 ms at 4096, for each target, and few samplers gain there; "
            f"leave subspace='auto' with coordinates <= {MOST}",
            LatentoptWarning,
            stacklevel=3,
        )


def resolve(kind: SubspaceKind, coordinates: int, decoder: Decoder) -> SubspaceKind:
    """What `auto` comes to: all values where they are few, else PCA, the Jacobian, or random directions."""
    if kind != "auto":
        return kind
    if decoder.dim <= coordinates:
        return "identity"
    if decoder.codes is not None and len(decoder.codes) > coordinates:
        return "pca"
    return "jacobian" if decoder.probe.differentiable else "random"


def choose(kind: SubspaceKind, coordinates: int, problem: Problem, seed: int) -> Coordinates:
    """The map from at most so many coordinates to latents; the rows that it decodes and differentiates are counted."""
    decoder, space = problem.decoder, problem.space
    chosen = resolve(kind, coordinates, decoder)
    like = torch.zeros(1, dtype=decoder.latent_dtype, device=decoder.device)
    mean_D, std_D = space.mean(like), space.std(like)
    if chosen == "identity":
        return Coordinates(mean_D, std_D)
    count = min(coordinates, space.dim)
    if chosen == "pca" and decoder.codes is not None:
        return principal(decoder.codes.to(like), std_D, count)
    basis_DK = jacobian_directions(decoder, std_D, count, seed) if chosen == "jacobian" else None
    if basis_DK is not None:
        words = f"the decoder's strongest directions ({DRAWS} draws x {PROBES} probes)"
    else:
        basis_DK = random_directions(space.dim, count, seed)
        why = {"random": "", "jacobian": ", for want of finite gradients: expect little"}
        words = "random directions" + why.get(kind, ", for want of encoded designs and of gradients: expect little")
    note = f"searched {basis_DK.shape[1]} of {space.dim} latent dimensions: {words}"
    return Coordinates(mean_D, std_D, basis_DK.to(like), (note,))


def principal(codes_ND: Tensor, std_D: Tensor, count: int) -> Coordinates:
    """The axes along which encoded designs differ most, about their mean; a unit is their standard deviation along each."""
    centre_D = codes_ND.mean(0)
    white_ND = ((codes_ND - centre_D) / std_D).cpu().double()
    _, length_K, axes_KD = torch.linalg.svd(white_ND, full_matrices=False)
    kept = min(count, int((length_K > 1e-6 * length_K[0]).sum()))
    spread_K = length_K[:kept] / (len(codes_ND) - 1) ** 0.5
    basis_DK = _signed(axes_KD[:kept].T) * spread_K
    share = float(length_K[:kept].square().sum() / length_K.square().sum())
    note = (
        f"searched {kept} of {len(std_D)} latent dimensions: principal axes of {len(codes_ND)} encoded designs, "
        f"{100 * share:.0f} % of their variance"
    )
    return Coordinates(centre_D, std_D, basis_DK.to(codes_ND), (note,))


def jacobian_directions(decoder: Decoder, std_D: Tensor, count: int, seed: int) -> Tensor | None:
    """The top eigenvectors of the mean of J^T J over the prior `(D, K)`, J the Jacobian in whitened latents.

    For signs v drawn at random E[v v^T] = I, so gradients g = J^T v have E[g g^T] = E[J^T J] (Hutchinson 1990), and the
    right singular vectors of many g are the directions sought: no Jacobian is ever formed.
    None where too few gradients are finite, or all are zero.
    """
    draws_ND = decoder.space.draw(DRAWS, Generator().manual_seed(seed)).to(std_D)
    gradients: list[Tensor] = []

    def block(rows: slice) -> None:
        signs = Generator(device=draws_ND.device).manual_seed((seed + rows.start) % 2**63)
        z_ND = draws_ND[rows].detach().requires_grad_(True)
        with torch.enable_grad():
            designs = decoder.forward(z_ND)
            found = []
            for probe in range(PROBES):
                v = torch.randint(0, 2, designs.shape, generator=signs, device=designs.device).to(designs) * 2 - 1
                (g,) = torch.autograd.grad(designs, z_ND, v, retain_graph=probe + 1 < PROBES)
                found.append(g * std_D)
        decoder.rows.backward += PROBES * len(z_ND)
        gradients.extend(found)

    with decoder.frozen():
        decoder.each_block(DRAWS, block)
    g_MD = torch.cat(gradients).cpu().double()
    g_MD = g_MD[torch.isfinite(g_MD).all(1)]
    if len(g_MD) < count or not bool((g_MD != 0).any()):
        return None
    return _signed(torch.linalg.svd(g_MD, full_matrices=False).Vh[:count].T)


def random_directions(dim: int, count: int, seed: int) -> Tensor:
    """Orthonormal columns `(D, K)` in random directions."""
    normal_DK = torch.randn(dim, count, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(normal_DK).Q


def _signed(basis_DK: Tensor) -> Tensor:
    """The same axes with each one's largest value positive: a decomposition leaves the sign open."""
    largest_K = basis_DK.abs().argmax(0)
    return basis_DK * basis_DK.gather(0, largest_K[None]).sign()

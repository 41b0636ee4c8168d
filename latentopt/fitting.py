"""Priors fitted to encoded designs, and a given prior checked against them. scikit-learn does the fitting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentopt.arrayfield import Array
from latentopt.errors import ConfigError, ShapeError
from latentopt.gaussians import Gaussian, Mixture
from latentopt.priors import PriorBase

# Posterior means of a variational auto-encoder lie inside its prior, so a smaller radius is ordinary and a larger is not.
_SMALLEST_RATIO, _LARGEST_RATIO = 0.4, 1.25
_LARGEST_DISTANCE = 0.25


def fit_prior(codes_ND: Tensor, components: int = 1) -> Gaussian | Mixture:
    """A Gaussian (Ledoit-Wolf covariance) or a mixture of full Gaussians fitted to encodings `(n, D)`.

    Ledoit and Wolf 2004 shrink the sample covariance just enough to stay well conditioned when n is not much above D. It
    is the correlations that are shrunk, as Schaefer and Strimmer 2005 advise: coordinates that the encoder hardly uses
    would otherwise be given the spread of the others.
    Raises `ConfigError` with fewer than two encodings a component, or where they are not finite, and `ShapeError` where
    they are not rows.
    """
    if codes_ND.ndim != 2:
        raise ShapeError(f"a prior is fitted to rows of encodings (n, D), got shape {tuple(codes_ND.shape)}")
    if components < 1:
        raise ConfigError(f"components must be at least 1, got {components}")
    n, dim = codes_ND.shape
    if n < 2 * components:
        raise ConfigError(f"a prior of {components} components needs at least {2 * components} encodings, got {n}")
    if not bool(torch.isfinite(codes_ND).all()):
        raise ConfigError("the encoder gives NaN or infinite latents for the data: a prior cannot be fitted to them")
    codes = codes_ND.double().cpu().numpy()
    floor = 1e-6 * float(codes.var(0).mean() or 1.0)
    if components == 1:
        from sklearn.covariance import LedoitWolf

        std = np.sqrt(codes.var(0) + floor)
        shrunk = LedoitWolf().fit(codes / std).covariance_ * np.outer(std, std)
        covariance = torch.from_numpy(shrunk) + floor * torch.eye(dim)
        return Gaussian(mean=Array(torch.from_numpy(codes.mean(0))), covariance=Array(covariance))
    from sklearn.mixture import GaussianMixture

    found = GaussianMixture(components, random_state=0, reg_covar=max(floor, 1e-9)).fit(codes)
    return Mixture(
        weights=Array(torch.from_numpy(found.weights_)),
        means=Array(torch.from_numpy(found.means_)),
        covariances=Array(torch.from_numpy(found.covariances_)),
    )


def check_fit(prior: PriorBase, codes_ND: Tensor) -> str:
    """What speaks against a prior fitted to these encodings, as a clause for its evidence; empty where nothing does.

    Their radii should follow the prior's, and under a Gaussian each coordinate a normal: the largest distance between two
    distribution functions (Kolmogorov-Smirnov) of clusters, or of a shell, under one Gaussian is above 0.25.
    """
    n, dim = codes_ND.shape
    if n < 2 * dim:
        return f"a rough guess: {n} encodings for {dim} coordinates"
    shares = [prior.radius_percentile(prior.radius(codes_ND), dim).double()[:, None] / 100]
    if isinstance(prior, Gaussian):
        mean, std = prior.moments(dim, codes_ND)
        shares.append(torch.special.ndtr((codes_ND - mean) / std).double())
    share_NK = torch.cat(shares, dim=1).sort(dim=0).values
    rank_N1 = torch.arange(n, dtype=torch.float64, device=share_NK.device)[:, None] / n
    distance = float(torch.maximum(share_NK - rank_N1, rank_N1 + 1 / n - share_NK).amax())
    if distance > max(_LARGEST_DISTANCE, 2 * 1.36 / n**0.5):  # 1.36 / sqrt(n): what chance reaches once in twenty
        return f"does not match their shape (Kolmogorov-Smirnov distance {distance:.2f}): fit more components"
    return ""


def check_against(prior: PriorBase, codes_ND: Tensor) -> str:
    """How encodings lie under a prior that was given, as a clause for its evidence."""
    dim = codes_ND.shape[1]
    radius = float(prior.radius(codes_ND).median())
    expected = prior.radius_at(50.0, dim)
    verdict = "agrees with" if _SMALLEST_RATIO <= radius / expected <= _LARGEST_RATIO else "does not match"
    return f"{verdict} {len(codes_ND)} encodings (median radius {radius:.3g}, the prior's {expected:.3g})"

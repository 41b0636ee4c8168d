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


def check_against(prior: PriorBase, codes_ND: Tensor) -> str:
    """How encodings lie under a prior that was given, as a clause for its evidence."""
    dim = codes_ND.shape[1]
    radius = float(prior.radius(codes_ND).median())
    expected = prior.radius_at(50.0, dim)
    verdict = "agrees with" if _SMALLEST_RATIO <= radius / expected <= _LARGEST_RATIO else "does not match"
    return f"{verdict} {len(codes_ND)} encodings (median radius {radius:.3g}, the prior's {expected:.3g})"

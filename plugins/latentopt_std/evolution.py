"""CMA-ES for many targets at once: the evolution strategy of each, all of them in one set of arrays.

After Hansen's tutorial (arXiv:1604.00772; equation numbers are its own), and Ros and Hansen 2008 for the separable form.
Shapes: T targets, G of them with one population size, L points of a population, K coordinates.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TINY = 1e-8
# A covariance that is this share new is decomposed anew. Measured on digits (100 targets) and on rotated decoders of 32 to
# 100 dimensions: 0, 0.1, 0.2 and 0.4 end alike, 0.8 does not. At 0 it is most of the cost: 3 times all the rest at 100.
_STALE = 0.1


class Rates(NamedTuple):
    """Weights and learning rates for one population size and number of coordinates (table 1 of the tutorial)."""

    weights_L: Floats
    mu: int
    mu_eff: float
    c_mean_path: float  # c_sigma
    damping: float
    c_path: float  # c_c
    c_one: float
    c_mu: float
    expected: float  # the length of a standard normal vector
    kept: float  # 1 - c_1 - c_mu sum(w), what is left of the covariance


@functools.cache
def rates(population: int, count: int, separable: bool) -> Rates:
    """The tutorial's defaults; without negative weights, and with faster rates, where only variances are learnt."""
    mu, n = population // 2, count
    raw_L = math.log((population + 1) / 2) - np.log(np.arange(1, population + 1))  # equation 49
    if separable:
        raw_L = np.maximum(math.log(mu + 1) - np.log(np.arange(1, population + 1)), 0)
    mu_eff = float(raw_L[:mu].sum() ** 2 / np.square(raw_L[:mu]).sum())
    c_one = 2 / ((n + 1.3) ** 2 + mu_eff)
    if separable:
        full = 2 / mu_eff / (n + math.sqrt(2)) ** 2
        full += (1 - 1 / mu_eff) * min(1, (2 * mu_eff - 1) / ((n + 2) ** 2 + mu_eff))
        c_mu = (n + 2) / 3 * full  # Ros and Hansen 2008, equation 5
        c_mean_path, c_path = (mu_eff + 2) / (n + mu_eff + 3), 4 / (n + 4)
        weights_L = raw_L / raw_L.sum()
    else:
        c_mu = min(1 - c_one - 1e-8, 2 * (mu_eff - 2 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff))
        c_mean_path = (mu_eff + 2) / (n + mu_eff + 5)  # 55
        c_path = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)  # 56
        minus = float(raw_L[mu:].sum() ** 2 / np.square(raw_L[mu:]).sum())
        most = min(1 + c_one / c_mu, 1 + 2 * minus / (mu_eff + 2), (1 - c_one - c_mu) / (n * c_mu))  # 50 to 52
        positive, negative = raw_L[raw_L > 0].sum(), -raw_L[raw_L < 0].sum()
        weights_L = np.where(raw_L >= 0, raw_L / positive, raw_L * most / negative)  # 53
    damping = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_mean_path
    expected = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    kept = 1 - c_one - c_mu * float(weights_L.sum())
    return Rates(weights_L, mu, mu_eff, c_mean_path, damping, c_path, c_one, c_mu, expected, kept)


class Strategies:
    """Distributions N(mean, sigma^2 C) of T targets, with C a matrix or its diagonal. Every number is on the host.

    Attributes: `mean_TK`, `sigma_T`, `path_TK` and `step_path_TK` (p_c and p_sigma), `cov` `(T, K, K)` or `(T, K)`, and
    its last decomposition: `axes_TKK` and `length_TK` (the square roots of eigenvalues, or of variances).
    """

    def __init__(self, mean_TK: Floats, sigma: float, separable: bool, stale: float = _STALE) -> None:
        targets, count = mean_TK.shape
        self.count, self.separable, self.sigma, self.stale = count, separable, sigma, stale
        self.mean_TK = mean_TK.astype(np.float64)
        self.sigma_T = np.empty(targets)
        self.path_TK, self.step_path_TK = np.empty((2, targets, count))
        self.cov: Floats = np.empty((targets, count) if separable else (targets, count, count))
        self.axes_TKK = np.empty((0 if separable else targets, count, count))
        self.length_TK = np.empty((targets, count))
        self.generation_T, self.change_T = np.empty(targets, dtype=int), np.empty(targets)
        for target in range(targets):
            self.restart(target, self.mean_TK[target])

    def restart(self, target: int, mean_K: Floats) -> None:
        """Begin anew from this mean, with the first step size and a round distribution."""
        self.mean_TK[target], self.sigma_T[target] = mean_K, self.sigma
        self.path_TK[target] = self.step_path_TK[target] = 0
        self.generation_T[target], self.change_T[target] = 0, 0
        self.length_TK[target] = 1
        self.cov[target] = 1 if self.separable else np.eye(self.count)
        if not self.separable:
            self.axes_TKK[target] = np.eye(self.count)

    def points(self, normal_TLK: Floats | NDArray[np.float32]) -> Floats:
        """Points `(T, L, K)` made of standard normals (equations 38 to 40)."""
        step_TLK = normal_TLK * (self.sigma_T[:, None] * self.length_TK)[:, None]
        if not self.separable:
            step_TLK = step_TLK @ self.axes_TKK.transpose(0, 2, 1)
        return step_TLK + self.mean_TK[:, None]

    def update(self, which: Any, x_GLK: Floats) -> None:
        """Take in one population each of these targets (indices or a slice), best points first."""
        population = x_GLK.shape[1]
        r = rates(population, self.count, self.separable)
        sigma_G, length_GK = self.sigma_T[which], self.length_TK[which]
        # one row more than points: the covariance learns from the path as it does from a point
        rows_GRK = np.empty((len(x_GLK), population + 1, self.count))
        y_GLK = rows_GRK[:, :population]
        np.subtract(x_GLK, self.mean_TK[which][:, None], out=y_GLK)
        y_GLK /= sigma_G[:, None, None]
        mean_y_GK = r.weights_L[: r.mu] @ y_GLK[:, : r.mu]  # 41
        self.mean_TK[which] += sigma_G[:, None] * mean_y_GK  # 42, c_m = 1
        if self.separable:
            white_GK = mean_y_GK / length_GK
        else:
            axes_GKK = self.axes_TKK[which]
            along_GLK = (y_GLK @ axes_GKK) / length_GK[:, None]  # points as they would be of a round distribution
            white_GK = ((r.weights_L[: r.mu] @ along_GLK[:, : r.mu])[:, None] @ axes_GKK.transpose(0, 2, 1))[:, 0]
        c = r.c_mean_path
        self.step_path_TK[which] = path_GK = (1 - c) * self.step_path_TK[which] + (  # 43
            math.sqrt(c * (2 - c) * r.mu_eff) * white_GK
        )
        size_G = np.sqrt(np.einsum("gk,gk->g", path_GK, path_GK))
        self.sigma_T[which] = sigma_G * np.exp(c / r.damping * (size_G / r.expected - 1))  # 44
        self.generation_T[which] += 1
        usual_G = np.sqrt(1 - (1 - c) ** (2 * (self.generation_T[which] + 1)))
        still_G1 = (size_G < (1.4 + 2 / (self.count + 1)) * r.expected * usual_G).astype(float)[:, None]  # h_sigma
        c = r.c_path
        step_GK = (math.sqrt(c * (2 - c) * r.mu_eff) * still_G1) * mean_y_GK
        self.path_TK[which] = path_GK = (1 - c) * self.path_TK[which] + step_GK  # 45
        kept_G1 = r.kept + r.c_one * c * (2 - c) * (1 - still_G1)
        if self.separable:
            best_GLK = y_GLK[:, : r.mu]
            fresh_GK = (r.c_mu * r.weights_L[: r.mu]) @ (best_GLK * best_GLK) + r.c_one * path_GK * path_GK
            self.cov[which] = cov_GK = kept_G1 * self.cov[which] + fresh_GK
            self.length_TK[which] = np.sqrt(np.where(cov_GK < 0, _TINY, cov_GK))
            return
        worst_GLK = along_GLK[:, r.mu :]
        weights_GR = np.empty(rows_GRK.shape[:2])
        weights_GR[:, : r.mu] = r.c_mu * r.weights_L[: r.mu]
        far_GL = np.einsum("glk,glk->gl", worst_GLK, worst_GLK) + _TINY
        weights_GR[:, r.mu : population] = r.c_mu * self.count * r.weights_L[r.mu :] / far_GL  # 46
        rows_GRK[:, population], weights_GR[:, population] = path_GK, r.c_one
        cov_GKK = self.cov[which] * kept_G1[:, None]
        cov_GKK += (rows_GRK * weights_GR[:, :, None]).transpose(0, 2, 1) @ rows_GRK
        self.cov[which] = cov_GKK  # 47
        self.change_T[which] += r.c_one + r.c_mu
        self._decompose()

    def _decompose(self) -> None:
        """Axes and lengths of those covariances that have changed enough since they were last taken."""
        stale_T = self.change_T > self.stale  # only those just updated can be: the others were looked at then
        if not stale_T.any():
            return
        due = np.nonzero(stale_T)[0]
        cov = self.cov[due]
        square_GK, self.axes_TKK[due] = np.linalg.eigh((cov + cov.transpose(0, 2, 1)) / 2)
        self.length_TK[due] = np.sqrt(np.where(square_GK < 0, _TINY, square_GK))
        self.change_T[due] = 0

    def longest(self) -> Floats:
        """The standard deviation along each target's longest axis `(T,)`."""
        return self.sigma_T * self.length_TK.max(1)

    def skewness(self) -> Floats:
        """The longest over the shortest axis `(T,)`."""
        return self.length_TK.max(1) / self.length_TK.min(1)

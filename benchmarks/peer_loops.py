"""How other libraries are called on a decoder's function, each as its own pages show it. What is measured: peers.py."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]

SPAN = 3.0  # the box goes this many standard deviations of the prior to each side
# First steps where a library leaves them to its user: the prior's, which is what Optuna takes in this box (a sixth of its
# width), and that of latentopt's cmaes.
WIDE, NARROW = 1.0, 0.2
MANY, FEW = 2000, 60
SOBOL = 20  # points before BoTorch's first model: one for each latent value


class Match:
    """One target as the function that other libraries take: latents to losses. Counts them, and keeps the least."""

    def __init__(self, net: nn.Module, target: Tensor, dim: int) -> None:
        self.net, self.target, self.dim = net, target, dim
        self.rows, self.least = 0, float("inf")

    def __call__(self, z_ND: Tensor) -> Tensor:
        """Mean squared errors `(N,)` of latents `(N, D)`. What lies outside the box is moved to its border."""
        with torch.no_grad():
            designs = self.net(z_ND.float().clamp(-SPAN, SPAN))
            loss_N = (designs - self.target).square().flatten(1).mean(1)
        self.rows += len(z_ND)
        self.least = min(self.least, float(loss_N.min()))
        return loss_N

    def of_array(self, z_ND: Floats) -> Floats:
        """The same from and to NumPy."""
        return self(torch.from_numpy(np.asarray(z_ND))).double().numpy()


Loop = Callable[[Match, int, int], None]  # a match, evaluations, a seed


def by_optuna(sampler: Callable[[int], Any]) -> Loop:
    """`study.optimize`, one design at a time."""

    def loop(match: Match, evaluations: int, seed: int) -> None:
        def objective(trial: optuna.Trial) -> float:
            z_D = [trial.suggest_float(f"z{i}", -SPAN, SPAN) for i in range(match.dim)]
            return float(match(torch.tensor([z_D]))[0])

        optuna.create_study(sampler=sampler(seed)).optimize(objective, n_trials=evaluations)

    return loop


def by_cmaes(sigma: float) -> Loop:
    """The package on which Optuna's sampler stands: ask for a generation, decode it at once, tell."""

    def loop(match: Match, evaluations: int, seed: int) -> None:
        from cmaes import CMA

        bounds = np.array([[-SPAN, SPAN]] * match.dim)
        strategy = CMA(mean=np.zeros(match.dim), sigma=sigma, bounds=bounds, seed=seed)
        while match.rows + strategy.population_size <= evaluations:
            z_ND = np.stack([strategy.ask() for _ in range(strategy.population_size)])
            strategy.tell(list(zip(z_ND, match.of_array(z_ND).tolist(), strict=True)))

    return loop


def by_evotorch(kind: str, sigma: float) -> Loop:
    """A vectorized problem. Its CMAES takes no bounds, so the function moves what leaves the box to its border."""

    def loop(match: Match, evaluations: int, seed: int) -> None:
        import evotorch
        from evotorch import algorithms

        problem = evotorch.Problem(
            "min", match, solution_length=match.dim, initial_bounds=(-SPAN, SPAN), vectorized=True, seed=seed
        )
        center = torch.zeros(match.dim)
        searcher = getattr(algorithms, kind)(problem, stdev_init=sigma, center_init=center)
        before = 0
        while match.rows + (match.rows - before) <= evaluations:
            before = match.rows
            searcher.step()

    return loop


def by_pyribs(sigma: float) -> Loop:
    """One emitter of CMA-ES, ranked by the loss alone; the archive's measures are the first two latent values."""

    def loop(match: Match, evaluations: int, seed: int) -> None:
        from ribs.archives import GridArchive
        from ribs.emitters import EvolutionStrategyEmitter
        from ribs.schedulers import Scheduler

        archive = GridArchive(solution_dim=match.dim, dims=[20, 20], ranges=[(-SPAN, SPAN)] * 2)
        emitter = EvolutionStrategyEmitter(
            archive,
            x0=[0.0] * match.dim,
            sigma0=sigma,
            ranker="obj",
            selection_rule="mu",
            restart_rule="basic",
            bounds=[(-SPAN, SPAN)] * match.dim,
            seed=seed,
        )
        scheduler = Scheduler(archive, [emitter])
        while match.rows + emitter.batch_size <= evaluations:
            z_ND = scheduler.ask()
            scheduler.tell(-match.of_array(z_ND), z_ND[:, :2])

    return loop


def by_nevergrad(kind: str, batch: int = 12) -> Loop:
    """Ask for as many as there are workers (a population of CMA-ES at 20 values), decode them at once, tell each."""

    def loop(match: Match, evaluations: int, seed: int) -> None:
        import nevergrad as ng

        latent = ng.p.Array(init=np.zeros(match.dim), lower=-SPAN, upper=SPAN)
        latent.random_state.seed(seed)
        optimizer = ng.optimizers.registry[kind](parametrization=latent, budget=evaluations, num_workers=batch)
        while match.rows < evaluations:
            asked = [optimizer.ask() for _ in range(min(batch, evaluations - match.rows))]
            loss_N = match.of_array(np.stack([one.value for one in asked]))
            for one, loss in zip(asked, loss_N.tolist(), strict=True):
                optimizer.tell(one, loss)

    return loop


def by_botorch(match: Match, evaluations: int, seed: int) -> None:
    """A Gaussian process in double precision, then qLogEI, with the settings of its closed-loop tutorial.

    One point at a time: on a first digit four at a time took a quarter of the time, and ended at twice the loss.
    """
    from botorch.acquisition import qLogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Normalize, Standardize
    from botorch.optim import optimize_acqf
    from botorch.sampling import SobolQMCNormalSampler
    from botorch.utils.sampling import draw_sobol_samples
    from gpytorch.mlls import ExactMarginalLogLikelihood

    bounds = torch.tensor([[-SPAN] * match.dim, [SPAN] * match.dim], dtype=torch.double)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        z_ND = draw_sobol_samples(bounds, n=SOBOL, q=1, seed=seed).squeeze(1)
        gain_N1 = -match(z_ND).double()[:, None]
        while match.rows < evaluations:
            scaled = {"input_transform": Normalize(d=match.dim, bounds=bounds), "outcome_transform": Standardize(m=1)}
            model = SingleTaskGP(z_ND, gain_N1, **scaled)
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            sampler = SobolQMCNormalSampler(torch.Size([256]), seed=seed)
            wanted = qLogExpectedImprovement(model, best_f=gain_N1.max(), sampler=sampler)
            settings = {"q": 1, "num_restarts": 10, "raw_samples": 512, "options": {"batch_limit": 5, "maxiter": 200}}
            z_1D, _ = optimize_acqf(wanted, bounds=bounds, **settings)
            z_ND, gain_N1 = torch.cat([z_ND, z_1D]), torch.cat([gain_N1, -match(z_1D).double()[:, None]])


@dataclass(frozen=True)
class Peer:
    """Another library's search: how it is called here, and the package that must be there for it."""

    name: str
    package: str
    loop: Loop
    evaluations: int = MANY

    def installed(self) -> bool:
        """Whether its package can be imported."""
        return importlib.util.find_spec(self.package) is not None

    def run(self, match: Match, evaluations: int, seed: int) -> None:
        """One target, in silence: what these libraries warn of is their own affair."""
        heard = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.loop(match, evaluations, seed)
        finally:
            logging.disable(heard)


PEERS = (
    Peer("Optuna, CmaEsSampler", "optuna", by_optuna(lambda seed: optuna.samplers.CmaEsSampler(seed=seed))),
    Peer(f"cmaes, first step {WIDE:g}", "cmaes", by_cmaes(WIDE)),
    Peer(f"cmaes, first step {NARROW:g}", "cmaes", by_cmaes(NARROW)),
    Peer(f"EvoTorch, CMAES, first step {WIDE:g}", "evotorch", by_evotorch("CMAES", WIDE)),
    Peer(f"EvoTorch, CMAES, first step {NARROW:g}", "evotorch", by_evotorch("CMAES", NARROW)),
    Peer(f"EvoTorch, SNES, first step {WIDE:g}", "evotorch", by_evotorch("SNES", WIDE)),
    Peer(f"pyribs, first step {WIDE:g}", "ribs", by_pyribs(WIDE)),
    Peer(f"pyribs, first step {NARROW:g}", "ribs", by_pyribs(NARROW)),
    Peer("Nevergrad, CMA", "nevergrad", by_nevergrad("CMA")),
    Peer("Nevergrad, NGOpt", "nevergrad", by_nevergrad("NGOpt")),
    Peer("BoTorch, qLogEI", "botorch", by_botorch, FEW),
    Peer("Optuna, GPSampler", "optuna", by_optuna(lambda seed: optuna.samplers.GPSampler(seed=seed)), FEW),
    Peer(f"cmaes, first step {WIDE:g}", "cmaes", by_cmaes(WIDE), FEW),
)

"""Optuna's samplers on latents: one study in memory a target, all their trials decoded as one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from latentopt import (
    AllTargets,
    AskTell,
    AskTellOptimizers,
    ConfigError,
    Coordinates,
    Decoder,
    OneATarget,
    Problem,
    RowNoise,
    Search,
    Told,
    Uniform,
    derive_seed,
    early_rungs,
)
from latentopt_std.optuna_options import check_options, quiet
from latentopt_std.optuna_pruning import PrunerName, Rungs, check_early, check_pruner
from latentopt_std.recording import RecordedSearch
from latentopt_std.subspace import JACOBIAN_ROWS, SubspaceKind, check_subspace, choose, resolve

if TYPE_CHECKING:  # importing Optuna takes a while: only runs that use it pay
    import optuna

SamplerName = Literal["auto", "tpe", "cmaes", "gp", "qmc", "nsgaii", "random"]

_CLASSES: dict[str, str] = {
    "tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "nsgaii": "NSGAIISampler",
    "random": "RandomSampler",
}
# First step of `cmaes` from a start, as a share of the span's whole width: 0.3 standard deviations of the prior. Of 0.033 to
# 0.17 (Optuna's own) the least losses after 200 and 1000 evaluations on digits, from encoded and from screened starts.
_STEP = 0.05
_KNOW_CONSTRAINTS = ("tpe", "gp", "nsgaii")


class OptunaSearch(RecordedSearch):
    """Optuna (Akiba et al. 2019) on at most `coordinates` numbers a target: for objectives without gradients.

    `pruner` gives candidates up early where an objective can tell early (`EarlyReports`): those whose estimate is worse than
    the median's (`median`), or not among the best (`successive_halving`, `hyperband`). They count as evaluations too.

    `sampler_options` and `pruner_options` go to the constructors. A latent with more values than `coordinates` is searched in
    a `subspace`: `auto` takes the principal axes of encoded designs, else the decoder's strongest directions (384 rows),
    else random ones. Each coordinate goes from -`span` to `span` standard deviations of the prior.

    `auto` is `cmaes`, and `tpe` for a front. Of up to 200 evaluations `gp` makes most, at 0.1 s each. For thousands there is
    the search `cmaes`, which needs no subspace and a hundredth of the time.

    Starts are finished trials that `tpe` and `gp` learn from; `cmaes` begins at the best of them, and `nsgaii`, `random`
    and `qmc` do not look at them. `tpe`, `gp` and `nsgaii` treat constraints themselves, the others minimize the loss
    plus their penalty. `evaluations` are rows a target, the starts among them; a last, smaller batch is left out. `batch`
    is by default 1 for `gp`, which loses by deciding on several at once, and 10 for the others, which hardly do.
    """

    kind: Literal["optuna"] = "optuna"
    needs_gradient: ClassVar[bool] = False

    sampler: SamplerName = "auto"
    sampler_options: dict[str, float | int | bool | str] = Field(default_factory=dict)
    pruner: PrunerName = "none"
    pruner_options: dict[str, float | int | bool | str] = Field(default_factory=dict)
    evaluations: int = Field(default=200, ge=1)
    batch: int | None = Field(default=None, ge=1)
    subspace: SubspaceKind = "auto"
    coordinates: int = Field(default=32, ge=1)
    span: float = Field(default=3.0, gt=0)

    @model_validator(mode="after")
    def _options_of_one(self) -> OptunaSearch:
        if self.sampler == "auto" and self.sampler_options:
            raise ValueError(
                f"sampler_options belong to one sampler: name it, one of {', '.join(_CLASSES)}, as in sampler: tpe"
            )
        return self

    def check(self, problem: Problem) -> None:
        if problem.pareto and self.sampler == "cmaes":
            raise ConfigError(
                "optuna's cmaes sampler minimizes one number and a front has several: use nsgaii, tpe, gp, qmc or random"
            )
        if self.pruner != "none":
            check_early(self.pruner, problem)

    def build(self, decoder: Decoder) -> Search:
        if self.sampler != "auto":
            check_sampler(self.sampler, self.sampler_options)
        check_pruner(self.pruner, self.pruner_options)
        check_subspace(self.subspace, self.coordinates, decoder)
        span, chosen = self.span, resolve(self.subspace, self.coordinates, decoder)
        if isinstance(decoder.space.prior, Uniform) and chosen == "identity":
            span = min(span, 3**0.5)  # the box ends there, and beyond it all points are projected onto its surface

        def chart(problem: Problem, seed: int) -> Coordinates:
            return choose(self.subspace, self.coordinates, problem, seed)

        recording = self.recording(f"{decoder.name} {self.sampler}")

        def make(problem: Problem, chart: Coordinates, targets: Sequence[int], rng: RowNoise) -> AskTellOptimizers:
            self.check(problem)
            objectives = len(problem.terms) if problem.pareto else 1
            sampler = self.sampler
            if sampler == "auto":
                sampler = "tpe" if objectives > 1 else "cmaes"

            def study(target: int) -> Study:
                seed = derive_seed(rng.seed_for(0, target), 2)
                given = sampler, self.sampler_options, span, chart.count, seed
                if self.pruner == "none":
                    return Study(*given, objectives)
                return PrunedStudy(*given, rungs=Rungs(self.pruner, self.pruner_options, early_rungs(problem)))

            made = OneATarget([study(target) for target in targets], targets, chart.count)
            return made if recording is None else recording.of(made, problem, rng, targets, span, chart.count)

        rows = JACOBIAN_ROWS if chosen == "jacobian" else 0
        batch = self.batch or (1 if self.sampler == "gp" else 10)
        return AskTell(AllTargets(make), self.evaluations, batch, chart, rows)


def check_sampler(sampler: SamplerName, options: dict[str, Any]) -> None:
    """Raise `ConfigError` for an option that the sampler does not have, or a value that it refuses."""
    import optuna

    cls = getattr(optuna.samplers, _CLASSES[sampler])
    refused = {"seed": "samplers are seeded by the run's own seed"}
    check_options("sampler", sampler, cls, options, lambda: make_sampler(sampler, options, 0), refused)


def make_sampler(
    sampler: SamplerName, options: dict[str, Any], seed: int, begin: dict[str, float] | None = None
) -> optuna.samplers.BaseSampler:
    """A new sampler, which begins at `begin` where it can. Optuna seeds NumPy's old generator, which takes 32 bits."""
    import optuna

    given = {"scramble": True, **options} if sampler == "qmc" else options
    if sampler == "cmaes" and begin is not None:
        given = {"x0": begin, "sigma0": _STEP, **options}
    made: optuna.samplers.BaseSampler = getattr(optuna.samplers, _CLASSES[sampler])(seed=seed % 2**32, **given)
    return made


class Study:
    """One target's study, in memory, on `coordinates` numbers from -span to span, of one objective or several.

    The sampler is made anew at each ask with that ask's seed, so that points are a function of the finished trials
    alone; only the quasi-random one keeps its seed, which names its sequence.
    """

    def __init__(
        self,
        sampler: SamplerName,
        options: dict[str, Any],
        span: float,
        coordinates: int,
        seed: int,
        objectives: int = 1,
    ) -> None:
        import optuna

        self.sampler, self.options, self.span, self.seed = sampler, options, span, seed
        digits = len(str(coordinates - 1))
        names = [f"u{i:0{digits}d}" for i in range(coordinates)]
        self.distributions: dict[str, Any] = {
            name: optuna.distributions.FloatDistribution(-span, span) for name in names
        }
        with quiet():
            directions = [optuna.study.StudyDirection.MINIMIZE] * objectives
            made = make_sampler(sampler, options, seed)
            # the name counts for pruners, which draw lots by it
            self.study = optuna.create_study(directions=directions, sampler=made, study_name=f"seed {seed}")
        self.asked: list[optuna.trial.Trial] = []
        self.begin: dict[str, float] | None = None

    def add(self, told: Told) -> None:
        """The starts as finished trials, at the nearest place within the span.

        `cmaes` passes over trials that it did not ask for, and begins at the best start instead.
        """
        import optuna

        for point, values, violation, failed in self._values(told):
            if failed:
                self.study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
                continue
            place = dict(zip(self.distributions, point.clip(-self.span, self.span).tolist(), strict=True))
            trial = optuna.trial.create_trial(
                values=values,
                params=place,
                distributions=self.distributions,
                constraints=None if violation is None else {"violation": violation},
            )
            self.study.add_trial(trial)
        known = [trial for trial in self.study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
        if self.sampler == "cmaes" and known:
            self.begin = dict(min(known, key=lambda trial: trial.values[0]).params)

    def ask(self, n: int, seed: int) -> NDArray[np.float64]:
        """n points `(n, K)`."""
        with quiet():
            if self.sampler != "qmc":
                self.study.sampler = make_sampler(self.sampler, self.options, seed, self.begin)
            self.asked = [self.study.ask(self.distributions) for _ in range(n)]
        return np.array([[trial.params[name] for name in self.distributions] for trial in self.asked])

    def tell(self, told: Told) -> None:
        """Values of the trials last asked for; those without one are told as pruned, or failed: samplers pass over these."""
        import optuna

        ended = optuna.trial.TrialState
        rows = zip(self.asked, self._values(told), told.pruned_n.tolist(), strict=True)
        with quiet():
            for trial, (_, values, violation, failed), pruned in rows:
                if failed or pruned:
                    self.study.tell(trial, state=ended.FAIL if failed else ended.PRUNED)
                    continue
                if violation is not None:
                    trial.set_constraint("violation", violation)
                self.study.tell(trial, values)
        self.asked = []

    def _values(self, told: Told) -> Iterator[tuple[NDArray[np.float64], list[float], float | None, bool]]:
        """Each point, its values, its violation where the sampler is to treat it, and whether it failed."""
        treats = told.violation_n is not None and self.sampler in _KNOW_CONSTRAINTS
        values_nK = (told.loss_n if treats else told.merit_n)[:, None]
        if told.objectives_nK is not None:
            values_nK = told.objectives_nK
        for i, (point, values) in enumerate(zip(told.points_nK, values_nK.tolist(), strict=True)):
            violation = float(told.violation_n[i]) if treats and told.violation_n is not None else None
            yield point, values, violation, bool(told.failed_n[i])


class PrunedStudy(Study):
    """A study whose pruner sees each rung's merits, and gives up some of the trials last asked for."""

    def __init__(
        self, sampler: SamplerName, options: dict[str, Any], span: float, coordinates: int, seed: int, *, rungs: Rungs
    ) -> None:
        super().__init__(sampler, options, span, coordinates, seed)
        self.rungs = rungs
        self.study.pruner = rungs.make_pruner()

    def prune(self, rung: int, merit_n: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which trials go on `(n,)`: all are reported before the first is judged."""
        alive = [(i, self.asked[i], float(merit_n[i])) for i in np.flatnonzero(np.isfinite(merit_n))]
        keep_n = np.zeros(len(merit_n), dtype=np.bool_)
        with quiet():
            for _, trial, merit in alive:
                trial.report(merit, self.rungs.step(rung))
            for i, trial, _ in alive:
                keep_n[i] = not trial.should_prune()
        return keep_n

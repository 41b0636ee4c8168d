"""Optuna's samplers on latents: one study in memory a target, all their trials decoded as one batch."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    suggest,
)
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
_SIMPLE = ("int", "float", "bool", "str")


class OptunaSearch(RecordedSearch):
    """Optuna (Akiba et al. 2019) on at most `coordinates` numbers a target: for objectives without gradients.

    `sampler_options` go to the sampler's constructor. A latent with more values than `coordinates` is searched in a
    `subspace`: `auto` takes the principal axes of encoded designs, else the decoder's strongest directions (384 rows),
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

    def build(self, decoder: Decoder) -> Search:
        if self.sampler != "auto":
            check_options(self.sampler, self.sampler_options)
        check_subspace(self.subspace, self.coordinates, decoder)
        span, chosen = self.span, resolve(self.subspace, self.coordinates, decoder)
        if isinstance(decoder.space.prior, Uniform) and chosen == "identity":
            span = min(span, 3**0.5)  # the box ends there, and beyond it all points are projected onto its surface

        def chart(problem: Problem, seed: int) -> Coordinates:
            return choose(self.subspace, self.coordinates, problem, seed)

        recording = self.recording(f"{decoder.name} {self.sampler}")

        def make(problem: Problem, chart: Coordinates, targets: Sequence[int], rng: RowNoise) -> AskTellOptimizers:
            objectives = len(problem.terms) if problem.pareto else 1
            sampler = self.sampler
            if sampler == "auto":
                sampler = "tpe" if objectives > 1 else "cmaes"
            if objectives > 1 and sampler == "cmaes":
                raise ConfigError(
                    "optuna's cmaes sampler minimizes one number and a front has several: use nsgaii, tpe, gp, qmc or random"
                )
            seeds = [derive_seed(rng.seed_for(0, target), 2) for target in targets]
            options = self.sampler_options
            studies = [Study(sampler, options, span, chart.count, seed, objectives) for seed in seeds]
            made = OneATarget(studies, targets, chart.count)
            return made if recording is None else recording.of(made, problem, rng, targets, span, chart.count)

        rows = JACOBIAN_ROWS if chosen == "jacobian" else 0
        batch = self.batch or (1 if self.sampler == "gp" else 10)
        return AskTell(AllTargets(make), self.evaluations, batch, chart, rows)


def check_options(sampler: SamplerName, options: dict[str, Any]) -> None:
    """Raise `ConfigError` for an option that the sampler does not have, or a value that it refuses."""
    import optuna

    parameters = inspect.signature(getattr(optuna.samplers, _CLASSES[sampler])).parameters
    known = [name for name, p in parameters.items() if name != "seed" and _is_simple(str(p.annotation))]
    for name in options:
        if name == "seed":
            raise ConfigError("sampler_options takes no 'seed': samplers are seeded by the run's own seed")
        if name not in known:
            raise ConfigError(
                f"optuna's {sampler} sampler has no option {name!r}{suggest(name, known)}; known: {', '.join(known)}"
            )
    try:
        with quiet(deprecated=False):  # said here once, and not at each batch
            make_sampler(sampler, options, 0)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optuna's {sampler} sampler refuses {options}: {error}") from error


def _is_simple(annotation: str) -> bool:
    """Whether an option can be written as a number or word in a file."""
    return all(part.strip() in (*_SIMPLE, "None") for part in annotation.split("|"))


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


@contextmanager
def quiet(deprecated: bool = True) -> Iterator[None]:
    """Without Optuna's log lines and its warnings that a part is experimental (or deprecated); as it was again after."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if deprecated:
                warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


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
            self.study = optuna.create_study(directions=directions, sampler=made)
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
        """Values of the trials last asked for; those without one are told as failed, which samplers pass over."""
        import optuna

        with quiet():
            for trial, (_, values, violation, failed) in zip(self.asked, self._values(told), strict=True):
                if failed:
                    self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
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

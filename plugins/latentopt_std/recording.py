"""Records what a gradient-free search judged as finished trials of an Optuna study, in a database, many at a time.

The search itself never reads them: it keeps its own state in memory. What Optuna's dashboard draws are a handful of
coordinates a trial as the search asked for them (before they are moved onto the region), never the latent.
"""

from __future__ import annotations

import datetime
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentopt import (
    AskTellOptimizers,
    ConfigError,
    LatentoptWarning,
    Outside,
    Problem,
    PruneAll,
    RowNoise,
    SearchConfig,
    Told,
)

if TYPE_CHECKING:  # importing Optuna and SQLAlchemy takes a while: only runs that record pay
    import optuna

Floats = NDArray[np.float64]

SHOWN = 8  # coordinates a trial
SPAN = 5.0  # standard deviations of the prior, beyond which coordinates are shown as this
# Trials written at a time, 0.1 ms each on SQLite; a slow objective's are written at least so often, in seconds.
BATCH, SECONDS = 200, 5.0
# Drivers that SQLAlchemy imports for a URL, and the packages that hold them.
_PACKAGES = {"psycopg2": "psycopg2-binary", "psycopg": "psycopg[binary]", "MySQLdb": "mysqlclient"}


class RecordedSearch(SearchConfig):
    """A search whose judged points can be recorded in a database that `optuna-dashboard` shows.

    `record` is a file (`runs.db`: SQLite) or a database's URL (`postgresql://...`); points are written as finished trials,
    200 at a time, so that a killed run leaves none half written. `study` names the study, to which more runs may add; by
    default each search makes a new one. A run that was received records only where it is trusted.
    """

    record: Outside | None = Field(default=None, min_length=1)
    study: str | None = Field(default=None, min_length=1)

    def recording(self, name: str) -> Recording | None:
        """Where to record, or None. Raises `ConfigError` where the database's driver is not installed."""
        if self.record is None:
            if self.study is not None:
                raise ConfigError(f"study {self.study!r} has no database to be in: give record, for example runs.db")
            return None
        return Recording(storage_url(self.record), self.study, name)


def storage_url(record: str) -> str:
    """The URL of a database, or of a file. Raises `ConfigError` for one that cannot be opened."""
    import sqlalchemy

    if "://" not in record:
        folder = Path(record).expanduser().resolve().parent
        if not folder.is_dir():
            raise ConfigError(f"record {record!r}: there is no folder {folder}; make it, or name another file")
        record = f"sqlite:///{Path(record).expanduser().resolve()}"
    try:
        sqlalchemy.create_engine(record).dispose()
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(str(error.name), error.name)
        raise ConfigError(
            f"record {_hidden(record)!r} needs the package {package!r}: pip install '{package}'"
        ) from error
    except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError) as error:
        raise ConfigError(
            f"record {_hidden(record)!r} is no database's URL ({error}): give one such as postgresql://user@host/name, or a "
            "file such as runs.db"
        ) from error
    return record


def _hidden(url: str) -> str:
    """A URL without its password, for errors."""
    head, at, tail = url.rpartition("@")
    user, colon, _ = head.partition("://")[2].partition(":")
    return f"{head.partition('://')[0]}://{user}{colon and ':***'}{at}{tail}" if at else url


def _problem_of(problem: Problem) -> str:
    """What a study's points are of, in words: points of another problem do not compare."""
    terms = ", ".join(f"{term.name} {term.goal}" for term in (*problem.terms, *problem.constraints))
    return f"{problem.decoder.name}, {problem.space.dim} latent values, {problem.targets} targets: {terms}"


def _why(error: Exception) -> str:
    return str(error.__cause__ or error).splitlines()[0]


class Recording:
    """A study in a database, opened when the search begins."""

    def __init__(self, url: str, study: str | None, name: str) -> None:
        self.url, self.study, self.name = url, study, name

    def of(
        self,
        optimizers: AskTellOptimizers,
        problem: Problem,
        rng: RowNoise,
        targets: Sequence[int],
        span: float,
        coordinates: int,
    ) -> Recorded:
        """These optimizers, recorded. Raises `ConfigError` where the database cannot be written to."""
        import optuna
        import sqlalchemy

        directions = [optuna.study.StudyDirection.MINIMIZE] * (len(problem.terms) if problem.pareto else 1)
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            storage = optuna.storages.RDBStorage(self.url)
            study = optuna.create_study(
                storage=storage,
                study_name=self.study or f"{self.name} {datetime.datetime.now():%Y-%m-%d %H:%M:%S.%f}",
                directions=directions,
                load_if_exists=self.study is not None,
            )
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
            raise ConfigError(f"record {_hidden(self.url)!r} cannot be opened: {_why(error)}") from error
        finally:
            optuna.logging.set_verbosity(level)
        if len(study.directions) != len(directions):
            raise ConfigError(
                f"study {self.study!r} has {len(study.directions)} objectives and this run {len(directions)}: name another"
            )
        what = _problem_of(problem)
        before = study.user_attrs.setdefault("problem", what)
        if before != what:
            raise ConfigError(
                f"study {self.study!r} holds points of another problem ({before}; this is {what}): name another"
            )
        study.set_user_attr("problem", what)
        return Recorded(optimizers, Writer(study, storage), rng, targets, span, coordinates)


class Recorded:
    """Optimizers whose points are written down as they are told."""

    def __init__(
        self,
        optimizers: AskTellOptimizers,
        writer: Writer,
        rng: RowNoise,
        targets: Sequence[int],
        span: float,
        coordinates: int,
    ) -> None:
        import optuna

        self.optimizers, self.writer, self.targets, self.span = optimizers, writer, targets, span
        self.attributes = {"seed": rng.seed, "stage": rng.stage & 0xFFFF}
        self.reports: list[Floats] = []  # of the points last asked for, the merits at each rung
        self.step, self.row = 0, 0  # the first asks, which make up for missing starts, count as a step too
        digits = len(str(coordinates - 1))
        self.names = [f"u{i:0{digits}d}" for i in range(min(SHOWN, coordinates))]
        reach = math.sqrt(coordinates) * span
        self.distributions: dict[str, optuna.distributions.BaseDistribution] = {
            **{name: optuna.distributions.FloatDistribution(-span, span) for name in self.names},
            "radius": optuna.distributions.FloatDistribution(0, reach),
        }

    def add(self, told: Told, counts: Sequence[int]) -> None:
        """The starts, step 0."""
        self.optimizers.add(told, counts)
        self._note(told, counts)

    def ask(self, counts: Sequence[int], seed_for: Callable[[int], int]) -> Floats:
        """The optimizers' own."""
        return self.optimizers.ask(counts, seed_for)

    @property
    def prune(self) -> PruneAll | None:
        """The optimizers' own, overheard; None where they have none."""
        prune: PruneAll | None = getattr(self.optimizers, "prune", None)
        if prune is None:
            return None

        def overheard(rung: int, merit_N: Floats, counts: Sequence[int]) -> NDArray[np.bool_]:
            self.reports.append(merit_N.copy())
            return prune(rung, merit_N, counts)

        return overheard

    def tell(self, told: Told, counts: Sequence[int]) -> None:
        """One step's points."""
        self.optimizers.tell(told, counts)
        self.step += 1
        self._note(told, counts)
        self.reports = []

    def finish(self) -> None:
        """Writes what is left."""
        self.writer.close()

    def saved(self) -> dict[str, Any]:
        """The study that is written to."""
        return {"study": self.writer.study.study_name}

    @contextmanager
    def told_again(self, saved: dict[str, Any]) -> Iterator[None]:
        """Around what is told again of a run that goes on: its study, with what that does not hold yet."""
        with self.writer.held():
            yield
            self.writer.go_on_in(saved["study"], self.attributes)

    def _note(self, told: Told, counts: Sequence[int]) -> None:
        shown_nK = told.points_nK[:, : len(self.names)].clip(-self.span, self.span)
        reach = self.distributions["radius"].high  # type: ignore[attr-defined]
        radius_n = np.sqrt(np.square(told.points_nK).sum(1)).clip(0, reach)
        figures_nK = np.nan_to_num(np.column_stack([shown_nK, radius_n]))
        values_nK = told.loss_n[:, None] if told.objectives_nK is None else told.objectives_nK
        targets_n = np.repeat(self.targets, counts)
        names = list(self.distributions)
        states = zip(told.failed_n.tolist(), told.pruned_n.tolist(), strict=True)
        for i, (figures, values, (failed, pruned)) in enumerate(
            zip(figures_nK.tolist(), values_nK.tolist(), states, strict=True)
        ):
            where = {"row": self.row + i, "target": int(targets_n[i]), "step": self.step, **self.attributes}
            known = not (failed or pruned)
            violation = float(told.violation_n[i]) if told.violation_n is not None and known else None
            reports = {rung: float(merit_N[i]) for rung, merit_N in enumerate(self.reports)}
            self.writer.put(
                dict(zip(names, figures, strict=True)),
                self.distributions,
                values if known else None,
                where,
                violation,
                {rung: merit for rung, merit in reports.items() if math.isfinite(merit)},
                pruned=pruned,
            )
        self.row += len(values_nK)
        self.writer.flush_if_due()


class Writer:
    """Writes finished trials in batches: one transaction each, so that there is none that is not finished."""

    def __init__(self, study: optuna.Study, storage: optuna.storages.RDBStorage) -> None:
        self.study, self.storage = study, storage
        self.waiting: list[optuna.trial.FrozenTrial] = []
        self.holding = False
        self.written, self.failed = time.monotonic(), False

    def put(
        self,
        params: dict[str, Any],
        distributions: dict[str, optuna.distributions.BaseDistribution],
        values: Sequence[float] | None,
        attributes: dict[str, Any],
        violation: float | None,
        reports: dict[int, float] | None = None,
        *,
        pruned: bool = False,
    ) -> None:
        """One finished trial, PRUNED, or FAIL without values. `reports` are its merits by rung; the value of one that was
        pruned is the last, as Optuna does it. Constraints in Optuna's new form and in the one the dashboard reads."""
        import optuna

        state = optuna.trial.TrialState
        if pruned and reports:
            values = [reports[max(reports)]]
        self.waiting.append(
            optuna.trial.create_trial(
                state=state.PRUNED if pruned else state.FAIL if values is None else state.COMPLETE,
                values=values,
                params=params,
                distributions=distributions,
                intermediate_values=reports,
                user_attrs=attributes,
                system_attrs=None if violation is None else {"constraints": [violation]},
                constraints=None if violation is None else {"violation": violation},
            )
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, nothing is written."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False

    def go_on_in(self, name: str, whose: dict[str, Any]) -> None:
        """Write to this study from now on, but for those waiting that it has: `whose` attributes tell a run's own trials.

        A study that was made for this writer and is empty is taken away again.
        """
        import optuna

        if name == self.study.study_name:
            old = self.study
        else:
            old = optuna.load_study(study_name=name, storage=self.storage)
            optuna.delete_study(study_name=self.study.study_name, storage=self.storage)
        there = {
            trial.user_attrs["row"]
            for trial in old.get_trials(deepcopy=False)
            if all(trial.user_attrs.get(key) == value for key, value in whose.items())
        }
        self.study = old
        self.waiting = [trial for trial in self.waiting if trial.user_attrs["row"] not in there]

    def flush_if_due(self) -> None:
        """Write when there is a batch of them, or when the last time is long ago."""
        if self.holding:
            return
        if len(self.waiting) >= BATCH or (self.waiting and time.monotonic() - self.written > SECONDS):
            self.flush()

    def flush(self) -> None:
        """Write all that are waiting."""
        import sqlalchemy

        trials, self.waiting = self.waiting, []
        self.written = time.monotonic()
        try:
            if trials:
                write_trials(self.study, self.storage, trials)
        except sqlalchemy.exc.SQLAlchemyError as error:  # the search goes on; the next batch takes these along
            self.waiting = trials + self.waiting
            if not self.failed:
                warnings.warn(f"points were not recorded: {_why(error)}", LatentoptWarning, stacklevel=2)
            self.failed = True

    def close(self) -> None:
        """Write all that are waiting and let go of the database."""
        self.flush()
        if self.waiting:
            warnings.warn(f"{len(self.waiting)} points were never recorded", LatentoptWarning, stacklevel=2)
        self.storage.remove_session()
        self.storage.engine.dispose()


def write_trials(
    study: optuna.Study, storage: optuna.storages.RDBStorage, trials: Sequence[optuna.trial.FrozenTrial]
) -> None:
    """What `study.add_trials(trials)` does, in one transaction: 0.1 ms a trial instead of 9 on SQLite.

    Optuna looks each parameter up again and commits once a trial. A test compares what either leaves behind. Databases
    that do not hand back the numbers of many new rows (MySQL) take Optuna's own way.
    """
    import sqlalchemy
    from optuna.storages._rdb import models

    engine = storage.engine
    if not engine.dialect.insert_executemany_returning_sort_by_parameter_order:
        study.add_trials(trials)
        return
    trial_table = models.TrialModel.__table__
    with engine.begin() as connection:
        # a write to the study's own row first: Optuna locks the same row while it numbers a trial
        studies, mine = models.StudyModel.__table__, models.StudyModel.study_id == study._study_id
        connection.execute(sqlalchemy.update(studies).where(mine).values(study_name=study.study_name))
        counted = sqlalchemy.select(sqlalchemy.func.count()).where(trial_table.c.study_id == study._study_id)
        number = connection.execute(counted).scalar_one()
        rows = [
            {
                "study_id": study._study_id,
                "number": number + i,
                "state": one.state,
                "datetime_start": one.datetime_start,
                "datetime_complete": one.datetime_complete,
            }
            for i, one in enumerate(trials)
        ]
        inserted = sqlalchemy.insert(trial_table).returning(trial_table.c.trial_id, sort_by_parameter_order=True)
        ids = [int(one[0]) for one in connection.execute(inserted, rows)]
        for table, parts in _details(trials, ids).items():
            if parts:
                connection.execute(sqlalchemy.insert(table), parts)


def _details(trials: Sequence[optuna.trial.FrozenTrial], ids: Sequence[int]) -> dict[Any, list[dict[str, Any]]]:
    """The rows that belong to trials, by table."""
    import optuna
    from optuna.storages._rdb import models

    spelled: dict[int, str] = {}

    def words(distribution: optuna.distributions.BaseDistribution) -> str:
        key = id(distribution)
        if key not in spelled:
            spelled[key] = optuna.distributions.distribution_to_json(distribution)
        return spelled[key]

    values: list[dict[str, Any]] = []
    params: list[dict[str, Any]] = []
    user: list[dict[str, Any]] = []
    system: list[dict[str, Any]] = []
    reports: list[dict[str, Any]] = []
    for one, trial_id in zip(trials, ids, strict=True):
        for objective, value in enumerate(one.values or ()):
            stored, kind = models.TrialValueModel.value_to_stored_repr(value)
            values.append({"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind})
        for step, value in one.intermediate_values.items():
            kept, what = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
            row = {"trial_id": trial_id, "step": step, "intermediate_value": kept, "intermediate_value_type": what}
            reports.append(row)
        for name, value in one.params.items():
            distribution = one.distributions[name]
            params.append(
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(value),
                    "distribution_json": words(distribution),
                }
            )
        for rows, attributes in ((user, one.user_attrs), (system, one.system_attrs)):
            rows += [{"trial_id": trial_id, "key": k, "value_json": json.dumps(v)} for k, v in attributes.items()]
    return {
        models.TrialValueModel.__table__: values,
        models.TrialIntermediateValueModel.__table__: reports,
        models.TrialParamModel.__table__: params,
        models.TrialUserAttributeModel.__table__: user,
        models.TrialSystemAttributeModel.__table__: system,
    }

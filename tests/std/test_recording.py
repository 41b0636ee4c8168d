"""Recording: finished trials in a database, in batches; what the dashboard reads; failures, doors, interrupts."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial

import latentopt as lo
from latentopt.testing import toy_decoders
from latentopt_std import CMAES, OptunaSearch, RandomSearch
from latentopt_std.recording import Recording, Writer, storage_url, write_trials

SEARCHES = [
    CMAES(evaluations=60, population=6),
    OptunaSearch(sampler="random", evaluations=60, batch=6),
    RandomSearch(evaluations=60, batch=6),
]


@pytest.fixture(autouse=True)
def quiet_optuna():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(optuna.logging.INFO)


def read(path, study=None):
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    found = optuna.load_study(study_name=study or names[0], storage=storage)
    trials = found.trials
    storage.remove_session()
    storage.engine.dispose()
    return found, trials, names


def run(path, search, *, objectives=None, **options):
    decoder = toy_decoders()["image"]
    target = None if objectives else decoder.decode(decoder.space.draw(2, torch.Generator().manual_seed(3)))
    search = search.model_copy(update={"record": str(path)})
    return lo.optimize(decoder, target=target, objectives=objectives, starts={"kind": "prior", "n": 2},
                       search=search, seed=5, **options)  # fmt: skip


@pytest.mark.parametrize("search", SEARCHES, ids=lambda one: one.kind)
def test_every_judged_point_is_a_finished_trial(tmp_path, search):
    found = run(tmp_path / "runs.db", search)
    study, trials, _ = read(tmp_path / "runs.db")
    assert study.study_name.startswith("image ")
    assert len(trials) == 120
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert [trial.number for trial in trials] == list(range(120))
    assert [trial.user_attrs["row"] for trial in trials] == list(range(120))
    assert {trial.user_attrs["target"] for trial in trials} == {0, 1}
    assert {trial.user_attrs["stage"] for trial in trials} == {0}
    assert {trial.user_attrs["seed"] for trial in trials} == {5}
    assert [trial.user_attrs["step"] for trial in trials] == sorted(trial.user_attrs["step"] for trial in trials)
    assert set(trials[0].params) == {"u0", "u1", "u2", "u3", "radius"}
    for target in (0, 1):
        best = min(trial.value for trial in trials if trial.user_attrs["target"] == target)
        assert best == pytest.approx(float(found.best.loss[target]), rel=1e-4)


def test_recording_changes_nothing_in_the_search(tmp_path):
    decoder, search = toy_decoders()["image"], SEARCHES[0]
    target = decoder.decode(decoder.space.draw(2, torch.Generator().manual_seed(3)))
    plain = lo.optimize(decoder, target=target, starts={"kind": "prior", "n": 2}, search=search, seed=5)
    assert torch.equal(plain.latents, run(tmp_path / "runs.db", search).latents)


def test_a_long_latent_is_a_handful_of_numbers(tmp_path):
    decoder = toy_decoders()["volume"]
    search = CMAES(evaluations=40, record=str(tmp_path / "runs.db"))
    lo.optimize(decoder, objectives=lambda c: c.designs.flatten(1).mean(1), search=search, starts="mean")
    _, trials, _ = read(tmp_path / "runs.db")
    assert set(trials[-1].params) == {*(f"u00{i}" for i in range(8)), "radius"}
    assert 0 < trials[-1].params["radius"] < 16 * 5
    longest = max(len(json.dumps(part)) for trial in trials for part in (trial.params, trial.system_attrs))
    assert longest < 400


def test_bulk_writing_leaves_what_optuna_itself_leaves(tmp_path):
    """The tables, row by row: the guard of writing without Optuna's own loop."""
    uniform = {"u0": optuna.distributions.FloatDistribution(-1, 1), "n": optuna.distributions.IntDistribution(0, 3)}
    when = __import__("datetime").datetime(2026, 1, 2, 3, 4, 5, 6)

    def trials():
        made = [
            create_trial(
                state=TrialState.COMPLETE,
                values=[0.5, 2.0],
                params={"u0": 0.25, "n": 2},
                distributions=uniform,
                user_attrs={"row": 3, "target": 1},
                system_attrs={"constraints": [0.5]},
                constraints={"violation": 0.5},
            ),
            create_trial(state=TrialState.FAIL, params={"u0": 1.0}, distributions={"u0": uniform["u0"]}),
        ]
        for one in made:
            one.datetime_start = one.datetime_complete = when
        return made

    def dump(name, write):
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / name}")
        study = optuna.create_study(storage=storage, study_name="s", directions=["minimize", "minimize"])
        write(study, storage, trials())
        write(study, storage, trials())
        storage.remove_session()
        storage.engine.dispose()
        with sqlite3.connect(tmp_path / name) as connection:
            tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
            keys = {"version_info", "alembic_version"}
            found = {t: sorted(connection.execute(f"select * from {t}").fetchall()) for t in tables if t not in keys}
        connection.close()
        # the numbers of rows in the tables of details follow the order of writing, which is free
        return {
            t: sorted(map(repr, (row[1:] for row in rows) if t.startswith("trial_") else rows))
            for t, rows in found.items()
        }

    ours = dump("bulk.db", write_trials)
    assert ours == dump("own.db", lambda study, storage, made: study.add_trials(made))
    assert len(ours["trials"]) == 4
    assert len(ours["trial_values"]) == 4


def test_a_database_that_does_not_number_new_rows_takes_optunas_own_way(tmp_path, monkeypatch):
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'runs.db'}")
    study = optuna.create_study(storage=storage)
    monkeypatch.setattr(storage.engine.dialect, "insert_executemany_returning_sort_by_parameter_order", False)
    calls = []
    monkeypatch.setattr(study, "add_trials", calls.append)
    write_trials(study, storage, [create_trial(value=1.0)])
    assert len(calls) == 1
    storage.remove_session()
    storage.engine.dispose()


def test_rows_that_failed_are_failed_trials(tmp_path):
    def loss(c):
        bad = torch.where(c.latents[:, 1] > 0, torch.inf, torch.nan)
        return torch.where(c.latents[:, 0] > 0.3, bad, c.designs.flatten(1).mean(1))

    run(tmp_path / "runs.db", SEARCHES[1], objectives=loss)
    _, trials, _ = read(tmp_path / "runs.db")
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert 0 < len(failed) < len(trials)
    assert all(trial.params["u0"] > 0.3 and trial.value is None for trial in failed)
    assert all(np.isfinite(trial.value) for trial in trials if trial.state == TrialState.COMPLETE)


def test_constraints_are_there_in_both_forms_and_the_dashboard_shows_them(tmp_path):
    serializer = pytest.importorskip("optuna_dashboard._serializer")
    constraint = {"kind": "property", "function": lambda x: x.flatten(1).mean(1), "goal": {"at_most": 0.5}}
    run(tmp_path / "runs.db", SEARCHES[2], constraints=[constraint])
    study, trials, _ = read(tmp_path / "runs.db")
    broken = [trial for trial in trials if trial.constraints["violation"] > 0]
    assert 0 < len(broken) < len(trials)
    for trial in trials:
        assert trial.system_attrs["constraints"] == [trial.constraints["violation"]]
        shown = serializer.serialize_frozen_trial(study._study_id, trial, {})
        assert shown["constraints"] == [trial.constraints["violation"]]
        assert shown["state"] == "Complete"


def test_a_front_is_recorded_with_all_its_objectives(tmp_path):
    objectives = [lambda c: c.designs.flatten(1).mean(1), lambda c: c.latents.square().sum(1)]
    run(tmp_path / "runs.db", SEARCHES[1], objectives=objectives, pareto=True, region="free")
    study, trials, _ = read(tmp_path / "runs.db")
    assert len(study.directions) == 2
    radius = [trial.params["radius"] ** 2 for trial in trials]
    assert [trial.values[1] for trial in trials] == pytest.approx(radius, rel=1e-3)


def test_a_named_study_takes_more_runs_and_refuses_other_objectives(tmp_path):
    named = SEARCHES[2].model_copy(update={"study": "mine"})
    run(tmp_path / "runs.db", named)
    run(tmp_path / "runs.db", named)
    run(tmp_path / "runs.db", SEARCHES[2])
    _, trials, names = read(tmp_path / "runs.db", "mine")
    assert len(trials) == 240
    assert len(names) == 2
    two = [lambda c: c.designs.flatten(1).mean(1), lambda c: c.latents.square().sum(1)]
    with pytest.raises(lo.ConfigError, match="study 'mine' has 1 objectives and this run 2: name another"):
        run(tmp_path / "runs.db", named, objectives=two, pareto=True)


def test_an_interrupt_writes_what_was_judged(tmp_path):
    calls = []

    def loss(c):
        calls.append(len(c.latents))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return c.designs.flatten(1).mean(1)

    found = run(tmp_path / "runs.db", SEARCHES[1], objectives=loss)
    assert found.stopped == "interrupted"
    _, trials, _ = read(tmp_path / "runs.db")
    assert 0 < len(trials) < 60
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def written(path):
    """Trials in a database that another process may be making: looked at without Optuna, which would make its tables too."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute("select count(*) from trials").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def test_a_killed_run_leaves_nothing_running(tmp_path):
    code = f"""
import latentopt as lo, latentopt_std.recording as r
from latentopt.testing import toy_decoders
r.BATCH = 12
s = lo.optimize(toy_decoders()["vector"], objectives=lambda c: c.designs.sum(1), starts="mean",
    search={{"kind": "random", "evaluations": 10**7, "batch": 6, "record": {str(tmp_path / "runs.db")!r}}})
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        for _ in range(600):
            time.sleep(0.1)
            if written(tmp_path / "runs.db") > 30:
                break
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, trials, _ = read(tmp_path / "runs.db")
    assert len(trials) > 30
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def test_trials_wait_for_a_batch_or_a_while(tmp_path, monkeypatch):
    recording = Recording(storage_url(str(tmp_path / "runs.db")), None, "name")
    storage = optuna.storages.RDBStorage(recording.url)
    writer = Writer(optuna.create_study(storage=storage), storage)
    written = []
    monkeypatch.setattr("latentopt_std.recording.write_trials", lambda s, t, trials: written.append(len(trials)))
    for _ in range(450):
        writer.put({}, {}, [1.0], {}, None)
        writer.flush_if_due()
    assert written == [200, 200]
    writer.written -= 10
    writer.flush_if_due()
    writer.close()
    assert written == [200, 200, 50]


def test_a_database_that_fails_costs_no_run(tmp_path, monkeypatch):
    import sqlalchemy

    def refuse(study, storage, trials):
        raise sqlalchemy.exc.OperationalError("insert", {}, Exception("disk is full"))

    monkeypatch.setattr("latentopt_std.recording.write_trials", refuse)
    with pytest.warns(lo.LatentoptWarning) as seen:
        found = run(tmp_path / "runs.db", SEARCHES[2])
    assert len(found.losses) > 0
    words = [str(one.message) for one in seen]
    assert any("points were not recorded" in one and "disk is full" in one for one in words)
    assert any("120 points were never recorded" in one for one in words)


# ---------------------------------------------------------------------- the door


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("nowhere/runs.db", "record 'nowhere/runs.db': there is no folder .*nowhere; make it, or name another file"),
        (
            "postgresql+psycopg2://me:secret@host/db",
            r"postgresql\+psycopg2://me:\*\*\*@host/db' needs the package 'psycopg2-binary': pip install",
        ),
        ("postgresql://host/db", r"needs the package 'psycopg(\[binary\]|2-binary)'"),
        ("thing://host/db", "record 'thing://host/db' is no database's URL .*: give one such as postgresql"),
    ],
)
def test_a_database_that_cannot_be_is_refused_when_built(record, message):
    with pytest.raises(lo.ConfigError, match=message):
        CMAES(record=record).build(toy_decoders()["vector"])


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "runs.db").write_text("not a database, but long enough to be read as one" * 50)
    with pytest.raises(lo.ConfigError, match="runs.db' cannot be opened: .*not a database"):
        run(tmp_path / "runs.db", SEARCHES[2])


def test_a_study_without_a_database_is_refused():
    with pytest.raises(lo.ConfigError, match="study 'mine' has no database to be in: give record"):
        CMAES(study="mine").build(toy_decoders()["vector"])


def test_a_study_of_another_problem_is_refused(tmp_path):
    record = {"record": str(tmp_path / "runs.db"), "study": "mine"}
    decoders = toy_decoders()
    for _ in range(2):  # a second run of the same problem adds to it
        lo.optimize(decoders["vector"], objectives=["prior"], search=CMAES(evaluations=20, **record))
    with pytest.raises(lo.ConfigError, match="study 'mine' holds points of another problem .*: name another"):
        lo.optimize(decoders["image"], objectives=["prior"], search=CMAES(evaluations=20, **record))

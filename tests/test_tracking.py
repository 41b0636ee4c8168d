"""Tracking: what is drawn of a report, where it goes, and what the places hold afterwards."""

import json
import os
import subprocess
import sys

import pytest
import torch

import latentopt as lo
from latentopt import tracking
from latentopt.budget import Budget, Clock, Report
from latentopt.driver import drive
from latentopt.goals import Bound
from latentopt.problem import Problem
from latentopt.stagerun import Stage
from latentopt.terms import Term
from latentopt.testing import toy_decoders
from latentopt_std import Adam


def report(step=0, best=(0.5,), percentiles=(80.0,), **more):
    fields = {"stage": 0, "name": "adam", "step": step, "n_steps": 10, "forward_rows": 4 * step + 4,
              "backward_rows": step, "seconds": 1.0 + step, "best_T": best, "median": 0.75, "alive": 3,
              "rows_N": (0.5,) * 4, "percentile_T": percentiles}  # fmt: skip
    return Report(**{**fields, **more})


def search(on_report, **more):
    decoder = lo.load_decoder("digits")
    search = {"kind": "adam", "steps": 4}
    return lo.optimize(
        decoder, target=lo.examples.digits()[:2], starts="mean", search=search, on_report=on_report, **more
    )


# ---------------------------------------------------------------------- figures


def test_figures_are_finite_and_named_alike_for_every_place():
    one = tracking.figures(report(2))
    assert one == {
        "loss/best": 0.5, "loss/median": 0.75, "realism/radius_percentile": 80.0, "rows/alive": 3, "rows/lost": 1,
        "rows/forward": 12, "rows/backward": 2, "run/seconds": 3.0, "run/stage": 1,
    }  # fmt: skip
    two = tracking.figures(report(best=(0.5, float("inf")), percentiles=(80.0, 99.0)))
    assert (two["loss/target_0"], two["realism/radius_percentile"]) == (0.5, 99.0)
    assert not {"loss/target_1", "loss/best_worst_target"} & set(two), "JSON and stores know no infinity"
    lost = tracking.figures(report(best=(float("inf"),), percentiles=(float("nan"),)))
    assert not {"loss/best", "realism/radius_percentile"} & set(lost)
    assert len(tracking.figures(report(best=(0.1,) * 100, percentiles=()))) == 9 + 16


def test_terms_are_drawn_by_their_names_in_letters_that_every_place_takes():
    one = tracking.figures(
        report(terms={"mse": (0.5,), "ink < 0.2/x": (0.1,), "ink > 0.2/x": (float("nan"),), "..": (2.0,)})
    )
    assert {name: value for name, value in one.items() if name.startswith("terms/")} == {
        "terms/mse": 0.5, "terms/ink _ 0_2_x": 0.1, "terms/__": 2.0,
    }  # fmt: skip
    twice = tracking.figures(report(terms={"a.b": (1.0,), "a/b": (2.0,), "x" * 300: (3.0,)}))
    assert [name for name in twice if name.startswith("terms/")] == ["terms/a_b", "terms/a_b_2", "terms/" + "x" * 100]
    many = tracking.figures(report(best=(0.1,) * 100, terms={"mse": (0.5,) * 100, "ink": (0.1,) * 100}))
    assert [name for name in many if name.startswith("terms/ink")] == [f"terms/ink/target_{t}" for t in range(8)]


def test_mlflow_gets_its_figures_in_few_calls_and_all_of_them(monkeypatch, tmp_path):
    """Without MLflow itself: what it is told, call by call, at given times."""
    calls, now = [], [100.0]

    class Client:
        def log_batch(self, run_id, metrics=(), params=()):
            calls.append([(one[0], one[3]) for one in metrics])

        def set_tag(self, *_):
            pass

        def set_terminated(self, run_id, status):
            calls.append(status)

    track = object.__new__(tracking._MLflow)
    tracking.Tracker.__init__(track)
    track._waiting, track._sent, track.client, track.run_id = [], -float("inf"), Client(), "1"
    entities = type(sys)("mlflow.entities")
    entities.Metric = lambda *figures: figures
    monkeypatch.setitem(sys.modules, "mlflow", type(sys)("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now[0])
    for step, at in enumerate((100.0, 100.5, 101.9, 102.1, 103.0)):
        now[0] = at
        track(report(step))
    track.finish(None)
    steps = [sorted({rows for _, rows in call}) for call in calls[:-1]]
    assert steps == [[4], [9, 14, 19], [24]], "at once, after two seconds, and what is left at the end"
    assert all(len(call) == 9 * len(rows) for call, rows in zip(calls[:-1], steps, strict=True))
    assert calls[-1] == "FAILED"
    monkeypatch.setattr(tracking, "_BATCH", 10)
    track._open, calls[:] = True, []
    for step in range(3):
        track(report(step))
    track.finish(None)
    assert [len(call) for call in calls[:-1]] == [10, 10, 7], "no call is larger than a store takes"


class Kept(tracking.Tracker):
    name = "a list"

    def __init__(self, fails=False):
        super().__init__()
        self.fails, self.rows, self.closed = fails, [], []

    def _log(self, values, rows):
        if self.fails:
            raise OSError("the disk is full")
        self.rows.append((rows, values["loss/best"]))

    def _close(self, result):
        self.closed.append(result)


def test_a_tracker_sees_every_report_and_the_result_once():
    with Kept() as kept:
        found = search(kept)
        kept.finish(found)
    assert kept.closed == [found], "leaving the block closes nothing twice"
    assert [rows for rows, _ in kept.rows] == [r["forward_rows"] + r["backward_rows"] for r in found.history]
    assert kept.rows[-1][1] == pytest.approx(float(found.best.loss.min()))
    kept(report())
    assert len(kept.rows) == len(found.history), "a closed tracker takes nothing more"


def test_a_tracker_that_fails_says_so_once_and_the_run_goes_on():
    with pytest.warns(
        lo.LatentoptWarning, match="tracking by a list stopped, the run goes on: OSError: the disk is full"
    ) as seen:
        found = search(Kept(fails=True))
    assert len(seen) == 1
    assert found.stopped == "finished"


def test_several_at_once_and_plain_callables_among_them():
    one, two, seen = Kept(), Kept(), []
    with tracking.all_of(None, one, seen.append, two) as all_of:
        found = search(all_of)
        all_of.finish(found)
    assert one.rows == two.rows
    assert len(seen) == len(one.rows)
    assert one.closed == two.closed == [found]
    with pytest.raises(ZeroDivisionError), tracking.all_of(failed := Kept()):
        raise ZeroDivisionError
    assert failed.closed == [None]


# ---------------------------------------------------------------------- at the door


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "tensorbord=x",
            "no tracking by 'tensorbord': known are tensorboard, mlflow, wandb; did you mean 'tensorboard'?",
        ),
        ("tensorboard", "where should tensorboard keep the run\\? Give --track tensorboard=FOLDER"),
        ("wandb=", "where should wandb keep the run"),
    ],
)
def test_a_place_that_is_not_known(text, words):
    with pytest.raises(lo.ConfigError, match=words):
        tracking.by_name(text)


@pytest.mark.parametrize(
    ("kind", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow"), ("wandb", "wandb")]
)
def test_a_missing_extra_is_named(kind, module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(lo.ConfigError, match=f"needs extra: pip install 'latentopt\\[{kind}\\]'"):
        tracking.by_name(f"{kind}={tmp_path / 'x'}")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow", "wandb"])
def test_a_place_that_cannot_be_written(kind, tmp_path):
    pytest.importorskip({"tensorboard": "tensorboard"}.get(kind, kind))
    (tmp_path / "file").write_text("")
    with pytest.raises(lo.InputFileError, match="cannot write .*file"):
        tracking.by_name(f"{kind}={tmp_path / 'file' / 'x'}")


# ---------------------------------------------------------------------- what was written, read back


def test_tensorboard_files_hold_the_curves(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracking.tensorboard(tmp_path, "one") as track:
        found = search(track)
        track.finish(found)
    held = EventAccumulator(str(tmp_path / "one"))
    held.Reload()
    curve = held.Scalars("loss/target_1")
    assert [event.step for event in curve] == [r["forward_rows"] + r["backward_rows"] for r in found.history]
    assert [event.value for event in curve] == pytest.approx([r["best_T"][1] for r in found.history])
    text = held.Tensors("run/config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text.strip("`").removeprefix("json"))["task"]["kind"] == "optimize"
    assert b"best loss" in held.Tensors("run/result/text_summary")[0].tensor_proto.string_val[0]


def test_tensorboard_runs_have_folders_of_their_own(tmp_path):
    pytest.importorskip("tensorboard")
    places = []
    for _ in range(3):
        with tracking.tensorboard(tmp_path) as track:
            track(report())
        places.append(track.folder)
    assert len(set(places)) == 3
    assert all(any(place.iterdir()) for place in places)


def test_mlflow_keeps_runs_in_a_database_in_the_folder(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    with tracking.mlflow(tmp_path / "ml", "digits", "first") as track:
        found = search(track)
        track.finish(found)
    with tracking.mlflow(f"sqlite:///{tmp_path / 'ml' / 'mlflow.db'}", "digits") as failed:
        failed(report())
    assert [path.name for path in tmp_path.iterdir()] == ["ml"], "nothing beside the folder"
    run = track.client.get_run(track.run_id)
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert track.client.get_run(failed.run_id).info.status == "FAILED"
    assert run.info.experiment_id == track.client.get_run(failed.run_id).info.experiment_id
    curve = track.client.get_metric_history(track.run_id, "loss/best")
    assert [m.step for m in curve] == [r["forward_rows"] + r["backward_rows"] for r in found.history]
    assert curve[-1].value == pytest.approx(float(found.best.loss.min()))
    terms = track.client.get_metric_history(track.run_id, "terms/mse/target_0")
    assert [m.value for m in terms] == pytest.approx([r["terms"]["mse"][0] for r in found.history])
    assert run.data.params["task.search.0.kind"] == "adam"
    assert "best loss" in run.data.tags["result"]
    with pytest.raises(lo.ConfigError, match="MLflow cannot be used at nowhere://x: "):
        tracking.mlflow("nowhere://x")


def test_wandb_is_offline_by_itself(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "own"))
    code = """
import sys, warnings
from latentopt import tracking
from tests.test_tracking import search
with tracking.wandb("digits", sys.argv[1]) as track:
    track.finish(search(track))
    print(track.run.settings.mode)
"""
    place = tmp_path / "w"
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)], capture_output=True, text=True, cwd=lo.__path__[0] + "/.."
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["offline"]
    (run,) = place.glob("wandb/offline-run-*/*.wandb")
    held = run.read_bytes()
    assert b"loss/target_1" in held
    assert b"best loss" in held
    assert b"adam" in held


def test_nothing_but_the_settings_of_these_libraries_is_changed():
    code = (
        "import sys, os; before = dict(os.environ); from latentopt import tracking; "
        "print(sorted({'tensorboard', 'mlflow', 'wandb'} & set(sys.modules)), dict(os.environ) == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "[] True", "nothing happens on import"


# ---------------------------------------------------------------------- reports


def test_reports_say_how_far_out_the_best_rows_lie_and_hand_over_their_latents():
    seen = []
    found = search(seen.append)
    last = seen[-1]
    assert last.percentile_T == pytest.approx(found.best.realism.radius_percentile.tolist(), abs=1e-3)
    assert torch.equal(last.best_latents, found.best.latent.flatten(1))
    assert all(report.best_latents.shape == (2, 20) for report in seen)
    assert "best_z_TD" not in vars(last), "records hold plain numbers only"
    again = Report(**json.loads(json.dumps(vars(last))))
    assert again.best_latents is None
    assert (again.best_T[0], again.rows) == (last.best_T[0], last.rows)
    assert all(r["percentile_T"] == one.percentile_T for r, one in zip(found.history, seen, strict=True))


def test_a_lost_target_has_no_percentile_and_feasible_rows_come_first():
    def loss(c):
        return torch.where(c.target_index == 1, torch.nan, c.latents[:, 0])

    decoder = toy_decoders()["vector"]
    least = Term("least", lambda c: c.latents[:, 0], Bound(at_least=0.9))
    problem = Problem(decoder, [Term("loss", loss)], constraints=[least], targets=2)
    z_ND, seen = torch.tensor([[3.0, 0, 0], [0.1, 0, 0], [1.0, 0, 0], [1.0, 0, 0]]), []
    stage = Stage("adam", Adam(lr=1e-9, steps=2).build(decoder))
    clock = Clock(problem, Budget())
    drive(problem, z_ND, torch.tensor([0, 0, 0, 1]), [stage], clock=clock, seed=0, on_report=seen.append)
    first = seen[0]
    assert first.best_T == (1.0, float("inf"))
    assert first.best_latents[0].tolist() == [1.0, 0.0, 0.0], "0.1 has the lower loss, but breaks the constraint"
    radius = decoder.space.prior.radius(torch.tensor([[1.0, 0, 0]]))
    assert first.percentile_T[0] == pytest.approx(float(decoder.space.prior.radius_percentile(radius, 3)))
    assert first.percentile_T[1] != first.percentile_T[1]

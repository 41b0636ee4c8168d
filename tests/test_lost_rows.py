"""Rows that turn NaN: the others never notice; where all do, the run fails in words; nothing infinite is ever shown."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import latentopt as lo
from latentopt import cli, pictures, rng, runfolder
from latentopt.testing import ToyImages, toy_decoders

STEPS, STEP, ROW = 20, 5, 2


class Spoilt(nn.Module):
    """A network with a batch norm, one of whose rows turns NaN from a step on: in its designs, or in their gradient alone."""

    def __init__(self, where):
        super().__init__()
        self.net, self.norm = ToyImages(4, (1, 8, 8)), nn.BatchNorm2d(1)
        self.where, self.calls, self.from_call = where, 0, None

    def forward(self, z):
        x = self.norm(self.net(z))
        self.calls += 1
        if self.from_call is None or self.calls < self.from_call or len(z) <= ROW:
            return x
        row = torch.zeros(len(z), 1, 1, 1)
        row[ROW] = 1
        if self.where == "designs":
            return torch.where(row > 0, torch.nan, x)
        if self.where == "gradient":
            return x + row * NanGradient.apply(x)
        return x


class NanGradient(torch.autograd.Function):
    """Nothing, with a gradient that is NaN."""

    @staticmethod
    def forward(ctx, x):
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, gradient):
        return torch.where(gradient == 0, 0.0, torch.nan)


def searched(where, kind, broken):
    """The result of a short search, and the history of how many rows were alive."""
    module = Spoilt(where)
    decoder = lo.Decoder(module, 4, prior="normal", name="spoilt")
    target = decoder.decode(decoder.space.draw(1, rng.generator(3)))
    extra = {"temperature": 1e-3} if kind == "langevin" else {}

    def from_now(report):
        if report.step == STEP and broken:
            module.from_call = module.calls + 1
        elif report.step == STEPS:  # the final decode is not of the search
            module.from_call = None

    def loss(c):
        value = (c.designs - target).flatten(1).square().mean(1)
        if where != "loss" or module.from_call is None or len(value) <= ROW:
            return value
        return torch.where(torch.arange(len(value)) == ROW, torch.nan, value)

    # Given latents stand in the same row all the way: the first is the best of the three that stay
    starts = decoder.space.draw(4, rng.generator(8))
    search = {"kind": kind, "steps": STEPS, **extra}
    return lo.optimize(decoder, objectives=loss, search=search, starts=starts, seed=1, on_report=from_now)


@pytest.mark.parametrize("kind", ["adam", "lbfgs", "langevin"])
@pytest.mark.parametrize("where", ["designs", "gradient", "loss"])
def test_one_nan_row_never_touches_the_others(where, kind):
    sound, hurt = (searched(where, kind, broken) for broken in (False, True))
    assert sound.diverged == 0
    assert torch.isfinite(hurt.losses).all(), "the best before it broke is kept"
    assert torch.isfinite(hurt.latents).all()

    def rows(found):
        return {tuple(z.tolist()): float(loss) for z, loss in zip(found.latents, found.losses, strict=True)}

    same = rows(sound).items() & rows(hurt).items()
    assert len(same) == 3, "the other three, to the bit"
    assert all(np.isfinite(entry["best_T"]).all() for entry in hurt.history)
    if kind != "adam":  # the others refuse a step to where it is NaN, and stay
        return
    assert hurt.diverged == 1
    assert [entry["alive"] for entry in hurt.history if entry["step"] <= STEP] == [4] * (STEP + 1)
    assert hurt.history[-1]["alive"] == 3
    assert any(note.startswith("1 of 4 rows turned NaN or infinite in stage 1 (adam)") for note in hurt.notes)


# ---------------------------------------------------------------------- all of them


def never(design):
    """Fit for the look at the door, and for nothing after it."""
    never.calls += 1
    return 1.0 if never.calls <= 4 else float("nan")


never.calls = 0


def test_a_run_whose_rows_are_all_lost_fails_and_says_why(tmp_path):
    never.calls = 0
    objective = {"kind": "blackbox", "function": never, "name": "never"}
    search = {"kind": "random", "evaluations": 20, "batch": 5}
    with pytest.raises(lo.DivergedError) as caught:
        lo.optimize("digits", objectives=[objective], search=search, starts="mean", out=tmp_path / "run")
    assert re.match(
        r"all \d+ rows diverged: term 'never' was NaN or infinite for every row at step \d+", str(caught.value)
    )
    about = runfolder.read_about(tmp_path / "run")
    assert about["status"] == "failed"
    assert about["error"].startswith("DivergedError: all ")
    shown = CliRunner().invoke(cli.app, ["runs", "ls", str(tmp_path), "--status", "failed"], env={"COLUMNS": "300"})
    assert "term 'never' was NaN" in shown.stdout


def test_the_command_line_exits_with_1_where_all_rows_are_lost(tmp_path, monkeypatch):
    code = (
        "count = []\n\ndef never(design):\n    count.append(1)\n    return 1.0 if len(count) <= 4 else float('nan')\n"
    )
    (tmp_path / "never_finite.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    objective = "{kind: blackbox, function: 'never_finite:never', name: never}"
    words = [
        "-d",
        "digits",
        "--objective",
        objective,
        "-s",
        "{kind: random, evaluations: 20}",
        "--starts",
        "mean",
        "-q",
    ]
    found = CliRunner().invoke(cli.app, ["optimize", *words, "--out", str(tmp_path / "run")])
    assert found.exit_code == 1, found.output
    assert "term 'never' was NaN or infinite for every row at step" in found.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


# ---------------------------------------------------------------------- nothing infinite is shown


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("kind", ["optuna", "cmaes", "random"])
def test_no_infinite_loss_reaches_a_result_or_a_picture(kind, bad, tmp_path):
    decoder = lo.Decoder(ToyImages(4, (1, 8, 8)), 4, prior="normal", name="image")

    def loss(c):
        return torch.where(c.latents[:, 0] > 0, torch.tensor(bad), c.latents.square().sum(1))

    search = {"kind": kind, "evaluations": 40}
    found = lo.optimize(decoder, objectives=loss, search=search, out=tmp_path / "run", seed=3)
    assert found.diverged > 0
    assert torch.isfinite(found.losses).all()
    assert np.isfinite(found.best.loss)
    best = [value for entry in found.history[1:] for value in entry["best_T"]]
    assert np.isfinite(best).all()
    for figure in pictures.of_result(found, decoder).values():
        for axes in figure.axes:
            assert all(np.isfinite(np.asarray(line.get_xydata(), dtype=float)).all() for line in axes.lines)
    page = lo.report(tmp_path / "run")
    assert not re.search(r">\s*-?(inf|nan)\s*<", page, re.IGNORECASE)


def test_designs_that_turn_out_nan_at_the_end_are_left_out():
    """An objective that judges a row otherwise when it is alone among so many."""

    def moody(c):
        value = c.latents.square().sum(1)
        return torch.where(torch.arange(len(value)) == 0, torch.nan, value) if not c.latents.requires_grad else value

    given = {"starts": [{"kind": "normal", "n": 3}], "search": {"kind": "adam", "steps": 4}}
    found = lo.optimize(toy_decoders()["image"], objectives=[moody], **given)
    assert len(found) == 2
    assert bool(torch.isfinite(found.losses).all())
    assert "1 of 3 designs turned out NaN or infinite when judged at the end, and are left out" in found.notes
    with pytest.raises(lo.DivergedError, match="1 of 1 designs turned out NaN or infinite when judged at the end"):
        lo.optimize(toy_decoders()["image"], objectives=[moody], **{**given, "starts": ["mean"]})

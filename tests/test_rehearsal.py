"""Dry runs: what they say of a run is what the run does, and they do none of it."""

import json

import pytest
import torch
from typer.testing import CliRunner

import latentopt as lo
from latentopt import api, cli, memory
from latentopt.config import make_config
from latentopt.rehearsal import rehearse
from latentopt.testing import toy_decoders


def config(decoder, budget=None, **task):
    given = {"kind": "optimize", "target": torch.full((1, 8, 8), 0.5), "starts": {"kind": "prior", "n": 6}, **task}
    return make_config({"decoder": decoder, "task": given, **({} if budget is None else {"budget": budget})})


def call(*arguments, code=0):
    found = CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert found.exit_code == code, found.stderr
    return found


@pytest.mark.parametrize(
    "task",
    [
        {"search": {"kind": "adam", "steps": 20}},
        {"search": [{"kind": "adam", "steps": 10, "keep": 2}, {"kind": "adam", "steps": 7}]},
        {"search": [[{"kind": "adam", "steps": 10}, {"kind": "adam", "lr": 0.3, "steps": 10}]]},
        {"search": {"kind": "random", "evaluations": 40}},
        {"search": [{"kind": "random", "evaluations": 40}, {"kind": "adam", "steps": 4}]},
        {"search": {"kind": "adam", "steps": 5}, "starts": ["mean", {"kind": "prior", "n": 3, "screened_from": 32}]},
        {"search": {"kind": "adam", "steps": 5}, "target": torch.rand(3, 1, 8, 8)},
    ],
    ids=["one", "chain", "race", "evaluations", "many", "screened", "targets"],
)
def test_the_rows_are_those_of_the_run(task):
    decoder = toy_decoders()["image"]
    asked = config(decoder, **task)
    said = rehearse(asked, decoder)
    cost = api.run_with(asked, decoder).cost
    assert said.rows == cost.forward_rows + cost.backward_rows
    assert said.seconds > 0
    assert said.fits


def test_rows_of_a_line_search_are_near():
    decoder = toy_decoders()["image"]
    asked = config(decoder, search={"kind": "lbfgs", "steps": 20, "stop_gain": 0.0})
    cost = api.run_with(asked, decoder).cost
    assert 0.5 < rehearse(asked, decoder).rows / (cost.forward_rows + cost.backward_rows) < 4


def test_few_rows_stand_for_many_where_rows_are_dear(monkeypatch):
    decoder = toy_decoders()["image"]
    asked = config(decoder, search={"kind": "adam", "steps": 10})
    whole = rehearse(asked, decoder)
    monkeypatch.setattr("latentopt.rehearsal.seconds_a_row", lambda problem: 60.0)
    before = decoder.rows.forward
    dear = rehearse(asked, decoder)
    assert dear.stages[0].rows == whole.stages[0].rows
    assert decoder.rows.forward - before < 20


def test_a_budget_that_ends_the_run_is_told(tmp_path):
    decoder = toy_decoders()["image"]
    asked = config(decoder, {"rows": 100, "seconds": 3600}, search={"kind": "adam", "steps": 20})
    said = rehearse(asked, decoder)
    assert not said.fits
    words = dict(said.lines())["budget"]
    assert words == "100 rows and 3600 s: ends the run before all steps are taken, with the best found until then"
    assert rehearse(config(decoder, {"rows": 10_000}, search={"kind": "adam", "steps": 20}), decoder).fits
    assert not rehearse(config(decoder, {"seconds": 1e-9}, search={"kind": "adam", "steps": 20}), decoder).fits


def test_nothing_is_run_and_no_folder_is_made(tmp_path, monkeypatch):
    def run(*_, **__):
        raise AssertionError("a run has begun")

    monkeypatch.setattr(api, "run_with", run)
    monkeypatch.chdir(tmp_path)
    lo.examples.digits()[0].numpy().tofile("ignored")
    arguments = [
        "optimize",
        "-d",
        "digits",
        "--objective",
        "prior",
        "-s",
        "{kind: adam, steps: 5}",
        "-s",
        "[adam, lbfgs]",
    ]
    said = call(*arguments, "--dry-run", "--out", "some/where").stdout
    assert not (tmp_path / "some").exists()
    for words in (
        "decoder   digits: latents (20,) to designs (1, 28, 28) on cpu, an encoder, gradients; prior normal, given with",
        "region    ball (percentile 99)",
        "starts    8 rows: mean, 7 of 512 by prior a target",
        "stage 1   adam, 5 steps, from 8 rows: about ",
        "stage 2.1 adam, 300 steps, from 8 rows: about ",
        "stage 2.2 lbfgs, ",
        ", an estimate from at most 3 steps of each search",
        "nothing was run: leave out --dry-run to run it",
    ):
        assert words in said
    document = json.loads(call(*arguments, "--dry-run", "--json").stdout)
    assert [stage["place"] for stage in document["stages"]] == ["1", "2.1", "2.2"]
    assert (document["estimate"], document["fits"], document["targets"]) == (True, True, 1)


@pytest.mark.parametrize(
    "task", ["{kind: sample, n: 70}", "{kind: interpolate, keys: [[0, 0, 0], [1, 1, 1]], steps: 70}"]
)
def test_draws_and_paths(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decoder = "{kind: module, factory: 'bad_nets:Net', latent_shape: [3]}"
    (tmp_path / "run.yaml").write_text(f"decoder: {decoder}\ntask: {task}\n")
    found = call("run", "run.yaml", "--dry-run", "--json")
    document = json.loads(found.stdout)
    assert (document["rows"], document["stages"]) == (70, [])
    assert "this config runs code: bad_nets:Net" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--objective", "prior", "--rows", "3"], "a budget of 3 rows does not cover"),
        (["-t", "nowhere.png"], "file not found: nowhere.png"),
        (["--objective", "prior", "--out", "there"], "there exists and is not an empty folder"),
        (
            ["--objective", "{kind: blackbox, function: 'bad_nets:constant'}", "-s", "adam"],
            "search 'adam' needs gradients",
        ),
    ],
    ids=["budget", "target", "folder", "gradients"],
)
def test_what_a_run_would_refuse_is_refused(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kept").touch()
    found = call("optimize", "-d", "digits", *arguments, "--dry-run", code=2)
    assert found.stdout == ""
    assert words in found.stderr


def test_more_than_memory_holds_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**20)
    decoder = toy_decoders()["image"]
    with pytest.raises(lo.OutOfMemoryError, match="100000 designs of shape"):
        rehearse(make_config({"decoder": decoder, "task": {"kind": "sample", "n": 100_000}}), decoder)

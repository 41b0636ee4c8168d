"""One config, three doors: a YAML file, Python, and `--set` mean the same thing, field for field."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import latentopt as lo
from latentopt.config import InterpolateTask, OptimizeTask, RunConfig, SampleTask, make_config, read_config
from latentopt.testing import toy_decoders
from latentopt_std import MSE, Adam

TEXT = """
decoder: {kind: digits}
seed: 3
budget: {rows: 20000, seconds: 60}
task:
  kind: optimize
  target: target.npy
  starts: [encoder, {kind: normal, n: 7, screened_from: 64}]
  region: {kind: shell, percentile: 95}
  objectives: [{kind: mse, weight: 2.0}, {kind: mse, name: again, goal: {at_most: 0.2}, weight: 0.1}]
  constraints: [{kind: mse, name: limit, goal: {at_most: 0.5}}]
  search: [{kind: adam, lr: 0.1, steps: 30, keep: 2}, {kind: adam, steps: 5}]
"""


def write(folder: Path, text: str = TEXT) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_a_file_and_python_objects_make_equal_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from_file = read_config(write(tmp_path).name)
    objects = make_config(
        {
            "decoder": "digits",
            "seed": 3,
            "budget": lo.Budget(rows=20000, seconds=60),
            "task": {
                "kind": "optimize",
                "target": "target.npy",
                "starts": ["encoder", {"kind": "normal", "n": 7, "screened_from": 64}],
                "region": lo.Shell(percentile=95),
                "objectives": [MSE(weight=2.0), MSE(name="again", goal={"at_most": 0.2}, weight=0.1)],
                "constraints": [MSE(name="limit", goal=lo.Bound(at_most=0.5))],
                "search": [Adam(lr=0.1, steps=30, keep=2), Adam(steps=5)],
            },
        }
    )
    assert from_file == objects


def test_set_equals_writing_it_into_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = write(tmp_path, "decoder: digits\ntask: {kind: optimize, target: target.npy, search: adam}\n")
    changed = read_config(short, ["task.search.lr=0.05", "seed=4", "task.region=sphere", "budget.rows=1e3"])
    long = "seed: 4\nbudget: {rows: 1000}\ndecoder: {kind: digits}\n"
    long += (
        "task:\n  kind: optimize\n  target: target.npy\n  search: [{kind: adam, lr: 0.05}]\n  region: {kind: sphere}\n"
    )
    assert changed == read_config(write(tmp_path, long))


def test_a_saved_config_reads_back_equal(tmp_path):
    config = read_config(write(tmp_path))
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config.to_dict()))
    assert make_config(yaml.safe_load(again.read_text())) == config


@pytest.mark.parametrize(
    ("function", "task"), [(lo.optimize, OptimizeTask), (lo.sample, SampleTask), (lo.interpolate, InterpolateTask)]
)
def test_keywords_are_the_fields_of_the_config(function, task):
    keywords = set(inspect.signature(function).parameters) - {"decoder", "out", "on_report"}
    fields = set(task.model_fields) - {"kind"} | (set(RunConfig.model_fields) - {"decoder", "task"})
    assert keywords | {"budget"} == fields | {"budget"}


def test_the_three_doors_give_the_same_latents_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    np.save("target.npy", lo.examples.digits()[3].numpy())
    from_file = lo.run(write(tmp_path).name)
    from_python = lo.optimize(
        lo.load_decoder("digits"),
        target="target.npy",
        starts=["encoder", {"kind": "normal", "n": 7, "screened_from": 64}],
        region={"kind": "shell", "percentile": 95},
        objectives=[MSE(weight=2.0), {"kind": "mse", "name": "again", "goal": {"at_most": 0.2}, "weight": 0.1}],
        constraints={"kind": "mse", "name": "limit", "goal": {"at_most": 0.5}},
        search=[Adam(lr=0.1, steps=30, keep=2), {"kind": "adam", "steps": 5}],
        budget={"rows": 20000, "seconds": 60},
        seed=3,
    )
    from_set = lo.run(
        write(tmp_path, TEXT.replace("seed: 3", "seed: 0").replace("lr: 0.1", "lr: 0.9")).name,
        changes=["seed=3", "task.search.0.lr=0.1"],
    )
    assert torch.equal(from_file.latents, from_python.latents)
    assert torch.equal(from_file.latents, from_set.latents)
    assert from_file.config == from_python.config == from_set.config


def test_a_given_decoder_may_be_any_of_its_names():
    decoder = toy_decoders()["vector"]
    assert lo.load_decoder(decoder) is decoder
    by_name, by_dict = lo.load_decoder("digits"), lo.load_decoder({"kind": "digits"})
    assert by_name.config == by_dict.config
    assert torch.equal(lo.sample(by_name, 2).designs, lo.sample("digits", 2).designs)

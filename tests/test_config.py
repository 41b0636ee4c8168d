"""RunConfig: errors with their place and remedy, shorthand, arrays, the JSON schema."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import latentopt as lo
from latentopt.arrayfield import Array
from latentopt.coderef import CodeRef, named_code
from latentopt.config import json_schema, make_config, read_config
from latentopt.testing import toy_decoders


def config(**task):
    return make_config({"decoder": toy_decoders()["image"], "task": {"kind": "optimize", **task}})


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"decoder": "digts", "task": "sample"},
            "decoder: unknown decoder 'digts'; did you mean 'digits'?; installed:",
        ),
        ({"decoder": "digits", "task": "sampel"}, "task: unknown task 'sampel'; did you mean 'sample'?"),
        (
            {"decoder": "digits", "tusk": "sample"},
            "unknown key 'tusk'; did you mean 'task'?; known: decoder, seed, budget, task",
        ),
        ({"decoder": {"name": "x"}, "task": "sample"}, "decoder: this decoder needs a kind: one of"),
        (
            {"decoder": 3, "task": "sample"},
            "decoder: expected a decoder: a name, a dict with a kind, or a config, got int",
        ),
        ({"decoder": "digits"}, "task: Field required"),
        (
            {"decoder": "digits", "task": "sample", "seed": -1},
            "seed: Input should be greater than or equal to 0, got -1",
        ),
        ({"decoder": "digits", "task": "sample", "budget": {"rows": 0}}, "budget.rows: Input should be greater than"),
        (
            {"decoder": "digits", "task": "sample", "budget": {"row": 5}},
            "budget: unknown key 'row'; did you mean 'rows'",
        ),
        (
            {"decoder": "digits", "task": {"kind": "sample", "n": 0}},
            "task.n: Input should be greater than or equal to 1, got 0",
        ),
        (
            {"decoder": "digits", "task": {"kind": "sample", "n": 10**9}},
            "task.n: Input should be less than or equal to",
        ),
    ],
)
def test_errors_name_the_place_and_the_remedy(data, text):
    with pytest.raises(lo.ConfigError) as caught:
        make_config(data)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ({"search": "adm"}, "task.search.0: unknown search 'adm'; did you mean 'adam'"),
        ({"search": {"kind": "adam", "leanring_rate": 1}}, "task.search.0: unknown key 'leanring_rate'"),
        ({"search": {"kind": "adam", "lr": 0}}, "task.search.0.lr: Input should be greater than 0, got 0"),
        ({"search": {"kind": "adam", "lr": float("nan")}}, "task.search.0.lr: Input should be a finite number"),
        (
            {"search": ["adam", {"kind": "adam", "steps": 0}]},
            "task.search.1.steps: Input should be greater than or equal to 1",
        ),
        ({"region": "bal"}, "task.region: unknown region 'bal'; did you mean 'ball'"),
        (
            {"region": {"kind": "box", "low": 1, "high": 0}},
            "task.region: low must be below high, got low=1.0, high=0.0",
        ),
        (
            {"region": {"kind": "ball", "percentile": 100}},
            "task.region.percentile: Input should be less than 100, got 100",
        ),
        ({"starts": "men"}, "task.starts.0: unknown start 'men'; did you mean 'mean'"),
        ({"starts": [{"kind": "normal", "n": 0}]}, "task.starts.0.n: Input should be greater than or equal to 1"),
        ({"starts": {"kind": "normal", "n": 8, "screened_from": 4}}, "screened_from (4) must be at least n (8)"),
        ({"objectives": "mee"}, "task.objectives.0: unknown objective 'mee'; did you mean 'mse'"),
        ({"objectives": [{"kind": "mse", "goal": "mini"}]}, "a goal is minimize, maximize, or a bound"),
        ({"objectives": [{"kind": "mse", "goal": {"at_mst": 1}}]}, "unknown key 'at_mst'; did you mean 'at_most'"),
        (
            {"objectives": [{"kind": "mse", "weight": -1}]},
            "task.objectives.0.weight: Input should be greater than or equal to 0",
        ),
        ({"target": [[1, 2], [3]]}, "task.target: expected numbers in a regular nested list"),
        ({"target": {"pth": "x.png"}}, "task.target: an array by file takes path, key, resize and gray, got ['pth']"),
        ({"target": [["a", "b"]]}, "task.target: expected numbers, got list of"),
        ({"objectives": [{"kind": "callable", "function": {"callable": "f"}}]}, "cannot be run from a file"),
    ],
)
def test_task_errors(task, text):
    with pytest.raises(lo.ConfigError) as caught:
        config(**task)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_of_a_file_name_it(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("decoder: digits\ntask: {kind: optimize, search: {kind: adam, lr: no}}\n")
    with pytest.raises(lo.ConfigError, match=r"run.yaml:2:49: task.search.0.lr: expected a number.*got 'no'"):
        read_config(path)


def test_exponents_without_a_dot_are_numbers(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("decoder: digits\ntask: {kind: optimize, search: {kind: adam, lr: 1e-3}}\n")
    assert read_config(path).task.search[0].lr == 0.001


def test_one_stands_for_a_list_of_one():
    found = config(objectives="mse", search="adam", starts="mean").task
    assert [one.kind for one in found.objectives] == ["mse"]
    assert [one.kind for one in found.search] == ["adam"]
    assert found.starts == ["mean"]


def test_configs_are_frozen_and_share_no_defaults():
    one = config()
    with pytest.raises(ValueError, match="frozen"):
        one.seed = 3
    assert one.task.constraints is not config().task.constraints


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "run.yaml").write_text("decoder: digits\ntask: {kind: optimize, target: t.npy}\n")
    np.save(folder / "t.npy", np.zeros((1, 28, 28), np.float32))
    monkeypatch.chdir(tmp_path)
    assert read_config("configs/run.yaml").task.target.tensor().shape == (1, 28, 28)


def test_paths_in_options_are_relative_to_where_they_are_typed(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "run.yaml").write_text("decoder: digits\ntask: {kind: optimize, target: [a.png, {path: b.png}]}\n")
    monkeypatch.chdir(tmp_path)
    changes = ["task.target.1.path=mine.png", "task.starts=[{kind: run, folder: earlier}, z.npy]"]
    task = read_config("configs/run.yaml", changes).task
    assert [one.path for one in task.target.parts] == [Path("configs/a.png"), Path("mine.png")]
    assert (task.starts[0].folder, task.starts[1].path) == (Path("earlier"), Path("z.npy"))
    assert read_config("configs/run.yaml", ["task.target=../t.npy"]).task.target.path == Path("../t.npy")
    assert (
        read_config("configs/run.yaml", ["task.target.1.path=b.npy", "task.target=t.npy"]).task.target.path.name
        == "t.npy"
    )


def test_starts_by_file_are_relative_to_it_too(tmp_path):
    (tmp_path / "run.yaml").write_text("decoder: digits\ntask: {kind: optimize, starts: [{path: z.npy}, more.npy]}\n")
    starts = read_config(tmp_path / "run.yaml").task.starts
    assert [one.path for one in starts] == [tmp_path / "z.npy", tmp_path / "more.npy"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"path": 3}, "path of an array by file is a path, got int"),
        ({"path": None}, "path of an array by file is a path, got NoneType"),
        ({"path": "a.npy", "key": 3}, "key of an array by file is the name of an array, got int"),
        ({"path": "a.png", "resize": "yes"}, "resize of an array by file is true or false, got str"),
    ],
)
def test_the_parts_of_an_array_by_file_have_kinds(value, text):
    with pytest.raises(lo.ConfigError, match=f"task.target: {text}"):
        config(target=value)


def test_whole_numbers_of_any_size_are_numbers():
    assert float(config(target=2**63).task.target.tensor()) == 2**63


def test_truth_is_no_number_but_where_a_field_takes_it():
    with pytest.raises(lo.ConfigError, match="task.search.0: steps is a number, got true: write it in digits"):
        config(search={"kind": "adam", "steps": True})
    assert config(pareto=True).task.pareto is True
    options = {"kind": "optuna", "sampler": "tpe", "sampler_options": {"multivariate": True}}
    assert config(search=options).task.search[0].sampler_options == {"multivariate": True}


def test_errors_hold_nothing_that_could_steer_a_terminal():
    assert str(lo.InputFileError("a\x1b[2Jb\tc\nd\u202ee")) == "a?[2Jb c\nd?e"
    assert str(lo.ConfigError("as it is – é")) == "as it is – é"


def test_arrays_compare_by_content():
    a, b, c = (Array(torch.tensor(v)) for v in ([1.0, 2], [1.0, 2], [1.0, 3]))
    assert a == b
    assert hash(a) == hash(b)
    assert a != c
    assert Array("x.png") == Array("x.png") != Array("x.png", resize=True)
    assert config(target=torch.ones(1, 8, 8)) != config(target=torch.zeros(1, 8, 8))


def test_values_leave_the_config_as_tensors_when_asked():
    arrays = {}
    target = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = config(target=target).to_dict(arrays)
    (name,) = arrays
    assert plain["task"]["target"] == {"path": "arrays.safetensors", "key": name, "stored": "values"}
    assert torch.equal(arrays[name], target)
    assert config(target=target).to_dict()["task"]["target"] == target.tolist()


def test_starts_of_every_kind_leave_the_config():
    starts = ["mean", {"kind": "normal", "n": 2}, torch.zeros(1, 4), {"path": "z.npy"}]
    plain = config(starts=starts, target=torch.zeros(1, 8, 8)).to_dict()["task"]["starts"]
    assert plain[0] == "mean"
    assert plain[1] == {"kind": "normal", "n": 2}
    assert plain[2:] == [[[0.0] * 4], "z.npy"]


def test_callables_are_recorded_by_name_and_hash():
    def brightness(c):
        return c.designs.flatten(1).mean(1)

    found = config(objectives=[brightness]).to_dict()["task"]["objectives"][0]["function"]
    assert found["callable"].endswith("brightness")
    assert len(found["sha256"]) == 16
    json.dumps(found)


def test_unregistered_configs_of_ones_own_are_taken():
    from typing import Literal

    class Mine(lo.ObjectiveConfig):
        kind: Literal["mine"] = "mine"
        power: float = 2.0

        def build(self, decoder):
            return lambda c: c.latents.abs().pow(self.power).sum(1)

    result = lo.optimize(toy_decoders()["image"], objectives=[Mine(power=3)], search={"kind": "adam", "steps": 3})
    assert result.config["task"]["objectives"][0] == {"goal": "minimize", "weight": 1.0, "kind": "mine", "power": 3.0}


def walk(data):
    if isinstance(data, dict):
        yield data
    for one in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from walk(one)


def test_the_json_schema_lists_every_kind_and_its_fields():
    schema = json.loads(json.dumps(json_schema()))
    text = json.dumps(schema)
    for kind in ("adam", "mse", "normal", "slerp", "ball", "digits"):
        assert f'"const": "{kind}"' in text
    names = [found["enum"] for found in walk(schema) if "enum" in found]
    for kind in ("adam", "mse", "ball", "digits", "optimize"):
        assert any(kind in listed for listed in names), f"the plain name {kind!r} would be marked as wrong"
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"decoder", "task"}


# ---------------------------------------------------------------------- code named in configs


def test_named_code_is_listed_without_importing_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap_module.py").write_text("open('marker', 'w').close()\ndef f(x): return x\n")

    class Holder(lo.ObjectiveConfig):
        function: CodeRef

    holder = Holder(function="trap_module:f")
    assert named_code(holder) == ["trap_module:f"]
    assert not (tmp_path / "marker").exists()
    assert holder.function.load()(3) == 3
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_such_module_x:f", "cannot import 'no_such_module_x' named in 'no_such_module_x:f': install it, or run in"),
        ("math:cosh2", "module 'math' has no 'cosh2'; did you mean 'cosh'"),
    ],
)
def test_code_that_is_not_there(name, text):
    with pytest.raises(lo.ConfigError, match=text):
        CodeRef(name).load()


def test_code_that_needs_something_not_installed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_more.py").write_text("import not_there_at_all\n")
    with pytest.raises(lo.ConfigError, match="it needs 'not_there_at_all', which is not installed"):
        CodeRef("needs_more:f").load()


@pytest.mark.parametrize("value", ["justname", "a:b:c", "os.system('x'):f", 3])
def test_code_is_named_as_module_and_function(value):
    class Holder(lo.ObjectiveConfig):
        function: CodeRef

    with pytest.raises(ValueError, match=r"package\.module:function"):
        Holder(function=value)

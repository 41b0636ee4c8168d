"""`latentopt init`: what it finds of a decoder, and that the file it writes says so and runs as it stands."""

import json
import re
from pathlib import Path

import first_nets
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import latentopt as lo
from latentopt import cli
from latentopt.config import make_config
from latentopt.settings import set_path
from latentopt.yamltext import load_yaml


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(path):
    return Path(path).read_text()


def call(*arguments, code=0):
    found = CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, found.stderr
    return found


NETS = {
    "digits": (["-d", "digits"], [20], [1, 28, 28], True, True),
    "methods": (["--factory", "first_nets:Vae"], [6], [1, 8, 8], True, True),
    "options": (["--factory", "first_nets:Vae", "--factory-options", "{latent_dim: 3}"], [3], [1, 8, 8], True, True),
    "silent": (["--factory", "first_nets:Silent"], [6], [1, 8, 8], True, True),
    "parts": (["--factory", "first_nets:Parts"], [5], [1, 8, 8], True, True),
    "short names": (["--factory", "first_nets:Short"], [5], [64], True, True),
    "a method alone": (["--factory", "first_nets:OnlyDecodes"], [4], [9], False, True),
    "generator": (["--factory", "first_nets:Generator"], [4, 1, 1], [3, 8, 8], False, True),
    "other sides": (
        ["--factory", "first_nets:Generator", "--latent-shape", "4,2,2"],
        [4, 2, 2],
        [3, 10, 10],
        False,
        True,
    ),
    "wave": (["--factory", "first_nets:Wave"], [7], [1, 100], False, True),
    "blind": (["--factory", "first_nets:Blind"], [7], [100], False, False),
    "said": (["--factory", "first_nets:Dumb", "--latent-shape", "9"], [9], [9], False, True),
    "no encoder that fits": (["--factory", "bad_nets:Whole"], [3], [1, 4, 4], False, True),
}
QUICK = ["--set", "budget={rows: 300}", "--set", "task.starts={kind: prior, n: 2}", "--quiet"]


@pytest.mark.parametrize("row", NETS)
def test_the_file_says_what_was_found_and_runs(row):
    arguments, latent, design, encoder, gradients = NETS[row]
    document = json.loads(call("init", *arguments, "--json").stdout)
    found = [document[name] for name in ("latent_shape", "design_shape", "encoder", "gradients")]
    assert found == [latent, design, encoder, gradients]
    text = read("run.yaml")
    assert text.startswith("# yaml-language-server: $schema=latentopt.schema.json\n")
    assert f"#   designs   {' x '.join(map(str, design))}" in text
    assert ("encoder   yes" in text, "gradient  yes" in text) == (encoder, gradients)
    call("run", "run.yaml", "--dry-run")
    call("run", "run.yaml", *QUICK, "--out", "found")
    assert lo.load("found").losses.isfinite().all()


@pytest.mark.parametrize("row", ["digits", "methods", "generator", "blind"])
def test_every_field_has_a_comment_and_every_alternative_holds(row):
    call("init", *NETS[row][0])
    lines = read("run.yaml").splitlines()
    data = load_yaml("run.yaml")
    section, tried = "", set()
    for line, before in zip(lines[1:], lines, strict=False):
        if re.match(r"\w+:", line):
            section = line.partition(":")[0]
            assert before.startswith("#") or section == "task", f"nothing is said of {section}"
        said = re.match(r"  (\w+):", line)
        if said and section == "task":
            assert "# " in line or before.strip().startswith("#"), f"nothing is said of {said[1]}"
        other = re.match(r"( *)# (\w+): (.*)", line)
        if other and not line.startswith("# yaml"):
            place = f"{section}.{other[2]}" if other[1] else other[2]
            if "designs.npy" not in line:
                make_config(set_path(data, f"{place}={other[3]}"))
            tried.add(place)
    assert {"budget", "task.objectives", "task.constraints", "task.starts", "task.region", "task.search"} <= tried
    gradients = NETS[row][4]
    assert any("adam" in line for line in lines) is gradients


def test_weights_and_the_place_of_the_file(tmp_path):
    torch.manual_seed(0)
    net = first_nets.Vae()
    torch.save(net.state_dict(), "vae.pt")
    (tmp_path / "runs").mkdir()
    found = call("init", "--factory", "first_nets:Vae", "--weights", "vae.pt", "--out", "runs/first.yaml")
    assert "this config runs code: first_nets:Vae" in found.stderr
    assert "wrote    runs/first.yaml and runs/target.png" in found.stdout
    held = load_yaml("runs/first.yaml")["decoder"]
    assert held == {
        "kind": "module",
        "factory": "first_nets:Vae",
        "weights": "../vae.pt",
        "attribute": "decode",
        "latent_shape": [6],
    }
    call("run", "runs/first.yaml", *QUICK, "--out", "found")
    result = lo.load("found")
    assert torch.allclose(result.designs, net.decode(result.latents), atol=1e-5)


def test_sides_that_were_guessed_are_told():
    words = "note     how large its latents are was not found: 1 x 1 was taken, as convolutions take any sides; give --latent"
    assert words in call("init", "--factory", "first_nets:Generator").stdout
    assert words.split()[-1] not in call("init", "--factory", "first_nets:Parts", "--out", "parts.yaml").stdout
    assert "give --latent-shape where it was trained with others" in read("run.yaml")


def test_a_target_of_ones_own():
    np.save("mine.npy", np.full((1, 28, 28), 0.5, np.float32))
    assert "wrote    run.yaml\n" in call("init", "-d", "digits", "--target", "mine.npy").stdout
    assert load_yaml("run.yaml")["task"]["target"] == "mine.npy"
    assert "put your own here" not in read("run.yaml")
    np.save("other.npy", np.zeros((3, 3), np.float32))
    found = call("init", "-d", "digits", "--target", "other.npy", "--out", "o.yaml", code=2)
    assert "target has shape 3x3, the decoder gives 1x28x28" in found.stderr


def test_nothing_is_overwritten(tmp_path):
    call("init", "-d", "digits")
    before = read("run.yaml")
    found = call("init", "-d", "digits", code=2)
    assert "error: run.yaml is there already, and init never overwrites: give another --out" in found.stderr
    assert read("run.yaml") == before
    assert "wrote    two.yaml and two-target.png" in call("init", "-d", "digits", "--out", "two.yaml").stdout
    found = call("init", "-d", "digits", "--out", "none/run.yaml", code=2)
    assert "error: cannot write none/target.png: No such file or directory; choose another --out" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "init needs one decoder: --decoder NAME, or --factory PACKAGE.MODULE:FUNCTION for your own"),
        (["-d", "digits", "--factory", "a:b"], "init needs one decoder"),
        (
            ["-d", "digits", "--weights", "w.pt"],
            "weights belong to --factory, and --decoder digits is whole: leave them out",
        ),
        (["-d", "digts"], "unknown decoder 'digts'; did you mean 'digits'?"),
        (["--factory", "no_such_module:make"], "cannot import 'no_such_module' named in 'no_such_module:make'"),
        (["--factory", "first_nets:Vea"], "module 'first_nets' has no 'Vea'; did you mean 'Vae'?"),
        (["--factory", "first_nets:Vae", "--factory-options", "{dim: 3}"], "does not take these factory_options"),
        (["--factory", "first_nets:Vae", "--weights", "w.pt"], "model file not found: w.pt"),
        (
            ["--factory", "first_nets:Dumb"],
            "the shape of the latents of 'first_nets:Dumb' was not found (tried nothing)",
        ),
        (["--factory", "first_nets:Wave", "--latent-shape", "8"], "rejects latents of shape (4, 8)"),
        (
            ["--factory", "first_nets:Wave", "--latent-shape", "big"],
            "--latent-shape 'big' is no shape: give whole numbers",
        ),
        (["--factory", "first_nets:Wave", "--latent-shape", "0"], "--latent-shape '0' is no shape"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_what_cannot_be_found_is_told(arguments, words, tmp_path):
    found = call("init", *arguments, code=2)
    assert words in found.stderr.splitlines()[-1]
    assert found.stdout == ""
    assert not list(tmp_path.glob("*.yaml"))


def test_the_text_is_yaml_to_others_too():
    call("init", "-d", "digits")
    assert yaml.safe_load(read("run.yaml")) == load_yaml("run.yaml")

"""Checkpoints hold everything: from each one of them a run ends with the same bits; and no damage to them goes unseen."""

import json
import os
import random
import shutil

import pytest
from kept_runs import CASES, callables, decoder, options, same
from soak import LONG, figure

import latentopt as lo
from latentopt import checkpoints, store

STEPS = 40
GRADIENTS = {
    "adam": {"kind": "adam", "noise": 0.01, "warmup": 5},
    "adam, plateau": {"kind": "adam", "schedule": "plateau"},
    "lbfgs": {"kind": "lbfgs"},
    "levenberg_marquardt": {"kind": "levenberg_marquardt"},
    "langevin": {"kind": "langevin", "temperature": 1e-3},
}
SEARCHES = {name: {**options("adam"), "search": {**search, "steps": STEPS}} for name, search in GRADIENTS.items()}
MUTATIONS = figure(1000, 10_000)


@pytest.fixture
def unflushed(monkeypatch):
    """Nobody pulls the plug here, and disks are slow."""
    monkeypatch.setattr(os, "fsync", lambda number: None)


def all_checkpoints(folder, monkeypatch, given):
    """A run that keeps a checkpoint of every step; the checkpoints in their order."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "due", lambda self: True)
        patch.setattr(checkpoints, "_KEPT", 10_000)
        lo.optimize(decoder(), out=folder, **given)
    return sorted((folder / "checkpoints").iterdir())


def as_if_killed(whole, folder, kept):
    """A run's folder as it is where this was its newest checkpoint."""
    folder.mkdir()
    for name in ("config.json", "arrays.safetensors", "history.jsonl", "run.json"):
        if (whole / name).exists():  # a run of no numbers has no file of them
            shutil.copy(whole / name, folder / name)
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "status": "running"}))
    (folder / "checkpoints").mkdir()
    shutil.copy(kept, folder / "checkpoints" / kept.name)


def resumed_at_every_step(tmp_path, monkeypatch, given, again=None):
    """A run resumed at each of its steps, of which this is the number; it always ended as one that was never stopped."""
    whole = lo.optimize(decoder(), **given)
    found = all_checkpoints(tmp_path / "whole", monkeypatch, given)
    for kept in found:
        folder = tmp_path / kept.name[:6]
        as_if_killed(tmp_path / "whole", folder, kept)
        same(lo.resume(folder, decoder=decoder(), **(again or {})), whole)
    if isinstance(given["search"], dict):  # a checkpoint before each step
        assert len(found) == whole.history[-1]["step"]
    return len(found)


@pytest.mark.parametrize("name", SEARCHES)
def test_resumed_at_every_step_of_forty(name, tmp_path, monkeypatch, unflushed):
    steps = resumed_at_every_step(tmp_path, monkeypatch, SEARCHES[name])
    assert steps == STEPS or (name in ("lbfgs", "levenberg_marquardt") and steps > 12), (
        "these end when all rows are done"
    )


@pytest.mark.skipif(not LONG, reason="part of make soak")
@pytest.mark.parametrize("name", CASES)
def test_every_search_and_problem_resumed_at_every_step(name, tmp_path, monkeypatch, unflushed):
    assert resumed_at_every_step(tmp_path, monkeypatch, options(name), callables(name)) >= 3


def harmed(data, chance):
    """Bytes with a bit flipped, cut short, a stretch of zeros, or two stretches exchanged."""
    while True:
        new, at = bytearray(data), chance.randrange(len(data))
        length = chance.randint(1, 64)
        match chance.choice(("flip", "truncate", "zero", "swap")):
            case "flip":
                new[at] ^= 1 << chance.randrange(8)
            case "truncate":
                del new[at:]
            case "zero":
                new[at : at + length] = bytes(len(new[at : at + length]))
            case _:
                to = chance.randrange(len(data))
                length = min(length, len(data) - max(at, to))
                new[at : at + length], new[to : to + length] = data[to : to + length], data[at : at + length]
        if new != data:
            return bytes(new)


@pytest.fixture
def no_unpacking(monkeypatch):
    """What is said to be sound is handed over as the bytes that it is: reading them takes longer than checking them."""
    monkeypatch.setattr(checkpoints, "unpack", lambda data, device: data)


def test_no_damage_is_taken_for_a_checkpoint(tmp_path, monkeypatch, unflushed, no_unpacking):
    older, newer = all_checkpoints(tmp_path / "run", monkeypatch, SEARCHES["adam"])[-2:]
    folder = tmp_path / "damaged"
    folder.mkdir()
    shutil.copy(older, folder / older.name)
    before, data, chance = older.read_bytes(), newer.read_bytes(), random.Random(3)
    for _ in range(MUTATIONS):
        (folder / newer.name).write_bytes(harmed(data, chance))
        kept = checkpoints.Checkpoints(folder)
        assert kept.newest() == before, "the one before is used"
        assert len(kept.notes) == 1
        assert kept.notes[0].startswith(f"checkpoint {newer.name[:6]} is damaged (its sum is not that of its name)")
    (folder / newer.name).write_bytes(data)
    assert checkpoints.Checkpoints(folder).newest() == data


def test_what_two_checkpoints_have_exchanged_is_damage(tmp_path, monkeypatch, unflushed, no_unpacking):
    """Each is sound by itself, under the other's name."""
    one, other = all_checkpoints(tmp_path / "run", monkeypatch, SEARCHES["adam"])[-2:]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    kept = checkpoints.Checkpoints(one.parent)
    assert store.sha256(kept.newest()) == sorted(one.parent.iterdir())[-3].stem.partition("-")[2]
    assert len(kept.notes) == 2

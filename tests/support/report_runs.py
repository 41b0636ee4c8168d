"""Small runs to report, and results with one text in every place where a user's words go."""

import dataclasses
from typing import Literal

import torch

import latentopt as lo
from latentopt import known, registry, rng
from latentopt.testing import toy_decoders

FAST = {"kind": "adam", "steps": 6}
STARTS = [{"kind": "prior", "n": 5}]


def run(name="image", targets=1, **given):
    decoder = toy_decoders()[name]
    target = decoder.decode(decoder.space.draw(targets, rng.generator(4)))
    return lo.optimize(decoder, **{"target": target, "search": FAST, "starts": STARTS, **given})


def ink(designs):
    return designs.flatten(1).mean(1)


class Drawn(lo.ObjectiveConfig):
    """Mean of a design, whose pictures are as wide as there are designs, and as dark as their means."""

    kind: Literal["drawn"] = "drawn"
    title: str = "Means of designs"
    noise: int = 0
    target: lo.Array | None = None

    def build(self, decoder):
        return lambda c: c.designs.flatten(1).mean(1)

    def pictures(self, designs):
        if self.noise:
            return {self.title: torch.rand(3, self.noise, self.noise, generator=rng.generator(0))}
        return {self.title: designs.flatten(1).mean(1).clamp(0, 1).expand(1, 20, -1)}


def with_drawn(monkeypatch):
    """Objectives of the kind `drawn` are among the installed ones."""
    found = registry.load()
    kinds = {**found.kinds("objectives"), "drawn": Drawn}
    monkeypatch.setattr(found, "kinds", lambda slot, real=found.kinds: kinds if slot == "objectives" else real(slot))
    monkeypatch.setattr(known, "installed", lambda: found)


def hostile(result, text):
    """A result with this text wherever a user's words go."""
    config = {
        "decoder": {"kind": text, "name": text},
        "seed": text,
        "budget": {"rows": 1000, text: text},
        "task": {"kind": "optimize", text: text, "constraints": [{"kind": text, "goal": {text: text}}]},
    }
    history = [{**entry, "name": text} for entry in result.history]
    terms = {text: result.losses, f"{text} 2": result.losses}
    realism = dataclasses.replace(result.realism, evidence=text, place=text)
    changed = {
        "config": config,
        "history": history,
        "notes": [text],
        "terms": terms,
        "realism": realism,
        "stopped": text,
    }
    return dataclasses.replace(result, **changed)

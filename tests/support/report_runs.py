"""Small runs to report, and results with one text in every place where a user's words go."""

import dataclasses

import latentopt as lo
from latentopt import rng
from latentopt.testing import toy_decoders

FAST = {"kind": "adam", "steps": 6}
STARTS = [{"kind": "prior", "n": 5}]


def run(name="image", targets=1, **given):
    decoder = toy_decoders()[name]
    target = decoder.decode(decoder.space.draw(targets, rng.generator(4)))
    return lo.optimize(decoder, **{"target": target, "search": FAST, "starts": STARTS, **given})


def ink(designs):
    return designs.flatten(1).mean(1)


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

"""The text of a first run file: each field with a comment in plain words, and what else it could be."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

from latentopt.decoder import Decoder

_WIDTH = 46  # column of the comments


class Given(NamedTuple):
    """What a run file is to say: the decoder, the target's file and where that is from, the file's own name."""

    decoder: dict[str, Any]
    target: str
    origin: str
    out: str


def compose(decoder: Decoder, given: Given) -> str:
    """The run file for this decoder, as text. Lines that begin with `# key:` are alternatives, and hold as they stand."""
    lines = [
        "# yaml-language-server: $schema=latentopt.schema.json",
        f"# A first run of {decoder.name}, by `latentopt init`. It runs as it stands:",
        f"#   latentopt run {given.out} --dry-run          what it would do and take",
        f"#   latentopt run {given.out} --out found        run it, and keep it in the folder found",
        f"#   latentopt run {given.out} --set seed=1       change any field for one run",
        "# Editors complete this file once the schema is there: latentopt schema --out latentopt.schema.json",
        "",
        *_decoder(decoder, given),
        "",
        "# The same seed gives the same result.",
        "seed: 0",
        "",
        "# What the whole run may take; it then ends with the best found so far. Rows: designs decoded plus gradients taken.",
        "budget: {seconds: 60}",
        "# budget: {rows: 20000}",
        "# budget: {rows: 20000, seconds: 60}",
        "",
        "task:",
        _field("kind", "optimize", "search for latents whose designs reach what is asked; others: sample, interpolate"),
        *_target(decoder, given),
        *_objectives(decoder),
        *_starts(decoder),
        *_region(),
        *_search(decoder),
    ]
    return "\n".join(lines) + "\n"


def _decoder(decoder: Decoder, given: Given) -> list[str]:
    low, high = decoder.probe.low, decoder.probe.high
    shape = decoder.design_shape
    kind = "pictures of one channel" if is_picture(decoder) and shape[0] == 1 else "pictures in colour"
    what = f", {kind}" if is_picture(decoder) else ""
    gradient = "yes" if decoder.probe.differentiable else f"no: {decoder.probe.gradient_note}"
    encoder = "yes" if decoder.encoder is not None else "none: searches cannot start from a target's own code"
    words = {
        "factory": "code that makes the network, package.module:function",
        "factory_options": "what the factory is called with",
        "weights": "a state_dict or safetensors file, from this file's folder",
        "attribute": "the part that decodes",
        "encoder_attribute": "the part that encodes; false for none",
        "latent_shape": "of one latent",
    }
    fields = [_field(name, _flow(value), words.get(name, "")) for name, value in given.decoder.items()]
    more = []
    if "factory" in given.decoder:
        more = [
            "  # Further fields; without a word on the prior, N(0, I) is assumed:",
            "  # prior: normal",
            "  # value_range: [-1, 1]",
            "  # device: cuda",
        ]
        if decoder.encoder is not None:  # known designs tell what latents really follow
            more[1:1] = ["  # data: designs.npy"]
    notes = [f"#   note      {' '.join(note.split())}" for note in dict.fromkeys(decoder.notes)]
    return [
        "# What turns latents into designs. It was loaded and looked at:",
        f"#   latents   {_shape(decoder.latent_shape)}",
        f"#   designs   {_shape(shape)}{what}, values seen from {low:.3g} to {high:.3g}",
        f"#   encoder   {encoder}",
        f"#   gradient  {gradient}",
        f"#   prior     {decoder.space.prior.kind}, {decoder.space.evidence}",  # type: ignore[attr-defined]
        *notes,
        "decoder:",
        *fields,
        *more,
    ]


def _target(decoder: Decoder, given: Given) -> list[str]:
    where = "  # The design to reach: a picture, .npy or .safetensors file"
    own = f" It is {given.origin}: put your own here." if given.origin else ""
    found = [f"{where}, from this file's folder.{own}", _field("target", _flow(given.target), "")]
    if is_picture(decoder):
        found.append(f"  # target: {{path: {_flow(given.target)}, resize: true, gray: true}}")
    return found


def _objectives(decoder: Decoder) -> list[str]:
    ssim = ["  # objectives: [{kind: mse}, {kind: ssim, weight: 0.1}]"] if _is_large_picture(decoder) else []
    return [
        "  # What is good: numbers whose weighted sum is minimized; mse is the mean square distance to the target.",
        "  objectives: [{kind: mse}]",
        "  # objectives: [{kind: mse}, {kind: prior, weight: 0.001}]",
        *ssim,
        "  # objectives: [{kind: mse, goal: {at_most: 0.01}}, {kind: prior}]",
        "  # What must hold: an objective whose goal is a bound.",
        "  # constraints: [{kind: mse, goal: {at_most: 0.05}}]",
    ]


def _starts(decoder: Decoder) -> list[str]:
    code = ["encoder"] if decoder.encoder is not None else []
    words = "the target's own code, " if code else ""
    starts = [*code, "mean", {"kind": "prior", "n": 7 - len(code), "screened_from": 512}]
    return [
        f"  # Where the search sets out from. Without a word: {words}the prior's mean and the best few of many draws, as the",
        "  # budget allows. To say it yourself:",
        f"  # starts: {_flow(starts)}",
        "  # starts: [mean]",
        "  # starts: {kind: prior, n: 32}",
    ]


def _region() -> list[str]:
    return [
        "  # How far it may go: the ball that holds 99 % of what the prior draws. free has no limit, and the result says so.",
        "  region: {kind: ball, percentile: 99}",
        "  # region: {kind: shell, percentile: 99}",
        "  # region: free",
    ]


def _search(decoder: Decoder) -> list[str]:
    head = "  # How it moves: auto plans it for this problem and says what it chose. A list is a chain, a list in it a race."
    gradients = [
        "  # search: {kind: adam, lr: 0.1, steps: 300}",
        "  # search: [{kind: adam, steps: 100, keep: 4}, {kind: lbfgs, steps: 100}]",
        "  # search: [[{kind: adam}, {kind: lbfgs}]]",
    ]
    others = [
        "  # search: {kind: cmaes, evaluations: 2000}",
        "  # search: {kind: optuna, sampler: tpe, evaluations: 200}",
    ]
    return [head, "  search: auto", *(gradients if decoder.probe.differentiable else []), *others]


def is_picture(decoder: Decoder) -> bool:
    """Whether designs are grids of one channel or three."""
    shape = decoder.design_shape
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1


def _is_large_picture(decoder: Decoder) -> bool:
    return is_picture(decoder) and min(decoder.design_shape[1:]) >= 11  # the window of SSIM (Wang et al. 2004)


def _field(name: str, value: str, comment: str) -> str:
    line = f"  {name}: {value}"
    return (
        f"{line:<{_WIDTH}}# {comment}"
        if comment and len(line) < _WIDTH
        else f"{line}  # {comment}"
        if comment
        else line
    )


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + (" values" if len(shape) == 1 else "")

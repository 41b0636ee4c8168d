"""The command line's options as the plain data that a run file would hold, so that there is one way into a run."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentopt.errors import ConfigError
from latentopt.settings import Origins
from latentopt.yamltext import Place, parse_value, read_document

if TYPE_CHECKING:
    from latentopt.config import RunConfig


class Progress(StrEnum):
    """How a run's progress is shown (`latentopt.progress.watch`)."""

    AUTO, LINES, JSONL, NONE = "auto", "lines", "jsonl", "none"


_WEIGHTS = (".pt", ".pth", ".pt2", ".ckpt", ".bin", ".pkl", ".safetensors", ".onnx")

_DECODER: Place = ("decoder",)
# Which option says what, for errors to name it.
_NAMES: dict[Place, str] = {
    _DECODER: "--decoder",
    ("seed",): "--seed",
    ("budget", "rows"): "--rows",
    ("budget", "seconds"): "--seconds",
    ("task", "target"): "--target",
    ("task", "objectives"): "--objective",
    ("task", "constraints"): "--constraint",
    ("task", "measures"): "--measure",
    ("task", "starts"): "--starts",
    ("task", "region"): "--region",
    ("task", "search"): "--search",
    ("task", "n"): "-n",
    ("task", "sampler"): "--sampler",
    ("task", "keys"): "--keys",
    ("task", "designs"): "--between",
    ("task", "steps"): "--steps",
    ("task", "interpolator"): "--interpolator",
}


def given(**fields: Any) -> dict[str, Any]:
    """The fields that were given."""
    return {name: value for name, value in fields.items() if value is not None}


def value(text: str, option: str = "value") -> Any:
    """An option in YAML: a plain name, a number, or `{kind: ..., ...}`. Raises `ConfigError`."""
    if not text.strip():
        raise ConfigError(f"{option} is empty: give a kind, or '{{kind: ..., ...}}'")
    return parse_value(text, option)


def values(texts: Sequence[str] | None, option: str = "value") -> list[Any] | None:
    """Several such options; None where there is none."""
    return [value(text, option) for text in texts] if texts else None


def run_file(words: Sequence[str]) -> tuple[str, list[str]]:
    """The run file among the arguments, and the other words, which are searches.

    An option takes one value, so that of `--search adam lbfgs` the second arrives here, before or after the file.
    """
    place = next((i for i, word in enumerate(words) if word.endswith((".yaml", ".yml"))), 0)
    return words[place], [*words[:place], *words[place + 1 :]]


def starts(texts: Sequence[str] | None) -> list[Any] | None:
    """Starts by name or as YAML; what ends as a file of numbers does is one."""
    files = (".npy", ".safetensors")
    return [{"path": text} if text.endswith(files) else value(text, "--starts") for text in texts] if texts else None


def picture(path: Path, resize: bool, gray: bool) -> Any:
    """A design by file, with what may be done to it."""
    options = {name: True for name, chosen in (("resize", resize), ("gray", gray)) if chosen}
    return {"path": str(path), **options} if options else str(path)


def latents(path: Path) -> Any:
    """A run's folder stands for the latents in it."""
    return {"path": str(path / "result.safetensors"), "key": "latents"} if path.is_dir() else str(path)


def config_of(decoder: str, data: dict[str, Any], changes: Sequence[str] | None) -> RunConfig:
    """The config of these options. Paths in a decoder's file are relative to that file, all others to where one is."""
    from latentopt.config import make_config, with_changes

    if not decoder.strip():
        raise ConfigError("--decoder is empty: give the name of a decoder, or the YAML file that describes one")
    file = Path(decoder) if decoder.endswith((".yaml", ".yml")) else None
    if file is None and (decoder.endswith(_WEIGHTS) or Path(decoder).is_dir()):
        raise ConfigError(
            f"{decoder} is no decoder by itself, weights need their network: write 'kind: module', factory, weights and "
            "latent_shape into a YAML file and give that as --decoder"
        )
    document = None if file is None else read_document(file)
    chosen: Any = {"kind": decoder} if document is None else document.data.get("decoder", document.data)
    data, changed = with_changes({"decoder": chosen, **data}, changes or ())
    options = {**(_NAMES if file is None else {k: v for k, v in _NAMES.items() if k != _DECODER}), **changed}
    if file is not None and document is not None:
        alone = {"decoder": data["decoder"], "task": {"kind": "sample"}}
        whole = Origins(document, () if "decoder" in document.data else _DECODER, options)
        data["decoder"] = make_config(alone, folder=file.parent, where=whole).decoder
    return make_config(data, where=Origins(options=options))

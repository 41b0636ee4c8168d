"""The command line's options as the plain data that a run file would hold, so that there is one way into a run."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentopt.errors import ConfigError
from latentopt.yamltext import load_yaml, parse_value, set_path

if TYPE_CHECKING:
    from latentopt.config import RunConfig


class Progress(StrEnum):
    """How a run's progress is shown (`latentopt.progress.watch`)."""

    AUTO, LINES, JSONL, NONE = "auto", "lines", "jsonl", "none"


_WEIGHTS = (".pt", ".pth", ".pt2", ".ckpt", ".bin", ".pkl", ".safetensors", ".onnx")


def given(**fields: Any) -> dict[str, Any]:
    """The fields that were given."""
    return {name: value for name, value in fields.items() if value is not None}


def value(text: str) -> Any:
    """An option in YAML: a plain name, a number, or `{kind: ..., ...}`. Raises `ConfigError`."""
    return parse_value(text)


def values(texts: Sequence[str] | None) -> list[Any] | None:
    """Several such options; None where there is none."""
    return [value(text) for text in texts] if texts else None


def run_file(words: Sequence[str]) -> tuple[str, list[str]]:
    """The run file among the arguments, and the other words, which are searches.

    An option takes one value, so that of `--search adam lbfgs` the second arrives here, before or after the file.
    """
    place = next((i for i, word in enumerate(words) if word.endswith((".yaml", ".yml"))), 0)
    return words[place], [*words[:place], *words[place + 1 :]]


def starts(texts: Sequence[str] | None) -> list[Any] | None:
    """Starts by name or as YAML; what ends as a file of numbers does is one."""
    files = (".npy", ".safetensors")
    return [{"path": text} if text.endswith(files) else value(text) for text in texts] if texts else None


def picture(path: Path, resize: bool, gray: bool) -> Any:
    """A design by file, with what may be done to it."""
    options = {name: True for name, chosen in (("resize", resize), ("gray", gray)) if chosen}
    return {"path": str(path), **options} if options else str(path)


def latents(path: Path) -> Any:
    """A run's folder stands for the latents in it."""
    return {"path": str(path / "result.safetensors"), "key": "latents"} if path.is_dir() else str(path)


def config_of(decoder: str, data: dict[str, Any], changes: Sequence[str] | None) -> RunConfig:
    """The config of these options. Paths in a decoder's file are relative to that file, all others to where one is."""
    from latentopt.config import make_config

    file = Path(decoder) if decoder.endswith((".yaml", ".yml")) else None
    if file is None and (decoder.endswith(_WEIGHTS) or Path(decoder).is_dir()):
        raise ConfigError(
            f"{decoder} is no decoder by itself, weights need their network: write 'kind: module', factory, weights and "
            "latent_shape into a YAML file and give that as --decoder"
        )
    chosen: Any = {"kind": decoder}
    if file is not None:
        held = load_yaml(file)
        chosen = held.get("decoder", held)
    data = {"decoder": chosen, **data}
    for change in changes or ():
        data = set_path(data, change)
    if file is not None:
        alone = {"decoder": data["decoder"], "task": {"kind": "sample"}}
        data["decoder"] = make_config(alone, folder=file.parent, where=str(file)).decoder
    return make_config(data)

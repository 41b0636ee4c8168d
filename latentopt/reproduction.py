"""reproduce(): the run of a folder, or of a picture, once more, and whether it ends with the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latentopt import api, origin, store, trust
from latentopt.budget import Report
from latentopt.config import OptimizeTask, RunConfig, received_config
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, InputFileError
from latentopt.origin import COMPARED
from latentopt.planning import plan
from latentopt.result import SUMMARY, TENSORS, Draws, Result
from latentopt.runfolder import (
    ABOUT,
    changed_since,
    decoder_identity,
    read_about,
    read_config_json,
    tensor_sha256,
    versions,
)

OnReport = Callable[[Report], object]


@dataclass(frozen=True)
class Reproduction:
    """Whether a run came out the same. `differences` say in words which of its tensors did not, `notes` what may be why.

    `found` is what the second run found, `compared` which tensors were held against the first's.
    """

    found: Result | Draws
    compared: tuple[str, ...]
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether every compared tensor has the same bits."""
        return not self.differences

    def __repr__(self) -> str:
        words = "the same bits" if self.same else "; ".join(self.differences)
        return f"Reproduction({', '.join(self.compared)}: {words})"

    def summary(self) -> dict[str, Any]:
        """The verdict as plain data, for JSON."""
        return {
            "same": self.same,
            "compared": list(self.compared),
            "differences": self.differences,
            "notes": self.notes,
            "found": self.found.summary(),
        }


@dataclass(frozen=True)
class Kept:
    """A run as it was kept: its config, the sums of what it found, its tensors where they are there, and its versions."""

    plain: dict[str, Any]
    folder: Path
    where: str
    sums: dict[str, str]
    tensors: dict[str, Tensor]
    versions: dict[str, str]
    about: dict[str, Any] = field(default_factory=dict)

    def config(self, *, trust_code: bool, **given: Any) -> RunConfig:
        """Its config, for which nothing is imported or opened. Raises `ConfigError`."""
        return received_config(self.plain, self.folder, where=self.where, trust_code=trust_code, **given)


def reproduce(
    source: str | Path,
    *,
    decoder: Any = None,
    objectives: Any = None,
    constraints: Any = None,
    measures: Any = None,
    out: str | Path | None = None,
    trust_code: bool = False,
    on_report: OnReport | None = None,
) -> Reproduction:
    """Run what a folder or a picture holds again, with its config and seed, and compare latents, designs and losses by bits.

    Args:
        source: the folder of a run, or a PNG that was drawn into one.
        decoder: the one that was given in Python, which no file can hold.
        objectives: likewise.
        constraints: likewise.
        measures: likewise.
        out: a new folder to keep the second run in.
        trust_code: whether the source may name code, and files outside of it: give it to runs of your own.
        on_report: called with a `Report` as the run goes on.

    Raises `InputFileError` where there is nothing to compare with, or damage; `ConfigError` where the config cannot run.
    """
    with kept(source) as run:
        built = None if decoder is None else api.load_decoder(decoder)
        given = {"objectives": objectives, "constraints": constraints, "measures": measures}
        config = run.config(trust_code=trust_code, decoder=built, **given)
        return again(run, config, built or api.load_decoder(config.decoder), out=out, on_report=on_report)


def again(
    run: Kept, config: RunConfig, decoder: Any, *, out: str | Path | None = None, on_report: OnReport | None = None
) -> Reproduction:
    """The second run and its comparison, for a decoder that is built already."""
    found = api.run_with(config, decoder, out=out, on_report=on_report)
    sums = origin.sums_of(found)
    compared = [name for name in COMPARED if name in run.sums]
    differences = [
        _difference(name, run.tensors.get(name), getattr(found, name, None))
        for name in compared
        if sums.get(name) != run.sums[name]
    ]
    notes = _notes(run, config, bool(differences))
    if differences:
        notes = [*_changed(run, config, decoder), *notes]
    return Reproduction(found, tuple(compared), differences, notes)


def _changed(run: Kept, config: RunConfig, decoder: Decoder) -> list[str]:
    """What is not as it was, where the run's folder says how that was."""
    was, now = run.about.get("decoder"), decoder_identity(decoder)
    if was is not None and was != now:
        return [f"the decoder is {now}, and was {was}: its weights have changed"]
    if not isinstance(config.task, OptimizeTask) or not run.about.get("seen"):
        return []
    seen = plan(config, decoder).problem.seen
    return [f"{one} since it ran" for one in changed_since(run.about, seen, exact=run.versions == versions())]


def _difference(name: str, first: Tensor | None, second: Tensor | None) -> str:
    """How a tensor differs, in words."""
    if first is None or second is None:
        return f"{name} differ (the first run's are not here: only their sum is)"
    if first.shape != second.shape or first.dtype != second.dtype:
        return f"{name} differ: {_kind(second)}, and {_kind(first)} the first time"
    apart = (first.double() - second.double()).abs()
    apart = apart[~(first == second)].nan_to_num(torch.inf, posinf=torch.inf)
    if not len(apart):
        return f"{name} differ in the signs of zeros alone"
    return f"{name} differ in {len(apart)} of {first.numel()} values, by up to {float(apart.max()):.3g}"


def _kind(value: Tensor) -> str:
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


def _notes(run: Kept, config: RunConfig, differ: bool) -> list[str]:
    here = versions()
    other = [f"{name} {here.get(name)} (was {old[:50]})" for name, old in run.versions.items() if here.get(name) != old]
    notes = [f"this is not what it ran with: {', '.join(other[:8])}"] if other else []
    if not run.versions:
        notes.append("the run does not say which versions it ran with")
    if differ and config.budget.seconds is not None:
        notes.append(f"its budget of {config.budget.seconds:g} s may end it at another step each time")
    return notes


# ---------------------------------------------------------------------- what was kept


@contextmanager
def kept(source: str | Path) -> Iterator[Kept]:
    """A run as its folder or picture holds it; nothing in it is imported. Raises `InputFileError`."""
    path = Path(source)
    if path.is_dir():
        yield _of_folder(path)
        return
    if not path.exists():
        raise InputFileError(f"there is no {path}: give the folder of a run, or a PNG that was drawn into one")
    about = origin.read(path)
    with origin.folder_for(about, path) as folder:
        yield Kept(about.config, folder, str(path), about.sums, _beside(path, about.sums), about.versions)


def _of_folder(folder: Path) -> Kept:
    trust.check_folder(folder)
    about = read_about(folder) if (folder / ABOUT).exists() else {}
    plain = read_config_json(folder)
    if not (folder / TENSORS).exists():
        raise InputFileError(
            f"{folder} holds no result to compare with: the run has not ended; go on with it by resume"
        )
    store.check_manifest(folder)
    try:
        stopped = json.loads((folder / SUMMARY).read_bytes()).get("stopped", "finished")
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, RecursionError, AttributeError, SafetensorError) as error:
        raise InputFileError(f"the run in {folder} cannot be read ({error}): it is damaged") from None
    if stopped == "interrupted":
        raise ConfigError(f"the run in {folder} was interrupted, where no other would be: end it by resume first")
    found = {name: tensors[name] for name in COMPARED if name in tensors}
    if not found:
        raise InputFileError(f"{folder / TENSORS} holds neither latents nor designs: it is damaged")
    old = {str(name): str(value) for name, value in about.get("versions", {}).items()}
    return Kept(
        plain, folder, str(folder), {name: tensor_sha256(value) for name, value in found.items()}, found, old, about
    )


def _beside(path: Path, sums: dict[str, str]) -> dict[str, Tensor]:
    """The tensors of the run that a picture lies in the folder of, to say how much differs; nothing where it is another's."""
    folder = path.parent
    if not ((folder / SUMMARY).is_file() and (folder / TENSORS).is_file()):
        return {}
    try:
        trust.check_folder(folder)
        tensors = load_file(folder / TENSORS)
    except (OSError, InputFileError, SafetensorError):
        return {}
    return {name: tensors[name] for name in sums if name in tensors and tensor_sha256(tensors[name]) == sums[name]}

"""What a run returns, and the folder it is kept in: config, tensors, history, summary. No pickles."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from latentopt import cards, store
from latentopt.errors import ConfigError, InputFileError
from latentopt.realism import Realism
from latentopt.trust import check_folder

SCHEMA = 1
TENSORS, SUMMARY, CONFIG, HISTORY = "result.safetensors", "result.json", "config.json", "history.jsonl"
ARRAYS = "arrays.safetensors"  # the name that the Array field writes into a saved config

# Answers that count as different, as shares of how far apart two draws of the prior lie in latents and in designs. On the
# digits decoder 64 rows that reached one optimum ended within 0.03 in designs (and up to 0.2 in latents, along directions
# that hardly show), while of the decoded examples of one and the same digit 99 % of the pairs lie 0.38 or more apart.
_APART = (0.1, 0.25)
_PAIRED = 64  # rows whose designs are compared where a run does not know its decoder's spread


@dataclass(frozen=True)
class Cost:
    """Decoded rows, rows whose gradient was taken, and seconds of wall time."""

    forward_rows: int
    backward_rows: int
    seconds: float

    @property
    def rows(self) -> int:
        """Forward plus backward rows: what a budget counts."""
        return self.forward_rows + self.backward_rows


@dataclass(frozen=True)
class Best:
    """The best row of each target. With one target no leading axis; with T, every entry leads with T."""

    latent: Tensor
    design: Tensor
    loss: Any
    terms: dict[str, Any]
    realism: Realism
    feasible: Any
    measures: dict[str, Any]


class Asked(NamedTuple):
    """One term as the run's config has it, in plain data, and whether it is a constraint."""

    plain: Any
    constraint: bool


@dataclass(frozen=True)
class Result:
    """N designs, ordered by target, then by loss (feasible ones first), on the CPU.

    `latents (N, *latent_shape)`, `designs (N, ...)`, `losses (N,)`, `target_index (N,)`, `violations (N,)` (0 where every
    constraint holds), `best_steps (N,)` (the step of the last stage at which each row was best, 0 for its start), `terms`
    by name `(N,)` with their raw sign, `measures` by name `(N,)`: what took no part in the search, `targets (T, ...)`
    where designs were to be matched, `realism`, `cost`, `history` (one entry a report), `config` (as plain data, its
    numbers by value in `arrays`), `stopped` ("finished", "budget" or "interrupted"), `diverged` (rows lost to NaN or
    infinity), `notes`, and `search`: what the stages kept as a whole, such as a subspace's `centre_D` and `basis_DK`, by
    "stage.name". `latent_std (D,)` is the prior's standard deviation of each latent value, and `design_spread` the median
    root mean square difference between designs of a few draws from it: what `top` measures distances by (None in runs
    that were saved without them). `starts (S, D)` are starts of the search and `prior_draws (P, D)` draws from the prior,
    at most 256 of each and fewer of long latents: what a map is drawn over.
    `paths (R, T', D)` are the latents of the best rows of the first targets, at most 8 and fewer of long latents, at each
    of the R entries of `history`; NaN where there were none yet, None where latents have more than 8192 values.

    Of a front the rows are its members; of a target without a feasible design, its best rows. `hypervolumes (T,)` is the
    volume that each target's front dominates, in the units of its weighted objectives multiplied, up to `reference (T, K)`:
    the worst of each objective over the starts.
    """

    latents: Tensor
    designs: Tensor
    losses: Tensor
    target_index: Tensor
    violations: Tensor
    best_steps: Tensor
    terms: dict[str, Tensor]
    realism: Realism
    cost: Cost
    history: list[dict[str, Any]]
    config: dict[str, Any]
    targets: Tensor | None = None
    stopped: str = "finished"
    diverged: int = 0
    notes: list[str] = field(default_factory=list)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    search: dict[str, Tensor] = field(default_factory=dict)
    hypervolumes: Tensor | None = None
    reference: Tensor | None = None
    latent_std: Tensor | None = None
    design_spread: float | None = None
    starts: Tensor | None = None
    prior_draws: Tensor | None = None
    paths: Tensor | None = None
    measures: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.losses)

    def __repr__(self) -> str:
        if not len(self):
            return f"Result(no designs, {self.stopped})"
        losses = ", ".join(f"{float(loss):.4g}" for loss in torch.as_tensor(self.best.loss).flatten()[:4])
        more = ", ..." if self.n_targets > 4 else ""
        words = "; ".join(filter(None, [self.stopped, self.infeasible(), str(self.realism)]))
        return f"Result({len(self)} designs, best loss {losses}{more}, {words})"

    def infeasible(self) -> str:
        """How the best rows break the constraints, in words; empty where they keep them."""
        first = self.firsts()
        broken = first[~self.feasible[first]]
        if not len(broken):
            return ""
        which = f" for {len(broken)} of {len(first)} targets" if len(first) > 1 else ""
        most = f"{'up to ' if len(broken) > 1 else ''}{float(self.violations[broken].max()):.3g}"
        return f"no design keeps the constraints{which}: the best break them by {most}"

    def firsts(self) -> Tensor:
        """Indices of the first row of each target that has any: its best."""
        first = [int(torch.nonzero(self.target_index == t)[0, 0]) for t in sorted(set(self.target_index.tolist()))]
        return torch.tensor(first, dtype=torch.long)

    @property
    def feasible(self) -> Tensor:
        """Whether every constraint holds, `(N,)`."""
        return self.violations == 0

    @property
    def constrained(self) -> bool:
        """Whether there were constraints to keep."""
        return bool(self.config.get("task", {}).get("constraints"))

    @property
    def n_targets(self) -> int:
        """T, the number of targets."""
        return int(self.target_index.max()) + 1 if len(self) else 0

    @property
    def best(self) -> Best:
        """The first row of each target: its best. Raises `ConfigError` where there is no row at all."""
        rows = self.firsts()
        if not len(rows):
            raise ConfigError("these are no designs at all, so none is the best: look at len() first")
        found = self.take(rows)
        if len(rows) > 1:
            figures = found.latents, found.designs, found.losses, found.terms
            return Best(*figures, found.realism, found.feasible, found.measures)
        terms, measures = ({name: float(v[0]) for name, v in part.items()} for part in (found.terms, found.measures))
        figures = found.latents[0], found.designs[0], float(found.losses[0]), terms  # type: ignore[assignment]
        return Best(*figures, found.realism, bool(found.feasible[0]), measures)

    def take(self, rows: Tensor) -> Result:
        """The same result of these rows alone (indices, in this order)."""
        parts: dict[str, Any] = {name: getattr(self, name)[rows] for name in _ROW_FIELDS}
        for name in ("terms", "measures"):
            parts[name] = {each: value[rows] for each, value in getattr(self, name).items()}
        return Result(**{**self.__dict__, **parts, "realism": self.realism.take(rows)})

    def top(self, k: int, target: int = 0, distinct: bool | float | tuple[float, float] = False) -> Result:
        """The k best rows of one target, fewer where there are fewer.

        `distinct` asks for answers apart: best first, each row must lie at least so far from every one taken before it.

        - A number is the least distance of latents: root mean square over the latent values, in the prior's standard
          deviations.
        - `(latent, design)` are the least distances of both, that of designs as root mean square in design units.
        - `True` takes a tenth of the distance between two draws of the prior for latents (which is the root of 2), and a
          quarter of that between their designs: what looks the same, or is a hair's breadth away, is one answer.

        Raises `ConfigError` for a target that does not exist, or distances that are not numbers of at least 0.
        """
        rows = torch.nonzero(self.target_index == target)[:, 0]
        if not len(rows):
            raise ConfigError(f"target {target} has no rows: targets go from 0 to {self.n_targets - 1}")
        if k < 0:
            raise ConfigError(f"top takes a number of rows, got {k}")
        if distinct is False or distinct is None:
            return self.take(rows[:k])
        latent, design = self._thresholds(distinct, rows)
        z_ND = self.latents.flatten(1).double()
        z_ND = z_ND if self.latent_std is None else z_ND / self.latent_std

        def apart(row: int, other: int) -> bool:
            if _root_mean_square(z_ND[row] - z_ND[other]) < latent:
                return False
            return design == 0 or _root_mean_square(self.designs[row].double() - self.designs[other].double()) >= design

        kept: list[int] = []
        for row in rows.tolist():
            if len(kept) == k:
                break
            if all(apart(row, other) for other in kept):
                kept.append(row)
        return self.take(torch.tensor(kept, dtype=torch.long))

    def _thresholds(self, distinct: float | tuple[float, float], rows: Tensor) -> tuple[float, float]:
        """The least distances of latents and of designs. Raises `ConfigError`."""
        if distinct is True:
            spread = self.design_spread
            if not spread:  # draws that are all alike, or a run saved without it: by the designs found
                pairs = torch.pdist(self.designs[rows[:_PAIRED]].flatten(1).double())
                spread = float(pairs.median()) / math.sqrt(self.designs[0].numel()) if len(pairs) else 0.0
            return _APART[0] * math.sqrt(2), _APART[1] * spread
        given = distinct if isinstance(distinct, tuple | list) else (distinct, 0.0)
        if len(given) != 2 or not all(isinstance(one, int | float) and 0 <= one < math.inf for one in given):
            raise ConfigError(
                f"distinct must be True, a least distance of latents, or (latent, design), with numbers of at least 0, got "
                f"{distinct!r}"
            )
        return float(given[0]), float(given[1])

    def front(self, target: int = 0) -> Result:
        """The members of one target's front, ordered along its first objective: feasible ones, so none where none was found.

        Raises `ConfigError` where the run has no front, or no such target.
        """
        if self.reference is None:
            raise ConfigError("this run has no front: ask for one with pareto=True and two objectives or more")
        rows = torch.nonzero(self.target_index == target)[:, 0]
        if not len(rows):
            raise ConfigError(f"target {target} has no rows: targets go from 0 to {self.n_targets - 1}")
        rows, first = rows[self.feasible[rows]], self.terms[self.objectives[0]]
        return self.take(rows[first[rows].argsort(stable=True)])

    def asked(self) -> dict[str, Asked]:
        """What the config says of each term, by name; empty where it does not say it of all of them."""
        task = self.config.get("task")
        parts = [(task if isinstance(task, dict) else {}).get(name) for name in ("objectives", "constraints")]
        lists = [one if isinstance(one, list) else [] if one is None else [one] for one in parts]
        told = [Asked(one, place == 1) for place, some in enumerate(lists) for one in some]
        return dict(zip(self.terms, told, strict=True)) if len(told) == len(self.terms) else {}

    @property
    def objectives(self) -> list[str]:
        """Names of the terms that a front trades off, the constraints left out; all terms where there is no front."""
        return list(self.terms)[: None if self.reference is None else self.reference.shape[1]]

    def summary(self) -> dict[str, Any]:
        """The figures of the best rows and of the whole run as plain data, for JSON."""
        best = self.best
        plain: Callable[[Any], Any] = lambda value: value.tolist() if isinstance(value, Tensor) else value  # noqa: E731
        return {
            "best": {
                "loss": plain(best.loss),
                "terms": {name: plain(value) for name, value in best.terms.items()},
                **({"measures": {name: plain(v) for name, v in best.measures.items()}} if self.measures else {}),
                "feasible": plain(best.feasible),
                "realism": best.realism.summary(),
            },
            "designs": len(self),
            "targets": self.n_targets,
            "cost": asdict(self.cost),
            "stopped": self.stopped,
            "diverged": self.diverged,
            "notes": self.notes,
            **({} if self.hypervolumes is None else {"hypervolumes": self.hypervolumes.tolist()}),
        }

    def _repr_html_(self) -> str:
        return cards.of_result(self)

    def save(self, folder: str | Path) -> Path:
        """Write the result into a new folder. Raises `ConfigError` where it exists and holds something."""
        path = store.new_folder(folder)
        save_config(path, self.config, self.arrays)
        store.write(path / HISTORY, "".join(json.dumps(entry) + "\n" for entry in self.history).encode())
        self.write(path)
        store.write_manifest(path)
        return path

    def write(self, path: Path) -> None:
        """Write tensors and summary into a folder that is there, in the place of older ones."""
        tensors = {name: getattr(self, name) for name in _ROW_FIELDS}
        tensors |= {f"terms.{name}": value for name, value in self.terms.items()}
        tensors |= {f"measures.{name}": value for name, value in self.measures.items()}
        tensors |= {f"realism.{name}": value for name, value in self.realism.tensors().items()}
        tensors |= {f"search.{name}": value for name, value in self.search.items()}
        tensors |= {name: value for name in _WHOLE if (value := getattr(self, name)) is not None}
        facts = {name: value for name, value in self.realism.__dict__.items() if not isinstance(value, Tensor)}
        facts = {name: value for name, value in facts.items() if name not in _OPTIONAL}
        about = {
            "schema": SCHEMA,
            "cost": asdict(self.cost),
            "stopped": self.stopped,
            "diverged": self.diverged,
            "notes": self.notes,
            "design_spread": self.design_spread,
            "realism": facts,
            "terms": list(self.terms),
            "measures": list(self.measures),
            **({"best": self.summary()["best"], "designs": len(self)} if len(self) else {}),  # for lists of runs
        }
        _save_tensors(path / TENSORS, tensors)
        store.write_json(path / SUMMARY, about)


_OPTIONAL = ("cycle_error", "nearest_known")
_ROW_FIELDS = ("latents", "designs", "losses", "target_index", "violations", "best_steps")
_WHOLE = ("targets", "latent_std", "hypervolumes", "reference", "starts", "prior_draws", "paths")


def _root_mean_square(difference: Tensor) -> float:
    return float(difference.double().square().mean().sqrt())


@dataclass(frozen=True)
class Draws:
    """Latents `(N, *latent_shape)` and their designs `(N, ...)`, always together, with their realism, on the CPU.

    `times (N,)` are the places in [0, 1] along a path; None for draws.
    """

    latents: Tensor
    designs: Tensor
    realism: Realism
    cost: Cost
    config: dict[str, Any]
    times: Tensor | None = None
    arrays: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.latents)

    def __repr__(self) -> str:
        return f"Draws({len(self)} designs; {self.realism})"

    def summary(self) -> dict[str, Any]:
        """The figures as plain data, for JSON."""
        figures: dict[str, Any] = {"designs": len(self), "cost": asdict(self.cost), "realism": str(self.realism)}
        if self.times is not None:
            figures["times"] = self.times.tolist()
        return figures

    def _repr_html_(self) -> str:
        return cards.of_draws(self)

    def save(self, folder: str | Path) -> Path:
        """Write latents, designs and config into a new folder. Raises `ConfigError` where it exists."""
        path = store.new_folder(folder)
        save_config(path, self.config, self.arrays)
        self.write(path)
        store.write_manifest(path)
        return path

    def write(self, path: Path) -> None:
        """Write tensors and summary into a folder that is there, in the place of older ones."""
        tensors = {"latents": self.latents, "designs": self.designs}
        tensors |= {f"realism.{name}": value for name, value in self.realism.tensors().items()}
        if self.times is not None:
            tensors["times"] = self.times
        _save_tensors(path / TENSORS, tensors)
        store.write_json(path / SUMMARY, {"schema": SCHEMA, **self.summary()})


def save_config(path: Path, config: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    """Write a run's config, and the numbers that it holds by value."""
    if arrays:
        _save_tensors(path / ARRAYS, arrays)
    store.write_json(path / CONFIG, config)


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    store.write(path, save({name: value.contiguous().cpu() for name, value in tensors.items()}))


def load(folder: str | Path) -> Result:
    """The result that `save` wrote. Raises `InputFileError` where it is missing, damaged or from a newer version."""
    path = Path(folder)
    if not path.is_dir():
        looked = "" if path.is_absolute() else f" (looked in {Path.cwd()})"
        raise InputFileError(f"there is no folder {path}{looked}: give the folder of a run, as out= or --out named it")
    check_folder(path)
    store.check_manifest(path)
    try:
        about = json.loads((path / SUMMARY).read_text())
        config = json.loads((path / CONFIG).read_text())
        history = [json.loads(line) for line in (path / HISTORY).read_text().splitlines()]
        tensors = load_file(path / TENSORS)
        arrays = load_file(path / ARRAYS) if (path / ARRAYS).exists() else {}
    except FileNotFoundError as error:
        raise InputFileError(
            f"{path} is not the folder of an optimize run: {Path(error.filename).name} is missing"
        ) from None
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise InputFileError(f"the run in {path} cannot be read ({error}): it is damaged") from None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        raise InputFileError(
            f"the run in {path} has schema {about.get('schema') if isinstance(about, dict) else None}, "
            f"this version reads {SCHEMA}: update latentopt"
        )
    if not all(_sound(entry) for entry in history):
        raise InputFileError(f"{path / HISTORY} holds something else than reports: it is damaged")
    try:
        whole: dict[str, Any] = {name: tensors.get(name) for name in _WHOLE}
        realism = Realism(**about["realism"], **_under("realism.", tensors, optional=_OPTIONAL))
        return Result(
            **{name: tensors[name] for name in _ROW_FIELDS},
            terms={name: tensors[f"terms.{name}"] for name in about.get("terms", _under("terms.", tensors))},
            measures={name: tensors[f"measures.{name}"] for name in about.get("measures", ())},
            realism=realism,
            cost=Cost(**about["cost"]),
            history=history,
            config=config,
            **whole,
            stopped=about["stopped"],
            diverged=about["diverged"],
            notes=about["notes"],
            arrays=arrays,
            search=_under("search.", tensors),
            design_spread=about.get("design_spread"),
        )
    except (KeyError, TypeError) as error:
        raise InputFileError(f"the run in {path} cannot be read ({error}): it is damaged") from None


_NUMBERS = ("stage", "step", "forward_rows", "backward_rows", "seconds")


def _sound(entry: Any) -> bool:
    """Whether an entry of the history is a report."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return False
    lists = [entry.get(name) for name in ("best_T", "rows_N")]
    if not all(isinstance(one, list) and all(isinstance(value, int | float) for value in one) for one in lists):
        return False
    return all(isinstance(entry.get(name), int | float) for name in _NUMBERS)


def _under(prefix: str, tensors: dict[str, Tensor], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    for name in optional:
        found.setdefault(name, None)
    return found

"""What a comparison of searches found: a standing for each search, curves over rows and seconds, table and files."""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from latentopt.budget import Budget
from latentopt.errors import InputFileError
from latentopt.store import new_folder, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

_STAYS = 0.9  # a search leaves the prior when a smaller share of its best designs is inside


@dataclass(frozen=True)
class Curve:
    """The best loss so far over rows or seconds `at_G`: median, least and most over seeds `(G,)`.

    NaN before every seed has a loss, and after the last seed has ended; a seed that has ended earlier keeps its loss.
    """

    at_G: Floats
    median_G: Floats
    low_G: Floats
    high_G: Floats


@dataclass(frozen=True)
class SeedRun:
    """One search with one seed: figures of the best design of each target, and what was known at each report `(R,)`.

    `loss` is the median over targets: a mean would be the loss of the worst target, and losses may be negative, which
    rules a geometric mean out. `inside` and `feasible` are shares of the targets' best designs.
    """

    seed: int
    loss: float
    inside: float
    feasible: float
    rows: int
    seconds: float
    stopped: str
    rows_R: Floats
    seconds_R: Floats
    loss_R: Floats


@dataclass(frozen=True)
class Standing:
    """One search over all seeds. `search` is its chain as it was run, sizes included, as plain data."""

    name: str
    search: list[dict[str, Any]]
    runs: tuple[SeedRun, ...]
    by_rows: Curve
    by_seconds: Curve

    def over_seeds(self, figure: str) -> list[float]:
        """One figure of each run, by the field's name."""
        return [float(getattr(run, figure)) for run in self.runs]

    @property
    def loss(self) -> float:
        """The median over seeds of the best loss."""
        return statistics.median(self.over_seeds("loss"))

    @property
    def inside(self) -> float:
        """The share of the best designs, of all targets and seeds, that lie inside what the decoder knows."""
        return statistics.fmean(self.over_seeds("inside"))

    @property
    def feasible(self) -> float:
        """The share of the best designs that keep to every constraint."""
        return statistics.fmean(self.over_seeds("feasible"))

    @property
    def leaves_prior(self) -> bool:
        """Whether more than one in ten of the best designs lie outside what the decoder knows."""
        return self.inside < _STAYS


@dataclass(frozen=True)
class Comparison:
    """Searches on one problem from the same starts with one budget, best first.

    `baseline` names the random draws among them, `left_out` says why a search could not take part.
    """

    FILES: ClassVar[tuple[str, ...]] = ("compare.png", "compare.json", "compare.csv")

    standings: tuple[Standing, ...]
    baseline: str
    budget: Budget
    seeds: tuple[int, ...]
    targets: int
    constrained: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    def __getitem__(self, name: str) -> Standing:
        for one in self.standings:
            if one.name == name:
                return one
        raise KeyError(name)

    def times_better(self, name: str) -> float | None:
        """The baseline's loss over this search's (medians over seeds); None where a loss is not above zero."""
        mine, base = self[name].loss, self[self.baseline].loss
        return base / mine if mine > 0 and base > 0 else None

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of text, best first."""
        heads = ["search", "best loss", "min..max", "rows", "time", f"x {self.baseline}", "inside"]
        rows = []
        for one in self.standings:
            losses, better = one.over_seeds("loss"), self.times_better(one.name)
            spent, seconds = (statistics.median(one.over_seeds(name)) for name in ("rows", "seconds"))
            cells = [one.name, f"{one.loss:.4g}", f"{min(losses):.3g}..{max(losses):.3g}", f"{spent:.0f}"]
            cells += [f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"]
            cells += ["-" if better is None else f"{better:.3g}"]
            cells += [f"{one.inside:.0%}" + "*" * one.leaves_prior]
            rows.append(cells + ([f"{one.feasible:.0%}"] if self.constrained else []))
        return heads + (["feasible"] if self.constrained else []), rows

    def about(self) -> str:
        """Budget, seeds and targets in words."""
        limit = "" if self.budget.seconds is None else f" and at most {self.budget.seconds:g} s"
        seeds = f"{len(self.seeds)} seed" + "s" * (len(self.seeds) != 1)
        targets = f", median of {self.targets} targets" if self.targets > 1 else ""
        return f"{seeds}, {self.budget.rows} rows{limit} a run{targets}"

    def remarks(self) -> list[str]:
        """What the table's star means where there is one, and who was left out."""
        star = "* leaves the prior: more than one in ten of its best designs lie outside what the decoder knows"
        stars = [star] if any(one.leaves_prior for one in self.standings) else []
        return [*stars, *(f"left out: {name}: {why}" for name, why in self.left_out.items())]

    def __str__(self) -> str:
        heads, rows = self.table()
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)]
        return "\n".join([*lines, self.about(), *self.remarks()])

    def summary(self) -> dict[str, Any]:
        """The figures of every search and run as plain data, for JSON; the curves go to `save`'s CSV."""
        figures = ("seed", "loss", "inside", "feasible", "rows", "seconds", "stopped")
        searches = [
            {
                "name": one.name,
                "loss": {"median": one.loss, "min": min(losses), "max": max(losses)},
                "rows": statistics.median(one.over_seeds("rows")),
                "seconds": statistics.median(one.over_seeds("seconds")),
                "times_better": self.times_better(one.name),
                "inside": one.inside,
                "leaves_prior": one.leaves_prior,
                "feasible": one.feasible,
                "search": one.search,
                "runs": [{name: getattr(run, name) for name in figures} for run in one.runs],
            }
            for one in self.standings
            for losses in [one.over_seeds("loss")]
        ]
        return {
            "searches": searches,
            "baseline": self.baseline,
            "budget": self.budget.model_dump(),
            "seeds": list(self.seeds),
            "targets": self.targets,
            "left_out": self.left_out,
            "notes": self.notes,
            "interrupted": self.interrupted,
        }

    def picture(self) -> Figure:
        """The best loss so far over rows and over seconds, with the range over seeds, as a matplotlib figure."""
        from latentopt.curves import compared

        return compared(self)

    def save(self, folder: str | Path) -> Path:
        """Write `compare.png`, `compare.json` (the summary) and `compare.csv` (the curves) into a new folder.

        Returns its path. Raises `ConfigError` where the folder holds something, `InputFileError` where it is full.
        """
        path, (png, figures, curves) = new_folder(folder), self.FILES
        try:
            self.picture().savefig(path / png)
            write_json(path / figures, self.summary())
            with (path / curves).open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["search", "axis", "at", "median", "min", "max"])
                for one in self.standings:
                    for axis, curve in (("rows", one.by_rows), ("seconds", one.by_seconds)):
                        parts = (curve.at_G, curve.median_G, curve.low_G, curve.high_G)
                        table = np.column_stack(parts)[~np.isnan(curve.median_G)]
                        writer.writerows([one.name, axis, *row] for row in table.tolist())
        except OSError as error:
            raise InputFileError(
                f"cannot write into {path} ({error.strerror or error}): choose another place"
            ) from None
        return path

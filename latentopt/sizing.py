"""Sizing searches so that each uses up one budget: `steps` or `evaluations`, where the user left them to their defaults."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from latentopt.interfaces import SearchConfig
from latentopt.result import Result

SIZES = ("steps", "evaluations")
_PILOT_STEPS = 3

Entry = SearchConfig | list[SearchConfig]  # one search, or several that race
Run = Callable[[list[Entry]], Result]


def size_field(search: SearchConfig) -> str | None:
    """The field that sizes a search, or None where it has none or its user has set one."""
    sizes = [name for name in SIZES if name in type(search).model_fields]
    return sizes[0] if sizes and not search.model_fields_set.intersection(sizes) else None


def fitted(chain: Sequence[Entry], rows: int, targets: int, run: Run) -> list[Entry]:
    """The stages of a chain, those without a size sized so that the whole chain spends `rows`.

    What a step costs, what screening and the final decode take and how many rows go on to the next stage is measured with
    `run`, a short run of the chain; where steps differ in cost (line searches, rounds of multipliers), with a second one of
    the size found. Stages without a size share equally what those with one leave over, and so do the entrants of a race. A
    search that is sized in evaluations and stands alone needs no such run: the budget ends it, and it follows no schedule.
    """
    chain = list(chain)
    for index, entry in enumerate(chain):
        if _is_sized(entry):
            continue
        if len(chain) == 1 and isinstance(entry, SearchConfig) and size_field(entry) == "evaluations":
            return [_resized(entry, "evaluations", rows // targets)]
        pilot = run([_short(one) for one in chain])
        size = _Sizes(chain, index, rows, targets, pilot)
        if size.uneven():
            pilot = run([*chain[:index], size.entry(), *(_short(one) for one in chain[index + 1 :])])
            size = _Sizes(chain, index, rows, targets, pilot)
        chain[index] = size.entry()
    return chain


def _entrants(entry: Entry) -> list[SearchConfig]:
    return entry if isinstance(entry, list) else [entry]


def _is_sized(entry: Entry) -> bool:
    return all(size_field(search) is None for search in _entrants(entry))


def _resized(search: SearchConfig, field: str, size: int) -> SearchConfig:
    return search.model_copy(update={field: max(1, size)})


def _short(entry: Entry) -> Entry:
    """A stage of the pilot: few steps, but default evaluations, as these decide how many rows go on."""
    if isinstance(entry, list):
        return [_resized(one, "steps", _PILOT_STEPS) if size_field(one) == "steps" else one for one in entry]
    return _resized(entry, "steps", _PILOT_STEPS) if size_field(entry) == "steps" else entry


def _spent(report: dict[str, Any]) -> int:
    return int(report["forward_rows"] + report["backward_rows"])


class _Sizes:
    """The sizes of one stage, as a pilot run measured what its steps cost."""

    def __init__(self, chain: list[Entry], index: int, rows: int, targets: int, pilot: Result) -> None:
        self.chain, self.index, self.rows, self.targets, self.pilot = chain, index, rows, targets, pilot

    def reports(self, stage: int, entrant: int | None = None) -> list[dict[str, Any]]:
        found = [report for report in self.pilot.history if report["stage"] == stage]
        return found if entrant is None else [report for report in found if report["entrant"] == entrant]

    def share(self) -> int:
        """Rows for this stage's steps: what is left of the budget, over the stages that are still without a size."""
        own = self.reports(self.index)
        if not own:  # the stages before it spend the budget
            return 0
        final = self.pilot.cost.rows - _spent(self.pilot.history[-1])
        later = 0
        for stage in range(self.index + 1, len(self.chain)):
            if _is_sized(self.chain[stage]) and self.reports(stage):
                later += _spent(self.reports(stage)[-1]) - _spent(self.reports(stage - 1)[-1])
        unsized = sum(not _is_sized(entry) for entry in self.chain[self.index :])
        return (self.rows - _spent(own[0]) - final - later) // unsized

    def rows_a_step(self, entrant: int) -> int:
        found = self.reports(self.index, entrant)
        if len(found) < 2:
            return 1
        return max(1, round((_spent(found[-1]) - _spent(found[0])) / (found[-1]["step"] - found[0]["step"])))

    def uneven(self) -> bool:
        """Whether the steps of some search without a size differ in cost."""
        for entrant, search in enumerate(_entrants(self.chain[self.index])):
            rows = [_spent(report) for report in self.reports(self.index, entrant)]
            costs = {after - before for before, after in itertools.pairwise(rows)}
            if size_field(search) == "steps" and len(costs) > 1:
                return True
        return False

    def entry(self) -> Entry:
        """The stage with its sizes."""
        entry = self.chain[self.index]
        if isinstance(entry, list):
            return [self._sized(search, entrant, len(entry)) for entrant, search in enumerate(entry)]
        return self._sized(entry, 0, 1)

    def _sized(self, search: SearchConfig, entrant: int, of: int) -> SearchConfig:
        field = size_field(search)
        if field is None:
            return search
        each = self.targets if field == "evaluations" else self.rows_a_step(entrant)
        return _resized(search, field, self.share() // of // each)

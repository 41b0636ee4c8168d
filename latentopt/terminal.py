"""What the command line prints: tables and sentences for people, one JSON document for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from latentopt.comparison import Comparison
    from latentopt.registry import PluginInfo
    from latentopt.result import Cost, Draws, Result

_MOST_TARGETS = 20
_MOST_BESIDE = 4  # targets side by side, where their figures are too many for a line each


class Screen:
    """Where text goes: results to stdout, the rest to stderr; with `as_json` all of it to stderr.

    `progress` is a mode of `latentopt.progress.watch`; "auto" with `as_json` is none. Where it is "jsonl", stderr is for
    programs: notes are JSON too, and text that `as_json` would send there is left out.
    """

    def __init__(self, *, as_json: bool = False, progress: str = "auto") -> None:
        self.as_json, self.progress = as_json, "none" if as_json and progress == "auto" else progress
        self.aside = Console(stderr=True, highlight=False)
        self.main = (
            Console(stderr=True, highlight=False, quiet=progress == "jsonl") if as_json else Console(highlight=False)
        )

    def say(self, text: str = "") -> None:
        """A line of the result, in one piece and as it is."""
        self.main.print(inert(text), markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line beside the result, to stderr."""
        if self.progress == "jsonl":
            sys.stderr.write(json.dumps({"event": "note", "text": text}) + "\n")
            return
        self.aside.print(inert(text), markup=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        """A table of the result."""
        self.main.print(table)

    def document(self, data: Any) -> None:
        """The JSON document, where one was asked for."""
        if self.as_json:
            sys.stdout.write(json.dumps(plain(data), indent=2, allow_nan=False) + "\n")


def inert(text: str) -> str:
    """A text without what moves a terminal's cursor or colours it: received runs have words in them too."""
    return "".join(
        letter if (letter >= " " and not "\x7f" <= letter <= "\x9f") or letter in "\n\t" else "?" for letter in text
    )


def plain(value: Any) -> Any:
    """The same data with NaN and infinity as null, which JSON has no numbers for."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def new_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table with these columns, some of them flush right."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in columns:
        table.add_column(Text(inert(name)), justify="right" if name in right else "left", overflow="fold")
    return table


def cost_words(cost: Cost) -> str:
    """What a run spent, as a sentence."""
    return f"{cost.forward_rows} rows decoded, {cost.backward_rows} gradients taken, {cost.seconds:.1f} s"


def _show_figures(screen: Screen, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    """A table; of so many columns that they do not fit, and few rows, a line a column."""
    table = new_table(*columns, right=right)
    for row in rows:
        table.add_row(*row)
    if len(rows) <= _MOST_BESIDE and not _fits(screen, table):
        table = Table.grid(padding=(0, 2))
        for name, *values in zip(columns, *rows, strict=True):
            table.add_row(Text(inert(name), style="bold"), *values)
    screen.table(table)


def show_fitting(
    screen: Screen,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """A table without as many of its `spare` columns, in their order, as it takes to fit the terminal."""
    for count in range(len(spare) + 1):
        kept = [index for index, name in enumerate(columns) if name not in spare[:count]]
        table = new_table(*(columns[index] for index in kept), right=right)
        for row in rows:
            table.add_row(*(Text(row[index]) for index in kept))
        if _fits(screen, table):
            break
    screen.table(table)


def _fits(screen: Screen, table: Table) -> bool:
    wide = screen.main.options.update_width(10_000)
    return Measurement.get(screen.main, wide, table).maximum <= screen.main.width


def show_result(screen: Screen, result: Result, known: Sequence[str] = ()) -> None:
    """Each target's best design in a table, then realism, what is `known` to compare with, cost and notes in words."""
    firsts = [int((result.target_index == t).nonzero()[0, 0]) for t in result.target_index.unique().tolist()]
    terms = {**result.terms, **result.measures}
    held = [] if not result.constrained else ["feasible"]
    figures = ["target", "loss", *(name for name in terms if name != "loss")]
    rows = []
    for row in firsts[:_MOST_TARGETS]:
        values = [f"{float(terms[name][row]):.4g}" for name in figures[2:]]
        inside = "inside" if bool(result.realism.inside[row]) else "outside"
        feasible = "yes" if bool(result.feasible[row]) else f"no, by {float(result.violations[row]):.2g}"
        kept = [feasible] if held else []
        rows.append([str(int(result.target_index[row])), f"{float(result.losses[row]):.4g}", *values, *kept, inside])
    _show_figures(screen, [*figures, *held, "realism"], rows, right=figures)
    if len(firsts) > _MOST_TARGETS:
        screen.say(f"and {len(firsts) - _MOST_TARGETS} targets more")
    screen.say()
    if result.hypervolumes is not None:
        counts = [int(((result.target_index == t) & result.feasible).sum()) for t in range(len(result.hypervolumes))]
        fronts = [f"{n} designs, hypervolume {float(v):.4g}" for n, v in zip(counts, result.hypervolumes, strict=True)]
        screen.say(f"front    {'; '.join(fronts[:_MOST_TARGETS])}")
    screen.say(f"realism  {result.best.realism if result.hypervolumes is None else result.realism}")
    for sentence in known:
        screen.say(f"known    {sentence}")
    screen.say(f"cost     {cost_words(result.cost)}")
    if result.stopped != "finished":
        ended = (
            "the budget was spent" if result.stopped == "budget" else "interrupted; this is the best found until then"
        )
        screen.say(f"stopped  {ended}")
    if result.diverged:
        screen.say(f"lost     {result.diverged} rows turned NaN or infinite and were dropped")
    show_notes(screen, result.notes)


def show_draws(screen: Screen, draws: Draws, notes: Sequence[str] = ()) -> None:
    """How many designs, of what shape, their realism and cost."""
    shape = " x ".join(map(str, draws.designs.shape[1:]))
    screen.say(f"designs  {len(draws)}, each {shape}")
    screen.say(f"realism  {draws.realism}")
    screen.say(f"cost     {cost_words(draws.cost)}")
    show_notes(screen, notes)


def show_comparison(screen: Screen, comparison: Comparison) -> None:
    """The standings in a table, best first, then what they stand on and who was left out."""
    heads, rows = comparison.table()
    table = new_table(*heads, right=[*heads[1:6], *heads[7:]])
    for column in table.columns[1:]:
        column.no_wrap = True
    for row in rows:
        table.add_row(*row)
    screen.table(table)
    screen.say()
    screen.say(f"budget   {comparison.about()}")
    for remark in comparison.remarks():
        screen.say(remark)
    if comparison.interrupted:
        screen.say(f"stopped  interrupted; these are the {len(comparison.seeds)} seeds that every search had finished")
    show_notes(screen, comparison.notes)


def show_notes(screen: Screen, notes: Sequence[str]) -> None:
    """What is worth knowing, one line each."""
    for note in dict.fromkeys(notes):
        screen.say(f"note     {note}")


def show_plugins(screen: Screen, plugins: Sequence[PluginInfo], runs: Mapping[str, Sequence[str]]) -> None:
    """Installed plugins, the kinds that each adds to each slot, and the runs that it ships by the plugin's name."""
    for plugin in plugins:
        screen.say(f"{plugin.name}: {plugin.distribution} {plugin.version}, module {plugin.module}")
        slots = [(slot, ", ".join(kinds)) for slot, kinds in plugin.kinds.items() if kinds]
        if runs.get(plugin.name):
            slots.append(("runs", ", ".join(runs[plugin.name])))
        table = Table.grid(padding=(0, 2))
        for slot, kinds in slots or [("nothing" if not plugin.error else "failed: see latentopt doctor", "")]:
            table.add_row("", inert(slot), inert(kinds))
        screen.table(table)

"""Progress on the terminal, from a run's reports: a bar, plain lines where nobody watches a terminal, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from latentopt.budget import Report

OnReport = Callable[["Report"], None]
_LINES_PER_STAGE = 3


@contextmanager
def watch(console: Console, *, quiet: bool = False, title: str = "stage") -> Iterator[OnReport | None]:
    """What to pass as `on_report`: None when quiet, a bar on a terminal, else a few plain lines a stage.

    `title` stands before each stage's number.
    """
    if quiet:
        yield None
    elif console.is_terminal:
        with _bar(console) as bar:
            yield _Bar(bar, title)
    else:
        yield _Lines(console, title)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=14),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("[dim]{task.fields[facts]}[/dim]"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


class _Bar:
    """One bar a stage, each under the one before."""

    def __init__(self, bar: Progress, title: str) -> None:
        self.bar, self.title = bar, title
        self.stage: tuple[int, int] | None = None

    def __call__(self, report: Report) -> None:
        if (report.stage, report.entrant) != self.stage:
            self.stage = (report.stage, report.entrant)
            self.task = self.bar.add_task(
                f"{self.title} {report.stage + 1} {report.name}", total=report.n_steps, facts=""
            )
        self.bar.update(self.task, completed=report.step, facts=facts(report))


class _Lines:
    """The start of each stage and about three more looks at it."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        self.next = (0, 0, 0)

    def __call__(self, report: Report) -> None:
        if (report.stage, report.entrant, report.step) < self.next:
            return
        self.console.print(
            f"{self.title} {report.stage + 1} {report.name}: step {report.step}/{report.n_steps}, {facts(report)}",
            highlight=False,
            soft_wrap=True,
        )
        pause = max(1, report.n_steps // _LINES_PER_STAGE)
        following = min(report.step + pause, report.n_steps) if report.step < report.n_steps else report.n_steps + 1
        self.next = (report.stage, report.entrant, following)


def facts(report: Report) -> str:
    """Rows spent, best loss and rows alive, in words."""
    best = sorted(report.best_T)
    loss = f"best {best[0]:.4g}" if len(best) == 1 else f"best {best[0]:.4g} to {best[-1]:.4g} ({len(best)} targets)"
    lost = len(report.rows_N) - report.alive
    alive = f"{report.alive} alive, {lost} lost" if lost else f"{report.alive} alive"
    return f"{loss}, {alive}, {report.forward_rows + report.backward_rows} rows"

"""Progress on the terminal, from a run's reports: a bar, plain lines where nobody watches a terminal, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.status import Status

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


@contextmanager
def watch_runs(console: Console, *, quiet: bool = False) -> Iterator[OnReport | None]:
    """What to pass to a comparison as `on_report`: a line for each run when it is over, and on a terminal the one at work."""
    if quiet:
        yield None
        return
    with console.status("") as status:
        look = _Runs(console, status)
        yield look
        look.over()


class _Runs:
    """Reports by the name of their run."""

    def __init__(self, console: Console, status: Status) -> None:
        self.console, self.status = console, status
        self.last: Report | None = None

    def __call__(self, report: Report) -> None:
        if self.last is not None and self.last.name != report.name:
            self.over()
        self.last = report
        self.status.update(escape(f"{report.name}: {facts(report)}"))

    def over(self) -> None:
        """The run of the last report has ended."""
        if self.last is not None:
            text = f"{self.last.name}: {facts(self.last)}, {self.last.seconds:.1f} s"
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)
        self.last = None


def facts(report: Report) -> str:
    """Rows spent, best loss and rows alive, in words."""
    best = sorted(report.best_T)
    loss = f"best {best[0]:.4g}" if len(best) == 1 else f"best {best[0]:.4g} to {best[-1]:.4g} ({len(best)} targets)"
    lost = len(report.rows_N) - report.alive
    alive = f"{report.alive} alive, {lost} lost" if lost else f"{report.alive} alive"
    return f"{loss}, {alive}, {report.forward_rows + report.backward_rows} rows"

"""Progress from a run's reports: bars on a terminal, plain lines, one JSON object a report, or nothing."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import Progress, Task, TaskID
from rich.status import Status
from rich.text import Text

from latentopt.terminal import inert, plain

if TYPE_CHECKING:
    from latentopt.budget import Budget, Report

OnReport = Callable[["Report"], None]
_LINES_PER_STAGE = 3
# Redrawn by a thread of Rich's, which shares the interpreter with the search (docs/performance.md has the cost).
REFRESH_PER_SECOND = 3
_BAR = 16  # letters of a bar


@contextmanager
def watch(
    console: Console, mode: str = "auto", *, title: str = "stage", budget: Budget | None = None
) -> Iterator[OnReport | None]:
    """What to pass as `on_report`, by mode: "auto" is bars on a terminal, else a few plain lines a stage ("lines");
    "jsonl" a JSON object a report; "none" is None.

    `title` stands before each stage's number; of a `budget` it is said how much has been used.
    """
    if mode == "none":
        yield None
    elif mode == "jsonl":
        yield _Json(console, budget)
    elif mode == "auto" and console.is_terminal:
        with _Bars(console, budget) as bar:
            yield _Bar(bar, title, budget)
    else:
        yield _Lines(console, title, budget)


# ---------------------------------------------------------------------- on a terminal


class _Bars(Progress):
    """A bar a stage, and below them the last report in words.

    All of it is one text that is made when it is drawn: Rich's table of columns takes four times as long.
    """

    def __init__(self, console: Console, budget: Budget | None) -> None:
        self.budget = budget
        self.report: Report | None = None
        self.mark = "━" if console.encoding.startswith("utf") else "-"
        super().__init__(console=console, transient=True, refresh_per_second=REFRESH_PER_SECOND)

    def get_renderables(self) -> Iterator[RenderableType]:
        """What Rich draws."""
        text = Text(no_wrap=True, overflow="ellipsis")
        width = max((cell_len(task.description) for task in self.tasks), default=0)
        for task in self.tasks:
            done = round(_BAR * (task.percentage / 100))
            text.append(set_cell_size(task.description, max(16, width)) + " ")
            text.append(self.mark * done, "bar.finished" if task.finished else "bar.complete")
            text.append(self.mark * (_BAR - done), "bar.back")
            text.append(f" {task.completed}/{task.total}")
            text.append(f" {datetime.timedelta(seconds=int(task.elapsed or 0))}", "progress.elapsed")
            text.append(f" {_left(task)}\n", "cyan")
        yield text
        if self.report is not None:
            yield Text(facts(self.report, self.budget), style="dim")


def _left(task: Task) -> str:
    """The time left, counted down between reports; nothing where it is not known."""
    end = task.fields.get("end")
    if end is None or task.finished or not task.fields.get("current"):
        return ""
    return f"{_duration(max(0.0, end - time.monotonic()))} left"


class _Bar:
    """One bar a stage, each under the one before."""

    def __init__(self, bar: _Bars, title: str, budget: Budget | None) -> None:
        self.bar, self.title = bar, title
        self.pace = Pace(budget)
        self.stage: tuple[int, int] | None = None
        self.task = TaskID(0)

    def __call__(self, report: Report) -> None:
        left = self.pace(report)
        if (report.stage, report.entrant) != self.stage:
            if self.stage is not None:  # a stage that stopped early: its clock stands still
                self.bar.stop_task(self.task)
                self.bar.update(self.task, current=False)
            self.stage = (report.stage, report.entrant)
            name = inert(f"{self.title} {report.stage + 1} {report.name}")
            self.task = self.bar.add_task(name, total=report.n_steps, current=True)
        self.bar.report = report
        self.bar.update(self.task, completed=report.step, end=None if left is None else time.monotonic() + left)


class Pace:
    """How long a stage still takes, by the steps since it began, and at most what is left of the budget."""

    def __init__(self, budget: Budget | None) -> None:
        self.budget = budget
        self.first: Report | None = None

    def __call__(self, report: Report) -> float | None:
        """Seconds, None where nothing is known yet. A budget in rows is taken to last as its rows have lasted."""
        first = self.first
        if first is None or (first.stage, first.entrant) != (report.stage, report.entrant):
            first = self.first = report
        limits = []
        seconds, steps, rows = report.seconds - first.seconds, report.step - first.step, report.rows - first.rows
        if steps > 0:
            limits.append(seconds / steps * (report.n_steps - report.step))
        if self.budget is not None and self.budget.seconds is not None:
            limits.append(self.budget.seconds - report.seconds)
        if self.budget is not None and self.budget.rows is not None and rows > 0:
            limits.append(seconds / rows * (self.budget.rows - report.rows))
        return max(0.0, min(limits)) if limits else None


# ---------------------------------------------------------------------- lines


class _Lines:
    """The start of each stage and about three more looks at it."""

    def __init__(self, console: Console, title: str, budget: Budget | None) -> None:
        self.console, self.title = console, title
        self.pace = Pace(budget)
        self.next = (0, 0, 0)

    def __call__(self, report: Report) -> None:
        left = self.pace(report)
        if (report.stage, report.entrant, report.step) < self.next:
            return
        ahead = "" if left is None or report.step == report.n_steps else f", {_duration(left)} left"
        self.console.print(
            f"{self.title} {report.stage + 1} {report.name}: step {report.step}/{report.n_steps}, "
            f"{facts(report, self.pace.budget)}{ahead}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        pause = max(1, report.n_steps // _LINES_PER_STAGE)
        following = min(report.step + pause, report.n_steps) if report.step < report.n_steps else report.n_steps + 1
        self.next = (report.stage, report.entrant, following)


class _Json:
    """Each report as one line of JSON."""

    def __init__(self, console: Console, budget: Budget | None = None) -> None:
        self.console = console
        self.pace = Pace(budget)

    def __call__(self, report: Report) -> None:
        self.console.file.write(json.dumps(plain(document(report, self.pace(report), self.pace.budget))) + "\n")
        self.console.file.flush()


def document(report: Report, left: float | None = None, budget: Budget | None = None) -> dict[str, Any]:
    """A report as plain data: its fields but for the losses of single rows, the rows lost, and where there is a budget the
    share of it that is used."""
    fields = {name: value for name, value in vars(report).items() if name != "rows_N"}
    more = {"rows": report.rows, "lost": len(report.rows_N) - report.alive, "seconds_left": left}
    return {"event": "report", **fields, **more, "budget_used": None if budget is None else used(report, budget)}


# ---------------------------------------------------------------------- comparisons


@contextmanager
def watch_runs(console: Console, mode: str = "auto") -> Iterator[OnReport | None]:
    """What to pass to a comparison as `on_report`: a line for each run when it is over, and on a terminal the one at work.

    Modes are those of `watch`.
    """
    if mode == "none":
        yield None
    elif mode == "jsonl":
        yield _Json(console)
    elif mode == "lines":
        look = _Runs(console, None)
        yield look
        look.over()
    else:
        with console.status("", refresh_per_second=REFRESH_PER_SECOND) as status:
            look = _Runs(console, status)
            yield look
            look.over()


class _Runs:
    """Reports by the name of their run."""

    def __init__(self, console: Console, status: Status | None) -> None:
        self.console, self.status = console, status
        self.last: Report | None = None

    def __call__(self, report: Report) -> None:
        if self.last is not None and self.last.name != report.name:
            self.over()
        self.last = report
        if self.status is not None:
            self.status.update(escape(f"{report.name}: {facts(report)}"))

    def over(self) -> None:
        """The run of the last report has ended."""
        if self.last is not None:
            text = f"{self.last.name}: {facts(self.last)}, {self.last.seconds:.1f} s"
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)
        self.last = None


# ---------------------------------------------------------------------- in words


def facts(report: Report, budget: Budget | None = None) -> str:
    """Best and median loss, how far out the best lies, rows alive, and what is spent, in words."""
    best = sorted(report.best_T)
    loss = f"best {best[0]:.4g}" if len(best) == 1 else f"best {best[0]:.4g} to {best[-1]:.4g} ({len(best)} targets)"
    known = sorted(value for value in report.percentile_T if value == value)
    radius = [f"radius percentile {'up to ' if len(known) > 1 else ''}{known[-1]:.3g}"] if known else []
    lost = len(report.rows_N) - report.alive
    alive = f"{report.alive} alive, {lost} lost" if lost else f"{report.alive} alive"
    share = "" if budget is None or (part := used(report, budget)) is None else f" ({part:.0%} of the budget)"
    return ", ".join([loss, f"median {report.median:.4g}", *radius, alive, f"{report.rows} rows{share}"])


def used(report: Report, budget: Budget) -> float | None:
    """The part of the budget that is used, 0 to 1: of its rows or its seconds, whichever is further on; None without one."""
    parts = []
    if budget.rows is not None:
        parts.append(report.rows / budget.rows)
    if budget.seconds is not None:
        parts.append(report.seconds / budget.seconds)
    return min(1.0, max(parts)) if parts else None


def _duration(seconds: float) -> str:
    """As 12 s, 3:05 or 1:02:03."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}" if minutes else f"{whole} s"

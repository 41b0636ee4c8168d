"""A run's reports sent to TensorBoard, MLflow or Weights & Biases while it goes on: thin functions over `on_report`.

    with tracking.tensorboard("runs") as track:
        result = lo.optimize(decoder, target=target, on_report=track)
        track.finish(result)

Figures are drawn over rows (decoded, plus gradients taken), which is what a budget counts and stages share. Nothing here
contacts a network unless the user names a server or sets W&B online.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from latentopt import store
from latentopt.decoder import LatentoptWarning
from latentopt.errors import ConfigError
from latentopt.wording import suggest

if TYPE_CHECKING:
    from latentopt.budget import Report
    from latentopt.result import Result

_BATCH, _BATCH_SECONDS = 1000, 2.0  # figures that one call to MLflow takes, and seconds between calls
_MOST_TARGETS = 16  # with a line each; of terms so many lines together, and one of each at least
_LONGEST, _LONGEST_NAME = 500, 100  # letters of a parameter's value and of a term's name that every MLflow store takes


def figures(report: Report) -> dict[str, float]:
    """What is drawn of a report, by name, infinite and unknown figures left out."""
    best_T, percentile_T = report.best_T, report.percentile_T or (math.nan,)
    found: dict[str, float] = {
        "loss/best": min(best_T),
        "loss/median": report.median,
        "realism/radius_percentile": max(percentile_T),
        "rows/alive": report.alive,
        "rows/lost": len(report.rows_N) - report.alive,
        "rows/forward": report.forward_rows,
        "rows/backward": report.backward_rows,
        "run/seconds": report.seconds,
        "run/stage": report.stage + 1,
    }
    if len(best_T) > 1:
        found["loss/best_worst_target"] = max(best_T)
        found |= {f"loss/target_{t}": loss for t, loss in enumerate(best_T[:_MOST_TARGETS])}
    for name, value_T in zip(_clean(report.terms), report.terms.values(), strict=True):
        shown = value_T[: max(1, _MOST_TARGETS // len(report.terms))]
        found |= {f"terms/{name}/target_{t}" if len(best_T) > 1 else f"terms/{name}": v for t, v in enumerate(shown)}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _clean(names: Iterable[str]) -> list[str]:
    """Names of terms as every place takes them: words, spaces and dashes, and none of them twice."""
    found: list[str] = []
    for name in names:
        stem = once = re.sub(r"[^\w -]", "_", name)[:_LONGEST_NAME].strip() or "_"
        number = 1
        while once in found:
            number += 1
            once = f"{stem}_{number}"
        found.append(once)
    return found


class Tracker:
    """Passes reports on to one place. A failure there ends the tracking with a warning, and never the run."""

    name = "nowhere"

    def __init__(self) -> None:
        self._open = True

    def __call__(self, report: Report) -> None:
        if self._open:
            self._try(lambda: self._log(figures(report), report.rows))

    def finish(self, result: Result | None = None) -> None:
        """Write what was found, and close; None for a run that failed. A second call does nothing."""
        if self._open:
            self._open = False
            self._try(lambda: self._close(result))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def _try(self, work: Callable[[], None]) -> None:
        try:
            with _calm():
                work()
        except Exception as error:  # a full disk, a server that is gone: the run is worth more than its curves
            self._open = False
            text = f"tracking by {self.name} stopped, the run goes on: {type(error).__name__}: {error}"
            warnings.warn(text, LatentoptWarning, stacklevel=4)

    def _log(self, values: dict[str, float], rows: int) -> None:
        raise NotImplementedError

    def _close(self, result: Result | None) -> None:
        raise NotImplementedError


# ---------------------------------------------------------------------- the three places


class _TensorBoard(Tracker):
    name = "TensorBoard"

    def __init__(self, folder: str | Path, name: str | None) -> None:
        module = _module("torch.utils.tensorboard", self.name, "tensorboard")
        place = Path(folder) / (name or time.strftime("%Y%m%d-%H%M%S"))
        number = 1
        while name is None and place.exists():  # a second run within a second
            number += 1
            place = place.with_name(f"{place.name.partition('_')[0]}_{number}")
        self.folder = _made(place)
        super().__init__()
        self.writer = module.SummaryWriter(str(self.folder))

    def _log(self, values: dict[str, float], rows: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, rows)

    def _close(self, result: Result | None) -> None:
        if result is not None:
            self.writer.add_text("run/result", _words(result), result.cost.rows)
            self.writer.add_text("run/config", f"```json\n{json.dumps(result.config, indent=2)}\n```")
        self.writer.close()


class _MLflow(Tracker):
    name = "MLflow"

    def __init__(self, place: str | Path, experiment: str, name: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at import; it would call home
        module = _module("mlflow", self.name, "mlflow")
        text, artifacts = str(place), None
        if "://" not in text and not text.startswith("databricks"):
            folder = _made(Path(place)).resolve()
            text, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        super().__init__()
        self._waiting: list[tuple[str, float, int, int]] = []
        self._sent = -math.inf
        self.uri = text
        try:
            with _calm("mlflow"):
                self.client = module.MlflowClient(tracking_uri=text)
                known = self.client.get_experiment_by_name(experiment)
                number = self.client.create_experiment(experiment, artifacts) if known is None else known.experiment_id
                self.run_id: str = self.client.create_run(number, run_name=name).info.run_id
        except Exception as error:  # each kind of store has errors of its own
            raise ConfigError(f"MLflow cannot be used at {text}: {str(error).strip().splitlines()[0]}") from error

    def _log(self, values: dict[str, float], rows: int) -> None:
        now = round(time.time() * 1000)
        self._waiting += [(name, value, now, rows) for name, value in values.items()]
        if time.monotonic() - self._sent >= _BATCH_SECONDS:
            self._send()

    def _send(self) -> None:
        """What was held back, all in one call, as a call costs more than the figures in it."""
        entities = importlib.import_module("mlflow.entities")
        metrics = [entities.Metric(*one) for one in self._waiting]
        for first in range(0, len(metrics), _BATCH):
            self.client.log_batch(self.run_id, metrics[first : first + _BATCH])
        self._waiting, self._sent = [], time.monotonic()

    def _close(self, result: Result | None) -> None:
        self._send()
        status = "FAILED" if result is None else "KILLED" if result.stopped == "interrupted" else "FINISHED"
        if result is not None:
            entities = importlib.import_module("mlflow.entities")
            params = [entities.Param(name, text) for name, text in _flat(result.config)]
            self.client.log_batch(self.run_id, params=params[:100])  # as many as one call takes
            self.client.set_tag(self.run_id, "result", _words(result))
        self.client.set_terminated(self.run_id, status)


class _Wandb(Tracker):
    name = "Weights & Biases"

    def __init__(self, project: str, folder: str | Path, mode: str | None, name: str | None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        module = _module("wandb", self.name, "wandb")
        place = _made(Path(folder))  # it would go to the temporary folder by itself, and say nothing
        super().__init__()
        settings = {"silent": True, "console": "off", "disable_git": True, "save_code": False}
        self.run = module.init(
            project=project,
            dir=str(place),
            mode=mode or os.environ.get("WANDB_MODE") or "offline",
            name=name,
            reinit="create_new",
            settings=module.Settings(**settings, x_disable_stats=True, x_disable_meta=True),
        )

    def _log(self, values: dict[str, float], rows: int) -> None:
        self.run.log(values, step=rows)

    def _close(self, result: Result | None) -> None:
        if result is not None:
            self.run.config.update(result.config)
            self.run.summary["result"] = _words(result)
        self.run.finish(exit_code=int(result is None))


def tensorboard(folder: str | Path = "runs", name: str | None = None) -> Tracker:
    """Event files in a folder of their own within `folder`, called `name`, by default after the time.

    Raises `ConfigError` without the extra, `InputFileError` where the folder cannot be written. So do the others.
    """
    return _TensorBoard(folder, name)


def mlflow(place: str | Path = "mlflow", experiment: str = "latentopt", name: str | None = None) -> Tracker:
    """A run of an MLflow experiment, in a SQLite store within a folder, or at a tracking URI (`sqlite:///...`, `http://...`)."""
    return _MLflow(place, experiment, name)


def wandb(
    project: str = "latentopt", folder: str | Path = ".", mode: str | None = None, name: str | None = None
) -> Tracker:
    """An offline run of Weights & Biases in `folder`/wandb, which `wandb sync` uploads.

    It is online only where `mode` or the user's own WANDB_MODE says so.
    """
    return _Wandb(project, folder, mode, name)


PLACES: dict[str, Callable[[str], Tracker]] = {
    "tensorboard": tensorboard,
    "mlflow": mlflow,
    "wandb": lambda folder: wandb(folder=folder),
}


def by_name(text: str) -> Tracker:
    """A tracker as the command line names it: `tensorboard=FOLDER`. Raises `ConfigError`."""
    check(text)
    kind, _, place = text.partition("=")
    return PLACES[kind](place)


def check(text: str) -> None:
    """Raise `ConfigError` where `by_name` would not know such a tracker, or its library is not installed."""
    kind, _, place = text.partition("=")
    if kind not in PLACES:
        raise ConfigError(f"no tracking by {kind!r}: known are {', '.join(PLACES)}{suggest(kind, PLACES)}")
    if not place:
        raise ConfigError(f"where should {kind} keep the run? Give --track {kind}=FOLDER")
    _module({"tensorboard": "torch.utils.tensorboard"}.get(kind, kind), kind, kind)


# ---------------------------------------------------------------------- several at once


class AllOf:
    """Passes each report on to several, and the result to those that have a `finish`."""

    def __init__(self, *watchers: Callable[[Report], object] | None) -> None:
        self.watchers = [one for one in watchers if one is not None]

    def __call__(self, report: Report) -> None:
        for one in self.watchers:
            one(report)

    def finish(self, result: Result | None = None) -> None:
        """The run has ended; None where it failed."""
        for one in self.watchers:
            end = getattr(one, "finish", None)
            if end is not None:
                end(result)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()


def all_of(*watchers: Callable[[Report], object] | None) -> AllOf:
    """Several trackers, and any other callables that take a report, as one `on_report`."""
    return AllOf(*watchers)


# ---------------------------------------------------------------------- shared


@contextmanager
def _calm(logger: str = "") -> Iterator[None]:
    """Inside, no deprecations of one library by another, and of a `logger` no log of every table of a new store."""
    log = logging.getLogger(logger) if logger else None  # a change of a level empties the caches of all loggers
    level = logging.NOTSET if log is None else log.level
    try:
        if log is not None:
            log.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        if log is not None:
            log.setLevel(level)


def _module(name: str, who: str, extra: str) -> ModuleType:
    try:
        with _calm():
            return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"tracking by {who} needs extra: pip install 'latentopt[{extra}]' ({error})") from error


def _made(folder: Path) -> Path:
    """The folder, made where it is not there yet, and a place to write in."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".latentopt-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise store.cannot_write(folder, error) from error
    return folder


def _words(result: Result) -> str:
    """What became of a run, in a few sentences."""
    notes = "; ".join(dict.fromkeys(result.notes))
    return f"{result!r}" + (f". Notes: {notes}" if notes else "")


def _flat(data: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested data as dotted names and texts."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if items is None or not data or (isinstance(data, list) and not isinstance(data[0], dict | list)):
        yield name, str(data)[:_LONGEST]
        return
    for key, value in items:
        yield from _flat(value, f"{name}.{key}" if name else str(key))

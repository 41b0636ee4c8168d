"""Runs that were kept, for the command line: listed, shown, resumed, reproduced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from latentopt import execute, runlist, store, terminal
from latentopt.errors import InputFileError
from latentopt.runlist import Run, plain_text
from latentopt.terminal import Screen


def list_runs(folder: Path, screen: Screen, *, sort: str, statuses: Sequence[str]) -> None:
    """A table of the runs below a folder."""
    found = runlist.runs_below(folder, sort=sort, statuses=statuses)
    right = ["loss", "rows", "seconds"]
    rows = []
    for run in found:
        loss = "" if run.loss is None else f"{run.loss:.4g}" + (" (mean)" if (run.targets or 1) > 1 else "")
        seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
        words = [run.name, run.status, run.task or "", run.decoder or "", (run.began or "")[:16].replace("T", " ")]
        rows.append([*map(terminal.inert, words), loss, "" if run.rows is None else str(run.rows), seconds])
    columns = ["run", "status", "task", "decoder", "began", *right]
    if found:
        terminal.show_fitting(screen, columns, rows, right=right, spare=["task", "decoder", "began"])
    else:
        screen.say(f"no runs in {folder}: add --out DIR to a run to keep it")
    for run in found:
        if run.problem:
            screen.say(f"{run.status:<9}{run.name}: {run.problem}")
    screen.document([run.plain() for run in found])


def show_run(folder: Path, screen: Screen) -> None:
    """What a run is and what came of it. Its config is printed and not built: no code that it names is imported."""
    from latentopt import result, runfolder, trust

    trust.check_folder(folder)
    if not folder.is_dir():
        raise InputFileError(f"there is no folder {folder}: give that of a run")
    run = runlist.run_in(folder)
    if run.status in ("damaged", "newer"):
        raise InputFileError(f"the run in {folder} cannot be read ({run.problem})")
    about = runfolder.read_about(folder) if (folder / runfolder.ABOUT).exists() else {}
    config = runfolder.read_config_json(folder)
    trust.check_depth(config, str(folder))
    ended = run.task == "optimize" and (folder / result.TENSORS).exists()
    found = result.load(folder) if ended else None  # before a word is said of it
    _say_what_it_is(screen, run, about, config)
    document: dict[str, Any] = {**run.plain(), "config": config, "versions": about.get("versions", {})}
    if found is not None:
        screen.say()
        terminal.show_result(screen, found)
        document |= found.summary()
    elif run.status in ("killed", "interrupted", "failed"):
        screen.say(f"go on    latentopt resume {folder}")
    screen.document(document)


def _say_what_it_is(screen: Screen, run: Run, about: dict[str, Any], config: dict[str, Any]) -> None:
    screen.say(f"run      {run.name}, {run.status}" + (f": {run.problem}" if run.problem else ""))
    if run.began:
        screen.say(f"began    {run.began}")
    if about:
        versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
        screen.say(f"decoder  {plain_text(about['decoder'])}")
        screen.say(f"with     {plain_text(versions, 400)}")
    screen.say("config")
    for line in yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=110).splitlines():
        screen.say(f"  {plain_text(line, 2000)}")


def resume(
    folder: Path, screen: Screen, *, rows: int | None = None, seconds: float | None = None, trust_code: bool = False
) -> int:
    """Go on with a run, show what it found and draw it into its folder: the exit code."""
    from latentopt import api, progress, runfolder, trust
    from latentopt.config import received_config

    trust.check_folder(folder)
    runfolder.read_about(folder)  # first of all: whether it is a run's folder
    plain = runfolder.read_config_json(folder)
    config = received_config(plain, folder, trust_code=trust_code)
    execute.name_code(config, screen)
    given = {name: value for name, value in (("rows", rows), ("seconds", seconds)) if value is not None}
    budget = {**config.budget.model_dump(exclude_none=True), **given} if given else None
    with execute.stoppable(folder) as code:
        decoder = api.load_decoder(config.decoder)
        with progress.watch(screen.aside, screen.progress) as on_report:
            found = api.resume(folder, decoder=decoder, budget=budget, trust_code=trust_code, on_report=on_report)
        sheets = execute.draw(found, decoder, folder)
        store.write_manifest(folder)  # the sheets of before were in it
    execute.show(found, decoder, screen, folder, sheets)
    return code.get("exit", execute.INTERRUPTED) if found.stopped == "interrupted" else 0


def reproduce(source: Path, screen: Screen, *, out: Path | None = None, trust_code: bool = False) -> int:
    """Run a kept run again and say whether it came out the same: the exit code, 1 where it did not."""
    from latentopt import api, progress, reproduction

    with reproduction.kept(source) as run, execute.stoppable():
        config = run.config(trust_code=trust_code)
        execute.name_code(config, screen)
        decoder = api.load_decoder(config.decoder)
        with progress.watch(screen.aside, screen.progress) as on_report:
            found = reproduction.again(run, config, decoder, out=out, on_report=on_report)
        sheets = [] if out is None else execute.draw(found.found, decoder, out)
    what = " and ".join([", ".join(found.compared[:-1]), found.compared[-1]] if found.compared[1:] else found.compared)
    if found.same:
        screen.say(f"the same {what}, bit for bit")
    for difference in found.differences:
        screen.say(f"differs  {difference}")
    terminal.show_notes(screen, found.notes)
    if out is not None:
        screen.say(f"folder   {out} ({', '.join(['result.safetensors', *sheets])})")
    screen.document({**found.summary(), **({} if out is None else {"folder": out, "sheets": sheets})})
    return 0 if found.same else 1

"""The one driver of every search: stages in order, one budget, and what is handed over. No host sync but at reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from latentopt import memory
from latentopt.budget import Clock, Report
from latentopt.errors import ConfigError
from latentopt.problem import Problem
from latentopt.stagerun import Stage, StageRun, final_rows


@dataclass
class Outcome:
    """What the driver hands over: the best of each surviving row of the last stage, and how the run went.

    `kept` is what the stages' states hold as a whole, such as a subspace, by `stage.field`.
    """

    z_ND: Tensor
    target_N: Tensor
    best_step_N: Tensor
    history: list[Report]
    forward_rows: int
    backward_rows: int
    seconds: float
    stopped: str
    diverged: int
    notes: list[str] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)


def drive(
    problem: Problem,
    z_ND: Tensor,
    target_N: Tensor,
    stages: Sequence[Stage],
    *,
    clock: Clock,
    seed: int,
    on_report: Callable[[Report], object] | None = None,
) -> Outcome:
    """Runs the stages in order on starts `(N, D)` for their targets `(N,)`, each from the best rows of the one before.

    Stops at the budget, or at an interrupt (Ctrl-C), with the best so far. The final evaluation of the returned rows is
    kept within the budget. Raises `ConfigError` where the budget does not cover the starts, `DivergedError` where no
    row has a finite loss.
    """
    history: list[Report] = []
    stopped, diverged = "finished", 0
    run: StageRun | None = None
    notes: list[str] = []
    kept: dict[str, Tensor] = {}
    memory.keep_freed_memory()
    with problem.decoder.frozen():
        for index, stage in enumerate(stages):
            if run is not None:
                z_ND, target_N = run.best_rows(stages[index - 1].keep)
            starting = getattr(stage.search, "start_rows", None)
            first, held = (len(z_ND), len(z_ND)) if starting is None else starting(problem, len(z_ND))
            least = final_rows(problem, held) + first
            if not clock.allows(least):
                if run is None:
                    raise ConfigError(
                        f"a budget of {clock.budget.rows} rows does not cover {len(z_ND)} starts and their final "
                        f"evaluation, which take {least}, after {clock.forward} rows of screening and encoding: "
                        "raise budget.rows"
                    )
                stopped = "budget"
                notes.append(f"the budget ended before stage {index + 1} ({stage.name})")
                break
            following = StageRun(problem, stage, index, z_ND, target_N, seed, clock)
            try:
                following.start()
                run = following
                notes.extend(following.state.notes)
                kept |= {f"{index}.{name}": value.cpu() for name, value in following.state.kept().items()}
                stopped = run.loop(history, on_report)
            except KeyboardInterrupt:
                stopped = "interrupted"
                run = following if following.started else run
                if run is None:
                    raise
                run.note_best()
            lost = following.lost()
            diverged += lost
            if lost:
                what = "evaluations" if following.state.rows_restart else f"of {len(z_ND)} rows"
                notes.append(
                    f"{lost} {what} turned NaN or infinite in stage {index + 1} ({stage.name}) and were dropped"
                )
            if stopped != "finished":
                if stopped == "budget":
                    where = f"at step {following.state.step} of {stage.search.n_steps}"
                    later = "; the stages after it did not run" if index + 1 < len(stages) else ""
                    notes.append(f"the budget ended in stage {index + 1} ({stage.name}), {where}{later}")
                break
    if run is None:
        raise ConfigError("a run needs at least one search")
    rows, target_N, step_N = run.survivors(stages[run.index].keep)
    return Outcome(
        z_ND=rows,
        target_N=target_N,
        best_step_N=step_N,
        history=history,
        forward_rows=clock.forward,
        backward_rows=clock.backward,
        seconds=clock.seconds,
        stopped=stopped,
        diverged=diverged,
        notes=notes,
        kept=kept,
    )

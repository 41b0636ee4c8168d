"""The Python door: `sample`, `interpolate`, `optimize`, `run`, `load_decoder`. Thin, and keyword for keyword the config."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from latentopt import memory, realism, rng
from latentopt.arrayfield import Array
from latentopt.budget import Clock, Report
from latentopt.config import (
    InterpolateTask,
    OptimizeTask,
    RunConfig,
    SampleTask,
    make_config,
    make_plugin_config,
    placed,
    read_config,
    received_config,
)
from latentopt.decoder import Decoder, LatentoptWarning
from latentopt.driver import Outcome, drive
from latentopt.errors import ConfigError, DivergedError, InputFileError, ShapeError
from latentopt.interfaces import DecoderConfig, Evaluation, InterpolatorConfig, SamplerConfig
from latentopt.outputs import describe
from latentopt.paths import path_points
from latentopt.planning import DEFAULTS, memory_needed, plan
from latentopt.problem import Problem
from latentopt.ranking import hypervolume
from latentopt.result import Cost, Draws, Result, load
from latentopt.runfolder import RunFolder, differences, new_run, now, old_run, read_config_json
from latentopt.starts import build_starts
from latentopt.trust import check_folder

OnReport = Callable[[Report], object]

_FEW, _MAPPED, _MAPPED_VALUES = 16, 256, 2**18  # rows kept for maps: at least, at most, and values of them together


def load_decoder(decoder: Any) -> Decoder:
    """A decoder by name, dict, config or path of a run file; a `Decoder` is returned as it is.

    Raises `ConfigError` for an unknown name, `DecoderError` where it cannot be built.
    """
    if isinstance(decoder, Decoder):
        return decoder
    if isinstance(decoder, Path) or (isinstance(decoder, str) and decoder.endswith((".yaml", ".yml"))):
        return load_decoder(read_config(decoder).decoder)
    config = make_plugin_config("decoders", decoder)
    if not isinstance(config, DecoderConfig):
        raise ConfigError(f"expected a decoder, got {type(config).__name__}")
    built = config.build()
    if built.config is None and config.kind_name() != "python":
        built.config = config
    return built


def optimize(
    decoder: Any,
    *,
    target: Any = None,
    objectives: Any = None,
    constraints: Any = None,
    measures: Any = None,
    pareto: bool = False,
    starts: Any = None,
    region: Any = None,
    search: Any = None,
    budget: Any = None,
    seed: int = 0,
    out: str | Path | None = None,
    on_report: OnReport | None = None,
) -> Result:
    """Search for latents whose designs reach the target(s), or meet the objectives' goals.

    Args:
        decoder: a `Decoder`, or the name, dict or config of one.
        target: one design, T designs `(T, *design_shape)`, or a path; fills every objective with an empty target.
        objectives: names, dicts, configs or callables `Candidates -> (M,)`; `mse` where there is a target.
        constraints: objectives whose goal is a bound that must hold.
        measures: objectives that judge what was found, once, and take no part in the search.
        pareto: the front of designs that no other beats in every objective, in place of the best sum.
        starts: "mean", "encoder", samplers, or latents `(n, D)` for every target or `(T, n, D)`; one or a list.
        region: where the search may go; by default what 99 % of the prior's draws keep to.
        search: one search or a chain of them, each from the best rows of the one before; a list in it is a race. By default
            "auto": a plan chosen for the problem, which the result's notes and config spell out.
        budget: `{"rows": ..., "seconds": ...}` for the whole run.
        seed: same seed, same result.
        out: a new folder to keep the run in.
        on_report: called with a `Report` about 40 times a stage.

    Returns a `Result`, ordered by target, then loss. Raises `LatentoptError`s that say what to change.
    """
    task = _given(
        kind="optimize",
        target=target,
        objectives=objectives,
        constraints=constraints,
        measures=measures,
        pareto=pareto or None,
        starts=starts,
        region=region,
        search=search,
    )
    return cast(Result, _door(decoder, task, budget, seed, out, on_report))


def sample(
    decoder: Any,
    n: int = 16,
    *,
    sampler: Any = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Draws:
    """n latents from a sampler (the decoder's prior by default) and their designs."""
    return cast(Draws, _door(decoder, _given(kind="sample", n=n, sampler=sampler), None, seed, out, None))


def interpolate(
    decoder: Any,
    keys: Any = None,
    *,
    designs: Any = None,
    steps: int = 9,
    interpolator: Any = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Draws:
    """A path of `steps` designs through two or more key latents, or through the encodings of key `designs`."""
    if isinstance(designs, Tensor):
        designs = list(designs)
    task = _given(kind="interpolate", keys=keys, designs=designs, steps=steps, interpolator=interpolator)
    return cast(Draws, _door(decoder, task, None, seed, out, None))


def run(
    config: RunConfig | str | Path | dict[str, Any],
    *,
    changes: Sequence[str] = (),
    out: str | Path | None = None,
    on_report: OnReport | None = None,
) -> Result | Draws:
    """Run a config: a `RunConfig`, plain data, or a YAML file with `changes` such as "task.search.0.lr=0.1".

    The file is named by its path, or as a run that a plugin ships: "materials:demo". Paths in it are relative to its folder,
    those in `changes` to the current one.
    """
    if isinstance(config, str | Path):
        found = read_config(config, changes)
        with placed(config):
            return run_with(found, load_decoder(found.decoder), out=out, on_report=on_report)
    if isinstance(config, dict):
        config = make_config(config)
    return run_with(config, load_decoder(config.decoder), out=out, on_report=on_report)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _door(
    decoder: Any, task: dict[str, Any], budget: Any, seed: int, out: str | Path | None, on_report: OnReport | None
) -> Result | Draws:
    built = load_decoder(decoder)
    config = make_config({"decoder": built, "seed": seed, "task": task, **_given(budget=budget)})
    return run_with(config, built, out=out, on_report=on_report)


def run_with(
    config: RunConfig, decoder: Decoder, *, out: str | Path | None = None, on_report: OnReport | None = None
) -> Result | Draws:
    """Run a config on a decoder that is built already."""
    task = config.task
    if isinstance(task, OptimizeTask):
        if out is None:
            return _optimize(config, task, decoder, on_report)
        with new_run(out) as folder:
            return _optimize(config, task, decoder, on_report, folder)
    draw = _sample if isinstance(task, SampleTask) else _interpolate
    if out is None:
        return draw(config, task, decoder)  # type: ignore[arg-type]
    with new_run(out) as folder:  # before the work, not after it
        began = now()
        found = draw(config, task, decoder)  # type: ignore[arg-type]
        folder.keep(found, decoder, began)
    return found


def resume(
    folder: str | Path,
    *,
    decoder: Any = None,
    objectives: Any = None,
    constraints: Any = None,
    measures: Any = None,
    budget: Any = None,
    trust_code: bool = False,
    on_report: OnReport | None = None,
) -> Result:
    """Go on with a run that was kept in a folder and then killed, interrupted, or ended by its budget.

    It ends with the same bits as a run that was never stopped. A run that is finished is loaded; so is one that its budget
    ended, unless `budget` gives it more.

    Args:
        folder: what `out` was.
        decoder: the one that was given in Python, which no file can hold.
        objectives: likewise.
        constraints: likewise.
        measures: likewise.
        budget: a larger budget in place of the run's own.
        trust_code: whether the folder may name code, and files outside of it: give it to folders of your own.
        on_report: called with a `Report` as the run goes on.

    Raises `ConfigError` where the decoder, the targets or the rest of the config are not those of the run, or another process
    is at work on it; `InputFileError` where its files are damaged.
    """
    check_folder(Path(folder))
    with old_run(folder) as kept:
        plain = read_config_json(kept.path)
        if decoder is not None:
            decoder = load_decoder(decoder)
        config = received_config(
            plain | _given(budget=budget),
            kept.path,
            trust_code=trust_code,
            decoder=decoder,
            objectives=objectives,
            constraints=constraints,
            measures=measures,
        )
        task = config.task
        if not isinstance(task, OptimizeTask):
            raise ConfigError(f"{folder} holds no optimize run: only those are resumed")
        edits = kept.edits(plain)
        if edits:
            raise ConfigError(
                f"resume refused: config.json was changed since the run began: {', '.join(edits)}; put it back, or start a "
                "new run"
            )
        here, held = config.to_dict({}), plain["task"]
        given = _given(objectives=objectives, constraints=constraints, measures=measures)
        changed = [one for name in given for one in differences(held.get(name), here["task"].get(name), f"task.{name}")]
        changed += _less(plain.get("budget") or {}, here.get("budget") or {})
        if changed:
            raise ConfigError(f"resume refused: the config differs in {', '.join(changed)}; start a new run instead")
        if kept.about["status"] in ("finished", "budget") and here.get("budget") == plain.get("budget"):
            return load(folder)
        return _optimize(config, task, load_decoder(decoder or config.decoder), on_report, kept)


def _less(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Where a budget is less than it was: a run that is resumed may only be given more."""
    small = [name for name in ("rows", "seconds") if new.get(name, math.inf) < (old.get(name) or math.inf)]
    return [f"budget.{name} ({old.get(name)} -> {new[name]}, which is less)" for name in small]


# ---------------------------------------------------------------------- the three tasks


def _optimize(
    config: RunConfig,
    task: OptimizeTask,
    decoder: Decoder,
    on_report: OnReport | None,
    folder: RunFolder | None = None,
) -> Result:
    planned = plan(config, decoder)
    config, problem = planned.config, planned.problem
    filled = cast(OptimizeTask, config.task)
    targets = None if task.target is None else decoder.as_designs(task.target)
    notes = planned.notes
    if folder is not None and folder.begun:
        notes = folder.go_on(decoder, targets, problem.seen)
        folder.keep_budget(config.budget.model_dump(mode="json", exclude_none=True))
    if decoder.encoder is not None:
        realism.reference(decoder)  # once a decoder, before the run's clock starts
    clock = Clock(problem, config.budget)
    with decoder.frozen():
        z_ND, target_N = build_starts(filled.starts or [], problem, decoder, targets, config.seed)
    if folder is not None and not folder.begun:  # what cannot start leaves no folder
        arrays: dict[str, Tensor] = {}
        folder.begin(config.to_dict(arrays), arrays, decoder, targets, notes, problem.seen)
    needed = memory_needed(planned, len(z_ND))
    with memory.room(
        needed, f"{len(z_ND)} starts and their designs", "give fewer starts, or keep fewer rows of the last search"
    ):
        outcome = drive(
            problem,
            z_ND,
            target_N,
            planned.stages,
            clock=clock,
            seed=config.seed,
            on_report=on_report if folder is None else folder.watching(on_report),
            checkpoints=None if folder is None else folder.checkpoints,
        )
        outcome.notes[:0] = notes if folder is None else [*notes, *folder.checkpoints.notes]
        odd = _range_note(decoder, targets)
        if odd:
            warnings.warn(odd, LatentoptWarning, stacklevel=5)
            outcome.notes.append(odd)
        found = _result(config, problem, outcome, clock, targets, task, z_ND)
    if folder is not None:
        folder.finish(found)
    return found


def _range_note(decoder: Decoder, targets: Tensor | None) -> str:
    """What is odd about the range of targets for a decoder of bounded pictures; empty where nothing is."""
    low, high = decoder.probe.low, decoder.probe.high
    bounds = next((b for b in ((0.0, 1.0), (-1.0, 1.0)) if b[0] <= low and high <= b[1]), None)
    if targets is None or bounds is None or len(decoder.design_shape) < 2:
        return ""
    least, most = float(targets.amin()), float(targets.amax())
    slack = 0.25 * (bounds[1] - bounds[0])
    if bounds[0] - slack <= least and most <= bounds[1] + slack:
        return ""
    return (
        f"the target goes from {least:.3g} to {most:.3g} and the decoder's designs from {low:.3g} to {high:.3g}: "
        "scale the target as the decoder's training data were"
    )


def _result(
    config: RunConfig,
    problem: Problem,
    outcome: Outcome,
    clock: Clock,
    targets: Tensor | None,
    task: OptimizeTask,
    starts_ND: Tensor,
) -> Result:
    decoder = problem.decoder
    few = max(_FEW, min(_MAPPED, _MAPPED_VALUES // decoder.dim))
    evaluation, designs = problem.judge(outcome.z_ND, outcome.target_N)
    verdict = realism.judge(decoder, outcome.z_ND, designs)
    constants = problem.constants(evaluation)
    for text in constants:
        warnings.warn(text, LatentoptWarning, stacklevel=2)
    latents = decoder.space.unflatten(outcome.z_ND).cpu()
    target, loss, violation = outcome.target_N.cpu(), evaluation.loss_M.cpu(), evaluation.violation_M.cpu()
    order = torch.nonzero(torch.isfinite(loss) & torch.isfinite(violation))[:, 0]
    if len(order) < len(loss):  # an objective that gives a row another value each time
        lost = f"{len(loss) - len(order)} of {len(loss)} designs"
        if not len(order):
            raise DivergedError(f"{lost} turned out NaN or infinite when judged at the end: look at the objectives")
        outcome.notes.append(f"{lost} turned out NaN or infinite when judged at the end, and are left out")
    for key in (loss, violation, target):  # stable sorts, the most important key last
        order = order[key[order].argsort(stable=True)]
    arrays: dict[str, Tensor] = {}
    array_notes = task.target.notes if task.target is not None else ()
    whole = Result(
        latents=latents,
        designs=designs.cpu(),
        losses=loss,
        target_index=target,
        violations=violation.clone(),
        best_steps=outcome.best_step_N.cpu(),
        terms={name: value.cpu() for name, value in evaluation.terms.items()},
        measures={
            name: value.cpu() for name, value in problem.measured(outcome.z_ND, outcome.target_N, designs).items()
        },
        realism=verdict,
        cost=Cost(clock.forward, clock.backward, clock.seconds),
        history=[dict(vars(report)) for report in outcome.history],
        config=config.to_dict(arrays),
        arrays=arrays,
        targets=None if targets is None else targets.cpu(),
        stopped=outcome.stopped,
        diverged=outcome.diverged,
        search=outcome.kept,
        reference=None if outcome.reference_TK is None else outcome.reference_TK.cpu(),
        hypervolumes=None if outcome.reference_TK is None else _hypervolumes(problem, evaluation, outcome),
        latent_std=decoder.space.std(outcome.z_ND).cpu(),
        design_spread=decoder.probe.spread,
        starts=starts_ND[:: math.ceil(len(starts_ND) / few)].cpu(),
        paths=None if outcome.paths is None else outcome.paths.cpu(),
        prior_draws=decoder.space.draw(few, rng.generator(config.seed, rng.MAP)).cpu(),
        notes=[*decoder.notes, *array_notes, *outcome.notes, *constants],
    )
    found = whole.take(order)
    broken = found.infeasible()
    return found if not broken else dataclasses.replace(found, notes=[*found.notes, broken])


def _hypervolumes(problem: Problem, evaluation: Evaluation, outcome: Outcome) -> Tensor:
    """The volume that each target's feasible rows dominate up to its reference point, `(T,)`; 0 where a target has none."""
    assert outcome.reference_TK is not None
    losses_NK, feasible_N = problem.objectives(evaluation), evaluation.violation_M == 0
    found = [
        hypervolume(losses_NK[(outcome.target_N == target) & feasible_N], reference_K)
        for target, reference_K in enumerate(outcome.reference_TK)
    ]
    return torch.tensor(found, dtype=torch.float64)


def _sample(config: RunConfig, task: SampleTask, decoder: Decoder) -> Draws:
    chosen = task.sampler or cast(SamplerConfig, make_plugin_config("samplers", DEFAULTS["sampler"]))
    filled = config.model_copy(update={"task": task.model_copy(update={"sampler": chosen})})
    draw = chosen.build(decoder)
    with _room_for_draws(decoder, task.n, "n"):
        z_ND = draw(task.n, decoder.space, rng.generator(config.seed))
    if not isinstance(z_ND, Tensor) or tuple(z_ND.shape) != (task.n, decoder.dim):
        raise ShapeError(
            f"sampler {chosen.kind_name()!r} returned {describe(z_ND)}, "
            f"expected a tensor of shape ({task.n}, {decoder.dim})"
        )
    return _draws(filled, decoder, z_ND.to(device=decoder.device, dtype=decoder.latent_dtype), None)


def _interpolate(config: RunConfig, task: InterpolateTask, decoder: Decoder) -> Draws:
    if (task.keys is None) == (task.designs is None):
        raise ConfigError("a path goes through keys (latents) or designs (encoded first): give one of them")
    chosen = task.interpolator or cast(
        InterpolatorConfig, make_plugin_config("interpolators", DEFAULTS["interpolator"])
    )
    filled = config.model_copy(update={"task": task.model_copy(update={"interpolator": chosen})})
    if task.keys is not None:
        keys_KD = decoder.as_rows(task.keys.tensor())
        if not bool(torch.isfinite(keys_KD).all()):
            raise ShapeError("the keys contain NaN or infinite values: give finite latents")
    else:
        keys_KD = torch.cat([decoder.encode(one) for one in task.designs or []])
    before = decoder.rows.forward
    with _room_for_draws(decoder, task.steps, "steps"):
        z_TD, times = path_points(decoder, chosen.build(decoder), keys_KD, task.steps, even=chosen.even)
    return _draws(filled, decoder, z_TD, times, decoder.rows.forward - before)


def _draws(config: RunConfig, decoder: Decoder, z_ND: Tensor, times: Tensor | None, used: int = 0) -> Draws:
    if decoder.encoder is not None:
        realism.reference(decoder)
    clock = Clock(Problem(decoder, ()), config.budget)
    designs = decoder.decode(z_ND)
    verdict = realism.judge(decoder, z_ND, designs)
    arrays: dict[str, Tensor] = {}
    return Draws(
        latents=decoder.space.unflatten(z_ND).cpu(),
        designs=designs.cpu(),
        realism=verdict,
        cost=Cost(clock.forward + used, clock.backward, clock.seconds),
        config=config.to_dict(arrays),
        arrays=arrays,
        times=None if times is None else times.cpu(),
    )


def _design_bytes(decoder: Decoder) -> int:
    return math.prod(decoder.design_shape) * decoder.probe.dtype.itemsize


def _room_for_draws(decoder: Decoder, n: int, field: str) -> AbstractContextManager[None]:
    needed = n * (decoder.dim * memory.DRAWN + _design_bytes(decoder))
    return memory.room(needed, f"{n} designs of shape {decoder.design_shape} and their latents", f"lower {field}")


class _Examples:
    """Held-out designs that ship with decoders: `examples.digits()` gives `(n, *design_shape)`."""

    def __getattr__(self, name: str) -> Callable[[], Tensor]:
        if name.startswith("_"):
            raise AttributeError(name)

        def load() -> Tensor:
            config = make_plugin_config("decoders", name)
            found = config.examples() if isinstance(config, DecoderConfig) else None
            if found is None:
                raise InputFileError(f"decoder {name!r} ships no examples")
            return found

        return load


examples = _Examples()
"""Held-out designs that ship with decoders: `examples.digits()` gives `(n, *design_shape)`."""

__all__ = ["Array", "examples", "interpolate", "load_decoder", "optimize", "run", "sample"]

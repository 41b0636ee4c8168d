"""Reports: one or several runs as one HTML file that needs no network, no decoder and no code but its own few lines.

The pages are templates in latentopt/pages, filled with autoescaping; a content security policy lets nothing else run or load.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from latentopt import __version__, known, knownsection, picturesection, reportcharts, runlist, store
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, InputFileError
from latentopt.maps import along
from latentopt.plotbox import number
from latentopt.result import Result, load
from latentopt.runfolder import ABOUT
from latentopt.termcurves import bound_words, term_curves
from latentopt.thumbnails import Look

FILE = "report.html"
_MARK = '<meta name="generator" content="latentopt'
_TARGETS, _TILES, _GALLERY = 24, 96, 24  # targets shown, tiles of all galleries together, and of one
_BEST, _TILE, _POINT = 224, 128, 44  # pixels of the longer side
_SPREAD = 12  # members of a front shown side by side
_TERMS, _LINES = 24, 96  # terms with a chart each, and lines of all of them together
# Pixels of all answers, galleries and fronts together. The noisiest colours take 4 bytes a pixel as text, so that with 240
# points of a map (1.9 MB) and what objectives draw (0.4 MB) a page stays below 5 MB.
_ANSWERS, _GALLERIES, _FRONTS = 256 * 1024, 192 * 1024, 128 * 1024
_LONGEST_CONFIG = 200_000
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Run:
    """One run as it is reported: its name, its result, and what run.json says of how it ran, where there is one."""

    name: str
    result: Result
    about: dict[str, Any]
    folder: str = ""


def report(
    *runs: Result | str | Path,
    out: str | Path | None = None,
    decoder: Decoder | None = None,
) -> str:
    """One run as a page of HTML, or several compared; returned, and written to the file `out` where it is given.

    Args:
        runs: results, or folders of runs that are over. One makes a report, several a comparison on one axis of rows.
        out: the file to write. A report there is replaced, and no other file.
        decoder: draws the designs, where they are no pictures and the run's config names no decoder that can draw.

    Raises `ConfigError` where there is no run, a run found nothing, or `out` holds something else; `InputFileError` where
    a folder is not that of a run, or damaged.
    """
    if not runs:
        raise ConfigError("a report needs a run: give a result, or the folder of one")
    read = _named([_read(run) for run in runs])
    page = _page(read, decoder).encode("utf-8", "replace").decode()  # names of files may hold what no text can
    if out is not None:
        _write(Path(out), page)
    return page


def write_report(folders: Sequence[Path], out: Path | None) -> Path:
    """Report folders of runs into `out`, by default the first one's report.html: the file. Raises as `report` does."""
    target = folders[0] / FILE if out is None else out
    report(*folders, out=target)
    return target


def _write(path: Path, page: str) -> None:
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: give the report a file")
        if path.exists() and _MARK.encode() not in path.read_bytes()[:2000]:
            raise ConfigError(f"{path} exists and is no report of latentopt: choose another file")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store.cannot_write(path, error) from None
    store.write(path, page.encode())


def _read(run: Result | str | Path) -> Run:
    if isinstance(run, Result):
        found = Run("Result", run, {})
    else:
        path = Path(run)
        about: dict[str, Any] = {}
        if (path / ABOUT).is_file():
            try:
                plain = json.loads((path / ABOUT).read_bytes())
                about = plain if isinstance(plain, dict) else {}
            except (OSError, ValueError, RecursionError) as error:
                raise InputFileError(f"{path / ABOUT} cannot be read ({error}): it is damaged") from None
        if about.get("status") in ("running", "failed"):
            raise InputFileError(_unreported(path))
        name = path.resolve().name or str(path)
        found = Run(name, load(path), about, str(path))
    if not len(found.result):
        raise ConfigError(f"{found.folder or 'the result'} holds no designs: there is nothing to report")
    return found


def _unreported(path: Path) -> str:
    """Why a run has nothing to report, in words."""
    run = runlist.run_in(path)
    if run.status == "failed":
        return f"the run in {path} failed ({run.problem}): there is nothing to report"
    if run.status == "running":
        return f"the run in {path} is at work: report it when it is over"
    if run.status != "killed":
        return f"the run in {path} cannot be read ({run.problem})"
    return f"the run in {path} was killed before it ended: go on with it first, by latentopt resume {path}"


def _named(runs: list[Run]) -> list[Run]:
    """The same runs under names that differ."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [run.folder or f"{run.name} {i + 1}" for i, run in enumerate(runs)]
    if len(set(names)) < len(names):
        names = [f"{i + 1}: {name}" for i, name in enumerate(names)]
    return [Run(_cut(name), run.result, run.about, run.folder) for name, run in zip(names, runs, strict=True)]


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


# ---------------------------------------------------------------------- the page


@functools.cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("latentopt", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["number"] = number
    return found


def _page(runs: list[Run], decoder: Decoder | None) -> str:
    environment = _environment()
    assert environment.loader is not None
    script, style = (environment.loader.get_source(environment, name)[0] for name in ("report.js", "report.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    single = len(runs) == 1
    values = _single(runs[0], decoder) if single else _several(runs, decoder)
    return environment.get_template("report.html" if single else "compare.html").render(
        values, script=Markup(script), style=Markup(style), digest=digest, version=__version__
    )


def _single(run: Run, decoder: Decoder | None) -> dict[str, Any]:
    result = run.result
    look = Look.of(result.designs, result.config, result.targets, decoder=decoder)
    points = {row: index for index, row in enumerate(reportcharts.shown_points(result))}
    targets = [int(result.target_index[row]) for row in result.firsts()]
    lines = max(1, min(_TARGETS, _LINES // max(1, len(result.terms))))
    curves = term_curves(result, lines)[:_TERMS]
    return {
        "name": run.name,
        "verdict": _verdict(result),
        "answers": [_answer(result, target, look, len(targets)) for target in targets[:_TARGETS]],
        "more_targets": max(0, len(targets) - _TARGETS),
        "n_targets": len(targets),
        "galleries": _galleries(result, targets, look),
        "pictures": _pictures(result, targets),
        "convergence": reportcharts.convergence(result),
        "map": reportcharts.where(result, points),
        "terms": [reportcharts.term(curve) for curve in curves],
        "term_targets": min(lines, len(targets)),
        "bounded": any(curve.bounds for curve in curves),
        "fronts": _fronts(result, targets, look, points),
        "points": _points(result, points, look),
        "constraints": _constraints(result, targets),
        "known": knownsection.section(result, points),
        "spent": reportcharts.spent(result.history),
        "cost": result.cost,
        "limits": _limits(result),
        "stopped": _stopped(result),
        "notes": list(dict.fromkeys([*result.notes, *([look.note] if look.note else []), *_strangers(result)])),
        "config": _config_text(result.config),
        "arrays": bool(result.arrays),
        "versions": _versions(run),
    }


def _strangers(result: Result) -> list[str]:
    """What a page lacks, made where some plugin of the run is not installed."""
    found = [repr(kind[:_LONGEST_NAME]) for kind in known.strangers(result)]
    if not found:
        return []
    return [f"no plugin that is installed here adds {', '.join(found)}: what it knows and draws of designs is left out"]


def _verdict(result: Result) -> dict[str, Any]:
    best = result.firsts()
    inside = int(result.realism.inside[best].sum())
    losses = result.losses[best]
    return {
        "losses": [number(loss) for loss in losses[:4].tolist()] + (["…"] if len(losses) > 4 else []),
        "inside": inside,
        "of": len(best),
        "realism": str(result.best.realism),
        "constrained": result.constrained,
        "feasible": int(result.feasible[best].sum()),
        "broken": result.infeasible(),
        "rows": result.cost.rows,
        "seconds": result.cost.seconds,
        "designs": len(result),
    }


def _stopped(result: Result) -> str:
    words = {"budget": "the budget was spent", "interrupted": "interrupted; this is the best found until then"}
    return words.get(result.stopped, result.stopped)


def _row(result: Result, row: int) -> dict[str, Any]:
    """The figures of one row."""
    violation = float(result.violations[row])
    return {
        "loss": float(result.losses[row]),
        "terms": {name: float(value[row]) for name, value in result.terms.items()},
        "measures": {name: float(value[row]) for name, value in result.measures.items()},
        "inside": bool(result.realism.inside[row]),
        "realism": result.realism.sentence(row),
        "violation": violation,
        "feasible": violation == 0,
    }


def _side(most: int, pixels: int, tiles: int) -> int:
    """The longer side of tiles that share so many pixels."""
    return max(8, min(most, int((pixels / max(1, tiles)) ** 0.5)))


def _answer(result: Result, target: int, look: Look, targets: int) -> dict[str, Any]:
    row = int(torch.nonzero(result.target_index == target)[0, 0])
    side = _side(_BEST if targets == 1 else _TILE, _ANSWERS, 3 * min(targets, _TARGETS))
    if result.targets is not None and target < len(result.targets):
        pictures = look.pair(result.targets[target], result.designs[row], side)
    else:
        word = "best design" if result.reference is None else "least sum of the objectives"
        pictures = [(word, look.tiles(result.designs[row : row + 1], side)[0])]
    signed = pictures[0][1].startswith("data:image/png")
    return {
        "target": target,
        "pictures": pictures,
        "signed": signed,
        "constrained": result.constrained,
        **_row(result, row),
    }


def _galleries(result: Result, targets: list[int], look: Look) -> list[dict[str, Any]]:
    """Distinct designs of each target, best first; fewer a target where there are many targets."""
    found = []
    count = max(2, min(_GALLERY, _TILES // max(1, len(targets))))
    shown = targets[: min(_TARGETS, _TILES // count)]
    side = _side(_TILE, _GALLERIES, len(shown) * count)
    for target in shown:
        rows = result.top(count, target=target, distinct=True)
        tiles = look.tiles(rows.designs, side)
        each = [{"uri": uri, **_row(rows, row)} for row, uri in enumerate(tiles)]
        found.append(
            {
                "target": target,
                "tiles": each,
                "more": len(rows) == count,
                "of": int((result.target_index == target).sum()),
            }
        )
    return found


def _pictures(result: Result, targets: list[int]) -> dict[str, Any] | None:
    """What the objectives draw: of the gallery's designs, of a front (its ends first), or of the best of each target."""
    if len(targets) == 1 and result.reference is not None and len(result.front(targets[0])):
        members = result.front(targets[0])
        rows = [
            row for most in (2, 3, _SPREAD) for row in along(members, most).tolist()
        ]  # the ends, one between, others
        designs = members.designs[list(dict.fromkeys(rows))]
    elif len(targets) == 1:
        designs = result.top(_GALLERY, target=targets[0], distinct=True).designs
    else:
        designs = result.designs[result.firsts()[:_TARGETS]]
    return picturesection.section(result, designs, targets[:_TARGETS])


def _points(result: Result, points: dict[int, int], look: Look) -> list[dict[str, str]]:
    """What is shown when a pointer is over a point of a chart."""
    rows = list(points)
    tiles = look.tiles(result.designs[rows], _POINT)
    found = []
    for row, uri in zip(rows, tiles, strict=True):
        figures = _row(result, row)
        words = [f"loss {number(figures['loss'])}"]
        words += [f"target {int(result.target_index[row])}"] if result.n_targets > 1 else []
        if result.reference is not None:
            words = [f"{name} {number(value)}" for name, value in figures["terms"].items()] + words[1:]
        words.append("inside" if figures["inside"] else "outside what is known")
        words += [] if figures["feasible"] else [f"breaks constraints by {number(figures['violation'])}"]
        found.append({"u": uri, "t": "\n".join(words)})
    return found


def _fronts(result: Result, targets: list[int], look: Look, points: dict[int, int]) -> list[dict[str, Any]]:
    if result.reference is None:
        return []
    found = []
    for target in targets[: _TARGETS // 4]:
        members = result.front(target)
        entry: dict[str, Any] = {"target": target, "size": len(members), "charts": [], "members": [], "volume": None}
        if result.hypervolumes is not None:
            entry["volume"] = float(result.hypervolumes[target])
        if len(members):
            entry["charts"] = reportcharts.fronts(result, target, points, knownsection.behind(result, target))
            some = members.take(along(members, _SPREAD))
            side = _side(_TILE, _FRONTS, min(len(targets), _TARGETS // 4) * _SPREAD)
            for row, uri in enumerate(look.tiles(some.designs, side)):
                figures = _row(some, row)
                words = ", ".join(f"{name} {number(figures['terms'][name])}" for name in result.objectives)
                entry["members"].append({"uri": uri, "caption": words, **figures})
        found.append(entry)
    return found


def _constraints(result: Result, targets: list[int]) -> list[dict[str, Any]]:
    """Each constraint: its name, its bound in words, and what the best rows have."""
    best = result.firsts()[:_TARGETS]
    found = []
    for name, one in result.asked().items():
        if not one.constraint:
            continue
        goal = one.plain.get("goal") if isinstance(one.plain, dict) else None
        values = [float(result.terms[name][row]) for row in best.tolist()]
        found.append(
            {
                "name": name,
                "bound": bound_words(goal) or str(goal or ""),
                "values": [number(value) for value in values[:4]],
                "more": len(values) > 4,
            }
        )
    return found


def _limits(result: Result) -> list[dict[str, Any]]:
    """What was used of each limit of the budget."""
    budget = result.config.get("budget")
    used = {"rows": float(result.cost.rows), "seconds": result.cost.seconds}
    found = []
    for name, value in used.items():
        given = budget.get(name) if isinstance(budget, dict) else None
        limit = float(given) if isinstance(given, int | float) and given > 0 else None
        share = None if limit is None else min(1.0, value / limit)
        found.append({"name": name, "used": value, "limit": limit, "share": share})
    return found


def _config_text(config: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    if len(text) <= _LONGEST_CONFIG:
        return text
    return f"{text[:_LONGEST_CONFIG]}\n# ... {len(text) - _LONGEST_CONFIG} letters more are in config.json"


def _versions(run: Run) -> list[tuple[str, str]]:
    """What ran: seed, decoder, times, versions, plugins, as run.json has them."""
    about = run.about
    found = [("seed", str(run.result.config.get("seed", "")))]
    found += [(name, str(about[name])) for name in ("decoder", "began", "ended") if about.get(name)]
    versions = about.get("versions")
    found += [(str(name), str(value)) for name, value in versions.items()] if isinstance(versions, dict) else []
    for plugin in about.get("plugins") or []:
        if isinstance(plugin, dict):
            found.append((f"plugin {plugin.get('name')}", f"{plugin.get('distribution')} {plugin.get('version')}"))
    return found


# ---------------------------------------------------------------------- several runs


def _several(runs: list[Run], decoder: Decoder | None) -> dict[str, Any]:
    results = [run.result for run in runs]
    looks = [Look.of(one.designs, one.config, one.targets, decoder=decoder) for one in results]
    table = [
        {**_verdict(one), "name": run.name, "index": i, "loss": _mean_best(one), "stopped": _stopped(one)}
        for i, (run, one) in enumerate(zip(runs, results, strict=True))
    ]
    volumes = known.front_volumes(results)
    for row, volume, one in zip(table, volumes or (), results, strict=False):
        row |= {"volume": volume, "members": int(one.feasible.sum())}
    best = min((row["loss"] for row in table), default=0.0)
    differing = _differing([one.config for one in results])
    side = _side(_TILE, _ANSWERS, 4 * len(runs))
    best_designs = [one.front(0) if volumes else one for one in results]
    best_rows = [along(one, 4) if volumes else one.firsts()[:4] for one in best_designs]
    shown = [
        [
            {"uri": uri, **_row(one, int(row))}
            for row, uri in zip(rows, look.tiles(one.designs[rows], side), strict=True)
        ]
        for one, rows, look in zip(best_designs, best_rows, looks, strict=True)
    ]
    problem = [
        name for name in _PROBLEM if any(key.removeprefix("task.").split(".")[0] == name for key, _ in differing)
    ]
    return {
        "name": f"{len(runs)} runs compared",
        "table": sorted(table, key=lambda row: -row["volume"] if volumes else row["loss"]),
        "fronts": volumes is not None,
        "best": best,
        "curves": reportcharts.compared(results, [run.name for run in runs]),
        "names": [run.name for run in runs],
        "differing": differing,
        "other_problem": problem,
        "shown": shown,
        "targets": max(one.n_targets for one in results),
        "points": [],
        "notes": list(dict.fromkeys(look.note for look in looks if look.note)),
    }


def _mean_best(result: Result) -> float:
    return float(result.losses[result.firsts()].double().mean())


_PROBLEM = ("decoder", "target", "objectives", "constraints", "pareto")  # fields that say what a run solves


def _differing(values: Sequence[Any], place: str = "") -> list[tuple[str, list[str]]]:
    """What differs between configs: the field, and what each says of it. Parts of other kinds are not taken apart."""
    if all(value == values[0] for value in values):
        return []
    if all(isinstance(value, dict) for value in values) and len({str(value.get("kind")) for value in values}) == 1:
        keys = dict.fromkeys(key for value in values for key in value)
        return [
            row for key in keys for row in _differing([one.get(key) for one in values], f"{place}.{key}".lstrip("."))
        ]
    if all(isinstance(value, list) and len(value) == len(values[0]) for value in values) and values[0]:
        return [row for i, each in enumerate(zip(*values, strict=True)) for row in _differing(each, f"{place}.{i}")]
    return [(place, [_cut(_in_words(value)) for value in values])]


def _in_words(value: Any) -> str:
    """A part of a config in one line: a kind and its options, a chain of them."""
    if value is None or value in ({}, []):
        return "–"
    if isinstance(value, list):
        return " > ".join(str(one.get("kind", one)) if isinstance(one, dict) else _in_words(one) for one in value)
    if isinstance(value, dict):
        kind = [str(value["kind"])] if "kind" in value else []
        return " ".join([*kind, *(f"{key}={_in_words(one)}" for key, one in value.items() if key != "kind")])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

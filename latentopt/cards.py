"""Results and draws as small tables with thumbnails: what a notebook shows. Everything is escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from latentopt.plotbox import number
from latentopt.thumbnails import Look

if TYPE_CHECKING:
    from latentopt.result import Draws, Result

_TILES, _SIDE = 12, 72
_CELL = "text-align:left;padding:2px 14px 2px 0;vertical-align:top"


def of_result(result: Result) -> str:
    """A result: its best row of each target, how real it is, what it cost."""
    if not len(result):
        return str(Markup("<p>{}</p>").format(repr(result)))
    rows = result.firsts()
    shown = result.take(rows[:_TILES])
    if len(rows) == 1:
        shown = result.top(_TILES, target=int(result.target_index[0]), distinct=True)
    tiles = Look.of(shown.designs, result.config).tiles(shown.designs, _SIDE)
    labels = [f"loss {number(loss)}" for loss in shown.losses.tolist()]
    facts = {
        "designs": f"{len(result)}" + (f" for {result.n_targets} targets" if result.n_targets > 1 else ""),
        "best loss": ", ".join(number(float(result.losses[row])) for row in result.firsts()[:4].tolist()),
        "realism": str(result.best.realism),
        "feasible": (result.infeasible() or "yes") if result.constrained else "",
        "cost": f"{number(result.cost.rows)} rows in {result.cost.seconds:.2g} s; {result.stopped}",
    }
    return _card("Result", facts, tiles, labels)


def of_draws(draws: Draws) -> str:
    """Draws or a path: the first designs, and how real they are."""
    shown = draws.designs[:_TILES] if draws.times is None else draws.designs
    times = draws.times
    if times is not None and len(times) > _TILES:
        step = -(-len(times) // _TILES)
        shown, times = shown[::step], times[::step]
    labels = [] if times is None else [f"t = {time:.2f}" for time in times.tolist()]
    facts = {
        "designs": f"{len(draws)}, each {' x '.join(map(str, draws.designs.shape[1:]))}",
        "realism": str(draws.realism),
    }
    return _card(
        "Draws" if draws.times is None else "Path",
        facts,
        Look.of(draws.designs, draws.config).tiles(shown, _SIDE),
        labels,
    )


def _card(title: str, facts: dict[str, str], tiles: list[str], labels: list[str]) -> str:
    rows = [
        Markup('<tr><th scope="row" style="{}">{}</th><td style="{}">{}</td></tr>').format(_CELL, name, _CELL, text)
        for name, text in facts.items()
        if text
    ]
    pictures = [
        Markup(
            '<figure style="display:inline-block;margin:0 8px 8px 0;text-align:center;font-size:11px">'
            '<img src="{}" alt="{}" style="display:block;width:{}px;height:auto;image-rendering:pixelated">{}</figure>'
        ).format(uri, label or f"design {index}", _SIDE, label)
        for index, (uri, label) in enumerate(zip(tiles, [*labels, *[""] * len(tiles)], strict=False))
    ]
    return str(
        Markup(
            '<div class="latentopt"><strong>{}</strong><table style="border-collapse:collapse">{}</table><div>{}</div></div>'
        ).format(title, Markup("").join(rows), Markup("").join(pictures))
    )

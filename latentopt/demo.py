"""`latentopt demo`: the four things that latentopt does, on embedded digits, offline and in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from latentopt import api, charts, pictures, progress, terminal
from latentopt.decoder import Decoder
from latentopt.pictures import Row
from latentopt.result import Draws, Result
from latentopt.store import new_folder
from latentopt.terminal import Screen

DECODER = "digits"
INK = 0.5  # a pixel brighter than this is ink
_DRAWS, _TARGETS, _KEPT = 64, 16, 8
_STEPS = 11
# Examples by number: the two ends of each path.
_PAIRS = {"3 to 8": (13, 18), "4 to 9": (14, 19), "7 to 2": (17, 2), "0 to 6": (10, 6)}
# CMA-ES: a sampler that models how coordinates go together pays here, and costs less a trial than the default.
_SEARCH = {"kind": "optuna", "sampler": "cmaes", "evaluations": 640, "batch": 16}
_SCREENED = 256
_APART = 0.3  # of the designs that are kept, root mean square over latent values


# ---------------------------------------------------------------------- two properties of a digit


def hole_areas(design: NDArray[Any]) -> list[int]:
    """Pixels of each region that ink encloses, largest first; `design` is one picture `(1, H, W)` or `(H, W)`.

    Regions are joined side by side, not across corners (`scipy.ndimage.label`'s default). What touches the border is
    outside.
    """
    paper = np.pad(design.reshape(design.shape[-2:]) < INK, 1, constant_values=True)
    labels, _ = ndimage.label(paper)
    areas = np.bincount(labels.ravel())[2:]  # 0 is ink, 1 the outside: labels run from the padded corner
    return sorted((int(area) for area in areas), reverse=True)


def two_holes(design: NDArray[Any]) -> float:
    """How large the smaller of a digit's two largest holes is, in pixels; a tenth of the larger helps to find a second.

    It counts regions, so it has no gradient.
    """
    areas = [*hole_areas(design), 0, 0]
    return areas[1] + 0.1 * areas[0]


def grey(designs: Tensor) -> Tensor:
    """How far from pure ink and pure paper pictures are, `(M,)`: the mean of 4 x (1 - x), 0 where every pixel is 0 or 1."""
    return 4 * (designs * (1 - designs)).flatten(1).mean(1)


# ---------------------------------------------------------------------- the demo


def demo(out: Path, seed: int, screen: Screen) -> dict[str, Any]:
    """Draw, interpolate, match, search; writes sheets and data into the new folder `out`. Returns the figures for JSON.

    Raises `ConfigError` where `out` holds something already.
    """
    folder = new_folder(out)
    with _one_thread():
        decoder = api.load_decoder(DECODER)
        examples = api.examples.digits()
        document = {"folder": str(out), "seed": seed}
        document["draws"] = _draw(decoder, folder, seed, screen)
        document["interpolation"] = _interpolate(decoder, examples, folder, seed, screen)
        document["matches"] = _match(decoder, examples, folder, seed, screen)
        document["property"] = _search(decoder, folder, seed, screen)
    _suggest(folder, examples, screen)
    return document


@contextmanager
def _one_thread() -> Iterator[None]:
    """The networks are small: a second thread costs more than it gives, and several times so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _draw(decoder: Decoder, folder: Path, seed: int, screen: Screen) -> dict[str, Any]:
    draws = api.sample(decoder, _DRAWS, seed=seed, out=folder / "draws")
    outside = (~draws.realism.inside).tolist()
    figure = pictures.sheet(
        _pictures(draws.designs, decoder),
        title=f"{_DRAWS} new digits",
        subtitle=_frames("drawn from the decoder's prior", outside),
        framed=outside,
        columns=8,
    )
    pictures.write(figure, folder / "draws.png")
    _told(screen, "1 draw", f"{_DRAWS} digits from the prior", "draws.png", str(draws.realism))
    return draws.summary()


def _interpolate(decoder: Decoder, examples: Tensor, folder: Path, seed: int, screen: Screen) -> dict[str, Any]:
    rows: list[Row] = []
    paths: list[Draws] = []
    for number, (names, pair) in enumerate(_PAIRS.items()):
        for even in (False, True) if number == 0 else (False,):
            ends = examples[list(pair)]
            way = {"kind": "slerp", "even": even}
            place = folder / "paths" / f"{len(rows) + 1}"
            path = api.interpolate(decoder, designs=ends, steps=_STEPS, interpolator=way, seed=seed, out=place)
            shown = torch.cat([ends[:1], path.designs, ends[1:]])
            times = path.times.tolist() if path.times is not None else []
            labels = ["real", *(f"{time:.2f}" for time in times), "real"]
            name = f"{names} evenly" if even else names
            rows.append(Row(name, _pictures(shown, decoder), labels))
            paths.append(path)
    figure = pictures.strips(
        rows,
        title="Between two real digits",
        subtitle="encoded, then along the great circle (slerp); evenly: neighbours differ by the same amount",
        size=84,
    )
    pictures.write(figure, folder / "interpolation.png")
    _told(screen, "2 path", f"{len(rows)} paths between real digits", "interpolation.png", _all(paths))
    return {f"{number}": path.summary() for number, path in enumerate(paths, start=1)}


def _match(decoder: Decoder, examples: Tensor, folder: Path, seed: int, screen: Screen) -> dict[str, Any]:
    chosen = [*range(10), *range(43, 43 + _TARGETS - 10)]
    with _watch(screen, "match") as on_report:
        found = api.optimize(decoder, target=examples[chosen], seed=seed, out=folder / "matches", on_report=on_report)
    _unless_interrupted(found)
    best = found.best
    figure = pictures.comparison(
        _pictures(examples[chosen], decoder),
        _pictures(best.design, decoder),
        title=f"{_TARGETS} digits that training never saw, and the nearest designs found",
        subtitle=f"{found.cost.rows:,} rows in {found.cost.seconds:.1f} s".replace(",", " "),
        labels=[f"mean squared error {loss:.4f}" for loss in best.loss.tolist()],
    )
    pictures.write(figure, folder / "matches.png")
    curve = charts.curves(
        found.history,
        title=f"All {len(found)} rows of the search for {_TARGETS} digits",
        subtitle=f"{len(found) // _TARGETS} starts a digit, moved together; mean squared error",
    )
    pictures.write(curve, folder / "losses.png")
    losses = f"mean squared error {float(best.loss.median()):.4f} (median), {float(best.loss.amax()):.4f} (worst)"
    _told(
        screen, "3 match", f"{_TARGETS} held-out digits at once: {losses}", "matches.png, losses.png", str(best.realism)
    )
    screen.say(f"          {terminal.cost_words(found.cost)}")
    return found.summary()


# ---------------------------------------------------------------------- a property without gradient, then a polish with one


def _search(decoder: Decoder, folder: Path, seed: int, screen: Screen) -> dict[str, Any]:
    with _watch(screen, "search") as on_report:
        holes = api.optimize(
            decoder,
            objectives=[{"kind": "blackbox", "function": "latentopt.demo:two_holes", "goal": "maximize"}],
            starts=[{"kind": "prior", "n": 16, "screened_from": _SCREENED}],
            search=_SEARCH,
            seed=seed,
            out=folder / "property",
            on_report=on_report,
        )
    _unless_interrupted(holes)
    kept = holes.top(_KEPT, distinct=_APART)
    with _watch(screen, "polish") as on_report:
        polished = _polish(decoder, kept, folder, seed, on_report)
    _unless_interrupted(polished)
    best = polished.best
    before, after = _facts(kept.designs), _facts(best.design)
    drawn = _best_draws(decoder, seed)
    rows = [
        Row(f"best of {_SCREENED}\ndraws", _pictures(drawn, decoder), [_areas(a) for a in _facts(drawn)["holes"]]),
        Row("found without\ngradients", _pictures(kept.designs, decoder), [_areas(a) for a in before["holes"]]),
        Row("polished with\ngradients", _pictures(best.design, decoder), [_areas(a, "lost") for a in after["holes"]]),
    ]
    less = f"grey {np.mean(before['grey']):.3f} before the polish, {np.mean(after['grey']):.3f} after"
    title = "Digits that enclose two holes, both as large as possible"
    pictures.write(
        pictures.strips(rows, title=title, subtitle=f"hole sizes in pixels, counted; {less}"), folder / "property.png"
    )
    had, held = (sum(len(areas) >= 2 for areas in facts["holes"]) for facts in (before, after))
    words = f"two large holes, by counting regions: {had} of {len(kept)} designs have two, {held} after the polish"
    _told(screen, "4 search", words, "property.png", str(best.realism))
    screen.say(f"          {less}")
    screen.say(f"          search: {terminal.cost_words(holes.cost)}; polish: {terminal.cost_words(polished.cost)}")
    return {"search": holes.summary(), "polish": polished.summary(), "before": before, "after": after}


def _best_draws(decoder: Decoder, seed: int) -> Tensor:
    """The best that drawing alone gives, to compare with."""
    designs = api.sample(decoder, _SCREENED, seed=seed).designs
    scores = torch.tensor([two_holes(design.numpy()) for design in designs])
    return designs[scores.argsort(descending=True, stable=True)[:_KEPT]]


def _polish(decoder: Decoder, kept: Result, folder: Path, seed: int, on_report: Any) -> Result:
    """Each design as a start, and its own crisp copy as its target: pure ink and pure paper enclose the same holes.

    The target keeps the design where it is, but the property itself is not in the loss: it is counted again after.
    """
    return api.optimize(
        decoder,
        target=(kept.designs > INK).float(),
        starts=kept.latents[:, None],
        search={"kind": "adam", "lr": 0.05, "steps": 150},
        seed=seed,
        out=folder / "polished",
        on_report=on_report,
    )


def _facts(designs: Tensor) -> dict[str, Any]:
    return {"holes": [hole_areas(design) for design in designs.numpy()], "grey": grey(designs).tolist()}


def _areas(areas: list[int], otherwise: str = "") -> str:
    """Hole sizes as a label; `otherwise` marks those without two."""
    words = " + ".join(map(str, areas)) or "no hole"
    return f"{words}, {otherwise}" if otherwise and len(areas) < 2 else words


# ---------------------------------------------------------------------- words


def _pictures(designs: Tensor, decoder: Decoder) -> Tensor:
    found = pictures.as_pictures(designs, decoder)
    return designs if found is None else found


def _all(paths: list[Draws]) -> str:
    """The realism of several paths: the sentence of the one with the most designs outside."""
    outside = [int((~path.realism.inside).sum()) for path in paths]
    worst = str(paths[outside.index(max(outside))].realism)
    return worst if any(outside) else f"all {sum(map(len, paths))} designs lie inside what the decoder knows"


def _unless_interrupted(found: Result) -> None:
    """A search hands over its best at Ctrl-C; the demo as a whole ends there."""
    if found.stopped == "interrupted":
        raise KeyboardInterrupt


def _watch(screen: Screen, title: str) -> Any:
    return progress.watch(screen.aside, screen.progress, title=title)


def _frames(words: str, outside: list[bool]) -> str:
    return f"{words}; {sum(outside)} in orange lie outside what the decoder knows" if any(outside) else words


def _told(screen: Screen, step: str, what: str, files: str, realism: str) -> None:
    screen.say(f"{step:<9} {what}  ->  {files}")
    screen.say(f"          {realism.partition(' (prior')[0]}")


def _suggest(folder: Path, examples: Tensor, screen: Screen) -> None:
    """Two digits as files, and what to do with them."""
    for name, number in (("three", 13), ("eight", 18)):
        values = (examples[number, 0] * 255).round().to(torch.uint8).numpy()
        Image.fromarray(values).save(folder / f"{name}.png")
    screen.say()
    screen.say(f"Look at {folder}/*.png. Then try:")
    screen.say(f"  latentopt optimize --decoder {DECODER} --target {folder}/three.png --out three")
    between = f"--between {folder}/three.png --between {folder}/eight.png"
    screen.say(f"  latentopt interpolate --decoder {DECODER} {between} --out path")
    screen.say("  latentopt plugins")

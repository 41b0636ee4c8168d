"""Charts for web pages: an SVG that stretches with its box, and its words as HTML around it, so that they keep their size.

Marks live in a square of 1000 x 1000 units, y downwards. Nothing here takes text into SVG: only numbers and class names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

SIDE = 1000.0
_TINY, _HUGE = 1e-305, 1e305  # what an axis still tells apart
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


def number(value: float) -> str:
    """A number as short as it is readable: `12 300`, `0.0312`, `4.1e-07`; words where it is not finite."""
    if not math.isfinite(value):
        return "none" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:,.0f}".replace(",", "\u202f") if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


@dataclass(frozen=True)
class Axis:
    """Values to places along a side: `low` to `high`, by their logarithms where `log`; `down` for a y axis."""

    low: float
    high: float
    log: bool = False
    down: bool = False

    @staticmethod
    def over(values: Iterable[float], *, log: bool = False, down: bool = False, pad: float = 0.04) -> Axis:
        """The axis that holds these values with a margin. Values that are not finite do not count.

        With `log` it is logarithmic where all values are above zero and span more than a factor of three.
        """
        finite = [value for value in values if math.isfinite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        if log and low > 0 and high > 3 * low:
            room = math.exp(pad * (math.log(high) - math.log(low)))
            return Axis(max(low / room, _TINY), min(high * room, _HUGE), True, down)
        low, high = max(low, -_HUGE), min(high, _HUGE)
        room = pad * (high - low) or max(abs(high), 1e-12) * 0.1
        return Axis(low - room, high + room, False, down)

    def place(self, value: float) -> float:
        """Where a value lies, in [0, 1000] for those within; beyond the edges for others, and there for infinite ones."""
        if self.log:
            share = (
                (math.log(max(value, _TINY)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
                if value < math.inf
                else 2.0
            )
        else:
            share = (value - self.low) / (self.high - self.low)
        share = min(max(share, -1.0), 2.0) if not math.isnan(share) else 2.0
        return SIDE * (1 - share if self.down else share)

    def ticks(self, most: int = 5) -> list[tuple[float, str]]:
        """Places in per cent and words of at most so many ticks."""
        values = self._log_ticks(most) if self.log else self._ticks(most)
        return [(round(self.place(value) / 10, 2), number(value)) for value in values]

    def _ticks(self, most: int) -> list[float]:
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(nice * power for nice in _NICE if span / (nice * power) <= most)
        first = math.ceil(self.low / step)
        return [float(f"{i * step:.12g}") for i in range(first, math.floor(self.high / step) + 1)]

    def _log_ticks(self, most: int) -> list[float]:
        low, high = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        decades = [10.0**power for power in range(low, high + 1)]
        if len(decades) >= 3:
            return decades[:: math.ceil(len(decades) / most)]
        fine = [m * 10.0**power for power in range(low - 1, high + 1) for m in (1, 2, 5)]
        found = [value for value in fine if self.low <= value <= self.high]
        if len(found) > most:
            found = found[:: math.ceil(len(found) / most)]
        if len(found) >= 2:
            return found
        return Axis(self.low, self.high)._ticks(most)


def lanes(begins: Sequence[float], widths: Sequence[float], limit: float) -> list[tuple[float, int]]:
    """Labels at these places, in order, in as few lanes as they need: where each begins, and its lane, none overlapping.

    A label that would end beyond `limit` ends at its place instead of beginning there.
    """
    ends: list[float] = []
    found = []
    for begin, width in zip(begins, widths, strict=True):
        at = begin if begin + width <= limit else max(0.0, begin - width)
        lane = next((i for i, end in enumerate(ends) if end <= at), len(ends))
        if lane == len(ends):
            ends.append(0.0)
        ends[lane] = at + width
        found.append((at, lane))
    return found


# ---------------------------------------------------------------------- marks


def line(points: Iterable[tuple[float, float]], look: str) -> Markup:
    """A line through places; one point alone is a dot."""
    places = [f"{x:.1f} {y:.1f}" for x, y in points]
    if not places:
        return Markup("")
    path = f"M{places[0]}h0" if len(places) == 1 else "M" + "L".join(places)
    return Markup('<path class="{}" d="{}"/>').format(look, path)


def dot(x: float, y: float, look: str, point: int | None = None) -> Markup:
    """A dot: a line of no length with round ends, whose size is its width however the picture stretches.

    `point` is the index of what is shown when a pointer is over it.
    """
    about = Markup("") if point is None else Markup(' data-p="{}"').format(point)
    return Markup('<path class="dot {}" d="M{:.1f} {:.1f}h0"{}/>').format(look, x, y, about)


def dots(places: Iterable[tuple[float, float]], look: str) -> Markup:
    """Many dots as one mark, which has no pointers: a cloud behind others."""
    return Markup('<path class="dot {}" d="{}"/>').format(look, "".join(f"M{x:.0f} {y:.0f}h0" for x, y in places))


def known_look(index: int) -> str:
    """The look of the i-th set of known designs."""
    return f"known{index % 2}"


@dataclass(frozen=True)
class Chart:
    """A chart as the pages' template draws it: marks, and words at places in per cent."""

    label: str
    marks: Markup
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    title: str = ""
    aspect: str = "16 / 9"
    legend: list[tuple[str, str]] = field(default_factory=list)
    stages: list[tuple[float, int, str, str]] = field(default_factory=list)
    words: str = ""

    @property
    def n_lanes(self) -> int:
        """How many lanes the names of the stages take."""
        return 1 + max((lane for _, lane, *_ in self.stages), default=-1)

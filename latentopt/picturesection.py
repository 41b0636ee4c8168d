"""The part of a report that shows what a run's objectives draw of the designs found: polars of airfoils, and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from latentopt import known
from latentopt.result import Result
from latentopt.thumbnails import fitted

_MOST, _SIDE = 12, 1440  # pictures shown, and pixels of the longer side of each
_LETTERS, _LONGEST = 400_000, 200  # letters of all pictures together, as text in the page, and of a title


def section(result: Result, designs: Tensor, targets: list[int]) -> dict[str, Any] | None:
    """Pictures of these designs, which are for these targets, by the run's objectives; None where none draws any.

    A plugin's pictures that fail must not cost the report: it says so.
    """
    found: dict[str, tuple[str, Tensor]] = {}
    errors = []
    try:
        drawing = known.drawing(result, targets)
    except Exception as error:  # a plugin's code
        drawing, errors = {}, [f"no objective could be asked for pictures ({type(error).__name__}: {error})"]
    for name, config in drawing.items():
        try:
            for title, picture in _checked(config.pictures(designs.clone())).items():
                found.setdefault(title, (name, picture))
        except Exception as error:  # a plugin's code
            errors.append(f"{name} could not draw its pictures ({type(error).__name__}: {error})")
    if not found and not errors:
        return None
    shown = list(found.items())[:_MOST]
    letters = _LETTERS // max(1, len(shown))
    return {
        "pictures": [
            {"title": title[:_LONGEST], "name": name, "uri": fitted(picture, _SIDE, letters)}
            for title, (name, picture) in shown
        ],
        "more": len(found) - len(shown),
        "errors": errors,
    }


def _checked(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same as float32 on the CPU. Raises `ValueError` for what is no picture."""
    pictures = {str(title): picture.detach().float().cpu() for title, picture in found.items()}
    for title, picture in pictures.items():
        if picture.ndim != 3 or picture.shape[0] not in (1, 3) or not picture.numel():
            raise ValueError(f"{title!r} has the shape {tuple(picture.shape)}, expected (1 or 3, H, W)")
        if not bool(((picture >= 0) & (picture <= 1)).all()):
            raise ValueError(f"{title!r} has values that are not in 0 to 1")
    return pictures

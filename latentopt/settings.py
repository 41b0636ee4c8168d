"""The `--set key=VALUE` that edits a run description, and where each part of one was said: in a file, or in an option."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from latentopt.errors import ConfigError
from latentopt.wording import plain, quoted
from latentopt.yamltext import MAX_DEPTH, Document, Place, parse_value

_INDEX = re.compile(r"[0-9]+")
_PLUGIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Origins:
    """Where the parts of a run's description were said: those under `at` in a document, others in options by name."""

    document: Document | None = None
    at: Place = ()
    options: dict[Place, str] = field(default_factory=dict)

    def of(self, place: Sequence[str | int], key: str | None = None) -> tuple[str, str, Place]:
        """The position or option that said what is at a place (or its `key`), the excerpt, and the option's own place.

        All are empty where nobody did: a field that is missing from the document as a whole.
        """
        whole: Place = tuple(place) if key is None else (*place, key)
        held = whole[len(self.at) :] if whole[: len(self.at)] == self.at else None
        own = [one for one in self.options if whole[: len(one)] == one]
        if not own and (self.document is None or held not in self.document.values):
            own = [one for one in self.options if one[: len(whole)] == whole]
        if own:
            return self.options[max(own, key=len)], "", max(own, key=len)
        if self.document is None or not held:
            return "" if self.document is None else self.document.name, "", ()
        marks = self.document.values if key is None else self.document.keys
        while held and held not in marks:
            held = held[:-1]
        return (*self.document.where(marks[held]), ()) if held else (self.document.name, "", ())


def set_path(data: dict[str, Any], assignment: str) -> dict[str, Any]:
    """`data` as `changed` by one assignment. Raises `ConfigError`."""
    return changed(data, assignment)[0]


def changed(data: dict[str, Any], assignment: str) -> tuple[dict[str, Any], Place]:
    """Return a copy of `data` in which `a.b.1.c=VALUE` holds, and the keys and indexes that lead there.

    A number indexes a list, and one past its end appends. What is missing (or null) on the way is made: a list where
    a number follows, else a mapping. A text that could name a plugin becomes `{"kind": text}` to take the option.

    Raises:
        ConfigError: No `=`, an empty name, an index out of range, a way that leads through a value, or a value that
            `parse_value` refuses.
    """
    path, equals, value_text = assignment.partition("=")
    segments = [segment.strip() for segment in path.split(".")]
    shown = f"--set {plain(path.strip())}"
    if not equals:
        raise ConfigError(f"{shown}: no '=' in it: write KEY=VALUE, such as task.search.lr=0.05")
    if not all(segment and segment.isprintable() for segment in segments):
        what = "a name in the key is empty or unprintable"
        raise ConfigError(f"{shown}: {what}: write names joined by '.', such as task.search.lr")
    if len(segments) > MAX_DEPTH:
        raise ConfigError(f"{shown}: {len(segments)} levels deep, the limit is {MAX_DEPTH}: shorten the key")
    value = parse_value(value_text, shown, MAX_DEPTH - len(segments))
    result = copy.deepcopy(data)
    node: Any = result
    place: list[str | int] = []
    for depth, segment in enumerate(segments[:-1], start=1):
        place.append(int(segment) if isinstance(node, list) and _INDEX.fullmatch(segment) else segment)
        node = _enter(node, segment, segments[depth], shown, ".".join(segments[:depth]))
    slot = _slot(node, segments[-1], shown)
    node[slot] = value
    return result, (*place, slot)


def _enter(node: Any, segment: str, following: str, shown: str, where: str) -> Any:
    """Return the list or mapping that `node` holds under `segment`, made there if need be, to take `following`."""
    slot = _slot(node, segment, shown)
    child = node[slot]
    is_index = _INDEX.fullmatch(following) is not None
    if child is None:
        child = [] if is_index else {}
    elif isinstance(child, str) and not is_index and _PLUGIN_NAME.fullmatch(child):
        child = {"kind": child}
    elif not isinstance(child, dict | list):
        what = f"{plain(where)} is {quoted(str(child))}, which holds no {quoted(following)}"
        raise ConfigError(f"{shown}: {what}: set {plain(where)} itself to a mapping or a list")
    node[slot] = child
    return child


def _slot(node: dict[str, Any] | list[Any], segment: str, shown: str) -> int | str:
    """Return the index or key of `segment` in `node`, holding null there if it was not there yet."""
    if isinstance(node, dict):
        node.setdefault(segment, None)
        return segment
    count = len(node)
    valid = f"give an index from 0 to {count}, where {count} adds an item"
    if not _INDEX.fullmatch(segment):
        what = "a negative index" if re.fullmatch(r"-[0-9]+", segment) else "not an index"
        raise ConfigError(f"{shown}: {quoted(segment)} is {what}, but the list has {count} items: {valid}")
    # int() refuses thousands of digits; ten of them are past the end of any list already.
    index = int(segment) if len(segment) < 10 else count + 1
    if index > count:
        raise ConfigError(f"{shown}: index {plain(segment, 40)} is past the list of {count} items: {valid}")
    if index == count:
        node.append(None)
    return index

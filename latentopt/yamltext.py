"""Run descriptions as text: a strict reading of YAML, and the `--set key=VALUE` that edits it.

The text is read event by event into plain values; nothing in it can name a class, repeat itself by alias, or nest
deep enough to exhaust the stack, because no constructor and no recursion takes part. Scalars follow the core schema
of YAML 1.2.2 (section 10.3.2) where PyYAML follows 1.1: `1e-3` is a number, `010` is ten, and `NO`, `12:30:00`,
`1_000` and `2024-01-01` are texts.
"""

from __future__ import annotations

import copy
import difflib
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import yaml

from latentopt.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_INT_CHARACTERS = 100  # far above 128-bit seeds, far below the 4300 digits at which int() itself gives up

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF_NAN = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN")
# Texts in YAML 1.2, booleans in 1.1: as a key they mean different things to different readers.
_OLD_BOOL = re.compile(r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF")
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")
_LINE_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_INDEX = re.compile(r"[0-9]+")
_WHOLE = re.compile(r"0|[1-9][0-9]{0,9}")  # a coordinate as a key, kept as its text: every reader sees the same number
_PLUGIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

# A part of PyYAML's own words (C and Python loaders differ), then what to say instead, and the remedy.
_EXPLAINED = (
    ("mapping values are not allowed", "a ':' is not expected here", "quote the text, or correct the indentation"),
    ("could not find expected ':'", "a key has no ':' after it", "write key: value"),
    ("expected ',' or ']'", "a list has no closing ']'", "close it, with ',' between its items"),
    ("expected ',' or '}'", "a mapping has no closing '}'", "close it, with ',' between its items"),
    ("unexpected end of stream", "a quotation has no end", "add the closing quote"),
    ("unknown escape character", "an unknown escape in a double-quoted text", "use single quotes, or write \\\\"),
    ("cannot start any token", "a text cannot begin with this character", "quote the text"),
    ("<document start>", "text outside of the document", "indent it, or write key: value"),
    ("expected key", "this does not fit what comes before", "indent lines alike, or quote the whole text"),
    ("expected <block end>", "this does not fit what comes before", "indent lines alike, or quote the whole text"),
    ("expected '-' indicator", "this does not fit the list before", "begin it with '- ', indented alike"),
    ("node content", "a value is expected here", "write one, close the bracket, or quote the text"),
    ("sequence entries are not allowed", "a '-' is not expected here", "put the list on a new line, or quote the text"),
)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a run description from a file: one YAML mapping of at most `MAX_BYTES` bytes, UTF-8.

    Raises:
        ConfigError: The file cannot be read, is not text, or is not what `parse_yaml` takes.
    """
    path = Path(path)
    name = _plain(str(path))
    raw = _read(path, name)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{name}: the text is UTF-16, expected UTF-8: save the file as UTF-8")
    if b"\0" in raw:
        raise ConfigError(f"{name}: binary data (a zero byte at offset {raw.index(0)}): give a YAML text file")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, len(before.rpartition(b"\n")[2].decode("utf-8")) + 1
        what = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise ConfigError(f"{name}:{line}:{column}: {what}: save the file as UTF-8") from None
    return parse_yaml(text, name)


def parse_yaml(text: str, name: str = "<text>") -> dict[str, Any]:
    """Parse one YAML mapping to plain dicts, lists, str, int, float, bool and None; `name` stands in the errors.

    Raises:
        ConfigError: Not YAML, or refused here: more than `MAX_BYTES` bytes or `MAX_DEPTH` levels, anchors, aliases,
            tags, keys that are repeated or neither texts nor whole numbers, more than one document, nothing at all, or
            no mapping at top.
    """
    return _Builder(text, name, MAX_DEPTH, is_value=False).mapping()


def parse_value(text: str) -> Any:
    """Parse the right-hand side of `--set key=VALUE`: `0.05`, `adam`, `[1, 2]`, `{kind: adam, lr: 0.1}`.

    Raises:
        ConfigError: As `parse_yaml`; also nothing at all, and lists or mappings without brackets.
    """
    return _Builder(text, "value", MAX_DEPTH, is_value=True).value()


def set_path(data: dict[str, Any], assignment: str) -> dict[str, Any]:
    """Return a copy of `data` in which `a.b.1.c=VALUE` holds.

    A number indexes a list, and one past its end appends. What is missing (or null) on the way is made: a list where
    a number follows, else a mapping. A text that could name a plugin becomes `{"kind": text}` to take the option.

    Raises:
        ConfigError: No `=`, an empty name, an index out of range, a way that leads through a value, or a value that
            `parse_value` refuses.
    """
    path, equals, value_text = assignment.partition("=")
    segments = [segment.strip() for segment in path.split(".")]
    shown = f"--set {_plain(path.strip())}"
    if not equals:
        raise ConfigError(f"{shown}: no '=' in it: write KEY=VALUE, such as task.search.lr=0.05")
    if not all(segment and segment.isprintable() for segment in segments):
        what = "a name in the key is empty or unprintable"
        raise ConfigError(f"{shown}: {what}: write names joined by '.', such as task.search.lr")
    if len(segments) > MAX_DEPTH:
        raise ConfigError(f"{shown}: {len(segments)} levels deep, the limit is {MAX_DEPTH}: shorten the key")
    value = _Builder(value_text, shown, MAX_DEPTH - len(segments), is_value=True).value()
    result = copy.deepcopy(data)
    node: Any = result
    for depth, segment in enumerate(segments[:-1], start=1):
        node = _enter(node, segment, segments[depth], shown, ".".join(segments[:depth]))
    node[_slot(node, segments[-1], shown)] = value
    return result


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'lr'?` for the known word nearest to `word` (letter case aside), or an empty text."""
    nearest = _nearest(word, known)
    return f"; did you mean {nearest!r}?" if nearest else ""


def _nearest(word: str, known: Iterable[str]) -> str | None:
    by_folded = {candidate.casefold(): candidate for candidate in known}
    # difflib's time grows with the square of the length; no key is longer than this.
    found = difflib.get_close_matches(word[:100].casefold(), by_folded, n=1)
    return by_folded[found[0]] if found else None


def _plain(text: str, limit: int = 200) -> str:
    """Return `text` fit for a terminal: one line, nothing unprintable, not too long."""
    safe = "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in text[: limit + 1])
    return safe if len(text) <= limit else safe[: limit - 3] + "..."


def _quoted(text: str) -> str:
    return f"'{_plain(text, 40)}'"


def _read(path: Path, name: str) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            inside = _yaml_names(path)
            example = f", such as {_plain(str(path / inside[0]))}" if inside else ""
            raise ConfigError(f"{name} is a directory, expected a config file: give a YAML file{example}")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer, reading a device may never end
            raise ConfigError(f"{name} is a pipe or a device, expected a config file: save the text to a file first")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        folder, names = (path.parent if path.is_absolute() else Path.cwd()), _yaml_names(path.parent)
        names = [n for n in names if n != path.name]  # a broken link is listed too
        nearest = next((n for n in names if Path(n).stem == path.name), None) or _nearest(path.name, names)
        hint = f"Did you mean '{_plain(str(path.with_name(nearest)))}'?" if nearest else "Check the path."
        raise ConfigError(f"config file not found: {name} (looked in {_plain(str(folder))}). {hint}") from None
    except PermissionError:
        raise ConfigError(f"no permission to read the config file {name}: change its mode, or its folder's") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte or an unencodable character in the path
        reason = _plain(str(error.strerror if isinstance(error, OSError) else error))
        raise ConfigError(f"config file {name} cannot be read ({reason}): check the path") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{name} is larger than {MAX_BYTES} bytes, the limit for a config file: is it another kind?")
    return raw


def _yaml_names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in islice(folder.iterdir(), 1000) if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return []


@dataclass
class _Frame:
    """A list or mapping that is still open; in a mapping, the key that waits for its value, and each key's line."""

    container: dict[str, Any] | list[Any]
    key: str | None = None
    lines: dict[str, int] = field(default_factory=dict)


class _Builder:
    """One pass over the events of a text, and the value that they make."""

    def __init__(self, text: str, name: str, max_depth: int, *, is_value: bool) -> None:
        self.text, self.name, self.max_depth, self.is_value = text.removeprefix("\ufeff"), name, max_depth, is_value
        self.root: Any = None
        self.root_mark: Any = None
        self.end = 0  # the offset after the last piece of the value
        self.is_empty = True
        self.stack: list[_Frame] = []

    def value(self) -> Any:
        self._check_text()
        documents = 0
        for event in self._events():
            end: Any = event.end_mark
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.fail(event.start_mark, "a second document begins here", "keep one, and remove the '---'")
            elif isinstance(event, yaml.NodeEvent):
                self._node(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self.stack.pop()
                self.end = end.index
        if self.is_value and self.text[self.end :].lstrip().startswith("#"):
            what = "'#' begins a comment, which a value cannot have"
            raise ConfigError(f"{self.name}: {what}: quote the text inside it")
        if self.is_empty and self.is_value:
            raise ConfigError(f"{self.name}: no value after '=': write null for none, or '' for an empty text")
        if self.is_empty:
            raise ConfigError(f"{self.name} is empty: write at least 'decoder:' and 'task:'")
        return self.root

    def mapping(self) -> dict[str, Any]:
        top = self.value()
        if not isinstance(top, dict):
            got = "a list" if isinstance(top, list) else "a single value"
            self.fail(self.root_mark, f"{got} at top, expected a mapping", "write lines of 'key: value'")
        return top

    def fail(self, mark: Any, what: str, remedy: str) -> NoReturn:
        """Raise for a position, with its line and a caret below the message."""
        lines = _LINE_BREAK.split(self.text)
        line, column = mark.line, mark.column
        if line >= len(lines) or not lines[line]:  # at the end of the text: point behind its last words
            line = max((i for i in range(min(line, len(lines))) if lines[i].strip()), default=0)
            column = len(lines[line].rstrip())
        first = max(0, column - 60)
        excerpt = f"  {_plain(lines[line][first:], 100)}\n  {' ' * (column - first)}^"
        raise ConfigError(f"{self.name}:{line + 1}:{column + 1}: {what}: {remedy}\n{excerpt}")

    def _check_text(self) -> None:
        # A character takes one byte at least, so the first test spares encoding a giant.
        if len(self.text) > MAX_BYTES or len(self.text.encode("utf-8", "replace")) > MAX_BYTES:
            raise ConfigError(f"{self.name} is larger than {MAX_BYTES} bytes, the limit for a config: shorten it")
        if found := _FORBIDDEN.search(self.text):
            before = _LINE_BREAK.split(self.text[: found.start()])
            where = f"{self.name}:{len(before)}:{len(before[-1]) + 1}"
            code = f"U+{ord(found[0]):04X}"
            raise ConfigError(f"{where}: the character {code} is not text: remove it, or give a YAML text file")

    def _events(self) -> Iterator[Any]:
        try:
            yield from yaml.parse(self.text, Loader=_LOADER)
            return
        except yaml.MarkedYAMLError as error:
            marked = error
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # The Python loader lets chr() and int() fail on escapes such as \UFFFFFFFF and long version numbers.
            raise ConfigError(f"{self.name}: not valid YAML ({_plain(str(error))}): correct or quote it") from None
        self._explain(marked)

    def _explain(self, error: yaml.MarkedYAMLError) -> NoReturn:
        mark: Any = error.problem_mark or error.context_mark
        lines = _LINE_BREAK.split(self.text)
        line = lines[mark.line] if mark.line < len(lines) else ""
        if "\t" in line[: len(line) - len(line.lstrip())] or line[mark.column : mark.column + 1] == "\t":
            self.fail(mark, "a tab in the indentation", "YAML indents by spaces; replace each tab by two spaces")
        opened = ""
        if error.context_mark and (error.context_mark.line, error.context_mark.column) != (mark.line, mark.column):
            opened = f" (begun at line {error.context_mark.line + 1}, column {error.context_mark.column + 1})"
        problem = str(error.problem)
        for words, what, remedy in _EXPLAINED:
            if words in problem:
                self.fail(mark, what + opened, remedy)
        self.fail(mark, f"not valid YAML ({_plain(problem)}){opened}", "correct the line, or quote the text")

    def _node(self, event: Any) -> None:
        mark = event.start_mark
        frame = self.stack[-1] if self.stack else None
        if isinstance(event, yaml.AliasEvent):
            self.fail(
                mark, f"the alias {_quoted(f'*{event.anchor}')} is not read", "repeat what it stands for, or quote it"
            )
        if event.anchor is not None:
            self.fail(mark, f"the anchor {_quoted(f'&{event.anchor}')} is not read", "remove it, or quote the text")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.fail(mark, f"the tag {_quoted(tag)} is not read", "remove it, or quote the text")
        if frame and isinstance(frame.container, dict) and frame.key is None:
            frame.key = self._key(event, frame)
            return
        self.end = event.end_mark.index
        if isinstance(event, yaml.ScalarEvent):
            self.is_empty = frame is None and event.implicit[0] and event.value == ""
            self._attach(frame, self._scalar(event), mark)
            return
        if len(self.stack) == self.max_depth:
            self.fail(mark, f"nested more than {MAX_DEPTH} levels deep", "flatten it")
        if self.is_value and not event.flow_style:
            self.fail(mark, "a list or mapping without brackets", "write [a, b] or {key: value}, or quote the text")
        container: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.is_empty = False
        self._attach(frame, container, mark)
        self.stack.append(_Frame(container))

    def _attach(self, frame: _Frame | None, value: Any, mark: Any) -> None:
        if frame is None:
            self.root, self.root_mark = value, mark
        elif isinstance(frame.container, list):
            frame.container.append(value)
        elif frame.key is not None:
            frame.container[frame.key], frame.key = value, None

    def _key(self, event: Any, frame: _Frame) -> str:
        mark = event.start_mark
        if not isinstance(event, yaml.ScalarEvent):
            self.fail(mark, "a list or mapping as a key", "keys are texts; for a list of mappings write '- key: value'")
        key = self._scalar(event)
        plain = event.implicit[0]
        if plain and event.value == "":
            self.fail(mark, "a key is missing before ':'", "write key: value")
        if plain and event.value == "<<":
            self.fail(mark, "the merge key '<<' is not read", "write the keys out")
        if plain and _WHOLE.fullmatch(event.value):
            key = event.value
        if not isinstance(key, str) or (plain and _OLD_BOOL.fullmatch(key)):
            kind = "null" if key is None else "a boolean" if isinstance(key, bool | str) else "a number"
            shown = _plain(event.value, 40)
            self.fail(mark, f"the key {shown} reads as {kind}, expected a text", f"quote it: '{shown}'")
        if key in frame.lines:
            self.fail(mark, f"the key {_quoted(key)} is given twice (first in line {frame.lines[key]})", "keep one")
        frame.lines[key] = mark.line + 1
        return key

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text = event.value
        if found := _UNUSABLE.search(text):
            code = f"U+{ord(found[0]):04X}"
            self.fail(event.start_mark, f"an escape gives the character {code}, which is not text", "remove it")
        if not event.implicit[0]:  # quoted, or a block of text
            return text
        if _NULL.fullmatch(text):
            return None
        if _BOOL.fullmatch(text):
            return text.lower() == "true"
        if _INT.fullmatch(text):
            if len(text) > MAX_INT_CHARACTERS:
                what = f"an integer of {len(text)} characters, the limit is {MAX_INT_CHARACTERS}"
                self.fail(event.start_mark, what, "shorten it, or quote the text")
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if _FLOAT.fullmatch(text):
            return float(text)
        if _INF_NAN.fullmatch(text):
            return float(text.replace(".", "").lower())
        return text


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
        what = f"{_plain(where)} is {_quoted(str(child))}, which holds no {_quoted(following)}"
        raise ConfigError(f"{shown}: {what}: set {_plain(where)} itself to a mapping or a list")
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
        raise ConfigError(f"{shown}: {_quoted(segment)} is {what}, but the list has {count} items: {valid}")
    # int() refuses thousands of digits; ten of them are past the end of any list already.
    index = int(segment) if len(segment) < 10 else count + 1
    if index > count:
        raise ConfigError(f"{shown}: index {_plain(segment, 40)} is past the list of {count} items: {valid}")
    if index == count:
        node.append(None)
    return index

"""Run descriptions as text: a strict reading of YAML, which remembers where everything stood.

The text is read event by event into plain values; nothing in it can name a class, repeat itself by alias, or nest
deep enough to exhaust the stack, because no constructor and no recursion takes part. Scalars follow the core schema
of YAML 1.2.2 (section 10.3.2) where PyYAML follows 1.1: `1e-3` is a number, `010` is ten, and `NO`, `12:30:00`,
`1_000` and `2024-01-01` are texts.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from latentopt.errors import ConfigError
from latentopt.wording import nearest, plain, quoted

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
_WHOLE = re.compile(r"0|[1-9][0-9]{0,9}")  # a coordinate as a key, kept as its text: every reader sees the same number

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


Place = tuple[str | int, ...]


class Document(NamedTuple):
    """One mapping as plain values, and where they stood in the text called `name`: line and column, counted from 0.

    `keys` and `values` go by the keys and indexes that lead to a value; list items have no key.
    """

    data: dict[str, Any]
    name: str
    text: str
    keys: dict[Place, tuple[int, int]]
    values: dict[Place, tuple[int, int]]

    def where(self, mark: tuple[int, int]) -> tuple[str, str]:
        """A position as `name:line:column`, and its line with a caret below."""
        return _where(self.name, self.text, *mark)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a run description from a file: the data of `read_document`. Raises `ConfigError`."""
    return read_document(path).data


def read_document(path: str | Path) -> Document:
    """Read a run description from a file: one YAML mapping of at most `MAX_BYTES` bytes, UTF-8.

    Raises:
        ConfigError: The file cannot be read, is not text, or is not what `parse_yaml` takes.
    """
    path = Path(path)
    name = plain(str(path))
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
    return parse_document(text, name)


def parse_yaml(text: str, name: str = "<text>") -> dict[str, Any]:
    """The data of `parse_document`. Raises `ConfigError`."""
    return parse_document(text, name).data


def parse_document(text: str, name: str = "<text>") -> Document:
    """Parse one YAML mapping to plain dicts, lists, str, int, float, bool and None; `name` stands in the errors.

    Raises:
        ConfigError: Not YAML, or refused here: more than `MAX_BYTES` bytes or `MAX_DEPTH` levels, anchors, aliases,
            tags, keys that are repeated or neither texts nor whole numbers, more than one document, nothing at all, or
            no mapping at top.
    """
    builder = _Builder(text, name, MAX_DEPTH, is_value=False)
    data = builder.mapping()
    return Document(data, name, builder.text, builder.keys, builder.values)


class Typed(str):
    """A text of a config that was typed as an option: a path in it is relative to where it was typed, not to a file."""


def parse_value(text: str, name: str = "value", max_depth: int = MAX_DEPTH) -> Any:
    """Parse the right-hand side of `--set key=VALUE`: `0.05`, `adam`, `[1, 2]`, `{kind: adam, lr: 0.1}`.

    Raises:
        ConfigError: As `parse_yaml`; also nothing at all, and lists or mappings without brackets.
    """
    return _Builder(text, name, max_depth, is_value=True).value()


def _read(path: Path, name: str) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            inside = _yaml_names(path)
            example = f", such as {plain(str(path / inside[0]))}" if inside else ""
            raise ConfigError(f"{name} is a directory, expected a config file: give a YAML file{example}")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer, reading a device may never end
            raise ConfigError(f"{name} is a pipe or a device, expected a config file: save the text to a file first")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        folder, names = (path.parent if path.is_absolute() else Path.cwd()), _yaml_names(path.parent)
        names = [n for n in names if n != path.name]  # a broken link is listed too
        close = next((n for n in names if Path(n).stem == path.name), None) or nearest(path.name, names)
        hint = f"Did you mean '{plain(str(path.with_name(close)))}'?" if close else "Check the path."
        raise ConfigError(f"config file not found: {name} (looked in {plain(str(folder))}). {hint}") from None
    except PermissionError:
        raise ConfigError(f"no permission to read the config file {name}: change its mode, or its folder's") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte or an unencodable character in the path
        reason = plain(str(error.strerror if isinstance(error, OSError) else error))
        raise ConfigError(f"config file {name} cannot be read ({reason}): check the path") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{name} is larger than {MAX_BYTES} bytes, the limit for a config file: is it another kind?")
    return raw


def _yaml_names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in islice(folder.iterdir(), 1000) if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return []


def _where(name: str, text: str, line: int, column: int) -> tuple[str, str]:
    """A position as `name:line:column`, and its line with a caret below; past the end, that of the last words."""
    lines = _LINE_BREAK.split(text)
    if line >= len(lines) or not lines[line]:
        line = max((i for i in range(min(line, len(lines))) if lines[i].strip()), default=0)
        column = len(lines[line].rstrip())
    first = max(0, column - 60)
    excerpt = f"  {plain(lines[line][first:], 100)}\n  {' ' * (column - first)}^"
    return f"{name}:{line + 1}:{column + 1}", excerpt


@dataclass
class _Frame:
    """An open list or mapping and where it is; in a mapping, the key that waits for its value, and each key's line."""

    container: dict[str, Any] | list[Any]
    place: Place
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
        self.keys: dict[Place, tuple[int, int]] = {}
        self.values: dict[Place, tuple[int, int]] = {}

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
        where, excerpt = _where(self.name, self.text, mark.line, mark.column)
        raise ConfigError(f"{where}: {what}: {remedy}\n{excerpt}")

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
            raise ConfigError(f"{self.name}: not valid YAML ({plain(str(error))}): correct or quote it") from None
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
        self.fail(mark, f"not valid YAML ({plain(problem)}){opened}", "correct the line, or quote the text")

    def _node(self, event: Any) -> None:
        mark = event.start_mark
        frame = self.stack[-1] if self.stack else None
        if isinstance(event, yaml.AliasEvent):
            self.fail(
                mark, f"the alias {quoted(f'*{event.anchor}')} is not read", "repeat what it stands for, or quote it"
            )
        if event.anchor is not None:
            self.fail(mark, f"the anchor {quoted(f'&{event.anchor}')} is not read", "remove it, or quote the text")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.fail(mark, f"the tag {quoted(tag)} is not read", "remove it, or quote the text")
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
        self.stack.append(_Frame(container, self._attach(frame, container, mark)))

    def _attach(self, frame: _Frame | None, value: Any, mark: Any) -> Place:
        """Put a value where it belongs; returns the keys and indexes that lead there."""
        place: Place = ()
        if frame is None:
            self.root, self.root_mark = value, mark
        elif isinstance(frame.container, list):
            place = (*frame.place, len(frame.container))
            frame.container.append(value)
        elif frame.key is not None:
            place = (*frame.place, frame.key)
            frame.container[frame.key], frame.key = value, None
        self.values[place] = (mark.line, mark.column)
        return place

    def _key(self, event: Any, frame: _Frame) -> str:
        mark = event.start_mark
        if not isinstance(event, yaml.ScalarEvent):
            self.fail(mark, "a list or mapping as a key", "keys are texts; for a list of mappings write '- key: value'")
        key = self._scalar(event)
        bare = event.implicit[0]
        if bare and event.value == "":
            self.fail(mark, "a key is missing before ':'", "write key: value")
        if bare and event.value == "<<":
            self.fail(mark, "the merge key '<<' is not read", "write the keys out")
        if bare and _WHOLE.fullmatch(event.value):
            key = event.value
        if not isinstance(key, str) or (bare and _OLD_BOOL.fullmatch(key)):
            kind = "null" if key is None else "a boolean" if isinstance(key, bool | str) else "a number"
            shown = plain(event.value, 40)
            self.fail(mark, f"the key {shown} reads as {kind}, expected a text", f"quote it: '{shown}'")
        if key in frame.lines:
            self.fail(mark, f"the key {quoted(key)} is given twice (first in line {frame.lines[key]})", "keep one")
        frame.lines[key] = mark.line + 1
        self.keys[(*frame.place, key)] = (mark.line, mark.column)
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

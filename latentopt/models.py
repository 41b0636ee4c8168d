"""The base of every config class: frozen, no unknown keys (with a suggestion), no NaN or infinity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from latentopt.errors import ConfigError
from latentopt.settings import Origins
from latentopt.trust import NotTrustedError
from latentopt.wording import plain, suggest

_AT_KEY = "at_key"  # an error that is about a key of a mapping, rather than about all of it


class StrictModel(BaseModel):
    """A frozen pydantic model that refuses unknown keys with "did you mean"."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    known = list(cls.model_fields)
                    text = f"unknown key {key!r}{suggest(str(key), known)}; known: {', '.join(known)}"
                    raise PydanticCustomError(_AT_KEY, "{text}", {"text": text, "key": str(key)})
                if isinstance(data[key], bool) and _is_number(cls.model_fields[key].annotation):
                    text = f"{key} is a number, got {str(data[key]).lower()}: write it in digits"
                    raise PydanticCustomError(_AT_KEY, "{text}", {"text": text, "key": str(key)})
        return data


def _is_number(annotation: Any) -> bool:
    """Whether a field takes numbers and nothing else; to pydantic true is as good as 1."""
    return set(get_args(annotation) or [annotation]) <= {int, float, NoneType}


class AlsoNames:
    """Tells the JSON schema that a kind's plain name may stand for its config."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(names)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"enum": self.names}, handler(schema)]}


class AlsoOne:
    """Tells the JSON schema that one item may stand for a list of one."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler(schema)
        return {"anyOf": [found["items"], found]}


def named(value: Any, kinds: Sequence[str], what: str) -> Any:
    """A plain string stands for the config of that kind; raises `ValueError` for a kind that is not among these."""
    value = {"kind": value} if isinstance(value, str) else value
    if isinstance(value, dict) and value.get("kind") not in kinds:
        kind = value.get("kind")
        if kind is None:
            raise ValueError(f"this {what} needs a kind: one of {', '.join(kinds)}")
        raise ValueError(f"unknown {what} {kind!r}{suggest(str(kind), kinds)}; known: {', '.join(kinds)}")
    return value


class _Finding(NamedTuple):
    """What pydantic found at a place, as a reader of the config would write it, and the part of it that the data has."""

    place: list[str]
    held: tuple[str | int, ...]
    told: Any


# Pydantic's words for what is of the wrong type, in words for those who write run files.
_WORDS = {
    "model_type": "expected a mapping of fields",
    "model_attributes_type": "expected a mapping of fields",
    "dict_type": "expected a mapping",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "string_type": "expected a text",
    "path_type": "expected a path",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "none_required": "expected nothing",
}


def _words(told: Any) -> str:
    """What is wrong, in words."""
    context = told.get("ctx") or {}
    if told["type"] in ("too_short", "too_long"):
        short = told["type"] == "too_short"
        count = context.get("min_length" if short else "max_length")
        return f"expected at {'least' if short else 'most'} {count}, got {context.get('actual_length')}"
    return _WORDS.get(told["type"]) or str(told["msg"]).removeprefix("Value error, ")


def config_error(error: ValidationError, data: Any, where: str | Origins = "") -> ConfigError:
    """One line from pydantic's findings: `place: what is wrong (got ...)`, at most five of them.

    Where it is known who said what, each begins with the position in the file, and the first one's excerpt follows; or
    with the option.
    """
    found = _telling([_finding(one, data) for one in error.errors(include_url=False)])
    lines, excerpt = [], ""
    for one in found[:5]:
        line, its_excerpt = _line(one, where if isinstance(where, Origins) else None)
        lines.append(line)
        excerpt = excerpt or its_excerpt
    more = len(found) - len(lines)
    text = "; ".join(lines) + (f"; and {more} more" if more else "")
    text = f"{where}: {text}" if isinstance(where, str) and where else text
    return ConfigError(f"{text}\n{excerpt}" if excerpt else text)


def _line(one: _Finding, origins: Origins | None) -> tuple[str, str]:
    """One finding in words, with its place, and the excerpt of the file that it is in."""
    message, got = _words(one.told), one.told.get("input")
    if one.told["type"] not in ("value_error", "missing", _AT_KEY) and isinstance(got, str | int | float | bool | None):
        message = f"{message}, got {plain(repr(got))}"
    place = ".".join(one.place)
    where = excerpt = ""
    if origins is not None:
        key = one.told["ctx"]["key"] if one.told["type"] == _AT_KEY else None
        where, excerpt, option = origins.of(one.held, key)
        if option and ".".join(map(str, option)) == place:  # the option says it already
            place = ""
    return ": ".join(part for part in (where, place, message) if part), excerpt


def _telling(found: list[_Finding]) -> list[_Finding]:
    """Without what other members of a union say of data that was not meant for them. A lack of trust is told alone.

    Findings deeper inside a place know more than those at the place itself; a mapping was not meant as one of some names.
    """
    refused = [one for one in found if isinstance((one.told.get("ctx") or {}).get("error"), NotTrustedError)]
    if refused:
        return refused
    kept = [
        one
        for one in found
        if not any(len(o.place) > len(one.place) and o.place[: len(one.place)] == one.place for o in found)
    ]
    meant = [one for one in kept if one.told["type"] != "literal_error" or not isinstance(one.told.get("input"), dict)]
    return meant or kept


def _finding(told: Any, data: Any) -> _Finding:
    """The place without the kinds that pydantic inserts for unions."""
    place: list[str] = []
    held: list[str | int] = []
    inside = True  # whether the data has the place that far
    for item in told["loc"]:
        if isinstance(data, str):  # a kind's plain name stands for its config
            data, inside = {"kind": data}, False
        if isinstance(item, int):
            place.append(str(item))
            if isinstance(data, list | tuple):  # else one stands in place of a list of one
                data = data[item] if item < len(data) else None
                held += [item] if inside else []
        elif isinstance(data, dict) and item in data:
            place.append(item)
            data = data[item]
            held += [item] if inside else []
        elif isinstance(data, dict) and item != data.get("kind") and item.isidentifier() and item.islower():
            place.append(item)
            data, inside = None, False
    return _Finding(place, tuple(held), told)

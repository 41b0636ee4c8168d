"""The base of every config class: frozen, no unknown keys (with a suggestion), no NaN or infinity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from latentopt.errors import ConfigError
from latentopt.trust import NotTrustedError
from latentopt.yamltext import suggest


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
                    raise ValueError(f"unknown key {key!r}{suggest(str(key), known)}; known: {', '.join(known)}")
        return data


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
        raise ValueError(f"unknown {what} {kind!r}{suggest(str(kind), kinds)}; known: {', '.join(kinds)}")
    return value


def config_error(error: ValidationError, data: Any, where: str = "") -> ConfigError:
    """One line from pydantic's findings: `place: what is wrong (got ...)`, at most five of them."""
    lines = []
    told = _telling([(_place(found["loc"], data), found) for found in error.errors(include_url=False)])
    for place_parts, found in told[:5]:
        place = ".".join(place_parts)
        message = found["msg"].removeprefix("Value error, ")
        got = found.get("input")
        shown = ""
        if found["type"] not in ("value_error", "missing") and isinstance(got, str | int | float | bool | None):
            shown = f", got {got!r}"
        lines.append(f"{place}: {message}{shown}" if place else f"{message}{shown}")
    more = len(told) - len(lines)
    text = "; ".join(lines) + (f"; and {more} more" if more else "")
    return ConfigError(f"{where}: {text}" if where else text)


def _telling(found: list[tuple[list[str], Any]]) -> list[tuple[list[str], Any]]:
    """Without what other members of a union say of data that was not meant for them. A lack of trust is told alone.

    Findings deeper inside a place know more than those at the place itself; a mapping was not meant as one of some names.
    """
    refused = [one for one in found if isinstance((one[1].get("ctx") or {}).get("error"), NotTrustedError)]
    if refused:
        return refused
    kept = [one for one in found if not any(len(o) > len(one[0]) and o[: len(one[0])] == one[0] for o, _ in found)]
    meant = [one for one in kept if one[1]["type"] != "literal_error" or not isinstance(one[1].get("input"), dict)]
    return meant or kept


def _place(loc: tuple[int | str, ...], data: Any) -> list[str]:
    """The location without the kinds that pydantic inserts for unions, as a config file's reader would write it."""
    place: list[str] = []
    for item in loc:
        data = {"kind": data} if isinstance(data, str) else data  # a kind's plain name stands for its config
        if isinstance(item, int):
            place.append(str(item))
            if isinstance(data, list | tuple):  # else one stands in place of a list of one
                data = data[item] if item < len(data) else None
        elif isinstance(data, dict) and item in data:
            place.append(item)
            data = data[item]
        elif isinstance(data, dict) and item != data.get("kind") and item.isidentifier() and item.islower():
            place.append(item)
            data = None
    return place

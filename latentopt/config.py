"""RunConfig: what a run file says, made from what is installed; loading, `--set`, and the JSON schema."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import numpy as np
from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    create_model,
)
from pydantic_core import PydanticSerializationError
from torch import Tensor

from latentopt import shipped, trust
from latentopt.arrayfield import Array
from latentopt.budget import Budget
from latentopt.called import CALLED, GivenDecoder
from latentopt.errors import ConfigError, LatentoptError
from latentopt.interfaces import (
    SLOTS,
    DecoderConfig,
    InterpolatorConfig,
    ObjectiveConfig,
    PluginConfig,
    SamplerConfig,
    SearchConfig,
)
from latentopt.models import AlsoNames, AlsoOne, StrictModel, config_error, named
from latentopt.regions import RegionChoice
from latentopt.registry import Registry, installed
from latentopt.settings import Origins, changed
from latentopt.wording import suggest
from latentopt.yamltext import Place, Typed, read_document

_TASKS = ("optimize", "sample", "interpolate")
_AS_ANY: Any = SerializeAsAny()  # type: ignore[type-arg]  # a config of an unregistered class is dumped whole
_QUOTED = re.compile(r"[./\\:]")  # paths, files and code, which no sentence of ours has by chance
Start = Literal["mean", "encoder"] | Array | SamplerConfig


class OptimizeTask(StrictModel):
    """Search for the latents whose designs reach the targets, or meet the objectives' goals.

    `measures` are objectives that judge what was found, once, and take no part in the search.
    `pareto` asks for the front of the objectives in place of their sum. In `search` a list within the list is a race; "auto",
    the default, is a plan that is chosen for the problem.
    """

    kind: Literal["optimize"] = "optimize"
    target: Array | None = None
    starts: list[Start] | None = None
    region: RegionChoice | None = None
    objectives: list[ObjectiveConfig] | None = None
    constraints: list[ObjectiveConfig] = Field(default_factory=list)
    measures: list[ObjectiveConfig] = Field(default_factory=list)
    pareto: bool = False
    search: list[SearchConfig | list[SearchConfig]] | None = None


class SampleTask(StrictModel):
    """Draw n latents and decode them."""

    kind: Literal["sample"] = "sample"
    n: int = Field(default=16, ge=1, le=100_000_000)
    sampler: SamplerConfig | None = None


class InterpolateTask(StrictModel):
    """A path of `steps` designs through key latents, or through the encodings of key designs."""

    kind: Literal["interpolate"] = "interpolate"
    keys: Array | None = None
    designs: list[Array] | None = None
    steps: int = Field(default=9, ge=2, le=1_000_000)
    interpolator: InterpolatorConfig | None = None


class RunConfig(StrictModel):
    """One run, whole. The installed plugins decide which kinds each slot takes."""

    decoder: DecoderConfig
    seed: int = Field(default=0, ge=0, lt=2**63)
    budget: Budget = Budget()
    task: OptimizeTask | SampleTask | InterpolateTask

    def to_dict(self, arrays: dict[str, Tensor] | None = None) -> dict[str, Any]:
        """The config as plain data, as a file would hold it; unset fields are left out.

        Where `arrays` is passed, the numbers of the task go there by name, those read from files too, so that a folder which
        keeps both is complete. Else numbers given by value become nested lists, and paths stay paths.
        """

        def dump(**choice: Any) -> dict[str, Any]:
            context = {"arrays": arrays, "paths": "include" in choice}
            try:
                return self.model_dump(mode="json", exclude_none=True, context=context, **choice)
            except PydanticSerializationError as error:
                # pydantic keeps what was raised as words alone: "Error calling function `_serialize`: Kind: words"
                words = str(error).partition("`: ")[2].partition(": ")[2] or str(error)
                raise ConfigError(words) from error

        # files that a decoder names, its weights and known designs, stay where they are: they are the same for many runs
        return {**dump(include={"decoder"}), **dump(exclude={"decoder"})}


def _singular(slot: str) -> str:
    return "search" if slot == "searches" else slot[:-1]


def _prepare(registry: Registry, slot: str, value: Any) -> Any:
    """A name or a callable in place of a dict, and unknown kinds refused by name."""
    if isinstance(value, SLOTS[slot]):
        return value
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, dict):
        kind = value.get("kind")
        if kind is None:
            known = ", ".join(registry.kinds(slot))
            raise ValueError(f"this {_singular(slot)} needs a kind: one of {known}")
        if kind not in ("callable", "python"):
            try:
                registry.get(slot, str(kind))
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value
    if isinstance(value, type) and issubclass(value, SLOTS[slot]):
        return value()
    if callable(value) and slot in CALLED:
        return CALLED[slot](function=value)
    if slot == "decoders" and callable(getattr(value, "decode", None)):
        return value.config if value.config is not None else GivenDecoder(decoder=value)
    one = f"{'an' if slot[0] in 'aeiou' else 'a'} {_singular(slot)}"
    raise ValueError(f"expected {one}: a name, a dict with a kind, or a config, got {type(value).__name__}")


def _choose(registry: Registry, slot: str, value: Any, handler: Callable[[Any], Any]) -> Any:
    value = _prepare(registry, slot, value)
    # a config object of a class that no plugin registered (yet) is as good as a registered one, from Python
    return value if isinstance(value, SLOTS[slot]) else handler(value)


def _slot_type(registry: Registry, slot: str) -> Any:
    extra: tuple[Any, ...] = (CALLED[slot],) if slot in CALLED else (GivenDecoder,) if slot == "decoders" else ()
    classes = (*registry.kinds(slot).values(), *extra)
    if not classes:
        raise ConfigError(f"no {slot} are installed: the plugin 'std' is missing (see LATENTOPT_PLUGINS)")
    union: Any = Union[classes]  # noqa: UP007
    if len(classes) > 1:
        union = Annotated[union, Field(discriminator="kind")]
    choose = WrapValidator(functools.partial(_choose, registry, slot))
    return Annotated[union, choose, AlsoNames(registry.kinds(slot)), _AS_ANY]


@functools.cache
def _slot_adapter(registry: Registry, slot: str) -> TypeAdapter[Any]:
    return TypeAdapter(_slot_type(registry, slot))


def _listed(value: Any) -> Any:
    """One in place of a list of one."""
    return value if value is None or isinstance(value, list | tuple) else [value]


def _entry(search: Any) -> Any:
    """A search, or a list of searches that race."""
    one: Any = Annotated[search, Tag("(search)")]
    race: Any = Annotated[list[search], Field(min_length=2), Tag("(race)")]
    which = Discriminator(lambda value: "(race)" if isinstance(value, list | tuple) else "(search)")
    return Annotated[one | race, which]


def _no_auto(value: Any) -> Any:
    """`auto` is no search but a plan: the same as no word on how to search."""
    only = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if only == "auto" or (isinstance(only, dict) and only == {"kind": "auto"}):
        return None
    entries = [one for entry in _listed(value) or [] for one in _listed(entry) or []]
    if any((one.get("kind") if isinstance(one, dict) else one) == "auto" for one in entries):
        raise ValueError("'auto' plans the whole search, so it stands alone: drop it, or drop the others")
    return value


def _keys(value: dict[Any, Any]) -> str:
    return ", ".join(map(repr, value)) or "nothing"


def _kind_of_start(value: Any) -> str:
    """Which member of the union of starts a value is for, so that the others have nothing to say of it."""
    if isinstance(value, str):
        return "(word)" if value in ("mean", "encoder") else "(sampler)"
    if isinstance(value, Array) or (isinstance(value, dict) and "kind" not in value):
        return "(latents)"
    return "(sampler)"


def _choose_start(registry: Registry, value: Any, handler: Callable[[Any], Any], info: ValidationInfo) -> Any:
    """'mean', 'encoder', latents (a tensor, or {path: ...}), or a sampler."""
    if value in ("mean", "encoder") if isinstance(value, str) else isinstance(value, Array):
        return value
    if isinstance(value, Tensor | np.ndarray | list):
        return Array.validated(value, info)
    if isinstance(value, dict) and "kind" not in value:
        if "path" not in value:
            kinds = ", ".join(registry.kinds("samplers"))
            raise ValueError(f"this start needs a kind, one of {kinds}, or the path of latents; got {_keys(value)}")
        return Array.validated(value, info)
    if isinstance(value, str):
        if value.endswith((".npy", ".npz", ".safetensors")):
            return Array.validated(value, info)
        known = {**registry.kinds("samplers"), "mean": None, "encoder": None}
        if value not in known:
            raise ValueError(f"unknown start {value!r}{suggest(value, known)}; known: {', '.join(sorted(known))}")
    return _choose(registry, "samplers", value, handler)


@functools.cache
def _run_config_type(registry: Registry) -> type[RunConfig]:
    types: dict[str, Any] = {slot: _slot_type(registry, slot) for slot in SLOTS}
    sampler: Any = types["samplers"]
    word: Any = Annotated[Literal["mean", "encoder"], Tag("(word)")]
    latents: Any = Annotated[Array, Tag("(latents)")]
    start = Annotated[
        Union[word, latents, Annotated[sampler, Tag("(sampler)")]],  # noqa: UP007
        Discriminator(_kind_of_start),
        WrapValidator(functools.partial(_choose_start, registry)),
        AlsoNames(registry.kinds("samplers")),
    ]

    def some(one: Any, least: int = 1) -> Any:
        return Annotated[list[one], Field(min_length=least), BeforeValidator(_listed), AlsoOne()]

    searches: Any = some(_entry(types["searches"])) | None
    searches = Annotated[searches, BeforeValidator(_no_auto), AlsoNames(["auto"])]
    optimize: Any = create_model(
        "Optimize",
        __base__=OptimizeTask,
        __doc__=OptimizeTask.__doc__,
        starts=(some(start) | None, None),
        objectives=(some(types["objectives"]) | None, None),
        constraints=(some(types["objectives"], 0), Field(default_factory=list)),
        measures=(some(types["objectives"], 0), Field(default_factory=list)),
        search=(searches, None),
    )
    sample: Any = create_model(
        "Sample", __base__=SampleTask, __doc__=SampleTask.__doc__, sampler=(sampler | None, None)
    )
    interpolate: Any = create_model(
        "Interpolate",
        __base__=InterpolateTask,
        __doc__=InterpolateTask.__doc__,
        interpolator=(types["interpolators"] | None, None),
    )
    task: Any = optimize | sample | interpolate
    task = Annotated[task, Field(discriminator="kind"), BeforeValidator(_named_task), AlsoNames(_TASKS)]
    made: type[RunConfig] = create_model(
        "Run", __base__=RunConfig, __doc__=RunConfig.__doc__, decoder=(types["decoders"], ...), task=(task, ...)
    )
    return made


def _named_task(value: Any) -> Any:
    return named(value, _TASKS, "task")


def run_config_type(registry: Registry | None = None) -> type[RunConfig]:
    """The RunConfig class for what is installed."""
    return _run_config_type(registry or installed())


def make_config(
    data: dict[str, Any], *, folder: Path | None = None, where: str | Origins = "", trusted: bool = True
) -> RunConfig:
    """A RunConfig from plain data (or from Python objects in it). Raises `ConfigError`, one line, and the excerpt of a file.

    Relative paths in it are relative to `folder` where one is given; `where` says who said what. One that is not `trusted`
    may name no code, and no path outside of that folder; Python objects in it are the caller's own.
    """
    home = None
    if not trusted:
        if folder is None:
            raise ConfigError(f"{where}: a config that is not trusted needs the folder that it must keep to")
        home = folder
        trust.check_depth(data, str(where))
    try:
        found = run_config_type().model_validate(data, context={"folder": folder, "within": home})
    except ValidationError as error:
        raise config_error(error, data, where) from None
    if home is not None:
        trust.check_paths(found, home, str(where))
    return found


def received_config(
    plain: dict[str, Any], folder: Path, *, trust_code: bool, where: str = "", decoder: Any = None, **task: Any
) -> RunConfig:
    """The RunConfig of a run that was kept: `plain` as its folder or picture holds it, trusted only on request.

    `decoder` and `task` (objectives, constraints, measures) are what Python gives in the place of what no file can hold.
    """
    data = {**plain, "task": dict(plain.get("task") or {})}
    if decoder is not None:
        data["decoder"] = decoder
    for name, value in task.items():
        if value is not None:
            data["task"][name] = [make_plugin_config("objectives", one) for one in _listed(value)]
    return make_config(data, folder=folder, where=where or str(folder), trusted=trust_code)


def make_plugin_config(slot: str, value: Any) -> PluginConfig:
    """One plugin's config from a name, dict, config or callable. Raises `ConfigError`."""
    try:
        return _slot_adapter(installed(), slot).validate_python(value)
    except ValidationError as error:
        raise config_error(error, value, _singular(slot)) from None


def read_config(path: str | Path, changes: Sequence[str] = ()) -> RunConfig:
    """The RunConfig of a YAML file, or of a run that a plugin ships ("materials:demo"), with `key.path=value` changes made
    to it. Raises `ConfigError`."""
    path = shipped.run_file(path)
    document = read_document(path)
    data, options = with_changes(document.data, changes)
    folder = path.parent if path.parent != Path(".") else None
    return make_config(data, folder=folder, where=Origins(document, options=options))


def _quotes(error: LatentoptError, value: Any) -> bool:
    """Whether an error's words contain a text of a file, as it stands there or as the path that it is ("./a" is "a")."""
    if not isinstance(value, str) or len(value) <= 2 or not _QUOTED.search(value):
        return False
    return value in str(error) or ("/" in value and str(Path(value)) in str(error))


@contextmanager
def placed(path: str | Path) -> Iterator[None]:
    """Inside, an error that quotes a text of this run file, such as the path of a target, begins with where it stands."""
    try:
        yield
    except LatentoptError as error:
        document = read_document(shipped.run_file(path))
        for place, mark in document.values.items():
            value: Any = document.data
            for step in place:
                value = value[step]
            if _quotes(error, value):
                where, excerpt = document.where(mark)
                if str(error).startswith(document.name):
                    raise
                raise type(error)(f"{where}: {error}" + (f"\n{excerpt}" if excerpt else "")) from error.__cause__
        raise


def with_changes(data: dict[str, Any], changes: Sequence[str]) -> tuple[dict[str, Any], dict[Place, str]]:
    """Data with `key.path=value` changes made to it, and by the place of each what to call it in errors."""
    options: dict[Place, str] = {}
    for change in changes:
        data, place = changed(data, change)
        options[place] = f"--set {change.partition('=')[0].strip()}"
        node: Any = data
        for step in place[:-1]:
            node = node[step]
        node[place[-1]] = _typed(node[place[-1]])
    return data, options


def _typed(value: Any) -> Any:
    """The same data, its texts marked as typed."""
    if isinstance(value, dict):
        return {key: _typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_typed(one) for one in value]
    return Typed(value) if isinstance(value, str) else value


def json_schema() -> dict[str, Any]:
    """The JSON schema of a run file, so that editors complete it."""
    return run_config_type().model_json_schema()

"""Finds plugins, checks what they register, and indexes it by (slot, kind). Turns the text of a config into classes."""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pluggy

from latentopt import hookspecs
from latentopt.errors import ConfigError, PluginError
from latentopt.interfaces import SLOTS, PluginConfig
from latentopt.shipped import GROUP
from latentopt.wording import suggest

SELECT = "LATENTOPT_PLUGINS"


@dataclass(frozen=True)
class PluginInfo:
    """One installed plugin: its entry point, the distribution and version it came with, and the kinds it adds by slot."""

    name: str
    module: str
    distribution: str
    version: str
    kinds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    error: str = ""
    trace: str = ""


class Registry:
    """The kinds of every slot. `get(slot, kind)` gives the config class; unknown kinds are a `ConfigError`."""

    def __init__(self) -> None:
        self.plugins: list[PluginInfo] = []
        self._classes: dict[str, dict[str, type[PluginConfig]]] = {slot: {} for slot in SLOTS}
        self._owner: dict[tuple[str, str], str] = {}

    def kinds(self, slot: str) -> dict[str, type[PluginConfig]]:
        """Config classes of a slot by kind, sorted by name."""
        return dict(sorted(self._classes[slot].items()))

    def get(self, slot: str, kind: str) -> type[PluginConfig]:
        """The config class of this kind. Raises `ConfigError` with a suggestion and what is installed."""
        found = self._classes[slot].get(kind)
        if found is None:
            known = sorted(self._classes[slot])
            raise ConfigError(
                f"unknown {slot[:-2] if slot == 'searches' else slot[:-1]} {kind!r}{suggest(kind, known)}"
                f"; installed: {', '.join(known)}"
            )
        return found

    def add(self, info: PluginInfo, module: object) -> None:
        """Register everything that one plugin's hooks return. Raises `PluginError` and then adds nothing of it."""
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(module, name=info.name)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(
                f"plugin {info.name!r} ({_source(info)}): {str(error).splitlines()[-1].strip()}"
            ) from error
        found: list[tuple[str, str, type[PluginConfig]]] = []
        for slot in SLOTS:
            hook = getattr(manager.hook, f"latentopt_register_{slot}")
            try:
                returned = hook()
            except Exception as error:  # a plugin is anyone's code: whatever its hook raises is named, never hidden
                raise PluginError(
                    f"plugin {info.name!r} ({_source(info)}) failed to register ({type(error).__name__}: {error}): "
                    f"repair or uninstall it, or leave it out with {SELECT}; 'latentopt doctor' shows the trace"
                ) from error
            # pluggy leaves None out, which is what a hook without a return gives
            for classes in returned or [None] * len(hook.get_hookimpls()):
                found.extend((slot, _checked(info, slot, cls), cls) for cls in _listed(info, slot, classes))
        for slot, kind, _ in found:
            if (slot, kind) in self._owner:
                raise PluginError(
                    f"two plugins claim {slot} kind {kind!r}: {self._owner[slot, kind]} and {_source(info)}; "
                    f"uninstall one, or choose with {SELECT}"
                )
        kinds: dict[str, tuple[str, ...]] = {}
        for slot, kind, cls in found:
            self._owner[slot, kind] = _source(info)
            self._classes[slot][kind] = cls
            kinds[slot] = tuple(sorted((*kinds.get(slot, ()), kind)))
        self.plugins.append(PluginInfo(info.name, info.module, info.distribution, info.version, kinds))


def _source(info: PluginInfo) -> str:
    return f"{info.distribution} {info.version}"


def _listed(info: PluginInfo, slot: str, classes: Any) -> Iterable[Any]:
    if isinstance(classes, list | tuple):
        return classes
    raise PluginError(
        f"plugin {info.name!r} ({_source(info)}): latentopt_register_{slot} must return a list of config classes, "
        f"got {type(classes).__name__}"
    )


def _checked(info: PluginInfo, slot: str, cls: Any) -> str:
    base = SLOTS[slot]
    what = f"plugin {info.name!r} ({_source(info)}): latentopt_register_{slot} returned {cls!r}"
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise PluginError(f"{what}, expected a subclass of {base.__name__}")
    if not cls.kind_name():
        raise PluginError(f'{what}, which has no kind: add a field such as kind: Literal["my_kind"] = "my_kind"')
    if cls.build is base.build:  # type: ignore[attr-defined]
        raise PluginError(f"{what}, which has no build method")
    return cls.kind_name()


def _selected(entries: Sequence[metadata.EntryPoint]) -> list[metadata.EntryPoint]:
    choice = os.environ.get(SELECT)
    if choice is None:
        return sorted(entries, key=lambda e: (e.name != "std", e.name))
    names = [name.strip() for name in choice.split(",") if name.strip()]
    known = {entry.name: entry for entry in entries}
    missing = [name for name in names if name not in known]
    if missing:
        raise PluginError(
            f"{SELECT} names {missing[0]!r}, which is not installed{suggest(missing[0], known)}; "
            f"installed: {', '.join(sorted(known))}"
        )
    return [known[name] for name in names]


def load(*, strict: bool = True) -> Registry:
    """A registry of every installed (or selected) plugin.

    Raises `PluginError` at the first plugin that fails, with its name, version and the remedy. With `strict=False` a
    failing plugin is listed with its error and trace instead, for `latentopt doctor`.
    """
    registry = Registry()
    for entry in _selected(list(metadata.entry_points(group=GROUP))):
        distribution = entry.dist
        info = PluginInfo(
            entry.name,
            entry.value,
            distribution.name if distribution is not None else "unknown",
            distribution.version if distribution is not None else "unknown",
        )
        try:
            try:
                module = entry.load()
            except Exception as error:  # a plugin is anyone's code: whatever its import raises is named, never hidden
                raise PluginError(
                    f"plugin {info.name!r} ({_source(info)}) failed to import ({type(error).__name__}: {error}): "
                    f"repair or uninstall it, or leave it out with {SELECT}; 'latentopt doctor' shows the trace"
                ) from error
            registry.add(info, module)
        except PluginError as error:
            if strict:
                raise
            trace = "".join(traceback.format_exception(error))
            registry.plugins.append(
                PluginInfo(info.name, info.module, info.distribution, info.version, {}, str(error), trace)
            )
    return registry


@functools.cache
def installed() -> Registry:
    """The registry of this process, loaded once and only when first used."""
    return load()

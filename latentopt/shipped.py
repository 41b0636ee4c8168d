"""Run files that plugins ship: `latentopt run materials:demo` is runs/demo.yaml in the package of the plugin `materials`."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from latentopt.errors import ConfigError
from latentopt.wording import suggest

GROUP = "latentopt"  # of the entry points by which plugins are found
FOLDER, ENDING = "runs", ".yaml"


def run_file(text: str | Path) -> Path:
    """The path of a run file that is named by its path, or as "plugin:run". Raises `ConfigError` where there is none such.

    A file of that name comes first. No plugin is imported.
    """
    path = Path(text)
    plugin, colon, name = str(text).partition(":")
    if not colon or not plugin.isidentifier() or path.suffix or path.exists():
        return path
    owners = {entry.name: entry.module for entry in metadata.entry_points(group=GROUP)}
    if plugin not in owners:
        raise ConfigError(
            f"{str(text)!r} is no file, and no plugin {plugin!r} is installed{suggest(plugin, owners)}; "
            f"installed: {', '.join(sorted(owners))}"
        )
    runs = runs_of(owners[plugin])
    if name not in runs:
        known = f"its runs: {', '.join(runs)}" if runs else "it ships none"
        raise ConfigError(f"plugin {plugin!r} ships no run {name!r}{suggest(name, runs)}; {known}")
    return runs[name]


def runs_of(module: str) -> dict[str, Path]:
    """The run files of the package that a plugin's module is or lies in, by name. The module is not imported."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return {path.stem: path for folder in folders for path in sorted(Path(folder, FOLDER).glob(f"*{ENDING}"))}


def names_of(plugin: str, module: str) -> list[str]:
    """The runs of a plugin as `latentopt run` takes them, such as "materials:demo"; `module` is its entry point."""
    return [f"{plugin}:{name}" for name in runs_of(module.partition(":")[0])]

"""A plugin to begin with: a distribution of its own, written from the templates in plugin_template/, that works as it is."""

from __future__ import annotations

import importlib.resources
import re
from importlib import metadata
from pathlib import Path
from string import Template

from latentopt.errors import ConfigError
from latentopt.registry import installed
from latentopt.shipped import GROUP
from latentopt.wording import plain, suggest
from latentopt.yamltext import parse_yaml

SLOTS = {
    "objective": "objectives",
    "sampler": "samplers",
    "interpolator": "interpolators",
    "search": "searches",
    "decoder": "decoders",
}
_LONGEST = 40  # letters of a name: lines that hold it stay within 120
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# What stands for something else where a kind of this slot may stand
_WORDS = {"searches": ("auto",), "samplers": ("mean", "encoder")}


def new_plugin(name: str, slot: str, out: Path | None = None) -> list[Path]:
    """Write a plugin of one kind, `name` with underscores, into the new folder `out`, by default `latentopt-NAME`: its files.

    Raises `ConfigError` for names that cannot be one, or are taken, for other slots, and where the folder is there already.
    """
    name, slots = _checked_name(name), _slots(slot)
    kind = name.replace("-", "_")
    _refuse_taken(name, kind, slots)
    distribution = f"latentopt-{name}"
    folder = Path(distribution) if out is None else out
    files = _files(
        slot,
        {
            "distribution": distribution,
            "package": f"latentopt_{kind}",
            "kind": kind,
            "cls": "".join(part.capitalize() for part in name.split("-")) + slot.capitalize(),
            "slot": slot,
            "article": "An" if slot[0] in "aeio" else "A",
        },
    )
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} is there already, and nothing is overwritten: give another --out, or move it away")
    try:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename or folder}: {error.strerror or error}; choose another --out"
        ) from None
    return [folder / path for path in files]


def _files(slot: str, words: dict[str, str]) -> dict[str, str]:
    """The text of each file of the plugin, by its path."""

    def text(template: str) -> str:
        found = importlib.resources.files("latentopt") / "plugin_template" / f"{template}.txt"
        return Template(found.read_text()).substitute(words)

    run = text(f"{slot}.yaml")
    words = {**words, "run": run}
    package = f"src/{words['package']}"
    return {
        "pyproject.toml": text("pyproject.toml"),
        "README.md": text("README.md"),
        f"{package}/__init__.py": text(f"{slot}.py"),
        f"{package}/py.typed": "",
        f"{package}/runs/demo.yaml": run,
        f"tests/test_{words['kind']}.py": text(f"test_{slot}.py"),
    }


# ---------------------------------------------------------------------- names


def _slots(slot: str) -> str:
    """The name that the registry has for a slot. Raises `ConfigError`."""
    if slot not in SLOTS:
        raise ConfigError(
            f"unknown slot {plain(slot, 40)!r}{suggest(slot, SLOTS)}; a plugin is one of {', '.join(SLOTS)}"
        )
    return SLOTS[slot]


def _checked_name(given: str) -> str:
    """A plugin's name, its words joined by hyphens as distributions are named. Raises `ConfigError`."""
    name = given.removeprefix("latentopt-").replace("_", "-")
    if not _NAME.fullmatch(name):
        likely = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:_LONGEST].strip("-")
        raise ConfigError(
            f"a plugin's name is small letters and digits in words joined by single hyphens, beginning with a letter, got "
            f"{plain(given, 40)!r}: try {likely or 'grain-size'!r}"
        )
    if len(name) > _LONGEST:
        raise ConfigError(
            f"a plugin's name has at most {_LONGEST} letters, got {len(name)}: shorten {plain(name, 60)!r}"
        )
    if parse_yaml(f"kind: {name}")["kind"] != name:
        raise ConfigError(f"{name!r} is no word in a run file, where it means {name} itself: choose another name")
    return name


def _refuse_taken(name: str, kind: str, slots: str) -> None:
    """Raises `ConfigError` where a plugin of that name, or a kind of that slot, is installed or means something else."""
    owners = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    if kind in owners:
        of = owners[kind].dist
        raise ConfigError(
            f"plugin {kind!r} is installed{f' by {of.name}' if of is not None else ''}: choose another name, or uninstall it"
        )
    taken = [plugin.distribution for plugin in installed().plugins if kind in plugin.kinds.get(slots, ())]
    if taken:
        raise ConfigError(f"{slots} have a kind {kind!r} already, of {taken[0]}: choose another name")
    if kind in _WORDS.get(slots, ()):
        raise ConfigError(f"{kind!r} among {slots} of a run file means something else: choose another name")

"""Options that go to a constructor of Optuna's, checked at the door; and Optuna kept silent."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from latentopt import ConfigError, suggest

_SIMPLE = ("int", "float", "bool", "str")


def check_options(
    what: str, name: str, cls: type, options: Mapping[str, Any], make: Callable[[], object], refused: Mapping[str, str]
) -> None:
    """Raise `ConfigError` for an option that the class does not have, one that is `refused` and why, or a bad value.

    `what` and `name`, such as "sampler" and "tpe", are for the errors; `make` makes one with these options.
    """
    parameters = inspect.signature(cls).parameters
    known = [key for key, p in parameters.items() if key not in refused and _is_simple(p.annotation)]
    for key in options:
        if key in refused:
            raise ConfigError(f"{what}_options takes no {key!r}: {refused[key]}")
        if key not in known:
            raise ConfigError(
                f"optuna's {name} {what} has no option {key!r}{suggest(key, known)}; known: {', '.join(known)}"
            )
    try:
        with quiet(deprecated=False):  # said here once, and not at each batch
            make()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optuna's {name} {what} refuses {dict(options)}: {error}") from error


def _is_simple(annotation: Any) -> bool:
    """Whether an option can be written as a number or word in a file. Some of Optuna's files have annotations as text."""
    words = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return all(part.strip() in (*_SIMPLE, "None") for part in words.split("|"))


@contextmanager
def quiet(deprecated: bool = True) -> Iterator[None]:
    """Without Optuna's log lines and its warnings that a part is experimental (or deprecated); as it was again after."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if deprecated:
                warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)

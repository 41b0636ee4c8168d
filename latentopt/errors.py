"""Every error that latentopt raises on purpose, each with the exit code that the command line gives it.

A message is one sentence or two: what was got, what was expected, and the remedy.
"""

from __future__ import annotations


class LatentoptError(Exception):
    """Base of all of latentopt's own errors; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(_printable(one) if isinstance(one, str) else one for one in args))


def _printable(text: str) -> str:
    """A text that may quote a file's content, without what could steer a terminal: only its line breaks are kept."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else " " if c.isspace() else "?" for c in text)


class ConfigError(LatentoptError):
    """A run description that cannot be: unknown keys or kinds, values out of range, bad YAML."""


class InputFileError(LatentoptError):
    """A file that is missing, damaged, too large, or of a kind that is not read."""


class ShapeError(LatentoptError):
    """A latent, target or design whose shape is not the decoder's."""


class DecoderError(LatentoptError):
    """A decoder or encoder that cannot be used as given."""


class EncoderError(DecoderError):
    """An encoder that cannot be used as given, beside a decoder that can."""


class ObjectiveError(LatentoptError):
    """An objective that returned something other than one finite real number a row."""


class GradientError(LatentoptError):
    """A gradient search on something that gives no gradient."""


class PluginError(LatentoptError):
    """A plugin that fails to import or register, or that claims a name which is taken."""


class OutOfMemoryError(LatentoptError):
    """A single row did not fit into memory."""


class DivergedError(LatentoptError):
    """Every row of a run turned NaN or infinite, so there is no design to return."""

    exit_code = 1

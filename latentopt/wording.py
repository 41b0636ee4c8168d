"""Other people's words within messages: the nearest known one, and texts made fit for a terminal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'lr'?` for the known word nearest to `word` (letter case aside), or an empty text."""
    found = nearest(word, known)
    return f"; did you mean {found!r}?" if found else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word nearest to `word`, letter case aside, or None."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    # difflib's time grows with the square of the length; no key is longer than this.
    found = difflib.get_close_matches(word[:100].casefold(), by_folded, n=1)
    return by_folded[found[0]] if found else None


def plain(text: str, limit: int = 200) -> str:
    """Return `text` fit for a terminal: one line, nothing unprintable, not too long."""
    safe = "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in text[: limit + 1])
    return safe if len(text) <= limit else safe[: limit - 3] + "..."


def quoted(text: str) -> str:
    """A short piece of someone's text in quotation marks, fit for a message."""
    return f"'{plain(text, 40)}'"

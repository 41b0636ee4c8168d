"""A text inside a PNG under one keyword, read from its chunks with a limit on what it unpacks to. No pixel is decoded."""

from __future__ import annotations

import zlib
from pathlib import Path

from latentopt.errors import InputFileError

MAX_FILE, MAX_TEXT = 64 * 2**20, 2**20  # bytes of the picture; of the text, unpacked
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_text(path: Path, keyword: str) -> str | None:
    """The text under a keyword: a tEXt, zTXt or iTXt chunk (PNG, third edition, section 11.3.3); None where there is none.

    Raises `InputFileError`: no PNG, damaged, or larger than the limits.
    """
    try:
        if not path.is_file():
            raise InputFileError(f"{path} is no file: give the PNG of a sheet, or the folder of a run")
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise InputFileError(f"{path} cannot be read ({error.strerror or error})") from None
    if not raw.startswith(_SIGNATURE):
        raise InputFileError(f"{path} is no PNG: give the PNG of a sheet, or the folder of a run")
    if len(raw) > MAX_FILE:
        raise InputFileError(f"{path} is larger than {MAX_FILE // 2**20} MiB: this is no sheet of a run")
    place = len(_SIGNATURE)
    while place + 12 <= len(raw):
        length = int.from_bytes(raw[place : place + 4], "big")
        kind, data = raw[place + 4 : place + 8], raw[place + 8 : place + 8 + length]
        found, _, rest = data.partition(b"\0")
        if kind in (b"tEXt", b"zTXt", b"iTXt") and found == keyword.encode():
            end = place + 8 + length
            if zlib.crc32(kind + data) != int.from_bytes(raw[end : end + 4], "big"):
                raise InputFileError(f"{path} is damaged: the sum of its text {keyword!r} is wrong")
            return _decoded(kind, rest, path)
        if kind == b"IEND":
            return None
        place += 12 + length
    raise InputFileError(f"{path} is cut short: it ends within a chunk")


def _decoded(kind: bytes, rest: bytes, path: Path) -> str:
    packed, text = kind == b"zTXt", rest[1:] if kind == b"zTXt" else rest
    if kind == b"iTXt":  # compression flag, method, language, NUL, translated keyword, NUL
        packed = rest[:1] == b"\1"
        text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    try:
        if packed:
            text = zlib.decompressobj().decompress(text, MAX_TEXT + 1)
        if len(text) > MAX_TEXT:
            raise InputFileError(f"{path} holds a text of more than {MAX_TEXT // 2**20} MiB, which is not read")
        return text.decode("utf-8" if kind == b"iTXt" else "latin-1")
    except (zlib.error, UnicodeDecodeError) as error:
        raise InputFileError(f"{path} is damaged: its text cannot be read ({error})") from None

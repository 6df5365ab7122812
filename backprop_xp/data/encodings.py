"""The text in the bytes of a file: Unicode where it says so or can be nothing else, or what the user names."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from .errors import DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 1 << 12  # bytes that show UTF-16 without a mark
_SINGLE_BYTE = "cp1252"  # Latin-1 with Windows' quotes and dashes


def decode(path: Path, content: bytes, encoding: str | None = None) -> tuple[str, str | None]:
    """The file's text without a byte order mark, and a sentence about what was decided, if anything was.

    Raises:
        DataError: the bytes aren't of this encoding, or of none that can be recognised; with the byte's position.
        ValueError: there is no such encoding.
    """
    if encoding is not None:
        return _named(path, content, encoding), None
    for mark, name in _MARKS:
        if content.startswith(mark):
            note = None if name == "utf-8" else f"{path} is read as {name.upper()}, as it says itself"
            return _strict(path, content, name, len(mark)), note
    if guess := _utf_16(content[:_SAMPLE]):
        return _strict(path, content, guess, 0), f"{path} is read as {guess.upper()}: every other byte is 0"
    try:
        return content.decode(), None
    except UnicodeDecodeError as error:
        where = _where(content, error.start)
        if content[: error.start].isascii() and _western(content):
            note = f"{path} is no UTF-8 ({where}) and is read as Latin-1 (cp1252); --encoding names another encoding"
            return content.decode(_SINGLE_BYTE), note
        raise DataError(f"{path} is no UTF-8 text: {where}; name its encoding with --encoding") from None


def _named(path: Path, content: bytes, encoding: str) -> str:
    try:
        codec = codecs.lookup(encoding)
        if not codec._is_text_encoding:
            raise LookupError
    except (LookupError, ValueError):
        raise ValueError(f"unknown encoding {encoding!r}; such as utf-8, utf-16, latin-1, cp1252, shift_jis") from None
    for mark, name in _MARKS:
        if content.startswith(mark) and (codec.name == name or codec.name == name[:6]):
            return _strict(path, content, name, len(mark))
    return _strict(path, content, codec.name, 0)


def _strict(path: Path, content: bytes, encoding: str, start: int) -> str:
    try:
        return content[start:].decode(encoding)
    except UnicodeDecodeError as error:
        where = _where(content, start + error.start)
        raise DataError(f"{path} is no {encoding.upper()} text: {where}; name its encoding with --encoding") from None
    except UnicodeError as error:
        raise DataError(f"{path} is no {encoding.upper()} text: {error}") from None


def _where(content: bytes, position: int) -> str:
    line = len(re.findall(rb"\r\n?|\n", content[:position])) + 1
    return f"byte 0x{content[position]:02x} at offset {position} of the file, in line {line}"


def _utf_16(sample: bytes) -> str | None:
    """UTF-16 of mostly Latin letters: every other byte is 0, and hardly one of the rest."""
    if len(sample) < 4:
        return None
    even, odd = (sample[i::2].count(0) / len(sample[i::2]) for i in (0, 1))
    if odd > 0.5 and even < 0.1:
        return "utf-16-le"
    return "utf-16-be" if even > 0.5 and odd < 0.1 else None


def _western(content: bytes) -> bool:
    """Whether bytes beyond ASCII are letters among ASCII ones, as accents and umlauts are, and not whole words."""
    try:
        content.decode(_SINGLE_BYTE)
    except UnicodeDecodeError:
        return False
    runs = re.findall(rb"[\x80-\xff]+", content)
    letters = len(re.findall(rb"[\xc0-\xff\x8a\x8c\x8e\x9a\x9c\x9e\x9f]", content))
    signs = len(re.findall(rb"[\x80\x91-\x97\xa0\xa2-\xa5\xa7\xa9\xab\xae-\xb7\xba-\xbf]", content))
    high = sum(map(len, runs))
    return letters + signs == high and 2 * sum(len(run) > 1 for run in runs) <= len(runs)

"""Shared wording of error messages."""

from __future__ import annotations

import os
from collections.abc import Iterable

from . import later

difflib = later.Module("difflib")


def sentence(error: BaseException) -> str:
    """What an error says, without the system's number and with the file first."""
    if not (isinstance(error, OSError) and error.strerror):
        return str(error)
    if not isinstance(error.filename, str | bytes):
        return error.strerror
    return f"{os.fsdecode(error.filename) or repr('')}: {error.strerror}"


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A sentence that says ``name`` is unknown and names the nearest known one, in either case, or all of them."""
    known = list(known)
    written = {each.lower(): each for each in known}
    if close := difflib.get_close_matches(name.lower(), written, 1):
        return f"unknown {kind} {name!r}; did you mean {written[close[0]]!r}?"
    names = (each if any(map(str.isalnum, each)) else repr(each) for each in known)  # a bare '.' would read as a mark
    return f"unknown {kind} {name!r}; known are {', '.join(names)}"

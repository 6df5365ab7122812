"""Shared wording of error messages."""

from __future__ import annotations

import os
from collections.abc import Iterable

from . import later

difflib = later.Module("difflib")


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or the error's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def sentence(error: BaseException) -> str:
    """What an error says, without the system's number and with the file first."""
    if not (isinstance(error, OSError) and error.strerror):
        return str(error)
    if not isinstance(error.filename, str | bytes):
        return error.strerror
    return f"{os.fsdecode(error.filename) or repr('')}: {error.strerror}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, in either case; None if there is none.

    It is the one that begins so, if no other does.
    """
    written = {each.lower(): each for each in known}
    begun = [each for each in written if name and each.startswith(name.lower())]
    close = begun if len(begun) == 1 else difflib.get_close_matches(name.lower(), written, 1)
    return written[close[0]] if close else None


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A sentence that says ``name`` is unknown and names the nearest known one, or all of them."""
    known = list(known)
    if (meant := nearest(name, known)) is not None:
        return f"unknown {kind} {name!r}; did you mean {meant!r}?"
    names = (each if any(map(str.isalnum, each)) else repr(each) for each in known)  # a bare '.' would read as a mark
    return f"unknown {kind} {name!r}; known are {', '.join(names)}"

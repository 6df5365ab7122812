"""Shared wording of error messages."""

from __future__ import annotations

import os
from collections.abc import Iterable


def sentence(error: BaseException) -> str:
    """What an error says, without the system's number and with the file first."""
    if not (isinstance(error, OSError) and error.strerror):
        return str(error)
    if not isinstance(error.filename, str | bytes):
        return error.strerror
    return f"{os.fsdecode(error.filename) or repr('')}: {error.strerror}"


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A sentence that says ``name`` is unknown and names the nearest known one, or all of them."""
    import difflib  # which takes milliseconds

    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
    return f"unknown {kind} {name!r}; {hint}"

"""Shared wording of error messages."""

from __future__ import annotations

import os
from collections.abc import Iterable

from . import later

difflib = later.Module("difflib")

#: What options are called elsewhere, in scikit-learn or PyTorch say, and what here, by how they are written in Python.
SYNONYMS = {
    "lr": ("learning_rate_init",),
    "learning_rate": ("lr", "learning_rate_init"),
    "learning_rate_init": ("lr",),
    "weight_decay": ("alpha",),
    "wd": ("weight_decay", "alpha"),
    "hidden_layer_sizes": ("hidden",),
    "epochs": ("max_iter",),
    "max_iter": ("epochs",),
    "seed": ("random_state", "rng"),
    "random_state": ("seed", "rng"),
}


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

    It is what is called so elsewhere; else the one that begins so, if no other does.
    """
    written = {each.lower(): each for each in known}
    if (meant := synonym(name, written.values())) is not None:
        return meant
    begun = [each for each in written if name and each.startswith(name.lower())]
    close = begun if len(begun) == 1 else difflib.get_close_matches(name.lower(), written, 1)
    return written[close[0]] if close else None


def synonym(name: str, known: Iterable[str]) -> str | None:
    """The known option that is called ``name`` elsewhere; None if there is none."""
    options = {_in_python(each): each for each in known}
    return next((options[each] for each in SYNONYMS.get(_in_python(name), ()) if each in options), None)


def _in_python(option: str) -> str:
    """--batch-size as batch_size."""
    return option.lower().removeprefix("--").replace("-", "_")


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A sentence that says ``name`` is unknown and names the nearest known one, or all of them."""
    known = list(known)
    if (meant := nearest(name, known)) is not None:
        return f"unknown {kind} {name!r}; did you mean {meant!r}?"
    names = (each if any(map(str.isalnum, each)) else repr(each) for each in known)  # a bare '.' would read as a mark
    return f"unknown {kind} {name!r}; known are {', '.join(names)}"

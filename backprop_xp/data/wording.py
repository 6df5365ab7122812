"""How messages name columns, cells and options: quoted, short, and so that what they advise can be typed."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Collection, Iterable

from ..messages import nearest

MOST_SHOWN = 20  # names in a list
LONGEST_SHOWN = 80  # characters of one of them


def quoted(text: object) -> str:
    """``'text'``, shortened."""
    shown = repr(str(text))
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}...'"


def listed(names: Collection[object], most: int = MOST_SHOWN) -> str:
    """``'a', 'b', ...``."""
    return ", ".join(map(quoted, list(names)[:most])) + (", ..." if len(names) > most else "")


def meant(name: str, columns: Iterable[str]) -> str:
    """Which of these columns was probably meant, in parentheses; "" if none is near."""
    found = nearest(name, columns)
    return "" if found is None else f" (did you mean {quoted(found)}?)"


def option(name: str, *values: str) -> str:
    """``--name 'a,b'`` as a shell takes it; :func:`parts` gives the values back."""
    line = io.StringIO()
    csv.writer(line).writerow(values)
    text = line.getvalue().removesuffix("\r\n")
    return f"{name}={shlex.quote(text)}" if text.startswith("-") else f"{name} {shlex.quote(text)}"


def parts(name: str, text: str) -> tuple[str, ...]:
    """The values of an option that takes several, with commas between them; one that has a comma stands in quotes."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"{name} takes A,B or 'A,\"B, with a comma\"', got {text!r}: {error}") from None
    return tuple(part.strip() for row in rows for part in row if part.strip())

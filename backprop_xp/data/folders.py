"""Folders of files that are one table together, and which of their parts a rank reads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..distributed import World
from .wording import listed

_ABSENT = "__HIVE_DEFAULT_PARTITION__"  # what a folder's name has for a missing value


def is_table(folder: Path, suffixes: Sequence[str]) -> bool:
    """Whether there are files with such names in a folder, or folders named after a column and a value."""
    return any(
        "=" in path.name if path.is_dir() else path.name.lower().endswith(tuple(suffixes)) for path in folder.iterdir()
    )


def files(path: Path) -> list[Path]:
    """A file itself, or what is in a folder and in those in it, by their names.

    Names that begin with _ or . are of no part of a table.
    """
    if not path.is_dir():
        return [path]
    every = (file for file in sorted(path.rglob("*")) if not file.is_dir())
    return [file for file in every if not any(part[0] in "_." for part in file.relative_to(path).parts)]


def columns_of(file: Path, top: Path) -> Iterator[tuple[str, str | None]]:
    """Columns and their value in a file, from the names of the folders between ``top`` and it, as year=2024."""
    for part in file.relative_to(top).parts[:-1]:
        name, equals, value = part.partition("=")
        if equals:
            yield unquote(name), None if value == _ABSENT else unquote(value)


def own(sizes: Sequence[int], world: World | None) -> range:
    """Which of the units of a table, of these sizes, this rank reads: neighbours, in the order of ranks."""
    if world is None:
        return range(len(sizes))
    total = 2 * sum(sizes) or 1
    ranks = [min((2 * end - size) * world.size // total, world.size - 1) for size, end in zip(sizes, accumulate(sizes))]
    return range(bisect_left(ranks, world.rank), bisect_right(ranks, world.rank))


def absent_columns(columns: Mapping[Any, Sequence[str]]) -> tuple[list[str], list[str]]:
    """The columns of all files, in the order in which they come, and a sentence for each file that lacks some."""
    names = list(dict.fromkeys(name for own in columns.values() for name in own))
    lacking = {file: [name for name in names if name not in own] for file, own in columns.items()}
    notes = [
        f"{file} has no column {listed(absent)}, which others have: missing in its rows"
        for file, absent in lacking.items()
        if absent
    ]
    return names, notes

"""Columns whose types differ between Arrow tables, such as a folder's files: brought to types that go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from .errors import DataError
from .wording import quoted

#: Of durations in a second, by their unit.
TICKS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def united(tables: Mapping[Path, Any]) -> tuple[list[Any], list[str]]:
    """The pyarrow tables of these files, which pyarrow can put together, and a sentence on each column that changed.

    Where types don't go together and a file has texts, all of the column becomes texts, as in a text file.

    Raises:
        DataError: there are no texts, or what can't be written as one.
    """
    found, notes = dict(tables), []
    for name in dict.fromkeys(name for table in tables.values() for name in table.column_names):
        columns = {file: table.column(name) for file, table in tables.items() if name in table.column_names}
        if _go_together(columns.values()):
            continue
        columns = {file: _plain(column) for file, column in columns.items()}
        if not _go_together(columns.values()):
            differ = _differ(name, columns)
            columns = {file: _as_texts(column, differ) for file, column in columns.items()}
            notes.append(f"{differ}: all of it is read as text")
        for file, column in columns.items():
            found[file] = found[file].set_column(found[file].column_names.index(name), name, column)
    return list(found.values()), notes


def _go_together(columns: Iterable[Any]) -> bool:
    """Whether there is a type for these columns that holds all of their values; equal types are not copied."""
    import pyarrow

    try:
        pyarrow.concat_tables([pyarrow.table({"": column}) for column in columns], promote_options="permissive")
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError):
        return False
    return True


def _plain(column: Any) -> Any:
    """The values of a column that is kept as the places of values among its different ones, or as views of texts."""
    from pyarrow import large_string, types

    if types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    views = hasattr(types, "is_string_view") and types.is_string_view(column.type)
    return column.cast(large_string()) if views else column


def _differ(name: str, columns: Mapping[Path, Any]) -> str:
    """A clause on two files in which types of this column differ, of which one is text if it is in any file.

    Raises:
        DataError: no file has texts.
    """
    texts = any(_is_text(column) for column in columns.values())
    pairs = ((a, b) for a, b in combinations(columns, 2) if not _go_together([columns[a], columns[b]]))
    a, b = next(pair for pair in pairs if not texts or any(_is_text(columns[file]) for file in pair))
    kinds = ["text" if _is_text(columns[file]) else str(columns[file].type) for file in (a, b)]
    differ = f"column {quoted(name)} is {kinds[0]} in {a} and {kinds[1]} in {b}"
    if not texts:
        raise DataError(f"{differ}, which don't go together: write both with one type, or as text")
    return differ


def _is_text(column: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)


def _as_texts(column: Any, differ: str) -> Any:
    """A column as texts, in which numbers that are NaN are missing, and durations are seconds."""
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_duration(column.type):
        ticks = column.cast(pyarrow.int64()).cast(pyarrow.float64(), safe=False)
        column = compute.divide(ticks, TICKS[column.type.unit])
    if pyarrow.types.is_floating(column.type):
        column = compute.if_else(compute.is_nan(column), pyarrow.scalar(None, column.type), column)
    try:
        return column.cast(pyarrow.large_string())
    except pyarrow.ArrowException:
        raise DataError(f"{differ}, which can't be written as text: leave it out of both files") from None

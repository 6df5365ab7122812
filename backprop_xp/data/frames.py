"""Tables as they come, made alike: columns named by different texts, nothing sparse, one sign of what is missing."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from ..exchange.container import LONGEST_NAME
from .cells import NUMBER, TEXT, cells
from .errors import DataError
from .wording import quoted

Frame = Any  # pandas.DataFrame
MOST_DENSE = 1 << 27  # numbers of a sparse table: 1 GiB


def name(given: object) -> str:
    """The text by which a column is known: 3 is "3", and blanks around don't count."""
    return str(given).strip()


def names(given: object) -> tuple[str, ...]:
    """The same for several; a text is one."""
    if isinstance(given, Collection) and not isinstance(given, str):
        return tuple(map(name, given))
    return (name(given),)


def nameless(position: int) -> str:
    """What a column without a name is called, as pandas does."""
    return f"Unnamed: {position}"


def alike(table: Any, missing: Collection[str] = ()) -> Frame:
    """A pandas table with these properties; the given one is left as it is.

    Args:
        table: a pandas.DataFrame, or a NumPy array or sparse matrix (n, k), whose columns are 0, 1, ...
        missing: texts that mean a missing value, in numbers by their value.

    Raises:
        DataError: two columns have one name, or a sparse table is large. TypeError: it is no table.
    """
    frame = named(table)
    if not len(frame):
        raise DataError("the table has no rows")
    return without(frame, missing)


def named(table: Any) -> Frame:
    """A pandas table whose columns have texts for names, which differ; it may have no rows."""
    import pandas

    table = _dense(table)
    if isinstance(table, np.ndarray) and table.ndim == 2:
        table = pandas.DataFrame(table)
    if not isinstance(table, pandas.DataFrame):
        raise TypeError(f"a table must be a pandas.DataFrame or an array (n, k), got {type(table).__name__}")
    return table.set_axis(unique(table.columns), axis=1)


def unique(given: Collection[Any]) -> list[str]:
    """The names of columns, in order, as texts that differ.

    Raises:
        DataError: two are the same, or one is too long to be kept in a file.
    """
    found: dict[str, int] = {}
    for i, each in enumerate(given):
        text = nameless(i) if each is None or each != each else name(each) or nameless(i)
        if text in found:
            raise DataError(f"columns {found[text] + 1} and {i + 1} have the same name, {quoted(text)}")
        if len(text) > LONGEST_NAME:
            raise DataError(f"column {i + 1}: a name may have {LONGEST_NAME} characters, this one has {len(text)}")
        found[text] = i
    return list(found)


def _dense(table: Any) -> Any:
    if not (type(table).__module__.startswith("scipy.sparse") and hasattr(table, "toarray")):
        return table
    if np.prod(table.shape, dtype=float) > MOST_DENSE:
        raise DataError(
            f"the sparse table of {' x '.join(map(str, table.shape))} is too large to be made dense; "
            f"{MOST_DENSE} numbers are possible"
        )
    return table.toarray()


def without(frame: Frame, missing: Collection[str]) -> Frame:
    """The table in which cells that are one of these texts are missing."""
    missing = tuple(map(str, names(missing)))
    if not missing:
        return frame
    amounts = {value for text in missing if (value := as_float(text)) is not None}
    found = {}
    for column in frame.columns:
        try:
            column_cells = cells(frame[column], column)
        except DataError:  # whoever uses the column hears of it
            continue
        if column_cells.kind == TEXT:
            gone = column_cells.is_any(
                [t for t in column_cells.distinct if t.strip() in missing or as_float(t) in amounts]
            )
        elif column_cells.kind == NUMBER:
            gone = np.isin(column_cells.spread(column_cells.distinct), list(amounts))
        else:
            continue
        if gone.any():
            found[column] = frame[column].astype(object).mask(gone, None).infer_objects()
    return frame.assign(**found) if found else frame


def as_float(text: str) -> float | None:
    """The number that a text says in Python's notation, None if it says none."""
    try:
        return float(text)
    except ValueError:
        return None

"""Tables in parquet files, and in folders of such."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..distributed import World
from ..messages import first_line
from . import folders, frames
from .errors import DataError
from .frames import Frame
from .reader import NOTES
from .uniting import united

SUFFIX = ".parquet"
_UNNAMED_INDEX = "__index_level_"  # how pandas names an index without a name
_SIZES = {"Int": (8, 16, 32, 64), "UInt": (8, 16, 32, 64), "Float": (32, 64)}


def read(path: Path, world: World | None = None) -> Frame:
    """The table in a file, or the rows of all files of a folder, in the order of their names; numbered from 1.

    With a ``world`` each rank reads some of the row groups, rank 0 the first ones, and gets all columns with the types
    that they have in the whole table.

    Types that differ between files become the one that holds both; where some files have texts, all become texts, which
    is noted. A column that a file hasn't is missing in its rows, which is noted too. What stands in the names of
    folders, as year=2024, is a column of texts, as in a text file.

    Raises:
        DataError: it is no table; the message says where.
    """
    groups = [(file, number, rows) for file in folders.files(path) for number, rows in enumerate(_row_groups(file))]
    if not any(rows for _, _, rows in groups):
        raise DataError(f"{path} has no rows")
    own = folders.own([rows for _, _, rows in groups], world)
    read: dict[Path, list[int]] = {file: [] for file, _, _ in groups}
    for file, number, _ in groups[own.start : own.stop]:
        read[file].append(number)
    parts = {file: _table(file, path, numbers) for file, numbers in read.items()}
    _, notes = folders.absent_columns({file: table.column_names for file, table in parts.items()})
    tables, changed = united(parts)
    with _named(path):
        frame = as_frame(tables)
    first = 1 + sum(rows for _, _, rows in groups[: own.start])
    frame.index = range(first, first + len(frame))
    frame.attrs[NOTES] = notes + changed
    return frame


def as_frame(tables: Sequence[Any]) -> Frame:
    """The rows of pyarrow tables, with types that hold those of all."""
    import pyarrow

    whole = pyarrow.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    return whole.to_pandas(types_mapper=_dtypes().get, ignore_metadata=True)


def _row_groups(file: Path) -> list[int]:
    """How many rows each row group of a file has; one without rows where it has no group."""
    from pyarrow import parquet

    with _named(file), parquet.ParquetFile(file) as opened:
        facts = opened.metadata
        return [facts.row_group(i).num_rows for i in range(facts.num_row_groups)] or [0]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in what pyarrow has to say about it."""
    import pyarrow

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path} can't be read as parquet: {first_line(error)}") from None


def _table(file: Path, top: Path, groups: Sequence[int]) -> Any:
    """These row groups of a file as a pyarrow table, with what the folders below ``top`` say in their names."""
    import pyarrow
    from pyarrow import parquet

    with _named(file):
        with parquet.ParquetFile(file) as opened:
            table = opened.read_row_groups([i for i in groups if i < opened.num_row_groups])
        table = table.select([i for i, name in enumerate(table.column_names) if not name.startswith(_UNNAMED_INDEX)])
        for name, value in folders.columns_of(file, top):
            table = table.append_column(name, pyarrow.array([value] * len(table), pyarrow.string()))
    try:
        return table.rename_columns(frames.unique(table.column_names))
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _dtypes() -> dict[Any, Any]:
    """pandas' types with a sign of their own for what is missing, by pyarrow's."""
    import pandas
    import pyarrow

    numbers = {f"{kind}{size}" for kind, sizes in _SIZES.items() for size in sizes}
    found = {getattr(pyarrow, name.lower())(): pandas.api.types.pandas_dtype(name) for name in numbers}
    texts = dict.fromkeys((pyarrow.string(), pyarrow.large_string()), pandas.StringDtype())
    return found | texts | {pyarrow.bool_(): pandas.BooleanDtype()}

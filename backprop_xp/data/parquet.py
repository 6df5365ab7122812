"""Tables in parquet files, and in folders of such."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from . import frames
from .errors import DataError
from .frames import Frame
from .reader import NOTES
from .wording import listed

SUFFIX = ".parquet"
_ABSENT = "__HIVE_DEFAULT_PARTITION__"  # what a folder's name has for a missing value
_UNNAMED_INDEX = "__index_level_"  # how pandas names an index without a name
_SIZES = {"Int": (8, 16, 32, 64), "UInt": (8, 16, 32, 64), "Float": (32, 64)}


def is_table(folder: Path) -> bool:
    """Whether there are such files in a folder, or folders whose names are those of a column and a value."""
    return any("=" in path.name if path.is_dir() else path.suffix.lower() == SUFFIX for path in folder.iterdir())


def files(folder: Path) -> list[Path]:
    """What is in a folder and in those in it, but for names that begin with _ or ., which are of no part of a table."""
    every = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [path for path in every if not any(part[0] in "_." for part in path.relative_to(folder).parts)]


def read(path: Path) -> Frame:
    """The table in a file, or the rows of all files of a folder, in the order of their names.

    Types that differ between files become the one that holds both; a column that a file hasn't is missing in its rows,
    which is noted. What stands in the names of folders, as year=2024, is a column of texts, as in a text file.

    Raises:
        DataError: it is no table; the message says where.
    """
    import pyarrow

    parts = {file: _table(file, path) for file in (files(path) if path.is_dir() else [path])}
    if not parts:
        raise DataError(f"{path} has no rows")
    names = list(dict.fromkeys(name for table in parts.values() for name in table.column_names))
    notes = [
        f"{file} has no column {listed(absent)}, which others have: missing in its rows"
        for file, table in parts.items()
        if (absent := [name for name in names if name not in table.column_names])
    ]
    with _named(path):
        whole = pyarrow.concat_tables(parts.values(), promote_options="permissive").unify_dictionaries()
        frame = whole.to_pandas(types_mapper=_dtypes().get, ignore_metadata=True)
    frame.attrs[NOTES] = notes
    return frame


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in what pyarrow has to say about it."""
    import pyarrow

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} can't be read as parquet: {said}") from None


def _table(file: Path, top: Path) -> Any:
    """The pyarrow table in a file, with what the folders below ``top`` say in their names."""
    import pyarrow
    from pyarrow import parquet

    with _named(file):
        table = parquet.ParquetFile(file).read()
        table = table.select([i for i, name in enumerate(table.column_names) if not name.startswith(_UNNAMED_INDEX)])
        for name, value in _of_folders(file, top):
            table = table.append_column(name, pyarrow.array([value] * len(table), pyarrow.string()))
    try:
        return table.rename_columns(frames.unique(table.column_names))
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _of_folders(file: Path, top: Path) -> Iterator[tuple[str, str | None]]:
    """Names and values in the names of the folders between ``top`` and a file."""
    for part in file.relative_to(top).parts[:-1]:
        name, equals, value = part.partition("=")
        if equals:
            yield unquote(name), None if value == _ABSENT else unquote(value)


def _dtypes() -> dict[Any, Any]:
    """pandas' types with a sign of their own for what is missing, by pyarrow's."""
    import pandas
    import pyarrow

    numbers = {f"{kind}{size}" for kind, sizes in _SIZES.items() for size in sizes}
    found = {getattr(pyarrow, name.lower())(): pandas.api.types.pandas_dtype(name) for name in numbers}
    texts = dict.fromkeys((pyarrow.string(), pyarrow.large_string()), pandas.StringDtype())
    return found | texts | {pyarrow.bool_(): pandas.BooleanDtype()}

"""Where tables come from: scikit-learn's sets, and files that pandas reads.

A table is a pandas DataFrame whose index is what people call its rows: in a CSV file the numbers that an editor
shows, in which the first row of data is 2; elsewhere 1, 2, 3 and so on.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..files import kind
from ..messages import unknown
from ..training.checkpoints import UNREADABLE
from .errors import DataError

Frame = Any  # pandas.DataFrame

#: scikit-learn's functions by the names that the command line knows.
SETS = {
    "digits": "load_digits",
    "iris": "load_iris",
    "breast-cancer": "load_breast_cancer",
    "diabetes": "load_diabetes",
}
SET_TARGET = "target"


def read(source: str | Path) -> Frame:
    """The table of this name: one of :data:`SETS`, or a file .csv, .npz or .parquet.

    Raises:
        DataError: the file's content; the message says where. ValueError: neither a set nor such a file.
    """
    pandas = need("pandas")
    if str(source) in SETS:
        return _set(pandas, str(source))
    path = Path(source)
    readers = {".csv": _csv, ".npz": _npz, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{unknown('data', str(source), SETS)}; a file must be {', '.join(readers)}")
    if what := kind(path.stat()):  # no such file is said here, nothing is ever fetched, and no pipe is waited for
        raise DataError(f"{path} is {what}; a table must be in a regular file")
    frame = readers[path.suffix.lower()](pandas, path)
    if not len(frame):
        raise DataError(f"{path} has no rows")
    return frame


def _set(pandas: Any, name: str) -> Frame:
    need("sklearn", "scikit-learn")
    from sklearn import datasets

    bunch = getattr(datasets, SETS[name])(as_frame=True)
    frame = bunch.frame.rename(columns={bunch.frame.columns[-1]: SET_TARGET})
    if "target_names" in bunch and bunch.frame.dtypes.iloc[-1].kind == "i":
        frame[SET_TARGET] = [str(bunch.target_names[k]) for k in frame[SET_TARGET]]
    frame.index = range(1, len(frame) + 1)
    return frame


def _csv(pandas: Any, path: Path) -> Frame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            frame = pandas.read_csv(path, index_col=False, skip_blank_lines=False, low_memory=False)
    except pandas.errors.EmptyDataError:
        raise DataError(f"{path} is empty") from None
    except pandas.errors.ParserWarning:
        raise DataError(f"{path} has rows with more columns than row 1 has names") from None
    except pandas.errors.ParserError as error:
        found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if not found:
            raise DataError(f"{path} can't be read as CSV: {str(error).strip()}") from None
        expected, row, saw = found.groups()
        raise DataError(f"{path}, row {row}: {saw} columns where {expected} were expected") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}") from None
    frame.index = range(2, len(frame) + 2)
    return frame.dropna(how="all")  # blank lines


def _npz(pandas: Any, path: Path) -> Frame:
    """Arrays of one length: (n,) is a column of the array's name, (n, k) is k columns NAME_0, NAME_1, ..."""
    columns: dict[str, np.ndarray] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                array = archive[name]
                if array.ndim not in (1, 2):
                    raise DataError(f"{path}: the array {name} has {array.ndim} dimensions; expected 1 or 2")
                parts = (
                    {name: array} if array.ndim == 1 else {f"{name}_{j}": array[:, j] for j in range(array.shape[1])}
                )
                if twice := sorted(parts.keys() & columns.keys()):
                    raise DataError(f"{path}: its arrays make two columns {twice[0]!r}; give one of them another name")
                columns |= parts
    except DataError:
        raise
    except (*UNREADABLE, OSError) as error:
        raise DataError(f"{path} can't be read as .npz: {_first_line(error)}") from None
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise DataError(f"{path}: its arrays must have one length, got {sorted(lengths)}")
    frame = pandas.DataFrame(columns)
    frame.index = range(1, len(frame) + 1)
    return frame


def _parquet(pandas: Any, path: Path) -> Frame:
    need("pyarrow")
    try:
        frame = pandas.read_parquet(path, engine="pyarrow").reset_index(drop=True)
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{path} can't be read as parquet: {_first_line(error)}") from None
    except (ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors too
        raise DataError(f"{path} can't be read as parquet: {_first_line(error)}") from None
    frame.columns = [str(name) for name in frame.columns]
    frame.index = range(1, len(frame) + 1)
    return frame


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def need(module: str, package: str | None = None) -> Any:
    """The module, or an error that says what to install."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"real data needs {package or module}: pip install 'backprop-xp[data]'") from None

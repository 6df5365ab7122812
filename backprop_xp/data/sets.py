"""Where tables come from: scikit-learn's sets, and files.

A table is a pandas DataFrame whose index is what people call its rows: in a text file the line that an editor shows
where it begins, usually 2 for the first row of data; elsewhere 1, 2, 3 and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..files import kind
from ..messages import unknown
from ..training.checkpoints import UNREADABLE
from . import reader
from .errors import DataError
from .frames import Frame

#: scikit-learn's functions by the names that the command line knows.
SETS = {
    "digits": "load_digits",
    "iris": "load_iris",
    "breast-cancer": "load_breast_cancer",
    "diabetes": "load_diabetes",
}
SET_TARGET = "target"
TEXTS = (".csv", ".tsv")


def read(source: str | Path, *, separator: str | None = None, encoding: str | None = None) -> Frame:
    """The table of this name: one of :data:`SETS`, or a file .csv, .tsv, .npz or .parquet.

    The cells of a text file are texts, as the file has them; what they mean is found out by whoever learns from them.

    Args:
        separator: of a text file's columns; found out if left out.
        encoding: of a text file; UTF-8, UTF-16 or Latin-1, whichever it is, if left out.

    Raises:
        DataError: the file's content; the message says where. ValueError: neither a set nor such a file.
    """
    pandas = need("pandas")
    if str(source) in SETS:
        return _set(pandas, str(source))
    path = Path(source)
    suffix = path.suffix.lower()
    readers: dict[str, Callable[..., Frame]] = {".npz": _npz, ".parquet": _parquet}
    if suffix not in (*TEXTS, *readers):
        raise ValueError(f"{unknown('data', str(source), SETS)}; a file must be {', '.join((*TEXTS, *readers))}")
    if what := kind(path.stat()):  # no such file is said here, nothing is ever fetched, and no pipe is waited for
        raise DataError(f"{path} is {what}; a table must be in a regular file")
    if suffix in TEXTS:
        return reader.read(path, separator or ("tab" if suffix == ".tsv" else None), encoding)
    if separator or encoding:
        raise ValueError(f"a separator and an encoding are of text files ({', '.join(TEXTS)}), not of {path}")
    frame = readers[suffix](pandas, path)
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
        frame = pandas.read_parquet(path, engine="pyarrow", dtype_backend="numpy_nullable").reset_index(drop=True)
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{path} can't be read as parquet: {_first_line(error)}") from None
    except (ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors too
        raise DataError(f"{path} can't be read as parquet: {_first_line(error)}") from None
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

"""Tables of pandas and polars, sparse matrices, and arrays of Python objects, as arrays of numbers.

Column by column, so that truth values, integers and floats may stand side by side, and so that what is no number, or
is missing where NaN can't say so, is named by its column and row. None of these libraries is imported here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from .numbers import as_real

DENSE_BYTES = 1 << 28  # of the array that a sparse matrix is made into, at most
TRUTH = (bool, np.bool_)


def as_numbers(data: Any, what: str) -> Any:
    """The data as an array, or itself if it is nothing of this kind.

    Args:
        data: anything. what: what to call it in messages.

    Raises:
        TypeError: it holds something that is no real number. ValueError: a number is missing, or a sparse matrix would
            take more than DENSE_BYTES as an array.
    """
    if isinstance(data, np.ndarray):
        return _of_objects(data, what) if data.dtype == object else data
    if is_sparse(data):
        return _dense(data, what)
    if _is(data, "pandas", "Index"):
        data = data.to_series()
    elif _is(data, "pandas.api.extensions", "ExtensionArray"):
        data = sys.modules["pandas"].Series(data)
    if _is(data, "pandas", "Series") or _is(data, "polars", "Series"):
        return _column(data, what, "", _rows(data))
    if _is(data, "pandas", "DataFrame") or _is(data, "polars", "DataFrame"):
        if _is_plain(data):
            return np.asarray(data)  # as it lies in memory
        return _beside_each_other(data, what)
    return data


def is_sparse(data: Any) -> bool:
    """Whether it is a sparse matrix or array of SciPy, or of a library like it."""
    return callable(getattr(data, "toarray", None)) and hasattr(data, "nnz")


def _is(data: Any, module: str, name: str) -> bool:
    return isinstance(data, getattr(sys.modules.get(module), name, ()))


def _is_plain(frame: Any) -> bool:
    """Whether a frame of pandas has columns of numbers of NumPy's alone, and truth values only among themselves."""
    dtypes = list(getattr(frame, "dtypes", ()))
    kinds = {dtype.kind if isinstance(dtype, np.dtype) else "" for dtype in dtypes}
    return bool(kinds) and (kinds <= set("iuf") or kinds == {"b"})


def _beside_each_other(frame: Any, what: str) -> np.ndarray:
    rows = _rows(frame)
    columns = [_column(series, what, f", column {name!r}", rows) for name, series in _columns(frame)]
    if not columns:
        return np.empty(frame.shape)
    result = np.empty(frame.shape, np.result_type(*columns))
    for i, column in enumerate(columns):
        result[:, i] = column
    return result


def _columns(frame: Any) -> Iterator[tuple[Any, Any]]:
    if hasattr(frame, "iloc"):  # two columns may have one name
        return ((name, frame.iloc[:, i]) for i, name in enumerate(frame.columns))
    return zip(frame.columns, frame.get_columns())


def _rows(data: Any) -> Any:
    """What the rows are called, None if they are numbered."""
    return data.index if hasattr(data, "index") and hasattr(data, "iloc") else None


def _column(series: Any, what: str, where: str, rows: Any) -> np.ndarray:
    """One column, (n,)."""
    plain = isinstance(series.dtype, np.dtype)
    if not (plain and series.dtype.kind in "biuf"):
        missing = np.asarray(series.isna() if hasattr(series, "isna") else series.is_null(), bool)
        if missing.any():
            row = int(missing.argmax())
            raise ValueError(f"{what} must hold real numbers; in row {_called(rows, row)}{where} there is none")
    values = series.to_numpy()
    return values if values.dtype.kind in "biuf" else _of_objects(values, what, where, rows)


def _of_objects(array: np.ndarray, what: str, where: str = "", rows: Any = None) -> np.ndarray:
    """An array of the numbers in an array of objects, or of anything else that isn't numbers; of its shape."""
    if array.ndim == 0:
        raise TypeError(f"{what} must hold real numbers, got {array.item()!r}")
    flat = array.ravel().tolist() if array.dtype == object else list(array.ravel())
    for position, value in enumerate(flat):
        if not isinstance(value, TRUTH) and as_real(value) is None:
            row, *column = np.unravel_index(position, array.shape)
            place = where or "".join(f", column {int(i)}" for i in column)
            problem = "there is none" if is_nothing(value) else f"there is {value!r}"
            error = ValueError if is_nothing(value) else TypeError
            raise error(f"{what} must hold real numbers; in row {_called(rows, int(row))}{place} {problem}")
    result = np.array(flat)
    if result.dtype.kind not in "biuf":  # Fraction, Decimal, integers of more than 64 bits
        result = np.array([float(value) for value in flat])
    return result.reshape(array.shape)


def is_nothing(value: Any) -> bool:
    """Whether it stands for a missing value and is no number; NaN is one."""
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _called(rows: Any, position: int) -> Any:
    return position if rows is None else rows[position]


def _dense(matrix: Any, what: str) -> Any:
    size = math.prod(matrix.shape) * max(8, matrix.dtype.itemsize)
    if size > DENSE_BYTES:
        raise ValueError(
            f"{what} is a sparse matrix that would take {size / 2**20:,.0f} MiB as an array, and more than "
            f"{DENSE_BYTES >> 20} MiB are not made of one: hand it over in batches of some rows"
        )
    return matrix.toarray()

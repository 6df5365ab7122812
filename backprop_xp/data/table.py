"""A table as an array: numbers standardised, categories one-hot, and every surprise said or refused.

What the training table teaches is kept as plain data, so that another table is treated alike later on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..exchange.container import ModelFileError, field, number, short_text
from .errors import DataError
from .sets import Frame

Series = Any  # pandas.Series
MOST_CATEGORIES = 1000


class Number(NamedTuple):
    """A column (x - mean) / scale; a missing value takes the mean."""

    name: str
    mean: float
    scale: float


class Category(NamedTuple):
    """A column that is one-hot: one place for each of the labels, and one for a missing value if there were any."""

    name: str
    labels: tuple[str, ...]
    missing: bool


class Table:
    """How a table becomes an array.

    Attributes:
        columns: those that are used, in order.
        width: of the array.
    """

    def __init__(self, columns: Sequence[Number | Category]) -> None:
        self.columns = tuple(columns)
        self.width = sum(1 if isinstance(c, Number) else len(c.labels) + c.missing for c in self.columns)

    @classmethod
    def learn(cls, frame: Frame, rows: np.ndarray, categories: Collection[str] = ()) -> tuple[Table, list[str]]:
        """What there is to know about these columns, and sentences about whatever is odd.

        Args:
            frame: the table, without the target.
            rows: positions of the rows to train on: means and scales come from them alone.
            categories: numeric columns whose numbers are names.
        """
        columns: list[Number | Category] = []
        notes: list[str] = []
        for name in frame.columns:
            series = frame[name]
            missing = series.isna().to_numpy()
            where = f"{missing.sum()} missing values (the first in row {series.index[missing.argmax()]})"
            if kind_of(series, str(name), name in categories) == "number":
                mean, scale = _spread(as_numbers(series, str(name))[rows], str(name))
                if scale == 0:
                    notes.append(f"column {name!r} is constant and left out")
                    continue
                columns.append(Number(str(name), mean, scale))
                if missing.any():
                    notes.append(f"column {name!r}: {where} take the mean, {mean:.6g}")
            else:
                labels = sorted({label for label in as_labels(series) if label is not None})
                if len(labels) + missing.any() < 2:
                    notes.append(f"column {name!r} is constant and left out")
                    continue
                _refuse_names(str(name), labels, (~missing).sum())
                columns.append(Category(str(name), tuple(labels), bool(missing.any())))
                if missing.any():
                    notes.append(f"column {name!r}: {where} are a category of their own")
        if not columns:
            raise DataError("no column is left to learn from")
        return cls(columns), notes

    def arrays(self, frame: Frame) -> np.ndarray:
        """(n, width) float64.

        Raises:
            DataError: a column is missing, or a cell can't be used; the message names row and column.
        """
        absent = [column.name for column in self.columns if column.name not in frame.columns]
        if absent:
            raise DataError(f"the table has no column {', '.join(map(repr, absent))}, on which the net was trained")
        parts = [_number(c, frame) if isinstance(c, Number) else _one_hot(c, frame) for c in self.columns]
        return np.concatenate(parts, axis=1)

    def describe(self) -> list[dict[str, Any]]:
        """All of it in JSON's terms."""
        return [
            {"column": c.name, "mean": c.mean, "scale": c.scale}
            if isinstance(c, Number)
            else {"column": c.name, "labels": list(c.labels), "missing": c.missing}
            for c in self.columns
        ]

    @classmethod
    def build(cls, saved: list[Any]) -> Table:
        """What :meth:`describe` described; from a file, which may hold anything."""
        columns: list[Number | Category] = []
        for part in saved:
            if not isinstance(part, dict):
                raise ModelFileError("its columns must be JSON objects")
            if "labels" in part:
                name, labels = short_text(part, "column"), texts(part, "labels")
                columns.append(Category(name, labels, field(part, "missing", bool)))
            else:
                columns.append(Number(short_text(part, "column"), number(part, "mean"), number(part, "scale")))
        return cls(columns)


def kind_of(series: Series, name: str, named: bool = False) -> str:
    """ "number" or "category"; ``named`` says that numbers are names here."""
    from pandas.api import types

    if types.is_complex_dtype(series.dtype):
        raise DataError(f"column {name!r} holds complex numbers; leave it out with --ignore {name}")
    if types.is_numeric_dtype(series.dtype):  # truth values too
        return "category" if named else "number"
    if not (types.is_object_dtype(series.dtype) or types.is_string_dtype(series.dtype) or _categorical(series)):
        raise DataError(
            f"column {name!r} holds {series.dtype}; numbers, texts and truth values can be used: "
            f"leave it out with --ignore {name}"
        )
    if named:
        return "category"
    numeric = _to_numbers(series)
    having, parsed = series.notna().to_numpy(), ~np.isnan(numeric)
    if not 2 * parsed.sum() > having.sum():
        return "category"
    if (having & ~parsed).any():
        raise DataError(
            f"{_cell(series, having & ~parsed, name)} is no number, as most of the column are; correct it, or have "
            f"all of them taken as names with --categories {name}"
        )
    return "number"


def as_numbers(series: Series, name: str) -> np.ndarray:
    """float64, NaN where missing."""
    from pandas.api import types

    if types.is_numeric_dtype(series.dtype) and not types.is_complex_dtype(series.dtype):
        values = series.to_numpy(np.float64, na_value=np.nan)
    else:
        values = _to_numbers(series)
        strange = np.isnan(values) & series.notna().to_numpy()
        if strange.any():
            raise DataError(f"{_cell(series, strange, name)} is no number")
    if np.isinf(values).any():
        raise DataError(f"{_cell(series, np.isinf(values), name)} is not finite")
    return values


def as_labels(series: Series) -> list[str | None]:
    """Every cell as text, None where missing; 3.0 is "3", as a column of whole numbers has it if none is missing."""
    return [None if missing else _label(value) for value, missing in zip(series.tolist(), series.isna())]


def texts(saved: dict[str, Any], key: str) -> tuple[str, ...]:
    """A part of a description that is a list of different texts."""
    labels = field(saved, key, list)
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) != len(labels):
        raise ModelFileError(f"{key!r} of its description must be different texts")
    return tuple(labels)


def _spread(values: np.ndarray, name: str) -> tuple[float, float]:
    """Mean and standard deviation of what isn't missing; scale 0 if that is all one value, or nothing."""
    values = values[~np.isnan(values)]
    if not len(values) or values.min() == values.max():
        return 0.0, 0.0
    with np.errstate(all="ignore"):
        mean, scale = float(values.mean()), float(values.std())
    if not (np.isfinite(mean) and np.isfinite(scale) and scale > 0):
        raise DataError(f"column {name!r}: its numbers, {values.min():g} to {values.max():g}, can't be standardised")
    return mean, scale


def _number(column: Number, frame: Frame) -> np.ndarray:
    values = (as_numbers(frame[column.name], column.name) - column.mean) / column.scale
    return np.where(np.isnan(values), 0.0, values)[:, None]


def _one_hot(column: Category, frame: Frame) -> np.ndarray:
    series = frame[column.name]
    places: dict[str | None, int] = {label: i for i, label in enumerate(column.labels)}
    if column.missing:
        places[None] = len(column.labels)
    positions = np.array([places.get(label, -1) for label in as_labels(series)], np.int64)
    unseen = positions < 0
    if unseen.any():
        known = ", ".join(column.labels[:10]) + (", ..." if len(column.labels) > 10 else "")
        raise DataError(f"{_cell(series, unseen, column.name)} was not seen in training; known are {known}")
    result = np.zeros((len(series), len(places)))
    result[np.arange(len(series)), positions] = 1
    return result


def _refuse_names(name: str, labels: list[str], rows: int) -> None:
    if len(labels) > MOST_CATEGORIES:
        reason = f"has {len(labels)} different texts; {MOST_CATEGORIES} are possible"
    elif len(labels) == rows > 20:
        reason = "has a different text in every row"
    else:
        return
    raise DataError(f"column {name!r} {reason}: leave it out with --ignore {name}")


def _label(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (str, int, float, bool)):
        return str(value)
    raise DataError(f"a category must be a text, a number or a truth value, got {type(value).__name__}")


def _to_numbers(series: Series) -> np.ndarray:
    import pandas

    return pandas.to_numeric(series.astype(object), errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _categorical(series: Series) -> bool:
    return series.dtype.name == "category"


def _cell(series: Series, mask: np.ndarray, name: str) -> str:
    """The first cell of the mask, for a message."""
    position = int(mask.argmax())
    value = series.iloc[position]
    shown = "a missing value" if series.isna().iloc[position] else repr(value if isinstance(value, str) else str(value))
    return f"row {series.index[position]}, column {name!r}: {shown[:80]}"

"""A column's cells as one of three things: texts, numbers or moments, whatever the dtype that pandas keeps them in."""

from __future__ import annotations

import datetime
import decimal
import functools
import numbers
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import dates, numerals
from .errors import DataError
from .wording import option, quoted

Series = Any  # pandas.Series
_NAMES = (str, numbers.Number, np.bool_, datetime.date, datetime.time, decimal.Decimal)
TEXT, NUMBER, MOMENT = "text", "number", "moment"
LARGEST_EXACT = 2.0**53  # up to which float64 has every whole number
_WHOLE = re.compile("[+-]?[0-9]{1,308}")

#: Texts that mean "not known" in a column of numbers or dates; in a column of names they are names.
NOT_KNOWN = {"NaN", "nan", "-NaN", "-nan", "NA", "<NA>", "N/A", "n/a", "NULL", "null", "None", "NaT"}
NOT_KNOWN |= {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"}


@dataclass
class Cells:
    """One column.

    Attributes:
        name: of the column.
        series: as it was given; its index is what people call its rows.
        kind: "text", "number" or "moment".
        distinct: the different values that aren't missing: texts, or float64 (seconds since 1970 for moments).
        codes: (n,) the position in ``distinct`` of each cell, -1 where it is missing.
        named: whether its dtype says that its values are names.
        truth: whether its dtype says that they are truth values.
    """

    name: str
    series: Series
    kind: str
    distinct: Sequence[Any]
    codes: np.ndarray
    named: bool = False
    truth: bool = False

    @functools.cached_property
    def known(self) -> dict[Any, int]:
        """How often each different value occurs, but for texts that say that nothing is known."""
        return {value: count for value, count in self.counts().items() if value not in NOT_KNOWN}

    @functools.cached_property
    def numerals(self) -> numerals.Survey:
        """What its texts say as numbers."""
        return numerals.survey(self.known)

    @functools.cached_property
    def dates(self) -> dict[str, int]:
        """The forms of dates that read most of its texts, and how many they read."""
        return dates.survey(self.known)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def missing(self) -> np.ndarray:
        """(n,) bool."""
        return self.codes < 0

    def counts(self) -> dict[Any, int]:
        """How often each different value occurs."""
        return dict(zip(self.distinct, np.bincount(self.codes[self.codes >= 0], minlength=len(self.distinct)).tolist()))

    def spread(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """(n,) float64: for each cell the value that belongs to its distinct one, NaN where it is missing."""
        return np.append(np.asarray(values, np.float64), np.nan)[self.codes]

    def is_any(self, texts: Collection[str]) -> np.ndarray:
        """(n,) bool: which cells are one of these texts."""
        return np.array([*(text in texts for text in self.distinct), False], bool)[self.codes]

    def labels(self) -> Cells:
        """The same column as texts: 3.0 is "3", as a column of whole numbers has it if none is missing."""
        if self.kind == TEXT:
            return self
        codes, distinct = _factors(self.series if self.kind == NUMBER else self.series.astype(str))
        texts, places = np.unique(np.array([*map(label, distinct)], object), return_inverse=True)
        codes = np.where(self.missing, -1, np.append(places, -1)[codes])
        return Cells(self.name, self.series, TEXT, texts.tolist(), codes, self.named)

    def merged(self, values: np.ndarray) -> tuple[str, ...]:
        """Two whole numbers that are one among the cells' values, (n,) float64; empty if there are none."""
        found: dict[float, int] = {}
        if (np.abs(values) >= LARGEST_EXACT).any():
            for text in self.labels().distinct:
                if _WHOLE.fullmatch(text) and found.setdefault(_float(whole := int(text)), whole) != whole:
                    return str(found[float(whole)]), str(whole)
        return ()

    def show(self, where: np.ndarray) -> str:
        """The first of the cells at which this (n,) bool is true, for a message: row, column and content."""
        position = int(where.argmax())
        value = self.series.iloc[position]
        shown = "a missing value" if self.missing[position] else quoted(value)
        return f"row {self.series.index[position]}, column {quoted(self.name)}: {shown}"


def cells(series: Series, name: str) -> Cells:
    """The cells of a column.

    Raises:
        DataError: its values are neither texts, numbers, truth values nor moments.
    """
    from pandas.api import types

    dtype = series.dtype
    if isinstance(dtype, _pandas().SparseDtype):
        series = _pandas().Series(series.array.to_dense(), series.index)
        dtype = series.dtype
    if isinstance(dtype, _pandas().CategoricalDtype):
        return _categories(name, series)
    if types.is_complex_dtype(dtype):
        raise DataError(f"column {quoted(name)} holds complex numbers; leave it out with {option('--ignore', name)}")
    if types.is_bool_dtype(dtype) and not types.is_object_dtype(dtype):
        return _numeric(name, series, truth=True)
    if types.is_numeric_dtype(dtype):
        return _numeric(name, series)
    if types.is_timedelta64_dtype(dtype):
        return _numeric(name, series, series.dt.total_seconds().to_numpy(np.float64, na_value=np.nan))
    if types.is_datetime64_any_dtype(dtype) and not isinstance(dtype, _pandas().ArrowDtype):
        return _moments(name, series)
    if isinstance(dtype, _pandas().PeriodDtype):
        return _moments(name, series, series.dt.to_timestamp())
    return _objects(name, series)


def label(value: Any) -> str:
    """A value as the name of a category or a class."""
    whole = isinstance(value, (float, np.floating)) and float(value).is_integer()
    return str(int(value) if whole else value)


def _objects(name: str, series: Series) -> Cells:
    """Texts, or Python's objects, which may be mixed."""
    from pandas.api import types

    if isinstance(series.dtype, _pandas().ArrowDtype):
        series = series.astype(object)
    kind = types.infer_dtype(series, skipna=True)
    if kind == "boolean":
        return _numeric(name, series.astype("boolean"), truth=True, shown=series)
    if kind in ("integer", "floating", "mixed-integer-float", "decimal"):
        return _numeric(name, series, _floats(series))
    if kind in ("datetime", "datetime64", "date"):
        return _moments(name, series, _pandas().to_datetime(series, utc=True))
    if kind == "timedelta":
        return _numeric(name, series, _pandas().to_timedelta(series).dt.total_seconds().to_numpy(np.float64))
    if kind == "time":
        return _texts(name, series.map(str, na_action="ignore"), series)
    if kind not in ("string", "empty"):
        present = series[series.notna()]
        if odd := sorted({type(value).__name__ for value in present if not isinstance(value, _NAMES)}):
            raise DataError(
                f"column {quoted(name)} holds values of the type {' and '.join(odd)}, neither texts nor numbers nor "
                f"dates; leave it out with {option('--ignore', name)}"
            )
        if all(isinstance(value, (numbers.Real, np.bool_)) for value in present):
            return _numeric(name, series, _floats(series))
        return _texts(name, series.map(label, na_action="ignore"), series)
    return _texts(name, series, series)


def _categories(name: str, series: Series) -> Cells:
    """Names, whatever the values are; of those that occur."""
    values = series.cat.categories
    texts = [*map(label, values)] if values.dtype.kind in "iufbO" else values.astype(str).tolist()
    distinct, places = np.unique(np.array(texts, object), return_inverse=True)
    codes = np.append(places, -1)[series.cat.codes.to_numpy(np.int64)]
    return Cells(name, series, TEXT, distinct.tolist(), codes, named=True)


def _texts(name: str, texts: Series, shown: Series) -> Cells:
    codes, distinct = _factors(texts)
    blank = np.array([not text.strip() for text in distinct] + [True], bool)
    if blank[:-1].any():
        places = np.where(blank, -1, np.cumsum(~blank) - 1)
        codes, distinct = places[codes], [text for text, empty in zip(distinct, blank) if not empty]
    return Cells(name, shown, TEXT, distinct, codes)


def _numeric(
    name: str, series: Series, values: np.ndarray | None = None, truth: bool = False, shown: Series | None = None
) -> Cells:
    if values is None:
        values = series.to_numpy(np.float64, na_value=np.nan)
    codes, distinct = _pandas().factorize(values)
    return Cells(name, series if shown is None else shown, NUMBER, distinct, codes.astype(np.int64), truth=truth)


def _moments(name: str, series: Series, moments: Series | None = None) -> Cells:
    moments = series if moments is None else moments
    if getattr(moments.dt, "tz", None) is not None:
        moments = moments.dt.tz_convert("UTC").dt.tz_localize(None)
    seconds = moments.to_numpy("datetime64[us]").astype(np.int64) / 1e6
    codes, distinct = _pandas().factorize(np.where(moments.isna(), np.nan, seconds))
    return Cells(name, series, MOMENT, distinct, codes.astype(np.int64))


def _floats(series: Series) -> np.ndarray:
    """float64 of Python's numbers, NaN where missing."""
    return np.array([np.nan if absent else _float(value) for value, absent in zip(series, series.isna())], np.float64)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _factors(series: Series) -> tuple[np.ndarray, list[Any]]:
    codes, distinct = _pandas().factorize(series)
    return codes.astype(np.int64), distinct.tolist()


def _pandas() -> Any:
    import pandas

    return pandas

"""Columns whose types differ between tables."""

import datetime
import decimal
from pathlib import Path

import pytest

from backprop_xp.data.errors import DataError
from backprop_xp.data.parquet import as_frame
from backprop_xp.data.uniting import united

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pandas")

NAN = float("nan")
VIEW = getattr(pyarrow, "string_view", pyarrow.string)()
TEXTS = (pyarrow.string(), pyarrow.large_string(), VIEW)


def together(*columns):
    """The values of one column of so many files, and what is said of it."""
    tables = {Path(f"{k}.parquet"): pyarrow.table({"a": column}) for k, column in enumerate(columns)}
    found, notes = united(tables)
    frame = as_frame(found)
    return [None if missing else value for value, missing in zip(frame["a"], frame["a"].isna())], notes


@pytest.mark.parametrize(
    ("others", "texts"),
    [
        ([5, -3, None], ["5", "-3", None]),
        ([0.5, 1e20, NAN, None], ["0.5", "1e+20", None, None]),
        ([True, False], ["true", "false"]),
        ([datetime.date(2024, 2, 29)], ["2024-02-29"]),
        (pyarrow.array([7, 8, 7]).dictionary_encode(), ["7", "8", "7"]),
        (pyarrow.array([2**63], pyarrow.uint64()), [str(2**63)]),
        (pyarrow.array([0.1], pyarrow.float32()), ["0.1"]),
        (pyarrow.array([], pyarrow.int64()), []),
        (pyarrow.array([90_000, 5, None], pyarrow.duration("ms")), ["90", "0.005", None]),
        (pyarrow.array([decimal.Decimal("1.25")]), ["1.25"]),
    ],
    ids=["int", "float", "bool", "date", "dictionary", "uint64", "float32", "empty", "duration", "decimal"],
)
@pytest.mark.parametrize("kind", TEXTS)
def test_texts_take_the_others_in(others, texts, kind):
    some = pyarrow.array(["x", None], kind)
    values, (note,) = together(others, some)
    assert values == [*texts, "x", None]
    assert note.endswith("text in 1.parquet: all of it is read as text")
    values, (note,) = together(some, others)
    assert values == ["x", None, *texts] and note.startswith("column 'a' is text in 0.parquet and ")
    places = (pyarrow.array(["x", None]) if kind == VIEW else some).dictionary_encode()  # there are none of views
    values, _ = together(places, others, ["y"])
    assert values == ["x", None, *texts, "y"]


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        (([1], [0.5]), [1, 0.5]),
        (([None], ["x"]), [None, "x"]),
        ((pyarrow.array([3]).dictionary_encode(), [4]), [3, 4]),
        ((pyarrow.array(["x"]).dictionary_encode(), ["y"]), ["x", "y"]),
        ((pyarrow.array(["x"], VIEW), ["y"]), ["x", "y"]),
    ],
    ids=["numbers", "nothing", "numbers by their place", "texts by their place", "views of texts"],
)
def test_what_goes_together_stays_what_it_is(columns, values):
    assert together(*columns) == (values, [])


def test_files_without_the_column_have_no_say():
    tables = {Path("0"): pyarrow.table({"b": [1]}), Path("1"): pyarrow.table({"a": ["x"]})}
    found, notes = united(tables)
    assert found == [*tables.values()] and notes == []


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (([1], [0.5], [[1]]), r"is int64 in 0\.parquet and list<.*> in 2\.parquet, which don't go together: write"),
        (([True], [1]), r"is bool in 0\.parquet and int64 in 1\.parquet, which don't go together"),
        (([1], [decimal.Decimal("1.25")]), r"is int64 in 0\.parquet and decimal128\(3, 2\) in 1\.parquet, which don't"),
        (
            ([5], [-1], pyarrow.array([2**63], pyarrow.uint64())),
            r"is int64 in 0\.parquet and uint64 in 2\.parquet, which don't go together",
        ),
        (([{"b": 1}], ["x"]), r"is struct<.*> in 0\.parquet and text in 1\.parquet, which can't be written as text"),
    ],
)
def test_what_does_not_go_together_is_named(columns, said):
    with pytest.raises(DataError, match=said):
        together(*columns)

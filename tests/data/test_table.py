"""Tables as arrays: standardised, one-hot, and every surprise said or refused."""

import json

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.data import DataError, Table
from backprop_xp.data.table import refusals, where_possible
from backprop_xp.exchange import ModelFileError

PLAIN = {"decimal": ".", "thousands": "", "front": "", "back": "", "multiples": False, "truth": False}


def frame(**columns):
    table = pandas.DataFrame(columns)
    table.index = range(2, len(table) + 2)
    return table


def learn(table, rows=None, categories=()):
    return Table.learn(table, np.arange(len(table)) if rows is None else np.array(rows), categories)


def test_numbers_are_standardised_by_the_training_rows():
    table, notes = learn(frame(a=[1, 2, 3, 100], b=[True, False, True, True]), rows=[0, 1, 2])
    x = table.arrays(frame(a=[2, 3, 1e6], b=[False, True, False]))
    scale = np.std([1, 2, 3])
    np.testing.assert_allclose(x[:, 0], [0, 1 / scale, 5 + np.log1p((1e6 - 2) / scale - 5)])
    np.testing.assert_allclose(x[:2, 1], [-(2 / 3) / np.std([1, 0, 1]), (1 / 3) / np.std([1, 0, 1])])
    assert notes == []


def test_texts_are_one_hot_in_order():
    for values in (["b", "a", "c", "b"], pandas.Categorical(["b", "a", "c", "b"])):
        table, _ = learn(frame(t=values))
        np.testing.assert_array_equal(table.arrays(frame(t=["c", "a"])), [[0, 0, 1], [1, 0, 0]])


def test_missing_numbers_take_the_mean_and_it_is_said():
    table, notes = learn(frame(a=[1.0, np.nan, 3.0, np.nan]))
    np.testing.assert_array_equal(table.arrays(frame(a=[np.nan, 3.0])), [[0], [1]])
    assert notes == ["column 'a': 2 missing values (the first in row 3) take the mean, 2"]


def test_missing_texts_are_a_category_if_there_were_any():
    table, notes = learn(frame(t=["x", None, "y"]))
    np.testing.assert_array_equal(table.arrays(frame(t=[None, "y"])), [[0, 0, 1], [0, 1, 0]])
    assert notes == ["column 't': 1 missing value (the first in row 3) are a category of their own"]
    table, _ = learn(frame(t=["x", "y"]))
    with pytest.raises(
        DataError, match="row 3, column 't': a missing value was not seen in training; known are 'x', 'y'"
    ):
        table.arrays(frame(t=["x", None]))


@pytest.mark.parametrize("values", [[5, 5, 5], ["x", "x", "x"], [np.nan] * 3, [None] * 3, [5.0, np.nan, 5.0]])
def test_constant_columns_are_left_out(values):
    table, notes = learn(frame(a=[1, 2, 3], k=values))
    assert notes == ["column 'k' is constant and left out"]
    assert table.arrays(frame(a=[1, 2])).shape == (2, 1)  # it may be absent later
    with pytest.raises(DataError, match="no column is left"):
        learn(frame(k=values))


def test_a_column_that_is_constant_in_the_training_rows_is_left_out():
    assert learn(frame(a=[1, 2, 3], k=[5, 5, 6]), rows=[0, 1])[1] == ["column 'k' is constant and left out"]


def test_an_unseen_label_is_refused():
    table, _ = learn(frame(t=["x", "y"]))
    with pytest.raises(DataError, match="row 4, column 't': 'z' was not seen in training; known are 'x', 'y'"):
        table.arrays(frame(t=["x", "y", "z"]))


def test_strays_are_refused_with_row_and_column():
    with pytest.raises(DataError, match=r"row 5, column 'a': 'four' is no number, as most .* --categories a"):
        learn(frame(a=["1", "2", "3", "four"]))
    table, _ = learn(frame(a=["1", "2", "3", "four"]), categories=["a"])
    assert table.width == 4
    table, _ = learn(frame(a=[1, 2, 3]))
    with pytest.raises(DataError, match="row 3, column 'a': 'four' is no number"):
        table.arrays(frame(a=["1", "four"]))
    with pytest.raises(DataError, match="row 3, column 'a': 'inf' is not finite"):
        table.arrays(frame(a=[1, np.inf]))


def test_numbers_that_are_names():
    table, _ = learn(frame(a=[3, 1, 3]), categories=["a"])
    # a missing value makes floats of whole numbers; they are the same names
    np.testing.assert_array_equal(table.arrays(frame(a=[1.0, 3.0])), [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    "values, message",
    [
        ([1j] * 30, "column 'a' holds complex numbers"),
        ([f"name {i}" for i in range(30)], "column 'a' has a different text in every row: leave it out"),
        ([[1]] * 30, "holds values of the type list, neither texts nor numbers nor dates; leave it out with --ignore"),
        ([1e308, -1e308] * 15, "its numbers, -1e[+]308 to 1e[+]308, can't be standardised"),
    ],
)
def test_what_can_not_be_used(values, message):
    with pytest.raises(DataError, match=message):
        learn(frame(a=values))


def test_too_many_categories():
    values = [f"x{i % 1500}" for i in range(4000)]
    with pytest.raises(DataError, match="has 1500 different texts; 1000 are possible"):
        learn(frame(a=values))


def test_an_absent_column():
    table, _ = learn(frame(a=[1, 2], b=["x", "y"]))
    with pytest.raises(DataError, match="the table has no column 'b', on which the net was trained"):
        table.arrays(frame(a=[1]))


def test_what_older_files_described():
    """Without a notation: numbers, truth values and missing values as pandas took them from a text."""
    table = Table.build(
        [{"column": "a", "mean": 1.0, "scale": 2.0}, {"column": "t", "labels": ["x", "y"], "missing": False}]
    )
    x = table.arrays(frame(a=["3", "TRUE", "False", "NA", None], t=list("xyxyx")))
    np.testing.assert_array_equal(x[:, 0], [1, 0, -0.5, 0, 0])


def test_dates_go_there_and_back_through_json():
    given = frame(d=["31/12/2020 10:00", None, "01/06/2022 11:30"], a=[1, 2, 4])
    table, _ = learn(given)
    again = Table.build(json.loads(json.dumps(table.describe())))
    assert again.columns == table.columns
    np.testing.assert_array_equal(again.arrays(given), table.arrays(given))
    assert (table.arrays(given)[1, : table.columns[0].width] == 0).all()


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6), min_size=3, max_size=20),
    st.lists(st.none() | st.sampled_from(["x", "ä", "1"]), min_size=3, max_size=20),
)
def test_there_and_back_through_json(numbers, labels):
    n = min(len(numbers), len(labels))
    given = frame(a=np.array(numbers[:n], float), t=pandas.Series(labels[:n], dtype=object).to_numpy(), c=range(n))
    try:
        table, _ = learn(given)
    except DataError:
        return
    again = Table.build(json.loads(json.dumps(table.describe())))
    assert again.columns == table.columns
    x = table.arrays(given)
    assert x.shape == (n, table.width)
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(again.arrays(given), x)


@pytest.mark.parametrize(
    "saved",
    [[1], [{}], [{"column": "a"}], [{"column": "a", "mean": "0", "scale": 1}], [{"column": 1, "mean": 0, "scale": 1}],
     [{"column": "a", "labels": "ab", "missing": True}], [{"column": "a", "labels": ["x", "x"], "missing": True}],
     [{"column": "a", "labels": [1], "missing": True}], [{"column": "a", "labels": ["x"], "missing": 1}],
     [{"column": "a", "mean": 0, "scale": 1, "notation": {}}], [{"column": "a", "mean": 0, "scale": 1, "notation": None}],
     [{"column": "a", "mean": 0, "scale": 1, "notation": PLAIN | {"decimal": "x"}}],
     [{"column": "a", "mean": 0, "scale": 1, "notation": PLAIN | {"thousands": "]"}}],
     [{"column": "a", "form": "ymd", "lines": [], "circles": []}], [{"column": "a", "form": "eval", "lines": [], "circles": []}],
     [{"column": "a", "form": "ymd", "lines": [1], "circles": []}], [{"column": "a", "form": "ymd", "lines": [], "circles": ["x"]}]],
    ids=str,
)  # fmt: skip
def test_a_hostile_description(saved):
    with pytest.raises(ModelFileError):
        Table.build(saved)


def test_what_can_be_encoded_is():
    frame = pandas.DataFrame({"a": [1.0, 2.0, np.inf, 3.0, np.inf], "c": ["x", "z", "z", "y", "x"]}, index=range(2, 7))
    learnt = Table.learn(pandas.DataFrame({"a": [1.0, 2.0], "c": ["x", "y"]}), np.arange(2))[0]
    array, left, refused = where_possible(learnt.arrays, frame)
    np.testing.assert_array_equal(left, [0, 3])
    np.testing.assert_array_equal(array, learnt.arrays(frame.iloc[[0, 3]]))
    assert [np.flatnonzero(error.rows).tolist() for error in refused] == [[2, 4], [1]]
    assert refusals(refused, frame) == [
        "row 4, column 'a': 'inf' is not finite; likewise row 6",
        "row 3, column 'c': 'z' was not seen in training; known are 'x', 'y'",
    ]
    with pytest.raises(DataError, match="no row can be used: row 4, column 'a'"):
        where_possible(learnt.arrays, frame.iloc[[2, 4]])
    with pytest.raises(DataError, match="no column 'c'"):
        where_possible(learnt.arrays, frame[["a"]])


def test_many_rows_are_named_in_short():
    frame = pandas.DataFrame({"c": ["x", *["z"] * 50]})
    learnt = Table.learn(pandas.DataFrame({"c": ["x", "y"]}), np.arange(2))[0]
    (said,) = refusals(where_possible(learnt.arrays, frame)[2], frame)
    assert said.endswith("20, 21, ... (49 rows)")


def test_lenient_categories():
    learnt = Table.learn(pandas.DataFrame({"c": ["x", "y"], "n": [1, 2]}), np.arange(2))[0]
    frame = pandas.DataFrame({"c": ["z", "y", None], "n": [1, 2, 1]})
    (error,) = learnt.unseen(frame)
    np.testing.assert_array_equal(error.rows, [True, False, True])
    np.testing.assert_array_equal(learnt.lenient().arrays(frame)[:, :2], [[0, 0], [0, 1], [0, 0]])
    assert learnt.lenient().describe() == learnt.describe()

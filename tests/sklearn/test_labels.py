"""Labels of any kind, and the codes that stand for them."""

import datetime
import enum
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.sklearn.labels import Labels, natural, right, same


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


KINDS = {
    "texts": np.array(["b", "a", "c", "a"]),
    "long and short texts": np.array(["a", "a" * 40, "b", "a"]),
    "objects": np.array(["b", "a", "c", "a"], object),
    "integers": np.array([3, -1, 7, -1]),
    "unsigned": np.array([3, 1, 7, 1], np.uint8),
    "whole floats": np.array([3.0, 1.0, 7.0, 1.0]),
    "truth values": np.array([True, False, True, True]),
    "objects of integers": np.array([3, 1, 7, 1], object),
    "objects of truth values": np.array([True, False, True, True], object),
    "dates": np.array(["2020-01-02", "2019-01-01", "2020-01-02", "2021-01-01"], "M8[D]"),
    "objects of dates": np.array([datetime.date(2020, 1, day) for day in (2, 1, 2, 3)], object),
    "decimals": np.array([Decimal("1.5"), Decimal("0.5"), Decimal("2.5"), Decimal("1.5")], object),
    "fractions": np.array([Fraction(1, 2), Fraction(1, 3)], object),
    "huge integers": np.array([10**30, 1, 10**30], object),
    "one alone": np.array(["x", "x"]),
}


@pytest.mark.parametrize("y", KINDS.values(), ids=KINDS)
def test_codes_are_places_among_the_classes(y):
    y = natural(y)
    labels = Labels.of(y)
    assert labels.classes.tolist() == sorted(set(y.tolist()))
    codes = labels.codes(y)
    assert codes.dtype == np.int64 and codes.shape == y.shape
    assert labels.classes[codes].tolist() == y.tolist()
    assert labels.binary == (len(labels.classes) <= 2) and not labels.several


@given(st.lists(st.text(max_size=3), min_size=1, max_size=30))
def test_texts(texts):
    y = natural(np.array(texts, object))
    labels = Labels.of(y)
    assert labels.classes[labels.codes(y)].tolist() == texts


def test_labels_of_one_kind_are_known_in_another():
    labels = Labels.of(natural(np.array(["a", "b"])))
    assert labels.codes(np.array(["b", "a"], object)).tolist() == [1, 0]
    labels = Labels.of(natural(np.array([1, 2])))
    assert labels.codes(np.array([2.0, 1.0])).tolist() == [1, 0]
    assert labels.codes(np.array([2, 1], object)).tolist() == [1, 0]


@pytest.mark.parametrize("y", [["c"], np.array(["aa"]), np.array(["c", "a"], object), [5], [1.5]])
def test_other_labels_are_refused(y):
    labels = Labels.of(np.array(["a", "b"]))
    with pytest.raises(ValueError, match=r"y has labels that are none of the classes \['a', 'b'\]: "):
        labels.codes(np.asarray(y))


def test_several_labels_a_sample():
    y = natural(np.array([[1, 0, 1], [0, 0, 0]]))
    labels = Labels.of(y)
    assert labels.several and not labels.binary and labels.classes.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(labels.codes(np.array([[1.0, 0.0, 1.0]])), [[1, 0, 1]])
    with pytest.raises(ValueError, match=r"y must be \(n, 3\), as in the first call, got \(2, 2\)"):
        labels.codes(np.array([[1, 0], [0, 1]]))
    with pytest.raises(ValueError, match=r"y must be \(n, 3\), as in the first call, got \(2,\)"):
        labels.codes(np.array([1, 0]))
    with pytest.raises(ValueError, match=r"y must be \(n,\), as in the first call, got \(1, 3\)"):
        Labels.of(np.array([1, 0])).codes(np.array([[1, 0, 1]]))


@pytest.mark.parametrize("y", [np.array([0.5, 1.5]), np.array([0.5, 1.5], object)])
def test_amounts_are_no_labels(y):
    with pytest.raises(ValueError, match="Unknown label type"):
        natural(y)


@pytest.mark.parametrize("y", [np.array([[1, 2], [3, 1]]), np.array([["a", "b"], ["b", "a"]])])
def test_columns_of_labels_are_refused(y):
    with pytest.raises(ValueError, match="y holds 2 columns of labels; several columns must say by 0 and 1"):
        natural(y)


def test_labels_of_several_kinds_are_refused():
    with pytest.raises(TypeError, match="the labels in y must be of one kind, such as texts or numbers"):
        Labels.of(natural(np.array([1, "a"], object)))
    y = np.empty(2, object)
    y[:] = [["a"], ["b"]]
    with pytest.raises(TypeError, match=r"the labels in y must be of one kind.*unhashable"):
        Labels.of(natural(y))


def test_labels_without_an_order_are_put_in_that_of_their_texts():
    y = natural(np.array([Colour.RED, Colour.BLUE], object))
    assert Labels.of(y).classes.tolist() == [Colour.BLUE, Colour.RED] and Labels.of(y).codes(y).tolist() == [1, 0]


@pytest.mark.parametrize("nothing", [None, float("nan"), np.datetime64("NaT"), "pandas.NA", "pandas.NaT"])
def test_a_label_that_is_none_is_refused(nothing):
    if isinstance(nothing, str):
        nothing = getattr(pytest.importorskip("pandas"), nothing.split(".")[1])
    for y in (np.array(["a", nothing], object), np.array([nothing, nothing], object)):
        with pytest.raises(ValueError, match="y must hold a label for each sample, got"):
            natural(y)
    with pytest.raises(ValueError, match="got NaT"):
        natural(np.array(["2020-01-01", "NaT"], "M8[D]"))


def test_right_answers():
    assert right(np.array(["a", "b"]), np.array(["a", "c"], object)).tolist() == [True, False]
    assert right(np.array([1, 2]), np.array([1.0, 3.0])).tolist() == [True, False]
    assert right(np.array([1, 2]), np.array(["1", "2"])).tolist() == [False, False]
    assert right(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [0, 1]])).tolist() == [True, False]


def test_same():
    assert same(np.array(["a", "b"]), ["b", "a"]) and same(np.array([0, 1]), np.array([1.0, 0.0]))
    assert not same(np.array(["a", "b"]), ["a"]) and not same(np.array([0, 1]), [0, 1, 2])

"""Targets: what a column asks for, and answers in its own terms."""

import numpy as np
import pandas
import pytest

from backprop_xp.data import Amount, Classes, DataError, targets
from backprop_xp.exchange import ModelFileError


def learn(values, task="auto", rows=slice(None)):
    table = pandas.DataFrame({"y": values})
    table.index = range(2, len(table) + 2)
    return targets.learn(table, "y", np.arange(len(table))[rows], task)


@pytest.mark.parametrize(
    "values, labels",
    [
        (["b", "a", "b"], ("a", "b")),
        ([True, False, True], ("False", "True")),
        ([10, 9, 2, 2], ("2", "9", "10")),
        ([1.0, 2.0, 1.0], ("1", "2")),
    ],
)
def test_names_and_few_whole_numbers_are_classes(values, labels):
    assert learn(values) == Classes("y", labels)


def test_other_numbers_are_amounts():
    assert isinstance(learn([0.5, 1, 2]), Amount)
    assert isinstance(learn(list(range(50))), Amount)
    assert learn([1, 2, 6], "regression", slice(2)) == Amount("y", 1.5, 0.5)
    assert isinstance(learn([0.5, 1, 2], "classification"), Classes)


def test_classes():
    classes = Classes("y", ("a", "b"))
    truth = pandas.Series(["b", "a", "b"])
    np.testing.assert_array_equal(classes.encode(truth), [1, 0, 1])
    outputs = np.array([[0.0, 2.0], [1000.0, -1000.0], [1.0, 0.0]])
    answers = classes.answers(outputs)
    assert answers["y"] == ["b", "a", "a"]
    np.testing.assert_allclose(answers["probability"], [1 / (1 + np.exp(-2)), 1, 1 / (1 + np.exp(-1))])
    assert classes.score(outputs, truth) == pytest.approx(2 / 3)
    assert classes.describe_score(outputs, truth) == "accuracy 0.6667 on 3 rows"
    with pytest.raises(DataError, match="row 1, column 'y': 'c' was not seen in training; known are 'a', 'b'"):
        classes.encode(pandas.Series(["a", "c"]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_say_nothing(bad):
    classes, truth = Classes("y", ("a", "b")), pandas.Series(["a", "b", "a"])
    outputs = np.array([[bad, 0.0], [0.0, 1.0], [0.0, bad]])
    with pytest.warns(RuntimeWarning, match="2 rows get no answer: the net's outputs are NaN or infinite"):
        answers = classes.answers(outputs)
    assert answers["y"] == [None, "b", None]
    np.testing.assert_array_equal(np.isnan(answers["probability"]), [True, False, True])
    assert classes.score(outputs, truth) == pytest.approx(1 / 3)
    # a class that is impossible is no reason to say nothing
    assert classes.answers(np.array([[-np.inf, 0.0]])) == {"y": ["b"], "probability": [1.0]}
    with pytest.warns(RuntimeWarning, match="1 row gets no answer"):
        amounts = Amount("y", 10.0, 2.0).answers(np.array([[bad], [0.5]]))
    np.testing.assert_array_equal(amounts["y"], [np.nan, 11])


def test_amounts():
    amount = Amount("y", 10.0, 2.0)
    truth = pandas.Series([12.0, 8.0, 10.0])
    np.testing.assert_array_equal(amount.encode(truth), [[1], [-1], [0]])
    assert amount.score(amount.encode(truth), truth) == 1
    assert amount.score(np.zeros((3, 1)), truth) == 0
    assert amount.answers(np.array([[0.5]]))["y"] == [11]
    assert amount.describe_score(np.zeros((3, 1)), truth) == "R^2 0.0000, root mean square error 1.633 on 3 rows"


@pytest.mark.parametrize(
    "values, task, message",
    [
        (["a", "a"], "auto", "the target 'y' is 'a' in every row"),
        ([0.5, 0.5], "auto", "is constant"),
        (["1", "x", "2", "3"], "auto", "row 3, column 'y': 'x' is no number"),
        (["a", "b"], "regression", "row 2, column 'y': 'a' is no number"),
        ([0.5, np.inf], "auto", "row 3, column 'y': 'inf' is not finite"),
    ],
)
def test_targets_that_can_not_be_learnt(values, task, message):
    with pytest.raises(DataError, match=message):
        learn(values, task)


@pytest.mark.parametrize("target", [Classes("y", ("a", "b")), Amount("y", -1.5, 2.0)])
def test_there_and_back(target):
    assert targets.build(target.describe()) == target


@pytest.mark.parametrize(
    "saved",
    [{}, {"kind": "classes", "column": "y", "labels": ["a"]}, {"kind": "classes", "column": "y", "labels": ["a", 1]},
     {"kind": "amount", "column": "y", "mean": 0}, {"kind": "eval", "column": "y"}, {"kind": "classes", "column": None}],
    ids=str,
)  # fmt: skip
def test_a_hostile_description(saved):
    with pytest.raises(ModelFileError):
        targets.build(saved)

"""Several targets at once."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from backprop_xp.data import Amount, Classes, DataError, Model, Recipe, Several, several, train
from backprop_xp.exchange import ModelFileError

QUICK = Recipe(hidden=(8,), epochs=30, lr=0.02, backend="numpy")
CLASSES = Several((Classes("a", ("x", "y")), Classes("b", ("1", "2", "3"))))
AMOUNTS = Several((Amount("p", 10.0, 2.0), Amount("q", -1.0, 0.5)))


def table(n=120):
    random = np.random.default_rng(0)
    u, v = random.normal(size=(2, n))
    frame = pandas.DataFrame({"u": u, "v": v, "p": 3 * u + 10 + v**2, "q": v - u**2})
    return frame.assign(a=np.where(u > 0, "x", "y"), b=np.digitize(v, [-0.5, 0.5]))


def of(columns):
    return table().drop(columns=list({"p", "q", "a", "b"} - set(columns)))


@pytest.mark.parametrize("columns", [["p", "q"], ["b", "a"]])
def test_trained_kept_and_applied(columns, tmp_path):
    trained = train(of(columns), columns, QUICK)
    target = trained.model.target
    assert isinstance(target, Several) and target.columns == tuple(columns)
    single = [member.score(own, truth) for member, own, truth in target.parts(trained.outputs, trained.held_out)]
    assert trained.score == pytest.approx(np.mean(single)) and min(single) > 0.5
    assert trained.score > trained.baseline_score + 0.2
    trained.model.save(tmp_path / "model")
    again = Model.load(tmp_path / "model", backend="numpy")
    assert again.target == target
    pandas.testing.assert_frame_equal(again.predict(table()), trained.model.predict(table()))
    assert list(again.predict(table()).columns)[: 1 if "a" in columns else 2] == columns[: 1 if "a" in columns else 2]
    said = again.describe_score(table(), again.outputs(table()))
    assert all(f"{name}: " in said for name in columns)
    assert again.describe_score(table().drop(columns=columns[0]), again.outputs(table())) is None


def test_probabilities():
    outputs = np.array([[4.0, -4.0, 1.0, 2.0, -30.0], [np.nan, 0.0, 0.0, 0.0, 0.0]])
    with pytest.warns(RuntimeWarning, match="1 row gets no answer"):
        answers = CLASSES.answers(outputs)
    assert list(answers) == ["a", "a probability", "b", "b probability"]
    assert answers["a"] == ["x", None] and answers["b"] == ["2", "1"]
    sigmoid = 1 / (1 + np.exp(-outputs[0]))
    np.testing.assert_allclose(answers["a probability"][0], sigmoid[0] / sigmoid[:2].sum())
    with pytest.warns(RuntimeWarning):
        each = CLASSES.answers(outputs, each=True)
    assert list(each) == [
        "a",
        "a probability of x",
        "a probability of y",
        "b",
        *(f"b probability of {k}" for k in "123"),
    ]
    np.testing.assert_allclose(each["b probability of 2"][0], sigmoid[3] / sigmoid[2:].sum())


def test_targets_for_the_net():
    frame = pandas.DataFrame({"a": ["y", "x"], "b": [1, 3], "p": [12.0, 10.0], "q": [0.0, -1.0]})
    np.testing.assert_array_equal(CLASSES.encode(frame), [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]])
    np.testing.assert_array_equal(AMOUNTS.encode(frame), [[1, 2], [0, 0]])
    np.testing.assert_array_equal(AMOUNTS.answers(AMOUNTS.encode(frame))["q"], [0, -1])
    np.testing.assert_array_equal(CLASSES.baseline(CLASSES.encode(frame))[:2], [1, 0])
    np.testing.assert_array_equal(AMOUNTS.baseline(AMOUNTS.encode(frame)), [0, 0])


def test_folds_and_early_stopping():
    from dataclasses import replace

    for columns in (["p", "q"], ["a", "b"]):
        trained = train(of(columns), columns, replace(QUICK, folds=2, epochs=4, early_stopping=2))
        assert len(trained.outputs) == 120 and np.isfinite(trained.outputs).all()


def test_rows_without_one_of_them_are_left_out():
    frame = of(["p", "q"])
    frame.loc[3, "p"] = frame.loc[5, "q"] = np.nan
    trained = train(frame, ("p", "q"), Recipe(hidden=(2,), epochs=1, backend="numpy"))
    assert trained.counts.trained + trained.counts.held == 118
    assert [note for note in trained.notes if "without" in note] == [
        "1 row without 'p' is left out (the first is row 3)",
        "1 row without 'q' is left out (the first is row 5)",
    ]


@pytest.mark.parametrize("columns", [["p", "q"], ["b", "a"]])
def test_another_table_to_test_with(columns):
    other, first = of(columns)[:40], columns[0]
    other[first] = other[first].astype(object)
    other.loc[3, first] = np.nan
    if first == "b":
        other.loc[5, first] = 7
    trained = train(of(columns)[40:], columns, QUICK, test=other)
    assert (trained.counts.trained, trained.counts.held) == (80, 39)
    assert f"test: 1 row without '{first}' is left out (the first is row 3)" in trained.notes
    assert list(trained.held_out.index) == [k for k in range(40) if k != 3]
    np.testing.assert_array_equal(trained.outputs, trained.model.outputs(other.drop(index=3)))
    single = [
        member.score(own, truth) for member, own, truth in trained.model.target.parts(trained.outputs, trained.held_out)
    ]
    assert trained.score == pytest.approx(np.mean(single)) and min(single) > 0.5
    assert (
        ("b: accuracy" in trained.describe_score())
        is ("1 have a class not seen" in trained.describe_score())
        is (first == "b")
    )
    assert trained.history.epochs[-1].validation_loss is not None


@pytest.mark.parametrize(
    "columns, message",
    [
        (["p", "a"], "several targets must be all classes or all amounts: 'a' is one of 2 classes and 'p' an amount"),
        (["p", "p"], "the target 'p' is named twice"),
        (["p", "z"], "no column 'z'"),
        ([], "the target must be a column, or several"),
    ],
)
def test_mistakes(columns, message):
    with pytest.raises((ValueError, DataError), match=message):
        train(table(), columns, QUICK)


def test_a_list_of_one_is_one():
    assert isinstance(train(of(["p"]), ["p"], Recipe(hidden=(2,), epochs=1, backend="numpy")).model.target, Amount)


@pytest.mark.parametrize("target", [CLASSES, AMOUNTS, CLASSES.members[0]])
def test_there_and_back(target):
    assert several.build(target.describe()) == target


@pytest.mark.parametrize(
    "members",
    [None, [], ["a"], [AMOUNTS.describe()], [AMOUNTS.members[0].describe()] * 2, [AMOUNTS.members[0].describe()],
     [AMOUNTS.members[0].describe(), CLASSES.members[0].describe()]],
    ids=str,
)  # fmt: skip
def test_a_hostile_description(members):
    with pytest.raises(ModelFileError):
        several.build({"kind": "several", "members": members})


def test_a_balanced_weight_is_of_one():
    with pytest.raises(ValueError, match="class_weight is of one target, and there are 2"):
        train(of(["a", "b"]), ["a", "b"], Recipe(class_weight="balanced", backend="numpy"))

"""What the score loses where a column is shuffled."""

import numpy as np
import pandas
import pytest

from backprop_xp.data import Recipe, importance, train

QUICK = {"hidden": (8,), "epochs": 20, "lr": 0.02, "backend": "numpy"}


def table(n=200):
    random = np.random.default_rng(0)
    frame = pandas.DataFrame(random.normal(size=(n, 3)), columns=["noise", "a", "b"])
    frame["colour"] = random.choice(["red", "green", "blue"], n)
    return frame.assign(y=3 * frame.a + frame.b + 5 * (frame.colour == "red"))


@pytest.mark.parametrize("more", [{}, {"folds": 2}])
def test_columns_in_their_order(more):
    trained = train(table(), "y", Recipe(**QUICK, **more))
    found = importance.importance(trained)
    assert [each.column for each in found][2:] == ["b", "noise"] and {"a", "colour"} == {e.column for e in found[:2]}
    assert found[0].lost > 0.3 > abs(found[-1].lost) and all(each.spread >= 0 for each in found)
    assert importance.importance(trained) == found


def test_by_hand():
    """A column that the net doesn't read loses nothing, and the only one that it reads nearly all."""
    frame = table()[["noise", "a"]].assign(y=table().a + 0.01 * table().b)
    trained = train(frame, "y", Recipe(hidden=(), epochs=1, backend="numpy"))
    (weight,) = trained.model.net.weights
    weight.data[...] = [[0.0, 1.0]]
    found = {each.column: each for each in importance.importance(trained)}
    assert found["noise"].lost == found["noise"].spread == 0
    assert found["a"].lost > 1  # R^2 of shuffled answers is near -1


def test_the_work_is_bounded():
    assert importance._effort(10, 20, 100_000) == (importance.REPEATS, importance.MOST_ROWS)
    repeats, rows = importance._effort(1000, 1000, 2000)
    assert repeats == 1 and rows * 1000 * 1000 <= importance.MOST_WORK
    assert importance._effort(5000, 5000, 2000) == (1, 0)
    assert importance._effort(5, 5, 0)[1] == 0


def test_nothing_held_out_is_nothing():
    trained = train(table(), "y", Recipe(**QUICK))
    trained.held_out = trained.held_out.iloc[:0]
    assert importance.importance(trained) == []

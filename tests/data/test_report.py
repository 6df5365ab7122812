"""What a person is told of a training."""

import numpy as np
import pandas
import pytest

from backprop_xp.data import Classes, Recipe, Table, report, train
from backprop_xp.training import Epoch

QUICK = {"hidden": (4,), "epochs": 3, "backend": "numpy"}


def table(n=200):
    random = np.random.default_rng(0)
    a = random.normal(size=n)
    frame = pandas.DataFrame({"a": a, "town": random.choice(list("wxyz"), n), "size": random.normal(size=n)})
    return frame.assign(price=3 * a + 1, fraud=np.where(np.arange(n) % 20 == 0, "yes", "no"))


def lines(column, **options):
    trained = train(table(), column, Recipe(**QUICK, ignore={"price", "fraud"} - {column}, **options))
    return trained, list(report.lines(trained, 1.5))


def test_of_classes():
    trained, said = lines("fraud")
    assert said[0] == "rows: 160 to train on, 40 held out"
    assert said[1] == "inputs: 3 columns, 6 inputs ('town' 4)"
    assert "3 epochs in 1.50 s, training loss" in said[2]
    assert said[3] == f"held out: accuracy {trained.score:.4f} on 40 rows"
    assert said[4].startswith("held out: always answering 'no' gets 0.9500")
    assert said[5].startswith("held out: balanced accuracy ")
    assert said[6] == "class  rows  precision  recall"
    assert said[7].split()[:2] == ["no", "38"] and said[8].split()[:2] == ["yes", "2"]
    assert said[9].startswith("columns that matter most, by the accuracy lost where they are shuffled: ")


def test_a_net_that_is_no_better_than_a_constant_is_told_so():
    _, said = lines("fraud", lr=0.0)
    assert any("the net is no better" in line for line in said)


def test_of_amounts():
    trained, said = lines("price")
    mean = table()["price"].drop(trained.held_out.index).mean()
    error = np.sqrt(((trained.held_out["price"] - mean) ** 2).mean())
    expected = f"held out: always answering the mean, {mean:.6g}, gets an error of {error:.4g}"
    assert any(line.startswith(expected) for line in said)
    assert not any("class" in line for line in said)


def test_of_folds_and_early_stopping():
    _, said = lines("price", folds=2, early_stopping=2)
    assert said[0] == "rows: 160 to train on, 40 to decide when it ends, 200 held out in turn"
    assert any(line.startswith("training ") and "the parameters are those after epoch" in line for line in said)


def test_precision_and_recall_by_hand():
    classes = Classes("y", ("a", "b", "c"))
    confusion = np.array([[6, 2, 0, 0], [1, 1, 0, 2], [0, 0, 0, 0]])
    said = list(report.classes(classes, confusion, named=False))
    assert said[0] == "held out: balanced accuracy 0.5000, the mean of the classes' recall"
    assert [line.split() for line in said[2:]] == [["a", "8", "0.8571", "0.7500"], ["b", "4", "0.3333", "0.2500"]]
    even = list(report.classes(classes, np.array([[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0]]), named=True))
    assert even[0] == "y:" and "balanced" not in "".join(even)


def test_many_classes_show_the_worst():
    classes = Classes("y", tuple(f"class {k}" for k in range(30)))
    confusion = np.c_[np.diag(np.arange(30)) + np.roll(np.eye(30, dtype=int), 1, axis=1) * 5, np.zeros(30, int)]
    said = list(report.classes(classes, confusion, named=False))
    assert said[-1] == "... and 10 classes with more recall" and len(said) == 23
    assert said[2].startswith("class 0 ")


@pytest.mark.parametrize("counts, uneven", [([10, 10], False), ([10, 15], False), ([10, 16], True), ([5], False)])
def test_uneven(counts, uneven):
    assert report.uneven(np.array(counts)) == uneven


def test_inputs_name_the_widest_columns():
    frame = table().assign(street=[f"s{i % 30}" for i in range(200)])[["a", "town", "street"]]
    learnt = Table.learn(frame, np.arange(200))[0]
    assert report.inputs(learnt) == "inputs: 3 columns, 35 inputs ('street' 30, 'town' 4)"


@pytest.mark.parametrize(
    "losses, said",
    [
        ([3.0, 2.0, 1.0], ""),
        ([3.0, 1.0, 1.04], ""),
        ([3.0, 1.0, 2.0, 1.5], "rose from 1 after epoch 2 to 1.5"),
        ([1.0, np.nan, 2.0], ""),
    ],
)
def test_a_loss_that_rose(losses, said):
    trained = train(table(), "price", Recipe(**QUICK, ignore=("fraud",)))
    trained.history.epochs = [Epoch(i, i, 0.1, loss, 0.0) for i, loss in enumerate(losses, 1)]
    found = report.overfitting(trained)
    assert said in found and bool(found) == bool(said)

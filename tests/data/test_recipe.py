"""Trainings: early stopping, balanced classes, folds, and tables to test with."""

import numpy as np
import pandas
import pytest

from backprop_xp import Net
from backprop_xp.data import DataError, Recipe, train
from backprop_xp.data.preparing import folds

QUICK = {"hidden": (4,), "epochs": 3, "backend": "numpy"}


def table(n=100, seed=0):
    random = np.random.default_rng(seed)
    a = random.normal(size=n)
    colour = random.choice(["red", "blue"], n)
    frame = pandas.DataFrame({"a": a, "colour": colour, "price": 3 * a + random.normal(size=n)})
    return frame.assign(kind=np.where(a + 0.5 * random.normal(size=n) > 1.2, "rare", "usual"))


@pytest.mark.parametrize("column, other", [("price", "kind"), ("kind", "price")])
class TestEarlyStopping:
    def test_rows_that_decide_are_not_trained_on_and_not_held_out(self, column, other):
        plain = train(table(), column, Recipe(**QUICK, ignore=(other,)))
        recipe = Recipe(**{**QUICK, "epochs": 60}, early_stopping=2, ignore=(other,), lr=0.1)
        trained = train(table(), column, recipe)
        assert list(trained.held_out.index) == list(plain.held_out.index)
        counts = trained.counts
        assert counts.trained + counts.deciding == plain.counts.trained and counts.deciding == 16
        assert trained.history.stopped == "no better for 2 epochs" and trained.history.best < 60

    def test_held_out_rows_do_not_decide(self, column, other):
        recipe = Recipe(**{**QUICK, "epochs": 20}, early_stopping=2, ignore=(other,))
        before = train(table(), column, recipe)
        frame = table()
        frame.loc[before.held_out.index, "a"] = 7.0
        after = train(frame, column, recipe)
        assert [e.validation_loss for e in after.history.epochs] == [e.validation_loss for e in before.history.epochs]


def test_too_few_rows_to_stop_by():
    with pytest.raises(DataError, match=r"2 rows are too few to take 20% for early stopping"):
        train(table(3), "price", Recipe(**QUICK, ignore=("kind", "colour"), early_stopping=2, validation=0.2, keep="a"))


def test_balanced_classes_find_the_rare_one():
    recipe = {**QUICK, "epochs": 30, "ignore": ("price",)}
    plain, balanced = (train(table(400), "kind", Recipe(**recipe, class_weight=w)) for w in ("none", "balanced"))
    recalls = [
        run.model.target.confusion(run.outputs, run.held_out["kind"])[0, 0] / (run.held_out["kind"] == "rare").sum()
        for run in (plain, balanced)
    ]
    assert recalls[1] > recalls[0]
    counts = np.bincount(
        balanced.model.target.encode(table(400)["kind"])[~np.isin(np.arange(400), balanced.held_out.index)]
    )
    np.testing.assert_allclose(balanced.model.net.loss.weight, counts.sum() / (2 * counts))
    with pytest.raises(ValueError, match="class_weight is of classes, and the target 'price' is an amount"):
        train(table(), "price", Recipe(**QUICK, class_weight="balanced"))


class TestFolds:
    @pytest.mark.parametrize("column, other", [("price", "kind"), ("kind", "price")])
    def test_every_row_is_held_out_once(self, column, other):
        recipe = Recipe(**QUICK, folds=3, ignore=(other,))
        trained = train(table(), column, recipe)
        assert sorted(i for run in trained.folds for i in run.held_out.index) == list(range(100))
        assert trained.counts.trained == trained.counts.held == 100
        assert trained.held_out.equals(trained.folds[0].held_out) is False and len(trained.outputs) == 100
        truth = trained.held_out[column]
        said = trained.model.target.answers(trained.outputs)[column]
        for run in trained.folds:
            theirs = run.model.predict(run.held_out)[column]
            ours = pandas.Series(said, index=truth.index)[run.held_out.index]
            assert (ours == theirs).all() if column == "kind" else np.allclose(ours, theirs, atol=1e-5)
        assert f"on 100 rows, each held out once in 3 folds ({trained.model.target.scored} " in trained.describe_score()

    def test_the_model_is_of_all_rows(self):
        recipe = Recipe(**QUICK, folds=3, ignore=("kind",))
        trained = train(table(), "price", recipe)
        assert trained.model.target.mean == pytest.approx(table()["price"].mean())
        assert trained.history.epochs[-1].validation_loss is None

    def test_parts(self):
        groups = np.array([0] * 7 + [1] * 4 + [2])
        parts = folds(groups, 3, np.random.default_rng(0))
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(12))
        assert all(len(part) == 4 and (groups[part] == 1).sum() in (1, 2) for part in parts)
        with pytest.raises(DataError, match="2 rows are too few for 3 folds"):
            folds(groups[:2], 3, np.random.default_rng(0))


@pytest.mark.parametrize("hidden", [8, "64-32", np.int64(8), [[8]]])
def test_widths_that_are_none(hidden):
    with pytest.raises(ValueError, match="hidden must be the widths of the hidden layers, such as"):
        Recipe(hidden=hidden)


class TestAnotherTable:
    recipe = Recipe(**QUICK, ignore=("kind",))

    def test_all_rows_are_trained_on(self):
        other = table(30, seed=1)
        trained = train(table(), "price", self.recipe, test=other)
        assert trained.counts.trained == 100 and trained.counts.held == 30
        np.testing.assert_array_equal(trained.outputs, trained.model.outputs(other))
        assert trained.history.epochs[-1].validation_loss is not None
        assert trained.model.target.mean == pytest.approx(table()["price"].mean())

    def test_it_teaches_nothing(self):
        a, b = (train(table(), "price", self.recipe, test=table(30, seed).assign(more="x")) for seed in (1, 2))
        for p, q in zip(a.model.net.parameters, b.model.net.parameters):
            np.testing.assert_array_equal(p.data, q.data)

    def test_rows_without_an_answer_are_named(self):
        other = table(5, seed=1)
        other.loc[[1, 3], "colour"] = "green"
        other.loc[2, "price"] = np.nan
        trained = train(table(), "price", self.recipe, test=other)
        assert list(trained.held_out.index) == [0, 4]
        assert "test: 1 row without 'price' is left out (the first is row 2)" in trained.notes
        (named,) = (note for note in trained.notes if "no answer" in note)
        assert named.startswith("test: no answer for row 1, column 'colour': 'green'") and "likewise row 3" in named

    def test_a_class_that_was_not_seen_counts_as_wrong(self):
        other = table(20, seed=1).assign(kind="usual")
        other.loc[4, "kind"] = "odd"
        recipe = Recipe(**{**QUICK, "epochs": 10}, ignore=("price",))
        trained = train(table(), "kind", recipe, test=other)
        assert trained.counts.held == 20 and trained.score <= 19 / 20
        assert "1 have a class not seen in training" in trained.describe_score()

    def test_no_row_of_it_at_all(self):
        with pytest.raises(DataError, match="the table to test with: no row can be used: row 0, column 'colour'"):
            train(table(), "price", self.recipe, test=table(5, seed=1).assign(colour="green"))

    @pytest.mark.parametrize("target", ["price", ["price", "a"]])
    def test_an_amount_that_is_no_number_is_refused_before_the_training(self, target, monkeypatch):
        monkeypatch.setattr(Net, "fit", None)
        other = table(5, seed=1).astype({"price": object})
        other.loc[3, "price"] = "much"
        with pytest.raises(DataError, match=r"^the table to test with: row 3, column 'price': 'much' is no number"):
            train(table(), target, self.recipe, test=other)

    def test_rows_that_are_trained_on_prove_nothing(self):
        said = "test: 30 of 30 rows are the same as rows that are trained on"
        for other, found in ((table()[50:80], True), (table(30, seed=1), False)):
            assert (said in train(table(), "price", self.recipe, test=other).notes) is found

    def test_one_row_has_no_r_squared(self):
        trained = train(table(), "price", self.recipe, test=table(1, seed=1))
        assert "R^2 nan" in trained.describe_score() and "no better" not in trained.describe_baseline()
        in_folds = train(table(6), "price", Recipe(**QUICK, folds=6, ignore=("kind", "colour"), keep="a"))
        assert in_folds.describe_score().endswith("each held out once in 6 folds")

    def test_mistakes(self):
        with pytest.raises(DataError, match="the table to test with has no column 'price'"):
            train(table(), "price", self.recipe, test=table().drop(columns="price"))
        with pytest.raises(ValueError, match="give folds, or a table to test with"):
            train(table(), "price", Recipe(**QUICK, folds=2), test=table())


@pytest.mark.gpu
def test_on_a_device():
    from backprop_xp.data.importance import importance

    pytest.importorskip("cupy")
    recipe = Recipe(hidden=(3,), epochs=1, backend="cupy", early_stopping=1, class_weight="balanced", ignore=("price",))
    trained = train(table(40), "kind", recipe)
    assert trained.model.net.backend.name == "cupy" and len(importance(trained)) == 2
    assert trained.outputs.shape == (8, 2) and np.isfinite(trained.score)

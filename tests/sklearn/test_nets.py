"""Estimators with dropout and normalisation, whose nets are graphs."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from tables import blobs, line

from backprop_xp import GraphNet, Net
from backprop_xp.graph import Dropout, LayerNorm
from backprop_xp.sklearn import BackpropClassifier, BackpropRegressor

KINDS = [(BackpropClassifier, blobs), (BackpropRegressor, line)]
BOTH = {"dropout": 0.2, "normalisation": "layer"}
MORE = [{"dropout": 0.2}, BOTH]  # each graph is compiled for itself, which takes a while
SHORT = {"hidden_layer_sizes": (6, 5), "max_iter": 4, "tol": 0, "random_state": 0, "batch_size": 16, "backend": "numpy"}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("more", MORE, ids=str)
@pytest.mark.parametrize("kind, table", KINDS)
class TestGraphs:
    def test_what_it_is(self, kind, table, more):
        model = kind(**SHORT, **more).fit(*table())
        net = model.net_
        assert isinstance(net, GraphNet)
        operations = [type(node.operation) for node in net.nodes]
        assert operations.count(Dropout) == (2 if "dropout" in more else 0)
        assert operations.count(LayerNorm) == (2 if "normalisation" in more else 0)
        assert [w.shape for w in model.coefs_][:2] == [(table()[0].shape[1], 6), (6, 5)]
        assert [len(b) for b in model.intercepts_][:2] == [6, 5] and model.n_layers_ == 4

    def test_predictions_drop_nothing(self, kind, table, more):
        x, y = table()
        model = kind(**SHORT, **more).fit(x, y)
        np.testing.assert_array_equal(model.predict(x), model.predict(x))
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict(x), model.predict(x))
        other = clone(model).fit(x, y)
        for p, q in zip(model.net_.parameters, other.net_.parameters):
            np.testing.assert_array_equal(p.data, q.data)

    def test_parts_are_the_same_as_warm_starts(self, kind, table, more):
        x, y = table()
        known = {"classes": np.unique(y)} if kind is BackpropClassifier else {}
        parts = kind(**SHORT, **more).partial_fit(x, y, **known)
        before = [p.data.copy() for p in parts.net_.parameters]
        count = parts._optimiser.count
        parts.partial_fit(x, y)
        assert parts._optimiser.count == 2 * count and parts.n_iter_ == 1
        assert any((p.data != q).any() for p, q in zip(parts.net_.parameters, before))

    def test_a_warm_start_takes_other_functions(self, kind, table, more):
        x, y = table()
        model = kind(**SHORT, **more, warm_start=True).fit(x, y)
        before = [w.copy() for w in model.coefs_]
        model.set_params(activation="tanh", learning_rate_init=1e-12, max_iter=1).fit(x, y)
        np.testing.assert_allclose(model.coefs_[0], before[0], atol=1e-6)
        assert "tanh" in [node.operation.name for node in model.net_.nodes]
        with pytest.raises(ValueError, match=r"normalisation or dropout .* differ from what its parameters ask for"):
            model.set_params(dropout=0.0, normalisation="none").fit(x, y)
        assert "tanh" in [node.operation.name for node in model.net_.nodes]

    def test_a_failure_leaves_it_as_it_was(self, kind, table, more):
        x, y = table()
        model = kind(**SHORT, **more, warm_start=True).fit(x, y)
        before = model.predict(x)
        with pytest.raises(ValueError, match="non-finite"):
            model.set_params(learning_rate_init=1e300, optimiser="sgd").fit(x, y)
        np.testing.assert_array_equal(model.predict(x), before)


@pytest.mark.parametrize("kind, table", KINDS)
def test_without_them_it_is_the_chain_that_it_was(kind, table):
    assert type(kind(**SHORT).fit(*table()).net_) is Net


def test_early_stopping_and_no_bias():
    model = BackpropRegressor(**SHORT, **BOTH, early_stopping=True, bias=False, validation_fraction=0.2).fit(*line())
    assert model.intercepts_ == [] and len(model.validation_scores_) == 4


def test_a_search():
    options = SHORT | {"max_iter": 30, "learning_rate_init": 0.05, "normalisation": "layer"}
    search = GridSearchCV(BackpropClassifier(**options), {"dropout": [0.05, 0.2]}, cv=2)
    assert search.fit(*blobs()).best_score_ > 0.9


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dropout": 1.0}, "dropout must be a number from 0 to below 1, got 1.0"),
        ({"dropout": "half"}, "dropout must be a number"),
        ({"normalisation": "batch"}, "unknown normalisation 'batch'"),
        ({"dropout": 0.1, "hidden_layer_sizes": ()}, "dropout is of the hidden layers, and there are none"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        BackpropClassifier(**SHORT | options).fit(*blobs())

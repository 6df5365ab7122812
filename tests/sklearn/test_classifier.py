"""The classifier: classes and labels, probabilities, weights of classes, training in parts."""

from decimal import Decimal

import numpy as np
import pytest
from tables import blobs

from backprop_xp import BCEWithLogits, SoftmaxCrossEntropy
from backprop_xp.sklearn import BackpropClassifier
from backprop_xp.training import SGD

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FAST = {"hidden_layer_sizes": (16,), "learning_rate_init": 0.02, "random_state": 0}


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("labels", ["texts", "numbers", "objects", "truth"])
def test_learns_labels_of_any_kind(classes, labels):
    x, codes = blobs(classes)
    names = {
        "texts": np.array(["b", "a", "dd", "c", "e"]),
        "numbers": np.array([7, -2, 30, 4, 0]),
        "objects": np.array([1.0, 0.0, 2.0, 4.0, 3.0], object),
        "truth": np.array([False, True]),
    }[labels]
    if classes > len(names):
        pytest.skip("there are two truth values")
    y = names[codes]
    model = BackpropClassifier(**FAST).fit(x, y)
    assert model.classes_.tolist() == sorted(set(y.tolist()))
    said = model.predict(x)
    assert said.dtype == model.classes_.dtype and said.tolist() == y.tolist()
    assert model.score(x, y) == 1.0
    assert model.n_outputs_ == (1 if classes == 2 else classes)
    assert model.out_activation_ == ("logistic" if classes == 2 else "softmax")


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("loss", ["log_loss", "softmax_cross_entropy", "bce_with_logits"])
def test_probabilities_fit_to_each_other(classes, loss):
    x, y = blobs(classes)
    if loss == "bce_with_logits" and classes > 2:
        pytest.skip("not for more than two classes")
    model = BackpropClassifier(**FAST, loss=loss, max_iter=5).fit(x, y)
    p, log_p, z = model.predict_proba(x), model.predict_log_proba(x), model.decision_function(x)
    assert p.shape == log_p.shape == (len(x), classes)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(log_p), p)
    np.testing.assert_array_equal(model.predict(x), model.classes_[p.argmax(axis=1)])
    if classes == 2:
        np.testing.assert_allclose(log_p[:, 1] - log_p[:, 0], z, atol=1e-12)
        np.testing.assert_array_equal(model.predict(x), model.classes_[(z > 0).astype(int)])
    if classes > 2:
        np.testing.assert_allclose(z - z[:, :1], log_p - log_p[:, :1], atol=1e-12)


@pytest.mark.parametrize("loss", ["log_loss", "softmax_cross_entropy"])
def test_logarithms_of_probabilities_that_are_too_small(loss):
    x, y = blobs(2)
    model = BackpropClassifier(**FAST, loss=loss).fit(x, y)
    far = x[:2] * 1e4
    assert model.predict_proba(far).min() == 0
    least = model.predict_log_proba(far).min()
    assert np.isfinite(least) and least < -1000


def test_two_classes_by_softmax_or_sigmoid_agree():
    x, y = blobs(2)
    one, two = (BackpropClassifier(**FAST, loss=loss).fit(x, y) for loss in ("log_loss", SoftmaxCrossEntropy()))
    assert (one.n_outputs_, two.n_outputs_) == (1, 2)
    np.testing.assert_allclose(one.predict_proba(x), two.predict_proba(x), atol=0.05)


def test_losses_with_settings():
    x, y = blobs(3)
    smooth = BackpropClassifier(**FAST, loss=SoftmaxCrossEntropy(label_smoothing=0.3)).fit(x, y)
    sharp = BackpropClassifier(**FAST).fit(x, y)
    most = [model.predict_proba(x).max(axis=1).mean() for model in (smooth, sharp)]
    assert most[0] < 0.9 < most[1]
    x, y = blobs(2)
    eager = BackpropClassifier(**FAST, loss=BCEWithLogits(pos_weight=100.0), max_iter=3).fit(x, y)
    plain = BackpropClassifier(**FAST, max_iter=3).fit(x, y)
    assert eager.predict_proba(x)[:, 1].mean() > plain.predict_proba(x)[:, 1].mean()


def test_the_worked_example_of_scikit_learns_tests():
    """One sample, two hidden units, a step of SGD: the numbers of test_fit in their test_mlp.py, worked out by hand."""
    model = BackpropClassifier(
        2, "logistic", optimiser=SGD(), learning_rate_init=0.1, alpha=0.1, random_state=1, max_iter=1
    )
    X, y = np.array([[0.6, 0.8, 0.7]]), np.array([0])
    model.partial_fit(X, y, classes=[0, 1])
    net = model.net_
    net.weights[0].data[...] = np.array([[0.1, 0.2], [0.3, 0.1], [0.5, 0]]).T
    net.weights[1].data[...] = np.array([[0.1, 0.2]])
    net.biases[0].data[...], net.biases[1].data[...] = 0.1, 1.0
    model.partial_fit(X, y)
    np.testing.assert_allclose(
        model.coefs_[0], [[0.098, 0.195756], [0.2956664, 0.096008], [0.4939998, -0.002244]], atol=1.5e-3
    )
    np.testing.assert_allclose(model.coefs_[1], [[0.04706], [0.154089]], atol=1.5e-3)
    np.testing.assert_allclose(model.intercepts_[0], [0.098333, 0.09626], atol=1.5e-3)
    np.testing.assert_allclose(model.intercepts_[1], 0.9235, atol=1.5e-3)
    assert model.predict_proba(X)[0, 1] == pytest.approx(0.739, abs=1.5e-3)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("alpha", [0.0, 5.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_is_that_of_mlpclassifier(classes, alpha, weighted):
    """The same weights, and a step of SGD over all samples: the gradient, the mean and the penalty are theirs."""
    from sklearn.neural_network import MLPClassifier

    if weighted and not hasattr(MLPClassifier, "fit"):
        pytest.skip("younger scikit-learn")
    x, y = blobs(classes, n=30)
    random = np.random.default_rng(1)
    weight = {"sample_weight": random.integers(0, 4, len(x)).astype(float)} if weighted else {}
    options = {"hidden_layer_sizes": (5,), "activation": "tanh", "alpha": alpha, "learning_rate_init": 0.1}
    ours = BackpropClassifier(**options, optimiser="sgd", max_iter=1, random_state=0).partial_fit(
        x, y, classes=range(classes)
    )
    theirs = MLPClassifier(**options, solver="sgd", momentum=0.0, random_state=0)
    theirs.partial_fit(x, y, classes=range(classes))
    for k in range(2):
        ours.net_.weights[k].data[...] = theirs.coefs_[k].T
        ours.net_.biases[k].data[...] = theirs.intercepts_[k]
    try:
        theirs.partial_fit(x, y, **weight)
    except TypeError:
        pytest.skip("MLPClassifier takes sample_weight from scikit-learn 1.7 on")
    ours.partial_fit(x, y, **weight)
    for k in range(2):
        np.testing.assert_allclose(ours.coefs_[k], theirs.coefs_[k], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ours.intercepts_[k], theirs.intercepts_[k], rtol=1e-10, atol=1e-12)


class TestSeveralLabels:
    def data(self):
        from sklearn.datasets import make_multilabel_classification

        return make_multilabel_classification(n_samples=120, n_classes=4, n_features=10, random_state=0)

    def test_each_has_a_sigmoid(self):
        x, y = self.data()
        model = BackpropClassifier((50,), learning_rate_init=0.02, max_iter=400, random_state=0).fit(x, y)
        p, said = model.predict_proba(x), model.predict(x)
        assert p.shape == y.shape and model.classes_.tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(said, (p > 0.5).astype(int))
        np.testing.assert_allclose(np.exp(model.predict_log_proba(x)), p)
        np.testing.assert_array_equal(said, model.decision_function(x) > 0)
        assert model.score(x, y) > 0.9 and not np.allclose(p.sum(axis=1), 1)

    @pytest.mark.parametrize("form", ["floats", "truth", "lists", "sparse", "frame"])
    def test_in_any_form(self, form):
        import scipy.sparse
        from pandas import DataFrame

        x, y = self.data()
        given = {
            "floats": y.astype(float), "truth": y.astype(bool), "lists": y.tolist(),
            "sparse": scipy.sparse.csr_array(y), "frame": DataFrame(y),
        }[form]  # fmt: skip
        options = {"max_iter": 5, "random_state": 0}
        expected = BackpropClassifier(**options).fit(x, y).predict_proba(x)
        np.testing.assert_array_equal(BackpropClassifier(**options).fit(x, given).predict_proba(x), expected)

    def test_in_parts_and_held_out(self):
        x, y = self.data()
        model = BackpropClassifier(random_state=0)
        for _ in range(3):
            model.partial_fit(x, y, classes=range(4))
        assert model.predict(x[:5]).shape == (5, 4)
        assert BackpropClassifier(early_stopping=True, random_state=0).fit(x, y).validation_scores_

    def test_refuses_what_is_for_one_label(self):
        x, y = self.data()
        with pytest.raises(ValueError, match="class_weight is for one label a sample"):
            BackpropClassifier(class_weight="balanced").fit(x, y)
        with pytest.raises(ValueError, match="softmax_cross_entropy is not for several labels a sample"):
            BackpropClassifier(loss="softmax_cross_entropy").fit(x, y)


class TestClassWeight:
    def data(self):
        random = np.random.default_rng(0)
        y = (np.arange(300) % 10 == 0).astype(int)
        return random.normal(size=(300, 2)) + y[:, None], np.array(["many", "few"])[y]

    def test_balanced_finds_more_of_the_few(self):
        x, y = self.data()
        found = {
            weight: (BackpropClassifier(**FAST, class_weight=weight).fit(x, y).predict(x) == "few").mean()
            for weight in (None, "balanced")
        }
        assert found["balanced"] > 2 * found[None]

    @pytest.mark.parametrize("weight", ["balanced", {"few": 9.0}, {"few": 9, "many": 0.5}])
    def test_is_a_weight_of_samples(self, weight):
        from sklearn.utils.class_weight import compute_sample_weight

        x, y = self.data()
        options = FAST | {"max_iter": 5}
        by_class = BackpropClassifier(**options, class_weight=weight).fit(x, y)
        by_sample = BackpropClassifier(**options).fit(x, y, sample_weight=compute_sample_weight(weight, y))
        np.testing.assert_allclose(by_class.predict_proba(x), by_sample.predict_proba(x))

    def test_in_parts(self):
        x, y = self.data()
        model = BackpropClassifier(class_weight="balanced")
        with pytest.raises(ValueError, match="class_weight='balanced' is not supported by partial_fit"):
            model.partial_fit(x, y, classes=["few", "many"])
        BackpropClassifier(class_weight={"few": 2}).partial_fit(x[y == "many"], y[y == "many"], classes=["few", "many"])


class TestPartialFit:
    def test_is_fit_in_parts(self):
        x, y = blobs()
        model = BackpropClassifier(**FAST)
        for epoch in range(1, 61):
            model.partial_fit(x, y, classes=[0, 1, 2])
            assert (model.n_iter_, model.t_, len(model.loss_curve_)) == (1, 90 * epoch, epoch)
        assert model.score(x, y) == 1 and model.loss_curve_[-1] < model.loss_curve_[0] / 2

    def test_each_call_takes_another_order(self):
        """A mini-batch a class, in an order that would be the same in every call of one seed."""
        x, y = blobs(n=30)
        models = [BackpropClassifier(random_state=0, batch_size=4) for _ in range(2)]
        orders = []
        for _ in range(3):
            for model in models:
                model.partial_fit(x, y, classes=[0, 1, 2])
            np.testing.assert_array_equal(models[0].coefs_[0], models[1].coefs_[0])
            orders.append(models[0]._random.randint(1 << 30))
            models[1]._random.randint(1 << 30)
        assert len(set(orders)) == 3

    def test_classes_that_come_later(self):
        x, y = blobs()
        model = BackpropClassifier(**FAST)
        model.partial_fit(x[y < 2], y[y < 2], classes=[2, 0, 1])
        assert model.classes_.tolist() == [0, 1, 2] and model.predict_proba(x).shape == (90, 3)
        model.partial_fit(x[y == 2], y[y == 2])

    def test_goes_on_after_fit_with_its_optimiser(self):
        x, y = blobs()
        model = BackpropClassifier(**FAST, max_iter=5).fit(x, y)
        steps = model._optimiser.count
        model.partial_fit(x, y)
        assert model._optimiser.count == steps + 1 and len(model.loss_curve_) == 6
        model.set_params(learning_rate_init=0.5).partial_fit(x, y)
        assert model._optimiser.lr == 0.5

    def test_a_schedule_goes_on(self):
        x, y = blobs()
        seen = []
        model = BackpropClassifier(schedule=lambda step: seen.append(step) or 1.0)
        for _ in range(3):
            model.partial_fit(x, y, classes=[0, 1, 2])
        assert seen == [0, 1, 2]

    def test_refuses(self):
        x, y = blobs()
        with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
            BackpropClassifier().partial_fit(x, y)
        with pytest.raises(ValueError, match=r"none of the classes \[2\]: \[0, 1\]"):
            BackpropClassifier().partial_fit(x, y, classes=[2])
        with pytest.raises(ValueError, match="early_stopping"):
            BackpropClassifier(early_stopping=True).partial_fit(x, y, classes=[0, 1, 2])
        with pytest.raises(ValueError, match=r"give schedule=Cosine\(steps\)"):
            BackpropClassifier(schedule="cosine").partial_fit(x, y, classes=[0, 1, 2])
        model = BackpropClassifier().partial_fit(x, y, classes=[0, 1, 2])
        with pytest.raises(ValueError, match=r"classes=\[0, 1\] are not those of the calls before, \[0, 1, 2\]"):
            model.partial_fit(x, y, classes=[0, 1])
        with pytest.raises(ValueError, match=r"labels that are none of the classes \[0, 1, 2\]: \[3\]"):
            model.partial_fit(x, y + 1)
        with pytest.raises(ValueError, match="features"):
            model.partial_fit(x[:, :2], y)
        assert len(model.loss_curve_) == 1


def test_warm_start_wants_the_same_classes():
    x, y = blobs()
    model = BackpropClassifier(**FAST, warm_start=True, max_iter=3).fit(x, y)
    with pytest.raises(ValueError, match=r"Previously got \[0 1 2\], `y` has \[0 1\]"):
        model.fit(x[y < 2], y[y < 2])
    assert len(model.fit(x, y).loss_curve_) == 6


@pytest.mark.parametrize(
    "y",
    [
        np.array(["2020-01-01", "2020-01-02"], "M8[D]"),
        np.array([1, 2], "m8[s]"),
        np.array([Decimal(1), Decimal("2.5")], object),
        np.array([10**30, 1], object),
        [True, False],
        ["", "a"],
    ],
)
def test_unusual_labels_come_back_as_they_are(y):
    x, codes = blobs(2)
    y = [y[k] for k in codes] if isinstance(y, list) else y[codes]
    model = BackpropClassifier(**FAST).fit(x, y)
    assert list(model.predict(x)) == list(y) and model.score(x, y) == 1.0


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "string", "category", "datetime64[ns]", "period"])
def test_columns_of_pandas_keep_their_kind(dtype):
    pandas = pytest.importorskip("pandas")
    x, codes = blobs(2)
    values = {"Int64": [3, 7], "boolean": [True, False], "datetime64[ns]": pandas.to_datetime(["2020", "2021"])}
    if dtype == "period":
        series = pandas.Series(pandas.period_range("2020", periods=2, freq="D"))
    else:
        series = pandas.Series(values.get(dtype, ["x", "y"]), dtype=dtype)
    y = series.iloc[codes].reset_index(drop=True)
    model = BackpropClassifier(**FAST).fit(x, y)
    said = pandas.Series(model.predict(x))
    assert model.score(x, y) == 1.0 and (said == y.astype(said.dtype)).all()
    assert said.dtype.kind == {"Int64": "i", "boolean": "b", "datetime64[ns]": "M"}.get(dtype, said.dtype.kind)


@pytest.mark.parametrize("y", [["a", None], ["a", float("nan")], [1, "a"]])
def test_lists_of_texts_and_others_are_refused(y):
    with pytest.raises((ValueError, TypeError), match=r"y must|NaN"):
        BackpropClassifier().fit([[1.0], [2.0]], y)


@pytest.mark.parametrize("dtype", ["string", "Int64", "boolean", "category"])
def test_columns_of_pandas_without_a_value_are_refused(dtype):
    pandas = pytest.importorskip("pandas")
    values = {"Int64": [1, None, 2], "boolean": [True, None, False]}.get(dtype, ["a", None, "b"])
    with pytest.raises(ValueError, match="Input y contains NaN, or nothing: the first is sample 1"):
        BackpropClassifier().fit([[1.0], [2.0], [3.0]], pandas.Series(values, dtype=dtype))


def test_masked_arrays_are_refused():
    x, y = blobs(2)
    with pytest.raises(TypeError, match="X is a masked array"):
        BackpropClassifier().fit(np.ma.masked_array(x, x > 0), y)
    with pytest.raises(TypeError, match="y is a masked array"):
        BackpropClassifier().fit(x, np.ma.masked_array(y, y > 0))


def test_the_score_is_scikit_learns():
    from sklearn.metrics import accuracy_score

    x, y = blobs(3)
    weight = np.random.default_rng(0).random(len(y))
    model = BackpropClassifier(max_iter=1, random_state=0).fit(x, y)
    assert model.score(x, y) == accuracy_score(y, model.predict(x))
    assert model.score(x, y, sample_weight=weight) == pytest.approx(
        accuracy_score(y, model.predict(x), sample_weight=weight)
    )
    with pytest.raises(ValueError, match="sample_weight"):
        model.score(x, y, sample_weight=-weight)


def test_columns_of_labels_are_refused():
    x, _ = blobs(n=4)
    with pytest.raises(ValueError, match=r"sklearn\.multioutput\.MultiOutputClassifier"):
        BackpropClassifier().fit(x, [["a", "b"], ["b", "a"], ["a", "a"], ["c", "b"]])

"""Estimators with CuPy's arrays: they stay on the device, and so do the answers."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from tables import blobs, line

from backprop_xp.sklearn import BackpropClassifier, BackpropRegressor

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

SHORT = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}


@pytest.mark.parametrize("classes", [2, 3])
def test_classifier_in_and_out(cupy, classes):
    x, y = blobs(classes, n=40)
    names = np.array([5, -1, 2])[y]
    host = BackpropClassifier(**SHORT, backend="numpy").fit(x, names)
    model = BackpropClassifier(**SHORT).fit(cupy.asarray(x), cupy.asarray(names))
    assert model.net_.backend.name == "cupy"
    np.testing.assert_allclose(model.coefs_[0], host.coefs_[0], rtol=1e-9)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        mine, theirs = getattr(model, method)(cupy.asarray(x)), getattr(host, method)(x)
        assert type(mine) is cupy.ndarray and mine.shape == theirs.shape and mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine.get(), theirs, rtol=1e-7, atol=1e-9)
    assert model.score(cupy.asarray(x), cupy.asarray(names)) == host.score(x, names)
    # arrays of the host go to the device and come back
    said = model.predict(x)
    assert type(said) is np.ndarray
    np.testing.assert_array_equal(said, host.predict(x))


def test_texts_as_labels(cupy):
    x, y = blobs(n=40)
    names = np.array(["a", "b", "c"])[y]
    model = BackpropClassifier(**SHORT).fit(cupy.asarray(x), names)
    said = model.predict(cupy.asarray(x))
    assert type(said) is np.ndarray and set(said) <= set("abc")


@pytest.mark.parametrize("outputs", [0, 2])
def test_regressor_in_and_out(cupy, outputs):
    x, y = line(n=40, outputs=outputs)
    host = BackpropRegressor(**SHORT, backend="numpy").fit(x, y)
    model = BackpropRegressor(**SHORT).fit(cupy.asarray(x), cupy.asarray(y))
    said = model.predict(cupy.asarray(x))
    assert type(said) is cupy.ndarray
    np.testing.assert_allclose(said.get(), host.predict(x), rtol=1e-7, atol=1e-9)
    assert model.score(cupy.asarray(x), cupy.asarray(y)) == pytest.approx(host.score(x, y))


def test_labels_weights_and_held_out_rows(cupy):
    x, y = blobs(n=40)
    weight = np.arange(40.0)
    options = SHORT | {"early_stopping": True, "class_weight": "balanced"}
    host = BackpropClassifier(**options, backend="numpy").fit(x, y, sample_weight=weight)
    model = BackpropClassifier(**options).fit(cupy.asarray(x), cupy.asarray(y), sample_weight=cupy.asarray(weight))
    np.testing.assert_allclose(model.coefs_[0], host.coefs_[0], rtol=1e-9)
    assert model.validation_scores_ == pytest.approx(host.validation_scores_)
    several = np.stack([y == 0, y > 0], axis=1).astype(int)
    said = BackpropClassifier(**SHORT).fit(cupy.asarray(x), cupy.asarray(several)).predict(cupy.asarray(x))
    assert type(said) is cupy.ndarray and said.shape == (40, 2)


def test_in_parts_and_pickled(cupy):
    x, y = blobs(n=40)
    on_device = cupy.asarray(x)
    model = BackpropClassifier(**SHORT).partial_fit(on_device, y, classes=[0, 1, 2])
    again = pickle.loads(pickle.dumps(model))
    for each in (model, again):
        each.partial_fit(on_device, y)
    np.testing.assert_array_equal(again.coefs_[0], model.coefs_[0])


def test_a_backend_by_name_and_sparse_rows(cupy):
    x, y = blobs(n=40)
    sparse = scipy.sparse.csr_array(np.where(np.abs(x) > 1, x, 0))
    found = [
        BackpropClassifier(**SHORT, backend=backend, batch_size=16).fit(sparse, y).predict_proba(sparse)
        for backend in ("numpy", "cupy")
    ]
    assert type(found[1]) is np.ndarray
    np.testing.assert_allclose(found[0], found[1], rtol=1e-7)


def test_refuses(cupy):
    x, y = blobs(n=40)
    on_device = cupy.asarray(x)
    model = BackpropClassifier(**SHORT).fit(on_device, y)
    with pytest.raises(ValueError, match="4 features"):
        model.predict(on_device[:, :2])
    with pytest.raises(ValueError, match=r"X must be \(n, features\) real numbers, at least one row; got float64\[4\]"):
        model.predict(on_device[0])
    with pytest.raises(ValueError, match="at least one row"):
        model.predict(on_device[:0])
    with pytest.raises(ValueError, match="Input X contains NaN or infinity"):
        model.predict(on_device * np.nan)
    with pytest.raises(TypeError, match="on a CUDA device and this net computes on the host"):
        BackpropClassifier(**SHORT, backend="numpy").fit(on_device, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        BackpropClassifier(**SHORT).fit(on_device, y[:-1])


def test_scikit_learn_dispatches_to_them(cupy):
    """Its own check of estimators with CuPy's arrays; that is switched on before SciPy is imported."""
    program = """
import warnings
warnings.simplefilter("ignore")
from sklearn.utils.estimator_checks import check_array_api_input
from backprop_xp.sklearn import BackpropClassifier, BackpropRegressor
for estimator in (BackpropClassifier(max_iter=3), BackpropRegressor(max_iter=3)):
    check_array_api_input(type(estimator).__name__, estimator, "cupy")
    print("passed")
"""
    environment = os.environ | {"SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["passed", "passed"], done.stderr


def test_dropout_and_normalisation():
    x, y = blobs()
    model = BackpropClassifier((4,), max_iter=1, dropout=0.2, normalisation="layer", random_state=0, backend="cupy")
    model.fit(x, y).partial_fit(x, y)
    assert model.net_.backend.name == "cupy" and model.predict_proba(x).shape == (len(y), 3)
    assert all(isinstance(array, np.ndarray) for array in (*model.coefs_, *model.intercepts_))

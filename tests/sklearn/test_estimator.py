"""What both estimators have in common: what they take, what they keep, and what they leave alone."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import scipy.sparse
import sklearn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tables import blobs, line

from backprop_xp import Net, Softplus
from backprop_xp.sklearn import BackpropClassifier, BackpropRegressor, arrays
from backprop_xp.toolchain import cache
from backprop_xp.training import SGD, Adam

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = (BackpropClassifier, BackpropRegressor)
SHORT = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}


def data(kind, **options):
    return blobs(**options) if kind is BackpropClassifier else line(**options)


def outputs(model, x):
    return model.decision_function(x) if isinstance(model, BackpropClassifier) else model.predict(x)


@pytest.mark.parametrize("kind", KINDS)
class TestBoth:
    def test_says_what_it_is_after_fit(self, kind):
        x, y = data(kind)
        model = kind((8, 5), random_state=0, max_iter=4)
        for name in ("coefs_", "intercepts_", "classes_", "out_activation_", "n_outputs_"):
            assert not hasattr(model, name)
        with pytest.raises(NotFittedError):
            model.predict(x)
        assert model.fit(x, y) is model
        assert isinstance(model.net_, Net) and model.n_layers_ == 4 and model.n_iter_ == 4
        assert model.t_ == 4 * len(x) and model.n_features_in_ == x.shape[1]
        assert [w.shape for w in model.coefs_] == [(x.shape[1], 8), (8, 5), (5, model.n_outputs_)]
        assert [b.shape for b in model.intercepts_] == [(8,), (5,), (model.n_outputs_,)]
        assert model.loss_ == model.loss_curve_[-1] and model.best_loss_ == min(model.loss_curve_)
        assert model.validation_scores_ is None and model.best_validation_score_ is None

    def test_a_seed_gives_the_same_bits_for_any_number_of_threads(self, kind):
        x, y = data(kind, n=700)
        found = [outputs(kind(**SHORT, threads=threads).fit(x, y), x) for threads in (1, 2, 5)]
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])
        assert not np.array_equal(outputs(kind(**SHORT | {"random_state": 1}).fit(x, y), x), found[0])
        state = np.random.RandomState(0)
        np.testing.assert_array_equal(outputs(kind(**SHORT | {"random_state": state}).fit(x, y), x), found[0])

    def test_without_a_seed_it_draws_from_numpys(self, kind):
        x, y = data(kind)
        options = SHORT | {"random_state": None}
        found = []
        for seed in (5, 5, 6):
            np.random.seed(seed)  # noqa: NPY002
            found.append(outputs(kind(**options).fit(x, y), x))
        np.testing.assert_array_equal(found[0], found[1])
        assert not np.array_equal(found[0], found[2])

    def test_fit_forgets_and_warm_start_goes_on(self, kind):
        x, y = data(kind)
        once = kind(**SHORT).fit(x, y)
        twice = kind(**SHORT).fit(x, y).fit(x, y)
        np.testing.assert_array_equal(outputs(once, x), outputs(twice, x))
        warm = kind(**SHORT, warm_start=True).fit(x, y)
        net = warm.net_
        warm.fit(x, y)
        assert warm.net_ is net and warm.n_iter_ == 5 and len(warm.loss_curve_) == 10
        assert warm.loss_ < once.loss_

    def test_warm_start_keeps_to_its_net(self, kind):
        x, y = data(kind)
        warm = kind(**SHORT, warm_start=True, bias=True).fit(x, y)
        for parameter, value, what in (
            ("hidden_layer_sizes", (9,), "layers"), ("bias", False, "bias"), ("dtype", "float32", "dtype"),
        ):  # fmt: skip
            changed = copy.deepcopy(warm).set_params(**{parameter: value})
            with pytest.raises(ValueError, match=f"goes on with the net that it has, whose {what}"):
                changed.fit(x, y)
        warm.set_params(activation="tanh", max_iter=2).fit(x, y)
        assert warm.net_.activations[0].name == "tanh"

    def test_a_failed_fit_leaves_everything_as_it_was(self, kind):
        x, y = data(kind)
        model = kind(**SHORT).fit(x, y)
        before, said = dict(vars(model)), outputs(model, x)
        for wrong in (
            lambda: model.fit(x[:, :2], y[:-1]),
            lambda: model.fit(x[:, :2], np.full(len(y), np.nan)),
            lambda: model.fit(np.full((len(x), 2), 1e308), y),
            lambda: model.fit(x[:, :2], y, sample_weight=[1, 2]),
            lambda: clone(model).fit(x, None),
            lambda: model.partial_fit(x[:, :2], y),
        ):
            with pytest.raises(ValueError):
                wrong()
            assert vars(model) == before
        np.testing.assert_array_equal(outputs(model, x), said)

    @pytest.mark.parametrize("how", ["partial_fit", "fit"])
    def test_so_does_a_failure_of_what_goes_on(self, kind, how):
        """In the middle of a run, after steps that changed the net and the state of its optimiser."""
        x, y = data(kind)
        model, other = (kind(**SHORT, warm_start=True, batch_size=10).fit(x, y) for _ in range(2))
        said = outputs(model, x)
        steps = iter(range(10**9))
        wrong = lambda step: 1e300 if next(steps) > 3 else 1.0  # noqa: E731
        model.set_params(schedule=wrong, activation="tanh", learning_rate_init=0.01)
        with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
            getattr(model, how)(x, y)
        assert next(steps) > 4 and model._optimiser.count == other._optimiser.count
        np.testing.assert_array_equal(outputs(model, x), said)
        model.set_params(schedule=None, activation="relu", learning_rate_init=None)
        for each in (model, other):
            each._random = np.random.RandomState(0)
            each.partial_fit(x, y)
        np.testing.assert_array_equal(outputs(model, x), outputs(other, x))

    def test_parameters_stay_as_they_are(self, kind):
        x, y = data(kind)
        given = {"activation": Softplus(beta=2.0), "optimiser": Adam(lr=0.1)}
        model = kind(**SHORT, **given).fit(x, y)
        assert all(getattr(model, name) is value for name, value in given.items())
        assert given["optimiser"].count == 0 and not given["optimiser"].state
        assert model.net_.activations[0] is not given["activation"]
        same = clone(model)
        assert repr(same.get_params()) == repr(model.get_params())
        np.testing.assert_array_equal(outputs(same.fit(x, y), x), outputs(model, x))

    def test_the_learning_rate(self, kind):
        x, y = data(kind)
        assert kind(**SHORT).fit(x, y)._optimiser.lr == 0.001
        assert kind(**SHORT, optimiser="rmsprop").fit(x, y)._optimiser.lr == 0.01
        assert kind(**SHORT, optimiser=SGD(lr=0.2)).fit(x, y)._optimiser.lr == 0.2
        assert kind(**SHORT, optimiser=SGD(lr=0.2), learning_rate_init=0.3).fit(x, y)._optimiser.lr == 0.3

    def test_options_of_the_net(self, kind):
        x, y = data(kind)
        model = kind(
            (8, 4), ("gelu", "tanh"), bias=False, init="he_normal", dtype="float32", threads=1, backend="numpy",
            random_state=0, max_iter=2,
        ).fit(x, y)  # fmt: skip
        net = model.net_
        assert [f.name for f in net.activations] == ["gelu", "tanh", "identity"]
        assert (net.dtype, net.threads, net.reduction, net.biases) == (np.float32, 1, "mean", [])
        assert model.intercepts_ == [] and outputs(model, x).dtype == np.float32
        drawn = kind((8,), init=lambda rng, shape: np.zeros(shape), max_iter=1, learning_rate_init=1e-30).fit(x, y)
        assert not drawn.coefs_[0].any() and drawn.intercepts_[0].all()

    def test_biases_are_drawn_within_mlpclassifiers_bounds(self, kind):
        x, y = data(kind)
        drawn = kind((400,), max_iter=1, learning_rate_init=1e-30, random_state=0).fit(x, y).intercepts_[0]
        bound = np.sqrt(6 / (x.shape[1] + 400))
        assert 0.95 * bound < drawn.max() <= bound and -bound <= drawn.min() < -0.95 * bound

    def test_dtype_follows_x(self, kind):
        x, y = data(kind)
        assert kind(**SHORT).fit(x, y).net_.dtype == np.float64
        assert kind(**SHORT).fit(x.astype(np.float32), y).net_.dtype == np.float32
        single, double = (kind(**SHORT).fit(x.astype(dtype), y) for dtype in (np.float32, np.float64))
        np.testing.assert_allclose(outputs(single, x), outputs(double, x), rtol=1e-4, atol=1e-5)
        assert kind(**SHORT).fit(x.astype(np.float16), y).net_.dtype == np.float64
        assert kind(**SHORT).fit((10 * x).astype(int), y).net_.dtype == np.float64

    def test_weights_of_samples_are_samples_more_often(self, kind):
        x, y = data(kind, n=40)
        weight = np.random.default_rng(0).integers(0, 4, len(x))
        often = np.repeat(np.arange(len(x)), weight)
        by_weight = kind(**SHORT, alpha=1.0).fit(x, y, sample_weight=weight)
        by_rows = kind(**SHORT, alpha=1.0).fit(x[often], y[often])
        np.testing.assert_allclose(outputs(by_weight, x), outputs(by_rows, x), rtol=1e-7, atol=1e-9)
        held = kind(**SHORT, early_stopping=True).fit(x, y, sample_weight=weight)
        assert np.isfinite(held.validation_scores_).all()
        assert held.score(x, y, sample_weight=weight) == pytest.approx(held.score(x[often], y[often]))

    @pytest.mark.parametrize("form", ["csr_array", "csr_matrix", "csc_array", "coo_array"])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
    def test_sparse_is_dense(self, kind, form, dtype, monkeypatch):
        x, y = data(kind, n=50)
        x = np.where(np.abs(x) > 0.5, np.round(x), 0).astype(dtype)
        sparse = getattr(scipy.sparse, form)(x)
        monkeypatch.setattr(arrays, "NUMBERS_AT_ONCE", 20)  # predictions in pieces of some rows
        for options in ({}, {"batch_size": 8}, {"early_stopping": True}, {"shuffle": False}):
            dense, model = kind(**SHORT, **options).fit(x, y), kind(**SHORT, **options).fit(sparse, y)
            np.testing.assert_array_equal(model.coefs_[0], dense.coefs_[0])
            np.testing.assert_allclose(outputs(model, sparse), outputs(dense, x), rtol=1e-5, atol=1e-6)
        assert model.score(sparse, y) == pytest.approx(model.score(x, y))
        kind(**SHORT).fit(x, y).partial_fit(sparse, y)

    def test_sparse_is_never_dense_as_a_whole(self, kind, monkeypatch):
        wide = scipy.sparse.random_array((300, 200_000), density=1e-4, format="csr", rng=np.random.default_rng(0))
        y = np.arange(300) % 2
        most = []
        toarray = scipy.sparse.csr_array.toarray

        def watched(self, *arguments, **options):
            most.append(self.shape[0])
            return toarray(self, *arguments, **options)

        monkeypatch.setattr(scipy.sparse.csr_array, "toarray", watched)
        model = kind((2,), max_iter=1, batch_size=50, dtype="float32").fit(wide, y)
        assert model.predict(wide).shape == (300,) and most and max(most) <= 50

    def test_many_rows_are_predicted_in_pieces(self, kind, monkeypatch):
        x, y = data(kind)
        model = kind(**SHORT).fit(x, y)
        whole = outputs(model, x)
        monkeypatch.setattr(arrays, "ROWS_AT_ONCE", 7)
        np.testing.assert_allclose(outputs(model, x), whole, rtol=1e-10)

    @pytest.mark.parametrize("library", ["pandas", "polars"])
    def test_frames(self, kind, library):
        frames = pytest.importorskip(library)
        if library == "polars" and sklearn.__version__ < "1.8" and not hasattr(frames.DataFrame, "__dataframe__"):
            pytest.skip("this scikit-learn asks frames of polars for what they no longer have")
        x, y = data(kind)
        names = [f"column {i}" for i in range(x.shape[1])]
        frame, column = frames.DataFrame(dict(zip(names, x.T))), frames.Series(y)
        model = kind(**SHORT).fit(frame, column)
        assert model.feature_names_in_.tolist() == names
        np.testing.assert_allclose(outputs(model, frame), outputs(kind(**SHORT).fit(x, y), x))
        assert model.score(frame, column) == pytest.approx(model.score(frame, y))
        with pytest.raises(ValueError, match="feature names"):
            model.predict(
                frame.rename({names[0]: "other"}) if library == "polars" else frame.rename(columns={names[0]: "b"})
            )
        scaler = StandardScaler().set_output(transform=library)
        pipeline = make_pipeline(scaler, kind(**SHORT)).fit(frame, column)
        assert pipeline[-1].feature_names_in_.tolist() == names and pipeline.predict(frame).shape == y.shape

    @pytest.mark.parametrize("how", ["pickle", "joblib", "deepcopy"])
    def test_pickles(self, kind, how):
        x, y = data(kind)
        model = kind(**SHORT, optimiser=Adam(), schedule="constant").fit(x, y)
        file = io.BytesIO()
        if how == "joblib":
            joblib.dump(model, file)
            again = joblib.load(io.BytesIO(file.getvalue()))
        else:
            again = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(outputs(again, x), outputs(model, x))
        for each in (again, model):
            each.partial_fit(x, y)
        np.testing.assert_array_equal(outputs(again, x), outputs(model, x))
        assert pickle.loads(pickle.dumps(kind(**SHORT))).get_params() == kind(**SHORT).get_params()

    def test_its_net_goes_to_a_file(self, kind, tmp_path):
        pytest.importorskip("safetensors")
        x, y = data(kind)
        model = kind(**SHORT).fit(x, y)
        model.net_.save(tmp_path / "net.safetensors")
        z = Net.load(tmp_path / "net.safetensors")(x)
        np.testing.assert_array_equal(z[:, 0] if z.shape[1] == 1 else z, outputs(model, x))

    def test_several_threads_predict_at_once(self, kind):
        x, y = data(kind)
        model = kind(**SHORT).fit(x, y)
        said = outputs(model, x)
        with ThreadPoolExecutor(4) as pool:
            for each in pool.map(lambda _: outputs(model, x), range(40)):
                np.testing.assert_array_equal(each, said)

    def test_a_pickle_holds_no_gradients(self, kind):
        x, y = data(kind)
        model = kind((200, 200), max_iter=2).fit(x, y)
        numbers = sum(tensor.data.size for tensor in model.net_.parameters)
        assert len(pickle.dumps(model)) < 8 * numbers * 3.2  # parameters, and two states of Adam's

    def test_in_processes_and_threads(self, kind):
        x, y = data(kind)
        alone = cross_val_score(kind(**SHORT), x, y, cv=3)
        for backend in ("loky", "threading"):
            with joblib.parallel_config(backend):
                np.testing.assert_array_equal(cross_val_score(kind(**SHORT), x, y, cv=3, n_jobs=2), alone)

    def test_metadata_is_routed(self, kind):
        x, y = data(kind)
        weight = np.where(np.arange(len(x)) < 30, 0.0, 1.0)
        with sklearn.config_context(enable_metadata_routing=True):
            model = kind(**SHORT).set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
            search = GridSearchCV(model, {"alpha": [1e-4]}, cv=2).fit(x, y, sample_weight=weight)
        expected = kind(**SHORT).fit(x, y, sample_weight=weight)
        np.testing.assert_array_equal(outputs(search.best_estimator_, x), outputs(expected, x))
        requests = kind().get_metadata_routing()
        wanted = {"sample_weight", "classes"} if kind is BackpropClassifier else {"sample_weight"}
        assert set(requests.partial_fit.requests) == wanted

    def test_a_search_over_widths_compiles_nothing(self, kind, monkeypatch):
        x, y = data(kind, n=120)
        kind((3,), max_iter=2, early_stopping=True).fit(x, y).predict(x)  # what every net needs
        compiled = []
        monkeypatch.setattr(cache, "_load", lambda source, what: compiled.append(what) or 1 / 0)
        grid = {"hidden_layer_sizes": [(1,), (2,), (7,), (50,), (7, 3), (20, 20, 20)], "batch_size": ["auto", 1, 33]}
        search = GridSearchCV(kind(max_iter=2, random_state=0), grid, cv=2, error_score="raise").fit(x, y)
        assert not compiled and len(search.cv_results_["params"]) == 18
        for rows in (1, 2, 100):
            search.predict(x[:rows])
        x, y = data(kind, n=5000)
        for weight in (None, np.ones(5000)):
            kind((4,), max_iter=2, batch_size=4096).fit(x, y, sample_weight=weight)
        kind((4,), max_iter=1).fit(x, y).predict(np.tile(x, (30, 1)))
        assert not compiled

    def test_outputs_beyond_all_numbers_are_refused(self, kind):
        x, y = data(kind)
        model = kind(**SHORT).fit(x, y)
        far = x.copy()
        far[7] = 1.7e308
        with pytest.raises(ValueError, match=r"the outputs for row 7 of X aren't finite"):
            model.predict(far)

    def test_plain_arrays_are_checked_quickly_and_as_strictly(self, kind, monkeypatch):
        x, y = data(kind)
        model, named = kind(**SHORT).fit(x, y), kind(**SHORT).fit(x, y)
        named.feature_names_in_ = np.array([f"f{i}" for i in range(x.shape[1])], object)
        called = []
        checks = arrays.validate_data
        monkeypatch.setattr(arrays, "validate_data", lambda *a, **k: called.append(1) or checks(*a, **k))
        for good in (x, x[:1], x.astype(np.float32), np.asfortranarray(x), x[::2]):
            np.testing.assert_allclose(outputs(model, good), outputs(model, good.tolist()), rtol=1e-5, atol=1e-6)
            assert len(called) == 1 and not called.clear()  # of the list
        for other in (x.astype(int), x.astype(object), x.astype(np.float16), np.full(x.shape, 9e306)):
            outputs(model, other)
            assert called.pop()
        with pytest.warns(UserWarning, match="X does not have valid feature names"):
            outputs(named, x)
        for wrong in (x[0], x[:0], x[:, :1], x[None], x * np.nan, x.astype(complex)):
            with pytest.raises(ValueError):
                outputs(model, wrong)

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
    def test_numbers_that_are_none_are_refused(self, kind, wrong):
        x, y = data(kind)
        model = kind(**SHORT).fit(x, y)
        x[3, 1] = wrong
        for call in (lambda: model.predict(x), lambda: kind(**SHORT).fit(x, y)):
            with pytest.raises(ValueError, match="Input X contains"):
                call()

    def test_as_few_samples_as_there_may_be(self, kind):
        y = ["a"] if kind is BackpropClassifier else [1.5]
        model = kind(**SHORT).fit([[1.0, 2.0]], y)
        assert model.predict([[1.0, 2.0]]).shape == (1,)

    def test_without_hidden_layers(self, kind):
        x, y = data(kind)
        model = kind((), learning_rate_init=0.1, random_state=0).fit(x, y)
        assert model.n_layers_ == 2 and model.score(x, y) > 0.95


def test_memory_maps(tmp_path):
    x, y = blobs(n=300)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    model = BackpropClassifier(**SHORT).fit(mapped, y)
    np.testing.assert_array_equal(model.predict(mapped), BackpropClassifier(**SHORT).fit(x, y).predict(x))


def test_pytorchs_tensors_are_taken_as_arrays():
    torch = pytest.importorskip("torch")
    x, y = blobs()
    model = BackpropClassifier(**SHORT).fit(torch.from_numpy(x), torch.from_numpy(y))
    said = model.predict(torch.from_numpy(x))
    assert type(said) is np.ndarray
    np.testing.assert_array_equal(said, BackpropClassifier(**SHORT).fit(x, y).predict(x))


def test_scikit_learn_that_is_too_old_is_named(monkeypatch):
    import importlib
    import sys

    import sklearn.utils.validation

    monkeypatch.delattr(sklearn.utils.validation, "validate_data")
    monkeypatch.delitem(sys.modules, "backprop_xp.sklearn")
    with pytest.raises(ImportError, match=r"needs scikit-learn 1\.6 or newer .*pip install 'backprop-xp\[sklearn\]'"):
        importlib.import_module("backprop_xp.sklearn")


@pytest.mark.parametrize("alpha", [0.0001, 1.0])
def test_lbfgs_comes_where_theirs_does(alpha):
    """Of a linear model, whose minimum is one, with the penalty that is part of it."""
    x, y = data(BackpropRegressor, n=300)
    y = y + np.random.default_rng(0).normal(size=len(y))
    options = {"hidden_layer_sizes": (), "alpha": alpha, "random_state": 0}
    ours = BackpropRegressor(optimiser="lbfgs", tol=1e-12, **options).fit(x, y)
    theirs = MLPRegressor(solver="lbfgs", tol=1e-9, **options).fit(x, y)
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=1e-4)
    np.testing.assert_allclose(ours.intercepts_[0], theirs.intercepts_[0], rtol=1e-3, atol=1e-5)


def test_lbfgs_takes_all_samples_at_once():
    x, y = data(BackpropClassifier, n=700)
    model = BackpropClassifier((8,), optimiser="lbfgs", max_iter=3, tol=0, random_state=0).fit(x, y)
    assert model._optimiser.count == 3 and model.score(x, y) > 0.95

"""Weights of classes, an ignored index and smoothed labels: PyTorch's numbers in every engine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import Graph, Net, SoftmaxCrossEntropy, check
from backprop_xp.training.fit import evaluate

torch = pytest.importorskip("torch")
C = 5
WEIGHT = [0.5, 2.0, 0.0, 1.0, -0.3]


def identity(loss, engine="layered", dtype="float64", reduction="mean", **options):
    net = Net((C, C), ("identity",), loss, dtype=dtype, engine=engine, reduction=reduction, **options)
    net.weights[0].data = net.backend.asarray(np.eye(C), dtype, "eye")
    return net


def theirs(z, y, reduction, **settings):
    tz = torch.tensor(z, requires_grad=True)
    if "weight" in settings:
        settings["weight"] = torch.tensor(settings["weight"], dtype=tz.dtype)
    loss = torch.nn.functional.cross_entropy(tz, torch.tensor(y), reduction=reduction, **settings)
    loss.backward()
    return loss.item(), tz.grad.numpy()


def assert_pytorchs(z, y, engine="layered", dtype="float64", **settings):
    for reduction in ("sum", "mean"):
        got = identity(SoftmaxCrossEntropy(**settings), engine, dtype, reduction).loss_and_grad(z, y, input_grad=True)
        for a, b in zip(got, theirs(z, y, reduction, **settings), strict=True):
            np.testing.assert_allclose(a, b, rtol=100 * np.finfo(dtype).eps, atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("settings", [
    {"weight": WEIGHT}, {"ignore_index": 2}, {"ignore_index": -100}, {"label_smoothing": 0.1}, {"label_smoothing": 1.0},
    {"weight": WEIGHT, "ignore_index": 1}, {"weight": WEIGHT, "ignore_index": 255, "label_smoothing": 0.3},
], ids=str)  # fmt: skip
def test_class_indices(settings, dtype, engine, random):
    z, y = (3 * random.normal(size=(40, C))).astype(dtype), random.integers(0, C, 40)
    y[::6] = settings.get("ignore_index", y[0])
    assert_pytorchs(z, y, engine, dtype, **settings)


@pytest.mark.parametrize(
    "settings", [{"weight": WEIGHT}, {"label_smoothing": 0.2}, {"weight": WEIGHT, "label_smoothing": 0.2}]
)
def test_probabilities(settings, engine, random):
    z, y = 3 * random.normal(size=(40, C)), random.dirichlet(np.ones(C), 40)
    assert_pytorchs(z, y, engine, **settings)


@given(st.data())
def test_whatever_the_settings(data):
    n = data.draw(st.integers(1, 6))
    random = np.random.default_rng(data.draw(st.integers(0, 100)))
    settings = data.draw(st.fixed_dictionaries({}, optional={
        "weight": st.lists(st.floats(0.01, 10), min_size=C, max_size=C), "ignore_index": st.integers(-2, C + 1),
        "label_smoothing": st.floats(0, 1),
    }))  # fmt: skip
    y = random.integers(0, C, n)
    if "ignore_index" in settings:
        y[1::2] = settings["ignore_index"]
        y[0] = (settings["ignore_index"] + 1) % C
    assert_pytorchs(random.normal(size=(n, C)), y, **settings)


@pytest.mark.parametrize("settings", [
    {"weight": WEIGHT}, {"ignore_index": 2}, {"label_smoothing": 0.1}, {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.3},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_weights_of_samples_as_well(settings, reduction, engine, random):
    x, y, weight = random.normal(size=(30, 4)), random.integers(0, C, 30), random.uniform(0, 2, 30)
    net = Net((4, C), ("tanh",), SoftmaxCrossEntropy(**settings), reduction=reduction, engine=engine, rng=0)
    report = check.check_against_torch(net, x, y, weight)
    assert report.ok, report
    report = check.check_gradients(net, x, y, weight)
    assert report.ok, report
    # a sample of weight 2 is that sample twice
    twice = net.loss_and_grad(np.concatenate([x, x[:9]]), np.concatenate([y, y[:9]]))
    assert net.loss_and_grad(x, y, sample_weight=1.0 + (np.arange(30) < 9)) == pytest.approx(twice)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"weight": WEIGHT}], ids=str)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_batch_of_ignored_samples_adds_nothing(settings, reduction, engine, random):
    net = identity(SoftmaxCrossEntropy(ignore_index=-1, **settings), engine, reduction=reduction)
    for x, y in ((random.normal(size=(8, C)), np.full(8, -1)), (random.normal(size=C), np.array(-1))):
        loss, grad = net.loss_and_grad(x, y, input_grad=True)
        assert loss == 0
        assert not grad.any()
        assert not net.weights[0].grad.any()


def test_one_sample_is_a_batch_of_one(random):
    z = random.normal(size=C)
    for settings in ({"weight": WEIGHT}, {"label_smoothing": 0.1, "weight": WEIGHT}, {"ignore_index": 2}):
        for y in (np.array(1), np.array(2), random.dirichlet(np.ones(C))):
            if y.ndim and "ignore_index" in settings:
                continue
            net = identity(SoftmaxCrossEntropy(**settings))
            assert net.loss_and_grad(z, y) == pytest.approx(net.loss_and_grad(z[None], y[None]), nan_ok=True)


def test_graphs(engine, random):
    g = Graph()
    x = g.input(4)
    net = g.net(
        g.linear(x, C) + g.linear(x, C),
        loss=SoftmaxCrossEntropy(WEIGHT, 1, 0.1),
        reduction="mean",
        engine=engine,
        rng=0,
    )
    x, y = random.normal(size=(20, 4)), random.integers(0, C, 20)
    expected, _ = theirs(net(x), y, "mean", weight=WEIGHT, ignore_index=1, label_smoothing=0.1)
    assert net.loss_and_grad(x, y) == pytest.approx(expected)
    assert net.loss_and_grad(x[0], y[0]) == pytest.approx(net.loss_and_grad(x[:1], y[:1]))
    assert net.plan(x).engine == engine


def test_called_directly_and_evaluated(random):
    z, y = random.normal(size=(2000, C)), random.integers(0, C, 2000)
    loss = SoftmaxCrossEntropy(WEIGHT, 3, 0.2)
    settings = {"weight": WEIGHT, "ignore_index": 3, "label_smoothing": 0.2}
    expected, grad = theirs(z, y, "sum", **settings)
    assert loss(z, y) == pytest.approx(expected)
    np.testing.assert_allclose(loss.grad(z, y), grad, atol=1e-13)
    assert loss(z[0], y[0]) == pytest.approx(loss(z[:1], y[:1]))
    assert evaluate(identity(loss), z, y) == pytest.approx(theirs(z, y, "mean", **settings)[0])


def test_a_changed_setting_is_seen_by_the_next_call(random):
    z, y = random.normal(size=(8, C)), random.integers(0, C, 8)
    net = identity(SoftmaxCrossEntropy(), "auto")
    plain = net.loss_and_grad(z, y)
    for name, value in (("weight", np.array(WEIGHT)), ("ignore_index", int(y[0])), ("label_smoothing", 0.5)):
        before = getattr(net.loss, name)
        setattr(net.loss, name, value)
        assert net.loss_and_grad(z, y) == pytest.approx(theirs(z, y, "mean", **{name: value})[0])
        setattr(net.loss, name, before)
        assert net.loss_and_grad(z, y) == plain
    net(z)  # the outputs need nothing of this
    assert net._prepared is None or net._prepared._refused["sample"] == ""


def test_files_keep_the_settings(tmp_path):
    for loss in (SoftmaxCrossEntropy(), SoftmaxCrossEntropy([1.0, np.inf, 0, 0, 0], -100, 0.1)):
        Net((4, C), loss=loss).save(tmp_path / "net")
        again = Net.load(tmp_path / "net").loss
        assert (type(again), again.settings, repr(again)) == (type(loss), loss.settings, repr(loss))
    assert repr(loss) == "SoftmaxCrossEntropy(weight=(1.0, inf, 0.0, 0.0, 0.0), ignore_index=-100, label_smoothing=0.1)"


def test_a_subclass_is_run_by_its_own_methods(random):
    class Doubled(SoftmaxCrossEntropy):
        def weighted(self, z, y, weight, scale):
            value, grad = super().weighted(z, y, weight, scale)
            return 2 * value, 2 * grad

    z, y = random.normal(size=(8, C)), random.integers(0, C, 8)
    a, b = (identity(cls(WEIGHT)).loss_and_grad(z, y) for cls in (Doubled, SoftmaxCrossEntropy))
    assert a == pytest.approx(2 * b)


@pytest.mark.parametrize("loss, y, message", [
    (SoftmaxCrossEntropy(), [0, 5], "class indices must be from 0 to 4, got 5"),
    (SoftmaxCrossEntropy(), [0, -100], "class indices must be from 0 to 4, got -100"),
    (SoftmaxCrossEntropy(ignore_index=-100), [-100, -1], "class indices must be from 0 to 4, got -1"),
    (SoftmaxCrossEntropy(ignore_index=0), [[0, 0, 0, 0, 1.0]] * 2, "ignore_index needs class indices as targets"),
    (SoftmaxCrossEntropy(weight=[1, 2]), [0, 1], "hold 2 numbers, and the net has 5 outputs"),
])  # fmt: skip
def test_mistakes_are_said(loss, y, message, engine):
    with pytest.raises(ValueError, match=message):
        identity(loss, engine).loss_and_grad(np.ones((2, C)), y)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="weight must be a vector"):
        SoftmaxCrossEntropy(weight=2.0)
    for wrong in (0.5, True, np.inf):
        with pytest.raises(ValueError, match="ignore_index must be an integer"):
            SoftmaxCrossEntropy(ignore_index=wrong)
    assert SoftmaxCrossEntropy(ignore_index=np.int8(-1)).ignore_index == -1


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["layered", "fused", "cooperative"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_on_the_gpu(engine, reduction, random):
    z, weight = random.normal(size=(40, C)), random.uniform(0, 2, 40)
    for settings in (
        {"weight": WEIGHT, "ignore_index": 2},
        {"weight": WEIGHT, "ignore_index": -1, "label_smoothing": 0.1},
    ):
        y = random.integers(0, C, 40)
        y[::5] = settings["ignore_index"]
        nets = [
            identity(SoftmaxCrossEntropy(**settings), e, reduction=reduction, backend=backend)
            for backend, e in (("numpy", "layered"), ("cupy", engine))
        ]
        expected, got = (net.loss_and_grad(z, y, sample_weight=weight, input_grad=True) for net in nets)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a.get(), b, rtol=1e-11, atol=1e-13)


@pytest.mark.gpu
def test_no_class_on_the_gpu_is_nan(random):
    import cupy

    for settings in ({"ignore_index": -1}, {"label_smoothing": 0.1}):
        net = identity(SoftmaxCrossEntropy(WEIGHT, **settings), backend="cupy")
        assert np.isnan(float(net.loss_and_grad(cupy.ones((3, C)), cupy.array([0, C, 1]))))

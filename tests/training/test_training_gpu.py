"""Training on CuPy equals training on NumPy."""

import numpy as np
import pytest

from backprop_xp import Net
from backprop_xp.formulas import device
from backprop_xp.graph import Dropout, GraphNet, Input, Linear
from backprop_xp.tensor import Tensor
from backprop_xp.training import SGD, Adagrad, Adam, AdamW, DivergedError, RMSprop, evaluate, steps

pytestmark = pytest.mark.gpu


def net(backend="cupy", rng=0, engine="layered"):
    return Net((3, 4, 2), loss="mse", bias=True, reduction="mean", rng=rng, backend=backend, engine=engine)


@pytest.fixture
def data(random):
    x = random.normal(size=(20, 3))
    return x, np.sin(x[:, :2])


def host(net):
    return [p.data.get() if hasattr(p.data, "get") else p.data for p in net.parameters]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.1),
        lambda: Adam(lr=0.1),
        lambda: AdamW(lr=0.1, amsgrad=True),
        lambda: RMSprop(momentum=0.5, centered=True),
        lambda: Adagrad(lr_decay=0.1),
        lambda: SGD(lr=0.1, momentum=0.9, weight_decay=0.1, maximize=True),
        lambda: Adam(lr=0.1, weight_decay=0.1, maximize=True),
    ],
    ids=["sgd", "adam", "adamw", "rmsprop", "adagrad", "sgd-maximize", "adam-maximize"],
)
def test_every_optimiser(cupy, random, make, dtype, monkeypatch):
    """... and each step is one launch for all parameters."""
    launches, kernel_of = [], device._kernel

    def counted(*key):
        kernel = kernel_of(*key)
        return lambda *launch: (launches.append(key), kernel(*launch))

    monkeypatch.setattr(device, "_kernel", counted)
    ours = [Tensor(random.normal(size=shape).astype(dtype)) for shape in ((4, 3), (4,), (300,))]
    theirs = [Tensor(cupy.asarray(p.data)) for p in ours]
    a, b = make(), make()
    for _ in range(3):
        for p, q in zip(ours, theirs):
            p.grad = random.normal(size=p.data.shape).astype(dtype)
            q.grad = cupy.asarray(p.grad)
        a.step(ours)
        b.step(theirs)
    rtol = 1e-12 if dtype == "float64" else 1e-5
    for p, q in zip(ours, theirs):
        assert q.data.dtype == dtype
        np.testing.assert_allclose(q.data.get(), p.data, rtol=rtol, atol=rtol)
    assert len(launches) == 3


def test_a_run_with_everything_around_it(data):
    options = {"epochs": 3, "batch_size": 8, "optimiser": "adam", "schedule": "cosine", "clip_norm": 0.5}
    options |= {"l1": 0.01, "l2": 0.1, "validation": data, "early_stopping": 5, "sample_weight": np.linspace(1, 2, 20)}
    a, b = net("numpy"), net("cupy", engine="auto")
    first, second = a.fit(*data, **options), b.fit(*data, **options)
    for p, q in zip(host(a), host(b)):
        np.testing.assert_allclose(q, p, rtol=1e-9, atol=1e-11)
    for e, f in zip(first.epochs, second.epochs):
        assert f.loss == pytest.approx(e.loss, rel=1e-10)
        assert f.validation_loss == pytest.approx(e.validation_loss, rel=1e-10)
    assert first.best == second.best


def test_a_graph(data):
    results = []
    for backend in ("numpy", "cupy"):
        nodes = {"x": Input(3), "h": (Linear(4), "x"), "d": (Dropout(0.5), "h"), "y": (Linear(2), "d")}
        made = GraphNet(nodes, loss="mse", reduction="mean", rng=0, backend=backend, engine="layered")
        made.fit(*data, batch_size=8, epochs=2)
        results.append(host(made))
    for p, q in zip(*results):
        np.testing.assert_allclose(q, p, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("stop_on_nan", [False, True])
def test_the_loss_stays_on_the_device(cupy, data, stop_on_nan):
    for step in steps(net(), *data, batch_size=10, stop_on_nan=stop_on_nan):
        assert isinstance(step.loss, cupy.ndarray) and step.loss.shape == ()


def test_data_on_the_device_and_in_a_file(cupy, data, tmp_path):
    np.save(tmp_path / "x.npy", data[0])
    on_disk = np.load(tmp_path / "x.npy", mmap_mode="r")
    results = []
    for x in (data[0], cupy.asarray(data[0]), on_disk):
        made = net()
        made.fit(x, data[1], batch_size=8, epochs=2)
        results.append(host(made))
    for other in results[1:]:
        for p, q in zip(results[0], other):
            np.testing.assert_array_equal(p, q)


def test_a_run_goes_on_where_it_ended(data, tmp_path):
    options = {"batch_size": 8, "checkpoint_every": 2, "early_stopping": 9}
    whole, part, again = net(), net(), net(rng=4)
    whole.fit(*data, epochs=4, **options | {"checkpoint": tmp_path / "whole"})
    part.fit(*data, epochs=2, **options | {"checkpoint": tmp_path / "part"})
    again.fit(*data, epochs=4, resume=True, **options | {"checkpoint": tmp_path / "part"})
    for p, q in zip(host(whole), host(again)):
        np.testing.assert_array_equal(p, q)


def test_arrays_put_anew_are_seen(cupy):
    p, optimiser = Tensor(cupy.zeros(3)), SGD(lr=1.0)
    for _ in range(2):
        p.data = cupy.full(3, 5.0)
        p.grad = cupy.ones(3)
        optimiser.step([p])
        np.testing.assert_array_equal(p.data.get(), 4.0)


def test_a_loss_that_is_no_number(data):
    made = net()
    made.weights[1].data[0, 0] = np.nan
    with pytest.raises(DivergedError, match="the loss became nan at step 1: the parameter W1 isn't finite"):
        made.fit(*data)


@pytest.mark.parametrize("engine", ["layered", "auto"])
def test_batches_without_any_weight(cupy, data, engine):
    """... contribute nothing, and nothing waits for the device to see that they are such."""
    weight = np.where(np.arange(20) < 10, 2.0, 0.0)
    options = {"sample_weight": weight, "batch_size": 5, "shuffle": False, "optimiser": "sgd"}
    a, b = net("numpy"), net("cupy", engine=engine)
    first, second = a.fit(*data, **options), b.fit(*data, **options)
    assert second.epochs[0].loss == pytest.approx(first.epochs[0].loss, rel=1e-10)
    for p, q in zip(host(a), host(b)):
        np.testing.assert_allclose(q, p, rtol=1e-9, atol=1e-11)
    made, (x, y) = net("cupy", engine=engine), map(cupy.asarray, data)
    assert float(made.loss_and_grad(x, y, sample_weight=cupy.zeros(20))) == 0
    assert not any(p.grad.get().any() for p in made.parameters)
    for step in steps(net(), *data, sample_weight=weight, batch_size=10, stop_on_nan=False):
        assert isinstance(step.loss, cupy.ndarray) and isinstance(step.weight, cupy.ndarray)


def test_the_best_is_put_back_after_divergence(data):
    made = net()
    with pytest.raises(DivergedError) as caught:
        made.fit(
            *data,
            epochs=9,
            batch_size=20,
            early_stopping=5,
            validation=data,
            optimiser=SGD(lr=0.01),
            schedule=lambda step: 1.0 if step < 3 else 1e200,
        )
    best = caught.value.history.epochs[caught.value.history.best - 1].validation_loss
    assert evaluate(made, *data) == pytest.approx(best, rel=1e-10)

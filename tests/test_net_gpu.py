"""Nets on CuPy: the same numbers as on NumPy, on the device, on the current stream."""

import traceback
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from arrays import assert_close, everything, host, target

from backprop_xp import ACTIVATIONS, LOSSES, Activation, Net, get_backend
from backprop_xp.backend import Backend
from backprop_xp.operations.activate import activate, layer_gradients
from backprop_xp.programs import device_layers

pytestmark = pytest.mark.gpu

NETS = [
    ((5, 10, 4, 12), ("tanh", "sigmoid", "identity"), "half_sum_sq", False),
    ((7, 5, 3), ("leaky_relu", "gelu"), "huber", True),
    ((3, 4), ("mish",), "softmax_cross_entropy", True),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [None, 0, 1, 33])
@pytest.mark.parametrize("sizes, activations, loss, bias", NETS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equal_to_numpy(sizes, activations, loss, bias, n, dtype, reduction):
    random = np.random.default_rng(0)
    shape = () if n is None else (n,)
    x, weight = random.normal(size=(*shape, sizes[0])), random.uniform(0.5, 2, shape)
    y = {
        "half_sum_sq": None,
        "huber": random.normal(size=(*shape, sizes[-1])),
        "softmax_cross_entropy": random.integers(0, sizes[-1], shape),
    }[loss]
    results = []
    for backend in ("numpy", "cupy"):
        net = Net(sizes, activations, loss, bias, dtype, 1, backend, reduction=reduction, engine="layered")
        results.append(everything(net, x, y, sample_weight=weight))
    eps = 1e-4 if dtype == "float32" else 1e-12
    for expected, got in zip(*results, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=eps, atol=eps)


def pair(sizes, activations, loss="half_sum_sq", bias=True, dtype="float64", **options):
    """One net on the device, and the same on the host in float64, which is the judge."""
    given = {"rng": 1, "init": "glorot_normal", "engine": "layered"} | options
    on_device = Net(sizes, activations, loss, bias, dtype, backend="cupy", **given)
    judge = Net(sizes, activations, loss, bias, "float64", backend="numpy", **given)
    for a, b in zip((*judge.weights, *judge.biases), (*on_device.weights, *on_device.biases)):
        a.data = host(b.data).astype("float64")
    return on_device, judge


ODD = [1, 2, 31, 32, 33, 63, 255, 256, 257]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number, name", list(enumerate(ACTIVATIONS)))
def test_every_activation_with_every_loss_in_turn(name, number, dtype):
    """Each activation below and at the top, batch sizes, losses and biases taking turns."""
    loss, n, random = list(LOSSES)[number % len(LOSSES)], ODD[number % len(ODD)], np.random.default_rng(number)
    net, judge = pair((3, 5, 2), (name, name), loss, bool(number % 3), dtype)
    x, y = random.normal(size=(n, 3)).astype(dtype), target(loss, n, 2, random)
    y = y.astype(dtype) if y is not None and y.dtype.kind == "f" else y
    assert_close(everything(net, x, y), everything(judge, x, y), dtype)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", [*LOSSES, "probabilities"])
def test_every_loss(loss, bias, weighted, reduction, random):
    name = "softmax_cross_entropy" if loss == "probabilities" else loss
    net, judge = pair((4, 3), ("identity",), name, bias, reduction=reduction)
    x, weight = random.normal(size=(37, 4)), random.uniform(0, 2, 37) if weighted else None
    y = random.dirichlet(np.ones(3), 37) if loss == "probabilities" else target(name, 37, 3, random)
    assert_close(*(everything(n, x, y, sample_weight=weight) for n in (net, judge)), "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [0, *ODD])
@pytest.mark.parametrize("sizes", [(5, 7, 3), (2, 1, 65, 130)])
def test_odd_batch_sizes_and_widths(sizes, n, dtype, random):
    names = ("tanh", "sigmoid", "tanh")[-len(sizes) + 1 :]
    net, judge = pair(sizes, names, "mse", True, dtype, reduction="mean" if n else "sum")
    x, y = random.normal(size=(n, sizes[0])).astype(dtype), random.normal(size=(n, sizes[-1])).astype(dtype)
    assert_close(everything(net, x, y), everything(judge, x, y), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["relu", "gelu", "sigmoid"])
@pytest.mark.parametrize("position", [0, 31, 39])
def test_nan_and_infinity_reach_what_they_reach_on_the_host(position, name, poison, dtype, random):
    net, judge = pair((3, 4, 2), (name, "identity"), "half_sum_sq", True, dtype)
    x = random.normal(size=(40, 3)).astype(dtype)
    x[position, 1] = poison
    assert_close(everything(net, x), everything(judge, x), dtype)


@pytest.mark.parametrize("where", ["weights", "biases", "y", "sample_weight"])
@pytest.mark.parametrize("loss", ["mse", "softmax_cross_entropy"])
def test_nan_elsewhere(loss, where, random):
    net, judge = pair((3, 4, 2), ("tanh", "identity"), loss)
    x, y, weight = random.normal(size=(40, 3)), random.uniform(0, 1, (40, 2)), np.ones(40)
    if where == "y":
        y[7, 1] = np.nan
    elif where == "sample_weight":
        weight[7] = np.nan
    else:
        for n in (net, judge):
            getattr(n, where)[1].data[0] = np.nan
    got, expected = (everything(n, x, y, sample_weight=weight) for n in (net, judge))
    assert_close(got, expected, "float64")
    assert any(np.isnan(a).any() for a in got)


@pytest.mark.parametrize("loss", ["huber", "softmax_cross_entropy"])
@pytest.mark.parametrize("bias", [False, True])
def test_kept_signals(loss, bias, random):
    net, judge = pair((3, 4, 2), ("tanh", "sigmoid"), loss, bias)
    x, y = random.normal(size=(9, 3)), random.uniform(0, 1, (9, 2))
    for n in (net, judge):
        n.loss_and_grad(x, y, keep_signals=True)
    for mine, theirs in zip(
        (*net.linear_outputs, *net.nonlinear_outputs), (*judge.linear_outputs, *judge.nonlinear_outputs)
    ):
        assert_close([host(mine.data), host(mine.grad)], [theirs.data, theirs.grad], "float64")
    grads = [w.grad.copy() for w in (*net.weights, *net.biases)]
    net.backward(net.nonlinear_outputs[-1].grad)  # from the loss's gradient down, once more
    for again, first in zip((*net.weights, *net.biases), grads):
        np.testing.assert_array_equal(host(again.grad), host(first))


def test_the_same_bits_every_time(cupy, random):
    net, _ = pair((5, 40, 3), ("tanh", "identity"), "softmax_cross_entropy", True, "float32")
    x, y = random.normal(size=(300, 5)), random.integers(0, 3, 300)
    first = [a.tobytes() for a in everything(net, x, y)]
    with cupy.cuda.Stream(non_blocking=True):
        assert first == [a.tobytes() for a in everything(net, x, y)]


def test_relu_of_minus_infinity_is_zero_and_subnormals_are_kept_or_zero(cupy):
    """CuPy compiles with -ftz=true after a user's options: a GPU takes subnormal float32 numbers for 0."""
    relu, t = ACTIVATIONS["relu"](), cupy.array([[-np.inf, 1e-40, -1e-40, np.inf]], "float32")
    z, (grad_t, _) = host(activate(relu, t)), layer_gradients(relu, t, cupy.ones_like(t), None)
    assert z[0, 0] == 0 and z[0, 1] in (0, np.float32(1e-40)) and z[0, 2] == 0 and z[0, 3] == np.inf
    assert host(grad_t)[0, 0] == 0 and host(grad_t)[0, 1] in (0, 1) and host(grad_t)[0, 3] == 1


def test_nothing_waits_for_the_device(cupy):
    net = Net((3, 2), rng=0, bias=True, backend="cupy", engine="layered")
    x = cupy.ones((4, 3))
    cupyx = pytest.importorskip("cupyx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy says that it can't see every case
        with cupyx.allow_synchronize(False):
            net.loss_and_grad(x)
            net(x)


def test_results_stay_on_the_device(cupy):
    net = Net((3, 2), rng=0, backend="cupy")
    loss = net.loss_and_grad(np.ones((4, 3)))
    for array in (loss, net.weights[0].data, net.weights[0].grad, net(np.ones((4, 3)))):
        assert isinstance(array, cupy.ndarray)
    assert loss.shape == ()


def test_a_step_of_descent(cupy):
    net = Net((3, 2), rng=0, backend="cupy")
    before = float(net.loss_and_grad(np.ones((4, 3))))
    for w in net.weights:
        w.data -= 0.01 * w.grad
    assert float(net.loss_and_grad(np.ones((4, 3)))) < before


def test_to_and_fro():
    net = Net((3, 4, 2), rng=0, backend="numpy", bias=True)
    x = np.linspace(-1, 1, 12).reshape(4, 3)
    expected = net.loss_and_grad(x)
    assert float(net.to("cupy").loss_and_grad(x)) == pytest.approx(float(expected), rel=1e-13)
    assert net.to("numpy").loss_and_grad(x) == pytest.approx(expected, rel=1e-13)
    assert isinstance(net.weights[0].grad, np.ndarray)


def test_a_device_array_is_refused_by_a_net_on_the_host(cupy):
    net = Net((3, 2), backend="numpy")
    with pytest.raises(TypeError, match=r"net\.to\('cupy'\).*cupy\.asnumpy"):
        net.forward(cupy.ones((4, 3)))


def test_parameters_are_not_moved(cupy):
    net = Net((3, 2), backend="cupy")
    net.weights[0].data = cupy.asnumpy(net.weights[0].data)
    with pytest.raises(
        TypeError, match=r"weights\[0\]\.data is not on the net's device 'cupy': call net\.to\('cupy'\)"
    ):
        net.forward(np.ones(3))
    net = Net((3, 2), backend="numpy")
    net.weights[0].data = cupy.asarray(net.weights[0].data)
    with pytest.raises(TypeError, match=r"weights\[0\]\.data is on a CUDA device .* call net\.to\('cupy'\)"):
        net.forward(np.ones(3))


def test_dlpack_between_cupy_arrays(cupy):
    class Foreign:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    net, x = Net((3, 2), rng=0, backend="cupy"), cupy.ones((4, 3))
    assert float(net.loss_and_grad(Foreign(x))) == float(net.loss_and_grad(x))


def test_gradients_and_outputs_go_out_without_a_copy(cupy):
    net, x = Net((3, 2), rng=0, backend="cupy"), cupy.ones((4, 3))
    net.loss_and_grad(x)
    for array in (net.weights[0].grad, net(x)):
        assert cupy.from_dlpack(array).data.ptr == array.data.ptr


def test_to_pytorch_and_back_without_a_copy(cupy):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no CUDA device")
    net = Net((3, 2), rng=0, backend="cupy")
    net.loss_and_grad(cupy.ones((4, 3)))
    tensor = torch.from_dlpack(net.weights[0].grad)
    assert tensor.data_ptr() == net.weights[0].grad.data.ptr
    assert get_backend("cupy").asarray(tensor, None, "x").data.ptr == tensor.data_ptr()


class Watched(Backend):
    """CuPy on a device that says whether it is made the current one."""

    depth = 0

    @contextmanager
    def activate(self):
        self.depth += 1
        with super().activate():
            yield
        self.depth -= 1


def test_all_work_is_done_on_the_nets_device(cupy, monkeypatch):
    """Every array is made, and every kernel launched, while the net's device is the current one."""
    watched, pool, outside = Watched("cupy", cupy, 0), cupy.cuda.MemoryPool(), []

    def allocate(size):
        if not watched.depth:
            outside.append(traceback.format_stack(limit=8))
        return pool.malloc(size)

    launch = device_layers.launch
    monkeypatch.setattr(device_layers, "launch", lambda *args: (allocate(0), launch(*args)))
    x, y, weight = cupy.ones((4, 3), "float32"), cupy.ones((4, 2), "float32"), cupy.ones(4, "float32")
    labels, column = cupy.zeros(4, "int32"), np.ones((4, 3), "float32")
    with cupy.cuda.using_allocator(allocate):
        for loss, target in (("mse", y), ("softmax_cross_entropy", labels), ("half_sum_sq", None)):
            net = Net((3, 4, 2), loss=loss, bias=True, rng=0, backend=watched, reduction="mean")
            for given in (x, column):
                net.loss_and_grad(given, target, sample_weight=weight, input_grad=True, accumulate=True)
            net.loss_and_grad(x, target, keep_signals=True)
            net.backward(y, accumulate=True)
            net.plan(x)
            net(column)
        net.to("numpy").to(watched)
    assert not outside, "".join(outside[0])


def test_an_activation_in_plain_array_code(cupy):
    class Cube(Activation):
        def __call__(self, x):
            return x**3

        def grad(self, x):
            return 3 * x**2

    results = [
        float(Net((3, 2), (Cube(),), rng=0, backend=backend).loss_and_grad(np.ones((4, 3))))
        for backend in ("numpy", "cupy")
    ]
    assert results[0] == pytest.approx(results[1])


def test_the_current_stream_is_used(cupy):
    net, stream = Net((3, 2), rng=0, backend="cupy"), cupy.cuda.Stream(non_blocking=True)
    with stream:
        loss = net.loss_and_grad(np.ones((4, 3)))
    stream.synchronize()
    assert float(loss) == pytest.approx(float(net.loss_and_grad(np.ones((4, 3)))))


def test_nan_propagates():
    net = Net((3, 2), ("relu",), rng=0, backend="cupy")
    assert np.isnan(float(net.loss_and_grad(np.array([[np.nan, 0, 0]]))))

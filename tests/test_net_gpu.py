"""Nets on CuPy: the same numbers as on NumPy, on the device, on the current stream."""

from __future__ import annotations

import numpy as np
import pytest

from backprop_xp import Activation, Net

pytestmark = pytest.mark.gpu

NETS = [
    ((5, 10, 4, 12), ("tanh", "sigmoid", "identity"), "half_sum_sq", False),
    ((7, 5, 3), ("leaky_relu", "gelu"), "huber", True),
    ((3, 4), ("mish",), "softmax_cross_entropy", True),
]


@pytest.fixture(autouse=True)
def cupy():
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.fail("the GPU tests were asked for, and no CUDA device answers")
    return cupy


def host(array):
    return array.get() if hasattr(array, "get") else np.asarray(array)


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
        value, grad_x = net.loss_and_grad(x, y, sample_weight=weight, input_grad=True)
        results.append([host(a) for a in (value, grad_x, *(p.grad for p in (*net.weights, *net.biases)))])
    eps = 1e-4 if dtype == "float32" else 1e-12
    for expected, got in zip(*results, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=eps, atol=eps)


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

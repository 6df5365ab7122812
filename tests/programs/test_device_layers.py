"""The layered engine's launches: they compile for every architecture, and compute what NumPy computes, in few passes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from backprop_xp.kernels import source

from backprop_xp import ACTIVATIONS, LOSSES, Activation, Elementwise, Net, activations
from backprop_xp.formulas import device
from backprop_xp.losses import ElementwiseLoss
from backprop_xp.operations import activate
from backprop_xp.programs import device_layers

FLOATS = ["float32", "float64"]


def all_kernels(dtype):
    """Each activation's two kernels, each loss after some activation, and the sums of four."""
    entries = [
        device_layers.entry(kind, cls().formula, None, dtype, f"{kind}_{name}")
        for name, cls in ACTIVATIONS.items()
        for kind in ("forward", "backward")
    ]
    losses = [
        *(cls().kernel for cls in LOSSES.values() if issubclass(cls, ElementwiseLoss)),
        "classes",
        "probabilities",
    ]
    entries += [
        device_layers.entry("loss", ACTIVATIONS[name]().formula, loss, dtype, f"loss{k}_{name}")
        for k, (loss, name) in enumerate(zip(losses, itertools.cycle(["identity", "gelu", "leaky_relu"])))
    ]
    return [*entries, device_layers.second_entry(4, dtype)]


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_kernel_compiles_for_every_architecture_without_spills(dtype):
    nvrtc = pytest.importorskip("nvrtc")
    for architecture, entries in nvrtc.spread(all_kernels(dtype)):
        _, resources = nvrtc.compile_for(source("layer.h") + "".join(entries), architecture)
        assert len(resources) == len(entries)
        # sin and cos of large arguments, CUDA's own as well, keep the bits of 2/pi that matter on the stack
        waves = ("_sin", "_cos")
        assert not [name for name, r in resources.items() if r.spills or (r.stack and not name.endswith(waves))]


def test_float_kernels_compute_nothing_in_double():
    nvrtc = pytest.importorskip("nvrtc")
    assert ".f64" not in nvrtc.ptx(source("layer.h") + "".join(all_kernels("float32")[:-1]), "-std=c++17")


def test_the_numbers_that_python_and_the_kernels_share():
    code = source("layer.h")
    assert f"layer_threads = {device_layers.THREADS}, second_threads = {device_layers.SECOND_THREADS};" in code
    assert f"softmax_rows = {device_layers.SOFTMAX_ROWS};" in code


def close(got, expected, dtype):
    eps = np.finfo(dtype).eps
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got.get(), expected, rtol=64 * eps, atol=64 * eps * max(1, np.abs(expected).max(initial=0))
    )


#: around a warp, a block's rows for each width, and one row of tiles
SHAPES = [(n, width) for width in (1, 5, 64, 65, 300) for n in (0, 1, 31, 32, 33)]
SHAPES += [(rows + k, width) for width, rows in ((5, 408), (64, 32), (130, 40)) for k in (-1, 0, 1)]


def test_the_shapes_are_those_at_a_blocks_edge():
    for width, rows in ((5, 408), (64, 32), (130, 40)):
        assert device_layers._Grid(np.empty((9, width)), softmax=False).rows == rows


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n, width", SHAPES)
def test_shapes(cupy, n, width, dtype, random):
    t, grad_z, bias = (random.normal(size=s).astype(dtype) for s in ((n, width), (n, width), width))
    f, moved = ACTIVATIONS["tanh"](), cupy.asarray(t)
    z = device_layers.forward(f, moved, cupy.asarray(bias))
    close(moved, t + bias, dtype)
    close(z, np.tanh(t + bias), dtype)
    grad_t, sums = device_layers.backward(f, moved, cupy.asarray(grad_z), True)
    expected = grad_z.astype(np.float64) * f.grad((t + bias).astype(np.float64))
    close(grad_t, expected, dtype)
    close(sums, expected.sum(axis=0), dtype)
    top = device_layers.fused_loss(f, LOSSES["mse"](), cupy.asarray(t), cupy.asarray(bias), moved, None, 0.5)
    error = np.tanh(t.astype(np.float64) + bias) - (t + bias)
    close(top.loss, 0.5 * (error * error).sum(), dtype)
    close(top.grad_bias, (error * f.grad((t + bias).astype(np.float64))).sum(axis=0), dtype)


@pytest.mark.gpu
def test_more_rows_than_one_block_each(cupy, monkeypatch, random):
    monkeypatch.setattr(device_layers, "MOST_PARTS", 3)
    grad_z = random.normal(size=(500, 70))
    grid = device_layers._Grid(grad_z, softmax=False)
    assert grid.rows > 8 * device_layers.THREADS // grid.span and grid.blocks <= 3
    f, on_device = ACTIVATIONS["tanh"](), cupy.asarray(grad_z)
    grad_t, sums = device_layers.backward(f, on_device, on_device, True)
    close(grad_t, f.backprop(grad_z, grad_z), "float64")
    close(sums, f.backprop(grad_z, grad_z).sum(axis=0), "float64")


@pytest.mark.gpu
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n, classes", [(1, 1), (7, 2), (600, 3), (257, 10), (40, 33), (9, 130)])
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_softmax_of_every_width(cupy, kind, n, classes, weighted, random):
    loss, z = LOSSES["softmax_cross_entropy"](), 5 * random.normal(size=(n, classes))
    y = random.integers(0, classes, n) if kind == "classes" else random.dirichlet(np.ones(classes), n)
    weight = random.uniform(0, 2, n) if weighted else None
    expected, expected_grad = loss.weighted(z, y, weight, 0.25)
    got, grad = loss.weighted(*(None if a is None else cupy.asarray(a) for a in (z, y, weight)), 0.25)
    close(got, expected, "float64")
    close(grad, expected_grad, "float64")
    assert got.shape == ()
    one = loss.weighted(cupy.asarray(z[0]), cupy.asarray(y[0]), None, 1.0)
    close(one[1], loss.grad(z[:1], y[:1])[0], "float64")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax_of_special_values(cupy, dtype):
    rows = np.array(
        [[1e4, -1e4, 0], [-np.inf, 0, 1], [np.inf, 0, 1], [np.nan, 0, 1], [-np.inf] * 3, [88, 89, -709]], dtype
    )
    loss = LOSSES["softmax_cross_entropy"]()
    for y in (np.zeros(3), np.array([0.5, 0.5, 0]), np.array([0, 1, 0])):
        for row in rows:
            expected = loss.weighted(row, y.astype(dtype), None, 1.0)
            got = loss.weighted(cupy.asarray(row), cupy.asarray(y.astype(dtype)), None, 1.0)
            for a, b in zip(got, expected, strict=True):
                close(a, b, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_an_index_of_no_class_gives_nan(cupy, label):
    loss, z = LOSSES["softmax_cross_entropy"](), cupy.zeros((2, 3))
    value, grad = loss.weighted(z, cupy.array([1, label]), None, 1.0)
    assert np.isnan(value.get())
    np.testing.assert_array_equal(np.isnan(grad.get()), [[False] * 3, [True] * 3])


@pytest.mark.gpu
def test_an_activation_with_a_derivative_of_its_own_is_no_identity(cupy):
    through = Elementwise("through", "t", "where(t > 0, 1, 0)")
    t = cupy.array([[-1.0, 2.0]])
    assert device_layers.forward(through, t, None) is t
    np.testing.assert_array_equal(device_layers.backward(through, t, cupy.ones((1, 2)), False)[0].get(), [[0, 1]])
    step = Elementwise("step", "where(t > 0, 1, 0)", "1")
    grad = cupy.ones((1, 2))
    assert device_layers.backward(step, t, grad, False)[0] is grad
    np.testing.assert_array_equal(device_layers.forward(step, t, None).get(), [[0, 1]])


@pytest.mark.gpu
def test_other_dtypes_and_layouts_are_converted_and_host_arrays_refused(cupy, random):
    f, loss = ACTIVATIONS["tanh"](), LOSSES["mse"]()
    t, y = random.normal(size=(6, 4)).astype(np.float32), random.integers(0, 9, (4, 6)).T
    bias = cupy.arange(8.0)[::2]
    top = device_layers.fused_loss(f, loss, cupy.asarray(t), bias, cupy.asarray(y), None, 1)
    z = np.tanh(t + np.arange(8.0, dtype=np.float32)[::2])
    close(top.loss, ((z - y) ** 2).sum(), "float32")
    with pytest.raises(TypeError, match="expected CuPy arrays, like the others, got ndarray"):
        device_layers.backward(f, cupy.asarray(t), t, False)
    with pytest.raises(ValueError, match="the loss mse needs a target"):
        loss.weighted(cupy.asarray(t), None, None, 1.0)
    three = cupy.ones((2, 3, 4))
    np.testing.assert_allclose(activate.activate(f, three).get(), np.tanh(np.ones((2, 3, 4))), rtol=8e-16)


def counted(cupy, monkeypatch, call):
    """The names of the kernels that a call launches, and how often CuPy allocates memory in it."""
    names = []
    for module in (device, device_layers):
        launch = module.launch
        monkeypatch.setattr(module, "launch", lambda k, *args, launch=launch: (names.append(k.name), launch(k, *args)))

    sizes, pool = [], cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(lambda size: (sizes.append(size), pool.malloc(size))[1]):
        call()
    return names, len(sizes)


@pytest.mark.gpu
@pytest.mark.parametrize("loss", ["half_sum_sq", "softmax_cross_entropy"])
def test_one_launch_between_two_products(cupy, loss, monkeypatch):
    net = Net((4, 3, 5, 2), ("tanh", "relu", "identity"), loss, bias=True, rng=0, backend="cupy", engine="layered")
    x, y = cupy.ones((6, 4)), (cupy.zeros(6, int) if loss == "softmax_cross_entropy" else None)
    net.loss_and_grad(x, y)
    names, allocations = counted(cupy, monkeypatch, lambda: net.loss_and_grad(x, y))
    assert names == ["layer_forward"] * 2 + ["layer_loss"] + ["layer_backward"] * 2 + ["second_pass"]
    products, signals, gradients, partial_sums, totals = 3 + 3 + 2, 2, 3, 3 + 1, 3 + 1
    assert allocations == products + signals + gradients + partial_sums + totals  # and no array of CuPy's own functions


@pytest.mark.gpu
def test_no_launch_where_there_is_nothing_to_do(cupy, monkeypatch):
    net = Net((4, 3, 2), ("identity", "identity"), rng=0, backend="cupy", engine="layered")
    x = cupy.ones((6, 4))
    net.loss_and_grad(x)
    names, _ = counted(cupy, monkeypatch, lambda: net.loss_and_grad(x))
    assert names == ["layer_loss", "second_pass"]


@pytest.mark.gpu
def test_launches_wait_for_nothing_and_can_be_captured(cupy, random):
    """During capture, waiting is an error, and nothing runs before the graph does."""
    f, loss = ACTIVATIONS["tanh"](), LOSSES["huber"]()
    product, y = cupy.asarray(random.normal(size=(40, 7))), cupy.asarray(random.normal(size=(40, 7)))
    bias = cupy.ones(7)
    expected = device_layers.fused_loss(f, loss, product, bias, y, None, 1.0)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with device_layers.summed_together():
            got = device_layers.fused_loss(f, loss, product, bias, y, None, 1.0)
            grad_t, sums = device_layers.backward(f, product, got.grad_t, True)
        graph = stream.end_capture()
        graph.launch()
    stream.synchronize()
    np.testing.assert_array_equal(got.loss.get(), expected.loss.get())
    np.testing.assert_array_equal(got.grad_bias.get(), expected.grad_bias.get())
    close(sums, grad_t.get().sum(axis=0), "float64")


@pytest.mark.gpu
def test_an_exception_forgets_the_sums_that_wait(cupy):
    with pytest.raises(ZeroDivisionError), device_layers.summed_together():
        device_layers.backward(activations.Identity(), cupy.ones((2, 2)), cupy.ones((2, 2)), True)
        raise ZeroDivisionError
    _, sums = device_layers.backward(activations.Identity(), cupy.ones((2, 2)), cupy.ones((2, 2)), True)
    np.testing.assert_array_equal(sums.get(), [2, 2])


@pytest.mark.gpu
def test_a_loss_in_an_activation_of_the_users_is_there_at_once(cupy):
    class Odd(Activation):
        def __call__(self, x):
            return x * LOSSES["mse"]().weighted(x, 0 * x, None, 1.0)[0]

        def grad(self, x):
            return 0 * x + LOSSES["softmax_cross_entropy"]()(x, abs(x))

    x = np.linspace(-1, 1, 12).reshape(4, 3)
    nets = [Net((3, 2, 2), (Odd(), "tanh"), bias=True, rng=0, backend=b, engine="layered") for b in ("numpy", "cupy")]
    expected, got = (float(net.loss_and_grad(x)) for net in nets)
    assert got == pytest.approx(expected)
    np.testing.assert_allclose(nets[1].weights[0].grad.get(), nets[0].weights[0].grad)


@pytest.mark.gpu
def test_more_sums_than_one_launch_takes(cupy, monkeypatch):
    monkeypatch.setattr(device_layers, "MOST_TOGETHER", 2)
    f, ones = activations.Identity(), cupy.ones((3, 2))
    with device_layers.summed_together():
        sums = [device_layers.backward(f, ones, k * ones, True)[1] for k in range(5)]
    np.testing.assert_array_equal([s.get() for s in sums], [[3 * k] * 2 for k in range(5)])


@pytest.mark.gpu
def test_long_float32_sums_keep_their_digits(cupy):
    grad = cupy.full((1 << 15, 3), 0.1, "float32")
    _, sums = device_layers.backward(activations.Identity(), grad, grad, True)
    np.testing.assert_allclose(sums.get(), np.float64(np.float32(0.1)) * (1 << 15), rtol=1e-6)

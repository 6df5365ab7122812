"""The pass for nets of any widths, at the borders of its regions: few samples, panels, slices of features, chunks."""

import numpy as np
import pytest
from here import needs_compiler

from backprop_xp import Net
from backprop_xp.programs import fused, matrices

pytestmark = needs_compiler

#: Around a register's numbers, a slice of features, and groups of panels.
SIZES = [(1, 1), (15, 17, 3), (33, 64, 16), (65, 515, 4), (300, 48, 49, 10), (513, 129)]
#: The fewest and few samples, blocks of rows, the fewest parts, a wave of parts, a chunk.
BATCHES = [1, 3, 4, 6, 7, 24, 25, 47, 97, 1151, 1153, 4500, 16000]


@pytest.fixture(autouse=True)
def many_threads_and_no_narrow_pass(monkeypatch):
    monkeypatch.setattr(fused, "NARROW_SAMPLES", 1 << 40)
    monkeypatch.setattr(matrices, "WORTH_A_THREAD", 1.0)


def make(sizes, dtype, **options):
    hidden = ("gelu", "tanh", "relu")[: len(sizes) - 2]
    return Net(
        sizes, (*hidden, "sigmoid"), "bce_with_logits", True, dtype, 3, "numpy", "glorot_normal", "mean", **options
    )


def everything(net, x, y, **options):
    result = net.loss_and_grad(x, y, **options)
    parts = result if isinstance(result, tuple) else (result,)
    return [np.array(part) for part in (*parts, *(p.grad for p in net.parameters))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_it_agrees_with_the_loops_and_has_the_same_bits_for_any_number_of_threads(sizes, n, dtype, random):
    x, y = random.normal(size=(n, sizes[0])).astype(dtype), random.uniform(size=(n, sizes[-1])).astype(dtype)
    weight = random.uniform(size=n).astype(dtype)
    expected = everything(make(sizes, "float64", engine="layered"), x, y, sample_weight=weight, input_grad=True)
    found = [everything(make(sizes, dtype, threads=t), x, y, sample_weight=weight, input_grad=True) for t in (1, 2, 5)]
    eps = np.finfo(dtype).eps
    for a, b, c, d in zip(expected, *found, strict=True):
        np.testing.assert_allclose(b, a, rtol=200 * eps, atol=60 * eps * abs(a).max())
        assert b.tobytes() == c.tobytes() == d.tobytes()
    z = make(sizes, "float64", engine="layered")(x)
    outputs = [make(sizes, dtype, threads=t)(x) for t in (1, 2, 5)]
    np.testing.assert_allclose(outputs[0], z, rtol=200 * eps, atol=60 * eps * abs(z).max())
    assert outputs[0].tobytes() == outputs[1].tobytes() == outputs[2].tobytes()


@pytest.mark.parametrize(("sizes", "n"), [((64, 128, 128, 64, 10), 11627), ((784, 64, 10), 9149)])
def test_a_last_part_of_few_samples(sizes, n, random):
    x, y = random.normal(size=(n, sizes[0])), random.uniform(size=(n, sizes[-1]))
    expected = everything(make(sizes, "float64", engine="layered"), x, y, input_grad=True)
    for threads in (1, 2):
        got = everything(make(sizes, "float32", engine="fused", threads=threads), x, y, input_grad=True)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("columns", [736, 735])
@pytest.mark.parametrize("n", [1, 6, 25, 3300])
def test_gradients_that_are_written_past_the_caches(n, columns, random):
    """Those of at least 2 MiB whose rows are whole registers; with 3,300 samples they are of several chunks."""
    sizes, dtype = (columns, 736, 2), "float32"
    x, y = random.normal(size=(n, columns)).astype(dtype), random.uniform(size=(n, 2)).astype(dtype)
    expected = everything(make(sizes, "float64", engine="layered"), x, y)
    net = make(sizes, dtype, threads=1)
    found = everything(net, x, y)
    handed_out = net.weights[0].grad
    again = everything(net, -x, y), everything(net, x, y)[1].tobytes()
    assert np.array_equal(handed_out, found[1]) and not np.array_equal(again[0][1], found[1])
    assert found[1].tobytes() == again[1] == everything(make(sizes, dtype, threads=3), x, y)[1].tobytes()
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, atol=60 * np.finfo(dtype).eps * abs(a).max())


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("n", [5, 300, 4500])
def test_it_goes_on_where_it_came_back_to_python(n, threads, monkeypatch, random):
    sizes = (40, 30, 20, 3)
    x, y = random.normal(size=(n, 40)), random.uniform(size=(n, 3))
    whole = everything(make(sizes, "float64", threads=threads), x, y)
    monkeypatch.setattr(matrices, "SECONDS", 0.0)  # after every step
    for _ in range(20):
        for a, b in zip(whole, everything(make(sizes, "float64", threads=threads), x, y), strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("n", [3, 60, 2500])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_stays_alone(n, value, random):
    x, y = random.normal(size=(n, 20)), random.uniform(size=(n, 3))
    x[1, 7] = value
    net = Net((20, 33, 3), ("tanh", "identity"), "mse", True, rng=0, backend="numpy")
    _, grad_x = net.loss_and_grad(x, y, input_grad=True)
    others = np.arange(n) != 1
    assert np.isfinite(grad_x[others]).all() and np.isfinite(net(x)[others]).all()
    layered = Net((20, 33, 3), ("tanh", "identity"), "mse", True, rng=0, backend="numpy", engine="layered")
    _, expected = layered.loss_and_grad(x, y, input_grad=True)
    np.testing.assert_allclose(grad_x, expected, rtol=1e-9, atol=1e-9)
    for p, q in zip(net.parameters, layered.parameters):
        np.testing.assert_array_equal(np.isnan(p.grad), np.isnan(q.grad))


@pytest.mark.parametrize("n", [6, 100])
def test_batches_in_any_layout(n, random):
    sizes = (37, 20, 5)
    x, y = random.normal(size=(n, 37)), random.uniform(size=(n, 5))
    spread = np.zeros((2 * n, 74))
    spread[::2, ::2] = x
    whole = everything(make(sizes, "float64"), x, y, input_grad=True)
    for same in (np.asfortranarray(x), spread[::2, ::2], x[::-1].copy()[::-1], x[:, ::-1].copy()[:, ::-1]):
        for a, b in zip(whole, everything(make(sizes, "float64"), same, y, input_grad=True), strict=True):
            assert a.tobytes() == b.tobytes()

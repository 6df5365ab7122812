"""Batches in pieces: the same numbers as in one, copies that don't overtake, and memory that runs out."""

import warnings

import numpy as np
import pytest
from arrays import everything
from own import Cube

from backprop_xp import Activation, GraphNet, Net
from backprop_xp.graph import Dropout, Input, Linear
from backprop_xp.passes import streamed

pytestmark = pytest.mark.gpu
NET = ((5, 4, 3), ("tanh", "sigmoid"))


@pytest.fixture(autouse=True)
def no_warning_yet():
    streamed.warn.cache_clear()


@pytest.fixture
def small(monkeypatch):
    """Everything that lies on the host streams, in the smallest pieces."""
    monkeypatch.setattr(streamed, "HOST_BYTES", 0)
    monkeypatch.setattr(streamed, "PIECE_BYTES", 1)
    monkeypatch.setattr(streamed, "FEWEST_SAMPLES", 64)


@pytest.fixture
def limited(cupy):
    """From the call on, arrays come from a pool of so many bytes, as a user may set one up."""
    before = cupy.cuda.get_allocator()
    pool = cupy.cuda.MemoryPool()

    def limit(size):
        pool.set_limit(size=size)
        cupy.cuda.set_allocator(pool.malloc)
        return pool

    yield limit
    cupy.cuda.set_allocator(before)


def assert_same(got, expected, exact=False):
    """To the last bit, or as far as matrix products allow: cuBLAS may add in another order where there are more rows."""
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=0 if exact else 1e-11, atol=0 if exact else 1e-13 * np.abs(a).max())


CASES = [
    (*NET, "half_sum_sq", False, "sum", "fused"),
    ((6, 3), ("relu",), "softmax_cross_entropy", True, "mean", "fused"),
    ((3, 2), ("gelu",), "huber", True, "sum", "cooperative"),
    ((3, 4, 2), (Cube(), "tanh"), "half_squared_error", True, "mean", "layered"),
]


@pytest.mark.parametrize("sizes, activations, loss, bias, reduction, engine", CASES)
@pytest.mark.parametrize("n", [256, 1000])
def test_the_same_numbers_as_in_one_piece(sizes, activations, loss, bias, reduction, engine, n, request):
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(n, sizes[0])), random.uniform(0.5, 2, n)
    y = {
        "half_sum_sq": None, "softmax_cross_entropy": random.integers(0, sizes[-1], n).astype(np.int16),
    }.get(loss, random.normal(size=(n, sizes[-1])).astype(np.float32))  # fmt: skip
    options = {} if isinstance(activations[0], Cube) else {"sample_weight": weight}
    net = Net(sizes, activations, loss, bias, "float64", 1, "cupy", reduction=reduction, engine=engine)
    whole, outputs = everything(net, x, y, **options), net(x).get()
    request.getfixturevalue("small")
    pieces = everything(net, x, y, **options)
    assert_same([*pieces, net(x).get()], [*whole, outputs], exact=engine != "layered")


@pytest.mark.parametrize("engine", ["cooperative", "layered"])
def test_graphs_in_pieces(engine, request):
    nodes = {
        "x": Input(4), "z": Input(5), "h": (Linear(5), "x"), "d": (Dropout(0.3), "h"), "m": ("multiply", "d", "z"),
        "k": (Linear(5), "m"), "again": (Linear(5, share="k"), "k"), "all": ("concatenate", "again", "x"),
        "end": (Linear(2), "all"),
    }  # fmt: skip
    random = np.random.default_rng(0)
    x = {name: random.normal(size=(700, width)) for name, width in (("x", 4), ("z", 5))}
    y, weight = random.normal(size=(700, 2)), random.uniform(0.5, 2, 700)

    def computed():
        net = GraphNet(nodes, loss="mse", rng=0, backend="cupy", engine=engine)  # whose first call draws alike
        loss, below = net.loss_and_grad(x, y, sample_weight=weight, input_grad=True)
        parts = (loss, *below.values(), *(tensor.grad for tensor in net.tensors.values()), net(x))
        return [part.get() for part in parts]

    whole = computed()
    request.getfixturevalue("small")
    assert_same(computed(), whole, exact=engine == "cooperative")


def test_a_memmap_of_another_dtype_and_a_strided_view(small, tmp_path):
    values = np.random.default_rng(0).normal(size=(700, 5))
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=values.shape)
    mapped[:] = values
    view = np.asfortranarray(np.repeat(mapped, 2, axis=0))[::2]
    net = Net(*NET, rng=0, backend="cupy")
    results = [everything(net, x) for x in (mapped, view, mapped.astype(np.float64))]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_small_batches_are_moved_and_large_ones_stay(monkeypatch):
    monkeypatch.setattr(streamed, "HOST_BYTES", 100 * 5 * 8)
    net = Net(*NET, rng=0, backend="cupy")
    large = np.ones((101, 5))
    assert "the batch stays on the host and is computed in pieces" in net.plan(large).reason
    assert "stays on the host" not in net.plan(large[:100]).reason
    assert isinstance(net._call(large, None, True).x, np.ndarray)
    for x, keep in ((large[:100], None), (large, True), (np.ones(5), None)):
        assert not isinstance(net._call(x, keep, True).x, np.ndarray)


@pytest.mark.parametrize("workers", [1, 3, 16])
@pytest.mark.parametrize("rows", [1, 7, 30])
def test_every_row_is_copied(rows, workers, monkeypatch):
    monkeypatch.setattr(streamed, "SHARE_BYTES", 1)
    values, to = np.random.default_rng(0).normal(size=(rows, 3)), np.zeros((rows, 3), np.float32)
    streamed._fill(to, values, workers)
    np.testing.assert_array_equal(to, values.astype(np.float32))


def test_nan_and_infinity_come_along(small):
    x = np.zeros((600, 5))
    x[513, 2] = np.nan
    net = Net(*NET, rng=0, backend="cupy")
    loss, grad_x, *gradients = everything(net, x)
    assert np.isnan(loss)
    assert np.isnan(grad_x).all(axis=1).nonzero()[0].tolist() == [513]
    assert all(np.isnan(g).any() for g in gradients)


def test_the_current_stream_computes(small, cupy):
    net, x = Net(*NET, rng=0, backend="cupy"), np.random.default_rng(0).normal(size=(600, 5))
    expected, stream = everything(net, x), cupy.cuda.Stream(non_blocking=True)
    with stream:
        loss = net.loss_and_grad(x)
    stream.synchronize()
    assert float(loss) == expected[0]


def test_a_batch_that_does_not_fit_is_computed_in_pieces_with_one_warning(limited):
    x = np.random.default_rng(0).normal(size=(4000, 5))
    net = Net((5, 8, 4), (Cube(), "tanh"), rng=0, backend="cupy")
    expected = [float(net.loss_and_grad(x)), *(w.grad.get() for w in net.weights)]
    limited(800 << 10)  # x takes 160 kB, and a layer's t and z 256 kB each
    with pytest.warns(UserWarning, match="computed in pieces") as caught:
        for _ in range(2):
            loss = net.loss_and_grad(x)
    assert len(caught) == 1
    assert_same([loss.get(), *(w.grad.get() for w in net.weights)], expected)


def test_a_batch_that_does_not_fit_and_is_needed_whole(limited):
    class Centred(Activation):
        def __call__(self, x):
            return x - x.mean(axis=0)

        def grad(self, x):
            return x * 0 + 1

    net = Net((5, 8, 4), (Centred(), "tanh"), rng=0, backend="cupy")
    net.loss_and_grad(np.ones((40, 5)))
    limited(800 << 10)
    message = "no memory for this batch, and the activation Centred of layer 0 needs the whole batch .*: Out of memory"
    with pytest.raises(MemoryError, match=message):
        net.loss_and_grad(np.ones((4000, 5)))


@pytest.mark.parametrize("on_device", [True, False])
def test_what_has_no_room_beside_or_for_the_batch_is_computed_in_pieces(on_device, limited, cupy):
    x = np.random.default_rng(0).normal(size=(4000, 5))
    net = Net((5, 8, 4), (Cube(), "tanh"), rng=0, backend="cupy")
    expected = float(net.loss_and_grad(x))
    if on_device:
        x = cupy.asarray(x)
    limited(600 << 10 if on_device else 150 << 10)  # x takes 160 kB
    with pytest.warns(UserWarning, match="computed in pieces"):
        assert float(net.loss_and_grad(x)) == pytest.approx(expected, rel=1e-12)


def test_one_error_where_not_even_the_fewest_samples_fit(limited):
    x, net = np.ones((20_000, 5)), Net((5, 4000, 4), (Cube(), "tanh"), rng=0, backend="cupy")
    limited(1 << 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MemoryError, match="the device has no memory for 256 samples at a time: Out of memory"):
            net.loss_and_grad(x)
        with pytest.raises(MemoryError, match="no memory for this call's signals"):
            net.loss_and_grad(x[:1000], keep_signals=True)
        with pytest.raises(MemoryError, match="no memory for the gradients in x of 40000 samples"):
            net.loss_and_grad(np.ones((40_000, 5)), input_grad=True)
        with pytest.raises(MemoryError, match="no memory for the outputs of 40000 samples"):
            net(np.ones((40_000, 5)))


def test_the_users_pool_serves_everything_and_is_left_as_it_was(small, limited, cupy):
    net, x = Net(*NET, rng=0, backend="cupy"), np.ones((600, 5))
    pool = limited(8 << 20)
    allocator = cupy.cuda.get_allocator()
    net.loss_and_grad(x)
    assert pool.total_bytes() > 0
    assert pool.get_limit() == 8 << 20
    assert cupy.cuda.get_allocator() == allocator

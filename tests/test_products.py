"""Matrix products on several threads: their bits are those of any number of threads, BLAS's own included."""

import itertools
import threading

import numpy as np
import pytest
import threadpoolctl

from backprop_xp import BatchNorm, Net, Operation, forks, products
from backprop_xp.products import one_blas_thread, shared_out

SHAPES = {
    "rows": (5000, 64, 70),
    "columns": (70, 64, 5000),
    "sums": (60, 9000, 50),
    "long sums, wide": (300, 5000, 300),
    "small": (30, 40, 50),
    "no rows": (0, 900, 50),
    "no terms": (500, 0, 50),
}


@pytest.fixture(autouse=True)
def all_libraries():
    """Every BLAS that the process has by now: other tests may have loaded some since the first was asked for."""
    products._libraries.cache_clear()


def blas_threads():
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_same_bits_for_any_number_of_threads(shape, dtype):
    rows, terms, columns = shape
    transposed = dtype == "float32"
    random = np.random.default_rng(0)
    a = random.normal(size=(terms, rows)).astype(dtype).T if transposed else random.normal(size=(rows, terms))
    a, b = a.astype(dtype, order="K"), random.normal(size=(terms, columns)).astype(dtype)
    found = []
    for workers, own in ((1, 1), (2, 4), (3, 1)):
        with threadpoolctl.threadpool_limits(own, "blas"), shared_out(workers):
            out = np.full((rows, columns), np.nan, dtype)
            assert products.matmul(a, b, out) is out
            found.append(out.tobytes())
    assert len(set(found)) == 1
    tolerance = (1e-5 if dtype == "float32" else 1e-13) * max(terms, 1)
    np.testing.assert_allclose(np.frombuffer(found[0], dtype).reshape(rows, columns), a @ b, atol=tolerance)


def test_how_a_product_is_cut(monkeypatch):
    cuts = []
    monkeypatch.setattr(products, "_each", lambda parts, work: cuts.append(parts) or [*map(work, range(99), parts)])
    expected = {"rows": 5000, "columns": 5000, "sums": 9000, "long sums, wide": 5000}
    for name, (rows, terms, columns) in SHAPES.items():
        cuts.clear()
        with shared_out(2):
            products.matmul(np.ones((rows, terms)), np.ones((terms, columns)), np.empty((rows, columns)))
        assert bool(cuts) == (name in expected), name
        for parts in cuts:
            assert parts[0].start == 0 and parts[-1].stop >= expected[name] and len(parts) > 1
            assert all(a.stop == b.start for a, b in itertools.pairwise(parts))


def test_outside_of_it_blas_does_as_it_likes(monkeypatch):
    monkeypatch.setattr(products, "_each", lambda *arguments: pytest.fail("cut"))
    a = np.ones((5000, 64))
    products.matmul(a, a.T, np.empty((5000, 5000)))


def test_blas_has_its_threads_again_afterwards():
    with threadpoolctl.threadpool_limits(3, "blas"):
        before = blas_threads()
        with shared_out(2):
            assert blas_threads() == {1}
            with one_blas_thread:
                assert blas_threads() == {1}
            assert blas_threads() == {1}
        assert blas_threads() == before
        with pytest.raises(ZeroDivisionError), shared_out(2):
            raise ZeroDivisionError
        assert blas_threads() == before and products._here.threads == 0


def test_it_stays_on_one_thread_while_anybody_wants_it_so():
    entered, leave = threading.Event(), threading.Event()

    def other():
        with one_blas_thread:
            entered.set()
            leave.wait(60)

    with threadpoolctl.threadpool_limits(3, "blas"):
        before, thread = blas_threads(), threading.Thread(target=other)
        with one_blas_thread:
            thread.start()
            assert entered.wait(60)
        assert blas_threads() == {1}
        leave.set()
        thread.join()
        assert blas_threads() == before


def test_any_thread_can_have_it_so():
    """Whichever threadpoolctl thinks is in control."""
    seen = []

    def other():
        with one_blas_thread:
            seen.append(blas_threads())
        seen.append(blas_threads())

    with threadpoolctl.threadpool_limits(3, "blas"):
        before, thread = blas_threads(), threading.Thread(target=other)
        thread.start()
        thread.join()
        assert seen == [{1}, before]
        with threadpoolctl.threadpool_limits(2, "blas"):
            assert blas_threads() == {2}
        assert blas_threads() == before


@pytest.mark.parametrize("before, limit, during", [(3, None, 2), (3, 1, None), (3, 2, None), (1, None, 2)])
def test_what_others_set_meanwhile_stays(before, limit, during):
    """A limit that ends while somebody wants one thread, or one that is set then, for a while or for good."""
    with threadpoolctl.threadpool_limits(before, "blas"):
        counts = blas_threads()
        outer = threadpoolctl.threadpool_limits(limit, "blas")
        with one_blas_thread:
            with threadpoolctl.threadpool_limits(2, "blas"), one_blas_thread:
                assert blas_threads() == {1}
            outer.restore_original_limits()
            if during is not None:
                threadpoolctl.threadpool_limits(during, "blas")
        assert blas_threads() == (counts if during is None else {during})


@pytest.mark.parametrize("shape", [(3000, 70, 70), (60, 9000, 50)], ids=["rows", "sums"])
def test_no_thread_warns_where_its_caller_does_not(shape):
    rows, terms, columns = shape
    a, b = np.ones((rows, terms)), np.ones((terms, columns))
    a[0], a[-1], b[:, -1], b[-1] = np.inf, np.nan, -np.inf, np.inf
    b[0] = 0
    with np.errstate(all="ignore"):
        with shared_out(3):
            out = products.matmul(a, b, np.empty((rows, columns)))
        np.testing.assert_array_equal(out, a @ b)
    with np.errstate(invalid="raise"), shared_out(3), pytest.raises(FloatingPointError):
        products.matmul(a, b, np.empty((rows, columns)))


def test_a_child_process_has_it_for_itself():
    with threadpoolctl.threadpool_limits(3, "blas"):
        before = blas_threads()
        one_blas_thread.__enter__()
        forks._renew()  # what happens in a child
        assert blas_threads() == before
        with one_blas_thread:
            assert blas_threads() == {1}
        assert blas_threads() == before


def normalised(threads, **options):
    hidden = [BatchNorm(), "relu"]
    return Net((70, 90, 80, 5), [hidden, hidden, None], "mse", True, rng=0, backend="numpy", threads=threads, **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [2, 300, 3000])
def test_training_with_batch_normalisation(n, dtype):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(n, 70)).astype(dtype), random.normal(size=(n, 5)).astype(dtype)
    found = []
    for threads, own in ((1, 1), (2, 4), (3, 1)):
        with threadpoolctl.threadpool_limits(own, "blas"):
            net = normalised(threads, dtype=dtype)
            assert net.plan(x).engine == "layered"
            loss, grad_x = net.loss_and_grad(x, y, input_grad=True)
            arrays = [loss, grad_x, *(tensor.grad for tensor in net.parameters)]
            arrays += [tensor.data for tensor in net.buffers.values()]
            net.forward(x, keep_signals=True, training=True)
            net.backward(y)
            arrays += [tensor.grad for tensor in net.parameters]
            found.append([array.tobytes() for array in arrays])
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize("sizes, held", [((4, 5, 3), False), ((300, 200, 3), True)])
def test_one_sample_and_what_blas_computes_on_one_thread_anyway(sizes, held, monkeypatch):
    seen, matmul = [], products.matmul
    monkeypatch.setattr(products, "matmul", lambda *arrays: seen.append(blas_threads()) or matmul(*arrays))
    net = Net(sizes, [["layer_norm", "tanh"], None], rng=0, backend="numpy", engine="layered")
    with threadpoolctl.threadpool_limits(3, "blas"):
        net.loss_and_grad(np.ones(sizes[0]))
        assert seen and all(threads == ({1} if held else blas_threads()) for threads in seen)


def test_code_of_the_users_keeps_blas_as_it_is():
    seen = []

    class Look(Operation):
        def forward(self, z):
            seen.append(blas_threads())
            return z

        def backward(self, grad, z):
            return grad

    with threadpoolctl.threadpool_limits(3, "blas"):
        Net((3, 2), [Look()], rng=0, backend="numpy").loss_and_grad(np.ones((9, 3)))
        assert seen == [blas_threads()]

"""Batches on a device with everything at hand: the bits of a plain call, whatever is changed in between."""

import threading

import numpy as np
import pytest
from arrays import host, target

from backprop_xp import GraphNet, Net
from backprop_xp.engines import fused_gpu
from backprop_xp.graph import BatchNorm, Dropout, Input, LayerNorm, Linear
from backprop_xp.ready import device

pytestmark = pytest.mark.gpu
SIZES, ACTIVATIONS = (3, 4, 3, 2), ("tanh", "sigmoid", "identity")


def plain(net, *arguments):
    """What a call gives with an argument that no prepared one takes."""
    loss = net.loss_and_grad(*arguments, input_grad=True)[0]
    return [host(a) for a in (loss, *(p.grad for p in (*net.weights, *net.biases)))]


def check(net, *arguments, ready=True):
    """A call gives what a plain one gives, to the last bit, and is a prepared one or not."""
    expected = plain(net, *arguments)
    for _ in range(2):
        assert (device.find(net, *arguments, *[None] * (3 - len(arguments))) is not None) == ready
        loss = net.loss_and_grad(*arguments)
        got = [host(a) for a in (loss, *(p.grad for p in (*net.weights, *net.biases)))]
        for a, b in zip(expected, got, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_array_equal(b, a)


def batch(cupy, n=300, width=3, dtype="float64"):
    return cupy.asarray(np.random.default_rng(n).normal(size=(n, width)).astype(dtype))


@pytest.mark.parametrize(
    "loss, dtype, reduction",
    [
        ("half_sum_sq", "float32", "sum"), ("mse", "float64", "mean"), ("softmax_cross_entropy", "float32", "mean"),
        ("probabilities", "float64", "sum"),
    ],
)  # fmt: skip
def test_every_kind_of_target(cupy, random, loss, dtype, reduction):
    name = "softmax_cross_entropy" if loss == "probabilities" else loss
    net = Net(SIZES, ACTIVATIONS, name, True, dtype, 0, "cupy", reduction=reduction)
    for n in (1, 129):  # of one chunk and of two
        y = target(loss, n, 2, random, dtype)
        check(net, batch(cupy, n, dtype=dtype), *(() if y is None else (cupy.asarray(y),)))


def test_more_chunks_than_are_added_up_at_once(cupy, monkeypatch):
    monkeypatch.setattr(fused_gpu, "MOST_A_THREAD", 1)
    check(Net((1, 2), ("tanh",), rng=0, backend="cupy"), batch(cupy, 257 * fused_gpu.THREADS, 1))


def test_batches_differ_and_gradients_that_were_handed_out_stay(cupy):
    net, batches = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy"), [batch(cupy, 300) + k for k in range(3)]
    losses, kept = [], []
    for x in batches:
        losses.append(net.loss_and_grad(x))
        kept.append([w.grad for w in net.weights])
    for x, loss, gradients in zip(batches, losses, kept, strict=True):
        for a, b in zip(plain(net, x), [host(loss), *map(host, gradients)], strict=True):
            np.testing.assert_array_equal(a, b)


def everything_may_change(net, x):
    yield
    x[:] = x * 0.5
    yield
    net.weights[0].data *= 0.5
    yield
    net.weights[1].data = net.weights[1].data.copy()
    yield
    net.activations[0].negative_slope = 0.5
    yield
    net.activations = [net.activations[1], *net.activations[1:]]
    yield
    net.reduction = "mean"
    yield
    net.loss.delta = 0.25
    yield
    net.biases = []
    yield


def test_everything_may_change(cupy):
    net = Net(SIZES, ("leaky_relu", "sigmoid", "identity"), "huber", True, rng=0, backend="cupy")
    x, y = batch(cupy), batch(cupy, 300, 2)
    for _ in everything_may_change(net, x):
        check(net, x, y)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net, "engine", "layered"),
        lambda net: setattr(net.weights[0], "data", net.weights[0].data[::-1]),
        lambda net: setattr(net.weights[0], "data", net.weights[0].data.astype("float32")),
        lambda net: net.weights.__setitem__(1, net.weights[0]),
    ],
    ids=["engine", "strides", "dtype", "shared"],
)
def test_nets_that_need_more(cupy, change):
    net, x = Net((3, 3, 3), ("tanh", "sigmoid"), rng=0, backend="cupy"), batch(cupy)
    check(net, x)
    change(net)
    check(net, x, ready=False)


def test_arrays_that_need_more(cupy):
    net, x = Net(SIZES, ACTIVATIONS, "mse", rng=0, backend="cupy"), batch(cupy)
    y = batch(cupy, 300, 2)
    check(net, x, y)
    for a, b in (
        (x[::-1], y), (x, y[:, ::-1]), (x.astype("float32"), y), (x, y.astype("float32")), (x.get(), y), (x, y.get()),
        (x[0], y[0]),
    ):  # fmt: skip
        assert device.find(net, a, b, None) is None
    assert device.find(net, x, y, True) is None
    for wrong, message in (
        ((x[:, :2], y), "must have 3 features"),
        ((x, y[1:]), "must have the shape"),
        ((x,), "needs a target"),
    ):
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                net.loss_and_grad(*wrong)


def test_a_net_that_moves(cupy):
    net, x = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy"), batch(cupy)
    check(net, x)
    expected = float(net.to("numpy").loss_and_grad(x.get()))
    assert float(net.to("cupy").loss_and_grad(x)) == pytest.approx(expected)
    check(net, x)


def test_signals_of_an_earlier_call_are_dropped(cupy):
    net, x = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy"), batch(cupy)
    net.loss_and_grad(x, keep_signals=True)
    assert net.linear_outputs[0].data is not None
    net.loss_and_grad(x)
    assert net.linear_outputs[0].data is None


def test_the_current_stream_computes(cupy):
    net, x = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy"), batch(cupy)
    expected, stream = plain(net, x), cupy.cuda.Stream(non_blocking=True)
    with stream:
        loss = net.loss_and_grad(x)
    stream.synchronize()
    assert float(loss) == expected[0]


def test_where_memory_lacks_the_batch_is_computed_in_pieces(cupy, monkeypatch):
    net, x = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy"), batch(cupy)
    check(net, x)
    expected, alloc = plain(net, x), cupy.cuda.alloc

    def lacking(size):
        raise cupy.cuda.memory.OutOfMemoryError(size, 0, 0)

    monkeypatch.setattr(cupy.cuda, "alloc", lacking)
    loss = net.loss_and_grad(x)
    monkeypatch.setattr(cupy.cuda, "alloc", alloc)
    assert float(loss) == expected[0]
    check(net, x, ready=False)


def test_no_more_kinds_than_that_are_kept(cupy, monkeypatch):
    monkeypatch.setattr(device, "MOST_KINDS", 2)
    net = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy")
    for n, ready in ((5, True), (6, True), (7, False), (5, True)):
        check(net, batch(cupy, n), ready=ready)


def test_threads_share_a_net(cupy):
    net, batches, losses = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy"), [batch(cupy) + k for k in range(4)], {}
    expected = [float(net.loss_and_grad(x)) for x in batches]

    def work(k):
        losses[k] = [float(net.loss_and_grad(batches[k])) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert losses == {k: [expected[k]] * 20 for k in range(4)}


RESIDUAL = {
    "x": Input(4), "z": Input(5), "h": (Linear(5), "x"), "n": (LayerNorm(), "h"), "m": ("multiply", "n", "z"),
    "l": (Linear(5, bias=False), "m"), "s": ("add", "l", "h"), "all": ("concatenate", "s", "x"),
    "end": (Linear(2), "all"),
}  # fmt: skip


def graph_call(net, x, training, ready):
    """Loss and gradients by a prepared call, or by a plain one."""
    given = {} if ready else {"input_grad": True}
    loss = net.loss_and_grad(x, training=training, **given)
    return [host(a) for a in (loss if ready else loss[0], *(t.grad for t in net.tensors.values()))]


@pytest.mark.parametrize("dropping", [False, True])
def test_graphs_and_chains_of_the_cooperative_engine(cupy, dropping):
    random = np.random.default_rng(0)
    nodes = RESIDUAL | ({"d": (Dropout(0.5), "l"), "s": ("add", "d", "h")} if dropping else {})
    x = {name: cupy.asarray(random.normal(size=(130, width))) for name, width in (("x", 4), ("z", 5))}
    prepared, plainly = (GraphNet(nodes, rng=0, backend="cupy", engine="cooperative") for _ in range(2))
    for training in (True, True, False):  # the second draws anew
        found = device.find(prepared, x, None, None, training)
        assert found is not None
        for a, b in zip(graph_call(plainly, x, training, False), graph_call(prepared, x, training, True), strict=True):
            np.testing.assert_array_equal(b, a)
        for net in (prepared, plainly):
            net.tensors["h.weight"].data *= 0.5
    assert device.find(prepared, dict(reversed(x.items())), None, None) is None
    assert device.find(prepared, x | {"x": x["x"][::-1]}, None, None) is None
    check(Net((40, 50, 3), ("tanh", "sigmoid"), rng=0, backend="cupy", engine="cooperative"), batch(cupy, 130, 40))


def test_graphs_that_need_more(cupy):
    x = batch(cupy, 130, 4)
    shared = {"x": Input(4), "a": (Linear(4), "x"), "b": (Linear(4, share="a"), "a"), "s": ("add", "b", "x")}
    normal = {"x": Input(4), "a": (Linear(4), "x"), "b": (BatchNorm(), "a"), "s": ("add", "b", "x")}
    net = GraphNet(shared, rng=0, backend="cupy", engine="cooperative")
    assert device.find(net, x, None, None) is None
    net = GraphNet(normal, rng=0, backend="cupy", engine="cooperative")
    net.buffers["b.running_mean"].data = net.buffers["b.running_mean"].data.astype("float32")
    assert device.find(net, x, None, None) is None
    net.buffers["b.running_mean"].data = net.buffers["b.running_mean"].data.astype("float64")
    expected = graph_call(net, x, False, False)
    assert device.find(net, x, None, None, False) is not None
    for a, b in zip(expected, graph_call(net, x, False, True), strict=True):
        np.testing.assert_array_equal(a, b)
    net.buffers["b.running_var"].data = net.buffers["b.running_var"].data * 4
    for a, b in zip(graph_call(net, x, False, False), graph_call(net, x, False, True), strict=True):
        np.testing.assert_array_equal(a, b)

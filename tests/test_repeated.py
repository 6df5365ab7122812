"""The same call again and again: the numbers of a plain call, whatever is changed in between."""

import numpy as np
import pytest
from arrays import host
from own import Cube

from backprop_xp import GraphNet, Net, repeated
from backprop_xp.graph import BatchNorm, Input, LayerNorm, Linear
from backprop_xp.repeated import Repeated

SIZES, ACTIVATIONS = (3, 4, 3, 2), ("tanh", "sigmoid", "identity")


def numbers(net, loss):
    return [host(a) for a in (loss, *(p.grad for p in (*net.weights, *net.biases)))]


def check(net, step, *arguments, **options):
    """The step gives what a plain call gives, to the last bit."""
    expected = numbers(net, net.loss_and_grad(*arguments, **options))
    for p in (*net.weights, *net.biases):
        p.grad = None
    for _ in range(2):
        for a, b in zip(expected, numbers(net, step()), strict=True):
            np.testing.assert_array_equal(a, b)


def everything_may_change(net, x, step):
    xp = net.backend.xp
    check(net, step, x)
    x[:] = xp.linspace(-1, 1, x.size).reshape(x.shape)
    check(net, step, x)
    net.weights[0].data *= 0.5
    check(net, step, x)
    net.weights[1].data = net.weights[1].data[::-1]
    check(net, step, x)
    net.activations[0].negative_slope = 0.5
    check(net, step, x)
    net.activations = ["relu", "sigmoid", "identity"]
    check(net, step, x)
    net.reduction = "mean"
    check(net, step, x)
    net.engine = "layered"
    check(net, step, x)
    net.engine, net.activations = "auto", [Cube(), "tanh", "identity"]
    check(net, step, x)


def leaky():
    return Net(SIZES, ("leaky_relu", "sigmoid", "identity"), rng=0)


def test_on_the_host_it_is_a_plain_call():
    net, x = leaky(), np.random.default_rng(0).normal(size=(40, 3))
    step = net.repeated(x)
    everything_may_change(net, x, step)
    assert step.graph is None
    with pytest.raises(ValueError, match="takes no target, got y"):
        net.repeated(x, x)()


@pytest.mark.gpu
def test_on_a_device_everything_may_change(cupy):
    net, x = leaky().to("cupy"), cupy.asarray(np.random.default_rng(0).normal(size=(300, 3)))
    step = net.repeated(x)
    assert step.graph is None
    step()
    assert step.graph is not None
    everything_may_change(net, x, step)
    assert step.graph is None  # the last net is one for the layered engine


@pytest.mark.gpu
@pytest.mark.parametrize("loss", ["half_sum_sq", "softmax_cross_entropy"])
def test_an_unchanged_net_is_recognised_without_looking_at_all_of_it(loss, cupy, monkeypatch):
    net, x = Net(SIZES, ACTIVATIONS, loss, rng=0, backend="cupy"), cupy.ones((40, 3))
    y = None if loss == "half_sum_sq" else cupy.zeros(40, "int64")
    step = net.repeated(x, y)
    step()
    monkeypatch.setattr(repeated, "_state", lambda net: pytest.fail("looked at"))
    net.weights[0].data *= 0.5
    check(net, step, *(x,) if y is None else (x, y))


@pytest.mark.gpu
@pytest.mark.parametrize("engine, n", [("fused", 1), ("fused", 600), ("cooperative", 600)])
def test_targets_and_weights_are_read_anew(engine, n, cupy):
    random = np.random.default_rng(0)
    x, y = cupy.asarray(random.normal(size=(n, 6))), cupy.asarray(random.integers(0, 3, n).astype(np.int32))
    weight = cupy.asarray(random.uniform(0.5, 2, n))
    net = Net((6, 3), ("relu",), "softmax_cross_entropy", True, "float32", 1, "cupy", reduction="mean", engine=engine)
    step = net.repeated(x, y, sample_weight=weight)
    check(net, step, x, y, sample_weight=weight)
    assert step.graph is not None
    x *= 2
    y[:] = (y + 1) % 3
    weight[: n // 2] = 0.25
    check(net, step, x, y, sample_weight=weight)


@pytest.mark.gpu
def test_a_step_of_descent_in_place(cupy):
    net, x = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy"), cupy.ones((8, 3))
    step, losses = net.repeated(x), []
    for _ in range(5):
        losses.append(float(step()))
        for w in net.weights:
            w.data -= 0.01 * w.grad
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 5


@pytest.mark.gpu
def test_results_are_the_same_arrays_and_other_memory_is_not_touched(cupy):
    net, x = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy"), cupy.ones((300, 3))
    step = net.repeated(x)
    loss, grad = step(), net.weights[0].grad
    cupy.get_default_memory_pool().free_all_blocks()
    others = [cupy.full(500, 7.0) for _ in range(50)]
    assert step() is loss
    assert net.weights[0].grad is grad
    assert all((other == 7).all() for other in others)


@pytest.mark.gpu
def test_on_the_callers_stream_and_after_a_move(cupy):
    net, x = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy"), cupy.ones((33, 3))
    expected, step, stream = float(net.loss_and_grad(x)), net.repeated(x), cupy.cuda.Stream(non_blocking=True)
    for _ in range(2):
        with stream:
            loss = step()
        stream.synchronize()
        assert float(loss) == expected
    net.to("numpy")
    with pytest.raises(TypeError, match=r"x is an array on a CUDA device"):
        step()


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["fused", "cooperative"])
def test_a_weight_of_another_dtype_is_captured_once_and_read_anew(engine, cupy, monkeypatch):
    captures, capture = [], Repeated._capture
    monkeypatch.setattr(Repeated, "_capture", lambda self: (captures.append(1), capture(self))[1])
    net, x = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy", engine=engine), cupy.ones((300, 3))
    net.weights[1].data = net.weights[1].data.astype(np.float32)
    step = net.repeated(x)
    for factor in (1.0, 0.5, 0.25):
        net.weights[1].data *= np.float32(factor)
        check(net, step, x)
    assert step.graph is not None
    assert len(captures) == 1


@pytest.mark.gpu
def test_a_capture_that_fails_says_why_and_is_tried_again(cupy, monkeypatch):
    net, x = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy"), cupy.ones((300, 3))
    step, calls, plain = net.repeated(x), [], Net.loss_and_grad

    def failing(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 2:  # the first one warms up
            raise MemoryError("no memory for the capture")
        return plain(self, *arguments, **options)

    monkeypatch.setattr(Net, "loss_and_grad", failing)
    with pytest.raises(MemoryError, match="no memory for the capture"):
        step()
    monkeypatch.undo()
    check(net, step, x)
    assert step.graph is not None


@pytest.mark.gpu
def test_host_arrays_are_read_anew(cupy):
    net, x = Net(SIZES, ACTIVATIONS, rng=0, backend="cupy"), np.ones((33, 3))
    step = net.repeated(x)
    check(net, step, x)
    x *= 2
    check(net, step, x)
    assert step.graph is None


@pytest.mark.gpu
def test_a_graph_without_draws_is_captured_and_its_statistics_and_settings_are_seen(cupy):
    nodes = {
        "x": Input(4), "z": Input(5), "h": (Linear(5), "x"), "n": (LayerNorm(), "h"), "b": (BatchNorm(), "n"),
        "m": ("multiply", "b", "z"), "end": (Linear(2, share="end2"), "m"), "end2": (Linear(2), "m"),
        "s": ("add", "end", "end2"),
    }  # fmt: skip
    still = {name: node for name, node in nodes.items() if name != "b"} | {"m": ("multiply", "n", "z")}
    random = np.random.default_rng(0)
    x = {name: cupy.asarray(random.normal(size=(70, width))) for name, width in (("x", 4), ("z", 5))}
    net = GraphNet(still, rng=0, backend="cupy", engine="cooperative")
    step = net.repeated(x)

    def same():
        expected = [host(net.loss_and_grad(x)), *(host(t.grad) for t in net.tensors.values())]
        for _ in range(2):
            for a, b in zip(expected, [host(step()), *(host(t.grad) for t in net.tensors.values())], strict=True):
                np.testing.assert_array_equal(a, b)

    same()
    assert step.graph is not None
    x["z"][:] *= 2
    same()
    next(node.operation for node in net.nodes if node.name == "n").eps = 0.5
    same()
    net = GraphNet(nodes, rng=0, backend="cupy")  # statistics of the whole batch are for the layered engine
    step = net.repeated(x)
    step()
    assert step.graph is None

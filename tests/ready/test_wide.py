"""One sample of a chain through the pass for nets of any widths: every signal is kept, equal to the layered engine's."""

import copy
import pickle

import numpy as np
import pytest
from here import needs_compiler

from backprop_xp import LOSSES, GraphNet, Input, Linear, Net
from backprop_xp.losses import ElementwiseLoss
from backprop_xp.programs import matrices
from backprop_xp.ready import calls, sample, wide

pytestmark = needs_compiler
LOSS_NAMES = [*(name for name, loss in LOSSES.items() if issubclass(loss, ElementwiseLoss)), "classes", "probabilities"]
ROUNDING = {"float32": 1e-4, "float64": 1e-11}


@pytest.fixture(autouse=True)
def small_nets_are_large(monkeypatch):
    monkeypatch.setattr(sample, "MOST_PARAMETERS", 0)
    monkeypatch.setattr(matrices, "WORTH_A_THREAD", 1.0)


def of(sizes, engine="auto", loss="half_sum_sq", **options):
    names = ("tanh", "leaky_relu", "identity", "gelu")[: len(sizes) - 2]
    loss = "softmax_cross_entropy" if loss in ("classes", "probabilities") else loss
    options = {"bias": True, "rng": 3, "backend": "numpy", "init": "glorot_normal"} | options
    return Net(sizes, (*names, "sigmoid"), loss, engine=engine, **options)


def draw(sizes, loss="half_sum_sq"):
    """One sample and its target."""
    random = np.random.default_rng(0)
    x, outputs = random.normal(size=sizes[0]), sizes[-1]
    if loss == "classes":
        return x, outputs // 2
    if loss == "probabilities":
        return x, random.dirichlet(np.ones(outputs))
    return x, random.uniform(size=outputs) if LOSSES[loss].needs_target else None


def everything(net):
    """All gradients, and all signals with theirs."""
    signals = net.signals.values()
    return [p.grad for p in net.parameters], [s.data for s in signals], [s.grad for s in signals]


def assert_same(net, reference, eps):
    for some, others in zip(everything(net), everything(reference), strict=True):
        for a, b in zip(some, others, strict=True):
            if b is None:
                assert a is None
                continue
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=eps, atol=eps * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_losses(loss, reduction, dtype):
    sizes = (5, 7, 3)
    net, reference = (of(sizes, e, loss, dtype=dtype, reduction=reduction) for e in ("auto", "layered"))
    x, y = draw(sizes, loss)
    assert isinstance(calls.find(net, x, y, None), wide.WideSample)
    found, expected = net.loss_and_grad(x, y), reference.loss_and_grad(x, y)
    assert type(found) is type(expected)
    np.testing.assert_allclose(found, expected, rtol=ROUNDING[dtype])
    assert_same(net, reference, ROUNDING[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (16, 17, 16), (33, 70, 1, 15, 40), (300, 257, 130, 5)], ids=str)
def test_widths_and_threads(sizes, bias, dtype):
    """The same bits for any number of threads, and for a batch of one."""
    x, y = draw(sizes, "mse")
    x, y = x.astype(dtype), y.astype(dtype)
    nets = [of(sizes, loss="mse", bias=bias, dtype=dtype, threads=threads) for threads in (1, 2, 5)]
    reference = of(sizes, "layered", "mse", bias=bias, dtype=dtype)
    losses = [net.loss_and_grad(x, y) for net in nets]
    reference.loss_and_grad(x, y)
    assert_same(nets[0], reference, ROUNDING[dtype])
    batch = of(sizes, loss="mse", bias=bias, dtype=dtype)
    losses.append(batch.loss_and_grad(x[None], y[None]))
    assert len(set(losses)) == 1
    for net in (*nets[1:], batch):
        for a, b in zip(net.parameters, nets[0].parameters):
            assert np.array_equal(a.grad, b.grad)
    for net in nets[1:]:
        for a, b in zip(net.signals.values(), nets[0].signals.values()):
            assert np.array_equal(a.data, b.data) and np.array_equal(a.grad, b.grad)


def test_from_how_many_parameters_on(monkeypatch):
    monkeypatch.setattr(sample, "MOST_PARAMETERS", 12)
    for sizes, kind in (((4, 3), sample.Single), ((13, 1), wide.WideSample)):
        net = of(sizes, bias=False)
        assert isinstance(calls.find(net, draw(sizes)[0], None, None), kind)


def test_a_chain_too_deep_for_a_program_of_its_own(monkeypatch):
    monkeypatch.setattr(sample, "MOST_PARAMETERS", 1 << 17)
    sizes = (2,) * 66
    net, reference = (Net(sizes, rng=0, init="glorot_normal", backend="numpy", engine=e) for e in ("auto", "layered"))
    x = np.ones(2)
    assert isinstance(calls.find(net, x, None, None), wide.WideSample)
    np.testing.assert_allclose(net.loss_and_grad(x), reference.loss_and_grad(x), rtol=1e-11)
    assert_same(net, reference, 1e-11)


def test_the_outputs():
    sizes = (5, 17, 3)
    net, reference = of(sizes), of(sizes, "layered")
    x, _ = draw(sizes)
    for one in (net, reference):
        one.loss_and_grad(np.ones(5))
    before = [p.grad for p in net.parameters]
    assert isinstance(calls.find_forward(net, x, None), wide.WideOutputs)
    output = net(x)
    np.testing.assert_allclose(output, reference(x), rtol=1e-12)
    output[:] = 0
    for a, b in zip(net.signals.values(), reference.signals.values()):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-12)
        assert a.grad is None and b.grad is None
    assert all(p.grad is grad for p, grad in zip(net.parameters, before))
    for one in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        grads = [each.backward(np.arange(3.0), input_grad=True) for each in (one, reference)]
        np.testing.assert_allclose(grads[0], grads[1], rtol=1e-12)
        assert_same(one, reference, 1e-12)


def test_a_backward_pass_starts_from_what_the_call_kept():
    """Whatever became of x since."""
    sizes = (5, 17, 3)
    net, reference = of(sizes), of(sizes, "layered")
    x, _ = draw(sizes)
    for one in (net, reference):
        given = x.copy()
        one.loss_and_grad(given)
        given[:] = np.nan
    grads = [one.backward(np.arange(3.0), input_grad=True) for one in (net, reference)]
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-12)
    assert_same(net, reference, 1e-12)


def test_a_graph_that_is_a_chain():
    nodes = {"x": Input(5), "a": (Linear(40), "x"), "b": ("tanh", "a"), "c": (Linear(4, bias=False), "b")}
    net, reference = (GraphNet(nodes, rng=0, backend="numpy", loss="huber", engine=e) for e in ("auto", "layered"))
    x, y = np.linspace(-1, 1, 5), np.ones(4)
    assert isinstance(calls.find(net, x, y, None), wide.WideSample)
    np.testing.assert_allclose(net.loss_and_grad(x, y), reference.loss_and_grad(x, y), rtol=1e-12)
    assert_same(net, reference, 1e-12)
    grads = [one.backward(np.arange(4.0), input_grad=True) for one in (net, reference)]
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-12)


def test_what_was_handed_out_is_not_overwritten():
    net = of((5, 17, 3))
    net.loss_and_grad(np.ones(5))
    found = [array for arrays in everything(net) for array in arrays]
    before = [array.copy() for array in found]
    for _ in range(3):
        net.loss_and_grad(np.full(5, 5.0))
    assert all(np.array_equal(a, b) for a, b in zip(found, before))
    net.loss_and_grad(np.ones((2, 5)))
    assert net.linear_outputs[0].data is None
    with pytest.raises(RuntimeError, match="no signals are kept"):
        net.backward(np.ones(3))


CHANGES = {
    "in place": lambda net: net.weights[0].data.__imul__(0.5),
    "bound anew": lambda net: setattr(net.biases[1], "data", net.biases[1].data + 1),
    "another loss": lambda net: setattr(net, "loss", LOSSES["mse"]()),
    "a parameter": lambda net: setattr(net.loss, "delta", 0.01),
    "the reduction": lambda net: setattr(net, "reduction", "mean"),
    "one Tensor in two layers": lambda net: net.weights.__setitem__(1, net.weights[0]),
    "other Tensors for signals": lambda net: net.linear_outputs.__setitem__(0, type(net.linear_outputs[0])(None)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_is_stale(change):
    sizes = (5, 5, 5)
    net, reference = of(sizes, loss="huber"), of(sizes, "layered", "huber")
    x, y = draw(sizes, "huber")
    net.loss_and_grad(x, y)
    net(x)
    for one in (net, reference):
        change(one)
    np.testing.assert_allclose(net.loss_and_grad(x, y), reference.loss_and_grad(x, y), rtol=1e-12)
    assert_same(net, reference, 1e-12)
    np.testing.assert_allclose(net(x), reference(x), rtol=1e-12)
    assert_same(net, reference, 1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(bad):
    sizes = (20, 17, 3)
    net, reference = of(sizes), of(sizes, "layered")
    x, _ = draw(sizes)
    x[18] = bad
    for one in (net, reference):
        one.loss_and_grad(x)
    assert_same(net, reference, 1e-12)


def test_other_kinds_of_input_and_what_is_wrong():
    sizes = (5, 17, 3)
    net = of(sizes, loss="classes")
    x, _ = draw(sizes)
    expected = net.loss_and_grad(x, 2)
    assert net.loss_and_grad(np.repeat(x, 2)[::2], np.int32(2)) == expected
    assert net.loss_and_grad(list(x), 2) == pytest.approx(expected, rel=1e-13)
    assert net.loss_and_grad(x, 2, keep_signals=False) == pytest.approx(expected, rel=1e-13)
    assert net.linear_outputs[0].data is None
    with pytest.raises(ValueError, match="class indices must be from 0 to 2"):
        net.loss_and_grad(x, 3)
    with pytest.raises(ValueError, match="x must have 5 features, got 4"):
        net.loss_and_grad(x[:4], 2)

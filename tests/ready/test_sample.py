"""One sample through a compiled net: equal to the layered engine, and never stale."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from backprop_xp import ACTIVATIONS, LOSSES, Elementwise, Net, Tanh
from backprop_xp.losses import ElementwiseLoss
from backprop_xp.toolchain import compiler

pytestmark = pytest.mark.skipif(bool(compiler.missing()), reason="no C++ compiler on this machine")
ELEMENTWISE = [name for name, loss in LOSSES.items() if issubclass(loss, ElementwiseLoss)]


def both(sizes, activations, **options):
    """The same net on the layered engine and on the compiled one."""
    return (Net(sizes, activations, rng=3, backend="numpy", engine=engine, **options) for engine in ("layered", "auto"))


def assert_same(reference, net, x, y=None, eps=1e-13):
    expected, got = reference.loss_and_grad(x, y), net.loss_and_grad(x, y)
    assert net._prepared._single is not None, "the compiled net did not run"
    assert type(got) is type(expected)
    np.testing.assert_allclose(got, expected, rtol=eps)
    for name in ("weights", "biases", "linear_outputs", "nonlinear_outputs"):
        for a, b in zip(getattr(reference, name), getattr(net, name), strict=True):
            scale = max(1.0, np.abs(a.grad).max())
            np.testing.assert_allclose(b.grad, a.grad, rtol=eps, atol=eps * scale)
            np.testing.assert_allclose(b.data, a.data, rtol=eps, atol=eps)
            assert b.grad.dtype == net.dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_losses(loss, reduction, dtype):
    pair = both((4, 5, 3), ("tanh", "identity"), loss=loss, bias=True, reduction=reduction, dtype=dtype)
    x, y = np.linspace(-1, 1, 4), np.array([0.0, 1.0, 0.25])
    eps = 2e-5 if dtype == "float32" else 1e-13
    assert_same(*pair, x, y if LOSSES[loss].needs_target else None, eps)


def test_every_activation_in_one_net():
    names = tuple(ACTIVATIONS)
    assert_same(*both((3,) + (4,) * len(names), names, init="glorot_normal"), np.array([0.5, -1.0, 2.0]), eps=1e-11)


def test_nan_and_infinity_propagate():
    reference, net = both((3, 4, 2), ("sigmoid", "identity"))
    for x in (np.array([np.nan, 0, 0]), np.array([np.inf, 1, 1])):
        for n in (reference, net):
            n.loss_and_grad(x)
        for a, b in zip(reference.weights, net.weights):
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-12)


def test_a_subclass_runs_its_own_code():
    class Doubled(Tanh):
        def grad(self, x):
            return 2 * super().grad(x)

    reference, net = both((3, 2), (Doubled(),))
    assert reference.loss_and_grad(np.ones(3)) == net.loss_and_grad(np.ones(3))
    assert net._prepared is None
    assert np.array_equal(reference.weights[0].grad, net.weights[0].grad)


def test_an_elementwise_of_the_user_is_compiled():
    bump = Elementwise("bump", "exp(-width * t ** 2)", params={"width": 2.0})
    assert_same(*both((3, 2), (bump,)), np.array([0.1, 0.2, -0.3]))


def test_what_was_handed_out_is_not_overwritten():
    net = Net((3, 2), rng=0, backend="numpy")
    net.loss_and_grad(np.ones(3))
    grad, signal = net.weights[0].grad, net.linear_outputs[0].data
    before = grad.copy(), signal.copy()
    net.loss_and_grad(np.full(3, 5.0))
    assert np.array_equal(grad, before[0])
    assert np.array_equal(signal, before[1])
    assert not np.array_equal(net.weights[0].grad, grad)


def test_a_gradient_can_be_set_and_data_changed_before_it_is_read():
    net = Net((3, 2), rng=0, backend="numpy")
    net.loss_and_grad(np.ones(3))
    net.weights[0].data = net.weights[0].data + 1
    assert net.weights[0].grad.shape == (2, 3)
    net.loss_and_grad(np.ones(3))
    net.weights[0].grad = None
    assert net.weights[0].grad is None


def test_backward_after_a_compiled_call():
    reference, net = both((3, 4, 2), ("tanh", "identity"))
    x = np.array([1.0, 2.0, 3.0])
    for n in (reference, net):
        n.loss_and_grad(x)
    a, b = (n.backward(np.ones(2), input_grad=True) for n in (reference, net))
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_copies_and_pickles_have_their_own():
    net = Net((3, 2), rng=0, backend="numpy")
    loss = net.loss_and_grad(np.ones(3))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        other.weights[0].data *= 2
        assert other.loss_and_grad(np.ones(3)) != loss
        assert net.loss_and_grad(np.ones(3)) == loss


def test_input_of_other_kinds_gives_the_same():
    net = Net((3, 2), rng=0, backend="numpy")
    expected = net.loss_and_grad(np.array([1.0, 2.0, 3.0]))
    strided = np.array([1.0, 0, 2.0, 0, 3.0, 0])[::2]
    strided.flags.writeable = False
    for x in ([1, 2, 3], (1.0, 2.0, 3.0), np.array([1, 2, 3]), strided, np.float32([1, 2, 3])):
        assert net.loss_and_grad(x) == pytest.approx(expected, rel=1e-14)


def test_wide_nets_and_wrong_shapes_go_the_ordinary_way():
    net = Net((100, 100), rng=0, backend="numpy")
    net.loss_and_grad(np.ones(100))
    assert net._prepared._single is None
    small = Net((3, 2), rng=0, backend="numpy")
    small.loss_and_grad(np.ones(3))
    with pytest.raises(ValueError, match="x must have 3 features, got 4"):
        small.loss_and_grad(np.ones(4))

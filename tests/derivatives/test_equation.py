"""Equations: losses and gradients against nested automatic differentiation and central differences, and messages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import Equation, Net, exchange
from backprop_xp.derivatives import loops
from backprop_xp.training import Adam

torch = pytest.importorskip("torch")

NAMES = {"inputs": "x t", "outputs": "u v", "params": {"nu": 0.3}, "targets": "f"}
#: Formulas of these names, and the same in PyTorch, of a dictionary of what they read.
RESIDUALS = {
    "u_t + u * u_x - nu * u_xx": lambda d: d["u_t"] + d["u"] * d["u_x"] - 0.3 * d["u_xx"],
    "v_xx + v_tt - f": lambda d: d["v_xx"] + d["v_tt"] - d["f"],
    "u_x ** 2 + u_t ** 2 - 1": lambda d: d["u_x"] ** 2 + d["u_t"] ** 2 - 1,
    "exp(-x * x) * u_xt - tanh(t) * v": lambda d: torch.exp(-(d["x"] ** 2)) * d["u_xt"] - torch.tanh(d["t"]) * d["v"],
    "u_xxt - 6 * u * v_x": lambda d: d["u_xxt"] - 6 * d["u"] * d["v_x"],
    "u - v": lambda d: d["u"] - d["v"],
}


def make(reduction="sum", seed=0, dtype="float64"):
    net = Net((2, 9, 7, 2), ("tanh", "gelu", "identity"), "mse", True, dtype, seed, "numpy", "glorot_normal", reduction)
    for b in net.biases:
        b.data = np.random.default_rng(seed + 1).normal(size=b.data.shape).astype(dtype)
    return net


def read_by_pytorch(module, x, y):
    """Every derivative that RESIDUALS read, by name."""
    out = module(x)
    found = {"x": x[:, 0], "t": x[:, 1], "f": y}

    def derive(name, values, order):
        found[name] = values
        if order:
            slope = torch.autograd.grad(values.sum(), x, create_graph=True, allow_unused=True)[0]
            for k, letter in enumerate("xt"):
                derive(f"{name}{'' if '_' in name else '_'}{letter}", slope[:, k], order - 1)

    derive("u", out[:, 0], 3)
    derive("v", out[:, 1], 2)
    return found


@settings(deadline=None, max_examples=20)
@given(
    texts=st.lists(st.sampled_from(list(RESIDUALS)), min_size=1, max_size=3, unique=True),
    n=st.integers(1, 6),
    weighted=st.booleans(),
    reduction=st.sampled_from(["sum", "mean"]),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradients_are_pytorchs(texts, n, weighted, reduction, seed):
    net, random = make(reduction, seed), np.random.default_rng(seed)
    equation = Equation(*texts, **NAMES)
    x, y = random.normal(size=(n, 2)), random.normal(size=n)
    weight = random.uniform(0.1, 1, size=n) if weighted else None
    loss, grad_x = net.loss_and_grad(x, y, loss=equation, sample_weight=weight, input_grad=True)
    module = exchange.to_torch(net)
    points = torch.tensor(x, requires_grad=True)
    named = read_by_pytorch(module, points, torch.tensor(y))
    w = torch.ones(n, dtype=torch.float64) if weight is None else torch.tensor(weight)
    expected = 0.5 * sum((w * RESIDUALS[text](named) ** 2).sum() for text in texts)
    expected = expected / w.sum() if reduction == "mean" else expected
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-10)
    theirs = list(module.parameters())
    for ours, name in ((net.weights, theirs[::2]), (net.biases, theirs[1::2])):
        for tensor, parameter in zip(ours, name, strict=True):
            grad = 0 if parameter.grad is None else parameter.grad
            np.testing.assert_allclose(tensor.grad, grad, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(grad_x, points.grad, rtol=1e-8, atol=1e-9)


def test_gradients_are_central_differences(random):
    net, equation = make(), Equation("u_xt * v - nu * u_xx + x", **{**NAMES, "targets": ""})
    x = random.normal(size=(5, 2))
    net.loss_and_grad(x, loss=equation)
    for tensor in net.parameters:
        at, h = (0,) * tensor.data.ndim, 1e-5
        grad, kept = tensor.grad[at], tensor.data[at]
        losses = []
        for value in (kept + h, kept - h):
            tensor.data[at] = value
            losses.append(0.5 * (net.residuals(equation, x) ** 2).sum())
        tensor.data[at] = kept
        assert grad == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=1e-6, abs=1e-7)


def test_in_tiles_as_at_once_and_added_up(monkeypatch, random):
    net, equation = make(), Equation("u_t - nu * u_xx", **{**NAMES, "targets": ""})
    net.engine = "layered"
    x = random.normal(size=(50, 2))
    whole = net.loss_and_grad(x, loss=equation)
    grads = [p.grad for p in net.parameters]
    monkeypatch.setattr(loops, "AT_ONCE", 400)
    loss, grad_x = net.loss_and_grad(x, loss=equation, input_grad=True)
    assert loss == pytest.approx(whole) and grad_x.shape == x.shape
    for p, g in zip(net.parameters, grads):
        np.testing.assert_allclose(p.grad, g, rtol=1e-12, atol=1e-12)
    once = [p.grad for p in net.parameters]
    net.loss_and_grad(x, loss=equation, accumulate=True)
    for p, g in zip(net.parameters, once):
        np.testing.assert_array_equal(p.grad, g + g)


def test_parameters_may_be_changed(random):
    net, equation = make(), Equation("u_t - nu * u_xx", **{**NAMES, "targets": ""})
    x = random.normal(size=(4, 2))
    before = net.residuals(equation, x)
    equation.nu = 3.0
    d = net.derivatives(x, "u_t", "u_xx", inputs="x t", outputs="u v")
    np.testing.assert_allclose(net.residuals(equation, x)[:, 0], d["u_t"] - 3.0 * d["u_xx"], rtol=1e-12)
    assert not np.allclose(before, net.residuals(equation, x))


def test_the_nets_own_loss_and_others(random):
    """``loss=`` takes any loss for one call."""
    net = make()
    x, y = random.normal(size=(6, 2)), random.normal(size=(6, 2))
    other = Net((2, 9, 7, 2), ("tanh", "gelu", "identity"), "huber", True, "float64", 0, "numpy", "glorot_normal")
    for p, q in zip(other.parameters, net.parameters):
        p.data = q.data
    assert net.loss_and_grad(x, y, loss="huber") == other.loss_and_grad(x, y)
    assert all((p.grad == q.grad).all() for p, q in zip(net.parameters, other.parameters))
    assert net.loss.name == "mse"


def test_it_solves_an_equation():
    """u'' = -u with u(0) = 0, u'(0) = 1 is the sine."""
    net = Net(
        (1, 16, 1), ("tanh", "identity"), "mse", True, rng=0, backend="numpy", init="glorot_normal", reduction="mean"
    )
    inside, start = np.linspace(0, 2, 40)[:, None], np.zeros((1, 1))
    wave = Equation("u_xx + u", inputs="x")
    begin = Equation("3 * u", "3 * (u_x - 1)", inputs="x")
    adam = Adam(lr=0.02)
    for step in range(1500):
        net.loss_and_grad(inside, loss=wave)
        net.loss_and_grad(start, loss=begin, accumulate=True)
        adam.step(net.parameters, factor=0.995 ** (step / 4))
    np.testing.assert_allclose(net(inside), np.sin(inside), atol=0.02)


@pytest.mark.parametrize(
    ("residuals", "options", "message"),
    [
        ((), {"inputs": "x"}, "needs a formula"),
        (("u_tt - q",), {"inputs": "x t"}, "unknown name 'q'; known are u, x, t, and derivatives such as u_x"),
        (("u_q",), {"inputs": "x t"}, "'u_q' is no derivative of 'u' in the inputs x t"),
        (("u +",), {"inputs": "x t"}, "'u [+]' is no formula"),
        (("x * t",), {"inputs": "x t"}, "no residual.* reads an output of the net"),
        (("foo(u)",), {"inputs": "x t"}, "unknown function 'foo'"),
        (("u.x",), {"inputs": "x t"}, "is not part of the formula language"),
        (("u < x",), {"inputs": "x t"}, "is a comparison"),
        (("u_x",), {"inputs": "x t x"}, "holds a name twice"),
        (("u_x",), {"inputs": "x u"}, "'u' names two things"),
        (("u_x",), {"inputs": "x t", "params": {"x": 1.0}}, "'x' names two things"),
        (("u_x",), {"inputs": "x t", "params": {"values": 1.0}}, "a parameter can't be called 'values'"),
        (("u_x",), {"inputs": "x t", "params": {"nu": "big"}}, "nu"),
    ],
)
def test_mistakes_are_named_at_once(residuals, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Equation(*residuals, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"x": np.ones((3, 2)), "y": np.ones(3)}, "the equation takes no targets, got y"),
        ({"x": np.ones((3, 4))}, "x must have 2 features, got 4"),
        ({"x": np.ones((3, 2)), "sample_weight": np.ones(2)}, "sample_weight"),
        ({"x": np.ones((3, 2)), "keep_signals": True}, "an equation keeps no signals"),
    ],
)
def test_calls_that_dont_fit(call, message):
    net, equation = make(), Equation("u_t - nu * u_xx", **{**NAMES, "targets": ""})
    with pytest.raises(ValueError, match=message):
        net.loss_and_grad(call.pop("x"), loss=equation, **call)


def test_targets_and_widths_that_dont_fit(random):
    net, x = make(), random.normal(size=(3, 2))
    with pytest.raises(ValueError, match="the equation reads the targets f, got no y"):
        net.loss_and_grad(x, loss=Equation("u - f", **NAMES))
    with pytest.raises(ValueError, match=r"y must be \(3, 1\), a column for each target, got \(3, 2\)"):
        net.loss_and_grad(x, np.ones((3, 2)), loss=Equation("u - f", **NAMES))
    with pytest.raises(ValueError, match=r"1 inputs \(x\) and 1 outputs \(u\); the net has 2 and 2"):
        net.loss_and_grad(x, loss=Equation("u_x", inputs="x"))


def test_no_points_have_no_loss():
    net, equation = make(), Equation("u_t", **{**NAMES, "targets": ""})
    assert net.loss_and_grad(np.ones((0, 2)), loss=equation) == 0
    assert all((p.grad == 0).all() for p in net.parameters)


@pytest.mark.gpu
def test_on_a_gpu(cupy, random):
    net, equation = make("mean"), Equation("u_t + u * u_x - nu * u_xx", "v_xt", **{**NAMES, "targets": ""})
    x = random.normal(size=(9, 2))
    loss = net.loss_and_grad(x, loss=equation)
    grads = [p.grad for p in net.parameters]
    net.to("cupy")
    assert float(net.loss_and_grad(cupy.asarray(x), loss=equation)) == pytest.approx(loss)
    for p, g in zip(net.parameters, grads):
        np.testing.assert_allclose(cupy.asnumpy(p.grad), g, rtol=1e-10, atol=1e-11)

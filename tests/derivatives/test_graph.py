"""Derivatives of graphs, and equations of them, against PyTorch's nested automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import arrays, descriptions, output_in_torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import Equation, Graph, GraphNet, Input, Linear, Net, Operation, Residual
from backprop_xp.derivatives import loops
from backprop_xp.operations import Activate, Add, BatchNorm, Dropout, LayerNorm

torch = pytest.importorskip("torch")
func = pytest.importorskip("torch.func")


def of_description(description, seed):
    net = GraphNet(description, rng=seed, backend="numpy", init="glorot_normal", loss="mse")
    random = np.random.default_rng(seed)
    for tensor in (*net.parameters, *net.buffers.values()):
        tensor.data = tensor.data + random.uniform(0.1, 0.5, tensor.data.shape)
    return net


def as_tensors(net):
    return {name: torch.tensor(tensor.data, requires_grad=True) for name, tensor in net.tensors.items()}


def of_all(net, parameters):
    """The outputs (out,) as a function of all inputs' features (in,) in PyTorch."""
    widths = list(net.inputs.values())

    def function(v):
        x = dict(zip(net.inputs, (part[None] for part in v.split(widths))))
        return output_in_torch(net, x, parameters)[0]

    return function


GRAPHS = descriptions(most_nodes=6, widths=(1, 2, 3))


@settings(deadline=None, max_examples=20)
@given(description=GRAPHS, n=st.integers(1, 3), seed=st.integers(0, 1000))
def test_everything_is_pytorchs(description, n, seed):
    net = of_description(description, seed)
    x, g = arrays(net, n, seed)
    joined = np.concatenate(list(x.values()), axis=1)
    v = np.random.default_rng(seed).normal(size=joined.shape)
    found = net.derivatives(
        x, "value", "jacobian", "hessian", "laplacian", "hvp", "vjp", direction=v, cotangent=g
    )  # fmt: skip
    f = of_all(net, as_tensors(net))
    points = torch.tensor(joined)
    jacobian = func.vmap(func.jacrev(f))(points).detach().numpy()
    hessian = func.vmap(func.jacfwd(func.jacrev(f)))(points).detach().numpy()
    expected = {
        "value": net(x),
        "jacobian": jacobian,
        "hessian": hessian,
        "laplacian": np.einsum("noii->no", hessian),
        "hvp": np.einsum("noij,nj->noi", hessian, v),
        "vjp": np.einsum("noi,no->ni", jacobian, g),
    }
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        np.testing.assert_allclose(found[name], values, rtol=1e-7, atol=1e-8 * max(1, abs(values).max()), err_msg=name)


@settings(deadline=None, max_examples=20)
@given(description=GRAPHS, n=st.integers(1, 3), seed=st.integers(0, 1000))
def test_an_equations_gradients_are_pytorchs(description, n, seed):
    net = of_description(description, seed)
    x, _ = arrays(net, n, seed)
    features, last = sum(net.inputs.values()), net.nodes[-1].width
    names = {"inputs": [f"x{k}" for k in range(features)], "outputs": [f"u{k}" for k in range(last)]}
    far = f"x{features - 1}"
    equation = Equation(f"u0_x0{far} * u{last - 1} + u0_{far}{far} - 0.5 * u0_x0 + {far}", **names)
    loss, grad_x = net.loss_and_grad(x, loss=equation, input_grad=True, training=False)

    parameters = as_tensors(net)
    f = of_all(net, parameters)
    points = torch.tensor(np.concatenate(list(x.values()), axis=1), requires_grad=True)
    jacobian, hessian = func.vmap(func.jacrev(f))(points), func.vmap(func.jacrev(func.jacrev(f)))(points)
    u = func.vmap(f)(points)
    residual = hessian[:, 0, 0, -1] * u[:, -1] + hessian[:, 0, -1, -1] - 0.5 * jacobian[:, 0, 0] + points[:, -1]
    expected = 0.5 * (residual**2).sum()
    gradients = torch.autograd.grad(expected, [*parameters.values(), points], allow_unused=True)
    assert loss == pytest.approx(expected.item(), rel=1e-8, abs=1e-9)
    ours = grad_x if isinstance(grad_x, dict) else dict.fromkeys(x, grad_x)
    assert {name: array.shape for name, array in ours.items()} == {name: array.shape for name, array in x.items()}
    found = [*(tensor.grad for tensor in net.tensors.values()), np.concatenate(list(ours.values()), axis=1)]
    largest = max(float(g.abs().max()) for g in gradients if g is not None)
    for grad, theirs in zip(found, gradients, strict=True):
        theirs = 0 if theirs is None else theirs.numpy()
        np.testing.assert_allclose(grad, theirs, rtol=1e-7, atol=1e-9 * max(1, largest))


def mixed(loss="mse"):
    """Every operation once, and batch normalisation."""
    g = Graph()
    x = g.input(2, name="x")
    h = g.apply("tanh", g.linear(x, 5))
    h = g.batch_norm(h) + g.layer_norm(h) * h
    h = g.dropout(g.concatenate(h, x), 0.4)
    net = g.net(g.linear(h, 2), rng=1, backend="numpy", init="glorot_normal", loss=loss)
    random = np.random.default_rng(0)
    for tensor in (*net.parameters, *net.buffers.values()):
        tensor.data = tensor.data + random.uniform(0.1, 0.6, tensor.data.shape)
    return net


def test_with_batch_normalisation_as_it_is_in_use(random):
    net, x, h = mixed(), random.normal(size=(4, 2)), 1e-4
    found = net.derivatives(x, "jacobian", "hessian")
    for a in range(2):
        step = h * np.eye(2)[a]
        slope = (net(x + step) - net(x - step)) / (2 * h)
        np.testing.assert_allclose(found["jacobian"][:, :, a], slope, rtol=1e-6, atol=1e-7)
        slope = (net.derivatives(x + step, "jacobian") - net.derivatives(x - step, "jacobian")) / (2 * h)
        np.testing.assert_allclose(found["hessian"][:, :, a], slope, rtol=1e-6, atol=1e-6)
    equation = Equation("u_xx + v_t * u", "v_xt", inputs="x t", outputs="u v")
    net.loss_and_grad(x, loss=equation, training=False)
    for tensor, grads in [(tensor, tensor.grad) for tensor in net.parameters]:
        at, kept, losses = (0,) * tensor.data.ndim, tensor.data.copy(), []
        grad = grads[at]
        for value in (kept[at] + h, kept[at] - h):
            tensor.data = kept.copy()
            tensor.data[at] = value
            losses.append(net.loss_and_grad(x, loss=equation, training=False))
        tensor.data = kept
        assert grad == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=1e-5, abs=1e-6), tensor.name


def test_in_tiles_as_at_once(monkeypatch, random):
    net, x = mixed(), random.normal(size=(23, 2))
    equation = Equation("u_xx + v_t * u", inputs="x t", outputs="u v")
    whole = net.derivatives(x, "hessian")
    loss = net.loss_and_grad(x, loss=equation, training=False)
    grads = [tensor.grad for tensor in net.parameters]
    monkeypatch.setattr(loops, "AT_ONCE", 100)
    np.testing.assert_allclose(net.derivatives(x, "hessian"), whole, rtol=1e-12, atol=1e-13)
    assert net.loss_and_grad(x, loss=equation, training=False) == pytest.approx(loss)
    for tensor, grad in zip(net.parameters, grads):
        np.testing.assert_allclose(tensor.grad, grad, rtol=1e-11, atol=1e-12)


def test_dropout_drops_the_same_of_a_signal_and_its_derivatives(monkeypatch, random):
    """In training, tile by tile as at once."""
    nodes = {"x": Input(2), "h": (Linear(40), "x"), "a": ("tanh", "h"), "d": (Dropout(0.5), "a"), "y": (Linear(1), "d")}
    net, x = GraphNet(nodes, rng=0, backend="numpy", loss="half_squared_error"), random.normal(size=(9, 2))
    plain, draws = Equation("u", inputs="x t"), net.draws
    expected = net.loss_and_grad(x, np.zeros((9, 1)))  # half the squares of the outputs
    for at_once in (loops.AT_ONCE, 100):
        monkeypatch.setattr(loops, "AT_ONCE", at_once)
        net.draws = draws
        assert net.loss_and_grad(x, loss=plain) == pytest.approx(expected)
    assert net.draws == draws + 1
    assert net.loss_and_grad(x, loss=plain) != pytest.approx(expected)
    assert net.loss_and_grad(x, loss=plain, training=False) == net.loss_and_grad(x, loss=plain, training=False)


def test_of_a_net_with_operations_among_its_layers(random):
    net = Net((2, 6, 2), (["layer_norm", "tanh", Dropout(0.3)], "identity"), "mse", True, rng=0, backend="numpy")
    x, h, step = random.normal(size=(4, 2)), 1e-5, np.array([1e-5, 0.0])
    slope = (net(x + step) - net(x - step)) / (2 * h)
    np.testing.assert_allclose(net.derivatives(x, "jacobian")[:, :, 0], slope, rtol=1e-6, atol=1e-8)
    assert net.derivatives(x[0], "hessian").shape == (2, 2, 2)
    loss, grad = net.loss_and_grad(x[0], loss=Equation("u_xx - v", inputs="x y", outputs="u v"), input_grad=True)
    assert np.isfinite(loss) and grad.shape == (2,)
    assert net.per_sample_grads(x, x).shape == (4, sum(tensor.data.size for tensor in net.parameters))


def test_one_sample_of_several_inputs(random):
    nodes = {"a": Input(2), "b": Input(1), "ab": ("concatenate", "a", "b"), "y": (Linear(3), "ab"), "z": ("tanh", "y")}
    net = GraphNet(nodes, rng=0, backend="numpy")
    x = {"b": random.normal(size=(4, 1)), "a": random.normal(size=(4, 2))}
    many = net.derivatives(x, "jacobian")
    assert many.shape == (4, 3, 3)
    one = net.derivatives({name: array[0] for name, array in x.items()}, "jacobian")
    np.testing.assert_allclose(one, many[0])
    equation = Equation("u_p + v_q * w_r", inputs="p q r", outputs="u v w")
    _, grads = net.loss_and_grad({name: array[0] for name, array in x.items()}, loss=equation, input_grad=True)
    assert {name: grad.shape for name, grad in grads.items()} == {"a": (2,), "b": (1,)}
    with pytest.raises(TypeError, match="x must map their names to arrays"):
        net.derivatives(np.ones((4, 3)), "jacobian")
    with pytest.raises(ValueError, match="x must hold the inputs 'a', 'b', got 'a'"):
        net.derivatives({"a": np.ones((4, 2))}, "jacobian")


class Half(Operation):
    """An operation of a user's own, linear."""

    scope = "sample"

    def forward(self, *inputs, **given):
        return inputs[0] / 2

    def backward(self, grad, *inputs, **given):
        return grad / 2


class Pushed(Half):
    scope = "sample"

    def forward(self, *inputs, **given):
        return inputs[0] / 2

    def push(self, rules, *inputs, **given):
        return inputs[0] / 2

    def pull(self, rules, grad, *inputs, **given):
        return grad / 2


class OtherNorm(LayerNorm):
    """It inherits what no longer fits its forward."""

    def forward(self, *inputs, **given):
        return 2 * super().forward(*inputs, **given)


class WholeBatch(Add):
    scope = "batch"


def around(operation):
    nodes = {"x": Input(2), "h": (Linear(3), "x"), "node": (operation, "h"), "z": ("tanh", "node")}
    return GraphNet(nodes, rng=0, backend="numpy", init="glorot_normal")


def test_what_can_not_be_derived_is_refused_by_name(random):
    x = random.normal(size=(3, 2))
    for operation in (Half(), OtherNorm()):
        with pytest.raises(TypeError, match=r"node 'node' .* has no derivatives in x: its operation must define push"):
            around(operation).derivatives(x, "jacobian")
    overridden = LayerNorm()
    overridden.forward = lambda *inputs, **given: inputs[0]
    with pytest.raises(TypeError, match=r"node 'node' .* has no derivatives in x"):
        around(overridden).derivatives(x, "jacobian")
    with pytest.raises(ValueError, match="node 'node' needs the whole batch"):
        around(WholeBatch()).derivatives(x, "jacobian")
    with pytest.raises(ValueError, match="node 'node' needs the whole batch in training; with training=False it has"):
        around(BatchNorm()).loss_and_grad(x, loss=Equation("u_x", inputs="x y", outputs="u v w"))

    class Plain(type(Activate("tanh").activation)):
        def __call__(self, t):
            return np.tanh(t)

    with pytest.raises(TypeError, match="is written in Python"):
        around(Plain()).derivatives(x, "jacobian")


def test_an_operation_of_ones_own_may_push(random):
    net, x = around(Pushed()), random.normal(size=(3, 2))
    step = np.array([1e-5, 0])
    slope = (net(x + step) - net(x - step)) / 2e-5
    np.testing.assert_allclose(net.derivatives(x, "jacobian")[:, :, 0], slope, rtol=1e-8)


def test_a_skip_connection_solves_an_equation_as_well():
    """u' = u with u(0) = 1."""
    nodes = {"x": Input(1), "h": (Linear(12), "x"), "r": (Residual(Linear(12), "tanh"), "h"), "u": (Linear(1), "r")}
    net = GraphNet(nodes, rng=0, backend="numpy", init="glorot_normal", reduction="mean", loss="mse")
    inside = np.linspace(0, 1, 30)[:, None]
    net.fit(
        {"inside": (inside, Equation("u_x - u", inputs="x")), "start": ([[0.0]], [[1.0]])},
        optimiser="lbfgs", batch_size=None, epochs=12,
    )  # fmt: skip
    np.testing.assert_allclose(net(inside), np.exp(inside), atol=2e-3)


@pytest.mark.gpu
def test_on_a_gpu(cupy, random):
    net, x = mixed(), random.normal(size=(5, 2))
    equation = Equation("u_xx + v_t * u", inputs="x t", outputs="u v")
    loss = net.loss_and_grad(x, loss=equation, training=False)
    grads, hessian = [tensor.grad for tensor in net.parameters], net.derivatives(x, "hessian")
    net.to("cupy")
    assert float(net.loss_and_grad(x, loss=equation, training=False)) == pytest.approx(loss)
    for tensor, grad in zip(net.parameters, grads):
        np.testing.assert_allclose(cupy.asnumpy(tensor.grad), grad, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(cupy.asnumpy(net.derivatives(x, "hessian")), hessian, rtol=1e-9, atol=1e-10)

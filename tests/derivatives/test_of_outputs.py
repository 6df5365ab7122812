"""Net.derivatives against PyTorch's nested automatic differentiation, and its messages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import Equation, GraphNet, Input, Linear, Net, exchange
from backprop_xp.derivatives import loops

torch = pytest.importorskip("torch")
func = pytest.importorskip("torch.func")

SMOOTH = ("tanh", "sigmoid", "gelu", "softplus", "silu")


def make(sizes, activations, seed=0, dtype="float64", bias=True):
    net = Net(sizes, (*activations, "identity"), "mse", bias, dtype, seed, "numpy", "glorot_normal")
    for b in net.biases:
        b.data = np.random.default_rng(seed + 1).normal(size=b.data.shape).astype(dtype)
    return net


def pytorchs(net, x, order):
    """The derivative tensor (n, out, in, ...) of this order."""
    module = exchange.to_torch(net).double()

    def f(v):
        return module(v[None])[0]

    for _ in range(order):
        f = func.jacrev(f) if order < 3 else func.jacfwd(f)
    return np.stack([f(v).detach().numpy() for v in torch.tensor(np.asarray(x, np.float64))])


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple),
    names=st.lists(st.sampled_from(SMOOTH), min_size=2, max_size=2),
    n=st.integers(1, 4),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_everything_is_pytorchs(sizes, names, n, bias, seed):
    net = make(sizes, names[: len(sizes) - 2], seed, bias=bias)
    random = np.random.default_rng(seed)
    x, v, g = (random.normal(size=(n, k)) for k in (sizes[0], sizes[0], sizes[-1]))
    found = net.derivatives(
        x, "value", "jacobian", "hessian", "hessian_diagonal", "laplacian", "directional", "hvp", "vjp",
        direction=v, cotangent=g,
    )  # fmt: skip
    jacobian, hessian = pytorchs(net, x, 1), pytorchs(net, x, 2)
    expected = {
        "value": net(x),
        "jacobian": jacobian,
        "hessian": hessian,
        "hessian_diagonal": np.einsum("noii->noi", hessian),
        "laplacian": np.einsum("noii->no", hessian),
        "directional": np.einsum("noi,ni->no", jacobian, v),
        "hvp": np.einsum("noij,nj->noi", hessian, v),
        "vjp": np.einsum("noi,no->ni", jacobian, g),
    }
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-11, err_msg=name)


def test_by_name_up_to_the_fourth():
    net = make((3, 6, 5, 2), ("tanh", "gelu"))
    x = np.random.default_rng(0).normal(size=(4, 3))
    third, fourth = pytorchs(net, x, 3), pytorchs(net, x, 4)
    found = net.derivatives(x, "v", "u_xxt", "v_txx", "v_xyt", "u_yyyy", "v_xxyt", inputs="x y t", outputs="u v")
    np.testing.assert_allclose(found["v"], net(x)[:, 1], rtol=1e-14)
    np.testing.assert_allclose(found["u_xxt"], third[:, 0, 0, 0, 2], rtol=1e-9)
    np.testing.assert_allclose(found["v_txx"], third[:, 1, 0, 0, 2], rtol=1e-9)
    np.testing.assert_allclose(found["v_xyt"], third[:, 1, 0, 1, 2], rtol=1e-9)
    np.testing.assert_allclose(found["u_yyyy"], fourth[:, 0, 1, 1, 1, 1], rtol=1e-8)
    np.testing.assert_allclose(found["v_xxyt"], fourth[:, 1, 0, 0, 1, 2], rtol=1e-8)


def test_one_sample_has_no_n():
    net = make((3, 4, 2), ("tanh",))
    x = np.random.default_rng(0).normal(size=3)
    for name, shape in (
        ("value", (2,)),
        ("jacobian", (2, 3)),
        ("hessian", (2, 3, 3)),
        ("u0_x1", ()),
        ("laplacian", (2,)),
    ):
        one, many = net.derivatives(x, name), net.derivatives(x[None], name)
        assert one.shape == shape and many.shape == (1, *shape)
        np.testing.assert_array_equal(one, many[0])
    v = np.ones(3)
    np.testing.assert_allclose(
        net.derivatives(x, "directional", direction=v), net.derivatives(x, "jacobian").sum(axis=-1)
    )


def test_in_tiles_as_at_once(monkeypatch, random):
    net = make((2, 8, 1), ("tanh",))
    x = random.normal(size=(37, 2))
    whole = net.derivatives(x, "hessian", "u_xt", "hvp", inputs="x t", direction=x)
    monkeypatch.setattr(loops, "AT_ONCE", 60)
    for name, values in net.derivatives(x, "hessian", "u_xt", "hvp", inputs="x t", direction=x).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-13, atol=1e-14)
    assert net.derivatives(x[:0], "hessian").shape == (0, 1, 2, 2)


def test_float32_is_about_as_near_as_pytorchs(random):
    net = make((2, 32, 32, 1), ("tanh", "tanh"), dtype="float32")
    double = make((2, 32, 32, 1), ("tanh", "tanh"))
    for p, q in zip(double.parameters, net.parameters):
        p.data = q.data.astype(np.float64)
    x = random.normal(size=(64, 2)).astype(np.float32)
    found = net.derivatives(x, "laplacian")
    assert found.dtype == np.float32
    exact = double.derivatives(x, "laplacian")
    module = exchange.to_torch(net)
    theirs = np.stack(
        [func.hessian(lambda v: module(v[None])[0, 0])(v).detach().numpy().trace() for v in torch.tensor(x)]
    )
    error, other = np.abs(found - exact).max(), np.abs(theirs[:, None] - exact).max()
    assert error <= 2 * other


def test_gradients_and_signals_stay(random):
    net = make((3, 4, 2), ("tanh",))
    x = random.normal(size=3)
    net.loss_and_grad(x, np.zeros(2))
    before, signal = [p.grad for p in net.parameters], net.linear_outputs[0].data
    net.derivatives(x, "hessian")
    assert all(p.grad is g for p, g in zip(net.parameters, before)) and net.linear_outputs[0].data is signal


@pytest.mark.parametrize(
    ("wanted", "options", "message"),
    [
        ((), {}, "say which derivatives"),
        (("jacobain",), {}, "unknown derivative 'jacobain'.*did you mean 'jacobian'"),
        (("u_z",), {"inputs": "x t"}, "'u_z' is no derivative of 'u' in the inputs x t"),
        (("u_xxxxxxx",), {"inputs": "x t"}, "of order 7; derivatives go up to order 6"),
        (("u_x",), {"inputs": "x"}, "inputs must name the net's 2 inputs, got 1: x"),
        (("u_x",), {"inputs": "x x"}, "holds a name twice"),
        (("u_x",), {"inputs": "x_1 t"}, "'x_1' is no name"),
        (("directional",), {}, "'directional' needs a direction"),
        (("hvp",), {}, "'hvp' needs a direction"),
        (("vjp",), {}, "'vjp' needs a cotangent"),
        (("hvp",), {"direction": np.ones(3)}, r"direction must be \(2,\) or \(5, 2\), got \(3,\)"),
        (("vjp",), {"cotangent": np.ones((4, 1))}, r"cotangent must be \(1,\) or \(5, 1\), got \(4, 1\)"),
    ],
)
def test_messages(wanted, options, message):
    net = make((2, 4, 1), ("tanh",))
    with pytest.raises(ValueError, match=message):
        net.derivatives(np.ones((5, 2)), *wanted, **options)


@pytest.mark.gpu
def test_on_a_gpu(cupy, random):
    net = make((2, 8, 1), ("tanh",))
    x = random.normal(size=(9, 2))
    expected = net.derivatives(x, "hessian", "laplacian", "u_xxt", inputs="x t")
    net.to("cupy")
    for name, values in net.derivatives(cupy.asarray(x), "hessian", "laplacian", "u_xxt", inputs="x t").items():
        np.testing.assert_allclose(cupy.asnumpy(values), expected[name], rtol=1e-11, atol=1e-12)


def test_a_graph_has_the_derivatives_of_the_net_that_it_is():

    net = Net((2, 5, 1), ("tanh", "identity"), bias=True, rng=0, backend="numpy")
    nodes = {"x": Input(2), "a": (Linear(5), "x"), "b": ("tanh", "a"), "c": (Linear(1), "b")}
    graph = GraphNet(nodes, rng=0, backend="numpy")
    x = np.random.default_rng(0).normal(size=(7, 2))
    for wanted in ("jacobian", "u_x0x1"):
        np.testing.assert_array_equal(graph.derivatives(x, wanted), net.derivatives(x, wanted))
    equation = Equation("u_x0x0 + u_x1x1", inputs="x0 x1")
    assert graph.loss_and_grad(x, loss=equation) == net.loss_and_grad(x, loss=equation)
    for a, b in zip(graph.parameters, (net.weights[0], net.biases[0], net.weights[1], net.biases[1])):
        np.testing.assert_array_equal(a.grad, b.grad)

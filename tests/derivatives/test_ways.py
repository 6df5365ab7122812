"""Equations of first derivatives, by backpropagation twice: against nested automatic differentiation in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import ACTIVATIONS, ArrayEquation, BatchNorm, Elementwise, Equation, Graph, Net, exchange
from backprop_xp.derivatives.ways import Tangents, Twice
from backprop_xp.toolchain import compiler

torch = pytest.importorskip("torch")

ENGINES = ["layered", "fused"] if not compiler.missing() else ["layered"]
NAMES = {"inputs": "a b c", "outputs": "u v", "targets": "f", "params": {"k": 0.7}}
#: Systems of formulas of these names, and the same in PyTorch, of a dictionary of what they read.
SYSTEMS = {
    ("u_a ** 2 + u_b ** 2 + u_c ** 2 - 1 + 0 * f",): lambda d: [d["u_a"] ** 2 + d["u_b"] ** 2 + d["u_c"] ** 2 - 1],
    ("u_a + u * u_c - k * v", "v * u_a - f"): lambda d: [
        d["u_a"] + d["u"] * d["u_c"] - 0.7 * d["v"],
        d["v"] * d["u_a"] - d["f"],
    ],
    ("v_b * exp(-a * a) - sin(v_c) * b * u + f",): lambda d: [
        d["v_b"] * torch.exp(-(d["a"] ** 2)) - torch.sin(d["v_c"]) * d["b"] * d["u"] + d["f"]
    ],
}


def equation(texts):
    return Equation(*texts, **NAMES)


def expected(module, texts, x, y, weight, mean):
    """The loss and the gradients in x and in all parameters."""
    x = torch.tensor(x, requires_grad=True)
    out = module(x)
    known = {"u": out[:, 0], "v": out[:, 1], "f": torch.tensor(y)} | {n: x[:, i] for i, n in enumerate("abc")}
    for name in "uv":
        slopes = torch.autograd.grad(known[name].sum(), x, create_graph=True)[0]
        known |= {f"{name}_{n}": slopes[:, i] for i, n in enumerate("abc")}
    w = torch.tensor(weight)
    loss = 0.5 * sum((w * r * r).sum() for r in SYSTEMS[texts](known)) / (w.sum() if mean else 1)
    loss.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    return [a.detach().numpy() for a in (loss, x.grad, *gradients)]


def found(net, of, x, y, weight):
    loss, grad_x = net.loss_and_grad(x, y, loss=of, sample_weight=weight, input_grad=True)
    return [loss, grad_x, *(p.grad for layer in zip(net.weights, net.biases) for p in layer)]


@settings(deadline=None, max_examples=30)
@given(
    hidden=st.lists(st.integers(1, 40), max_size=3),
    activations=st.data(),
    texts=st.sampled_from(sorted(SYSTEMS)),
    engine=st.sampled_from(ENGINES),
    n=st.sampled_from([1, 7, 16, 33, 257]),
    mean=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradients_are_pytorchs(hidden, activations, texts, engine, n, mean, seed):
    smooth = ["tanh", "sigmoid", "gelu", "softplus", "silu", "identity"]
    functions = tuple(activations.draw(st.sampled_from(smooth)) for _ in range(len(hidden) + 1))
    net = Net(
        (3, *hidden, 2), functions, "mse", True, "float64", seed, "numpy", "glorot_normal", "mean" if mean else "sum",
        engine=engine,
    )  # fmt: skip
    random = np.random.default_rng(seed)
    for b in net.biases:
        b.data = random.normal(size=b.data.shape)
    x, y, weight = random.normal(size=(n, 3)), random.normal(size=n), random.uniform(0.1, 1, size=n)
    of = equation(texts)
    assert isinstance(of.reads.way, Twice)
    theirs = expected(exchange.to_torch(net), texts, x, y, weight, mean)
    for ours, their in zip(found(net, of, x, y, weight), theirs, strict=True):
        np.testing.assert_allclose(ours, their, rtol=1e-8, atol=1e-10 * max(1, np.abs(their).max(initial=0)))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("engine", ENGINES)
def test_every_activation_gives_what_tangents_give(activation, engine, monkeypatch, random):
    """Kinks as well, hit here: half of the numbers are zero."""
    of, x, y = equation(next(iter(SYSTEMS))), random.normal(size=(20, 3)), np.zeros(20)
    x[::2] = 0
    net = Net((3, 9, 5, 2), (activation,) * 3, "mse", True, "float64", 0, "numpy", "glorot_normal", engine=engine)
    twice = found(net, of, x, y, None)
    net.engine = "layered"
    monkeypatch.setattr("backprop_xp.derivatives.equation.cheapest", lambda named, read: Tangents(read))
    for ours, pushed in zip(twice, found(net, of, x, y, None), strict=True):
        np.testing.assert_allclose(ours, pushed, rtol=1e-9, atol=1e-10)


def test_what_is_carried_depends_on_no_number_of_inputs():
    for count in (2, 3, 40):
        names = [f"x{k}" for k in range(count)]
        of = Equation(" + ".join(f"u_{name} ** 2" for name in names), inputs=names)
        assert len(of.reads.way.carried.stack) == 2


@pytest.mark.parametrize("text", ["u_a - v", "u_a + v_b", "u_a + u_bb", "u - v", "u_ab"])
def test_other_derivatives_are_pushed_as_tangents(text):
    assert isinstance(Equation(text, inputs="a b c", outputs="u v").reads.way, Tangents)


@pytest.mark.parametrize("engine", ENGINES)
def test_forty_inputs_of_which_some_are_read(engine, random):
    names = [f"x{k}" for k in range(40)]
    of = Equation("u_x3 ** 2 + u_x39 - x7", inputs=names)
    net = Net((40, 8, 1), ("tanh", "identity"), "mse", True, "float64", 0, "numpy", "glorot_normal", engine=engine)
    x, module = random.normal(size=(30, 40)), exchange.to_torch(net)
    points = torch.tensor(x, requires_grad=True)
    slopes = torch.autograd.grad(module(points).sum(), points, create_graph=True)[0]
    (0.5 * (slopes[:, 3] ** 2 + slopes[:, 39] - points[:, 7]).square().sum()).backward()
    theirs = [points.grad, *(p.grad for p in module.parameters())]
    for ours, their in zip(found(net, of, x, None, None)[1:], theirs, strict=True):
        np.testing.assert_allclose(ours, 0 if their is None else their, rtol=1e-9, atol=1e-11)


@pytest.mark.skipif("fused" not in ENGINES, reason="no C++ compiler on this machine")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_any_number_of_threads(dtype, random):
    of, texts = equation(next(iter(SYSTEMS))), []
    x, y = random.normal(size=(3000, 3)).astype(dtype), np.zeros(3000, dtype)
    for threads in (1, 2, 5):
        net = Net((3, 20, 33, 2), ("tanh", "gelu", "identity"), "mse", True, dtype, 0, "numpy", "glorot_normal",
                  threads=threads, engine="fused")  # fmt: skip
        texts.append(b"".join(np.asarray(a).tobytes() for a in found(net, of, x, y, None)))
    assert len(set(texts)) == 1


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 31, 32, 299])
@pytest.mark.skipif("fused" not in ENGINES, reason="no C++ compiler on this machine")
def test_nan_and_infinity_reach_what_they_reach_in_the_loops(poison, position, random):
    of, y = equation(("u_a + u * u_c - k * v", "v * u_a - f")), np.zeros(300)
    x = random.normal(size=(300, 3))
    x[position, 1] = poison
    results = []
    for engine in ENGINES:
        net = Net((3, 9, 5, 2), ("tanh", "sigmoid", "identity"), "mse", True, rng=0, backend="numpy", engine=engine)
        with np.errstate(all="ignore"):
            results.append([np.isnan(a) for a in found(net, of, x, y, None)])
    for loops, fused in zip(*results, strict=True):
        np.testing.assert_array_equal(fused, loops)


def test_points_that_fill_up_a_strip_count_for_nothing():
    of = Equation("u_a / a + u_b", inputs="a b")
    results = []
    for engine in ENGINES:
        net = Net((2, 9, 1), ("tanh", "identity"), "mse", True, rng=0, backend="numpy", engine=engine)
        results.append(found(net, of, np.array([[1.0, 2.0], [1e-3, 0.0], [-2.0, 1.0]]), None, None))
    for loops, fused in zip(results[0], results[-1], strict=True):
        np.testing.assert_allclose(fused, loops, rtol=1e-9, atol=1e-9)


def test_hidden_biases_in_float32_are_as_exact_as_pytorchs():
    of, x = Equation("u_a ** 2 + u_b ** 2 - 1", inputs="a b"), np.random.default_rng(0).normal(size=(2000, 2))
    net = Net((2, 32, 32, 1), ("tanh", "tanh", "identity"), "mse", True, "float32", 0, "numpy", "glorot_normal")
    errors: dict[str, list[float]] = {"ours": [], "theirs": []}
    exact = torch_eikonal(exchange.to_torch(net).double(), x)
    theirs = torch_eikonal(exchange.to_torch(net), x.astype("float32"))
    net.loss_and_grad(x, loss=of)
    for b, their, right in zip(net.biases[:-1], theirs[1::2], exact[1::2]):
        errors["ours"].append(np.linalg.norm(b.grad - right))
        errors["theirs"].append(np.linalg.norm(their - right))
    assert np.sum(errors["ours"]) < 2 * np.sum(errors["theirs"])


def torch_eikonal(module, x):
    points = torch.tensor(x, requires_grad=True)
    slopes = torch.autograd.grad(module(points).sum(), points, create_graph=True)[0]
    (0.5 * (slopes.square().sum(1) - 1).square().sum()).backward()
    return [np.zeros(1) if p.grad is None else p.grad.numpy() for p in module.parameters()]


def residual_net(**options):
    g = Graph()
    h = g.apply("tanh", g.linear(g.input(3), 6))
    h = g.layer_norm(g.apply("gelu", g.linear(h, 6)) * h + h)
    return g.net(g.linear(h, 2), loss="mse", dtype="float64", rng=0, backend="numpy", init="glorot_normal", **options)


def test_graphs_in_tiles(monkeypatch, random):
    net, texts = residual_net(), sorted(SYSTEMS)[1]
    x, y, weight = random.normal(size=(40, 3)), random.normal(size=40), np.ones(40)
    monkeypatch.setattr("backprop_xp.derivatives.loops.AT_ONCE", 100)
    loss, grad_x = net.loss_and_grad(x, y, loss=equation(texts), input_grad=True)
    theirs = expected(exchange.to_torch(net), texts, x, y, weight, False)
    ours = [loss, grad_x, *(p.grad for p in net.parameters)]
    assert loss == pytest.approx(theirs[0])
    np.testing.assert_allclose(grad_x, theirs[1], rtol=1e-9, atol=1e-9)
    sizes = sorted(np.linalg.norm(a) for a in ours[2:])
    np.testing.assert_allclose(sizes, sorted(np.linalg.norm(a) for a in theirs[2:]), rtol=1e-9)


def test_what_looks_at_the_whole_batch_is_refused_before_anything_is_computed(random):
    net = Net((3, 5, 2), [["tanh", BatchNorm()], None], "mse", True, rng=0, backend="numpy")
    of, x = equation(next(iter(SYSTEMS))), random.normal(size=(8, 3))
    before = {name: buffer.data.copy() for name, buffer in net.buffers.items()}
    with pytest.raises(ValueError, match="with training=False it has derivatives"):
        net.loss_and_grad(x, np.zeros(8), loss=of)
    for name, buffer in net.buffers.items():
        np.testing.assert_array_equal(buffer.data, before[name])
    net.loss_and_grad(x, np.zeros(8), loss=of, training=False)


def test_array_code_and_residuals(random):
    of = Equation("u_a ** 2 + u_b * a", inputs="a b")
    own = ArrayEquation(
        lambda u_a, u_b, a: u_a**2 + u_b * a, lambda u_a, u_b, a: {"u_a": 2 * u_a, "u_b": a, "a": u_b}, inputs="a b"
    )
    assert isinstance(own.reads.way, Twice)
    net = Net((2, 9, 1), (Elementwise("soft", value="log1p(exp(t))"), "identity"), "mse", True, rng=0, backend="numpy")
    x = random.normal(size=(12, 2))
    for a, b in zip(found(net, of, x, None, None), found(net, own, x, None, None), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    slopes = net.derivatives(x, "jacobian")[:, 0]
    np.testing.assert_allclose(net.residuals(own, x)[:, 0], slopes[:, 0] ** 2 + slopes[:, 1] * x[:, 0])

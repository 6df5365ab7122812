"""Graphs of residual blocks as compiled equations take them: against the loops, and what is refused."""

import numpy as np
import pytest
from arrays import everything
from here import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import Equation, Graph
from backprop_xp.derivatives.stacked import Skip, stacked
from backprop_xp.derived import differentiable
from backprop_xp.operations import Multiply

TEXTS = ["u_x ** 2 + u_y ** 2 - 1", "u_xx + u_yy - u * x", "u_y + u * u_x - 0.1 * u_xx", "u_xy - y"]


def net_of(blocks, dtype="float64", engine="auto", seed=0):
    """Two inputs, then blocks: a width or None for 2, an activation or None, from how far back something is added to it
    or None, and an activation of the sum or None.
    """
    g = Graph()
    signals = [g.input(2)]
    for width, activation, back, then in blocks:
        source = None if back is None else signals[max(0, len(signals) - 1 - back)]
        h = g.linear(signals[-1], 2 if width is None else width, bias=len(signals) % 3 != 0)
        h = h if activation is None else g.apply(activation, h)
        if source is not None:
            h = h + source if back % 2 else source + h
            h = h if then is None or activation is not None else g.apply(then, h)
        signals.append(h)
    net = g.net(
        g.linear(signals[-1], 1),
        loss="mse",
        dtype=dtype,
        rng=seed,
        backend="numpy",
        init="glorot_normal",
        engine=engine,
    )
    for tensor in net.parameters:
        tensor.data = tensor.data + np.asarray(0.1, dtype)
    return net


functions = st.sampled_from([None, "tanh", "gelu", "identity"])


@needs_compiler
@settings(deadline=None, max_examples=40)
@given(
    blocks=st.lists(
        st.tuples(st.sampled_from([None, None, None, 2, 5]), functions, st.none() | st.integers(0, 3), functions),
        min_size=1, max_size=5,
    ).map(lambda blocks: [(None if any(b[2] is not None for b in blocks) else w, f, b, t) for w, f, b, t in blocks]),
    text=st.sampled_from(TEXTS),
    n=st.sampled_from([1, 31, 33, 300]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_residual_blocks_give_what_the_loops_give(blocks, text, n, seed):
    x = np.random.default_rng(seed).normal(size=(n, 2))
    loss, nets = Equation(text, inputs="x y"), (net_of(blocks, engine=e, seed=seed) for e in ("layered", "fused"))
    layered, fused = (everything(net, x, loss=loss) for net in nets)
    for ours, loops in zip(fused, layered, strict=True):
        np.testing.assert_allclose(ours, loops, rtol=1e-9, atol=1e-11 * max(1, np.abs(loops).max(initial=0)))


@needs_compiler
@pytest.mark.parametrize("text", TEXTS[:2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_any_number_of_threads(text, dtype):
    blocks = [(40, "tanh", None, None), (40, "tanh", 0, None), (40, None, 1, "tanh")]
    x, found = np.random.default_rng(0).normal(size=(2000, 2)).astype(dtype), []
    for threads in (1, 2, 5):
        net = net_of(blocks, dtype, "fused")
        net.threads = threads
        found.append(b"".join(a.tobytes() for a in everything(net, x, loss=Equation(text, inputs="x y"))))
    assert len(set(found)) == 1


def test_where_what_is_added_goes():
    net = net_of([(5, "tanh", None, None), (5, "tanh", 0, None), (5, None, 1, "gelu"), (5, None, 0, None)])
    rows = stacked(differentiable(net, training=True))
    assert rows.skips == [None, Skip(0, False), Skip(0, True), Skip(2, True), None]
    assert [layer.activation.name for layer in rows.layers] == ["tanh", "tanh", "gelu", "identity", "identity"]


@needs_compiler
def test_the_plan_says_that_it_is_compiled():
    heat = Equation("u_y - u_xx", inputs="x y")
    assert net_of([(3, "tanh", None, None), (3, "tanh", 0, None)]).plan(np.ones((9, 2)), loss=heat).engine == "fused"


def refused(name):
    g = Graph()
    x = g.input(2)
    h = g.apply("tanh", g.linear(x, 2))
    match name:
        case "a product":
            return g.net(g.apply(Multiply(), g.linear(h, 2), h))
        case "a sum of three":
            return g.net(g.linear(h, 2) + h + x)
        case "twice the same":
            return g.net(g.linear(h + h, 2))
        case "a sum of two branches":
            return g.net(g.apply("tanh", g.linear(h, 2)) + g.linear(h, 2))
        case "what was there before the sum":
            inner = g.apply("tanh", g.linear(h, 2))
            return g.net(g.linear(inner + h, 2) + inner)
        case "several inputs":
            return g.net(g.linear(h, 2) + g.linear(g.input(1), 2))
        case "normalisation":
            return g.net(g.layer_norm(g.linear(h, 2)))
        case "no layer":
            return g.net(h + g.apply("tanh", x))
        case "shared parameters":
            first = g.linear(h, 2)
            return g.net(g.linear(first + h, 2, share=first))
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    ["a product", "a sum of three", "twice the same", "a sum of two branches", "what was there before the sum",
     "several inputs", "normalisation", "no layer", "shared parameters"],
)  # fmt: skip
def test_other_graphs_run_by_the_loops_and_say_so(name):
    net = refused(name)
    net.reduction, width = "sum", sum(net.inputs.values())
    names = [f"x{k}" for k in range(width)]
    equation = Equation("u_x0 + v", inputs=names, outputs="u v")
    x = {each: np.ones((4, features)) for each, features in net.inputs.items()}
    x = x if len(x) > 1 else next(iter(x.values()))
    choice = net.plan(x, loss=equation)
    assert choice.engine == "layered" and "more than layers in a row" in choice.reason
    net.loss_and_grad(x, loss=equation)

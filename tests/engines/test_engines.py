"""The choice among the engines, where compiled ones can't or shouldn't run."""

import warnings

import numpy as np
import pytest
from here import needs_compiler

from backprop_xp import Graph, Net, engines
from backprop_xp.programs import fused, narrow
from backprop_xp.programs import graph as programs
from backprop_xp.toolchain import cache
from backprop_xp.toolchain.compiler import CompileError


def residual(layers, width=3):
    g = Graph()
    h = g.input(width)
    for _ in range(layers):
        h = g.apply("tanh", g.linear(h, width)) + h
    return g.net(h, rng=0)


@needs_compiler
@pytest.mark.parametrize("make", [lambda: Net((7, 5, 3), rng=0), lambda: residual(2)])
@pytest.mark.parametrize("name", ["auto", "fused"])
def test_a_failed_compilation_is_remembered_and_the_plan_says_what_runs(monkeypatch, make, name):
    asked = []

    def fails(source, what, compiles):
        asked.append(what)
        raise CompileError("the disk is full")

    monkeypatch.setattr(cache, "_load", fails)
    monkeypatch.setattr(cache, "_loaded", {})
    monkeypatch.setattr(engines, "_failures", {})
    monkeypatch.setattr(narrow, "_programs", {})
    monkeypatch.setattr(programs, "_programs", {})
    net = make()
    net.engine = name
    x = np.ones((5000, 7 if isinstance(net, Net) else 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert net.plan(x).engine == "fused"
        loss, times = net.loss_and_grad(x), len(asked)
        assert net.loss_and_grad(x) == loss
        assert net.loss_and_grad(x[:5]) == pytest.approx(float(loss) / 1000)
        assert net.loss_and_grad(x[:5]) == pytest.approx(float(loss) / 1000)
    plan = net.plan(x)
    assert plan.engine == "layered"
    assert plan.reason == "not fused: the disk is full"
    assert net.plan(np.broadcast_to(x[:1], (40_000, x.shape[1]))).engine == "tiled"
    assert len(asked) <= times + 4  # loops of the layered engine, and the call for small batches, once each


@needs_compiler
@pytest.mark.parametrize(("layers", "width"), [(200, 8), (200, 16), (1000, 4), (fused.MOST_LAYERS + 1, 1)])
def test_a_deep_net_needs_no_compilation_of_its_own(monkeypatch, layers, width):
    compiled = []
    original = cache.library
    monkeypatch.setattr(cache, "library", lambda source, what: (compiled.append(what), original(source, what))[1])
    nets = [
        Net((width,) * (layers + 1), ["tanh"] * layers, rng=0, init="glorot_normal", engine=e)
        for e in ("auto", "layered")
    ]
    for n in (1, 20, fused.NARROW_SAMPLES):
        x = np.random.default_rng(0).normal(size=(n, width))
        assert nets[0].plan(x).engine == "fused"
        losses = [net.loss_and_grad(x) for net in nets]
        assert losses[0] == pytest.approx(losses[1], rel=1e-10)
        for a, b in zip(*(net.parameters for net in nets), strict=True):
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-8, atol=1e-10 * abs(b.grad).max())
    assert np.isfinite(nets[0].loss_and_grad(x[0]))
    assert np.isfinite(nets[0](x)).all()
    assert not [what for what in compiled if what.startswith("the net")]


@needs_compiler
def test_a_graph_of_many_nodes_runs_otherwise_and_the_plan_says_why():
    net = residual(programs.MOST_NODES // 3 + 1, 1)
    assert "nodes, and compiling more than" in net.plan(np.ones((20, 1))).reason


@needs_compiler
def test_a_graph_that_is_a_deep_chain_runs_as_one(random):
    g = Graph()
    h = g.input(2)
    for _ in range(fused.MOST_LAYERS + 1):
        h = g.apply("tanh", g.linear(h, 2))
    net, x = g.net(h, rng=0), random.normal(size=(50, 2))
    assert net.plan(x).engine == "fused"
    loss = net.loss_and_grad(x)
    net.engine = "layered"
    assert loss == pytest.approx(float(net.loss_and_grad(x)))

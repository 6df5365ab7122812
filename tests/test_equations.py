"""The choice for losses that are equations: what runs them, what net.plan says, and what happens without a compiler."""

import numpy as np
import pytest
from here import failing_compiler, needs_compiler

from backprop_xp import Activation, Elementwise, Equation, Net, equations
from backprop_xp.engines import warn_uncompiled
from backprop_xp.programs import stack_source
from backprop_xp.toolchain import cache

WAVE = Equation("u_tt - u_xx - u_yy", inputs="x y t")


def make(activation="tanh", **options):
    return Net((3, 8, 1), (activation, "identity"), "mse", True, rng=0, backend="numpy", **options)


@needs_compiler
def test_what_the_plan_says():
    net, x = make(), np.ones((100, 3))
    plan = net.plan(x, loss=WAVE)
    assert (plan.engine, plan.reason) == ("fused", "it is the fastest")
    assert plan.flops == 2 * 100 * 6 * (
        3 * (3 * 8 + 8) - 3 * 8
    )  # the signal, three first derivatives, u_tt, u_xx + u_yy
    assert plan.bytes == 100 * 6 * (3 + 2 * 9) * 8
    assert net.plan(x[:0], loss=WAVE).reason == "it is empty"
    assert net.plan(x, loss="huber").engine == net.plan(x).engine
    for engine in ("layered", "tiled"):
        net.engine = engine
        assert (net.plan(x, loss=WAVE).engine, net.plan(x, loss=WAVE).reason) == (
            "layered",
            "equations run fused or layered",
        )


def test_why_not(monkeypatch):
    class Mine(Activation):
        def __call__(self, x):
            return x

        def grad(self, x):
            return np.ones_like(x)

    x = np.ones((5, 3))
    assert make(Mine()).plan(x, loss=WAVE).reason == "not fused: an activation is written in Python"
    with pytest.raises(
        ValueError, match="the fused engine can't run this equation: an activation is written in Python"
    ):
        make(Mine(), engine="fused").loss_and_grad(x, loss=WAVE)
    monkeypatch.setattr(stack_source, "MOST_TERMS", 5)
    reason = make().plan(x, loss=WAVE).reason
    assert reason == "not fused: its derivatives have 8 terms, and compiling more than 5 takes too long"


def test_without_a_compiler_it_runs_layered(monkeypatch):
    expected = make(engine="layered").loss_and_grad(np.ones((5, 3)), loss=WAVE)
    monkeypatch.setenv("CXX", "no-such-compiler")
    warn_uncompiled.cache_clear()
    net = make()
    assert "not fused: no C++ compiler was found" in net.plan(np.ones((5, 3)), loss=WAVE).reason
    with pytest.warns(UserWarning, match="running without compiled kernels, .*no C.. compiler was found"):
        assert net.loss_and_grad(np.ones((5, 3)), loss=WAVE) == expected


def test_a_compiler_that_fails_is_one_warning(monkeypatch, tmp_path, new_functions):
    expected = make(engine="layered").loss_and_grad(np.ones((5, 3)), loss=WAVE)
    monkeypatch.setenv("CXX", failing_compiler(tmp_path))
    monkeypatch.setenv("BACKPROP_XP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_loaded", {})
    monkeypatch.setattr(equations, "_failures", {})
    warn_uncompiled.cache_clear()
    net = make()
    with pytest.warns(UserWarning, match="running without compiled kernels, .*error: broken") as caught:
        for _ in range(3):
            assert net.loss_and_grad(np.ones((5, 3)), loss=WAVE) == expected
    assert len(caught) == 1
    assert net.plan(np.ones((5, 3)), loss=WAVE).reason.endswith("error: broken")


@needs_compiler
def test_an_activation_that_is_changed_or_swapped_counts(random):
    x = random.normal(size=(6, 3))
    slope = Elementwise("slope", "k * t * t * t", params={"k": 1.0})
    net = make(slope)
    first = net.loss_and_grad(x, loss=WAVE)
    slope.k = 2.0
    assert net.loss_and_grad(x, loss=WAVE) == pytest.approx(4 * first)
    net.activations[0] = "tanh"
    assert net.loss_and_grad(x, loss=WAVE) == pytest.approx(make("tanh").loss_and_grad(x, loss=WAVE))

"""The rule for tiled against layered, where nothing can be compiled: of net, batch and dtype alone, and right on both sides."""

import numpy as np
import pytest

from backprop_xp import Net
from backprop_xp.activations import Tanh
from backprop_xp.engines import tiled


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(tiled, "MOST_ROWS", tiled.FEWEST_ROWS)


@pytest.mark.filterwarnings("ignore:running without compiled kernels")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("more", "engine"), [(-1, "layered"), (0, "layered"), (1, "tiled")])
def test_a_batch_of_one_tile_runs_layered(more, engine, dtype):
    x = np.random.default_rng(0).normal(size=(tiled.FEWEST_ROWS + more, 5)).astype(dtype)
    nets = [
        Net((5, 8, 3), rng=0, dtype=dtype, backend="numpy", engine=name, threads=threads, init="glorot_normal")
        for name, threads in (("auto", 1), ("auto", 2), (engine, 2), ("layered", 1))
    ]
    assert nets[0].plan(x).engine == nets[1].plan(x).engine == engine
    losses = [net.loss_and_grad(x) for net in nets]
    assert losses[0] == losses[1] == losses[2]
    for a, b, c, d in zip(*(net.parameters for net in nets)):
        assert np.array_equal(a.grad, b.grad) and np.array_equal(a.grad, c.grad)
        np.testing.assert_allclose(a.grad, d.grad, rtol=1e-3 if dtype == "float32" else 1e-10)


def test_what_was_asked_for_runs_and_so_does_code_of_the_users():
    class Own(Tanh):
        scope = "sample"

        def grad(self, x):
            return super().grad(x)

    x = np.ones((7, 5))
    asked = Net((5, 3), rng=0, backend="numpy", engine="tiled")
    assert asked.plan(x).engine == "tiled"
    own = Net((5, 3), (Own(),), rng=0, backend="numpy")
    assert own.plan(x).engine == "tiled"

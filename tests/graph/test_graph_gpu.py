"""Graphs on CuPy: the same numbers as on NumPy, on the device."""

import numpy as np
import pytest
from arrays import host
from own import Doubled

from backprop_xp import GraphNet
from backprop_xp.graph import Dropout, Input, LayerNorm, Linear, Residual

pytestmark = pytest.mark.gpu


GRAPH = {
    "x": Input(5), "z": Input(3), "a": (Linear(3), "x"), "b": ("tanh", "a"), "c": ("add", "b", "z", "b"),
    "d": ("concatenate", "c", "x"), "e": (LayerNorm(), "d"), "f": (Dropout(0.3), "e"), "g": ("multiply", "f", "d"),
    "h": (Residual(Linear(8), "tanh"), "g"), "i": (Doubled(), "h"), "j": (Linear(3, bias=False), "i"),
    "k": (Linear(3, share="a"), "x"), "l": ("concatenate", "j", "k"),
}  # fmt: skip


@pytest.mark.parametrize("dtype, n", [("float64", 33), ("float32", None)])
def test_equal_to_numpy(cupy, dtype, n):
    random = np.random.default_rng(0)
    shape = () if n is None else (n,)
    x = {"x": random.normal(size=(*shape, 5)), "z": random.normal(size=(*shape, 3))}
    y, weight = random.normal(size=(*shape, 6)), random.uniform(0.5, 2, shape)
    found = []
    for backend in ("numpy", "cupy"):
        net = GraphNet(GRAPH, loss="mse", dtype=dtype, rng=0, backend=backend, reduction="mean", engine="layered")
        loss, grads = net.loss_and_grad(x, y, sample_weight=weight, input_grad=True)
        found.append([loss, net.forward(x), *grads.values(), *(t.grad for t in net.parameters)])
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    for expected, got in zip(*found):
        assert isinstance(got, cupy.ndarray)
        np.testing.assert_allclose(host(got), host(expected), rtol=tolerance, atol=tolerance)


def test_auto_runs_layered_and_a_graph_moves_there_and_back(cupy):
    net = GraphNet(GRAPH, rng=0, backend="numpy")
    x = {"x": np.ones((4, 5)), "z": np.ones((4, 3))}
    before = net.loss_and_grad(x, training=False)
    net.to("cupy")
    assert net.plan(x).engine == "layered"
    assert float(net.loss_and_grad(x, training=False)) == pytest.approx(before, rel=1e-12)
    assert all(isinstance(t.data, cupy.ndarray) and isinstance(t.grad, cupy.ndarray) for t in net.parameters)
    net.to("numpy")
    assert net.loss_and_grad(x, training=False) == before

"""What rounding is allowed to do to gradients: enough for right ones of any graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import GraphNet, Input, Linear, Net, Operation, check
from backprop_xp.graph import BatchNorm, LayerNorm
from backprop_xp.rounding import EPS, computed, forward_error

pytest.importorskip("torch")

from tests.graphs import arrays, descriptions


@given(descriptions(), st.integers(0, 3), st.sampled_from(["float32", "float64"]))
@settings(max_examples=25, deadline=None)
def test_any_graph_is_right(description, samples, dtype):
    net = GraphNet(description, loss="mse", dtype=dtype, rng=0, backend="numpy", engine="layered", init="glorot_normal")
    x, y = arrays(net, samples)
    for proof in (check.check_gradients, check.check_against_torch):
        report = proof(net, x, y)
        assert report.ok, report


def test_a_normalisation_of_nearly_equal_features_is_steep():
    net = GraphNet({"x": Input(3), "y": (LayerNorm(), "x")}, loss="mse", rng=0, backend="numpy")
    x = 1 + 1e-3 * np.random.default_rng(0).normal(size=(4, 3))
    for dtype in ("float64", "float32"):
        net.dtype = np.dtype(dtype)
        report = check.check_gradients(net, x, np.zeros((4, 3)))
        assert report.ok, report


def test_the_largest_sum_decides():
    net = Net((2, 1, 1), ("identity", "identity"), bias=True, init=lambda rng, shape: np.full(shape, -3.0))
    net.biases[0].data = np.array([4.0])
    x = np.array([[1.0, -5.0], [2.0, 0.0]])
    net.forward(x, keep_signals=True)  # -3 + 15 + 4 = 16 and -2, times -3
    found = computed(net, {"x": x})
    assert [one.largest for one in found] == [3 + 15 + 4, 48]
    assert forward_error(net.dtype, found) == 100 * EPS["float64"] * 48
    assert forward_error(net.dtype, []) == 100 * EPS["float64"]


def test_nodes_of_a_graph():
    description = {
        "x": Input(2), "n": (LayerNorm(0.0), "x"), "p": ("multiply", "x", "x"), "s": ("add", "n", "p"),
        "y": (Linear(1, bias=False), "s"),
    }  # fmt: skip
    net = GraphNet(description, init=lambda rng, shape: np.ones(shape), backend="numpy")
    x = np.array([[9.0, 11.0]])
    net.forward(x, keep_signals=True)
    found = dict(zip((node.name for node in net.nodes), computed(net, {"x": x})))
    assert {name: one.largest for name, one in found.items()} == {"x": 11, "n": 11, "p": 121, "s": 122, "y": 202}
    assert found["n"].steepness == 1.0
    net.forward(x / 1000, keep_signals=True)
    steep = dict(zip((node.name for node in net.nodes), computed(net, {"x": x / 1000})))["n"]
    assert steep.steepness == pytest.approx(1000) and steep.largest == pytest.approx(11)


def test_batch_normalisation_is_steep_where_a_feature_hardly_varies():
    net = GraphNet({"x": Input(2), "y": (BatchNorm(0.0), "x")}, backend="numpy")
    x = np.array([[9.0, 0.001], [11.0, 0.003]])  # standard deviations of 1 and 0.001
    net.forward(x, keep_signals=True)
    found = dict(zip((node.name for node in net.nodes), computed(net, {"x": x})))["y"]
    assert found.steepness == pytest.approx(1000) and found.largest == pytest.approx(11)


def test_an_operation_of_the_users_is_made_of_its_inputs_and_its_value():
    class Tenfold(Operation):
        def forward(self, z):
            return 10 * z

    for net in (
        GraphNet({"x": Input(2), "y": (Tenfold(), "x")}, backend="numpy"),
        Net((2, 2), [Tenfold()], init=lambda rng, shape: np.eye(2), bias=False, backend="numpy"),
    ):
        net.forward(np.array([[1.0, -2.0]]), keep_signals=True)
        assert computed(net, {"x": np.array([[1.0, -2.0]])})[1].largest == 20

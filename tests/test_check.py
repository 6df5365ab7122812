"""The proof of gradients itself: it passes what is right and fails what is wrong, NaN included."""

from __future__ import annotations

import numpy as np
import pytest

from backprop_xp import ACTIVATIONS, LOSSES, Net, Tanh, check


class Wrong(Tanh):
    def grad(self, x):
        return 1.0001 * super().grad(x)


class Lost(Tanh):
    def grad(self, x):
        return np.where(x > 0, np.nan, super().grad(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_activation_loss_and_bias(dtype):
    pytest.importorskip("torch")
    count = 0
    for name, report in check.run_matrix("layered", dtype, "numpy"):
        assert report.ok, f"{name}\n{report}"
        count += 1
    assert count == len(ACTIVATIONS) * len(LOSSES) * 2 * 2


def test_a_wrong_derivative_fails(random):
    net, x = Net((3, 4, 2), (Wrong(), "tanh"), rng=0), random.normal(size=(5, 3))
    report = check.check_gradients(net, x)
    assert not report.ok
    assert [row.name for row in report.rows if row.ok] == ["W1"]
    assert "WRONG" in str(report)


def test_nan_fails(random):
    net, x = Net((3, 2), (Lost(),), rng=0), random.normal(size=(5, 3))
    assert not check.check_gradients(net, x).ok
    x[0, 0] = np.inf
    assert not check.check_gradients(Net((3, 2), rng=0), x).ok


def test_a_report_of_nothing_is_no_proof():
    assert not check.Report("empty").ok
    report = check.Report("shapes")
    report.add("a", np.ones(3), np.ones(4), 1.0)
    assert not report.ok


def test_the_net_itself_is_not_changed(random):
    net, x = Net((3, 2), dtype="float32", bias=True, rng=0), random.normal(size=(5, 3))
    before = [p.data.copy() for p in (*net.weights, *net.biases)]
    check.numerical_gradients(net, x)
    for p, data in zip((*net.weights, *net.biases), before, strict=True):
        np.testing.assert_array_equal(p.data, data)
        assert p.data.dtype == np.float32
        assert p.grad is None


def test_pytorchs_side_has_biases_weights_and_means(random):
    pytest.importorskip("torch")
    net = Net((3, 4, 2), ("gelu", "identity"), "mse", True, rng=0, reduction="mean")
    x, y, w = random.normal(size=(5, 3)), random.normal(size=(5, 2)), random.uniform(0, 2, 5)
    report = check.check_against_torch(net, x, y, w)
    assert report.ok, report
    assert [row.name for row in report.rows] == ["loss", "W0", "W1", "b0", "b1", "x"]
    net.activations[0] = Wrong()
    assert not check.check_against_torch(net, x, y, w).ok

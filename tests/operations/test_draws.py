"""Dropout: which numbers it keeps, when, and that nobody else draws otherwise."""

import numpy as np
import pytest

from backprop_xp import GraphNet
from backprop_xp.graph import Dropout, Input, Linear
from backprop_xp.operations import draws, dropout


def net_of(p=0.4, **options):
    return GraphNet({"x": Input(6), "d": (Dropout(p), "x"), "y": (Linear(3), "d")}, rng=0, engine="layered", **options)


def splitmix(state):
    """One number of SplitMix64, as published."""
    mask = (1 << 64) - 1
    z = state & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


def test_the_numbers_are_splitmix64s():
    got = dropout.kept(np, 12345, 0.25, 4 / 3, 7, (5, 3), np.dtype("float64"))
    states = [12345 + k * 0x9E3779B97F4A7C15 for k in range(21, 36)]
    expected = [0.0 if (splitmix(s) >> 40) / 2**24 < 0.25 else 4 / 3 for s in states]
    np.testing.assert_array_equal(got.ravel(), expected)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_were_asked_for(p):
    key = draws.key(1, 2, 3)
    kept = dropout.kept(np, key, p, 1.0, 0, (1000, 100), np.dtype("float32"))
    assert abs((kept == 0).mean() - p) < 5 * np.sqrt(p * (1 - p) / kept.size)
    for a, b in ((kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1])):  # neighbours know nothing of each other
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(kept.size)


def test_seeded_reproducible_and_new_in_every_step():
    x, net, again = np.ones((50, 6)), net_of(), net_of()
    losses = [net.loss_and_grad(x) for _ in range(4)]
    assert len(set(losses)) == 4
    assert losses == [again.loss_and_grad(x) for _ in range(4)]
    assert net.draws == 4
    net.draws = 1  # as after a restart from a checkpoint
    assert net.loss_and_grad(x) == losses[1]
    other = net_of()
    other.seed += 1
    assert other.loss_and_grad(x) != losses[0]


def test_off_in_inference_and_on_request():
    x, net = np.ones((50, 6)), net_of()
    plain = x @ net.tensors["y.weight"].data.T
    np.testing.assert_allclose(net.forward(x), plain)
    np.testing.assert_allclose(net.loss_and_grad(x, training=False), 0.5 * (plain**2).sum())
    assert net.draws == 0
    assert not np.allclose(net.forward(x, training=True), plain)
    assert net.draws == 1


def test_what_stays_is_scaled_and_gradients_go_the_same_way():
    net = GraphNet({"x": Input(4), "d": (Dropout(0.75), "x")}, rng=0)
    x = np.random.default_rng(0).normal(size=(30, 4))
    _, grad = net.loss_and_grad(x, input_grad=True, keep_signals=True)
    out = net.signals["d"].data
    assert set(np.unique(np.round(out / x, 9))) == {0.0, 4.0}
    np.testing.assert_allclose(grad, out * np.round(out / x))


@pytest.mark.parametrize("p, expected", [(0, 1.0), (1, 0.0)])
def test_none_and_all(p, expected):
    net = GraphNet({"x": Input(4), "d": (Dropout(p), "x")}, rng=0)
    x = np.ones((3, 4))
    net.loss_and_grad(x, keep_signals=True)
    np.testing.assert_array_equal(net.signals["d"].data, x * expected)


def test_two_nodes_draw_differently():
    net = GraphNet(
        {"x": Input(50), "a": ("dropout", "x"), "b": ("dropout", "x"), "y": ("concatenate", "a", "b")}, rng=0
    )
    net.loss_and_grad(np.ones((20, 50)), keep_signals=True)
    assert not np.array_equal(net.signals["a"].data, net.signals["b"].data)

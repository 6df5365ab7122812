"""The fast engines against the layered one and float64: every activation, loss, bias and odd batch size; NaN; bits."""

import numpy as np
import pytest
from arrays import assert_close, everything, target
from here import needs_compiler

from backprop_xp import ACTIVATIONS, LOSSES, Elementwise, Net
from backprop_xp.engines import tiled
from backprop_xp.programs import fused
from backprop_xp.toolchain import compiler

FAST = [
    "tiled",
    pytest.param("fused", marks=needs_compiler),
]
CHUNK = fused.SMALL_CHUNK
BATCHES = [0, 1, 15, 16, 17, 127, 128, 129, 1009, CHUNK - 1, CHUNK, CHUNK + 1, 10007]


def assert_agree(sizes, activations, loss, engine, x, y, dtype="float64", weight=None, **options):
    """The same loss and gradients as the layered engine in float64, to the dtype's rounding."""
    reference = Net(sizes, activations, loss, dtype="float64", rng=5, init="glorot_normal", engine="layered", **options)
    net = Net(sizes, activations, loss, dtype=dtype, rng=5, init="glorot_normal", engine=engine, **options)
    got, expected = (everything(n, x, y, sample_weight=weight) for n in (net, reference))
    assert_close(got, expected, dtype)
    assert_close([net(x)], [reference(x)], dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name, engine, dtype, random):
    x = random.normal(size=(300, 3)).astype(dtype)
    assert_agree((3, 5, 2), (name, name), "half_sum_sq", engine, x, None, dtype, bias=True)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, engine, reduction, weighted, random):
    x, y = random.normal(size=(300, 3)), target(loss, 300, 4, random)
    weight = random.uniform(0, 2, 300) if weighted else None
    assert_agree((3, 4), ("tanh",), loss, engine, x, y, weight=weight, reduction=reduction)


@pytest.mark.parametrize("engine", FAST)
def test_softmax_with_probabilities(engine, random):
    x, y = random.normal(size=(300, 3)), random.dirichlet(np.ones(4), 300)
    y[0] = [1, 0, 0, 0]
    assert_agree((3, 4), ("identity",), "softmax_cross_entropy", engine, x, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("n", BATCHES)
def test_odd_batch_sizes(n, engine, dtype, random):
    x, y = random.normal(size=(n, 5)).astype(dtype), random.normal(size=(n, 3)).astype(dtype)
    assert_agree((5, 7, 3), ("tanh", "identity"), "mse", engine, x, y, dtype, bias=True)


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize(
    "sizes", [(1, 1), (7, 1), (1, 9), (3, 20, 1, 33, 2), (64, 64, 10), (4,) * 13, (100, 3), (3, 100)]
)
def test_uneven_widths_and_depths(sizes, engine, random):
    names = (["tanh", "silu", "relu", "identity"] * 3)[: len(sizes) - 1]
    assert_agree(sizes, names, "half_sum_sq", engine, random.normal(size=(200, sizes[0])), None, bias=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 5, 6, 7, 95, 96, 97, 481, 1023, 2500])
@pytest.mark.parametrize("sizes", [(64, 64, 10), (100, 70, 130, 5), (785, 33, 17), (3, 1200, 2), (500, 1, 500)])
def test_wide_nets(sizes, n, dtype, random):
    if compiler.missing():
        pytest.skip("no C++ compiler on this machine")
    names = (["tanh", "silu", "identity"])[3 - len(sizes) + 1 :]
    x, y, weight = random.normal(size=(n, sizes[0])), random.normal(size=(n, sizes[-1])), random.uniform(0, 2, n)
    assert_agree(sizes, names, "mse", "fused", x, y, dtype, weight, bias=True, reduction="mean")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", [False, True])
def test_wide_nets_with_every_loss(loss, bias, random):
    if compiler.missing():
        pytest.skip("no C++ compiler on this machine")
    x, y = random.normal(size=(700, 64)), target(loss, 700, 20, random)
    assert_agree((64, 48, 20), ("relu", "sigmoid"), loss, "fused", x, y, bias=bias)


@pytest.mark.parametrize("position", [0, 5, 95, 96, 699])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_in_wide_nets(poison, position, random):
    if compiler.missing():
        pytest.skip("no C++ compiler on this machine")
    inverse = Elementwise("inverse", "1 / t")  # infinite in features that only fill a register
    x = random.normal(size=(700, 65))
    x[position, 64] = poison
    nets = [Net((65, 49, 3), (inverse, "tanh"), bias=True, rng=5, engine=e) for e in ("layered", "fused")]
    for net in nets:
        net.biases[0].data += 0.5
    expected, got = (everything(net, x) for net in nets)
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("engine", FAST)
def test_a_formula_of_the_users(engine, random):
    bump = Elementwise("bump", "exp(-width * t ** 2) + 0.1 * t", params={"width": 2.0})
    assert_agree((3, 4, 2), (bump, "identity"), "half_sum_sq", engine, random.normal(size=(50, 3)), None)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("position", [0, 1, 63, 127, 128, 299])
def test_nan_and_infinity_reach_what_they_reach_in_the_layered_engine(position, engine, poison, random):
    x = random.normal(size=(300, 3))
    x[position, 1] = poison
    nets = [Net((3, 4, 2), ("sigmoid", "identity"), bias=True, rng=5, engine=e) for e in ("layered", engine)]
    expected, got = (everything(net, x) for net in nets)
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("where", ["weights", "biases", "y", "sample_weight"])
@pytest.mark.parametrize("engine", FAST)
def test_nan_elsewhere(engine, where, random):
    x, y, weight = random.normal(size=(300, 3)), random.normal(size=(300, 2)), np.ones(300)
    nets = [Net((3, 4, 2), ("tanh", "identity"), "mse", True, rng=5, engine=e) for e in ("layered", engine)]
    if where == "y":
        y[7, 1] = np.nan
    elif where == "sample_weight":
        weight[7] = np.nan
    else:
        for net in nets:
            getattr(net, where)[1].data[0] = np.nan
    expected, got = (everything(net, x, y, sample_weight=weight) for net in nets)
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        assert np.isnan(a).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("sizes", [(5, 10, 4, 12), (64, 48, 10)])
def test_the_same_bits_for_any_number_of_threads(sizes, engine, dtype, random, monkeypatch):
    monkeypatch.setattr(tiled, "MOST_ROWS", tiled.FEWEST_ROWS)  # many tiles
    x = random.normal(size=(9 * CHUNK + 77, sizes[0])).astype(dtype)
    results = []
    for threads in (1, 2, 7):
        net = Net(sizes, bias=True, dtype=dtype, rng=5, engine=engine, threads=threads)
        results.append([a.tobytes() for a in everything(net, x)] + [net(x).tobytes()])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("engine", FAST)
def test_the_same_bits_every_time(engine, random):
    net, x = Net((5, 10, 4), rng=5, engine=engine, dtype="float32"), random.normal(size=(3 * CHUNK + 5, 5))
    first = [a.tobytes() for a in everything(net, x)]
    assert all(first == [a.tobytes() for a in everything(net, x)] for _ in range(5))


def test_float32_errors_are_no_larger_than_pytorchs(random):
    torch = pytest.importorskip("torch")
    if compiler.missing():
        pytest.skip("no C++ compiler on this machine")
    sizes, ratios = (5, 10, 4, 12), []
    for seed in range(10):
        x = np.random.default_rng(seed).normal(size=(100_000, 5)).astype(np.float32)
        exact = Net(sizes, ("tanh", "sigmoid", "identity"), rng=seed, engine="layered")
        net = Net(sizes, ("tanh", "sigmoid", "identity"), dtype="float32", rng=seed, engine="fused")
        for a, b in zip(exact.weights, net.weights):
            a.data = b.data.astype(np.float64)
        exact.loss_and_grad(x)
        net.loss_and_grad(x)
        weights = [torch.tensor(w.data, requires_grad=True) for w in net.weights]
        z = torch.tensor(x)
        for w, f in zip(weights, (torch.tanh, torch.sigmoid, lambda t: t)):
            z = f(z @ w.T)
        (0.5 * (z * z).sum()).backward()
        for a, b, w in zip(exact.weights, net.weights, weights):
            ours, theirs = (np.linalg.norm(g - a.grad) for g in (b.grad, w.grad.numpy()))
            ratios.append(ours / theirs)
    assert np.median(ratios) <= 1.25


def test_tiles_depend_on_the_net_alone():
    assert tiled.tile_rows((5, 10, 4, 12), 4) == tiled.MOST_ROWS
    assert tiled.tile_rows((4096, 4096), 8) == tiled.FEWEST_ROWS

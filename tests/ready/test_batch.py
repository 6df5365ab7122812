"""Batches that go up a net and down again in two calls: the bits of one call, from signals that are theirs alone."""

import numpy as np
import pytest
from here import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import Net
from backprop_xp.programs import fused, matrices
from backprop_xp.programs.structs import address
from backprop_xp.ready import calls

pytestmark = needs_compiler

ACTIVATIONS = ("identity", "tanh", "relu", "gelu")


def make(sizes=(3, 17, 9, 2), activations=("tanh", "relu", "identity"), dtype="float32", **options):
    return Net(sizes, activations, bias=True, dtype=dtype, rng=0, init="he_normal", backend="numpy", **options)


def arrays(net, samples, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(samples, size)).astype(net.dtype) for size in (net.sizes[0], net.sizes[-1]))


def up(way, net, x):
    """Outputs and signals of a batch; None where it doesn't keep any."""
    output = np.empty((len(x), net.sizes[-1]), net.dtype)
    kept = way.forward(net, address(x), len(x), address(output))
    return None if kept is None else (output, kept)


def down(way, net, x, grad, kept=None):
    """Gradients in parameters and x."""
    grad_x, strides = np.empty_like(x), (net.sizes[-1], 1)
    found = way.backward(net, address(x), len(x), address(grad), strides, address(grad_x), kept)
    return found, grad_x


def at_once(net, x, grad):
    """Outputs, and gradients in parameters and x, by calls that keep nothing."""
    token = fused.any_widths.set(True)
    try:
        output = calls.find_forward(net, x, False).forward(net, x)
        return output, *down(calls.find_backward(net, len(x)), net, x, grad)
    finally:
        fused.any_widths.reset(token)


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@given(
    samples=st.sampled_from([1, 7, 24, 25, 191, 1151, 1153, 2050, 9000]),
    threads=st.sampled_from([1, 3]),
    dtype=st.sampled_from(["float32", "float64"]),
    activations=st.tuples(*[st.sampled_from(ACTIVATIONS)] * 3),
    bounds=st.sampled_from([(3, 17, 9, 2), (1, 1, 16, 1), (18, 5, 33, 20)]),
)
@settings(max_examples=40, deadline=None)
def test_up_and_down_give_the_bits_of_one_call(samples, threads, dtype, activations, bounds):
    net = make(bounds, activations, dtype, threads=threads)
    x, grad = arrays(net, samples)
    way = calls.find_backward(net, len(x))
    output, kept = up(way, net, x)
    net.threads = 4 - threads  # the memory stays laid out for those of the way up
    expected = at_once(net, x, grad)
    for _ in range(2):  # the second time it goes up again
        assert same((output, *down(way, net, x, grad, kept)), expected)


@pytest.mark.parametrize("samples", [60, 1175, 9000])
def test_signals_are_of_the_precision_of_their_way_up(samples, monkeypatch):
    monkeypatch.setattr(matrices, "lacking", lambda: "")
    net = make((18, 33, 20, 2), precision="bfloat16")
    x, grad = arrays(net, samples)
    way = calls.find_backward(net, len(x))
    output, kept = up(way, net, x)
    rounded = at_once(net, x, grad)
    net.precision = "float32"
    assert same((output, *down(way, net, x, grad, kept)), rounded)
    exact = at_once(net, x, grad)
    assert same(exact, at_once(make((18, 33, 20, 2)), x, grad))
    assert not any(np.array_equal(a, b) for a, b in zip(exact, rounded))


def test_more_than_a_chunk_of_a_net_that_fits_no_cache():
    net = make((3, 300, 250, 2))
    x, grad = arrays(net, 4500)
    way = calls.find_backward(net, len(x))
    output, kept = up(way, net, x)
    assert same((output, *down(way, net, x, grad, kept)), at_once(net, x, grad))


def test_signals_are_those_of_their_own_batch():
    net = make()
    batches = [tuple(arrays(net, samples, seed)) for seed, samples in enumerate((300, 300, 20))]
    way = calls.find_backward(net, 300)
    found = [up(way, net, x) for x, _ in batches]
    for (x, grad), (output, kept) in reversed([*zip(batches, found)]):
        assert same((output, *down(way, net, x, grad, kept)), at_once(net, x, grad))


def test_another_number_of_samples_has_other_signals():
    net = make()
    x, grad = arrays(net, 300)
    way = calls.find_backward(net, len(x))
    _, kept = up(way, net, x)
    assert same(down(way, net, x[:200], grad[:200], kept), at_once(net, x[:200], grad[:200])[1:])


def test_signals_that_would_take_over_half_of_the_workspace_are_not_kept(monkeypatch):
    net = make((3, 64, 64, 2))
    x, _ = arrays(net, 2000)
    way = calls.find_backward(net, len(x))
    assert up(way, net, x) is not None
    monkeypatch.setenv("BACKPROP_XP_WORKSPACE", "4")
    assert up(way, net, x) is None
    assert up(way, net, x[:50]) is not None

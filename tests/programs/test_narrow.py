"""The narrow pass: its products are compiled once for nets of equal sizes, and its chunks give the same bits anyhow."""

import numpy as np
import pytest
from here import needs_compiler

from backprop_xp import Net
from backprop_xp.programs import fused, matrices, narrow
from backprop_xp.toolchain import cache

pytestmark = needs_compiler
SIZES, SAMPLES = (3, 5, 5, 5, 2), fused.NARROW_SAMPLES + 37


def net_of(activations=("tanh",) * 4, loss="mse", bias=True, threads=None, **options):
    options = {"dtype": "float32", "rng": 0, "engine": "fused", "backend": "numpy"} | options
    return Net(SIZES, activations, loss=loss, bias=bias, threads=threads, **options)


def batch(samples=SAMPLES, dtype="float32"):
    random = np.random.default_rng(1)
    return random.normal(size=(samples, SIZES[0])).astype(dtype), random.random((samples, SIZES[-1])).astype(dtype)


def test_layers_of_equal_sizes_are_compiled_once():
    shape = fused.Shape(SIZES, (True,) * 4, "float32", ("t",) * 4, None)
    lines = [line for line in narrow.source(shape).splitlines() if line.startswith("BPX_DENSE(")]
    assert lines == [
        "BPX_DENSE(float, 0, 3, 5, true)",
        "BPX_DENSE(float, 1, 5, 5, true)",
        "BPX_DENSE(float, 2, 5, 2, true)",
    ]


def test_one_program_serves_all_functions_and_kinds_of_calls(monkeypatch):
    monkeypatch.setattr(narrow, "_programs", {})
    made, original = [], cache.library

    def library(source, what):
        made.append(what)
        return original(source, what)

    monkeypatch.setattr(cache, "library", library)
    (x, y), weight = batch(), np.ones(SAMPLES, np.float32)
    net_of().loss_and_grad(x, y)
    assert "the net 3-5-5-5-2 in float32" in made
    made.clear()
    for net in (
        net_of(("relu", "sigmoid", "identity", "identity")),
        net_of(loss="huber", reduction="mean"),
        net_of(loss="softmax_cross_entropy"),
    ):
        net.loss_and_grad(x, y, sample_weight=weight, input_grad=True)
        net.loss_and_grad(x, y)
    many = np.broadcast_to(x[:1], (fused.NARROW_OUTPUTS, SIZES[0]))
    net_of()(many)
    assert not [what for what in made if what.startswith("the net ")]


@pytest.mark.parametrize(
    "sizes, samples, taken",
    [
        (SIZES, fused.NARROW_SAMPLES, True),
        (SIZES, fused.NARROW_SAMPLES - 1, False),
        ((30, 30, 30, 2), fused.MORE_SAMPLES - 1, False),
        ((30, 30, 30, 2), fused.MORE_SAMPLES, True),
        ((60, 60, 2), 1 << 20, False),
    ],
)
def test_the_rule_of_net_and_batch(sizes, samples, taken):
    layers = len(sizes) - 1
    shape = fused.Shape(sizes, (True,) * layers, "float32", ("t",) * layers, "classes")
    assert shape.narrow(samples) == taken


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chunks", [1, 2, 3, 7])
def test_the_same_bits_for_any_threads_and_waves(dtype, chunks, monkeypatch):
    """Waves of one chunk, after each of which the call comes back to Python, and of all chunks."""
    monkeypatch.setattr(fused, "SMALL_CHUNK", -(-SAMPLES // chunks))
    (x, y), found = batch(dtype=dtype), []
    for threads in (1, 2, 5):
        for wave in (1, 2, chunks):
            with monkeypatch.context() as patch:
                patch.setattr(narrow, "wave_chunks", lambda shape, samples, wave=wave: wave)
                patch.setattr(matrices, "SECONDS", 0.0)
                net = net_of(dtype=dtype, threads=threads)
                loss, grad_x = net.loss_and_grad(x, y, input_grad=True)
                found.append((loss, grad_x, *(p.grad.copy() for p in net.parameters)))
    for other in found[1:]:
        for one, two in zip(found[0], other):
            assert np.array_equal(one, two)
    layered = net_of(dtype=dtype, engine="layered")
    loss, grad_x = layered.loss_and_grad(x, y, input_grad=True)
    rounding = 1e-4 if dtype == "float32" else 1e-11
    for one, two in zip(found[0], (loss, grad_x, *(p.grad for p in layered.parameters))):
        np.testing.assert_allclose(one, two, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_its_own_numbers_alone(bad):
    """An infinite or missing target of the last sample, in a tile that is not full."""
    x, y = batch()
    clean = net_of(("identity",) * 4)
    clean.loss_and_grad(x[:-1], y[:-1])
    y[-1, 1] = bad
    net = net_of(("identity",) * 4)
    loss, grad_x = net.loss_and_grad(x, y, input_grad=True)
    assert not np.isfinite(loss) and np.isfinite(grad_x[:-1]).all() and not np.isfinite(grad_x[-1]).any()
    last = net.weights[-1].grad
    assert np.isfinite(last[0]).all() and not np.isfinite(last[1]).any()


def test_parameters_are_read_where_they_lie():
    """Numbers that are changed in place count in the next call."""
    x, y = batch()
    net = net_of()
    net.loss_and_grad(x, y)
    for parameter in net.parameters:
        parameter.data[...] *= 2
    loss = net.loss_and_grad(x, y)
    other = net_of()
    for parameter in other.parameters:
        parameter.data[...] *= 2
    assert loss == other.loss_and_grad(x, y)

"""The fused engine on CuPy against the layered one on NumPy in float64, and the bits of its sums."""

import itertools

import numpy as np
import pytest
from arrays import assert_close, everything, host, target

from backprop_xp import ACTIVATIONS, LOSSES, Activation, Elementwise, Net
from backprop_xp.engines import fused_gpu
from backprop_xp.sums import rounds

pytestmark = pytest.mark.gpu

DTYPES = ["float32", "float64"]
BLOCK = fused_gpu.THREADS
CHUNK = 2 * BLOCK
BATCHES = [1, 31, 32, 33, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK - 1, CHUNK, CHUNK + 1]

# every activation, and every loss with a kind of target, in few nets, since each is a kernel to compile
NETS = [
    ((3, 5, 4, 3, 2), ("tanh", "sigmoid", "relu", "identity"), "half_squared_error", True),
    ((4, 3, 5, 2, 3), ("leaky_relu", "elu", "selu", "celu"), "mse", False),
    ((2, 4, 3, 4, 3), ("gelu", "gelu_tanh", "silu", "mish"), "huber", True),
    ((3, 4, 4, 3, 1), ("softplus", "softsign", "hard_sigmoid", "hard_tanh"), "bce_with_logits", True),
    ((3, 4, 3, 2, 4, 5), ("hard_swish", "relu6", "log_sigmoid", "sin", "cos"), "softmax_cross_entropy", True),
    ((1, 6, 4), ("tanh", "identity"), "probabilities", False),
    ((7, 1, 3), ("sigmoid", "tanh"), "mae", True),
    ((5, 10, 4, 12), ("tanh", "sigmoid", "identity"), "half_sum_sq", False),
    ((12, 9, 11, 3), ("tanh", "sigmoid", "softplus"), "half_sum_sq", True),  # no registers for all sums
]


def test_the_matrix_is_complete():
    assert {name for _, names, _, _ in NETS for name in names} == set(ACTIVATIONS)
    assert {loss for _, _, loss, _ in NETS} == {*LOSSES, "probabilities"}


def pair(sizes, names, loss, bias, dtype, **options):
    """The net on NumPy in float64, and on CuPy."""
    loss = "softmax_cross_entropy" if loss == "probabilities" else loss
    reference = Net(sizes, names, loss, bias, "float64", 5, "numpy", "glorot_normal", engine="layered", **options)
    net = Net(sizes, names, loss, bias, dtype, 5, "cupy", "glorot_normal", engine="fused", **options)
    return reference, net


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes, names, loss, bias", NETS)
def test_every_activation_loss_and_batch_size(sizes, names, loss, bias, dtype, random):
    reference, net = pair(sizes, names, loss, bias, dtype, reduction="mean")
    for n in BATCHES:
        x, weight = random.normal(size=(n, sizes[0])).astype(dtype), random.uniform(0, 2, n)
        y = target(loss, n, sizes[-1], random)
        expected, got = (everything(a, x, y, sample_weight=weight) for a in (reference, net))
        assert_close(got, expected, dtype)
    assert net.plan(x).engine == "fused"
    poisoned = x.copy()
    poisoned[0], poisoned[-1, 0] = np.nan, np.inf
    with np.errstate(all="ignore"):
        expected, got = (everything(a, poisoned, y, sample_weight=weight) for a in (reference, net))
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_array_equal(np.isnan(b), np.isnan(a))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_articles_net(dtype, random):
    reference, net = pair((5, 10, 4, 12), ("tanh", "sigmoid", "identity"), "half_sum_sq", False, dtype)
    for n in (1, BLOCK + 1, 2 * CHUNK + 5):
        x = random.normal(size=(n, 5)).astype(dtype)
        got, expected = net.loss_and_grad(x), reference.loss_and_grad(x)
        assert (type(got).__module__.partition(".")[0], got.shape) == ("cupy", ())
        gradients = ([host(a), *(host(w.grad) for w in b.weights)] for a, b in ((got, net), (expected, reference)))
        assert_close(*gradients, dtype)
        assert_close([host(net(x))], [reference(x)], dtype)


@pytest.mark.parametrize("sizes, names, loss, bias", [NETS[2], NETS[8]])
def test_the_same_bits_on_any_grid_and_in_pieces(sizes, names, loss, bias, random, monkeypatch, cupy):
    _, net = pair(sizes, names, loss, bias, "float32")
    n = 5 * CHUNK + 3
    x, y = random.normal(size=(n, sizes[0])), target(loss, n, sizes[-1], random)
    expected = everything(net, x, y)
    programs = fused_gpu._programs.copy()
    for blocks in (1, 2):  # beyond one grid stride
        for key, program in programs.items():
            monkeypatch.setitem(fused_gpu._programs, key, program._replace(blocks=blocks))
        for a, b in zip(expected, everything(net, x, y), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(host(net(x)), host(net(x)[::-1])[::-1])

    call = net._call(x, None, True)
    call.loss, call.y, call.input_grad = net.loss, None if y is None else cupy.asarray(y, "float32"), True
    chunk = fused_gpu.chunk_samples(call)
    for cuts in ([0, chunk, n], [0, 2 * chunk, 3 * chunk, n]):
        pieces, grad_x = fused_gpu.pieces(call), cupy.empty_like(call.x)
        for first, last in itertools.pairwise(cuts):
            part = slice(first, last)
            pieces.add(call.rows(part), {"x": grad_x[part]})
        result = pieces.result({})
        np.testing.assert_array_equal(host(result.loss), expected[0])
        np.testing.assert_array_equal(host(grad_x), expected[1])
        parameters = [p for layer in zip(net.weights, net.biases) for p in layer]
        for gradient, parameter in zip(result.parameters, parameters, strict=True):
            np.testing.assert_array_equal(host(gradient), host(parameter.grad))


def test_strided_inputs_are_read_in_place(random, cupy):
    sizes, names, loss, bias = NETS[2]
    reference, net = pair(sizes, names, loss, bias, "float64")
    x, y = random.normal(size=(80, 6)), random.normal(size=(9, 40))
    weight = random.uniform(0, 2, 120)
    on_host = x[::-2, ::3], y[::-4].T, weight[::-3]
    on_device = [cupy.asarray(a) for a in (x, y, weight)]
    on_device = on_device[0][::-2, ::3], on_device[1][::-4].T, on_device[2][::-3]
    expected, got = (everything(n, a, b, sample_weight=w) for n, (a, b, w) in ((reference, on_host), (net, on_device)))
    assert_close(got, expected, "float64")
    assert_close([host(net(on_device[0]))], [reference(on_host[0])], "float64")


@pytest.mark.parametrize("sizes", [(1, 1), (40, 2), (2, 40), (6,) * 7])
def test_uneven_widths_and_depths(sizes, random):
    names = (["tanh", "silu", "relu", "identity"] * 2)[: len(sizes) - 1]
    reference, net = pair(sizes, names, "half_sum_sq", True, "float32")
    x = random.normal(size=(BLOCK + 2, sizes[0])).astype(np.float32)
    assert_close(everything(net, x), everything(reference, x), "float32")


def test_parameters_are_read_as_they_are_now(random, cupy):
    sizes, names, loss, bias = NETS[1]
    reference, net = pair(sizes, names, loss, bias, "float64")
    x, y = random.normal(size=(50, sizes[0])), random.normal(size=(50, sizes[-1]))
    everything(net, x, y)
    for n in (reference, net):
        n.weights[0].data[0] *= 2
        n.weights[1].data = n.weights[1].data.T.copy().T  # not contiguous
        n.activations[0].negative_slope = 0.25
    expected, got = (everything(n, x, y) for n in (reference, net))
    assert_close(got, expected, "float64")


def test_the_current_stream_is_used_and_nothing_waits(random, cupy):
    _, net = pair(*NETS[7], "float32")
    x = random.normal(size=(300, 5)).astype(np.float32)
    expected = everything(net, x)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        loss, grad_x = net.loss_and_grad(cupy.asarray(x), input_grad=True)
    stream.synchronize()
    np.testing.assert_array_equal(host(loss), expected[0])
    np.testing.assert_array_equal(host(grad_x), expected[1])


def test_own_formulas_run_fused_and_python_layered(random):
    class Plain(Activation):
        def __call__(self, x):
            return x * 2

        def grad(self, x):
            return x * 0 + 2

    x = random.normal(size=(40, 3))
    bump = Elementwise("bump", value="exp(-width * t ** 2)", params={"width": 2.0})
    reference, net = pair((3, 2), (bump,), "half_sum_sq", False, "float64")
    net.engine = "auto"
    assert net.plan(x).engine == "fused"
    assert_close(everything(net, x), everything(reference, x), "float64")
    net.activations[0] = Plain()
    assert net.plan(x).engine == "layered"
    assert "not fused: an activation is written in Python" in net.plan(x).reason
    net.engine = "fused"
    with pytest.raises(ValueError, match="the fused engine can't run this call: an activation is written in Python"):
        net.loss_and_grad(x)


@pytest.mark.parametrize(
    "sizes, reason", [((64, 64, 10), "need too many registers"), ((90, 4, 4), "need too much shared memory")]
)
def test_a_net_that_is_too_large_for_threads_runs_otherwise(sizes, reason):
    net = Net(sizes, dtype="float32", backend="cupy", rng=0)
    plan = net.plan(np.ones((5, sizes[0])))
    assert plan.engine != "fused"
    assert reason in plan.reason
    net.engine = "fused"
    with pytest.raises(ValueError, match=f"the fused engine can't run this call: .* {reason}"):
        net.loss_and_grad(np.ones((5, sizes[0])))


def test_a_batch_of_none_and_one_sample_run_layered():
    _, net = pair(*NETS[7], "float64")
    assert float(net.loss_and_grad(np.ones((0, 5)))) == 0
    assert net.plan(np.ones((0, 5))).engine == net.plan(np.ones(5)).engine == "layered"


def test_chunks_are_cut_for_as_many_blocks_as_have_registers(monkeypatch):
    asked = []
    monkeypatch.setattr(rounds, "chunk_samples", lambda *arguments: asked.append(arguments) or 128)
    for net in (pair(*NETS[7], "float32")[1], pair(*NETS[8], "float32")[1]):
        net.loss_and_grad(np.ones((300, net.sizes[0])))
    assert {arguments[-1] for arguments in asked} == {fused_gpu.RESIDENT, fused_gpu.RESIDENT_SHARED_OUT}
    assert {arguments[:2] for arguments in asked} == {(300, BLOCK)}

"""Graphs that are no chains in one pass on a CUDA device: what the layered engine gives in float64, and the same bits."""

from dataclasses import replace

import numpy as np
import pytest
from arrays import host
from blocks import SHARED

from backprop_xp import GraphNet
from backprop_xp.engines import cooperative
from backprop_xp.graph import BatchNorm, Dropout, Input, LayerNorm, Linear
from backprop_xp.programs import block, block_graph, graph_source
from backprop_xp.toolchain import cuda

pytestmark = pytest.mark.filterwarnings("error")  # such as that nothing could be compiled

#: A residual block with normalisation and dropout, and a dense end.
RESIDUAL = {
    "x": Input(7), "h": (Linear(20), "x"), "n": (LayerNorm(), "h"), "a": ("tanh", "n"), "d": (Dropout(0.3), "a"),
    "l": (Linear(20), "d"), "s": ("add", "l", "h"), "all": ("concatenate", "s", "x", "h"),
    "end": (Linear(5, bias=False), "all"),
}  # fmt: skip
#: Two inputs, a product, parameters of two nodes, batch normalisation, and an end whose features are put side by side.
SHARED_OUT = {
    "x": Input(6), "z": Input(9), "h": (Linear(9), "x"), "m": ("multiply", "h", "z"), "k": (Linear(9), "m"),
    "again": (Linear(9, share="k"), "k"), "b": (BatchNorm(), "again"), "all": ("concatenate", "b", "m", "z"),
    "end": ("sigmoid", "all"),
}  # fmt: skip


def normalised(features, width):
    """Batch normalisation of an input and of two signals, one of which is used again; and dropout between them."""
    return {
        "x": Input(features), "first": (BatchNorm(0.1, 0.25), "x"), "h": (Linear(width), "first"),
        "b": (BatchNorm(), "h"), "a": ("tanh", "b"), "d": (Dropout(0.3), "a"), "k": (Linear(width), "d"),
        "c": (BatchNorm(momentum=1.0), "k"), "s": ("add", "c", "h"), "all": ("concatenate", "s", "x"),
        "end": (Linear(5), "all"),
    }  # fmt: skip


NORMAL = normalised(7, 12)
NOTHING = {"x": Input(3), "a": ("tanh", "x"), "end": ("concatenate", "a", "x")}


def nets(nodes, dtype="float64", loss="mse"):
    """The same net by the layered engine on NumPy, in float64, and by this one."""
    reference = GraphNet(nodes, loss=loss, rng=3, dtype="float64", backend="numpy", engine="layered")
    ours = GraphNet(nodes, loss=loss, rng=3, dtype=dtype, backend="cupy", engine="cooperative")
    random = np.random.default_rng(0)
    for name, tensor in reference.tensors.items():
        tensor.data = random.normal(size=tensor.data.shape) / 2
        ours.tensors[name].data = ours.backend.xp.asarray(tensor.data.astype(dtype))
    return reference, ours


def batch(net, n, y=None):
    random = np.random.default_rng(n)
    x = {name: random.normal(size=(n, width)) for name, width in net.inputs.items()}
    y = random.normal(size=(n, net.nodes[-1].width)) if y is None else random.integers(0, net.nodes[-1].width, n)
    return (x if len(x) > 1 else x["x"]), y, random.uniform(0, 2, n)


def own(net, a):
    """An array, or several by name, of the net's backend."""
    return {name: own(net, part) for name, part in a.items()} if isinstance(a, dict) else net.backend.xp.asarray(a)


def everything(net, x, y, weight, training=True):
    """Loss, gradients of all parameters, those in the inputs, and the outputs."""
    x, y, weight = (own(net, a) for a in (x, y, weight))
    loss, below = net.loss_and_grad(x, y, sample_weight=weight, input_grad=True, training=training)
    below = below.values() if isinstance(below, dict) else [below]
    return [host(a) for a in (loss, *(t.grad for t in net.tensors.values()), *below, net(x))]


def assert_agree(expected, got, tolerance):
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance * max(1, np.abs(a).max()))


@pytest.mark.gpu
def test_residual_and_dense_with_normalisation_and_the_references_draws(cupy):
    reference, ours = nets(RESIDUAL)
    for n in (1, 33, 64, 200):
        given = batch(reference, n)
        assert_agree(everything(reference, *given), everything(ours, *given), 1e-11)
    for net in (reference, ours):  # 0 * inf where there is no sample
        net.tensors["l.weight"].data[3] = np.inf
    given = batch(reference, 3)
    for a, b in zip(everything(reference, *given), everything(ours, *given), strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))


@pytest.mark.gpu
def test_two_inputs_shared_parameters_and_running_statistics(cupy):
    reference, ours = nets(SHARED_OUT)
    for n in (3, 100):
        given = batch(reference, n)
        assert_agree(everything(reference, *given, training=False), everything(ours, *given, training=False), 1e-11)
    given = {"x": cupy.zeros((1, 6)), "z": cupy.zeros((1, 9))}
    assert cooperative.why_not(ours._call(given, None, True)) == "it needs 2 samples in training"


def buffers(net):
    return [host(tensor.data) for tensor in net.buffers.values()]


@pytest.mark.gpu
@pytest.mark.parametrize("nodes", [NORMAL, SHARED_OUT], ids=["three", "shared"])
def test_batch_normalisation_in_training(cupy, nodes):
    reference, ours = nets(nodes)
    given = {name: cupy.zeros((64, width)) for name, width in ours.inputs.items()}
    assert ours.plan(given).engine == "cooperative"
    for n in (2, 33, 200):
        given = batch(reference, n)
        before = buffers(ours)
        handed_out = [tensor.data for tensor in ours.buffers.values()]
        assert_agree(everything(reference, *given), everything(ours, *given), 1e-9)
        assert_agree(buffers(reference), buffers(ours), 1e-10)
        for old, array in zip(before, handed_out, strict=True):
            np.testing.assert_array_equal(array.get(), old)  # new arrays, as gradients are
        outputs = [net.forward(own(net, given[0]), training=True) for net in (reference, ours)]
        assert_agree([host(outputs[0])], [host(outputs[1])], 1e-10)
        assert_agree(buffers(reference), buffers(ours), 1e-10)
    with pytest.raises(ValueError, match="it needs 2 samples in training"):
        ours.loss_and_grad(*(own(ours, a) for a in batch(reference, 1)[:2]))


@pytest.mark.gpu
def test_gradients_through_the_batchs_statistics_are_differences_of_the_loss(cupy):
    nodes = {"x": Input(3), "h": (Linear(4), "x"), "b": (BatchNorm(), "h"), "s": ("multiply", "b", "h")}
    _, net = nets(nodes)
    x, y, _ = (own(net, a) for a in batch(net, 70))
    assert net.plan(x).engine == "cooperative"
    net.loss_and_grad(x, y)
    found = {name: host(tensor.grad) for name, tensor in net.tensors.items()}
    for name, tensor in net.tensors.items():
        for at in [*np.ndindex(tensor.data.shape)][::3]:
            losses = []
            for step in (1e-6, -2e-6):
                tensor.data[at] += step
                losses.append(float(net.loss_and_grad(x, y)))
            tensor.data[at] += 1e-6
            assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(found[name][at], rel=1e-6, abs=1e-6)


@pytest.mark.gpu
def test_batch_normalisation_gives_the_same_bits_in_waves_on_any_stream_and_when_prepared(cupy, monkeypatch):
    monkeypatch.setattr(cooperative, "MOST_TILES", 1)
    x, y, _ = batch(nets(NORMAL)[0], 257 * cooperative.TILES, "classes")
    x = x.astype("float32")

    def computed(prepared=False):
        net = nets(NORMAL, "float32", "softmax_cross_entropy")[1]
        losses = []
        for _ in range(2):
            if prepared:
                losses.append(net.loss_and_grad(own(net, x), own(net, y)))
            else:
                losses.append(net.loss_and_grad(own(net, x), own(net, y), input_grad=True)[0])
        return [*map(host, losses), *(host(tensor.grad) for tensor in net.tensors.values()), *buffers(net)]

    expected = computed()
    assert all(np.isfinite(a).all() for a in expected)
    found = [computed(prepared=True)]
    monkeypatch.setattr(cooperative, "WAVE_BYTES", 0)
    with cupy.cuda.Stream(non_blocking=True):
        found.append(computed())
    for got in found:
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.gpu
def test_repeated_calls_move_the_running_statistics(cupy):
    nodes = {name: node for name, node in NORMAL.items() if name != "d"} | {"k": (Linear(12), "a")}
    _, plain = nets(nodes)
    _, ours = nets(nodes)
    x, y, _ = (own(plain, a) for a in batch(plain, 70))
    step = ours.repeated(x, y)
    for k in range(4):
        if k == 2:
            x *= 0.5
        expected = [host(plain.loss_and_grad(x, y)), *(host(t.grad) for t in plain.tensors.values()), *buffers(plain)]
        got = [host(step()), *(host(t.grad) for t in ours.tensors.values()), *buffers(ours)]
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_array_equal(a, b)
        assert step.graph is not None
    graph = step.graph
    step()
    assert step.graph is graph


@pytest.mark.gpu
def test_the_same_bits_in_waves_and_classes_in_float32(cupy, monkeypatch):
    reference, ours = nets(RESIDUAL, "float32", "softmax_cross_entropy")
    monkeypatch.setattr(cooperative, "MOST_TILES", 1)
    x, y, weight = batch(reference, 257 * cooperative.TILES, "classes")
    given = x.astype("float32"), y, weight.astype("float32")
    expected = everything(ours, *given)
    assert_agree(everything(reference, *given), expected, 1e-3)
    fresh = nets(RESIDUAL, "float32", "softmax_cross_entropy")[1]
    monkeypatch.setattr(cooperative, "WAVE_BYTES", 0)  # 256 chunks a wave: the second draws on where the first ended
    for a, b in zip(expected, everything(fresh, *given), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.gpu
def test_a_call_again_and_again_draws_anew_and_auto_takes_large_batches(cupy):
    _, ours = nets(RESIDUAL)
    x, y = cupy.ones((70, 7)), cupy.ones((70, 5))
    step = ours.repeated(x, y)
    assert float(step()) != float(step())
    assert step.graph is None
    ours.engine = "auto"
    assert [ours.plan(cupy.ones((n, 7))).engine for n in (cooperative.FEWEST_OF_GRAPHS, 70)] == [
        "cooperative",
        "layered",
    ]


@pytest.mark.gpu
def test_a_graph_without_parameters(cupy):
    given = batch(nets(NOTHING)[0], 3)
    assert_agree(*(everything(net, *given, training=False) for net in nets(NOTHING)), 1e-12)


@pytest.mark.gpu
def test_what_does_not_fit_says_so(cupy):
    wide = {"x": Input(9), "a": (Linear(4000), "x"), "b": (Linear(4000), "x"), "s": ("add", "a", "b")}
    _, ours = nets(wide)
    with pytest.raises(ValueError, match="the values of a few samples don't fit the 227 KiB of shared memory"):
        ours.loss_and_grad(cupy.zeros((2, 9)), cupy.zeros((2, 4000)))


def writer(nodes, dtype="float32", loss="classes", **more):
    net = GraphNet(nodes, dtype=dtype, backend="numpy")
    shape = graph_source.shape_of(net.nodes, dtype, loss, loss is not None, False, loss is not None)
    return block_graph.BlockWriter(replace(shape, **more), net.nodes)


@pytest.mark.parametrize("architecture", [80, 90])
def test_nothing_spills(architecture):
    pytest.importorskip("nvrtc")
    wide = {"x": Input(64), "h": (Linear(64), "x"), "n": (LayerNorm(), "h"), "s": ("add", "n", "x")}
    for written in (writer(wide), writer(wide, precision="tf32x3"), writer(wide, precision="bfloat16")):
        assert_fits(written, *written.stages, architecture)


@pytest.mark.parametrize("architecture", [80, 90])
def test_stages_of_batch_normalisation_spill_nothing(architecture):
    pytest.importorskip("nvrtc")
    written = writer(normalised(64, 64), whole_batch=True)
    for stage in written.stages[-3:]:
        assert_fits(written, stage, architecture)


def assert_fits(written, stage, architecture):
    """One of the ways to cut a stage needs no more registers than there are."""
    import nvrtc

    for way in written.tilings(stage, SHARED[architecture] << 10):
        _, resources = nvrtc.compile_for(written.source_for(stage, way), architecture, cuda.OPTIONS)
        if (taken := resources[block.ENTRY]).fits:
            break
    assert taken.fits
    assert taken.registers * way.threads * way.resident <= 65_536


def test_barriers_stand_where_steps_touch_what_others_wrote():
    written = writer(RESIDUAL)
    (stage,) = written.stages
    lines = written._lines(stage)
    steps = ["barrier" if "sync" in line else line.partition("(")[0].partition("<")[0] for line in lines]
    assert steps[:4] == ["bpx::graph_input", "barrier", "bpx::graph_linear", "barrier"]
    assert steps[-1] == "barrier"
    at = steps.index("bpx::wide_loss")
    # the gradients in the last linear node's three pieces of the weights don't wait for each other
    assert steps[at + 1 : at + 5] == ["barrier", *["bpx::graph_outer"] * 3]


def test_tiles_are_as_large_as_fit():
    written = writer(RESIDUAL)
    (stage,) = written.stages
    rows = [[way.rows for way in written.tilings(stage, kib << 10)][:1] for kib in (227, 48, 24, 1)]
    assert rows == [[64], [64], [32], []]

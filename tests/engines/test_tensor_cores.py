"""Products by tensor cores: how far each precision is from float64, and that nothing else is different."""

import re
from dataclasses import replace

import numpy as np
import pytest
from arrays import host
from backprop_xp.kernels import FOLDER
from blocks import SHARED, everything, in_pieces, shape

from backprop_xp import GraphNet, Net
from backprop_xp.engines import cooperative
from backprop_xp.graph import BatchNorm, Input, LayerNorm, Linear
from backprop_xp.losses import get_loss
from backprop_xp.precision import PRECISIONS
from backprop_xp.programs import block, tensor_tiling
from backprop_xp.toolchain import cuda

#: The largest error of any number, relative to the largest of its array: what it is at most, and at least, or products
#: were more precise than they are said to be.
ERRORS = {"tf32x3": (1e-6, 0), "tf32": (2e-3, 1e-5), "bfloat16": (2e-2, 1e-4), "float16": (2e-3, 1e-5)}
COMPILED = {
    "64 wide": shape((64, 64, 10), ("tanh", "identity"), "classes", factors=False, input_grad=False),
    "sliced": shape((300, 40, 17), ("gelu", "sigmoid"), "half_squared_error"),
    "forward": shape((64, 64, 10), ("tanh", "identity"), None, factors=False, input_grad=False),
}


# ---- without a device -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [80, 90, 100, 120])
@pytest.mark.parametrize("case, precision", [("64 wide", "tf32x3"), ("64 wide", "bfloat16")])
def test_one_of_the_first_tilings_spills_nothing(case, precision, architecture):
    assert_fits(case, precision, architecture)


@pytest.mark.parametrize("case, precision", [("sliced", "tf32x3"), ("sliced", "float16"), ("forward", "tf32")])
def test_other_kinds_of_calls_spill_nothing(case, precision):
    assert_fits(case, precision, 90)


def test_every_version_of_nvrtc_compiles_it():
    for library in pytest.importorskip("nvrtc").libraries():
        assert_fits("64 wide", "bfloat16", 90, library)


def assert_fits(case, precision, architecture, library=None):
    nvrtc = pytest.importorskip("nvrtc")
    net, activations = COMPILED[case]
    net = replace(net, precision=precision)
    ways = block.tilings(net, SHARED[architecture] << 10)
    for way in [way for way in ways if way.rows == ways[0].rows]:
        _, resources = nvrtc.compile_for(block.source(net, activations, way), architecture, cuda.OPTIONS, library)
        taken = resources["bpx_block"]
        if (taken.spills, taken.stack) == (0, 0):
            break
    else:
        pytest.fail(f"{way}: {taken}")
    assert taken.registers * way.threads * way.resident <= 65_536


def test_tiles_are_as_large_as_fit_and_slices_are_whole_tiles_of_tensor_cores():
    net = replace(COMPILED["64 wide"][0], precision="tf32")
    assert [block.tilings(net, kib << 10)[0].rows for kib in (227, 99, 40, 24)] == [64, 64, 32, 16]
    assert block.tilings(net, 12 << 10) == ()
    sliced = replace(COMPILED["sliced"][0], precision="float16")
    assert {way.slice for way in block.tilings(sliced, 99 << 10)} <= {64, 112, 32}
    assert all(cooperative.TILES % way.rows == 0 for way in block.tilings(sliced, 99 << 10))
    assert set(tensor_tiling.FORMS) == set(PRECISIONS) - {"float32"}


def test_one_header_names_the_instructions():
    naming = {
        path.name
        for path in FOLDER.glob("*.h")
        if re.search(r"\basm\b.*(mma|cvt)\.|emu::|CUDACPU", path.read_text(encoding="utf-8"))
    }
    assert naming == {"mma.h"}


def test_a_precision_is_checked():
    with pytest.raises(ValueError, match="unknown precision 'tf16'"):
        Net((3, 2), dtype="float32", precision="tf16")
    with pytest.raises(ValueError, match="precision 'tf32' is for nets of dtype float32, this one is of float64"):
        Net((3, 2), precision="tf32")


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "bfloat16"])
def test_on_a_cpu_products_are_float32(precision):
    def computed(precision):
        net = Net((20, 24, 5), dtype="float32", rng=0, backend="numpy", precision=precision)
        x = np.random.default_rng(0).normal(size=(40, 20))
        return net, [net.loss_and_grad(x), *(p.grad for p in net.parameters)]

    net, got = computed(precision)
    for a, b in zip(got, computed("auto")[1], strict=True):
        np.testing.assert_array_equal(a, b)
    reason = net.plan(np.ones((40, 20))).reason
    assert ("products in float32, not" in reason) == (precision != "float32")


# ---- on a device ----------------------------------------------------------------------------------------------------


def nets(sizes, activations, loss, precision, bias=True, reduction="sum"):
    """The same net by the layered engine on NumPy, in float64, and by tensor cores."""
    ours = Net(
        sizes,
        activations,
        loss,
        bias,
        "float32",
        5,
        "cupy",
        "glorot_normal",
        reduction,
        "cooperative",
        precision=precision,
    )
    reference = Net(sizes, activations, loss, bias, "float64", 5, "numpy", "glorot_normal", reduction, "layered")
    copy(ours, reference)
    return reference, ours


def copy(ours, reference):
    for a, b in zip((*reference.weights, *reference.biases), (*ours.weights, *ours.biases)):
        a.data = b.data.get().astype(np.float64)


def errors(expected, got):
    """Of each array, relative to its largest number."""
    return [float(np.max(np.abs(a - b)) / np.max(np.abs(a))) for a, b in zip(expected, got, strict=True)]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ERRORS)
def test_errors_are_as_stated(cupy, random, precision):
    most, least = ERRORS[precision]
    reference, ours = nets((33, 48, 17), ("tanh", "gelu"), "softmax_cross_entropy", precision, reduction="mean")
    assert f"products in {precision}" in ours.plan(cupy.ones((64, 33), "float32")).reason
    for n in (1, 33, 64, 130):
        x, y, weight = random.normal(size=(n, 33)), random.integers(0, 17, n), random.uniform(0.1, 2, n)
        found = errors(
            *(everything(net, x.astype("float32"), y, weight.astype("float32")) for net in (reference, ours))
        )
        assert least < max(found) < most, (n, found)
    for net in (reference, ours):  # 0 * inf where there is no sample
        net.weights[1].data[:, 7] = np.inf
    x = random.normal(size=(3, 33)).astype("float32")
    for a, b in zip(everything(reference, x, y[:3]), everything(ours, x, y[:3]), strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))


#: Pieces of a concatenation, normalisation of samples and of the batch, and a sum.
GRAPH = {
    "x": Input(33), "h": (Linear(48), "x"), "n": (LayerNorm(), "h"), "a": ("tanh", "n"), "k": (Linear(48, False), "a"),
    "b": (BatchNorm(), "k"), "s": ("add", "b", "h"), "all": ("concatenate", "s", "x", "a"), "end": (Linear(17), "all"),
}  # fmt: skip


def graphs(precision):
    """The same graph by the layered engine on NumPy, in float64, and by tensor cores."""
    options = {"loss": "softmax_cross_entropy", "rng": 5, "init": "glorot_normal", "reduction": "mean"}
    ours = GraphNet(GRAPH, dtype="float32", backend="cupy", engine="cooperative", precision=precision, **options)
    reference = GraphNet(GRAPH, dtype="float64", backend="numpy", engine="layered", **options)
    for name, tensor in ours.tensors.items():
        reference.tensors[name].data = tensor.data.get().astype(np.float64)
    return reference, ours


def everything_of_a_graph(net, x, y, weight, training):
    """Loss, gradient in x, gradients of the parameters, and the outputs."""
    asarray = net.backend.xp.asarray
    x, y, weight = asarray(x.astype(net.dtype)), asarray(y), asarray(weight.astype(net.dtype))
    loss, grad_x = net.loss_and_grad(x, y, sample_weight=weight, input_grad=True, training=training)
    return [host(a) for a in (loss, grad_x, *(tensor.grad for tensor in net.tensors.values()), net(x))]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ERRORS)
def test_errors_of_a_graph_are_as_stated(cupy, random, precision):
    most, least = ERRORS[precision]
    reference, ours = graphs(precision)
    assert f"products in {precision}" in ours.plan(cupy.ones((64, 33), "float32")).reason
    for n in (1, 33, 64, 130):
        x, y, weight = random.normal(size=(n, 33)), random.integers(0, 17, n), random.uniform(0.1, 2, n)
        x = x.astype("float32")
        found = errors(*(everything_of_a_graph(net, x, y, weight, n > 1) for net in (reference, ours)))
        assert least < max(found) < most, (n, found)
    for factor in (1e-30, 1e30):
        found = errors(*(everything_of_a_graph(net, x, y, weight * factor, False) for net in (reference, ours)))
        assert max(found) < most, (factor, found)


@pytest.mark.gpu
def test_three_products_of_a_graph_give_infinity_and_nan_where_float32_does(cupy, random):
    reference, ours = graphs("tf32x3")
    x, y, weight = random.normal(size=(70, 33)).astype("float32"), random.integers(0, 17, 70), np.ones(70)
    x[3, 32] = np.inf
    results = [everything_of_a_graph(net, x, y, weight, False) for net in (reference, ours)]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)
    for net in (reference, ours):  # 0 * inf where there is no sample
        net.tensors["k.weight"].data[:, 7] = np.inf
    results = [everything_of_a_graph(net, x[:3], y[:3], weight[:3], False) for net in (reference, ours)]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32x3", "float16"])
def test_a_wide_input_taken_in_slices_and_tiny_gradients(cupy, random, precision):
    reference, ours = nets((300, 40, 17), ("gelu", "sigmoid"), "half_squared_error", precision, bias=False)
    x, y = (random.normal(size=(70, width)).astype("float32") for width in (300, 17))
    for factor in (1, 1e-30, 1e30):  # float16 reaches from 6e-8 to 65504
        weight, results = np.full(70, factor, "float32"), []
        for net in (reference, ours):
            loss, grad_x = net.loss_and_grad(x, y, sample_weight=weight, input_grad=True)
            results.append([host(loss), host(grad_x), *(host(p.grad) for p in net.parameters)])
        found = errors(*results)
        assert max(found) < ERRORS[precision][0], (factor, found)


@pytest.mark.gpu
def test_three_products_give_infinity_and_nan_where_float32_does(cupy, random):
    reference, ours = nets((33, 48, 17), ("tanh", "gelu"), "softmax_cross_entropy", "tf32x3", reduction="mean")
    y = random.integers(0, 17, 70)
    for poison in (np.inf, -np.inf, np.nan):
        x = random.normal(size=(70, 33)).astype("float32")
        x[3, 5] = poison
        for a, b in zip(everything(reference, x, y), everything(ours, x, y), strict=True):
            np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_the_same_bits_in_pieces_and_when_repeated(cupy, random, monkeypatch):
    _, net = nets((33, 48, 17), ("tanh", "gelu"), "softmax_cross_entropy", "tf32x3")
    net.loss = get_loss("half_sum_sq")
    monkeypatch.setattr(cooperative, "MOST_TILES", 1)
    x = cupy.asarray(random.normal(size=(200, 33)).astype("float32"))
    expected = [host(net.loss_and_grad(x)), *(host(p.grad) for p in net.parameters)]
    for a, b in zip(expected, in_pieces(cupy, net, x, (128, 72)), strict=True):
        np.testing.assert_array_equal(a, b)
    step = net.repeated(x)
    assert host(step()) == expected[0]
    assert step.graph is not None
    net.precision = "float32"
    assert host(step()) != expected[0]


@pytest.mark.gpu
def test_devices_and_nets_without_such_tensor_cores_compute_float32(cupy, random, monkeypatch):
    x = cupy.ones((64, 33), "float32")

    def planned(sizes=(33, 48, 17), dtype="float32", precision="bfloat16"):
        net = Net(sizes, dtype=dtype, rng=0, backend="cupy", engine="cooperative", precision=precision)
        return net.plan(x[:, : sizes[0]]).reason

    assert planned().endswith("products in bfloat16")
    assert planned((15, 400, 3)).endswith("not bfloat16: no layer has 16 inputs and as many outputs")
    assert "products" not in planned(dtype="float64", precision="auto")
    assert planned(precision="auto").endswith("products in tf32x3")
    assert "products" not in planned((16, 300, 5), precision="auto")
    assert "products" not in planned(precision="float32")
    older = replace(cooperative.device(0), architecture=75)
    monkeypatch.setattr(cooperative, "device", lambda number: older)
    assert planned().endswith("the device is an sm_75, and tensor cores for float32 came with sm_80")
    _, net = nets((33, 48, 17), ("tanh", "gelu"), "softmax_cross_entropy", "tf32")
    plain = nets((33, 48, 17), ("tanh", "gelu"), "softmax_cross_entropy", "float32")[1]
    np.testing.assert_array_equal(host(net(x)), host(plain(x)))

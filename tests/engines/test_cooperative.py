"""Wide nets in one pass on a CUDA device: what the layered engine gives in float64, and the same bits every time."""

import numpy as np
import pytest
from arrays import host
from blocks import SHARED, everything, in_pieces, shape

from backprop_xp import ACTIVATIONS, Activation, Elementwise, Net
from backprop_xp.engines import cooperative
from backprop_xp.programs import block
from backprop_xp.toolchain import cuda

COMPILED = {
    "narrow": shape((33, 24, 17), ("leaky_relu", "sigmoid"), "half_squared_error", bias=False),
    "three hidden layers": shape((64, 64, 64, 64, 10), ("tanh", "tanh", "tanh", "identity"), "classes"),
    "wide": shape((784, 128, 128, 10), ("gelu", "mish", "identity"), "probabilities"),
    "wide, double": shape((128, 128, 128, 10), ("silu", "elu", "tanh"), "huber", "float64"),
    "forward": shape((200, 128, 33), ("relu", "identity"), None, factors=False, input_grad=False),
}


@pytest.mark.parametrize("case", COMPILED)
def test_no_default_variant_spills(case):
    nvrtc = pytest.importorskip("nvrtc")
    for architecture in (80, 90, 100):
        net, activations = COMPILED[case]
        tiling = block.tilings(net, SHARED[architecture] << 10)[0]
        assert block.shared_bytes(net, tiling) <= SHARED[architecture] << 10
        _, resources = nvrtc.compile_for(block.source(net, activations, tiling), architecture, cuda.OPTIONS)
        taken = resources["bpx_block"]
        assert (taken.spills, taken.stack) == (0, 0), (architecture, tiling, taken)
        assert taken.registers * tiling.threads * tiling.resident <= 65_536


@pytest.mark.parametrize("architecture", sorted(SHARED.keys() - {80, 90, 100}))
@pytest.mark.parametrize("case", ["narrow", "wide, double", "forward"])
def test_it_compiles_for_devices_with_less_shared_memory(case, architecture):
    nvrtc = pytest.importorskip("nvrtc")
    net, activations = COMPILED[case]
    tiling = block.tilings(net, SHARED[architecture] << 10)[0]
    nvrtc.compile_for(block.source(net, activations, tiling), architecture, cuda.OPTIONS)


def test_the_last_variant_surely_fits():
    nvrtc = pytest.importorskip("nvrtc")
    net, activations = COMPILED["wide, double"]
    _, resources = nvrtc.compile_for(block.source(net, activations, block.tilings(net, 64 << 10)[-1]), 75, cuda.OPTIONS)
    assert resources["bpx_block"].registers <= 168
    assert resources["bpx_block"].spills == 0


def test_tiles_are_as_large_as_fit():
    net, _ = COMPILED["three hidden layers"]
    assert [block.tilings(net, kib << 10)[0].rows for kib in (227, 99, 48, 24)] == [64, 64, 32, 16]
    assert block.tilings(net, 8 << 10) == ()
    assert all(cooperative.TILES % tiling.rows == 0 for tiling in block.tilings(net, 227 << 10))
    assert block.tilings(shape((1 << 24, 128), ("tanh",), "mse")[0], 227 << 10) == ()


def test_hidden_layers_have_no_room_for_derivatives_that_their_outputs_tell():
    (net, _), sizes = COMPILED["three hidden layers"], (64, 64, 64, 64, 10)
    stored, _ = shape(sizes, ("tanh", "silu", "tanh", "identity"), "classes")
    last, _ = shape(sizes, ("tanh", "tanh", "tanh", "tanh"), "classes")
    way, bytes_ = block.tilings(net, 227 << 10)[0], 4 * (64 + 4)  # of a feature
    assert (way.rows, way.threads, way.resident) == (64, 128, 3)
    assert block.shared_bytes(net, way) == bytes_ * (64 + 3 * 64 + 10) + 4 * 128
    assert block.shared_bytes(stored, way) == block.shared_bytes(net, way) + bytes_ * 64
    assert block.shared_bytes(last, way) == block.shared_bytes(net, way) + bytes_ * 10


@pytest.mark.parametrize(
    ("width", "layers", "blocks"), [(32, 3, [64] * 5), (32, 9, [128] * 2), (64, 3, [128] * 3), (64, 6, [256])]
)
def test_a_block_has_the_fewest_threads_that_leave_eight_warps_to_a_multiprocessor(width, layers, blocks):
    net, _ = shape((width,) * (layers + 1) + (10,), ("tanh",) * layers + ("identity",), "classes")
    way = block.tilings(net, 227 << 10)[0]
    assert (way.rows, [way.threads] * way.resident) == (64, blocks)


def test_no_double_arithmetic_in_float_kernels():
    source = block.source(*COMPILED["wide"], block.tilings(COMPILED["wide"][0], 227 << 10)[0])
    entry = source.partition("BPX_ENTRY void __launch_bounds__")[2]
    assert "double" not in entry.replace("double* losses", "")


def test_it_is_for_cuda_devices():
    with pytest.raises(ValueError, match="the cooperative engine can't run this call: it runs on a CUDA device"):
        Net((3, 2), engine="cooperative").loss_and_grad(np.ones((4, 3)))


# ---- on a device ----------------------------------------------------------------------------------------------------


def nets(sizes, activations, loss="half_sum_sq", bias=True, dtype="float64", reduction="sum"):
    """The same net by the layered engine on NumPy, in float64, and by this one."""
    ours = Net(
        sizes, activations, loss, bias, dtype, 5, "cupy", "glorot_normal", reduction, "cooperative", precision="float32"
    )
    reference = Net(sizes, activations, loss, bias, "float64", 5, "numpy", "glorot_normal", reduction, "layered")
    for a, b in zip((*reference.weights, *reference.biases), (*ours.weights, *ours.biases)):
        a.data = b.data.get().astype(np.float64)
    return reference, ours


def assert_agree(reference, ours, x, y=None, weight=None, input_grad=True):
    expected, got = (everything(net, x, y, weight, input_grad) for net in (reference, ours))
    eps = 3e-5 if ours.dtype == "float32" else 1e-12
    for a, b in zip(expected, got, strict=True):
        assert b.dtype == ours.dtype
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_allclose(
            b, a, rtol=eps, atol=eps * max(1, np.max(np.abs(a), initial=0, where=np.isfinite(a)))
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_odd_batch_sizes_with_weights_and_classes(cupy, dtype, random):
    pair = nets((33, 48, 17), ("tanh", "gelu"), "softmax_cross_entropy", True, dtype, "mean")
    for n in (1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300):
        x, y, weight = random.normal(size=(n, 33)), random.integers(0, 17, n), random.uniform(0, 2, n)
        assert_agree(*pair, x.astype(dtype), y, weight.astype(dtype))
    assert host(pair[1].loss_and_grad(np.ones((0, 33)), np.ones(0, int))) != 0  # the mean of nothing


@pytest.mark.gpu
def test_an_input_that_is_taken_in_slices(cupy, random):
    pair = nets((300, 17, 40, 5), ("relu", "leaky_relu", "sigmoid"), "huber", False)
    for n in (1, 70):
        assert_agree(*pair, random.normal(size=(n, 300)), random.normal(size=(n, 5)), input_grad=n > 1)


@pytest.mark.gpu
def test_a_width_of_128(cupy, random):
    pair = nets((20, 128, 128, 3), ("silu", "identity", "identity"), dtype="float32")
    assert_agree(*pair, random.normal(size=(66, 20)).astype("float32"), input_grad=False)


@pytest.mark.gpu
@pytest.mark.parametrize("first", [0, 1, 2])
def test_every_activation_and_uneven_widths(cupy, random, monkeypatch, first):
    """Every third one in one net: a kernel of all takes minutes to compile. Sines want a stack in whatever way it is cut."""
    tilings = block.tilings
    monkeypatch.setattr(block, "tilings", lambda *arguments: tilings(*arguments)[:1])
    names = list(ACTIVATIONS)[first::3]
    sizes = [6, *(random.integers(1, 40, len(names)) | 1).tolist()]
    assert_agree(*nets(sizes, names), random.normal(size=(66, 6)))


@pytest.mark.gpu
@pytest.mark.parametrize("width", [20, 35])
def test_softmax_with_probabilities(cupy, random, width):
    y = random.dirichlet(np.ones(7), 65)
    y[0] = [1, 0, 0, 0, 0, 0, 0]
    assert_agree(*nets((9, width, 7), ("softplus", "tanh"), "softmax_cross_entropy"), random.normal(size=(65, 9)), y)


@pytest.mark.gpu
def test_one_feature_one_output_and_parameters_that_change(cupy, random):
    bump = Elementwise("bump", "exp(-width * t ** 2) + 0.1 * t", params={"width": 2.0})
    pair = nets((1, 40, 1), (bump, "identity"), "mse")
    x, y = random.normal(size=(65, 1)), random.normal(size=(65, 1))
    assert_agree(*pair, x, y)
    bump.width = 0.5
    pair[0].weights[0].data[3] = 2.0
    pair[1].weights[0].data[3] = 2.0
    assert_agree(*pair, x, y)


@pytest.mark.gpu
def test_nan_and_infinity_reach_what_they_reach_in_the_layered_engine(cupy, random):
    inverse = Elementwise("inverse", "1 / t")  # infinite in features that only fill a block
    reference, ours = nets((33, 49, 3), (inverse, "sigmoid"))
    for net in (reference, ours):
        net.biases[0].data += 0.5
    for n, position, poison in ((70, 64, np.nan), (70, 0, np.inf), (1, 0, -np.inf)):
        x = random.normal(size=(n, 33))
        x[position, 32] = poison
        assert_agree(reference, ours, x)
    for net in (reference, ours):  # 0 * inf where there is no sample
        net.weights[1].data[:, 7] = np.inf
    assert_agree(reference, ours, random.normal(size=(3, 33)))


@pytest.mark.gpu
def test_x_and_y_are_read_where_they_lie(cupy, random):
    _, net = nets((33, 48, 17), ("tanh", "identity"), "half_squared_error", dtype="float32")
    x, y, weight = (cupy.asarray(random.normal(size=s).astype("float32")) for s in ((70, 33), (70, 17), 70))
    expected = everything(net, x, y, weight)
    views = cupy.ascontiguousarray(x.T).T, cupy.repeat(y, 2, axis=1)[:, ::2], cupy.ascontiguousarray(weight[::-1])[::-1]
    reverse = cupy.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    for arrays in (views, (reverse, *views[1:])):
        for a, b in zip(expected, everything(net, *arrays), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.gpu
def test_the_same_bits_in_pieces_and_on_any_stream(cupy, random, monkeypatch):
    _, net = nets((2, 9, 1), ("tanh", "identity"), dtype="float32")
    monkeypatch.setattr(cooperative, "MOST_TILES", 1)
    x = random.normal(size=(256 * cooperative.TILES + 70, 2)).astype("float32")
    expected = everything(net, x, input_grad=False)
    monkeypatch.setattr(cooperative, "WAVE_BYTES", 0)  # 256 chunks a wave
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        loss = net.loss_and_grad(x)
        assert loss.shape == ()
        stream.synchronize()
        got = [host(loss), *(host(p.grad) for p in (*net.weights, *net.biases))]
    for a, b in zip(expected, got, strict=False):
        np.testing.assert_array_equal(a, b)
    pieces = 13 * 64, 64, len(x) - 14 * 64
    for a, b in zip(expected, in_pieces(cupy, net, x, pieces), strict=False):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(expected[0], nets((2, 9, 1), ("tanh", "identity"))[0].loss_and_grad(x), rtol=1e-6)


@pytest.mark.gpu
def test_a_device_with_little_shared_memory(cupy, random, monkeypatch):
    monkeypatch.setattr(block, "shared_limit", lambda device: 24 << 10)
    monkeypatch.setattr(block, "_programs", {})
    pair = nets((33, 48, 17), ("tanh", "gelu"), "softmax_cross_entropy", True, "float64", "mean")
    x, y = random.normal(size=(70, 33)), random.integers(0, 17, 70)
    assert_agree(*pair, x, y, random.uniform(0, 2, 70))
    assert {p.shared_bytes <= 24 << 10 for p in block._programs.values()} == {True}


@pytest.mark.gpu
def test_the_kernel_that_runs_spills_nothing(cupy):
    net, activations = COMPILED["three hidden layers"]
    assert cuda.resources(block.program(net, activations).run).local_bytes == 0


@pytest.mark.gpu
def test_auto_takes_it_where_it_is_estimated_to_be_faster(cupy):
    def planned(sizes, n):
        x = cupy.broadcast_to(cupy.ones(sizes[0], "float32"), (n, sizes[0]))  # one row, seen n times
        return Net(sizes, dtype="float32", rng=0, backend="cupy").plan(x)

    assert planned((64, 64, 64, 10), 1 << 16).engine == "cooperative"
    assert planned((512, 512, 10), 1 << 16).engine == "layered"
    assert "not cooperative: so wide a net" in planned((512, 512, 10), 1 << 16).reason


@pytest.mark.gpu
def test_what_it_cannot_run_is_refused(cupy):
    class Plain(Activation):
        def __call__(self, x):
            return 2 * x

        def grad(self, x):
            return 2 + 0 * x

    def refusal(*arguments):
        with pytest.raises(ValueError, match="the cooperative engine can't run this call") as caught:
            net = Net(*arguments, backend="cupy", engine="cooperative")
            net.loss_and_grad(np.ones((2, net.sizes[0])))
        return str(caught.value)

    assert refusal((3, 2), (Plain(),)).endswith("an activation is written in Python")
    assert "signals of a few samples don't fit the 227 KiB of shared memory" in refusal((3, 4000, 2))

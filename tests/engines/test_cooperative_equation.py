"""Losses with derivatives in one pass on a CUDA device: what the two loops give in float64, and the same bits."""

import numpy as np
import pytest
from arrays import host
from blocks import SHARED

from backprop_xp import ArrayEquation, Elementwise, Equation, Graph, Net
from backprop_xp.derivatives.stacked import Skip, stacked
from backprop_xp.derived import differentiable
from backprop_xp.engines import cooperative
from backprop_xp.programs import block, stack_cuda
from backprop_xp.toolchain import cuda

pytestmark = pytest.mark.filterwarnings("error")  # such as that nothing could be compiled

NAMES = {"inputs": "x y", "outputs": "u v", "params": {"nu": 0.3}}
MIXED = Equation("u_xx + u_yy - f * y", "v_xy * exp(-x * x) - nu * v", **NAMES, targets="f")
BURGERS = Equation("u_y + u * u_x - nu * u_xx", **NAMES)


def pair(sizes=(2, 20, 33, 2), activations=None, dtype="float64", bias=True, **options):
    """The same net by the two loops on NumPy, in float64, and by this engine."""
    nets = []
    for backend, engine, number in (("numpy", "layered", "float64"), ("cupy", "cooperative", dtype)):
        functions = activations or (*["tanh"] * (len(sizes) - 2), "identity")
        net = Net(sizes, functions, "mse", bias, number, 0, backend, "glorot_normal", engine=engine, **options)
        random = np.random.default_rng(1)
        for tensor in net.parameters:
            drawn = random.normal(size=tensor.data.shape) / np.sqrt(max(2, tensor.data.shape[-1]))
            tensor.data = net.backend.asarray(drawn, number, "w")
        nets.append(net)
    return nets


def batch(equation, n):
    random = np.random.default_rng(n)
    x, y, weight = random.normal(size=(n, 2)), random.normal(size=n), random.uniform(0, 2, n)
    return x, y if equation.targets else None, weight


def everything(net, equation, x, y, weight, **options):
    """Loss, gradient in x, and the gradients of all parameters."""
    own = [None if a is None else net.backend.asarray(a, net.dtype, "it") for a in (x, y, weight)]
    found = net.loss_and_grad(*own[:2], loss=equation, sample_weight=own[2], input_grad=True, **options)
    parts = [*found, *(tensor.grad for tensor in net.parameters)]
    assert all(part.dtype == net.dtype for part in parts)
    return [host(part) for part in parts]


def assert_agree(nets, equation, n, tolerance):
    given = batch(equation, n)
    expected, got = (everything(net, equation, *given) for net in nets)
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance * max(1, np.abs(a).max()))


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-4), ("float64", 1e-11)])
def test_loss_and_gradients_are_those_of_the_loops(cupy, dtype, tolerance):
    for reduction in ("sum", "mean"):
        for n in (1, 8, 33, 130):
            assert_agree(pair(dtype=dtype, reduction=reduction), MIXED, n, tolerance)
    # other widths, without biases, by the very same kernel
    wider = pair((2, 3, 70, 5, 2), dtype=dtype, bias=False)
    assert wider[1].plan(np.zeros((3, 2), dtype), loss=MIXED).engine == "cooperative"
    assert_agree(wider, MIXED, 19, tolerance)


@pytest.mark.gpu
def test_activations_of_every_kind_in_one_net(cupy):
    """Written out for the device, known by value and slope, with a kink, and with parameters: layer by layer one."""
    names = ["sigmoid", "leaky_relu"]
    bumps = [Elementwise("bump", value="exp(-width * t * t)", params={"width": width}) for width in (0.7, 0.2)]
    functions = (*names, *bumps, "identity")
    nets = pair((2, *[6] * len(names), 6, 6, 2), functions)
    assert_agree(nets, BURGERS, 20, 1e-9)
    bumps[1].width = 0.4  # of both nets
    assert_agree(nets, BURGERS, 20, 1e-9)
    BURGERS.nu = 2.0
    try:
        assert_agree(nets, BURGERS, 20, 1e-9)
    finally:
        BURGERS.nu = 0.3


@pytest.mark.gpu
def test_signals_that_are_added_before_and_behind_activations(cupy):
    def net(backend, engine):
        g = Graph()
        x = g.input(2)
        h = g.linear(x, 2) + x
        k = g.apply("tanh", g.linear(h, 33))
        m = g.apply("tanh", g.linear(k, 33)) + k
        end = g.apply("tanh", g.linear(m, 33) + k)
        made = g.net(g.linear(end, 2), loss="mse", dtype="float64", rng=0, backend=backend, engine=engine)
        for tensor in made.parameters:
            tensor.data = tensor.data / 2 + 0.1
        return made

    nets = net("numpy", "layered"), net("cupy", "cooperative")
    rows = stacked(differentiable(nets[1], training=True))
    assert rows.skips == [Skip(-1, True), None, Skip(1, False), Skip(1, True), None]
    assert_agree(nets, MIXED, 37, 1e-10)


@pytest.mark.gpu
def test_the_same_bits_in_one_wave_and_in_many(cupy, monkeypatch):
    monkeypatch.setattr(cooperative, "MOST_TILES", 1)
    net, given = pair((2, 33, 2), dtype="float32")[1], batch(MIXED, 32 * 256 + 5)
    expected = everything(net, MIXED, *given)
    monkeypatch.setattr(cooperative, "WAVE_BYTES", 0)  # 256 chunks a wave
    for a, b in zip(expected, everything(net, MIXED, *given), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.gpu
@pytest.mark.parametrize("position", [0, 36])
def test_nan_reaches_what_it_reaches_in_the_loops(cupy, position):
    nets, (x, y, weight) = pair(), batch(MIXED, 37)
    x[position, 1] = np.nan
    expected, got = (everything(net, MIXED, x, y, weight) for net in nets)
    for a, b in zip(expected[:-1], got[:-1], strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    # no residual reads u itself, whose bias has no gradient: the loops multiply NaN by the identity's second derivative
    assert np.isnan(got[-1]).tolist() == [False, True]


@pytest.mark.gpu
def test_arrays_of_any_strides_and_accumulated_gradients(cupy):
    nets, (x, y, weight) = pair(), batch(MIXED, 80)
    expected = everything(nets[0], MIXED, x[::-2, ::-1], y[::2], weight[::-2])
    device = [cupy.asarray(a) for a in (x, y, weight)]
    for times in (1, 2):
        loss = nets[1].loss_and_grad(
            device[0][::-2, ::-1], device[1][::2], sample_weight=device[2][::-2], loss=MIXED, accumulate=times == 2
        )
        np.testing.assert_allclose(host(loss), expected[0], rtol=1e-11)
        for tensor, grad in zip(nets[1].parameters, expected[2:], strict=True):
            np.testing.assert_allclose(host(tensor.grad), times * grad, rtol=1e-9, atol=1e-11)


@pytest.mark.gpu
def test_auto_takes_it_and_the_plan_says_so(cupy):
    net, x = pair()[1], cupy.ones((5, 2))
    net.engine = "auto"
    plan = net.plan(x, loss=BURGERS)
    assert (plan.engine, plan.reason) == ("cooperative", "it is the fastest")
    assert plan.bytes > 0
    array = ArrayEquation(lambda u_x: u_x, grad=lambda u_x: {"u_x": 1.0}, inputs="x y", outputs="u v")
    assert net.plan(x, loss=array).reason == "not cooperative: ArrayEquation is written in Python"
    assert net.plan(x[:0], loss=BURGERS).reason == "it is empty"
    net.engine = "fused"
    assert net.plan(x, loss=BURGERS).reason == "equations run cooperative or layered"


@pytest.mark.gpu
def test_what_does_not_fit_runs_layered(cupy):
    sizes = (2, 3000, 3000, 2)
    net = Net(sizes, ("tanh", "tanh", "identity"), "mse", True, "float32", 0, "cupy")
    reason = net.plan(cupy.ones((1, 2), "float32"), loss=BURGERS).reason
    assert reason.startswith("not cooperative: the signals of a few points and their derivatives don't fit the 227 KiB")
    net.engine = "cooperative"
    with pytest.raises(ValueError, match="the cooperative engine can't run this equation: the signals of a few"):
        net.loss_and_grad(cupy.ones((1, 2), "float32"), loss=BURGERS)


@pytest.mark.gpu
def test_point_sets_are_trained_on_the_device(cupy):
    random = np.random.default_rng(0)
    x, wall = random.normal(size=(40, 2)), random.normal(size=(10, 2))
    histories = []
    for net in pair((2, 33, 2)):
        sets = {"inside": (x, x[:, 0], MIXED), "wall": (wall, np.zeros((10, 2)), "mse")}
        histories.append(net.fit(sets, optimiser="adam", batch_size=None, epochs=3).epochs)
    for ours, theirs in zip(*histories):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-9)


def shape_of(sizes, equation, dtype):
    net = Net(sizes, (*["tanh"] * (len(sizes) - 2), "identity"), "mse", True, dtype, 0, "numpy")
    return stack_cuda.shape(
        stacked(differentiable(net, training=True)), equation.reads.rules, equation.text, np.dtype(dtype)
    )


LAPLACIAN = Equation("u_xx + u_yy", inputs="x y")
CASES = {
    "laplacian": ((2, 64, 64, 64, 1), LAPLACIAN, "float32"),
    "laplacian in float64": ((2, 64, 64, 64, 1), LAPLACIAN, "float64"),
    "burgers": ((2, *[20] * 8, 1), Equation("u_y + u * u_x - nu * u_xx", inputs="x y", params={"nu": 0.1}), "float32"),
    "three inputs": ((3, 128, 128, 128, 1), Equation("u_xx + u_yy + u_zz", inputs="x y z"), "float32"),
}


@pytest.mark.parametrize(
    ("case", "architecture"), [("laplacian", 80), ("laplacian in float64", 90), ("burgers", 90), ("three inputs", 120)]
)
def test_nothing_spills(case, architecture):
    nvrtc = pytest.importorskip("nvrtc")
    shape, activations = shape_of(*CASES[case])
    way = stack_cuda.ways(shape, SHARED[architecture] << 10)[0]
    _, resources = nvrtc.compile_for(stack_cuda.source(shape, activations, way), architecture, cuda.OPTIONS)
    assert resources[block.ENTRY].fits, resources
    assert resources[block.ENTRY].registers * way.threads * way.resident <= 65_536


def test_a_kernel_serves_nets_of_any_widths():
    texts = set()
    for sizes in ((2, 64, 64, 1), (2, 40, 50, 60, 1)):
        shape, activations = shape_of(sizes, LAPLACIAN, "float32")
        texts.add(stack_cuda.source(shape, activations, stack_cuda.ways(shape, 227 << 10)[0]))
    assert len(texts) == 1


def test_tiles_are_as_large_as_fit():
    shape, _ = shape_of((2, 64, 64, 64, 1), LAPLACIAN, "float32")
    found = [[way.points for way in stack_cuda.ways(shape, kib << 10)][:1] for kib in (227, 100, 40, 10)]
    assert found == [[16], [8], [4], []]

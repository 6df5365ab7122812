"""Products with factors in bfloat16: of whole numbers what arithmetic says, exactly, and of others as near as is said."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from backprop_xp import Elementwise, Net, check_gradients
from backprop_xp.check import check_against_torch
from backprop_xp.programs import fused, matrices
from backprop_xp.toolchain import compiler
from backprop_xp.training import SGD, compiled

pytestmark = pytest.mark.skipif(bool(compiler.missing()), reason="no C++ compiler on this machine")

#: Whole numbers up to here are float32's.
EXACT = 1 << 24


@pytest.fixture(autouse=True)
def rounding_on_many_threads(monkeypatch):
    """On any processor: where it lacks the instructions, loops compute the same."""
    monkeypatch.setattr(matrices, "lacking", lambda: "")
    monkeypatch.setattr(fused, "NARROW_SAMPLES", 1 << 40)
    monkeypatch.setattr(matrices, "WORTH_A_THREAD", 1.0)


def make(sizes, activations, loss="half_squared_error", bias=True, precision="bfloat16", **options):
    options = {"dtype": "float32", "rng": 5, "backend": "numpy", "init": "glorot_normal"} | options
    return Net(sizes, activations, loss, bias, precision=precision, **options)


def everything(net, x, y, **options):
    """Loss, gradient in x, gradients of the parameters, and the outputs."""
    parts = net.loss_and_grad(x, y, input_grad=True, **options)
    return [np.array(part) for part in (*parts, *(p.grad for p in net.parameters), net(x))]


def rounded(numbers):
    """To the nearest bfloat16, ties to even; of finite numbers in any dtype, as float64."""
    bits = np.asarray(numbers, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("check", [check_gradients, check_against_torch])
def test_a_proof_of_rounded_products_is_refused_and_float32s_is_one(check, random):
    if check is check_against_torch:
        pytest.importorskip("torch")
    net, x, y = make((32, 32, 2), ("tanh", "identity")), random.normal(size=(40, 32)), random.normal(size=(40, 2))
    with pytest.raises(
        ValueError, match=r'computed in bfloat16, whose rounding would hide .*net.precision = "float32"'
    ):
        check(net, x, y)
    assert check(net, x[:3], y[:3]).ok  # so few are computed in float32
    net.precision = "float32"
    assert check(net, x, y).ok


def test_a_plan_says_its_precision(random):
    net = make((32, 32, 2), ("tanh", "identity"))
    x = random.normal(size=(40, 32))
    assert net.plan(x).precision == "bfloat16" and net.plan(x[:3]).precision == "float32"
    net.precision = "float32"
    assert net.plan(x).precision == "float32"


def product(a, b):
    """The product of two matrices of whole numbers, rounded; all of its sums are exact in float32."""
    a, b = rounded(a), rounded(b)
    fits((abs(a) @ abs(b)).max(initial=0))
    return a @ b


def fits(largest):
    """Reject an example, or fail, where float32 would round."""
    if largest >= EXACT:
        reject()


def by_hand(net, x, y):
    """What :func:`everything` gives of a net of relu and identity with half_squared_error, by definition."""
    biases = iter(net.biases)
    layers = [
        (w.data, next(biases).data if has else 0, f.name) for w, has, f in zip(net.weights, net.bias, net.activations)
    ]
    z, signals = x, []
    for weight, bias, name in layers:
        signals.append(z)
        t = product(z, weight.T) + bias
        z = np.maximum(t, 0) if name == "relu" else t
        signals.append(t)
    outputs, grad = z, z - y
    loss = 0.5 * (grad**2).sum()
    fits(2 * loss)
    weights, shifts = [], []
    for (weight, _, name), has, z, t in list(zip(layers, net.bias, signals[::2], signals[1::2]))[::-1]:
        grad = grad * (t > 0) if name == "relu" else grad
        weights.insert(0, product(grad.T, z))
        if has:
            shifts.insert(0, product(np.ones((1, len(grad))), grad)[0])
        grad = product(grad, weight)
    return [loss, grad, *weights, *shifts, outputs]


@st.composite
def whole(draw):
    """A net, and x and y for it, of whole numbers; one layer has 16 inputs and outputs."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=0, max_size=2))
    at = draw(st.integers(0, len(sizes)))
    sizes[at:at] = draw(st.tuples(st.integers(16, 80) | st.sampled_from([257, 300]), st.integers(16, 80)))
    depth = len(sizes) - 1
    names = draw(st.tuples(*[st.sampled_from(["relu", "identity"])] * depth))
    bias = draw(st.tuples(*[st.booleans()] * depth))
    samples = draw(st.integers(25, 130) | st.sampled_from([191, 1151, 1153, 1175, 4500]))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    net = make(tuple(sizes), names, bias=bias, threads=draw(st.integers(1, 3)))
    for p in net.parameters:
        p.data[...] = random.integers(-1, 2, p.data.shape) * (random.random(p.data.shape) < 4 / p.data.shape[-1])
    x, y = random.integers(-2, 3, (samples, sizes[0])), random.integers(-3, 4, (samples, sizes[-1]))
    return net, x.astype(np.float32), y.astype(np.float32)


@given(whole())
@settings(max_examples=30)
def test_whole_numbers_are_exact_in_any_shape(case):
    net, x, y = case
    assert net.plan(x).reason.endswith("products in bfloat16")
    for expected, got in zip(by_hand(net, x, y), everything(net, x, y), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_factors_are_rounded_to_the_nearest_ties_to_even(activation, random):
    """Whole numbers of up to eleven bits in x, of nine in the weights, and of more in the signals and gradients."""
    net = make((17, 19), (activation,))
    net.weights[0].data[...] = random.integers(-400, 400, (19, 17))
    net.biases[0].data[...] = random.integers(-5, 6, 19)
    x = np.zeros((50, 17), np.float32)
    x[np.arange(50), random.integers(0, 17, 50)] = random.integers(-1500, 1500, 50)
    y = (net(x) - random.integers(-700, 700, (50, 19))).astype(np.float32)
    expected = by_hand_alone(net, x, y)
    found = everything(net, x, y)
    for at in range(1, len(expected)):  # the loss is a sum of large squares
        np.testing.assert_array_equal(found[at], expected[at])
    assert abs(rounded(x) - x).max() == 4  # a tie of eleven bits


def by_hand_alone(net, x, y):
    t = rounded(x) @ rounded(net.weights[0].data.T) + net.biases[0].data
    relu = net.activations[0].name == "relu"
    z = np.maximum(t, 0) if relu else t
    grad = (z - y) * (t > 0) if relu else z - y
    sums = rounded(grad).sum(0)
    return [
        0.5 * ((z - y) ** 2).sum(),
        rounded(grad) @ rounded(net.weights[0].data),
        rounded(grad).T @ rounded(x),
        sums,
        z,
    ]


@given(
    sizes=st.tuples(st.integers(16, 90), st.integers(16, 90), st.integers(2, 40)),
    hidden=st.sampled_from(["tanh", "gelu", "sigmoid", "softplus"]),
    samples=st.sampled_from([25, 96, 191, 333, 1175]),
    seed=st.integers(0, 100),
)
def test_errors_are_as_stated(sizes, hidden, samples, seed):
    """The largest error of any number, relative to the largest of its array, as for tensor cores."""
    random = np.random.default_rng(seed)
    ours = make(sizes, (hidden, "identity"), "softmax_cross_entropy", reduction="mean", rng=seed)
    double = make(
        sizes, (hidden, "identity"), "softmax_cross_entropy", reduction="mean", precision="auto", dtype="float64",
        engine="layered",
    )  # fmt: skip
    for a, b in zip(double.parameters, ours.parameters):
        a.data = b.data.astype(np.float64)
    x, y = random.normal(size=(samples, sizes[0])).astype(np.float32), random.integers(0, sizes[-1], samples)
    weight = random.uniform(0.1, 2, samples).astype(np.float32)
    pairs = zip(
        everything(double, x.astype(np.float64), y, sample_weight=weight.astype(np.float64)),
        everything(ours, x, y, sample_weight=weight),
        strict=True,
    )
    errors = [float(np.max(np.abs(a - b)) / np.max(np.abs(a))) for a, b in pairs]
    assert 1e-4 < max(errors) < 2e-2, errors


@given(
    samples=st.sampled_from([25, 47, 191, 1153, 1175, 4500, 9001]),
    sizes=st.sampled_from([(33, 48, 17), (16, 16, 1), (300, 40, 5), (20, 257, 30, 3)]),
    returns=st.booleans(),
)
@settings(max_examples=15)
def test_the_same_bits_for_any_number_of_threads(samples, sizes, returns):
    random = np.random.default_rng(samples)
    x, y = random.normal(size=(samples, sizes[0])).astype(np.float32), random.integers(0, sizes[-1], samples)
    seconds = matrices.SECONDS
    found = []
    try:
        for threads in (1, 2, 5):
            matrices.SECONDS = 0.0 if returns else seconds  # after every step
            net = make(sizes, ("tanh",) * (len(sizes) - 2) + ("gelu",), "softmax_cross_entropy", threads=threads)
            found.append([a.tobytes() for a in everything(net, x, y)])
    finally:
        matrices.SECONDS = seconds
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [26, 61, 1175])
def test_a_sample_that_is_not_finite_stays_alone(n, value, random):
    x, y = random.normal(size=(n, 21)).astype(np.float32), random.normal(size=(n, 3)).astype(np.float32)
    x[1, 20] = value
    nets = [make((21, 33, 3), ("tanh", "identity"), precision=name) for name in ("float32", "bfloat16")]
    (_, exact, *grads), (_, grad_x, *found) = (everything(net, x, y) for net in nets)
    others = np.arange(n) != 1
    assert np.isfinite(grad_x[others]).all() and np.isfinite(found[-1][others]).all()
    for a, b in zip((exact, *grads), (grad_x, *found), strict=True):
        np.testing.assert_array_equal(np.isnan(b), np.isnan(a))


@pytest.mark.parametrize("n", [25, 192, 1151])
def test_what_fills_up_a_panel_is_never_multiplied(n, random):
    """The value and the slope of this activation are infinite at 0, where features are that there aren't."""
    inverse = Elementwise("inverse", value="1 / t")
    net = make((21, 17, 5), (inverse, "identity"), bias=False)
    for p in net.parameters:
        p.data[...] = 1
    x, y = random.uniform(1, 2, (n, 21)).astype(np.float32), random.normal(size=(n, 5)).astype(np.float32)
    for array in everything(net, x, y):
        assert np.isfinite(array).all()


def test_the_borders_of_float32s_range():
    """Numbers that are nearer to the next bfloat16 than there is one are infinite; the smallest may be zeros."""
    net = make((16, 16), ("identity",), bias=False)
    net.weights[0].data[...] = np.eye(16)
    x = np.zeros((30, 16), np.float32)
    x[range(6), range(6)] = 3.3895e38, -3.3895e38, 3.397e38, -np.inf, 1e-39, 2e-38
    got = net(x)[range(6), range(6)]
    np.testing.assert_allclose(got[[0, 1, 5]], [3.3895e38, -3.3895e38, 2e-38], rtol=4e-3)
    assert not np.isfinite(got[[2, 3]]).any() and 0 <= got[4] < 1.2e-38


@pytest.mark.parametrize("flags", ["-U__AVX512BF16__", "-U__AVX512BF16__ -DBPX_VECTOR_BYTES=32"])
def test_without_the_instructions(flags, new_functions, monkeypatch, random):
    monkeypatch.setenv("CXX", f"{' '.join(compiler.find().command)} {flags}")
    net = make((21, 33, 3), ("relu", "identity"))
    for p in net.parameters:
        p.data[...] = random.integers(-1, 2, p.data.shape)
    x, y = (random.integers(-2, 3, (n, width)).astype(np.float32) for n, width in ((333, 21), (333, 3)))
    for expected, got in zip(by_hand(net, x, y), everything(net, x, y), strict=True):
        np.testing.assert_array_equal(got, expected)
    x[0, 0] = np.nan
    np.testing.assert_array_equal(np.isnan(net(x)).any(1), np.arange(333) == 0)


# ---- where it is float32 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes, samples, why",
    [
        ((20, 24, 5), 24, "up to 24 samples take no longer so"),
        ((300, 15, 5), 60, "no layer has 16 inputs and as many outputs"),
    ],
)
def test_products_that_are_not_worth_it_are_float32(sizes, samples, why, random):
    x, y = (
        random.normal(size=(samples, sizes[0])).astype(np.float32),
        random.normal(size=(samples, 5)).astype(np.float32),
    )
    nets = [make(sizes, ("tanh", "identity"), precision=name) for name in ("float32", "bfloat16")]
    for a, b in zip(*(everything(net, x, y) for net in nets), strict=True):
        np.testing.assert_array_equal(a, b)
    assert nets[1].plan(x).reason.endswith(f"products in float32, not bfloat16: {why}")


def test_a_processor_without_it_computes_float32(monkeypatch, random):
    monkeypatch.undo()
    monkeypatch.setattr(compiler, "cpu_features", lambda: ("avx512f",))
    x = random.normal(size=(60, 20)).astype(np.float32)
    nets = [make((20, 24, 5), ("tanh", "identity"), precision=name) for name in ("float32", "bfloat16")]
    for a, b in zip(*(everything(net, x, np.zeros((60, 5), np.float32)) for net in nets), strict=True):
        np.testing.assert_array_equal(a, b)
    assert nets[1].plan(x).reason.endswith("not bfloat16: the processor has no AVX-512 BF16")


@pytest.mark.parametrize(
    "precision, why", [("float16", "processors round to bfloat16 alone"), ("auto", ""), ("float32", "")]
)
def test_other_precisions_are_float32(precision, why, random):
    x = random.normal(size=(60, 20)).astype(np.float32)
    net = make((20, 24, 5), ("tanh", "identity"), precision=precision)
    np.testing.assert_array_equal(net(x), make((20, 24, 5), ("tanh", "identity"), precision="float32")(x))
    assert ("products in float32, not float16: " + why if why else "it is the fastest") in net.plan(x).reason


def test_every_engine_says_what_it_computes_in(random):
    x = random.normal(size=(60, 20)).astype(np.float32)

    def reason(samples=60, sizes=(20, 24, 5), **options):
        x = np.ones((samples, sizes[0]), np.float32)
        return make(sizes, ("tanh", "identity"), **options).plan(x).reason.partition("not bfloat16: ")[2]

    assert reason(engine="layered") == "on a CPU this engine rounds nothing"
    assert reason(engine="tiled") == "this engine rounds nothing"
    fused.NARROW_SAMPLES = 1 << 10  # which the fixture puts back
    assert reason(1 << 12) == "only the pass for chains of any widths rounds"
    assert make((20, 24, 5), ("tanh", "identity")).plan(x).reason.endswith("products in bfloat16")


# ---- changes and training ---------------------------------------------------------------------------------------------


def test_the_next_call_sees_another_precision(random):
    x, y = random.normal(size=(60, 20)).astype(np.float32), random.normal(size=(60, 5)).astype(np.float32)
    net, found = make((20, 24, 5), ("tanh", "identity")), {}
    for precision in ("bfloat16", "float32", "auto", "bfloat16"):
        net.precision = precision
        prepared = net.loss_and_grad(x, y), *(p.grad for p in net.parameters)
        now = [array.tobytes() for array in (*everything(net, x, y), *prepared)]
        assert len(set(now)) == len(now) - len(prepared)  # the same as those of the call with all checks
        assert found.setdefault(precision, now) == now
    assert found["float32"] == found["auto"]
    assert not set(found["float32"]) & set(found["bfloat16"])


def test_training_in_c_and_in_python_is_the_same(monkeypatch, random):
    x = random.normal(size=(210, 20)).astype(np.float32)
    y = np.tanh(x[:, :5])

    def trained(precision, change=None):
        net = make((20, 24, 5), ("tanh", "identity"), "mse", reduction="mean", precision=precision)

        def change_precision(net, epoch):
            if change and epoch.number == 2:
                net.precision = change

        options = {"batch_size": 50, "optimiser": SGD(lr=0.05), "callbacks": [change_precision], "progress": False}
        history = net.fit(x, y, epochs=4, **options)
        return tuple(history.losses), [p.data.tobytes() for p in net.parameters]

    runs = [("bfloat16",), ("float32",), ("float32", "bfloat16"), ("bfloat16", "float32")]
    in_c = [trained(*run) for run in runs]
    monkeypatch.setattr(compiled, "why_not", lambda loop: "the test wants Python")
    assert in_c == [trained(*run) for run in runs]
    assert len({losses[-1] for losses, _ in in_c}) == 4
    for losses, _ in in_c:
        assert losses[-1] < 0.9 * losses[0]
    for one, other in itertools.pairwise(in_c):
        np.testing.assert_allclose(one[0], other[0], rtol=2e-2)

"""Nets: shapes, options, what is kept, what is never stale, and what a user gets wrong."""

import copy
import os
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import (
    ACTIVATIONS,
    Activation,
    Elementwise,
    GraphNet,
    Input,
    Linear,
    Net,
    Tanh,
    Tensor,
    check,
    get_backend,
)
from backprop_xp.initialisers import INITIALISERS
from backprop_xp.ready import calls
from backprop_xp.toolchain import compiler

SIZES, FUNCTIONS = (3, 4, 2), ("tanh", "identity")


def make(engine="layered", **options):
    return Net(SIZES, FUNCTIONS, rng=0, engine=engine, **options)


def gradients(net):
    return [p.grad.copy() for p in (*net.weights, *net.biases)]


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    n=st.integers(0, 5),
    bias=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    reduction=st.sampled_from(["sum", "mean"]),
    order=st.sampled_from("CF"),
    step=st.sampled_from([1, 2, -1]),
)
def test_any_shape_equals_pytorch(sizes, n, bias, dtype, reduction, order, step):
    pytest.importorskip("torch")
    names = (["tanh", "sigmoid", "softsign", "silu"] * 2)[: len(sizes) - 1]
    net = Net(sizes, names, "mse", bias, dtype, rng=1, engine="layered", reduction=reduction)
    random = np.random.default_rng(2)
    x = np.asarray(random.normal(size=(n * abs(step), sizes[0])), dtype, order=order)[::step]
    x.flags.writeable = False
    y = random.normal(size=(n, sizes[-1]))
    before = x.copy(), y.copy()
    if n:
        assert check.check_against_torch(net, x, y).ok
    loss, grad_x = net.loss_and_grad(x, y, input_grad=True)
    assert loss.dtype == dtype
    assert grad_x.shape == x.shape
    for p in (*net.weights, *net.biases):
        assert p.grad.shape == p.data.shape
        assert p.grad.dtype == dtype
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_a_batch_is_the_sum_of_its_samples(engine, random):
    net, x = make(engine, bias=True), random.normal(size=(6, 3))
    total = sum(net.loss_and_grad(row) for row in x)
    one_by_one = [0.0] * 4
    for row in x:
        net.loss_and_grad(row)
        one_by_one = [a + b for a, b in zip(one_by_one, gradients(net))]
    assert net.loss_and_grad(x) == pytest.approx(total, rel=1e-13)
    for a, b in zip(gradients(net), one_by_one, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_signals_are_kept_for_one_sample_and_on_request(engine, random):
    net, x = make(engine), random.normal(size=(5, 3))
    net.loss_and_grad(x[0])
    assert [t.data.shape for t in net.linear_outputs] == [(4,), (2,)]
    net.loss_and_grad(x)
    assert all(t.data is None and t.grad is None for t in (*net.linear_outputs, *net.nonlinear_outputs))
    net.loss_and_grad(x, keep_signals=True)
    assert [z.grad.shape for z in net.nonlinear_outputs] == [(5, 4), (5, 2)]
    np.testing.assert_allclose(net.nonlinear_outputs[0].data, np.tanh(net.linear_outputs[0].data))
    net.loss_and_grad(x[0], keep_signals=False)
    assert net.linear_outputs[0].data is None


def test_forward_predicts_and_leaves_gradients_alone(engine, random):
    net, x = make(engine, bias=True), random.normal(size=(5, 3))
    net.loss_and_grad(x)
    before = gradients(net)
    expected = np.tanh(x @ net.weights[0].data.T) @ net.weights[1].data.T
    np.testing.assert_allclose(net.forward(x), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(net(x[0]), expected[0], rtol=1e-12)
    for a, b in zip(gradients(net), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_backward_from_a_gradient_of_the_callers(engine, random):
    net, x = make(engine, bias=True), random.normal(size=(5, 3))
    net.loss_and_grad(x)
    expected = gradients(net)
    z = net.forward(x, keep_signals=True)
    grad_x = net.backward(z, input_grad=True)  # z is the gradient of half the sum of squares
    for a, b in zip(gradients(net), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    np.testing.assert_allclose(grad_x, net.loss_and_grad(x, input_grad=True)[1], rtol=1e-12)
    assert net.forward(x[0]) is not None
    assert net.backward(np.ones(2)) is None
    with pytest.raises(ValueError, match=r"grad_output must have the shape \(2,\) of the outputs, got \(3,\)"):
        net.backward(np.ones(3))
    net.forward(x)
    with pytest.raises(RuntimeError, match=r"call net.forward\(x, keep_signals=True\) before net.backward"):
        net.backward(z)


def test_accumulate_adds(engine, random):
    net, x = make(engine, bias=True), random.normal(size=(5, 3))
    net.loss_and_grad(x, accumulate=True)
    once = gradients(net)
    net.loss_and_grad(x, accumulate=True)
    for a, b in zip(gradients(net), once, strict=True):
        np.testing.assert_allclose(a, 2 * b)
    net.loss_and_grad(x)
    for a, b in zip(gradients(net), once, strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradients_that_were_handed_out_are_not_overwritten(engine, random):
    net, x = make(engine, bias=True), random.normal(size=(50, 3))
    grad_x = net.loss_and_grad(x, input_grad=True)[1]
    handed = [p.grad for p in (*net.weights, *net.biases)] + [grad_x, net(x)]
    before = [a.copy() for a in handed]
    for scale in (2.0, 3.0):
        net.loss_and_grad(scale * x, input_grad=True)
        net.loss_and_grad(scale * x, accumulate=True)
        net(scale * x)
    for a, b in zip(handed, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_signals_that_were_handed_out_are_not_overwritten(random):
    net, x = make(), random.normal(size=(20_000, 3))
    net.loss_and_grad(x, keep_signals=True)
    kept = [z.data for z in net.nonlinear_outputs]
    before = [a.copy() for a in kept]
    for _ in range(3):
        net.loss_and_grad(2 * x)
    for a, b in zip(kept, before, strict=True):
        np.testing.assert_array_equal(a, b)


def changes():
    def in_place(net):
        net.weights[0].data[1] *= -2

    def rebound(net):
        net.weights[1].data = net.weights[1].data + 1

    def swapped(net):
        net.activations[0] = ACTIVATIONS["gelu"]()

    def slope(net):
        net.activations[1].negative_slope = 0.7

    def loss(net):
        net.loss = "half_squared_error"

    def overridden(net):
        net.activations[0].grad = lambda t: np.full_like(t, 7.0)
        net.activations[0].scope = "sample"

    def subclass(net):
        class Doubled(Tanh):
            scope = "sample"

            def grad(self, x):
                return 2 * super().grad(x)

        net.activations[0] = Doubled()

    def subclass_value(net):
        class Shifted(Tanh):
            scope = "sample"

            def __call__(self, x):
                return super().__call__(x) + 1

        net.activations[0] = Shifted()

    return [in_place, rebound, swapped, slope, loss, overridden, subclass, subclass_value]


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
def test_nothing_is_stale(engine, change, random):
    reference, net = (Net(SIZES, ("tanh", "leaky_relu"), "mse", rng=0, engine=e) for e in ("layered", "auto"))
    if engine != "fused":
        net.engine = engine
    x, y = random.normal(size=(300, 3)), random.normal(size=(300, 2))
    before = net.loss_and_grad(x, y)
    for n in (reference, net):
        n.loss_and_grad(x, y)
        change(n)
    assert net.loss_and_grad(x, y) == pytest.approx(reference.loss_and_grad(x, y), rel=1e-12)
    for a, b in zip(gradients(net), gradients(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    if change.__name__ not in ("overridden", "subclass"):
        assert net.loss_and_grad(x, y) != before


def test_duck_typed_activation(random):
    class Square:
        scope = "sample"

        def __call__(self, x):
            return x * x

        def grad(self, x):
            return 2 * x

    for engine in ("layered", "tiled", "auto"):
        net = Net((3, 2), (Square(),), rng=0, engine=engine)
        assert check.check_gradients(net, random.normal(size=(4, 3))).ok


def test_sample_weights_and_mean(engine, random):
    x, y, w = random.normal(size=(5, 3)), random.normal(size=(5, 2)), np.array([1.0, 0, 2, 3, 0.5])
    repeated = np.repeat(np.arange(5), (2 * w).astype(int))
    for reduction in ("sum", "mean"):
        net = Net(SIZES, FUNCTIONS, "half_squared_error", rng=0, engine=engine, reduction=reduction)
        factor = 0.5 if reduction == "sum" else 1
        expected = net.loss_and_grad(x[repeated], y[repeated]) * factor
        grads = gradients(net)
        assert net.loss_and_grad(x, y, sample_weight=w) == pytest.approx(expected, rel=1e-13)
        for a, b in zip(gradients(net), grads, strict=True):
            np.testing.assert_allclose(a, b * factor, rtol=1e-12)


def test_random_numbers_follow_scikit_learns_convention():
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.randn(2, 3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    np.testing.assert_array_equal(Net((3, 2)).weights[0].data, expected)
    for rng in (7, np.random.default_rng(7)):
        np.testing.assert_array_equal(
            Net((3, 2), rng=rng).weights[0].data, np.random.default_rng(7).standard_normal((2, 3))
        )
    state = np.random.RandomState(7)
    np.testing.assert_array_equal(Net((3, 2), rng=state).weights[0].data, np.random.RandomState(7).randn(2, 3))
    with pytest.raises(TypeError, match="rng must be None, a seed, a Generator or a RandomState, got str"):
        Net((3, 2), rng="seven")
    with pytest.raises(ValueError, match="a seed must be an integer from 0 on, got -1"):
        Net((3, 2), rng=-1)


@pytest.mark.parametrize("name", INITIALISERS)
def test_initialisers_have_their_variance(name):
    weights = Net((400, 100), init=name, rng=0).weights[0].data
    variance = {
        "normal": 1,
        "glorot_uniform": 2 / 500,
        "glorot_normal": 2 / 500,
        "he_uniform": 2 / 400,
        "he_normal": 2 / 400,
    }[name]
    assert weights.var() == pytest.approx(variance, rel=0.05)
    assert weights.mean() == pytest.approx(0, abs=0.02)
    if "uniform" in name:
        assert np.abs(weights).max() <= np.sqrt(3 * variance)


def test_an_initialiser_of_the_users():
    net = Net((3, 2), init=lambda rng, shape: np.full(shape, 0.5))
    assert (net.weights[0].data == 0.5).all()
    with pytest.raises(ValueError, match=r"the initialiser must return shape \(2, 3\), got \(3, 2\)"):
        Net((3, 2), init=lambda rng, shape: np.zeros(shape[::-1]))
    with pytest.raises(ValueError, match="unknown initialiser 'he_norml'; did you mean 'he_normal'"):
        Net((3, 2), init="he_norml")
    with pytest.raises(TypeError, match="init must be a name or a function"):
        Net((3, 2), init=3)


def test_biases_start_at_zero_and_are_tensors():
    net = make(bias=True)
    assert [b.name for b in net.biases] == ["b0", "b1"]
    assert all(not b.data.any() for b in net.biases)
    assert make().biases == []


def test_copies_pickles_and_forks(engine, random):
    net, x = make(engine, bias=True), random.normal(size=(50, 3))
    loss = net.loss_and_grad(x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.loss_and_grad(x) == loss
        other.weights[0].data *= 2
        assert other.loss_and_grad(x) != loss
        assert net.loss_and_grad(x) == loss
    child = os.fork()
    if child == 0:
        os._exit(0 if net.loss_and_grad(x) == loss else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_inputs_of_other_kinds(engine):
    net, x = make(engine), np.arange(12.0).reshape(4, 3)
    expected = net(x)

    class Wrapped:
        def __array__(self, dtype=None, copy=None):
            return x

    kinds = [
        x.tolist(),
        x.astype(int),
        x.astype(np.float32),
        x.astype(">f8"),
        Wrapped(),
        x.astype(bool) if False else x,
    ]
    for kind in kinds:
        np.testing.assert_allclose(net(kind), expected, rtol=1e-12)
    torch = pytest.importorskip("torch")
    np.testing.assert_allclose(net(torch.tensor(x)), expected, rtol=1e-12)


def test_unaligned_and_strange_layouts(engine, random):
    net, x = make(engine), random.normal(size=(40, 3))
    expected = net.loss_and_grad(x)
    raw = np.zeros(x.nbytes + 1, np.uint8)
    odd = raw[1:].view(np.float64).reshape(x.shape)
    odd[:] = x
    wide = np.zeros((80, 9))
    wide[::2, ::3] = x
    for layout in (odd, wide[::2, ::3], np.asfortranarray(x), x[::-1][::-1], np.ascontiguousarray(x[::-1])[::-1]):
        assert net.loss_and_grad(layout) == pytest.approx(expected, rel=1e-14)
    same = np.broadcast_to(x[0], (40, 3))
    assert net.loss_and_grad(same) == pytest.approx(40 * net.loss_and_grad(x[:1]), rel=1e-13)


def test_an_activation_that_changes_the_shape_is_refused():
    class Bad(Activation):
        def __call__(self, x):
            return x.sum()

        def grad(self, x):
            return x

    with pytest.raises(ValueError, match=r"Bad returned shape \(\) for input of shape \(4, 2\)"):
        Net((3, 2), (Bad(),), engine="layered").loss_and_grad(np.ones((4, 3)))


MISTAKES = [
    (lambda: Net(()), ValueError, "a net needs at least an input and an output width"),
    (lambda: Net((3,)), ValueError, "a net needs at least an input and an output width"),
    (lambda: Net((3, 0)), ValueError, "every layer width must be an integer from 1 to .*, got 0"),
    (lambda: Net((3, 2.5)), ValueError, "every layer width must be an integer from 1 to .*, got 2.5"),
    (lambda: Net("3-2"), TypeError, "sizes must be a sequence of layer widths"),
    (lambda: Net(5), TypeError, "sizes must be a sequence of layer widths"),
    (lambda: Net((3, 2), ("tanh", "relu")), ValueError, "1 layers need 1 activations, got 2"),
    (lambda: Net((3, 2), "tanh"), TypeError, "activations must be a sequence of 1 names or objects"),
    (lambda: Net((3, 2), ("rleu",)), ValueError, "unknown activation 'rleu'; did you mean 'relu'"),
    (lambda: Net((3, 2), loss="mce"), ValueError, "unknown loss 'mce'; did you mean 'mse'"),
    (lambda: Net((3, 2), dtype="float16"), ValueError, "dtype must be 'float32' or 'float64', got 'float16'"),
    (lambda: Net((3, 2), dtype="nonsense"), ValueError, "dtype must be 'float32' or 'float64', got 'nonsense'"),
    (lambda: Net((3, 2), reduction="none"), ValueError, "unknown reduction 'none'; known are sum, mean"),
    (lambda: Net((3, 2), engine="warp"), ValueError, "unknown engine 'warp'"),
    (lambda: Net((3, 2), backend="jax"), ValueError, "unknown backend 'jax'; known are auto, numpy, cupy, cupy:N"),
    (lambda: Net((3, 2), threads=0), ValueError, "threads must be an integer from 1 to 1024, got 0"),
    (lambda: make()(np.ones((2, 4))), ValueError, r"x must have 3 features, got 4 \(shape \(2, 4\)\)"),
    (lambda: make()(np.ones((2, 2, 3))), ValueError, r"x must be \(n, 3\) or \(3,\), got 3 dimensions"),
    (lambda: make()(5.0), ValueError, r"x must be \(n, 3\) or \(3,\), got 0 dimensions"),
    (lambda: make()(np.ones((2, 3), complex)), TypeError, "x must hold real numbers, got dtype complex128"),
    (lambda: make()(np.full((2, 3), "a", object)), TypeError, "x must hold real numbers; in row 0, column 0 there is .a."),
    (lambda: make()([["a", "b", "c"]]), TypeError, "x must hold real numbers, got dtype <U1"),
    (lambda: make()([[1, 2, 3], [4, 5]]), TypeError, "x can't be read as an array"),
    (lambda: make().loss_and_grad(np.ones((2, 3)), np.ones((2, 2))), ValueError, "the loss half_sum_sq takes no target, got y"),
    (lambda: make(loss="mse").loss_and_grad(np.ones((2, 3))), ValueError, "the loss mse needs a target"),
    (lambda: make(loss="mse").loss_and_grad(np.ones((2, 3)), np.ones((2, 3))), ValueError, r"y must have the shape \(2, 2\) of the outputs, got \(2, 3\)"),
    (lambda: make(loss="softmax_cross_entropy").loss_and_grad(np.ones((2, 3)), [0, 2]), ValueError, "class indices must be from 0 to 1, got 2"),
    (lambda: make(loss="softmax_cross_entropy").loss_and_grad(np.ones((2, 3)), [0, -1]), ValueError, "class indices must be from 0 to 1, got -1"),
    (lambda: make(loss="softmax_cross_entropy").loss_and_grad(np.ones((2, 3)), [0.0, 1.0]), TypeError, "class indices must be integers, got dtype float64"),
    (lambda: make(loss="softmax_cross_entropy").loss_and_grad(np.ones((2, 3)), [0, 1, 1]), ValueError, "y must hold 2 class indices"),
    (lambda: make().loss_and_grad(np.ones((2, 3)), sample_weight=np.ones(3)), ValueError, r"sample_weight must have shape \(2,\)"),
]  # fmt: skip


@pytest.mark.parametrize("mistake, kind, message", MISTAKES, ids=[m[2][:40] for m in MISTAKES])
def test_a_mistake_is_one_clear_sentence(mistake, kind, message):
    with pytest.raises(kind, match=message) as caught:
        mistake()
    assert "\n" not in str(caught.value)


def test_parameters_of_the_wrong_shape_or_number():
    net = make(bias=True)
    net.weights[1].data = np.ones((3, 3))
    with pytest.raises(ValueError, match=r"weights\[1\]\.data must have shape \(2, 4\), got \(3, 3\)"):
        net(np.ones(3))
    net = make()
    net.activations.append(Tanh())
    with pytest.raises(ValueError, match=r"net\.activations must hold 2, one a layer, got 3"):
        net(np.ones(3))


def test_parameters_of_another_dtype_are_converted(engine):
    net = Net(SIZES, FUNCTIONS, dtype="float32", rng=0, engine=engine)
    for w in net.weights:
        w.data = w.data.astype(np.float64)
    loss = net.loss_and_grad(np.ones((4, 3)))
    assert loss.dtype == net.weights[0].grad.dtype == np.float32


def test_plan_and_repr():
    net = Net((5, 10, 4, 12), ("tanh", "sigmoid", "identity"), rng=0)
    plan = net.plan(np.ones((1000, 5)))
    assert plan.flops == 728_000
    assert plan.engine in ("fused", "layered")
    assert plan.bytes > 0
    assert plan.engine in str(plan)
    assert Net((5, 10), engine="layered").plan(np.ones((4, 5))).reason == "it was asked for"
    assert repr(net) == "Net(5-10-4-12, tanh, sigmoid, identity, half_sum_sq, float64, numpy)"


def test_the_engine_may_be_changed_between_calls():
    net, x = Net((3, 2), rng=0), np.ones(3)
    net.loss_and_grad(x)
    for engine in ("layered", "tiled"):
        net.engine = engine
        assert calls.find(net, x, None, None) is None
        assert net.loss_and_grad(x) == pytest.approx(Net((3, 2), rng=0, engine=engine).loss_and_grad(x), rel=1e-14)


def test_a_class_of_your_own_replaces_no_check_of_a_setting():
    with pytest.raises(
        TypeError, match=r"Averaged.reduction would replace the check of net.reduction: set it in __init__"
    ):
        type("Averaged", (Net,), {"reduction": "mean"})
    assert type("Computed", (Net,), {"loss": property(lambda net: None, lambda net, loss: None)})((3, 2)).loss is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reduction", "avg", "unknown reduction 'avg'; known are sum, mean"),
        ("engine", "warp", "unknown engine 'warp'; known are auto, fused, cooperative, tiled, layered"),
        ("threads", 0, "threads must be an integer from 1 to "),
        ("precision", "half", "unknown precision 'half'"),
        ("loss", "mean_squares", "unknown loss 'mean_squares'"),
    ],
)
def test_settings_are_checked_when_they_are_set(name, value, message):
    net = Net((3, 2), rng=0)
    before = getattr(net, name)
    with pytest.raises(ValueError, match=message):
        setattr(net, name, value)
    assert getattr(net, name) is before
    assert net.loss_and_grad(np.ones((4, 3))) == Net((3, 2), rng=0).loss_and_grad(np.ones((4, 3)))


def test_signals_may_be_replaced_by_the_users():
    net, x = Net((3, 2), rng=0), np.ones(3)
    net.loss_and_grad(x)
    net.linear_outputs[0], net.nonlinear_outputs = Tensor(None, "mine"), [Tensor(None, "mine too")]
    net.loss_and_grad(x)
    np.testing.assert_allclose(net.linear_outputs[0].data, net.weights[0].data @ x)
    np.testing.assert_allclose(net.nonlinear_outputs[0].grad, net.nonlinear_outputs[0].data)


@pytest.mark.parametrize("x", [-np.ones(3), -np.ones((4, 3))])
def test_a_parameter_that_is_an_array_may_change_in_place(x):
    net = Net((3, 2), ("leaky_relu",), rng=0)
    net.activations[0].negative_slope = np.array(0.1)
    net.loss_and_grad(x)
    net.activations[0].negative_slope[...] = 0.9
    expected = Net((3, 2), (ACTIVATIONS["leaky_relu"](negative_slope=0.9),), rng=0).loss_and_grad(x)
    assert net.loss_and_grad(x) == pytest.approx(expected, rel=1e-14)


class Dlpack:
    """An array that says what it holds by DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_subclasses_of_arrays_and_dlpack_alone(engine, random):
    x = random.normal(size=(4, 3))
    expected = make(engine).loss_and_grad(x, input_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.matrix(x)
    for kind in (matrix, x.view(np.recarray), Dlpack(x)):
        net = make(engine)
        got = net.loss_and_grad(kind, input_grad=True)
        assert [type(a) for a in (got[1], net.weights[0].grad, net(kind))] == [np.ndarray] * 3
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(TypeError, match=r"x is a masked array: .* x\.filled"):
        make(engine).loss_and_grad(np.ma.masked_array(x, mask=x > 0))


def test_what_speaks_dlpack_is_not_copied():
    x = np.ones((4, 3))
    assert np.shares_memory(get_backend("numpy").asarray(Dlpack(x), np.dtype(float), "x"), x)


def test_backward_on_an_empty_batch():
    net = make(bias=True)
    assert net.forward(np.zeros((0, 3)), keep_signals=True).shape == (0, 2)
    assert net.backward(np.zeros((0, 2)), input_grad=True).shape == (0, 3)
    assert all(not p.grad.any() for p in (*net.weights, *net.biases))


def test_an_empty_batch_has_zero_gradients_and_an_average_of_nan(engine):
    for reduction in ("sum", "mean"):
        net = make(engine, bias=True, reduction=reduction)
        loss, grad_x = net.loss_and_grad(np.zeros((0, 3)), input_grad=True)
        assert np.isnan(loss) if reduction == "mean" else loss == 0
        assert grad_x.shape == (0, 3)
        assert all(p.grad.shape == p.data.shape and not p.grad.any() for p in (*net.weights, *net.biases))


STALE = Net(SIZES, ("tanh", "silu"), "half_squared_error", True, rng=0, backend="numpy")
DATA_TYPES = ["float64", "float32", "float16", "int8", "uint32", "int64", "bool", ">f8", ">f4", "<i2"]


@given(
    n=st.integers(0, 600),
    dtype=st.sampled_from(DATA_TYPES),
    order=st.sampled_from("CF"),
    steps=st.tuples(st.sampled_from([1, 2, -1, -3]), st.sampled_from([1, 2, -1])),
    offset=st.integers(0, 3),
    weighted=st.booleans(),
    options=st.fixed_dictionaries({"input_grad": st.booleans(), "accumulate": st.booleans(), "keep_signals": st.booleans()}),
    seed=st.integers(0, 100),
)  # fmt: skip
@pytest.mark.parametrize("name", ["auto", "fused", "tiled"])
def test_any_input_on_any_engine(name, n, dtype, order, steps, offset, weighted, options, seed):
    """Nets that live through all of these calls, against a new layered one."""
    if name == "fused" and compiler.missing():
        pytest.skip("no C++ compiler on this machine")
    random = np.random.default_rng(seed)

    def layout(columns):
        base = np.zeros((offset + n * abs(steps[0]), columns * abs(steps[1])), dtype, order)
        base[:] = np.round(3 * random.normal(size=base.shape)).astype(dtype) if dtype != "uint32" else 2
        view = base[offset:][:: steps[0], :: steps[1]][:n]
        view.flags.writeable = False
        return view

    x, y = layout(3), layout(2)
    weight = random.uniform(0, 2, 3 * n)[::3] if weighted else None
    before = x.tobytes(), y.tobytes()
    net, reference = STALE, Net(SIZES, ("tanh", "silu"), "half_squared_error", True, engine="layered")
    net.engine = name
    net.weights[0].data[0] = random.normal(size=3)
    for mine, theirs in zip((*net.weights, *net.biases), (*reference.weights, *reference.biases)):
        theirs.data = mine.data.copy()
        theirs.grad = mine.grad if mine.grad is None else mine.grad.copy()
    got = net.loss_and_grad(x, y, sample_weight=weight, **options)
    expected = reference.loss_and_grad(x.astype(float), y.astype(float), sample_weight=weight, **options)
    for a, b in zip(got, expected) if options["input_grad"] else [(got, expected)]:
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)
    for mine, theirs in zip((*net.weights, *net.biases), (*reference.weights, *reference.biases)):
        np.testing.assert_allclose(mine.grad, theirs.grad, rtol=1e-10, atol=1e-10 * max(1, np.abs(theirs.grad).max()))
    assert (net.linear_outputs[0].data is not None) == options["keep_signals"]
    np.testing.assert_allclose(net(x), reference(x.astype(float)), rtol=1e-11, atol=1e-11)
    assert (x.tobytes(), y.tobytes()) == before


@pytest.mark.parametrize("kind", ["Net", "GraphNet"])
@pytest.mark.parametrize("loss", ["mse", "softmax_cross_entropy"])
@pytest.mark.parametrize("n", [1, 5, 700])
def test_samples_without_any_weight_contribute_nothing_to_the_mean(kind, loss, n, engine, random):
    options = {"loss": loss, "reduction": "mean", "rng": 0, "engine": engine}
    if kind == "Net":
        net = Net((3, 4, 2), bias=True, **options)
    else:
        net = GraphNet({"x": Input(3), "h": (Linear(4), "x"), "a": ("tanh", "h"), "y": (Linear(2), "a")}, **options)
    x = random.normal(size=(n, 3))
    y = random.normal(size=(n, 2)) if loss == "mse" else random.integers(0, 2, n)
    value, grad_x = net.loss_and_grad(x, y, sample_weight=np.zeros(n), input_grad=True)
    assert value == 0 and not grad_x.any()
    assert all((p.grad == 0).all() for p in net.parameters)
    assert kind == "GraphNet" or check.check_gradients(net, x[:5], y[:5], sample_weight=np.zeros(min(n, 5))).ok
    assert net.loss_and_grad(x[0], y[0], sample_weight=0.0) == 0
    # others are as they were, and weights that cancel each other have no mean
    first = np.arange(n) == 0
    expected = float(net.loss_and_grad(x[:1], y[:1]))
    assert net.loss_and_grad(x, y, sample_weight=first) == pytest.approx(expected)
    if n == 5:
        with np.errstate(all="ignore"):
            assert not np.isfinite(net.loss_and_grad(x, y, sample_weight=[1.0, -1.0, 0.0, 0.0, 0.0]))


class Same(Activation):
    """Its value is its argument's very memory, its derivative is not constant."""

    def __call__(self, x):
        return x

    def grad(self, x):
        return (abs(x) < 1).astype(x.dtype)


LAST = [
    "tanh", "identity", Same(), Elementwise("straight_through", value="t", grad="where(abs(t) < 1, 1, 0)"),
]  # fmt: skip


@pytest.mark.parametrize("last", LAST, ids=lambda f: getattr(f, "name", f if isinstance(f, str) else "same"))
@pytest.mark.parametrize("shape", [(3,), (4, 3)], ids=["sample", "batch"])
@pytest.mark.parametrize("first", ["forward", "loss_and_grad"])
@pytest.mark.parametrize("kind", ["chain", "graph"])
def test_a_backward_pass_has_its_own_x_and_outputs(kind, first, shape, last):
    """Neither the caller's x nor the outputs that were handed out may matter; rebound parameters don't either."""

    def make():
        if kind == "chain":
            return Net((3, 4, 2), ("tanh", last), bias=True, rng=0, backend="numpy")
        nodes = {"x": Input(3), "d": ("dropout", "x"), "a": (Linear(4), "d"), "f": ("tanh", "a")}
        return GraphNet(nodes | {"b": (Linear(2), "f"), "z": (last, "b")}, rng=0, backend="numpy")

    def run(rough):
        net, x = make(), np.random.default_rng(0).normal(size=shape)
        out = None
        if first == "forward":
            out = net.forward(x, keep_signals=True)
        else:
            net.loss_and_grad(x, keep_signals=True, **({"training": False} if kind == "graph" else {}))
        if rough:
            x[...] = np.nan
            if out is not None:
                out[...] = np.nan
            for p in net.parameters:
                p.data = np.zeros_like(p.data)
        got = [net.backward(np.ones((*shape[:-1], 2)), input_grad=True) for _ in range(2)]
        return [*got, *(p.grad for p in net.parameters)]

    for a, b in zip(run(rough=False), run(rough=True), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12)

"""Every activation: value and derivative to a few units in the last place, specials, kinks, parameters, inputs."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import reference

import backprop_xp
from backprop_xp import ACTIVATIONS, Activation, Elementwise, check, get_activation
from backprop_xp.exchange import pytorch
from backprop_xp.formulas import FormulaError

NAMES = list(ACTIVATIONS)
DTYPES = ["float32", "float64"]

#: Derivatives that pass through zero: there, what counts is the error against the derivative's size elsewhere.
CROSSING = {"gelu", "gelu_tanh", "silu", "mish", "hard_swish"}


def test_every_activation_has_a_reference_and_an_export():
    assert set(reference.FUNCTIONS) == set(reference.AT_INFINITY) == set(NAMES)
    for cls in ACTIVATIONS.values():
        assert getattr(backprop_xp, cls.__name__) is cls
        assert cls.__name__ in backprop_xp.__all__


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_value_and_derivative(name, dtype):
    f, t = ACTIVATIONS[name](), reference.points(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, slope = f(t), f.grad(t)
    assert value.dtype == slope.dtype == dtype
    for k, x in enumerate(t):
        assert reference.error_in_ulp(value[k], reference.FUNCTIONS[name][0], x) <= 8, (x, value[k])
        if name in CROSSING and abs(slope[k]) < 0.5 and x > -20:
            exact = float(reference.FUNCTIONS[name][1](reference.mp.mpf(float(x))))
            assert abs(slope[k] - exact) <= 8 * np.finfo(dtype).eps, (x, slope[k])
        else:
            assert reference.error_in_ulp(slope[k], reference.FUNCTIONS[name][1], x) <= 16, (x, slope[k])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_infinities_and_nan(name, dtype):
    f = ACTIVATIONS[name]()
    value, slope = f(np.array([-np.inf, np.inf, np.nan], dtype)), f.grad(np.array([-np.inf, np.inf, np.nan], dtype))
    for k, (v, s) in enumerate(reference.AT_INFINITY[name]):
        np.testing.assert_allclose([value[k], slope[k]], [v, s], rtol=4 * np.finfo(dtype).eps)
    assert np.isnan(value[2])
    # identity's derivative is 1 whatever the argument, as in the article and in PyTorch
    assert np.isnan(slope[2]) or name == "identity"


@pytest.mark.parametrize("name", ["identity", "tanh", "softsign", "gelu", "silu", "mish", "elu", "hard_tanh"])
def test_odd_at_zero(name):
    assert np.signbit(ACTIVATIONS[name]()(np.array(-0.0)))


@pytest.mark.parametrize("name", pytorch.MODULES)
def test_pytorch_agrees_at_kinks_and_everywhere(name):
    torch = pytest.importorskip("torch")
    f = ACTIVATIONS[name]()
    t = np.concatenate([np.arange(-8.0, 8.5, 0.5), np.linspace(-30, 30, 101)])
    tensor = torch.tensor(t, requires_grad=True)
    theirs = check.torch_activation(f)(tensor)
    theirs.sum().backward()
    np.testing.assert_allclose(f(t), theirs.detach().numpy(), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(f.grad(t), tensor.grad.numpy(), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    "name, changed",
    [
        ("leaky_relu", {"negative_slope": 0.2}),
        ("elu", {"alpha": 0.7}),
        ("celu", {"alpha": 2.0}),
        ("softplus", {"beta": 3.0, "threshold": 5.0}),
        ("hard_tanh", {"min_val": -2.0, "max_val": 0.5}),
    ],
)
def test_parameters_and_their_defaults_are_pytorchs(name, changed):
    torch = pytest.importorskip("torch")
    assert set(changed) == set(ACTIVATIONS[name].params)
    t = np.linspace(-4, 4, 81)
    for f in (ACTIVATIONS[name](), ACTIVATIONS[name](**changed)):
        theirs = getattr(torch.nn, pytorch.MODULES[name][0])(**(changed if f.parameters != f.params else {}))
        if f.parameters == tuple(f.params.values()):
            theirs = getattr(torch.nn, pytorch.MODULES[name][0])()
        np.testing.assert_allclose(f(t), theirs(torch.tensor(t)).numpy(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_backprop_is_the_product(name, random):
    f, t, grad_z = ACTIVATIONS[name](), random.normal(size=(7, 5)), random.normal(size=(7, 5))
    np.testing.assert_allclose(f.backprop(t, grad_z), grad_z * f.grad(t), rtol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_of_any_layout_are_not_modified(name, random):
    f, base = ACTIVATIONS[name](), random.normal(size=(6, 8, 3))
    base.flags.writeable = False
    for x in (base, base.T, base[::2, ::-1], np.asfortranarray(base), base[0, 0, 0], base[:0]):
        before = x.copy()
        np.testing.assert_array_equal(f(x), f(np.array(x)))
        assert np.shape(f(x)) == np.shape(f.grad(x)) == np.shape(x)
        np.testing.assert_array_equal(x, before)


def test_integers_lists_and_numbers_are_computed_in_double():
    f = get_activation("tanh")
    assert f(1) == pytest.approx(np.tanh(1.0))
    np.testing.assert_allclose(f([1, 2]), np.tanh([1.0, 2.0]))
    assert f(np.array([1, 2])).dtype == np.float64


@pytest.mark.parametrize("dtype", [complex, np.float16, np.longdouble])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="expected float32 or float64"):
        get_activation("tanh")(np.zeros(3, dtype))


@pytest.mark.parametrize("size", [1, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, 3 * (1 << 17) + 7])
def test_every_block_of_a_long_array_is_computed(size):
    t = np.linspace(-3, 3, size)
    np.testing.assert_allclose(get_activation("sigmoid")(t), 1 / (1 + np.exp(-t)), rtol=1e-14)


def test_names_aliases_and_mistakes():
    assert get_activation("swish").name == "silu"
    f = ACTIVATIONS["relu"]()
    assert get_activation(f) is f
    with pytest.raises(ValueError, match="unknown activation 'tahn'; did you mean 'tanh'"):
        get_activation("tahn")
    with pytest.raises(ValueError, match="known are identity, tanh"):
        get_activation("xyzzy")
    for wrong in (3, None, ACTIVATIONS["relu"]):
        with pytest.raises(TypeError, match="a name or an object with __call__ and grad"):
            get_activation(wrong)
    with pytest.raises(TypeError, match="LeakyReLU has no parameter 'slope'; it has negative_slope"):
        ACTIVATIONS["leaky_relu"](slope=1)
    with pytest.raises(TypeError, match="negative_slope must be a real number"):
        ACTIVATIONS["leaky_relu"](negative_slope="steep")


def test_a_parameter_can_be_changed():
    f = ACTIVATIONS["leaky_relu"]()
    f.negative_slope = 0.5
    assert f(-2.0) == -1.0
    assert f.grad(-2.0) == 0.5
    assert repr(f) == "LeakyReLU(negative_slope=0.5)"


def test_the_base_class_asks_for_both_methods():
    for method in ("__call__", "grad"):
        with pytest.raises(NotImplementedError, match=f"Activation must define {method}"):
            getattr(Activation(), method)(1.0)


class TestElementwise:
    def test_a_formula_of_the_users(self):
        f = Elementwise("bump", "exp(-width * t ** 2)", "-2 * width * t * value", let={"value": "exp(-width * t ** 2)"},
                        params={"width": 2.0})  # fmt: skip
        t = np.linspace(-2, 2, 9)
        np.testing.assert_allclose(f(t), np.exp(-2 * t * t))
        np.testing.assert_allclose(f.grad(t), -4 * t * np.exp(-2 * t * t))
        f.width = 1.0
        np.testing.assert_allclose(f(t), np.exp(-t * t))

    def test_the_derivative_is_derived(self):
        f = Elementwise("bump", "exp(-width * t ** 2)", params={"width": 2.0})
        t = np.linspace(-2, 2, 9)
        np.testing.assert_allclose(f.grad(t), -4 * t * np.exp(-2 * t * t))

    @pytest.mark.parametrize("text", ["import os", "__import__('os')", "t.real", "t[0]", "lambda: t", "open(t)"])
    def test_anything_else_is_refused_when_it_is_made(self, text):
        with pytest.raises(FormulaError):
            Elementwise("bad", text)

    def test_copies_and_pickles(self):
        f = Elementwise("bump", "exp(-width * t ** 2)", params={"width": 2.0})
        for g in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
            assert g(0.5) == f(0.5)
            g.width = 3.0
            assert g(0.5) != f(0.5)

    def test_only_exact_classes_and_unchanged_instances_are_formulas(self):
        class Mine(backprop_xp.Tanh):
            pass

        f = backprop_xp.Tanh()
        assert f.is_formula
        assert not Mine().is_formula
        f.grad = lambda t: t
        assert not f.is_formula

    def test_a_formula_of_something_else_than_t_is_refused(self):
        with pytest.raises(FormulaError, match="unknown name 'grad_z'"):
            Elementwise("bad", "t * grad_z")

    @pytest.mark.parametrize("name", ["grad", "backprop", "formula", "parameters", "is_formula", "name", "text"])
    def test_a_parameter_must_not_hide_a_method(self, name):
        with pytest.raises(ValueError, match=f"a parameter can't be called '{name}'"):
            Elementwise("bad", f"t * {name}", params={name: 2.0})


KINKS = [("leaky_relu", {"negative_slope": 0.2}, [0.0, -0.0]), ("elu", {"alpha": 0.7}, [0.0]), ("celu", {"alpha": 2.0}, [0.0]),
         ("softplus", {"beta": 3.0, "threshold": 6.0}, [2.0]), ("hard_tanh", {"min_val": -2.0, "max_val": 0.5}, [-2.0, 0.5])]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, changed, kinks", KINKS)
def test_derivatives_with_other_parameters_are_pytorchs(name, changed, kinks, dtype):
    torch = pytest.importorskip("torch")
    f = ACTIVATIONS[name](**changed)
    around = [np.nextafter(np.array(k, dtype), np.array(side, dtype)) for k in kinks for side in (-9, 9)]
    t = np.concatenate([kinks, around, np.linspace(-4, 4, 81)]).astype(dtype)
    tensor = torch.tensor(t, requires_grad=True)
    theirs = check.torch_activation(f)(tensor)
    theirs.sum().backward()
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(f(t), theirs.detach().numpy(), rtol=8 * eps, atol=4 * eps)
    np.testing.assert_allclose(f.grad(t), tensor.grad.numpy(), rtol=8 * eps, atol=4 * eps)


@pytest.mark.parametrize("name", NAMES)
def test_every_size_of_a_float(name):
    """All exponents and signs of float32, against the same formula in float64, which is checked point by point."""
    f = ACTIVATIONS[name]()
    bits = np.arange(0, 1 << 32, 16411, dtype=np.uint64).astype(np.uint32)
    t = bits.view(np.float32)
    t = t[np.isfinite(t)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, slope = f(t), f.grad(t)
    half, tiny = 0.5 * np.spacing(np.abs(t)).astype(np.float64), float(np.finfo(np.float32).smallest_subnormal)
    for got, function in ((value, f), (slope, f.grad)):
        exact = function(t.astype(np.float64))
        # half a unit in t itself is forgiven where the function is steep, see reference.error_in_ulp
        moved = np.maximum(*(np.abs(function(t + s * half) - exact) for s in (-1.0, 1.0)))
        kink = moved > 0.01  # a step of the derivative: either side will do
        size = np.abs(exact) if function is f else np.maximum(np.abs(exact), 0.5)
        # t times a subnormal sigmoid: -100 times an error of half the smallest number there is
        allowed = 8 * size * np.finfo(np.float32).eps + np.maximum(8, np.minimum(np.abs(t), 110)) * tiny + 4 * moved
        wrong = ~kink & ~(np.abs(got - exact) <= allowed)
        assert not wrong.any(), (t[wrong][:5], got[wrong][:5], exact[wrong][:5])

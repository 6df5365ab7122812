"""The kernel headers, compiled by the machine's C++ compiler, against NumPy: every activation, both dtypes."""

import ctypes

import numpy as np
import pytest
import reference
from backprop_xp.kernels import source
from here import needs_compiler

from backprop_xp import ACTIVATIONS
from backprop_xp.dtypes import C_NAMES
from backprop_xp.formulas import Formula, blocked
from backprop_xp.programs import elementwise
from backprop_xp.toolchain import cache

pytestmark = needs_compiler
DTYPES = ["float32", "float64"]
FUNCTIONS = [
    "exp",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "tanh",
    "sqrt",
    "abs",
    "sign",
    "erf",
    "normal_cdf",
    "normal_pdf",
]


def compiled(formula, outputs, arrays, parameters=()):
    """The outputs by the compiled loop."""
    outs = [np.empty_like(next(iter(arrays.values()))) for _ in outputs]
    with elementwise.compiled():
        assert elementwise.run(formula, outputs, arrays, parameters, outs)
    return outs


def one(name):
    return Formula(("t",), (), {}, {"value": f"{name}(t)"})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_right_to_a_few_ulp(name, dtype):
    f, t = ACTIVATIONS[name](), reference.points(dtype, 40)
    value, slope = compiled(f.formula, ("value", "grad"), {"t": t}, f.parameters)
    eps = np.finfo(dtype).eps
    for k, x in enumerate(t):
        assert reference.error_in_ulp(value[k], reference.FUNCTIONS[name][0], x) <= 8, (x, value[k])
        exact = float(reference.FUNCTIONS[name][1](reference.mp.mpf(float(x))))
        if abs(exact) > 0.5 or x <= -20:
            assert reference.error_in_ulp(slope[k], reference.FUNCTIONS[name][1], x) <= 16, (x, slope[k])
        else:
            assert abs(slope[k] - exact) <= 8 * eps, (x, slope[k])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_specials_are_numpys(name, dtype):
    f = ACTIVATIONS[name]()
    t = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    value, slope = compiled(f.formula, ("value", "grad"), {"t": t}, f.parameters)
    np.testing.assert_allclose(value, f(t), rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(slope, f.grad(t), rtol=4 * np.finfo(dtype).eps)
    # the sign of a zero that is a limit, or comes of max(-0, 0), is left to the library
    same = np.isfinite(t) & ~np.isin(name, ["relu", "relu6", "hard_sigmoid", "hard_swish"])
    np.testing.assert_array_equal(np.signbit(value)[same], np.signbit(f(t))[same])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_right_to_two_ulp(name, dtype):
    mp = reference.mp
    exact = {
        "abs": abs, "sign": mp.sign, "normal_cdf": reference.normal_cdf, "normal_pdf": reference.normal_pdf,
    }.get(name) or getattr(mp, name)  # fmt: skip
    random, tiny = np.random.default_rng(0), float(np.finfo(dtype).tiny)
    far = {"float32": [88.7, -88.7, -103.2, 13.0, -13.0], "float64": [709.7, -709.7, -744.4, 37.0, -37.0]}[dtype]
    t = np.concatenate([reference.SPECIALS, far, [tiny, tiny / 8, -tiny / 8, 1.0, -0.5], random.normal(size=300)])
    t = np.concatenate([t, random.uniform(-30, 30, 200), 10.0 ** random.uniform(-30, 30, 200)]).astype(dtype)
    if name in ("log", "sqrt"):
        t = np.abs(t)
    if name == "log1p":
        t = t[t > -1]
    (got,) = compiled(one(name), ("value",), {"t": t})
    largest = float(np.finfo(dtype).max)
    for x, y in zip(t, got):
        if name == "log" and x == 0:
            assert y == -np.inf
            continue
        wanted = exact(mp.mpf(float(x)))
        if abs(wanted) > largest:
            assert y == np.inf
            continue
        unit = float(np.spacing(np.abs(np.asarray(float(wanted), dtype))))
        assert abs(mp.mpf(float(y)) - wanted) <= 2.5 * unit, (x, y, float(wanted))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sin_and_cos_near_multiples_of_half_pi_and_of_large_arguments(name, dtype):
    """Where what is left of an argument is tiny, and where an argument has more turns than digits."""
    mp, random = reference.mp, np.random.default_rng(0)
    limits = {"float32": (38, [65536.0, 65537.0, 16367173.0 * 2.0**72]), "float64": (308, [2.0**30, 2.0**30 + 1])}
    digits, edges = limits[dtype]
    worst = [6381956970095103.0 * 2.0**797] if dtype == "float64" else []  # nearest to a multiple, of all doubles
    turns = np.concatenate([np.arange(1, 60), random.integers(1, 1 << 20, 100)]) * (np.pi / 2)
    t = np.concatenate([turns, edges, worst, 10.0 ** random.uniform(3, digits, 300), 2.0 ** np.arange(10, 120)])
    t = np.concatenate([t, -t]).astype(dtype)
    (got,) = compiled(one(name), ("value",), {"t": t})
    with mp.workdps(400):
        for x, y in zip(t, got):
            wanted = getattr(mp, name)(mp.mpf(float(x)))
            unit = float(np.spacing(np.abs(np.asarray(float(wanted), dtype))))
            assert abs(mp.mpf(float(y)) - wanted) <= 2.5 * unit, (x, y, float(wanted))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tanh_of_the_fused_pass(dtype):
    number, mp = C_NAMES[dtype], reference.mp
    text = source("activations.h") + (
        f"BPX_ENTRY void both(bpx::i64 n, const {number}* t, {number}* value, {number}* slope) {{\n"
        f"  using T = bpx::Pack<{number}, 2>;\n"
        "  for (bpx::i64 i = 0; i < n; i += bpx::Lane<T>::width) {\n"
        "    T v, s;\n"
        "    bpx::hyperbolic_tangent::both(bpx::load<T>(t + i), t, v, s);\n"
        "    bpx::store<T>(value + i, v);\n"
        "    bpx::store<T>(slope + i, s);\n  }\n}\n"
    )
    random, tiny = np.random.default_rng(0), float(np.finfo(dtype).tiny)
    edges = np.arange(0, 66) / 8  # where a table's pieces begin, end and are centred
    t = np.concatenate([np.nextafter(edges, 0), edges, np.nextafter(edges, 9), random.uniform(-9, 9, 900)])
    t = np.concatenate([t, 10.0 ** random.uniform(-30, 0, 200), [tiny, tiny / 8, -0.0, 19.1, -44, 88, 1e30]])
    t = np.concatenate([t, -t, [np.inf, -np.inf, np.nan]]).astype(dtype)
    t = np.resize(t, -(-len(t) // 64) * 64)
    value, slope = np.empty_like(t), np.empty_like(t)
    function = cache.library(text, "tanh").both
    function(ctypes.c_int64(len(t)), *(ctypes.c_void_p(a.ctypes.data) for a in (t, value, slope)))
    np.testing.assert_array_equal(np.isnan(value) & np.isnan(slope), np.isnan(t))
    np.testing.assert_array_equal(np.signbit(value)[~np.isnan(t)], np.signbit(t)[~np.isnan(t)])
    np.testing.assert_array_equal(value[np.isinf(t)], np.sign(t[np.isinf(t)]))
    assert not slope[np.isinf(t)].any()
    for x, v, s in zip(*(a[np.isfinite(t)] for a in (t, value, slope))):
        exact = mp.mpf(float(x))
        for got, wanted, ulps in ((v, mp.tanh(exact), 2.5), (s, mp.sech(exact) ** 2, 4)):
            unit = float(np.spacing(np.abs(np.asarray(float(wanted), dtype))))
            assert abs(mp.mpf(float(got)) - wanted) <= ulps * unit, (x, got, float(wanted))


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_at_infinity_nan_and_minus_zero(dtype):
    t = np.array([-np.inf, np.inf, np.nan, -0.0], dtype)
    expected = {
        "exp": [0, np.inf, np.nan, 1], "expm1": [-1, np.inf, np.nan, 0], "log": [np.nan, np.inf, np.nan, -np.inf],
        "log1p": [np.nan, np.inf, np.nan, 0], "tanh": [-1, 1, np.nan, 0], "sin": [np.nan, np.nan, np.nan, 0],
        "cos": [np.nan, np.nan, np.nan, 1], "sqrt": [np.nan, np.inf, np.nan, 0],
        "abs": [np.inf, np.inf, np.nan, 0], "sign": [-1, 1, np.nan, 0], "erf": [-1, 1, np.nan, 0],
        "normal_cdf": [0, 1, np.nan, 0.5], "normal_pdf": [0, 0, np.nan, 0.3989422804014327],
    }  # fmt: skip
    for name, wanted in expected.items():
        (got,) = compiled(one(name), ("value",), {"t": t})
        np.testing.assert_allclose(got, wanted, rtol=np.finfo(dtype).eps, err_msg=name)
        if name in ("expm1", "log1p", "sin", "tanh", "sqrt", "erf"):
            assert np.signbit(got[3]), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_minimum_and_maximum_keep_nan(dtype):
    formula = Formula(("t", "u"), (), {}, {"low": "minimum(t, u)", "high": "maximum(t, u)"})
    t, u = np.array([1, np.nan, 2, np.nan, np.inf], dtype), np.array([2, 1, np.nan, np.nan, 0], dtype)
    low, high = compiled(formula, ("low", "high"), {"t": t, "u": u})
    np.testing.assert_array_equal(low, np.minimum(t, u))
    np.testing.assert_array_equal(high, np.maximum(t, u))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length_and_nothing_behind_the_end(dtype):
    f = ACTIVATIONS["sigmoid"]()
    for n in (0, 1, 3, 15, 16, 17, 31, 32, 33, 100):
        buffer = np.full(n + 64, 7, dtype)
        t, out = np.linspace(-3, 3, n).astype(dtype), buffer[:n]
        with elementwise.compiled():
            elementwise.run(f.formula, ("value",), {"t": t}, (), [out])
        np.testing.assert_allclose(out, f(t), rtol=1e-6)
        assert (buffer[n:] == 7).all()


def test_an_output_may_be_an_input():
    f = ACTIVATIONS["tanh"]()
    t, grad_z = np.linspace(-2, 2, 77), np.linspace(1, 3, 77)
    expected = f.backprop(t, grad_z)
    with elementwise.compiled():
        elementwise.run(f.formula, ("grad_t",), {"t": t, "grad_z": grad_z}, (), [grad_z])
    np.testing.assert_allclose(grad_z, expected, rtol=1e-14)


def test_parameters_are_in_the_kernels_precision():
    f = ACTIVATIONS["leaky_relu"](negative_slope=0.1)
    t = np.array([-3.0], np.float32)
    (value,) = compiled(f.formula, ("value",), {"t": t}, f.parameters)
    assert value[0] == np.float32(-3) * np.float32(0.1)


def test_outside_of_compiled_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(cache, "library", lambda *args: pytest.fail("compiled"))
    t = np.ones(3)
    assert not elementwise.run(ACTIVATIONS["tanh"]().formula, ("value",), {"t": t}, (), [t])


def test_single_numbers_are_lanes_too():
    text = source("math.h") + "".join(
        f"BPX_ENTRY {number} {name}_{number}({number} x) {{ return bpx::{name}(x); }}\n"
        for name in FUNCTIONS
        for number in ("float", "double")
    )
    library = cache.library(text, "scalar functions")
    for name in FUNCTIONS:
        for number, kind, dtype in (("float", ctypes.c_float, np.float32), ("double", ctypes.c_double, np.float64)):
            function = getattr(library, f"{name}_{number}")
            function.argtypes, function.restype = (kind,), kind
            for x in (0.3, 1.7, 20.0):
                out = np.empty(1, dtype)
                blocked.tape(one(name), ("value",)).run({"t": np.array([x], dtype)}, (), [out])
                assert function(x) == pytest.approx(float(out[0]), rel=4 * float(np.finfo(dtype).eps))


def test_no_double_arithmetic_in_float_kernels():
    text = elementwise.source(ACTIVATIONS["mish"]().formula, ("grad_t",), "float32")
    assert "double* " not in text.partition("BPX_ENTRY void formula")[2]

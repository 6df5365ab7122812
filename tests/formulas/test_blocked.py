"""Formulas on NumPy: the same as computed step by step, whatever the shapes, lengths and aliasing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import arrays
from backprop_xp.formulas import Formula, blocked, special

UNARY = {"abs": np.abs, "exp": np.exp, "tanh": np.tanh, "sqrt": np.sqrt, "log1p": np.log1p, "sign": np.sign}
BINARY = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}


def expressions(depth):
    """(text, function of (t, u, p)) of random formulas."""
    leaf = st.sampled_from(
        [("t", lambda t, u, p: t), ("u", lambda t, u, p: u), ("p", lambda t, u, p: np.full_like(t, p)),
         ("0.5", lambda t, u, p: np.full_like(t, 0.5))]
    )  # fmt: skip
    if depth == 0:
        return leaf
    inner = expressions(depth - 1)

    def unary(name, a):
        return f"{name}({a[0]})", lambda t, u, p: UNARY[name](a[1](t, u, p))

    def binary(op, a, b):
        return f"({a[0]} {op} {b[0]})", lambda t, u, p: BINARY[op](a[1](t, u, p), b[1](t, u, p))

    def choice(a, b, c, d):
        text = f"where({a[0]} < {b[0]}, {c[0]}, {d[0]})"
        return text, lambda t, u, p: np.where(a[1](t, u, p) < b[1](t, u, p), c[1](t, u, p), d[1](t, u, p))

    return st.one_of(
        leaf,
        st.builds(unary, st.sampled_from(list(UNARY)), inner),
        st.builds(binary, st.sampled_from(list(BINARY)), inner, inner),
        st.builds(choice, inner, inner, inner, inner),
    )


@given(st.lists(expressions(3), min_size=1, max_size=3), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_random_formulas_equal_step_by_step(parts, dtype, in_place):
    outputs = {f"o{k}": text for k, (text, _) in enumerate(parts)}
    formula = Formula(("t", "u"), ("p",), {}, outputs)
    random = np.random.default_rng(0)
    t, u, p = random.normal(size=50).astype(dtype), random.normal(size=50).astype(dtype), dtype(0.75)
    t[:4] = [0, np.nan, np.inf, -np.inf]
    with np.errstate(all="ignore"):
        expected = [function(t, u, p) for _, function in parts]
    outs = [np.empty_like(t) for _ in parts]
    if in_place:
        outs[0] = t
    blocked.tape(formula, tuple(outputs)).run({"t": t, "u": u}, (0.75,), outs)
    for got, wanted in zip(outs, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=100 * np.finfo(dtype).eps, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 20, 35])
def test_block_boundaries(length, monkeypatch):
    monkeypatch.setattr(blocked, "BLOCK", 10)
    formula = Formula(("t",), (), {}, {"value": "where(t > 3, exp(-t) + t, t * t)"})
    t, out = np.arange(float(length)), np.empty(length)
    blocked.tape(formula, ("value",)).run({"t": t}, (), [out])
    np.testing.assert_allclose(out, np.where(t > 3, np.exp(-t) + t, t * t))


def test_columns_broadcast(monkeypatch):
    monkeypatch.setattr(blocked, "BLOCK", 6)
    formula = Formula(("t", "w"), (), {}, {"value": "t * w"})
    t, w, out = np.arange(21.0).reshape(7, 3), np.arange(7.0)[:, None], np.empty((7, 3))
    blocked.tape(formula, ("value",)).run({"t": t, "w": w}, (), [out])
    np.testing.assert_array_equal(out, t * w)


def test_an_output_may_be_a_constant_or_an_input():
    formula = Formula(("t",), ("p",), {}, {"a": "2", "b": "t", "c": "p * 2", "d": "where(p > 1, 5, 6)"})
    outs = [np.empty(3) for _ in range(4)]
    blocked.tape(formula, ("a", "b", "c", "d")).run({"t": np.arange(3.0)}, (4.0,), outs)
    np.testing.assert_array_equal(outs, [[2, 2, 2], [0, 1, 2], [8, 8, 8], [5, 5, 5]])


def test_registers_are_reused():
    formula = Formula(("t",), (), {}, {"value": "exp(tanh(sqrt(abs(t + 1) + 2) * 3) - 4)"})
    assert len(blocked.tape(formula, ("value",)).masks) <= 2


@pytest.mark.parametrize("dtype, allowed", [("float32", 1), ("float64", 8)])
@pytest.mark.parametrize("name", ["erf", "normal_cdf", "normal_pdf"])
def test_special_functions(name, dtype, allowed):
    mp = pytest.importorskip("mpmath")
    mp.mp.dps = 60
    exact = {
        "erf": mp.erf,
        "normal_cdf": lambda t: mp.erfc(-t / mp.sqrt(2)) / 2,
        "normal_pdf": lambda t: mp.exp(-t * t / 2) / mp.sqrt(2 * mp.pi),
    }[name]
    random = np.random.default_rng(0)
    t = np.concatenate([random.uniform(-37, 37, 200), random.normal(size=200), [0, -0.0, 1e-30, 0.46875, 4]]).astype(
        dtype
    )
    got = getattr(special, name)(t, np.empty_like(t))
    for x, y in zip(t, got):
        wanted = exact(mp.mpf(float(x)))
        unit = float(np.spacing(np.abs(np.asarray(float(wanted), dtype))))
        assert abs(mp.mpf(float(y)) - wanted) <= allowed * unit, (x, y)
    ends = getattr(special, name)(np.array([-np.inf, np.inf, np.nan], dtype), np.empty(3, dtype))
    wanted = {"erf": (-1, 1), "normal_cdf": (0, 1), "normal_pdf": (0, 0)}[name]
    np.testing.assert_array_equal(ends, [*wanted, np.nan])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "condition, holds", [("p > 0.5", True), ("0.8 < p", False), ("p != p", False), ("1 > 0", True)]
)
def test_a_condition_on_parameters_alone_chooses_whole_numbers(condition, holds, dtype):
    formula = Formula(("t", "u"), ("p",), {}, {"value": f"abs(where({condition}, t, u)) + where({condition}, 1, 2)"})
    t = np.linspace(-2, 2, 9).astype(dtype)
    u = (3 * t[::-1]).astype(dtype)
    (got,) = arrays.elementwise(formula, ("value",), {"t": t, "u": u}, (0.75,))
    np.testing.assert_array_equal(got, abs(t) + 1 if holds else abs(u) + 2)

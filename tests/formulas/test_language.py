"""The language of formulas: what it takes, what it refuses, and that nothing is ever evaluated as Python."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.formulas import Formula, FormulaError, blocked


def value(text, t=2.0, let=None, **parameters):
    """The formula's value by way of NumPy."""
    formula = Formula(("t",), tuple(parameters), let or {}, {"value": text})
    out = np.empty(1)
    blocked.tape(formula, ("value",)).run({"t": np.array([float(t)])}, tuple(parameters.values()), [out])
    return out[0]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("t", 2), ("1", 1), ("-t", -2), ("+t", 2), ("t + 1 * 3", 5), ("(t + 1) * 3", 9), ("1 / t", 0.5), ("t - 3", -1),
        ("t ** 3", 8), ("t ** -2", 0.25), ("t ** 0.5", np.sqrt(2)), ("t ** 1", 2), ("2 ** 10", 1024), ("1e3", 1000),
        ("where(t > 1, 5, 7)", 5), ("where(t <= 1, 5, 7)", 7), ("where(t == 2, 1, 0)", 1), ("where(t != 2, 1, 0)", 0),
        ("minimum(t, 1)", 1), ("maximum(t, 1)", 2), ("clip(t, 3, 4)", 3), ("abs(-t)", 2), ("sign(-t)", -1),
        ("exp(log(t))", 2), ("expm1(log1p(t))", 2), ("tanh(t)", np.tanh(2)), ("sigmoid(t)", 1 / (1 + np.exp(-2))),
        ("erf(0)", 0), ("normal_cdf(0)", 0.5), ("sqrt(t * t)", 2),
    ],
)  # fmt: skip
def test_what_it_computes(text, expected):
    assert value(text) == pytest.approx(expected, rel=1e-14)


def test_names_of_shared_parts_and_parameters():
    assert value("b + slope", let={"a": "t * 2", "b": "a + slope"}, slope=10.0) == 24


@pytest.mark.parametrize(
    "text",
    [
        "", "t +", "t t", "import os", "t = 3", "t.real", "t[0]", "t if t > 0 else 1", "lambda: 1", "[t]", "(t, t)", "{t}",
        "'text'", "b'x'", "None", "True", "1j", "f'{t}'", "t and t", "not t", "t @ t", "t // 2", "t % 2", "t << 1", "~t",
        "t := 1", "__import__('os')", "eval('1')", "exp", "exp()", "exp(t, t)", "exp(x=t)", "exp(*t)", "unknown(t)", "u",
        "t > 1", "(t > 1) * 2", "where(t, 1, 2)", "where(t > 1, t > 2, 1)", "0 < t < 1", "t ** t", "t ** 2.5", "t ** 65",
        "t ** True", "1" + "0" * 400, "1e999", "t is t", "t in t", "await t", "t" * 5000, "(" * 900 + "t" + ")" * 900,
        "exp.__class__", "t.__class__.__bases__", "(lambda f: f)(t)", "exp(t)(t)", "yield t", "...",
    ],
)  # fmt: skip
def test_what_it_refuses(text):
    with pytest.raises(FormulaError):
        value(text)


@pytest.mark.parametrize("wrong", [None, 3, b"t", ["t"]])
def test_a_formula_is_text(wrong):
    with pytest.raises(FormulaError, match="a formula is text"):
        value(wrong)


@given(st.text(max_size=30))
def test_any_text_is_a_formula_or_refused(text):
    with contextlib.suppress(FormulaError):
        value(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("exq(t)", "unknown function 'exq'; did you mean 'exp'"),
        ("slop * t", "unknown name 'slop'; did you mean 'slope'"),
        ("t.real + 1", "'t.real' in 't.real [+] 1' is not part of the formula language"),
        ("exp(t, 1)", r"exp\(\) in .* takes 1 arguments, got 2"),
        ("t ** t", "must be 0.5 or a whole number"),
    ],
)
def test_messages_say_what_and_where(text, message):
    with pytest.raises(FormulaError, match=message):
        value(text, slope=1.0)


@pytest.mark.parametrize("name", ["exp", "clip", "not a name", "_hidden", "t", ""])
def test_names_that_cannot_be_defined(name):
    with pytest.raises(FormulaError):
        Formula(("t",), (name,), {}, {"value": "t"})


def test_equal_parts_become_one_node():
    formula = Formula(("t",), (), {}, {"value": "exp(-t) + exp(-t)", "grad": "exp(-t) * 2"})
    assert sum(node.op == "exp" for node in formula.nodes) == 1


def test_zero_and_minus_zero_stay_apart():
    assert np.signbit(value("-0.0"))
    assert not np.signbit(value("0.0"))
    assert np.signbit(value("where(t > 5, 0.0, -0.0)"))


def test_a_factor_of_one_is_left_out():
    formula = Formula(("t",), (), {}, {"value": "1 * t * 1"})
    assert formula.nodes[formula.outputs["value"]].op == "variable"

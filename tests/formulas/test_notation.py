"""Formulas as people write them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from formulas_written import evaluated
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import ACTIVATIONS, LOSSES, Elementwise
from backprop_xp.arrays import elementwise
from backprop_xp.formulas import Formula, notation
from backprop_xp.formulas.notation import Written, number, written


def worth(form: Written, values: dict) -> float:
    """A formula and what its names stand for, with numbers in the slots."""
    names: dict = {}
    for line in form.fill_where(values):
        name, text = line.split(" = ", 1)
        names[name] = evaluated(text, names)
    return evaluated(form.fill(values), names)


@pytest.fixture
def every_digit(monkeypatch):
    monkeypatch.setattr(notation, "DIGITS", 17)
    monkeypatch.setattr(notation, "CONSTANT_DIGITS", 17)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_written_is_what_is_computed(name, every_digit):
    activation = ACTIVATIONS[name]()
    parameters = dict(zip(activation.text[3], activation.parameters))
    for output in ("value", "grad"):
        for t in (-3.5, -0.7, 0.3, 1.9, 7.0):
            (expected,) = elementwise(activation.formula, (output,), {"t": np.array([t])}, activation.parameters)
            assert worth(written(activation.formula, output), {"t": t, **parameters}) == pytest.approx(
                expected[0], 1e-12
            )


@pytest.mark.parametrize("name", [name for name, cls in ACTIVATIONS.items() if cls.textbook])
def test_textbooks_say_of_activations_what_is_computed(name):
    activation, t = ACTIVATIONS[name](), np.concatenate([np.linspace(-8, 8, 33), [1e-3, -1e-3]])
    z = activation(t)
    formula = Formula(("t", "z"), activation.text[3], {}, dict(zip(("value", "grad"), activation.textbook)))
    value, grad = elementwise(formula, ("value", "grad"), {"t": t, "z": z}, activation.parameters)
    np.testing.assert_allclose(value, z, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(grad, activation.grad(t), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, cls in LOSSES.items() if getattr(cls, "textbook", None)])
def test_textbooks_say_of_losses_what_is_computed(name, random):
    loss, z = LOSSES[name](), np.linspace(-6, 6, 25)
    y = random.uniform(0, 1, 25)
    formula = Formula(("z", "y"), loss.text.params, {}, dict(zip(("value", "grad"), loss.textbook)))
    given = {"z": z, "y": y}
    value, grad = elementwise(formula, ("value", "grad"), given, loss.parameters)
    target = (y,) if loss.needs_target else ()
    np.testing.assert_allclose(value.sum(), loss(z, *target), rtol=1e-12)
    np.testing.assert_allclose(grad, loss.grad(z, *target), rtol=1e-11)


@pytest.mark.parametrize("base", [ACTIVATIONS["tanh"], LOSSES["mse"]])
def test_a_subclass_may_be_another_function(base):
    assert base.textbook
    assert type("Other", (base,), {"name": "other"}).textbook is None


texts = st.recursive(
    st.sampled_from(["t", "a", "0.5", "2", "-1"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " - ", " * ", " / "]), inner).map(lambda p: f"({p[0]}{p[1]}{p[2]})"),
        inner.map("(-{})".format), inner.map("tanh({})".format), inner.map("({}) ** 3".format),
        inner.map("log1p(exp({}))".format), inner.map("expm1({})".format),
        st.tuples(inner, inner).map(lambda p: f"maximum({p[0]}, {p[1]})"),
        st.tuples(inner, inner, inner).map(lambda p: f"where({p[0]} < {p[1]}, {p[2]}, {p[0]})"),
    ),
    max_leaves=12,
)  # fmt: skip


@given(texts, st.sampled_from([-1.5, 0.25, 2.0]))
def test_parentheses_stand_where_they_must(text, t):
    formula = Formula(("t",), ("a",), {}, {"value": text})
    with np.errstate(all="ignore"):
        (expected,) = elementwise(formula, ("value",), {"t": np.array([t])}, (-0.75,))
    digits = notation.DIGITS
    notation.DIGITS = 17
    try:
        found = worth(written(formula, "value"), {"t": t, "a": -0.75})
    except (OverflowError, ZeroDivisionError, ValueError):
        return  # NumPy says inf or NaN
    finally:
        notation.DIGITS = digits
    if np.isfinite(expected[0]):
        assert found == pytest.approx(expected[0], rel=1e-6, abs=1e-9)


@given(texts)
def test_latex_has_its_braces_in_pairs(text):
    shown = written(Formula(("t",), ("a",), {}, {"value": text}), "value", latex=True).fill({"t": "t_{0}"})
    depth = 0
    for brace in re.findall(r"[{}]", shown):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert shown.count(r"\left") == shown.count(r"\right")


def test_as_people_write_them():
    formula = Formula(
        ("t",), ("slope",), {"e": "exp(-abs(t))"}, {"value": "where(t > 0, t ** 2, slope * expm1(t)) / e"}
    )
    form = written(formula, "value")
    assert form.fill({}) == "(t^2 if t > 0 else slope * (exp(t) - 1)) / e"
    assert form.fill_where({"t": -2.0}) == ["e = exp(-|-2|)"]
    assert form.slots() == {"t", "slope"}
    latex = written(formula, "value", latex=True)
    assert latex.fill({"t": "t_{1}"}) == (
        r"\frac{\begin{cases} {t_{1}}^{2} & \text{if } t_{1} > 0 \\ \mathrm{slope} \cdot \left(e^{t_{1}} - 1\right)"
        r" & \text{otherwise} \end{cases}}{e}"
    )


def test_what_stands_twice_in_a_long_formula_gets_a_name():
    bump = Elementwise("bump", "exp(-t * t) * tanh(exp(-t * t)) * tanh(exp(-t * t) + 1) * tanh(exp(-t * t) + 2)")
    assert written(bump.formula, "value").fill({}).count("exp") == 4
    grad = written(bump.formula, "grad")
    assert len(grad.where) > 3
    assert worth(grad, {"t": 0.5}) == pytest.approx(bump.grad(np.array([0.5]))[0])


def test_what_is_nested_deeply_is_cut():
    text = "t"
    for _ in range(80):
        text = f"tanh({text} + 1)"
    form = written(Formula(("t",), (), {}, {"value": text}), "value")
    assert len(form.where) >= 2
    (expected,) = elementwise(Formula(("t",), (), {}, {"value": text}), ("value",), {"t": np.array([0.5])}, ())
    assert worth(form, {"t": 0.5}) == pytest.approx(expected[0])


@pytest.mark.parametrize(("value", "shown"), [
    (1.0, "1"), (-0.25, "(-0.25)"), (-0.0, "0"), (0.998545, "0.998545"), (-0.998545, "(-0.998545)"), (1e-5, "1e-05"),
    (float("nan"), "nan"), (float("inf"), "inf"),
])  # fmt: skip
def test_numbers(value, shown):
    assert number(value) == shown

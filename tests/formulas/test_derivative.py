"""Derivatives by rule: equal to the written ones, to central differences, and PyTorch's at kinks."""

import numpy as np
import pytest

from backprop_xp import ACTIVATIONS, Elementwise
from backprop_xp.arrays import elementwise
from backprop_xp.formulas import Formula, differentiate

T = np.linspace(-6, 6, 1001) + 1e-3


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_equal_to_the_written_derivative(name):
    f = ACTIVATIONS[name]()
    derived = Elementwise(name, f.value, let=f.let, params=f.params)
    np.testing.assert_allclose(derived.grad(T), f.grad(T), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "text",
    ["t", "3", "-t", "t * t - 2 * t", "1 / (1 + t * t)", "t ** 5", "(7 + t) ** -3", "abs(t)", "sign(t) * t", "sqrt(1 + t * t)",
     "exp(t / 3)", "expm1(t / 3)", "log(7 + t)", "log1p(t * t)", "tanh(2 * t)", "sin(2 * t)", "cos(t) * t", "erf(t)", "normal_cdf(t)",
     "normal_pdf(t)", "minimum(t, t * t)", "maximum(-t, t / 2)", "where(t > 1, t * t, 2 * t - 1)", "clip(t, -1, 1) * t",
     "sigmoid(t) * t"],
)  # fmt: skip
def test_every_rule_against_central_differences(text):
    f, h = Elementwise("f", text), 1e-5
    numeric = (f(T + h) - f(T - h)) / (2 * h)
    np.testing.assert_allclose(f.grad(T), numeric, rtol=1e-6, atol=1e-8)


def test_kinks_are_pytorchs():
    torch = pytest.importorskip("torch")
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    for text, function in (
        ("abs(t)", torch.abs),
        ("maximum(t, 0)", lambda t: torch.maximum(t, torch.zeros_like(t))),
        ("minimum(t, 0)", lambda t: torch.minimum(t, torch.zeros_like(t))),
    ):
        (slope,) = torch.autograd.grad(function(zero).sum(), zero)
        assert Elementwise("f", text).grad(0.0) == slope.item()


def test_nan_stays_nan():
    for text in ("maximum(t, 0)", "minimum(t, 1)", "exp(t)", "abs(t)", "t * t"):
        assert np.isnan(Elementwise("f", text).grad(np.nan))


def test_parameters_are_constants():
    f = Elementwise("f", "a * t ** 2", params={"a": 3.0})
    assert f.grad(2.0) == 12.0
    f.a = 5.0
    assert f.grad(2.0) == 20.0


@pytest.mark.parametrize("t", [0.0, -0.0, 1e-300, -1e-300])
def test_the_sigmoid_is_smooth_at_zero(t):
    assert Elementwise("f", "sigmoid(t)").grad(t) == 0.25
    assert Elementwise("f", "sigmoid(2 * t) * (3 + t)").grad(t) == pytest.approx(0.5 * 1 + 3 * 2 * 0.25)


def from_the_right(text, order, t):
    formula = Formula(("t",), (), {}, {"0": text})
    for k in range(order):
        formula.outputs[str(k + 1)] = differentiate(formula, str(k), "t", from_the_right=True)
    return float(elementwise(formula, (str(order),), {"t": np.array([t])})[0][0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # smooth functions in pieces: their own derivatives at 0
        ("log1p(exp(-abs(t))) + maximum(t, 0)", (0.5, 0.25, 0.0, -0.125)),
        ("where(t < 0, exp(-abs(t)), 1) / (1 + exp(-abs(t)))", (0.25, 0.0, -0.125, 0.0)),
        ("tanh(t)", (1.0, 0.0, -2.0, 0.0)),
        # kinks: the piece on the right
        ("abs(t)", (1.0, 0.0, 0.0, 0.0)),
        ("minimum(t, 2 * t)", (1.0, 0.0, 0.0, 0.0)),
        ("maximum(t, -t) * t", (0.0, 2.0, 0.0, 0.0)),
    ],
)
def test_from_the_right(text, expected):
    for order, value in enumerate(expected, start=1):
        assert from_the_right(text, order, 0.0) == pytest.approx(value, abs=1e-15), order
    assert np.isnan(from_the_right(text, 1, np.nan))

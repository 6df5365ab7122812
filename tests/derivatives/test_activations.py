"""Derivatives of every activation, of every order, against mpmath's."""

import mpmath
import numpy as np
import pytest

from backprop_xp import ACTIVATIONS, Activation, Elementwise
from backprop_xp.derivatives.activations import derivatives

#: Smooth ones, which mpmath can derive by differences of its own with many digits.
SMOOTH = {
    "tanh": mpmath.tanh,
    "sigmoid": lambda t: 1 / (1 + mpmath.exp(-t)),
    "gelu": lambda t: t * mpmath.ncdf(t),
    "gelu_tanh": lambda t: t / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (t + mpmath.mpf("0.044715") * t**3))),
    "silu": lambda t: t / (1 + mpmath.exp(-t)),
    "mish": lambda t: t * mpmath.tanh(mpmath.log1p(mpmath.exp(t))),
    "softplus": lambda t: mpmath.log1p(mpmath.exp(t)),
    "log_sigmoid": lambda t: -mpmath.log1p(mpmath.exp(-t)),
    "identity": lambda t: t,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
}
POINTS = np.array([-3.1, -0.7, -1e-3, 0.0, 1e-3, 0.4, 2.2])


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_ones_up_to_the_fifth(name):
    found = derivatives(ACTIVATIONS[name](), POINTS, 5)
    with mpmath.workdps(60):
        for order, values in enumerate(found):
            expected = [float(mpmath.diff(SMOOTH[name], mpmath.mpf(float(t)), order)) for t in POINTS]
            np.testing.assert_allclose(values, expected, rtol=1e-11, atol=1e-12, err_msg=f"order {order}")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_all_of_them_have_four(name):
    """The first is the activation's own, each next one the slope of the one before, away from kinks."""
    f, t = ACTIVATIONS[name](), np.array([-7.3, -2.6, -0.37, 0.21, 1.7, 6.6])
    found = derivatives(f, t, 4)
    assert found[0].tobytes() == f(t).tobytes() and found[1].tobytes() == f.grad(t).tobytes()
    for order in range(1, 4):
        h = 1e-5
        above, below = derivatives(f, t + h, order)[order], derivatives(f, t - h, order)[order]
        np.testing.assert_allclose(found[order + 1], (above - below) / (2 * h), rtol=1e-5, atol=1e-6)


def test_at_kinks_they_are_pytorchs():
    for name in ("relu", "leaky_relu", "hard_tanh", "relu6", "hard_sigmoid"):
        f = ACTIVATIONS[name]()
        second = derivatives(f, np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 6.0]), 2)[2]
        assert (second == 0).all(), name


def test_a_gradient_of_ones_own_is_what_is_derived():
    """A straight-through estimator's second derivative is that of the gradient that was given."""
    f = Elementwise("through", "sign(t)", grad="t * t")
    value, first, second = derivatives(f, np.array([-2.0, 3.0]), 2)
    assert value.tolist() == [-1, 1] and first.tolist() == [4, 9] and second.tolist() == [-4, 6]


def test_parameters_of_today():
    f = Elementwise("power", "a * t ** 3", params={"a": 2.0})
    assert derivatives(f, np.array([1.0]), 3)[3] == 12.0
    f.a = 5.0
    assert derivatives(f, np.array([1.0]), 3)[3] == 30.0


def test_python_has_no_derivatives():
    class Cube(Activation):
        def __call__(self, x):
            return x**3

        def grad(self, x):
            return 3 * x**2

    with pytest.raises(
        TypeError, match="Cube is written in Python: an Elementwise formula has derivatives of every order"
    ):
        derivatives(Cube(), np.ones(2), 2)

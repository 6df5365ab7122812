"""Activations in PyTorch's operations: values and derivatives of every order, in every transform, are the package's."""

import numpy as np
import pytest

from backprop_xp import ACTIVATIONS, Elementwise
from backprop_xp.derivatives.activations import derivatives
from backprop_xp.formulas.language import FUNCTIONS

torch = pytest.importorskip("torch")

from backprop_xp import torch_formulas  # noqa: E402

POINTS = np.array([-7.3, -3.0, -0.37, 0.0, 0.21, 1.0, 3.0, 6.6])
CASES = {
    **{name: cls() for name, cls in ACTIVATIONS.items()},
    "own": Elementwise("own", "exp(-a * t ** 2) + where(t == 1, 2, sign(t)) * erf(t)", params={"a": 0.3}),
    "code": Elementwise("straight", "t", grad="where(abs(t) < 1, 1, 0)"),
    "constant": Elementwise("three", "3"),
}


@pytest.mark.parametrize("f", CASES.values(), ids=CASES)
def test_derivatives_are_the_packages(f):
    expected = derivatives(f, POINTS, 3)
    z = t = torch.tensor(POINTS, requires_grad=True)
    z = torch_formulas.activate(f, t)
    for order in range(4):
        np.testing.assert_allclose(z.detach(), expected[order], rtol=1e-12, atol=1e-13, err_msg=f"order {order}")
        if order < 3:
            (z,) = torch.autograd.grad(z.sum(), t, create_graph=True)
    np.testing.assert_array_equal(torch_formulas.traced(f, t).detach(), torch_formulas.activate(f, t).detach())


def test_every_function_of_the_language_is_there():
    assert {*FUNCTIONS} <= {*torch_formulas.FUNCTIONS}


def test_transforms():
    f, t = ACTIVATIONS["gelu"](), torch.tensor(POINTS)
    slope = torch.func.vmap(torch.func.grad(lambda t: torch_formulas.activate(f, t)))(t)
    np.testing.assert_allclose(slope, f.grad(POINTS), rtol=1e-12)
    value, tangent = torch.func.jvp(lambda t: torch_formulas.activate(f, t), (t,), (2 * torch.ones_like(t),))
    np.testing.assert_allclose(value, f(POINTS), rtol=1e-12)
    np.testing.assert_allclose(tangent, 2 * f.grad(POINTS), rtol=1e-12)


def test_nan_and_the_sign_of_nan():
    f = Elementwise("s", "sign(t)")
    assert torch.isnan(torch_formulas.activate(f, torch.tensor([float("nan")]))).all()

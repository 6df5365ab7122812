"""Sums of second derivatives in formulas: where they are found, and that they are what they stand for."""

import numpy as np
import pytest

from backprop_xp import Equation, Net

XYZ = {"inputs": "x y z", "outputs": "u v", "params": {"nu": 0.5}}


@pytest.mark.parametrize(
    ("residuals", "sums"),
    [
        (("u_xx + u_yy + u_zz",), [{0, 1, 2}]),
        (("u_x - nu * (u_yy + u_zz) + u ** 3",), [{1, 2}]),
        (("u_x - nu * u_yy - nu * u_zz",), [{1, 2}]),
        (("(u_xx + u_yy) ** 2 - exp(x) * v",), [{0, 1}]),
        (("maximum(u_xx + u_yy, 0)",), [{0, 1}]),
        (("u_xx + u_yy", "v_xx + v_yy"), [{0, 1}]),
        (("u_xx + u_yy", "u * (u_yy + u_xx)"), [{0, 1}]),
        (("u_xx - u_yy",), []),
        (("u_xx + 2 * u_yy",), []),
        (("u_xx + u_yy", "u_xx"), []),
        (("u_xx * u_yy",), []),
        (("u_xx + v_yy",), []),
        (("u_xy + u_xx",), []),
        (("where(u_xx < u_yy, 1, 2) * u",), []),
        (("sign(u_xx) + sign(u_yy) + u",), []),
        (("abs(u_xx) + abs(u_yy)",), []),
        (("minimum(u_xx, u_yy)",), []),
        (("u_xx + u_yy", "v_xx", "v_yy"), []),  # each is carried anyway
    ],
)
def test_where_they_are(residuals, sums):
    stack = Equation(*residuals, **XYZ).parsed.rules.stack
    assert [set(along) for along in stack if isinstance(along, frozenset)] == sums


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("u_x - nu * (u_yy + u_zz) + u ** 3", lambda d: d["u_x"] - 0.5 * (d["u_yy"] + d["u_zz"]) + d["u"] ** 3),
        ("(u_xx + u_yy) ** 2 - exp(x)", lambda d: (d["u_xx"] + d["u_yy"]) ** 2 - np.exp(d["x"])),
        ("maximum(u_yy + u_xx, 0) + v_zz", lambda d: np.maximum(d["u_xx"] + d["u_yy"], 0) + d["v_zz"]),
    ],
)
def test_they_are_sums(text, value, random):
    net = Net((3, 8, 2), ("gelu", "identity"), "mse", True, rng=0, backend="numpy", init="glorot_normal")
    x = random.normal(size=(7, 3))
    equation = Equation(text, **XYZ)
    names = ("u", "u_x", "u_xx", "u_yy", "u_zz", "v_zz")
    derived = net.derivatives(x, *names[1:], inputs="x y z", outputs="u v") | {"u": net(x)[:, 0], "x": x[:, 0]}
    np.testing.assert_allclose(net.residuals(equation, x)[:, 0], value(derived), rtol=1e-12, atol=1e-14)

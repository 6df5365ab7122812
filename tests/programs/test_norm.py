"""The sum of squares that clipping needs."""

import numpy as np
import pytest
from here import needs_compiler

from backprop_xp.programs import norm

pytestmark = needs_compiler


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [0, 1, 7, 31, 32, 33, 64, 1000])
def test_every_length(n, dtype, random):
    numbers = np.append(random.normal(size=n), np.nan).astype(dtype)  # what lies behind them is not looked at
    found = norm.square_sum(dtype)(n, numbers.ctypes.data)
    assert found == pytest.approx(float((numbers[:n].astype(np.float64) ** 2).sum()), rel=1e-14)


@pytest.mark.parametrize("value", [1e30, np.inf, np.nan])
def test_no_square_of_a_float_overflows(value):
    numbers = np.full(40, value, np.float32)
    found = norm.square_sum("float32")(40, numbers.ctypes.data)
    np.testing.assert_allclose(found, 40 * float(np.float32(value)) ** 2, rtol=1e-14)

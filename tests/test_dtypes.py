"""The float types, in one place."""

import numpy as np
import pytest

from backprop_xp import Net, dtypes


@pytest.mark.parametrize("dtype", ["float16", "longdouble", "int64", "complex64", "float3", object()])
def test_a_net_of_another_dtype_is_refused(dtype):
    with pytest.raises(ValueError, match="dtype must be 'float32' or 'float64', got"):
        Net((2, 1), dtype=dtype)


@pytest.mark.parametrize("dtype", dtypes.DTYPES)
def test_what_a_net_may_have(dtype):
    for given in (dtype, np.dtype(dtype), getattr(np, dtype)):
        assert dtypes.as_dtype(given) == dtype
    assert dtypes.floating(np.ones(2, dtype), np.ones(1, dtype)) == dtype
    assert dtypes.C_NAMES[dtypes.name_of(np.dtype(dtype))] in ("float", "double")


def test_integers_and_numbers_are_computed_in_the_default():
    for array in (np.arange(3), True, 2, np.ones(2, np.uint8)):
        assert dtypes.floating(array) == dtypes.DEFAULT
    for array in (np.ones(2, np.float16), 1j, np.ones(2, "longdouble")):
        with pytest.raises(TypeError, match="expected float32 or float64 numbers, got dtype"):
            dtypes.floating(array)

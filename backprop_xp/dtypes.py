"""The float types: of what a net stores and computes, and of what it adds up over many samples."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

#: What arrays of a net may be, by NumPy's name, and what C calls it.
C_NAMES = {"float32": "float", "float64": "double"}
DTYPES = tuple(C_NAMES)
#: What losses, and sums of sums, are added up in, whatever is stored.
SUMS = np.dtype(np.float64)
#: Where a type has to be taken that no argument says: of integers, and of nets.
DEFAULT = np.dtype(np.float64)


@cache
def name_of(dtype: np.dtype) -> str:
    """``dtype.name``, for which NumPy imports a module each time: impossible while the interpreter ends."""
    return dtype.name


def as_dtype(dtype: Any) -> np.dtype:
    """A type that a net may have. Raises ValueError."""
    try:
        result = np.dtype(dtype)
    except TypeError:
        result = None
    if result is None or result.name not in DTYPES:  # numpy.dtype equals None, of all things
        raise ValueError(f"dtype must be {' or '.join(map(repr, DTYPES))}, got {dtype!r}")
    return result


def floating(*arrays: Any) -> np.dtype:
    """The type in which to compute with these arrays or numbers.

    Raises:
        TypeError: one that is no float of a net's, and no integer.
    """
    dtype = np.result_type(*(getattr(a, "dtype", None) or np.asarray(a).dtype for a in arrays))
    if dtype.kind in "biu":
        return DEFAULT
    if name_of(dtype) not in DTYPES:
        raise TypeError(f"expected {' or '.join(DTYPES)} numbers, got dtype {dtype}")
    return dtype

"""What counts as a number in an option: Python's, NumPy's and other libraries', also as an array without dimensions.

A truth value is no number, and neither is a text. Everything that takes a number from a user tests it here.
"""

from __future__ import annotations

import math
import operator
import os
from contextlib import suppress
from typing import Any

import numpy as np

MOST_DRAWN = 1 << 53  # of seeds; every reader of JSON has them exactly


def is_number(value: Any) -> bool:
    """Whether it is one real number, of whatever type."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    if isinstance(value, (bool, str, bytes, bytearray)) or getattr(value, "shape", ()) != ():
        return False
    dtype = str(getattr(value, "dtype", ""))  # of PyTorch, JAX or CuPy
    return hasattr(value, "__float__") and "bool" not in dtype and "complex" not in dtype


def as_real(value: Any) -> float | None:
    """The number as a float, None if it is none."""
    if type(value) is float:
        return value
    try:
        return float(value) if is_number(value) else None
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def real(
    what: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    infinite: bool = False,
) -> float:
    """The number as a float, a ValueError that starts with ``what`` if it is none, NaN or out of range.

    Args:
        what: the option's name, for the message.
        least, most: the range with its ends. above, below: the range without them.
        infinite: whether an infinite number will do.
    """
    number = as_real(value)
    within = number is not None and least <= number <= most and above < number < below
    if number is None or not (within or (infinite and number == math.inf)):
        raise ValueError(f"{what} must be a number{_between(least, most, above, below)}, got {value!r}")
    return number


def any_real(what: str, value: Any) -> float:
    """The number as a float, which may be NaN or infinite; a ValueError that starts with ``what`` if it is none."""
    number = as_real(value)
    if number is None:
        raise ValueError(f"{what} must be a number, got {value!r}")
    return number


def whole(what: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """The number as an int, a ValueError that starts with ``what`` if it isn't whole, or isn't from least to most."""
    number = None
    if is_number(value):
        with suppress(TypeError, ValueError, RuntimeError):
            number = operator.index(value)
    if number is None or number < least or (most is not None and number > most):
        allowed = f"from {least} on" if most is None else f"from {least} to {most}"
        raise ValueError(f"{what} must be an integer {allowed}, got {value!r}")
    return number


def as_seed(seed: Any) -> int:
    """The seed as an int; a new one for None."""
    if seed is not None:
        return whole("seed", seed)
    return int.from_bytes(os.urandom(8)) % MOST_DRAWN


def flag(what: str, value: Any) -> bool:
    """A truth value, NumPy's or Python's, or 0 or 1."""
    if not (isinstance(value, (bool, np.bool_)) or (is_number(value) and value in (0, 1))):
        raise ValueError(f"{what} must be True or False, got {value!r}")
    return bool(value)


def _between(least: float, most: float, above: float, below: float) -> str:
    if above > -math.inf and below < math.inf:
        return f" between {above:g} and {below:g}"
    low = f"from {least:g}" if least > -math.inf else f"above {above:g}" if above > -math.inf else ""
    high = f"to {most:g}" if most < math.inf else f"to below {below:g}" if below < math.inf else ""
    if low.startswith("from") and not high:
        high = "on"
    return "".join(f" {part}" for part in (low, high) if part)

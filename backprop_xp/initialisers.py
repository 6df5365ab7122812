"""How weights are drawn: always on the host by NumPy, so that a seed means the same on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .messages import unknown
from .numbers import is_number, whole

Draw = Callable[[Any, tuple[int, int]], np.ndarray]


def as_random(rng: Any) -> Any:
    """A source of random numbers: None is NumPy's global state (scikit-learn's convention), an int a seed."""
    if rng is None:
        return np.random
    if is_number(rng):
        return np.random.default_rng(whole("a seed", rng))
    if isinstance(rng, (np.random.Generator, np.random.RandomState)):
        return rng
    raise TypeError(f"rng must be None, a seed, a Generator or a RandomState, got {type(rng).__name__}")


def normal(rng: Any, shape: tuple[int, int]) -> np.ndarray:
    """Standard normal, as in the article."""
    return np.asarray(rng.standard_normal(shape))


def glorot_uniform(rng: Any, shape: tuple[int, int]) -> np.ndarray:
    """Uniform within +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    return _uniform(rng, shape, np.sqrt(6 / sum(shape)))


def glorot_normal(rng: Any, shape: tuple[int, int]) -> np.ndarray:
    """Normal with variance 2 / (fan_in + fan_out) (Glorot and Bengio, 2010)."""
    return normal(rng, shape) * np.sqrt(2 / sum(shape))


def he_uniform(rng: Any, shape: tuple[int, int]) -> np.ndarray:
    """Uniform within +-sqrt(6 / fan_in) (He et al., 2015)."""
    return _uniform(rng, shape, np.sqrt(6 / shape[1]))


def he_normal(rng: Any, shape: tuple[int, int]) -> np.ndarray:
    """Normal with variance 2 / fan_in (He et al., 2015)."""
    return normal(rng, shape) * np.sqrt(2 / shape[1])


def _uniform(rng: Any, shape: tuple[int, int], bound: float) -> np.ndarray:
    return np.asarray(rng.uniform(-bound, bound, shape))


#: Initialisers by name; each takes a source of random numbers and the weight's shape (out, in).
INITIALISERS: dict[str, Draw] = {
    draw.__name__: draw for draw in (normal, glorot_uniform, glorot_normal, he_uniform, he_normal)
}


def get_initialiser(init: str | Draw | None) -> Draw:
    """The initialiser of this name, or the function itself (``init(rng, (out, in))``); None is normal."""
    if init is None:
        return normal
    if callable(init):
        return init
    if not isinstance(init, str):
        raise TypeError(f"init must be a name or a function of (rng, shape), got {type(init).__name__}")
    if init not in INITIALISERS:
        raise ValueError(unknown("initialiser", init, INITIALISERS))
    return INITIALISERS[init]

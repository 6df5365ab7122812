"""Arrays for tests: results on the host, and targets for losses."""

from __future__ import annotations

import numpy as np

from backprop_xp import LOSSES


def host(array):
    """A copy on the host of a NumPy or CuPy array, or of a number."""
    return array.get() if hasattr(array, "get") else np.array(array)


def target(loss, n, width, random, dtype="float64"):
    """A target that a loss takes for n samples of this width: classes, probabilities or numbers; None for no target.

    ``loss`` is a name, or "probabilities" for softmax cross-entropy with such.
    """
    if loss == "probabilities":
        return random.dirichlet(np.ones(width), n).astype(dtype)
    if not LOSSES[loss].needs_target:
        return None
    if loss == "softmax_cross_entropy":
        return random.integers(0, width, n)
    return random.uniform(0, 1, (n, width)).astype(dtype)

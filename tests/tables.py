"""Small tables that tests of estimators share."""

import numpy as np


def blobs(classes=3, n=90, features=4, seed=0, dtype=np.float64):
    """Samples around a point for each class, and the numbers of their classes."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = random.normal(size=(classes, features)) * 3
    return (centres[y] + random.normal(size=(n, features)) * 0.3).astype(dtype), y


def line(n=80, features=3, outputs=0, seed=0):
    """Samples and a linear function of them, (n,) or (n, outputs)."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, features))
    slopes = random.normal(size=(features, max(1, outputs)))
    y = x @ slopes
    return x, y if outputs else y[:, 0]

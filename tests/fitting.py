"""A small net to train, for tests of training."""

import numpy as np

from backprop_xp import Net


def net(**options):
    return Net((3, 8, 2), **{"loss": "mse", "reduction": "mean", "bias": True, "rng": 0} | options)


def parameters(net):
    return [p.data.copy() for p in net.parameters]


def assert_same(a, b):
    for p, q in zip(a, b, strict=True):
        np.testing.assert_array_equal(p, q)

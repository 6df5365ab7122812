"""Arrays for tests: results on the host, batches, targets for losses, and gradients against central differences."""

import numpy as np
import pytest

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


def batch_of(net, shape, seed=0):
    """x and a target like the outputs, drawn by a seed, (*shape, width) on the net's backend and of its dtype."""
    random = np.random.default_rng(seed)
    made = (random.normal(size=(*shape, width)).astype(net.dtype) for width in (net.sizes[0], net.sizes[-1]))
    return tuple(net.backend.asarray(a, net.dtype, "a batch") for a in made)


def everything(net, *args, **options):
    """The loss, the gradient in x and those of all parameters, on the host."""
    loss, grad_x = net.loss_and_grad(*args, input_grad=True, **options)
    return [host(a) for a in (loss, grad_x, *(p.grad for p in net.parameters))]


def assert_close(got, expected, dtype, epsilons=300):
    """That arrays are of this dtype and agree to so many of its epsilons, of a number or of the largest of its array."""
    rtol = epsilons * np.finfo(dtype).eps
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        scale = max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


def assert_central_differences(gradients, arrays, loss, step=1e-6):
    """That each gradient is, number by number, the slope of ``loss()`` in the array of its name, changed in place."""
    for name, array in arrays.items():
        for index in np.ndindex(array.shape):
            before = array[index]
            array[index] = before + step
            above = loss()
            array[index] = before - step
            slope = (above - loss()) / (2 * step)
            array[index] = before
            assert gradients[name][index] == pytest.approx(slope, rel=1e-5, abs=1e-6), (name, index)

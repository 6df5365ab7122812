"""Marking derivatives that were written by hand: of nets, activations, losses, or a whole ``loss_and_grad``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import check
from .activations import Activation
from .check import STEP, Report
from .graph import GraphNet
from .losses import Loss
from .model import Model
from .net import Net

#: Where an activation is tried: both signs, and large and small, but no round numbers, where kinks like to be.
POINTS = np.concatenate([np.linspace(-6.03, 6.11, 41), [-0.013, 0.017, -20.3, 20.7]])
#: Shape of the outputs with which a loss is tried.
OUTPUTS = (5, 4)
#: Errors of central differences in float64 that are allowed: truncation, relative, and rounding of numbers near 1.
RELATIVE, ABSOLUTE = 1e-6, 1e-9


def check_gradients(
    what: Any, x: Any = None, y: Any = None, *, parameters: Any = None, sample_weight: Any = None
) -> Report:
    """Compare derivatives with central differences; ``print`` the report, or ask its ``ok``.

    Args:
        what: a net, for ``net.loss_and_grad(x, y)``, see :func:`backprop_xp.check.check_gradients`; an object of your
            own whose ``loss_and_grad(x, y)`` returns the loss and fills ``.grad`` of its ``parameters``, or of its
            ``weights`` and ``biases``; an activation or a loss, objects or classes with ``__call__`` and ``grad``; a
            function ``loss_and_grad(parameters, x, y)`` that returns the loss and gradients like the parameters. What
            takes no y is called without it where that is None.
        x: of an activation numbers to try, by default some between -20 and 20; of a loss outputs (n, features), by
            default drawn; else the input.
        y: the target; of a loss by default drawn like the outputs, or as classes.
        parameters: of a function, an array, or arrays in a list or by name; they are moved in copies.
        sample_weight: of a net.

    Raises:
        TypeError: ``what`` is none of these. ValueError: a result has a wrong shape.
    """
    if isinstance(what, (Net, GraphNet)) and type(what).loss_and_grad is Model.loss_and_grad:
        return check.check_gradients(what, x, y, sample_weight)
    if sample_weight is not None:
        raise TypeError(f"sample_weight is for nets, got {_name(what)}")
    if isinstance(what, type):
        what = what()
    if parameters is not None:
        if not callable(what):
            raise TypeError(f"a function loss_and_grad(parameters, x, y) is needed, got {_name(what)}")
        return _of_function(what, parameters, x, y)
    if callable(getattr(what, "loss_and_grad", None)):
        return _of_method(what, x, y)
    if not (callable(what) and callable(getattr(what, "grad", None))):
        raise TypeError(
            "a net, an activation or a loss with __call__ and grad, or a function and its parameters can be checked, "
            f"got {_name(what)}"
        )
    return _of_activation(what, x) if _is_activation(what, y) else _of_loss(what, x, y)


def _is_activation(what: Any, y: Any) -> bool:
    """Whether it is an activation; of an object that doesn't say, if it gives an array for an array."""
    if isinstance(what, (Activation, Loss)) or y is not None or hasattr(what, "needs_target"):
        return isinstance(what, Activation)
    return np.shape(what(POINTS.copy())) == POINTS.shape


def _of_activation(activation: Any, x: Any) -> Report:
    t = np.array(POINTS if x is None else x, np.float64)
    report = Report(f"{_name(activation)} against central differences")
    value, slope = (_result(activation, call, t) for call in (activation, activation.grad))
    step = STEP * np.maximum(1, np.abs(t))
    with np.errstate(all="ignore"):
        expected = (np.asarray(activation(t + step)) - np.asarray(activation(t - step))) / (2 * step)
    size = np.maximum(1, np.abs(value)) / step * np.finfo(np.float64).eps
    _compare_each(report, "grad", slope, expected, size, t)
    if hasattr(activation, "backprop"):
        grad_z = np.linspace(-1.3, 1.7, t.size).reshape(t.shape)
        found = _result(activation, lambda a: activation.backprop(a, grad_z), t)
        report.add("backprop", found, grad_z * slope, 1e-12, 1e-14)
    return report


def _compare_each(report: Report, name: str, got: Any, expected: Any, rounding: Any, t: np.ndarray) -> None:
    """Number by number: one wrong piece of a function must not hide behind large numbers elsewhere."""
    got, allowed = np.asarray(got, np.float64), RELATIVE * np.maximum(1, np.abs(expected)) + 10 * rounding
    with np.errstate(all="ignore"):
        error = np.abs(got - expected)
        worst = int(np.argmax(np.where(np.isfinite(error), error / allowed, np.inf)))
    at = f"{name} at {t.flat[worst]:.4g}"
    tolerance = np.broadcast_to(allowed, error.shape)
    report.rows.append(check.Row(at, float(error.flat[worst]), float(tolerance.flat[worst])))


def _of_loss(loss: Any, x: Any, y: Any) -> Report:
    random = np.random.default_rng(0)
    z = np.array(random.normal(size=OUTPUTS) if x is None else x, np.float64)
    if y is None and getattr(loss, "needs_target", False):
        classes = getattr(loss, "takes_indices", False)
        y = random.integers(0, z.shape[-1], z.shape[:-1]) if classes else random.uniform(0.1, 0.9, z.shape)
    target = () if y is None else (y,)
    report = Report(f"{_name(loss)} against central differences")
    found = _result(loss, lambda a: loss.grad(a, *target), z)
    expected = check.differences(z, lambda: _number(loss, loss(z, *target)))
    report.add("grad", found, expected, RELATIVE, ABSOLUTE)
    return report


def _of_function(function: Callable[..., Any], parameters: Any, x: Any, y: Any) -> Report:
    named = _by_name(parameters)
    moved = {name: np.array(array, np.float64) for name, array in named.items()}

    def call() -> tuple[Any, Any]:
        given = _like(parameters, [array.copy() for array in moved.values()])
        result = function(given, x) if y is None else function(given, x, y)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise ValueError(f"{_name(function)} must return (loss, gradients), got {type(result).__name__}")
        return result

    _, gradients = call()
    found = _by_name(gradients)
    if found.keys() != named.keys():
        raise ValueError(
            f"{_name(function)} must return gradients like the parameters, {', '.join(named)}; got {', '.join(found)}"
        )
    report = Report(f"{_name(function)} against central differences")
    for name, array in moved.items():
        got = np.asarray(found[name], np.float64)
        if got.shape != array.shape:
            raise ValueError(f"the gradient of {name} must have its shape {array.shape}, got {got.shape}")
        expected = check.differences(array, lambda: _number(function, call()[0]))
        report.add(name, got, expected, RELATIVE, ABSOLUTE)
    return report


def _of_method(net: Any, x: Any, y: Any) -> Report:
    tensors = getattr(net, "parameters", None) or [*getattr(net, "weights", ()), *getattr(net, "biases", ())]
    before = [(tensor, tensor.data) for tensor in tensors]
    given = (x,) if y is None else (x, y)
    report = Report(f"{_name(net)} against central differences")
    try:
        for tensor, data in before:
            tensor.data = np.array(data, np.float64)
        net.loss_and_grad(*given)
        found = [None if tensor.grad is None else np.array(tensor.grad, np.float64) for tensor in tensors]
        for i, (tensor, got) in enumerate(zip(tensors, found)):
            name = getattr(tensor, "name", None) or f"parameter {i}"
            if got is None or got.shape != tensor.data.shape:
                shape = "none" if got is None else got.shape
                raise ValueError(f"the gradient of {name} must have its shape {tensor.data.shape}, got {shape}")
            expected = check.differences(tensor.data, lambda: _number(net, net.loss_and_grad(*given)))
            report.add(name, got, expected, RELATIVE, ABSOLUTE)
    finally:
        for tensor, data in before:
            tensor.data = data
    return report


def _by_name(arrays: Any) -> dict[str, Any]:
    """One array, arrays in a sequence, or by name."""
    if isinstance(arrays, Mapping):
        return {str(name): array for name, array in arrays.items()}
    if isinstance(arrays, Sequence) and not np.isscalar(arrays):
        return {f"parameter {i}": array for i, array in enumerate(arrays)}
    return {"parameter": arrays}


def _like(parameters: Any, arrays: list[np.ndarray]) -> Any:
    """These arrays as the parameters were given."""
    if isinstance(parameters, Mapping):
        return dict(zip(parameters, arrays))
    return list(arrays) if isinstance(parameters, Sequence) else arrays[0]


def _result(owner: Any, call: Callable[[np.ndarray], Any], t: np.ndarray) -> np.ndarray:
    """An array like ``t``, which must stay as it is."""
    given = t.copy()
    with np.errstate(all="ignore"):
        result = np.asarray(call(given), np.float64)
    if not np.array_equal(given, t):
        raise ValueError(f"{_name(owner)} changes the array that it is given")
    if result.shape != t.shape:
        raise ValueError(f"{_name(owner)} must return the shape {t.shape} that it is given, got {result.shape}")
    return result


def _number(owner: Any, loss: Any) -> float:
    if np.ndim(loss) != 0:
        raise ValueError(f"{_name(owner)} must return one number, the sum over all outputs, got shape {np.shape(loss)}")
    return float(loss)


def _name(what: Any) -> str:
    return getattr(what, "name", "") or getattr(what, "__name__", "") or type(what).__name__

"""Proof of gradients: against finite differences in float64, and against PyTorch's autograd.

A NaN or an infinity anywhere is a failure, never a pass: every comparison is written so that NaN fails it. No
allowed error grows with the loss or with the gradient: a wrong gradient stays wrong however large they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import frames
from .activations import ACTIVATIONS, BuiltIn
from .backend import NUMPY, on_host
from .exchange.pytorch import MODULES, as_module, to_module
from .losses import LOSSES, terms
from .model import Model
from .precision import ROUGH
from .rounding import EPS, Computed, computed, forward_error
from .tensor import Tensor

#: The step of central differences, times max(1, |w|): it balances truncation h^2 f''' / 6 and rounding eps |f| / h.
STEP = EPS["float64"] ** (1 / 3)
#: A larger error is never allowed: where rounding alone may exceed it, nothing would be proved.
MOST_ALLOWED = 1e-2


@dataclass(frozen=True)
class Row:
    """One array compared: the norm of the difference over the norm of the reference (or the report's unit)."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # false for NaN


@dataclass
class Report:
    """What was compared with what.

    ``unit`` is what one sample counts for: errors in arrays smaller than it are measured against it, since
    there rounding is as large as in arrays of its size.
    """

    title: str
    rows: list[Row] = field(default_factory=list)
    unit: float = 1.0

    @property
    def ok(self) -> bool:
        """Whether something was compared, and all of it is right."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    def add(self, name: str, got: Any, expected: Any, relative: float, absolute: float = 0.0) -> None:
        """Compare two arrays of one shape.

        Allowed are an error ``relative`` to the whole array and one of ``absolute`` in each of its numbers.
        """
        got, expected = _host(got), _host(expected)
        size = max(float(np.linalg.norm(expected)), self.unit, float(np.finfo(np.float64).tiny))
        if got.shape != expected.shape or not (np.isfinite(got).all() and np.isfinite(expected).all()):
            error = float("nan")
        else:
            error = float(np.linalg.norm(got - expected)) / size
        tolerance = min(relative + absolute * expected.size**0.5 / size, MOST_ALLOWED)
        self.rows.append(Row(name, error, tolerance))

    def __str__(self) -> str:
        lines = [self.title]
        for row in self.rows:
            verdict = "ok" if row.ok else "WRONG"
            lines.append(f"  {row.name:10} error {row.error:.1e}, allowed {row.tolerance:.1e}  {verdict}")
        return "\n".join(lines)


def numerical_gradients(
    net: Model, x: Any, y: Any = None, sample_weight: Any = None, *, training: bool = True
) -> dict[str, np.ndarray]:
    """The gradients of every parameter and of x by central differences in float64, on a copy of the net.

    (l(w + h) - l(w - h)) / 2h with h = eps^(1/3) max(1, |w|), for each number w. Dropout drops the same numbers in
    every call, those that the net's next call in training would drop.

    Returns:
        For a chain "W0", "b0", ..., "x"; for a graph the names of its parameters and of its inputs ("input NAME" for
        an input that is called like a parameter). A Tensor that stands in several places is there once, under the
        name of the first.
    """
    double = in_double(net)
    arrays = {name: np.array(_host(_host(array), net.dtype), np.float64) for name, array in _inputs(net, x).items()}

    def loss() -> float:
        options = {"sample_weight": sample_weight, "keep_signals": False, "training": training}
        return float(_undrawn(double, _given(net, arrays), y, **options))

    moved = {name: tensor.data for name, tensor in double._by_place().items()} | _named(net, arrays)
    return {name: differences(array, loss) for name, array in moved.items()}


def check_gradients(net: Model, x: Any, y: Any = None, sample_weight: Any = None, *, training: bool = True) -> Report:
    """The net's gradients, as its engine, dtype and backend give them, against :func:`numerical_gradients`.

    With the step h = eps^(1/3) (eps that of float64), three errors are allowed:

    - rounding of the loss l in the differences, eps |l| / h = eps^(2/3) |l| in each number (10 times that);
    - their truncation, h^2 / 6 times the third derivative: 100 eps^(2/3) of the gradient, which supposes third
      derivatives of at most some hundred times the gradient (times s^2, where a normalisation divides by 1 / s < 1);
    - the forward error of the net's own dtype, see :func:`~backprop_xp.rounding.forward_error`.

    In training, dropout drops the numbers that the net's next call would drop.

    Raises:
        ValueError: products are computed in a precision of :data:`backprop_xp.precision.ROUGH`.
    """
    _refuse_rough(net, x)
    loss, grad_x = _undrawn(net, x, y, sample_weight=sample_weight, input_grad=True, training=training)
    expected = numerical_gradients(net, x, y, sample_weight, training=training)
    found = _computed(net, x, y, sample_weight, training)
    relative = 100 * STEP**2 * max(one.steepness for one in found) ** 2 + forward_error(net.dtype, found)
    absolute = 10 * STEP**2 * abs(float(loss))
    report = Report(f"{net} against central differences", unit=_unit(net, x, y, sample_weight))
    for name, tensor in net._by_place().items():
        report.add(name, tensor.grad, expected[name], relative, absolute)
    for name, grad in _named(net, _inputs(net, grad_x)).items():
        report.add(name, grad, expected[name], relative, absolute)
    return report


def check_against_torch(net: Model, x: Any, y: Any = None, sample_weight: Any = None) -> Report:
    """The net's loss and gradients against PyTorch's autograd: its modules, with the parameters copied over.

    Two computations in the same dtype may differ by twice their forward error, see
    :func:`~backprop_xp.rounding.forward_error`. Dropout, for which PyTorch draws other numbers, is left out.

    Raises:
        ImportError: PyTorch is not installed. TypeError: an activation, an operation or the loss is not built in.
        ValueError: products are computed in a precision of :data:`backprop_xp.precision.ROUGH`.
    """
    try:
        import torch
    except ImportError:
        raise ImportError("this check needs PyTorch: pip install 'backprop-xp[bench]'") from None

    _refuse_rough(net, x)
    model, parameters = as_module(net, torch_activation)
    kind = getattr(torch, net.dtype.name)
    tensors = {
        name: torch.tensor(_host(array).copy(), dtype=kind, requires_grad=True)
        for name, array in _inputs(net, x).items()
    }
    theirs = _torch_loss(net, model.eval()(*(tensors[name] for name in net._plan().inputs)), y, sample_weight)
    theirs.backward()

    loss, grad_x = net.loss_and_grad(x, y, sample_weight=sample_weight, input_grad=True, training=False)
    tolerance = 2 * forward_error(net.dtype, _computed(net, x, y, sample_weight))
    report = Report(f"{net} against PyTorch", unit=_unit(net, x, y, sample_weight))
    report.add("loss", loss, theirs, tolerance)
    for name, tensor in net._by_place().items():
        report.add(name, tensor.grad, parameters[tensor].grad, tolerance)
    expected = _named(net, {name: tensor.grad for name, tensor in tensors.items()})
    for name, grad in _named(net, _inputs(net, grad_x)).items():
        report.add(name, grad, expected[name], tolerance)
    return report


def torch_activation(activation: Any) -> Any:
    """PyTorch's module for a built-in activation with these parameters; a subclass must mean what its base does."""
    if not isinstance(activation, BuiltIn) or activation.name not in MODULES:
        raise TypeError(f"PyTorch has no counterpart of the activation {type(activation).__name__}")
    if activation.name == "hard_sigmoid":
        return _hard_sigmoid()
    return to_module(ACTIVATIONS[activation.name](**{name: getattr(activation, name) for name in activation.params}))


def _hard_sigmoid() -> Any:
    import torch

    class HardSigmoid(torch.nn.Module):
        """nn.Hardsigmoid's derivative is a float 1 / 6 even in float64."""

        def forward(self, t: Any) -> Any:
            return torch.nn.functional.relu6(t + 3) / 6

    return HardSigmoid()


def torch_losses(loss: Any) -> Callable[[Any, Any], Any]:
    """PyTorch's loss of every element (of every sample for softmax cross-entropy), of (outputs, target)."""
    from torch.nn import functional

    table: dict[str, Callable[[Any, Any], Any]] = {
        "half_sum_sq": lambda z, y: 0.5 * z**2,
        "half_squared_error": lambda z, y: 0.5 * (z - y) ** 2,
        "mse": lambda z, y: functional.mse_loss(z, y, reduction="none"),
        "mae": lambda z, y: functional.l1_loss(z, y, reduction="none"),
        "huber": lambda z, y: functional.huber_loss(z, y, reduction="none", delta=loss.delta),
        "bce_with_logits": lambda z, y: functional.binary_cross_entropy_with_logits(
            z, y, z.new_tensor(loss.weight), reduction="none", pos_weight=z.new_tensor(loss.pos_weight)
        ),
        "softmax_cross_entropy": lambda z, y: functional.cross_entropy(
            z, y, reduction="none", **_torch_arguments(loss, z)
        ),
    }
    if not any(isinstance(loss, kind) for kind in LOSSES.values()) or loss.name not in table:
        raise TypeError(f"PyTorch has no counterpart of the loss {type(loss).__name__}")
    return table[loss.name]


def _torch_arguments(loss: Any, z: Any) -> dict[str, Any]:
    """The keywords of torch.nn.functional.cross_entropy for a softmax cross-entropy."""
    weight = {} if loss.weight is None else {"weight": z.new_tensor(loss.weight)}
    return loss.settings | weight


def differences(array: np.ndarray, loss: Callable[[], float]) -> np.ndarray:
    """The derivative of ``loss()`` in every number of a float64 array, which is moved in place and put back."""
    result = np.empty_like(array)
    with np.errstate(all="ignore"):
        for index in np.ndindex(array.shape):
            value = array[index]
            step = STEP * max(1.0, abs(value))
            array[index] = value + step
            above = loss()
            array[index] = value - step
            below = loss()
            array[index] = value
            result[index] = (above - below) / (2 * step)
    return result


def _refuse_rough(net: Model, x: Any) -> None:
    used = net.plan(x).precision
    if used in ROUGH:
        raise ValueError(
            f"products of this net are computed in {used}, whose rounding would hide a wrong gradient: set "
            'net.precision = "float32" for the check'
        )


def _unit(net: Model, x: Any, y: Any, sample_weight: Any) -> float:
    """What one sample of the batch counts for in the loss, at most: 1 for a plain sum, 1 / n for a mean."""
    call = net._call(x, None, False, net.loss)
    net._aim(call, y, sample_weight)
    return call.scale * (1.0 if call.weight is None else float(np.abs(_host(call.weight)).max(initial=0)))


def _computed(net: Model, x: Any, y: Any, sample_weight: Any, training: bool = True) -> list[Computed]:
    """Every layer, or node, of the call with this x, computed in float64."""
    double = in_double(net)
    inputs = {name: _host(array) for name, array in _inputs(net, x).items()}
    _undrawn(double, _given(net, inputs), y, sample_weight=sample_weight, keep_signals=True, training=training)
    return computed(double, inputs)


def _undrawn(net: Model, x: Any, y: Any, **options: Any) -> Any:
    """``net.loss_and_grad``, which leaves the net's next draw of dropout to the next call, and buffers as they are."""
    draws, buffers = net.draws, {tensor: tensor.data for tensor in net.buffers.values()}
    try:
        return net.loss_and_grad(x, y, **options)
    finally:
        net.draws = draws
        for tensor, data in buffers.items():
            tensor.data = data


def in_double(net: Any) -> Any:
    """A copy of the net in float64 on NumPy, run by the layered engine, whose tensors are copies."""
    double = copy.copy(net)
    double.backend, double.dtype, double.engine = NUMPY, np.dtype(np.float64), "layered"
    copies: dict[Tensor, Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        return copies.setdefault(tensor, copy.copy(tensor))

    for name, tensors in vars(net).items():
        if isinstance(tensors, dict) and all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            setattr(double, name, {key: copied(tensor) for key, tensor in tensors.items()})
        elif isinstance(tensors, list) and all(isinstance(tensor, Tensor) for tensor in tensors):
            setattr(double, name, [copied(tensor) for tensor in tensors])
    for tensor in (*double.parameters, *double.buffers.values()):
        tensor.data = np.array(_host(tensor.data), np.float64)
    return double


def _inputs(net: Model, x: Any) -> dict[str, Any]:
    """What a call takes, or gradients in it, by name. What isn't there is for the net to say."""
    if isinstance(x, Mapping):
        return dict(x)
    return dict.fromkeys([*net._plan().inputs][:1], x)


def _given(net: Model, arrays: dict[str, Any]) -> Any:
    """What :func:`_inputs` took apart."""
    return arrays["x"] if net._plan().layered else arrays


def _named(net: Model, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs, or gradients in them, under names that no parameter has."""
    taken = net._by_place()
    return {f"input {name}" if name in taken else name: array for name, array in arrays.items()}


def _torch_loss(net: Model, z: Any, y: Any, sample_weight: Any) -> Any:
    import torch

    loss: Any = net.loss
    target = None if y is None else torch.as_tensor(_host(y, None).copy())  # a table's may be read-only
    if target is not None:
        indices = getattr(loss, "takes_indices", False) and target.ndim < z.ndim
        target = target.to(torch.int64 if indices else z.dtype)
    losses = torch_losses(loss)(z, target)
    samples = losses.flatten(1).sum(1) if losses.ndim == 2 else losses if z.ndim == 2 else losses.sum()
    weight = torch.ones_like(samples) if sample_weight is None else torch.as_tensor(_host(sample_weight)).to(z.dtype)
    total = (samples * weight).sum()
    if net.reduction == "sum":
        return total
    if target is not None and target.ndim < z.ndim:  # a sample counts for what its class does
        ignored = target == (-100 if loss.ignore_index is None else loss.ignore_index)
        classes = torch.ones(z.shape[-1]) if loss.weight is None else z.new_tensor(loss.weight)
        weight = weight * classes[target.masked_fill(ignored, 0)] * ~ignored
    return total / weight.sum() / terms(loss, z.shape[-1])


def _host(array: Any, dtype: Any = np.float64) -> np.ndarray:
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    array = frames.as_numbers(array, "an array")
    return np.asarray(on_host(array), dtype)

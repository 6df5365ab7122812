"""The layered engine: the loop of net.py over the whole batch, one pass over memory per activation.

It runs every net on every backend, and is the reference for the other engines. Whole matrices go to BLAS, so
its results are reproducible for a fixed number of BLAS threads only.
"""

from __future__ import annotations

import numpy as np

from ..backend import Array
from ..losses import LOSSES, weighted
from ..net import backward_pass, forward_pass
from ..workspace import recycled
from .call import Call, Gradients, Signals


def refuses(call: Call) -> str:
    """Nothing: it runs every call."""
    return ""


def intermediate_bytes(call: Call) -> int:
    """Every t, z, and gradient of the whole batch."""
    return 4 * call.samples * sum(call.sizes[1:]) * call.dtype.itemsize


def forward(call: Call) -> tuple[Array, Signals | None]:
    """The net's outputs, and all its signals where the call keeps them."""
    with np.errstate(all="ignore"):
        signals = forward_pass(call.layers, call.x)
    return signals.nonlinear[-1], signals if call.keep_signals else None


def loss_and_grad(call: Call) -> Gradients:
    """The loss and the gradients of all parameters."""
    with np.errstate(all="ignore"), recycled(may_recycle(call)):
        signals = forward_pass(call.layers, call.x)
        loss, grad_output = weighted(call.loss, signals.nonlinear[-1], call.y, call.weight, call.scale)
        gradients = backward(call, signals, grad_output)
    gradients.loss = loss
    return gradients


def backward(call: Call, signals: Signals, grad_output: Array) -> Gradients:
    """The gradients of all parameters, from the gradient in the outputs and the signals of a forward pass."""
    with np.errstate(all="ignore"):
        gradients = backward_pass(call.layers, call.x, signals, grad_output, input_grad=call.input_grad)
    if not call.keep_signals:
        gradients.signals = None
    return gradients


def may_recycle(call: Call) -> bool:
    """Whether nobody holds on to intermediate arrays: they are not kept, and no code of the user's sees them."""
    user_code = any(not getattr(f, "is_formula", False) for _, _, f in call.layers)
    user_code |= call.loss is not None and type(call.loss) not in LOSSES.values()
    return not (user_code or call.keep_signals or call.input_grad)

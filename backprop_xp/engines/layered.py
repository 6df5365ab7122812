"""The layered engine: the loops of passes/article.py over the whole batch, one pass over memory per activation.

It runs every net on every backend, and is the reference for the other engines. Whole matrices go to BLAS, so
its results are reproducible for a fixed number of BLAS threads only.
"""

from __future__ import annotations

import numpy as np

from ..backend import NOTHING, Array, apart, matmul
from ..losses import compiles, weighted
from ..passes.article import Gradients, Signals, backward_pass, forward_pass, outer
from ..programs.device_layers import fused_loss, summed_together
from ..workspace import recycled
from .call import Call


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
    z = signals.nonlinear[-1]
    return (apart(z, signals.linear[-1]), signals) if call.keep_signals else (z, None)


def loss_and_grad(call: Call) -> Gradients:
    """The loss and the gradients of all parameters."""
    if call.backend.on_gpu and may_fuse(call):
        return _few_launches(call)
    with np.errstate(all="ignore"), recycled(may_recycle(call)):
        signals = forward_pass(call.layers, call.x)
        loss, grad_output = weighted(call.loss, signals.nonlinear[-1], call.y, call.weight, call.scale)
        gradients = backward(call, signals, grad_output)
    gradients.loss = loss
    return gradients


def backward(call: Call, signals: Signals, grad_output: Array) -> Gradients:
    """The gradients of all parameters, from the gradient in the outputs and the signals of a forward pass."""
    with np.errstate(all="ignore"), summed_together() if call.backend.on_gpu else NOTHING:
        gradients = backward_pass(call.layers, call.x, signals, grad_output, input_grad=call.input_grad)
    if not call.keep_signals:
        gradients.signals = None
    return gradients


def _few_launches(call: Call) -> Gradients:
    """The loss and all gradients on a GPU: one launch from the last matrix product to the gradient in its layer's t.

    The loops do the other layers, with one launch of programs/device_layers.py between two products.
    """
    *below, (weight, bias, activation) = call.layers
    with summed_together():
        signals = forward_pass(below, call.x)
        z = signals.nonlinear[-1] if below else call.x
        product = matmul(z, weight.T)
        top = fused_loss(activation, call.loss, product, bias, call.y, call.weight, call.scale, call.keep_signals)
        grad_weight = outer(top.grad_t, z)
        grad_z = matmul(top.grad_t, weight) if below or call.input_grad else None
        gradients = backward_pass(below, call.x, signals, grad_z, input_grad=call.input_grad)
    gradients.weights.append(grad_weight)
    gradients.biases.append(top.grad_bias)
    gradients.loss = top.loss
    signals.linear.append(top.t)
    signals.nonlinear.append(top.z)
    signals.grad_linear.append(top.grad_t)
    signals.grad_nonlinear.append(top.grad_z)
    gradients.signals = signals if call.keep_signals else None
    return gradients


def may_fuse(call: Call) -> bool:
    """Whether the last activation and the loss are formulas or built in, so that a kernel can hold both."""
    vectors = getattr(call.loss, "outputs", None) is not None  # the kernel doesn't know how many outputs there are
    return compiles(call.loss) and not vectors and getattr(call.layers[-1].activation, "is_formula", False)


def may_recycle(call: Call) -> bool:
    """Whether nobody holds on to intermediate arrays: they are not kept, and no code of the user's sees them."""
    user_code = any(not getattr(f, "is_formula", False) for _, _, f in call.layers)
    user_code |= call.loss is not None and not compiles(call.loss)
    return not (user_code or call.keep_signals or call.input_grad)

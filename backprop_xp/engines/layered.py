"""The layered engine: the loops of passes/ over the whole batch, one pass over memory per activation.

It runs every net on every backend, and is the reference for the other engines. On the CPU matrix products are cut for
all threads (products.py), with the same bits for any number of them, where no code of the user's may want BLAS's own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from .. import later, precision, threads
from ..arrays import apart, matmul, outer
from ..backend import NOTHING, Array
from ..formulas import is_formula
from ..losses import compiles, weighted
from ..operations import is_built_in
from ..passes import article, steps
from ..plan.call import Call, Result, Values
from ..products import shared_out
from ..workspace import recycled

if TYPE_CHECKING:
    from ..plan import cost, devices
    from ..programs import cublas, device_layers
else:
    cost = later.Module("backprop_xp.plan.cost")
    devices = later.Module("backprop_xp.plan.devices")
    cublas = later.Module("backprop_xp.programs.cublas")
    device_layers = later.Module("backprop_xp.programs.device_layers")

#: Multiply-adds from which on OpenBLAS computes a matrix times a vector on several threads, as its source says.
SMALL = 9216


def why_not(call: Call) -> str:
    """Nothing: it runs every call."""
    return ""


def intermediate_bytes(call: Call) -> int:
    """Every value and its gradient, of the whole batch."""
    return call.samples * sample_bytes(call)


def sample_bytes(call: Call) -> int:
    """The values of one sample but for the inputs, and their gradients."""
    return 2 * (sum(call.plan.widths.values()) - sum(call.plan.inputs.values())) * call.dtype.itemsize


def seconds(call: Call) -> float:
    """What a call is estimated to take on a CUDA device."""
    return cost.layered(call, devices.device(call.backend.device), products(call)[0] != "float32")


def products(call: Call) -> tuple[str, str]:
    """The precision that cuBLAS may use, where it finds that faster, and of float32 why it is no other."""
    if not call.backend.on_gpu:
        return "float32", "tensor cores are a CUDA device's"
    if call.precision not in cublas.COMPUTE:
        return "float32", "cuBLAS has nothing of that kind"
    if reason := precision.why_not_on(devices.device(call.backend.device).architecture):
        return "float32", reason
    return ("bfloat16" if call.precision == "bfloat16" else "tf32"), ""


def forward(call: Call) -> tuple[Array, Values | None]:
    """The net's outputs, and all values where the call keeps them."""
    with sharing_products(call):
        return forward_here(call)


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    if call.backend.on_gpu and call.plan.chain and may_fuse(call):
        with sharing_products(call):
            return _few_launches(call)
    with sharing_products(call):
        return loss_and_grad_here(call)


def forward_here(call: Call) -> tuple[Array, Values | None]:
    """:func:`forward` on this thread alone, or by BLAS's own."""
    with np.errstate(all="ignore"):
        values = steps.forward_pass(call)
    last = call.plan.output.name
    output = values.data[last]
    if not call.keep_signals:
        return output, None
    return apart(output, *[value for name, value in values.data.items() if name != last]), values


def loss_and_grad_here(call: Call) -> Result:
    """:func:`loss_and_grad` on this thread alone, or by BLAS's own."""
    with np.errstate(all="ignore"), recycled(may_recycle(call)):
        values = steps.forward_pass(call)
        output = values.data[call.plan.output.name]
        loss, grad_output = weighted(call.loss, output, call.y, call.weight, call.scale)
        result = _backward(call, values, grad_output)
    result.loss = loss
    return result


def backward(call: Call, values: Values, grad_output: Array) -> Result:
    """The gradients of all parameters, from the gradient in the output and the values of a forward pass."""
    with sharing_products(call):
        return _backward(call, values, grad_output)


def _backward(call: Call, values: Values, grad_output: Array) -> Result:
    # sums that wait can't be added up, as gradients in shared parameters are
    together: AbstractContextManager[None] = NOTHING
    if call.backend.on_gpu and call.plan.chain:
        together = device_layers.summed_together()
    with np.errstate(all="ignore"), together:
        parameters = steps.backward_pass(call, values, grad_output)
    inputs = {name: values.grads[name] for name in call.inputs} if call.input_grad else {}
    return Result(parameters, inputs, values=values if call.keep_signals else None)


def _few_launches(call: Call) -> Result:
    """The loss and all gradients of a chain on a GPU: one launch from the last matrix product to the gradient in t.

    The loops do the other layers, with one launch of programs/device_layers.py between two products.
    """
    *below, (weight, bias, activation) = call.layers
    with device_layers.summed_together():
        signals = article.forward_pass(below, call.x)
        z = signals.nonlinear[-1] if below else call.x
        product = matmul(z, weight.T)
        top = device_layers.fused_loss(
            activation, call.loss, product, bias, call.y, call.weight, call.scale, call.keep_signals
        )
        grad_weight = outer(top.grad_t, z)
        grad_z = matmul(top.grad_t, weight) if below or call.input_grad else None
        gradients = article.backward_pass(below, call.x, signals, grad_z, input_grad=call.input_grad)
    gradients.weights.append(grad_weight)
    gradients.biases.append(top.grad_bias)
    result = Result(gradients.parameters, dict.fromkeys(call.inputs, gradients.x) if call.input_grad else {}, top.loss)
    if call.keep_signals:
        signals.linear.append(top.t)
        signals.nonlinear.append(top.z)
        signals.grad_linear.append(top.grad_t)
        signals.grad_nonlinear.append(top.grad_z)
        result.values = Values(dict(call.inputs), grads=dict(result.inputs))
        steps.add(result.values, call.plan.steps[0], signals)
    return result


def may_fuse(call: Call) -> bool:
    """Whether the last activation and the loss are formulas or built in, so that a kernel can hold both."""
    vectors = getattr(call.loss, "outputs", None) is not None  # the kernel doesn't know how many outputs there are
    return compiles(call.loss) and not vectors and is_formula(call.layers[-1].activation)


def may_recycle(call: Call) -> bool:
    """Whether nobody holds on to intermediate arrays: they are not kept, and no code of the user's sees them."""
    return not (has_code(call) or call.keep_signals or call.input_grad)


def has_code(call: Call) -> bool:
    """Whether code of the user's takes part."""
    functions = [function for node in call.plan.nodes for function in node.form.functions]
    built_in = all(is_built_in(node.operation) for node in call.plan.nodes) and all(map(is_formula, functions))
    return not (built_in and (call.loss is None or compiles(call.loss)))


def sharing_products(call: Call) -> AbstractContextManager[None]:
    """Matrix products on all threads, where BLAS might take several; on a GPU as precise as the call wants them."""
    if call.backend.on_gpu:
        return cublas.allowing(call.precision)
    if call.samples * call.numbers < SMALL or has_code(call):
        return NOTHING
    return shared_out(threads.count(call.threads))

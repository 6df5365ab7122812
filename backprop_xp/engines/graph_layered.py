"""The layered engine for graphs: the loops of graph/passes.py over the whole batch."""

from __future__ import annotations

import numpy as np

from ..backend import Array, apart
from ..graph.call import GraphCall, GraphGradients
from ..graph.passes import Values, backward_pass, forward_pass
from ..losses import compiles, weighted
from ..operations import is_built_in
from ..workspace import recycled


def refuses(call: GraphCall) -> str:
    """Nothing: it runs every call."""
    return ""


def intermediate_bytes(call: GraphCall) -> int:
    """Every value and gradient of the whole batch."""
    return 2 * call.samples * sum(call.widths.values()) * call.dtype.itemsize


def forward(call: GraphCall) -> tuple[Array, Values | None]:
    """The output, and all values where the call keeps them."""
    with np.errstate(all="ignore"):
        values = forward_pass(call)
    output = values.data[call.output]
    if not call.keep_signals:
        return output, None
    return apart(output, *[value for name, value in values.data.items() if name != call.output]), values


def loss_and_grad(call: GraphCall) -> GraphGradients:
    """The loss and the gradients of all parameters."""
    with np.errstate(all="ignore"), recycled(may_recycle(call)):
        values = forward_pass(call)
        loss, grad_output = weighted(call.loss, values.data[call.output], call.y, call.weight, call.scale)
        gradients = backward(call, values, grad_output)
    gradients.loss = loss
    return gradients


def backward(call: GraphCall, values: Values, grad_output: Array) -> GraphGradients:
    """The gradients of all parameters, from the gradient in the output and the values of a forward pass."""
    with np.errstate(all="ignore"):
        parameters = backward_pass(call, values, grad_output)
    inputs = {name: values.grads[name] for name in call.inputs} if call.input_grad else {}
    return GraphGradients(parameters, inputs, values=values if call.keep_signals else None)


def may_recycle(call: GraphCall) -> bool:
    """Whether nobody holds on to intermediate arrays: they are not kept, and no code of the user's sees them."""
    functions = [function for node in call.nodes for function in node.form.functions]
    user_code = not all(is_built_in(node.operation) for node in call.nodes)
    user_code |= not all(getattr(function, "is_formula", False) for function in functions)
    user_code |= call.loss is not None and not compiles(call.loss)
    return not (user_code or call.keep_signals or call.input_grad)

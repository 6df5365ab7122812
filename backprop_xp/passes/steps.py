"""The two loops over the steps of a plan: forward in topological order, backward in reverse.

Chains of linear nodes and activations are steps of their own, and run by the very loops of passes/article.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backend import Array
from ..operations import Context
from ..plan.call import Call, Values, as_layers
from ..plan.plan import Node, Step
from . import article
from .article import Signals

#: Of parameters, by the node that owns them and their own name.
Gradients = dict[tuple[str, str], Array]


def forward_pass(call: Call) -> Values:
    """The value of every node."""
    values = Values(dict(call.inputs))
    for step in call.plan.steps:
        forward_step(call, values, step)
    return values


def forward_step(call: Call, values: Values, step: Step, given: Mapping[str, Any] | None = None) -> None:
    """Add the values of a step's nodes; ``given`` stands for what a node's operation would make of its context."""
    inputs = inputs_of(values, step)
    if step.node is None:
        add(values, step, article.forward_pass(as_layers(step.chain, call.parameters), inputs[0]))
        return
    node, shape = step.node, (call.samples, step.node.width)
    context = context_of(call, node)
    given = node.operation.from_context(context, *inputs) if given is None else given
    values.given[node.name] = given
    result = node.operation.forward(*inputs, **call.parameters.get(node.owner, {}), **given)
    values.data[step.output] = _checked(node, "returned", result, shape, call.dtype)
    if call.training and node.operation.changes_buffers:
        changed = node.operation.new_buffers(context, *inputs, **given)
        call.new_buffers[node.name] = _checked_buffers(call, node, changed)


def inputs_of(values: Values, step: Step) -> list[Array]:
    """What a step takes of the values before it."""
    return [values.data[name] for name in step.inputs]


def backward_pass(call: Call, values: Values, grad_output: Array) -> list[Array]:
    """The parameters' gradients, in the order of ``call.parameters``, from the gradient in the output.

    The nodes' gradients are added to ``values``. Where a value is used more than once, they are summed.
    """
    values.grads = {call.plan.output.name: grad_output}
    parameters: Gradients = {}
    for step in reversed(call.plan.steps):
        backward_step(call, values, step, parameters)
    return in_order(call, parameters)


def backward_step(call: Call, values: Values, step: Step, parameters: Gradients, result: Any = None) -> None:
    """Add a step's gradients to those in values and in parameters.

    ``result`` stands for what a node's operation would answer, the gradients in its inputs and parameters.
    """
    inputs = inputs_of(values, step)
    grad = values.grads[step.output]
    if step.node is None:
        wanted = call.input_grad or step.inputs[0] not in call.inputs
        layers, signals = as_layers(step.chain, call.parameters), values.signals[step.output]
        signals.grad_linear, signals.grad_nonlinear = [], []
        found = article.backward_pass(layers, inputs[0], signals, grad, input_grad=wanted)
        values.grads |= _named(step, signals.grad_linear, signals.grad_nonlinear)
        gradients: tuple[Array | None, ...] = (found.x,)
        for (linear, _), weight, bias in zip(step.chain, found.weights, found.biases):
            accumulate(parameters, (linear.owner, "weight"), weight)
            accumulate(parameters, (linear.owner, "bias"), bias)
    else:
        node = step.node
        given = {**call.parameters.get(node.owner, {}), **values.given[node.name]}
        result = node.operation.backward(grad, *inputs, **given) if result is None else result
        gradients, own = _split(node, result, inputs, call)
        for name, gradient in own.items():
            accumulate(parameters, (node.owner, name), gradient)
    for name, gradient in zip(step.inputs, gradients):
        if call.input_grad or name not in call.inputs:
            accumulate(values.grads, name, gradient)


def in_order(call: Call, parameters: Gradients) -> list[Array]:
    """The gradients in the order of ``call.parameters``."""
    return [parameters[owner, name] for owner, own in call.parameters.items() for name in own]


def again(call: Call, data: Mapping[str, Array]) -> Values:
    """What a forward pass that gave these values of all nodes left to the backward pass."""
    values = Values(dict(data))
    for step in call.plan.steps:
        if step.node is None:
            linear = [data[node.name] for node, _ in step.chain]
            nonlinear = [t if f is None else data[f.name] for t, (_, f) in zip(linear, step.chain)]
            values.signals[step.output] = Signals(linear, nonlinear)
        else:
            node, inputs = step.node, [data[name] for name in step.inputs]
            values.given[node.name] = node.operation.from_context(context_of(call, node), *inputs)
    return values


def add(values: Values, step: Step, signals: Signals) -> None:
    """Note the signals of a chain, by the names of its nodes too."""
    values.signals[step.output] = signals
    values.data |= _named(step, signals.linear, signals.nonlinear)
    values.grads |= _named(step, signals.grad_linear, signals.grad_nonlinear)


def accumulate(sums: dict[Any, Array], key: Any, more: Array | None) -> None:
    """Add a gradient, to a new array: the old one may be another node's too."""
    if more is not None:
        sums[key] = sums[key] + more if key in sums else more


def _named(step: Step, linear: list[Array], nonlinear: list[Array]) -> dict[str, Array]:
    """Signals of a chain, or their gradients, by the names of the nodes."""
    named = {}
    for (node, activation), t, z in zip(step.chain, linear, nonlinear):
        named[node.name] = t
        if activation is not None:
            named[activation.name] = z
    return named


def context_of(call: Call, node: Node) -> Context:
    """What an operation is told about where it runs."""
    shape, buffers = (call.samples, node.width), call.buffers.get(node.name, {})
    key = call.keys.get(node.name)
    return Context(node.name, call.backend.xp, call.dtype, shape, call.training, buffers, key, call.first)


def _checked_buffers(call: Call, node: Node, changed: Mapping[str, Array]) -> dict[str, Array]:
    """What an operation's buffers are to become, checked."""
    own = call.buffers.get(node.name, {})
    if odd := sorted(changed.keys() - own.keys()):
        raise ValueError(f"node {node.name!r} returned a buffer {odd[0]!r} that it doesn't have")
    return {
        name: _checked(node, f"returned as buffer {name!r}", array, own[name].shape, call.dtype)
        for name, array in changed.items()
    }


def _split(node: Node, result: Any, inputs: list[Array], call: Call) -> tuple[tuple[Array, ...], dict[str, Array]]:
    """What an operation's backward returned, checked: gradients in the inputs, and in its parameters by name."""
    results = result if isinstance(result, (tuple, list)) else (result,)
    own = call.parameters.get(node.owner, {})
    if len(results) != len(inputs) + len(own):
        expected = f"{len(inputs)} input(s)" + (f" and {len(own)} parameter(s)" if own else "")
        raise ValueError(f"node {node.name!r} returned {len(results)} gradient(s) for its {expected}")
    checked = [
        _checked(node, "returned a gradient of", gradient, array.shape, call.dtype)
        for gradient, array in zip(results, [*inputs, *own.values()])
    ]
    return tuple(checked[: len(inputs)]), dict(zip(own, checked[len(inputs) :]))


def _checked(node: Node, does: str, result: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    if getattr(result, "shape", None) != shape:
        got = getattr(result, "shape", type(result).__name__)
        raise ValueError(f"node {node.name!r} {does} shape {got}, expected {shape}")
    return result if result.dtype == dtype else result.astype(dtype)

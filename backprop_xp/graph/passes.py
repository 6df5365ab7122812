"""The two loops over a graph: forward in topological order, backward in reverse.

Chains of linear nodes and activations within the graph are steps of their own, and run by the very loops of
passes/article.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..activations import Identity
from ..backend import Array
from ..passes.article import Layer, Signals
from ..passes.article import backward_pass as chain_backward
from ..passes.article import forward_pass as chain_forward
from . import dropout
from .call import GraphCall
from .description import Node
from .operations import Activate, Dropout, Input, Linear, Operation

IDENTITY = Identity()


@dataclass(frozen=True)
class Step:
    """A node by itself, or a chain of linear nodes, each with the activation that follows it or None.

    Attributes:
        inputs: names of the nodes it computes from.
        output: the name of its last node.
    """

    inputs: tuple[str, ...]
    output: str
    node: Node | None = None
    chain: tuple[tuple[Node, Node | None], ...] = ()


@dataclass
class Values:
    """The value of every node by its name, the signals of the chains, and gradients after a backward pass."""

    data: dict[str, Array]
    signals: dict[str, Signals] = field(default_factory=dict)
    kept: dict[str, Array] = field(default_factory=dict)  # what dropout multiplied by
    grads: dict[str, Array] = field(default_factory=dict)


def as_steps(nodes: Sequence[Node]) -> tuple[Step, ...]:
    """The graph cut into chains and other nodes, inputs left out."""
    uses: dict[str, list[Node]] = {node.name: [] for node in nodes}
    for node in nodes:
        for name in node.inputs:
            uses[name].append(node)

    def only_user(name: str, kind: type[Operation]) -> Node | None:
        users = uses[name]
        return users[0] if len(users) == 1 and _is_plain(users[0].operation, kind) else None

    steps, done = [], set()
    for node in nodes:
        if node.name in done or isinstance(node.operation, Input):
            continue
        if not _is_plain(node.operation, Linear):
            steps.append(Step(node.inputs, node.name, node))
            continue
        chain: list[tuple[Node, Node | None]] = []
        linear: Node | None = node
        last = node.name
        while linear is not None:
            activation = only_user(linear.name, Activate)
            chain.append((linear, activation))
            last = linear.name if activation is None else activation.name
            done |= {linear.name, last}
            linear = only_user(last, Linear)
        steps.append(Step(node.inputs, last, chain=tuple(chain)))
    return tuple(steps)


def _is_plain(operation: Operation, kind: type[Operation]) -> bool:
    """Whether it is of this kind and computes as this does, in a class that may differ in other ways."""
    cls, overridden = type(operation), {"forward", "backward"} & vars(operation).keys()
    same = isinstance(operation, kind) and cls.forward is kind.forward and cls.backward is kind.backward
    return same and not overridden


def layers(step: Step, parameters: Mapping[str, Mapping[str, Array]]) -> list[Layer]:
    """A chain as the layers that a net consists of."""
    made = []
    for linear, activation in step.chain:
        own = parameters[linear.owner]
        made.append(Layer(own["weight"], own.get("bias"), activation.operation.activation if activation else IDENTITY))  # type: ignore[attr-defined]
    return made


def forward_pass(call: GraphCall) -> Values:
    """The value of every node."""
    values = Values(dict(call.inputs))
    for step in call.steps:
        inputs = [values.data[name] for name in step.inputs]
        if step.node is None:
            signals = chain_forward(layers(step, call.parameters), inputs[0])
            values.signals[step.output] = signals
            values.data |= _named(step, signals.linear, signals.nonlinear)
        else:
            node, shape = step.node, (call.samples, step.node.width)
            result = node.operation.forward(*inputs, **_extra(call, node, values.kept))
            values.data[step.output] = _checked(node, "returned", result, shape, call.dtype)
    return values


def backward_pass(call: GraphCall, values: Values, grad_output: Array) -> list[Array]:
    """The parameters' gradients, in the order of ``call.parameters``, from the gradient in the output.

    The nodes' gradients are added to ``values``. Where a value is used more than once, they are summed.
    """
    values.grads = {call.output: grad_output}
    parameters: dict[tuple[str, str], Array] = {}
    for step in reversed(call.steps):
        inputs = [values.data[name] for name in step.inputs]
        grad = values.grads[step.output]
        if step.node is None:
            wanted = call.input_grad or step.inputs[0] not in call.inputs
            chain, signals = layers(step, call.parameters), values.signals[step.output]
            signals.grad_linear, signals.grad_nonlinear = [], []
            found = chain_backward(chain, inputs[0], signals, grad, input_grad=wanted)
            values.grads |= _named(step, signals.grad_linear, signals.grad_nonlinear)
            gradients = (found.x,)
            for (linear, _), weight, bias in zip(step.chain, found.weights, found.biases):
                _accumulate(parameters, (linear.owner, "weight"), weight)
                _accumulate(parameters, (linear.owner, "bias"), bias)
        else:
            node = step.node
            result = node.operation.backward(grad, *inputs, **_extra(call, node, values.kept))
            gradients, own = _split(node, result, inputs, call)
            for name, gradient in own.items():
                _accumulate(parameters, (node.owner, name), gradient)
        for name, gradient in zip(step.inputs, gradients):
            if call.input_grad or name not in call.inputs:
                _accumulate(values.grads, name, gradient)
    return [parameters[owner, name] for owner, own in call.parameters.items() for name in own]


def _accumulate(sums: dict[Any, Array], key: Any, more: Array | None) -> None:
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


def _extra(call: GraphCall, node: Node, kept: dict[str, Array]) -> Mapping[str, Array]:
    """What the node's operation takes besides its inputs: its parameters, or what dropout multiplies by."""
    operation = node.operation
    if not isinstance(operation, Dropout):
        return call.parameters.get(node.owner, {})
    if node.name not in call.keys:
        return {}
    if node.name not in kept:
        shape = (call.samples, node.width)
        key, factor = call.keys[node.name], operation.factor
        kept[node.name] = dropout.kept(call.backend.xp, key, operation.p, factor, call.first, shape, call.dtype)
    return {"kept": kept[node.name]}


def _split(node: Node, result: Any, inputs: list[Array], call: GraphCall) -> tuple[tuple[Array, ...], dict[str, Array]]:
    """What an operation's backward returned, checked: gradients in the inputs, and in its parameters by name."""
    results = result if isinstance(result, (tuple, list)) else (result,)
    own = {} if isinstance(node.operation, Dropout) else call.parameters.get(node.owner, {})
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

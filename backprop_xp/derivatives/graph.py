"""Derivatives of a graph: the two loops over the steps of its plan, for a signal and its derivatives together.

They are those of ``passes/steps.py``, forward in topological order and backward in reverse, with stacks in the place of
signals. Chains of layers are run by ``loops.py``; every other node by the ``push`` and ``pull`` of its operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .. import scope
from ..backend import Array, Backend, module_of
from ..operations.base import called
from ..passes import steps
from ..plan.call import Call, as_layers
from ..plan.plan import Step
from . import loops
from .chain_rule import Rules


class Steps(NamedTuple):
    """A graph as it is now: a net as :class:`.differentiable.Differentiable` says.

    Attributes:
        call: a call of the graph; only its inputs are not those that signals are pushed from.
    """

    call: Call

    @property
    def backend(self) -> Backend:
        return self.call.backend

    @property
    def dtype(self) -> np.dtype:
        return self.call.dtype

    @property
    def inputs(self) -> int:
        return sum(self.call.plan.inputs.values())

    @property
    def outputs(self) -> int:
        return self.call.plan.output.width

    @property
    def widths(self) -> int:
        return sum(self.call.plan.widths.values())

    @property
    def multiply_adds(self) -> int:
        return self.call.multiply_adds

    def tiles(self, samples: int, rules: Rules) -> list[slice]:
        return loops.tiles(samples, rules, max(self.call.plan.widths.values()))

    def check(self) -> None:
        check(self.call)

    def push(self, z: Array, rules: Rules, first: int = 0) -> tuple[Array, Any]:
        self.check()
        call = self._at(z[0], first)
        return push_forward(call, dict(zip(call.inputs, self._split(z))), rules)

    def pull(self, kept: Any, grad_u: Array, rules: Rules) -> tuple[list[Array], Array]:
        gradients, grads = pull_back(self.call, kept, grad_u, rules)
        return gradients, module_of(grad_u).concatenate([grads[name] for name in self.call.plan.inputs], axis=-1)

    def pullback(self, x: Array, first: int = 0) -> tuple[Array, Callable[[Array], Array]]:
        call = replace(self._at(x, first), input_grad=True)
        values = steps.forward_pass(call)

        def pull(grad: Array) -> Array:
            steps.backward_pass(call, values, grad)
            return module_of(x).concatenate([values.grads[name] for name in call.inputs], axis=1)

        return values.data[call.plan.output.name], pull

    def _at(self, x: Array, first: int) -> Call:
        return replace(self.call, inputs=dict(zip(self.call.plan.inputs, self._split(x))), first=first)

    def _split(self, x: Array) -> list[Array]:
        ends = np.cumsum([*self.call.plan.inputs.values()])[:-1].tolist()
        return [x[..., a:b] for a, b in zip([0, *ends], [*ends, None])]


class Kept(NamedTuple):
    """What the way back needs.

    Attributes:
        inputs: the stacks that a step took, by the name of its output.
        of_step: of a chain what ``loops.push_forward`` kept, of another node what its operation takes by name.
    """

    inputs: dict[str, list[Array]]
    of_step: dict[str, Any]


def push_forward(call: Call, stacks: dict[str, Array], rules: Rules) -> tuple[Array, Kept]:
    """The stack of the output.

    Args:
        stacks: of every input, (signals, samples, features); those of all nodes are added.
    """
    kept = Kept({}, {})
    for step in call.plan.steps:
        inputs = kept.inputs[step.output] = [stacks[name] for name in step.inputs]
        if step.node is None:
            layers = as_layers(step.chain, call.parameters)
            stacks[step.output], kept.of_step[step.output] = loops.push_forward(layers, inputs[0], rules)
        else:
            node, operation = step.node, step.node.operation
            given = operation.from_context(steps.context_of(call, node), *[z[0] for z in inputs])
            given = kept.of_step[step.output] = {**call.parameters.get(node.owner, {}), **given}
            stacks[step.output] = operation.push(rules, *inputs, **given)
    return stacks[call.plan.output.name], kept


def pull_back(call: Call, kept: Kept, grad_u: Array, rules: Rules) -> tuple[list[Array], dict[str, Array]]:
    """The parameters' gradients in the order of ``call.parameters``, and every node's in its stack."""
    grads = {call.plan.output.name: grad_u}
    parameters: dict[tuple[str, str], Array] = {}
    for step in reversed(call.plan.steps):
        grad, inputs, of_step = grads[step.output], kept.inputs[step.output], kept.of_step[step.output]
        if step.node is None:
            found, below = loops.pull_back(as_layers(step.chain, call.parameters), of_step, grad, rules)
            gradients: Sequence[Array] = (below,)
            places = _places(call, step)
        else:
            result = step.node.operation.pull(rules, grad, *inputs, **of_step)
            result = result if isinstance(result, (tuple, list)) else (result,)
            gradients, found = result[: len(inputs)], list(result[len(inputs) :])
            places = [(step.node.owner, name) for name in call.parameters.get(step.node.owner, {})]
        for place, gradient in zip(places, found, strict=True):
            steps.accumulate(parameters, place, gradient)
        for name, gradient in zip(step.inputs, gradients, strict=True):
            steps.accumulate(grads, name, gradient)
    return [parameters[owner, name] for owner, own in call.parameters.items() for name in own], grads


def _places(call: Call, step: Step) -> list[tuple[str, str]]:
    """The parameters of a chain, layer by layer the weight and the bias."""
    return [(linear.owner, name) for linear, _ in step.chain for name in call.parameters[linear.owner]]


def check(call: Call) -> None:
    """That every node has derivatives in x.

    Raises:
        ValueError: a node looks at other samples of the batch. TypeError: an operation can't be derived.
    """
    for step in call.plan.steps:
        if step.node is None:
            continue
        node, operation = step.node, step.node.operation
        if not operation.has("push", "pull"):
            raise TypeError(
                f"node {node.name!r} ({called(operation)}) has no derivatives in x: "
                "its operation must define push and pull, as it does forward and backward"
            )
        if not node.form.functions:  # which must be formulas
            clause = scope.first_that_does([(f"node {node.name!r}", operation)], call.training)
            if clause:
                hint = "; with training=False it has derivatives" if "in training" in clause else ""
                raise ValueError(f"derivatives in x are of one sample for itself, and {clause}{hint}")

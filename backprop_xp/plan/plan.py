"""What a net computes, in an order in which it can be computed: the form in which every net reaches the engines."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import is_
from typing import Any

from ..activations import Identity
from ..operations import Activate, Input, Linear, Operation
from ..operations.base import called
from ..operations.built_in import PLAIN, BuiltInOperation

IDENTITY = Identity()


@dataclass(frozen=True)
class Node:
    """One node of a net.

    Attributes:
        inputs: names of the nodes it computes from.
        width: features of its value.
        owner: the name of the node whose parameters it uses, its own unless they are shared.
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    width: int
    owner: str

    @cached_property
    def form(self) -> BuiltInOperation:
        """The operation, for questions that are asked of those built in; one of the user's has nothing special."""
        return self.operation if isinstance(self.operation, BuiltInOperation) else PLAIN


#: A linear node, and the activation that follows it or None.
Pair = tuple[Node, Node | None]


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
    chain: tuple[Pair, ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """The nodes of a net, each after those it computes from, the output last.

    It holds no arrays. Operations and activations are the user's own objects: what is in them may change between calls.

    Attributes:
        nodes: all of them, inputs included.
        layered: whether the net was written as a list of layers, by which messages then name its parts.
    """

    nodes: tuple[Node, ...]
    layered: bool = False

    @property
    def output(self) -> Node:
        """The node whose value is the net's."""
        return self.nodes[-1]

    @cached_property
    def inputs(self) -> dict[str, int]:
        """The features of every input, by its name."""
        return {node.name: node.width for node in self.nodes if node.form.is_input}

    @cached_property
    def widths(self) -> dict[str, int]:
        """The features of every node's value, by its name."""
        return {node.name: node.width for node in self.nodes}

    def symbol(self, name: str) -> str:
        """What people call the value of this node: t_0 in layers, as in the article, else the node's name."""
        return f"{name[0]}_{name[1:]}" if self.layered and name not in self.inputs else name

    @cached_property
    def drawing(self) -> tuple[str, ...]:
        """The names of the nodes that draw in training."""
        return tuple(node.name for node in self.nodes if node.operation.needs_key)

    def functions(self) -> list[Any]:
        """The activations as they are now, then other operations that have settings."""
        return [*(function for form in self._activated for function in form.functions), *self._settled]

    def with_functions(self, functions: Sequence[Any]) -> Plan:
        """The plan with the activations that it had when :meth:`functions` gave this; itself if it still has them."""
        if all(map(is_, functions, self.functions())):
            return self
        nodes, activations = [], iter(functions)
        for node in self.nodes:
            if node.form.functions:
                operation: Any = copy.copy(node.operation)
                operation.activation = next(activations)
                node = replace(node, operation=operation)
            nodes.append(node)
        return Plan(tuple(nodes), self.layered)

    @cached_property
    def _activated(self) -> list[BuiltInOperation]:
        return [node.form for node in self.nodes if node.form.functions]

    @cached_property
    def _settled(self) -> list[Operation]:
        pairs = [(node.operation, node.form) for node in self.nodes]
        return [operation for operation, form in pairs if not (form.functions or form.is_input or form.is_linear)]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The nodes cut into chains and others, inputs left out."""
        return _steps(self.nodes)

    @cached_property
    def chain(self) -> tuple[Pair, ...] | None:
        """The layers, where the net is a chain of them with parameters of their own."""
        if len(self.steps) != 1:
            return None
        pairs = self.steps[0].chain
        return pairs if pairs and all(linear.owner == linear.name for linear, _ in pairs) else None

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The widths of a chain's layers, input first."""
        assert self.chain is not None
        return (*self.inputs.values(), *(linear.width for linear, _ in self.chain))

    @cached_property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Features that come in and go out of each linear node, in order."""
        linears = [linear for step in self.steps for linear, _ in step.chain]
        return tuple((self.widths[linear.inputs[0]], linear.width) for linear in linears)

    @property
    def bias(self) -> tuple[bool, ...]:
        """Whether each layer of a chain has a bias."""
        assert self.chain is not None
        return tuple(linear.operation.bias for linear, _ in self.chain)  # type: ignore[attr-defined]

    @property
    def activations(self) -> list[Any]:
        """The activation of each layer of a chain; the identity where a layer has none."""
        assert self.chain is not None
        return [IDENTITY if f is None else f.operation.activation for _, f in self.chain]  # type: ignore[attr-defined]


def of_layers(sizes: Sequence[int], bias: Sequence[bool], functions: Sequence[Any]) -> Plan:
    """The plan of layers: nodes "x", then "t0" and "z0" for the first layer's t and z, and so on.

    Args:
        functions: what makes z of t, for each layer: an activation, or an operation of one input. The operations of a
            :class:`~backprop_xp.operations.Chain` are nodes "z0.0", "z0.1", ..., and the last of them "z0".

    Raises:
        ValueError: an operation changes the width.
    """
    nodes = [Node("x", Input(sizes[0]), (), sizes[0], "x")]
    for i, (width, has, function) in enumerate(zip(sizes[1:], bias, functions)):
        nodes.append(Node(f"t{i}", Linear(width, has), (nodes[-1].name,), width, f"t{i}"))
        operation = function if isinstance(function, Operation) else Activate(function)
        for name, part, before in operation.expanded(f"z{i}", (f"t{i}",)):
            if (made := part.width(width)) != width:
                raise ValueError(f"layer {i} has {width} features, and its {called(part)} makes {made} of them")
            nodes.append(Node(name, part, before, width, name))
    return Plan(tuple(nodes), layered=True)


def _steps(nodes: Sequence[Node]) -> tuple[Step, ...]:
    uses: dict[str, list[Node]] = {node.name: [] for node in nodes}
    for node in nodes:
        for name in node.inputs:
            uses[name].append(node)

    def only_user(name: str, part: str) -> Node | None:
        users = uses[name]
        return users[0] if len(users) == 1 and users[0].form.part == part else None

    steps, done = [], set()
    for node in nodes:
        if node.name in done or node.form.is_input:
            continue
        if node.form.part != "linear":
            steps.append(Step(node.inputs, node.name, node))
            continue
        chain: list[Pair] = []
        linear: Node | None = node
        last = node.name
        while linear is not None:
            activation = only_user(linear.name, "activation")
            chain.append((linear, activation))
            last = linear.name if activation is None else activation.name
            done |= {linear.name, last}
            linear = only_user(last, "linear")
        steps.append(Step(node.inputs, last, chain=tuple(chain)))
    return tuple(steps)

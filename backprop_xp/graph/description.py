"""From a mapping of names to a checked graph in an order in which it can be computed."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from ..messages import unknown
from ..operations import Operation, as_operation
from ..operations.base import called
from ..plan.plan import Node


def as_nodes(description: Mapping[str, Any], output: str | None = None) -> tuple[Node, ...]:
    """The nodes in an order in which each comes after its inputs, the output last.

    The order depends on the graph and its names, not on the order of the mapping.

    Args:
        description: name -> (operation, name of an input, ...), or the operation alone where it has no inputs.
        output: the node whose value is the net's; by default the one that no other uses.

    Raises:
        ValueError: a cycle, a dangling name, an unused node, widths that don't fit; the message names the nodes.
    """
    parsed: dict[str, tuple[Operation, tuple[str, ...]]] = {}
    for name, entry in description.items():
        parsed_operation, given = _parsed(name, entry)
        for added, operation, inputs in parsed_operation.expanded(name, given):
            if added in parsed or (added != name and added in description):
                raise ValueError(f"two nodes are called {added!r}")
            parsed[added] = operation, inputs
    for name, (operation, inputs) in parsed.items():
        _check_inputs(name, operation, inputs, parsed)
    names = _ordered({name: inputs for name, (_, inputs) in parsed.items()})
    last = _output(output, parsed)
    _check_used(last, parsed)
    names.remove(last)

    nodes: dict[str, Node] = {}
    for name in (*names, last):
        operation, inputs = parsed[name]
        nodes[name] = Node(name, operation, inputs, _width(name, operation, [nodes[i] for i in inputs]), name)
    return tuple(_owned(node, nodes) for node in nodes.values())


def _parsed(name: Any, entry: Any) -> tuple[Operation, tuple[str, ...]]:
    if not isinstance(name, str) or not name or not name.isprintable():
        raise TypeError(f"a node's name must be a printable string, got {name!r}")
    operation, *inputs = entry if isinstance(entry, (tuple, list)) and entry else (entry,)
    for other in inputs:
        if not isinstance(other, str):
            raise TypeError(f"node {name!r}: the inputs must be names of nodes, got {other!r}")
    return as_operation(operation, f"node {name!r}: "), tuple(inputs)


def _check_inputs(name: str, operation: Operation, inputs: tuple[str, ...], known: Mapping[str, Any]) -> None:
    for other in inputs:
        if other not in known:
            raise ValueError(f"node {name!r} takes an input that is not there: {unknown('node', other, known)}")
    if (operation.arity is not None and len(inputs) != operation.arity) or (operation.arity is None and not inputs):
        expected = "at least 1" if operation.arity is None else operation.arity
        raise ValueError(f"node {name!r} ({called(operation)}) takes {expected} input(s), got {len(inputs)}")


def _ordered(inputs: Mapping[str, tuple[str, ...]]) -> list[str]:
    sorter = TopologicalSorter(inputs)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = error.args[1]
        raise ValueError(f"the nodes {' -> '.join(map(repr, cycle))} form a cycle") from None
    names: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())  # their order must not depend on the mapping's
        names += ready
        sorter.done(*ready)
    return names


def _output(output: str | None, parsed: Mapping[str, tuple[Operation, tuple[str, ...]]]) -> str:
    if output is not None:
        if output not in parsed:
            raise ValueError(f"the output is not there: {unknown('node', str(output), parsed)}")
        return output
    used = {other for _, inputs in parsed.values() for other in inputs}
    ends = [name for name in parsed if name not in used]
    if len(ends) != 1:
        found = f"the nodes {_list(ends)} are used by no other" if ends else "there is no node"
        raise ValueError(f"a graph has one output: {found}; use or remove all but one, or say output=")
    return ends[0]


def _check_used(output: str, parsed: Mapping[str, tuple[Operation, tuple[str, ...]]]) -> None:
    used: set[str] = set()
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if name not in used:
            used.add(name)
            waiting += parsed[name][1]
    if unused := [name for name in parsed if name not in used]:
        raise ValueError(f"the output {output!r} does not use {_list(unused)}")


def _width(name: str, operation: Operation, inputs: list[Node]) -> int:
    try:
        return operation.width(*(node.width for node in inputs))
    except ValueError as error:
        given = ", ".join(f"{node.name!r} has {node.width} features" for node in inputs)
        raise ValueError(f"node {name!r} ({called(operation)}): {error}; {given}") from None


def _owned(node: Node, nodes: Mapping[str, Node]) -> Node:
    """The node, with the owner of its parameters."""
    operation = node.form
    if operation.share is None:
        return node
    if operation.share not in nodes:
        raise ValueError(f"node {node.name!r} shares weights: {unknown('node', operation.share, nodes)}")
    owner = nodes[operation.share]
    if not owner.form.is_linear or owner.form.share is not None:
        raise ValueError(
            f"node {node.name!r} can't share weights of {owner.name!r}, which is no {operation.name} node with its own"
        )
    mine, theirs = _shapes(node, nodes), _shapes(owner, nodes)
    if mine != theirs:
        raise ValueError(
            f"node {node.name!r} can't share the weights of {owner.name!r}: they are {theirs}, and it needs {mine}"
        )
    return Node(node.name, operation, node.inputs, node.width, owner.name)


def _shapes(node: Node, nodes: Mapping[str, Node]) -> str:
    """The shapes of a linear node's parameters, in words."""
    shapes = node.form.shapes(tuple(nodes[name].width for name in node.inputs))
    return f"{shapes['weight']} {'with' if 'bias' in shapes else 'without'} a bias"


def _list(names: list[str]) -> str:
    return ", ".join(map(repr, names))

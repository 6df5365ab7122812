"""What there is to each kind of net in a file besides loss, dtype, reduction and arrays: its layers, or its nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .. import inputs
from ..activations import ACTIVATIONS, get_activation
from ..graph import GraphNet
from ..graph.description import as_nodes
from ..net import Net
from ..operations import Operation
from ..plan.plan import IDENTITY, Node, of_layers
from .container import ModelFileError, as_object, field, short_text
from .objects import Custom, build_object, describe_object
from .operations import build_operation, describe_operation

Description = dict[str, Any]


class Kind(NamedTuple):
    """How nets of one type are described in JSON, and built again.

    Attributes:
        describe: what to keep of a net.
        build: of a description, which may hold anything: the nodes, and a function that makes the net of the options
            that all nets have.
        place: what a parameter of a node is called in a file.
    """

    type: type
    describe: Callable[[Any], Description]
    build: Callable[[Description, Custom], tuple[Sequence[Node], Callable[..., Any]]]
    place: Callable[[str, str], str]


def _describe_chain(net: Net) -> Description:
    return {
        "sizes": list(net.sizes),
        "activations": [_describe_function(layer.activation) for layer in inputs.as_layers(net)],
        "bias": all(net.bias) if len(set(net.bias)) == 1 else list(net.bias),
    }


def _describe_function(function: Any) -> Any:
    """An activation, or the list of a layer's operations."""
    if not isinstance(function, Operation):
        return describe_object(function, ACTIVATIONS)
    return [describe_operation(step) for step in getattr(function, "steps", (function,))]


def _build_chain(description: Description, custom: Custom) -> tuple[Sequence[Node], Callable[..., Net]]:
    sizes = inputs.as_sizes(field(description, "sizes", list))
    kind = list if isinstance(description.get("bias"), list) else bool
    bias = inputs.as_flags("bias", field(description, "bias", kind), len(sizes) - 1)
    functions = [inputs.as_function(_build_function(part, custom)) for part in field(description, "activations", list)]
    one_a_layer = [*functions, *[IDENTITY] * len(sizes)]  # Net says where there are fewer, or more

    def make(**options: Any) -> Net:
        return Net(sizes, functions, bias=bias, **options)

    return of_layers(sizes, bias, one_a_layer).nodes, make


def _build_function(saved: Any, custom: Custom) -> Any:
    if not isinstance(saved, list):
        return build_object("activation", saved, ACTIVATIONS, get_activation, custom)
    return [build_operation(as_object(step, "the operations of its layers"), custom) for step in saved]


def _describe_graph(net: GraphNet) -> Description:
    """Nodes in an order in which they can be computed, the output last."""
    return {
        "nodes": [
            {"name": node.name, "inputs": list(node.inputs), "operation": describe_operation(node.operation)}
            for node in net.nodes
        ]
    }


def _build_graph(description: Description, custom: Custom) -> tuple[Sequence[Node], Callable[..., GraphNet]]:
    parts: dict[str, tuple[Any, ...]] = {}
    for part in field(description, "nodes", list):
        name = short_text(as_object(part, "its nodes"), "name")
        if name in parts:
            raise ModelFileError(f"two of its nodes are called {name!r}")
        parts[name] = (build_operation(field(part, "operation", dict), custom), *field(part, "inputs", list))
    output = next(reversed(parts), None)

    def make(**options: Any) -> GraphNet:
        return GraphNet(parts, output, **options)

    return as_nodes(parts, output), make


def _place_in_chain(node: str, name: str) -> str:
    return f"{'weights' if name == 'weight' else 'biases'}.{node[1:]}" if node[0] == "t" else f"{node}.{name}"


KINDS = {
    "chain": Kind(Net, _describe_chain, _build_chain, _place_in_chain),
    "graph": Kind(GraphNet, _describe_graph, _build_graph, "{}.{}".format),
}

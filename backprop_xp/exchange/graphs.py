"""Graph nets in files: every node with its operation and the names of its inputs.

Nodes come in an order in which they can be computed, the output last. A user's own operations are kept by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import inputs
from ..activations import ACTIVATIONS, Activation, get_activation
from ..dtypes import as_dtype
from ..graph import GraphNet
from ..graph.description import Node, as_nodes
from ..losses import LOSSES, get_loss
from ..messages import unknown
from ..model import REDUCTIONS
from ..operations import BUILT_IN, Operation, kinds
from ..operations.base import METHODS
from ..tensor import Tensor
from .container import ModelFileError, field, number, short_text
from .objects import Arrays, Custom, build_object, check_arrays, describe_object, distinct, supplied
from .sharing import expanded, host_arrays, same_tensors, shared_names

#: How a setting of an operation is read from a file, by its type: from the description, its name, and what is custom.
READ: dict[Any, Callable[[dict[str, Any], str, Custom], Any]] = {
    int: lambda saved, name, custom: field(saved, name, int),
    bool: lambda saved, name, custom: field(saved, name, bool),
    float: lambda saved, name, custom: number(saved, name),
    str | None: lambda saved, name, custom: short_text(saved, name) if name in saved else None,
    Activation: lambda saved, name, custom: build_object(name, saved.get(name), ACTIVATIONS, get_activation, custom),
}


def describe_graph(net: GraphNet) -> tuple[dict[str, Any], Arrays]:
    """All there is to a graph net, as JSON and arrays."""
    nodes: list[dict[str, Any]] = [
        {"name": node.name, "inputs": list(node.inputs), "operation": _describe(node.operation)} for node in net.nodes
    ]
    distinct("operations", [(part["operation"], node.operation) for part, node in zip(nodes, net.nodes)])
    activations = [function for node in net.nodes for function in node.form.functions]
    distinct("activations", [(describe_object(f, ACTIVATIONS), f) for f in activations])
    tensors = net.tensors | net.buffers
    shared = same_tensors(tensors)
    description = {
        "nodes": nodes,
        "loss": describe_object(get_loss(net.loss), LOSSES),
        "reduction": net.reduction,
        "dtype": net.dtype.name,
        "seed": net.seed,
        "draws": net.draws,
        **shared,
    }
    return description, host_arrays({name: tensor.data for name, tensor in tensors.items()}, shared)


def build_graph(description: dict[str, Any], arrays: Arrays, custom: Custom, backend: Any) -> GraphNet:
    """The net that :func:`describe_graph` described; from a file, which may hold anything."""
    dtype = as_dtype(short_text(description, "dtype"))
    parts: dict[str, tuple[Any, ...]] = {}
    for part in field(description, "nodes", list):
        if not isinstance(part, dict):
            raise ModelFileError("its nodes must be JSON objects")
        name = short_text(part, "name")
        if name in parts:
            raise ModelFileError(f"two of its nodes are called {name!r}")
        parts[name] = (_build(field(part, "operation", dict), custom), *field(part, "inputs", list))
    output = next(reversed(parts), None)
    nodes = as_nodes(parts, output)
    known = _shapes(nodes)
    arrays = expanded(description, arrays)
    # widths that no array in the file bears out must not lead to allocations
    own = any(type(node.operation) not in kinds().values() for node in nodes)
    check_arrays({name: a for name, a in arrays.items() if name in known or not own}, known, dtype)
    net = GraphNet(
        parts,
        output,
        build_object("loss", description.get("loss"), LOSSES, get_loss, custom),
        dtype,
        rng=0,
        backend=backend,
        init=lambda rng, shape: np.zeros(shape),
        reduction=inputs.one_of("reduction", short_text(description, "reduction"), REDUCTIONS),
    )
    tensors = net.tensors | net.buffers
    check_arrays(arrays, {name: tensor.data.shape for name, tensor in tensors.items()}, dtype)
    for name, tensor in tensors.items():
        tensor.data = net.backend.asarray(arrays[name], dtype, name)
    for name, other in shared_names(description).items():
        places: dict[str, Tensor] = net.tensors if name in net.tensors else net.buffers
        if other not in places:
            raise ModelFileError(f"{name!r} and {other!r}, a parameter and a buffer, can't share an array")
        places[name] = places[other]
    net.seed, net.draws = _count(description, "seed"), _count(description, "draws")
    return net


def _describe(operation: Operation) -> dict[str, Any]:
    overridden = METHODS & vars(operation).keys()
    kind = next((name for name, cls in kinds().items() if cls is type(operation)), None)
    if kind is None or overridden:
        name = operation.name if operation.name and operation.name not in BUILT_IN else type(operation).__name__
        return {"custom": name}
    settings = {name: getattr(operation, name) for name in kinds()[kind].settings}
    return {"name": kind} | {name: _plain(value) for name, value in settings.items() if value is not None}


def _plain(value: Any) -> Any:
    """For JSON: a number, a text, or the description of an activation."""
    return value if isinstance(value, (bool, int, float, str)) else describe_object(value, ACTIVATIONS)


def _build(saved: dict[str, Any], custom: Custom) -> Operation:
    if "custom" in saved:
        name = short_text(saved, "custom")
        operation = supplied("operation", name, custom)
        if not isinstance(operation, Operation):
            raise ModelFileError(f"custom[{name!r}] must be an Operation, got {type(operation).__name__}")
        return operation
    name = short_text(saved, "name")
    if name not in kinds():
        raise ModelFileError(unknown("operation", name, kinds()))
    made = kinds()[name]
    return made(**{key: READ[kind](saved, key, custom) for key, kind in made.settings.items()})


def _count(description: Mapping[str, Any], key: str) -> int:
    value = field(description, key, int)
    if not 0 <= value < 1 << 53:
        raise ModelFileError(f"{key!r} of its description must be from 0 to 2^53, got {value:.3g}")
    return value


def _shapes(nodes: tuple[Node, ...]) -> dict[str, tuple[int, ...]]:
    """Of the parameters and buffers of built-in operations, by name."""
    widths = {node.name: node.width for node in nodes}
    return {
        f"{node.name}.{name}": shape
        for node in nodes
        if node.owner == node.name and type(node.operation) in kinds().values()
        for name, shape in node.form.shapes(tuple(widths[other] for other in node.inputs)).items()
    }

"""Graph nets in files: every node with its operation and the names of its inputs.

Nodes come in an order in which they can be computed, the output last. A user's own operations are kept by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import inputs
from ..activations import ACTIVATIONS, get_activation
from ..dtypes import as_dtype
from ..graph import GraphNet
from ..graph.description import Node, as_nodes
from ..graph.operations import BUILT_IN, OPERATIONS, Activate, Dropout, Input, LayerNorm, Linear, Operation
from ..losses import LOSSES, get_loss
from ..messages import unknown
from ..model import REDUCTIONS
from .container import ModelFileError, field, number, short_text
from .objects import Arrays, Custom, build_object, check_arrays, describe_object, distinct, supplied
from .sharing import expanded, host_arrays, same_tensors, shared_names

METHODS = {"arity", "width", "initial", "forward", "backward"}


def describe_graph(net: GraphNet) -> tuple[dict[str, Any], Arrays]:
    """All there is to a graph net, as JSON and arrays."""
    nodes: list[dict[str, Any]] = [
        {"name": node.name, "inputs": list(node.inputs), "operation": _describe(node.operation)} for node in net.nodes
    ]
    distinct("operations", [(part["operation"], node.operation) for part, node in zip(nodes, net.nodes)])
    activations = [node.operation.activation for node in net.nodes if type(node.operation) is Activate]
    distinct("activations", [(describe_object(f, ACTIVATIONS), f) for f in activations])
    shared = same_tensors(net.tensors)
    description = {
        "nodes": nodes,
        "loss": describe_object(get_loss(net.loss), LOSSES),
        "reduction": net.reduction,
        "dtype": net.dtype.name,
        "seed": net.seed,
        "draws": net.draws,
        **shared,
    }
    return description, host_arrays({name: tensor.data for name, tensor in net.tensors.items()}, shared)


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
    own = any(type(node.operation) not in OPERATIONS for node in nodes)
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
    check_arrays(arrays, {name: tensor.data.shape for name, tensor in net.tensors.items()}, dtype)
    for name, tensor in net.tensors.items():
        tensor.data = net.backend.asarray(arrays[name], dtype, name)
    for name, other in shared_names(description).items():
        net.tensors[name] = net.tensors[other]
    net.seed, net.draws = _count(description, "seed"), _count(description, "draws")
    return net


def _describe(operation: Operation) -> dict[str, Any]:
    overridden = METHODS & vars(operation).keys()
    if type(operation) not in OPERATIONS or overridden:
        name = operation.name if operation.name and operation.name not in BUILT_IN else type(operation).__name__
        return {"custom": name}
    match operation:
        case Input():
            return {"name": "input", "features": operation.features}
        case Linear():
            shown = {"name": "linear", "features": operation.features, "bias": operation.bias}
            return shown if operation.share is None else shown | {"share": operation.share}
        case Activate():
            return {"name": "activation", "activation": describe_object(operation.activation, ACTIVATIONS)}
        case Dropout():
            return {"name": "dropout", "p": operation.p}
        case LayerNorm():
            return {"name": "layer_norm", "eps": operation.eps}
    return {"name": operation.name}


def _build(saved: dict[str, Any], custom: Custom) -> Operation:
    if "custom" in saved:
        name = short_text(saved, "custom")
        operation = supplied("operation", name, custom)
        if not isinstance(operation, Operation):
            raise ModelFileError(f"custom[{name!r}] must be an Operation, got {type(operation).__name__}")
        return operation
    match short_text(saved, "name"):
        case "input":
            return Input(field(saved, "features", int))
        case "linear":
            share = short_text(saved, "share") if "share" in saved else None
            return Linear(field(saved, "features", int), field(saved, "bias", bool), share)
        case "activation":
            built = build_object("activation", saved.get("activation"), ACTIVATIONS, get_activation, custom)
            return Activate(built)
        case "dropout":
            return Dropout(number(saved, "p"))
        case "layer_norm":
            return LayerNorm(number(saved, "eps"))
        case name if name in BUILT_IN:
            return BUILT_IN[name]()
        case name:
            raise ModelFileError(unknown("operation", name, ["input", "linear", "activation", *BUILT_IN]))


def _count(description: Mapping[str, Any], key: str) -> int:
    value = field(description, key, int)
    if not 0 <= value < 1 << 53:
        raise ModelFileError(f"{key!r} of its description must be from 0 to 2^53, got {value:.3g}")
    return value


def _shapes(nodes: tuple[Node, ...]) -> dict[str, tuple[int, ...]]:
    """Of the parameters of built-in operations, by name."""
    widths: Mapping[str, int] = {node.name: node.width for node in nodes}
    shapes: dict[str, tuple[int, ...]] = {}
    for node in nodes:
        if node.owner != node.name:
            continue
        if type(node.operation) is Linear:
            shapes[f"{node.name}.weight"] = (node.width, widths[node.inputs[0]])
            if node.operation.bias:
                shapes[f"{node.name}.bias"] = (node.width,)
        elif type(node.operation) is LayerNorm:
            shapes |= {f"{node.name}.{name}": (node.width,) for name in ("gain", "bias")}
    return shapes

"""A graph as a torch.fx.GraphModule: PyTorch's own modules for its nodes, and sums, products and torch.cat."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch

from ..activations import Cos, Sin
from ..backend import NUMPY
from ..graph import (
    Activate,
    Add,
    BatchNorm,
    Concatenate,
    Dropout,
    GraphNet,
    Input,
    LayerNorm,
    Linear,
    Multiply,
    Softmax,
)
from ..model import Model
from ..operations import is_built_in
from ..plan.plan import Node
from ..torch_link import module_paths

#: Where the module says how many features each of its inputs has, which PyTorch has no place for.
FEATURES = "features"


def graph_module(net: GraphNet, module_of: Callable[[Any], Any], parameter: Callable[[Any, Any], Any]) -> Any:
    """The net as a torch.fx.GraphModule.

    Args:
        net: whose operations are built in.
        module_of: an activation's module.
        parameter: the torch.nn.Parameter of a Tensor, given its array as well.

    Raises:
        TypeError: an operation is code.
    """
    graph = torch.fx.Graph()
    modules: dict[str, torch.nn.Module] = {}
    values: dict[str, torch.fx.Node] = {}
    made, paths = node_modules(net, module_of, parameter), module_paths(node.name for node in net.nodes)
    for node in net.nodes:
        args = [values[name] for name in node.inputs]
        name = paths[node.name].replace(".", "_")

        def called(function: Any, *args: Any, name: str = name) -> torch.fx.Node:
            return graph.create_node("call_function", function, args, name=name)

        match node.operation:
            case Input():
                value = graph.placeholder(name)
                value.target = value.name  # which Python allows
            case Add():
                value = reduce(lambda a, b: called(operator.add, a, b), args)
            case Multiply():
                value = reduce(lambda a, b: called(operator.mul, a, b), args)
            case Concatenate():
                value = called(torch.cat, args, -1)
            case _:
                path = paths[node.owner]
                modules.setdefault(path, made[node.owner])
                value = graph.create_node("call_module", path, tuple(args), name=name)
        values[node.name] = value
    graph.output(value)
    model = torch.fx.GraphModule(modules, graph, "GraphNet")
    model.meta[FEATURES] = {values[name].name: width for name, width in net.inputs.items()}
    return model


def node_modules(
    net: Model, module_of: Callable[[Any], Any], parameter: Callable[[Any, Any], Any]
) -> dict[str, torch.nn.Module]:
    """PyTorch's module for every node that has one, by the name of the node; arguments as in :func:`graph_module`."""
    arrays, buffers, tensors = net._arrays(), net._buffers(), net._tensors()
    modules: dict[str, torch.nn.Module] = {}
    for node in net._plan().nodes:
        if not is_built_in(node.operation):
            raise TypeError(f"node {node.name!r} is code, {node.operation!r}; PyTorch takes built-in operations")
        if node.owner == node.name and node.operation.arity == 1:
            own = arrays.get(node.name, {})
            parameters = {key: parameter(tensors[node.name][key], own[key]) for key in own}
            modules[node.name] = _module(node, parameters, buffers.get(node.name, {}), module_of)
    return modules


def _module(
    node: Node, own: Mapping[str, torch.nn.Parameter], buffers: Mapping[str, Any], module_of: Callable[[Any], Any]
) -> torch.nn.Module:
    operation = node.operation
    match operation:
        case Linear():
            out, features = own["weight"].shape
            linear = torch.nn.utils.skip_init(torch.nn.Linear, features, out, bias=operation.bias)
            linear.weight = own["weight"]
            if operation.bias:
                linear.bias = own["bias"]
            return linear
        case LayerNorm():
            normalisation = torch.nn.LayerNorm(node.width, operation.eps)
            normalisation.weight, normalisation.bias = own["gain"], own["bias"]
            return normalisation
        case BatchNorm():
            dtype = own["gain"].dtype
            over_batch = torch.nn.BatchNorm1d(node.width, operation.eps, operation.momentum, dtype=dtype)
            over_batch.weight, over_batch.bias = own["gain"], own["bias"]
            for name, array in buffers.items():
                getattr(over_batch, name).copy_(torch.as_tensor(NUMPY.take(array)))
            return over_batch
        case Dropout():
            return torch.nn.Dropout(operation.p)
        case Softmax():
            return torch.nn.Softmax(dim=1)
        case Activate(activation=Sin() | Cos() as wave) if wave.is_formula:
            return Wave(torch.sin if isinstance(wave, Sin) else torch.cos, wave.omega)
        case Activate():
            return module_of(operation.activation)
    raise TypeError(f"node {node.name!r} has no form in PyTorch here: {operation!r}")


class Wave(torch.nn.Module):
    """sin(omega t) or cos(omega t), of which PyTorch has functions and no modules."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], omega: float) -> None:
        super().__init__()
        self.function, self.omega = function, omega

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return self.function(t if self.omega == 1 else self.omega * t)

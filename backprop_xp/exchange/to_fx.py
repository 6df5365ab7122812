"""A graph as a torch.fx.GraphModule: PyTorch's own modules for its nodes, and sums, products and torch.cat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..activations import Cos, Sin
from ..backend import NUMPY
from ..graph import GraphNet
from ..model import Model
from ..operations import is_built_in
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
        args, name = tuple(values[name] for name in node.inputs), paths[node.name].replace(".", "_")
        value = node.form.fx(_Writer(torch, graph, name), args)
        if value is None:
            path = paths[node.owner]
            modules.setdefault(path, made[node.owner])
            value = graph.create_node("call_module", path, args, name=name)
        values[node.name] = value
    graph.output(value)
    model = torch.fx.GraphModule(modules, graph, "GraphNet")
    model.meta[FEATURES] = {values[name].name: width for name, width in net.inputs.items()}
    return model


class _Writer(NamedTuple):
    """What adds nodes to a graph, called by this name and what makes it another one."""

    torch: Any
    graph: torch.fx.Graph
    name: str

    def input(self) -> torch.fx.Node:
        """An input of the graph."""
        value = self.graph.placeholder(self.name)
        value.target = value.name  # which Python allows
        return value

    def add(self, function: Any, *args: Any) -> torch.fx.Node:
        """A call of a function."""
        return self.graph.create_node("call_function", function, args, name=self.name)


def node_modules(
    net: Model, module_of: Callable[[Any], Any], parameter: Callable[[Any, Any], Any]
) -> dict[str, torch.nn.Module]:
    """PyTorch's module for every node that has one, by the name of the node; arguments as in :func:`graph_module`."""
    arrays, buffers, tensors = net._arrays(), net._buffers(), net._tensors()
    modules: dict[str, torch.nn.Module] = {}
    maker = _Maker(torch, module_of)
    for node in net._plan().nodes:
        if not is_built_in(node.operation):
            raise TypeError(f"node {node.name!r} is code, {node.operation!r}; PyTorch takes built-in operations")
        if node.owner == node.name and node.operation.arity == 1:
            own = {key: parameter(tensors[node.name][key], array) for key, array in arrays.get(node.name, {}).items()}
            kept = {key: torch.as_tensor(NUMPY.take(array)) for key, array in buffers.get(node.name, {}).items()}
            module = node.form.module(maker, node.width, own | kept)
            if module is None:
                raise TypeError(f"node {node.name!r} has no form in PyTorch here: {node.operation!r}")
            modules[node.name] = module
    return modules


class _Maker(NamedTuple):
    """What makes modules."""

    torch: Any
    module_of: Callable[[Any], Any]

    def activation(self, activation: Any) -> torch.nn.Module:
        """An activation's module."""
        if isinstance(activation, (Sin, Cos)) and activation.is_formula:
            return Wave(torch.sin if isinstance(activation, Sin) else torch.cos, activation.omega)
        return self.module_of(activation)


class Wave(torch.nn.Module):
    """sin(omega t) or cos(omega t), of which PyTorch has functions and no modules."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], omega: float) -> None:
        super().__init__()
        self.function, self.omega = function, omega

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return self.function(t if self.omega == 1 else self.omega * t)

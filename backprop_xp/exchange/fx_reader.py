"""A graph of torch.fx as the description of a graph net, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

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
)  # fmt: skip
from ..messages import unknown
from ..tensor import Tensor
from .fx_features import features_of
from .fx_functions import ACTIVATIONS, ARGUMENTS, Call, understood
from .torch_modules import from_module, shown_module

#: What may be called.
KNOWN = [*ARGUMENTS, *ACTIVATIONS]


class Reader:
    """Reads one graph.

    Attributes:
        graph, model: the graph, and the module whose modules its nodes call.
        constants: for nodes that stand for a tensor of the module: its name there, and the tensor.
        drops: for calls of dropout as a function: whether they drop anything in training.
        features: of values, by name, where they are known.
    """

    def __init__(self, graph: torch.fx.Graph, model: torch.nn.Module | None) -> None:
        self.graph, self.model = graph, model
        self.constants: dict[torch.fx.Node, tuple[str, Any]] = {}
        self.drops: dict[torch.fx.Node, bool] = {}
        self._names: dict[torch.fx.Node, str] = {}  # what a value is called in the net
        self._description: dict[str, tuple[Any, ...]] = {}  # inputs: (None,)
        self.features: dict[str, int] = {}
        self._parameters: dict[str, torch.nn.Parameter] = {}  # by the names of the net's tensors
        self._buffers: dict[str, torch.Tensor] = {}  # by the names of the net's buffers
        self._linears: dict[str, tuple[str, int]] = {}  # what they take, and how many features
        self._joined: dict[str, list[str]] = {}  # concatenations, and what they concatenate
        self._owners: dict[tuple[int, int], str] = {}  # weight and bias -> the node that has them
        self._changed: dict[str, str] = {}  # a value that a node changes in place -> that node

    def net(self, options: Mapping[str, Any]) -> GraphNet:
        """The net; options are those of :class:`~backprop_xp.GraphNet`."""
        output = ""
        for node in self.graph.nodes:
            if node.op == "output":
                output = self._result(node)
            elif node.op == "placeholder" and node not in self.constants:
                self._input(node)
            elif node.op == "call_module":
                self._names[node] = self._module(node)
            elif node.op in ("call_function", "call_method"):
                self._names[node] = self._function(node)
        self._refuse_changes()
        self._find_features()
        for name, (operation, *_) in self._description.items():
            if operation is None:
                self._description[name] = (Input(self.features[name]),)
        kinds = {name: parameter.dtype for name, parameter in self._parameters.items()}
        if len(set(kinds.values())) > 1:
            found = ", ".join(f"{name} {dtype}" for name, dtype in kinds.items())
            raise TypeError(f"all parameters must have one dtype, got {found}")
        dtype = str(next(iter(kinds.values()), torch.get_default_dtype())).removeprefix("torch.")
        given: dict[str, Any] = {"dtype": dtype, "init": lambda rng, shape: np.zeros(shape)} | dict(options)
        net = GraphNet(self._description, output, **given)
        tensors: dict[int, Tensor] = {}
        for name, parameter in self._parameters.items():
            array = net.backend.asarray(parameter.detach().cpu().numpy(), net.dtype, name)
            net.tensors[name].data = net.backend.take(array)
            net.tensors[name] = tensors.setdefault(id(parameter), net.tensors[name])
        for name, buffer in self._buffers.items():
            net.buffers[name].data = net.backend.asarray(buffer.detach().cpu().numpy(), net.dtype, name)
        return net

    def _input(self, node: torch.fx.Node) -> None:
        if not node.users:
            if node.args:  # it has a default
                return
            raise TypeError(f"the input {node.name} is used by nothing")
        self._names[node] = self._add(str(node.target), None)

    def _result(self, node: torch.fx.Node) -> str:
        value: Any = node.args[0]
        if isinstance(value, (tuple, list)) and len(value) == 1:
            (value,) = value
        if not isinstance(value, torch.fx.Node):
            raise TypeError(f"a net has one output, an array; got {value!r}")
        return self._value(node, value)

    def _module(self, node: torch.fx.Node) -> str:
        assert self.model is not None
        name = str(node.target)
        module = self.model.get_submodule(name)
        given = [*node.args, *node.kwargs.values()]
        if len(given) != 1:
            raise TypeError(f"{shown_module(name, module)} takes one value, got {len(given)}")
        before = self._value(node, given[0])
        if getattr(module, "inplace", False):
            self._changed[before] = name
        kind = type(module)
        if kind is torch.nn.Identity:
            return before
        if kind is torch.nn.Linear:
            return self._linear(name, before, module.weight, module.bias)
        if kind is torch.nn.LayerNorm:
            return self._normalised(name, before, module.normalized_shape, module.weight, module.bias, module.eps)
        if kind is torch.nn.BatchNorm1d:
            return self._batch_norm(name, before, module)
        if kind is torch.nn.Softmax:
            return self._softmax(name, before, module.dim)
        if kind is torch.nn.Flatten:
            return self._flattened(name, before, module.start_dim, module.end_dim)
        if kind is torch.nn.Dropout:
            return self._add(name, Dropout(module.p), before)  # type: ignore[arg-type]
        return self._add(name, Activate(from_module(module, name)), before)

    def _function(self, node: torch.fx.Node) -> str:
        call = understood(node)
        if call is None:
            name = str(getattr(node.target, "__name__", node.target))
            raise TypeError(f"node {node.name} has no counterpart: {unknown('function', name, KNOWN)}")
        given = call.arguments
        if call.name == "cat":
            return self._concatenated(node, call)
        before = self._value(node, given.get("input"))
        if call.in_place:
            self._changed[before] = node.name
        match call.name:
            case "add" | "mul":
                operation = Add() if call.name == "add" else Multiply()
                return self._add(node.name, operation, before, self._value(node, given.get("other")))
            case "linear" | "layer_norm":
                (first, weight), (second, bias) = (self._parameter(node, given.get(key)) for key in ("weight", "bias"))
                # as the module whose they are; where modules share a weight, its name is that of one of them
                name = next((n.rpartition(".")[0] for n in (second, first) if n.endswith((".bias", ".weight"))), "")
                if call.name == "linear":
                    return self._linear(name or node.name, before, weight, bias)
                shape, eps = given.get("normalized_shape", ()), given.get("eps", 1e-5)
                return self._normalised(name or node.name, before, shape, weight, bias, eps)
            case "softmax" if given.get("dtype") is None:
                return self._softmax(node.name, before, given.get("dim"))
            case "flatten":
                return self._flattened(node.name, before, given.get("start_dim", 0), given.get("end_dim", -1))
            case "sin" | "cos":
                return self._add(node.name, Activate(call.name), before)
            case "dropout":
                return self._add(node.name, Dropout(given.get("p", 0.5)), before) if self.drops[node] else before
        settings = {key: value for key, value in given.items() if key != "input"}
        module = getattr(torch.nn, ACTIVATIONS[call.name])(**settings)
        return self._add(node.name, Activate(from_module(module, node.name)), before)

    def _concatenated(self, node: torch.fx.Node, call: Call) -> str:
        tensors, dim = call.arguments.get("tensors"), call.arguments.get("dim", 0)
        if not isinstance(tensors, (tuple, list)) or dim not in (1, -1):
            raise TypeError(f"node {node.name} concatenates {tensors} along {dim}, not features, which are dim=1")
        inputs = [self._value(node, tensor) for tensor in tensors]
        added = self._add(node.name, Concatenate(), *inputs)
        self._joined[added] = inputs
        return added

    def _softmax(self, name: str, before: str, dim: Any) -> str:
        if dim not in (1, -1):
            raise TypeError(f"the softmax {name} is along dim={dim}, not along the features, which are dim=1")
        return self._add(name, Softmax(), before)

    def _flattened(self, name: str, before: str, start: Any, end: Any) -> str:
        """What a net takes is flat already: (n, features)."""
        if (start, end) != (1, -1):
            raise TypeError(f"{name} flattens dimensions {start} to {end}, not those of a sample, which are 1 to -1")
        return before

    def _linear(self, name: str, before: str, weight: Any, bias: Any) -> str:
        features = len(weight)
        owner = self._owners.get((id(weight), id(bias)))
        added = self._add(name, Linear(features, bias is not None, owner), before)
        self.features[added] = features
        self._linears[added] = before, weight.shape[1]
        if owner is None:
            self._owners[id(weight), id(bias)] = added
            self._parameters[f"{added}.weight"] = weight
            if bias is not None:
                self._parameters[f"{added}.bias"] = bias
        return added

    def _normalised(self, name: str, before: str, shape: Any, weight: Any, bias: Any, eps: Any) -> str:
        if len(shape) != 1:
            raise TypeError(f"the normalisation {name} is over dimensions of {tuple(shape)}, not over the features")
        if weight is None or bias is None:
            raise TypeError(f"the normalisation {name} must have a weight and a bias, as it has here")
        added = self._add(name, LayerNorm(eps), before)
        self.features[added] = shape[0]
        self._parameters |= {f"{added}.gain": weight, f"{added}.bias": bias}
        return added

    def _batch_norm(self, name: str, before: str, module: Any) -> str:
        if not module.affine or not module.track_running_stats or module.momentum is None:
            wanted = "a weight and a bias, running statistics and a momentum"
            raise TypeError(f"{shown_module(name, module)} must have {wanted}, as it has here")
        added = self._add(name, BatchNorm(module.eps, module.momentum), before)
        self.features[added] = module.num_features
        self._parameters |= {f"{added}.gain": module.weight, f"{added}.bias": module.bias}
        self._buffers |= {f"{added}.{kept}": getattr(module, kept) for kept in BatchNorm.constants}
        return added

    def _add(self, name: str, operation: Any, *inputs: str) -> str:
        """A node of the net, called so, or with underscores if that is taken."""
        while name in self._description:
            name += "_"
        self._description[name] = (operation, *inputs)
        return name

    def _value(self, node: torch.fx.Node, value: Any) -> str:
        if isinstance(value, torch.fx.Node) and value in self._names:
            return self._names[value]
        shown = self.constants[value][0] if value in self.constants else repr(value)
        raise TypeError(f"node {node.name} takes {shown}, which is computed by no node")

    def _parameter(self, node: torch.fx.Node, value: Any) -> tuple[str, Any]:
        """The name of a weight or bias in the module, and the Parameter."""
        if value is None:
            return "", None
        name, tensor = self.constants.get(value, (str(value), None))
        if not isinstance(tensor, torch.nn.Parameter):
            raise TypeError(f"node {node.name} takes {name}, which is no Parameter of the module")
        return name, tensor

    def _refuse_changes(self) -> None:
        """A value that is changed in place must have no other use: which of the two it would get is PyTorch's."""
        for value, by in self._changed.items():
            uses = sum(inputs.count(value) for _, *inputs in self._description.values())
            if uses > 1:
                raise TypeError(f"{by} changes {value} in place, which is used elsewhere as well")

    def _find_features(self) -> None:
        """The features of every value, from those of linear nodes and normalisations."""
        others = self._description.keys() - self._linears.keys() - self._joined.keys()
        alike = [[name, *inputs] for name, (_, *inputs) in self._description.items() if name in others]
        told = dict(self._linears.values()) | self.features
        self.features = features_of(alike, self._joined, told)
        for name, (operation, *_) in self._description.items():
            if name not in self.features and operation is None:
                raise TypeError(f"how many features the input {name} has can't be told: say features={{{name!r}: ...}}")
        for name, (before, features) in self._linears.items():
            if self.features[before] != features:
                raise TypeError(f"Linear {name} takes {features} features, {before} gives {self.features[before]}")

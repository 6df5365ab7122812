"""Modules of PyTorch that are no chains as graph nets: what torch.fx traces, and what torch.export has exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..graph import GraphNet
from ..messages import sentence
from .fx_functions import Call, understood
from .fx_reader import Reader
from .to_fx import FEATURES
from .torch_modules import refuse_hooks


def from_graph(model: Any, features: Mapping[str, int], options: Mapping[str, Any]) -> GraphNet:
    """The net that computes what this module, or exported program, does; see :func:`.pytorch.from_torch`."""
    if isinstance(model, torch.export.ExportedProgram):
        reader = _exported(model)
    elif isinstance(model, torch.nn.Module):
        refuse_hooks(model)
        reader = _traced(model)
    else:
        raise TypeError(f"from_torch takes a torch.nn.Module or an ExportedProgram, got {type(model).__name__}")
    reader.features |= features
    return reader.net(options)


def _traced(model: torch.nn.Module) -> Reader:
    """A module's graph, which must be the same in training and in use, but for what dropout does."""
    used, trained = (_trace(model, training) for training in (False, True))
    reader = Reader(trained, model)
    reader.features |= getattr(model, "meta", {}).get(FEATURES, {})
    for a, b in zip(used.nodes, trained.nodes):
        calls = [understood(node) if node.op == "call_function" else None for node in (a, b)]
        if calls[0] is not None and calls[1] is not None and calls[0].name == calls[1].name == "dropout":
            if _drops(calls[0]):
                raise TypeError(f"{b.name} drops numbers outside of training as well: give it training=self.training")
            reader.drops[b] = _drops(calls[1])
        elif _text(a) != _text(b):
            raise TypeError(f"{type(model).__name__} computes {_text(b)} in training and {_text(a)} outside of it")
        if b.op == "get_attr":
            reader.constants[b] = _attribute(model, str(b.target))
    if len(used.nodes) != len(trained.nodes):
        raise TypeError(f"{type(model).__name__} computes something else in training")
    return reader


def _trace(model: torch.nn.Module, training: bool) -> torch.fx.Graph:
    modes, there = {module: module.training for module in model.modules()}, {*vars(model)}
    try:
        for module in modes:
            module.training = training
        return torch.fx.Tracer().trace(model)
    except Exception as error:  # it runs the model's code
        said = sentence(error).partition("\n")[0]
        raise TypeError(f"torch.fx can't trace {type(model).__name__}: {said}") from error
    finally:
        for name in vars(model).keys() - there:  # where the tracer puts tensors that the code makes
            delattr(model, name)
        for module, mode in modes.items():
            module.training = mode


def _exported(program: torch.export.ExportedProgram) -> Reader:
    """An exported program's graph, in which parameters are inputs."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    tensors = {**program.constants, **program.state_dict}
    reader = Reader(program.graph, None)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            reader.constants[node] = names[node.name], tensors[names[node.name]]
        elif node.op == "placeholder" and isinstance(value := node.meta.get("val"), torch.Tensor) and value.ndim:
            if isinstance(features := value.shape[-1], int):
                reader.features[node.name] = features
        elif node.op == "call_function" and (call := understood(node)) is not None and call.name == "dropout":
            reader.drops[node] = _drops(call)
    return reader


def _drops(call: Call) -> bool:
    """Whether a call of dropout drops anything."""
    return bool(call.arguments.get("training", True))


def _text(node: torch.fx.Node) -> str:
    return f"{node.name} = {getattr(node.target, '__name__', node.target)}({node.args}, {node.kwargs})"


def _attribute(model: torch.nn.Module, name: str) -> tuple[str, Any]:
    owner, _, last = name.rpartition(".")
    return name, getattr(model.get_submodule(owner), last, None)

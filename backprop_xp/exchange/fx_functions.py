"""What functions and methods of PyTorch compute, under one name each, and their arguments by name.

torch.tanh, torch.nn.functional.tanh, Tensor.tanh, Tensor.tanh_ and torch.ops.aten.tanh are all "tanh".
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from .torch_modules import MODULES

#: Arguments after the first ones that an activation's module has, by that module.
SETTINGS = {
    "LeakyReLU": ("negative_slope",), "ELU": ("alpha",), "CELU": ("alpha",), "GELU": ("approximate",),
    "Softplus": ("beta", "threshold"), "Hardtanh": ("min_val", "max_val"),
}  # fmt: skip
#: The module of every function that is an activation.
ACTIVATIONS = {
    {"LeakyReLU": "leaky_relu"}.get(module, module.lower()): module
    for module, _ in MODULES.values()
    if module != "Identity"
} | {"log_sigmoid": "LogSigmoid"}
#: The arguments of the other functions, in order.
ARGUMENTS = {
    "add": ("input", "other"),
    "mul": ("input", "other"),
    "cat": ("tensors", "dim"),
    "linear": ("input", "weight", "bias"),
    "dropout": ("input", "p", "training", "inplace"),
    "softmax": ("input", "dim", "_stacklevel", "dtype"),
    "flatten": ("input", "start_dim", "end_dim"),
    "sin": ("input",),
    "cos": ("input",),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable"),
}
ALIASES = {
    "multiply": "mul", "concat": "cat", "concatenate": "cat", "iadd": "add_", "imul": "mul_", "__add__": "add",
    "__mul__": "mul",
}  # fmt: skip
#: Arguments that don't change the value, and those that must have this value.
WITHOUT_EFFECT, FIXED = {"inplace", "cudnn_enable"}, {"alpha": 1, "scale": 1, "input_scale": 1}
#: Arguments under names that some functions have for them.
RENAMED = {"self": "input", "x": "input", "train": "training", "axis": "dim", "a": "input", "b": "other"}


@dataclass(frozen=True)
class Call:
    """A call of a function.

    Attributes:
        name: what it computes.
        arguments: by name, those that were given.
        in_place: whether it changes its input.
    """

    name: str
    arguments: dict[str, Any]
    in_place: bool


def understood(node: torch.fx.Node) -> Call | None:
    """What a node that calls a function or a method computes, None if that is nothing known here."""
    name = _name_of(node)
    if name is None:
        return None
    name, in_place = name.removesuffix("_"), name.endswith("_")
    settings = SETTINGS.get(ACTIVATIONS.get(name, ""), ())
    known = ARGUMENTS.get(name) or ("input", *settings, "inplace")
    if len(node.args) > len(known):
        return None
    given = dict(zip(known, node.args)) | {RENAMED.get(key, key): value for key, value in node.kwargs.items()}
    for key in [key for key in given if key not in known or key in WITHOUT_EFFECT]:
        value = given.pop(key)
        if key not in WITHOUT_EFFECT and (key not in FIXED or value != FIXED[key]):
            return None
        in_place |= key == "inplace" and bool(value)
    return Call(name, given, in_place)


def _name_of(node: torch.fx.Node) -> str | None:
    target: Any = node.target
    if node.op == "call_method":
        name = ALIASES.get(target, target)
        return name if name.removesuffix("_") in {*ARGUMENTS, *ACTIVATIONS} else None
    if isinstance(target, torch._ops.OpOverload):
        namespace, _, name = target._schema.name.partition("::")
        name = ALIASES.get(name, name)
        fitting = namespace == "aten" and target._overloadname in ("default", "Tensor", "int", "using_ints")
        return name if fitting and name.removesuffix("_") in {*ARGUMENTS, *ACTIVATIONS} else None
    try:
        return _functions().get(target)
    except TypeError:  # it can't be hashed
        return None


@cache
def _functions() -> dict[Any, str]:
    names = {*ARGUMENTS, *ACTIVATIONS, *ALIASES}
    found: dict[Any, str] = {}
    for module in (operator, torch, torch.nn.functional):
        for name in (*names, *(f"{name}_" for name in names)):
            if callable(function := getattr(module, name, None)):
                found[function] = ALIASES.get(name, name)
    return found

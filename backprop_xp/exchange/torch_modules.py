"""Activations as modules of PyTorch, and back. The package imports PyTorch only if asked to."""

from __future__ import annotations

from typing import Any

from ..activations import ACTIVATIONS, Activation

#: PyTorch's module, and the arguments that make it this one, for every built-in activation that PyTorch has, by name.
#: Parameters have PyTorch's names.
MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "identity": ("Identity", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "relu": ("ReLU", {}),
    "leaky_relu": ("LeakyReLU", {}),
    "elu": ("ELU", {}),
    "selu": ("SELU", {}),
    "celu": ("CELU", {}),
    "gelu": ("GELU", {"approximate": "none"}),
    "gelu_tanh": ("GELU", {"approximate": "tanh"}),
    "silu": ("SiLU", {}),
    "mish": ("Mish", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "hard_sigmoid": ("Hardsigmoid", {}),  # its derivative is a float32 1 / 6 even in float64
    "hard_tanh": ("Hardtanh", {}),
    "hard_swish": ("Hardswish", {}),
    "relu6": ("ReLU6", {}),
    "log_sigmoid": ("LogSigmoid", {}),
}
#: What else there is a counterpart of.
OTHERS = ("Linear", "LayerNorm", "BatchNorm1d", "Dropout", "Softmax", "Flatten", "Sequential")


def to_module(activation: Any) -> Any:
    """PyTorch's module for a built-in activation with these parameters."""
    torch = need_torch()
    name = getattr(activation, "name", "")
    if name not in MODULES or ACTIVATIONS.get(name) is not type(activation) or not activation.is_formula:
        shown = type(activation).__name__ + (f" {name!r}" if name else "")
        raise TypeError(f"PyTorch has no counterpart of the activation {shown}")
    module, arguments = MODULES[name]
    parameters = {parameter: getattr(activation, parameter) for parameter in activation.params}
    return getattr(torch.nn, module)(**arguments, **parameters)


def from_module(module: Any, name: str = "") -> Activation:
    """The built-in activation that this module of PyTorch's is; a TypeError that names it if it is none."""
    torch = need_torch()
    for ours, (theirs, arguments) in MODULES.items():
        same = type(module) is getattr(torch.nn, theirs)
        if same and all(getattr(module, argument) == value for argument, value in arguments.items()):
            cls = ACTIVATIONS[ours]
            return cls(**{parameter: getattr(module, parameter) for parameter in cls.params})
    known = ", ".join([*OTHERS, *dict.fromkeys(theirs for theirs, _ in MODULES.values())])
    raise TypeError(f"{shown_module(name, module)} has no counterpart here; modules that have one are {known}")


def refuse_hooks(model: Any) -> None:
    """Raise a TypeError about a module of this one that has forward hooks: nothing would run them."""
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise TypeError(f"{shown_module(name, module)} has forward hooks, which would be lost")


def shown_module(name: str, module: Any) -> str:
    """A module and its name, for messages."""
    return f"module {name} ({type(module).__name__})" if name else f"module {type(module).__name__}"


def need_torch() -> Any:
    """The module torch; an ImportError that says what to install where it is missing."""
    try:
        import torch
    except ImportError:
        raise ImportError("exchanging nets with PyTorch needs PyTorch: pip install torch") from None
    return torch

"""Chains as torch.nn.Sequential, and back: parameters are copied, outputs and gradients are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import inputs
from ..activations import ACTIVATIONS, Activation
from ..backend import NUMPY
from ..messages import unknown
from ..net import Net
from ..tensor import Tensor

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


def to_torch(net: Net) -> Any:
    """A torch.nn.Sequential of this net's layers on the CPU, with copies of its parameters; the loss stays behind.

    Layers that share a Tensor become Linear modules that share a Parameter.

    Raises:
        TypeError: an activation is not built in, or PyTorch lacks it. ImportError: PyTorch is not installed.
    """
    if not isinstance(net, Net):
        raise TypeError(f"to_torch takes a chain, a Net, got {type(net).__name__}")
    return sequential(net, to_module)


def sequential(net: Net, module_of: Callable[[Any], Any]) -> Any:
    """The torch.nn.Sequential of :func:`to_torch`, with ``module_of(activation)`` as the activations' modules."""
    torch = _torch()
    dtype = getattr(torch, net.dtype.name)
    modules: list[Any] = []
    made: dict[Tensor, Any] = {}

    def parameter(tensor: Tensor, array: Any) -> Any:
        if tensor not in made:
            made[tensor] = torch.nn.Parameter(torch.from_numpy(NUMPY.take(array)))
        return made[tensor]

    for i, (weight, bias, activation) in enumerate(inputs.as_layers(net)):
        out, width = weight.shape
        linear = torch.nn.utils.skip_init(torch.nn.Linear, width, out, bias=bias is not None, dtype=dtype)
        linear.weight = parameter(net.weights[i], weight)
        if bias is not None:
            linear.bias = parameter(net.biases[i], bias)
        modules += [linear, module_of(activation)]
    return torch.nn.Sequential(*modules)


def from_torch(model: Any, **options: Any) -> Net:
    """The net that computes what this torch.nn.Sequential of Linear modules and activations does.

    Args:
        model: on any device; a Sequential within a Sequential is a part of the chain. Linear modules that share a
            Parameter become layers that share a Tensor.
        options: of :class:`~backprop_xp.Net`: loss, reduction, backend, engine, threads.

    Raises:
        TypeError: a module has no counterpart here; the message says which. ImportError: PyTorch is not installed.
    """
    torch = _torch()
    linears: list[tuple[str, Any]] = []
    activations: list[Activation | None] = []
    for name, module in _flat(model, torch, ""):
        if type(module) is torch.nn.Linear:
            linears.append((name, module))
            activations.append(None)
        elif type(module) is not torch.nn.Identity:
            activation = from_module(module, name)
            if not activations or activations[-1] is not None:
                raise TypeError(f"{_shown(name, module)} doesn't follow a Linear, as an activation must")
            activations[-1] = activation
    _refuse_odd(linears)
    first = linears[0][1]
    weights = [linear.weight.detach().cpu() for _, linear in linears]
    drawn = iter(weights)
    net = Net(
        (first.in_features, *(len(weight) for weight in weights)),
        [activation or "identity" for activation in activations],
        bias=first.bias is not None,
        dtype=str(first.weight.dtype).removeprefix("torch."),
        init=lambda rng, shape: next(drawn).numpy().copy(),
        **options,
    )
    for tensor, (name, linear) in zip(net.biases, linears):
        tensor.data = net.backend.take(net.backend.asarray(linear.bias.detach().cpu().numpy(), net.dtype, name))
    tensors: dict[int, Tensor] = {}
    for i, (_, linear) in enumerate(linears):
        net.weights[i] = tensors.setdefault(id(linear.weight), net.weights[i])
        if net.biases:
            net.biases[i] = tensors.setdefault(id(linear.bias), net.biases[i])
    return net


def to_module(activation: Any) -> Any:
    """PyTorch's module for a built-in activation with these parameters."""
    torch = _torch()
    name = getattr(activation, "name", "")
    if name not in MODULES or ACTIVATIONS.get(name) is not type(activation) or not activation.is_formula:
        shown = type(activation).__name__ + (f" {name!r}" if name else "")
        raise TypeError(f"PyTorch has no counterpart of the activation {shown}")
    module, arguments = MODULES[name]
    parameters = {parameter: getattr(activation, parameter) for parameter in activation.params}
    return getattr(torch.nn, module)(**arguments, **parameters)


def from_module(module: Any, name: str = "") -> Activation:
    """The built-in activation that this module of PyTorch's is."""
    torch = _torch()
    for ours, (theirs, arguments) in MODULES.items():
        same = type(module) is getattr(torch.nn, theirs)
        if same and all(getattr(module, argument) == value for argument, value in arguments.items()):
            cls = ACTIVATIONS[ours]
            return cls(**{parameter: getattr(module, parameter) for parameter in cls.params})
    known = ["Linear", "Sequential", *dict.fromkeys(theirs for theirs, _ in MODULES.values())]
    raise TypeError(f"{_shown(name, module)} has no counterpart: {unknown('module', type(module).__name__, known)}")


def _flat(module: Any, torch: Any, name: str) -> Any:
    """Every module that isn't a Sequential itself, in order, with its name."""
    if type(module) is not torch.nn.Sequential and not name:
        raise TypeError(f"from_torch takes a torch.nn.Sequential, got {type(module).__name__}")
    if module._forward_hooks or module._forward_pre_hooks:
        raise TypeError(f"{_shown(name, module)} has forward hooks, which would be lost")
    if type(module) is not torch.nn.Sequential:
        yield name, module
        return
    for child, inner in module._modules.items():  # named_children() leaves out a module that comes twice
        yield from _flat(inner, torch, f"{name}.{child}" if name else child)


def _refuse_odd(linears: list[tuple[str, Any]]) -> None:
    if not linears:
        raise TypeError("a net needs a Linear module, the Sequential has none")
    first_name, first = linears[0]
    for i, (name, linear) in enumerate(linears):
        if (linear.bias is None) != (first.bias is None):
            raise TypeError(f"either every Linear has a bias or none: {first_name} and {name} differ")
        if linear.weight.dtype != first.weight.dtype:
            raise TypeError(f"all Linear modules must have one dtype: {first_name} and {name} differ")
        if i and linear.in_features != linears[i - 1][1].out_features:
            raise TypeError(
                f"Linear {name} takes {linear.in_features} features, {linears[i - 1][0]} gives "
                f"{linears[i - 1][1].out_features}"
            )


def _shown(name: str, module: Any) -> str:
    return f"module {name} ({type(module).__name__})" if name else f"module {type(module).__name__}"


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise ImportError("exchanging nets with PyTorch needs PyTorch: pip install torch") from None
    return torch

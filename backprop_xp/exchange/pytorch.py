"""Nets as modules of PyTorch, and back: parameters are copied, outputs and gradients are the same.

A chain is a torch.nn.Sequential, a graph a torch.fx.GraphModule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..activations import Activation
from ..backend import NUMPY
from ..graph import GraphNet
from ..model import Model
from ..net import Net
from ..tensor import Tensor
from .layers import as_net, is_layers
from .torch_modules import MODULES, from_module, is_activation, need_torch, refuse_hooks, to_module

__all__ = ["MODULES", "as_module", "from_module", "from_torch", "to_module", "to_torch"]


def to_torch(net: Net | GraphNet) -> Any:
    """The net as modules of PyTorch on the CPU, with copies of its parameters; the loss stays behind.

    Layers and nodes that share a Tensor become modules that share a Parameter.

    Returns:
        For a Net a torch.nn.Sequential of its layers, Linear and what follows it in turn. For a graph a
        torch.fx.GraphModule, which takes the inputs in the order of ``net.inputs``, or by their names: linear nodes,
        activations, dropout and normalisations are modules of it with the names of their nodes, so that
        ``net.tensors["h.weight"]`` is "h.weight" of its state_dict (a normalisation's gain is PyTorch's weight).
        Where PyTorch can't have a name, underscores take the place of what is wrong with it. Like every new module
        it is in training mode: after ``.eval()`` dropout drops nothing.

    Raises:
        TypeError: an activation or an operation is not built in, or PyTorch lacks it. ImportError: PyTorch is not
        installed.
    """
    if not isinstance(net, (Net, GraphNet)):
        raise TypeError(f"to_torch takes a Net or a GraphNet, got {type(net).__name__}")
    return as_module(net, to_module)[0]


def as_module(net: Model, module_of: Callable[[Any], Any]) -> tuple[Any, dict[Tensor, Any]]:
    """The module of :func:`to_torch`, with ``module_of(activation)`` as activations, and each Tensor's Parameter."""
    torch = need_torch()
    made: dict[Tensor, Any] = {}

    def parameter(tensor: Tensor, array: Any) -> Any:
        if tensor not in made:
            made[tensor] = torch.nn.Parameter(torch.from_numpy(NUMPY.take(array)))
        return made[tensor]

    from . import to_fx  # it imports PyTorch

    if isinstance(net, GraphNet):
        return to_fx.graph_module(net, module_of, parameter), made
    return torch.nn.Sequential(*to_fx.node_modules(net, module_of, parameter).values()), made


def from_torch(model: Any, *, features: Mapping[str, int] | None = None, **options: Any) -> Any:
    """The net that computes what this module of PyTorch does.

    Args:
        model: on any device, taking (n, features); a Flatten in front, which makes them of images, is left out.
            Either a Linear module, or a torch.nn.Sequential of them, each followed by activations, dropout and
            normalisations or by nothing; or anything that torch.fx can trace, or that torch.export has exported, and
            that is built of Linear, LayerNorm, BatchNorm1d, Dropout, Softmax, activations, sin and cos, sums, products
            and concatenations along the features. Modules and functions will do, as will parts within parts.
        features: how many the inputs have, by name: needed for those of which no Linear and no LayerNorm says it.
        options: of :class:`~backprop_xp.Net` or :class:`~backprop_xp.GraphNet`: loss, reduction, backend, engine,
            threads, and for a graph rng, the seed of its dropout, and dtype, the parameters' one if there are any.

    Returns:
        A :class:`~backprop_xp.Net` for the former, a :class:`~backprop_xp.GraphNet` for all others, with the inputs'
        names, and with parameters called as in the model's state_dict. What the model shares is shared: a Parameter
        in several places becomes a Tensor in several places.

    Raises:
        TypeError: something in it has no counterpart here; the message says what. ValueError: values that are added
        or multiplied aren't of one width. ImportError: PyTorch is not installed.
    """
    torch = need_torch()
    layers = _as_chain(model, torch)
    if layers is None:
        from .from_fx import from_graph  # it imports PyTorch

        graph = from_graph(model, features or {}, options)
        return as_net(graph) if type(model) is torch.nn.Sequential and is_layers(graph) else graph
    linears = [(name, linear) for name, linear, _ in layers]
    _refuse_odd(linears)
    first = linears[0][1]
    weights = [linear.weight.detach().cpu() for _, linear in linears]
    drawn = iter(weights)
    net = Net(
        (first.in_features, *(len(weight) for weight in weights)),
        [activation for _, _, activation in layers],
        bias=[linear.bias is not None for _, linear in linears],
        dtype=str(first.weight.dtype).removeprefix("torch."),
        init=lambda rng, shape: next(drawn).numpy().copy(),
        **options,
    )
    biases = [linear.bias for _, linear in linears if linear.bias is not None]
    for tensor, bias in zip(net.biases, biases):
        tensor.data = net.backend.take(net.backend.asarray(bias.detach().cpu().numpy(), net.dtype, "a bias"))
    tensors: dict[int, Tensor] = {}
    for ours, theirs in ((net.weights, [linear.weight for _, linear in linears]), (net.biases, biases)):
        ours[:] = [tensors.setdefault(id(parameter), tensor) for parameter, tensor in zip(theirs, ours)]
    return net


def _as_chain(model: Any, torch: Any) -> list[tuple[str, Any, str | Activation]] | None:
    """The name, the Linear module and the activation of every layer; None for what is no chain of them."""
    if type(model) not in (torch.nn.Sequential, torch.nn.Linear):
        return None
    refuse_hooks(model)
    layers: list[tuple[str, Any, Any]] = []
    modules = list(_flat(model, torch, ""))
    if modules and type(modules[0][1]) is torch.nn.Flatten and vars(modules[0][1]).items() >= FLAT.items():
        del modules[0]  # what a net takes is flat already
    if not modules:
        raise TypeError("a net needs a Linear module, the Sequential has none")
    for name, module in modules:
        if type(module) is torch.nn.Linear:
            layers.append((name, module, None))
        elif type(module) is not torch.nn.Identity:
            if not layers or layers[-1][2] is not None or not is_activation(module):
                return None
            layers[-1] = (*layers[-1][:2], from_module(module, name))
    return [(name, linear, activation or "identity") for name, linear, activation in layers]


#: What a Flatten has that leaves (n, features) as they are.
FLAT = {"start_dim": 1, "end_dim": -1}


def _flat(module: Any, torch: Any, name: str) -> Any:
    """Every module that isn't a Sequential itself, in order, with its name."""
    if type(module) is not torch.nn.Sequential:
        yield name, module
        return
    for child, inner in module._modules.items():  # named_children() leaves out a module that comes twice
        yield from _flat(inner, torch, f"{name}.{child}" if name else child)


def _refuse_odd(linears: list[tuple[str, Any]]) -> None:
    first_name, first = linears[0]
    for i, (name, linear) in enumerate(linears):
        if linear.weight.dtype != first.weight.dtype:
            raise TypeError(f"all Linear modules must have one dtype: {first_name} and {name} differ")
        if i and linear.in_features != linears[i - 1][1].out_features:
            raise TypeError(
                f"Linear {name} takes {linear.in_features} features, {linears[i - 1][0]} gives "
                f"{linears[i - 1][1].out_features}"
            )

"""Nets as modules of PyTorch, and back: parameters are copied, outputs and gradients are the same.

A chain is a torch.nn.Sequential, a graph a torch.fx.GraphModule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .. import later
from ..backend import NUMPY
from ..graph import GraphNet
from ..model import Model
from ..net import Net
from ..tensor import Tensor
from .layers import as_net, is_layers
from .torch_modules import MODULES, from_module, need_torch, to_module

if TYPE_CHECKING:
    from . import from_fx, to_fx
else:  # which import PyTorch
    from_fx = later.Module("backprop_xp.exchange.from_fx")
    to_fx = later.Module("backprop_xp.exchange.to_fx")

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
        features: how many the inputs have, by name: needed for inputs of which no Linear and no LayerNorm says it.
        options: of :class:`~backprop_xp.Net` or :class:`~backprop_xp.GraphNet`: loss, reduction, backend, engine,
            threads, rng, the seed of dropout, and dtype, the parameters' one if there are any.

    Returns:
        A :class:`~backprop_xp.Net` for the former, a :class:`~backprop_xp.GraphNet` for all others, with the inputs'
        names, and with parameters called as in the model's state_dict. What the model shares is shared: a Parameter
        in several places becomes a Tensor in several places.

    Raises:
        TypeError: something in it has no counterpart here; the message says what. ValueError: values that are added
        or multiplied aren't of one width. ImportError: PyTorch is not installed.
    """
    torch = need_torch()
    graph = from_fx.from_graph(model, features or {}, options)
    return as_net(graph) if type(model) in (torch.nn.Sequential, torch.nn.Linear) and is_layers(graph) else graph

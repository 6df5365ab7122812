"""A net's numbers under the names that PyTorch's modules have for them, there and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..graph import GraphNet
from ..net import Net
from ..tensor import Tensor
from .pytorch import as_module
from .torch_modules import need_torch

#: What batch normalisation counts there, and not here.
COUNTED = "num_batches_tracked"


def state_dict(net: Net | GraphNet) -> dict[str, Any]:
    """Copies of all parameters and buffers, as ``to_torch(net).state_dict()`` has them, whatever the activations.

    ``{"0.weight": ..., "0.bias": ..., "2.weight": ...}`` for a chain; by the names of its nodes for a graph.
    """
    return {key: value for key, value in _module(net)[0].state_dict().items() if not key.endswith(COUNTED)}


def load_state_dict(net: Net | GraphNet, state: Mapping[str, Any]) -> None:
    """Take over all parameters and buffers from a state_dict of PyTorch's.

    Keys are those of :func:`state_dict`; or others, of a model that names its modules differently, whose tensors are of
    the same kinds and shapes in the same order.

    Raises:
        ValueError: it is that of another net; then nothing is changed.
    """
    module, places = _module(net)
    own = {key: value for key, value in module.state_dict().items() if not key.endswith(COUNTED)}
    given = {key: value for key, value in state.items() if not key.endswith(COUNTED)}
    if own.keys() != given.keys() and _kinds(own) == _kinds(given):
        given = dict(zip(own, given.values()))
    if odd := sorted(own.keys() ^ given.keys()):
        which = "misses" if odd[0] in own else "has, and the net doesn't,"
        raise ValueError(
            f"the state_dict must hold {', '.join(own)}, or tensors like these in order: it {which} {odd[0]}"
        )
    for key, value in own.items():
        if tuple(given[key].shape) != tuple(value.shape):
            raise ValueError(f"{key} must be {tuple(value.shape)}, got {tuple(given[key].shape)}")
    arrays = {key: net.backend.asarray(value.detach().cpu().numpy(), net.dtype, key) for key, value in given.items()}
    for key, tensor in places.items():
        tensor.data = net.backend.take(arrays[key])


def _module(net: Net | GraphNet) -> tuple[Any, dict[str, Tensor]]:
    """The net's modules of PyTorch, and the Tensor of each key."""
    torch = need_torch()
    module, made = as_module(net, lambda activation: torch.nn.Identity())
    tensors = {id(parameter): tensor for tensor, parameter in made.items()}
    places = {key: tensors[id(value)] for key, value in module.named_parameters(remove_duplicate=False)}
    buffers = [key for key, _ in module.named_buffers() if not key.endswith(COUNTED)]
    return module, places | dict(zip(buffers, net.buffers.values(), strict=True))


def _kinds(state: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    return [(key.rpartition(".")[2], tuple(value.shape)) for key, value in state.items()]

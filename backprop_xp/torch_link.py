"""What a net and its PyTorch module share: the memory of their parameters, whatever is done to either.

Each parameter is there twice, as a Tensor of the net and as a Parameter of the module. Where one side has other memory
than when they were linked (by ``fit``, ``net.to`` or ``.data = ...`` there; by ``load_state_dict(assign=True)``,
``share_memory()``, ``.to(dtype)`` or in a copy here), the other takes it over, with its dtype and device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from .backend import NUMPY, Array, Backend, get_backend, owner_of
from .dtypes import DTYPES
from .graph import GraphNet
from .net import Net
from .ready import calls
from .tensor import Tensor
from .watched import Watched

AGAIN = "call as_torch(net) again"
#: What modules have beside the attributes of their class.
INSIDE = frozenset({"training", "meta", "weight", "gain", "bias"})


class Link:
    """Where the parameters of a net and of its module were when they last shared memory.

    Attributes:
        flat: where the net's arrays lie in the module's only Parameter; None where each is a Parameter.
    """

    flat: Any = None

    def __init__(self, net: Net | GraphNet, parameters: Sequence[torch.nn.Parameter] | None = None) -> None:
        self._net = net
        self._places: list[Any] = []
        #: ready calls of the net, of which it is known that their arrays are those that both sides share
        self._prepared: calls.Prepared | None = None
        #: the same on the CPU in another form: a tensor, its array, with what Watched says of it, and the parameter,
        #: its address and its strides
        self._known: list[tuple[Tensor, np.ndarray, Any, Any, bytes, Any, int, tuple[int, ...]]] = []
        if parameters is not None:
            self._take(parameters)

    def make(self) -> list[torch.nn.Parameter]:
        """The Parameter for each of the net's places; a Tensor in several places has one Parameter."""
        tensors = self._net._places()
        made = dict(zip(tensors, map(torch.nn.Parameter, self._arrays())))
        self._places = [_place(tensor.data) for tensor in tensors]
        return [made[tensor] for tensor in tensors]

    def renew(self, parameters: Sequence[Any]) -> None:
        """Let both sides share memory again, if they don't.

        Raises:
            RuntimeError: both sides have other memory than before, or they don't agree on what there is to share.
            TypeError: there are no nets of the parameters' dtype or on their device.
        """
        if self._untouched(parameters):
            return
        tensors = self._net._places()
        if pattern(tensors) != pattern(parameters):
            raise RuntimeError(f"the net's layers have other parameters, or share others, than its module's: {AGAIN}")
        ours, theirs = [_place(t.data) for t in tensors], [_place(p) for p in parameters]
        if ours == theirs:
            self._places = ours
            self._watch(parameters)
        elif theirs == self._places:
            self._give(parameters)
        elif ours == self._places:
            self._take(parameters)
        else:
            raise RuntimeError(f"both the net and its module were given other arrays since they shared them: {AGAIN}")

    def holds(self) -> bool:
        """Whether the net's arrays are where they were when both sides last shared memory."""
        return [_place(tensor.data) for tensor in self._net._places()] == self._places

    def shares(self, parameters: Sequence[torch.Tensor]) -> bool:
        """Whether these tensors are in the memory that both sides share."""
        return [_place(parameter) for parameter in parameters] == self._places

    def _untouched(self, parameters: Sequence[Any]) -> bool:
        """Whether it is plain that all is as it was: half a microsecond for each parameter."""
        if len(parameters) != len(self._known):
            return False
        for parameter, (*_, theirs, at, strides) in zip(parameters, self._known):
            if parameter is not theirs or parameter.data_ptr() != at or parameter.stride() != strides:
                return False
        prepared = self._net._prepared
        if self._prepared is not None and self._prepared is prepared and self._prepared.current(self._net):
            return True  # its arrays are the net's
        tensors = self._net._places()
        if len(tensors) != len(self._known):
            return False
        for tensor, (ours, array, shape, head, raw, *_) in zip(tensors, self._known):
            if tensor is not ours or tensor._data is not array or array.shape != shape or head.raw != raw:
                return False
        self._prepared = prepared if isinstance(prepared, calls.Prepared) and prepared.current(self._net) else None
        return True

    def _watch(self, parameters: Sequence[Any]) -> None:
        tensors = self._net._places()
        self._known, self._prepared = [], None
        for tensor, parameter in zip(tensors, parameters):
            if isinstance(tensor.data, np.ndarray):
                ours, place = Watched(tensor.data), (parameter.data_ptr(), parameter.stride())
                self._known.append((tensor, ours.array, ours.shape, ours.head, ours.raw, parameter, *place))

    def _give(self, parameters: Sequence[Any]) -> None:
        """The module takes over the net's arrays."""
        for parameter, memory in zip(parameters, self._arrays()):
            self._put(parameter, memory)
        self._places = [_place(parameter) for parameter in parameters]

    def _put(self, parameter: Any, memory: torch.Tensor) -> None:
        """Let a Parameter be in other memory."""
        grad = parameter.grad
        if grad is not None and (grad.dtype, grad.device) != (memory.dtype, memory.device):
            parameter.grad = None
        parameter.data = memory
        torch.autograd.graph.increment_version(parameter)  # a backward pass with the old memory is refused

    def _take(self, parameters: Sequence[Any]) -> None:
        """The net takes over the module's memory, dtype and device."""
        net, tensors = self._net, self._net._places()
        first = parameters[0]
        backend = backend_of(first)
        for parameter, shape in zip(parameters, shapes(net)):
            if (parameter.dtype, parameter.device) != (first.dtype, first.device) or tuple(parameter.shape) != shape:
                raise RuntimeError(
                    f"the module must have a parameter of shape {shape}, {first.dtype} on {first.device}, as its net; "
                    f"it has {tuple(parameter.shape)}, {parameter.dtype} on {parameter.device}"
                )
        dtype = np.dtype(str(first.dtype).removeprefix("torch."))
        if dtype != net.dtype or backend is not net.backend:
            for tensor in tensors:
                tensor.grad = None
            net.dtype, net.backend = dtype, backend
            net._keep(None, None)
        for tensor, parameter in zip(tensors, parameters):
            tensor.data = as_array(parameter, backend)
        self._places = [_place(parameter) for parameter in parameters]

    def _arrays(self) -> list[torch.Tensor]:
        """The net's arrays as tensors of PyTorch, checked."""
        net = self._net
        if net.backend.on_gpu and not torch.cuda.is_available():
            raise RuntimeError(
                f"the net is on {net.backend.name!r} and this PyTorch sees no CUDA device: call net.to('numpy')"
            )
        arrays = [array for own in net._arrays().values() for array in own.values()]
        with net.backend.activate():
            for tensor, array in zip(net._places(), arrays, strict=True):
                # what PyTorch can't share is replaced in the net, too: arrays that are read-only, or run backwards
                if net.backend.on_gpu:
                    tensor.data = net.backend.xp.ascontiguousarray(array)
                else:
                    tensor.data = np.require(array, requirements=["C", "W"])
        return [as_tensor(tensor.data, net.backend) for tensor in net._places()]


def module_paths(names: Iterable[str]) -> dict[str, str]:
    """Where a module of PyTorch has its modules for nodes of these names: under the same names, if it can.

    Dots separate modules within modules. Of other characters than letters and digits of ASCII an underscore remains;
    names that are taken, or that modules use for something else, get one at the end, and none has one at the front.
    """
    paths: dict[str, str] = {}
    for name in names:
        path = ".".join(map(_module_name, name.split(".")))
        while path in paths.values():
            path += "_"
        paths[name] = path
    return paths


def _module_name(part: str) -> str:
    part = re.sub(r"\W", "_", part, flags=re.ASCII).lstrip("_") or "node"
    return f"{part}_" if hasattr(torch.fx.GraphModule, part) or part in INSIDE else part


def backend_of(tensor: torch.Tensor) -> Backend:
    """The backend for tensors of this dtype and on this device; a TypeError where there is none."""
    if tensor.device.type not in ("cpu", "cuda"):
        raise TypeError(f"a net computes on 'cpu' or 'cuda', got a tensor on {tensor.device}")
    if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
        raise TypeError(f"a net computes in torch.float32 or torch.float64, got a tensor of {tensor.dtype}")
    return NUMPY if tensor.device.type == "cpu" else get_backend(f"cupy:{tensor.device.index}")


def as_array(tensor: torch.Tensor, backend: Backend) -> Array:
    """The tensor's memory as an array."""
    tensor = tensor.detach().resolve_neg()
    if tensor._is_zerotensor():  # it has no memory
        tensor = tensor.clone()
    return backend.xp.from_dlpack(tensor) if backend.on_gpu else tensor.numpy()


def as_tensor(array: Array, backend: Backend) -> torch.Tensor:
    """The array's memory as a tensor."""
    return torch.from_dlpack(array) if backend.on_gpu else torch.from_numpy(array)


def _place(data: Any) -> Any:
    """Where an array or a tensor has its numbers, and how they lie there; the same for both over the same memory."""
    if isinstance(data, torch.Tensor):
        strides = tuple(step * data.element_size() for step in data.stride())
        return data.data_ptr(), tuple(data.shape), strides, str(data.dtype).removeprefix("torch.")
    owner = owner_of(data)
    if owner == "numpy" and isinstance(data, np.ndarray):
        return data.__array_interface__["data"][0], data.shape, data.strides, data.dtype.name
    return (data.data.ptr, data.shape, data.strides, data.dtype.name) if owner == "cupy" else None


def pattern(things: Sequence[Any]) -> list[int]:
    """For each thing the number of the first place at which it stands."""
    first: dict[int, int] = {}
    return [first.setdefault(id(thing), i) for i, thing in enumerate(things)]


def shapes(net: Net | GraphNet) -> list[tuple[int, ...]]:
    """The shapes of the arrays of the net's places."""
    plan = net._plan()
    known = {node.name: node.form.shapes(tuple(plan.widths[name] for name in node.inputs)) for node in plan.nodes}
    return [
        net._shapes[f"{node}.{name}"] if name not in known[node] else known[node][name]
        for node, own in net._tensors().items()
        for name in own
    ]

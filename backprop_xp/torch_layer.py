"""A net as a layer of a PyTorch model, on the CPU and on CUDA devices. The package imports this only if asked to.

layer = as_torch(Net((64, 32, 10), ("relu", "identity"), bias=True, dtype="float32"))
model = torch.nn.Sequential(torch.nn.Linear(100, 64), layer, torch.nn.Softmax(dim=1))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .activations import get_activation
from .arrays import apart
from .backend import NOTHING, Backend
from .net import Net
from .passes.article import Layer, Signals, backward_pass, forward_pass
from .programs.device_layers import summed_together
from .torch_link import Link, as_array, as_tensor, backend_of


def as_torch(net: Net) -> NetModule:
    """A module that computes the net's outputs, whose parameters are the net's.

    They share memory, so an optimizer's step is seen by the net, and an in-place step of the net's user by the module.
    Where one side is given other memory (by ``net.fit``, by a load, a move or a conversion of the module), the other
    takes it over at the next use of the module or of its ``net``, with the dtype and the device; a copy of a module
    has a net of its own.
    """
    if not isinstance(net, Net):
        raise TypeError(f"as_torch takes a chain of layers, a Net, got {type(net).__name__}")
    return NetModule(net)


class NetModule(torch.nn.Module):
    """Takes (..., features) of the dtype and device of its parameters. The net's loss is not used.

    Attributes:
        weights, biases: Parameters that share memory with those of the net.
    """

    def __init__(self, net: Net) -> None:
        super().__init__()
        self._net, self._link = net, Link(net)
        weights, biases = self._link.make()
        self.weights, self.biases = torch.nn.ParameterList(weights), torch.nn.ParameterList(biases)
        self.register_load_state_dict_post_hook(_loaded)

    @property
    def net(self) -> Net:
        """The net, with the module's parameters."""
        self._share()
        return self._net

    def _share(self) -> list[torch.Tensor]:
        """The parameters, in memory that they share with the net."""
        parameters = [*self.weights, *self.biases]
        # others stand in for them in torch.func.functional_call and the like, for a while
        if all(type(p) is torch.nn.Parameter or isinstance(p, torch.nn.Parameter) for p in parameters):
            self._link.renew(parameters)
        return parameters

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._share()
        for parameter in (*self.weights, *self.biases):  # before anything is changed
            backend_of(fn(torch.empty(1, dtype=parameter.dtype, device=parameter.device)))
        super()._apply(fn, recurse)
        self._share()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._share()
        return super().state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        self._share()
        return {name: value for name, value in self.__dict__.items() if name != "_link"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._link = Link(self._net, [*self.weights, *self.biases])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parameters = self._share()
        like = parameters[0]
        if x.dtype != like.dtype or x.device != like.device:
            raise TypeError(
                f"x must be {like.dtype} on {like.device}, as the parameters are; got {x.dtype} on {x.device}"
            )
        if x.ndim == 0 or x.shape[-1] != like.shape[1]:
            raise ValueError(f"x must be (..., {like.shape[1]}), got shape {tuple(x.shape)}")
        flat = x if x.ndim <= 2 else x.reshape(-1, x.shape[-1])
        output = _Backprop.apply(self._net, flat, *parameters)
        return output if x.ndim <= 2 else output.reshape(*x.shape[:-1], -1)

    def extra_repr(self) -> str:
        return repr(self._net)


def _loaded(module: NetModule, keys: Any) -> None:
    """After load_state_dict, which may have put other Parameters into the module."""
    module._share()


class _Backprop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, net: Net, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        activations = [get_activation(f) for f in net.activations]
        with _backend_of(x) as backend, np.errstate(all="ignore"):
            signals = forward_pass(_layers(backend, activations, parameters), as_array(x, backend))
            result = as_tensor(apart(signals.nonlinear[-1], signals.linear[-1]), backend)
        # PyTorch notices if these are changed before the backward pass
        ctx.save_for_backward(x, *parameters)
        ctx.activations, ctx.linear, ctx.nonlinear = activations, signals.linear, signals.nonlinear
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        with _backend_of(x) as backend:
            layers, signals = _layers(backend, ctx.activations, parameters), Signals(ctx.linear, ctx.nonlinear)
            grad, x = as_array(grad_output, backend), as_array(x, backend)
            with np.errstate(all="ignore"), summed_together() if backend.on_gpu else NOTHING:
                gradients = backward_pass(layers, x, signals, grad, input_grad=ctx.needs_input_grad[1])
            arrays = [gradients.x, *gradients.weights, *(b for b in gradients.biases if b is not None)]
            results = [None if a is None else as_tensor(a, backend) for a in arrays]
        if torch.is_grad_enabled():  # with create_graph=True: these gradients may be differentiated in turn
            results = [None if r is None else _Final.apply(r, grad_output, *ctx.saved_tensors) for r in results]
        return None, *results


class _Final(torch.autograd.Function):
    """A gradient that depends on all ``sources`` and says so, and can't be differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> None:
        raise RuntimeError("a net of backprop_xp can be differentiated once: its gradients have no derivatives")


def _layers(backend: Backend, activations: list[Any], parameters: Sequence[torch.Tensor]) -> list[Layer]:
    arrays = [as_array(p, backend) for p in parameters]
    depth = len(activations)
    biases = arrays[depth:] or [None] * depth
    return [Layer(w, b, f) for w, b, f in zip(arrays, biases, activations)]


@contextmanager
def _backend_of(tensor: torch.Tensor) -> Iterator[Backend]:
    """The backend of this tensor's device, which within works on PyTorch's current stream there."""
    backend = backend_of(tensor)
    if not backend.on_gpu:
        yield backend
        return
    index = tensor.device.index
    stream = torch.cuda.current_stream(index)
    ours = backend.xp.cuda.ExternalStream(stream.cuda_stream, index)
    with torch.cuda.device(index), backend.activate(), ours:
        yield backend

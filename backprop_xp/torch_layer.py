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

from . import inputs
from .activations import get_activation
from .backend import NUMPY, Array, Backend, get_backend
from .engines import Call, Layer, Signals, layered
from .net import Net


def as_torch(net: Net) -> NetModule:
    """A module that computes the net's outputs, whose parameters are the net's.

    They share memory, so an optimizer's step is seen by the net, and an in-place step of the net's user by the module.
    Where the module is moved or converted (``.to``, ``.double``), PyTorch gives it new parameters, with which it goes
    on; the net keeps the old ones.
    """
    if not isinstance(net, Net):
        raise TypeError(f"as_torch takes a chain of layers, a Net, got {type(net).__name__}")
    return NetModule(net)


class NetModule(torch.nn.Module):
    """Takes (..., features) of the dtype and device of its parameters. The net's loss is not used."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        if net.backend.on_gpu and not torch.cuda.is_available():
            raise RuntimeError(
                f"the net is on {net.backend.name!r} and this PyTorch sees no CUDA device: call net.to('numpy')"
            )
        layers = inputs.as_layers(net)
        weights, biases = [layer.weight for layer in layers], [b for _, b, _ in layers if b is not None]
        for tensor, array in zip((*net.weights, *net.biases), (*weights, *biases), strict=True):
            with net.backend.activate():
                # what PyTorch can't share is replaced in the net, too: arrays that are read-only, or run backwards
                tensor.data = np.require(array, requirements=["C", "W"]) if not net.backend.on_gpu else array
        self.weights = torch.nn.ParameterList(torch.nn.Parameter(_tensor(w.data, net.backend)) for w in net.weights)
        self.biases = torch.nn.ParameterList(torch.nn.Parameter(_tensor(b.data, net.backend)) for b in net.biases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        like = self.weights[0]
        if x.dtype != like.dtype or x.device != like.device:
            raise TypeError(
                f"x must be {like.dtype} on {like.device}, as the parameters are; got {x.dtype} on {x.device}"
            )
        if x.ndim == 0 or x.shape[-1] != like.shape[1]:
            raise ValueError(f"x must be (..., {like.shape[1]}), got shape {tuple(x.shape)}")
        flat = x if x.ndim <= 2 else x.reshape(-1, x.shape[-1])
        output = _Backprop.apply(self.net, flat, *self.weights, *self.biases)
        return output if x.ndim <= 2 else output.reshape(*x.shape[:-1], -1)

    def extra_repr(self) -> str:
        return repr(self.net)


class _Backprop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, net: Net, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        activations = [get_activation(f) for f in net.activations]
        with _backend_of(x) as backend:
            call = _call(backend, activations, x, parameters)
            output, signals = layered.forward(call)
            assert signals is not None
            t, last = signals.linear[-1], activations[-1]
            if not getattr(last, "is_formula", False) and backend.xp.may_share_memory(output, t):
                output = output.copy()  # whose owner may change it in place, while the backward pass needs t
            result = _tensor(output, backend)
        # PyTorch notices if these are changed before the backward pass
        ctx.save_for_backward(x, *parameters)
        ctx.activations, ctx.linear, ctx.nonlinear = activations, signals.linear, signals.nonlinear
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        with _backend_of(x) as backend:
            call = _call(backend, ctx.activations, x, parameters)
            call.keep_signals, call.input_grad = False, ctx.needs_input_grad[1]
            gradients = layered.backward(call, Signals(ctx.linear, ctx.nonlinear), _array(grad_output, backend))
            arrays = [gradients.x, *gradients.weights, *(b for b in gradients.biases if b is not None)]
            results = [None if a is None else _tensor(a, backend) for a in arrays]
        if torch.is_grad_enabled():  # with create_graph=True: these gradients may be differentiated in turn
            results = [None if r is None else _Final.apply(r, grad_output, x, *parameters) for r in results]
        return None, *results


class _Final(torch.autograd.Function):
    """A gradient that depends on all ``sources`` and says so, and can't be differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> None:
        raise RuntimeError("a net of backprop_xp can be differentiated once: its gradients have no derivatives")


def _call(backend: Backend, activations: list[Any], x: torch.Tensor, parameters: Sequence[torch.Tensor]) -> Call:
    arrays = [_array(p, backend) for p in parameters]
    depth = len(activations)
    biases = arrays[depth:] or [None] * depth
    layers = [Layer(w, b, f) for w, b, f in zip(arrays, biases, activations)]
    return Call(backend, arrays[0].dtype, layers, _array(x, backend), keep_signals=True)


@contextmanager
def _backend_of(tensor: torch.Tensor) -> Iterator[Backend]:
    """The backend of this tensor's device, which within works on PyTorch's current stream there."""
    if tensor.device.type == "cpu":
        yield NUMPY
    elif tensor.device.type == "cuda":
        index = tensor.device.index
        backend, stream = get_backend(f"cupy:{index}"), torch.cuda.current_stream(index)
        ours = backend.xp.cuda.ExternalStream(stream.cuda_stream, index)
        with torch.cuda.device(index), backend.activate(), ours:
            yield backend
    else:
        raise TypeError(f"a net computes on 'cpu' or 'cuda', got a tensor on {tensor.device}")


def _array(tensor: torch.Tensor, backend: Backend) -> Array:
    """The tensor's memory as an array."""
    return backend.xp.from_dlpack(tensor.detach()) if backend.on_gpu else tensor.detach().numpy()


def _tensor(array: Array, backend: Backend) -> torch.Tensor:
    """The array's memory as a tensor."""
    return torch.from_dlpack(array) if backend.on_gpu else torch.from_numpy(array)

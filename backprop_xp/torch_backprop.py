"""A net as one function of tensors that PyTorch differentiates, transforms and compiles."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .backend import Backend
from .torch_calls import Calls
from .torch_link import backend_of


def outputs(calls: Calls, inputs: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """The outputs (n, out) from every input (n, features)."""
    return Backprop.apply(calls, torch.is_grad_enabled(), len(inputs), *inputs, *parameters)


def outputs_plainly(calls: Calls, inputs: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """The outputs by PyTorch's own operations, in the parameters' precision whatever autocast says."""
    device = inputs[0].device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return calls.plainly(backend_of(inputs[0]), inputs, parameters)
    return calls.plainly(backend_of(inputs[0]), inputs, parameters)


def is_transformed() -> bool:
    """Whether this runs in one of torch.func's transforms, in which tensors have no numbers of their own."""
    return torch._C._are_functorch_transforms_active()


class Backprop(torch.autograd.Function):
    """The outputs of a net. With ``create_graph=True`` its gradients are those of PyTorch's own operations."""

    @staticmethod
    def forward(ctx: Any, calls: Calls, recorded: bool, inputs: int, *tensors: torch.Tensor) -> torch.Tensor:
        given = tensors[:inputs], tensors[inputs:]
        result = calls.up(*given) if recorded and any(ctx.needs_input_grad) else None
        if result is None:
            with _backend_of(tensors[0]) as backend:
                result = calls.forward(backend, *given)
        ctx.save_for_backward(*tensors)  # PyTorch notices if these are changed before the backward pass
        ctx.save_for_forward(*tensors)
        ctx.calls, ctx.inputs = calls, inputs
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tensors, inputs, needed = ctx.saved_tensors, ctx.inputs, ctx.needs_input_grad[3:]
        # these gradients may be differentiated in turn, or are many at once, as with is_grads_batched=True
        if torch.is_grad_enabled() or is_transformed() or torch._C._functorch.is_legacy_batchedtensor(grad_output):
            return None, None, None, *_gradients(ctx.calls, inputs, tensors, needed, grad_output)
        wanted = any(needed[:inputs])
        return None, None, None, *_gradients_at_once(ctx.calls, tensors[:inputs], tensors[inputs:], grad_output, wanted)

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, ___: None, *tangents: torch.Tensor | None) -> torch.Tensor:
        """J tangent, which is the gradient in v of J^T v along the tangents: PyTorch can't nest its forward mode."""
        moved = [tangent is not None for tangent in tangents]
        with torch.enable_grad():
            tensors = [tensor.detach().requires_grad_(m) for tensor, m in zip(ctx.saved_tensors, moved)]
            output = outputs_plainly(ctx.calls, tensors[: ctx.inputs], tensors[ctx.inputs :])
            v = torch.zeros_like(output, requires_grad=True)
            moving = [tensor for tensor, m in zip(tensors, moved) if m]
            pulled = torch.autograd.grad(output, moving, v, create_graph=True, materialize_grads=True)
            along = [tangent for tangent in tangents if tangent is not None]
            return torch.autograd.grad(pulled, v, along, materialize_grads=True)[0]


def _gradients_at_once(
    calls: Calls,
    inputs: Sequence[torch.Tensor],
    parameters: Sequence[torch.Tensor],
    grad_output: torch.Tensor,
    input_grad: bool,
) -> list[torch.Tensor | None]:
    """The gradients in the inputs, None unless ``input_grad``, and in the parameters, as numbers alone."""
    found = calls.down(inputs, parameters, grad_output, input_grad)
    if found is not None:
        return found
    with _backend_of(grad_output) as backend:
        return calls.backward(backend, inputs, parameters, grad_output, input_grad)


def _gradients(
    calls: Calls, inputs: int, tensors: Sequence[torch.Tensor], needed: Sequence[bool], grad_output: torch.Tensor
) -> Iterator[torch.Tensor | None]:
    """The gradients in all tensors that need them, as functions of the tensors that PyTorch can differentiate."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # views: one tensor may be computed from another, whose gradient here is only what it has to do with the net
        views = [tensor.view_as(tensor) for tensor in tensors]
        output = outputs_plainly(calls, views[:inputs], views[inputs:])
    wanted = [view for view, needs in zip(views, needed) if needs]
    found = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=again, materialize_grads=True))
    return (next(found) if needs else None for needs in needed)


def _backend_of(tensor: torch.Tensor) -> AbstractContextManager[Backend]:
    """The backend of this tensor's device, which within works on PyTorch's current stream there."""
    backend = backend_of(tensor)
    return _on_its_stream(backend, tensor) if backend.on_gpu else nullcontext(backend)


@contextmanager
def _on_its_stream(backend: Backend, tensor: torch.Tensor) -> Iterator[Backend]:
    index = tensor.device.index
    stream = torch.cuda.current_stream(index)
    ours = backend.xp.cuda.ExternalStream(stream.cuda_stream, index)
    with torch.cuda.device(index), backend.activate(), ours:
        yield backend


# ---- operators, which torch.compile can write into its graphs -------------------------------------------------------

#: Modules by the number that compiled code knows them by.
_modules: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def numbered(module: Any) -> int:
    """A number for compiled code to know this module by."""
    number = next(_numbers)
    _modules[number] = module
    return number


def _calls_of(module: int, parameters: Sequence[torch.Tensor]) -> Calls:
    if module not in _modules:
        raise RuntimeError("the module of this compiled code is gone: compile again what holds it now")
    return _modules[module].compiled_calls(parameters)


@torch.library.custom_op("backprop_xp::outputs", mutates_args=())
def outputs_operator(module: int, inputs: list[torch.Tensor], parameters: list[torch.Tensor]) -> torch.Tensor:
    """The outputs of the net of this module, which trains nothing that draws or keeps buffers."""
    calls = _calls_of(module, parameters)
    with _backend_of(inputs[0]) as backend:
        return calls.forward(backend, inputs, parameters)


@torch.library.custom_op("backprop_xp::gradients", mutates_args=())
def _gradients_operator(
    module: int, inputs: list[torch.Tensor], parameters: list[torch.Tensor], grad: torch.Tensor, input_grad: bool
) -> list[torch.Tensor]:
    """The gradients in the inputs, where they are wanted, and in the parameters."""
    calls = _calls_of(module, parameters)
    found = _gradients_at_once(calls, inputs, parameters, grad, input_grad)
    return [tensor.clone() for tensor in found if tensor is not None]  # none is a view of another one's memory


@outputs_operator.register_fake
def _(module: int, inputs: list[torch.Tensor], parameters: list[torch.Tensor]) -> torch.Tensor:
    return inputs[0].new_empty((inputs[0].shape[0], _modules[module].features))


@_gradients_operator.register_fake
def _(
    module: int, inputs: list[torch.Tensor], parameters: list[torch.Tensor], grad: torch.Tensor, input_grad: bool
) -> list[torch.Tensor]:
    given = [*(inputs if input_grad else []), *parameters]
    return [tensor.new_empty(tensor.shape) for tensor in given]


def _setup(ctx: Any, inputs: tuple[int, list[torch.Tensor], list[torch.Tensor]], output: torch.Tensor) -> None:
    ctx.module, given, parameters = inputs
    ctx.inputs = len(given)
    ctx.input_grad = any(tensor.requires_grad for tensor in given)
    ctx.save_for_backward(*given, *parameters)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[None, list[torch.Tensor | None], list[torch.Tensor | None]]:
    tensors, count = ctx.saved_tensors, ctx.inputs
    found = _gradients_operator(ctx.module, list(tensors[:count]), list(tensors[count:]), grad, ctx.input_grad)
    in_inputs: list[Any] = found[:count] if ctx.input_grad else [None] * count
    return None, in_inputs, list(found[len(found) - (len(tensors) - count) :])


torch.library.register_autograd("backprop_xp::outputs", _backward, setup_context=_setup)

"""The passes of nets from arrays of PyTorch's: the outputs, and all gradients from that in the outputs.

Where the net's engine is a compiled one, the backward pass starts from the given gradient as from that of a loss, and
computes the signals again; many batches take calls that are kept ready, whose backward pass takes the signals that the
forward pass kept, where there is room. Elsewhere the layered engine keeps the signals from one pass to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch._utils import _unflatten_dense_tensors as unflatten

from . import engines
from .backend import Array, Backend
from .engines import layered
from .graph import GraphNet
from .losses.given import GIVEN
from .net import Net
from .passes.article import Signals
from .plan.call import Call, Values
from .plan.plan import Plan
from .ready import calls
from .ready.batch import Backward, Kept
from .torch_flat import Flat
from .torch_formulas import activate
from .torch_link import as_array, as_tensor
from .torch_plain import Plainly


class Calls:
    """Calls of a net as it is now, which all drop the same numbers, in training.

    What becomes of its activations and buffers after the forward pass doesn't count for the backward one. Parameters
    come in the order of the net's places.

    Args:
        net: whose parameters are of the dtype and on the device of these calls' tensors.
        training: whether numbers are dropped.
        shared: whether the parameters of the calls are the net's very own.
        activated: what computes f(t) of an activation and t in PyTorch's operations.
        flat: where the parameters lie if they are one tensor (count,).
    """

    def __init__(
        self,
        net: Net | GraphNet,
        training: bool = False,
        shared: bool = False,
        activated: Any = activate,
        flat: Flat | None = None,
    ) -> None:
        self._net, self._training, self._shared, self._activated = net, training, shared, activated
        self._flat, self._plan = flat, net._plan()
        self._functions = self._plan.functions()
        self._buffers = net._buffers() if net.buffers else {}
        self._keys = net._keys() if training and self._plan.drawing else {}
        #: The call that is kept ready for both passes, once it was looked for, and what its forward pass kept.
        self._looked = False
        self._ready: Backward | None = None
        self._kept: Kept | None = None
        #: What the layered engine kept.
        self._values: Values | None = None

    def up(self, inputs: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """What :meth:`forward` gives, for :meth:`backward` to come, by a call that is kept ready; None without one."""
        ready = self._ready_for(inputs, parameters)
        if ready is None or self._net._kept is not None:
            return None
        (x,) = inputs
        n = len(x)
        output = x.new_empty(n, self._plan.output.width)
        self._kept = ready.forward(self._net, x.data_ptr(), n, output.data_ptr())
        return None if self._kept is None else output

    def forward(
        self, backend: Backend, inputs: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The outputs for the inputs, (n, features) each."""
        arrays = [as_array(tensor, backend) for tensor in inputs]
        if self._is_plain_batch(inputs) and self._net._kept is None:
            outputs = calls.find_forward(self._net, arrays[0], False)
            if outputs is not None:
                return torch.from_numpy(outputs.forward(self._net, arrays[0]))
        call = self._call(backend, arrays, parameters)
        call.keep_signals = engines.chosen(self._net.engine, call) in ("layered", "tiled")
        if call.keep_signals:
            output, self._values = layered.forward(call)
        else:
            output, _ = engines.forward(self._net.engine, call)
        self._net._change_buffers(call)
        return as_tensor(output, backend)

    def down(
        self, inputs: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor], grad: torch.Tensor, input_grad: bool
    ) -> list[torch.Tensor | None] | None:
        """What :meth:`backward` gives, by a call that is kept ready; None without one."""
        ready = self._ready_for(inputs, parameters) if self._values is None else None
        # one tensor of all parameters begins where the first one does
        if ready is None or any(tensor.data_ptr() != at for tensor, at in zip(parameters, ready.addresses)):
            return None
        (x,) = inputs
        if not _is_plain(x) or not _has_address(grad):
            return None
        grad_x = torch.empty_like(x) if input_grad else None
        to = None if grad_x is None else grad_x.data_ptr()
        gradients = torch.from_numpy(
            ready.backward(self._net, x.data_ptr(), len(x), grad.data_ptr(), grad.stride(), to, self._kept)
        )
        return [grad_x, *([gradients] if self._flat is not None else unflatten(gradients, parameters))]

    def backward(
        self,
        backend: Backend,
        inputs: Sequence[torch.Tensor],
        parameters: Sequence[torch.Tensor],
        grad_output: torch.Tensor,
        input_grad: bool,
    ) -> list[torch.Tensor | None]:
        """The gradients in the inputs (None unless ``input_grad``) and in the parameters, from that in the outputs."""
        arrays, grad = [as_array(tensor, backend) for tensor in inputs], as_array(grad_output, backend)
        call = self._call(backend, arrays, parameters)
        call.input_grad = input_grad
        if self._values is None:
            call.loss, call.y = GIVEN, grad
            result = engines.loss_and_grad(self._net.engine, call)
        else:
            signals = {name: Signals(kept.linear, kept.nonlinear) for name, kept in self._values.signals.items()}
            result = layered.backward(call, Values(self._values.data, signals, self._values.given), grad)
        own = result.parameters if self._flat is None else [self._flat.join(result.parameters, backend.xp)]
        found = [*(result.inputs.get(name) for name in call.inputs), *own]
        return [None if array is None else as_tensor(array, backend) for array in found]

    def plainly(
        self, backend: Backend, inputs: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The outputs, by PyTorch's own operations, which it can differentiate. TypeError where it can't."""
        plan = self._as_it_was()
        plain = Plainly(plan, backend, self._buffers, self._training, self._keys, self._activated)
        return plain(dict(zip(plan.inputs, inputs)), self._named(parameters))

    def _ready_for(self, inputs: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]) -> Backward | None:
        """The call that is kept ready for these inputs, as it was when it was first asked for."""
        if not self._looked:
            self._looked = True
            plain = self._is_plain_batch(inputs) and _is_plain(inputs[0])
            if plain and parameters and inputs[0].dtype is parameters[0].dtype:
                self._ready = calls.find_backward(self._net, len(inputs[0]))
        return self._ready

    def _is_plain_batch(self, inputs: Sequence[torch.Tensor]) -> bool:
        """Whether a call that is kept ready may do it: of the net's own parameters, with one input."""
        return self._shared and len(inputs) == 1 and not (self._training and self._net.buffers) and not self._keys

    def _named(self, parameters: Sequence[torch.Tensor]) -> Mapping[str, Mapping[str, torch.Tensor]]:
        in_turn = iter(parameters if self._flat is None else self._flat.split(parameters[0]))
        return {node: {name: next(in_turn) for name in own} for node, own in self._places.items()}

    @cached_property
    def _places(self) -> Mapping[str, Sequence[str]]:
        """The names of the parameters of every node that has its own."""
        return {node: [*own] for node, own in self._net._tensors().items()}

    def _as_it_was(self) -> Plan:
        """The plan, with the functions that its nodes had in the forward pass."""
        return self._plan.with_functions(self._functions)

    def _call(self, backend: Backend, arrays: Sequence[Array], parameters: Sequence[torch.Tensor]) -> Call:
        net, plan = self._net, self._as_it_was()
        own = {
            node: {name: as_array(tensor, backend) for name, tensor in named.items()}
            for node, named in self._named(parameters).items()
        }
        return Call(
            backend, arrays[0].dtype, plan, own, dict(zip(plan.inputs, arrays)), threads=net.threads,
            precision=net.precision, training=self._training, buffers=self._buffers, keys=self._keys,
        )  # fmt: skip


def _is_plain(x: torch.Tensor) -> bool:
    """Whether compiled code may read it row by row from its address."""
    return x.is_contiguous() and _has_address(x)


def _has_address(tensor: torch.Tensor) -> bool:
    """Whether its numbers are in memory as they are, not lazily negated or nowhere, at a multiple of their size."""
    return not tensor.is_neg() and tensor.data_ptr() % tensor.element_size() == 0 and tensor.data_ptr() != 0

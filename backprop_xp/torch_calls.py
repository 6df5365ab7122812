"""The passes of nets from arrays of PyTorch's: the outputs, and all gradients from that in the outputs.

Where the net's engine is a compiled one, the backward pass starts from the given gradient as from that of a loss, and
computes the signals again; many batches take calls that are kept ready, whose backward pass takes the signals that the
forward pass kept, where there is room. Elsewhere the layered engine keeps the signals from one pass to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from .ready import calls
from .ready.batch import Backward, Kept
from .torch_formulas import activate
from .torch_link import as_array, as_tensor
from .torch_plain import Plainly


class Calls:
    """Calls of a net with its activations as they are now, which all drop the same numbers, in training.

    Parameters come in the order of the net's places.

    Args:
        net: whose parameters are of the dtype and on the device of these calls' tensors.
        training: whether numbers are dropped.
        shared: whether the parameters of the calls are the net's very own.
        activated: what computes f(t) of an activation and t in PyTorch's operations.
    """

    def __init__(
        self, net: Net | GraphNet, training: bool = False, shared: bool = False, activated: Any = activate
    ) -> None:
        self._net, self._training, self._shared, self._activated = net, training, shared, activated
        self._keys = net._keys() if training else {}
        #: What the forward pass kept, of the layered engine or of a call that is kept ready.
        self._values: Values | None = None
        self._kept: tuple[Backward, Kept] | None = None

    def forward(
        self,
        backend: Backend,
        inputs: Sequence[torch.Tensor],
        parameters: Sequence[torch.Tensor],
        keep_signals: bool = False,
    ) -> Array:
        """The outputs for the inputs, (n, features) each; signals are kept if :meth:`backward` is to come."""
        arrays = [as_array(tensor, backend) for tensor in inputs]
        if self._is_plain_batch(arrays) and self._net._kept is None:
            way = calls.find_backward(self._net, arrays[0]) if keep_signals else None
            if way is not None and (found := way.forward(self._net, arrays[0])) is not None:
                self._kept = way, found[1]
                return found[0]
            ready = calls.find_forward(self._net, arrays[0], False)
            if ready is not None:
                return ready.forward(self._net, arrays[0])
        call = self._call(backend, arrays, parameters)
        call.keep_signals = engines.chosen(self._net.engine, call) in ("layered", "tiled")
        if call.keep_signals:
            output, self._values = layered.forward(call)
        else:
            output, _ = engines.forward(self._net.engine, call)
        self._net._change_buffers(call)
        return output

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
        # the call that went up goes down, whatever has become of the net meanwhile
        ready, kept = self._kept or (None, None)
        if ready is None and self._values is None and self._is_plain_batch(arrays):
            ready = calls.find_backward(self._net, arrays[0])
        if ready is not None and [tensor.data_ptr() for tensor in parameters] == ready.addresses:
            gradients, grad_x = ready.backward(self._net, arrays[0], grad, input_grad, kept)
            own = unflatten(torch.from_numpy(gradients), parameters)
            return [None if grad_x is None else torch.from_numpy(grad_x), *own]
        call = self._call(backend, arrays, parameters)
        call.input_grad = input_grad
        if self._values is None:
            call.loss, call.y = GIVEN, grad
            result = engines.loss_and_grad(self._net.engine, call)
        else:
            signals = {name: Signals(kept.linear, kept.nonlinear) for name, kept in self._values.signals.items()}
            result = layered.backward(call, Values(self._values.data, signals, self._values.given), grad)
        found = [*(result.inputs.get(name) for name in call.inputs), *result.parameters]
        return [None if array is None else as_tensor(array, backend) for array in found]

    def plainly(
        self, backend: Backend, inputs: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The outputs, by PyTorch's own operations, which it can differentiate. TypeError where it can't."""
        net = self._net
        plain = Plainly(net._plan(), backend, net._buffers(), self._training, self._keys, self._activated)
        return plain(dict(zip(net._plan().inputs, inputs)), self._named(parameters))

    def _is_plain_batch(self, arrays: Sequence[Array]) -> bool:
        """Whether a call that is kept ready may do it: of the net's own parameters, with one input."""
        return self._shared and len(arrays) == 1 and not (self._training and self._net.buffers) and not self._keys

    def _named(self, parameters: Sequence[torch.Tensor]) -> Mapping[str, Mapping[str, torch.Tensor]]:
        in_turn = iter(parameters)
        return {node: {name: next(in_turn) for name in own} for node, own in self._net._tensors().items()}

    def _call(self, backend: Backend, arrays: Sequence[Array], parameters: Sequence[torch.Tensor]) -> Call:
        net, plan = self._net, self._net._plan()
        own = {
            node: {name: as_array(tensor, backend) for name, tensor in named.items()}
            for node, named in self._named(parameters).items()
        }
        return Call(
            backend, arrays[0].dtype, plan, own, dict(zip(plan.inputs, arrays)), threads=net.threads,
            training=self._training, buffers=net._buffers(), keys=self._keys,
        )  # fmt: skip

"""The passes of nets from arrays of PyTorch's: forward, and backward through the signals that forward kept."""

from __future__ import annotations

from collections.abc import Sequence

from .backend import Array, Backend
from .engines import layered
from .graph import GraphNet
from .net import Net
from .passes.article import Signals
from .plan.call import Call, Values


class Calls:
    """Calls of a net with its activations as they are now, which all drop the same numbers, in training.

    Parameters come in the order of the net's places.
    """

    def __init__(self, net: Net | GraphNet, training: bool = False) -> None:
        self._net, self._training = net, training
        self._plan, self._keys = net._plan(), net._keys() if training else {}
        self._names = {node: tuple(own) for node, own in net._tensors().items()}

    def forward(self, backend: Backend, inputs: Sequence[Array], parameters: Sequence[Array]) -> tuple[Array, Values]:
        """The outputs for the inputs, (n, features) each, or (features,) for a chain, and every node's value."""
        call = self._call(backend, inputs, parameters)
        output, values = layered.forward(call)
        self._net._change_buffers(call)
        assert values is not None
        return output, values

    def backward(
        self,
        backend: Backend,
        inputs: Sequence[Array],
        parameters: Sequence[Array],
        values: Values,
        grad: Array,
        input_grad: bool,
    ) -> list[Array | None]:
        """The gradients in the inputs (None unless ``input_grad``) and in the parameters, from that in the outputs."""
        call = self._call(backend, inputs, parameters)
        call.keep_signals, call.input_grad = False, input_grad
        signals = {name: Signals(chain.linear, chain.nonlinear) for name, chain in values.signals.items()}
        result = layered.backward(call, Values(values.data, signals, values.given), grad)
        return [*(result.inputs.get(name) for name in call.inputs), *result.parameters]

    def _call(self, backend: Backend, inputs: Sequence[Array], parameters: Sequence[Array]) -> Call:
        arrays = iter(parameters)
        own = {node: {name: next(arrays) for name in names} for node, names in self._names.items()}
        named = dict(zip(self._plan.inputs, inputs))
        return Call(
            backend, inputs[0].dtype, self._plan, own, named, keep_signals=True, training=self._training,
            buffers=self._net._buffers(), keys=self._keys,
        )  # fmt: skip

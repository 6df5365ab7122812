"""The passes of nets from arrays of PyTorch's: forward, and backward through the signals that forward kept."""

from __future__ import annotations

from collections.abc import Sequence

from .activations import get_activation
from .backend import Array, Backend
from .engines import Call, graph_layered, layered
from .graph import GraphNet
from .graph.call import GraphCall
from .graph.passes import Values
from .net import Net
from .passes.article import Layer, Signals


class ChainCalls:
    """Calls of a chain, with its activations as they are now."""

    def __init__(self, net: Net) -> None:
        self._activations, self._bias = [get_activation(f) for f in net.activations], net.bias

    def forward(self, backend: Backend, inputs: Sequence[Array], parameters: Sequence[Array]) -> tuple[Array, Signals]:
        """The outputs for x, (n, features) or (features,), and the signals."""
        output, signals = layered.forward(self._call(backend, inputs, parameters))
        assert signals is not None
        return output, signals

    def backward(
        self,
        backend: Backend,
        inputs: Sequence[Array],
        parameters: Sequence[Array],
        signals: Signals,
        grad: Array,
        input_grad: bool,
    ) -> list[Array | None]:
        """The gradients in x (None unless ``input_grad``) and in the parameters, from that in the outputs."""
        call = self._call(backend, inputs, parameters)
        call.keep_signals, call.input_grad = False, input_grad
        gradients = layered.backward(call, Signals(signals.linear, signals.nonlinear), grad)
        return [gradients.x, *gradients.parameters]

    def _call(self, backend: Backend, inputs: Sequence[Array], parameters: Sequence[Array]) -> Call:
        biases = iter(parameters[len(self._bias) :])
        known = zip(parameters, self._bias, self._activations)
        layers = [Layer(w, next(biases) if has else None, f) for w, has, f in known]
        return Call(backend, parameters[0].dtype, layers, inputs[0], keep_signals=True)


class GraphCalls:
    """Calls of a graph, which all drop the same numbers."""

    def __init__(self, net: GraphNet, training: bool) -> None:
        self._net, self._keys = net, net._drawn() if training else {}

    def forward(self, backend: Backend, inputs: Sequence[Array], parameters: Sequence[Array]) -> tuple[Array, Values]:
        """The outputs for the inputs, (n, features) each, and every node's value."""
        output, values = graph_layered.forward(self._call(backend, inputs, parameters))
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
        gradients = graph_layered.backward(call, Values(values.data, signals, values.kept), grad)
        return [*(gradients.inputs.get(name) for name in call.inputs), *gradients.parameters]

    def _call(self, backend: Backend, inputs: Sequence[Array], parameters: Sequence[Array]) -> GraphCall:
        net, arrays = self._net, iter(parameters)
        own = {node: {name: next(arrays) for name in names} for node, names in net._names.items()}
        named = dict(zip(net.inputs, inputs))
        return GraphCall(
            backend, inputs[0].dtype, net.nodes, net._steps, own, named, self._keys, keep_signals=True,
        )  # fmt: skip

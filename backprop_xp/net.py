"""A fully connected net, and backpropagation through it as in the article.

Layer i takes z_{i-1}, the outputs of the layer before it (z_{-1} is the input x):

    t_i = W_i z_{i-1} + b_i        z_i = f_i(t_i)        l = loss(z_last)

:class:`Net` holds the parameters and checks what it is given; the loops over the layers stand in passes/article.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

from . import inputs
from .activations import Activation
from .backend import Array, Backend
from .initialisers import Draw, as_random, get_initialiser
from .keywords import known_options
from .literals import ActivationName, Dtype, EngineName, InitName, LayerName, LossName, PrecisionName, Reduction
from .losses import Loss
from .model import Model
from .operations import Activate, Operation
from .operations.base import called
from .plan.call import Parameters
from .plan.plan import Plan, of_layers
from .tensor import Tensor

#: What a layer does to W z + b, or a part of it.
Function = ActivationName | LayerName | Activation | Operation | None


class Net(Model):
    """A chain of fully connected layers.

    ``Net()`` is the article's net: 5-10-4-12, tanh, sigmoid, identity, half the sum of squares, no bias,
    float64, on NumPy.

    Args:
        sizes: widths of the layers, input first.
        activations: a name or an object for each layer, None for the identity; by default tanh, and identity for the
            last. A list says what a layer does after W z + b, one after another: activations and other operations,
            ``[LayerNorm(), "relu", Dropout(0.2)]`` (or their names), see :mod:`backprop_xp.operations`.
        loss: a name or an object.
        bias: whether every layer has one, or a truth value for each layer; they start at zero.
        dtype: "float32" or "float64".
        rng: where weights are drawn from: None (NumPy's global state), a seed, a Generator or a RandomState.
        backend: "auto", "numpy", "cupy", "cupy:N"; None asks the environment (BACKPROP_XP_BACKEND).
        init: a name in :data:`backprop_xp.initialisers.INITIALISERS`, or a function of (rng, (out, in)). None is
            "normal", N(0, 1) as in the article, with which wide nets train badly: :meth:`fit` warns of it, unless it
            was asked for by name. "glorot_uniform" suits tanh, sigmoid and most others, "he_normal" relu and its like.
        reduction: "sum" or "mean" of the losses of a batch. The step of plain gradient descent is the longer the more
            samples a sum has; a mean, PyTorch's way, makes it the same for any batch.
        engine: "auto", or one of :data:`backprop_xp.engines.ENGINES`.
        threads: how many the tiled and fused engines use; None asks the environment (BACKPROP_XP_NUM_THREADS),
            else every processor this process may run on. The results don't depend on it.
        precision: "auto", or one of :data:`backprop_xp.precision.PRECISIONS`: what the factors of products may be
            rounded to by the hardware, for float32. See :mod:`backprop_xp.precision` for the errors of each.

    Attributes:
        weights: a Tensor of shape (out, in) for each layer. Layers of one shape may share one:
            ``net.weights[2] = net.weights[1]``.
        biases: a Tensor of shape (out,) for each layer that has a bias, in the layers' order. ``bias`` says which
            these are, and ``layers`` has every layer's weight, bias or None, and activation side by side.
        tensors, buffers: by name, what normalisations among the activations have: "z0.0.gain" is of the first
            operation in the first layer's list, "z0.gain" of the last or only one.
        parameters: the weights, then the biases, then ``tensors``, each Tensor once.
        linear_outputs, nonlinear_outputs: Tensors t_i and z_i of the last call that kept its signals.
        activations, loss: objects, which may be replaced. What takes the place of a normalisation must be one.
        seed, draws: what dropout draws depend on; ``draws`` counts the calls in training.
    """

    @known_options
    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        activations: Sequence[Function | Sequence[Function]] | None = None,
        loss: LossName | Loss = "half_sum_sq",
        bias: bool | Sequence[bool] = False,
        dtype: Dtype = "float64",
        rng: Any = None,
        backend: str | Backend | None = None,
        init: InitName | Draw | None = None,
        reduction: Reduction = "sum",
        engine: EngineName = "auto",
        threads: int | None = None,
        precision: PrecisionName = "auto",
    ) -> None:
        article = sizes is None
        if article:
            sizes, activations = (5, 10, 4, 12), activations or ("tanh", "sigmoid", "identity")
            backend = backend or "numpy"
        self.sizes = inputs.as_sizes(sizes)
        depth = len(self.sizes) - 1
        self.activations = inputs.as_activations(activations, depth)
        super().__init__(loss, dtype, backend, reduction, engine, threads, precision)

        self._bias = inputs.as_flags("bias", bias, depth)
        plan = of_layers(self.sizes, self._bias, self.activations)
        self._make_state(plan.nodes, as_random(rng), get_initialiser(init))
        self._drawn_unasked = init is None and not article
        layers = [self._take_out(f"t{i}") for i in range(depth)]
        self.weights = [own["weight"] for own in layers]
        self.biases = [own["bias"] for own in layers if "bias" in own]
        for i, own in enumerate(layers):
            for letter, tensor in zip("Wb", own.values()):
                tensor.name = f"{letter}{i}"
        self.linear_outputs = [Tensor(self._zeros(n), f"t{i}") for i, n in enumerate(self.sizes[1:])]
        self.nonlinear_outputs = [Tensor(self._zeros(n), f"z{i}") for i, n in enumerate(self.sizes[1:])]
        #: the Tensors of values between t_i and z_i
        self._between: dict[str, Tensor] = {}
        #: what the last plan was made of, and that plan: it is another where one of the user's lists is
        self._planned: tuple[list[Any], tuple[bool, ...], Plan] | None = None
        self._hold(plan, self._bias)

    @property
    def parameters(self) -> list[Tensor]:
        """The weights, then the biases, then what else there is to train, each Tensor once."""
        return list(dict.fromkeys([*self.weights, *self.biases, *self.tensors.values()]))

    @property
    def bias(self) -> tuple[bool, ...]:
        """Whether each layer has a bias: no layer if ``biases`` is empty, every one if it holds one a layer."""
        depth = len(self.sizes) - 1
        return (bool(self.biases),) * depth if len(self.biases) in (0, depth) else self._bias

    @property
    def layers(self) -> list[tuple[Tensor, Tensor | None, Any]]:
        """The weight, the bias or None, and the activation of every layer, as they stand in the net's lists."""
        biases = iter(self.biases)
        return [
            (weight, next(biases, None) if has else None, activation)
            for weight, has, activation in zip(self.weights, self.bias, self.activations)
        ]

    def _plan(self) -> Plan:
        bias = self.bias
        if self._planned is not None:
            activations, with_bias, plan = self._planned
            complete = len(self.activations) == len(self.weights) == len(bias) and len(self.biases) == sum(bias)
            if complete and with_bias == bias and all(map(is_, activations, self.activations)):
                return plan
        plan = of_layers(self.sizes, bias, [layer.activation for layer in inputs.as_layers(self)])
        self._check_state(node for node in plan.nodes if node.name[0] == "z")
        self._hold(plan, bias)
        return plan

    def _hold(self, plan: Plan, bias: tuple[bool, ...]) -> None:
        names = [node.name for node in plan.nodes if "." in node.name]
        self._between = {name: self._between.get(name, Tensor(None, name)) for name in names}
        self._operates = plan.chain is None  # it has operations beside the article's
        may_change = any(isinstance(entry, (list, tuple, Activate)) for entry in self.activations)  # and stay the same
        self._planned = None if may_change else ([*self.activations], bias, plan)

    def _tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        return self._by_node(super()._tensors(), self.layers)

    def _arrays(self) -> Parameters:
        return self._by_node(super()._arrays(), inputs.as_layers(self))

    def _by_node(self, others: Mapping[str, Mapping[str, Any]], layers: Sequence[Any]) -> Parameters:
        """Weights and biases of layers among what other nodes have, in the order of computation."""
        linear = {
            f"t{i}": {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
            for i, (weight, bias, _) in enumerate(layers)
        }
        if not others:
            return linear
        both = {**linear, **others}
        return {node.name: both[node.name] for node in self._plan().nodes if node.name in both}

    def _take_in(self, tensors: dict[str, Tensor]) -> None:
        layers = range(len(self.weights))
        self.weights[:] = [tensors.pop(f"t{i}.weight") for i in layers]
        self.biases[:] = [tensors.pop(f"t{i}.bias") for i in layers if f"t{i}.bias" in tensors]
        super()._take_in(tensors)

    def _named(self) -> dict[str, Tensor]:
        named = {f"W{i}": tensor for i, tensor in enumerate(self.weights)}
        named |= {f"b{i}": bias for i, (_, bias, _) in enumerate(self.layers) if bias is not None}
        return named | self.tensors

    @property
    def signals(self) -> dict[str, Tensor]:
        """The Tensor of every value but x, by the name of its node, in the order of computation."""
        layers = zip(self.linear_outputs, self.nonlinear_outputs)
        named = {name: tensor for i, pair in enumerate(layers) for name, tensor in zip((f"t{i}", f"z{i}"), pair)}
        if not self._between:
            return named
        named |= self._between
        return {node.name: named[node.name] for node in self._plan().nodes[1:]}

    def _signals(self) -> dict[str, Tensor]:
        return self.signals

    def _now(self) -> tuple[list[Any], list[Any], list[Any], str]:
        parameters: list[Any] = [*self.weights, None, *self.biases]
        signals = [*self.linear_outputs, *self.nonlinear_outputs]
        if not self._operates:
            return parameters, signals, [*self.activations, self.loss], self.reduction
        functions = [*self.activations, *self._plan().functions(), self.loss]
        return [*parameters, *self.tensors.values()], signals, functions, self.reduction

    def _zeros(self, n: int) -> Array:
        with self.backend.activate():
            return self.backend.xp.zeros(n, self.dtype)

    def __repr__(self) -> str:
        names = ", ".join("+".join(map(called, getattr(f, "steps", (f,)))) for f in self.activations)
        loss = getattr(self.loss, "name", type(self.loss).__name__)
        return f"Net({'-'.join(map(str, self.sizes))}, {names}, {loss}, {self.dtype.name}, {self.backend.name})"

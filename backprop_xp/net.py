"""A fully connected net, and backpropagation through it as in the article.

Layer i takes z_{i-1}, the outputs of the layer before it (z_{-1} is the input x):

    t_i = W_i z_{i-1} + b_i        z_i = f_i(t_i)        l = loss(z_last)

:class:`Net` holds the parameters and checks what it is given; the loops over the layers stand in passes/article.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

from . import inputs
from .activations import Activation
from .backend import Array, Backend
from .initialisers import Draw, as_random, get_initialiser
from .losses import Loss
from .model import Model
from .plan.call import Parameters
from .plan.plan import Plan, of_layers
from .tensor import Tensor


class Net(Model):
    """A chain of fully connected layers.

    ``Net()`` is the article's net: 5-10-4-12, tanh, sigmoid, identity, half the sum of squares, no bias,
    float64, on NumPy.

    Args:
        sizes: widths of the layers, input first.
        activations: a name or an object for each layer; by default tanh, and identity for the last.
        loss: a name or an object.
        bias: whether every layer has one, or a truth value for each layer; they start at zero.
        dtype: "float32" or "float64".
        rng: where weights are drawn from: None (NumPy's global state), a seed, a Generator or a RandomState.
        backend: "auto", "numpy", "cupy", "cupy:N"; None asks the environment (BACKPROP_XP_BACKEND).
        init: a name in :data:`backprop_xp.initialisers.INITIALISERS`, or a function of (rng, (out, in)).
        reduction: "sum" or "mean" of the losses of a batch.
        engine: "auto", or one of :data:`backprop_xp.engines.ENGINES`.
        threads: how many the tiled and fused engines use; None asks the environment (BACKPROP_XP_NUM_THREADS),
            else every processor this process may run on. The results don't depend on it.
        precision: "auto", or one of :data:`backprop_xp.precision.PRECISIONS`: what the factors of products may be
            rounded to on a CUDA device, for float32. See :mod:`backprop_xp.precision` for the errors of each.

    Attributes:
        weights: a Tensor of shape (out, in) for each layer. Layers of one shape may share one:
            ``net.weights[2] = net.weights[1]``.
        biases: a Tensor of shape (out,) for each layer that has a bias, in the layers' order. ``bias`` says which
            these are, and ``layers`` has every layer's weight, bias or None, and activation side by side.
        parameters: the weights, then the biases, each Tensor once.
        linear_outputs, nonlinear_outputs: Tensors t_i and z_i of the last call that kept its signals.
        activations, loss: objects, which may be replaced.
    """

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        activations: Sequence[str | Activation] | None = None,
        loss: str | Loss = "half_sum_sq",
        bias: bool | Sequence[bool] = False,
        dtype: Any = "float64",
        rng: Any = None,
        backend: str | Backend | None = None,
        init: str | Draw = "normal",
        reduction: str = "sum",
        engine: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
    ) -> None:
        if sizes is None:
            sizes, activations = (5, 10, 4, 12), activations or ("tanh", "sigmoid", "identity")
            backend = backend or "numpy"
        self.sizes = inputs.as_sizes(sizes)
        depth = len(self.sizes) - 1
        self.activations = inputs.as_activations(activations, depth)
        super().__init__(loss, dtype, backend, reduction, engine, threads, precision)

        random, draw = as_random(rng), get_initialiser(init)
        self.weights = []
        for i, shape in enumerate(zip(self.sizes[1:], self.sizes[:-1])):
            drawn = self.backend.asarray(draw(random, shape), self.dtype, "the initialiser's result")
            if drawn.shape != shape:
                raise ValueError(f"the initialiser must return shape {shape}, got {drawn.shape}")
            self.weights.append(Tensor(drawn, f"W{i}"))
        self._bias = inputs.as_flags("bias", bias, depth)
        widths = zip(self.sizes[1:], self._bias)
        self.biases = [Tensor(self._zeros(n), f"b{i}") for i, (n, has) in enumerate(widths) if has]
        self.linear_outputs = [Tensor(self._zeros(n), f"t{i}") for i, n in enumerate(self.sizes[1:])]
        self.nonlinear_outputs = [Tensor(self._zeros(n), f"z{i}") for i, n in enumerate(self.sizes[1:])]
        #: what the last plan was made of, and that plan: it is another where one of the user's lists is
        self._planned: tuple[list[Any], tuple[bool, ...], Plan] | None = None

    @property
    def parameters(self) -> list[Tensor]:
        """The weights, then the biases, each Tensor once."""
        return list(dict.fromkeys([*self.weights, *self.biases]))

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
        self._planned = [*self.activations], bias, plan
        return plan

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return {
            f"t{i}": {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
            for i, (weight, bias, _) in enumerate(self.layers)
        }

    def _arrays(self) -> Parameters:
        return {
            f"t{i}": {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
            for i, (weight, bias, _) in enumerate(inputs.as_layers(self))
        }

    def _signals(self) -> dict[str, Tensor]:
        named = {f"t{i}": t for i, t in enumerate(self.linear_outputs)}
        return named | {f"z{i}": z for i, z in enumerate(self.nonlinear_outputs)}

    def _now(self) -> tuple[list[Any], list[Any], list[Any], str]:
        parameters = [*self.weights, None, *self.biases]
        signals = [*self.linear_outputs, *self.nonlinear_outputs]
        return parameters, signals, [*self.activations, self.loss], self.reduction

    def _inputs(self, x: Any, whole: bool) -> tuple[dict[str, Array], bool]:
        array = inputs.as_batch(x, self.sizes[0], self.backend, self.dtype, whole=whole)
        return {"x": array}, array.ndim == 1

    def _zeros(self, n: int) -> Array:
        with self.backend.activate():
            return self.backend.xp.zeros(n, self.dtype)

    def __repr__(self) -> str:
        names = ", ".join(getattr(f, "name", type(f).__name__) for f in self.activations)
        loss = getattr(self.loss, "name", type(self.loss).__name__)
        return f"Net({'-'.join(map(str, self.sizes))}, {names}, {loss}, {self.dtype.name}, {self.backend.name})"

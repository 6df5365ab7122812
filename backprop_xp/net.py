"""A fully connected net, and backpropagation through it as in the article.

Layer i takes z_{i-1}, the outputs of the layer before it (z_{-1} is the input x):

    t_i = W_i z_{i-1} + b_i        z_i = f_i(t_i)        l = loss(z_last)

:class:`Net` holds the parameters and checks what it is given; the loops over the layers stand in passes/article.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import engines, inputs, scope
from .activations import Activation, get_activation
from .backend import Array, Backend
from .derivatives import Equation, of_outputs
from .derivatives.loops import Chain
from .engines import Call, layered
from .initialisers import Draw, as_random, get_initialiser
from .losses import Loss, get_loss, resolved
from .model import Model
from .passes.article import Layer, Signals
from .ready import calls
from .repeated import Repeated
from .tensor import Tensor


class Net(Model):
    """A chain of fully connected layers.

    ``Net()`` is the article's net: 5-10-4-12, tanh, sigmoid, identity, half the sum of squares, no bias,
    float64, on NumPy.

    Args:
        sizes: widths of the layers, input first.
        activations: a name or an object for each layer; by default tanh, and identity for the last.
        loss: a name or an object.
        bias: whether every layer has one; they start at zero.
        dtype: "float32" or "float64".
        rng: where weights are drawn from: None (NumPy's global state), a seed, a Generator or a RandomState.
        backend: "auto", "numpy", "cupy", "cupy:N"; None asks the environment (BACKPROP_XP_BACKEND).
        init: a name in :data:`backprop_xp.initialisers.INITIALISERS`, or a function of (rng, (out, in)).
        reduction: "sum" or "mean" of the losses of a batch.
        engine: "auto", or one of :data:`backprop_xp.engines.ENGINES`.
        threads: how many the tiled and fused engines use; None asks the environment (BACKPROP_XP_NUM_THREADS),
            else every processor this process may run on. The results don't depend on it.

    Attributes:
        weights, biases: Tensors of shape (out, in) and (out,); ``biases`` is empty without them. Layers of one shape
            may share a Tensor: ``net.weights[2] = net.weights[1]``.
        parameters: the weights, then the biases, each Tensor once.
        linear_outputs, nonlinear_outputs: Tensors t_i and z_i of the last call that kept its signals.
        activations, loss: objects, which may be replaced.
    """

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        activations: Sequence[str | Activation] | None = None,
        loss: str | Loss = "half_sum_sq",
        bias: bool = False,
        dtype: Any = "float64",
        rng: Any = None,
        backend: str | Backend | None = None,
        init: str | Draw = "normal",
        reduction: str = "sum",
        engine: str = "auto",
        threads: int | None = None,
    ) -> None:
        if sizes is None:
            sizes, activations = (5, 10, 4, 12), activations or ("tanh", "sigmoid", "identity")
            backend = backend or "numpy"
        self.sizes = inputs.as_sizes(sizes)
        depth = len(self.sizes) - 1
        self.activations = inputs.as_activations(activations, depth)
        super().__init__(loss, dtype, backend, reduction, engine, threads)

        random, draw = as_random(rng), get_initialiser(init)
        self.weights = []
        for i, shape in enumerate(zip(self.sizes[1:], self.sizes[:-1])):
            drawn = self.backend.asarray(draw(random, shape), self.dtype, "the initialiser's result")
            if drawn.shape != shape:
                raise ValueError(f"the initialiser must return shape {shape}, got {drawn.shape}")
            self.weights.append(Tensor(drawn, f"W{i}"))
        self.biases = [Tensor(self._zeros(n), f"b{i}") for i, n in enumerate(self.sizes[1:])] if bias else []
        self.linear_outputs = [Tensor(self._zeros(n), f"t{i}") for i, n in enumerate(self.sizes[1:])]
        self.nonlinear_outputs = [Tensor(self._zeros(n), f"z{i}") for i, n in enumerate(self.sizes[1:])]
        #: the layers and x of the call whose signals linear_outputs and nonlinear_outputs hold
        self._kept: tuple[list[Layer], Array] | None = None
        self._prepared: calls.Prepared | None = None

    def _places(self) -> list[Tensor]:
        return [*self.weights, *self.biases]

    def loss_and_grad(
        self,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        input_grad: bool = False,
        accumulate: bool = False,
        keep_signals: bool | None = None,
        loss: str | Loss | Equation | None = None,
    ) -> Any:
        """The loss of one sample or a batch; fills ``.grad`` of every parameter.

        Several threads may call :meth:`forward` of one net at once. If they call this, each computes its loss and
        gradients right, and ``.grad`` of each tensor is that of one of the calls, not necessarily of the same one.

        Args:
            x: (n, features), or (features,) for one sample.
            y: the target the loss takes: like the outputs, or class indices (n,) for softmax cross-entropy.
            sample_weight: (n,) factors of the samples' losses; "mean" is then the weighted mean.
            input_grad: also compute the gradient in ``x``, and return (loss, gradient).
            accumulate: add to the parameters' gradients instead of replacing them.
            keep_signals: keep ``data`` and ``grad`` of every t_i and z_i; by default for one sample only.
            loss: instead of the net's own; one that contains derivatives of the outputs in x is an
                :class:`backprop_xp.Equation`. "mean" divides that by the number of samples.

        Returns:
            The loss, a scalar of the net's dtype (on CuPy a 0-d array); with ``input_grad`` also the gradient.
        """
        if isinstance(loss, Equation):
            return self._equation(loss, x, y, sample_weight, input_grad, accumulate, keep_signals)
        if not (input_grad or accumulate) and sample_weight is None and loss is None:
            compiled = calls.find(self, x, y, keep_signals)
            if compiled is not None:
                return compiled.loss_and_grad(self, x, y)
        call = self._call(x, keep_signals, get_loss(self.loss if loss is None else loss))
        self._aim(call, y, sample_weight, (*call.x.shape[:-1], self.sizes[-1]))
        call.input_grad = input_grad
        with self.backend.activate():
            gradients = engines.loss_and_grad(self.engine, call)
            self._store(gradients.parameters, accumulate)
        self._keep(call, gradients.signals)
        return (gradients.loss, gradients.x) if input_grad else gradients.loss

    def derivatives(
        self,
        x: Any,
        *wanted: str,
        inputs: str | Sequence[str] | None = None,
        outputs: str | Sequence[str] | None = None,
        direction: Any = None,
        cotangent: Any = None,
    ) -> Any:
        """Derivatives of the outputs in ``x``, for one sample or a batch.

        ``net.derivatives(x, "jacobian")``, ``net.derivatives(x, "u_xx", "u_t", inputs="x t")``. They are pushed forward
        through the net together with its signals, see :mod:`backprop_xp.derivatives.loops`; parameters keep their
        gradients. Where an activation has a kink, its derivatives of higher order are those of the piece to the right.

        Args:
            x: (n, in), or (in,) for one sample, of which the results have no n.
            wanted: "value" (n, out), "jacobian" (n, out, in), "hessian" (n, out, in, in), "hessian_diagonal"
                (n, out, in), "laplacian" (n, out), "directional" (n, out), the derivative along ``direction``; "hvp"
                (n, out, in), the Hessian times ``direction``; "vjp" (n, in), ``cotangent`` times the Jacobian; or the
                name of one output's derivative, such as "u_xxt" (n,).
            inputs, outputs: names in order, "x y t"; by default x0 x1 ... and u0 u1 ..., or x and u where there is one.
            direction: (in,), or (n, in).
            cotangent: (out,), or (n, out).

        Returns:
            An array, or where several are wanted a dictionary of arrays by what they are called in ``wanted``.

        Raises:
            ValueError: an unknown name, or shapes that don't fit. TypeError: an activation that is no formula.
        """
        return of_outputs.derivatives(self._chain(), x, wanted, inputs, outputs, direction, cotangent)

    def repeated(self, x: Any, y: Any = None, *, sample_weight: Any = None) -> Repeated:
        """A function that computes :meth:`loss_and_grad` of these very arrays, which may be overwritten between calls.

        On a CUDA device a call is one launch where it can be, see :class:`backprop_xp.repeated.Repeated`.
        """
        return Repeated(self, x, y, sample_weight)

    def forward(self, x: Any, *, keep_signals: bool | None = None) -> Array:
        """The outputs, (n, out) or (out,), without gradients. Kept signals are what :meth:`backward` starts from."""
        compiled = calls.find_forward(self, x, keep_signals)
        if compiled is not None:
            return compiled.forward(self, x)
        call = self._call(x, keep_signals)
        with self.backend.activate():
            output, signals = engines.forward(self.engine, call)
        self._keep(call, signals)
        return output

    __call__ = forward

    def backward(self, grad_output: Any, *, input_grad: bool = False, accumulate: bool = False) -> Array | None:
        """Backpropagate a gradient in the outputs through the signals that the last call kept.

        Fills ``.grad`` of parameters and signals as :meth:`loss_and_grad` does. That call's x may have been overwritten
        since, and the net's Tensors may hold other arrays: its own are used. These, and parameters of activations,
        must not have been changed in place.

        Args:
            grad_output: of the shape of the outputs.
            input_grad: return the gradient in ``x`` of that call.
            accumulate: add to the parameters' gradients instead of replacing them.
        """
        if self._kept is None:
            raise RuntimeError("no signals are kept: call net.forward(x, keep_signals=True) before net.backward")
        layers, x = self._kept
        call = Call(self.backend, self.dtype, layers, x, input_grad=input_grad, keep_signals=True)
        shape = (*call.x.shape[:-1], self.sizes[-1])
        grad_output = self.backend.asarray(grad_output, self.dtype, "grad_output")
        if grad_output.shape != shape:
            raise ValueError(f"grad_output must have the shape {shape} of the outputs, got {grad_output.shape}")
        signals = Signals([t.data for t in self.linear_outputs], [z.data for z in self.nonlinear_outputs])
        with self.backend.activate():
            gradients = layered.backward(call, signals, grad_output)
            self._store(gradients.parameters, accumulate)
        self._keep(call, gradients.signals)
        return gradients.x

    def plan(self, x: Any) -> engines.Plan:
        """Which engine ``loss_and_grad(x)`` would run on, why, and its estimated flop and bytes."""
        call = self._call(x, None, get_loss(self.loss))
        call.loss = resolved(call.loss, None, (), self.dtype).loss
        return engines.plan(self.engine, call)

    def draw(self) -> Any:
        """The chain as text, for ``print``, and as SVG, ``.svg``; see :mod:`backprop_xp.graph.drawing`."""
        from .graph.drawing import draw_chain

        return draw_chain(self)

    def to(self, backend: str | Backend) -> Net:
        """Move all parameters, and their gradients, to this backend; returns the net itself."""
        self._move(backend)
        self._keep(None, None)
        return self

    def _equation(
        self,
        equation: Equation,
        x: Any,
        y: Any,
        sample_weight: Any,
        input_grad: bool,
        accumulate: bool,
        keep_signals: bool | None,
    ) -> Any:
        if keep_signals:
            raise ValueError("an equation keeps no signals: it pushes derivatives beside them")
        loss, weights, biases, grad_x = equation.loss_and_grad(
            self._chain(), x, y, sample_weight, self.reduction == "mean", input_grad
        )
        with self.backend.activate():
            self._store([*weights, *(b for b in biases if b is not None)], accumulate)
        self._keep(None, None)
        return (loss, grad_x) if input_grad else loss

    def _chain(self) -> Chain:
        return Chain(inputs.as_layers(self), self.backend, self.dtype)

    def _needs_whole_batch(self) -> str:
        return scope.of_chain(map(get_activation, self.activations), get_loss(self.loss))

    def _call(self, x: Any, keep_signals: bool | None, loss: Any = None) -> Call:
        layers = inputs.as_layers(self)
        whole = keep_signals or (self.backend.on_gpu and scope.of_chain((layer.activation for layer in layers), loss))
        x = inputs.as_batch(x, self.sizes[0], self.backend, self.dtype, whole=bool(whole))
        keep = x.ndim == 1 if keep_signals is None else keep_signals
        if keep:  # until a backward pass, when the caller's may hold other numbers
            with self.backend.activate():
                x = x.copy()
        return Call(self.backend, self.dtype, layers, x, loss, keep_signals=keep, threads=self.threads)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_prepared": None}  # it holds addresses

    def _keep(self, call: Call | None, signals: Signals | None) -> None:
        self._kept = None if call is None or signals is None else (call.layers, call.x)
        for i, (t, z) in enumerate(zip(self.linear_outputs, self.nonlinear_outputs)):
            t.data = z.data = t.grad = z.grad = None
            if signals is not None:
                t.data, z.data = signals.linear[i], signals.nonlinear[i]
                if signals.grad_linear:
                    t.grad, z.grad = signals.grad_linear[i], signals.grad_nonlinear[i]

    def _zeros(self, n: int) -> Array:
        with self.backend.activate():
            return self.backend.xp.zeros(n, self.dtype)

    def __repr__(self) -> str:
        names = ", ".join(getattr(f, "name", type(f).__name__) for f in self.activations)
        loss = getattr(self.loss, "name", type(self.loss).__name__)
        return f"Net({'-'.join(map(str, self.sizes))}, {names}, {loss}, {self.dtype.name}, {self.backend.name})"

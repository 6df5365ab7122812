"""What every net is: settings, a loss, parameters with gradients, and calls of them.

:class:`backprop_xp.Net`, layers one after another, and :class:`backprop_xp.GraphNet`, any graph of nodes, are two ways
of writing one down. Each says what its plan is, and which Tensors hold its parameters and its signals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate as sums
from typing import TYPE_CHECKING, Any, Literal, Self, TypeGuard, get_args, overload

import numpy as np

from . import engines, inputs, scope, workspace
from .backend import Array, Backend, get_backend
from .dtypes import as_dtype
from .engines import Choice, layered
from .later import Later
from .literals import Dtype, EngineName, LossName, PrecisionName, Reduction
from .losses import Loss, averaged, check_outputs, get_loss, product, resolved
from .numbers import flag
from .passes import steps
from .plan.call import Buffered, Call, Values, as_layers
from .precision import as_precision
from .ready import calls
from .state import State
from .tensor import Tensor
from .threads import count

if TYPE_CHECKING:  # what a first pass doesn't need is imported when it is asked for, which halves the package's import
    from typing import TypedDict, Unpack

    from .derivatives.differentiable import Differentiable
    from .derivatives.equation import Equation
    from .distributed import World
    from .distributed.share import Share
    from .drawn import draw
    from .repeated import Repeated
    from .toolchain.built import Built
    from .training.fit import fit

    class CallOptions(TypedDict, total=False):
        """What :meth:`Model.loss_and_grad` takes whatever it returns."""

        sample_weight: Any
        accumulate: bool
        keep_signals: bool | None
        training: bool
        loss: LossName | Loss | Equation | None
        world: World | Share | None
        shards: bool


REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)


class Model(State):
    """What :class:`backprop_xp.Net` and :class:`backprop_xp.GraphNet` have in common."""

    #: whether weights are from N(0, 1) although nobody asked for it, and haven't been trained; `fit` warns of it
    _drawn_unasked = False

    def __init__(
        self,
        loss: LossName | Loss,
        dtype: Dtype,
        backend: str | Backend | None,
        reduction: Reduction,
        engine: EngineName,
        threads: int | None,
        precision: PrecisionName,
    ) -> None:
        self.loss = get_loss(loss)
        self.dtype = as_dtype(dtype)
        self.reduction: Reduction = inputs.one_of("reduction", reduction, REDUCTIONS)
        self.engine: EngineName = inputs.one_of("engine", engine, ("auto", *engines.ENGINES))
        self.threads = threads if threads is None else count(threads)
        self.precision = as_precision(precision, self.dtype)
        self.backend = get_backend(backend)
        #: what the signals that the net holds come from, and they themselves
        self._kept: tuple[Call, Values | Buffered] | None = None
        self._prepared: Any = None  # what ready/calls.py or ready/device.py keep

    @property
    def parameters(self) -> list[Tensor]:
        """All tensors that are trained, each once, wherever it stands in the net."""
        return list(dict.fromkeys(self._places()))

    if TYPE_CHECKING:
        draw = draw
        fit = fit
    else:
        draw = Later("drawn", "draw")
        fit = Later("training.fit", "fit")
    #: :func:`backprop_xp.exchange.save` and ``load``; the package's __init__ puts them here.
    save: Callable[..., None]
    load: Callable[..., Any]
    #: :func:`backprop_xp.ahead.compile`, from there too.
    compile: Callable[..., list[Built]]
    #: :func:`backprop_xp.explain.explain`, from there too.
    explain: Callable[..., Any]

    @overload
    def loss_and_grad(
        self, x: Any, y: Any = None, *, input_grad: Literal[False] = False, **options: Unpack[CallOptions]
    ) -> Array: ...

    @overload
    def loss_and_grad(
        self, x: Any, y: Any = None, *, input_grad: Literal[True], **options: Unpack[CallOptions]
    ) -> tuple[Array, Any]: ...

    @overload
    def loss_and_grad(self, x: Any, y: Any = None, *, input_grad: bool, **options: Unpack[CallOptions]) -> Any: ...

    def loss_and_grad(
        self,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        input_grad: bool = False,
        accumulate: bool = False,
        keep_signals: bool | None = None,
        training: bool = True,
        loss: LossName | Loss | Equation | None = None,
        world: World | Share | None = None,
        shards: bool = False,
    ) -> Any:
        """The loss of one sample or a batch; fills ``.grad`` of every parameter.

        Several threads may call :meth:`forward` of one net at once. If they call this, each computes its loss and
        gradients right, and ``.grad`` of each tensor is that of one of the calls, not necessarily of the same one.

        Args:
            x: (n, features), or (features,) for one sample; of several inputs a mapping of their names to such arrays.
            y: the target the loss takes: like the outputs, or class indices (n,) for softmax cross-entropy.
            sample_weight: (n,) factors of the samples' losses; "mean" is then the weighted mean.
            input_grad: also compute the gradient in ``x``, and return (loss, gradient); of several inputs by name.
            accumulate: add to the parameters' gradients instead of replacing them.
            keep_signals: keep ``data`` and ``grad`` of every signal; by default for one sample only.
            training: whether dropout drops anything, and batch normalisation takes the batch's mean and variance and
                moves the running ones. Each such call draws anew.
            loss: instead of the net's own; one that contains derivatives of the outputs in x is an
                :class:`backprop_xp.Equation`. "mean" divides that by the number of samples.
            world: ranks that share the batch out, each of which is given all of it and gets all gradients, see
                :func:`backprop_xp.distributed.world`. The bits are the same for any number of ranks.
            shards: each rank is given some of the batch's rows, rank 0 the first ones; some may have none.

        Returns:
            The loss, a scalar of the net's dtype (on CuPy a 0-d array); with ``input_grad`` also the gradient.
        """
        if loss is not None and _is_equation(loss):
            if world is not None:
                raise ValueError("ranks don't share equations: give a loss, or no world")
            return self._equation(loss, x, y, sample_weight, input_grad, accumulate, keep_signals, training)
        if not (input_grad or accumulate or shards) and sample_weight is None and loss is None and world is None:
            compiled = calls.find(self, x, y, keep_signals, training)
            if compiled is not None:
                return compiled.loss_and_grad(self, x, y)
        if flag("shards", shards):
            from .training.shards import Shards, parted_world

            rows = Shards(parted_world(world), self, x, y, sample_weight, None, False, loss=get_loss(loss or self.loss))
            x, y, sample_weight, _, _, world = next(rows.epoch(0, 0))
        share = None
        if world is not None:
            from .distributed import gradients as shared
            from .distributed.share import Share

            share = world if isinstance(world, Share) else None
        call = self._loss_call(x, y, sample_weight, keep_signals, training, loss, share)
        call.input_grad = input_grad
        with self.backend.activate():
            if world is None:
                result = engines.loss_and_grad(self.engine, call)
            else:
                result = shared.loss_and_grad(world, self.engine, call)
            self._store(result.parameters, accumulate)
        self._change_buffers(call)
        self._keep(call, result.values)
        return (result.loss, self._answer(call, result.inputs)) if input_grad else result.loss

    def forward(self, x: Any, *, keep_signals: bool | None = None, training: bool = False) -> Array:
        """The outputs, (n, out) or (out,), without gradients. Kept signals are what :meth:`backward` starts from."""
        compiled = calls.find_forward(self, x, keep_signals, training)
        if compiled is not None:
            return compiled.forward(self, x)
        call = self._call(x, keep_signals, training)
        self._draw(call)
        with self.backend.activate():
            output, values = engines.forward(self.engine, call)
        self._change_buffers(call)
        self._keep(call, values)
        return _as_sample(call, output)

    __call__ = forward

    @overload
    def backward(self, grad_output: Any, *, input_grad: Literal[False] = False, accumulate: bool = False) -> None: ...

    @overload
    def backward(self, grad_output: Any, *, input_grad: bool, accumulate: bool = False) -> Any: ...

    def backward(self, grad_output: Any, *, input_grad: bool = False, accumulate: bool = False) -> Any:
        """Backpropagate a gradient in the outputs through the signals that the last call kept.

        Fills ``.grad`` of parameters and signals as :meth:`loss_and_grad` does. That call's x may have been overwritten
        since, and the net's Tensors may hold other arrays: its own are used. These, and parameters of activations,
        must not have been changed in place.

        Args:
            grad_output: of the shape of the outputs.
            input_grad: return the gradient in ``x`` of that call, of several inputs by name.
            accumulate: add to the parameters' gradients instead of replacing them.
        """
        if self._kept is None:
            raise RuntimeError("no signals are kept: call net.forward(x, keep_signals=True) before net.backward")
        call, values = self._held()
        call.input_grad = input_grad
        shape = call.output_shape[-1:] if call.single else call.output_shape
        grad_output = self.backend.asarray(grad_output, self.dtype, "grad_output")
        if grad_output.shape != shape:
            raise ValueError(f"grad_output must have the shape {shape} of the outputs, got {grad_output.shape}")
        with self.backend.activate():
            result = layered.backward(call, values, _as_batch(call, grad_output))
            self._store(result.parameters, accumulate)
        self._keep(call, result.values)
        return self._answer(call, result.inputs) if input_grad else None

    def derivatives(
        self,
        x: Any,
        *wanted: str,
        inputs: str | Sequence[str] | None = None,
        outputs: str | Sequence[str] | None = None,
        direction: Any = None,
        cotangent: Any = None,
    ) -> Any:
        """Derivatives of the outputs in ``x``, for one sample or a batch, as the net is in use: nothing is dropped.

        ``net.derivatives(x, "jacobian")``, ``net.derivatives(x, "u_xx", "u_t", inputs="x t")``. They are pushed forward
        through the net together with its signals, see :mod:`backprop_xp.derivatives.loops`; parameters keep their
        gradients. Where an activation has a kink, its derivatives of higher order are those of the piece to the right.

        Args:
            x: (n, in), or (in,) for one sample, of which the results have no n; of several inputs a mapping of their
                names to such arrays, whose features then stand side by side, in the order of ``net.inputs``.
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
            ValueError: an unknown name, or shapes that don't fit. TypeError: an activation that is no formula, or an
                operation that can't be derived.
        """
        from .derivatives import of_outputs

        net = self._differentiable(training=False)
        return of_outputs.derivatives(net, self._side_by_side(x), wanted, inputs, outputs, direction, cotangent)

    def residuals(self, equation: Equation, x: Any, y: Any = None) -> Array:
        """An equation's residuals (n, residuals) at the points ``x`` with targets ``y``, as the net is in use."""
        return equation.values(self._differentiable(training=False), self._side_by_side(x), y)

    def per_sample_grads(
        self, x: Any, y: Any = None, *, training: bool = True, loss: LossName | Loss | None = None
    ) -> Array:
        """The gradients that :meth:`loss_and_grad` gives of every sample alone, (n, numbers of all parameters).

        The columns are the parameters in the order of ``net.parameters``, each flattened; ``.grad`` stays as it is.
        For private training, clip each to a norm C without storing them, with reduction="sum"::

            clipped = np.minimum(1, C / net.per_sample_norms(x, y))
            net.loss_and_grad(x, y, sample_weight=clipped)

        Args:
            x, y, training, loss: as in :meth:`loss_and_grad`; of one sample (features,) the result has no n.

        Raises:
            ValueError: something in the net or the loss looks at other samples of the batch. TypeError: an operation
                has parameters and no ``per_sample``.
        """
        return self._of_samples("gradients", x, y, training, loss)

    def per_sample_norms(
        self, x: Any, y: Any = None, *, training: bool = True, loss: LossName | Loss | None = None
    ) -> Array:
        """The Euclidean norms (n,) of :meth:`per_sample_grads`, without storing these."""
        return self._of_samples("norms", x, y, training, loss)

    def repeated(self, x: Any, y: Any = None, *, sample_weight: Any = None) -> Repeated:
        """A function that computes :meth:`loss_and_grad` of these very arrays, which may be overwritten between calls.

        On a CUDA device a call is one launch where it can be, see :class:`backprop_xp.repeated.Repeated`.
        """
        from .repeated import Repeated

        return Repeated(self, x, y, sample_weight)

    def plan(self, x: Any, loss: LossName | Loss | Equation | None = None) -> Choice:
        """Which engine ``loss_and_grad(x)``, with this loss, would run on, why, and its estimated flop and bytes."""
        if _is_equation(loss):
            from . import equations

            net = self._differentiable(training=False)
            return equations.choice(self.engine, net, loss, len(loss.points_in(net, self._side_by_side(x))))
        call = self._call(x, None, False, get_loss(self.loss if loss is None else loss))
        call.training = True  # and nothing is drawn
        call.loss = resolved(call.loss, None, (), self.dtype).loss
        return engines.choice(self.engine, call)

    def to(self, backend: str | Backend) -> Self:
        """Move all parameters, their gradients, and buffers, to this backend; returns the net itself."""
        target = get_backend(backend)
        for tensor in (*self.parameters, *self.buffers.values()):
            tensor.data = target.take(tensor.data)
            tensor.grad = target.take(tensor.grad)
        self.backend = target
        self._keep(None, None)
        return self

    def __del__(self) -> None:
        workspace.clear()

    def _repr_html_(self) -> str:
        from . import notebook

        return notebook.of_parameters(self, self._by_place().items())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_prepared": None}  # it holds addresses

    # ---- what a kind of net says of itself --------------------------------------------------------------------------

    def _signals(self) -> Mapping[str, Tensor]:
        """The Tensors for the values of nodes."""
        raise NotImplementedError

    def _now(self) -> tuple[list[Any], list[Any], list[Any], str]:
        """What a ready call depends on: parameters, signals, a chain's functions and the loss, and the reduction."""
        raise NotImplementedError

    # ---- calls ------------------------------------------------------------------------------------------------------

    def _inputs(self, x: Any, whole: bool) -> tuple[dict[str, Array], bool]:
        """Every input, checked, and whether it is one sample; not ``whole``, large ones may stay on the host.

        One sample of a list of layers is (features,), as in the article; operations take it as a batch of one.
        """
        plan = self._plan()
        widths = plan.inputs
        if not isinstance(x, Mapping):
            if len(widths) != 1:
                raise TypeError(f"the inputs are {', '.join(map(repr, widths))}: x must map their names to arrays")
            x = dict.fromkeys(widths, x)
        if x.keys() != widths.keys():
            expected, got = (", ".join(map(repr, names)) for names in (widths, x))
            raise ValueError(f"x must hold the inputs {expected}, got {got}")
        called = {name: "x" if plan.layered else f"input {name!r}" for name in widths}
        arrays = {
            name: inputs.as_batch(x[name], width, self.backend, self.dtype, called[name], whole)
            for name, width in widths.items()
        }
        if len(shapes := {array.shape[:-1] for array in arrays.values()}) != 1:
            found = ", ".join(f"{name!r} {array.shape}" for name, array in arrays.items())
            raise ValueError(f"the inputs must hold equally many samples, got {found}")
        single = shapes == {()}
        if single and not (plan.layered and plan.chain):
            arrays = {name: array[None] for name, array in arrays.items()}
        return arrays, single

    def _call(self, x: Any, keep_signals: bool | None, training: bool, loss: Any = None, whole: bool = False) -> Call:
        plan, parameters = self._plan(), self._arrays()
        whole = whole or keep_signals or not self.backend.on_gpu or bool(scope.of_plan(plan, loss, training))
        arrays, single = self._inputs(x, whole)
        keep = single if keep_signals is None else keep_signals
        if keep:  # until a backward pass, when the caller's may hold other numbers
            with self.backend.activate():
                arrays = {name: array.copy() for name, array in arrays.items()}
        return Call(
            self.backend, self.dtype, plan, parameters, arrays, loss, keep_signals=keep, threads=self.threads,
            precision=as_precision(self.precision, self.dtype), single=single, training=training,
            buffers=self._buffers(),
        )  # fmt: skip

    def _loss_call(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        keep_signals: bool | None,
        training: bool,
        loss: Any = None,
        share: Share | None = None,
    ) -> Call:
        """A call of :meth:`loss_and_grad` as it is to be run: with its targets and, in training, its keys."""
        call = self._call(x, keep_signals, training, get_loss(self.loss if loss is None else loss))
        self._aim(call, y, sample_weight, share=share)
        self._draw(call)
        return call

    def _of_samples(self, what: str, x: Any, y: Any, training: bool, loss: Any) -> Array:
        """A function of passes/per_sample.py, of a call in which every sample is a batch of its own."""
        from .passes import per_sample

        if _is_equation(loss):
            raise TypeError("gradients of single samples are those of a loss of the outputs, not of an equation")
        call = self._call(x, False, training, get_loss(self.loss if loss is None else loss), whole=True)
        self._aim(call, None if y is None else self.backend.asarray(y, None, "y"), None, alone=True)
        self._draw(call)
        if call.single and len(call.output_shape) == 1:
            inputs = {name: array[None] for name, array in call.inputs.items()}
            y, weight = (None if a is None else a[None] for a in (call.y, call.weight))
            call = replace(call, inputs=inputs, y=y, weight=weight)
        places: dict[Tensor, list[tuple[str, str]]] = {tensor: [] for tensor in self.parameters}
        for node, own in self._tensors().items():
            for name, tensor in own.items():
                places[tensor].append((node, name))
        with self.backend.activate():
            found = getattr(per_sample, what)(call, list(places.values()))
        return found[0] if call.single else found

    def _aim(self, call: Call, y: Any, sample_weight: Any, alone: bool = False, share: Share | None = None) -> None:
        """Give a call the loss and the targets, of every sample as a batch of its own, or of a rank's share of one."""
        shape = call.output_shape[-1:] if call.single else call.output_shape
        loss = call.loss
        check_outputs(loss, shape[-1])
        y = inputs.as_target(y, loss, shape, self.backend, self.dtype, call.whole)
        weight = inputs.as_sample_weight(sample_weight, shape[:-1], self.backend, self.dtype)
        with self.backend.activate():
            call.loss, call.y, factor, counts = resolved(loss, y, shape, self.dtype)
            call.weight, counts = (product(weight, self._placed(each)) for each in (factor, counts))
            if inputs.one_of("reduction", self.reduction, REDUCTIONS) == "mean":
                call.scale, call.weight = averaged(call.loss, shape, call.weight, counts, alone, share)
        call.y, call.weight = (None if a is None else _as_batch(call, a) for a in (call.y, call.weight))

    def _draw(self, call: Call) -> None:
        """Give a call in training its keys; one that was refused before takes none."""
        if call.training:
            call.keys = self._keys()

    def _differentiable(self, training: bool) -> Differentiable:
        """The net as it is now, with arrays that are checked."""
        from .derivatives.graph import Steps
        from .derivatives.loops import Chain

        plan, parameters = self._plan(), self._arrays()
        if plan.chain is not None:
            return Chain(as_layers(plan.chain, parameters), self.backend, self.dtype)
        return Steps(Call(self.backend, self.dtype, plan, parameters, {}, training=training, buffers=self._buffers()))

    def _side_by_side(self, x: Any) -> Any:
        """The features of several inputs in one array, (n, in) or (in,); of one input x as it is."""
        if len(self._plan().inputs) == 1 and not isinstance(x, Mapping):
            return x
        arrays, single = self._inputs(x, whole=True)
        with self.backend.activate():
            batch = self.backend.xp.concatenate(list(arrays.values()), axis=-1)
        return batch[0] if single and batch.ndim == 2 else batch

    def _apart(self, x: Array) -> Any:
        """A gradient in :meth:`_side_by_side`, for several inputs by name."""
        widths = self._plan().inputs
        if len(widths) == 1:
            return x
        ends = sums(widths.values())
        return {name: x[..., end - width : end] for (name, width), end in zip(widths.items(), ends)}

    def _equation(
        self,
        equation: Equation,
        x: Any,
        y: Any,
        sample_weight: Any,
        input_grad: bool,
        accumulate: bool,
        keep_signals: bool | None,
        training: bool,
    ) -> Any:
        if keep_signals:
            raise ValueError("an equation keeps no signals: it pushes derivatives beside them")
        from . import equations
        from .derivatives.graph import Steps

        x, net = self._side_by_side(x), self._differentiable(training)
        points = equation.points(net, x, y, sample_weight, self.reduction == "mean")
        if isinstance(net, Steps):
            self._draw(net.call)
        loss, gradients, grad_x = equations.loss_and_grad(self.engine, net, equation, points, input_grad, self.threads)
        with self.backend.activate():
            self._store(gradients, accumulate)
        self._keep(None, None)
        return loss if grad_x is None else (loss, self._apart(grad_x if np.ndim(x) == 2 else grad_x[0]))

    def _placed(self, weights: Array | None) -> Array | None:
        """Weights of targets that may have stayed on the host."""
        return None if weights is None else self.backend.asarray(weights, self.dtype, "the weights of classes")

    def _needs_whole_batch(self) -> str:
        """A clause about what needs the whole batch at once, "" if nothing does; see :mod:`backprop_xp.scope`."""
        return scope.of_plan(self._plan(), get_loss(self.loss), training=False)

    def _store(self, gradients: Iterable[Array], accumulate: bool) -> None:
        total: dict[Tensor, Array] = {}
        for tensor, grad in zip(self._places(), gradients, strict=True):
            total[tensor] = total[tensor] + grad if tensor in total else grad
        for tensor, grad in total.items():
            # a new array each time: one that was handed out is never overwritten
            tensor.grad = tensor.grad + grad if accumulate and tensor.grad is not None else grad

    def _keep(self, call: Call | None, values: Values | None) -> None:
        """Hold on to the signals of a call, or forget all."""
        self._kept = None if call is None or values is None else (call, values)
        for name, tensor in self._signals().items():
            tensor.data = tensor.grad = None
            if call is not None and values is not None:
                tensor.data = _as_sample(call, values.data[name])
                tensor.grad = _as_sample(call, values.grads.get(name))

    def _held(self) -> tuple[Call, Values]:
        """The call whose signals are kept, and they."""
        assert self._kept is not None
        call, values = self._kept
        if not isinstance(values, Values):
            buffer, places, changes = values
            data = {name: _as_batch(call, buffer[place]) for name, place in places.items()}
            call = replace(call, inputs={name: data[name] for name in call.inputs}, **changes)
            values = steps.again(call, data)
        return call, values

    def _answer(self, call: Call, gradients: dict[str, Array]) -> Any:
        """Gradients in the inputs as the user gets them."""
        found = {name: _as_sample(call, grad) for name, grad in gradients.items()}
        return next(iter(found.values())) if len(found) == 1 else found


def _is_equation(loss: Any) -> TypeGuard[Equation]:
    """Whether it is an Equation, of which a call with another loss imports nothing."""
    if loss is None or isinstance(loss, (str, Loss)):
        return False
    from .derivatives.equation import Equation

    return isinstance(loss, Equation)


def _as_sample(call: Call, array: Any) -> Any:
    """An array of one sample as the user knows it, (features,); a batch as it is."""
    return array[0] if array is not None and _is_batch_of_one(call) else array


def _as_batch(call: Call, array: Any) -> Any:
    """An array of one sample as the call has it, which may be (1, features); a batch as it is."""
    return array[None] if _is_batch_of_one(call) else array


def _is_batch_of_one(call: Call) -> bool:
    return call.single and len(call.output_shape) == 2

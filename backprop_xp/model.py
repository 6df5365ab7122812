"""What every net is: settings, a loss, parameters with gradients, and calls of them.

:class:`backprop_xp.Net`, layers one after another, and :class:`backprop_xp.GraphNet`, any graph of nodes, are two ways
of writing one down. Each says what its plan is, and which Tensors hold its parameters and its signals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeGuard, TypeVar, get_args, overload

from . import engines, inputs, later, scope, workspace
from .backend import Array, Backend, get_backend
from .dtypes import as_dtype
from .engines import Choice, layered
from .environment import MOST_THREADS
from .literals import Dtype, EngineName, LossName, PrecisionName, Reduction
from .losses import Loss, averaged, check_outputs, get_loss, product, resolved
from .numbers import flag, whole
from .passes import steps
from .plan.call import Buffered, Call, Values
from .precision import as_precision
from .ready import calls
from .state import State
from .tensor import Tensor

if TYPE_CHECKING:  # what a first pass doesn't need is imported when it is asked for, which halves the package's import
    from typing import TypedDict, Unpack

    from . import by_sample, derived, drawn, notebook
    from .derivatives.equation import Equation
    from .distributed import World, gradients
    from .distributed.share import Share
    from .repeated import repeated
    from .toolchain.built import Built
    from .training import shards as parted
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
else:
    derived = later.Module("backprop_xp.derived")
    gradients = later.Module("backprop_xp.distributed.gradients")
    parted = later.Module("backprop_xp.training.shards")


T = TypeVar("T")
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)


class _Checked(Generic[T]):
    """An attribute that is what a function makes of what is set; reading it costs what any attribute does."""

    def __init__(self, made: Callable[[Model, Any], T]) -> None:
        self._made = made

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __set__(self, net: Model, value: T) -> None:
        net.__dict__[self._name] = self._made(net, value)

    if TYPE_CHECKING:

        def __get__(self, net: Model, owner: type) -> T: ...


class Model(State):
    """What :class:`backprop_xp.Net` and :class:`backprop_xp.GraphNet` have in common."""

    #: whether weights are from N(0, 1) although nobody asked for it, and haven't been trained; `fit` warns of it
    _drawn_unasked = False
    loss = _Checked[Any](lambda net, loss: get_loss(loss))
    reduction = _Checked[Reduction](lambda net, name: inputs.one_of("reduction", name, REDUCTIONS))
    engine = _Checked[EngineName](lambda net, name: inputs.one_of("engine", name, ("auto", *engines.ENGINES)))
    threads = _Checked[int | None](lambda net, n: n if n is None else whole("threads", n, 1, MOST_THREADS))
    precision = _Checked[PrecisionName](lambda net, name: as_precision(name, net.dtype))

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
        self.loss = loss
        self.dtype = as_dtype(dtype)
        self.reduction = reduction
        self.engine = engine
        self.threads = threads
        self.precision = precision
        self.backend = get_backend(backend)
        #: what the signals that the net holds come from, and they themselves
        self._kept: tuple[Call, Values | Buffered] | None = None
        self._prepared: Any = None  # what ready/calls.py or ready/device.py keep

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, value in vars(cls).items():
            if isinstance(vars(Model).get(name), _Checked) and not hasattr(value, "__set__"):
                raise TypeError(f"{cls.__name__}.{name} would replace the check of net.{name}: set it in __init__")

    @property
    def parameters(self) -> list[Tensor]:
        """All tensors that are trained, each once, wherever it stands in the net."""
        return list(dict.fromkeys(self._places()))

    if TYPE_CHECKING:
        derivatives = derived.derivatives
        residuals = derived.residuals
        per_sample_grads = by_sample.per_sample_grads
        per_sample_norms = by_sample.per_sample_norms
        repeated = repeated
        draw = drawn.draw
        fit = fit
        _repr_html_ = notebook.of_net
    else:
        derivatives = later.Method("backprop_xp.derived", "derivatives")
        residuals = later.Method("backprop_xp.derived", "residuals")
        per_sample_grads = later.Method("backprop_xp.by_sample", "per_sample_grads")
        per_sample_norms = later.Method("backprop_xp.by_sample", "per_sample_norms")
        repeated = later.Method("backprop_xp.repeated", "repeated")
        draw = later.Method("backprop_xp.drawn", "draw")
        fit = later.Method("backprop_xp.training.fit", "fit")
        _repr_html_ = later.Method("backprop_xp.notebook", "of_net")
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
            return derived.loss_and_grad(
                self, loss, x, y, sample_weight, input_grad, accumulate, keep_signals, training
            )
        if not (input_grad or accumulate or shards) and sample_weight is None and loss is None and world is None:
            compiled = calls.find(self, x, y, keep_signals, training)
            if compiled is not None:
                return compiled.loss_and_grad(self, x, y)
        if flag("shards", shards):
            everybody = parted.parted_world(world)
            rows = parted.Shards(everybody, self, x, y, sample_weight, None, False, loss=get_loss(loss or self.loss))
            x, y, sample_weight, _, _, world = next(rows.epoch(0, 0))
        share = world if world is not None and isinstance(world, gradients.Share) else None
        call = self._loss_call(x, y, sample_weight, keep_signals, training, loss, share)
        call.input_grad = input_grad
        with self.backend.activate():
            if world is None:
                result = engines.loss_and_grad(self.engine, call)
            else:
                result = gradients.loss_and_grad(world, self.engine, call)
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
        return call.as_sample(output)

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
            result = layered.backward(call, values, call.as_batch(grad_output))
            self._store(result.parameters, accumulate)
        self._keep(call, result.values)
        return self._answer(call, result.inputs) if input_grad else None

    def plan(self, x: Any, loss: LossName | Loss | Equation | None = None) -> Choice:
        """Which engine ``loss_and_grad(x)``, with this loss, would run on, why, and its estimated flop and bytes."""
        if _is_equation(loss):
            return derived.plan(self, x, loss)
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

    def _call(self, x: Any, keep_signals: bool | None, training: bool, loss: Any = None, whole: bool = False) -> Call:
        plan, parameters = self._plan(), self._arrays()
        whole = whole or keep_signals or not self.backend.on_gpu or bool(scope.of_plan(plan, loss, training))
        arrays, single = inputs.as_inputs(x, plan, self.backend, self.dtype, whole)
        keep = single if keep_signals is None else keep_signals
        if keep:  # until a backward pass, when the caller's may hold other numbers
            with self.backend.activate():
                arrays = {name: array.copy() for name, array in arrays.items()}
        return Call(
            self.backend, self.dtype, plan, parameters, arrays, loss, keep_signals=keep, threads=self.threads,
            precision=self.precision, single=single, training=training,
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

    def _aim(self, call: Call, y: Any, sample_weight: Any, alone: bool = False, share: Share | None = None) -> None:
        """Give a call the loss and the targets, of every sample as a batch of its own, or of a rank's share of one."""
        shape = call.output_shape[-1:] if call.single else call.output_shape
        loss = call.loss
        check_outputs(loss, shape[-1])
        y = inputs.as_target(y, loss, shape, self.backend, self.dtype, call.whole)
        weight = inputs.as_sample_weight(sample_weight, shape[:-1], self.backend, self.dtype)
        with self.backend.activate():
            call.loss, call.y, factor, counts = resolved(loss, y, shape, self.dtype)
            call.weight, counts = (
                # those of classes come from targets that may have stayed on the host
                product(
                    weight, None if each is None else self.backend.asarray(each, self.dtype, "the weights of classes")
                )
                for each in (factor, counts)
            )
            if self.reduction == "mean":
                call.scale, call.weight = averaged(call.loss, shape, call.weight, counts, alone, share)
        call.y, call.weight = (None if a is None else call.as_batch(a) for a in (call.y, call.weight))

    def _draw(self, call: Call) -> None:
        """Give a call in training its keys; one that was refused before takes none."""
        if call.training:
            call.keys = self._keys()

    def _needs_whole_batch(self) -> str:
        """A clause about what needs the whole batch at once, "" if nothing does; see :mod:`backprop_xp.scope`."""
        return scope.of_plan(self._plan(), self.loss, training=False)

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
                tensor.data = call.as_sample(values.data[name])
                tensor.grad = call.as_sample(values.grads.get(name))

    def _held(self) -> tuple[Call, Values]:
        """The call whose signals are kept, and they."""
        assert self._kept is not None
        call, values = self._kept
        if not isinstance(values, Values):
            buffer, places, changes = values
            data = {name: call.as_batch(buffer[place]) for name, place in places.items()}
            call = replace(call, inputs={name: data[name] for name in call.inputs}, **changes)
            values = steps.again(call, data)
        return call, values

    def _answer(self, call: Call, gradients: dict[str, Array]) -> Any:
        """Gradients in the inputs as the user gets them."""
        found = {name: call.as_sample(grad) for name, grad in gradients.items()}
        return next(iter(found.values())) if len(found) == 1 else found


def _is_equation(loss: Any) -> TypeGuard[Equation]:
    """Whether it is an Equation, of which a call with another loss imports nothing."""
    return not (loss is None or isinstance(loss, (str, Loss))) and isinstance(loss, derived.Equation)

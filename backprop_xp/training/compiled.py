"""Steps of a run in calls of C, many in each, where they give the bits of those that the loop in Python makes.

:func:`why_not` says where they wouldn't. What a step computes is the same compiled code either way: the pass of
``programs/matrices.py`` or, for many samples of a small net, ``programs/narrow.py``, and the optimiser's
:class:`Update`; kernels/training_cpu.h only strings it together.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from .. import threads
from ..losses import SoftmaxCrossEntropy, averaged
from ..programs import arguments, fused, matrices, norm, structs
from ..programs.matrices import Pass
from ..programs.narrow import Narrow
from ..ready import batch, calls
from ..ready.gradients import Gradients, a_signal, drop_signals, hand_out
from ..toolchain.compiler import CompileError
from ..watched import Watched
from .batches import Rows, mapping
from .loop import Loop, Steps
from .optimisers import OPTIMISERS
from .schedules import PURE

#: Steps that are prepared for one call, the learning rate of each: twice as many as the last call made in its time, and
#: at least and at most these. Calculated: preparing one takes 2 us, and making one 5 us and more.
FEWEST, MOST = 16, 1024
#: How many tables of scalars are kept for other runs with the same settings: 3.5 MiB in all.
KEPT_TABLES = 64
#: The module of the loss_and_grad that these calls stand for; it imports this one.
MODEL = f"{__name__.split('.')[0]}.model"
#: Methods of an optimiser that one of its objects might have been given of its own.
OVERRIDDEN = {"step", "numbers", "rule"}
#: The place of the gradient among the variables of an optimiser's formula.
GRAD = 1


def why_python(loop: Loop) -> str:
    """Why the steps of the run are Python's own to make, on whatever device, "" if others can make them."""
    net, rows, optimiser = loop.net, loop.batches, loop.optimiser
    if loop.world is not None:
        return "ranks share the batches"
    own = getattr(type(net), "loss_and_grad", None)
    if getattr(own, "__module__", "") != MODEL or "loss_and_grad" in vars(net):
        return "the net has a loss_and_grad of its own"
    if not isinstance(rows, Rows):
        return "the batches are no rows of one array"
    if optimiser.evaluates:
        return "the optimiser evaluates the loss itself"
    if type(optimiser) not in OPTIMISERS.values() or OVERRIDDEN & vars(optimiser).keys():
        return "the optimiser is none of the built-in ones"
    return ""


def rows_of(loop: Loop) -> Rows:
    """The run's batches, where :func:`why_python` has nothing against it."""
    assert isinstance(loop.batches, Rows)
    return loop.batches


def why_not(loop: Loop) -> str:
    """Why Python has to make the loop's next step, "" if a call of C can make it."""
    if reason := why_python(loop):
        return reason
    net, rows, optimiser = loop.net, rows_of(loop), loop.optimiser
    if type(rows.x) is not np.ndarray:
        return "x is no array in memory"
    try:
        flat = optimiser.bind(net.parameters)
        flat.adopt()
    except (AttributeError, TypeError, ValueError) as error:
        return str(error)  # which the loop raises when it makes the step
    prepared = calls.of(net, rows.x)
    if prepared is None:
        return calls.why_not(net) or f"the engine {net.engine} was asked for"
    if prepared.chain is None:
        return "the graph is no chain"
    if reason := prepared.refuses_batches or _refuses_rows(net, prepared.chain.sizes, rows):
        return reason
    same = flat.tensors == [tensor for tensor, _ in prepared.chain.tensors]
    return "" if same else "the parameters stand in another order"


def _refuses_rows(net: Any, sizes: tuple[int, ...], rows: Rows) -> str:
    """Why these arrays can't be handed to C as they are: they need a check in every step, which may fail."""
    loss, x, y, weight = net.loss, rows.x, rows.y, rows.weight
    for array in (x, y, weight):
        if array is None:
            continue
        if type(array) is not np.ndarray or mapping(array) is not None or arguments.readable(array) is not array:
            return "x, y or sample_weight are not arrays in memory"
    if x.shape != (rows.samples, sizes[0]) or x.dtype != net.dtype:
        return "x has another shape or dtype than the net takes"
    if (y is not None) != getattr(loss, "needs_target", False):
        return "the loss needs a target, or takes none"
    if y is not None and not _is_target(net.loss, y, (rows.samples, sizes[-1]), net.dtype):
        return "y has another shape or dtype than the loss takes"
    if weight is not None and (weight.shape != (rows.samples,) or weight.dtype != net.dtype):
        return "sample_weight is not one number a sample"
    return ""


def _is_target(loss: Any, y: np.ndarray, shape: tuple[int, int], dtype: np.dtype) -> bool:
    if y.ndim == 1 and type(loss) is SoftmaxCrossEntropy:
        return y.dtype == np.int64 and y.shape == shape[:1]
    return y.dtype == dtype and (y.shape == shape or (shape[1] == 1 and y.shape == shape[:1]))


class _Raised(NamedTuple):
    """What a schedule raised when it was asked for a step's factor ahead, or a signal's handler meanwhile."""

    error: Exception
    number: int
    schedule: Any

    def again(self, step: int) -> float:
        """The schedule for that step."""
        raise self.error


class Calls:
    """The calls of C that make the steps of a run, also where it is made again."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._ready: _Ready | None = None
        self._order_of, self._order = (-1, -1), np.empty(0, np.int64)
        self._most = FEWEST
        self._raised: _Raised | None = None

    def steps(self, every: int | None = None) -> Iterator[Steps]:
        """The steps that remain of the run, those that iterating over the loop makes, many at a time.

        Args:
            every: steps that are made together end with one whose number is a multiple of it, as with an epoch's last.
        """
        while self._loop.epoch < self._loop.options.epochs:
            if made := self.make(every):
                yield made
            else:
                yield from map(Steps.of, self._loop.rest_of_epoch())

    def make(self, every: int | None) -> Steps | None:
        """Make some steps of this epoch; none where Python must, or where it will meet an exception in the next one."""
        loop, rows = self._loop, self._loop.batches
        ready = self._for_next_step()
        if ready is None or not isinstance(rows, Rows):
            return None
        until = sys.maxsize if every is None else every - loop.number % every
        scalars = self._scalars(rows.steps - loop.position, until)
        if not len(scalars):
            return None
        if self._order_of != (loop.epoch, rows.seed):
            self._order_of, self._order = (loop.epoch, rows.seed), rows.order(loop.epoch)
        try:
            ready.run(self._order, scalars)
        finally:
            made = ready.account()
            self._most = min(max(FEWEST, 2 * len(made.losses) if made else 0), MOST)
        return made

    def _for_next_step(self) -> _Ready | None:
        if self._ready is None or not self._ready.current():
            self._ready = None
            if not why_not(self._loop):
                with suppress(CompileError, MemoryError):  # met again by the engines, which know what to do
                    self._ready = _Ready(self._loop)
        return self._ready

    def _scalars(self, left: int, most: int) -> np.ndarray:
        """(steps, scalars) of the rule at each of the next steps, up to where the schedule raises an exception.

        It is raised again in that step, which Python makes.

        Args:
            left: steps of the epoch.
            most: of these, at most.
        """
        loop, raised = self._loop, self._raised
        found: list[Sequence[float]] = []
        end = min(left, most, self._most)
        if raised is not None and raised.schedule is loop.schedule:
            end = min(end, raised.number - loop.number)
        try:
            if type(loop.schedule) in PURE:
                before = min(loop.position % MOST, loop.optimiser.count)
                return table(loop, min(MOST, left + before), before)[before:][:most]
            found.extend(_scalars(loop, 0, end))
        except Exception as error:
            self._raised = raised = _Raised(error, loop.number + len(found), loop.schedule)
        if raised is not None and raised.number == loop.number and raised.schedule is loop.schedule:
            loop.schedule = raised.again
        return np.array(found, np.float64)


def table(loop: Loop, steps: int, before: int = 0) -> np.ndarray:
    """(steps, scalars) of the optimiser's rule at each step, float64, of which so many were made before.

    Kept for other runs with the same settings, if these say all.
    """
    optimiser, schedule = loop.optimiser, loop.schedule
    if type(schedule) not in PURE or steps > MOST:
        return np.array([*_scalars(loop, -before, steps - before)], np.float64)
    key = repr(optimiser), repr(schedule), loop.number - before, optimiser.count - before, steps
    found = _tables.get(key)
    if found is None:
        if len(_tables) >= KEPT_TABLES:
            _tables.clear()
        found = _tables[key] = np.array([*_scalars(loop, -before, steps - before)], np.float64)
    return found


_tables: dict[tuple[str, str, int, int, int], np.ndarray] = {}


def _scalars(loop: Loop, first: int, end: int) -> Iterator[Sequence[float]]:
    """Those of the rule at each of these steps, counted from the next one."""
    for k in range(first, end):
        rate = loop.optimiser.rate(loop.schedule(loop.number + k))
        yield loop.optimiser.numbers(rate, loop.optimiser.count + k + 1)


class _Ready:
    """A call of C with everything at hand but the rows, for a net, rows and an optimiser as they are now.

    Raises:
        CompileError, MemoryError: there can be no such call.
    """

    def __init__(self, loop: Loop) -> None:
        net, rows, optimiser = loop.net, loop.batches, loop.optimiser
        assert isinstance(rows, Rows)
        self._loop, self._rows, self._prepared, self._chain = loop, rows, net._prepared, net._prepared.chain
        self._watched = [Watched(array) for array in (rows.x, rows.y, rows.weight) if array is not None]
        self._update, self._settings = optimiser._update, (net.threads, net.precision)
        self._tensors = [tensor for tensor, _ in self._chain.tensors]
        self._signal = a_signal(net)
        self._held: list[Any] = []
        self._batch = min(rows.batch_size, rows.samples)
        self._pass = self._new_pass()
        self._narrow_from = self._samples_for_narrow()
        self._narrow = self._new_narrow() if self._batch >= self._narrow_from else None
        self._gradients, self._filled = Gradients(self._pass.parameters, net.dtype), np.empty(0, net.dtype)
        self._changed = optimiser.bind(net.parameters).grad
        self._totals: list[float] | None = None
        self.args = self._new_arguments()
        self._pointer = ctypes.addressof(self.args)

    def current(self) -> bool:
        """Whether all that :func:`why_not` looks at, and that was handed to C, is what it was."""
        loop, net = self._loop, self._loop.net
        if "loss_and_grad" in vars(net) or OVERRIDDEN & vars(loop.optimiser).keys():
            return False
        if (net.threads, net.precision) != self._settings:
            return False
        try:
            loop.optimiser.bind(net.parameters).adopt()
        except (AttributeError, TypeError, ValueError):
            return False
        if any(array.changed for array in self._watched) or calls.of(net, self._rows.x) is not self._prepared:
            return False
        return loop.optimiser._update is self._update and self._narrow_from == self._samples_for_narrow()

    def run(self, order: np.ndarray, scalars: np.ndarray) -> None:
        """Make steps from where the loop is, or some of them.

        When a signal's handler raises an exception, no thread is at work any more.

        Args:
            order: the rows of the epoch.
            scalars: (steps, scalars) of the optimiser's rule.
        """
        args, rows = self.args, self._rows
        held: list[Any] = []
        self._losses, self._filled = np.empty(len(scalars)), self._gradients.unused()
        args.rows, args.losses = arguments.address(order, held), arguments.address(self._losses, held)
        args.grads = arguments.address(self._filled, held)
        if self._reads is not None:
            self._reads[GRAD] = args.grads
        args.update.p = arguments.address(self._as_numbers(scalars), held)
        args.first, args.steps = self._loop.position * rows.batch_size, len(scalars)
        if rows.weight is not None:
            weight = rows.weight.take(order[args.first : args.first + args.steps * rows.batch_size])
            args.weight = arguments.address(weight, held)
            self._weigh(weight)
        train = self._pass.core.bpx_train
        while not train(self._pointer):
            threads.check()

    def account(self) -> Steps | None:
        """Bring the run to where the call has come: the steps that were made, None if none was."""
        loop, net, args = self._loop, self._loop.net, self.args
        done, totals = args.done, self._totals
        made = loop.made(self._losses[:done].tolist(), totals and totals[:done]) if done else None
        if args.begun:  # it has overwritten the gradients of the last step
            for tensor in self._tensors:
                tensor.grad = None
        elif done:
            hand_out(self._filled, self._tensors, self._pass)
        drop_signals(net, self._signal)
        args.done = args.begun = 0
        return made

    def _weigh(self, weight: np.ndarray) -> None:
        """Make samples' weights what their losses are multiplied by, for which a step in Python asks this function."""
        net, size = self._loop.net, self._rows.batch_size
        self._totals = []
        for at in range(0, len(weight), size):
            part = weight[at : at + size]
            self._totals.append(float(part.sum(dtype=np.float64)))
            if net.reduction == "mean":
                self.args.scale, part[...] = averaged(net.loss, (len(part), self._chain.sizes[-1]), part)
        self.args.last_scale = self.args.scale

    def _new_pass(self) -> Pass:
        """The pass with its rows and room to work, gradients in the order of the net's parameters."""
        made = Pass(self._layers(), self._loop.net.loss, self._loss_key(), self._loop.net.precision)
        made.put_weights_first()
        self._aim(made, {self._batch, self._rows.last_samples})
        return made

    def _new_narrow(self) -> Narrow:
        """The pass of the net's own, with the same rows, and gradients in the same order."""
        chain, net = self._chain, self._loop.net
        texts = tuple(f.text for f in chain.activations)
        shape = fused.Shape(chain.sizes, chain.bias, net.dtype.name, texts, self._loss_key())
        parameters = [array for weight, bias, _ in self._layers() for array in (weight, bias) if array is not None]
        made = Narrow(shape, chain.activations, parameters, net.loss)
        made.give_as(self._pass)
        self._aim(made, {self._batch})
        return made

    def _layers(self) -> list[tuple[np.ndarray, np.ndarray | None, Any]]:
        arrays, depth = [array for _, array in self._chain.tensors], len(self._chain.bias)
        rest = iter(arrays[depth:])
        biases = [next(rest) if has else None for has in self._chain.bias]
        return list(zip(arrays[:depth], biases, self._chain.activations))

    def _loss_key(self) -> Any:
        return batch.kernel(self._loop.net.loss, batch.target(self._loop.net, self._rows.y))

    def _samples_for_narrow(self) -> int:
        return fused.narrow_from(self._pass.parameters, len(self._chain.bias))

    def _aim(self, made: Pass | Narrow, samples: set[int]) -> None:
        """Let a pass read the rows, and give it room for steps of so many."""
        net, rows, args = self._loop.net, self._rows, made.args
        args.x, args.x_row, args.x_column = self._address(rows.x), *_strides(rows.x)
        if rows.y is not None:
            args.y, args.y_row, args.y_column = self._address(rows.y), *_strides(rows.y)
        args.threads, numbers = threads.count(net.threads), 0
        for args.n in samples:
            numbers = max(numbers, made.numbers())
        memory = np.empty(numbers, net.dtype)
        self._held.append(memory)
        made.use(memory)

    def _new_arguments(self) -> structs.Training:
        loop, net, rows, options = self._loop, self._loop.net, self._rows, self._loop.options
        args = structs.Training(
            call=self._pass.pointer,
            samples=rows.samples,
            batch=self._batch,
            classes=self._chain.sizes[-1] if batch.target(net, rows.y) == "classes" else 0,
            scale=self._scale(rows.batch_size),
            last_scale=self._scale(rows.last_samples),
            parameters=self._pass.parameters,
            changed=self._address(self._changed),
            stop_on_nan=options.stop_on_nan,
            threads=self._pass.args.threads,
            time=matrices.SECONDS,
        )
        if self._narrow is not None:
            args.narrow, args.run_narrow = self._narrow.pointer, self._narrow.entry
            args.narrow_from = self._narrow_from
        penalised = bool(options.l1 or options.l2)
        if penalised:
            args.penalty = loop.optimiser._penalty.sweep(self._held)
            args.penalty.p = self._address(self._as_numbers(loop.optimiser.penalties(options.l1, options.l2)))
        if options.clip_norm is not None:
            args.square_sum, args.clip_norm = norm.address(self._changed.dtype.name), options.clip_norm
        args.update = self._update.sweep(self._held)
        args.scalars = len(self._update.formula.parameters)
        self._reads = None
        if not (penalised or args.square_sum):  # the update reads the gradients where the pass leaves them
            self._reads = (structs.POINTER * args.update.inputs).from_address(args.update.reads)
        return args

    def _scale(self, samples: int) -> float:
        net = self._loop.net
        return averaged(net.loss, (samples, self._chain.sizes[-1]), None)[0] if net.reduction == "mean" else 1.0

    def _address(self, array: np.ndarray) -> int:
        return arguments.address(array, self._held)

    def _as_numbers(self, scalars: Any) -> np.ndarray:
        return np.array(scalars, np.float64).astype(self._pass.dtype)


def _strides(array: np.ndarray) -> tuple[int, int]:
    """From row to row and, where there are columns, from column to column, in numbers."""
    return arguments.stride(array, 0), arguments.stride(array, 1) if array.ndim == 2 else 1

"""Steps of a run in calls of C, many in each, where they give the bits of those that the loop in Python makes.

:func:`why_not` says where they wouldn't. What a step computes is the same compiled code either way: the pass of
``programs/matrices.py`` and the optimiser's :class:`Update`; kernels/training_cpu.h only strings it together.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from .. import threads, workspace
from ..losses import SoftmaxCrossEntropy, averaged
from ..programs import arguments, fused, matrices, norm, structs
from ..programs.matrices import Pass
from ..ready import batch, calls
from ..ready.gradients import Gradients, hand_out
from ..toolchain.compiler import CompileError
from ..workspace import recycled
from .batches import Rows, mapping
from .loop import Loop, Step
from .optimisers import OPTIMISERS

#: Steps that are prepared for one call, the learning rate of each: twice as many as the last call made in its time, and
#: at least and at most these. Calculated: preparing one takes 2 us, and making one 5 us and more.
FEWEST, MOST = 16, 1024


def steps(loop: Loop, every: int | None = None) -> Iterator[Step]:
    """The steps that remain of the run, as iterating over the loop gives them, but several are made before the first.

    Args:
        every: a step whose number is a multiple of it is given before the next one is made, as an epoch's last is.
    """
    compiled = Calls(loop)
    while loop.epoch < loop.epochs:
        yield from compiled.make(every) or loop.rest_of_epoch()


def why_not(loop: Loop) -> str:
    """Why Python has to make the loop's next step, "" if a call of C can make it."""
    from ..net import Net  # which imports this package

    net, rows, optimiser = loop.net, loop.batches, loop.optimiser
    if type(net) is not Net or "loss_and_grad" in vars(net):
        return "the net is no plain chain"
    if not isinstance(rows, Rows):
        return "the batches come from an iterable"
    if type(optimiser) not in OPTIMISERS.values() or {"step", "numbers", "rule"} & vars(optimiser).keys():
        return "the optimiser is none of the built-in ones"
    if reason := _refuses_rows(net, rows):
        return reason
    try:
        optimiser.bind(net.parameters).adopt()
    except (AttributeError, TypeError, ValueError) as error:
        return str(error)  # which the loop raises when it makes the step
    prepared = calls.of(net, rows.x)
    if prepared is None:
        return calls.refuses(net) or f"the engine {net.engine} was asked for"
    if prepared.refuses_batches:
        return prepared.refuses_batches
    if min(rows.batch_size, rows.samples) < fused.narrow_from(outputs_alone=False):
        return ""
    narrow = not fused.refuses_narrow(sum(tensor.data.size for tensor in net.parameters), len(net.weights))
    return "a batch is large enough for a pass of the net's own" if narrow else ""


def _refuses_rows(net: Any, rows: Rows) -> str:
    """Why these arrays can't be handed to C as they are: they need a check in every step, which may fail."""
    loss, x, y, weight = net.loss, rows.x, rows.y, rows.weight
    for array in (x, y, weight):
        if array is not None and not _in_memory(array):
            return "x, y or sample_weight are not arrays in memory"
    if x.shape != (rows.samples, net.sizes[0]) or x.dtype != net.dtype:
        return "x has another shape or dtype than the net takes"
    if (y is not None) != getattr(loss, "needs_target", False):
        return "the loss needs a target, or takes none"
    if y is not None and not _is_target(net, y, rows.samples):
        return "y has another shape or dtype than the loss takes"
    if weight is not None and (weight.shape != (rows.samples,) or weight.dtype != net.dtype):
        return "sample_weight is not one number a sample"
    return ""


def _in_memory(array: Any) -> bool:
    return type(array) is np.ndarray and mapping(array) is None and arguments.readable(array) is array


def _is_target(net: Any, y: np.ndarray, samples: int) -> bool:
    outputs = net.sizes[-1]
    if y.ndim == 1 and type(net.loss) is SoftmaxCrossEntropy:
        return y.dtype == np.int64 and y.shape == (samples,)
    return y.dtype == net.dtype and (y.shape == (samples, outputs) or (outputs == 1 and y.shape == (samples,)))


class Calls:
    """The calls of C that make the steps of one run."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._made_for: calls.Prepared | None = None  # the net as it was when the pass was made
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self._most = FEWEST

    def make(self, every: int | None) -> list[Step]:
        """Make some steps of this epoch; none where Python must, or where it will meet an exception in the next one."""
        loop, rows = self._loop, self._loop.batches
        if why_not(loop) or not isinstance(rows, Rows):
            return []
        until = sys.maxsize if every is None else every - loop.number % every
        scalars = self._scalars(min(self._most, rows.steps - loop.position, until))
        if not scalars:
            return []
        with recycled():
            try:
                call = self._call(rows, scalars)
            except (CompileError, MemoryError):  # met again by the engines, which know what to do
                return []
            try:
                call.run()
            finally:
                made = self._account(rows, call)
        return made

    def _scalars(self, most: int) -> list[Sequence[float]]:
        """The rule's scalars at each of the next steps, up to where the schedule raises an exception."""
        loop, optimiser = self._loop, self._loop.optimiser
        found: list[Sequence[float]] = []
        with suppress(Exception):
            for k in range(most):
                rate = optimiser.rate(loop.schedule(loop.number + k))
                found.append(optimiser.numbers(rate, optimiser.count + k + 1))
        return found

    def _call(self, rows: Rows, scalars: list[Sequence[float]]) -> _Call:
        loop, net = self._loop, self._loop.net
        if self._made_for is not net._prepared:
            self._pass = _pass(net, rows)
            self._gradients = Gradients(self._pass.parameters, net.dtype)
            self._made_for = net._prepared
        if self._epoch != loop.epoch:
            self._epoch, self._order = loop.epoch, rows.order(loop.epoch)
        return _Call(loop, rows, self._pass, self._order, scalars, self._gradients.unused())

    def _account(self, rows: Rows, call: _Call) -> list[Step]:
        """Bring the run to where the call has come."""
        loop, net, done = self._loop, self._loop.net, call.args.done
        self._most = min(max(FEWEST, 2 * done), MOST)
        made = call.steps()
        loop.optimiser.count += done
        loop.number += done
        loop.position += done
        if loop.position == rows.steps:
            loop.epoch, loop.position = loop.epoch + 1, 0
        if call.args.begun:  # it has overwritten the gradients of the last step
            for tensor in net.parameters:
                tensor.grad = None
        elif done:
            hand_out(call.gradients, [*net.weights, *net.biases], self._pass)
        batch.drop_signals(net)
        return made


def _pass(net: Any, rows: Rows) -> Pass:
    """The pass over a net's arrays as they are, with gradients in the order of its parameters. Raises CompileError."""
    if type(net.loss) is SoftmaxCrossEntropy:
        key = "classes" if batch.target(net, rows.y) == "classes" else "probabilities"
    else:
        key = net.loss.kernel
    biases = [tensor.data for tensor in net.biases] or [None] * len(net.weights)
    layers = [(weight.data, bias, f) for weight, bias, f in zip(net.weights, biases, net.activations)]
    made = Pass(layers, net.loss, key)
    made.put_weights_first()
    return made


class _Call:
    """One call of C, for steps of one epoch from where the loop is.

    Args:
        order: the rows of the epoch.
        scalars: of the optimiser's rule, for each step.
        gradients: room for them, all parameters' one after another.

    Attributes:
        args: ``done`` says how many steps were made.

    Raises:
        CompileError, MemoryError: there can be no such call.
    """

    def __init__(
        self,
        loop: Loop,
        rows: Rows,
        ready: Pass,
        order: np.ndarray,
        scalars: list[Sequence[float]],
        gradients: np.ndarray,
    ) -> None:
        net, flat = loop.net, loop.optimiser.bind(loop.net.parameters)
        self.gradients = gradients
        self._loop, self._rows, self._ready = loop, rows, ready
        self._held: list[Any] = []
        self._losses = np.empty(len(scalars))
        self.args = structs.Training(
            rows=self._address(order),
            samples=rows.samples,
            batch=min(rows.batch_size, rows.samples),
            classes=net.sizes[-1] if batch.target(net, rows.y) == "classes" else 0,
            parameters=gradients.size,
            grads=self._address(gradients),
            changed=self._address(flat.grad),
            losses=self._address(self._losses),
            stop_on_nan=loop.stop_on_nan,
            threads=threads.count(net.threads),
            time=matrices.SECONDS,
            steps=len(scalars),
            first=loop.position * rows.batch_size,
        )
        self._add_pass()
        self._add_weights(order)
        self._add_update(scalars, flat.grad)

    def run(self) -> None:
        """Make the steps, or some of them. When a signal's handler raises an exception, no thread is at work."""
        train, pointer = self._ready.core.bpx_train, ctypes.addressof(self.args)
        while not train(pointer):
            pass

    def steps(self) -> list[Step]:
        """Those that were made."""
        loop, rows = self._loop, self._rows
        made = []
        for k, loss in enumerate(self._losses[: self.args.done].tolist(), 1):
            last = loop.position + k == rows.steps
            samples = self._last if last else rows.batch_size
            weight = self._totals[k - 1] if self._totals else samples
            made.append(Step(loop.number + k, loop.epoch + 1, loss, samples, last, weight))
        return made

    def _add_pass(self) -> None:
        rows, args = self._rows, self._ready.args
        self.args.call = self._ready.pointer
        args.x = self._address(rows.x)
        args.x_row, args.x_column = arguments.stride(rows.x, 0), arguments.stride(rows.x, 1)
        if rows.y is not None:
            args.y, args.y_row = self._address(rows.y), arguments.stride(rows.y, 0)
            args.y_column = arguments.stride(rows.y, 1) if rows.y.ndim == 2 else 1
        args.threads = self.args.threads
        numbers = 0
        for args.n in {min(rows.batch_size, rows.samples), self._last}:
            numbers = max(numbers, self._ready.numbers())
        memory = workspace.empty((numbers,), self.gradients.dtype)
        self._held.append(memory)
        self._ready.use(memory)

    def _add_weights(self, order: np.ndarray) -> None:
        """What the losses are multiplied by, for which the loop in Python asks the same function in every step."""
        net, rows, args = self._loop.net, self._rows, self.args
        mean, outputs = net.reduction == "mean", net.sizes[-1]
        self._totals: list[float] = []
        args.scale = args.last_scale = 1.0
        if rows.weight is None:
            if mean:
                args.scale = averaged(net.loss, (rows.batch_size, outputs), None)[0]
                args.last_scale = averaged(net.loss, (self._last, outputs), None)[0]
            return
        weight = rows.weight.take(order[args.first : args.first + args.steps * rows.batch_size])
        args.weight = self._address(weight)
        for at in range(0, len(weight), rows.batch_size):
            part = weight[at : at + rows.batch_size]
            self._totals.append(float(part.sum(dtype=np.float64)))
            if mean:
                args.scale, part[...] = averaged(net.loss, (len(part), outputs), part)
        args.last_scale = args.scale

    def _add_update(self, scalars: list[Sequence[float]], changed: np.ndarray) -> None:
        optimiser, options, args = self._loop.optimiser, self._loop.options, self.args
        penalised = options["l1"] or options["l2"]
        if penalised:
            args.penalty = optimiser._penalty.sweep(self._held)
            args.penalty.p = self._numbers(optimiser.penalties(options["l1"], options["l2"]))
        if options["clip_norm"] is not None:
            args.square_sum, args.clip_norm = norm.address(changed.dtype.name), options["clip_norm"]
        grad = self.gradients if not (penalised or args.square_sum) else changed
        args.update = optimiser._update.sweep(self._held, grad=grad)
        args.update.p, args.scalars = self._numbers(scalars), len(scalars[0])

    @property
    def _last(self) -> int:
        """Samples of the epoch's last step."""
        rows = self._rows
        return rows.samples - (rows.steps - 1) * rows.batch_size

    def _address(self, array: np.ndarray) -> int:
        return arguments.address(array, self._held)

    def _numbers(self, scalars: Any) -> int:
        return self._address(np.array(scalars, np.float64).astype(self.gradients.dtype))

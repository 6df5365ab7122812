"""Runs of many nets of one shape on a CUDA device, whose steps are a few launches for all of them together.

Each net gets the bits of a run of its own: its batches go through the kernel for one net (ready/side_by_side.py), and
the optimiser's formula is computed of the same numbers. :func:`why_not` says where that can't be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from ..formulas import device
from ..losses import get_loss
from ..plan.call import Call
from ..programs import arguments
from ..ready import side_by_side
from ..ready.gradients import a_signal, drop_signals
from ..ready.side_by_side import SideBySide
from ..toolchain.compiler import CompileError
from . import compiled
from .fit import Run
from .lookout import look
from .loop import Steps
from .nan import DivergedError, diverged
from .optimiser import formula


def train(runs: Mapping[Any, Run]) -> dict[Any, str]:
    """Make all steps of runs whose nets are on one device, the current one. Each run's history says how it ended.

    Returns:
        Why some of them were made one after another.
    """
    alone = {k: why_not(run) for k, run in runs.items()}
    kinds: dict[Any, list[Any]] = {}
    for k, run in runs.items():
        if not alone[k]:
            kinds.setdefault(_kind(run), []).append(k)
    for kind in kinds.values():
        for first in range(0, len(kind), side_by_side.MOST_NETS):
            some = kind[first : first + side_by_side.MOST_NETS]
            try:
                together = Together([runs[k] for k in some])
            except (CompileError, MemoryError) as error:
                alone |= dict.fromkeys(some, str(error))
            else:
                together.go()
    alone = {k: reason for k, reason in alone.items() if reason}
    for k in alone:
        with suppress(DivergedError):
            runs[k].go(None, False)
    return alone


def why_not(run: Run) -> str:
    """Why a run can't be one of many, "" if it can."""
    loop, options = run.loop, run.loop.options
    if reason := compiled.why_python(loop):
        return reason
    net, rows = loop.net, compiled.rows_of(loop)
    if run.callbacks:
        return "callbacks may change the net"
    if options.clip_norm is not None or options.l1 or options.l2:
        return "gradients are clipped or penalised"
    if not options.stop_on_nan:
        return "stop_on_nan is off"
    if rows.weight is not None:
        return "samples have weights"
    for array in (rows.x, rows.y):
        if array is not None and not (type(array) is net.backend.xp.ndarray and array.flags.c_contiguous):
            return "x or y is no contiguous array on the device"
    tensors = net._places()
    if len({*tensors}) != len(tensors):
        return "layers share a Tensor"
    if run.flat.tensors != sorted(tensors, key=lambda tensor: tensor.data.ndim < 2):
        return "the parameters stand in another order"
    reasons = (side_by_side.why_not(net.engine, call) for call in _examples(run).values())
    return next(filter(None, reasons), "")


def _examples(run: Run) -> dict[int, Call]:
    """Calls like those of the run's batches, by the number of samples."""
    net, rows = run.loop.net, compiled.rows_of(run.loop)
    found = {}
    for samples in {min(rows.batch_size, rows.samples), rows.last_samples}:
        found[samples] = call = net._call(rows.x[:samples], None, True, get_loss(net.loss))
        net._aim(call, None if rows.y is None else rows.y[:samples], None)
    return found


def _kind(run: Run) -> Any:
    """Equal for runs that can be made together."""
    rows = compiled.rows_of(run.loop)
    calls = [(arguments.shape(c), tuple(arguments.scalars(c)), c.samples, c.scale) for c in _examples(run).values()]
    data = [None if array is None else (array.data.ptr, array.strides) for array in (rows.x, rows.y)]
    return tuple(calls), rows.samples, rows.batch_size, *data, run.loop.optimiser.rule()


class Together:
    """Runs of one kind that have made no step. Raises CompileError, MemoryError."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        loop, flat = runs[0].loop, runs[0].flat
        self._rows, self._xp, rule = compiled.rows_of(loop), loop.net.backend.xp, loop.optimiser.rule()
        shape = len(runs), flat.data.size
        #: of each net a row: the parameters and the optimiser's state
        self._arrays = {name: self._xp.empty(shape, flat.dtype) for name in ("w", *rule.state)}
        #: of each net the step whose loss wasn't finite, -1 if it is left alone, and 0 if it goes on
        self._ended = self._xp.zeros(len(runs), np.int64)
        self._formula, self._scalars = formula(rule, columns=True), rule.scalars
        self._own = len({(rows.seed, rows.shuffle) for rows in (compiled.rows_of(run.loop) for run in runs)}) > 1
        self._calls = {
            samples: SideBySide(call, self._arrays["w"], self._own, self._ended)
            for samples, call in _examples(runs[0]).items()
        }
        for k, run in enumerate(runs):
            run.loop.optimiser.move(run.loop.net.parameters, {name: a[k] for name, a in self._arrays.items()})

    def go(self) -> None:
        """Make all steps."""
        left = {
            k: run.epochs(self._steps(k), all_finite=partial(self._all_finite, k)) for k, run in enumerate(self._runs)
        }
        try:
            while left:
                loops = {k: self._runs[k].loop for k in left}
                if going := [k for k, loop in loops.items() if loop.epoch < loop.options.epochs]:
                    self._make_epoch(going)
                for k, epochs in [*left.items()]:
                    try:
                        next(epochs)
                        continue
                    except StopIteration:
                        pass
                    except DivergedError as error:
                        self._runs[k].end(error)
                    self._runs[k].put_back_the_best()
                    del left[k]
        except BaseException as error:
            for k in left:
                self._runs[k].end(error)
                self._runs[k].put_back_the_best()
            raise

    def _make_epoch(self, going: Sequence[int]) -> None:
        """Make the steps of these runs' next epoch, which is of one number."""
        xp, rows, loop = self._xp, self._rows, self._runs[going[0]].loop
        ended = np.full(len(self._runs), -1, np.int64)
        ended[going] = 0
        self._ended.set(ended)
        order, scalars = self._order(going), self._all_scalars(going)
        shape, dtype = self._arrays["w"].shape, self._arrays["w"].dtype
        gradients, losses, values = xp.empty(shape, dtype), xp.empty(shape[0], dtype), xp.empty((rows.steps, shape[0]))
        stream, at = xp.cuda.get_current_stream().ptr, 0
        for step in range(rows.steps):
            samples = min(rows.batch_size, rows.samples - step * rows.batch_size)
            chosen = order[at : (at := at + samples * (shape[0] if self._own else 1))]
            x, y = (None if array is None else array.take(chosen, axis=0) for array in (rows.x, rows.y))
            self._calls[samples](x, y, gradients, losses, stream)
            look(losses, loop.number + step + 1, values[step], self._ended)
            arrays = {"grad": gradients, **self._arrays, **dict(zip(self._scalars, scalars[step]))}
            device.update(xp, self._formula, arrays, (), self._ended)
        self._gradients, self._losses, self._first = gradients, values.get(), self._ended.get()
        self._finite: np.ndarray | None = None

    def _order(self, going: Sequence[int]) -> Any:
        """The rows of an epoch, step by step, and in each, if they have orders of their own, net by net."""
        rows, epoch = self._rows, self._runs[going[0]].loop.epoch
        if not self._own:
            return self._xp.asarray(rows.order(epoch))
        orders = np.zeros((len(self._runs), rows.samples), np.int64)
        for k in going:
            orders[k] = compiled.rows_of(self._runs[k].loop).order(epoch)
        parts = [orders[:, at : at + rows.batch_size].ravel() for at in range(0, rows.samples, rows.batch_size)]
        return self._xp.asarray(np.concatenate(parts))

    def _all_scalars(self, going: Sequence[int]) -> Any:
        """(steps, scalars, nets) of the optimisers' rule at the steps of an epoch."""
        found = np.zeros((self._rows.steps, len(self._scalars), len(self._runs)), self._arrays["w"].dtype)
        for k in going:
            found[:, :, k] = compiled.table(self._runs[k].loop, self._rows.steps)
        return self._xp.asarray(found)

    def _steps(self, k: int) -> Iterator[Steps]:
        """Of one run, an epoch at a time, which must be made by then."""
        loop, flat = self._runs[k].loop, self._runs[k].flat
        ends = np.cumsum([view.size for view in flat.views]).tolist()
        places = [slice(end - view.size, end) for end, view in zip(ends, flat.views)]
        while loop.epoch < loop.options.epochs:
            first, epoch = int(self._first[k]), loop.epoch
            losses = self._losses[:, k].tolist()
            done = first - loop.number - 1 if first else len(losses)
            for tensor, view, at in zip(flat.tensors, flat.views, places):
                tensor._later = (self._gradients[k], None, at, view.shape)
            drop_signals(loop.net, a_signal(loop.net))
            made = loop.made(losses[:done])
            if first:
                raise diverged(loop.net, next(iter(loop.batches.epoch(epoch, done))), first, losses[done], None)
            yield made

    def _all_finite(self, k: int) -> bool:
        """Whether all parameters of a net are finite after the last epoch made."""
        if self._finite is None:
            self._finite = self._xp.isfinite(self._arrays["w"]).all(axis=1).get()
        return bool(self._finite[k])

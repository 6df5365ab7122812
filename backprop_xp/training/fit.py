"""Fitting a net: the loop with everything around it that a long run needs."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import inputs, threads
from ..derivatives.equation import Equation
from ..distributed import World
from ..keywords import known_options
from ..literals import OptimiserName, ScheduleName
from ..losses import Loss, get_loss, terms
from ..numbers import as_seed, flag, is_number, whole
from .batches import Batches, Rows, is_iterable_of_batches
from .buffers import Buffers
from .checkpoints import Folder
from .compiled import Calls
from .early import EarlyStopping
from .history import Epoch, History
from .loop import Loop, Options, Steps
from .nan import check_parameters
from .optimiser import Optimiser
from .options import arguments
from .point_sets import PointSets, as_sets, as_source, is_point_sets, named
from .progress import Progress
from .ranks import Ranks
from .resume import Saver
from .shards import Shards, parted_world

AT_ONCE = 4096  # samples that a loss without gradients is computed of, unless something needs all of them


@known_options
def fit(
    net: Any,
    x: Any,
    y: Any = None,
    *,
    epochs: int = 1,
    batch_size: int | Mapping[str, int | None] | None = 128,
    optimiser: OptimiserName | Optimiser = "adam",
    schedule: ScheduleName | Callable[[int], float] | None = None,
    validation: Any = None,
    sample_weight: Any = None,
    clip_norm: float | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    shuffle: bool = True,
    seed: int | None = 0,
    early_stopping: EarlyStopping | int | None = None,
    callbacks: Sequence[Callable[[Any, Epoch], Any]] = (),
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
    stop_on_nan: bool = True,
    world: World | None = None,
    shards: bool = False,
) -> History:
    """Train a net, and say what it came to; :meth:`backprop_xp.Net.fit` is this function.

    The same arguments give the same parameters, bit for bit; with ``resume``, also if the run from arrays was killed
    and started again any number of times.

    An exception that ends a run, KeyboardInterrupt included, carries what the run came to as its ``history``.

    Args:
        net: has ``parameters``, ``loss_and_grad`` and ``forward``.
        x: (n, features), or by name for several inputs; a ``numpy.memmap`` is read batch by batch; or an iterable of
            batches (x, y) or (x, y, sample_weight), which is gone through once an epoch; or several point sets by name,
            each a :class:`PointSet` or a tuple (x, loss), (x, y) or (x, y, loss), with its weight as a last part if
            that isn't 1: ``{"inside": (points, heat), "wall": (xw, yw, "mse", 10.0)}``. The loss is then their weighted
            sum; every step takes a batch of each, and an epoch is a pass over the set that needs the most steps, in
            which the others begin again when they are through.
        y: targets, one row a sample, where the loss takes them.
        epochs: passes over the data.
        batch_size: samples a step; an epoch's last batch has what is left. None takes all at once. Of point sets, a
            number for all, or a mapping of their names to numbers.
        optimiser: a name, or an object such as ``SGD(lr=0.1, momentum=0.9)``, which keeps its state.
        schedule: "constant", "cosine" over the whole run, or a function from the step (from 0) to a factor of lr. It is
            asked for many steps of an epoch before they are made.
        validation: (x, y), or (x,) where the loss takes no target, or point sets by name: its loss is computed after
            every epoch.
        sample_weight: (n,) factors of the samples' losses. A batch in which all are 0 makes a step with a loss and a
            gradient of 0, by momentum or weight decay alone.
        clip_norm: the Euclidean norm to which longer gradients are scaled down.
        l1, l2: penalties l1 sum |w| + l2 / 2 sum w^2 on the weights, not on biases.
        shuffle: in which order rows are taken depends on the seed and the epoch alone.
        seed: an integer from 0 on. None draws one, which ``history.seed`` tells, and with which a resumed run goes on.
        early_stopping: an EarlyStopping, or its patience: ends a run that no longer improves, and puts back the best
            parameters, also if the run ends by itself or by an exception. It looks at the validation loss, or without
            validation data at the training loss.
        callbacks: each is called with (net, Epoch) after every epoch; one that returns True ends the run.
        progress: None shows it where standard error is a terminal.
        checkpoint: a folder of this run's own, for its state after every ``checkpoint_every`` steps and at its end.
        resume: go on from the folder's last checkpoint, if there is one.
        stop_on_nan: raise DivergedError instead of making a step whose loss isn't finite. On CuPy the step isn't made
            either, but the error is raised one step later, or at the end of the epoch, so that no step waits for it.
        world: ranks that share out every batch, see :func:`backprop_xp.distributed.world`; each is given all data. The
            first writes checkpoints, in a folder that all can read. The same bits for any number of ranks.
        shards: each rank is given some of the rows, of x, y, sample_weight and validation; numbers may differ.
            The run is that of one rank with all of them, rank 0's first: before each step, rows travel to the rank that
            computes them.

    Raises:
        DivergedError: see ``stop_on_nan``. CheckpointError: the folder or a checkpoint can't be used.
        RankError: ranks were given different arguments, or came to different parameters.
    """
    given = arguments(locals())
    with net.backend.activate():
        run = planned(given)
        warn_of_defaults(net)
        return run().carry_out(checkpoint, checkpoint_every, resume, progress)


def planned(given: Mapping[str, Any]) -> partial[Run]:
    """What makes the run; what was given is checked by then. On a CUDA device, the net's must be the current one.

    Args:
        given: all arguments of :func:`fit` by name; those that say what is shown and saved aren't looked at.
    """
    net, ranks = given["net"], Ranks(given["world"])
    parted = parted_world(given["world"]) if flag("shards", given["shards"]) else None
    x, y, weight = (given[name] for name in ("x", "y", "sample_weight"))
    batches = _source(net, x, y, weight, given["batch_size"], given["shuffle"], ranks.seed(given["seed"]), parted)
    loop = Loop(net, batches, Options(**{option.name: given[option.name] for option in fields(Options)}))
    held_out = None if given["validation"] is None else _held_out(net, given["validation"], parted)
    return partial(Run, loop, held_out, _as_stopping(given["early_stopping"]), given["callbacks"], ranks)


def _source(
    net: Any, x: Any, y: Any, weight: Any, batch_size: Any, shuffle: bool, seed: int | None, world: World | None
) -> Batches:
    """The batches of what a run was given, or, in a world, what each rank was given some rows of."""
    if world is None:
        return as_source(net, x, y, weight, batch_size, shuffle, seed)
    if is_point_sets(x) or is_iterable_of_batches(x):
        raise ValueError("ranks have some rows each of arrays, not of point sets or an iterable: give no shards")
    return Shards(world, net, x, y, weight, batch_size, shuffle, seed)


def warn_of_defaults(net: Any) -> None:
    """Say once what to set for a net whose weights are the article's by default, though it is another net."""
    if not getattr(net, "_drawn_unasked", False):
        return
    net._drawn_unasked = False
    averages = "" if getattr(net, "reduction", "mean") == "mean" else ', and reduction="mean" for a loss per sample'
    warnings.warn(
        "the weights of this net were drawn from N(0, 1), as the article's, with which wide nets train badly: set "
        f'init="glorot_uniform", or "he_normal" for relu{averages}; init="normal" keeps N(0, 1) without this warning',
        stacklevel=4,  # whoever calls fit, which is wrapped
    )


class Run:
    """A run and what it has come to so far.

    Attributes:
        total, weight: the sum of the losses of this epoch's samples, and what an average divides it by.
        terms: the same two numbers for each of several point sets, by name.
        settings: the optimiser's when the run began.
    """

    def __init__(
        self,
        loop: Loop,
        held_out: HeldOut | None,
        stopping: EarlyStopping | None,
        callbacks: Sequence[Callable[..., Any]],
        ranks: Ranks,
    ) -> None:
        self.ranks = ranks
        self.loop, self.held_out, self.stopping, self.callbacks = loop, held_out, stopping, callbacks
        self.history = History(seed=getattr(loop.batches, "seed", None))
        self._begin_epoch()
        self.settings = loop.optimiser.settings()
        self.flat = loop.optimiser.bind(loop.net.parameters)
        self.buffers = Buffers(loop.net, self.flat)
        self._calls = Calls(loop)
        if stopping is not None:
            stopping.begin()

    def _begin_epoch(self) -> None:
        self.total, self.weight = 0.0, 0.0
        self.terms: dict[str, tuple[Any, Any]] = {}

    def restart(self, optimiser: Optimiser, schedule: Any, seed: Any) -> None:
        """Begin anew, with a history of its own, and the settings of a new optimiser of the same class."""
        self.loop.restart(optimiser, schedule)
        if isinstance(self.loop.batches, Rows):
            self.loop.batches.seed = as_seed(seed)
        self.history = History(seed=getattr(self.loop.batches, "seed", None))
        self._begin_epoch()
        if self.stopping is not None:
            self.stopping.begin()

    def carry_out(
        self, checkpoint: str | os.PathLike[str] | None, every: int, resume: bool, shown: bool | None
    ) -> History:
        """Make the steps that remain, with what is shown and saved as :func:`fit` is asked for it."""
        self.ranks.begin(self, checkpoint, every, resume)
        shown = shown if self.ranks.first else False
        if checkpoint is None:
            return self.go(None, shown)
        with Folder(checkpoint) if self.ranks.first else nullcontext() as folder:
            return self.go(Saver(self, folder, every, flag("resume", resume)), shown)

    def go(self, saver: Saver | None, shown: bool | None) -> History:
        """Make the steps that remain."""
        steps = self._calls.steps(None if saver is None else saver.every)
        try:
            for _ in self.epochs(steps, saver, shown):
                pass
        except BaseException as error:
            self.end(error)
            raise
        finally:
            self.put_back_the_best()
        return self.history

    def go_on_with(self, seed: Any) -> None:
        """Take the seed of the run that is resumed, unless this one was given its own."""
        batches = self.loop.batches
        if isinstance(batches, (Rows, PointSets)) and batches.drawn and seed is not None:
            batches.seed = self.history.seed = whole("seed", seed)

    def epochs(
        self,
        steps: Iterator[Steps],
        saver: Saver | None = None,
        shown: bool | None = False,
        all_finite: Callable[[], bool] = lambda: False,
    ) -> Iterator[None]:
        """Go through steps as they are made; each turn ends with an epoch's. What ends it early is left to the caller.

        Args:
            steps: those that remain.
            all_finite: says, in the end, that no parameter is NaN or infinite; else they are looked at.
        """
        net, loop = self.loop.net, self.loop
        if loop.epoch == loop.options.epochs or self.history.stopped:
            return
        progress = Progress(loop.steps, loop.number, shown)
        started, loss = time.perf_counter(), float("nan")
        try:
            for made in steps:
                threads.check()
                loss = made.losses[-1]
                self._add(made)
                progress.steps(made.number, made.samples, loss)
                if made.last:
                    self._end_epoch(made, time.perf_counter() - started)
                    started = time.perf_counter()
                if saver is not None:
                    saver.after(made.number)
                if self.history.stopped:
                    break
                if made.last:
                    yield
            if loop.options.stop_on_nan and not all_finite():
                check_parameters(net, loop.number, loop.saved)
            if saver is not None:
                saver.finish()
        finally:
            progress.close(loop.number, float(loss))

    def end(self, error: BaseException) -> None:
        """Say why the run ends early, to whoever has its history and to whoever meets the exception."""
        self.history.stopped = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        error.__dict__["history"] = self.history

    def put_back_the_best(self) -> None:
        """Let the net have the parameters that early stopping has kept, if there are any."""
        if self.stopping is not None and self.stopping.best is not None:
            self.buffers.restore_with_parameters(self.stopping.best)
            self.history.best = self.stopping.epoch

    def _add(self, made: Steps) -> None:
        """Add up the losses of these steps."""
        averages = getattr(self.loop.net, "reduction", "sum") == "mean"
        for loss, samples, weight in zip(made.losses, made.samples, made.weights):
            self.total += loss * weight if averages else loss
            self.weight += weight if averages else samples
        for name, (term, counts) in (made.terms or {}).items():
            total, weight = self.terms.get(name, (0.0, 0.0))
            self.terms[name] = total + (term * counts if averages else term), weight + counts

    def _end_epoch(self, made: Steps, seconds: float) -> None:
        net = self.loop.net
        held_out = None if self.held_out is None else _average_loss(net, self.held_out)
        terms = {name: _average(float(total), float(weight)) for name, (total, weight) in self.terms.items()} or None
        loss = _average(float(self.total), float(self.weight))
        if terms is not None and isinstance(self.loop.batches, PointSets):
            loss = sum(self.loop.batches.weights[name] * term for name, term in terms.items())
        epoch = Epoch(made.epoch, made.number, loss, held_out, seconds, terms)
        self._begin_epoch()
        self.history.epochs.append(epoch)
        if self.stopping is not None:
            value, what = (epoch.loss, "training loss") if held_out is None else (held_out, "validation loss")
            self.flat.adopt()
            now = self.buffers.with_parameters()
            if self.stopping.no_longer(value, epoch.number, now, self.loop.optimiser.maximize):
                self.history.stopped = self.stopping.reason(what)
        for callback in self.callbacks:
            answer = callback(net, epoch)
            if isinstance(answer, (bool, np.bool_)) and answer:
                self.history.stopped = self.history.stopped or "a callback asked for it"
        self.history.stopped = self.ranks.end_epoch(self)


def evaluate(net: Any, x: Any, y: Any = None, *, world: World | None = None) -> float:
    """The average loss over these samples, computed in batches; the arguments are those of :func:`fit`.

    Each rank of a ``world`` is given some of the rows, and gets the loss over all.
    """
    return _average_loss(net, _held_out(net, (x, y), world))


def _average(total: float, weight: float) -> float:
    if weight == 0:  # weights that are all 0, or that cancel each other
        return 0.0 if total == 0 else math.nan
    return total / weight


def _as_stopping(early_stopping: Any) -> EarlyStopping | None:
    if early_stopping is None or isinstance(early_stopping, EarlyStopping):
        return early_stopping
    if not is_number(early_stopping):
        raise TypeError(f"early_stopping must be an EarlyStopping, or its patience, got {early_stopping!r}")
    return EarlyStopping(early_stopping)


class HeldOut(NamedTuple):
    """What validation looks at: the rows of every term with its weight; one alone is called ""."""

    rows: dict[str, Rows]
    weights: dict[str, float]


def _average_loss(net: Any, held_out: HeldOut) -> float:
    total = 0.0
    for name, rows in held_out.rows.items():
        with named(name) if name else nullcontext():
            total += held_out.weights[name] * _average_of(net, rows)
    return total


def _average_of(net: Any, rows: Rows) -> float:
    loss, total, counted = get_loss(net.loss) if rows.loss is None else rows.loss, 0.0, 0.0
    averages = getattr(net, "reduction", "sum") == "mean"
    for batch in rows.epoch(0, 0):
        if isinstance(loss, Equation):
            residuals = net.residuals(loss, batch.x, batch.y)
            total += 0.5 * float((residuals * residuals).sum(dtype=np.float64))
            counted += len(residuals)
            continue
        z = net.forward(batch.x)
        with net.backend.activate():
            target = inputs.as_target(batch.y, loss, z.shape, net.backend, net.dtype)
            value = loss(z) if target is None else loss(z, target)
            total += float(value) / (terms(loss, z.shape[-1]) if averages else 1)
            counts = (
                loss.counts(target, net.dtype) if averages and isinstance(loss, Loss) and target is not None else None
            )
            counted += len(z) if counts is None else float(counts.sum())
    return total / counted if counted else 0.0


def _held_out(net: Any, validation: Any, world: World | None = None) -> HeldOut:
    if world is None and is_point_sets(validation):
        sets = as_sets(validation)
        for name, each in sets.items():
            if each.sample_weight is not None:
                raise ValueError(f"point set {name!r}: validation takes no sample_weight")
        given = PointSets(net, sets, None if _whole_batch(net) else AT_ONCE, shuffle=False, seed=0)
        return HeldOut(given.rows, given.weights)
    if not isinstance(validation, (tuple, list)) or not 1 <= len(validation) <= 2:
        raise ValueError("validation must be (x, y), or (x,) where the loss takes no target, or point sets by name")
    x, y = (*validation, None)[:2]
    at_once = None if _whole_batch(net) else AT_ONCE
    if world is None:
        rows = Rows(net, x, y, None, at_once, shuffle=False)
    else:
        rows = Shards(world, net, x, y, None, at_once, shuffle=False, whole=True)
    return HeldOut({"": rows}, {"": 1.0})


def _whole_batch(net: Any) -> bool:
    """Whether the loss must be computed of all samples at once; other trainers' nets don't say."""
    return bool(hasattr(net, "_needs_whole_batch") and net._needs_whole_batch())

"""The training loop itself: batch, gradients, step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..distributed import World
from ..keywords import known_options
from ..literals import OptimiserName, ScheduleName
from ..numbers import flag, whole
from .batches import AnyBatch, Batches, Rows
from .buffers import undo
from .lookout import Lookout, Seen
from .nan import diverged
from .optimiser import Optimiser, as_clip_norm, not_negative
from .optimisers import get_optimiser
from .point_sets import PointSets, as_source, named
from .schedules import get_schedule


class Step(NamedTuple):
    """One step of a run, just made.

    Attributes:
        number: of the step, from 1.
        epoch: its epoch, from 1.
        loss: of its batch, before the step; on CuPy a 0-d array, so that nothing waits for it.
        samples: in its batch.
        last: whether it was the epoch's last.
        weight: what its samples count for in a mean, all together: their number, unless samples or classes have
            weights; of the same kind as the loss.
        terms: by the names of several point sets the loss of each, and what an average over several of its batches
            weighs it with; None without such.
    """

    number: int
    epoch: int
    loss: Any
    samples: int
    last: bool
    weight: Any
    terms: Mapping[str, tuple[Any, Any]] | None = None


class Steps(NamedTuple):
    """Steps of one epoch that were made one after another, at least one.

    Attributes:
        number, epoch: of the last one, as in :class:`Step`.
        losses, samples, weights: of each.
        last: whether the last one was the epoch's.
        terms: of the last one.
    """

    number: int
    epoch: int
    losses: Sequence[Any]
    samples: Sequence[int]
    weights: Sequence[Any]
    last: bool
    terms: Mapping[str, tuple[Any, Any]] | None = None

    @classmethod
    def of(cls, step: Step) -> Steps:
        """One alone."""
        return cls(step.number, step.epoch, [step.loss], [step.samples], [step.weight], step.last, step.terms)


@dataclass(frozen=True)
class Options:
    """How a run trains, with whatever samples: options of :func:`backprop_xp.training.fit`, checked as this is made."""

    epochs: int
    optimiser: Any
    schedule: ScheduleName | Callable[[int], float] | None
    clip_norm: float | None
    l1: float
    l2: float
    stop_on_nan: bool
    world: World | None = None

    def __post_init__(self) -> None:
        checked = {
            "epochs": whole("epochs", self.epochs),
            "optimiser": get_optimiser(self.optimiser),
            "clip_norm": None if self.clip_norm is None else as_clip_norm(self.clip_norm),
            "l1": not_negative("l1", self.l1),
            "l2": not_negative("l2", self.l2),
            "stop_on_nan": flag("stop_on_nan", self.stop_on_nan),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def of_steps(self) -> dict[str, Any]:
        """Those that every step of the optimiser is given."""
        return {"clip_norm": self.clip_norm, "l1": self.l1, "l2": self.l2}


class Loop:
    """A run that can be at any step: iterate over it to make the steps that remain.

    Attributes:
        schedule: the factor of the learning rate at a step, from 0.
        steps: of the whole run, None if nobody knows.
        number: how many steps were made.
        epoch, position: the epoch that the next step belongs to, from 0, and its place in it.
        saved: the last checkpoint, for messages.
        world: the ranks that share out every batch, None without.
    """

    def __init__(self, net: Any, batches: Batches, options: Options) -> None:
        self.net, self.batches, self.options, self.world = net, batches, options, options.world
        _check_last_batch(net, batches)
        self.optimiser: Optimiser = options.optimiser
        self.steps = None if batches.steps is None else batches.steps * options.epochs
        self.schedule = get_schedule(options.schedule, self.steps)
        self.number = self.epoch = self.position = 0
        self.saved: Any = None
        #: whether each step's loss is known before the next one
        self._waits = self.optimiser.evaluates or not net.backend.on_gpu
        self._lookout = Lookout(net.backend) if options.stop_on_nan and not self._waits else None

    def restart(self, optimiser: Optimiser, schedule: str | Callable[[int], float] | None) -> None:
        """Go back to before the first step, and take over these settings."""
        self.optimiser.restart(optimiser)
        self.schedule = get_schedule(schedule, self.steps)
        self.number = self.epoch = self.position = 0

    def made(self, losses: Sequence[Any], weights: Sequence[Any] | None = None) -> Steps:
        """Go on to behind steps that were made elsewhere, in this epoch, on batches of rows.

        Args:
            losses: of each.
            weights: what its samples count for, by default their number.
        """
        rows, count = self.batches, len(losses)
        assert isinstance(rows, Rows)
        self.optimiser.count += count
        self.number += count
        self.position += count
        samples, epoch, last = [rows.batch_size] * count, self.epoch + 1, self.position == rows.steps
        if last:
            samples[-1] = rows.last_samples
            self.epoch, self.position = epoch, 0
        return Steps(self.number, epoch, losses, samples, weights or samples, last)

    def settle(self) -> None:
        """Wait until every step so far is known to have been a good one. Raises DivergedError."""
        if self._lookout is not None:
            self._refuse(self._lookout.settle())

    def _refuse(self, seen: Seen | None) -> None:
        if seen is not None:
            seen.undo()
            self.optimiser.count -= 1  # of the step that the device didn't make
            raise diverged(self.net, seen.batch, seen.number, seen.loss, self.saved)

    def __iter__(self) -> Iterator[Step]:
        while self.epoch < self.options.epochs:
            yield from self.rest_of_epoch()

    def rest_of_epoch(self) -> Iterator[Step]:
        """The steps that remain of this epoch."""
        net, optimiser, options = self.net, self.optimiser, self.options.of_steps
        shared = {} if self.world is None else {"world": self.world}
        lookout = self._lookout
        if lookout is not None:
            options["unless"] = lookout.first
        for batch in self.batches.epoch(self.epoch, self.position):
            put_back, draws = undo(net), getattr(net, "draws", 0)
            loss, terms = batch.loss_and_grad(net, **shared)
            if self._waits:
                loss = float(loss)
            if lookout is not None:
                self._refuse(lookout.look(Seen(self.number + 1, loss, batch, put_back)))
                loss = lookout.loss
            elif self.options.stop_on_nan and not math.isfinite(loss):
                put_back()
                raise diverged(net, batch, self.number + 1, loss, self.saved)
            if optimiser.evaluates:
                options |= {"loss": loss, "again": _again(net, batch, put_back, draws)}
            optimiser.step(net.parameters, factor=self.schedule(self.number), **options)
            if batch.last:
                self.settle()
            epoch = self.epoch + 1
            self.number += 1
            self.position += 1
            if batch.last:
                self.epoch, self.position = epoch, 0
            counts = batch.counts(net)
            counts = float(counts) if self._waits else counts
            yield Step(self.number, epoch, loss, batch.samples, batch.last, counts, terms)


def _check_last_batch(net: Any, batches: Batches) -> None:
    """That no batch is too small for the net. Raises ValueError."""
    if isinstance(batches, PointSets):
        for name, rows in batches.rows.items():
            with named(name):
                _check_last_batch(net, rows)
    fewest = getattr(net, "fewest_samples", 1)
    if isinstance(batches, Rows) and 0 < batches.samples % batches.batch_size < fewest:
        raise ValueError(
            f"{batches.samples} samples in batches of {batches.batch_size} leave a last batch of "
            f"{batches.samples % batches.batch_size}, and batch normalisation needs {fewest}: take another batch_size"
        )
    if isinstance(batches, Rows) and batches.batch_size < fewest:
        raise ValueError(f"batch normalisation needs batches of at least {fewest} samples, got batch_size=1")


@known_options
def steps(
    net: Any,
    x: Any,
    y: Any = None,
    *,
    epochs: int = 1,
    batch_size: int | Mapping[str, int | None] | None = 128,
    optimiser: OptimiserName | Optimiser = "adam",
    schedule: ScheduleName | Callable[[int], float] | None = None,
    sample_weight: Any = None,
    clip_norm: float | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    shuffle: bool = True,
    seed: int | None = 0,
    stop_on_nan: bool = True,
) -> Iterator[Step]:
    """The loop of :func:`fit` alone, a generator: each turn makes one step and says what it was.

        for step in steps(net, x, y, epochs=10):
            print(step.number, float(step.loss))

    The arguments are those of :func:`fit`.
    """
    batches = as_source(net, x, y, sample_weight, batch_size, shuffle, seed)
    return iter(Loop(net, batches, Options(epochs, optimiser, schedule, clip_norm, l1, l2, stop_on_nan)))


def _again(net: Any, batch: AnyBatch, put_back: Callable[[], None], draws: int) -> Callable[[], float]:
    """A function that computes this batch's loss anew: dropout drops the same, and buffers move from where they were.

    Args:
        put_back: puts back the buffers.
        draws: the net's before the batch's first evaluation.
    """

    def again() -> float:
        put_back()
        if getattr(net, "draws", draws) != draws:
            net.draws = draws
        return float(batch.loss_and_grad(net)[0])

    return again

"""The training loop itself: batch, gradients, step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .batches import Batches, as_batches
from .nan import diverged
from .optimisers import Optimiser, get_optimiser
from .schedules import get_schedule


class Step(NamedTuple):
    """One step of a run, just made.

    Attributes:
        number: of the step, from 1.
        epoch: its epoch, from 1.
        loss: of its batch, before the step; on CuPy without ``stop_on_nan`` a 0-d array, so that nothing waits for it.
        samples: in its batch.
        last: whether it was the epoch's last.
    """

    number: int
    epoch: int
    loss: Any
    samples: int
    last: bool


class Loop:
    """A run that can be at any step: iterate over it to make the steps that remain.

    Attributes:
        number: how many steps were made.
        epoch, position: the epoch that the next step belongs to, from 0, and its place in it.
        saved: the last checkpoint, for messages.
    """

    def __init__(
        self,
        net: Any,
        batches: Batches,
        *,
        epochs: int,
        optimiser: str | Optimiser,
        schedule: str | Callable[[int], float] | None,
        clip_norm: float | None,
        l1: float,
        l2: float,
        stop_on_nan: bool,
    ) -> None:
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
            raise ValueError(f"epochs must be a number of passes over the data, got {epochs!r}")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be a positive number or None, got {clip_norm!r}")
        if not (l1 >= 0 and l2 >= 0):
            raise ValueError(f"l1 and l2 must not be negative, got {l1!r} and {l2!r}")
        self.net, self.batches, self.epochs = net, batches, epochs
        self.steps = None if batches.steps is None else batches.steps * epochs  # of the whole run
        self.optimiser = get_optimiser(optimiser)
        self.schedule = get_schedule(schedule, self.steps)
        self.options: dict[str, Any] = {"clip_norm": clip_norm, "l1": float(l1), "l2": float(l2)}
        self.stop_on_nan = stop_on_nan
        self.number = self.epoch = self.position = 0
        self.saved: Any = None

    def __iter__(self) -> Iterator[Step]:
        net, optimiser, schedule, options = self.net, self.optimiser, self.schedule, self.options
        waits = self.stop_on_nan or not net.backend.on_gpu
        while self.epoch < self.epochs:
            for x, y, weight, last in self.batches.epoch(self.epoch, self.position):
                loss = net.loss_and_grad(x, y, sample_weight=weight)
                if waits:
                    loss = float(loss)
                if self.stop_on_nan and not math.isfinite(loss):
                    raise diverged(net, x, y, weight, self.number + 1, loss, self.saved)
                optimiser.step(net.parameters, factor=schedule(self.number), **options)
                epoch = self.epoch + 1
                self.number += 1
                self.position += 1
                if last:
                    self.epoch, self.position = epoch, 0
                samples = len(next(iter(x.values())) if isinstance(x, dict) else x)
                yield Step(self.number, epoch, loss, samples, last)


def steps(
    net: Any,
    x: Any,
    y: Any = None,
    *,
    epochs: int = 1,
    batch_size: int = 128,
    optimiser: str | Optimiser = "adam",
    schedule: str | Callable[[int], float] | None = None,
    sample_weight: Any = None,
    clip_norm: float | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    shuffle: bool = True,
    seed: int = 0,
    stop_on_nan: bool = True,
) -> Iterator[Step]:
    """The loop of :func:`fit` alone, a generator: each turn makes one step and says what it was.

        for step in steps(net, x, y, epochs=10):
            print(step.number, float(step.loss))

    The arguments are those of :func:`fit`.
    """
    batches = as_batches(net, x, y, sample_weight, batch_size, shuffle, seed)
    loop = Loop(
        net,
        batches,
        epochs=epochs,
        optimiser=optimiser,
        schedule=schedule,
        clip_norm=clip_norm,
        l1=l1,
        l2=l2,
        stop_on_nan=stop_on_nan,
    )
    return iter(loop)

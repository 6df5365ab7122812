"""Schedules: what the learning rate is multiplied by at each step.

A schedule is a function of the number of steps made so far, and nothing else: a resumed run has the same one at
the same step. Any function from a step to a factor will do; those here can be multiplied, and follow one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..messages import unknown
from ..numbers import real, whole


class Schedule:
    """A factor for every step, from 0 on."""

    def __call__(self, step: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def __mul__(self, other: Schedule) -> Schedule:
        """Both factors multiplied."""
        return Product(self, other)

    def then(self, step: int, other: Schedule) -> Schedule:
        """This schedule for ``steps`` steps, then the other one from its start."""
        return Then(self, step, other)


@dataclass(frozen=True)
class Constant(Schedule):
    """The same factor at every step."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        _real(self, "factor")

    def __call__(self, step: int) -> float:
        return self.factor


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiplied by ``gamma`` after every ``every`` steps; StepLR of PyTorch."""

    every: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _whole(self, "every", 1)
        _real(self, "gamma")

    def __call__(self, step: int) -> float:
        return self.gamma ** (step // self.every)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to ``final`` within ``steps`` steps, then ``final`` (Loshchilov and Hutter, 2017)."""

    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _whole(self, "steps", 1)
        _real(self, "final")

    def __call__(self, step: int) -> float:
        done = min(step, self.steps) / self.steps
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class WarmUp(Schedule):
    """A straight line from ``start`` to 1 within ``steps`` steps, and 1 afterwards; LinearLR of PyTorch."""

    steps: int
    start: float = 1 / 3

    def __post_init__(self) -> None:
        _whole(self, "steps", 1)
        _real(self, "start")

    def __call__(self, step: int) -> float:
        return self.start + (1 - self.start) * min(step, self.steps) / self.steps


@dataclass(frozen=True)
class Product(Schedule):
    """Two schedules multiplied."""

    first: Callable[[int], float]
    second: Callable[[int], float]

    def __call__(self, step: int) -> float:
        return self.first(step) * self.second(step)


@dataclass(frozen=True)
class Then(Schedule):
    """One schedule for ``steps`` steps, then another from its start; SequentialLR of PyTorch."""

    first: Callable[[int], float]
    steps: int
    second: Callable[[int], float]

    def __post_init__(self) -> None:
        _whole(self, "steps", 0)

    def __call__(self, step: int) -> float:
        return self.first(step) if step < self.steps else self.second(step - self.steps)


#: Of which one that prints the same gives the same factors.
PURE = (Constant, StepDecay, Cosine, WarmUp)


def get_schedule(schedule: str | Callable[[int], float] | None, steps: int | None) -> Callable[[int], float]:
    """The schedule itself; by name "constant" (or None), or "cosine" over all ``steps`` of a run."""
    if schedule is None or schedule == "constant":
        return Constant()
    if schedule == "cosine":
        if steps is None:
            raise ValueError("how many steps an iterable of batches takes is unknown: give schedule=Cosine(steps)")
        return Cosine(max(1, steps))
    if isinstance(schedule, str):
        raise ValueError(unknown("schedule", schedule, ("constant", "cosine")))
    if isinstance(schedule, type) or not callable(schedule):
        raise TypeError(f"a schedule is a name or a function of the step, got {schedule!r}")
    return schedule


def _whole(schedule: Schedule, name: str, least: int) -> None:
    """Keep this field as an int."""
    object.__setattr__(schedule, name, whole(f"{name} of a schedule", getattr(schedule, name), least))


def _real(schedule: Schedule, name: str) -> None:
    """Keep this field as a float."""
    object.__setattr__(schedule, name, real(f"{name} of a schedule", getattr(schedule, name)))

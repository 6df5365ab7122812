"""Ranges of parameters, declared beside a formula as text: ``"delta > 0"``, ``"0 <= p <= 1"``, ``"min_val < max_val"``.

They are checked where numbers are read, for parameters are attributes, which may be changed at any time.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .numbers import as_real

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "!=": operator.ne}


def check(owner: Any, values: Mapping[str, float], ranges: Sequence[str]) -> None:
    """That the parameters of ``owner`` are within these ranges, and none is NaN.

    Raises:
        ValueError: with the class's name, the range, and the values that break it.
    """
    for name, value in values.items():
        if value != value:
            raise ValueError(f"{type(owner).__name__} needs a number as {name}, got nan")
    for text in ranges:
        sides, comparisons = _parsed(text)
        numbers = [values[side] if isinstance(side, str) else side for side in sides]
        if not all(compare(a, b) for compare, a, b in zip(comparisons, numbers, numbers[1:])):
            got = ", ".join(f"{side}={values[side]!r}" for side in sides if isinstance(side, str))
            raise ValueError(f"{type(owner).__name__} needs {text}, got {got}")


def real(name: str, number: Any) -> float:
    """A parameter as a float; a TypeError for texts and whatever else is no real number."""
    value = as_real(number)
    if value is None:
        raise TypeError(f"{name} must be a real number, got {number!r}")
    return value


class Ranged:
    """An attribute that holds a float within a range, checked whenever it is set."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else vars(instance)[self._name]

    def __set__(self, instance: Any, value: Any) -> None:
        number = real(self._name, value)
        check(instance, {self._name: number}, (self._text,))
        vars(instance)[self._name] = number


@lru_cache(maxsize=64)
def _parsed(text: str) -> tuple[list[str | float], list[Any]]:
    """The names and numbers of a range, and the comparisons between them."""
    words = text.split()
    sides: list[str | float] = []
    for word in words[::2]:
        try:
            sides.append(float(word))
        except ValueError:
            sides.append(word)
    return sides, [COMPARISONS[word] for word in words[1::2]]

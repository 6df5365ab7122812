"""Sums whose bits don't depend on who computes which part when."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from ..backend import Array

Value = TypeVar("Value")


class ChunkTree(Generic[Value]):
    """Adds up numbered partial sums in a fixed binary tree, whatever order they arrive in.

    Partial sums 2k and 2k+1 of a level are added, left + right, to number k of the level above; what is left over
    at the end is added from the last to the first. The result depends on the partial sums and their numbers
    alone. Holds O(log n) values where they arrive roughly in order. Values are added in place by ``+=``.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, int], Value] = {}
        self._lock = threading.Lock()

    def add(self, index: int, value: Value, level: int = 0) -> None:
        """Partial sum number ``index``, from 0, of a level; each is added once, from any thread."""
        while True:
            with self._lock:
                sibling = self._waiting.pop((level, index ^ 1), None)
                if sibling is None:
                    self._waiting[level, index] = value
                    return
            left, right = (sibling, value) if index & 1 else (value, sibling)
            level, index, value = level + 1, index >> 1, _sum(left, right)

    def subtrees(self) -> list[tuple[tuple[int, int], Value]]:
        """What could not be added yet: the (level, number) of each and its sum, from the first to the last."""
        return sorted(self._waiting.items(), key=lambda item: item[0][1] << item[0][0])

    def total(self) -> Value | None:
        """The sum of all partial sums 0 ... n - 1, None if there were none."""
        result: Value | None = None
        for key in sorted(self._waiting, key=lambda key: key[1] << key[0], reverse=True):
            part = self._waiting[key]
            result = part if result is None else _sum(part, result)
        return result


def _sum(left: Value, right: Value) -> Value:
    """In place; infinities may cancel each other, and what only fills a register may hold anything."""
    with np.errstate(all="ignore"):
        left += right  # type: ignore[operator]
    return left


@dataclass
class Partial:
    """The sums of the loss and of the parameters' gradients over a part of the batch, or over several."""

    loss: Any
    arrays: list[Array]

    def __iadd__(self, other: Partial) -> Partial:
        self.loss += other.loss
        for mine, more in zip(self.arrays, other.arrays):
            mine += more
        return self

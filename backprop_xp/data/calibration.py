"""Whether answers can be believed: bins of rows, with what was said in each and what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .cells import Series, cells
from .targets import Amount, Classes

BINS = 10


class Bin(NamedTuple):
    """Some rows: what was said of them and what was found, on average, the latter's spread, and how many they are."""

    said: float
    found: float
    spread: float
    rows: int


def sureness(target: Classes, outputs: np.ndarray, truth: Series) -> list[Bin]:
    """Rows by the probability of their answer, in steps of a tenth, with the share of right answers; none is empty."""
    sure = target.probabilities(outputs).max(axis=1)
    known = np.isfinite(sure)
    hits = (target.said(outputs) == target.places(cells(truth, target.column).labels())).astype(np.float64)
    steps = np.minimum((sure[known] * BINS).astype(np.int64), BINS - 1)
    return list(_bins(sure[known], hits[known], (np.flatnonzero(steps == k) for k in range(BINS))))


def means(target: Amount, outputs: np.ndarray, truth: Series) -> list[Bin]:
    """Rows by their answer, a tenth of them in each bin."""
    said, found = target.amounts(outputs), target.truth(truth)
    known = np.isfinite(said)
    order = np.flatnonzero(known)[np.argsort(said[known], kind="stable")]
    return list(_bins(said, found, np.array_split(order, BINS)))


def off(bins: Sequence[Bin]) -> float:
    """The mean distance between what was said and what was found, by rows: the expected calibration error."""
    rows = sum(each.rows for each in bins)
    return sum(abs(each.said - each.found) * each.rows for each in bins) / rows if rows else float("nan")


def _bins(said: np.ndarray, found: np.ndarray, parts: Iterable[np.ndarray]) -> Iterable[Bin]:
    for rows in parts:
        if len(rows):
            yield Bin(float(said[rows].mean()), float(found[rows].mean()), float(found[rows].std()), len(rows))

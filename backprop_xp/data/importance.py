"""Which columns a net's answers depend on: what the score loses where one column's cells are shuffled among rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..backend import NUMPY
from .settings import IMPORTANCE, Recipe
from .table import Table
from .trained import Trained

REPEATS = 5  # shuffles of every column
MOST_ROWS = 2000
MOST_WORK = 1 << 28  # numbers that go through the net in all; with more there is one shuffle, of fewer rows
FEWEST_ROWS = 50


@dataclass(frozen=True)
class Importance:
    """What the score loses where this column's cells are shuffled among the held-out rows: the mean and its spread."""

    column: str
    lost: float
    spread: float


def importance(trained: Trained) -> list[Importance]:
    """All columns, those that matter most first; none where no row is held out or the table is too wide for this.

    The shuffles depend on the recipe's seed alone.
    """
    columns = trained.model.table.columns
    lost: dict[str, list[float]] = {column.name: [] for column in columns}
    for k, run in enumerate(trained.runs):
        held, model, x = run.held_out, run.model, run.sample
        rows, repeats, random = looked_at(model.table, len(held), trained.recipe, k)
        if not len(rows):
            return []
        truth = model.target.of(held.iloc[rows])
        score = model.target.score(NUMPY.take(model.net(x)), truth)
        start = 0
        for column in model.table.columns:
            own = slice(start, start + column.width)
            start += column.width
            shuffled = x.copy()
            for _ in range(repeats):
                shuffled[:, own] = x[random.permutation(len(x)), own]
                other = model.target.score(NUMPY.take(model.net(shuffled)), truth)
                lost.setdefault(column.name, []).append(score - other)
    found = [Importance(name, float(np.mean(some)), float(np.std(some))) for name, some in lost.items() if some]
    return sorted(found, key=lambda each: -each.lost)


def looked_at(table: Table, held: int, recipe: Recipe, fold: int) -> tuple[np.ndarray, int, np.random.Generator]:
    """Which of so many rows held out are shuffled, in order, how often, and what draws the shuffles."""
    repeats, most = _effort(len(table.columns), table.width, held)
    random = recipe.random(IMPORTANCE, fold)
    return np.sort(random.permutation(held)[:most]), repeats, random


def _effort(columns: int, width: int, rows: int) -> tuple[int, int]:
    """How many shuffles of a column, and of how many rows; 0 rows where even that is too much."""
    rows = min(rows, MOST_ROWS)
    if columns * width * rows * REPEATS <= MOST_WORK:
        return REPEATS, rows
    affordable = MOST_WORK // (columns * width)
    return 1, min(rows, affordable) if affordable >= FEWEST_ROWS else 0

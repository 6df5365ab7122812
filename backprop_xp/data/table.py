"""A table as an array: numbers and dates standardised, categories one-hot, and every surprise said or refused.

What the training table teaches is kept as plain data, so that another table is treated alike later on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import columns
from .cells import TEXT, Cells, cells
from .columns import Category, Column, Number
from .errors import DataError
from .frames import Frame
from .kinds import Conventions, evidence, kind_of
from .leaks import Feature
from .wording import MOST_SHOWN, listed, meant, quoted


class Table:
    """How a table becomes an array.

    Attributes:
        columns: those that are used, in order.
        width: of the array.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        self.width = sum(column.width for column in self.columns)

    @classmethod
    def learn(
        cls,
        frame: Frame,
        rows: np.ndarray,
        categories: Collection[str] = (),
        conventions: Conventions | None = None,
    ) -> tuple[Table, list[str]]:
        """What there is to know about these columns, and sentences about whatever is odd.

        Args:
            frame: the table, without the target.
            rows: positions of the rows to train on: means and scales come from them alone.
            categories: columns whose values are names, whatever they look like.
            conventions: of writing numbers and dates; what the table shows by itself if left out.
        """
        every = {name: cells(frame[name], name) for name in frame.columns}
        conventions = conventions or Conventions.of(map(evidence, every.values()))
        features = (feature(column, conventions, name in categories) for name, column in every.items())
        return cls.of(columns.learn(column, kind, rows) for column, kind in features)

    @classmethod
    def of(
        cls, each: Iterable[tuple[Column | None, list[str]]], left_out: Sequence[str] = ()
    ) -> tuple[Table, list[str]]:
        """The same from what was learnt of each column, see :func:`backprop_xp.data.columns.learn`.

        Args:
            left_out: sentences about columns that aren't here, for an error.
        """
        found: list[Column] = []
        notes: list[str] = []
        for learnt, odd in each:
            notes += odd
            found += [] if learnt is None else [learnt]
        if not found:
            reasons = "".join(f"; {note}" for note in [*left_out, *notes][:3])
            raise DataError(f"no column is left to learn from{reasons}")
        return cls(found), notes

    def arrays(self, frame: Frame) -> np.ndarray:
        """(n, width) float64.

        Raises:
            DataError: a column is missing, or a cell can't be used; the message names row and column.
        """
        absent = [column.name for column in self.columns if column.name not in frame.columns]
        if absent:
            used = {column.name for column in self.columns}
            others = [name for name in frame.columns if name not in used]
            names = ", ".join(quoted(name) + meant(name, others) for name in absent[:MOST_SHOWN])
            more = ", ..." if len(absent) > MOST_SHOWN else ""
            known = listed(frame.columns)
            raise DataError(f"the table has no column {names}{more}, on which the net was trained; it has {known}")
        return np.concatenate([c.encode(cells(frame[c.name], c.name)) for c in self.columns], axis=1)

    def with_decimal(self, mark: str) -> Table:
        """The same for a table whose numbers have this mark before decimals."""
        return Table(
            [c._replace(notation=c.notation.with_decimal(mark)) if isinstance(c, Number) else c for c in self.columns]
        )

    def lenient(self) -> Table:
        """The same, in which a category that was not seen in training is none of those that were."""
        return Table([c._replace(lenient=True) if isinstance(c, Category) else c for c in self.columns])

    def unseen(self, frame: Frame) -> list[DataError]:
        """An error for each column with categories that were not seen in training; its ``rows`` are those with one."""
        found = []
        for column in self.columns:
            if isinstance(column, Category) and column.name in frame.columns:
                try:
                    column.encode(cells(frame[column.name], column.name))
                except DataError as error:
                    found.append(error)
        return found

    def describe(self) -> list[dict[str, Any]]:
        """All of it in JSON's terms."""
        return [column.describe() for column in self.columns]

    @classmethod
    def build(cls, saved: list[Any]) -> Table:
        """What :meth:`describe` described; from a file, which may hold anything."""
        return cls([columns.build(part) for part in saved])


def where_possible(
    encode: Callable[[Frame], np.ndarray], frame: Frame
) -> tuple[np.ndarray, np.ndarray, list[DataError]]:
    """What ``encode`` makes of the rows that it takes, their positions, and why it doesn't take the others.

    Returns:
        An array with a row for each row that is taken; (m,) their positions; an error for each column and reason, whose
        ``rows``, (n,) bool, are those that are left out for it.

    Raises:
        DataError: no row is taken, or the reason isn't one of single rows.
    """
    left = np.arange(len(frame))
    refused: list[DataError] = []
    while True:
        try:
            return encode(frame if len(left) == len(frame) else frame.iloc[left]), left, refused
        except DataError as error:
            if error.rows is None:
                raise
            rows = np.zeros(len(frame), bool)
            rows[left[error.rows]] = True
            refused.append(DataError(str(error), rows))
            left = left[~error.rows]
            if not len(left):
                raise DataError(f"no row can be used: {refused[0]}") from None


def refusals(refused: Collection[DataError], frame: Frame) -> list[str]:
    """Sentences that name the rows of this table for which :func:`where_possible` has errors."""
    found = []
    for error in refused:
        others = [str(row) for row in frame.index[error.rows][1:]]
        more = f", ... ({len(others)} rows)" if len(others) > MOST_SHOWN else ""
        also = f"; likewise row{'s' * (len(others) > 1)} {', '.join(others[:MOST_SHOWN])}{more}" if others else ""
        found.append(f"{error}{also}")
    return found


def feature(column: Cells, conventions: Conventions, names: bool = False, keep: bool = False) -> Feature:
    """Cells and kind of a column: ``names`` whatever it looks like; where it is to ``keep``, names may be many."""
    if names:
        column = replace(column.labels(), named=True)
    kind = kind_of(column, conventions)
    return replace(column, named=True) if keep and kind.kind == TEXT else column, kind

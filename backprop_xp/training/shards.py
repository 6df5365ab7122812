"""Rows of which every rank has some: the batches are what one rank with all of them would take, rank 0's rows first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..backend import Array, on_host
from ..distributed import World
from ..distributed.world import EXCHANGE
from ..frames import is_sparse
from .batches import Batch, Rows


class Shards(Rows):
    """Batches of the rows of all ranks. Before each step, rows travel to the rank that computes them, or to all.

    Args:
        rows, options: this rank's, as :class:`Rows` takes them.

    Attributes:
        whole: whether every rank gets the whole batch.
        starts: (ranks + 1,) the number of each rank's first row among all.
    """

    def __init__(self, world: World, net: Any, *rows: Any, whole: bool = False, **options: Any) -> None:
        self.world: World = world
        self.whole = whole
        super().__init__(net, *rows, **options)

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        order, size = self.order(number), self.world.size
        for step in range(start, self.steps):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            share = None if self.whole else self._share(step)
            wanted = [rows if share is None else rows[share.rows(rank)] for rank in range(size)]
            columns = iter(self._dealt(wanted))
            x, y, weight = (_refilled(given, columns) for given in (self.x, self.y, self.weight))
            yield Batch(x, y, weight, step + 1 == self.steps, self.loss, share)

    def kinds(self) -> dict[str, str]:
        """The dtype and the shape of a row of each array, by its place among all."""
        found = {f"the kind of array {i}": f"{c.dtype} {c.shape[1:]}" for i, c in enumerate(self._columns())}
        return found | {"which arrays there are": str([_names(part) for part in (self.x, self.y, self.weight)])}

    def _count(self, fewest: int = 1) -> int:
        counts = self.world.gather(EXCHANGE, np.array([super()._count(0)], np.int64))
        self.starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        if not self.starts[-1]:
            raise ValueError("no rank has any rows")
        return int(self.starts[-1])

    def _dealt(self, wanted: Sequence[np.ndarray]) -> list[Array]:
        """This rank's rows of every column, from the numbers of the rows that each rank is to get, in order."""
        rank = self.world.rank
        first, end = self.starts[rank : rank + 2]
        columns = self._columns()
        received = self.world.deal(
            EXCHANGE, [self._packed(columns, rows[(rows >= first) & (rows < end)] - first) for rows in wanted]
        )
        mine = wanted[rank]
        order = np.argsort(np.searchsorted(self.starts, mine, side="right"), kind="stable")  # by the rank it came from
        widths = [_bytes_of_row(column) for column in columns]
        data = np.empty((len(mine), sum(widths)), np.uint8)
        data[order] = np.concatenate(received).reshape(data.shape)
        found, at = [], 0
        for column, width in zip(columns, widths):
            part = np.ascontiguousarray(data[:, at : at + width]).reshape(-1).view(column.dtype)
            found.append(self.backend.asarray(part.reshape(len(mine), *column.shape[1:]), None, "rows"))
            at += width
        return found

    def _packed(self, columns: Sequence[Array], rows: np.ndarray) -> np.ndarray:
        """Rows as bytes, one after another."""
        packed = [np.empty((len(rows), 0), np.uint8)]
        for column in columns:
            taken = column[rows].toarray() if is_sparse(column) else column[rows]
            host = on_host(taken)
            packed.append(
                np.ascontiguousarray(host).reshape(-1).view(np.uint8).reshape(len(rows), _bytes_of_row(column))
            )
        return np.concatenate(packed, axis=1).reshape(-1)


def parted_world(world: Any) -> World:
    """The world whose ranks have some of the rows each. Raises ValueError without one."""
    if not isinstance(world, World):
        raise ValueError("shards=True is for the ranks of a world: give world=")
    return world


def _bytes_of_row(column: Array) -> int:
    return int(np.prod(column.shape[1:], dtype=np.int64)) * column.dtype.itemsize


def _names(part: Any) -> list[str] | bool:
    return list(part) if isinstance(part, dict) else part is not None


def _refilled(given: Any, columns: Iterator[Array]) -> Any:
    """What was given, with these columns in the place of its arrays."""
    if isinstance(given, dict):
        return {name: next(columns) for name in given}
    return None if given is None else next(columns)

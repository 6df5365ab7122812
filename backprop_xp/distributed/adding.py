"""Sums over the parts of a batch that ranks computed: by the tree, which gives the same bits for any number of ranks.

Where each rank needs some of the numbers, it gets these alone. Of many numbers, each rank adds up a share, and sends
the sums to all: what travels then doesn't grow with the ranks. Without ``exact``, MPI adds up, in an order of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..sums.tree import ChunkTree
from .world import ADD_UP, World

#: Numbers from which on each of three ranks and more adds up a share of them. Chosen, not measured.
MANY = 1 << 13


class Sums:
    """Sums over some samples: of the loss, in double, and of numbers in one array, such as all gradients."""

    def __init__(self, loss: float, values: np.ndarray) -> None:
        self.loss, self.values = loss, values

    def __iadd__(self, other: Sums) -> Sums:
        self.loss += other.loss
        self.values += other.values
        return self


def added_up(
    world: World, own: ChunkTree[Sums], numbers: int, dtype: np.dtype, bounds: Sequence[int] | None = None
) -> Sums:
    """The sum of all ranks' parts.

    Args:
        own: the sums of this rank's parts.
        numbers, dtype: of each array.
        bounds: (ranks + 1,) where the numbers begin that each rank needs; the others are NaN there. By default all
            need all.
    """
    if world.exact:
        if bounds is None and world.size > 2 and numbers >= MANY:
            shares = [numbers * rank // world.size for rank in range(world.size + 1)]
            loss, values = _by_the_tree(world, own.subtrees(), numbers, dtype, shares)
            return Sums(loss, np.concatenate(world.gather(ADD_UP, values)))
        loss, values = _by_the_tree(world, own.subtrees(), numbers, dtype, bounds)
        return Sums(loss, values) if bounds is None else _spread(loss, values, numbers, bounds, world.rank)
    mine = own.total() or Sums(0.0, np.zeros(numbers, dtype))
    everywhere = float(world.reduce(ADD_UP, np.array([mine.loss]))[0])
    if bounds is None:
        return Sums(everywhere, world.reduce(ADD_UP, mine.values))
    return _spread(everywhere, world.reduce(ADD_UP, mine.values, bounds), numbers, bounds, world.rank)


def _by_the_tree(
    world: World,
    subtrees: Sequence[tuple[tuple[int, int], Sums]],
    numbers: int,
    dtype: np.dtype,
    bounds: Sequence[int] | None,
) -> tuple[float, np.ndarray]:
    """The loss and the numbers that this rank needs, all or those within its bounds."""
    tree: ChunkTree[Sums] = ChunkTree()
    if bounds is None:
        received, record = world.gather(ADD_UP, _packed(subtrees, slice(0, numbers), dtype)), _record(numbers, dtype)
    else:
        slices = [slice(*pair) for pair in pairwise(bounds)]
        received = world.deal(ADD_UP, [_packed(subtrees, each, dtype) for each in slices])
        mine = slices[world.rank]
        record = _record(mine.stop - mine.start, dtype)
    for data in received:
        for row in data.view(record):
            values = np.array(row["values"]).view(dtype)
            tree.add(int(row["index"]), Sums(float(row["loss"]), values), int(row["level"]))
    total = tree.total()
    assert total is not None
    return total.loss, total.values


def _record(numbers: int, dtype: np.dtype) -> np.dtype:
    """A subtree as it travels: its level, its number there, the loss and the numbers."""
    size = numbers * dtype.itemsize
    return np.dtype([("level", "<i4"), ("index", "<i4"), ("loss", "<f8"), ("values", np.uint8, (size,))])


def _packed(subtrees: Sequence[tuple[tuple[int, int], Sums]], part: slice, dtype: np.dtype) -> np.ndarray:
    sent = np.zeros(len(subtrees), _record(part.stop - part.start, dtype))
    for row, ((level, index), sums) in zip(sent, subtrees):
        row["level"], row["index"], row["loss"] = level, index, sums.loss
        row["values"] = sums.values[part].view(np.uint8)
    return sent.view(np.uint8)


def _spread(loss: float, values: np.ndarray, numbers: int, bounds: Sequence[int], rank: int) -> Sums:
    whole = np.full(numbers, np.nan, values.dtype)
    whole[bounds[rank] : bounds[rank + 1]] = values
    return Sums(loss, whole)

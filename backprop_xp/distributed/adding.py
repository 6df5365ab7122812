"""Sums over the parts of a batch that ranks computed: by the tree, which gives the same bits for any number of ranks.

Where each rank needs some of the numbers, it gets these alone. Of many numbers, each rank adds up a share, and sends
the sums to all: what travels then doesn't grow with the ranks. Without ``exact``, MPI adds up, in an order of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..backend import Array, module_of, on_host
from ..sums.tree import ChunkTree
from .world import ADD_UP, World

#: Numbers from which on each of three ranks and more adds up a share of them. Chosen, not measured.
MANY = 1 << 13
#: What travels of a subtree before its numbers: its level, its number there, and the loss.
HEAD = np.dtype([("level", "<i4"), ("index", "<i4"), ("loss", "<f8")])


class Sums:
    """Sums over some samples: of the loss, in double, and of numbers in one array, such as all gradients."""

    def __init__(self, loss: float, values: Array) -> None:
        self.loss, self.values = loss, values

    def __iadd__(self, other: Sums) -> Sums:
        self.loss += other.loss
        self.values += other.values
        return self


Subtree = tuple[tuple[int, int], Sums]


def added_up(
    world: World, own: ChunkTree[Sums], numbers: int, like: Array, bounds: Sequence[int] | None = None
) -> Sums:
    """The sum of all ranks' parts.

    Args:
        own: the sums of this rank's parts.
        numbers: of each array.
        like: any array of their dtype that is where theirs are.
        bounds: (ranks + 1,) where the numbers begin that each rank needs; the others are NaN there. By default all
            need all.
    """
    if world.exact:
        if bounds is None and world.size > 2 and numbers >= MANY:
            shares = [numbers * rank // world.size for rank in range(world.size + 1)]
            loss, values = _by_the_tree(world, own.subtrees(), numbers, like, shares)
            return Sums(loss, module_of(like).concatenate(world.gather(ADD_UP, values)))
        loss, values = _by_the_tree(world, own.subtrees(), numbers, like, bounds)
        return Sums(loss, values) if bounds is None else _spread(loss, values, numbers, bounds, world.rank)
    mine = own.total() or Sums(0.0, module_of(like).zeros(numbers, like.dtype))
    everywhere = float(world.reduce(ADD_UP, np.array([mine.loss]))[0])
    if bounds is None:
        return Sums(everywhere, world.reduce(ADD_UP, mine.values))
    return _spread(everywhere, world.reduce(ADD_UP, mine.values, bounds), numbers, bounds, world.rank)


def _by_the_tree(
    world: World, subtrees: Sequence[Subtree], numbers: int, like: Array, bounds: Sequence[int] | None
) -> tuple[float, Array]:
    """The loss and the numbers that this rank needs, all or those within its bounds."""
    if bounds is None:
        mine = slice(0, numbers)
        received = world.gather(ADD_UP, _packed(subtrees, like, mine))
    else:
        slices = [slice(*pair) for pair in pairwise(bounds)]
        mine = slices[world.rank]
        received = world.deal(ADD_UP, [_packed(subtrees, like, each) for each in slices])
    tree: ChunkTree[Sums] = ChunkTree()
    for data in received:
        rows = data.reshape(-1, HEAD.itemsize + (mine.stop - mine.start) * like.itemsize)
        heads = on_host(rows[:, : HEAD.itemsize].reshape(-1)).view(HEAD)
        for head, row in zip(heads, rows):
            values = row[HEAD.itemsize :].view(like.dtype)
            tree.add(int(head["index"]), Sums(float(head["loss"]), values), int(head["level"]))
    total = tree.total()
    assert total is not None
    return total.loss, total.values


def _packed(subtrees: Sequence[Subtree], like: Array, part: slice) -> Array:
    """The bytes of these subtrees one after another, of each a head and this part of its numbers."""
    xp, size = module_of(like), (part.stop - part.start) * like.itemsize
    sent = xp.empty((len(subtrees), HEAD.itemsize + size), np.uint8)
    heads = np.array([(level, index, sums.loss) for (level, index), sums in subtrees], HEAD)
    sent[:, : HEAD.itemsize] = xp.asarray(heads.view(np.uint8).reshape(-1, HEAD.itemsize))
    for row, (_, sums) in zip(sent, subtrees):
        row[HEAD.itemsize :] = sums.values[part].view(np.uint8)
    return sent.reshape(-1)


def _spread(loss: float, values: Array, numbers: int, bounds: Sequence[int], rank: int) -> Sums:
    whole = module_of(values).full(numbers, np.nan, values.dtype)
    whole[bounds[rank] : bounds[rank + 1]] = values
    return Sums(loss, whole)

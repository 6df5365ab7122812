"""What of a batch each rank computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..backend import Array, module_of, on_host
from .world import ADD_UP, World

#: Samples of a part, at least, unless it is the only one, and what they are at least times the net's parameters: a part
#: takes a fifth of a millisecond more than its arithmetic.
LEAST, WORTH = 16, 1 << 20
#: Parts up to which they are that small, and samples that each of more parts has at least: products of fewer samples
#: take longer for each.
FEW, MANY = 8, 256


def least_of(numbers: int) -> int:
    """Samples of a part, at least, of a net with ``numbers`` parameters: a power of two."""
    least = LEAST
    while least * numbers < WORTH and least < WORTH:
        least *= 2
    return least


def parts_of(samples: int, most: int, least: int) -> int:
    """Into how many parts a batch is cut: a power of two up to ``most``, which is one."""
    count = most
    while count > 1 and samples < count * (least if count <= FEW else max(least, MANY)):
        count //= 2
    return count


def of_rank(rank: int, size: int, parts: int) -> range:
    """The parts that a rank computes."""
    return range(parts * rank // size, parts * (rank + 1) // size)


@dataclass(frozen=True)
class Share:
    """This rank's share of a batch, which is cut into parts of consecutive rows.

    Attributes:
        samples: of the whole batch.
        least: samples of a part, of which the first row is a multiple.
    """

    world: World
    samples: int
    least: int

    @property
    def count(self) -> int:
        """How many parts the batch has: the leaves of the tree that adds up, or one for each rank without a tree."""
        return parts_of(self.samples, self.world.parts, self.least) if self.world.exact else self.world.size

    def parts(self, rank: int | None = None) -> range:
        """The numbers of the parts that a rank computes, this one by default."""
        return of_rank(self.world.rank if rank is None else rank, self.world.size, self.count)

    def rows(self, rank: int | None = None) -> slice:
        """The rows of the batch that these parts are."""
        parts = self.parts(rank)
        return slice(self._start(parts.start), self._start(parts.stop))

    def rows_of_part(self, part: int) -> slice:
        """The rows of a part, counted from the first of this rank."""
        first = self.rows().start
        return slice(self._start(part) - first, self._start(part + 1) - first)

    def _start(self, part: int) -> int:
        """The first row of a part; of one after the last, the number of all."""
        return self.samples if part == self.count else self.samples * part // self.count // self.least * self.least

    def everywhere(self, numbers: Array) -> Array:
        """Numbers, one for each row of this rank, of all ranks, one for each row of the batch."""
        everything = self.world.gather(ADD_UP, np.ascontiguousarray(on_host(numbers)))
        return module_of(numbers).asarray(np.concatenate(everything))

"""What of a batch each rank computes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..backend import Array, module_of, on_host
from .world import ADD_UP, World

#: Samples of a part, at least, unless it is the only one, and what they are at least times the net's parameters: a part
#: takes a fifth of a millisecond more than its arithmetic.
LEAST, WORTH = 16, 1 << 20
#: Parts up to which they are that small. Each of more parts has at least so many samples, and is worth so many times as
#: much: in small parts each sample takes longer. Measured on Zen 4; what is added to what depends on these numbers.
FEW, MANY, MORE = 8, 256, 32


def least_of(numbers: int, many: bool = False) -> int:
    """Samples of a part, at least, of a few parts or many, of a net with ``numbers`` parameters: a power of two."""
    least, worth = (MANY, MORE * WORTH) if many else (LEAST, WORTH)
    while least * numbers < worth and least < worth:
        least *= 2
    return least


def parts_of(samples: int, most: int, numbers: int) -> int:
    """Into how many parts a batch of a net with ``numbers`` parameters is cut: a power of two, as ``most`` is."""
    count = most
    while count > 1 and samples < count * least_of(numbers, count > FEW):
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
        numbers: that the net's parameters hold.
    """

    world: World
    samples: int
    numbers: int

    @cached_property
    def count(self) -> int:
        """How many parts the batch has: the leaves of the tree that adds up, or one for each rank without a tree."""
        return parts_of(self.samples, self.world.parts, self.numbers) if self.world.exact else self.world.size

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

    @cached_property
    def _least(self) -> int:
        return least_of(self.numbers)

    def _start(self, part: int) -> int:
        """The first row of a part, a multiple of the least samples of one; of one after the last, the number of all."""
        least = self._least
        return self.samples if part == self.count else self.samples * part // self.count // least * least

    def everywhere(self, numbers: Array) -> Array:
        """Numbers, one for each row of this rank, of all ranks, one for each row of the batch."""
        everything = self.world.gather(ADD_UP, np.ascontiguousarray(on_host(numbers)))
        return module_of(numbers).asarray(np.concatenate(everything))

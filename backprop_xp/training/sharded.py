"""The optimiser's state shared out to ranks (ZeRO-1; Rajbhandari et al., 2020): each updates a part of all parameters.

A rank gets the gradients of its part alone, keeps the state of these, makes their step, and sends the new numbers to
all. An update is element-wise, so the bits are those of a rank that has everything.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..backend import Array, module_of
from ..distributed.world import ADD_UP, World
from ..tensor import Tensor
from .flat import Flat

#: Numbers that parts are multiples of: whole registers, and cache lines.
GRAIN = 64


class Sharding:
    """Which part of one array of all parameters each rank updates.

    Attributes:
        bounds: (ranks + 1,) where the parts begin.
        part: this rank's.
    """

    def __init__(self, world: World, numbers: int) -> None:
        self._world = world
        grains = -(-numbers // GRAIN)
        self.bounds = [min(numbers, grains * rank // world.size * GRAIN) for rank in range(world.size + 1)]
        self.part = slice(*self.bounds[world.rank : world.rank + 2])

    def collect(self, flat: Array) -> None:
        """Fill the other parts of an array (numbers,) with what their ranks have there."""
        parts = self._world.gather(ADD_UP, self._world.ready(flat[self.part]))
        flat[...] = module_of(flat).asarray(module_of(parts[0]).concatenate(parts))

    def whole(self, part: Array) -> Array:
        """An array (numbers,) of which every rank has its part."""
        flat = module_of(part).empty(self.bounds[-1], part.dtype)
        flat[self.part] = part
        self.collect(flat)
        return flat


def order(flat: Flat, places: Sequence[Tensor]) -> list[int]:
    """Which gradient of an engine's, one for each place of a tensor, belongs to each tensor of the flat array.

    Raises:
        ValueError: a tensor stands in two places: their gradients are added after they have travelled.
    """
    if len(places) != len(flat.tensors):
        raise ValueError("ranks can't shard the optimiser's state of a net in which one tensor stands in two places")
    numbers = {id(tensor): place for place, tensor in enumerate(places)}
    return [numbers[id(tensor)] for tensor in flat.tensors]

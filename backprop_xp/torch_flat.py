"""A net whose parameters are one Parameter of PyTorch's, so that an optimiser's step is over one tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .backend import Array
from .graph import GraphNet
from .net import Net
from .torch_link import Link, pattern, shapes


class Flat:
    """Where the array of each of a net's places lies in one array (count,): one after another, a shared one once.

    Attributes:
        count: how many numbers the net's parameters hold.
    """

    def __init__(self, net: Net | GraphNet) -> None:
        self._pattern, of_places = pattern(net._places()), shapes(net)
        self._first = [*dict.fromkeys(self._pattern)]
        self._shapes = [of_places[place] for place in self._first]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.count = sum(self._sizes)

    def split(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The view of each place; places that share an array have the same one."""
        parts = (part.view(shape) for part, shape in zip(flat.split(self._sizes), self._shapes))
        views = dict(zip(self._first, parts))
        return [views[first] for first in self._pattern]

    def join(self, gradients: Sequence[Array], xp: Any) -> Array:
        """The gradient (count,) of those in the arrays of all places: a shared array has their sum."""
        total: dict[int, Array] = {}
        for first, grad in zip(self._pattern, gradients):
            total[first] = total[first] + grad if first in total else grad
        return xp.concatenate([total[first] for first in self._first], axis=None)


class FlatLink(Link):
    """Of a net with a module that has one Parameter (count,), whose parts are the net's arrays."""

    def __init__(self, net: Net | GraphNet, parameters: Sequence[torch.nn.Parameter] | None = None) -> None:
        super().__init__(net)
        self.flat = Flat(net)
        if not self.flat.count:
            raise ValueError("flat=True is for nets with parameters, and this one has none")
        self._parameter: Any = None
        self._address, self._views = 0, list[torch.Tensor]()
        if parameters is not None:
            self._hold(parameters[0])
            self._take(self._views)

    def make(self) -> list[torch.nn.Parameter]:
        parameter = torch.nn.Parameter(self._joined())
        self._hold(parameter)
        self._take(self._views)
        return [parameter]

    def renew(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._hold(parameters[0])
        super().renew(self._views)

    def shares(self, parameters: Sequence[torch.Tensor]) -> bool:
        return super().shares(self.flat.split(parameters[0]))

    def _hold(self, parameter: Any) -> None:
        """Look at the net's arrays in this Parameter."""
        if parameter is self._parameter and parameter.data_ptr() == self._address:
            return
        if parameter.shape != (self.flat.count,):
            raise RuntimeError(f"the module's parameter must be ({self.flat.count},), got {tuple(parameter.shape)}")
        self._parameter, self._address = parameter, parameter.data_ptr()
        self._views = self.flat.split(parameter.detach())

    def _give(self, parameters: Sequence[torch.Tensor]) -> None:
        """The module takes over the net's numbers, in memory of its own, which becomes the net's."""
        self._put(self._parameter, self._joined())
        self._hold(self._parameter)
        self._take(self._views)

    def _joined(self) -> torch.Tensor:
        """A new tensor (count,) with the numbers of the net's arrays."""
        arrays = dict(zip(self._net._places(), self._arrays()))
        return torch.cat([array.reshape(-1) for array in arrays.values()])

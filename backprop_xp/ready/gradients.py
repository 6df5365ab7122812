"""What compiled passes over batches leave to a net: arrays of all its gradients, and no signals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import workspace
from ..plan.net import AnyNet
from ..programs.matrices import Pass
from ..tensor import Tensor

#: Arrays that are used again once nobody else holds them: one is handed out while another is filled.
KEPT = 2


def _references(kept: list[tuple[np.ndarray, int]], i: int) -> int:
    """How many hold the array of a pair in a list; what Python itself adds to it differs between its versions."""
    return sys.getrefcount(kept[i][0])


_ONLY_THE_LIST = _references([(np.empty(0), 0)], 0)


class Gradients:
    """Arrays (count,) for all gradients: what was handed out is never overwritten."""

    def __init__(self, count: int, dtype: Any) -> None:
        self._count, self._dtype = count, dtype
        #: Arrays that own their memory, to which every view of a view refers; where in each begins what is handed out.
        self._kept: list[tuple[np.ndarray, int]] = []

    def unused(self) -> np.ndarray:
        """One that nobody else holds, of unspecified content."""
        for i in range(len(self._kept)):
            if _references(self._kept, i) == _ONLY_THE_LIST:
                array, start = self._kept[i]
                return array[start:][: self._count]
        array = workspace.aligned(self._count, self._dtype)
        owner = array if array.base is None else array.base
        start = (array.ctypes.data - owner.ctypes.data) // array.itemsize
        self._kept = [*self._kept[1 - KEPT :], (owner, start)]
        return array


def hand_out(gradients: np.ndarray, tensors: Sequence[Tensor], ready: Pass) -> None:
    """Let each tensor have its gradient in an array that the pass has filled; ``tensors`` are in the pass's order."""
    for tensor, (at, shape) in zip(tensors, ready.slices):
        tensor._later = (gradients, None, at, shape)


def drop_signals(net: AnyNet, signal: Tensor) -> None:
    """Forget the signals that an earlier call of the net kept; ``signal`` is any one of its Tensors for them."""
    if net._kept is not None or signal.data is not None:
        net._keep(None, None)


def a_signal(net: AnyNet) -> Tensor:
    """One of the net's Tensors for signals."""
    return next(iter(net._signals().values()))

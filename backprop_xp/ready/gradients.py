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


def _references(arrays: list[np.ndarray], i: int) -> int:
    """How many hold an array of a list; what Python itself adds to it differs between its versions."""
    return sys.getrefcount(arrays[i])


_ONLY_THE_LIST = _references([np.empty(0)], 0)


class Gradients:
    """Arrays (count,) for all gradients: what was handed out is never overwritten."""

    def __init__(self, count: int, dtype: Any) -> None:
        self._count, self._dtype = count, dtype
        self._arrays: list[np.ndarray] = []  # those that own their memory, which every view of a view refers to
        self._starts: list[int] = []  # of what is handed out of each

    def unused(self) -> np.ndarray:
        """One that nobody else holds, of unspecified content."""
        for i in range(len(self._arrays)):
            if _references(self._arrays, i) == _ONLY_THE_LIST:
                return self._arrays[i][self._starts[i] :][: self._count]
        array = workspace.aligned(self._count, self._dtype)
        owner = array if array.base is None else array.base
        self._arrays = [*self._arrays[1 - KEPT :], owner]
        self._starts = [*self._starts[1 - KEPT :], (array.ctypes.data - owner.ctypes.data) // array.itemsize]
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

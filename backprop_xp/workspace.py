"""Memory for a call's intermediate arrays, kept for the next call of the same thread.

Fresh pages cost the system more time than many a computation on them. Within :func:`recycled` the arrays from
:func:`empty` come from a pool, and go back to it at the end: what outlives the call must not come from here.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

#: Bytes that a thread keeps between calls, at most, and of the smallest array that is recycled: smaller ones are cheap
#: to make. Chosen, not measured.
KEPT_BYTES, SMALLEST = 1 << 30, 1 << 16


class _Pool(threading.local):
    def __init__(self) -> None:
        self.free: list[np.ndarray] = []
        self.used: list[np.ndarray] = []
        self.active = False


_pool = _Pool()


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of unspecified content: recycled within :func:`recycled`, new elsewhere."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not _pool.active or size < SMALLEST:
        return np.empty(shape, dtype)
    fitting = [i for i, buffer in enumerate(_pool.free) if size <= buffer.nbytes <= 2 * size]
    best = min(fitting, key=lambda i: _pool.free[i].nbytes, default=None)
    buffer = np.empty(size, np.uint8) if best is None else _pool.free.pop(best)
    _pool.used.append(buffer)
    return buffer[:size].view(dtype).reshape(shape)


@contextmanager
def recycled(active: bool = True) -> Iterator[None]:
    """Let :func:`empty` recycle, for arrays that don't outlive the block."""
    before, _pool.active = _pool.active, active
    try:
        yield
    finally:
        _pool.active = before
        if not before:
            # the latest first: a changed batch size must not keep the old one's memory alive
            kept, total = [], 0
            for buffer in (*_pool.used, *_pool.free):
                if total + buffer.nbytes <= KEPT_BYTES:
                    total += buffer.nbytes
                    kept.append(buffer)
            _pool.free, _pool.used = kept, []

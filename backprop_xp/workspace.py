"""Memory for a call's intermediate arrays, kept for later calls of the process.

Fresh pages cost the system more time than many a computation on them. Within :func:`recycled` the arrays from
:func:`empty` come from what is kept, and go back to it at the end: what outlives the call must not come from here.
Everything kept from call to call, :class:`Room` included, is at most :func:`limit` bytes, and is let go when a net is.
"""

from __future__ import annotations

import math
import sys
import threading
import weakref
from types import TracebackType
from typing import Any

import numpy as np

from .environment import WORKSPACE

SMALLEST = 1 << 16  # bytes; smaller arrays are cheap to make
LINE = 64  # bytes that go to memory and come from it together

#: Nobody's buffers by their ids, the oldest first, and who used each last, whose cache may still hold it. Single
#: operations on a dict are atomic, so that no lock is needed.
_free: dict[int, tuple[np.ndarray, int]] = {}
_rooms: weakref.WeakSet[Room] = weakref.WeakSet()


class _Here(threading.local):
    """This thread's innermost block, as a weak reference: one that an interrupt left untidily is none."""

    block: weakref.ref[recycled] | None = None


_here = _Here()


def limit() -> int:
    """Bytes that may be kept: BACKPROP_XP_WORKSPACE in MiB, else 256 MiB."""
    return WORKSPACE.read() << 20


def kept() -> int:
    """Bytes that are kept now."""
    return sum(buffer.nbytes for buffer, _ in list(_free.values())) + _taken()


def clear() -> None:
    """Let go of every buffer that no call is using."""
    _free.clear()


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of unspecified content: recycled within :func:`recycled`, new elsewhere."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    block = _here.block and _here.block()
    if not block or block.used is None or size < SMALLEST:
        return np.empty(shape, dtype)
    buffer = _take(size)
    if buffer is None:
        buffer = np.empty(size, np.uint8)
    block.used.append(buffer)
    return buffer[:size].view(dtype).reshape(shape)


def aligned(count: int, dtype: Any) -> np.ndarray:
    """A new array (count,) of unspecified content; a large one is a view that begins at a multiple of LINE bytes."""
    size = np.dtype(dtype).itemsize
    if count * size < SMALLEST:
        return np.empty(count, dtype)
    whole = np.empty(count + LINE // size, dtype)
    start = -whole.__array_interface__["data"][0] % LINE // size
    return whole[start : start + count]


class recycled:
    """Let :func:`empty` recycle, for arrays that don't outlive the block."""

    def __init__(self, active: bool = True) -> None:
        self.used: list[np.ndarray] | None = [] if active else None

    def __enter__(self) -> None:
        self._outer, _here.block = _here.block, weakref.ref(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _here.block = self._outer
        if self.used:
            _give_back(*self.used)


class Loan:
    """Bytes of unspecified content that outlive a call, and go back to what is kept when this goes."""

    __slots__ = ("buffer",)

    def __init__(self, size: int) -> None:
        found = _take(size) if size >= SMALLEST else None
        self.buffer = np.empty(size, np.uint8) if found is None else found

    def __del__(self) -> None:
        if self.buffer.nbytes >= SMALLEST and not sys.is_finalizing():
            _give_back(self.buffer)


class Room:
    """The ``size`` bytes that a prepared call keeps for as long as it lives, within the limit.

    Raises:
        MemoryError: other prepared calls have taken the room.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        rest = limit() - _taken() - size
        if rest < 0:
            raise MemoryError(f"prepared calls would keep more than {limit() >> 20} MiB ({WORKSPACE.name})")
        _rooms.add(self)
        _trim(rest)


def _take(size: int) -> np.ndarray | None:
    """The kept buffer that fits best, the last that this thread used if there are several."""
    me = threading.get_ident()
    fitting = [
        (buffer.nbytes, thread != me, -i, key)
        for i, (key, (buffer, thread)) in enumerate(list(_free.items()))
        if size <= buffer.nbytes <= 2 * size
    ]
    for *_, key in sorted(fitting):
        found = _free.pop(key, None)  # another thread may have been faster
        if found is not None:
            return found[0]
    return None


def _give_back(*buffers: np.ndarray) -> None:
    me = threading.get_ident()
    for buffer in buffers:
        _free[id(buffer)] = buffer, me
    _trim(limit() - _taken())


def _trim(most: int) -> None:
    """Let go of the oldest buffers until all take at most ``most`` bytes."""
    total = sum(buffer.nbytes for buffer, _ in list(_free.values()))
    for key in list(_free):
        if total <= most:
            return
        found = _free.pop(key, None)
        total -= found[0].nbytes if found is not None else 0


def _taken() -> int:
    return sum(room.size for room in list(_rooms))

"""Matrix products of a whole batch on several threads, with the same bits for any number of them.

BLAS gives other bits on another number of its own threads. Within :func:`shared_out` it has one, and a large product is
cut, by its shape alone, into parts that this package's threads share out: rows or columns of the result, or where the
sums in it are much longer than these, parts of the sums, which are added in a fixed tree.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from . import forks, later, threads
from .sums.tree import ChunkTree

threadpoolctl = later.Module("threadpoolctl")

#: Multiply-adds of a part, at least; its rows, columns or terms, at least; and how many times longer than rows and
#: columns sums must be to be cut. Chosen: calling a thread takes some ten microseconds, a part a few times that.
PART, FEWEST, LONG = 1 << 22, 128, 8


class _Here(threading.local):
    """How many threads this thread's products are shared out to; 0 where BLAS may do as it likes."""

    threads = 0


_here = _Here()


class _Held:
    """BLAS on one thread while anybody in the process wants it so."""

    def __init__(self) -> None:
        self._lock = forks.lock(threading.RLock)
        self._holders = 0
        self._before: dict[Any, int] = {}  # the threads of libraries that had more

    def __enter__(self) -> None:
        with self._lock:
            self._holders += 1
            for library in _libraries():
                if (count := library.get_num_threads()) != 1:  # somebody may have set it since the first holder came
                    self._before.setdefault(library, count)
                    _set(library, 1)

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self.let_go()

    def let_go(self) -> None:
        """Let BLAS have its threads again, whoever wanted otherwise: in a child process they are no more."""
        for library, count in self._before.items():
            if library.get_num_threads() == 1:  # else it was set meanwhile
                _set(library, count)
        self._holders, self._before = 0, {}


def _set(library: Any, count: int) -> None:
    """Set a library's number of threads, of which there is one for the process, from any thread of it.

    Recent versions of threadpoolctl let one thread do so at a time, and ignore what others set.
    """
    clear = getattr(library, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
    library.set_num_threads(count)
    if clear is not None:
        clear(force=True)


#: Within it, BLAS computes on the thread that calls it.
one_blas_thread = _Held()
forks.in_child(one_blas_thread.let_go)


@contextmanager
def shared_out(workers: int) -> Iterator[None]:
    """Share out this thread's products in the block to ``workers`` threads."""
    before, _here.threads = _here.threads, workers
    try:
        with one_blas_thread:
            yield
    finally:
        _here.threads = before


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The matrix product a @ b in ``out``."""
    (rows, terms), columns = a.shape, b.shape[1]
    sums = terms > LONG * max(rows, columns)
    length = terms if sums else max(rows, columns)
    parts = min(rows * terms * columns // PART, length // FEWEST)
    if not _here.threads or parts < 2:
        return np.matmul(a, b, out=out)
    step = -(-length // parts)
    cuts = [slice(at, at + step) for at in range(0, length, step)]
    if sums:
        tree: ChunkTree[np.ndarray] = ChunkTree()
        _each(cuts, lambda i, cut: tree.add(i, a[:, cut] @ b[cut]))
        out[...] = tree.total()
    elif rows >= columns:
        _each(cuts, lambda i, cut: np.matmul(a[cut], b, out=out[cut]))
    else:
        _each(cuts, lambda i, cut: np.matmul(a, b[:, cut], out=out[:, cut]))
    return out


def _each(cuts: list[slice], work: Any) -> None:
    numbers, stop, warned_of = itertools.count(), threads.Stop(), np.geterr()

    def worker() -> None:
        with np.errstate(**warned_of):  # which other threads don't know
            while (index := next(numbers)) < len(cuts) and not stop.raised:
                work(index, cuts[index])

    threads.run(worker, min(_here.threads, len(cuts)), stop)


@cache
def _libraries() -> list[Any]:
    return threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers

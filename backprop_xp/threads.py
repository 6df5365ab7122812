"""Worker threads: how many, and running one function on all of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from .environment import MOST_THREADS, NUM_THREADS

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_lock = threading.Lock()
_here = threading.local()  # .working: this thread is one of those that run() uses


def count(threads: int | None = None) -> int:
    """How many threads to use: the argument, else BACKPROP_XP_NUM_THREADS, else the processors of this process."""
    if threads is None:
        if wanted := NUM_THREADS.read():
            return wanted
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads must be an integer from 1 to {MOST_THREADS}, got {threads!r}")
    return threads


def run(work: Callable[[], None], threads: int, stop: Callable[[], None]) -> None:
    """Call ``work`` on so many threads at once, this one among them, and wait for all.

    ``work`` returns to Python every now and then, so that an interrupt is seen. On an exception in any of them,
    KeyboardInterrupt included, ``stop`` is called, which makes the others return soon, and it is raised again.
    Called by ``work`` itself, it runs on the one thread it is called from.
    """
    if threads == 1 or getattr(_here, "working", False):
        work()
        return
    futures = _submit(work, threads - 1)
    try:
        _work(work)
        for future in futures:
            future.result()
    except BaseException:
        stop()
        wait(futures)
        raise


def _work(work: Callable[[], None]) -> None:
    _here.working = True
    try:
        work()
    finally:
        _here.working = False


def _submit(work: Callable[[], None], copies: int) -> list[Future[None]]:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < copies:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool, _pool_size = ThreadPoolExecutor(copies, "backprop_xp"), copies
        return [_pool.submit(_work, work) for _ in range(copies)]


def _forget() -> None:
    """A forked child has none of its parent's threads, and its copy of the lock may be held by one of them."""
    global _pool, _pool_size, _lock
    _pool, _pool_size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

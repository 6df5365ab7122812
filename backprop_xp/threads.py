"""Worker threads: how many, and running one function on all of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from .numbers import whole

ENVIRONMENT = "BACKPROP_XP_NUM_THREADS"
MOST = 1024  # threads that may be asked for

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_lock = threading.Lock()
_here = threading.local()  # .working: this thread is one of those that run() uses


def count(threads: int | None = None) -> int:
    """How many threads to use: the argument, else BACKPROP_XP_NUM_THREADS, else the processors of this process."""
    if threads is None:
        text = os.environ.get(ENVIRONMENT, "")
        if not text:
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if not text.isdecimal() or not 1 <= int(text) <= MOST:
            raise ValueError(f"{ENVIRONMENT} must be a number from 1 to {MOST}, got {text!r}")
        return int(text)
    return whole("threads", threads, 1, MOST)


def run(work: Callable[[], None], threads: int, stop: Callable[[], None]) -> None:
    """Call ``work`` on this number of threads at once, this one among them, and wait for all.

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

"""Worker threads: how many, and running one function on all of them.

A call is left only when every thread has returned from it, however many signals' handlers raise exceptions meanwhile:
compiled code writes to arrays of the caller's.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

from . import forks
from .environment import MOST_THREADS, NUM_THREADS
from .numbers import whole

#: Floating-point operations of a call of C from which on it is long, see run(): some hundredths of a second on one
#: processor. Calculated.
LONG_FLOPS = 1e9


class _Here(threading.local):
    """This thread's own; ``stop`` is the flag of the work that it takes part in."""

    stop: Stop | None = None


class Stop(ctypes.Structure):
    """A flag that ends work early, in memory that compiled passes look at: ``raised`` is then no longer 0.

    Setting a field is one step of C: a signal's handler can't come between.
    """

    _fields_ = [("raised", ctypes.c_int64)]
    raised: int


class Stopped(Exception):
    """Work ends early: the flag is raised."""


_here = _Here()
_processes = 1  # that share the machine's processors
_idle: list[_Worker] = []  # append and pop are atomic, so that no lock is needed


def share(processes: int) -> None:
    """Divide the machine's processors among this number of processes, of which this is one."""
    global _processes
    _processes = processes


def count(threads: int | None = None) -> int:
    """How many threads to use: the argument, else BACKPROP_XP_NUM_THREADS, else the processors of this process.

    Where it shares all processors of the machine with others (:func:`share`), an equal part of them. One in a thread
    that takes part in :func:`run`, which has shared out the processors already.
    """
    if _here.stop is not None:
        return 1
    if threads is None:
        if wanted := NUM_THREADS.read():
            return wanted
        there = os.cpu_count() or 1
        own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
        return max(1, own // _processes) if own == there else own
    return whole("threads", threads, 1, MOST_THREADS)


def check() -> None:
    """For long work in Python, between two steps of it. Raises Stopped, which :func:`run` catches."""
    if _here.stop is not None and _here.stop.raised:
        raise Stopped


def run(work: Callable[[], None], threads: int, stop: Stop, long: bool = False) -> None:
    """Call ``work`` on this number of threads at once, and return when each of them has returned.

    ``work`` takes parts of the whole until none is left, so that a single thread could do all. This thread is one of
    them, unless it is the main one and the work is ``long``: signals are handled on the main thread and between two
    calls of C only, so there it waits. On an exception in any thread, or of a signal's handler, the flag ``stop`` is
    raised, which makes the others return soon, and the exception is raised again.

    Called by ``work`` itself, or where no thread can be started any more, it runs on the one thread it is called from.

    Args:
        long: whether a thread may be in C for more than some hundredths of a second at a time.
    """
    waits = long and threading.current_thread() is threading.main_thread()
    worker = _hire() if _here.stop is None and (threads > 1 or waits) else None
    if worker is None:
        work()
        return
    task = _Task(work, threads if waits else threads - 1, stop)
    # Exceptions of signals' handlers come after a call or at the start of a Python function. So none comes before
    # put(), which either has happened or not, and none between one of them and the call that waits in C.
    try:
        worker.tasks.put(task)
        if not waits:
            task.take_part()
        task.ended.acquire()
    except BaseException:
        stop.raised = stop.raised or 1
        raise
    finally:
        _wait(task.gate, 1)
    task.reraise()


class _Task:
    """Work for some pool threads. They hold it, and by it all that the work writes to, until they have returned."""

    def __init__(self, work: Callable[[], None], copies: int, stop: Stop) -> None:
        self._work, self._copies, self._stop = work, copies, stop
        self._starts, self._ends = itertools.count(1), itertools.count(1)
        self._error: BaseException | None = None
        self.ended = threading.Lock()  # open when all have returned, for a wait that signals interrupt
        self.gate = _make_gate()  # the same for one that they don't
        self.ended.acquire()
        _wait(self.gate, 1)

    def __del__(self) -> None:
        _free_gate(self.gate)

    def take_part(self) -> None:
        """Work on this thread."""
        _here.stop = self._stop
        try:
            self._work()
        except Stopped:
            pass
        finally:
            _here.stop = None

    def serve(self) -> None:
        """Work on a pool thread, the first of which calls the others."""
        if next(self._starts) == 1:
            for _ in range(self._copies - 1):
                worker = _hire()
                if worker is None:
                    self.leave()
                else:
                    worker.tasks.put(self)
        try:
            self.take_part()
        except BaseException as error:
            self._error = self._error or error
            self._stop.raised = self._stop.raised or 1

    def leave(self) -> None:
        """One pool thread has returned."""
        if next(self._ends) == self._copies:
            _open(self.gate)
            self.ended.release()

    def reraise(self) -> None:
        """Raise what a pool thread met."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame


class _Worker:
    """A thread that waits for tasks."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[_Task] = SimpleQueue()
        thread = threading.Thread(target=self._serve, name="backprop_xp", daemon=True)
        try:
            thread.start()
        except KeyError as error:  # Python forgets a thread twice where a handler's exception comes as it has started
            raise error.__context__ or error from None

    def _serve(self) -> None:
        while True:
            task = self.tasks.get()
            task.serve()
            _idle.append(self)  # before the call ends: the next one needs no other thread
            task.leave()
            del task


def _hire() -> _Worker | None:
    """A thread that is free, None where there can be none: the interpreter ends, or the system has no more."""
    if sys.is_finalizing():
        return None
    try:
        return _idle.pop()
    except IndexError:
        pass
    try:
        return _Worker()
    except RuntimeError:
        return None


#: Python's own locks as C has them: waiting for one lets the interpreter go, and no signal ends it.
_gates = ctypes.CDLL(None, handle=ctypes.pythonapi._handle)
_make_gate, _free_gate = _gates.PyThread_allocate_lock, _gates.PyThread_free_lock
_wait, _open = _gates.PyThread_acquire_lock, _gates.PyThread_release_lock
_make_gate.argtypes, _make_gate.restype = (), ctypes.c_void_p
_wait.argtypes, _wait.restype = (ctypes.c_void_p, ctypes.c_int), ctypes.c_int
for _function in (_free_gate, _open):
    _function.argtypes, _function.restype = (ctypes.c_void_p,), None

forks.in_child(_idle.clear)

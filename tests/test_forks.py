"""Locks in a forked child."""

from __future__ import annotations

import os
import threading

import pytest

from backprop_xp import forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_a_lock_that_another_thread_holds_is_open_in_the_child_alone(kind):
    lock, held, end = forks.lock(kind), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            end.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        os._exit(0 if lock.acquire(timeout=2) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not lock.acquire(blocking=False)
    end.set()
    holder.join()

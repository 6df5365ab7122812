"""How many worker threads, and running one function on all of them."""

from __future__ import annotations

import os
import threading
import time

import pytest

from backprop_xp import environment, threads


def test_count_prefers_the_argument_then_the_environment(monkeypatch):
    monkeypatch.setenv("BACKPROP_XP_NUM_THREADS", "3")
    assert threads.count() == 3
    assert threads.count(5) == 5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_count_respects_the_affinity_mask(monkeypatch):
    monkeypatch.delenv("BACKPROP_XP_NUM_THREADS", raising=False)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert threads.count() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "100000", "1e3", "nan", "\N{SUPERSCRIPT TWO}"])
def test_a_bad_environment_is_one_warning(monkeypatch, text):
    monkeypatch.delenv("BACKPROP_XP_NUM_THREADS", raising=False)
    default = threads.count()
    monkeypatch.setenv("BACKPROP_XP_NUM_THREADS", text)
    environment._parsed.cache_clear()
    with pytest.warns(RuntimeWarning, match=f"BACKPROP_XP_NUM_THREADS must be a number from 1 to 1024, got '{text}'"):
        assert threads.count() == default
    assert threads.count() == default


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_a_bad_argument_is_one_sentence(value):
    with pytest.raises(ValueError, match="threads must be an integer"):
        threads.count(value)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_work_runs_once_on_each_thread(number):
    barrier, seen = threading.Barrier(number, timeout=20), set()

    def work():
        barrier.wait()  # passes only if all run at once
        seen.add(threading.get_ident())

    threads.run(work, number, stop=lambda: None)
    assert len(seen) == number


def test_an_exception_in_a_worker_stops_the_others_and_is_raised():
    stop, here = threading.Event(), threading.get_ident()

    def work():
        if threading.get_ident() == here:
            raise KeyError("from this thread")
        while not stop.is_set():
            time.sleep(0.001)

    with pytest.raises(KeyError, match="from this thread"):
        threads.run(work, 3, stop.set)


def test_work_that_uses_threads_itself_does_not_wait_for_its_own_pool():
    inner = []

    def work():
        threads.run(lambda: inner.append(threading.get_ident()), 4, stop=lambda: None)

    threads.run(work, 3, stop=lambda: None)
    assert len(inner) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_after_use_works():
    threads.run(lambda: None, 3, stop=lambda: None)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            threads.run(lambda: None, 3, stop=lambda: None)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

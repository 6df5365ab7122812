"""How many worker threads, and running one function on all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest

from backprop_xp import Net, environment, threads
from backprop_xp.programs import matrices
from backprop_xp.toolchain import compiler


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
    barrier, seen = threading.Barrier(number, timeout=60), set()

    def work():
        barrier.wait()  # passes only if all run at once
        seen.add(threading.get_ident())

    threads.run(work, number, threads.Stop())
    assert len(seen) == number


def test_an_exception_in_a_worker_stops_the_others_and_is_raised():
    stop, here = threads.Stop(), threading.get_ident()

    def work():
        if threading.get_ident() == here:
            raise KeyError("from this thread")
        while not stop.raised:
            time.sleep(0.001)

    with pytest.raises(KeyError, match="from this thread"):
        threads.run(work, 3, stop)


def test_work_that_uses_threads_itself_does_not_wait_for_its_own_pool():
    inner = []

    def work():
        threads.run(lambda: inner.append(threading.get_ident()), 4, threads.Stop())

    threads.run(work, 3, threads.Stop())
    assert len(inner) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_after_use_works():
    threads.run(lambda: None, 3, threads.Stop())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            threads.run(lambda: None, 3, threads.Stop())
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_an_exception_of_any_thread_is_raised_when_all_have_returned(number, long):
    numbers, working, stop = iter(range(number)), [], threads.Stop()

    def work():
        index = next(numbers)
        working.append(index)
        try:
            if index == number - 1:
                raise KeyError(index)
            while True:
                threads.check()
                time.sleep(0.001)
        finally:
            time.sleep(0.02)
            working.remove(index)

    with pytest.raises(KeyError, match=str(number - 1)):
        threads.run(work, number, stop, long)
    assert not working


def test_long_work_leaves_the_main_thread_to_signals_and_any_other_thread_to_the_work():
    seen = []
    threads.run(lambda: seen.append(threading.get_ident()), 1, threads.Stop(), long=True)
    other = threading.Thread(
        target=lambda: threads.run(lambda: seen.append(threading.get_ident()), 1, threads.Stop(), long=True)
    )
    other.start()
    other.join()
    assert seen[0] != threading.get_ident()
    assert seen[1] == other.ident


def test_threads_are_used_again():
    before = threading.active_count()
    for _ in range(50):
        threads.run(lambda: None, 2, threads.Stop())
    assert threading.active_count() <= before + 2


def test_what_work_holds_is_let_go_with_the_call():
    class Held:
        pass

    held = Held()
    gone = threading.Event()
    weakref.finalize(held, gone.set)
    threads.run(lambda held=held: None, 3, threads.Stop(), long=True)
    del held
    assert gone.wait(60)


def run(program):
    environment = {**os.environ, "BACKPROP_XP_BACKEND": "numpy", "MALLOC_PERTURB_": "7"}
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.parametrize("long", [False, True])
def test_a_storm_of_signals_never_leaves_a_thread_behind(long):
    """Handlers that raise come every 0.3 ms, wherever the main thread is: a call ends with no thread in the work."""
    result = run(f"""
        import signal, threading, time
        from backprop_xp import threads

        working, left, ended = [], 0, 0

        def raise_it(*_):
            if armed:
                raise TimeoutError

        def work():
            working.append(1)
            try:
                while not stop.raised:
                    time.sleep(0.0005)
                time.sleep(0.002)
            finally:
                working.pop()

        armed = False
        signal.signal(signal.SIGALRM, raise_it)
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        for _ in range(100):
            stop = threads.Stop()
            armed = True
            try:
                threads.run(work, 3, stop, {long})
            except TimeoutError:
                armed = False  # before a call, after which the next signal would be handled
                seen = len(working)
            left += seen
            ended += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(left, ended)
    """)
    assert result.stdout == "0 100\n", (result.returncode, result.stderr[-2000:])


INTERRUPTED = """
import os, signal, threading, time
import numpy as np
from backprop_xp import Graph, Net

def build():
    if {graph}:
        g = Graph()
        h = g.input(512)
        for _ in range(2):
            h = g.apply("tanh", g.linear(h, 512)) + h
        return g.net(h, dtype="float32", rng=0, engine={engine!r}, threads=2)
    return Net((512, 512, 512), dtype="float32", rng=0, engine={engine!r}, threads=2)

net, x = build(), np.ones((40_000, 512), np.float32)
net.loss_and_grad(x[:5000], input_grad=True)
grads = [p.grad for p in net.parameters]
before = [grad.copy() for grad in grads]
canaries = [np.full(x.shape, 7, np.float32)]

class Interrupt(BaseException):
    pass

sent, handled = [], []

def handler(*_):
    handled.append(time.monotonic())
    if calling:
        raise Interrupt

def send():
    for _ in range(8):
        time.sleep(0.05)
        sent.append(1)
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, handler)
sender, calling = threading.Thread(target=send), True
sender.start()
try:
    while True:
        net.loss_and_grad(x, input_grad=True)
except Interrupt:
    calling = False
    canaries.append(np.full(x.shape, 7, np.float32))
calling = False
sender.join()
assert len(sent) == 8
assert all((canary == 7).all() for canary in canaries)
now = [p.grad for p in net.parameters]
whole = len({{id(grad) for grad in now}}) == len(now) and all(np.isfinite(grad).all() for grad in now)
print("whole", whole)
"""


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("engine", ["auto", "tiled"])
def test_many_interrupts_of_a_wide_call_with_input_gradients(engine, graph):
    result = run(INTERRUPTED.format(engine=engine, graph=graph))
    assert (result.returncode, result.stdout) == (0, "whole True\n"), result.stderr[-2000:]


@pytest.mark.skipif(bool(compiler.missing()), reason="no C++ compiler on this machine")
def test_an_interrupt_keeps_the_gradients_of_before(monkeypatch):
    net, x = Net((64, 64, 64), rng=0, threads=2), np.ones((4096, 64))
    net.loss_and_grad(x[:8])
    grads = [p.grad for p in net.parameters]
    copies = [grad.copy() for grad in grads]

    run = matrices.Pass.run

    def interrupted(ready):
        run(ready)
        raise KeyboardInterrupt

    monkeypatch.setattr(matrices.Pass, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        net.loss_and_grad(x)
    for p, grad, copy in zip(net.parameters, grads, copies):
        assert p.grad is grad
        np.testing.assert_array_equal(grad, copy)


@pytest.mark.parametrize("engine", ["auto", "tiled", "layered"])
def test_calls_at_exit_and_from_threads_that_outlive_the_main_one(engine):
    result = run(f"""
        import atexit, threading
        import numpy as np
        from backprop_xp import Graph, Net

        wide = Net((64, 64, 8), rng=0, engine={engine!r}, threads=2), np.ones((5000, 64))
        narrow = Net(rng=0, engine={engine!r}, threads=2), np.ones((50_000, 5))
        g = Graph()
        h = g.input(16)
        graph = g.net(g.linear(h, 16) + h, rng=0, engine={engine!r}, threads=2), np.ones((9000, 16))
        first = [net.loss_and_grad(x) for net, x in (wide, narrow, graph)]

        def again(when, pairs=(wide, narrow, graph)):
            print(when, [net.loss_and_grad(x) for net, x in pairs] == first, flush=True)

        class Last:
            def __del__(self, again=again):
                again("finalisation")

        def outlive():
            threading.main_thread().join()
            again("thread")

        last = Last()
        atexit.register(again, "exit")
        threading.Thread(target=outlive).start()
    """)
    assert result.stdout.split("\n") == ["thread True", "exit True", "finalisation True", ""], result.stderr[-2000:]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("call", ["net.loss_and_grad(x)", "net.forward(x)", "net.loss_and_grad(x[0])"])
def test_a_fork_while_another_thread_is_in_a_call(call):
    result = run(f"""
        import os, signal, threading, warnings
        import numpy as np
        from backprop_xp import Net

        warnings.simplefilter("ignore")
        net, x = Net(rng=0), np.ones((400, 5))
        {call}
        end = False

        def work():
            while not end:
                {call}

        running = [threading.Thread(target=work) for _ in range(2)]
        for thread in running:
            thread.start()
        codes = set()
        for _ in range(25):
            child = os.fork()
            if not child:
                signal.alarm(60)
                {call}
                os._exit(0)
            codes.add(os.waitpid(child, 0)[1])
        end = True
        print(codes)
    """)
    assert result.stdout == "{0}\n", result.stderr[-2000:]

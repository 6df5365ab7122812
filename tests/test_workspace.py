"""Recycled memory: never handed out twice at a time, never kept without end, and each thread has its own."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

from backprop_xp import Net, environment, workspace
from backprop_xp.workspace import empty, recycled

LARGE = (workspace.SMALLEST // 8, 2)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(workspace, "_free", {})


def address(array):
    return array.ctypes.data


def test_memory_comes_back_in_the_next_block():
    with recycled():
        first = address(empty(LARGE, np.float64))
    with recycled():
        assert address(empty(LARGE, np.float64)) == first


def test_within_a_block_no_memory_is_handed_out_twice():
    with recycled():
        pass
    for _ in range(3):
        with recycled():
            arrays = [empty(LARGE, np.float64) for _ in range(5)]
            for a in arrays:
                for b in arrays:
                    assert a is b or not np.shares_memory(a, b)


def test_an_inner_block_does_not_free_what_the_outer_one_uses():
    with recycled():
        mine = empty(LARGE, np.float64)
        with recycled():
            pass
        with recycled(False):
            outside = empty(LARGE, np.float64)
        assert not np.shares_memory(empty(LARGE, np.float64), mine)
        assert not np.shares_memory(outside, mine)


def test_outside_of_a_block_everything_is_new():
    with recycled():
        inside = empty(LARGE, np.float64)
    assert not np.shares_memory(empty(LARGE, np.float64), inside)
    with recycled(False):
        assert not np.shares_memory(empty(LARGE, np.float64), inside)


def test_memory_comes_back_after_an_error():
    with pytest.raises(KeyError), recycled():
        empty(LARGE, np.float64)
        raise KeyError
    assert not np.shares_memory(empty(LARGE, np.float64), next(iter(workspace._free.values()))[0])
    assert len(workspace._free) == 1


def test_shapes_and_dtypes():
    with recycled():
        for shape, dtype in (((0, 5), "f4"), ((3,), "f8"), (LARGE, "f4"), (LARGE, "f8"), ((1 << 15, 1, 2), "f4")):
            array = empty(shape, dtype)
            array[...] = 1
            assert array.shape == shape
            assert array.dtype == dtype
            assert array.flags.c_contiguous


def test_what_is_kept_is_limited_and_the_latest(monkeypatch):
    monkeypatch.setattr(workspace, "limit", lambda: 3 << 20)
    for size in (1 << 20, 2 << 20, 4 << 20, 3 << 19):
        with recycled():
            empty((size,), np.uint8)
        assert sum(a.nbytes for a, _ in workspace._free.values()) <= 3 << 20


def test_each_thread_has_its_own():
    with recycled():
        mine, theirs = empty(LARGE, np.float64), []

        def work():
            theirs.append(np.shares_memory(empty(LARGE, np.float64), mine))
            with recycled():
                theirs.append(np.shares_memory(empty(LARGE, np.float64), mine))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert theirs == [False, False]


def test_the_limit_is_of_the_process_not_of_a_thread(monkeypatch):
    monkeypatch.setenv("BACKPROP_XP_WORKSPACE", "8")
    barrier = threading.Barrier(4, timeout=60)

    def work():
        with recycled():
            for _ in range(4):
                empty((1 << 20,), np.uint8)
            barrier.wait()

    running = [threading.Thread(target=work) for _ in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert 0 < workspace.kept() - workspace._taken() <= 8 << 20


@pytest.mark.parametrize("text", ["-1", "many", "1.5", "9" * 30])
def test_a_bad_environment_is_one_warning(monkeypatch, text):
    monkeypatch.setenv("BACKPROP_XP_WORKSPACE", text)
    environment._parsed.cache_clear()
    with pytest.warns(RuntimeWarning, match="must be a whole number of MiB"):
        assert workspace.limit() == 256 << 20


@pytest.mark.parametrize("engine", ["layered", "tiled", "auto"])
def test_what_is_kept_is_let_go_with_the_net(engine):
    net = Net((512, 512, 512), ("relu", "relu"), rng=0, engine=engine)
    net.loss_and_grad(np.ones((3000, 512)))
    assert workspace._free
    del net
    gc.collect()
    assert not workspace._free


def test_prepared_calls_keep_no_more_than_the_limit_and_run_otherwise(monkeypatch):
    monkeypatch.setattr(workspace, "_rooms", weakref.WeakSet())
    monkeypatch.setenv("BACKPROP_XP_WORKSPACE", "2")
    x, losses, nets = np.ones((3, 200)), [], []
    for _ in range(5):
        nets.append(Net((200, 100, 10), rng=0))
        losses.append(nets[-1].loss_and_grad(x))
        assert workspace._taken() <= 2 << 20
    np.testing.assert_allclose(losses, losses[0])


def test_a_block_that_an_interrupt_left_is_none():
    recycled().__enter__()  # and no exit
    assert not workspace._here.block()
    a = empty(LARGE, np.float64)
    with recycled():
        assert not np.shares_memory(empty(LARGE, np.float64), a)


def test_what_is_lent_comes_back_when_nobody_holds_it_and_is_nobody_elses_before(monkeypatch):
    workspace.clear()
    before = workspace.kept()  # nets of other tests may hold memory
    lent = workspace.Loan(workspace.SMALLEST)
    at = address(lent.buffer)
    assert address(workspace.Loan(workspace.SMALLEST).buffer) != at
    workspace.clear()
    del lent
    again = workspace.Loan(workspace.SMALLEST)
    assert address(again.buffer) == at
    monkeypatch.setenv("BACKPROP_XP_WORKSPACE", "0")
    del again
    assert workspace.kept() == before


def test_what_is_small_is_lent_but_not_kept():
    before = workspace.kept()
    assert workspace.Loan(8).buffer.nbytes == 8
    assert workspace.kept() == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_arrays_begin_at_a_line_of_the_cache(dtype):
    for count in (0, 3, workspace.SMALLEST, workspace.SMALLEST + 3):
        array = workspace.aligned(count, dtype)
        assert (array.shape, array.dtype) == ((count,), dtype)
        assert array.nbytes < workspace.SMALLEST or address(array) % workspace.LINE == 0

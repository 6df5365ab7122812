"""Recycled memory: never handed out twice at a time, never kept without end, and each thread has its own."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from backprop_xp import workspace
from backprop_xp.workspace import empty, recycled

LARGE = (workspace.SMALLEST // 8, 2)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(workspace, "_pool", workspace._Pool())


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
    assert not workspace._pool.active
    assert len(workspace._pool.free) == 1


def test_shapes_and_dtypes():
    with recycled():
        for shape, dtype in (((0, 5), "f4"), ((3,), "f8"), (LARGE, "f4"), (LARGE, "f8"), ((1 << 15, 1, 2), "f4")):
            array = empty(shape, dtype)
            array[...] = 1
            assert array.shape == shape
            assert array.dtype == dtype
            assert array.flags.c_contiguous


def test_what_is_kept_is_limited_and_the_latest(monkeypatch):
    monkeypatch.setattr(workspace, "KEPT_BYTES", 3 << 20)
    for size in (1 << 20, 2 << 20, 4 << 20, 3 << 19):
        with recycled():
            empty((size,), np.uint8)
        assert sum(a.nbytes for a in workspace._pool.free) <= 3 << 20
    assert [a.nbytes >> 20 for a in workspace._pool.free] == [2, 1]  # the best fit was used last, 4 MiB were too much


def test_each_thread_has_its_own():
    with recycled():
        mine, theirs = empty(LARGE, np.float64), []

        def work():
            theirs.append(workspace._pool.active)
            with recycled():
                theirs.append(np.shares_memory(empty(LARGE, np.float64), mine))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert theirs == [False, False]

"""Sums in a fixed tree."""

import random
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.sums.tree import ChunkTree


def tree_sum(values, order):
    tree = ChunkTree()
    for i in order:
        tree.add(i, np.array([values[i]], np.float32))
    return tree.total()


@given(st.integers(1, 70), st.randoms())
def test_the_bits_do_not_depend_on_the_order(n, source):
    values = np.random.default_rng(n).normal(size=n).astype(np.float32)
    shuffled = list(range(n))
    source.shuffle(shuffled)
    expected = tree_sum(values, range(n))
    assert expected.tobytes() == tree_sum(values, shuffled).tobytes()
    assert np.allclose(expected, values.astype(np.float64).sum(), rtol=1e-5, atol=1e-5)


def test_the_tree_is_the_documented_one():
    class Text(str):
        def __add__(self, other):
            return Text(f"({self}{other!s})")

    tree = ChunkTree()
    for i in random.Random(0).sample(range(7), 7):
        tree.add(i, Text(i))
    assert tree.total() == "(((01)(23))((45)6))"


def test_infinities_cancel_without_a_word():
    tree = ChunkTree()
    for i, value in enumerate([np.inf, -np.inf, np.inf]):
        tree.add(i, np.array([value]))
    assert np.isnan(tree.total()).all()  # a RuntimeWarning is an error in these tests


def test_no_parts_have_no_sum():
    assert ChunkTree().total() is None


@pytest.mark.parametrize("workers", [2, 5])
def test_parts_may_come_from_many_threads(workers):
    values = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    expected = tree_sum(values, range(1000))
    tree, numbers = ChunkTree(), iter(range(1000))

    def work():
        for i in numbers:
            tree.add(i, np.array([values[i]]))

    running = [threading.Thread(target=work) for _ in range(workers)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert tree.total().tobytes() == expected.tobytes()

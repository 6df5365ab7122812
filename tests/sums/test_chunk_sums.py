"""The second pass on the GPU: bit for bit the tree of the CPU's engines, in one piece or in many."""

import numpy as np
import pytest
from backprop_xp.kernels import source

from backprop_xp.sums.chunk_sums import ROWS, ChunkSums
from backprop_xp.sums.tree import ChunkTree
from backprop_xp.toolchain import cuda


def test_it_compiles_for_every_architecture():
    nvrtc = pytest.importorskip("nvrtc")
    for architecture in nvrtc.ARCHITECTURES:
        _, resources = nvrtc.compile_for(source("sums_cuda.h"), architecture, cuda.OPTIONS)
        assert len(resources) == 2
        assert not any(r.spills or r.stack for r in resources.values())


def by_tree(rows):
    tree = ChunkTree()
    for k, row in enumerate(rows):
        tree.add(k, row.copy())
    return tree.total()


def on_device(cupy, rows, losses, pieces, scale=1.0):
    sums, at = ChunkSums(cupy, rows.shape[1], rows.dtype), 0
    for piece in pieces:
        to, losses_to = sums.place(piece)
        to[...], losses_to[...] = cupy.asarray(rows[at : at + piece]), cupy.asarray(losses[at : at + piece])
        at += piece
    assert at == len(rows)
    gradients, loss = sums.total(scale)
    assert gradients.dtype == loss.dtype == rows.dtype
    assert loss.shape == ()
    return gradients.get(), loss.get()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "chunks, columns", [(1, 1), (2, 33), (7, 32), (ROWS - 1, 5), (ROWS, 5), (ROWS + 1, 40), (777, 3)]
)
def test_the_tree_is_that_of_the_other_engines(cupy, random, dtype, chunks, columns):
    rows, losses = random.normal(size=(chunks, columns)).astype(dtype), random.normal(size=chunks)
    gradients, loss = on_device(cupy, rows, losses, [chunks], 0.5)
    np.testing.assert_array_equal(gradients, by_tree(rows))
    assert loss == np.dtype(dtype).type(0.5 * by_tree(losses[:, None])[0])


@pytest.mark.gpu
@pytest.mark.parametrize(
    "pieces", [[1] * 9, [ROWS, ROWS, 265], [ROWS + 3, ROWS - 3, 7, 258], [3, 774], [1, 255, 255, 266]]
)
def test_pieces_give_the_bits_of_the_whole(cupy, random, pieces):
    rows, losses = random.normal(size=(sum(pieces), 3)).astype(np.float32), random.normal(size=sum(pieces))
    gradients, loss = on_device(cupy, rows, losses, pieces)
    np.testing.assert_array_equal(gradients, by_tree(rows))
    assert loss == np.float32(by_tree(losses[:, None])[0])


@pytest.mark.gpu
def test_three_levels(cupy, random):
    chunks = ROWS * ROWS + 1
    rows, losses = random.normal(size=(chunks, 1)), random.normal(size=chunks)
    for pieces in ([chunks], [300, chunks - 300]):
        np.testing.assert_array_equal(on_device(cupy, rows, losses, pieces)[0], by_tree(rows))


@pytest.mark.gpu
def test_nan_infinity_and_minus_zero(cupy):
    rows = np.array([[np.nan, np.inf, np.inf, -0.0], [1, 1, -np.inf, -0.0], [1, 1, 1, -0.0]])
    gradients, loss = on_device(cupy, rows, np.array([1, np.inf, 1]), [3])
    np.testing.assert_array_equal(gradients, [np.nan, np.inf, np.nan, 0])
    assert np.signbit(gradients[3])
    assert loss == np.inf

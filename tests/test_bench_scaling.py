"""The model of many ranks agrees with a simulation of their schedule, which is that of the real tree."""

from __future__ import annotations

import numpy as np
import pytest
from backprop_xp.bench import scaling
from backprop_xp.bench.scaling import Machine
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.distributed.share import of_rank
from backprop_xp.sums.tree import ChunkTree

MACHINE = Machine("a few", 8, 1e12, 1e-4, 5e10, 3e-6, 5e10)


@given(st.integers(0, 8), st.integers(1, 40), st.data())
def test_subtrees_are_those_of_the_tree(levels, size, data):
    parts = of_rank(data.draw(st.integers(0, size - 1)), size, 1 << levels)
    tree = ChunkTree()
    for part in parts:
        tree.add(part, 1.0)
    assert scaling.subtrees(parts) == len(tree.subtrees())


@pytest.mark.parametrize("net", scaling.NETS)
@pytest.mark.parametrize("ranks", [1, 2, 8, 64])
def test_the_model_agrees_with_the_simulation(net, ranks):
    times = [function(MACHINE, net, 1 << 20, ranks, 64) for function in (scaling.simulated, scaling.modelled)]
    np.testing.assert_allclose(*times, rtol=0.1)


@pytest.mark.parametrize("net", scaling.NETS)
@pytest.mark.parametrize("batch", scaling.BATCHES)
def test_overlapping_hides_exchanges_behind_gradients_at_most(net, batch):
    after, during = (
        scaling.modelled(MACHINE, net, batch, 8, 64, exact=False),
        scaling.overlapped(MACHINE, net, batch, 8),
    )
    messages = 3 * 3 * MACHINE.latency * (len(net) - 2)  # that there are more of
    computing = 3 * scaling.numbers_of(net) * batch / 8 / MACHINE.rate
    assert max(computing, after - 2 * computing / 3) <= during * (1 + 1e-9) and during <= (after + messages) * (
        1 + 1e-9
    )


def test_links_are_found_again():
    rows = [
        {"kind": "ranks", "ranks": 2, "bytes": size, "exchanging": 2 * 1e-5 + size / 1e9} for size in (1e3, 1e5, 1e6)
    ]
    np.testing.assert_allclose(scaling.fitted(rows), (1e-5, 1e9))

"""Parts of the parameters, of which each rank has the optimiser's state; runs on ranks: tests/distributed."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import Net, Tensor, distributed
from backprop_xp.training import Adam
from backprop_xp.training.flat import Flat
from backprop_xp.training.sharded import GRAIN, Sharding, order


@given(st.integers(1, 3000), st.integers(1, 40))
def test_parts_are_all_numbers_once(numbers, size):
    parts = [Sharding(SimpleNamespace(rank=rank, size=size), numbers).part for rank in range(size)]
    assert parts[0].start == 0 and parts[-1].stop == numbers
    assert all(a.stop == b.start for a, b in pairwise(parts))
    assert max(part.stop - part.start for part in parts) <= numbers / size + GRAIN


def test_places_of_gradients_in_the_order_of_the_flat_array():
    vector, matrix = Tensor(np.zeros(3), name="b"), Tensor(np.zeros((3, 2)), name="W")
    assert order(Flat([vector, matrix]), [vector, matrix]) == [1, 0]
    with pytest.raises(ValueError, match="one tensor stands in two places"):
        order(Flat([matrix]), [matrix, matrix])


def test_an_optimiser_with_a_part_is_for_such_runs(random):
    optimiser, x = Adam(), random.normal(size=(40, 3))
    net = Net((3, 2), rng=0, backend="numpy")
    with distributed.world(shard_state=True) as world:
        for _ in range(2):
            net.fit(x, optimiser=optimiser, world=world)
        with pytest.raises(ValueError, match="not on an iterable of batches"):
            net.fit([(x,)], world=world)
    with pytest.raises(ValueError, match="has the state of a part of the parameters: make a new one"):
        net.fit(x, optimiser=optimiser)

"""The model of what engines cost on a GPU: that it says what it is meant to say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from backprop_xp.backend import NUMPY
from backprop_xp.plan import cost
from backprop_xp.plan.call import Call
from backprop_xp.plan.plan import of_layers


def call(sizes, n, dtype="float32"):
    plan = of_layers(sizes, [False] * (len(sizes) - 1), ["tanh"] * (len(sizes) - 1))
    parameters = {f"t{i}": {"weight": np.zeros((b, a), dtype)} for i, (a, b) in enumerate(itertools.pairwise(sizes))}
    return Call(NUMPY, np.dtype(dtype), plan, parameters, {"x": np.broadcast_to(np.zeros(1, dtype), (n, sizes[0]))})


def ratio(*arguments, rows=64):
    batch = call(*arguments)
    return cost.layered(batch) / cost.cooperative(batch, rows, 128)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_narrower_the_net_the_more_a_pass_in_shared_memory_gains(dtype):
    ratios = [ratio((width, width, width, 10), 1 << 18, dtype) for width in (16, 32, 64, 128, 256, 512)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[2] > 1.3
    assert ratios[-1] < 1


def test_small_tiles_and_few_chunks_cost_more():
    assert ratio((128, 128, 10), 1 << 18) > ratio((128, 128, 10), 1 << 18, rows=8)
    assert ratio((128, 128, 128, 128, 10), 1 << 18) > ratio((128, 128, 128, 128, 10), 1 << 8)


def test_an_empty_batch_costs_its_launches():
    assert 0 < cost.cooperative(call((3, 2), 0), 64, 128) < cost.layered(call((3, 3, 2), 0))

"""The model of what engines cost on a GPU: that it says what it is meant to say."""

import itertools
import types
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from backprop_xp import Net
from backprop_xp.backend import NUMPY
from backprop_xp.plan import cost, devices
from backprop_xp.plan.call import Call
from backprop_xp.plan.devices import A100, H100
from backprop_xp.plan.plan import of_layers


def call(sizes, n, dtype="float32"):
    plan = of_layers(sizes, [False] * (len(sizes) - 1), ["tanh"] * (len(sizes) - 1))
    parameters = {f"t{i}": {"weight": np.zeros((b, a), dtype)} for i, (a, b) in enumerate(itertools.pairwise(sizes))}
    return Call(NUMPY, np.dtype(dtype), plan, parameters, {"x": np.broadcast_to(np.zeros(1, dtype), (n, sizes[0]))})


def ratio(*arguments, rows=64, on=H100):
    batch = call(*arguments)
    return cost.layered(batch, on) / cost.cooperative(batch, on, rows, 128)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_narrower_the_net_the_more_a_pass_in_shared_memory_gains(dtype):
    ratios = [ratio((width, width, width, 10), 1 << 18, dtype) for width in (16, 32, 64, 128, 256, 512)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[2] > (1.3 if dtype == "float32" else 0.9)
    assert ratios[-1] < 1


def test_small_tiles_and_few_chunks_cost_more():
    assert ratio((128, 128, 10), 1 << 18) > ratio((128, 128, 10), 1 << 18, rows=8)
    assert ratio((128, 128, 128, 128, 10), 1 << 18) > ratio((128, 128, 128, 128, 10), 1 << 8)


def test_fewer_bits_take_less_time():
    batch = call((64, 64, 64, 10), 1 << 18)
    seconds = [cost.cooperative(batch, H100, 64, 128, name) for name in ("float32", "tf32x3", "tf32", "bfloat16")]
    assert seconds == sorted(seconds, reverse=True)
    assert cost.layered(batch, H100, rounded=True) < cost.layered(batch, H100)


@pytest.mark.parametrize(
    "sizes, architecture, precision",
    [
        ((64, 64, 10), 90, "tf32x3"), ((784, 32, 10), 80, "tf32x3"), ((784, 31, 10), 90, "float32"),
        ((64, 64, 10), 89, "float32"), ((64, 64, 10), 120, "float32"), ((64, 64, 10), 75, "float32"),
    ],
)  # fmt: skip
def test_three_products_are_taken_where_they_are_calculated_to_be_faster(sizes, architecture, precision):
    assert cost.precision([*pairwise(sizes)], architecture) == precision


def test_an_empty_batch_costs_its_launches():
    assert 0 < cost.cooperative(call((3, 2), 0), H100, 64, 128) < cost.layered(call((3, 3, 2), 0), H100)
    assert cost.fused(call((3, 2), 0), H100, 256, False) == cost.FUSED_LAUNCHES * cost.LAUNCH


def test_a_smaller_device_takes_longer():
    batch, small = call((64, 64, 10), 1 << 20), replace(H100, multiprocessors=24, memory=H100.memory / 8)
    assert cost.cooperative(batch, small, 64, 512) > 4 * cost.cooperative(batch, H100, 64, 512)
    assert cost.fused(batch, small, 4096, False) > 4 * cost.fused(batch, H100, 4096, False)
    assert cost.layered(batch, small) > 4 * cost.layered(batch, H100)


def test_the_articles_net_is_for_the_fused_engine_at_any_size():
    for n in (1, 1 << 10, 1 << 17, 1 << 24):
        batch = call((5, 10, 4, 12), n)
        fused = cost.fused(batch, H100, 256, False)
        assert fused < cost.fused(batch, H100, 256, True) or n < 1 << 17
        assert fused < min(cost.cooperative(batch, H100, 64, 128), cost.layered(batch, H100))


def test_rates_of_devices_are_the_data_sheets():
    assert H100.flops("float32") == pytest.approx(66.9e12, rel=2e-3)
    assert H100.flops("float64", products=True) == 2 * H100.flops("float64") == pytest.approx(66.9e12, rel=2e-3)
    assert A100.flops("float64", products=True) == pytest.approx(19.5e12, rel=2e-3)
    assert H100.flops("float32", products=True) == H100.flops("float32")


@pytest.mark.parametrize("chunks, share", [(0, 1), (1, 1 / 132), (132, 1), (133, 133 / 264), (264, 1)])
def test_all_wait_for_the_multiprocessor_with_one_chunk_more(chunks, share):
    assert cost.busy(chunks, 132) == share


@pytest.mark.gpu
def test_a_device_says_what_it_is(cupy):
    found = devices.device(0)
    facts = cupy.cuda.Device(0).attributes
    assert found.multiprocessors == facts["MultiProcessorCount"]
    assert found.architecture == int(cupy.cuda.Device(0).compute_capability)
    assert 1e8 < found.clock < 1e10
    assert 1e10 < found.memory < 1e14


@pytest.mark.gpu
def test_a_device_that_keeps_its_clocks_to_itself(cupy, monkeypatch):
    facts = {"MultiProcessorCount": 66}
    stands_for = types.SimpleNamespace(attributes=facts, compute_capability="90")
    monkeypatch.setattr(cupy.cuda, "Device", lambda number: stands_for)
    found = devices.device.__wrapped__(0)
    assert (found.clock, found.memory) == (H100.clock, H100.memory / 2)


@pytest.mark.gpu
def test_a_net_goes_where_it_is_estimated_to_be_the_fastest(cupy, monkeypatch):
    net = Net((5, 10, 4, 12), rng=0, backend="cupy", dtype="float32")
    x = cupy.ones((64, 5), "float32")
    assert net.plan(x).engine == "fused"
    monkeypatch.setattr(cost, "FUSED_LAUNCHES", 10_000)
    assert net.plan(x).engine == "cooperative"
    assert "not fused: such a batch of this net is estimated to be faster in tiles of samples" in net.plan(x).reason
    monkeypatch.setattr(cost, "COOPERATIVE_LAUNCHES", 10_000)
    assert net.plan(x).engine == "layered"
    net.engine = "fused"
    assert net.plan(x).engine == "fused"

"""Chunks for devices that aren't known: by the batch alone, and with a worst case that is better than that of other cuts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.engines import cooperative, fused_gpu
from backprop_xp.sums import rounds

FUSED = (fused_gpu.THREADS, fused_gpu.MOST_A_THREAD, fused_gpu.FOLDING, fused_gpu.RESIDENT)
SHARED_OUT = (*FUSED[:3], fused_gpu.RESIDENT_SHARED_OUT)
COOPERATIVE = (cooperative.TILES, cooperative.MOST_TILES, cooperative.WRITING, cooperative.RESIDENT)
ALL = {"fused": FUSED, "shared out": SHARED_OUT, "cooperative": COOPERATIVE}


def each(samples, chunk, engine):
    """Efficiency and share of the blocks that have work, for every device and number of blocks."""
    unit, _, overhead, resident = engine
    slots = np.array([processors * blocks for processors in rounds.MULTIPROCESSORS for blocks in resident])
    chunks = -(-samples // chunk)
    busy = chunks / (-(-chunks // slots) * slots)
    return rounds.efficiency(samples, np.array(chunk), unit, overhead, slots), busy


def score(samples, chunk, engine):
    efficiency, _ = each(samples, chunk, engine)
    return efficiency.min() + efficiency.mean() + 1e-9


@given(st.integers(0, 1 << 32), st.sampled_from(sorted(ALL)))
def test_a_chunk_is_whole_units_and_no_worse_than_any_power_of_two(samples, name):
    unit, most, *_ = engine = ALL[name]
    chunk = rounds.chunk_samples(samples, *engine)
    assert chunk % unit == 0
    assert unit <= chunk <= most * unit
    if samples > unit:
        ours = score(samples, chunk, engine)
        assert all(ours >= score(samples, unit << k, engine) for k in range(most.bit_length()))


def test_small_batches_go_to_as_many_blocks_as_there_can_be():
    for engine in ALL.values():
        assert rounds.chunk_samples(0, *engine) == rounds.chunk_samples(engine[0], *engine) == engine[0]
        assert rounds.chunk_samples(60 * engine[0], *engine) == engine[0]


def test_efficiency_counted_by_hand():
    # 10 chunks of 2 units for 4 blocks: three rounds of 2 units and one for the sums
    assert rounds.efficiency(20, np.array(2), 1, 1.0, np.array([4])) == pytest.approx(20 / (4 * 3 * 3))
    assert rounds.efficiency(19, np.array(2), 1, 0.0, np.array([10])) == pytest.approx(0.95)


#: Engine, samples, samples of a chunk, and the worst of all devices in both respects.
TABLE = [
    ("fused", 65536, 256, 0.37, 0.56),
    ("fused", 135400, 640, 0.52, 0.62),
    ("fused", 262144, 512, 0.60, 0.75),
    ("fused", 300000, 1408, 0.57, 0.63),
    ("fused", 1048576, 1152, 0.76, 0.84),
    ("fused", 1100000, 896, 0.79, 0.90),
    ("fused", 2097153, 1664, 0.86, 0.92),
    ("fused", 4194304, 3328, 0.89, 0.92),
    ("fused", 6000000, 2944, 0.90, 0.94),
    ("fused", 16777216, 7424, 0.93, 0.95),
    ("shared out", 65536, 256, 0.25, 0.38),
    ("shared out", 135400, 384, 0.39, 0.52),
    ("shared out", 262144, 768, 0.43, 0.50),
    ("shared out", 300000, 768, 0.44, 0.51),
    ("shared out", 1048576, 896, 0.65, 0.74),
    ("shared out", 1100000, 896, 0.68, 0.78),
    ("shared out", 2097153, 1152, 0.76, 0.84),
    ("shared out", 4194304, 1664, 0.84, 0.91),
    ("shared out", 6000000, 1792, 0.85, 0.91),
    ("shared out", 16777216, 3712, 0.91, 0.94),
    ("cooperative", 65536, 128, 0.67, 0.75),
    ("cooperative", 135400, 128, 0.69, 0.78),
    ("cooperative", 262144, 128, 0.76, 0.86),
    ("cooperative", 300000, 192, 0.80, 0.87),
    ("cooperative", 1048576, 832, 0.90, 0.92),
    ("cooperative", 1100000, 384, 0.90, 0.93),
    ("cooperative", 2097153, 576, 0.92, 0.95),
    ("cooperative", 4194304, 896, 0.95, 0.96),
    ("cooperative", 6000000, 768, 0.96, 0.98),
    ("cooperative", 16777216, 960, 0.97, 0.99),
]


@pytest.mark.parametrize("name, samples, chunk, least, least_busy", TABLE)
def test_what_each_gives(name, samples, chunk, least, least_busy):
    """The worst of all devices: the share of the time that goes to samples, and of blocks that have work."""
    assert rounds.chunk_samples(samples, *ALL[name]) == chunk
    efficiency, busy = each(samples, chunk, ALL[name])
    assert efficiency.min() == pytest.approx(least, abs=0.005)
    assert busy.min() == pytest.approx(least_busy, abs=0.005)

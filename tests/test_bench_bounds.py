"""Bounds on paper: rates that the data sheets give, and numbers that can be counted by hand."""

import pytest
from backprop_xp.bench import bounds
from backprop_xp.bench.cases import ARTICLE, Case


@pytest.mark.parametrize("device, peak", [(bounds.A100, 19.5e12), (bounds.H100, 66.9e12)])
def test_peak_rates_are_the_data_sheets(device, peak):
    samples, limit = bounds.bound(device, "float32", {"fma": 1}, 0)
    assert 2 * samples == pytest.approx(peak, rel=2e-3)
    assert limit == "float arithmetic"
    assert bounds.bound(device, "float64", {"fma": 1}, 0)[0] == samples / 2


def test_the_scarcest_limits():
    def limit(bytes_moved=0, **counts):
        return bounds.bound(bounds.H100, "float32", {k.replace("_", " "): v for k, v in counts.items()}, bytes_moved)[1]

    assert limit(fma=10, mufu=1) == "instructions issued"
    assert limit(fma=10, mufu=2) == "transcendentals"
    assert limit(fma=10, global_load=4) == "loads and stores"
    assert limit(fma=10, shared_load=1, shared_wavefronts=4) == "loads and stores"
    assert limit(fma=10, shared_load=1, shared_wavefronts=2) == "instructions issued"
    assert limit(fma=10, other_arithmetic=12) == "other arithmetic"
    assert limit(fma=10, other_arithmetic=4) == "instructions issued"
    assert limit(1e6, fma=10) == "global memory"
    assert limit(fma=10, global_bytes=1e6) == "float arithmetic"


def test_the_articles_minimum():
    assert bounds.minimum(ARTICLE) == ({"fma": 364}, 20)


def test_pytorchs_kernels_counted_by_hand():
    one = Case("one", (3, 2), ("tanh",), 1)
    # product 5, tanh 4; square 4, sum 2, half, half; two factors 4 + 4, sum 6; tanh' 6, weight 5
    assert bounds.eager(one) == (11, 4 * (5 + 4 + 4 + 2 + 4 + 4 + 6 + 6 + 5))
    launches, moved = bounds.eager(ARTICLE)
    assert launches == 8 + 4 + 5 + 2
    assert moved == 1240

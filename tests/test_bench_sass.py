"""The fused kernel's machine code keeps to what is claimed of it, and the report says what it is."""

import pytest
from backprop_xp.bench import bounds, machine_code, sass
from backprop_xp.bench.cases import ARTICLE
from backprop_xp.bench.limits import Limits
from backprop_xp.bench.report import Result, Row

from backprop_xp import get_backend

pytest.importorskip("cupy")


@pytest.fixture(scope="module")
def counted():
    program = machine_code.disassembler()
    if program is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    source = sass.kernel_source(ARTICLE)
    return {a: sass.per_sample(source, "bpx_backprop", a, program) for a in sass.ARCHITECTURES}


@pytest.mark.parametrize("architecture", sass.ARCHITECTURES)
def test_the_loop_over_samples_reads_the_input_once_and_writes_nothing(counted, architecture):
    counts = counted[architecture]
    assert counts["global bytes"] == 4 * ARTICLE.sizes[0]
    assert counts["global store"] == counts["shared store"] == counts["local"] == 0
    assert counts["fma"] >= ARTICLE.multiply_adds
    assert bounds.instructions(counts) <= 1.8 * ARTICLE.multiply_adds


def test_the_report_is_labelled_a_model_and_compares(counted):
    text = sass.report(ARTICLE, counted)
    assert "A model from machine code, not a measurement." in text
    assert text.count("PyTorch eager") == text.count("this machine code") == 2
    assert f"{bounds.instructions(counted[90]):>10}" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.gpu
def test_a_measurement_is_compared_with_the_bound(counted):
    backend, limits = get_backend("cupy"), Limits({}, None, 1e12)
    row = Row("backprop_xp", "fused", 1e9, 0.0, None)
    (text,) = sass.reached(Result(ARTICLE.with_samples(64), [row]), backend, limits)
    device = bounds.here(backend, limits.copy)
    assert device.architecture == int(backend.xp.cuda.Device(0).compute_capability)
    assert 1e8 < device.clock < 1e10
    if device.architecture in counted:
        rate, limit = bounds.bound(device, "float32", counted[device.architecture], 20)
        assert text.startswith(f"fused reached {1e9 / rate:.0%} of")
        assert limit in text
    row.form = "layered"
    assert sass.reached(Result(ARTICLE, [row]), backend, limits) == []


def test_without_a_disassembler_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(machine_code, "disassembler", lambda: None)
    assert sass.main() == 1
    assert "pip install nvidia-cuda-nvdisasm" in capsys.readouterr().err

"""What is counted of kernels by blocks of threads is all that a tile takes, and the report says what it is."""

from collections import Counter
from dataclasses import replace

import pytest
from backprop_xp.bench import bounds, machine_code, sass_blocks
from backprop_xp.bench.cases import Case

from backprop_xp.programs.tiling import Tiling

pytest.importorskip("cupy")
#: Compiles in a second; 64-64-64-64-10 takes ten.
SMALL = Case("small", (64, 64), ("identity",), 1 << 10)


def test_every_product_of_a_tile_is_counted():
    program = machine_code.disassembler()
    if program is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    counted = sass_blocks.count(SMALL, "tf32", 90, program)
    assert counted.sample["tensor"] * 16 * 8 * 8 / 32 == SMALL.multiply_adds  # none is padded, and no warp is idle
    assert counted.warps >= 8
    seconds = sass_blocks.times(bounds.H100, counted, SMALL)
    assert all(value >= 0 for value in seconds.values())
    assert seconds["tensor cores"] <= seconds["instructions issued"]


def test_the_report_is_labelled_a_model_and_names_the_limit():
    sample = Counter({"tensor": 64, "fma": 1280, "shared wavefronts": 10, "global bytes": 40, "cache bytes": 80})
    tiling = Tiling(64, 128, 2, 64, 64)
    rows = [sass_blocks.Counted("tf32", 80, tiling, sample)]
    rows.append(replace(rows[0], architecture=90, sample=sample + Counter({"tensor": 6400})))
    text = sass_blocks.report(SMALL, rows)
    assert "A model from machine code, not a measurement." in text
    assert "| A100 tf32 | 7,614 | float arithmetic | 20% |" in text
    assert "| H100 tf32 |" in text and "| tensor cores | 100% |" in text
    assert text.count("| 1,344 |") == 1  # instructions, without bytes and wavefronts

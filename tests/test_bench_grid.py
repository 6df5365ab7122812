"""The table of widths by batches: its cases, its ratios, and a real run of a small one."""

from __future__ import annotations

import pytest
from backprop_xp.bench import grid
from backprop_xp.bench.report import Result, Row
from backprop_xp.bench.settings import Settings


def test_cases_leave_out_what_takes_too_long():
    cases = grid.cases((16, 4096), (1, 65536))
    assert [(case.sizes[0], case.samples) for case in cases] == [(16, 1), (16, 65536), (4096, 1)]
    assert all(case.bias and case.loss == "softmax_cross_entropy" for case in cases)


def test_the_table_has_a_row_for_each_width_and_says_what_is_missing():
    results = []
    for case, ratio in zip(grid.cases((16, 64), (1, 8)), (2.0, 0.5, 8.0)):
        result = Result(case)
        row = Row("backprop_xp", "auto", 1.0, 0.0, None)
        row.speedup = ratio
        result.rows = [row]
        results.append(result)
    results[1].busy = ["a load"]
    lines = grid.table(results).splitlines()
    assert lines[2:6] == ["| width | 1 | 8 |", "| ---: | ---: | ---: |", "| 16 | 2.00 | 0.50* |", "| 64 | 8.00 | - |"]
    assert lines[-2] == "geometric mean 2.00, least 0.50, of 3 points"
    assert lines[-1] == "* busy: not to be quoted"


def test_a_real_point():
    pytest.importorskip("torch")
    (result,) = grid.run((8,), (4,), Settings(1, budget=0.1), lambda what, share: None)
    assert not result.refused and result.difference < 1e-5
    assert {row.contender for row in result.rows} >= {"backprop_xp"} and len(result.rows) == 2

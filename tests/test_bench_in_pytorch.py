"""Steps of training in PyTorch: everybody computes the same, in every step, and each form is there."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from backprop_xp.bench import cases, command, in_pytorch, measure
from backprop_xp.bench import run as bench_run
from backprop_xp.bench.contenders import EAGER
from backprop_xp.bench.settings import Settings
from machines import QUIET

pytest.importorskip("torch")

SETTINGS = Settings(threads=1, budget=0.01, memory=False)
SMALL = [replace(cases.IN_PYTORCH[0], samples=30), replace(cases.IN_PYTORCH[-1], sizes=(3, 9, 8, 7, 4), samples=50)]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_everybody_computes_the_same_in_every_step(case):
    everybody = in_pytorch.contenders(case, 1)
    assert [(one.name, one.form) for one in everybody] == [
        (f"{name}{how}", form)
        for how in ("", " fused Adam")
        for name, form in (("backprop_xp", "as_torch"), ("backprop_xp", "as_torch, flat"), (EAGER, "nn"))
    ]
    reference = everybody[2]
    for _ in range(2):
        assert measure.prove_equal(reference, everybody, case.dtype) < measure.TOLERANCE[case.dtype]
    loss, gradients = reference.results()
    reference.step()
    for before, after in zip((loss, gradients), reference.results(), strict=True):
        np.testing.assert_array_equal(after, before)  # Adam moves nothing
    assert gradients.size == sum((a + 1) * b for a, b in zip(case.sizes, case.sizes[1:])) and gradients.any()


def test_a_full_run_measures_them_on_one_thread_and_on_all(monkeypatch):
    assert "in-pytorch" in command.PARTS and "in-pytorch" not in command.QUICK_PARTS
    assert {(case.sizes, case.samples) for case in cases.IN_PYTORCH} == {
        (sizes, n) for sizes in ((2, 64, 64, 1), (3, 256, 256, 256, 4)) for n in (256, 4096, 65_536)
    }
    case = cases.Case.from_json(asdict(SMALL[0]))
    assert case == SMALL[0]
    monkeypatch.setattr(measure, "REST", 0.0)
    ((family, result),) = bench_run.sweep({in_pytorch.family(1): [case]}, SETTINGS, machine=QUIET)
    assert family == "steps in PyTorch, threads: 1"
    assert [row.contender for row in result.rows] == [
        "backprop_xp", EAGER, "backprop_xp fused Adam", f"{EAGER} fused Adam",
    ]  # fmt: skip

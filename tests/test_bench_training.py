"""The training benchmark: the loops are the same, and the table says what was measured."""

from pathlib import Path

import numpy as np
import pytest
from backprop_xp.bench import measure, report, training
from backprop_xp.bench.training import Fit
from machines import OTHERS, QUIET, Scripted

from backprop_xp.data import Recipe, read, recipe

pytest.importorskip("torch")

EXACT = Recipe(hidden=(8,), epochs=4, dtype="float64", backend="numpy")


@pytest.mark.parametrize("case", ["iris", "diabetes"])
def test_pytorchs_loop_is_ours(case):
    data = recipe.prepare(read(case), "target", EXACT)
    ours, theirs = training.ours(data, EXACT), training.pytorch(data, EXACT)
    assert ours.steps == theirs.steps
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-9)
    np.testing.assert_allclose(ours.outputs(data.x), theirs.outputs(data.x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", ["iris", "diabetes"])
def test_scikit_learns_loss_is_ours(case):
    data = recipe.prepare(read(case), "target", EXACT)
    fit = training.sklearn(data, EXACT)
    outputs, y = fit.outputs(data.x[data.first]), data.y[data.first]
    last = -np.log(outputs[np.arange(len(y)), y]).mean() if case == "iris" else ((outputs - y) ** 2).mean()
    assert fit.losses[-1] == pytest.approx(last, rel=0.05)  # it has a small penalty, and is of before the last steps
    assert len(fit.times) == len(fit.losses)


def test_rows_and_table(monkeypatch):
    monkeypatch.setattr(training.measure, "REST", 0.0)
    monkeypatch.setattr(training, "first_fit", lambda case, threads, settings: 1.5)
    rows = training.run(("iris", "diabetes"), 1, seeds=(0, 1), settings=EXACT, machine=QUIET)
    assert [(row.case, row.contender) for row in rows] == [
        (case, name) for case in ("iris", "diabetes") for name in training.EVERYBODY
    ]
    for row in rows:
        assert 0 < row.to_loss <= row.fit
        assert row.predict > 0
    assert rows[0].score == rows[1].score
    assert rows[1].speedup == 1
    text = training.table(rows)
    assert all(len(line) <= 100 for line in text.splitlines())
    assert text.count("scikit-learn") == 2
    assert text.count("backprop_xp, the first fit on a machine, with compiling: 1.50 s") == 2
    assert report.BUSY not in text
    assert [(point.what, len(point.ours), list(point.rivals)) for point in training.points(rows)] == [
        (case, 2, ["PyTorch loop", "scikit-learn"]) for case in ("iris", "diabetes")
    ]


@pytest.mark.parametrize("disturbed", [1, measure.MOST_SET_ASIDE, 99])
def test_a_seed_during_which_others_computed_is_repeated(disturbed, monkeypatch):
    monkeypatch.setattr(training.measure, "REST", 0.0)
    monkeypatch.setattr(training, "first_fit", lambda case, threads, settings: 1.5)
    machine = Scripted(busy=[True] * disturbed)
    rows = training.run(("iris",), 1, seeds=(0, 1), settings=EXACT, machine=machine)
    assert len(machine.seen) == 2 + min(disturbed, measure.MOST_SET_ASIDE)
    assert [len(row.fits) for row in rows] == [2, 2, 2]
    hopeless = disturbed > measure.MOST_SET_ASIDE
    assert any(point.busy for point in training.points(rows)) == hopeless
    assert (
        f"{report.BUSY}: with 2 of 2 seeds the machine did other work ({OTHERS})" in training.table(rows)
    ) == hopeless


def test_the_first_fit_finds_nothing_compiled(monkeypatch):
    start = training.subprocess.run

    def run(command, env, **options):
        assert not list(Path(env["BACKPROP_XP_CACHE"]).iterdir())
        return start(command, env=env, **options)

    monkeypatch.setattr(training.subprocess, "run", run)
    monkeypatch.setenv("CXX", "/nonexistent")  # compiling is slow, and tested elsewhere
    assert training.first_fit("iris", 1, EXACT) > 0


def test_the_same_loss_is_one_that_all_reach():
    data = recipe.prepare(read("iris"), "target", EXACT)
    outputs = np.eye(3)
    fit = Fit([1.0, 2.0, 3.0], [0.9, 0.5, 0.2], lambda x: outputs[np.zeros(len(x), int)], 3)
    assert training._measure(data, fit, 0.5)[:2] == (3.0, 2.0)
    assert training._measure(data, fit, 0.5)[3] == pytest.approx(1 / 3)

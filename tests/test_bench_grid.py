"""The tables of widths by batches: their cases, ratios, pictures, first calls, and a real run of a small one."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from backprop_xp.bench import cases, first_call, grid, heat_map, report
from backprop_xp.bench.contenders import EAGER
from backprop_xp.bench.first_call import ONCE, FirstCall
from backprop_xp.bench.report import Result, Row
from backprop_xp.bench.settings import Settings
from machines import QUIET

SETTINGS = Settings(1, budget=0.01, jax=False)


def part(widths, batches, activation="relu", dtype="float32"):
    return grid.Part(activation, dtype, widths, batches)


def results(of, ratios):
    made = []
    for case, ratio in zip(of.cases(), ratios):
        ours, theirs = Row("backprop_xp", "auto", ratio, 0.0, 2 * ratio), Row(EAGER, "nn", 1.0, 0.0, 1.0)
        ours.over_rival = ratio
        made.append(Result(case, [ours, theirs]))
    return made


def test_cases_leave_out_what_takes_too_long():
    found = part((16, 4096), (1, 65536), "tanh", "float64").cases()
    assert [(case.sizes[0], case.samples) for case in found] == [(16, 1), (16, 65536), (4096, 1)]
    assert all(case.bias and case.loss == "softmax_cross_entropy" for case in found)
    assert {(case.activations, case.dtype) for case in found} == {(("tanh", "tanh", "identity"), "float64")}


def test_the_table_has_a_row_for_each_width_and_says_what_is_missing():
    of = part((16, 64), (1, 8))
    some = results(of, (2.0, 0.5, 8.0))
    some[1].busy = ["a load"]
    lines = grid.table(of, some, grid.FASTEST).splitlines()
    assert lines[0].startswith("x the fastest rival, w-w-w-10, relu")
    assert lines[2:6] == ["| width | 1 | 8 |", "| ---: | ---: | ---: |", "| 16 | 2.00 | 0.50* |", "| 64 | 8.00 | - |"]
    assert lines[-3:] == [
        "geometric mean 2.00, least 0.50, of 3 points",
        "1 points were not begun: there was no time left",
        "* busy: not to be quoted",
    ]
    some[0].rows, some[0].refused = [], "PyTorch eager: its loss is 1.0"
    lines = grid.table(of, some).splitlines()
    assert lines[0].startswith("x PyTorch eager, ")
    assert lines[4] == "| 16 | refused | 1.00* |"
    assert "16-16-16-10, 1 x float32: PyTorch eager: its loss is 1.0" in lines


def test_points_that_torch_compile_takes_part_in_come_first_and_time_ends(monkeypatch):
    seen = []

    def run_case(case, settings, *rest):
        seen.append((case.activations[0], case.sizes[0], case.samples, settings.compile))
        return Result(case)

    monkeypatch.setattr(grid, "run_case", run_case)
    parts = [part((8, 16), (1, 32)), part((16,), (8, 32), "tanh")]
    found = list(grid.run(parts, replace(SETTINGS, compile=True), lambda what, share: None))
    assert seen[:2] == [("relu", 16, 32, True), ("tanh", 16, 32, True)]
    assert len(seen) == 6 and not any(compiled for *_, compiled in seen[2:])
    assert Counter(family for family, _ in found) == {
        "width and batch, relu, float32": 4, "width and batch, tanh, float32": 2
    }  # fmt: skip
    assert not list(grid.run(parts, SETTINGS, lambda what, share: None, seconds=-1.0))


def test_a_real_point(brief):
    pytest.importorskip("torch")
    found = grid.run([part((8,), (4,))], SETTINGS, lambda what, share: None, machine=QUIET)
    ((_, result),) = found
    assert not result.refused and result.difference < 1e-5
    assert [row.contender for row in result.rows] == ["backprop_xp", EAGER]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_sample_is_near_a_kink_of_relu(dtype, monkeypatch):
    monkeypatch.setattr(cases, "NEAR_KINK", 1e-3)
    cases._normal.cache_clear()
    case = cases.Case("w", (20, 30, 30, 4), ("relu", "relu", "identity"), 700, dtype, bias=True)
    x, _ = case.arrays()
    net = case.net(backend="numpy")
    net.forward(x, keep_signals=True)
    for t in net.linear_outputs[:2]:
        assert (np.abs(t.data) / np.sqrt(np.mean(t.data**2))).min() > 0.9e-3  # the mean is of fewer samples there
    other = replace(case, activations=("tanh", "tanh", "identity")).arrays()[0]
    left = (x == other).all(axis=1)
    assert 300 < left.sum() < 700  # the others are copies of these
    assert {row.tobytes() for row in x} == {row.tobytes() for row in x[left]}
    cases._normal.cache_clear()


def test_a_sample_that_nothing_can_replace_stays(monkeypatch):
    monkeypatch.setattr(cases, "NEAR_KINK", 1e9)
    cases._normal.cache_clear()
    case = cases.Case("w", (3, 4), ("relu",), 5)
    np.testing.assert_array_equal(case.arrays()[0], replace(case, activations=("tanh",)).arrays()[0])
    cases._normal.cache_clear()


CALLS = [FirstCall(ONCE, ONCE, 4.0), FirstCall("16-16-16-10", "backprop_xp", 0.4), FirstCall("16-16-16-10", "JAX", 1.0),
         FirstCall("64-64-64-10", "backprop_xp", 0.05)]  # fmt: skip


def test_the_picture_shows_every_point_and_who_was_faster(tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    shown = []
    monkeypatch.setattr(pyplot, "close", shown.append)
    parts = [part((16, 64), (1, 8)), part((16, 64), (1, 8), "tanh"), part((64,), (1, 8), dtype="float64")]
    grids = {of.family: results(of, (2.0, 0.5, 8.0, 11.0)) for of in parts}
    grids[parts[1].family][1].busy = ["a load"]
    grids[parts[2].family][0].rows, grids[parts[2].family][0].refused = [], "wrong"
    path = heat_map.beside(tmp_path / "some.png")
    heat_map.draw(path, grids, CALLS, "Some Processor, 2 threads, 2026-01-31")
    assert [file.name for file in tmp_path.iterdir()] == ["some-grid.png"]
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = shown
    assert "Some Processor, 2 threads, 2026-01-31" in figure.get_suptitle()
    texts = {axis.get_title(): [text.get_text() for text in axis.texts] for axis in figure.axes if axis.texts}
    assert texts == {
        "width and batch, relu, float32": ["2.00", "0.50\neager", "8.00", "11"],
        "width and batch, tanh, float32 (*: busy: not to be quoted)": ["2.00", "0.50*\neager", "8.00", "11"],
        "width and batch, relu, float64": ["refused", "0.50\neager"],
    }
    (bars,) = [axis for axis in figure.axes if axis.get_title() == "first call, compiling included"]
    assert {text.get_text() for text in bars.get_legend().get_texts()} == {"backprop_xp", "JAX", ONCE}
    assert bars.get_yscale() == "log" and len(bars.patches) == 3


def test_the_picture_of_what_there_is(tmp_path):
    pytest.importorskip("matplotlib")
    of = part((16,), (1,))
    heat_map.draw(tmp_path / "p.png", {of.family: results(of, (1.0,)), "other": []}, [], "machine")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_first_calls_as_a_table():
    assert first_call.table(CALLS).splitlines()[2:] == [
        "| net | backprop_xp | JAX |", "| --- | ---: | ---: |", "| 16-16-16-10 | 0.400 | 1.000 |", "| 64-64-64-10 | 0.050 | - |",
        "", "backprop_xp, once a machine: 4.0 s for all nets",
    ]  # fmt: skip


def test_first_calls_are_measured_in_processes_of_their_own(monkeypatch):
    pytest.importorskip("torch")
    (case,) = part((8,), (4,)).cases()
    measured, asked = first_call._measure, []

    def measure(case, who, threads, cache):
        asked.append((case.name, who))
        return measured(case, who, threads, cache) if case.name != ONCE and who == "backprop_xp" else None

    monkeypatch.setattr(first_call, "_measure", measure)
    calls = first_call.run([case], [case], replace(SETTINGS, compile=True, jax=True), lambda what, share: None)
    assert asked == [(ONCE, "backprop_xp")] + [
        (case.name, who) for who in ("backprop_xp", EAGER, "JAX", "torch.compile")
    ]
    assert [(call.net, call.contender) for call in calls] == [(case.name, "backprop_xp")]
    assert calls[0].seconds > 0
    assert measured(replace(case, dtype="float16"), EAGER, 1, ".") is None  # what fails is left out


def test_every_net_of_the_grid_has_a_first_call():
    nets, compiled = grid.first_calls()
    assert [case.sizes[0] for case in nets] == list(grid.WIDTHS)
    assert [case.sizes[0] for case in compiled] == list(grid.COMPILED[0])


def test_results_of_processors_stand_beside_each_other():
    assert report.file_name("AMD EPYC 9R14") != report.file_name("Intel(R) Xeon(R) Platinum 8488C")

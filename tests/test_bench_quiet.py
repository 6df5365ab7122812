"""A busy machine is called one, by each of the signs, and a quiet one is not."""

import io
import os
from dataclasses import replace

import pytest
from backprop_xp.bench import busy, cases, quiet
from backprop_xp.bench.limits import Limits
from backprop_xp.bench.quiet import Look, Machine
from backprop_xp.bench.report import Result, Row

START = Look(10.0, 5.0, 20.0, 1.0, 1.0)
LIMITS = Limits({"float32": 1e11}, {"float32": 1.2e11}, 1e10)


def spell(threads, processors, monkeypatch, **changes):
    monkeypatch.setattr(quiet, "processors", lambda: processors)
    after = replace(START, wall=12.0, own=8.0, used=23.0)
    return Machine(threads).between(START, replace(after, **changes))


@pytest.mark.parametrize(
    "threads, processors, used, is_busy",
    [
        (2, 2, 23.0, False),  # all of it our own
        (2, 2, 23.1, False),  # 0.05 of 2 processors
        (2, 2, 24.0, True),
        (1, 2, 24.0, True),  # a spare processor shares caches with ours
        (1, 64, 25.0, False),  # one of 63 spare ones
        (1, 64, 33.0, True),
        (64, 64, 23.6, True),  # none is spare: every step waits for the thread that others delay
        (2, 2, 22.5, False),  # clocks of different steps
    ],
)
def test_processor_time_of_others(threads, processors, used, is_busy, monkeypatch):
    found = spell(threads, processors, monkeypatch, used=used)
    assert found.others == pytest.approx(max(0, used - 23) / 2)
    assert bool(found.busy) == is_busy
    if is_busy:
        assert found.busy.startswith(f"others took {found.others:.2f} of {processors}")


def test_time_that_another_virtual_machine_stole_is_others(monkeypatch):
    found = spell(2, 2, monkeypatch, used=24.0, stolen=2.0)
    assert (found.stolen, bool(found.busy)) == (0.5, True)


@pytest.mark.parametrize("uncounted", [{"used": None, "stolen": None}, {}])
def test_threads_that_only_compute_and_are_held_up(uncounted, monkeypatch):
    assert spell(2, 2, monkeypatch, share=0.97, **uncounted).busy == ""
    found = spell(2, 2, monkeypatch, share=0.52, **uncounted)
    assert found.busy == "threads that only compute got 52% of their processors"
    assert (found.others is None) == bool(uncounted)


def test_the_real_machine():
    machine = Machine(2, [os.getpid(), 2**22 + 1])  # a worker that has ended
    before = machine.look()
    after = machine.look()
    assert after.own > before.own
    assert 0 < after.share <= 1.1
    found = machine.between(before, after)
    if before.used is not None:
        assert after.used > before.used
        assert found.others >= 0


@pytest.mark.parametrize(
    "text", ["", "cpu  1 2 3\n", "cpu0 0 0 0 0 0 0 0 0 0 0\n", "cpu0 1 2\n", "cpu0 a b c d e f g h\n"]
)
def test_a_system_that_does_not_count(text, monkeypatch):
    monkeypatch.setattr(quiet.os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr("builtins.open", lambda *names, **options: io.StringIO(text))
    assert quiet._system_seconds() is None


def test_only_processors_of_ours_are_counted(monkeypatch):
    rows = "cpu  9 9 9 9 9 9 9 9\ncpu0 100 20 3 999 999 4 5 6 70 8\ncpu1 7 7 7 7 7 7 7 7\nintr 5\n"
    monkeypatch.setattr(quiet.os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(quiet.os, "sysconf", lambda name: 100)
    monkeypatch.setattr("builtins.open", lambda *names, **options: io.StringIO(rows))
    assert quiet._system_seconds() == (1.38, 0.06)


@pytest.mark.parametrize("value, own, is_busy", [(None, 1, False), (0.3, 1, False), (1.9, 1, False), (4.0, 1, True),
                                                 (3.2, 3, False), (4.5, 3, True)])  # fmt: skip
def test_load(value, own, is_busy):
    found = busy.by_load(value, own, 2, "before the run")
    assert found == ([f"the load average was {value:.1f} before the run, on 2 processors"] if is_busy else [])


def test_the_peak_that_falls():
    peak = {"float32": 100.0, "float64": 50.0}
    assert busy.by_peak([], []) == busy.by_peak([peak, {"float32": 95.0, "float64": 46.0}], [0, 1]) == []
    slow = {"float32": 61.0, "float64": 50.0}
    for slow_at in range(3):
        peaks = [slow if k == slow_at else peak for k in range(3)]
        for around in ([0, 1], [1, 2]):
            spoiled = ["the multiply-add peak in float32 was at 61% of its best just before or after"]
            assert busy.by_peak(peaks, around) == (spoiled if slow_at in around else [])


@pytest.mark.parametrize(
    "flops, reasons",
    [
        (1.07e11, []),
        (1.22e11, ["PyTorch eager shows 122% of the matrix product"]),
        (
            1.74e11,
            ["PyTorch eager shows 145% of the multiply-add peak", "PyTorch eager shows 174% of the matrix product"],
        ),
    ],
)
def test_more_than_is_possible(flops, reasons):
    result = Result(cases.ARTICLE, [Row("PyTorch eager", "nn", flops / 728, 0.01, 1.0)])
    assert busy.by_share(result, LIMITS) == reasons
    if not reasons:
        assert busy.by_share(result, replace(LIMITS, fma=None)) == []


def test_a_run_is_watched_from_beginning_to_end(monkeypatch):
    monkeypatch.setattr(busy, "load", lambda: 9.5)
    monkeypatch.setattr(busy, "processors", lambda: 2)
    peaks = iter([{"float32": 1.5e11}, {"float32": 0.9e11}])
    watch = busy.Watch(LIMITS, lambda threads: next(peaks), 2, 7.0)
    result = Result(cases.ARTICLE, [Row("backprop_xp", "fused", 1.8e11 / 728, 0.01, 1.0)])
    watch.after(result)
    assert watch.limits.fma == {"float32": 1.5e11}  # the best so far: what the machine can do
    assert result.busy == [
        "backprop_xp shows 120% of the multiply-add peak", "backprop_xp shows 180% of the matrix product"
    ]  # fmt: skip
    last = Result(cases.ARTICLE)
    watch.after(last)
    assert watch.limits.fma == {"float32": 1.5e11}
    assert watch.end() == [
        "the load average was 7.0 before the run, on 2 processors",
        "the load average was 9.5 at its end, on 2 processors",
    ]
    assert (result.peaks, last.peaks) == ((0, 1), (1, 2))
    for one, share in ((result, "80%"), (last, "60%")):
        assert watch.around(one) == [
            f"the multiply-add peak in float32 was at {share} of its best just before or after"
        ]


def test_a_machine_without_a_peak_or_a_load_average(monkeypatch):
    monkeypatch.setattr(busy.os, "getloadavg", lambda: (_ for _ in ()).throw(OSError("not obtainable")), raising=False)
    watch = busy.Watch(replace(LIMITS, fma=None), lambda threads: None, 2, busy.load())
    result = Result(cases.ARTICLE)
    watch.after(result)
    assert watch.end() == watch.around(result) == []
    assert (watch.peaks, watch.load_before, watch.load_after) == ([], None, None)

"""Contenders in processes of their own: the same answers as in this one, errors in a sentence, nothing left behind."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

import pytest
from backprop_xp.bench import allocator, cases, measure, settings, worker
from backprop_xp.bench import run as bench_run
from backprop_xp.bench.contenders import AUTOCAST, EAGER
from machines import QUIET

from backprop_xp.programs import matrices

SETTINGS = settings.Settings(threads=1, engines=("layered", "tiled"), budget=0.01, memory=False)
CASE = cases.Case("3-4-2", (3, 4, 2), ("tanh", "identity"), 64)


@contextmanager
def process(memory=allocator.DEFAULT):
    one = worker.Process(memory)
    try:
        yield one
    finally:
        one.close()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_settings_and_cases_travel():
    with process() as one:
        assert one.trouble == ""
        ready, here = one.prepare(CASE, SETTINGS), worker.Here().prepare(CASE, SETTINGS)
        assert (ready.entrants, ready.refused, ready.notes) == (here.entrants, here.refused, here.notes)
        assert ready.entrants[:2] == [("backprop_xp layered", "layered"), ("backprop_xp tiled", "tiled")]
        turn = one.turn(0, 3)
        assert turn.seconds > 0
        assert turn.faults >= 0
    assert not is_alive(one.pid)


def test_ours_and_pytorch_take_part_in_another_precision(monkeypatch):
    case = cases.Case("32-32-2", (32, 32, 2), ("relu", "identity"), 64)
    asked = settings.Settings(threads=1, budget=0.01, precision="bfloat16")
    monkeypatch.setattr(matrices, "lacking", lambda: "")
    ready = worker.Here().prepare(case, asked)
    names = [name for name, _ in ready.entrants]
    assert names.count("backprop_xp bfloat16") == 1
    assert names.count(AUTOCAST) == 2
    assert not ready.refused and ready.difference < measure.TOLERANCE["float32"]
    errors = [note for note in ready.notes if "gradients within" in note]
    assert [note.partition(" (")[0] for note in errors] == ["backprop_xp bfloat16", AUTOCAST, AUTOCAST]
    monkeypatch.setattr(matrices, "lacking", lambda: "the processor has none")
    ready = worker.Here().prepare(case, asked)
    assert "backprop_xp bfloat16" not in [name for name, _ in ready.entrants]
    said = "ours isn't measured in bfloat16: it is computed in float32: the processor has none"
    assert said in ready.notes
    asked = settings.Settings(threads=1, budget=0.01, precision="float32")
    assert "backprop_xp float32" in [name for name, _ in worker.Here().prepare(case, asked).entrants]
    asked = settings.Settings(threads=1, budget=0.01, precision="bfloat16")
    ready = worker.Here().prepare(cases.Case(**{**vars(case), "dtype": "float64"}), asked)
    assert {name for name, _ in ready.entrants} == {"backprop_xp", EAGER}


def test_a_failure_is_one_sentence_and_the_process_goes_on():
    with process() as one:
        with pytest.raises(ChildProcessError, match=r"memory default failed while it prepared 3-4-2: .*float16"):
            one.prepare(cases.Case(**{**vars(CASE), "dtype": "float16"}), SETTINGS)
        with pytest.raises(ChildProcessError, match="failed while contender 7 had its turn: IndexError"):
            one.turn(7, 1)
        assert one.prepare(CASE, SETTINGS).entrants


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -9), (signal.SIGTERM, -15)])
def test_a_process_that_dies_is_said_to_have(number, code):
    with process() as one:
        os.kill(one.pid, signal.SIGINT)  # a Ctrl-C reaches it too, and it leaves the end to the run's own process
        assert one.prepare(CASE, SETTINGS).entrants
        os.kill(one.pid, number)
        with pytest.raises(ChildProcessError, match=f"memory default ended with code {code} while"):
            one.turn(0, 1)


def test_both_settings_take_part_and_none_is_left(brief):
    with worker.processes() as (workers, text):
        pids = [one.pid for one in workers]
        result = bench_run.run_case(CASE, SETTINGS, workers=workers, machine=QUIET)
    settings_of = [one.memory for one in workers]
    assert settings_of in ([allocator.KEPT, allocator.DEFAULT], [allocator.DEFAULT])
    assert text.startswith("memory kept (mallopt)" if len(workers) == 2 else "memory is not kept")
    assert [row.contender for row in result.rows if row.contender != EAGER] == [
        "backprop_xp layered",
        "backprop_xp tiled",
    ]
    for row in result.rows:
        assert sorted({one["memory"] for one in row.rounds}) == sorted(settings_of)
        assert row.samples_per_second >= row.by_default > 0
    assert not any(map(is_alive, pids))


def test_without_mallopt_everybody_has_the_default(monkeypatch):
    original = worker.Process

    def without(memory):
        made = original(memory)
        made.trouble = "the C library has no mallopt" if memory == allocator.KEPT else ""
        return made

    monkeypatch.setattr(worker, "Process", without)
    with worker.processes() as (workers, text):
        assert [one.memory for one in workers] == [allocator.DEFAULT]
    assert text == "memory is not kept, the C library has no mallopt: everybody has the system's default"

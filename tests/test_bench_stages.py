"""A run in stages: boxes that close, output that stays, and one exit code for all."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from backprop_xp.bench import stages
from backprop_xp.bench.stages import Command, Stage

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="a system without groups of processes")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(stages, "GRACE", 0.5)


def python(name, code, **options):
    return Command(name, (sys.executable, "-c", code), **options)


def stage(*commands, share=1.0, **options):
    return Stage(commands[0].name, share, lambda seconds: commands, **options)


@pytest.fixture
def run(tmp_path):
    def ran(*planned, seconds=60.0, until=None):
        """``until``: a file, as soon as which is there the time is over."""
        said, clock = [], time.monotonic
        if until is not None:
            seconds, clock = 1e6, lambda: time.monotonic() + 1e6 * until.exists()
        code = stages.run(planned, seconds, tmp_path / "out", said.append, clock)
        summary = (tmp_path / "out" / stages.SUMMARY).read_text(encoding="utf-8")
        assert summary.strip() == said[-1].strip()
        return code, summary.splitlines(), tmp_path / "out"

    return ran


def test_all_is_well_and_the_output_is_there(run):
    code, summary, folder = run(
        stage(python("a", "print('first\\nlast\\n')")), stage(python("b", "import sys; sys.stderr.write('e')"))
    )
    assert code == 0
    assert [line.split()[:2] for line in summary[:2]] == [["a", "ok"], ["b", "ok"]]
    assert summary[0].endswith("  last") and summary[1].endswith("  e")
    assert "all is well" in summary[-1]
    assert (folder / "a.txt").read_text(encoding="utf-8") == "first\nlast\n\n"


@pytest.mark.parametrize(
    "bad", ["raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)", "import time; time.sleep(60)"]
)
def test_the_next_stage_runs_whatever_became_of_one(run, bad):
    code, summary, _ = run(stage(python("bad", bad)), stage(python("good", "print('here')"), share=9.0), seconds=20.0)
    assert code == 1
    assert summary[0].split("  ")[0] == "bad"
    assert "ok" not in summary[0]
    assert summary[1].startswith("good") and summary[1].endswith("here")
    assert "something failed" in summary[-1]


def test_what_does_not_count_fails_nothing(run):
    code, summary, _ = run(stage(python("a", "print(1)"), python("beside", "raise SystemExit(2)", counts=False)))
    assert code == 0
    assert summary[1].startswith("beside") and "failed (2)" in summary[1]


def test_commands_of_a_stage_run_side_by_side(run, tmp_path):
    meet = (
        "import pathlib, sys, time\nmine, other = map(pathlib.Path, {!r})\nmine.touch()\n"
        "while not other.exists(): time.sleep(0.01)\nprint('met')"
    )
    paths = [str(tmp_path / name) for name in "ab"]
    code, summary, _ = run(stage(python("a", meet.format(paths)), python("b", meet.format(paths[::-1]))))
    assert code == 0
    assert all(line.endswith("met") for line in summary[:2])


def test_a_box_that_closes_ends_everything_that_was_started_in_it(run, tmp_path):
    child = f"import time\nfor _ in range(600): open({str(tmp_path / 'alive')!r}, 'w').write(str(time.time())); time.sleep(0.05)"
    deaf = f"import signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('began', flush=True); subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    code, summary, _ = run(stage(python("deaf", deaf)), until=tmp_path / "alive")
    assert code == 1
    assert "box closed" in summary[0] and summary[0].endswith("began")
    ended = time.time()
    time.sleep(0.3)
    assert float((tmp_path / "alive").read_text(encoding="utf-8") or 0) < ended


def test_an_interrupt_lets_a_program_close_its_files(run, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "GRACE", 20.0)  # of which a polite program takes little
    began = tmp_path / "began"
    polite = f"import time\ntry:\n  open({str(began)!r}, 'w').close(); time.sleep(60)\nexcept KeyboardInterrupt:\n  print('closed')"
    _, summary, _ = run(stage(python("polite", polite)), until=began)
    assert "box closed" in summary[0] and summary[0].endswith("closed")


def test_a_program_that_is_missing_is_a_failure_of_its_own(run):
    code, summary, _ = run(
        stage(Command("none", ("./no/such/program",)), python("b", "print(2)")), stage(python("c", "print(3)"))
    )
    assert code == 1
    assert "failed (127)" in summary[0] and "no/such/program" in summary[0]
    assert [line[-1] for line in summary[1:3]] == ["2", "3"]


def test_what_is_left_out_says_why_and_takes_no_time(run):
    boxes = []

    def noted(name):
        return Stage(name, 1.0, lambda seconds: boxes.append(seconds) or [python(name, "print(1)")])

    left_out = Stage("absent", 98.0, lambda seconds: pytest.fail("run"), left_out="it is not installed")
    code, summary, _ = run(noted("a"), left_out, noted("b"), seconds=20.0)
    assert code == 0
    assert summary[1].startswith("absent") and summary[1].endswith("left out: it is not installed")
    assert 8.0 < boxes[0] <= 10.0
    assert 11.0 < boxes[1] < 20.0  # what the first one didn't need is the second one's


def test_an_interrupt_ends_the_run_with_a_summary(run, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    code, summary, _ = run(stage(python("a", "print(1)")), Stage("b", 1.0, interrupted), stage(python("c", "")))
    assert code == 1
    assert summary[0].startswith("a ") and summary[1].split() == ["b", "interrupted"]
    assert summary[2].split() == ["c", "not", "run"]


def test_variables_and_no_input(run):
    show = "import os, sys; print(os.environ['GIVEN'], repr(sys.stdin.read()))"
    _, summary, _ = run(stage(python("a", show, environment={"GIVEN": "7"})))
    assert summary[0].endswith("7 ''")


def test_a_summary_is_on_disk_after_every_stage(tmp_path):
    seen = []

    def second(seconds):
        seen.append((tmp_path / stages.SUMMARY).read_text(encoding="utf-8"))
        return []

    stages.run([stage(python("a", "print(1)")), Stage("b", 1.0, second)], 20.0, Path(tmp_path), lambda line: None)
    assert seen[0].startswith("a ")

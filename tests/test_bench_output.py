"""What a run leaves: JSON that can be traced, claims that its own rounds support, and one line if nothing is to be quoted."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from backprop_xp.bench import (
    busy,
    cases,
    command,
    environment,
    estimators,
    grid,
    limits,
    measure,
    memory,
    plot,
    report,
    settings,
    worker,
)
from backprop_xp.bench.busy import Watch
from backprop_xp.bench.output import Found, Run
from backprop_xp.bench.report import Result, Row
from backprop_xp.bench.tables import Table
from machines import OTHERS, QUIET
from tables import line

from backprop_xp import __version__, cli

LIMITS = limits.Limits({"float32": 1e11}, {"float32": 1.2e11}, 1e10)
EAGER = "PyTorch eager"


def result(name, ours, theirs, reasons=()):
    case = cases.Case(name, (3, 2), ("tanh",), 8)
    rows = [Row(who, "f", 8.0 / seconds, 0.01, None, seconds=[seconds] * 5)
            for who, seconds in (("backprop_xp", ours), (EAGER, theirs))]  # fmt: skip
    return Result(case, rows, busy=list(reasons))


@pytest.fixture
def ended(monkeypatch):
    def make(results, families=None, load=0.5, peaks=()):
        monkeypatch.setattr(busy, "load", lambda: load)
        monkeypatch.setattr(busy, "processors", lambda: 2)
        about = {
            "machine": "Some Processor, 2 threads\nmore",
            "device": "Some Processor",
            "date": "2026-01-31T00:00:00",
        }
        watch = Watch(LIMITS, lambda threads: None, 2, load)
        watch.peaks = [{"float32": peak} for peak in peaks]
        return Run(watch, about, Found(results, families or {}))

    return make


@pytest.fixture
def in_this_process(brief, monkeypatch):
    """A run starts no process: its contenders are here, and how much memory they take isn't asked."""
    monkeypatch.setattr(command, "_workers", lambda backend: nullcontext(([worker.Here()], "memory as it is")))
    monkeypatch.setattr(memory, "extra_bytes", lambda *asked: None)


def test_only_sweeps_are_drawn_as_curves(ended, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(plot, "throughput", lambda path, families, about: drawn.append(list(families)))
    families = {"losses with derivatives": [result("a", 1.0, 2.0)], "batch": [result("b", 1.0, 2.0)]}
    ended([], families)._draw(tmp_path / "picture.png")
    ended([], {"losses with derivatives": families["losses with derivatives"]})._draw(tmp_path / "picture.png")
    assert drawn == [["batch"]]


def test_claims_are_those_of_the_run(ended):
    swept = [result("1 sample", 1.0, 0.5), result("4 samples", 1.0, 3.0)]
    run = ended([result("a", 1.0, 2.0)], {"batch": swept})
    claims = [
        "backprop_xp is the fastest in 1 of 1 cases",
        "backprop_xp is the fastest in 1 of 2 points over batch; "
        "PyTorch eager is faster in: 1 sample, 8 x float32 (2.00 times)",
    ]
    assert run.closing == run.claims == claims
    content = run.content()
    assert (content["quotable"], content["busy"], content["claims"]) == (True, [], claims)
    for claim in claims:
        assert claim in run.markdown()


@pytest.mark.usefixtures("in_this_process")
def test_estimators_are_a_part_of_a_run_whose_rows_are_on_disk_after_every_table(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    for name, value in (("EPOCHS", 3), ("PREDICTIONS", 1), ("Machine", lambda threads: QUIET)):
        monkeypatch.setattr(estimators, name, value)
    monkeypatch.setattr(command, "packaged", lambda: [Table(name, "here", False, line) for name in ("one", "two")])
    unfinished, path = [], tmp_path / "results.json"
    write = Run.write_unfinished

    def noted(run, arguments):
        write(run, arguments)
        content = json.loads((tmp_path / "results.unfinished.json").read_text(encoding="utf-8"))
        unfinished.append([row["table"] for row in content["environment"]["estimators"][::3]])

    monkeypatch.setattr(Run, "write_unfinished", noted)
    options = ("--only", "estimators", "--threads", "1", "--backend", "numpy", "--within", "0.001")
    assert cli.main(["bench", *options, "--json", str(path)]) == 0
    assert unfinished == [["one"], ["one", "two"]]
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = content["environment"]["estimators"]
    assert [len(row["scores"]) for row in rows] == [measure.FEWEST_SEEDS] * 6
    assert "2 splits of every table" in capsys.readouterr().out
    assert any("tables, by the time of fit" in claim for claim in content["claims"])
    assert any("that of scikit-learn within a standard error on" in claim for claim in content["claims"])


def test_a_table_that_others_disturbed_is_named(ended):
    run = ended([])
    rows = [estimators.Row("t", name, 9, [1.0], [1.0], [0.5], [OTHERS]) for name in ("backprop_xp", "scikit-learn")]
    run = Run(run._watch, {}, Found(estimated=rows))
    assert run.busy == ["the machine was busy during estimators on t"]
    assert run.claims[0].startswith("backprop_xp: no claim about tables, by the time of fit")
    assert f"```text\n{estimators.report(rows)}\n```" in run.markdown()


def test_one_disturbed_case_is_named_and_supports_no_claim(ended):
    run = ended([result("a", 1.0, 760.0, [OTHERS]), result("b", 1.0, 2.0)])
    assert run.closing == [
        "backprop_xp is the fastest in 1 of 1 cases; not counted: 1 measured while the machine was busy",
        "busy: not to be quoted: the machine was busy during a, 8 x float32",
    ]
    assert not run.content()["quotable"]
    assert [bool(one["busy"]) for one in run.content()["results"]] == [True, False]


def test_a_busy_run_claims_nothing(ended):
    run = ended([result("a", 1.0, 2.0), result("b", 1.0, 2.0)], load=7.0)
    assert run.closing == [
        "backprop_xp: no claim about cases; not counted: 2 measured while the machine was busy",
        "busy: not to be quoted: the load average was 7.0 before the run, on 2 processors; "
        "the load average was 7.0 at its end, on 2 processors",
    ]
    assert run.markdown().count("| a (busy: not to be quoted) |") == 2
    assert all(one["busy"] for one in run.content()["results"])


@pytest.mark.usefixtures("in_this_process")
def test_a_run_that_is_stopped_leaves_what_it_has_and_what_was_there(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    measured, run_case = [], command.run_case

    def stopped(case, *arguments):
        if measured:
            raise KeyboardInterrupt
        measured.append(case)
        return run_case(case, *arguments)

    monkeypatch.setattr(command, "run_case", stopped)
    earlier = tmp_path / "results.json"
    earlier.write_text("earlier", encoding="utf-8")
    options = ("--batch", "64", "--seconds", "0.01", "--threads", "1", "--backend", "numpy", "--dtype", "float32")
    assert cli.main(["bench", *options, "--json", str(earlier), "--markdown", str(tmp_path / "results.md")]) == 130
    assert earlier.read_text(encoding="utf-8") == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "results.json", "results.unfinished.json", "results.unfinished.md"
    ]  # fmt: skip
    content = json.loads((tmp_path / "results.unfinished.json").read_text(encoding="utf-8"))
    (result,) = content["results"]
    assert result["case"]["name"] == measured[0].name
    assert len(content["left out"]) >= 3
    text = (tmp_path / "results.unfinished.md").read_text(encoding="utf-8")
    assert f"not measured, for lack of time: {'; '.join(content['left out'])}" in text


@pytest.mark.usefixtures("in_this_process")
def test_cases_that_find_no_time_are_named(tmp_path, capsys):
    pytest.importorskip("torch")
    path = tmp_path / "results.json"
    options = ("--batch", "64", "--seconds", "0.01", "--threads", "1", "--backend", "numpy", "--within", "0.001")
    assert cli.main(["bench", *options, "--dtype", "float32", "--json", str(path)]) == 0
    content = json.loads(path.read_text(encoding="utf-8"))
    assert len(content["results"]) == 1  # the most important one always has its turn
    assert "not measured, for lack of time: " in capsys.readouterr().out
    assert [one.name for one in tmp_path.iterdir()] == ["results.json"]


def test_writing_in_between_spoils_nothing(ended):
    case = result("a", 1.0, 2.0)
    for _ in range(2):
        assert len(ended([case], load=7.0).content()["results"][0]["busy"]) == 2
    assert case.busy == []


def test_a_slow_spell_of_the_processor_spoils_what_was_measured_then(ended):
    quick, slow = result("a", 1.0, 2.0), result("b", 1.0, 2.0)
    quick.peaks, slow.peaks = (0, 1), (1, 2)
    run = ended([quick, slow], peaks=[1.0, 1.0, 0.5])
    assert [bool(one["busy"]) for one in run.content()["results"]] == [False, True]
    assert run.closing[-1] == "busy: not to be quoted: the machine was busy during b, 8 x float32"


def test_a_number_and_its_spread_stand_apart_however_large_it_is():
    found = result("a", 2.0, 1.0)
    found.rows[0].spread = 1234.5
    assert " 4 +-123450% " in report.table([found], LIMITS)


@pytest.mark.usefixtures("in_this_process")
def test_parts_of_a_run_alone_have_files_of_their_own(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(grid, "QUICK", (grid.Part("relu", "float32", (4, 8), (2, 1024)),))
    rows = [replace(row, speedup=2.0) for row in result("a", 1.0, 2.0).rows]
    monkeypatch.setattr(grid, "run_case", lambda case, *rest: Result(case, rows))
    options = ("--threads", "1", "--backend", "numpy", "--results", str(tmp_path))
    assert cli.main(["bench", *options, "--only", "grid"]) == 0
    text = capsys.readouterr().out
    assert "geometric mean 2.00, least 2.00, of 4 points" in text and "article" not in text
    (path,) = tmp_path.glob("*.json")
    assert path.name.endswith("-grid.json") and len(json.loads(path.read_text(encoding="utf-8"))["results"]) == 4
    assert cli.main(["bench", *options, "--only", "grid", "--within", "1e-9"]) == 0
    assert "4 points were not begun: there was no time left" in capsys.readouterr().out
    assert cli.main(["bench", *options, "--only", "grid,cake"]) == 1
    assert "unknown part of --only 'cake'; did you mean 'cases'?" in capsys.readouterr().err


def test_the_environment_can_be_traced():
    about = environment.describe(settings.Settings(2), "memory as it is")
    assert datetime.datetime.fromisoformat(about["date"]).tzinfo is not None
    assert about["versions"]["numpy"] == np.__version__
    assert about["versions"]["backprop_xp"] == __version__
    assert about["threads"] == about["settings"]["threads"] == 2
    assert about["memory"] == "memory as it is"
    for name in ("commit", "compiler", "system", "processor", "device"):
        assert about[name]
    for text in (about["date"], about["commit"], about["memory"]):
        assert text in about["machine"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_checkout_the_file_belongs_to(tmp_path):
    def git(*arguments):
        names = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *names, *arguments], check=True, capture_output=True)

    file = tmp_path / "environment.py"
    file.write_text("first", encoding="utf-8")
    assert environment.commit(file) == __version__  # no repository
    git("init", "-q")
    assert environment.commit(file) == __version__  # somebody else's repository: the file isn't in it
    git("add", ".")
    git("commit", "-q", "-m", "first")
    name = environment.commit(file)
    assert len(name) >= 7
    file.write_text("second", encoding="utf-8")
    assert environment.commit(file) == f"{name}-dirty"
    git("commit", "-q", "-a", "-m", "second")
    git("tag", "v3")
    assert environment.commit(file) == "v3"


def test_without_git_the_commit_is_the_version(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.commit() == __version__


@pytest.mark.usefixtures("brief")
def test_a_real_run_writes_every_round(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(busy, "load", lambda: 40.0)  # whatever else it finds, the machine is busy
    monkeypatch.setattr(memory, "extra_bytes", lambda *asked: None)
    path = tmp_path / "results.json"
    arguments = ("--net", "3-4-2", "--batch", "64", "--seconds", "0.01", "--threads", "1", "--backend", "numpy")
    assert cli.main(["bench", *arguments, "--json", str(path), "--markdown", str(tmp_path / "results.md")]) == 0
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == {"quotable", "busy", "claims", "left out", "environment", "limits", "results"}
    assert content["left out"] == []
    about = content["environment"]
    assert set(about) == {
        "date", "commit", "compiler", "system", "processor", "threads", "memory", "device", "machine", "versions", "settings",
        "load before", "load after", "multiply-add peaks", "ablation", "training", "estimators", "first calls",
    }  # fmt: skip
    assert (about["load before"], about["load after"]) == (40.0, 40.0)
    assert len(about["multiply-add peaks"]) in (0, 2)  # before and after; none without a compiler
    (found,) = content["results"]
    number = len(found["spells"])
    assert number >= 5
    assert set(found["spells"][0]) == {"others", "stolen", "share", "busy"}
    assert set(found["counted"]) <= set(range(number))
    for row in found["rows"]:
        assert row["memory"] in {one["memory"] for one in row["rounds"]}
        assert len(row["seconds"]) == len(found["counted"])
        assert row["samples_per_second"] == pytest.approx(64 / np.median(row["seconds"]))
        for one in row["rounds"]:
            assert set(one) == {"form", "memory", "seconds", "processors", "faults"}
            assert 1 <= len(one["seconds"]) == len(one["processors"]) == len(one["faults"]) <= number
    assert not content["quotable"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("busy: not to be quoted: the load average was 40.0 before the run")
    for text in ((tmp_path / "results.md").read_text(encoding="utf-8"), json.dumps(content["results"][0]["busy"])):
        assert "the load average was 40.0 before the run" in text
    assert report.BUSY in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_json_has_a_line_for_every_round_and_the_values_that_were_measured():
    seconds = [0.1 + 0.2 * number for number in range(20)]
    rounds = [{"form": "nn", "seconds": seconds, "faults": []}] * 2
    content = {
        "claims": ["A is faster than B, \n[1,\n 2]" * 5, "b"],
        "rows": [{"rounds": rounds}],
        "at": {},
        "all": seconds,
    }
    text = report.as_json(content)
    assert json.loads(text) == content
    assert sum(str(seconds) in line for line in text.splitlines()) == 3

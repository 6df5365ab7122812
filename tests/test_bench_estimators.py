"""The benchmark of estimators: its tables, its contenders and what it says."""

import json

import numpy as np
import pytest
from backprop_xp.bench import estimators, measure, report
from backprop_xp.bench.tables import Table, packaged
from machines import QUIET
from tables import blobs, line

pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(estimators.measure, "REST", 0.0)
    monkeypatch.setattr(estimators, "EPOCHS", 5)
    monkeypatch.setattr(estimators, "PREDICTIONS", 1)


def tables():
    return [Table("blobs", "here", True, blobs), Table("line", "here", False, line)]


def test_thirteen_tables_of_two_packages():
    found = packaged()
    names = [table.name for table in found if table.package == "scikit-learn"]
    assert names == ["iris", "digits", "wine", "breast-cancer", "diabetes"]
    pytest.importorskip("statsmodels")
    assert len(found) == 13
    for table in found:
        x, y = table.load()
        assert x.dtype == np.float64 and x.ndim == 2 and len(x) == len(y) > 100 and np.isfinite(x).all()
        assert (len(np.unique(y)) < 15) or not table.classes


def test_without_statsmodels_it_says_so(monkeypatch):
    monkeypatch.setattr(estimators.contenders, "available", lambda name: name != "statsmodels")
    assert len(packaged()) == 5
    rows = estimators.run(tables(), 1, (0, 1), machine=QUIET)
    assert "statsmodels is not installed" in estimators.claims(rows)[-1]


def test_rows_and_report():
    rows = estimators.run(tables(), 1, (0, 1, 2), machine=QUIET)
    assert [(row.table, row.contender) for row in rows] == [
        (table, name) for table in ("blobs", "line") for name in estimators.EVERYBODY
    ]
    assert all(len(row.fits) == len(row.scores) == 3 and min(row.fits + row.predictions) > 0 for row in rows)
    text = estimators.report(rows)
    assert all(len(line) <= 100 for line in text.splitlines())
    assert report.BUSY not in text and text.endswith("3 splits of every table")
    assert "\n".join(estimators.claims(rows)).count("of 2 tables") == 4


def test_little_time_means_fewer_splits_and_rows_are_there_after_every_table():
    seen = []
    rows = estimators.run(tables(), 1, range(9), machine=QUIET, seconds=0, after=lambda rows: seen.append([*rows]))
    assert [len(row.scores) for row in rows] == [measure.FEWEST_SEEDS] * 6
    assert [len(each) for each in seen] == [3, 6] and seen[-1] == rows
    for row in rows[:3]:
        row.scores += [0.5] * 3
    assert estimators.report(rows).endswith("5 splits of every table, but for lack of time of line 2")


@pytest.mark.parametrize("classes", [True, False])
def test_pytorchs_loop_learns_what_ours_does(classes, monkeypatch):
    monkeypatch.setattr(estimators, "EPOCHS", 100)
    x, y = blobs(dtype=np.float32) if classes else line()
    x = x.astype(np.float32)
    said = [contender(x, y, classes, 0, 1)(x) for contender in estimators.EVERYBODY.values()]
    for other in said[1:]:
        assert other.shape == said[0].shape
        assert (other == said[0]).mean() > 0.95 if classes else np.corrcoef(other, said[0])[0, 1] > 0.95


def test_a_lower_score_is_named():
    rows = [
        estimators.Row("t", name, 10, [1.0, 1.0], [1.0, 1.0], scores)
        for name, scores in (("backprop_xp", [0.5, 0.5]), ("scikit-learn", [0.9, 0.8]), ("PyTorch loop", [0.5, 0.5]))
    ]
    text = "\n".join(estimators.claims(rows))
    assert "that of scikit-learn within a standard error on 0 of 1 tables; it is lower on t" in text
    assert "that of PyTorch loop within a standard error on 1 of 1 tables" in text


def test_from_the_command_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(estimators, "packaged", tables)
    monkeypatch.setattr(estimators, "Machine", lambda threads: QUIET)
    assert estimators.main(["--tables", "line", "--splits", "1", "--json", str(tmp_path / "rows.json")]) == 0
    assert "line" in capsys.readouterr().out
    assert [row["table"] for row in json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))] == ["line"] * 3
    for wrong, said in (
        (["--tables", "other"], "unknown tables other; known are blobs, line"),
        (["--tables="], "unknown tables ; known are blobs, line"),
        (["--threads", "0"], "error: --threads must be an integer from 1 to"),
    ):
        with pytest.raises(SystemExit):
            estimators.main(wrong)
        assert said in capsys.readouterr().err

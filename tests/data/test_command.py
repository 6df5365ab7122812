"""Every message that names an option is tested by following it, as a user would type it."""

import re
import shlex

import numpy as np
import pandas
import pytest

from backprop_xp import cli

N = 60
RANDOM = np.random.default_rng(0)
A = RANDOM.normal(size=N).round(3)
Y = (2 * A).round(2)
QUICK = ("--epochs", "2", "--hidden", "4", "--backend", "numpy", "--model", "m", "--plot", "p.png", "--force")


def cycle(*texts):
    return [texts[i % len(texts)] for i in range(N)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(capsys, *options, target="y"):
    """The exit code, and all that is said."""
    code = cli.main(["train", "--data", "t.csv", "--target", target, *QUICK, *options])
    streams = capsys.readouterr()
    return code, streams.out + streams.err


def write(**columns):
    pandas.DataFrame({"a": A, **columns} if "y" in columns else {"a": A, **columns, "y": Y}).to_csv(
        "t.csv", index=False
    )


ODD = [f"{v:.2f}" if i % 4 else "no" for i, v in enumerate(A)]
QUOTED = 'n, "1"'
CASES = {
    "a target of numbers and a text": ({"y": cycle("1", "1", "no")}, ["--task"]),
    "the same of many": ({"y": [v.replace("no", "?") for v in ODD[1:]] + ["1"]}, ["--missing", "--task"]),
    "a column of numbers and a text": ({"c": ODD}, ["--missing", "--categories"]),
    "texts that a shell or a parser takes": ({"c": [v.replace("no", '-,"?') for v in ODD]}, ["--missing", "--categories"]),
    "two odd texts": ({"c": [v if i % 8 else "*" for i, v in enumerate(ODD)]}, ["--missing", "--categories"]),
    "names that a shell or a parser takes": ({QUOTED: ODD}, ["--missing", "--categories"]),
    "a name like an option": ({"-c d": [f"x{v}" for v in A]}, ["--ignore"]),
    "different texts": ({QUOTED: [f"x{v}" for v in A]}, ["--ignore"]),
    "a name of two lines": ({"new\nline": [f"x{v}" for v in A]}, ["--ignore"]),
    "dates and a text": ({"c": cycle("2020-01-01", "2020-01-02", "soon")}, ["--missing", "--categories"]),
    "open dates": ({"c": cycle("03/04/2020", "05/06/2020")}, ["--dates", "--dates"]),
    "a target of dates": ({"y": cycle("2020-01-01", "2020-01-02")}, ["--task"]),
    "open decimals": ({"c": cycle("1,234", "1234")}, ["--decimal", "--decimal"]),
    "an open target": ({"y": [f"{v:,}" for v in RANDOM.integers(1000, 9999, N)]}, ["--decimal", "--decimal"]),
    "units": ({"c": [f"{v} {'kg' if i % 2 else 'lb'}" for i, v in enumerate(abs(A))]}, ["--ignore"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_an_error_advises_works(case, capsys):
    columns, advised = CASES[case]
    write(**columns)
    code, said = train(capsys)
    assert code == 1
    found = advice(said)
    assert [words[0].partition("=")[0] for words in found] == advised
    for words in found:
        code, said = train(capsys, *words)
        assert (code, "held out: " in said) == (0, True), said


@pytest.mark.parametrize(
    "columns, start",
    [
        ({"c": range(N)}, "--keep"),
        ({"c": Y}, "--keep"),
        ({"c": [f"id{i:02d}" for i in range(N)]}, "--keep"),
        ({"y": cycle("None", "Ill", "Well")}, "--missing"),
        ({"c": [f"{i * 7 % 61:03d}" for i in range(N)]}, "--categories"),
        ({"c": 1.8 * Y + 32}, "--ignore"),
        ({"c": [f"{v:,}" for v in RANDOM.integers(1000, 9999, N)]}, "--decimal"),
    ],
)
def test_what_a_note_advises_works(columns, start, capsys):
    write(**columns)
    code, said = train(capsys)
    assert code == 0
    (words,) = advice(next(line for line in said.splitlines() if start in line))
    assert words[0] == start
    code, other = train(capsys, *words)
    assert code == 0
    assert said != other


def advice(said):
    """The options in a message, each as the words that a shell makes of it."""
    found = []
    for match in re.finditer(r"--(?=[a-z]+[ =])", said):
        lexer = shlex.shlex(said[match.start() :], posix=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        words = [next(lexer)]
        words += [] if "=" in words[0] else [next(lexer)]
        words[-1] = words[-1].rstrip(",;") or words[-1]
        found.append(words)
    return found


def test_categories_of_a_target(capsys):
    write(y=cycle("1", "1", "no"))
    assert train(capsys, "--categories", "y")[0] == 0


def test_separators_and_encodings_can_be_said(capsys, folder):
    (folder / "t.csv").write_text("a,b;y\n" + "".join(f"{v},{i};{2 * v}\n" for i, v in enumerate(A)), encoding="utf-8")
    code, said = train(capsys)
    assert code == 1 and "--separator" in said
    assert train(capsys, "--separator", "semicolon", "--ignore", "z")[0] == 1
    assert train(capsys, "--separator", ";", "--keep", '"a,b"', "--categories", '"a,b"')[0] == 0
    (folder / "t.csv").write_bytes(
        ("слово,y\n" + "".join(f"{'да' if v > 0 else 'нет'},{2 * v}\n" for v in A)).encode("cp1251")
    )
    code, said = train(capsys)
    assert code == 1 and "--encoding" in said
    assert train(capsys, "--encoding", "cp1251")[0] == 0


def test_prediction_reads_as_it_is_told(capsys, folder):
    write(c=[f"{v:.2f}" for v in A])
    assert train(capsys)[0] == 0
    (folder / "plain.csv").write_text("a,c\n1.5,0.25\n,0.5\n", encoding="utf-8")
    (folder / "other.csv").write_bytes("a;c;ö\n1,5;0,25;1\n?;0,5;2\n".encode("utf-16-le"))
    assert cli.main(["predict", "m", "plain.csv"]) == 0
    expected = capsys.readouterr().out
    options = ("--separator", ";", "--decimal", ",", "--missing", "?", "--encoding", "utf-16-le")
    assert cli.main(["predict", "m", "other.csv", *options]) == 0
    assert capsys.readouterr().out == expected
    assert cli.main(["predict", "m", "other.csv"]) == 1
    assert "column 'a': '1,5' is no number; --decimal , reads it" in capsys.readouterr().err
    (folder / "grouped.csv").write_text('a,c\n"1,234.5",0.25\n', encoding="utf-8")
    assert cli.main(["predict", "m", "grouped.csv"]) == 1
    assert "'1,234.5' is no number; --decimal . reads it" in capsys.readouterr().err
    assert cli.main(["predict", "m", "grouped.csv", "--decimal", "."]) == 0
    assert cli.main(["predict", "m", "other.csv", "--decimal", ","]) == 1
    assert "row 3, column 'a': '?' is no number" in capsys.readouterr().err


@pytest.mark.parametrize("targets", ["y", "y,z"])
def test_the_mark_before_decimals_is_the_targets_too(targets, capsys, folder):
    write(z=[f"{v:.3f}" for v in np.sin(9 * A)])
    assert train(capsys, "--target", targets)[0] == 0
    text = (folder / "t.csv").read_text(encoding="utf-8")
    (folder / "comma.csv").write_text(text.replace(",", ";").replace(".", ","), encoding="utf-8")
    said = []
    for arguments in (("t.csv",), ("comma.csv", "--decimal", ",", "--separator", ";")):
        assert cli.main(["predict", "m", *arguments]) == 0
        said.append(capsys.readouterr().err.partition(".csv: ")[2])
        assert cli.main(["explain", "m", *arguments, "--row", "5"]) == 0
        said.append(capsys.readouterr().out)
    assert "R^2" in said[0] and said[:2] == said[2:]


def test_a_truth_that_is_none_costs_no_answer(capsys, folder):
    write()
    assert train(capsys)[0] == 0
    (folder / "new.csv").write_text("a,y\n1.5,unknown\n", encoding="utf-8")
    assert cli.main(["predict", "m", "new.csv"]) == 0
    streams = capsys.readouterr()
    assert len(streams.out.splitlines()) == 2
    assert "y is in new.csv: no score, row 2, column 'y': 'unknown' is no number" in streams.err

"""`backprop-xp train` and `backprop-xp predict`, as a user types them."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas
import pytest

from backprop_xp import cli

SIZES = [i * 17 % 41 for i in range(40)]  # that don't number the rows
TABLE = "size,colour,price\n" + "".join(f"{i},{'red' if i % 3 else 'blue'},{2.5 * i + i % 3}\n" for i in SIZES)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "houses.csv").write_text(TABLE)
    return tmp_path


def run(*arguments):
    return cli.main(list(map(str, arguments)))


def answers(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_digits_from_end_to_end(capsys, folder):
    assert run("train", "--data", "digits", "--epochs", 3, "--hidden", 16) == 0
    out = capsys.readouterr().out
    assert "note: column 'pixel_0_0' is constant and left out" in out
    assert "held out: accuracy 0." in out
    assert "model in digits.safetensors, picture in digits.png" in out
    assert {path.name for path in folder.iterdir()} == {"houses.csv", "digits.safetensors", "digits.png"}
    assert run("predict", "digits.safetensors", "digits") == 0
    streams = capsys.readouterr()
    rows = answers(streams.out)
    assert len(rows) == 1797
    assert {row["target"] for row in rows} == {str(k) for k in range(10)}
    assert all(0 < float(row["probability"]) <= 1 for row in rows)
    assert "target is in digits: accuracy 0." in streams.err


def test_a_file_of_amounts(capsys, folder):
    arguments = ("--target", "price", "--epochs", 200, "--model", "m", "--plot", "p.png", "--seed", 1, "--lr", 0.01)
    assert run("train", "--data", "houses.csv", *arguments) == 0
    assert "held out: R^2 0.9" in capsys.readouterr().out
    (folder / "new.csv").write_text("colour,size,more\nred,4,x\nblue,30,y\n")
    assert run("predict", "m", "new.csv", "--output", "answers.csv") == 0
    assert capsys.readouterr().out == ""
    said = [float(row["price"]) for row in answers((folder / "answers.csv").read_text())]
    np.testing.assert_allclose(said, [11, 75], atol=6)


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_other_files(kind, capsys, folder):
    frame = pandas.read_csv(folder / "houses.csv")
    if kind == "npz":
        np.savez("houses.npz", **{name: np.array(frame[name].tolist()) for name in frame})
    else:
        pytest.importorskip("pyarrow")
        frame.to_parquet("houses.parquet")
    for data in ("houses.csv", f"houses.{kind}"):
        assert run("train", "--data", data, "--target", "colour", "--epochs", 2, "--model", f"{data}.model") == 0
        assert run("predict", f"{data}.model", "houses.csv") == 0
    assert answers(capsys.readouterr().out)
    assert (folder / "houses.csv.model").read_bytes() == (folder / f"houses.{kind}.model").read_bytes()


TRAIN = ("train", "--data", "houses.csv")
MISTAKES = [
    (("train",), "--data"),
    (TRAIN, "--target must name the column to predict: 'size', 'colour', 'price'"),
    ((*TRAIN, "--target", "prize"), "no column 'prize'; it has 'size', 'colour', 'price'"),
    ((*TRAIN, "--target", "price", "--task", "magic"), "unknown task 'magic'"),
    ((*TRAIN, "--target", "price", "--hidden", "8-x"), "--hidden takes widths such as 64-32, got '8-x'"),
    ((*TRAIN, "--target", "price", "--activation", "rely"), "unknown activation 'rely'; did you mean 'relu'?"),
    ((*TRAIN, "--target", "price", "--epochs", "0"), "--epochs must be at least 1, got 0"),
    ((*TRAIN, "--target", "price", "--batch-size", "0"), "batch_size"),
    ((*TRAIN, "--target", "price", "--lr", "1e30", "--epochs", "3"), "try a smaller --lr"),
    ((*TRAIN, "--target", "price", "--validation", "2"), "between 0 and 1, got 2.0"),
    ((*TRAIN, "--target", "price", "--ignore", "size,colour"), "no column is left to learn from"),
    ((*TRAIN, "--target", "price", "--model", "none/m"), "there is no folder none for m"),
    (("train", "--data", "none.csv", "--target", "y"), "none.csv"),
    (("train", "--data", "digit"), "unknown data 'digit'; did you mean 'digits'?"),
    (("predict", "houses.csv", "houses.csv"), "houses.csv is no whole safetensors file"),
    (("predict", "none", "houses.csv"), "none"),
]


@pytest.mark.parametrize("arguments, message", MISTAKES, ids=[" ".join(a[:1] + a[3:]) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_no_file(arguments, message, capsys, folder):
    assert run(*arguments) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    said = [line for line in streams.err.splitlines() if "compiling the net" not in line]
    assert len(said) == 1
    assert said[0].startswith("backprop-xp: ")
    assert message in said[0]
    assert [path.name for path in folder.iterdir()] == ["houses.csv"]


def test_an_unseen_label_says_where(capsys, folder):
    run("train", "--data", "houses.csv", "--target", "price", "--epochs", 1)
    (folder / "new.csv").write_text("size,colour\n1,red\n2,green\n")
    capsys.readouterr()
    assert run("predict", "houses.safetensors", "new.csv") == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err == (
        "backprop-xp: row 3, column 'colour': 'green' was not seen in training; known are 'blue', 'red'\n"
    )


def test_without_pandas(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    assert run("train", "--data", "iris") == 1
    assert capsys.readouterr().err == "backprop-xp: real data needs pandas: pip install 'backprop-xp[data]'\n"

"""`backprop-xp train` and `backprop-xp predict`, as a user types them."""

import csv
import io
import os
import subprocess
import sys
import tempfile

import numpy as np
import pandas
import pytest

from backprop_xp import cli
from backprop_xp.data import Model, command

SIZES = [i * 17 % 41 for i in range(40)]  # that don't number the rows
TABLE = "size,colour,price\n" + "".join(f"{i},{'red' if i % 3 else 'blue'},{2.5 * i + i % 3}\n" for i in SIZES)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "houses.csv").write_text(TABLE, encoding="utf-8")
    return tmp_path


PROGRAM = (sys.executable, "-m", "backprop_xp")


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
    assert "on 1797 rows (it was trained on rows of this table)" in streams.err


def test_a_file_of_amounts(capsys, folder):
    arguments = ("--target", "price", "--epochs", 200, "--model", "m", "--plot", "p.png", "--seed", 1, "--lr", 0.01)
    assert run("train", "--data", "houses.csv", *arguments) == 0
    assert "held out: R^2 0.9" in capsys.readouterr().out
    (folder / "new.csv").write_text("colour,size,more\nred,4,x\nblue,30,y\n", encoding="utf-8")
    assert run("predict", "m", "new.csv", "--output", "answers.csv") == 0
    assert capsys.readouterr().out == ""
    said = [float(row["price"]) for row in answers((folder / "answers.csv").read_text(encoding="utf-8"))]
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
        arguments = ("--target", "colour", "--epochs", 2, "--model", f"{data}.model", "--plot", f"{data}.png")
        assert run("train", "--data", data, *arguments) == 0
        assert run("predict", f"{data}.model", "houses.csv") == 0
    assert answers(capsys.readouterr().out)
    assert (folder / "houses.csv.model").read_bytes() == (folder / f"houses.{kind}.model").read_bytes()


TRAIN = ("train", "--data", "houses.csv")
MISTAKES = [
    (("train",), "--data"),
    (TRAIN, "--target must name the column to predict: 'size', 'colour', 'price'"),
    ((*TRAIN, "--target", "cost"), "no column 'cost'; it has 'size', 'colour', 'price'"),
    ((*TRAIN, "--target", "pric"), "no column 'pric' (did you mean 'price'?); it has 'size', 'colour', 'price'"),
    ((*TRAIN, "--target", "price,Colour"), "no column 'Colour' (did you mean 'colour'?)"),
    ((*TRAIN, "--target", "price", "--ignore", "siez"), "no column 'siez' (did you mean 'size'?)"),
    ((*TRAIN, "--target", "price", "--backend", "numpi"), "unknown backend 'numpi'; did you mean 'numpy'?"),
    ((*TRAIN, "--target", "price", "--task", "magic"), "unknown task 'magic'"),
    ((*TRAIN, "--target", "price", "--hidden", "8-x"), "--hidden takes widths such as 64-32, got '8-x'"),
    ((*TRAIN, "--target", "price", "--activation", "rely"), "unknown activation 'rely'; did you mean 'relu'?"),
    ((*TRAIN, "--target", "price", "--epochs", "0"), "--epochs must be at least 1, got 0"),
    ((*TRAIN, "--target", "price", "--batch-size", "0"), "batch_size"),
    ((*TRAIN, "--target", "price", "--lr", "1e30", "--epochs", "3"), "try a smaller --lr"),
    ((*TRAIN, "--target", "price", "--validation", "2"), "between 0 and 1, got 2.0"),
    ((*TRAIN, "--target", "price", "--seed", "-1"), "seed must be an integer from 0 on, got -1"),
    ((*TRAIN, "--target", "price", "--ignore", "size,colour"), "no column is left to learn from"),
    ((*TRAIN, "--target", "price", "--model", "none/m"), "none/m: there is no folder "),
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
    (folder / "new.csv").write_text("size,colour\n1,red\n2,green\n", encoding="utf-8")
    capsys.readouterr()
    assert run("predict", "houses.safetensors", "new.csv") == 1
    streams = capsys.readouterr()
    first, second = answers(streams.out)
    assert float(first["price"]) and second["price"] == ""
    assert streams.err == (
        "no answer: row 3, column 'colour': 'green' was not seen in training; known are 'blue', 'red'\n"
    )


QUICK = (*TRAIN, "--target", "price", "--epochs", 1)


def never(*arguments):
    pytest.fail("it was trained")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class TestWhatIsWritten:
    """All of it is checked before the training, and the model outlives whatever fails after it."""

    @pytest.mark.parametrize("option", ["--model", "--plot"])
    @pytest.mark.parametrize(
        "path, message",
        [
            ("folder", "a folder stands there"),
            ("pipe", "a pipe stands there"),
            ("link", "a pipe stands there"),
            ("none/m", "there is no folder"),
            ("houses.csv/m", "Not a directory"),
            ("loop", "symbolic links"),
            ("", "names no file"),
            ("m" * 300, "too long"),
            ("houses.csv", "would write over --data"),
            ("./houses.csv", "would write over --data"),
            ("folder/../houses.csv", "would write over --data"),
            ("symbolic", "would write over --data"),
            ("hard", "would write over --data"),
        ],
    )
    def test_is_refused_at_once(self, option, path, message, capsys, folder, monkeypatch):
        (folder / "folder").mkdir()
        os.mkfifo("pipe")
        os.symlink("pipe", "link")
        os.symlink("loop", "loop")
        os.symlink("houses.csv", "symbolic")
        os.link("houses.csv", "hard")
        before = sorted(os.listdir())
        monkeypatch.setattr(command, "train", never)
        assert run(*QUICK, option, path) == 1
        streams = capsys.readouterr()
        assert streams.out == "" and streams.err.count("\n") == 1
        assert message in streams.err
        assert sorted(os.listdir()) == before
        assert (folder / "houses.csv").read_text(encoding="utf-8") == TABLE

    def test_model_and_picture_are_two_files(self, capsys, monkeypatch):
        monkeypatch.setattr(command, "train", never)
        assert run(*QUICK, "--model", "m", "--plot", "./m") == 1
        assert "--plot would write over --model" in capsys.readouterr().err

    def test_without_safetensors(self, capsys, monkeypatch):
        monkeypatch.setattr(command, "train", never)
        monkeypatch.setitem(sys.modules, "safetensors", None)
        assert run(*QUICK) == 1
        assert "pip install 'backprop-xp[exchange]'" in capsys.readouterr().err

    @pytest.mark.filterwarnings("default")
    def test_without_matplotlib_there_is_a_model(self, capsys, monkeypatch, folder):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        assert run(*QUICK) == 1
        streams = capsys.readouterr()
        assert streams.out.endswith("model in houses.safetensors\n")
        first, last = (line for line in streams.err.splitlines() if "compiling" not in line)
        assert first.startswith("backprop-xp: there will be a model and no picture: ") and "matplotlib" in first
        assert last.startswith("backprop-xp: there is no picture: ") and "matplotlib" in last
        assert run("predict", "houses.safetensors", "houses.csv") == 0

    @pytest.mark.parametrize("error", [RuntimeError("no ink"), OSError(28, "no ink"), KeyboardInterrupt()])
    def test_a_drawing_that_fails(self, error, capsys, monkeypatch, folder):
        def fail(trained, path):
            raise error

        monkeypatch.setattr(command, "draw", fail)
        assert run(*QUICK) == (130 if isinstance(error, KeyboardInterrupt) else 1)
        streams = capsys.readouterr()
        assert streams.out.endswith("model in houses.safetensors\n")
        assert ("interrupted" if isinstance(error, KeyboardInterrupt) else "no picture: no ink") in streams.err
        assert set(contents(folder)) == {"houses.csv", "houses.safetensors"}

    def test_a_disk_that_filled_meanwhile(self, capsys, monkeypatch, folder):
        (folder / "temporary").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        real = Model.save

        def save(model, path):
            if path == "houses.safetensors":
                raise OSError(28, "No space left on device", path)
            real(model, path)

        monkeypatch.setattr(Model, "save", save)
        assert run(*QUICK) == 1
        (rescued,) = (folder / "temporary").rglob("houses.safetensors")
        assert f"houses.safetensors: No space left on device; the model is in {rescued}" in capsys.readouterr().err
        assert run("predict", rescued, "houses.csv") == 0

    def test_nobody_who_reads_what_is_said(self, folder):
        assert run(*QUICK) == 0  # what has to be compiled is said
        (folder / "houses.safetensors").unlink()
        assert piped(*map(str, QUICK), "--force", unbuffered=True) == (141, "")
        assert (folder / "houses.safetensors").exists()

    def test_answers_that_can_not_be_given_leave_the_old_ones(self, capsys, folder):
        assert run(*QUICK) == 0
        (folder / "new.csv").write_text("size,colour\n1,brown\n2,green\n", encoding="utf-8")
        (folder / "answers.csv").write_text("old", encoding="utf-8")
        capsys.readouterr()
        assert run("predict", "houses.safetensors", "new.csv", "--output", "answers.csv", "--force") == 1
        assert "no row can be used: row 2, column 'colour': 'brown' was not seen" in capsys.readouterr().err
        assert (folder / "answers.csv").read_text(encoding="utf-8") == "old"

    @pytest.mark.parametrize("path", ["houses.csv", "./houses.safetensors", "link", "folder", "pipe", "none/a", ""])
    def test_answers_are_written_over_nothing_that_is_read(self, path, capsys, folder):
        assert run(*QUICK) == 0
        capsys.readouterr()
        (folder / "folder").mkdir()
        os.mkfifo("pipe")
        os.symlink("houses.csv", "link")
        before = contents(folder)
        assert run("predict", "houses.safetensors", "houses.csv", "--output", path) == 1
        streams = capsys.readouterr()
        assert streams.out == "" and streams.err.count("\n") == 1
        assert contents(folder) == before

    @pytest.mark.parametrize("name, to_file", [("link", False), ("/proc/self/fd/1", True)])
    def test_standard_output_by_another_name(self, name, to_file, folder, capsys):
        assert run(*QUICK) == 0
        os.symlink("/proc/self/fd/1", "link")
        capsys.readouterr()
        assert run("predict", "houses.safetensors", "houses.csv") == 0
        expected = capsys.readouterr().out
        call = (*PROGRAM, "predict", "houses.safetensors", "houses.csv")
        if to_file:
            with open("answers.csv", "w") as file:
                subprocess.run((*call, "--output", name), stdout=file, check=True)
            assert (folder / "answers.csv").read_text(encoding="utf-8") == expected
        else:
            result = subprocess.run((*call, "--output", name), capture_output=True, text=True)
            assert (result.returncode, result.stdout) == (0, expected)
        assert expected.startswith("price\n")


def piped(*arguments, unbuffered=False):
    """Exit code and standard error of the program where nobody reads its standard output."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONUNBUFFERED": "1" if unbuffered else ""}
    result = subprocess.run((*PROGRAM, *arguments), stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    said = [line for line in result.stderr.splitlines() if "compiling the net" not in line]
    return result.returncode, "\n".join(said)


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("arguments", [("info",), ("train", "--help"), ("predict", "houses.safetensors", "houses.csv")])
def test_a_broken_pipe_is_quiet(arguments, unbuffered, folder):
    if arguments[0] == "predict":
        assert run(*QUICK) == 0
        (folder / "houses.csv").write_text(TABLE.replace("price", "cost"), encoding="utf-8")  # no score is said
    code, said = piped(*arguments, unbuffered=unbuffered)
    assert said == ""
    assert code == 141 or "--help" in arguments  # argparse looks away


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_data_that_is_no_regular_file(make, capsys, folder):
    make("t.csv")
    assert run("train", "--data", "t.csv", "--target", "y") == 1  # and waits for nobody
    assert "t.csv is a " in (err := capsys.readouterr().err) and "regular file" in err


def test_without_pandas(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    assert run("train", "--data", "iris") == 1
    assert capsys.readouterr().err == "backprop-xp: real data needs pandas: pip install 'backprop-xp[data]'\n"


class TestFilesThatAreThere:
    @pytest.mark.parametrize("option", ["--model", "--plot", None])
    def test_are_kept(self, option, capsys, folder, monkeypatch):
        monkeypatch.setattr(command, "train", never)
        name = "houses.safetensors" if option is None else "mine"
        (folder / name).write_text("old", encoding="utf-8")
        assert run(*QUICK, *(() if option is None else (option, name))) == 1
        assert f"{name}: this file is there already; --force writes over it" in capsys.readouterr().err
        assert (folder / name).read_text(encoding="utf-8") == "old"

    def test_are_written_over_with_force(self, folder):
        (folder / "houses.safetensors").write_text("old", encoding="utf-8")
        assert run(*QUICK, "--force") == 0
        assert run("predict", "houses.safetensors", "houses.csv") == 0

    @pytest.mark.parametrize(
        "path", ["houses.csv", "other.csv", "parts.parquet/a.parquet", "parts.parquet/new", "hard"]
    )
    def test_force_writes_over_no_input(self, path, capsys, folder, monkeypatch):
        monkeypatch.setattr(command, "train", never)
        (folder / "other.csv").write_text(TABLE, encoding="utf-8")
        (folder / "parts.parquet").mkdir()
        (folder / "parts.parquet" / "a.parquet").write_text("", encoding="utf-8")
        os.link("parts.parquet/a.parquet", "hard")
        data = "parts.parquet" if "parts" in path or path == "hard" else "houses.csv"
        before = contents(folder), os.listdir("parts.parquet")
        arguments = ("train", "--data", data, "--target", "price", "--force", "--test", "other.csv")
        for option in ("--model", "--plot"):
            assert run(*arguments, option, path) == 1
            assert f"{option} would write " in capsys.readouterr().err
        assert (contents(folder), os.listdir("parts.parquet")) == before


class TestOptions:
    def test_a_table_to_test_with(self, capsys, folder):
        (folder / "test.csv").write_text("size,colour,price\n3,red,8\n4,green,9\n5,blue,12\n", encoding="utf-8")
        assert run(*QUICK, "--test", "test.csv") == 0
        out = capsys.readouterr().out
        assert "rows: 40 to train on, 2 held out\n" in out
        assert "note: test: no answer for row 3, column 'colour': 'green' was not seen in training" in out

    @pytest.mark.parametrize("name", ["houses.csv", "./houses.csv", "link"])
    def test_that_table_is_another_one(self, name, capsys, folder):
        os.symlink("houses.csv", "link")
        assert run(*QUICK, "--test", name) == 1
        assert "--test must be another table than --data" in capsys.readouterr().err

    @pytest.mark.parametrize("more", [("--test", "t.csv"), ("--validation", 0.3)])
    def test_folds_hold_all_rows_out(self, more, capsys):
        assert run(*QUICK, "--folds", 2, *more) == 1
        assert "not allowed with argument" in capsys.readouterr().err
        assert run(*QUICK, "--folds", 2) == 0
        out = capsys.readouterr().out
        assert "40 rows, each held out once in 2 folds (R^2 " in out and "40 held out in turn" in out

    def test_the_training(self, capsys):
        options = ("--optimiser", "sgd", "--schedule", "constant", "--early-stopping", 2, "--lr", 1e-9)
        assert run(*TRAIN, "--target", "price", *options) == 0
        out = capsys.readouterr().out
        assert "to decide when it ends" in out and "training " in out
        assert run(*TRAIN, "--target", "colour", "--ignore", "price", "--class-weight", "balanced", "--force") == 0
        assert "balanced accuracy" in capsys.readouterr().out
        assert run(*TRAIN, "--target", "price", "--class-weight", "balanced", "--force") == 1
        assert "class_weight is of classes, and the target 'price' is an amount" in capsys.readouterr().err

    def test_early_stopping_without_a_number(self, capsys):
        assert run(*QUICK, "--early-stopping") == 0
        assert "32 to train on" not in (out := capsys.readouterr().out) and "to decide when it ends" in out

    def test_several_targets(self, capsys, folder):
        rows = [f"{i},{'red' if i % 3 else 'blue'},{2.5 * i + i % 3},{30 - 1.5 * i}" for i in SIZES]
        (folder / "houses.csv").write_text("\n".join(['size,colour,price,"cost, net"', *rows]), encoding="utf-8")
        assert run(*TRAIN, "--target", 'price,"cost, net"', "--keep", "size", "--epochs", 3) == 0
        out = capsys.readouterr().out
        assert "held out: price: R^2 " in out and "cost, net: R^2 " in out
        assert run("predict", "houses.safetensors", "houses.csv") == 0
        streams = capsys.readouterr()
        assert list(answers(streams.out)[0]) == ["price", "cost, net"]
        assert "price, cost, net are in houses.csv: price: R^2 " in streams.err
        assert run(*TRAIN, "--target", "cost, net", "--epochs", 1, "--force") == 0  # one column of that name

    def test_few_whole_numbers_are_said_to_be_classes(self, capsys, folder):
        (folder / "houses.csv").write_text("size,rooms\n" + "".join(f"{i},{i % 4}\n" for i in SIZES), encoding="utf-8")
        assert run(*TRAIN, "--target", "rooms", "--epochs", 1) == 0
        note = "the target 'rooms' has 4 different whole numbers, taken for classes; --task regression takes them for"
        assert note in capsys.readouterr().out
        assert run(*TRAIN, "--target", "rooms", "--epochs", 1, "--task", "regression", "--force") == 0
        assert "R^2" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".tsv", ".csv.gz", ".TSV.GZ"])
def test_what_a_file_is_called_is_what_is_written(suffix, capsys, folder):
    import gzip

    text = TABLE.replace(",", "\t") if "tsv" in suffix.lower() else TABLE
    content = text.encode()
    (folder / f"t{suffix}").write_bytes(gzip.compress(content) if suffix.lower().endswith("gz") else content)
    assert run("train", "--data", f"t{suffix}", "--target", "price", "--epochs", 1) == 0
    assert "model in t.safetensors, picture in t.png" in capsys.readouterr().out

"""`backprop-xp predict`: answers row by row, and what is said of rows without one."""

import csv
import io

import numpy as np
import pandas
import pytest

from backprop_xp import cli
from backprop_xp.data import Recipe, train

N = 60


def table():
    random = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {"id": [f"row {i}" for i in random.permutation(N)], "size": random.normal(size=N).round(3)}
    )
    frame["colour"] = random.choice(["red", "blue"], N)
    frame["price"] = (2 * frame["size"] + (frame.colour == "red")).round(3)
    return frame.assign(kind=np.where(frame["size"] > 0, "large", "small"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("price", "kind"):
        recipe = Recipe(hidden=(4,), epochs=5, backend="numpy", ignore=["id", *({"price", "kind"} - {name})])
        train(table(), name, recipe).model.save(f"{name}.model")
    return tmp_path


def predict(capsys, text, *options, model="kind.model"):
    """The exit code, the rows of answers, and what is said."""
    with open("new.csv", "w", encoding="utf-8") as file:
        file.write(text)
    code = cli.main(["predict", model, "new.csv", "--backend", "numpy", *options])
    streams = capsys.readouterr()
    return code, list(csv.DictReader(io.StringIO(streams.out))), streams.err


GOOD = "id,size,colour\n7,1.5,red\n3,-2,blue\n"


def test_probabilities_and_names(capsys):
    code, rows, said = predict(capsys, GOOD, "--proba", "--id", "id")
    assert code == 0 and said == ""
    assert list(rows[0]) == ["id", "kind", "probability of large", "probability of small"]
    assert [row["id"] for row in rows] == ["7", "3"]
    for row in rows:
        each = [float(row[f"probability of {label}"]) for label in ("large", "small")]
        assert sum(each) == pytest.approx(1) and row["kind"] == ("large", "small")[int(np.argmax(each))]
    _, plain, _ = predict(capsys, GOOD)
    assert list(plain[0]) == ["kind", "probability"]
    assert [float(row["probability"]) for row in plain] == [max(float(v) for v in list(r.values())[2:]) for r in rows]


BAD = {
    "a category that was not seen": ("2,green", "column 'colour': 'green' was not seen in training"),
    "no number": ("many,red", "column 'size': 'many' is no number"),
    "an infinite number": ("inf,red", "column 'size': 'inf' is no number"),
    "a missing category": ("1,", "column 'colour': a missing value was not seen in training"),
    "a number too large for the net": ("1e300,red", None),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("model", ["kind.model", "price.model"])
@pytest.mark.filterwarnings("default")
def test_a_row_that_has_no_answer_costs_the_others_none(case, model, capsys):
    cells, reason = BAD[case]
    expected = predict(capsys, "id,size,colour\n1,1,red\n3,-1,blue\n", "--id", "id", model=model)[1]
    code, rows, said = predict(capsys, f"id,size,colour\n1,1,red\n2,{cells}\n3,-1,blue\n", "--id", "id", model=model)
    assert code == 1
    assert [rows[0], rows[2]] == expected
    assert rows[1]["id"] == "2" and not any(value for name, value in rows[1].items() if name != "id")
    assert f"no answer: row 3, {reason}" in said if reason else "1 row gets no answer" in said


def test_rows_are_named_for_each_column_and_reason(capsys):
    text = "size,colour\n1,red\n2,green\nx,red\n3,pink\n4,green\ny,pink\n"
    code, rows, said = predict(capsys, text, model="price.model")
    assert code == 1 and [bool(row["price"]) for row in rows] == [True, False, False, False, False, False]
    lines = said.splitlines()
    assert lines[0] == "no answer: row 4, column 'size': 'x' is no number; likewise row 7"
    assert lines[1].startswith("no answer: row 3, column 'colour': 'green' was not seen in training; known are ")
    assert lines[1].endswith("; likewise rows 5, 6")


def test_no_row_at_all(capsys):
    code, rows, said = predict(capsys, "size,colour\nx,red\n1,green\n")
    assert (code, rows) == (1, []) and said.startswith("backprop-xp: no row can be used: row 2, column 'size'")


def test_unknown_categories_can_be_none_of_those_seen(capsys):
    text = "id,size,colour\n1,1,green\n2,x,red\n3,2,red\n"
    code, rows, said = predict(capsys, text, "--unknown", "ignore")
    assert code == 1 and [bool(row["kind"]) for row in rows] == [True, False, True]
    assert said.splitlines()[0].startswith("taken for none of those: row 2, column 'colour': 'green' was not seen")
    assert said.splitlines()[1].startswith("no answer: row 3, column 'size'")
    code, rows, _ = predict(capsys, text.replace("2,x", "2,5"), "--unknown", "ignore")
    assert code == 0 and all(row["kind"] for row in rows)


def test_the_score_is_of_rows_with_an_answer(capsys):
    text = "size,colour,price\n1,red,3\n2,green,4\n-1,blue,-2\n"
    assert "price is in new.csv: R^2 " in (said := predict(capsys, text, model="price.model")[2])
    assert "on 2 rows" in said and "trained on" not in said


@pytest.mark.parametrize(
    "options, message",
    [
        (("--id", "name"), "no column 'name'; it has 'id', 'size', 'colour'"),
        (("--unknown", "guess"), "--unknown"),
    ],
)
def test_mistakes(options, message, capsys):
    code, rows, said = predict(capsys, GOOD, *options)
    assert (code, rows) == (1, []) and message in said


def test_a_column_of_the_answers_is_no_name(capsys):
    code, rows, said = predict(capsys, "size,colour,kind\n1,red,large\n", "--id", "kind")
    assert (code, rows) == (1, []) and "--id: an answer's column is called 'kind' too" in said


def test_probabilities_are_of_classes(capsys):
    code, rows, said = predict(capsys, GOOD, "--proba", model="price.model")
    assert (code, rows) == (1, []) and "probabilities are of classes, and 'price' is an amount" in said


@pytest.mark.parametrize("name", ["probability", "probability of a", "probability of b"])
def test_a_target_of_such_a_name_is_not_lost(name, capsys):
    frame = pandas.DataFrame({"size": table()["size"], name: np.where(table()["size"] > 0, "a", "b")})
    train(frame, name, Recipe(hidden=(2,), epochs=1, backend="numpy")).model.save("odd.model")
    for options in ((), ("--proba",)):
        code, rows, _ = predict(capsys, "size\n1\n", *options, model="odd.model")
        assert code == 0 and rows[0][name] in ("a", "b") and len(rows[0]) == (3 if options else 2)


def test_answers_that_are_there_already(capsys, folder):
    (folder / "answers.csv").write_text("old", encoding="utf-8")
    code, _, said = predict(capsys, GOOD, "--output", "answers.csv")
    assert code == 1 and "answers.csv: this file is there already; --force writes over it" in said
    assert (folder / "answers.csv").read_text(encoding="utf-8") == "old"
    assert predict(capsys, GOOD, "--output", "answers.csv", "--force")[0] == 0
    assert (folder / "answers.csv").read_text(encoding="utf-8").startswith("kind,probability\n")

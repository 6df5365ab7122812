"""What a column is, decided over all of it: and applied, never guessed anew, to other tables."""

from dataclasses import replace

import numpy as np
import pandas
import pytest

from backprop_xp.data import DataError, Model, Recipe, Table, read, train
from backprop_xp.data.recipe import prepare

N = 60
RANDOM = np.random.default_rng(0)
A = RANDOM.normal(size=N)
QUICK = Recipe(hidden=(4,), epochs=2, backend="numpy")


def write(path, columns):
    pandas.DataFrame(columns).to_csv(path, index=False)
    return read(path)


def learnt(tmp_path, texts, **recipe):
    """The column of these texts, and notes about it."""
    frame = write(tmp_path / "t.csv", {"c": list(texts), "y": RANDOM.normal(size=len(texts)).round(3)})
    data = prepare(frame, "y", Recipe(backend="numpy", **recipe))
    return data.table.columns[0], data.notes


def cycle(*texts):
    return [texts[i % len(texts)] for i in range(N)]


def strays(every, text):
    """Numbers, of which every such one is this text."""
    return [text if i % every == 0 else f"{v:.2f}" for i, v in enumerate(A)]


@pytest.mark.parametrize(
    "texts",
    [["1", "01", "x"], ["1.0", "1.10", "v2"], ["TRUE", "FALSE", "UNKNOWN"], ["1e3", "1000"], ["True", "TRUE"], ["NA", "None", "x"],
     ["9007199254740993", "9007199254740992"], ["007", "7"], ["1,5", "1.5"]],
    ids=str,
)  # fmt: skip
def test_names_are_the_texts_of_the_file_however_few_of_them_there_are(texts, tmp_path):
    names = cycle(*texts)
    y = [10.0 * texts.index(name) + a for name, a in zip(names, A.round(3))]
    frame = write(tmp_path / "t.csv", {"a": A, "k": names, "y": y})
    model = train(frame, "y", Recipe(hidden=(4,), epochs=2, backend="numpy", categories=("k",))).model
    assert set(model.table.columns[1].labels) == set(texts)
    model.save(tmp_path / "model")
    model = Model.load(tmp_path / "model", backend="numpy")
    whole = model.outputs(frame)
    for text in texts:
        rows = [i for i, name in enumerate(names) if name == text]
        alone = write(tmp_path / "some.csv", {"a": A[rows], "k": [text] * len(rows)})
        np.testing.assert_allclose(model.outputs(alone), whole[rows], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "labels",
    [("01", "02"), ("1.0", "2.0"), ("TRUE", "FALSE"), ("None", "Mild", "Severe"), ("NA", "EU", "AS"), ("null", "Ill"), ("nan", "x"),
     ("1", "2", "None"), ("9007199254740992", "9007199254740993"), ("$5", "$10"), ("001", "01", "1")],
    ids=str,
)  # fmt: skip
def test_classes_are_the_texts_of_the_file_in_answers_and_score(labels, tmp_path):
    frame = write(tmp_path / "t.csv", {"a": A, "y": cycle(*labels)})
    model = train(frame, "y", QUICK).model
    assert set(model.target.labels) == set(labels)
    outputs = np.zeros((N, len(labels)))
    outputs[np.arange(N), [model.target.labels.index(label) for label in cycle(*labels)]] = 1
    assert model.answers(frame, outputs)["y"].tolist() == cycle(*labels)
    assert model.describe_score(frame, outputs) == f"accuracy 1.0000 on {N} rows"
    some = write(tmp_path / "some.csv", {"a": A[: len(labels)], "y": [labels[0]] * len(labels)})
    assert model.target.score(outputs[: len(labels)], some["y"]) == 1 / len(labels)


def test_many_padded_numbers_are_classes():
    frame = pandas.DataFrame({"a": RANDOM.normal(size=300), "y": [f"{i % 30:03d}" for i in range(300)]})
    assert len(prepare(frame, "y", QUICK).target.labels) == 30


def test_a_class_not_seen_in_training_is_a_wrong_answer(tmp_path):
    model = train(write(tmp_path / "t.csv", {"a": A, "y": cycle("u", "v")}), "y", QUICK).model
    frame = pandas.DataFrame({"a": A[:4], "y": ["u", "u", "w", "w"]})
    outputs = np.tile([1.0, 0.0], (4, 1))
    said = model.describe_score(frame, outputs)
    assert said == "accuracy 0.5000 on 4 rows; 2 have a class not seen in training, such as row 2, column 'y': 'w'"


@pytest.mark.parametrize(
    "write_as, of_a_thousand", [("${:,.0f}", "$1,000"), ("{:.0f} km", "1000 km"), ("{:.0f}%", "1000%")]
)
def test_numbers_as_text_are_numbers_in_inputs_and_targets(write_as, of_a_thousand, tmp_path):
    values = RANDOM.integers(1, 10**7, N)
    column, notes = learnt(tmp_path, list(map(write_as.format, values)))
    assert (column.width, column.scaling.mean) != (N, 0)
    assert "are read as numbers, " in notes[0]
    frame = write(tmp_path / "t.csv", {"a": A, "y": list(map(write_as.format, values))})
    target = prepare(frame, "y", QUICK).target
    for given in (of_a_thousand, 1000):
        assert target.truth(pandas.Series([given])).tolist() == [1000]
    for text in ("1,00", "£5", "5 miles", "many"):
        with pytest.raises(DataError, match=r"row 0, column 'y': .* is no number"):
            target.truth(pandas.Series([text]))


def test_what_an_open_column_asks_for_works(tmp_path):
    texts = cycle("1,234", "1234", "3,141")
    with pytest.raises(DataError, match=r"column 'c': '1,234' may be 1234 or 1.234, .* --decimal . or --decimal ,"):
        learnt(tmp_path, texts)
    for mark, values in ((".", [1234, 1234, 3141]), (",", [1.234, 1234, 3.141])):
        column, _ = learnt(tmp_path, texts, decimal=mark, validation=0.5)
        assert column.notation.values(texts[:3]).tolist() == values
    frame = write(tmp_path / "t.csv", {"a": A, "y": [f"{v:,}" for v in RANDOM.integers(1000, 9999, N)]})
    with pytest.raises(DataError, match=r"column 'y': .* --decimal"):
        prepare(frame, "y", QUICK)
    assert (
        prepare(frame, "y", Recipe(decimal=".")).target.mean
        > 1000
        > 10
        > prepare(frame, "y", Recipe(decimal=",")).target.mean
    )


def test_a_table_of_decimal_commas_decides_for_its_whole_numbers(tmp_path):
    comma = [f"{v:.2f}".replace(".", ",") for v in A]
    grouped = [f"{v:,}".replace(",", ".") for v in RANDOM.integers(3000, 9000, N)]
    frame = write(tmp_path / "t.csv", {"a": comma, "n": cycle("1", "2", "5"), "g": grouped})
    columns = {c.name: c for c in prepare(frame, "a", QUICK).table.columns}
    assert columns["n"].notation.decimal == ","
    assert columns["g"].notation.values(["3.000"]) == [3000]
    with pytest.raises(DataError, match=r"column 'g': .* --decimal \. or --decimal ,"):
        prepare(frame, "g", QUICK)


@pytest.mark.parametrize("text", ["NA", "NaN", "null", "None", "n/a", "#N/A", "<NA>"])
def test_no_number_in_a_column_of_numbers_is_missing_and_said(text, tmp_path):
    column, notes = learnt(tmp_path, strays(5, text))
    assert column.width == 1
    assert notes[0].startswith(f"column 'c': 12 missing values ({text!r}, the first in row 2) take the mean")
    frame = write(tmp_path / "t.csv", {"a": A, "y": strays(5, text)})
    assert (
        prepare(frame, "y", QUICK).notes[0]
        == f"12 rows without 'y' are left out (the first is row 2, written {text!r})"
    )


@pytest.mark.parametrize("text", ["?", "-", "n.a.", "missing", ".", "--", "a,b"])
def test_one_odd_text_again_and_again_is_proposed_as_missing(text, tmp_path):
    with pytest.raises(DataError, match=r"row 2, column 'c': .* is no number, .* means a missing value with --missing"):
        learnt(tmp_path, strays(5, text))
    column, notes = learnt(tmp_path, strays(5, text), missing=(text,))
    assert column.width == 1
    assert "12 missing values (the first in row 2)" in notes[0]


def test_a_stray_is_not_proposed():
    with pytest.raises(DataError) as caught:
        prepare(pandas.DataFrame({"c": ["four", *strays(100, "1.5")[1:]], "y": A}), "y", QUICK)
    assert "--missing" not in str(caught.value)
    with pytest.raises(DataError, match=r"column 'c': '0\.5' isn't written as most numbers of the column are, such"):
        prepare(pandas.DataFrame({"c": ["0.5", *(f"{v:.1f} %" for v in A[1:])], "y": A}), "y", QUICK)


def test_a_missing_text_is_kept_with_the_model(tmp_path):
    frame = write(tmp_path / "t.csv", {"a": strays(5, "-999"), "k": cycle("u", "?", "v"), "y": A})
    recipe = Recipe(hidden=(4,), epochs=1, backend="numpy", missing=("-999", "?"))
    train(frame, "y", recipe).model.save(tmp_path / "model")
    model = Model.load(tmp_path / "model", backend="numpy")
    assert model.missing == ("-999", "?")
    rows = [
        pandas.DataFrame({"a": [a], "k": [k]}) for a, k in (("-999", "?"), ("-999.0", "?"), (-999, None), (None, None))
    ]
    assert len({model.outputs(row).tobytes() for row in rows}) == 1


@pytest.mark.parametrize("way", ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%y", "%d %b %Y", "%Y%m%d", None])
def test_dates_are_features_that_go_on(way, tmp_path):
    days = pandas.date_range("2019-01-01", periods=800)
    y = 0.01 * np.arange(800) + 2 * np.sin(2 * np.pi * days.day_of_year / 365.25) + 1.5 * (days.day_of_week > 4)
    frame = pandas.DataFrame({"day": days if way is None else days.strftime(way), "y": np.asarray(y)})
    run = train(frame[:700], "y", Recipe(backend="numpy"))
    assert run.model.table.width == 6
    assert "year, day of the year and of the week, and elapsed time" in run.notes[0]
    run.model.save(tmp_path / "model")
    model, later = Model.load(tmp_path / "model", backend="numpy"), frame[700:]
    assert model.target.score(model.outputs(later), later["y"]) > 0.5


def test_dates_of_digits_alone_are_dates_in_a_frame_too(tmp_path):
    column, _ = learnt(tmp_path, cycle("20200131", "20210201", "20210203"))
    table = Table([column])
    assert (
        table.arrays(pandas.DataFrame({"c": [20200131]})) == table.arrays(pandas.DataFrame({"c": ["20200131"]}))
    ).all()


def test_dates_that_are_open(tmp_path):
    texts = cycle("03/04/2020", "05/06/2021", "01/02/2021")
    with pytest.raises(
        DataError, match=r"column 'c': '03/04/2020' may have the day or the month first, .* --dates dmy or --dates mdy"
    ):
        learnt(tmp_path, texts)
    for order in ("dmy", "mdy"):
        column, notes = learnt(tmp_path, texts, dates=order)
        assert column.form == order and f"({order})" in notes[0]
    assert learnt(tmp_path, [text.replace("/", ".") for text in texts])[0].form == "dmy"
    frame = write(tmp_path / "t.csv", {"c": texts, "d": cycle("31/01/2020", "01/02/2020"), "y": A})
    assert [c.form for c in prepare(frame, "y", QUICK).table.columns] == ["dmy", "dmy"]
    with pytest.raises(DataError, match=r"row 2, column 'c': 'soon' is no date, .* --missing soon, .* --categories c"):
        learnt(tmp_path, cycle("soon", "2020-01-01", "2020-01-02"))
    with pytest.raises(DataError, match="the target 'c' holds dates; --task classification"):
        prepare(frame, "c", QUICK)


def test_truth_values(tmp_path):
    column, _ = learnt(tmp_path, cycle("TRUE", "FALSE", "FALSE", ""))
    assert column.width == 1
    assert column.notation.values(["true", "False", "1"]).tolist() == [1, 0, 1]


def test_nearly_as_many_names_as_rows(tmp_path):
    with pytest.raises(
        DataError, match=r"different text in nearly every row \(55 in 60\): leave it out with --ignore c"
    ):
        learnt(tmp_path, [f"x{min(i, 54)}" for i in RANDOM.permutation(N)])
    _, notes = learnt(tmp_path, [f"x{i // 2 if i % 2 else i}" for i in RANDOM.permutation(N)])
    assert "different texts in 60 rows: few rows show what each one means" in notes[0]
    assert learnt(tmp_path, [f"x{i}" for i in RANDOM.permutation(N)], categories=("c",))[0].width == N


def test_numbers_with_different_units(tmp_path):
    with pytest.raises(
        DataError, match=r"column 'c' looks like numbers with different units, '(kg|lb)' and '(kg|lb)'; .* --ignore c"
    ):
        learnt(tmp_path, [f"{v:.3f} {'kg' if i % 2 else 'lb'}" for i, v in enumerate(abs(A))])
    column, notes = learnt(tmp_path, cycle("64GB", "1TB"))
    assert column.labels == ("1TB", "64GB") and "looks like numbers with different units" in notes[0]


def test_padded_numbers_are_said(tmp_path):
    _, notes = learnt(tmp_path, [f"{v:05d}" for v in RANDOM.integers(100, 99999, N)])
    assert "--categories c takes them as names" in notes[0]


BEYOND = [str(2**60 + i) for i in range(40)]


@pytest.mark.parametrize("dtype", ["text", "int64", "UInt64", "object"])
def test_whole_numbers_beyond_float64_are_refused_as_numbers_and_taken_as_names(dtype):
    frame = pandas.DataFrame({"a": A[:40], "k": [BEYOND[i % 3] for i in range(40)], "y": A[:40] + 1})
    if dtype != "text":
        frame["k"] = pandas.Series([*map(int, frame["k"])], dtype=dtype)
    with pytest.raises(DataError, match=r"'1152921504606846976', '115.*' are one number in float64.*--categories k"):
        train(frame, "y", QUICK)
    model = train(frame, "y", replace(QUICK, categories=("k",))).model
    assert model.table.columns[1].labels == tuple(BEYOND[:3])


def test_a_target_of_whole_numbers_beyond_float64_is_refused_as_an_amount_and_taken_as_classes():
    frame = pandas.DataFrame({"a": np.tile(A[:40], 3), "y": BEYOND * 3})
    with pytest.raises(DataError, match="are one number in float64; --task classification"):
        train(frame, "y", replace(QUICK, task="regression"))
    assert train(frame, "y", replace(QUICK, task="classification")).model.target.labels == tuple(BEYOND)

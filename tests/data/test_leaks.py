"""What gives the answer away is left out and said."""

import io

import numpy as np
import pandas
import pytest

from backprop_xp.data import DataError, Recipe, read, train
from backprop_xp.data.recipe import prepare

N = 60
RANDOM = np.random.default_rng(0)
A = RANDOM.normal(size=N)
AMOUNTS = pandas.DataFrame({"a": A, "y": 2 * A + RANDOM.normal(size=N)})
CLASSES = AMOUNTS.assign(y=np.sort(np.array(["u", "v", "w"])[np.arange(N) % 3]))
COUNTERS = {
    "rows": range(1, N + 1),
    "from the end": range(N, 0, -1),
    "in steps": np.cumsum(RANDOM.integers(1, 9, N)),
    "shuffled": RANDOM.permutation(N) + 1000,
    "sorted": np.sort(A),
    "texts": [f"id{i:03d}" for i in range(N)],
    "grouped": [f"{999_970 + i:,}" for i in range(N)],
}


def used(frame, **recipe):
    data = prepare(frame, "y", Recipe(backend="numpy", **recipe))
    return [column.name for column in data.table.columns], data.notes


def written(frame, path, **options):
    frame.to_csv(path, **options)
    return read(path)


@pytest.mark.parametrize("table", [AMOUNTS, CLASSES], ids=["amounts", "classes"])
@pytest.mark.parametrize("counter", COUNTERS)
def test_what_numbers_the_rows(table, counter, tmp_path):
    frame = table.assign(c=COUNTERS[counter])
    for given in (frame, written(frame, tmp_path / "t.csv", index=False)):
        names, notes = used(given)
        assert names == ["a"]
        assert "column 'c'" in notes[-1] and "left out; --keep c uses it" in notes[-1]
        assert used(given, keep=("c",))[0] == ["a", "c"]


def test_a_nameless_column_of_numbers(tmp_path):
    for frame in (AMOUNTS, AMOUNTS.sample(frac=1, random_state=0), AMOUNTS.set_axis(RANDOM.permutation(1000)[:N])):
        assert used(written(frame, tmp_path / "t.csv"))[0] == ["a"]
        assert used(pandas.read_csv(tmp_path / "t.csv"))[0] == ["a"]
    assert used(AMOUNTS.head(4).assign(**{"Unnamed: 0": [3, 1, 2, 0]}), validation=0.5)[0] == ["a"]


def test_days_in_order_are_used():
    assert used(AMOUNTS.assign(day=pandas.date_range("2020", periods=N)))[0] == ["a", "day"]


def test_a_line_of_measurements_is_all_there_is():
    names, notes = used(AMOUNTS[["y"]].assign(x=np.linspace(0, 1, N)))
    assert names == ["x"]
    assert notes == ["column 'x' differs in each row and is sorted like the rows, as an index is"]


@pytest.mark.parametrize("table", [AMOUNTS, CLASSES], ids=["amounts", "classes"])
def test_a_copy_of_the_target(table, tmp_path):
    given = written(table.assign(c=table.y), tmp_path / "t.csv", index=False)
    names, notes = used(given)
    assert names == ["a"]
    assert "column 'c' equals the target and is left out; --keep c uses it" in notes
    assert used(given, keep=("c",))[0] == ["a", "c"]
    with pytest.raises(DataError, match="no column is left to learn from; column 'c' equals the target"):
        used(table[["y"]].assign(c=table.y))


def test_copies_in_other_words():
    assert used(AMOUNTS.assign(y=AMOUNTS.y.round(2), c=[f"{v:.2f} €" for v in AMOUNTS.y]))[0] == ["a"]
    assert used(CLASSES.assign(code=CLASSES.y.map({"u": 7, "v": 8, "w": 9})))[0] == ["a"]
    names, notes = used(AMOUNTS.assign(fahrenheit=AMOUNTS.y * 1.8 + 32))
    assert names == ["a", "fahrenheit"]
    assert notes == ["column 'fahrenheit' gives the target exactly; --ignore fahrenheit leaves it out"]
    assert used(AMOUNTS.assign(fahrenheit=AMOUNTS.y * 1.8 + 32), ignore=("fahrenheit",)) == (["a"], [])


def test_pandas_renames_a_second_target():
    text = "a,y,y\n" + "".join(f"{a},{y},{y}\n" for a, y in zip(A, AMOUNTS.y))
    assert used(pandas.read_csv(io.StringIO(text)))[0] == ["a"]


def test_few_rows_may_be_in_order():
    assert used(AMOUNTS.head(6).assign(c=range(6)), validation=0.5)[0] == ["a", "c"]


def test_an_index_left_out_may_be_absent_later(tmp_path):
    from backprop_xp.data import train

    model = train(written(AMOUNTS, tmp_path / "t.csv"), "y", Recipe(hidden=(2,), epochs=1, backend="numpy")).model
    assert len(model.predict(AMOUNTS[["a"]])) == N


@pytest.mark.parametrize("names", [[f"A{i}" for i in range(15)], [f"row {i} of 120" for i in range(120, 0, -1)]])
def test_names_in_the_order_of_their_numbers_number_the_rows(names):
    n = len(names)
    frame = pandas.DataFrame(
        {"id": names, "x": np.random.default_rng(0).normal(size=n), "y": list("ab") * (n // 2) + ["a"] * (n % 2)}
    )
    trained = train(frame, "y", Recipe(hidden=(4,), epochs=1, backend="numpy"))
    assert [column.name for column in trained.model.table.columns] == ["x"]
    assert any("'id'" in note and "sorted like the rows" in note for note in trained.notes)

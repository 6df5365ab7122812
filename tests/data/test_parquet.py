"""Parquet files and folders: nothing lost, nothing guessed, and what doesn't fit together is said."""

import datetime
import decimal
import os

import numpy as np
import pandas
import pytest

from backprop_xp.data import read, train
from backprop_xp.data.errors import DataError
from backprop_xp.data.reader import NOTES
from backprop_xp.data.recipe import Recipe

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_a_file(tmp_path):
    path = tmp_path / "table.parquet"
    table = pandas.DataFrame({"a": [1, None, 3], "b": ["x", "y", None], "c": [True, False, True]}, index=[7, 8, 9])
    table.to_parquet(path)
    frame = read(path)
    assert list(frame.columns) == ["a", "b", "c"] and list(frame.index) == [1, 2, 3]
    assert frame["b"].tolist()[:2] == ["x", "y"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"table\.parquet can't be read as parquet"):
        read(path)


def test_an_index_with_a_name_is_a_column(tmp_path):
    pandas.DataFrame({"town": ["x", "y"], "a": [1, 2]}).set_index("town").to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet")["town"].tolist() == ["x", "y"]


def test_where_a_file_lies_says_nothing(tmp_path):
    assert list(read(write(tmp_path / "year=2024" / "t.parquet", a=[1])).columns) == ["a"]


def test_types(tmp_path):
    table = pandas.DataFrame(
        {
            "whole": pandas.array([2**53 + 1, None], "Int64"),
            "kind": pandas.Categorical(["1", "2"]),
            "time": [datetime.time(3), datetime.time(4)],
            "exact": [decimal.Decimal(1), decimal.Decimal(2)],
            "month": pandas.period_range("2020-01", periods=2, freq="M"),
        }
    )
    table.to_parquet(tmp_path / "t.parquet")
    frame = read(tmp_path / "t.parquet")
    assert frame["whole"][1] == 2**53 + 1 and frame["whole"].isna()[2]
    assert isinstance(frame["kind"].dtype, pandas.CategoricalDtype) and frame["time"][1] == datetime.time(3)
    assert str(frame["month"].dtype) == "period[M]"


@pytest.mark.parametrize("values", [[[1, 2]] * 40, [b"x"] * 40, [{"p": 1}] * 40])
def test_what_is_no_column_can_be_left_out(tmp_path, values):
    write(tmp_path / "t.parquet", odd=values, a=list(range(40, 0, -1)), y=np.arange(40.0) ** 2 % 7)
    with pytest.raises(DataError, match=r"column 'odd' holds values of the type .*; leave it out with --ignore odd"):
        train(read(tmp_path / "t.parquet"), "y", Recipe(epochs=1))
    for missing in ((), ("-",)):
        recipe = Recipe(epochs=1, ignore=("odd",), keep=("a",), missing=missing)
        model = train(read(tmp_path / "t.parquet"), "y", recipe).model
        assert len(model.predict(read(tmp_path / "t.parquet"))) == 40


class TestFolders:
    frame = pandas.DataFrame({"a": [1.5, 2.5, 3.5, 4.5], "year": [2023, 2023, 2024, 2024], "place": list("xyxy")})

    def test_of_parts(self, tmp_path):
        folder = tmp_path / "t.parquet"
        folder.mkdir()
        for k in range(2):
            self.frame.iloc[2 * k : 2 * k + 2].to_parquet(folder / f"part-{k}.parquet", index=False)
        for name in ("_SUCCESS", ".part-0.parquet.crc", "_temporary/0.parquet"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("", encoding="utf-8")
        frame = read(folder)
        assert frame.to_dict("list") == self.frame.to_dict("list") and list(frame.index) == [1, 2, 3, 4]

    def test_columns_in_the_names_of_folders_are_texts(self, tmp_path):
        self.frame.to_parquet(tmp_path / "parts", partition_cols=["year", "place"], index=False)
        frame = read(tmp_path / "parts").sort_values("a")
        assert frame[["a", "year", "place"]].to_dict("list") == self.frame.astype({"year": str}).to_dict("list")

    def test_names_of_folders_that_look_alike(self, tmp_path):
        for name in ("1", "01", "a%2Fb", "__HIVE_DEFAULT_PARTITION__"):
            write(tmp_path / f"k={name}" / "t.parquet", a=[1.0])
        assert set(read(tmp_path)["k"].dropna()) == {"1", "01", "a/b"} and read(tmp_path)["k"].isna().sum() == 1

    def test_one_such_column_is_a_number(self, tmp_path):
        for year in range(2000, 2020):
            write(tmp_path / f"year={year}" / "t.parquet", a=[float(year**2 % 7)] * 2, y=[year + 0.5, year + 0.25])
        trained = train(read(tmp_path), "y", Recipe(epochs=1, keep=("year",)))
        assert [(c.name, c.width) for c in trained.model.table.columns] == [("a", 1), ("year", 1)]

    def test_types_that_differ_are_united(self, tmp_path):
        write(tmp_path / "0.parquet", a=[1, 2], b=pyarrow.nulls(2), c=pyarrow.array(["x", "y"]).dictionary_encode())
        write(tmp_path / "1.parquet", a=[0.5], b=["x"], c=pyarrow.array(["z"]).dictionary_encode())
        frame = read(tmp_path)
        assert frame["a"].tolist() == [1, 2, 0.5] and frame["b"][3] == "x"
        assert frame["c"].tolist() == ["x", "y", "z"] and isinstance(frame["c"].dtype, pandas.CategoricalDtype)
        write(tmp_path / "2.parquet", a=["x"], b=["x"], c=["x"])
        frame = read(tmp_path)
        assert frame["a"].tolist() == ["1", "2", "0.5", "x"] and frame["c"].tolist() == ["x", "y", "z", "x"]
        said = f"column 'a' is int64 in {tmp_path / '0.parquet'} and text in {tmp_path / '2.parquet'}"
        assert frame.attrs[NOTES] == [f"{said}: all of it is read as text"]

    def test_numbers_that_are_text_in_one_file_are_numbers_as_in_a_text_file(self, tmp_path):
        random = np.random.default_rng(0)
        a, b = random.normal(size=(2, 40)).round(3)
        write(tmp_path / "0.parquet", a=a[:20], b=b[:20], y=(a - b)[:20])
        write(tmp_path / "1.parquet", a=[*map(str, a[20:-1]), "NA"], b=b[20:], y=(a - b)[20:])
        trained = train(read(tmp_path), "y", Recipe(epochs=1))
        assert [type(column).__name__ for column in trained.model.table.columns] == ["Number", "Number"]

    def test_what_can_not_be_united_is_named_with_both_files(self, tmp_path):
        write(tmp_path / "0.parquet", a=[1], b=[0.5])
        write(tmp_path / "1.parquet", a=[[1, 2]], b=[1])
        said = r"column 'a' is int64 in .*0\.parquet and list<.*> in .*1\.parquet, which don't go together: write both"
        with pytest.raises(DataError, match=said):
            read(tmp_path)

    def test_a_column_that_not_every_file_has_is_noted(self, tmp_path):
        write(tmp_path / "0.parquet", a=[1.0], b=[2.0])
        write(tmp_path / "1.parquet", b=[3.0], c=[4.0])
        frame = read(tmp_path)
        assert frame["a"].isna().tolist() == [False, True] and frame["c"][2] == 4
        said = [note.rpartition("/")[2] for note in frame.attrs[NOTES]]
        assert said == [
            f"{file}.parquet has no column '{name}', which others have: missing in its rows"
            for file, name in ((0, "c"), (1, "a"))
        ]

    def test_one_name_twice(self, tmp_path):
        write(tmp_path / "a=1" / "t.parquet", a=[1.0])
        with pytest.raises(DataError, match=r"t\.parquet: columns 1 and 2 have the same name, 'a'"):
            read(tmp_path)
        twice = pyarrow.table([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
        parquet.write_table(twice, tmp_path / "u.parquet")
        with pytest.raises(DataError, match=r"u\.parquet: columns 1 and 2 have the same name, 'a'"):
            read(tmp_path / "u.parquet")

    def test_a_pipe_among_them_is_not_waited_for(self, tmp_path):
        (tmp_path / "t.parquet").mkdir()
        os.mkfifo(tmp_path / "t.parquet" / "a.parquet")
        with pytest.raises(DataError, match=r"a.parquet is a pipe; a table must be in a regular file"):
            read(tmp_path / "t.parquet")

    def test_another_file_among_them(self, tmp_path):
        write(tmp_path / "a.parquet", a=[1.0])
        (tmp_path / "b.csv").write_text("a\n1\n", encoding="utf-8")
        with pytest.raises(
            DataError, match=r"has b\.csv and a\.parquet: all files of a folder must be text files, or none"
        ):
            read(tmp_path)

    def test_nothing_in_it(self, tmp_path):
        (tmp_path / "t.parquet").mkdir()
        with pytest.raises(DataError, match=r"t\.parquet has no rows"):
            read(tmp_path / "t.parquet")

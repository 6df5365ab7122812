"""Tables from scikit-learn and from files; what is wrong with a file is said with row and column."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import distributed
from backprop_xp.data import SETS, DataError, read, sets


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "name, shape, targets",
    [
        ("digits", (1797, 65), {str(k) for k in range(10)}),
        ("iris", (150, 5), {"setosa", "versicolor", "virginica"}),
        ("breast-cancer", (569, 31), {"malignant", "benign"}),
        ("diabetes", (442, 11), None),
    ],
)
def test_sets(name, shape, targets):
    pytest.importorskip("sklearn")
    frame = read(name)
    assert frame.shape == shape
    assert list(frame.index[:2]) == [1, 2]
    if targets:
        assert set(frame["target"]) == targets
    else:
        assert frame["target"].dtype == float


def test_large_files_are_for_ranks_to_have_in_parts(tmp_path, monkeypatch):
    path = write(tmp_path, "a,b\n1,2\n")
    assert not sets.in_parts(path) and sets.in_parts(tmp_path) and sets.in_parts("none.parquet")
    monkeypatch.setattr(sets, "LARGE", 8)
    assert sets.in_parts(path) and not sets.in_parts("digits") and not sets.in_parts(tmp_path / "none.csv")
    path = write(tmp_path, "a,b\n")
    np.savez(tmp_path / "t.npz", a=np.zeros(0))
    for name in (path, tmp_path / "t.npz"):
        with distributed.world() as world, pytest.raises(DataError, match="has no rows"):
            read(name, world=world)


def test_rows_of_a_csv_have_the_numbers_that_an_editor_shows(tmp_path):
    frame = read(write(tmp_path, "a,b\n1,x\n\n3,\n,z\n\n"))
    assert list(frame.index) == [2, 4, 5]
    assert frame["a"].tolist()[:2] == ["1", "3"]
    assert frame.isna().to_numpy().sum() == 2


def test_csv_with_a_byte_order_mark_quotes_and_more(tmp_path):
    frame = read(write(tmp_path, '\ufeffa,"b, c"\r\n1,"x, ""y"""\r\n'.encode(), "TABLE.CSV"))
    assert list(frame.columns) == ["a", "b, c"]
    assert frame.iloc[0].tolist() == ["1", 'x, "y"']


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,2\n3,4,5\n", "row 3: 3 columns where 2 columns were expected"),
        ("a,b\n1,2,3\n1,2,3\n", "row 2: 3 columns where 2 columns were expected"),
        ('a,b\n1,"2\n', "can't be read as CSV: row 2: a quotation mark is opened and never closed"),
        (
            b"a,b\n1,\xff\xfe\n",
            "no UTF-8 text: byte 0xff at offset 6 of the file, in line 2; name its encoding with --encoding",
        ),
    ],
)
def test_a_bad_csv(text, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        read(write(tmp_path, text))
    assert "table.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_npz(tmp_path):
    path = tmp_path / "table.npz"
    np.savez(path, x=np.arange(6.0).reshape(3, 2), y=np.array(["a", "b", "a"]))
    frame = read(path)
    assert list(frame.columns) == ["x_0", "x_1", "y"]
    assert frame.loc[2].tolist() == [2.0, 3.0, "b"]


@pytest.mark.parametrize("names", [("a", "a_0"), ("a_0", "a"), ("a", "a_1"), ("x_1", "x")])
def test_arrays_that_make_two_columns_of_one_name_are_refused(names, tmp_path):
    wide, narrow = min(names, key=len), max(names, key=len)
    arrays = {wide: np.ones((3, 2)), narrow: np.zeros(3)}
    np.savez(tmp_path / "t.npz", **{name: arrays[name] for name in names})
    with pytest.raises(DataError, match=f"t.npz: its arrays make two columns '{narrow}'"):
        read(tmp_path / "t.npz")


def test_a_bad_npz(tmp_path):
    path = tmp_path / "table.npz"
    for arrays, message in (
        ({"x": np.zeros((2, 2, 2))}, "array x has 3 dimensions"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, r"one length, got \[2, 3\]"),
        ({"x": np.array([{}, {}], object)}, "can't be read as .npz: Object arrays"),
        ({}, "has no rows"),
        ({"x": np.zeros((2, 2)), "x_0": np.zeros(2)}, "its arrays make two columns 'x_0'"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=message):
            read(path)
    for content in (b"", b"PK\3\4", pickle.dumps([1])):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"can't be read as \.npz"):
            read(path)


@given(st.text(alphabet='ab,1."\n\r\t \0é;NA-', max_size=40))
def test_any_text_is_a_table_or_a_sentence(tmp_path_factory, text):
    reads_or_refuses(write(tmp_path_factory.getbasetemp(), text))


@pytest.mark.parametrize("kind", ["npz", "parquet"])
@given(data=st.data())
def test_mutated_bytes(tmp_path_factory, kind, data):
    path = tmp_path_factory.getbasetemp() / f"mutated.{kind}"
    if kind == "npz":
        np.savez(path, x=np.zeros((3, 2)), y=np.arange(3))
    else:
        pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}).to_parquet(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)
    reads_or_refuses(path)


def reads_or_refuses(path):
    try:
        assert len(read(path))
    except DataError as error:
        assert "\n" not in str(error)


def test_other_sources():
    with pytest.raises(
        ValueError, match=r"unknown data 'digit'; did you mean 'digits'\?; a file must be .csv, .tsv, .npz"
    ):
        read("digit")
    for name in ("none.csv", "none.npz", "none.parquet"):
        with pytest.raises(FileNotFoundError):
            read(name)


def test_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"real data needs pandas: pip install 'backprop-xp\[data\]'"):
        read(next(iter(SETS)))


def test_compressed_text(tmp_path):
    import gzip

    (tmp_path / "t.csv.gz").write_bytes(gzip.compress("a;ö\n1;2\n".encode("utf-16")))
    assert read(tmp_path / "t.csv.gz").to_dict("list") == {"a": ["1"], "ö": ["2"]}
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    for content in (b"", b"a,b\n1,2\n", whole[:-9], whole[:20] + b"\x00" * 20 + whole[40:]):
        (tmp_path / "t.csv.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"t\.csv\.gz"):
            read(tmp_path / "t.csv.gz")


@pytest.mark.parametrize(
    "source, name",
    [
        ("a/t.csv", "t"),
        ("t.csv.gz", "t"),
        ("T.CSV", "T"),
        ("t.v2.parquet", "t.v2"),
        ("iris", "iris"),
        ("a/parts/", "parts"),
    ],
)
def test_stem(source, name):
    assert sets.stem(source) == name


def test_a_folder_that_is_no_table(tmp_path):
    (tmp_path / "t.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"unknown data .*, and a folder have \.parquet files or text files"):
        read(tmp_path)

"""Text files: separators, names, and rows as an editor shows them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.data import DataError, read, reader, train
from backprop_xp.data.reader import NOTES, SEPARATORS


def table(tmp_path, text, name="t.csv", **options):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return read(path, **options)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_separators_are_found(mark, tmp_path):
    text = f'x{mark} z {mark}"y {mark}"\n1,5{mark} u{mark}3\n'.replace("1,5", "1.5" if mark == "," else "1,5")
    frame = table(tmp_path, text)
    assert list(frame.columns) == ["x", "z", f"y {mark}".strip()]
    assert frame.iloc[0].tolist()[1:] == ["u", "3"]
    assert frame.attrs[NOTES] == ([] if mark == "," else [f"{tmp_path}/t.csv: {mark!r} separates its columns"])
    word = next(word for word, meant in SEPARATORS.items() if meant == mark)
    for said in (mark, word):
        assert table(tmp_path, text, separator=said).equals(frame)


@given(st.lists(st.sampled_from(["x", '"y\n\n"', ""])), st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 9))
def test_every_row_is_one_ranks(cells, end, size):
    text = end.join(["a", *cells])
    records, lines = list(reader._records(Path("t.csv"), text, ",")), 1 + max(map(text.count, "\r\n"))
    own = [list(reader._own(iter(records), lines, SimpleNamespace(rank=k, size=size))) for k in range(size)]
    assert [record for each in own for record in each] == records
    assert '"' in text or max(map(len, own)) <= lines // size + 1


def test_other_separators(tmp_path):
    assert list(table(tmp_path, "a b\n1 2\n", separator="space").columns) == ["a", "b"]
    assert list(table(tmp_path, "a:b\n1:2\n", separator=":").columns) == ["a", "b"]
    assert list(table(tmp_path, "sep=;\na;b\n1;2\n").columns) == ["a", "b"]
    assert list(table(tmp_path, "a\tb,c\n1\t2\n", "t.tsv").columns) == ["a", "b,c"]
    for wrong in ("", ",,", '"', "\n", "commas"):
        if wrong:
            with pytest.raises(ValueError, match="a separator must be one character, or comma, semicolon, tab"):
                table(tmp_path, "a\n1\n", separator=wrong)
    with pytest.raises(DataError, match="',', ';' may separate its columns; say which one does with --separator"):
        table(tmp_path, "a,b;c\n1,2;3\n")
    assert list(table(tmp_path, "a,b;c\n1,2;3\n", separator=";").columns) == ["a,b", "c"]


def test_decimal_commas_do_not_separate(tmp_path):
    assert table(tmp_path, "x;y\n1,5;2,5\n2,5;1,4\n").iloc[0].tolist() == ["1,5", "2,5"]


def test_cells_are_the_texts_of_the_file(tmp_path):
    frame = table(tmp_path, "k,v\n01,TRUE\n1.0,NA\n None ,\n9007199254740993,1e5\n")
    assert frame["k"].tolist() == ["01", "1.0", "None", "9007199254740993"]
    assert frame["v"].tolist()[:2] == ["TRUE", "NA"]
    assert frame.isna().to_numpy().sum() == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_are_the_lines_where_they_begin(end, tmp_path):
    text = '\na,b\n1,"two\nlines"\n\n2,x\n,\n"q\n\nr",y\n3,z'.replace("\n", end)
    assert list(table(tmp_path, text).index) == [3, 6, 8, 11]
    assert list(table(tmp_path, "sep=,\na,b\n1,2\n").index) == [3]


@pytest.mark.parametrize(
    "text, message",
    [
        ('a,b\n"x\ny",1\n1,2,3\n', "row 4: 3 columns where 2 columns were expected"),
        ("a,b\n1\n", "row 2: 1 column where 2 columns were expected"),
        ('a,b\n"x\n",1\n1,"2\n\n', "row 4: a quotation mark is opened and never closed"),
        ('a,b\n1,"x"y\n', "row 2: ',' expected after '\"'"),
        ("a,b, a \n1,2,3\n", "row 1: columns 1 and 3 have the same name, 'a'"),
        ("title\n\na,b\n1,2\n", "row 3: 2 columns where 1 column was expected; .* --separator"),
        (" ,\n", "is empty"),
        ("sep=;\n", "is empty"),
    ],
)
def test_what_is_no_table(text, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        table(tmp_path, text)
    assert "t.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_small_oddities(tmp_path):
    frame = table(tmp_path, ",,y,\n1,2,3,\n4,5,6,,,\n")
    assert list(frame.columns) == ["Unnamed: 0", "Unnamed: 1", "y", "Unnamed: 3"]
    assert len(frame) == 2
    assert "row 1, '1.5', '2', is taken for the names" in table(tmp_path, "1.5,2\n3,4\n").attrs[NOTES][0]
    assert "row 1, '1.5', '2', 'a', is taken" in table(tmp_path, "1.5,2,a\n3,4,b\n").attrs[NOTES][0]
    assert not table(tmp_path, "place,2019,\nu,3,4\n").attrs[NOTES]


def test_options_of_text_files_alone(tmp_path):
    (tmp_path / "t.npz").write_bytes(b"")
    for options in ({"separator": ","}, {"encoding": "utf-8"}):
        with pytest.raises(ValueError, match="are of text files"):
            read(tmp_path / "t.npz", **options)


@given(st.lists(st.lists(st.text(alphabet='ab1,;|\t"\n.', max_size=4), min_size=2, max_size=2), min_size=1, max_size=5))
def test_what_csv_writes_is_read(tmp_path_factory, rows):
    import csv

    path = tmp_path_factory.getbasetemp() / "written.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["p", "q"], *rows])
    expected = [[cell.strip() for cell in row] for row in rows if any(map(str.strip, row))]
    if expected:
        assert read(path, separator=",").fillna("").to_numpy().tolist() == expected


class TestFolders:
    def written(self, top, **texts):
        for name, text in texts.items():
            path = top / name.replace("__", "/").replace("_csv", ".csv").replace("_tsv", ".tsv")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return read(top)

    def test_files_are_one_table(self, tmp_path):
        frame = self.written(tmp_path, b_csv="y;a\n3;x\n\n4;\n", a_tsv="a\ty\nu\t1\n", c_csv="a,z\n", _csv_crc="")
        assert list(frame.columns) == ["a", "y", "z"]
        assert frame[["a", "y"]].fillna("-").to_numpy().tolist() == [["u", "1"], ["x", "3"], ["-", "4"]]
        assert list(frame.index) == ["2 of a.tsv", "2 of b.csv", "4 of b.csv"] and frame["z"].isna().all()
        assert [note.rpartition("/")[2] for note in frame.attrs[NOTES]] == [
            "b.csv: ';' separates its columns",
            "a.tsv has no column 'z', which others have: missing in its rows",
            "b.csv has no column 'z', which others have: missing in its rows",
            "c.csv has no column 'y', which others have: missing in its rows",
        ]

    def test_names_of_folders_are_columns(self, tmp_path):
        frame = self.written(tmp_path, **{"year=2023__a_csv": "a\n1\n", "year=2024__a_csv": "a\n2\n3\n"})
        assert frame.to_dict("list") == {"a": ["1", "2", "3"], "year": ["2023", "2024", "2024"]}
        assert list(frame.index)[2] == "3 of year=2024/a.csv"
        with pytest.raises(DataError, match=r"a\.csv: its column 'year' is in the name of a folder too"):
            self.written(tmp_path, **{"year=2023__a_csv": "year\n1\n"})

    def test_a_cell_is_found(self, tmp_path):
        frame = self.written(tmp_path, a_csv="a,y\n1,1.5\n2,2.5\n", b_csv="a,y\n1,1.5\nx,2.5\n7,1.5\n")
        with pytest.raises(DataError, match=r"row 3 of b\.csv, column 'a': 'x' is no number"):
            train(frame, "y")
        with pytest.raises(DataError, match=r"b\.csv, row 2: 1 column where 2 columns were expected"):
            self.written(tmp_path, b_csv="a,y\n1\n")

    def test_nothing_in_them(self, tmp_path):
        with pytest.raises(DataError, match="has no rows"):
            self.written(tmp_path, a_csv="a\n", b_csv="b\n")
        (tmp_path / "t.csv").mkdir()
        with pytest.raises(DataError, match=r"t\.csv is a folder; a table must be in a regular file"):
            read(tmp_path / "t.csv")

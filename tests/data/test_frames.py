"""Tables of one's own: whatever pandas keeps them in, and by whatever names."""

import datetime
import decimal

import numpy as np
import pandas
import pytest

from backprop_xp.data import DataError, Model, Recipe, read, train
from backprop_xp.data.frames import MOST_DENSE, alike
from backprop_xp.data.recipe import prepare

N = 60
RANDOM = np.random.default_rng(0)
A, K = RANDOM.normal(size=N), RANDOM.integers(0, 3, N)
Y = 2 * A + RANDOM.normal(size=N)
QUICK = Recipe(hidden=(2,), epochs=1, backend="numpy")


def frame(column):
    return pandas.DataFrame({"a": A, "c": column, "y": Y})


def kinds(table, target="y", recipe=QUICK):
    return [(type(c).__name__, c.width) for c in prepare(table, target, recipe).table.columns]


COLUMNS = {
    "truth values": (K > 0, "Number", 1),
    "nullable truth": (pandas.array([None if k == 0 else bool(k > 1) for k in K], "boolean"), "Number", 1),
    "truth as objects": (pandas.Series([None if k == 0 else bool(k > 1) for k in K], dtype=object), "Number", 1),
    "Int64": (pandas.array([None if k == 0 else int(k) for k in K], "Int64"), "Number", 1),
    "Float64": (pandas.array(A**2, "Float64"), "Number", 1),
    "float16": (A.astype("float16"), "Number", 1),
    "Decimal": ([decimal.Decimal("1.5") * int(k) for k in K], "Number", 1),
    "mixed numbers": (pandas.Series([True if k == 0 else 0.5 * k for k in K], dtype=object), "Number", 1),
    "sparse": (pandas.arrays.SparseArray(K.astype(float)), "Number", 1),
    "durations": (pandas.to_timedelta(K, unit="h"), "Number", 1),
    "texts of numbers": (pandas.array([f"{a:.3f}" for a in A], "string"), "Number", 1),
    "category of integers": (pandas.Categorical(K), "Category", 3),
    "category of some": (pandas.Categorical([None if k == 0 else k for k in K], categories=[0, 1, 2, 9]), "Category", 3),
    "category of truth": (pandas.Categorical(K > 0), "Category", 2),
    "category of texts of numbers": (pandas.Categorical(K.astype(str)), "Category", 3),
    "category of intervals": (pandas.cut(A, 3), "Category", 3),
    "texts": (pandas.array(np.array(["u", "v", "w"])[K], "string"), "Category", 3),
    "datetimes": (pandas.date_range("2020", periods=N), "Moment", 5),
    "datetimes with zone": (pandas.date_range("2020", periods=N, tz="Europe/Berlin"), "Moment", 5),
    "dates": ([datetime.date(2020, 1, 1 + i % 28) for i in range(N)], "Moment", 5),
    "times": ([datetime.time(i % 24) for i in range(N)], "Moment", 3),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_dtypes(name):
    column, kind, width = COLUMNS[name]
    found = kinds(frame(column))[1]
    assert found == (kind, width) or (name == "datetimes with zone" and found[0] == kind)


@pytest.mark.parametrize("backend", ["numpy_nullable", "pyarrow"])
def test_other_backends(backend):
    pytest.importorskip("pyarrow")
    table = frame(np.array(["u", "v", "w"])[K]).assign(k=K, t=K > 1, day=pandas.date_range("2020", periods=N))
    assert kinds(table.convert_dtypes(dtype_backend=backend)) == kinds(table)


@pytest.mark.parametrize(
    "name", ["truth values", "Int64", "category of integers", "texts", "datetimes", "dates", "texts of numbers"]
)
def test_a_frame_and_its_file_give_the_same_answers(name, tmp_path):
    table = frame(COLUMNS[name][0])
    model = train(table, "y", QUICK).model
    model.save(tmp_path / "model")
    table.to_csv(tmp_path / "t.csv", index=False)
    outputs = Model.load(tmp_path / "model", backend="numpy").outputs(read(tmp_path / "t.csv"))
    np.testing.assert_allclose(outputs, model.outputs(table), rtol=1e-6)


@pytest.mark.parametrize("target", [2, "2"])
def test_names_that_are_numbers(target):
    table = pandas.DataFrame(np.c_[A, K, Y])
    for given in (table, table.to_numpy()):
        model = train(given, target, QUICK).model
        assert model.target.column == "2"
        assert len(model.predict(given)) == N


def test_other_names():
    assert list(alike(frame(K).set_axis([None, 1.5, " y "], axis=1)).columns) == ["Unnamed: 0", "1.5", "y"]
    for names in (["a", "a", "y"], ["y", "a", "y "], [1, "1", "y"]):
        with pytest.raises(DataError, match=r"columns . and . have the same name, '(a|y|1)'"):
            train(frame(K).set_axis(names, axis=1), "y", QUICK)
    with pytest.raises(DataError, match="a name may have 200 characters, this one has 300"):
        train(frame(K).rename(columns={"a": "a" * 300}), "y", QUICK)


def test_sparse_matrices():
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.c_[A * (K > 0), Y]
    expected = prepare(pandas.DataFrame(dense), 1, QUICK).x
    for kind in (sparse.csr_matrix, sparse.coo_array):
        np.testing.assert_array_equal(prepare(kind(dense), 1, QUICK).x, expected)
    np.testing.assert_array_equal(
        prepare(pandas.DataFrame.sparse.from_spmatrix(sparse.csc_matrix(dense)), 1, QUICK).x, expected
    )
    with pytest.raises(DataError, match=rf"sparse table of 1000000 x 1000 is too large .* {MOST_DENSE} numbers"):
        train(sparse.csr_matrix((10**6, 1000)), 1, QUICK)


def test_what_is_no_table():
    for given in ([[1, 2]], {"a": [1]}, np.zeros(3)):
        with pytest.raises(TypeError, match=r"a table must be a pandas\.DataFrame or an array"):
            train(given, 1, QUICK)
    with pytest.raises(DataError, match="no rows"):
        train(frame(K).head(0), "y", QUICK)


def test_whole_numbers_beyond_2_to_the_53_do_not_merge():
    big = [2**53 + int(k) for k in K]
    for column in (
        big,
        pandas.array(big, "Int64"),
        pandas.array([None, *big[1:]], "Int64"),
        pandas.Series(map(str, big)),
    ):
        labels = {str(2**53), str(2**53 + 1), str(2**53 + 2)}
        table = prepare(frame(column), "y", Recipe(backend="numpy", categories=("c",))).table
        assert set(table.columns[1].labels) == labels
        assert set(prepare(frame(K).assign(y=column), "y", QUICK).target.labels) == labels


def test_missing_texts_are_missing_by_text_or_value():
    table = pandas.DataFrame({"a": [-999, 1.5], "b": ["-999.0", "2"], "c": ["?", "x"], "d": ["-", "NA"]})
    assert alike(table, ("-999", "?", "-")).isna().to_numpy().tolist() == [[True, True, True, True], [False] * 4]
    assert table.notna().all(axis=None)

"""Frames, sparse matrices and arrays of objects where a net takes an array."""

import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from backprop_xp import Net, frames
from backprop_xp.backend import NUMPY

pandas = pytest.importorskip("pandas")
sparse = pytest.importorskip("scipy.sparse")


def asarray(data):
    return NUMPY.asarray(data, None, "x")


@pytest.fixture
def frame(random):
    return pandas.DataFrame(random.normal(size=(6, 3)), columns=["a", "b", 7], index=list("uvwxyz"))


CHANGES = {
    "truth values among floats": lambda f: f.assign(a=f.a > 0),
    "truth values alone": lambda f: f > 0,
    "integers among floats": lambda f: f.assign(a=range(6)),
    "float32 and truth values": lambda f: f.astype("float32").assign(a=f.a > 0),
    "Float64": lambda f: f.astype("Float64"),
    "Int64 and boolean": lambda f: f.assign(a=pandas.array(range(6), "Int64"), b=(f.b > 0).astype("boolean")),
    "two columns of one name": lambda f: f.set_axis(["a", "a", "c"], axis=1).astype("Float64"),
    "a category of numbers": lambda f: f.assign(a=pandas.Categorical([3, 1, 2] * 2)),
    "objects": lambda f: f.astype(object),
    "sparse columns": lambda f: f.astype(pandas.SparseDtype("float")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_frames(frame, change):
    changed = change(frame)
    expected = np.stack([np.array(changed.iloc[:, i].tolist(), float) for i in range(3)], axis=1)
    for given in (changed, changed.to_numpy(object)):
        found = asarray(given)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype.kind in "biuf"
    net = Net((3, 2), loss="mse", rng=0)
    y = np.ones((6, 2))
    assert net.loss_and_grad(changed, y) == net.loss_and_grad(expected, y)
    np.testing.assert_array_equal(net(changed), net(expected))
    assert net.fit(changed, y, validation=(changed, y)).epochs


def test_a_frame_of_one_kind_is_not_copied(frame):
    assert np.shares_memory(asarray(frame), frame.to_numpy())


def test_columns(frame):
    for data in (
        pandas.Series([1, 2, 3], dtype="Int64"),
        pandas.array([1, 2, 3], dtype="Int64"),
        pandas.Index([1, 2, 3]),
        np.array([1, 2, 3], object),
        sparse.coo_array([1, 2, 3]),
    ):
        found = asarray(data)
        np.testing.assert_array_equal(found, [1, 2, 3])
        assert found.dtype.kind == "i"


def test_exact_numbers_of_python():
    np.testing.assert_array_equal(asarray([[Fraction(1, 4), Decimal("2.5"), True, 3]]), [[0.25, 2.5, 1, 3]])


NONE = "there is none"
MISTAKES = [
    (lambda f: f.astype("Float64").mask(f.b == f.b.iloc[4]), f"x must hold real numbers; in row y, column 'a' {NONE}"),
    (lambda f: f.assign(b=pandas.array([1, 2, None, 4, 5, 6], "Int64")), f"in row w, column 'b' {NONE}"),
    (lambda f: f.assign(b=pandas.array([None, *[True] * 5], "boolean")), f"in row u, column 'b' {NONE}"),
    (lambda f: f.assign(b=pandas.Series([1, None] * 3, f.index, object)), f"in row v, column 'b' {NONE}"),
    (lambda f: f.rename(columns={"b": 8}).assign(a="one"), "in row u, column 'a' there is 'one'"),
    (lambda f: f.assign(b=pandas.Categorical(list("pq") * 3)), "in row u, column 'b' there is 'p'"),
    (lambda f: f.assign(b=pandas.Timestamp("2020-01-01")), "in row u, column 'b' there is .*2020-01-01"),
    (lambda f: f.assign(b=f.b + 1j), "in row u, column 'b' there is "),
    (lambda f: pandas.Series([1, None], dtype="Int64"), f"in row 1 {NONE}"),
    (lambda f: [[1.0, 2.0], [None, 1.0]], f"in row 1, column 0 {NONE}"),
    (lambda f: np.array([[1, "a"]], object), "in row 0, column 1 there is 'a'"),
    (lambda f: np.array([1, pandas.NA], object), f"in row 1 {NONE}"),
    (lambda f: object(), "x must hold real numbers, got <object"),
]


@pytest.mark.parametrize("change, message", MISTAKES, ids=[message[-40:] for _, message in MISTAKES])
def test_a_mistake_is_one_sentence_with_column_and_row(frame, change, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        asarray(change(frame))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("made", [sparse.csr_matrix, sparse.csc_array, sparse.coo_matrix, sparse.lil_array])
def test_sparse_matrices(random, made, monkeypatch):
    dense = random.normal(size=(20, 3)) * (random.random((20, 3)) < 0.5)
    np.testing.assert_array_equal(asarray(made(dense)), dense)
    a, b, c = (Net((3, 1), loss="mse", rng=0) for _ in range(3))
    y = dense.sum(axis=1)
    a.fit(dense, y, batch_size=10, shuffle=False)
    b.fit(made(dense), y, batch_size=10, shuffle=False)
    c.fit([(made(dense[:10]), y[:10]), (made(dense[10:]), y[10:])])
    for other in (b, c):
        np.testing.assert_array_equal(a.weights[0].data, other.weights[0].data)
    monkeypatch.setattr(frames, "DENSE_BYTES", 20 * 3 * 8 - 1)
    with pytest.raises(
        ValueError, match=r"x is a sparse matrix that would take .* hand it over in batches of some rows"
    ):
        asarray(made(dense))


def test_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1.5, 2.5], "b": [True, False], "c": [1, 2]})
    np.testing.assert_array_equal(asarray(frame), [[1.5, 1, 1], [2.5, 0, 2]])
    for column, message in (
        ([1, None], "in row 1, column 'd' there is none"),
        (["u", "v"], "in row 0, .* there is 'u'"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            asarray(frame.with_columns(d=polars.Series(column)))


def test_none_of_these_libraries_is_imported():
    import subprocess

    code = (
        "import sys, backprop_xp as b; b.Net()([1.0] * 5); print({'pandas', 'polars', 'scipy.sparse'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"

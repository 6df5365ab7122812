"""Batches from arrays, from files larger than memory, and from anything that gives batches."""

import subprocess
import sys
import textwrap
from tempfile import TemporaryFile
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import Net
from backprop_xp.training import steps
from backprop_xp.training.batches import Rows, Stream, as_batches, mapping


def regression(**options):
    return Net((3, 2), loss="mse", rng=0, **options)


def classes(**options):
    return Net((3, 4), loss="softmax_cross_entropy", rng=0, **options)


@given(n=st.integers(1, 50), size=st.integers(1, 60), seed=st.integers(0, 9), epoch=st.integers(0, 3), data=st.data())
def test_every_row_once_an_epoch_with_its_own_target(n, size, seed, epoch, data):
    x = np.arange(3.0 * n).reshape(n, 3)
    rows = Rows(regression(), x, x[:, :2] * 10, x[:, 0] * 100, size, True, seed)
    assert rows.steps == -(-n // size)
    batches = list(rows.epoch(epoch, 0))
    assert [len(batch.x) for batch in batches[:-1]] == [size] * (rows.steps - 1)
    assert [batch.last for batch in batches] == [False] * (rows.steps - 1) + [True]
    together = np.concatenate([batch.x for batch in batches])
    assert sorted(together[:, 0]) == list(x[:, 0])
    for batch in batches:
        np.testing.assert_array_equal(batch.y, batch.x[:, :2] * 10)
        np.testing.assert_array_equal(batch.weight, batch.x[:, 0] * 100)
    # what is left of an epoch is the same rows
    start = data.draw(st.integers(0, rows.steps))
    rest = list(rows.epoch(epoch, start))
    assert len(rest) == rows.steps - start
    for batch, same in zip(batches[start:], rest):
        np.testing.assert_array_equal(batch.x, same.x)


@given(n=st.integers(1, 3000), size=st.integers(1, 3000), ranks=st.integers(1, 4), shuffle=st.booleans())
def test_ranks_take_their_own_rows_of_a_file(n, size, ranks, shuffle):
    """All together those of one that has no ranks, each some; of a mapped file no others are read."""
    with TemporaryFile() as file:
        x = np.memmap(file, np.float64, "w+", shape=(n, 3))
        x[...] = np.arange(3 * n).reshape(n, 3)
        whole = Rows(regression(), x, x[:, :2], None, size, shuffle, 0)
        shared = [Rows(regression(), x, x[:, :2], None, size, shuffle, 0) for _ in range(ranks)]
        for rank, rows in enumerate(shared):
            rows.world = SimpleNamespace(rank=rank, size=ranks, parts=64, exact=True)
        for batch, *own in zip(whole.epoch(1, 0), *(rows.epoch(1, 0) for rows in shared), strict=True):
            np.testing.assert_array_equal(np.concatenate([each.x for each in own]), batch.x)
            np.testing.assert_array_equal(np.concatenate([each.y for each in own]), batch.y)
            assert all(each.samples == batch.samples and each.last == batch.last for each in own)
            assert all(len(each.x) == each.share.rows().stop - each.share.rows().start for each in own)


def orders(seed, epoch, n=40):
    x = np.arange(3.0 * n).reshape(n, 3)
    return [tuple(batch.x[:, 0]) for batch in Rows(regression(), x, x[:, :2], None, 8, True, seed).epoch(epoch, 0)]


def test_the_order_depends_on_seed_and_epoch_alone():
    assert orders(3, 5) == orders(3, 5)
    np.random.seed(1)  # noqa: NPY002  # nobody's business
    assert orders(3, 5) == orders(3, 5)
    assert len({str(orders(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_without_shuffling_batches_are_views_in_order():
    x = np.arange(30.0).reshape(10, 3)
    batches = list(Rows(regression(), x, x[:, :2], None, 4, False).epoch(0, 0))
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches]), x)
    assert all(np.shares_memory(batch.x, x) for batch in batches)


def test_arrays_are_converted_once():
    rows = Rows(regression(dtype="float32"), np.ones((9, 3)), np.ones((9, 2), int), None, 4)
    batch = next(iter(rows.epoch(0, 0)))
    assert batch.x.dtype == batch.y.dtype == np.float32
    rows = Rows(classes(dtype="float32"), np.ones((9, 3)), np.ones(9, np.uint8), None, 4)
    assert next(iter(rows.epoch(0, 0))).y.dtype == np.int64
    rows = Rows(classes(dtype="float32"), np.ones((9, 3)), np.ones((9, 4), np.uint8), None, 4)
    assert next(iter(rows.epoch(0, 0))).y.dtype == np.float32


class TestMemmap:
    def files(self, tmp_path, n=1000):
        random = np.random.default_rng(0)
        x, y = random.normal(size=(n, 3)).astype(np.float32), random.integers(0, 4, n)
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "y.npy", y)
        return x, y, *(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")

    def test_is_known_as_such(self, tmp_path):
        x, _, on_x, _ = self.files(tmp_path)
        for array in (on_x, on_x[3:], on_x.view(np.ndarray), on_x.T):
            assert mapping(array) is not None
        for array in (x, on_x + 1, on_x[[1, 2]], [1.0], None):
            assert mapping(array) is None

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_gives_the_same_run_as_arrays(self, tmp_path, shuffle):
        x, y, on_x, on_y = self.files(tmp_path)
        results = []
        for data in ((x, y), (on_x, on_y)):
            net = classes()
            losses = [step.loss for step in steps(net, *data, epochs=2, batch_size=64, shuffle=shuffle)]
            results.append([losses, net.weights[0].data])
        assert results[0][0] == results[1][0]
        np.testing.assert_array_equal(results[0][1], results[1][1])

    def test_larger_than_memory(self, tmp_path):
        """A file of 4 GiB, most of it holes, in a process that may have 2 GiB beside what it maps."""
        program = textwrap.dedent(
            """
            import resource, sys
            import numpy as np
            from backprop_xp import Net
            from backprop_xp.training import steps

            n = (1 << 30) // 1024
            x = np.memmap(sys.argv[1], np.float32, "w+", shape=(n, 1024))
            y = np.memmap(sys.argv[1] + ".y", np.uint8, "w+", shape=(n,))
            net = Net((1024, 4), loss="softmax_cross_entropy", rng=0, dtype="float64", reduction="mean", engine="layered")
            resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
            for step in steps(net, x, y, batch_size=256):
                if step.number == 20:
                    break
            print(step.loss)
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "x")], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) < 1.3863  # log(4) before the first step


class TestIterables:
    def test_lists_generators_and_parts(self):
        x, y = np.ones((4, 3)), np.zeros((4, 2))
        batches = [(x, y), (2 * x, y, np.ones(4))]
        got = list(as_batches(regression(), batches, None, None, 8, True, 0).epoch(0, 0))
        assert [batch.last for batch in got] == [False, True]
        assert got[0].weight is None and got[1].weight is not None
        alone = list(Stream(iter([x, x, x])).epoch(0, 0))
        assert [batch.last for batch in alone] == [False, False, True] and alone[0].y is None

    def test_a_data_loader_of_pytorch(self):
        torch = pytest.importorskip("torch")
        data = torch.utils.data.TensorDataset(torch.rand(10, 3), torch.arange(10) % 4)
        net = classes(dtype="float32")
        found = list(steps(net, torch.utils.data.DataLoader(data, batch_size=4), epochs=2))
        assert [step.samples for step in found] == [4, 4, 2] * 2
        assert [step.last for step in found] == [False, False, True] * 2

    def test_equals_the_same_batches_of_arrays(self):
        random = np.random.default_rng(0)
        x, y = random.normal(size=(30, 3)), random.normal(size=(30, 2))
        a, b = regression(), regression()
        for _ in steps(a, x, y, epochs=3, batch_size=7, shuffle=False):
            pass
        cut = [(x[i : i + 7], y[i : i + 7]) for i in range(0, 30, 7)]
        for _ in steps(b, cut, epochs=3):
            pass
        np.testing.assert_array_equal(a.weights[0].data, b.weights[0].data)

    def test_an_iterator_is_used_up(self):
        batches = iter([(np.ones((4, 3)), np.zeros((4, 2)))])
        with pytest.raises(ValueError, match="gave no batch in epoch 2 again: an iterator can be used once"):
            list(steps(regression(), batches, epochs=2))
        with pytest.raises(ValueError, match="gave no batch in epoch 1"):
            list(steps(regression(), iter([])))

    def test_four_parts(self):
        with pytest.raises(ValueError, match=r"a batch is x, \(x, y\) or \(x, y, sample_weight\), got 4 parts"):
            list(steps(regression(), iter([(np.ones((4, 3)),) * 4])))

    def test_targets_beside_it(self):
        with pytest.raises(ValueError, match="an iterable of batches holds targets and weights itself: give x alone"):
            list(steps(regression(), iter([]), np.ones(3)))


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.ones((4, 3)), None, r"the loss mse needs a target: fit\(x, y\)"),
        (np.ones((4, 3)), np.ones((5, 2)), r"must have the same number of rows, at least one; got \(4, 3\), \(5, 2\)"),
        (np.ones((0, 3)), np.ones((0, 2)), "must have the same number of rows, at least one"),
        (np.ones(3), np.ones(3), r"x must be \(n, features\), a sample a row, got shape \(3,\)"),
    ],
)
def test_messages(x, y, message):
    with pytest.raises(ValueError, match=message):
        steps(regression(), x, y)


def test_no_x():
    with pytest.raises(TypeError, match="x must be an array, arrays by name, or an iterable of batches, got None"):
        steps(regression(), None)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "8"])
def test_batch_sizes(size):
    with pytest.raises(ValueError, match=f"batch_size must be an integer from 1 on, got {size!r}"):
        steps(regression(), np.ones((4, 3)), np.ones((4, 2)), batch_size=size)


class TestSparse:
    @pytest.mark.parametrize("form", ["csr_array", "csr_matrix", "csc_array", "coo_array"])
    @pytest.mark.parametrize("shuffle", [True, False])
    def test_gives_the_same_run_as_arrays(self, form, shuffle):
        scipy = pytest.importorskip("scipy.sparse")
        random = np.random.default_rng(0)
        x, y = random.normal(size=(50, 3)) * (random.random((50, 3)) < 0.4), random.integers(0, 4, 50)
        results = []
        for data in (x, getattr(scipy, form)(x)):
            net = classes(dtype="float32")
            history = net.fit(
                data, y, epochs=2, batch_size=8, shuffle=shuffle, sample_weight=np.ones(50), validation=(data, y),
                progress=False,
            )  # fmt: skip
            results.append([(epoch.loss, epoch.validation_loss) for epoch in history.epochs])
        assert results[0] == results[1]

    def test_only_a_batch_becomes_an_array(self):
        scipy = pytest.importorskip("scipy.sparse")
        x = scipy.csr_array((np.ones(1000), (np.arange(1000), np.arange(1000) % 7)), shape=(1_000_000, 3000))
        rows = Rows(Net((3000, 2), loss="mse", dtype="float32", rng=0), x, np.zeros((1_000_000, 2)), None, 64)
        batch = next(iter(rows.epoch(0, 0)))
        assert rows.samples == 1_000_000 and batch.x.shape == (64, 3000) and batch.x.dtype == np.float32

    def test_rows_must_match(self):
        scipy = pytest.importorskip("scipy.sparse")
        with pytest.raises(ValueError, match=r"the same number of rows, at least one; got \(4, 3\), \(3, 2\)"):
            Rows(regression(), scipy.csr_array((4, 3)), np.zeros((3, 2)), None, 2)

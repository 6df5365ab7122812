"""Disks that are full, and files that are not what they should be."""

import json
import os
import pickle
import re
import textwrap
import zipfile

import numpy as np
import pytest
from here import IS_ROOT
from hypothesis import given
from hypothesis import strategies as st
from runs import assert_same, data, finish, fit, names, net

from backprop_xp.training import CheckpointError, DivergedError
from backprop_xp.training.checkpoints import Folder, read


class TestTrouble:
    def test_a_full_disk(self, tmp_path):
        """A limit on the size of files, which the system reports as it does a full disk."""
        code = textwrap.dedent(
            """
            import resource, sys
            import numpy as np
            from backprop_xp import Net
            from backprop_xp.training import CheckpointError
            x = np.random.default_rng(0).normal(size=(60, 3))
            net = Net((3, 8, 2), loss="mse", bias=True, rng=0, backend="numpy")
            def limit(net, epoch):
                if epoch.number == 2:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
            try:
                net.fit(x, np.sin(x[:, :2]), epochs=9, batch_size=20, checkpoint=sys.argv[1], checkpoint_every=2,
                        callbacks=[limit])
            except CheckpointError as error:
                print(error)
            """
        )
        out = finish(code, tmp_path)
        assert re.fullmatch(
            r"checkpoint .*/checkpoint-000000000006.npz can't be written: File too large; "
            r"checkpoint-000000000004.npz is still good\n",
            out,
        )
        assert names(tmp_path) == ["checkpoint-000000000002.npz", "checkpoint-000000000004.npz"]
        whole, again = net(), net(rng=3)
        whole.fit(*data(), epochs=9, batch_size=20)
        fit(again, tmp_path, epochs=9, resume=True)
        assert_same(again, whole)

    def test_a_folder_that_is_a_file(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("mine", encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"checkpoints can't be written to .*file: "):
            fit(net(), path)
        assert path.read_text(encoding="utf-8") == "mine"

    def test_a_folder_that_can_not_be_written_to(self):
        # whoever runs this, root included, may write nothing there
        with pytest.raises(CheckpointError, match=r"checkpoints can't be written to /proc/1/checkpoints: "):
            fit(net(), "/proc/1/checkpoints")

    @pytest.mark.skipif(IS_ROOT, reason="root writes everywhere")
    def test_a_read_only_folder(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(CheckpointError, match=r"checkpoints can't be written to .*: Permission denied"):
            fit(net(), tmp_path)

    @pytest.mark.parametrize("left", [0, 1, 100, 0.5, 0.99])
    def test_a_truncated_checkpoint(self, tmp_path, left):
        whole, again = net(), net(rng=3)
        fit(whole, tmp_path / "whole", epochs=6)
        fit(net(), tmp_path / "run", epochs=4)
        newest = Folder(tmp_path / "run").files()[0]
        size = newest.stat().st_size
        os.truncate(newest, int(left * size) if isinstance(left, float) else left)
        with pytest.warns(RuntimeWarning, match=r"000000000012.npz is damaged, .*; going back to the one before it"):
            fit(again, tmp_path / "run", epochs=6, resume=True)
        assert_same(again, whole)

    def test_nothing_readable(self, tmp_path):
        fit(net(), tmp_path)
        for path in tmp_path.iterdir():
            path.write_bytes(b"nonsense")
        made, untouched = net(), net()
        with pytest.warns(RuntimeWarning), pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read: "):
            fit(made, tmp_path, resume=True)
        assert_same(made, untouched)


class TestForeign:
    @pytest.fixture
    def good(self, tmp_path):
        fit(net(), tmp_path)
        return Folder(tmp_path).files()[0]

    def refused(self, path, match="damaged|no checkpoint"):
        with pytest.raises(CheckpointError, match=match) as error:
            read(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)

    def test_other_files(self, tmp_path):
        path = tmp_path / "checkpoint-000000000001.npz"
        np.savez(path, a=np.ones(3))
        self.refused(path, "is no checkpoint of backprop_xp")
        np.savez(path, state=np.frombuffer(json.dumps({"format": "other"}).encode(), np.uint8))
        self.refused(path, "is no checkpoint of this version of backprop_xp")
        with open(path, "wb") as file:
            np.save(file, np.ones(3))
        self.refused(path)
        path.unlink()
        self.refused(path, "can't be read: No such file")
        path.mkdir()
        self.refused(path, "can't be read: a folder stands there")
        path.rmdir()
        os.mkfifo(path)
        self.refused(path, "can't be read: a pipe stands there")  # and nobody waits for what it says

    def test_a_pickle_is_not_read(self, tmp_path, good):
        class Hostile:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "owned"),)

        path = tmp_path / "checkpoint-000000000099.npz"
        path.write_bytes(pickle.dumps(Hostile()))
        self.refused(path)
        with np.load(good) as file:
            content = dict(file)
        np.savez(path, **content, extra=np.array([Hostile()], object))
        self.refused(path)
        assert not (tmp_path / "owned").exists()

    def test_a_bomb_is_not_unpacked(self, tmp_path, good):
        path = tmp_path / "checkpoint-000000000099.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            with np.load(good) as file:
                archive.writestr("state.npy", zipfile.ZipFile(good).read("state.npy"))
                assert "state" in file
            archive.writestr("parameters.npy", bytes(1 << 28))
        self.refused(path, "it is packed, and these never are")

    @given(drawn=st.data())
    def test_damage_is_seen(self, drawn, tmp_path_factory):
        """Whatever bytes are changed, the file is refused or gives what was written."""
        content = self.content(tmp_path_factory)
        damaged = bytearray(content)
        for _ in range(drawn.draw(st.integers(1, 4))):
            damaged[drawn.draw(st.integers(0, len(content) - 1))] = drawn.draw(st.integers(0, 255))
        path = tmp_path_factory.getbasetemp() / "checkpoint-000000000009.npz"
        path.write_bytes(content)
        expected = read(path)
        path.write_bytes(damaged)
        try:
            found = read(path)
        except CheckpointError:
            return
        for name, array in found.arrays.items():
            if name in expected.arrays:
                np.testing.assert_array_equal(array, expected.arrays[name])

    def content(self, tmp_path_factory, _kept=[]):  # noqa: B006
        if not _kept:
            folder = tmp_path_factory.mktemp("good")
            x = np.ones((20, 3))
            net().fit(x, x[:, :2], checkpoint=folder)
            _kept.append(Folder(folder).files()[0].read_bytes())
        return _kept[0]

    def test_edited_by_hand(self, tmp_path):
        """Whatever stands in the place of any value: one sentence and an untouched net, or a run that ends."""
        folder, graph = tmp_path / "run", run_of_everything
        graph(folder)
        good = read(Folder(folder).files()[0])
        values = [None, "x", True, -1, 0, 1.5, 1e300, 10**400, float("nan"), [], {}]
        refused = 0
        for place in places(good.state):
            for value in values:
                state = json.loads(json.dumps(good.state))
                put(state, place, value)
                for path in folder.iterdir():
                    path.unlink()
                write(folder / "checkpoint-000000000012.npz", state, good.arrays)
                try:
                    graph(folder, epochs=4, resume=True)
                except (CheckpointError, DivergedError) as error:  # the latter of a huge learning rate
                    refused += 1
                    assert "\n" not in str(error)
        assert refused > 6 * len(list(places(good.state)))

    @pytest.mark.parametrize(
        "place, value, message",
        [
            (["position"], 4, "after 12 steps a run can't be at position 4 of epoch 3"),
            (["position"], 9**40, "after 12 steps a run can't be at position"),
            (["epoch"], 2, "after 12 steps a run can't be at position 0 of epoch 2"),
            (["step"], -1, "damaged, or no checkpoint"),
            (["total"], 10**400, "total must be a number, got 1000"),
            (["weight"], "0", "weight must be a number, got '0'"),
            (["optimiser_steps"], 0, "optimiser_steps must be an integer from 12 to "),
            (["optimiser", "lr"], "fast", "lr of Adam can't be 'fast'"),
            (["optimiser", "betas"], [0.9, 1.0], "betas of Adam must be two numbers from 0 to below 1"),
            (["optimiser", "amsgrad"], 1, "amsgrad of Adam can't be 1"),
            (["history", "epochs", 1, "number"], 7, "the number of an epoch must be an integer from 2 to 2, got 7"),
            (["history", "stopped"], None, "stopped must be a text, got None"),
            (["history", "best"], 9, "best must be an integer from 1 to 3, got 9"),
            (["stopping", 0], 0, "the best epoch must be an integer from 1 to 3, got 0"),
            (["stopping", 2], 1.5, "waited must be an integer from 0 to 3, got 1.5"),
            (["stopping"], [1], "damaged, or no checkpoint of this net: "),
        ],
    )
    def test_a_wrong_value_is_named(self, tmp_path, place, value, message):
        run_of_everything(tmp_path)
        good = read(Folder(tmp_path).files()[0])
        for path in tmp_path.iterdir():
            path.unlink()
        put(good.state, place, value)
        write(tmp_path / "checkpoint-000000000012.npz", good.state, good.arrays)
        made = net(rng=9)
        with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
            run_of_everything(tmp_path, made, epochs=4, resume=True)
        assert "\n" not in str(caught.value)
        assert_same(made, net(rng=9))

    @pytest.mark.parametrize("change", ["shape", "dtype", "missing", "state"])
    def test_content_that_does_not_fit(self, good, change):
        found = read(good)
        arrays, state = dict(found.arrays), dict(found.state)
        if change == "shape":
            arrays["parameters"] = arrays["parameters"][:-1]
        elif change == "dtype":
            arrays["optimiser.mean"] = arrays["optimiser.mean"].astype(np.float32)
        elif change == "missing":
            del arrays["optimiser.square"]
        else:
            state["epoch"] = None
        Folder(good.parent).write(99, arrays, state)
        made, untouched = net(), net()
        with pytest.raises(CheckpointError, match=r"000000000099.npz is damaged, or no checkpoint of this net"):
            fit(made, good.parent, resume=True)
        assert_same(made, untouched)


def run_of_everything(folder, made=None, **options):
    """Twelve steps, or more, whose checkpoint has a value of every kind."""
    x, y = data()
    settings = {"epochs": 3, "batch_size": 16, "early_stopping": 5, "seed": None, "schedule": lambda step: RATES[step]}
    settings |= {"validation": (x, y), "clip_norm": 1.0, "checkpoint": folder}
    return (made or net()).fit(x, y, **settings | options)


RATES = [1.0] * 16


def places(state, before=()):
    """The way to every value of a description, lists and mappings included."""
    inner = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    for key, value in inner:
        yield [*before, key]
        yield from places(value, (*before, key))


def put(state, place, value):
    for key in place[:-1]:
        state = state[key]
    state[place[-1]] = value


def write(path, state, arrays):
    np.savez(path, state=np.frombuffer(json.dumps(state).encode(), np.uint8), **arrays)

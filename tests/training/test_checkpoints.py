"""Disks that are full, and files that are not what they should be."""

from __future__ import annotations

import json
import os
import pickle
import re
import textwrap
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import assert_same, data, finish, fit, names, net

from backprop_xp.training import CheckpointError
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
        path.write_text("mine")
        with pytest.raises(CheckpointError, match=r"checkpoints can't be written to .*file: "):
            fit(net(), path)
        assert path.read_text() == "mine"

    def test_a_folder_that_can_not_be_written_to(self):
        # whoever runs this, root included, may write nothing there
        with pytest.raises(CheckpointError, match=r"checkpoints can't be written to /proc/1/checkpoints: "):
            fit(net(), "/proc/1/checkpoints")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
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

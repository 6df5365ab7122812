"""Files are written whole or not at all, and what a path names stays what it is."""

import os
import re
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from backprop_xp.bench import report
from here import IS_ROOT

from backprop_xp import Net, files
from backprop_xp.exchange import to_onnx
from backprop_xp.files import TEMPORARY, check_outputs, replacing, same_file
from backprop_xp.training.checkpoints import Folder


def write(path, content=b"new"):
    with replacing(path) as file:
        file.write(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


MADE = {"a folder": Path.mkdir, "a pipe": os.mkfifo, "a socket": a_socket}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current one, since sockets take short names only."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestWhatStandsThere:
    @pytest.mark.parametrize("link", [False, True])
    @pytest.mark.parametrize("what", MADE)
    def test_no_regular_file_is_refused_and_stays(self, folder, what, link):
        MADE[what](Path("it"))
        before = os.stat("it")
        path = "it"
        if link:
            os.symlink("it", path := "link")
        for attempt in (write, lambda path: check_outputs({"--model": path})):
            with pytest.raises(OSError, match=f"{what} stands there, and only regular files are written: '{path}'"):
                attempt(path)
        assert (os.stat("it").st_ino, os.stat("it").st_mode) == (before.st_ino, before.st_mode)
        assert not any(name.startswith(TEMPORARY) for name in os.listdir())

    def test_a_pipe_behind_a_descriptor(self):
        reader, writer = os.pipe()
        with pytest.raises(OSError, match="a pipe stands there"):
            write(f"/proc/self/fd/{writer}")
        os.close(reader)
        os.close(writer)

    def test_a_file_that_has_no_name_any_more(self, folder):
        with open("gone", "wb") as file:
            os.unlink("gone")
            with pytest.raises(FileNotFoundError, match="has no name any more"):
                write(f"/proc/self/fd/{file.fileno()}")
        assert names(folder) == []

    @pytest.mark.parametrize("path, reason", [("", "names no file"), ("none/", "names no file"), ("a/../b/", "no")])
    def test_names_of_no_file(self, folder, path, reason):
        with pytest.raises(OSError, match=reason):
            write(path)
        assert names(folder) == []

    @pytest.mark.parametrize("path", ["none/m", "none/none/m", "file/m"])
    def test_no_such_folder_is_said_with_the_users_path(self, folder, path):
        Path("file").touch()
        with pytest.raises(OSError, match=re.escape(repr(path))) as error:
            write(path)
        assert TEMPORARY not in str(error.value)
        assert names(folder) == ["file"]

    def test_a_write_protected_file_is_refused(self, folder, monkeypatch):
        Path("it").write_bytes(b"old")
        monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # root may write everywhere
        with pytest.raises(PermissionError, match="write-protected: 'it'"):
            write("it")
        assert Path("it").read_bytes() == b"old"

    @pytest.mark.skipif(IS_ROOT, reason="root writes everywhere")
    def test_a_read_only_folder(self, folder):
        folder.chmod(0o500)
        with pytest.raises(PermissionError, match="its folder takes no new file: Permission denied: 'it'"):
            write("it")
        folder.chmod(0o700)

    def test_a_folder_without_room(self, folder, monkeypatch):
        def full(path, *arguments):
            raise OSError(28, "No space left on device", path)

        with monkeypatch.context() as patched, pytest.raises(OSError, match=r"its folder takes no new file: .*: 'it'"):
            patched.setattr("os.open", full)
            write("it")
        assert names(folder) == []


class TestLinks:
    def test_a_link_is_followed_to_its_file(self, folder):
        Path("kept").mkdir()
        Path("kept/it").write_bytes(b"old")
        os.symlink("kept/it", "first")
        os.symlink("first", "second")
        write("second")
        assert Path("kept/it").read_bytes() == b"new"
        assert os.readlink("second") == "first" and os.readlink("first") == "kept/it"
        assert names(folder / "kept") == ["it"]

    def test_a_dangling_link_makes_its_file(self, folder):
        os.symlink("it", "link")
        write("link")
        assert Path("it").read_bytes() == b"new" and os.path.islink("link")

    @pytest.mark.parametrize("target", ["link", "none/it"])
    def test_links_to_nowhere(self, folder, target):
        os.symlink(target, "link")
        with pytest.raises(OSError, match="'link'"):
            write("link")
        assert os.readlink("link") == target
        assert names(folder) == ["link"]

    def test_hard_links_stay_links(self, folder):
        for old, new in ((b"old, and longer", b"new"), (b"old", b"new, and longer"), (b"", b"new"), (b"old", b"")):
            Path("a").write_bytes(old)
            if not Path("b").exists():
                os.link("a", "b")
            write("a", new)
            assert Path("b").read_bytes() == new
            assert os.path.samefile("a", "b")
        assert names(folder) == ["a", "b"]

    def test_a_file_of_several_names_gets_its_content_back(self, folder, monkeypatch):
        Path("a").write_bytes(b"old")
        os.link("a", "b")
        calls = []

        def interrupted(handle):
            calls.append(handle)
            if len(calls) == 2:  # the first is of the new content, the second of the old file
                raise KeyboardInterrupt

        monkeypatch.setattr("os.fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write("a", b"new, and longer")
        assert Path("b").read_bytes() == b"old"
        assert names(folder) == ["a", "b"]

    def test_an_owner_that_can_not_be_kept_keeps_the_file(self, folder, monkeypatch):
        Path("a").write_bytes(b"old")
        before, real = os.stat("a"), os.stat

        def another(path, **options):
            state = real(path, **options)
            if os.path.basename(path).startswith(TEMPORARY):
                state = os.stat_result((*state[:4], state.st_uid + 1, *state[5:]))
            return state

        monkeypatch.setattr("os.stat", another)
        monkeypatch.setattr("os.chown", lambda *arguments: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
        write("a")
        assert Path("a").read_bytes() == b"new"
        assert real("a").st_ino == before.st_ino


class TestModes:
    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o666, 0o200])
    @pytest.mark.parametrize("links", [1, 2])
    def test_a_file_keeps_its_mode(self, folder, mode, links):
        if mode == 0o200 and links == 2 and not IS_ROOT:
            pytest.skip("what can't be read can't be put back")
        Path("it").touch()
        if links == 2:
            os.link("it", "other")
        Path("it").chmod(mode)
        write("it")
        assert stat.S_IMODE(os.stat("it").st_mode) == mode

    @pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
    def test_a_new_file_has_the_usual_one(self, folder, mask):
        before = os.umask(mask)
        try:
            write("it")
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat("it").st_mode) == 0o666 & ~mask

    def test_what_is_private_is_so_while_it_is_written(self, folder):
        Path("it").touch(mode=0o600)
        with replacing("it") as file:
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600


class TestFailures:
    @pytest.mark.parametrize("there", [False, True])
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
    def test_an_error_in_the_block_leaves_everything_as_it_was(self, folder, error, there):
        if there:
            Path("it").write_bytes(b"old")
        with pytest.raises(error), replacing("it") as file:
            file.write(b"half")
            raise error
        assert names(folder) == (["it"] if there else [])
        assert not there or Path("it").read_bytes() == b"old"

    @pytest.mark.parametrize("call", ["os.fsync", "os.replace"])
    def test_an_error_of_the_system_names_the_users_path(self, folder, monkeypatch, call):
        Path("it").write_bytes(b"old")

        def full(*arguments):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left on device: 'it'"):
            patched.setattr(call, full)
            write("it")
        assert Path("it").read_bytes() == b"old"
        assert names(folder) == ["it"]

    @pytest.mark.parametrize("links", [1, 2])
    def test_a_full_disk(self, folder, links):
        """A limit on the size of files, which the system reports as it does a full disk."""
        Path("it").write_bytes(b"old" * 300)
        if links == 2:
            os.link("it", "other")
        code = textwrap.dedent(
            """
            import resource
            from backprop_xp.files import replacing
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            try:
                with replacing("it") as file:
                    file.write(b"new" * 3000)
            except OSError as error:
                print(error)
            """
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.stdout == "[Errno 27] File too large: 'it'\n", result.stderr
        assert Path("it").read_bytes() == b"old" * 300
        assert not any(name.startswith(TEMPORARY) for name in names(folder))

    @pytest.mark.parametrize("letter", ["m", "\N{LATIN SMALL LETTER U WITH DIAERESIS}", "\N{GRINNING FACE}"])
    def test_the_longest_name_there_is(self, folder, letter):
        name = letter * (255 // len(letter.encode()))
        write(name)
        assert Path(name).read_bytes() == b"new"
        with pytest.raises(OSError, match="too long"):
            write(name + letter)
        assert names(folder) == [name]


class TestOutputs:
    def test_what_can_be_written_is_left_alone(self, folder):
        Path("old").write_bytes(b"old")
        before = os.stat("old")
        check_outputs({"--model": "new", "--plot": "old"}, {"--data": "none"})
        assert names(folder) == ["old"]
        assert os.stat("old") == before

    @pytest.mark.parametrize(
        "output", ["data", "./data", "sub/../data", "link", "hard", "sub/link", "{here}/data", "sub/folder/data"]
    )
    def test_inputs_are_never_outputs(self, folder, output):
        Path("data").write_bytes(b"mine")
        Path("sub").mkdir()
        os.symlink("data", "link")
        os.symlink("../link", "sub/link")
        os.symlink("..", "sub/folder")
        os.link("data", "hard")
        with pytest.raises(ValueError, match=r"--model would write over --data: .* and data are one file"):
            check_outputs({"--plot": "p", "--model": output.format(here=folder)}, {"--data": "data"})

    @pytest.mark.parametrize("other", ["m", "./m", "link"])
    def test_two_outputs_are_two_files(self, folder, other):
        os.symlink("m", "link")
        with pytest.raises(ValueError, match="--plot would write over --model"):
            check_outputs({"--model": "m", "--plot": other})
        assert names(folder) == ["link"]

    def test_files_that_differ(self, folder):
        Path("a").touch()
        assert not same_file("a", "b") and not same_file("b", "a") and not same_file("b", "c")
        assert same_file("b", "./b")


def net():
    return Net((2, 1), rng=0, backend="numpy")


WRITERS = {
    "save": lambda path: net().save(path),
    "to_onnx": lambda path: to_onnx(net(), path),
    "checkpoint": lambda path: Folder(path.parent).write(1, {"weights": np.ones(9)}, {}),
    "report": lambda path: report.replace_file(path, b"x" * 200),
}


@pytest.mark.parametrize("writer", WRITERS)
class TestEveryWriter:
    NAME = "checkpoint-000000000001.npz"

    def test_keeps_links_and_modes(self, writer, tmp_path):
        (tmp_path / "target").touch(mode=0o600)
        os.symlink("target", tmp_path / self.NAME)
        WRITERS[writer](tmp_path / self.NAME)
        assert names(tmp_path) == [self.NAME, "target"]
        assert os.path.islink(tmp_path / self.NAME)
        assert stat.S_IMODE(os.stat(tmp_path / "target").st_mode) == 0o600
        assert os.path.getsize(tmp_path / "target") > 100

    def test_refuses_a_pipe(self, writer, tmp_path):
        os.mkfifo(tmp_path / self.NAME)
        with pytest.raises((OSError, RuntimeError), match="a pipe stands there"):
            WRITERS[writer](tmp_path / self.NAME)
        assert names(tmp_path) == [self.NAME]
        assert stat.S_ISFIFO(os.stat(tmp_path / self.NAME).st_mode)


def test_there_is_one_place_where_files_are_written():
    """Elsewhere only what nobody keeps: in folders of their own that are deleted again."""
    package = Path(files.__file__).parent
    for path in (*package.rglob("*.py"), *(package.parent / "bench").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.name in ("files.py", "machine_code.py", "memory.py", "stages.py") or "savez(file" in text:
            continue
        found = re.findall(r"os\.replace|os\.rename|mkstemp|write_bytes\(|open\((?!os.devnull)[^)\n]*, \"[wxa]", text)
        assert not found, (path, found)


def test_what_is_there_can_be_kept(tmp_path):
    write(tmp_path / "old", b"old")
    check_outputs({"--a": tmp_path / "new"}, replace=False)
    with pytest.raises(FileExistsError, match="this file is there already; --force writes over it"):
        check_outputs({"--a": tmp_path / "new", "--b": tmp_path / "old"}, replace=False)
    check_outputs({"--a": tmp_path / "old"})
    assert names(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == b"old"


def test_nothing_is_written_into_a_folder_that_is_read(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write(folder / "deep" / "x")
    os.link(folder / "deep" / "x", tmp_path / "hard")
    os.symlink(folder, tmp_path / "soft")
    for path in ("in/new", "in/deep/x", "in/deep/new", "hard", "soft/new", "in/../in/y"):
        with pytest.raises(ValueError, match="--a would write into the data"):
            check_outputs({"--a": tmp_path / path}, {"the data": folder})
    check_outputs({"--a": tmp_path / "inside"}, {"the data": folder})

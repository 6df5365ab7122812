"""The cache of compiled kernels, on the machine's real compiler."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from here import IS_ROOT

from backprop_xp import Net, engines, environment
from backprop_xp.toolchain import cache, compiler
from backprop_xp.toolchain.compiler import CompileError

SOURCE = '#define OUT extern "C" __attribute__((visibility("default")))\nOUT int answer() { return 42; }\n'


def has_compiler() -> bool:
    try:
        compiler.find()
    except CompileError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler on this machine")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache, and no memory of what was loaded."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BACKPROP_XP_CACHE", str(folder))
    monkeypatch.setattr(cache, "_loaded", {})
    cache._private.cache_clear()
    yield folder
    cache._private.cache_clear()


def build_count(monkeypatch) -> list[str]:
    """The names of what the compiler is called for from here on."""
    calls: list[str] = []
    original = compiler.Compiler.build

    def build(self, source, target, what):
        calls.append(what)
        original(self, source, target, what)

    monkeypatch.setattr(compiler.Compiler, "build", build)
    return calls


@needs_compiler
class TestCache:
    def test_compiles_once_and_finds_it_again(self, home, monkeypatch):
        calls = build_count(monkeypatch)
        assert cache.library(SOURCE, "a test").answer() == 42
        assert cache.library(SOURCE, "a test").answer() == 42
        cache._loaded.clear()  # as a new process would
        assert cache.library(SOURCE, "a test").answer() == 42
        assert calls == ["a test"]

    def test_folder_is_private_and_holds_only_kernels(self, home):
        cache.library(SOURCE, "a test")
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert [path.suffix for path in home.iterdir()] == [".kernel"]
        assert cache.size()[0] == 1
        assert cache.size()[1] > 100

    def test_another_source_is_another_file(self, home):
        cache.library(SOURCE, "a test")
        assert cache.library(SOURCE.replace("42", "43"), "a test").answer() == 43
        assert cache.size()[0] == 2

    def test_clear_leaves_other_files(self, home):
        cache.library(SOURCE, "a test")
        (home / "mine.txt").write_text("keep", encoding="utf-8")
        assert cache.clear() == 1
        assert cache.size() == (0, 0)
        assert (home / "mine.txt").exists()

    @pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
    def test_a_damaged_file_is_compiled_again(self, home, damage):
        cache.library(SOURCE, "a test")
        (path,) = home.glob("*.kernel")
        content = path.read_bytes()
        path.unlink()  # the loaded file stays mapped as it was
        if damage == "flip":
            content = content[:2000] + bytes([content[2000] ^ 1]) + content[2001:]
        path.write_bytes({"truncate": content[: len(content) // 2], "empty": b"", "flip": content}[damage])
        cache._loaded.clear()
        with pytest.warns(RuntimeWarning, match="is damaged and is compiled again"):
            assert cache.library(SOURCE, "a test").answer() == 42

    def test_an_error_of_the_compiler_is_one_sentence_and_not_tried_again(self, home, monkeypatch):
        calls = build_count(monkeypatch)
        for _ in range(2):
            with pytest.raises(CompileError, match=r"failed: .*error"):
                cache.library("this is no C++", "a test")
        assert len(calls) == 1
        assert not list(home.iterdir())

    @pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
    def test_a_read_only_folder(self, home):
        home.mkdir(mode=0o500)
        with pytest.warns(RuntimeWarning, match="compiled kernels are not kept"):
            assert cache.library(SOURCE, "a test").answer() == 42

    def test_a_folder_that_others_can_write_is_not_used(self, home):
        home.mkdir()
        home.chmod(0o777)
        with pytest.warns(RuntimeWarning, match="can be written by, somebody else"):
            assert cache.library(SOURCE, "a test").answer() == 42
        assert not list(home.iterdir())

    def test_a_file_where_the_folder_should_be(self, home):
        home.write_text("", encoding="utf-8")
        with pytest.warns(RuntimeWarning, match="compiled kernels are not kept"):
            assert cache.library(SOURCE, "a test").answer() == 42

    def test_a_full_disk(self, home, monkeypatch):
        def full(handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(CompileError, match=r"can't be written to .*No space left on device"):
            cache.library(SOURCE, "a test")
        assert not list(home.iterdir())

    def test_another_keys_file_is_refused(self, home):
        """A file of whichever name is loaded for the source that it was compiled from, and for no other."""
        cache.library(SOURCE, "a test")
        (mine,) = home.glob("*.kernel")
        other = SOURCE.replace("42", "43")
        cache.library(other, "a test")
        (others,) = set(home.glob("*.kernel")) - {mine}
        others.unlink()
        shutil.copy(mine, others)
        cache._loaded.clear()
        with pytest.warns(RuntimeWarning, match="is damaged and is compiled again"):
            assert cache.library(other, "a test").answer() == 43

    @pytest.mark.parametrize("what", ["a pipe", "a socket", "a folder", "a link to a pipe"])
    def test_no_regular_file_in_its_place_is_opened_or_replaced(self, home, what, monkeypatch):
        cache.library(SOURCE, "a test")
        (path,) = home.glob("*.kernel")
        path.unlink()
        monkeypatch.chdir(home)  # a socket's name must be short
        if what == "a folder":
            path.mkdir()
        elif what == "a socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        elif what == "a pipe":
            os.mkfifo(path)
        else:
            os.mkfifo("pipe")
            path.symlink_to("pipe")
        before = path.lstat()
        cache._loaded.clear()
        with pytest.raises(CompileError, match=f"{what.split(' to ')[-1]} stands there"):
            cache.library(SOURCE, "a test")
        assert path.lstat() == before
        assert not list(home.glob("building-*"))

    def test_a_file_too_large_is_not_read(self, home):
        cache.library(SOURCE, "a test")
        (path,) = home.glob("*.kernel")
        path.unlink()
        path.touch()
        os.truncate(path, 1 << 40)  # of zeros that take no room
        cache._loaded.clear()
        with pytest.warns(RuntimeWarning, match="is damaged and is compiled again"):
            assert cache.library(SOURCE, "a test").answer() == 42
        assert path.stat().st_size < 1 << 20

    @pytest.mark.parametrize("name", [".", "-dash", "--", "@file", "a b\nc", "sub/../x", "\udcff"])
    def test_any_name_of_a_folder(self, home, name, monkeypatch):
        home.mkdir()
        monkeypatch.chdir(home)
        monkeypatch.setenv("BACKPROP_XP_CACHE", name)
        calls = build_count(monkeypatch)
        for _ in range(2):
            cache._loaded.clear()
            assert cache.library(SOURCE, "a test").answer() == 42
        assert len(calls) == 1
        assert [path.suffix for path in Path(home, name).iterdir() if path.is_file()] == [".kernel"]

    def test_a_compiler_whose_name_is_no_text(self, home, tmp_path, monkeypatch):
        script = tmp_path / "g++\udcff"
        script.symlink_to(compiler.find().command[0])
        monkeypatch.setenv("CXX", f"'{script}'")
        assert cache.library(SOURCE, "a test").answer() == 42

    def test_nobody_without_a_home(self, home, monkeypatch):
        def nowhere():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("BACKPROP_XP_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", nowhere)
        with pytest.warns(RuntimeWarning, match="compiled kernels are not kept: .*no home folder; BACKPROP_XP_CACHE"):
            assert cache.library(SOURCE, "a test").answer() == 42
        assert cache.describe() == "none: there is no home folder; BACKPROP_XP_CACHE can name another"
        assert cache.size() == (0, 0)

    def test_a_relative_folder_for_all_caches_is_ignored(self, home, monkeypatch, tmp_path):
        monkeypatch.delenv("BACKPROP_XP_CACHE")
        monkeypatch.setenv("HOME", str(tmp_path))
        for base, expected in (("relative", tmp_path / ".cache"), ("", tmp_path / ".cache"), (str(home), home)):
            monkeypatch.setenv("XDG_CACHE_HOME", base)
            assert cache.folder() == expected / "backprop_xp"

    def test_a_system_without_users(self, home, monkeypatch):
        for name in ("geteuid", "getuid", "chown", "fchmod"):
            monkeypatch.delattr(os, name)
        assert cache.library(SOURCE, "a test").answer() == 42
        assert cache.size()[0] == 1

    def test_a_temporary_folder_that_is_not_there(self, home, monkeypatch, tmp_path):
        monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
        monkeypatch.setattr(tempfile, "tempdir", None)
        assert cache.library(SOURCE, "a test").answer() == 42

    def test_many_processes_on_an_empty_cache(self, home):
        program = textwrap.dedent(f"""
            from backprop_xp.toolchain import cache
            assert cache.library({SOURCE!r}, "a test").answer() == 42
        """)
        running = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(6)]
        for process in running:
            error = process.communicate(timeout=120)[1]
            assert process.returncode == 0, error
        assert cache.size()[0] == 1


class TestCompiler:
    @needs_compiler
    def test_finds_one_and_its_version(self):
        found = compiler.find()
        assert Path(found.command[0]).exists()
        assert found.version
        assert not any("fast-math" in flag or "finite-math" in flag for flag in found.flags)

    def test_none_on_the_path(self, monkeypatch, tmp_path):
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(compiler, "WHEEL", "no_such_package")
        with pytest.raises(CompileError, match=r"no C\+\+ compiler was found \(none of g\+\+.*backprop-xp\[compiler\]"):
            compiler.find()

    def test_cxx_that_does_not_exist(self, monkeypatch):
        monkeypatch.setenv("CXX", "/nonexistent")
        with pytest.raises(CompileError, match="CXX is '/nonexistent'"):
            compiler.find()

    def test_cxx_is_no_shell_command(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CXX", f"g++; touch {tmp_path}/owned")
        with pytest.raises(CompileError):
            compiler.find()
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("cxx", ['"', "'", "\\", "g++ 'x", "''", '"" -O2', "/", "#"])
    def test_cxx_that_is_no_command(self, monkeypatch, cxx):
        monkeypatch.setenv("CXX", cxx)
        with pytest.raises(CompileError, match=r"\$CXX is "):
            compiler.find()
        assert "$CXX is" in compiler.missing()
        net, x = Net((3, 2), backend="numpy", rng=0), np.ones((500, 3))
        engines.warn_uncompiled.cache_clear()
        with pytest.warns(UserWarning, match=r"without compiled kernels, which is slower: .*\$CXX is"):
            net.loss_and_grad(x)

    @needs_compiler
    @pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400", "abc", "-1", "0", "-0.0", "1,5", " ", ""])
    def test_a_time_limit_that_is_none(self, monkeypatch, home, text):
        monkeypatch.setenv("BACKPROP_XP_COMPILE_TIMEOUT", text)
        environment._parsed.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert cache.library(SOURCE, "a test").answer() == 42
            assert cache.library(SOURCE.replace("42", "43"), "a test").answer() == 43
        said = [str(warning.message) for warning in caught]
        assert len(said) == (1 if text.strip() else 0)
        assert all("BACKPROP_XP_COMPILE_TIMEOUT must be seconds, above 0" in sentence for sentence in said)

    @needs_compiler
    @pytest.mark.parametrize("refused", [("-march=native",), compiler.OPTIONAL])
    def test_flags_that_a_compiler_refuses_are_left_out(self, monkeypatch, tmp_path, home, refused):
        script, real = tmp_path / "picky", compiler.find().command[0]
        cases = " ".join(f"*{flag}*) echo unhappy; exit 1;;" for flag in refused)
        script.write_text(f'#!/bin/sh\ncase "$*" in {cases} esac\nexec {real} "$@"\n', encoding="utf-8")
        script.chmod(0o700)
        monkeypatch.setenv("CXX", str(script))
        with pytest.warns(RuntimeWarning, match="picky takes no -march=native.*: kernels are compiled without"):
            assert cache.library(SOURCE, "a test").answer() == 42
        net, x = Net((3, 2), backend="numpy", rng=0, engine="fused"), np.ones(3)
        plain = net.loss_and_grad(x)
        net.engine = "layered"
        np.testing.assert_allclose(net.loss_and_grad(x), plain)
        with pytest.raises(CompileError, match=r"failed: .*error"):  # not for another reason
            cache.library("this is no C++", "a test")

    @needs_compiler
    def test_cxx_with_arguments(self, monkeypatch, home):
        monkeypatch.setenv("CXX", f"{compiler.find().command[0]} -DVALUE=7")
        source = SOURCE.replace("42", "VALUE")
        assert cache.library(source, "a test").answer() == 7

    def test_a_compiler_that_hangs_is_ended(self, monkeypatch, tmp_path, home):
        script = tmp_path / "slow"
        script.write_text('#!/bin/sh\n[ "$1" = --version ] && { echo slow 1; exit 0; }\nsleep 600\n', encoding="utf-8")
        script.chmod(0o700)
        monkeypatch.setenv("CXX", str(script))
        monkeypatch.setenv("BACKPROP_XP_COMPILE_TIMEOUT", "1")
        with pytest.raises(CompileError, match="did not finish within 1 seconds"):
            cache.library(SOURCE, "a test")

    def test_a_slow_compilation_is_announced(self, monkeypatch, tmp_path, home, capsys):
        real = shutil.which("g++")
        if real is None:
            pytest.skip("no g++")
        script = tmp_path / "slow"
        script.write_text(f'#!/bin/sh\n[ "$1" = --version ] || sleep 1\nexec {real} "$@"\n', encoding="utf-8")
        script.chmod(0o700)
        monkeypatch.setenv("CXX", str(script))
        assert cache.library(SOURCE, "the net 5-10").answer() == 42
        assert "compiling the net 5-10" in capsys.readouterr().err


def test_warnings_of_the_cache_are_runtime_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.size()

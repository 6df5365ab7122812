"""Folders in which kernels are built: those of living processes stay, leftovers go."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from backprop_xp.toolchain import building, cache

pytestmark = pytest.mark.skipif(building.flock is None, reason="no file locks here")


def test_it_is_there_within_the_block_and_gone_after_it_and_after_an_error(tmp_path):
    with building.folder(tmp_path) as made:
        (made / "file").write_text("", encoding="utf-8")
        assert made.parent == tmp_path
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), building.folder(tmp_path):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_leftovers_go_with_the_next_build_and_those_in_use_stay(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from backprop_xp.toolchain import building;"
        "held = building.folder(Path(sys.argv[1])); held.__enter__(); os._exit(9)"
    )
    with building.folder(tmp_path) as mine:
        subprocess.run([sys.executable, "-c", program, str(tmp_path)])
        assert len(list(tmp_path.iterdir())) == 2
        with building.folder(tmp_path) as other:
            assert sorted(tmp_path.iterdir()) == sorted([mine, other])


def test_clearing_the_cache_takes_leftovers_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKPROP_XP_CACHE", str(tmp_path))
    left, elsewhere = tmp_path / "building-x", tmp_path / "elsewhere"
    left.mkdir()
    (left / "kernel.cpp").write_text("", encoding="utf-8")
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("", encoding="utf-8")
    (tmp_path / "building-file").write_text("", encoding="utf-8")
    os.symlink(elsewhere, tmp_path / "building-link")
    assert cache.clear() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["building-file", "building-link", "elsewhere"]
    assert (elsewhere / "mine").exists()


def test_many_at_once_never_take_anothers_for_a_leftover(tmp_path):
    def build(_):
        for _ in range(40):
            with building.folder(tmp_path) as made:
                (made / "file").write_text("", encoding="utf-8")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(build, range(4)))
    assert not list(tmp_path.iterdir())

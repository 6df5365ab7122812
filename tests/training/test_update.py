"""Formulas that overwrite their variables: compiled, by NumPy, on any number of elements."""

import subprocess
import sys

import numpy as np
import pytest

from backprop_xp.formulas import Formula
from backprop_xp.toolchain import cache
from backprop_xp.training import update
from backprop_xp.training.update import Update

SPECIALS = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-310]
SWAP = Formula(("a", "b", "c"), ("s",), {"d": "a - s * b"}, {"b": "a", "a": "d + c"})


def arrays(n, dtype):
    random = np.random.default_rng(n)
    made = {name: random.normal(size=n).astype(dtype) for name in "abc"}
    made["a"][: len(SPECIALS)] = SPECIALS[:n]
    return made


def check(n, dtype):
    given = arrays(n, dtype)
    before = {name: array.copy() for name, array in given.items()}
    run = Update(SWAP, given, "a test")
    for s in (0.5, -2.0):
        run([s])
        with np.errstate(all="ignore"):
            a = before["a"] - dtype(s) * before["b"] + before["c"]
        before["b"], before["a"] = before["a"], a
        for name in "abc":
            eps = np.finfo(dtype).eps
            np.testing.assert_allclose(given[name], before[name], rtol=64 * eps, atol=64 * eps)
            before[name] = given[name].copy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compiled", [True, False])
def test_every_length(dtype, compiled, monkeypatch):
    """Each new value comes from old ones alone, and nothing behind the arrays is touched."""
    if not compiled:
        monkeypatch.setenv("CXX", "/nonexistent")
        monkeypatch.setattr(cache, "_loaded", {})
    for n in (0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 130, 1000):
        check(n, dtype)


def test_on_threads(monkeypatch):
    monkeypatch.setenv("BACKPROP_XP_NUM_THREADS", "3")
    check(update.LARGE - 1, np.float64)
    check(update.LARGE, np.float64)
    check(5 * update.SPAN + update.LARGE + 7, np.float32)


def test_neighbours_in_memory_are_left_alone():
    whole = np.arange(300.0)
    views = {name: whole[100 * k + 30 : 100 * k + 67] for k, name in enumerate("abc")}
    expected = whole.copy()
    Update(SWAP, views, "a test")([0.5])
    for view in views.values():
        view[:] = 0
    for k in range(3):
        expected[100 * k + 30 : 100 * k + 67] = 0
    np.testing.assert_array_equal(whole, expected)


def test_nothing_is_compiled_before_it_is_needed(tmp_path):
    program = """
import numpy as np
from backprop_xp.tensor import Tensor
from backprop_xp.training import Adam
p = Tensor(np.zeros(3))
Adam().bind([p])
import sys
assert "safetensors" not in sys.modules and "tqdm" not in sys.modules and "cupy" not in sys.modules
"""
    environment = {"BACKPROP_XP_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert not (tmp_path / "cache").exists()

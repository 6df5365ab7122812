"""The compiler that comes as a Python package, used where the machine has none."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

from backprop_xp.toolchain import compiler

needs_ziglang = pytest.mark.skipif(
    importlib.util.find_spec(compiler.WHEEL) is None or os.name != "posix",
    reason="the package ziglang is not installed",
)


@pytest.fixture
def no_other(monkeypatch, tmp_path):
    """A machine without a compiler of its own."""
    (tmp_path / "bin").mkdir()
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def install(monkeypatch, folder, program=True):
    """A package of that name whose program does nothing."""
    package = folder / "site" / compiler.WHEEL
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('it was imported')", encoding="utf-8")
    if program:
        (package / "zig").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        (package / "zig").chmod(0o755)
    monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])
    monkeypatch.setattr(compiler.importlib.metadata, "version", lambda name: "1.2")
    importlib.invalidate_caches()
    return package / "zig"


def test_it_is_taken_where_nothing_else_is_there(no_other, monkeypatch):
    zig = install(monkeypatch, no_other)
    found = compiler.find()
    assert (found.command, found.version, found.package) == ((str(zig), "c++"), "ziglang 1.2", "ziglang")
    assert set(compiler.WHEEL_FLAGS) <= set(found.flags) and set(compiler.FLAGS) <= set(found.flags)


@pytest.mark.parametrize("name", compiler.CANDIDATES)
def test_the_machines_own_comes_first(no_other, monkeypatch, name):
    install(monkeypatch, no_other)
    program = no_other / "bin" / name
    program.write_text("#!/bin/sh\necho mine 1\n", encoding="utf-8")
    program.chmod(0o755)
    compiler._find.cache_clear()
    found = compiler.find()
    assert (found.command, found.version, found.package) == ((str(program),), "mine 1", "")
    assert not set(compiler.WHEEL_FLAGS) & set(found.flags)


def test_what_is_asked_for_and_missing_is_not_replaced(no_other, monkeypatch):
    install(monkeypatch, no_other)
    monkeypatch.setenv("CXX", "/nonexistent")
    assert compiler.missing() == "no C++ compiler was found ($CXX is '/nonexistent')"


def test_a_package_without_its_program_is_none(no_other, monkeypatch):
    install(monkeypatch, no_other, program=False)
    assert "pip install 'backprop-xp[compiler]' brings one" in compiler.missing()


PROGRAM = """
import numpy as np
from backprop_xp import Net, cli
from backprop_xp.programs import fused

random = np.random.default_rng(0)
net = Net((5, 10, 4, 12), ("tanh", "sigmoid", "gelu"), dtype="float32", rng=0, init="glorot_normal")
for n in (None, 7, fused.NARROW_SAMPLES + 9):  # a program for each
    x = random.normal(size=(5,) if n is None else (n, 5)).astype(np.float32)
    found = []
    for engine in ("auto", "layered"):
        net.engine = engine
        found.append([net.loss_and_grad(x), *(p.grad for p in net.parameters)])
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
net.engine = "auto"
assert net.plan(x).engine == "fused"
cli.main(["info"])
"""


@needs_ziglang
def test_kernels_of_it_are_right(no_other):
    """One process, so that what is compiled once is compiled once; it keeps to the cache."""
    cache, home = no_other / "cache", no_other / "home"
    home.mkdir()
    variables = {**os.environ, "BACKPROP_XP_CACHE": str(cache), "HOME": str(home), "BACKPROP_XP_COMPILE_TIMEOUT": "500"}
    variables.pop("XDG_CACHE_HOME", None)
    program = "import warnings; warnings.simplefilter('error')\n" + textwrap.dedent(PROGRAM)
    result = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "c++, ziglang " in result.stdout and ", of the package ziglang\n" in result.stdout
    assert list(home.iterdir()) == []
    assert {path.suffix for path in cache.iterdir()} == {".kernel", ""}  # and the folder that it keeps for itself
    cleared = subprocess.run(
        [sys.executable, "-m", "backprop_xp", "cache", "clear"], env=variables, capture_output=True, text=True
    )
    assert cleared.returncode == 0
    assert list(cache.iterdir()) == []

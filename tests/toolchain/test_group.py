"""A compiler that is stopped, in whatever way: nothing that it started goes on, and its folder is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from backprop_xp.toolchain import compiler
from backprop_xp.toolchain.compiler import CompileError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="groups of processes are POSIX's")

#: A compiler like any other: a driver, whose own child does the work. Both write their numbers down.
DRIVER = """#!{python}
import os, subprocess, sys, time
if "--version" in sys.argv:
    print("a compiler")
    sys.exit()
open({note!r}, "a").write(f"{{os.getpid()}}\\n")
if sys.argv[-1] != "worker":
    sys.exit(subprocess.call([sys.executable, __file__, "worker"]))
time.sleep(3600)
"""
PROGRAM = """
import warnings
import numpy as np
from backprop_xp import Net

warnings.simplefilter("ignore")
net = Net((3, 2), ("tanh",), rng=0)
print(net.loss_and_grad(np.ones((9, 3))) > 0, net.plan(np.ones((9, 3))).reason)
"""


@pytest.fixture
def slow(tmp_path):
    """Environment with that compiler, the file of its numbers, and the cache."""
    program, note, cache = tmp_path / "c++", tmp_path / "numbers", tmp_path / "cache"
    program.write_text(DRIVER.format(python=sys.executable, note=str(note)), encoding="utf-8")
    program.chmod(0o755)
    added = {"CXX": str(program), "BACKPROP_XP_CACHE": str(cache), "BACKPROP_XP_BACKEND": "numpy"}
    return {**os.environ, **added}, note, cache


def numbers(note):
    return [int(line) for line in note.read_text(encoding="utf-8").split()] if note.exists() else []


def alive(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition):
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_orphan_and_no_folder_is_left_where_the_caller_is_stopped(slow, number):
    environment, note, cache = slow
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=subprocess.DEVNULL)
    assert until(lambda: len(numbers(note)) == 2)
    process.send_signal(number)
    process.wait(60)
    assert until(lambda: not any(alive(n) for n in numbers(note)))
    assert until(lambda: not list(cache.iterdir()))


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")
def test_after_the_time_limit_nothing_is_left_and_the_plan_says_what_runs(slow):
    environment, note, cache = slow
    environment["BACKPROP_XP_COMPILE_TIMEOUT"] = "0.7"
    result = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert result.stdout.startswith("True not fused: "), result.stderr
    assert "did not finish within 0.7 seconds" in result.stdout
    assert not any(alive(n) for n in numbers(note))
    assert not list(cache.iterdir())


def test_output_and_code_of_a_command(tmp_path):
    command = (sys.executable, "-c", "print('out'); raise SystemExit(3)")
    assert compiler._run(command, 20.0, tmp_path) == (3, "out\n")


def test_a_program_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(CompileError, match="can't be started: No such file"):
        compiler._run((str(tmp_path / "none"),), 5.0, tmp_path)


def test_a_long_compilation_is_announced_once(tmp_path):
    said = []
    command = (sys.executable, "-c", textwrap.dedent("import time; time.sleep(0.8)"))
    assert compiler._run(command, 20.0, tmp_path, lambda: said.append(1))[0] == 0
    assert said == [1]


def test_without_a_python_to_watch_it_is_compiled_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    assert compiler._run(("/bin/sh", "-c", "exit 0"), 20.0, tmp_path)[0] == 0
    monkeypatch.setattr(sys, "executable", "/bin/false")  # a watcher that dies at once
    for _ in range(5):
        assert compiler._run(("/bin/sh", "-c", "exit 0"), 20.0, tmp_path)[0] == 0

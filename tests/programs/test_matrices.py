"""The pass for nets of any widths and its threads: it always comes to an end, and waits for nobody it doesn't need."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from backprop_xp.toolchain import compiler

pytestmark = pytest.mark.skipif(bool(compiler.missing()), reason="no C++ compiler on this machine")

NET = """\
import sys
import numpy as np
from backprop_xp import Net
from backprop_xp.programs import matrices
matrices.WORTH_A_THREAD = 1.0
net = Net((64, 64, 10), rng=0, dtype="float32", backend="numpy", init="glorot_normal", threads=1)
x = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
loss = net.loss_and_grad(x)
grads = [w.grad for w in net.weights]
def same():
    return net.loss_and_grad(x) == loss and all(np.array_equal(w.grad, g) for w, g in zip(net.weights, grads))
"""


def run(program):
    """What it prints; one that hangs is a failure."""
    result = subprocess.run(
        [sys.executable, "-c", NET + textwrap.dedent(program)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("seconds", [0.0, 2e-4])
def test_threads_leave_together_whenever_the_time_is_up(threads, seconds):
    program = f"""
        matrices.SECONDS, net.threads = {seconds}, {threads}
        print(all(same() for _ in range(100)))
    """
    assert run(program) == "True"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's files about threads")
def test_a_call_uses_no_thread_that_only_an_earlier_one_wanted():
    program = """
        import pathlib
        import time
        known = {path.name for path in pathlib.Path("/proc/self/task").iterdir()}
        def switches():  # of the processor from and to each thread of the pool
            found = {}
            for path in pathlib.Path("/proc/self/task").iterdir():
                if path.name not in known:
                    text = (path / "status").read_text()
                    found[path.name] = sum(int(line.split()[1]) for line in text.splitlines() if "ctxt_switches" in line)
            return found
        net.threads = 12
        right = same()
        before = None
        while before != switches():  # until all sleep
            before = switches()
            time.sleep(0.2)
        net.threads = 2
        right = right and all(same() for _ in range(20))
        print(right, len(before), sum(count != before[name] for name, count in switches().items()))
    """
    assert run(program) == "True 11 1"

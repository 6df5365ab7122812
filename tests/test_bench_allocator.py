"""Memory that is kept: with it a step costs no page faults, wherever it is allocated."""

import ctypes
import subprocess
import sys

import pytest
from backprop_xp.bench import allocator

PROGRAM = """
import resource, sys, threading
import numpy as np
from backprop_xp.bench import allocator

if sys.argv[1] == "kept":
    assert allocator.keep() == ""

def step():
    for size in (1 << 20, 40 << 20, 100 << 20):
        np.ones(size, np.uint8)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def measure():
    for _ in range(3):
        step()
    print(min(faults() for _ in range(5)))

measure()
thread = threading.Thread(target=measure)
thread.start()
thread.join()
"""


def faults(memory):
    result = subprocess.run([sys.executable, "-c", PROGRAM, memory], capture_output=True, text=True, check=True)
    return [int(line) for line in result.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are counted on Linux")
def test_kept_memory_costs_no_page_faults_on_any_thread():
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("not glibc")
    assert max(faults("kept")) < 10
    assert min(faults("default")) > 10


def test_it_is_said_why_memory_is_not_kept(monkeypatch):
    class Without:
        def __init__(self, name):
            pass

    monkeypatch.setattr(allocator.ctypes, "CDLL", Without)
    assert allocator.keep() == "the C library has no mallopt"
    Without.mallopt = lambda self, parameter, value: parameter != -4
    assert allocator.keep() == "mallopt refused M_MMAP_MAX"

"""Kernels of the current device, and the choice among variants."""

import json
import os

import numpy as np
import pytest

from backprop_xp.toolchain import cache, cuda
from backprop_xp.toolchain.compiler import CompileError

pytestmark = pytest.mark.gpu

DOUBLED = 'extern "C" __global__ void doubled(float* x) { x[threadIdx.x] *= 2.0f; }\n'
SPILLING = """
extern "C" __global__ void doubled(float* x) {
  volatile float local[300];
  for (int i = 0; i < 300; ++i) local[(i * 7 + (int)x[0]) % 300] = x[threadIdx.x];
  x[threadIdx.x] = 2.0f * local[(int)x[0] % 300];
}
"""


@pytest.fixture(autouse=True)
def nothing_chosen_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKPROP_XP_CACHE", str(tmp_path))
    monkeypatch.setattr(cuda, "_chosen", {})


def test_a_kernel_and_what_it_takes(cupy):
    doubled, x = cuda.kernel(DOUBLED, "doubled"), cupy.arange(3, dtype=np.float32)
    doubled((1,), (3,), (x,))
    np.testing.assert_array_equal(x.get(), [0, 2, 4])
    taken = cuda.resources(doubled)
    assert 0 < taken.registers < 64
    assert (taken.local_bytes, taken.shared_bytes) == (0, 0)
    assert taken.max_threads >= 256
    assert cuda.kernel(DOUBLED, "doubled") is doubled


def test_a_launch_is_described_once_and_made_again(cupy):
    source = 'extern "C" __global__ void scaled(long long n, double a, float b, float* x) { if (threadIdx.x < n) x[threadIdx.x] *= a * b; }\n'
    x, y = cupy.arange(3, dtype=np.float32), cupy.ones(3, np.float32)
    launch = cuda.Launch(cuda.kernel(source, "scaled"), (1,), (4,), (np.int64(2), np.float64(3), np.float32(0.5), x))
    stream = cupy.cuda.Stream(non_blocking=True)
    launch(stream.ptr)
    stream.synchronize()
    np.testing.assert_array_equal(x.get(), [0, 1.5, 2])
    launch.arguments[0].value, launch.arguments[3].value = 3, y.data.ptr
    launch(stream.ptr)
    stream.synchronize()
    np.testing.assert_array_equal(y.get(), [1.5, 1.5, 1.5])


def test_an_error_of_the_compiler_is_one_line():
    with pytest.raises(CompileError, match=r"NVRTC failed: .*wrong"):
        cuda.kernel('extern "C" __global__ void f(float* x) { wrong; }', "f")


def test_the_variant_that_spills_is_passed_over_and_not_compiled_again(tmp_path, monkeypatch):
    assert cuda.resources(cuda.kernel(SPILLING, "doubled")).local_bytes >= 1200
    assert cuda.first_fitting([SPILLING, DOUBLED], "doubled", [128, 128]) == 1
    (kept,) = tmp_path.glob(f"*{cache.NOTE_SUFFIX}")
    assert json.loads(kept.read_text(encoding="utf-8")) == {"key": kept.stem, "variant": 1}
    monkeypatch.setattr(cuda, "_chosen", {})
    monkeypatch.setattr(cuda, "kernel", lambda *args: pytest.fail("compiled"))
    assert cuda.first_fitting([SPILLING, DOUBLED], "doubled", [128, 128]) == 1


@pytest.mark.parametrize(
    "text", ["", "{", '{"variant": 7}', '{"variant": -1}', '{"variant": "a"}', "[1]", "null", "[" * 10**5]
)
def test_a_damaged_note_is_ignored_and_replaced(tmp_path, text):
    cuda.first_fitting([DOUBLED], "doubled", [128])
    (kept,) = tmp_path.glob(f"*{cache.NOTE_SUFFIX}")
    kept.write_text(text, encoding="utf-8")
    cuda._chosen.clear()
    assert cuda.first_fitting([DOUBLED], "doubled", [128]) == 0
    assert json.loads(kept.read_text(encoding="utf-8")) == {"key": kept.stem, "variant": 0}


def test_a_note_of_other_sources_is_ignored(tmp_path):
    cuda.first_fitting([DOUBLED, SPILLING], "doubled", [128, 128])
    (first,) = tmp_path.glob(f"*{cache.NOTE_SUFFIX}")
    cuda.first_fitting([SPILLING, DOUBLED], "doubled", [128, 128])
    (second,) = set(tmp_path.glob(f"*{cache.NOTE_SUFFIX}")) - {first}
    second.write_bytes(first.read_bytes())
    cuda._chosen.clear()
    assert cuda.first_fitting([SPILLING, DOUBLED], "doubled", [128, 128]) == 1


def test_a_pipe_in_place_of_a_note_is_not_waited_for(tmp_path):
    cuda.first_fitting([DOUBLED], "doubled", [128])
    (kept,) = tmp_path.glob(f"*{cache.NOTE_SUFFIX}")
    kept.unlink()
    os.mkfifo(kept)
    cuda._chosen.clear()
    assert cuda.first_fitting([DOUBLED], "doubled", [128]) == 0


def test_clearing_the_cache_forgets_the_choice(tmp_path):
    cuda.first_fitting([DOUBLED], "doubled", [128])
    cache.clear()
    assert not list(tmp_path.iterdir())


def test_an_array_that_all_have_is_no_spill():
    small = SPILLING.replace("300", "10")
    assert cuda.first_fitting([SPILLING, small, small + "\n"], "doubled", [128] * 3) == 1
    assert cuda.first_fitting([small, small + "\n"], "doubled", [128, 128]) == 0
    assert cuda.first_fitting([SPILLING], "doubled", [128]) == 0


def test_each_runs_in_blocks_of_its_own_size(monkeypatch):
    # the emulated runtime lets any kernel run in blocks of any size
    monkeypatch.setattr(cuda, "resources", lambda kernel: cuda.Resources(32, 0, 0, 64))
    assert cuda.first_fitting([SPILLING, DOUBLED, DOUBLED + "\n"], "doubled", [128, 64, 32]) == 1
